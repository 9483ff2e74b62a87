/* The SIMULATED NVIDIA GPUs; see gpus.h.
 *
 * Each property has the value that a healthy idle card would show. A line in /etc/simulated-gpu.conf
 * replaces it, for GPU N by its minor number and the field by its --query-gpu name:
 *
 *     gpu1.temperature.gpu = 95
 *     gpu1.ecc.errors.uncorrected.volatile.total = 3
 *     gpu1.process = 4242, python3, 15000
 *     gpu1.cuda.error = 46
 *
 * A process takes its MiB from that GPU's free memory; cuda.error is what making a CUDA context answers. */
#include "gpus.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define NVIDIA_MAJOR 195

/* Modelled on a GeForce RTX 5060 Ti 16 GB: a consumer card reports no ECC and no MIG, and lets its
 * clocks and its PCIe link rest while idle. */
static const struct field FIELDS[] = {
    {"timestamp", NULL, NULL, NULL},
    {"count", NULL, NULL, NULL},
    {"index", NULL, NULL, NULL},
    {"uuid", "gpu_uuid", NULL, NULL},
    {"name", "gpu_name", NULL, "SIMULATED NVIDIA GPU"},
    {"serial", "gpu_serial", NULL, "N/A"},
    {"driver_version", NULL, NULL, DRIVER_VERSION},
    {"vbios_version", NULL, NULL, "98.06.00.00.00"},
    {"compute_cap", NULL, NULL, "12.0"},
    {"pstate", NULL, NULL, "P8"},
    {"fan.speed", NULL, "%", "0"},
    {"persistence_mode", NULL, NULL, "Enabled"},
    {"compute_mode", NULL, NULL, "Default"},
    {"display_active", NULL, NULL, "Disabled"},
    {"display_attached", NULL, NULL, "No"},
    {"display_mode", NULL, NULL, "Requested functionality has been deprecated"},
    {"mig.mode.current", NULL, NULL, "N/A"},
    {"mig.mode.pending", NULL, NULL, "N/A"},
    {"pci.bus_id", "gpu_bus_id", NULL, NULL},
    {"pci.domain", NULL, NULL, "0x0000"},
    {"pci.bus", NULL, NULL, NULL},
    {"pci.device", NULL, NULL, "0x00"},
    {"pci.device_id", NULL, NULL, "0x2D0410DE"},
    {"pcie.link.gen.current", NULL, NULL, "1"},
    {"pcie.link.gen.max", NULL, NULL, "5"},
    {"pcie.link.width.current", NULL, NULL, "8"},
    {"pcie.link.width.max", NULL, NULL, "8"},
    {"memory.total", NULL, "MiB", "16311"},
    {"memory.reserved", NULL, "MiB", "459"},
    {"memory.used", NULL, "MiB", NULL},
    {"memory.free", NULL, "MiB", NULL},
    {"utilization.gpu", NULL, "%", "0"},
    {"utilization.memory", NULL, "%", "0"},
    {"temperature.gpu", NULL, NULL, "34"},
    {"temperature.memory", NULL, NULL, "N/A"},
    {"power.draw", NULL, "W", "5.00"},
    {"power.draw.average", NULL, "W", "5.00"},
    {"power.draw.instant", NULL, "W", "5.00"},
    {"power.limit", NULL, "W", "180.00"},
    {"enforced.power.limit", NULL, "W", "180.00"},
    {"power.default_limit", NULL, "W", "180.00"},
    {"power.min_limit", NULL, "W", "150.00"},
    {"power.max_limit", NULL, "W", "180.00"},
    {"clocks.current.graphics", "clocks.gr", "MHz", "180"},
    {"clocks.current.sm", "clocks.sm", "MHz", "180"},
    {"clocks.current.memory", "clocks.mem", "MHz", "405"},
    {"clocks.max.graphics", "clocks.max.gr", "MHz", "3090"},
    {"clocks.max.sm", NULL, "MHz", "3090"},
    {"clocks.max.memory", "clocks.max.mem", "MHz", "14001"},
    {"clocks_event_reasons.active", "clocks_throttle_reasons.active", NULL, "0x0000000000000001"},
    {"clocks_event_reasons.gpu_idle", "clocks_throttle_reasons.gpu_idle", NULL, NULL},
    {"clocks_event_reasons.sw_power_cap", "clocks_throttle_reasons.sw_power_cap", NULL, NULL},
    {"clocks_event_reasons.hw_slowdown", "clocks_throttle_reasons.hw_slowdown", NULL, NULL},
    {"clocks_event_reasons.sw_thermal_slowdown", "clocks_throttle_reasons.sw_thermal_slowdown", NULL, NULL},
    {"clocks_event_reasons.hw_thermal_slowdown", "clocks_throttle_reasons.hw_thermal_slowdown", NULL, NULL},
    {"clocks_event_reasons.hw_power_brake_slowdown", "clocks_throttle_reasons.hw_power_brake_slowdown", NULL, NULL},
    {"ecc.mode.current", NULL, NULL, "N/A"},
    {"ecc.mode.pending", NULL, NULL, "N/A"},
    {"ecc.errors.corrected.volatile.total", NULL, NULL, "N/A"},
    {"ecc.errors.uncorrected.volatile.total", NULL, NULL, "N/A"},
    {"ecc.errors.corrected.aggregate.total", NULL, NULL, "N/A"},
    {"ecc.errors.uncorrected.aggregate.total", NULL, NULL, "N/A"},
    {"retired_pages.single_bit_ecc.count", "retired_pages.sbe", NULL, "N/A"},
    {"retired_pages.double_bit.count", "retired_pages.dbe", NULL, "N/A"},
    {"retired_pages.pending", NULL, NULL, "N/A"},
    {"remapped_rows.correctable", NULL, NULL, "N/A"},
    {"remapped_rows.uncorrectable", NULL, NULL, "N/A"},
    {"remapped_rows.pending", NULL, NULL, "N/A"},
    {"remapped_rows.failure", NULL, NULL, "N/A"},
};

/* Bits of clocks_event_reasons.active: nvmlClocksEventReason* in NVIDIA's nvml.h. */
static const struct {
    const char *name;
    unsigned long long bit;
} REASONS[] = {
    {"gpu_idle", 0x01},
    {"sw_power_cap", 0x04},
    {"hw_slowdown", 0x08},
    {"sw_thermal_slowdown", 0x20},
    {"hw_thermal_slowdown", 0x40},
    {"hw_power_brake_slowdown", 0x80},
};

static int is_node(const char *path, int minor_number) {
    struct stat status;
    if (stat(path, &status))
        return 0;
    if (PLAIN_NODES)
        return S_ISREG(status.st_mode);
    return S_ISCHR(status.st_mode) && (minor_number < 0 || (major(status.st_rdev) == NVIDIA_MAJOR &&
                                                            minor(status.st_rdev) == (unsigned)minor_number));
}

/* access() asks the device cgroup as open() would: devcgroup_inode_permission() in Linux' fs/namei.c. */
static int is_allowed(const char *path) { return access(path, R_OK | W_OK) == 0; }

enum driver driver_state(void) {
    if (!is_node(ROOT "/dev/nvidiactl", 255)) /* another device in its place: as seen with driver 580.159.04 */
        return access(ROOT "/dev/nvidiactl", F_OK) ? DRIVER_NOT_LOADED : DRIVER_BLOCKED;
    return is_allowed(ROOT "/dev/nvidiactl") ? DRIVER_LOADED : DRIVER_FORBIDDEN;
}

/* The major number of nvidia-uvm is dynamic, so none is asked for. */
int uvm_usable(void) { return is_node(ROOT "/dev/nvidia-uvm", -1) && is_allowed(ROOT "/dev/nvidia-uvm"); }

/* The GPUs that can be used here, and how many they are. */
int find_gpus(struct gpu gpus[MAX_GPUS]) {
    int count = 0;
    if (driver_state() != DRIVER_LOADED)
        return 0;
    for (int minor_number = 0; minor_number < MAX_GPUS; minor_number++) {
        char path[TEXT];
        snprintf(path, sizeof path, "%s/dev/nvidia%d", ROOT, minor_number);
        if (!is_node(path, minor_number) || !is_allowed(path))
            continue;
        gpus[count] = (struct gpu){count, minor_number};
        count++;
    }
    return count;
}

/* Under the field's own name or its alias; NULL if there is no such field. */
const struct field *find_field(const char *name) {
    for (size_t i = 0; i < sizeof FIELDS / sizeof *FIELDS; i++)
        if (!strcmp(name, FIELDS[i].name) || (FIELDS[i].alias && !strcmp(name, FIELDS[i].alias)))
            return &FIELDS[i];
    return NULL;
}

/* The text without white space around it; changes it. */
static char *trimmed(char *text) {
    text += strspn(text, " \t\r\n");
    for (char *end = text + strlen(text); end > text && strchr(" \t\r\n", end[-1]);)
        *--end = '\0';
    return text;
}

/* The value of the number-th line `gpuN.name = value` of the settings; 0 if there is none. */
static int setting(const struct gpu *gpu, const char *name, int number, char value[TEXT]) {
    char line[2 * TEXT], key[TEXT];
    int found = 0;
    FILE *file = fopen(ROOT "/etc/simulated-gpu.conf", "r");
    if (!file)
        return 0;
    snprintf(key, sizeof key, "gpu%d.%s", gpu->minor, name);
    while (!found && fgets(line, sizeof line, file)) {
        char *equals = strchr(line, '=');
        if (!equals)
            continue;
        *equals = '\0';
        found = !strcmp(trimmed(line), key) && number-- == 0;
        if (found)
            snprintf(value, TEXT, "%.*s", TEXT - 1, trimmed(equals + 1));
    }
    fclose(file);
    return found;
}

/* The number-th process on a GPU, counted from 0; 0 if there are not so many. */
int next_process(const struct gpu *gpu, int number, struct process *process) {
    char text[TEXT];
    return setting(gpu, "process", number, text) &&
           sscanf(text, "%d , %255[^,], %d", &process->pid, process->name, &process->memory) == 3;
}

/* The UUID's bytes can't spell SIMULATED in hexadecimal digits as its text does, so they do in ASCII. */
void uuid_bytes(const struct gpu *gpu, unsigned char bytes[16]) {
    memset(bytes, 0, 16);
    memcpy(bytes, "SIMULATED", 9);
    bytes[15] = (unsigned char)gpu->minor;
}

static long memory_used(const struct gpu *gpu) {
    struct process process;
    long used = 0;
    for (int number = 0; next_process(gpu, number, &process); number++)
        used += process.memory;
    return used;
}

static long memory_free(const struct gpu *gpu) {
    long left =
        field_number(gpu, "memory.total") - field_number(gpu, "memory.reserved") - field_number(gpu, "memory.used");
    return left > 0 ? left : 0;
}

static const char *reason(const struct gpu *gpu, const char *name) {
    char mask[TEXT];
    field_value(gpu, "clocks_event_reasons.active", mask);
    for (size_t i = 0; i < sizeof REASONS / sizeof *REASONS; i++)
        if (!strcmp(name, REASONS[i].name))
            return strtoull(mask, NULL, 16) & REASONS[i].bit ? "Active" : "Not Active";
    return "N/A";
}

static void computed_value(const struct gpu *gpu, const char *name, char value[TEXT]) {
    struct gpu gpus[MAX_GPUS];
    time_t now = time(NULL);
    if (!strcmp(name, "timestamp"))
        strftime(value, TEXT, "%Y/%m/%d %H:%M:%S.000", localtime(&now));
    else if (!strcmp(name, "count"))
        snprintf(value, TEXT, "%d", find_gpus(gpus));
    else if (!strcmp(name, "index"))
        snprintf(value, TEXT, "%d", gpu->index);
    else if (!strcmp(name, "minor_number"))
        snprintf(value, TEXT, "%d", gpu->minor);
    else if (!strcmp(name, "uuid"))
        snprintf(value, TEXT, "GPU-SIMULATED-0000-0000-0000-%012d", gpu->minor);
    else if (!strcmp(name, "pci.bus_id"))
        snprintf(value, TEXT, "00000000:%02X:00.0", gpu->minor + 1);
    else if (!strcmp(name, "pci.bus"))
        snprintf(value, TEXT, "0x%02X", gpu->minor + 1);
    else if (!strcmp(name, "memory.used"))
        snprintf(value, TEXT, "%ld", memory_used(gpu));
    else if (!strcmp(name, "memory.free"))
        snprintf(value, TEXT, "%ld", memory_free(gpu));
    else if (!strncmp(name, "clocks_event_reasons.", 21))
        snprintf(value, TEXT, "%s", reason(gpu, name + 21));
}

/* A property without its unit; "N/A" where such a card has none, empty if there is no such property. */
void field_value(const struct gpu *gpu, const char *name, char value[TEXT]) {
    const struct field *field = find_field(name);
    value[0] = '\0';
    if (field)
        name = field->name;
    if (setting(gpu, name, 0, value) || (field && field->alias && setting(gpu, field->alias, 0, value)))
        return;
    if (field && field->value)
        snprintf(value, TEXT, "%s", field->value);
    else
        computed_value(gpu, name, value);
}

/* The same as a whole number; 0 for what is not one. */
long field_number(const struct gpu *gpu, const char *name) {
    char value[TEXT];
    field_value(gpu, name, value);
    return strtol(value, NULL, 10);
}
