/* libcuda.so.1 for SIMULATED GPUs (gpus.h): enough of the CUDA driver API to count the GPUs, name them, make
 * a context, and take, fill, copy and give back memory, which is the host's. It computes nothing: loading a
 * module answers CUDA_ERROR_NOT_SUPPORTED. What one process takes, another does not see.
 *
 * The faults are those of the real driver: without /dev/nvidia-uvm cuInit answers 999 while nvidia-smi works
 * (NVIDIA/nvidia-container-toolkit#1934); without a usable GPU it answers 100. */
#include "gpus.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define API __attribute__((visibility("default")))
#define MIB (1024UL * 1024UL)

typedef int CUresult;
typedef int CUdevice;
typedef uint64_t CUdeviceptr;
typedef struct context *CUcontext;

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    DEVICE_UNAVAILABLE = 46,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    ECC_UNCORRECTABLE = 214,
    NOT_SUPPORTED = 801,
    UNKNOWN = 999,
};

/* Numbers, names and words as in NVIDIA's cuda.h. */
static const struct {
    CUresult number;
    const char *name, *text;
} ERRORS[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {DEVICE_UNAVAILABLE, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {ECC_UNCORRECTABLE, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

struct context {
    CUdevice device;
    struct context *below; /* current before this one was made */
};

struct allocation {
    struct context *context;
    char *start;
    size_t size;
    struct allocation *next;
};

static struct gpu gpus[MAX_GPUS]; /* those of CUDA_VISIBLE_DEVICES, in its order */
static int gpu_count = -1;        /* -1: not initialised */
static struct context primary[MAX_GPUS];
static struct allocation *allocations;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the allocations */
static __thread struct context *current;

/* ---- errors ---- */

API CUresult cuGetErrorName(CUresult error, const char **name) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].number == error) {
            *name = ERRORS[i].name;
            return SUCCESS;
        }
    *name = NULL;
    return INVALID_VALUE;
}

API CUresult cuGetErrorString(CUresult error, const char **text) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].number == error) {
            *text = ERRORS[i].text;
            return SUCCESS;
        }
    *text = NULL;
    return INVALID_VALUE;
}

/* ---- initialisation and devices ---- */

/* The GPU that a word of CUDA_VISIBLE_DEVICES means: an index, or the beginning of a UUID; NULL if none. */
static const struct gpu *meant(const char *word, const struct gpu *all, int count) {
    char *end, uuid[TEXT];
    long index = strtol(word, &end, 10);
    if (end != word && !*end)
        return index >= 0 && index < count ? &all[index] : NULL;
    for (int i = 0; i < count; i++) {
        field_value(&all[i], "uuid", uuid);
        if (!strncmp(word, "GPU-", 4) && !strncmp(uuid, word, strlen(word)))
            return &all[i];
    }
    return NULL;
}

static int already_taken(const struct gpu *gpu, int count) {
    for (int i = 0; i < count; i++)
        if (gpus[i].minor == gpu->minor)
            return 1;
    return 0;
}

/* As the CUDA C++ Programming Guide has it: what follows the first invalid word is invisible. */
static int find_visible(void) {
    struct gpu all[MAX_GPUS];
    char words[4 * TEXT];
    int count = find_gpus(all), visible = 0;
    const char *listed = getenv("CUDA_VISIBLE_DEVICES");
    if (!listed) {
        memcpy(gpus, all, sizeof gpus);
        return count;
    }
    snprintf(words, sizeof words, "%s", listed);
    for (char *rest, *word = strtok_r(words, ", ", &rest); word; word = strtok_r(NULL, ", ", &rest)) {
        const struct gpu *gpu = meant(word, all, count);
        if (!gpu || already_taken(gpu, visible))
            break;
        gpus[visible++] = *gpu;
    }
    return visible;
}

API CUresult cuInit(unsigned flags) {
    if (flags)
        return INVALID_VALUE;
    int count = find_visible();
    if (!count)
        return NO_DEVICE;
    if (!uvm_usable())
        return UNKNOWN;
    gpu_count = count;
    return SUCCESS;
}

static CUresult check(CUdevice device) {
    if (gpu_count < 0)
        return NOT_INITIALIZED;
    return device >= 0 && device < gpu_count ? SUCCESS : INVALID_DEVICE;
}

API CUresult cuDriverGetVersion(int *version) {
    *version = CUDA_VERSION;
    return SUCCESS;
}

API CUresult cuDeviceGetCount(int *count) {
    if (gpu_count < 0)
        return NOT_INITIALIZED;
    *count = gpu_count;
    return SUCCESS;
}

API CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    CUresult result = check(ordinal);
    if (!result)
        *device = ordinal;
    return result;
}

API CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
    char value[TEXT];
    CUresult result = check(device);
    if (result)
        return result;
    if (length <= 0)
        return INVALID_VALUE;
    field_value(&gpus[device], "name", value);
    snprintf(name, (size_t)length, "%s", value);
    return SUCCESS;
}

API CUresult cuDeviceGetUuid_v2(unsigned char uuid[16], CUdevice device) {
    CUresult result = check(device);
    if (!result)
        uuid_bytes(&gpus[device], uuid);
    return result;
}

API CUresult cuDeviceGetUuid(unsigned char uuid[16], CUdevice device) { return cuDeviceGetUuid_v2(uuid, device); }

API CUresult cuDeviceGetPCIBusId(char *bus, int length, CUdevice device) {
    char value[TEXT];
    CUresult result = check(device);
    if (result)
        return result;
    if (length <= 0)
        return INVALID_VALUE;
    field_value(&gpus[device], "pci.bus_id", value);
    snprintf(bus, (size_t)length, "%s", value + 4); /* CUDA's domain has four digits, nvidia-smi's eight */
    return SUCCESS;
}

API CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    CUresult result = check(device);
    if (!result)
        *bytes = (size_t)(field_number(&gpus[device], "memory.total") - field_number(&gpus[device], "memory.reserved")) * MIB;
    return result;
}

/* Numbers of CUdevice_attribute in cuda.h. */
API CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
    char capability[TEXT];
    CUresult result = check(device);
    if (result)
        return result;
    field_value(&gpus[device], "compute_cap", capability);
    switch (attribute) {
    case 1: /* threads per block */
        *value = 1024;
        return SUCCESS;
    case 10: /* warp size */
        *value = 32;
        return SUCCESS;
    case 16: /* multiprocessors */
        *value = 36;
        return SUCCESS;
    case 33: /* PCI bus */
        *value = gpus[device].minor + 1;
        return SUCCESS;
    case 34: /* PCI device */
    case 50: /* PCI domain */
        *value = 0;
        return SUCCESS;
    case 75: /* compute capability, major */
        *value = atoi(capability);
        return SUCCESS;
    case 76: /* minor */
        *value = strchr(capability, '.') ? atoi(strchr(capability, '.') + 1) : 0;
        return SUCCESS;
    default:
        return INVALID_VALUE;
    }
}

/* ---- contexts ---- */

static CUresult usable(CUdevice device) {
    CUresult result = check(device);
    return result ? result : (CUresult)field_number(&gpus[device], "cuda.error");
}

API CUresult cuCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice device) {
    (void)flags;
    CUresult result = usable(device);
    if (result)
        return result;
    if (!(*context = malloc(sizeof **context)))
        return OUT_OF_MEMORY;
    **context = (struct context){device, current};
    current = *context;
    return SUCCESS;
}

static void unlink_allocation(struct allocation **place) {
    struct allocation *gone = *place;
    *place = gone->next;
    munmap(gone->start, gone->size);
    free(gone);
}

static void free_all(const struct context *context) {
    pthread_mutex_lock(&lock);
    for (struct allocation **place = &allocations; *place;)
        if ((*place)->context == context)
            unlink_allocation(place);
        else
            place = &(*place)->next;
    pthread_mutex_unlock(&lock);
}

API CUresult cuCtxDestroy_v2(CUcontext context) {
    if (!context)
        return INVALID_CONTEXT;
    free_all(context);
    if (current == context)
        current = context->below;
    free(context);
    return SUCCESS;
}

API CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    CUresult result = usable(device);
    if (result)
        return result;
    primary[device].device = device;
    *context = &primary[device];
    return SUCCESS;
}

/* Unlike the real one, what was taken in it stays taken: nobody counts who retained it. */
API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) { return check(device); }

API CUresult cuDevicePrimaryCtxRelease(CUdevice device) { return cuDevicePrimaryCtxRelease_v2(device); }

API CUresult cuCtxSetCurrent(CUcontext context) {
    if (gpu_count < 0)
        return NOT_INITIALIZED;
    current = context;
    return SUCCESS;
}

API CUresult cuCtxGetCurrent(CUcontext *context) {
    if (gpu_count < 0)
        return NOT_INITIALIZED;
    *context = current;
    return SUCCESS;
}

static CUresult check_current(void) {
    if (gpu_count < 0)
        return NOT_INITIALIZED;
    return current ? SUCCESS : INVALID_CONTEXT;
}

API CUresult cuCtxGetDevice(CUdevice *device) {
    CUresult result = check_current();
    if (!result)
        *device = current->device;
    return result;
}

API CUresult cuCtxSynchronize(void) { return check_current(); }

/* ---- memory ---- */

static size_t free_bytes(CUdevice device) {
    size_t left = (size_t)field_number(&gpus[device], "memory.free") * MIB;
    for (const struct allocation *one = allocations; one; one = one->next)
        if (one->context->device == device)
            left = left > one->size ? left - one->size : 0;
    return left;
}

/* Pages appear when they are written, so that a whole GPU's memory can be taken on a small machine. */
static CUresult take(CUdeviceptr *pointer, size_t size) {
    struct allocation *taken = malloc(sizeof *taken);
    if (!taken || size > free_bytes(current->device)) {
        free(taken);
        return OUT_OF_MEMORY;
    }
    char *start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) {
        free(taken);
        return OUT_OF_MEMORY;
    }
    *taken = (struct allocation){current, start, size, allocations};
    allocations = taken;
    *pointer = (CUdeviceptr)(uintptr_t)start;
    return SUCCESS;
}

API CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t size) {
    CUresult result = check_current();
    if (result)
        return result;
    if (!size)
        return INVALID_VALUE;
    pthread_mutex_lock(&lock);
    result = take(pointer, size);
    pthread_mutex_unlock(&lock);
    return result;
}

API CUresult cuMemFree_v2(CUdeviceptr pointer) {
    CUresult result = check_current();
    if (result || !pointer)
        return result;
    result = INVALID_VALUE;
    pthread_mutex_lock(&lock);
    for (struct allocation **place = &allocations; *place; place = &(*place)->next)
        if ((uintptr_t)(*place)->start == pointer) {
            unlink_allocation(place);
            result = SUCCESS;
            break;
        }
    pthread_mutex_unlock(&lock);
    return result;
}

/* The host's address of bytes in a GPU's memory; NULL if they are not all in one allocation. */
static char *reached(CUdeviceptr pointer, size_t size) {
    char *found = NULL;
    pthread_mutex_lock(&lock);
    for (const struct allocation *one = allocations; one && !found; one = one->next) {
        uintptr_t start = (uintptr_t)one->start;
        if (pointer >= start && size <= one->size && pointer - start <= one->size - size)
            found = one->start + (pointer - start);
    }
    pthread_mutex_unlock(&lock);
    return found;
}

API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t size) {
    CUresult result = check_current();
    char *place = result ? NULL : reached(to, size);
    if (result || !place)
        return result ? result : INVALID_VALUE;
    memcpy(place, from, size);
    return SUCCESS;
}

API CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t size) {
    CUresult result = check_current();
    const char *place = result ? NULL : reached(from, size);
    if (result || !place)
        return result ? result : INVALID_VALUE;
    memcpy(to, place, size);
    return SUCCESS;
}

API CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) {
    CUresult result = check_current();
    char *place = result ? NULL : reached(to, count);
    if (result || !place)
        return result ? result : INVALID_VALUE;
    memset(place, value, count);
    return SUCCESS;
}

API CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) {
    CUresult result = check_current();
    char *place = result || count > SIZE_MAX / 4 ? NULL : reached(to, 4 * count);
    if (result || !place)
        return result ? result : INVALID_VALUE;
    for (size_t i = 0; i < count; i++)
        memcpy(place + 4 * i, &value, 4);
    return SUCCESS;
}

API CUresult cuMemGetInfo_v2(size_t *free_memory, size_t *total) {
    CUresult result = check_current();
    if (result)
        return result;
    pthread_mutex_lock(&lock);
    *free_memory = free_bytes(current->device);
    pthread_mutex_unlock(&lock);
    return cuDeviceTotalMem_v2(total, current->device);
}

/* ---- what a simulated GPU can't do ---- */

API CUresult cuModuleLoadData(void **module, const void *image) {
    (void)module, (void)image;
    return NOT_SUPPORTED;
}
