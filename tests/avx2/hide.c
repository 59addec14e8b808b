/* Loaded before a program (LD_PRELOAD), this hides from it and from its children what an x86-64 processor has beyond
 * AVX2: AVX-512, AMX, AVX-VNNI and 16-bit arithmetic. Every library that asks the processor sees an older one, whatever
 * switches of its own it has or lacks.
 *
 * Linux can make the instruction CPUID fault (arch_prctl(2), ARCH_SET_CPUID) where the processor can do so. The fault
 * arrives as SIGSEGV; it is answered with the true values less the hidden bits. The setting is inherited by new threads
 * and by fork, and lost at exec, after which this library is loaded again. Exit status 99: it cannot be done here.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

static struct sigaction theirs; /* what the program itself wants done at SIGSEGV */
static int (*next_sigaction)(int, const struct sigaction *, struct sigaction *);

static long let_cpuid(int enabled) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, enabled); }

/* Bits as in Intel's manual, volume 2A, CPUID, leaf 7. */
static void hide(uint32_t leaf, uint32_t sub, uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d)
{
    if (leaf == 7 && sub == 0) {
        *b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31)); /* AVX-512 F..VL */
        *c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));                                 /* VBMI, VNNI, ... */
        *d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));              /* FP16, AMX */
    }
    if (leaf == 7 && sub == 1) {
        *a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23));           /* AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA */
        *d &= ~(BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19)); /* AVX-VNNI-INT8 and -INT16, AVX10 */
    }
    if (leaf == 0x1d || leaf == 0x1e || leaf == 0x24) /* AMX tiles and multiplier, AVX10 */
        *a = *b = *c = *d = 0;
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    greg_t *reg = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *at = (const uint8_t *)reg[REG_RIP];
    if (info->si_code == SI_KERNEL && at[0] == 0x0f && at[1] == 0xa2) {
        uint32_t leaf = (uint32_t)reg[REG_RAX], sub = (uint32_t)reg[REG_RCX], a, b, c, d;
        let_cpuid(1);
        __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(leaf), "c"(sub));
        let_cpuid(0);
        hide(leaf, sub, &a, &b, &c, &d);
        reg[REG_RAX] = a;
        reg[REG_RBX] = b;
        reg[REG_RCX] = c;
        reg[REG_RDX] = d;
        reg[REG_RIP] += 2;
    } else if (theirs.sa_flags & SA_SIGINFO) {
        theirs.sa_sigaction(number, info, context);
    } else if (theirs.sa_handler != SIG_DFL && theirs.sa_handler != SIG_IGN) {
        theirs.sa_handler(number);
    } else {
        struct sigaction plain;
        memset(&plain, 0, sizeof plain); /* SIG_DFL: the faulting instruction runs again and ends the program */
        next_sigaction(SIGSEGV, &plain, NULL);
    }
}

int sigaction(int number, const struct sigaction *wanted, struct sigaction *before)
{
    if (next_sigaction == NULL)
        next_sigaction = dlsym(RTLD_NEXT, "sigaction");
    if (number != SIGSEGV)
        return next_sigaction(number, wanted, before);
    if (before != NULL)
        *before = theirs;
    if (wanted != NULL)
        theirs = *wanted;
    return 0;
}

sighandler_t signal(int number, sighandler_t handler)
{
    struct sigaction wanted, before;
    memset(&wanted, 0, sizeof wanted);
    wanted.sa_handler = handler;
    wanted.sa_flags = SA_RESTART;
    return sigaction(number, &wanted, &before) == 0 ? before.sa_handler : SIG_ERR;
}

__attribute__((constructor)) static void begin(void)
{
    static const char sentence[] = "this system cannot hide what the processor has\n";
    struct sigaction ours;
    next_sigaction = dlsym(RTLD_NEXT, "sigaction");
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = on_fault;
    ours.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    next_sigaction(SIGSEGV, &ours, NULL);
    if (let_cpuid(0) != 0) {
        if (write(2, sentence, sizeof sentence - 1) < 0) {
        }
        _exit(99);
    }
}
