/* In the place of libcuda.so.1: a driver with one device that nobody has initialised yet.
 *
 * Every call is a line in the file that HERMETIC_TEST_DRIVER_LOG names: the name, the process and
 * the answer. The file is opened and closed each time, so that no descriptor is left to inherit.
 * Numbers are CUresult's: 0 success, 3 not initialised, 500 not found.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, NOT_INITIALIZED = 3, NOT_FOUND = 500 };

static pid_t initialised_in;

static int answer(const char *name, int result)
{
    const char *path = getenv("HERMETIC_TEST_DRIVER_LOG");
    FILE *log = path ? fopen(path, "a") : NULL;
    if (log) {
        fprintf(log, "%s %d %d\n", name, (int)getpid(), result);
        fclose(log);
    }
    return result;
}

int cuInit(unsigned int flags)
{
    (void)flags;
    initialised_in = getpid();
    return answer("cuInit", SUCCESS);
}

int cuDriverGetVersion(int *version)
{
    *version = 13000;
    return answer("cuDriverGetVersion", SUCCESS);
}

int cuDeviceGetCount(int *count)
{
    if (initialised_in != getpid())
        return answer("cuDeviceGetCount", NOT_INITIALIZED);
    *count = 1;
    return answer("cuDeviceGetCount", SUCCESS);
}

/* The runtime library asks for everything else by its name. */
int cuGetProcAddress_v2(const char *symbol, void **found, int version, unsigned long long flags,
                        void *status)
{
    (void)version, (void)flags, (void)status;
    *found = NULL;
    if (!strcmp(symbol, "cuInit"))
        *found = (void *)cuInit;
    else if (!strcmp(symbol, "cuDriverGetVersion"))
        *found = (void *)cuDriverGetVersion;
    else if (!strcmp(symbol, "cuDeviceGetCount"))
        *found = (void *)cuDeviceGetCount;
    return answer(symbol, *found ? SUCCESS : NOT_FOUND);
}
