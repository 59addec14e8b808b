/* A stand-in for the CUDA driver's library: the calls that the component makes, on ordinary memory.
 *
 * As the documentation of the driver says, a call that needs a context fails without a current one, streams and events
 * belong to the context they were made in, and a primary context lives while somebody retains it. Device memory is
 * ordinary memory of which the test gives the address. A copy is done at the second query of its event.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { OK = 0, INVALID_VALUE = 1, NOT_INITIALIZED = 3, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_READY = 600 };

static int initialized, retained, streams, events, pinned, queries;
static void *stack[8];
static int depth;
static char primary, stream, event;

/* What the test may ask: what is still held, and how deep the thread's stack of contexts is. */
int held(void) { return retained + streams + events + pinned; }
int contexts(void) { return depth; }

static int needs_context(void) {
    if (!initialized) return NOT_INITIALIZED;
    return depth && stack[depth - 1] == &primary && retained ? OK : INVALID_CONTEXT;
}

int cuInit(unsigned flags) {
    initialized = 1;
    return flags ? INVALID_VALUE : OK;
}

int cuPointerGetAttribute(int *value, int attribute, uint64_t pointer) {
    if (!initialized) return NOT_INITIALIZED;
    if (attribute != 9 || !pointer) return INVALID_VALUE;
    *value = 1; /* the second card, as in a machine that draws on one of two */
    return OK;
}

int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal + 40;
    return ordinal == 1 ? OK : INVALID_VALUE;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    if (device != 41) return INVALID_VALUE;
    retained++;
    *context = &primary;
    return OK;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    if (device != 41 || !retained) return INVALID_VALUE;
    retained--;
    return OK;
}

int cuCtxPushCurrent_v2(void *context) {
    if (context != &primary || depth == 8) return INVALID_CONTEXT;
    stack[depth++] = context;
    return OK;
}

int cuCtxPopCurrent_v2(void **context) {
    if (!depth) return INVALID_CONTEXT;
    *context = stack[--depth];
    return OK;
}

int cuStreamCreate(void **made, unsigned flags) {
    if (flags != 1) return INVALID_VALUE;
    *made = &stream;
    streams++;
    return needs_context();
}

int cuStreamDestroy_v2(void *it) {
    if (it != &stream) return INVALID_HANDLE;
    streams--;
    return needs_context();
}

int cuEventCreate(void **made, unsigned flags) {
    if (flags != 2) return INVALID_VALUE;
    *made = &event;
    events++;
    return needs_context();
}

int cuEventDestroy_v2(void *it) {
    if (it != &event) return INVALID_HANDLE;
    events--;
    return needs_context();
}

int cuMemHostRegister_v2(void *memory, size_t size, unsigned flags) {
    if (!memory || !size || flags) return INVALID_VALUE;
    pinned++;
    return needs_context();
}

int cuMemHostUnregister(void *memory) {
    if (!memory) return INVALID_VALUE;
    pinned--;
    return needs_context();
}

int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *on) {
    if (on != &stream) return INVALID_HANDLE;
    memcpy(to, (const void *)(uintptr_t)from, size);
    return needs_context();
}

int cuEventRecord(void *it, void *on) {
    if (it != &event || on != &stream) return INVALID_HANDLE;
    queries = 0;
    return needs_context();
}

int cuEventQuery(void *it) {
    if (it != &event) return INVALID_HANDLE;
    if (needs_context()) return INVALID_CONTEXT;
    return queries++ ? OK : NOT_READY;
}

int cuStreamSynchronize(void *on) {
    if (on != &stream) return INVALID_HANDLE;
    return needs_context();
}
