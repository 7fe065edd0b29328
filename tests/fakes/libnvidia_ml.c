/* In the place of libnvidia-ml.so.1: it counts one device, without any driver's context.
 *
 * Calls are logged as those of libcuda.c are. The device has 16 GiB; whose they are is said by the
 * file that HERMETIC_TEST_NVML_HELD names: lines of a pid and its bytes. A line stays until the
 * file is written anew, so a process can hold memory long after its end.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { SUCCESS = 0, INSUFFICIENT_SIZE = 7 };

static const unsigned long long TOTAL = 16ULL << 30;

struct memory {
    unsigned long long total, free, used;
};

struct process {
    unsigned int pid;
    unsigned long long bytes;
    unsigned int gpu_instance, compute_instance;
};

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

/* How many processes hold memory, and how much in all; the first `room` are told in `found`. */
static unsigned int held(struct process *found, unsigned int room, unsigned long long *bytes)
{
    const char *path = getenv("HERMETIC_TEST_NVML_HELD");
    FILE *file = path ? fopen(path, "r") : NULL;
    struct process one = {0};
    unsigned int count = 0;

    *bytes = 0;
    while (file && fscanf(file, "%u %llu", &one.pid, &one.bytes) == 2) {
        if (count < room)
            found[count] = one;
        count++;
        *bytes += one.bytes;
    }
    if (file)
        fclose(file);
    return count;
}

int nvmlInit(void) { return answer("nvmlInit", SUCCESS); }

int nvmlInit_v2(void) { return answer("nvmlInit_v2", SUCCESS); }

int nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    return answer("nvmlInitWithFlags", SUCCESS);
}

int nvmlDeviceGetCount_v2(unsigned int *count)
{
    *count = 1;
    return answer("nvmlDeviceGetCount_v2", SUCCESS);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device)
{
    static int only;
    (void)index;
    *device = &only;
    return answer("nvmlDeviceGetHandleByIndex_v2", SUCCESS);
}

int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory)
{
    (void)device;
    held(NULL, 0, &memory->used);
    memory->total = TOTAL;
    memory->free = TOTAL - memory->used;
    return answer("nvmlDeviceGetMemoryInfo", SUCCESS);
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *count,
                                            struct process *processes)
{
    unsigned long long bytes;
    unsigned int room = *count;
    (void)device;
    *count = held(processes, room, &bytes);
    return answer("nvmlDeviceGetComputeRunningProcesses_v3",
                  *count > room ? INSUFFICIENT_SIZE : SUCCESS);
}

int nvmlShutdown(void) { return answer("nvmlShutdown", SUCCESS); }
