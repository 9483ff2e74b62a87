/* A simulated libcuda.so.1: as much of the CUDA driver API as shows that a GPU can be used.
 *
 * Memory of the "GPU" is memory of the process. Numbers of errors and signatures: cuda.h. */
#include <stdlib.h>
#include <string.h>

#include "gpus.h"

#define SUCCESS 0
#define INVALID_VALUE 1
#define OUT_OF_MEMORY 2
#define NOT_INITIALIZED 3
#define NO_DEVICE 100
#define INVALID_DEVICE 101
#define INVALID_CONTEXT 201
#define UNKNOWN 999
#define ATTRIBUTE_CAPABILITY_MAJOR 75
#define ATTRIBUTE_CAPABILITY_MINOR 76

struct block {
    struct block *next;
    int device;
    size_t size;
    char data[];
};

static int minors[MAX_GPUS], count = -1, current = -1;
static size_t used[MAX_GPUS];
static const size_t whole = (size_t)MEMORY_MIB << 20;

int cuInit(unsigned flags)
{
    (void)flags;
    int found = find_gpus(minors);
    if (!found)
        return NO_DEVICE;
    if (!present("nvidia-uvm")) /* nvidia-smi does not need it, CUDA does */
        return UNKNOWN;
    count = found;
    return SUCCESS;
}

int cuDriverGetVersion(int *version)
{
    *version = 13000;
    return SUCCESS;
}

int cuDeviceGetCount(int *number)
{
    if (count < 0)
        return NOT_INITIALIZED;
    *number = count;
    return SUCCESS;
}

static int check(int device)
{
    if (count < 0)
        return NOT_INITIALIZED;
    return device >= 0 && device < count ? SUCCESS : INVALID_DEVICE;
}

int cuDeviceGet(int *device, int ordinal)
{
    *device = ordinal;
    return check(ordinal);
}

int cuDeviceGetName(char *name, int length, int device)
{
    snprintf(name, length, "%s", NAME);
    return check(device);
}

int cuDeviceGetUuid(unsigned char *uuid, int device)
{
    int status = check(device);
    if (!status) {
        memcpy(uuid, "SIMULATED\0\0\0\0\0\0", 16);
        uuid[15] = minors[device];
    }
    return status;
}

int cuDeviceGetUuid_v2(unsigned char *uuid, int device)
{
    return cuDeviceGetUuid(uuid, device);
}

int cuDeviceTotalMem_v2(size_t *bytes, int device)
{
    *bytes = whole;
    return check(device);
}

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    if (attribute != ATTRIBUTE_CAPABILITY_MAJOR && attribute != ATTRIBUTE_CAPABILITY_MINOR)
        return INVALID_VALUE;
    *value = attribute == ATTRIBUTE_CAPABILITY_MAJOR ? CAPABILITY_MAJOR : CAPABILITY_MINOR;
    return check(device);
}

int cuCtxCreate_v2(void **context, unsigned flags, int device)
{
    (void)flags;
    int status = check(device);
    if (!status) {
        current = device;
        *context = &minors[device];
    }
    return status;
}

int cuCtxDestroy_v2(void *context)
{
    current = -1;
    return context ? SUCCESS : INVALID_CONTEXT;
}

int cuMemGetInfo_v2(size_t *unused, size_t *total)
{
    if (current < 0)
        return INVALID_CONTEXT;
    *total = whole;
    *unused = whole - used[current];
    return SUCCESS;
}

int cuMemAlloc_v2(unsigned long long *address, size_t size)
{
    if (current < 0)
        return INVALID_CONTEXT;
    struct block *block = used[current] + size > whole ? NULL : malloc(sizeof *block + size);
    if (!block)
        return OUT_OF_MEMORY;
    block->device = current;
    block->size = size;
    used[current] += size;
    *address = (unsigned long long)(size_t)block->data;
    return SUCCESS;
}

int cuMemFree_v2(unsigned long long address)
{
    struct block *block = (struct block *)((char *)(size_t)address - sizeof *block);
    used[block->device] -= block->size;
    free(block);
    return SUCCESS;
}

int cuMemcpyHtoD_v2(unsigned long long target, const void *source, size_t size)
{
    memcpy((void *)(size_t)target, source, size);
    return SUCCESS;
}

int cuMemcpyDtoH_v2(void *target, unsigned long long source, size_t size)
{
    memcpy(target, (void *)(size_t)source, size);
    return SUCCESS;
}

static const struct {
    int status;
    const char *name, *text;
} ERRORS[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

int cuGetErrorName(int status, const char **name)
{
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].status == status)
            return *name = ERRORS[i].name, SUCCESS;
    return INVALID_VALUE;
}

int cuGetErrorString(int status, const char **text)
{
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].status == status)
            return *text = ERRORS[i].text, SUCCESS;
    return INVALID_VALUE;
}
