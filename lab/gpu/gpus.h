/* The simulated GPUs: what nvidia-smi lists and what libcuda opens.
 *
 * As with real ones, device nodes decide: GPU N is there if /dev/nvidiaN and /dev/nvidiactl are, and
 * CUDA works only if /dev/nvidia-uvm is there as well. So faults are made as they happen, by taking
 * device nodes away, and need no switch here. The nodes have nothing behind them; they are looked at
 * and never opened. */
#include <stdio.h>
#include <sys/stat.h>

#ifndef DEV /* tests point this to a folder of plain files */
#define DEV "/dev"
#endif
#define MAX_GPUS 16
#define NAME "SIMULATED NVIDIA GPU"
#define UUID_FORMAT "GPU-SIMULATED-0000-0000-0000-%012d"
#define DRIVER "580.76.05" /* as phoenix_lxc_configs.json declares */
#define CUDA_VERSION "13.0"
#define MEMORY_MIB 16311 /* of an RTX 5060 Ti, the card of the real node */
#define CAPABILITY_MAJOR 12
#define CAPABILITY_MINOR 0

static int present(const char *node)
{
    char path[256];
    struct stat found;
    snprintf(path, sizeof path, DEV "/%s", node);
    return stat(path, &found) == 0;
}

/* Fills minors with the numbers N of the /dev/nvidiaN that are there; returns how many. */
static int find_gpus(int minors[MAX_GPUS])
{
    int count = 0;
    for (int minor = 0; minor < MAX_GPUS && present("nvidiactl"); minor++) {
        char node[32];
        snprintf(node, sizeof node, "nvidia%d", minor);
        if (present(node))
            minors[count++] = minor;
    }
    return count;
}
