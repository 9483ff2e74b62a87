/* libnvidia-ml.so.1 for SIMULATED GPUs (gpus.h): the few calls of NVML with which programs look for GPUs. */
#include "gpus.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default")))
#define MIB (1024ULL * 1024ULL)

typedef int nvmlReturn_t;
typedef const struct gpu *nvmlDevice_t;

/* Numbers and words as in NVIDIA's nvml.h. */
enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_MISSING = 9,
    OPERATING_SYSTEM = 17,
    UNKNOWN = 999,
};

typedef struct {
    unsigned long long total, free, used;
} nvmlMemory_t;

static struct gpu gpus[MAX_GPUS];
static int gpu_count = -1; /* -1: not initialised */

API nvmlReturn_t nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    switch (driver_state()) {
    case DRIVER_NOT_LOADED:
        return DRIVER_MISSING;
    case DRIVER_FORBIDDEN:
        return UNKNOWN;
    case DRIVER_BLOCKED:
        return OPERATING_SYSTEM;
    case DRIVER_LOADED:
        break;
    }
    gpu_count = find_gpus(gpus);
    return SUCCESS;
}

API nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

API nvmlReturn_t nvmlShutdown(void) {
    nvmlReturn_t result = gpu_count < 0 ? UNINITIALIZED : SUCCESS;
    gpu_count = -1;
    return result;
}

API const char *nvmlErrorString(nvmlReturn_t result) {
    switch (result) {
    case SUCCESS:
        return "Success";
    case UNINITIALIZED:
        return "Uninitialized";
    case INVALID_ARGUMENT:
        return "Invalid Argument";
    case NOT_FOUND:
        return "Not Found";
    case INSUFFICIENT_SIZE:
        return "Insufficient Size";
    case DRIVER_MISSING:
        return "Driver Not Loaded";
    case OPERATING_SYSTEM:
        return "GPU access blocked by the operating system";
    default:
        return "Unknown Error";
    }
}

static nvmlReturn_t answer(const char *text, char *buffer, unsigned length) {
    if (gpu_count < 0)
        return UNINITIALIZED;
    if (strlen(text) >= length)
        return INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return SUCCESS;
}

static nvmlReturn_t answer_field(nvmlDevice_t gpu, const char *field, char *buffer, unsigned length) {
    char value[TEXT];
    field_value(gpu, field, value);
    return answer(value, buffer, length);
}

API nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned length) {
    return answer(DRIVER_VERSION, version, length);
}

API nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) {
    *version = CUDA_VERSION;
    return SUCCESS;
}

API nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) { return nvmlSystemGetCudaDriverVersion(version); }

API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count) {
    if (gpu_count < 0)
        return UNINITIALIZED;
    *count = (unsigned)gpu_count;
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *gpu) {
    if (gpu_count < 0)
        return UNINITIALIZED;
    if (index >= (unsigned)gpu_count)
        return INVALID_ARGUMENT;
    *gpu = &gpus[index];
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *gpu) {
    char value[TEXT];
    if (gpu_count < 0)
        return UNINITIALIZED;
    for (int i = 0; i < gpu_count; i++) {
        field_value(&gpus[i], "uuid", value);
        if (!strcmp(uuid, value)) {
            *gpu = &gpus[i];
            return SUCCESS;
        }
    }
    return NOT_FOUND;
}

API nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t gpu, char *name, unsigned length) {
    return answer_field(gpu, "name", name, length);
}

API nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t gpu, char *uuid, unsigned length) {
    return answer_field(gpu, "uuid", uuid, length);
}

API nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t gpu, unsigned *index) {
    *index = (unsigned)gpu->index;
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t gpu, unsigned *minor) {
    *minor = (unsigned)gpu->minor;
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t gpu, nvmlMemory_t *memory) {
    memory->total = (unsigned long long)field_number(gpu, "memory.total") * MIB;
    memory->free = (unsigned long long)field_number(gpu, "memory.free") * MIB;
    memory->used = memory->total - memory->free; /* this version of the call counts what is reserved */
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t gpu, int *major, int *minor) {
    char value[TEXT];
    field_value(gpu, "compute_cap", value);
    return sscanf(value, "%d.%d", major, minor) == 2 ? SUCCESS : UNKNOWN;
}
