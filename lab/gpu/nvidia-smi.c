/* A simulated nvidia-smi: the formats of the real one (driver 580), for GPUs that are not there. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gpus.h"

struct field {
    const char *name, *heading, *value; /* value: %d stands for the number of the GPU */
    const char *unit;
};

static const struct field FIELDS[] = {
    {"index", "index", NULL, ""},
    {"uuid", "uuid", NULL, ""},
    {"gpu_uuid", "uuid", NULL, ""},
    {"name", "name", NAME, ""},
    {"gpu_name", "name", NAME, ""},
    {"pci.bus_id", "pci.bus_id", NULL, ""},
    {"serial", "serial", "[N/A]", ""},
    {"vbios_version", "vbios_version", "SIMULATED", ""},
    {"driver_version", "driver_version", DRIVER, ""},
    {"compute_cap", "compute_cap", "12.0", ""},
    {"memory.total", "memory.total", "16311", " MiB"},
    {"memory.free", "memory.free", "15842", " MiB"},
    {"memory.used", "memory.used", "0", " MiB"},
    {"utilization.gpu", "utilization.gpu", "0", " %"},
    {"utilization.memory", "utilization.memory", "0", " %"},
    {"temperature.gpu", "temperature.gpu", "30", ""},
    {"power.draw", "power.draw", "5.00", " W"},
    {"power.limit", "power.limit", "180.00", " W"},
    {"clocks.sm", "clocks.current.sm", "180", " MHz"},
    {"clocks.mem", "clocks.current.memory", "405", " MHz"},
    {"clocks.max.sm", "clocks.max.sm", "3090", " MHz"},
    {"pcie.link.gen.current", "pcie.link.gen.current", "5", ""},
    {"pcie.link.gen.max", "pcie.link.gen.max", "5", ""},
    {"pcie.link.width.current", "pcie.link.width.current", "8", ""},
    {"pcie.link.width.max", "pcie.link.width.max", "8", ""},
    {"ecc.mode.current", "ecc.mode.current", "[N/A]", ""},
    {"ecc.errors.uncorrected.volatile.total", "ecc.errors.uncorrected.volatile.total", "[N/A]", ""},
    {"retired_pages.pending", "retired_pages.pending", "[N/A]", ""},
    {"clocks_event_reasons.active", "clocks_event_reasons.active", "0x0000000000000001", ""},
    {"persistence_mode", "persistence_mode", "Enabled", ""},
    {"compute_mode", "compute_mode", "Default", ""},
    {"mig.mode.current", "mig.mode.current", "[N/A]", ""},
};

static const struct field *find_field(const char *name)
{
    for (size_t i = 0; i < sizeof FIELDS / sizeof *FIELDS; i++)
        if (!strcmp(FIELDS[i].name, name))
            return &FIELDS[i];
    return NULL;
}

static void print_value(const struct field *field, int index, int minor, int units)
{
    if (!strcmp(field->name, "index"))
        printf("%d", index);
    else if (strstr(field->name, "uuid"))
        printf(UUID_FORMAT, minor);
    else if (!strcmp(field->name, "pci.bus_id"))
        printf("00000000:%02X:00.0", minor + 1);
    else
        printf("%s%s", field->value, units && field->value[0] != '[' ? field->unit : "");
}

static int query(char *names, const char *format, const int *minors, int count)
{
    const struct field *fields[64];
    int wanted = 0, units = !strstr(format, "nounits");
    for (char *name = strtok(names, ", "); name && wanted < 64; name = strtok(NULL, ", ")) {
        if (!(fields[wanted] = find_field(name))) {
            printf("Field \"%s\" is not a valid field to query.\n\n", name);
            return 2;
        }
        wanted++;
    }
    for (int i = 0; i < wanted && !strstr(format, "noheader"); i++)
        printf("%s%s%.*s%s%s", fields[i]->heading, units && *fields[i]->unit ? " [" : "",
               units ? 8 : 0, units && *fields[i]->unit ? fields[i]->unit + 1 : "",
               units && *fields[i]->unit ? "]" : "", i + 1 < wanted ? ", " : "\n");
    for (int gpu = 0; gpu < count; gpu++)
        for (int i = 0; i < wanted; i++) {
            print_value(fields[i], gpu, minors[gpu], units);
            printf(i + 1 < wanted ? ", " : "\n");
        }
    return 0;
}

static int list(const int *minors, int count)
{
    for (int gpu = 0; gpu < count; gpu++)
        printf("GPU %d: " NAME " (UUID: " UUID_FORMAT ")\n", gpu, minors[gpu]);
    return 0;
}

static int table(const int *minors, int count)
{
    const char *line = "+-----------------------------------------+------------------------+----------------------+\n";
    const char *wide = "+-----------------------------------------------------------------------------------------+\n";
    time_t now = time(NULL);
    char date[64];
    strftime(date, sizeof date, "%a %b %e %H:%M:%S %Y", localtime(&now));
    printf("%s       \n%s", date, wide);
    printf("| NVIDIA-SMI %-22s Driver Version: %-14s CUDA Version: %-8s |\n%s", DRIVER, DRIVER, CUDA_VERSION, line);
    printf("| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |\n"
           "| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |\n"
           "|                                         |                        |               MIG M. |\n"
           "|=========================================+========================+======================|\n");
    for (int gpu = 0; gpu < count; gpu++)
        printf("| %3d  %-31sOn  |   00000000:%02X:00.0 Off |                  N/A |\n"
               "|  0%%   30C    P8              5W /  180W |       0MiB /  %5dMiB |      0%%      Default |\n"
               "|                                         |                        |                  N/A |\n%s",
               gpu, NAME, minors[gpu] + 1, MEMORY_MIB, line);
    printf("\n%s| Processes:                                                                              |\n"
           "|  GPU   GI   CI              PID   Type   Process name                        GPU Memory |\n"
           "|        ID   ID                                                               Usage      |\n"
           "|=========================================================================================|\n"
           "|  No running processes found                                                             |\n%s",
           wide, wide);
    return 0;
}

static int library_present(void)
{
    struct stat found;
    return stat("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1", &found) == 0
           || stat("/usr/lib64/libnvidia-ml.so.1", &found) == 0 || strcmp(DEV, "/dev");
}

/* Keeps only the GPU that -i names, by number or UUID. */
static int choose(const char *wanted, int *minors, int count)
{
    for (int gpu = 0; gpu < count; gpu++) {
        char number[16], uuid[64];
        snprintf(number, sizeof number, "%d", gpu);
        snprintf(uuid, sizeof uuid, UUID_FORMAT, minors[gpu]);
        if (!strcmp(wanted, number) || !strcmp(wanted, uuid)) {
            minors[0] = minors[gpu];
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    int minors[MAX_GPUS], count = find_gpus(minors);
    char *fields = NULL, *format = "", *apps = NULL;
    int only_list = 0;
    if (!library_present()) {
        printf("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA "
               "Display Driver is properly installed and present in your system.\n"
               "Please also try adding directory that contains libnvidia-ml.so to your system PATH.\n");
        return 12;
    }
    if (!present("nvidiactl")) {
        printf("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the "
               "latest NVIDIA driver is installed and running.\n\n");
        return 9;
    }
    for (int i = 1; i < argc; i++) {
        if (!strncmp(argv[i], "--query-gpu=", 12))
            fields = argv[i] + 12;
        else if (!strncmp(argv[i], "--query-compute-apps=", 21))
            apps = argv[i] + 21;
        else if (!strncmp(argv[i], "--format=", 9))
            format = argv[i] + 9;
        else if (!strcmp(argv[i], "-L") || !strcmp(argv[i], "--list-gpus"))
            only_list = 1;
        else if (!strcmp(argv[i], "-i") && i + 1 < argc)
            count = choose(argv[++i], minors, count);
        else {
            printf("Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n\n");
            return 1;
        }
    }
    if (!count) {
        printf("No devices were found\n");
        return 6;
    }
    if (apps) {
        if (!strstr(format, "noheader"))
            printf("gpu_uuid, pid, process_name, used_gpu_memory [MiB]\n");
        return 0;
    }
    return fields ? query(fields, format, minors, count) : only_list ? list(minors, count) : table(minors, count);
}
