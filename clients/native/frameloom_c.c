/* The ring as a shared library with a plain C ABI, for engines that load one: every function of frameloom.h, exported.
 *
 *     cc -std=c11 -O2 -fPIC -shared -fvisibility=hidden frameloom_c.c -o libframeloom_c.so
 *     x86_64-w64-mingw32-gcc -std=c11 -O2 -shared -static-libgcc frameloom_c.c -o frameloom_c.dll
 *
 * Programs that link it define FRAMELOOM_DECLARE_ONLY before they include frameloom.h.
 */
#ifdef _WIN32
#define FRAMELOOM_API __declspec(dllexport)
#else
#define FRAMELOOM_API __attribute__((visibility("default")))
#endif
#include "frameloom.h"
