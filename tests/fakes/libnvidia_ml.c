/* In the place of libnvidia-ml.so.1: it counts one device, without any driver's context.
 *
 * Calls are logged as those of libcuda.c are.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int success(const char *name)
{
    const char *path = getenv("HERMETIC_TEST_DRIVER_LOG");
    FILE *log = path ? fopen(path, "a") : NULL;
    if (log) {
        fprintf(log, "%s %d 0\n", name, (int)getpid());
        fclose(log);
    }
    return 0;
}

int nvmlInit(void) { return success("nvmlInit"); }

int nvmlInit_v2(void) { return success("nvmlInit_v2"); }

int nvmlDeviceGetCount_v2(unsigned int *count)
{
    *count = 1;
    return success("nvmlDeviceGetCount_v2");
}

int nvmlShutdown(void) { return success("nvmlShutdown"); }
