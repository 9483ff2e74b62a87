/* The SIMULATED NVIDIA GPUs: what nvidia-smi, libcuda.so.1 and libnvidia-ml.so.1 all know of them.
 *
 * There is no driver and no device. As with a real driver, a GPU is there where its device node is:
 * GPU N exists if the character device /dev/nvidiaN (195, N) and /dev/nvidiactl (195, 255) do and may be
 * used. So a missing node, a missing device rule or a narrower container makes the same fault here as on
 * a real machine. Nodes are looked at and never opened: behind them may be nothing, or somebody's real GPU.
 *
 * Unlike a real driver's tools, run as root without a device rule against it, these never make a node. */
#ifndef SIMULATED_GPUS_H
#define SIMULATED_GPUS_H

#include <stddef.h>

#define DRIVER_VERSION "580.76.05"
#define CUDA_VERSION 13000
#define CUDA_VERSION_TEXT "13.0"
#define MAX_GPUS 16
#define TEXT 256 /* room for one value, with its end */

/* Tests build everything with -DROOT='"/a/folder"': nodes, settings and libraries are then looked for
 * under that folder, and a plain file counts as a node, so that no test needs root. */
#ifndef ROOT
#define ROOT ""
#define PLAIN_NODES 0
#else
#define PLAIN_NODES 1
#endif

struct gpu {
    int index; /* as counted here */
    int minor; /* N of /dev/nvidiaN: stays the same in a container that has only some of the GPUs */
};

struct process {
    int pid;
    int memory; /* MiB */
    char name[TEXT];
};

/* A property, under the name that `nvidia-smi --query-gpu` knows it by. */
struct field {
    const char *name;
    const char *alias; /* another name for the same, or NULL */
    const char *unit;  /* or NULL */
    const char *value; /* of a healthy idle GPU; NULL: computed */
};

enum driver { DRIVER_LOADED, DRIVER_NOT_LOADED, DRIVER_FORBIDDEN, DRIVER_BLOCKED };

enum driver driver_state(void);
int uvm_usable(void);
int find_gpus(struct gpu gpus[MAX_GPUS]);

const struct field *find_field(const char *name);
void field_value(const struct gpu *gpu, const char *name, char value[TEXT]);
long field_number(const struct gpu *gpu, const char *name);
int next_process(const struct gpu *gpu, int number, struct process *process);
void uuid_bytes(const struct gpu *gpu, unsigned char bytes[16]);

#endif
