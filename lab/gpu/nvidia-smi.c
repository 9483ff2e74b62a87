/* nvidia-smi for SIMULATED GPUs (gpus.h): the real tool's layouts, words and exit statuses, recorded from
 * driver 580. In C and linked statically, so that it runs in any container image. Its options:
 *
 *     nvidia-smi [-i GPU,...] [-L | -q [-x] | QUERY --format=csv[,noheader][,nounits]] [-l SECONDS | -lms MS]
 *     nvidia-smi topo -m | --version | -h
 *
 * QUERY is --query-gpu=FIELD,... or --query-compute-apps=FIELD,...; a GPU is an index, UUID or bus id. */
#include "gpus.h"
#include "report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum status { OK = 0, BAD_USAGE = 2, NO_DEVICES = 6, NOT_LOADED = 9, NO_LIBRARY = 12, BLOCKED = 17, UNKNOWN_ERROR = 255 };

struct options {
    const char *gpus, *gpu_fields, *app_fields, *format;
    int list, query, xml, topology, milliseconds;
};

/* A column of a query: how it is headed and what it shows. */
struct column {
    const char *head, *alias, *unit;
    const char *field; /* of the GPU; NULL: of the process */
};

static const struct column APP_COLUMNS[] = {
    {"timestamp", NULL, NULL, "timestamp"},   {"gpu_name", NULL, NULL, "name"},
    {"gpu_bus_id", NULL, NULL, "pci.bus_id"}, {"gpu_serial", NULL, NULL, "serial"},
    {"gpu_uuid", NULL, NULL, "uuid"},         {"pid", NULL, NULL, NULL},
    {"process_name", "name", NULL, NULL},     {"used_gpu_memory", "used_memory", "MiB", NULL},
};

static const char *const LIBRARY_FOLDERS[] = {
    "/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu",     "/usr/lib64",
    "/lib64",                    "/usr/local/nvidia/lib64",   "/usr/local/nvidia/lib",
    "/usr/local/lib",            "/usr/lib",
};

/* ---- what can go wrong before anything is shown ---- */

static int in_folder(const char *root, const char *folder) {
    char path[2 * TEXT];
    snprintf(path, sizeof path, "%s%s/libnvidia-ml.so.1", root, folder);
    return access(path, R_OK) == 0;
}

/* The real tool loads libnvidia-ml.so.1; a static one can only look where the loader would. */
static int library_found(void) {
    char folders[16 * TEXT];
    const char *listed = getenv("LD_LIBRARY_PATH");
    snprintf(folders, sizeof folders, "%s", listed ? listed : "");
    for (char *folder = strtok(folders, ":"); folder; folder = strtok(NULL, ":"))
        if (in_folder("", folder))
            return 1;
    for (size_t i = 0; i < sizeof LIBRARY_FOLDERS / sizeof *LIBRARY_FOLDERS; i++)
        if (in_folder(ROOT, LIBRARY_FOLDERS[i]))
            return 1;
    return 0;
}

static enum status driver_status(void) {
    if (!library_found()) {
        puts("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA "
             "Display Driver is properly installed and present in your system.\n"
             "Please also try adding directory that contains libnvidia-ml.so to your system PATH.");
        return NO_LIBRARY;
    }
    switch (driver_state()) {
    case DRIVER_NOT_LOADED:
        puts("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the "
             "latest NVIDIA driver is installed and running.\n");
        return NOT_LOADED;
    case DRIVER_FORBIDDEN:
        puts("Failed to initialize NVML: Unknown Error");
        return UNKNOWN_ERROR;
    case DRIVER_BLOCKED:
        puts("Failed to initialize NVML: GPU access blocked by the operating system");
        return BLOCKED;
    case DRIVER_LOADED:
        break;
    }
    return OK;
}

/* ---- which GPUs ---- */

static int is_meant(const struct gpu *gpu, const char *word) {
    char index[TEXT], uuid[TEXT], bus[TEXT];
    field_value(gpu, "index", index);
    field_value(gpu, "uuid", uuid);
    field_value(gpu, "pci.bus_id", bus);
    return !strcmp(word, index) || !strcmp(word, uuid) || !strcasecmp(word, bus) || !strcasecmp(word, bus + 4);
}

/* Keeps the GPUs that -i names; every one if it is not given. */
static int chosen(struct gpu gpus[MAX_GPUS], const char *words) {
    int count = find_gpus(gpus), kept = 0;
    if (!words)
        return count;
    for (int i = 0; i < count; i++) {
        char copy[4 * TEXT];
        snprintf(copy, sizeof copy, "%s", words);
        for (char *word = strtok(copy, ","); word; word = strtok(NULL, ","))
            if (is_meant(&gpus[i], word)) {
                gpus[kept++] = gpus[i];
                break;
            }
    }
    return kept;
}

/* ---- nvidia-smi, nvidia-smi -L ---- */

static void list(const struct gpu *gpus, int count) {
    for (int i = 0; i < count; i++) {
        char name[TEXT], uuid[TEXT];
        field_value(&gpus[i], "name", name);
        field_value(&gpus[i], "uuid", uuid);
        printf("GPU %d: %s (UUID: %s)\n", gpus[i].index, name, uuid);
    }
}

/* The table's first column has room for 27 characters of a name; a longer one ends in "...". */
static void shortened(char name[TEXT]) {
    if (strlen(name) > 27)
        strcpy(name + 24, "...");
}

static void print_gpu_rows(const struct gpu *gpu) {
    char name[TEXT], persistence[TEXT], bus[TEXT], display[TEXT], ecc[TEXT], fan[TEXT], state[TEXT], mode[TEXT], mig[TEXT];
    field_value(gpu, "name", name);
    field_value(gpu, "persistence_mode", persistence);
    field_value(gpu, "pci.bus_id", bus);
    field_value(gpu, "display_active", display);
    field_value(gpu, "ecc.errors.uncorrected.volatile.total", ecc);
    field_value(gpu, "fan.speed", fan);
    field_value(gpu, "pstate", state);
    field_value(gpu, "compute_mode", mode);
    field_value(gpu, "mig.mode.current", mig);
    shortened(name);
    if (strcmp(fan, "N/A"))
        strcat(fan, "%");
    printf("| %3d  %-31s%-3s |   %16s %3s |%21s |\n", gpu->index, name, strcmp(persistence, "Enabled") ? "Off" : "On",
           bus, strcmp(display, "Enabled") ? "Off" : "On", ecc);
    printf("| %3s %4ldC %5s %14ldW / %4ldW |%8ldMiB / %6ldMiB |%7ld%% %12s |\n", fan,
           field_number(gpu, "temperature.gpu"), state, field_number(gpu, "power.draw"),
           field_number(gpu, "power.limit"), field_number(gpu, "memory.used"), field_number(gpu, "memory.total"),
           field_number(gpu, "utilization.gpu"), mode);
    printf("| %39s | %22s |%21s |\n", "", "", mig);
    puts("+-----------------------------------------+------------------------+----------------------+");
}

static void print_process_rows(const struct gpu *gpus, int count) {
    struct process process;
    int shown = 0;
    for (int i = 0; i < count; i++)
        for (int number = 0; next_process(&gpus[i], number, &process); number++, shown++)
            printf("|%5d   N/A  N/A%16d      C   %-36.36s%7dMiB |\n", gpus[i].index, process.pid, process.name,
                   process.memory);
    if (!shown)
        puts("|  No running processes found                                                             |");
}

static void print_table(const struct gpu *gpus, int count) {
    char when[TEXT];
    time_t now = time(NULL);
    strftime(when, sizeof when, "%a %b %e %H:%M:%S %Y", localtime(&now));
    printf("%s       \n", when);
    puts("+-----------------------------------------------------------------------------------------+");
    printf("| NVIDIA-SMI %-23sDriver Version: %-15sCUDA Version: %-9s|\n", DRIVER_VERSION, DRIVER_VERSION,
           CUDA_VERSION_TEXT);
    puts("+-----------------------------------------+------------------------+----------------------+\n"
         "| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |\n"
         "| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |\n"
         "|                                         |                        |               MIG M. |\n"
         "|=========================================+========================+======================|");
    for (int i = 0; i < count; i++)
        print_gpu_rows(&gpus[i]);
    puts("\n"
         "+-----------------------------------------------------------------------------------------+\n"
         "| Processes:                                                                              |\n"
         "|  GPU   GI   CI              PID   Type   Process name                        GPU Memory |\n"
         "|        ID   ID                                                               Usage      |\n"
         "|=========================================================================================|");
    print_process_rows(gpus, count);
    puts("+-----------------------------------------------------------------------------------------+");
}

/* ---- nvidia-smi --query-...=FIELDS --format=csv ---- */

static int has_word(const char *words, const char *word) {
    char copy[TEXT];
    snprintf(copy, sizeof copy, "%s", words);
    for (char *one = strtok(copy, ","); one; one = strtok(NULL, ","))
        if (!strcmp(one, word))
            return 1;
    return 0;
}

static int find_gpu_column(const char *name, struct column *column) {
    const struct field *field = find_field(name);
    if (field)
        *column = (struct column){field->name, field->alias, field->unit, field->name};
    return field != NULL;
}

static int find_app_column(const char *name, struct column *column) {
    for (size_t i = 0; i < sizeof APP_COLUMNS / sizeof *APP_COLUMNS; i++) {
        *column = APP_COLUMNS[i];
        if (!strcmp(name, column->head) || (column->alias && !strcmp(name, column->alias)))
            return 1;
    }
    return 0;
}

/* The columns that a list of fields asks for, and how many; -1 for a field that is none, which it says. */
static int find_columns(const char *fields, int of_apps, struct column columns[TEXT]) {
    static char copy[64 * TEXT];
    int count = 0;
    snprintf(copy, sizeof copy, "%s", fields);
    for (char *name = strtok(copy, ", "); name && count < TEXT; name = strtok(NULL, ", "), count++)
        if (!(of_apps ? find_app_column : find_gpu_column)(name, &columns[count])) {
            printf("Field \"%s\" is not a valid field to query.\n\n", name);
            return -1;
        }
    return count;
}

static void print_heads(const struct column *columns, int count) {
    for (int i = 0; i < count; i++) {
        printf(i ? ", %s" : "%s", columns[i].head);
        if (columns[i].unit)
            printf(" [%s]", columns[i].unit);
    }
    putchar('\n');
}

static void cell(const struct column *column, const struct gpu *gpu, const struct process *process, char value[TEXT]) {
    if (column->field)
        field_value(gpu, column->field, value);
    else if (!strcmp(column->head, "pid"))
        snprintf(value, TEXT, "%d", process->pid);
    else if (!strcmp(column->head, "process_name"))
        snprintf(value, TEXT, "%s", process->name);
    else
        snprintf(value, TEXT, "%d", process->memory);
}

static void print_line(const struct column *columns, int count, const struct gpu *gpu, const struct process *process,
                       int units) {
    for (int i = 0; i < count; i++) {
        char value[TEXT];
        cell(&columns[i], gpu, process, value);
        printf(i ? ", " : "");
        if (!strcmp(value, "N/A"))
            printf("[N/A]");
        else if (units && columns[i].unit)
            printf("%s %s", value, columns[i].unit);
        else
            printf("%s", value);
    }
    putchar('\n');
}

static enum status query(const struct options *options, const struct gpu *gpus, int count, int heads) {
    struct column columns[TEXT];
    struct process process;
    int of_apps = options->app_fields != NULL, units = !has_word(options->format, "nounits");
    int width = find_columns(of_apps ? options->app_fields : options->gpu_fields, of_apps, columns);
    if (width < 0)
        return BAD_USAGE;
    if (heads && !has_word(options->format, "noheader"))
        print_heads(columns, width);
    for (int i = 0; i < count; i++) {
        if (!of_apps)
            print_line(columns, width, &gpus[i], NULL, units);
        for (int number = 0; of_apps && next_process(&gpus[i], number, &process); number++)
            print_line(columns, width, &gpus[i], &process, units);
    }
    return OK;
}

/* ---- nvidia-smi -q, nvidia-smi -q -x ---- */

/* What stands in a row of the report: "$field|text behind it", or as it is. */
static void row_value(const struct gpu *gpu, const char *template, char value[2 * TEXT]) {
    char name[TEXT], found[TEXT];
    const char *behind = strchr(template, '|');
    if (template[0] != '$') {
        snprintf(value, TEXT, "%s", template);
        return;
    }
    snprintf(name, sizeof name, "%.*s", (int)strcspn(template + 1, "|"), template + 1);
    field_value(gpu, name, found);
    const struct field *field = find_field(name);
    const char *unit = field && field->unit ? field->unit : "";
    if (!strcmp(found, "N/A"))
        snprintf(value, TEXT, "N/A");
    else
        snprintf(value, 2 * TEXT, "%s%s%s%s", found, *unit ? " " : "", unit, behind ? behind + 1 : "");
}

static void print_fact(int depth, const char *label, const char *value) {
    printf("%*s%-*s: %s\n", 4 * depth, "", 55 - 4 * depth, label, value);
}

static void print_text_processes(const struct gpu *gpu) {
    struct process process;
    char pid[TEXT], memory[TEXT];
    if (!next_process(gpu, 0, &process)) {
        print_fact(1, "Processes", "None");
        return;
    }
    puts("    Processes");
    for (int number = 0; next_process(gpu, number, &process); number++) {
        snprintf(pid, sizeof pid, "%d", process.pid);
        snprintf(memory, sizeof memory, "%d MiB", process.memory);
        print_fact(2, "GPU instance ID", "N/A");
        print_fact(2, "Compute instance ID", "N/A");
        print_fact(2, "Process ID", pid);
        print_fact(3, "Type", "C");
        print_fact(3, "Name", process.name);
        print_fact(3, "Used GPU Memory", memory);
    }
}

static void print_text_report(const struct gpu *gpu) {
    char value[2 * TEXT];
    field_value(gpu, "pci.bus_id", value);
    printf("GPU %s\n", value);
    for (const struct row *row = REPORT; row < REPORT + sizeof REPORT / sizeof *REPORT; row++) {
        if (row->tag && !strcmp(row->tag, PROCESSES))
            print_text_processes(gpu);
        if (!row->label)
            continue;
        if (!row->value) {
            printf("%*s%s\n", 4 * row->depth, "", row->label);
            continue;
        }
        row_value(gpu, row->value, value);
        print_fact(row->depth, row->label, value);
    }
    putchar('\n');
}

static void indent(int depth) {
    while (depth-- > 0)
        putchar('\t');
}

static void print_xml_processes(const struct gpu *gpu) {
    struct process process;
    puts("\t\t<processes>");
    for (int number = 0; next_process(gpu, number, &process); number++)
        printf("\t\t\t<process_info>\n"
               "\t\t\t\t<gpu_instance_id>N/A</gpu_instance_id>\n"
               "\t\t\t\t<compute_instance_id>N/A</compute_instance_id>\n"
               "\t\t\t\t<pid>%d</pid>\n"
               "\t\t\t\t<type>C</type>\n"
               "\t\t\t\t<process_name>%s</process_name>\n"
               "\t\t\t\t<used_memory>%d MiB</used_memory>\n"
               "\t\t\t</process_info>\n",
               process.pid, process.name, process.memory);
    puts("\t\t</processes>\n\t\t<accounted_processes>\n\t\t</accounted_processes>");
}

/* Closes the headings that a row of this depth is no longer under. */
static void close_headings(const struct row *open[], int *count, int depth) {
    while (*count && open[*count - 1]->depth >= depth) {
        const struct row *row = open[--*count];
        indent(row->depth + 1);
        printf("</%s>\n", row->tag);
    }
}

static void print_xml_row(const struct gpu *gpu, const struct row *row) {
    char value[2 * TEXT];
    row_value(gpu, row->value, value);
    indent(row->depth + 1);
    /* The XML's PCI numbers are the text's without 0x. */
    if (row->tag)
        printf("<%s>%s</%s>\n", row->tag, value + (!strncmp(row->tag, "pci_", 4) && !strncmp(value, "0x", 2) ? 2 : 0),
               row->tag);
    else
        puts(value);
}

static void print_xml_report(const struct gpu *gpu) {
    const struct row *open[8];
    char bus[TEXT];
    int headings = 0;
    field_value(gpu, "pci.bus_id", bus);
    printf("\t<gpu id=\"%s\">\n", bus);
    for (const struct row *row = REPORT; row < REPORT + sizeof REPORT / sizeof *REPORT; row++) {
        if (row->label && !row->tag)
            continue;
        close_headings(open, &headings, row->depth);
        if (row->tag && !strcmp(row->tag, PROCESSES))
            print_xml_processes(gpu);
        else if (row->value)
            print_xml_row(gpu, row);
        else {
            indent(row->depth + 1);
            printf("<%s>\n", row->tag);
            open[headings++] = row;
        }
    }
    close_headings(open, &headings, 0);
    puts("\t</gpu>\n");
}

static void print_report(const struct gpu *gpus, int count, int xml) {
    struct gpu attached[MAX_GPUS];
    char when[TEXT], driver[TEXT];
    time_t now = time(NULL);
    field_value(&gpus[0], "driver_version", driver);
    strftime(when, sizeof when, "%a %b %e %H:%M:%S %Y", localtime(&now));
    printf(xml ? "<?xml version=\"1.0\" ?>\n"
                 "<!DOCTYPE nvidia_smi_log SYSTEM \"nvsmi_device_v13.dtd\">\n"
                 "<nvidia_smi_log>\n"
                 "\t<timestamp>%s</timestamp>\n"
                 "\t<driver_version>%s</driver_version>\n"
                 "\t<cuda_version>%s</cuda_version>\n"
                 "\t<attached_gpus>%d</attached_gpus>\n"
               : "\n==============NVSMI LOG==============\n\n"
                 "Timestamp                                              : %s\n"
                 "Driver Version                                         : %s\n"
                 "CUDA Version                                           : %s\n\n"
                 "Attached GPUs                                          : %d\n",
           when, driver, CUDA_VERSION_TEXT, find_gpus(attached));
    for (int i = 0; i < count; i++)
        (xml ? print_xml_report : print_text_report)(&gpus[i]);
    if (xml)
        puts("</nvidia_smi_log>");
}

/* ---- nvidia-smi topo -m ---- */

static void print_topology(const struct gpu *gpus, int count) {
    char cpus[TEXT] = "0";
    FILE *online = fopen("/sys/devices/system/cpu/online", "r");
    if (online) {
        if (fgets(cpus, sizeof cpus, online))
            cpus[strcspn(cpus, "\n")] = '\0';
        fclose(online);
    }
    printf("\t\033[4m");
    for (int i = 0; i < count; i++)
        printf("GPU%d\t", gpus[i].index);
    puts("CPU Affinity\tNUMA Affinity\tGPU NUMA ID\033[0m");
    for (int row = 0; row < count; row++) {
        printf("GPU%d\t", gpus[row].index);
        for (int column = 0; column < count; column++)
            printf(row == column ? " X \t" : "PHB\t");
        printf("%s\t0\t\tN/A\n", cpus);
    }
    puts("\nLegend:\n\n"
         "  X    = Self\n"
         "  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)\n"
         "  NODE = Connection traversing PCIe as well as the interconnect between PCIe Host Bridges within a NUMA node\n"
         "  PHB  = Connection traversing PCIe as well as a PCIe Host Bridge (typically the CPU)\n"
         "  PXB  = Connection traversing multiple PCIe bridges (without traversing the PCIe Host Bridge)\n"
         "  PIX  = Connection traversing at most a single PCIe bridge\n"
         "  NV#  = Connection traversing a bonded set of # NVLinks");
}

/* ---- the command line ---- */

static enum status show(const struct options *options, int first) {
    struct gpu gpus[MAX_GPUS];
    enum status status = driver_status();
    if (status)
        return status;
    int count = chosen(gpus, options->gpus);
    if (!count) {
        puts(options->list ? "No devices found." : "No devices were found");
        return options->list && !options->gpus ? OK : NO_DEVICES; /* the real one ends -L so (580.159.04) */
    }
    if (options->gpu_fields || options->app_fields)
        return query(options, gpus, count, first);
    if (options->list)
        list(gpus, count);
    else if (options->topology)
        print_topology(gpus, count);
    else if (options->query)
        print_report(gpus, count, options->xml);
    else
        print_table(gpus, count);
    return OK;
}

/* The argument of an option, "--name=ARGUMENT" or the next word; NULL if it is another option. */
static const char *argument(char ***words, const char *name, const char *short_name) {
    size_t length = strlen(name);
    if (!strncmp(**words, name, length) && (**words)[length] == '=')
        return **words + length + 1;
    if ((!strcmp(**words, name) || (short_name && !strcmp(**words, short_name))) && (*words)[1])
        return *++*words;
    return NULL;
}

static int is(const char *word, const char *name, const char *short_name) {
    return !strcmp(word, name) || (short_name && !strcmp(word, short_name));
}

static int parse(char **words, struct options *options) {
    const char *value;
    for (; *words; words++) {
        if (is(*words, "--list-gpus", "-L"))
            options->list = 1;
        else if (is(*words, "--query", "-q"))
            options->query = 1;
        else if (is(*words, "--xml-format", "-x"))
            options->xml = 1;
        else if (is(*words, "topo", NULL) && words[1] && is(words[1], "--matrix", "-m"))
            options->topology = 1, words++;
        else if ((value = argument(&words, "--id", "-i")))
            options->gpus = value;
        else if ((value = argument(&words, "--query-gpu", NULL)))
            options->gpu_fields = value;
        else if ((value = argument(&words, "--query-compute-apps", NULL)))
            options->app_fields = value;
        else if ((value = argument(&words, "--format", NULL)))
            options->format = value;
        else if ((value = argument(&words, "--loop-ms", "-lms")))
            options->milliseconds = atoi(value);
        else if ((value = argument(&words, "--loop", "-l")))
            options->milliseconds = 1000 * atoi(value);
        else {
            printf("ERROR: Option %s is not recognized. Please run 'nvidia-smi -h' for help.\n\n", *words);
            return 0;
        }
    }
    return 1;
}

static int fits_together(const struct options *options) {
    int queries = (options->gpu_fields != NULL) + (options->app_fields != NULL);
    int modes = queries + options->list + options->query + options->topology;
    int as_csv = options->format && has_word(options->format, "csv");
    if (modes <= 1 && options->query >= options->xml && queries == (options->format != NULL) && queries == as_csv)
        return 1;
    puts("Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n");
    return 0;
}

static void print_help(void) {
    puts("NVIDIA System Management Interface -- v" DRIVER_VERSION " (SIMULATED: there is no GPU and no driver)\n\n"
         "nvidia-smi [-i GPU,...] [-L | -q [-x] | QUERY --format=csv[,noheader][,nounits]] [-l SECONDS | -lms MS]\n"
         "nvidia-smi topo -m | --version | -h\n\n"
         "QUERY: --query-gpu=FIELD,... or --query-compute-apps=FIELD,...");
}

static void print_version(void) {
    puts("NVIDIA-SMI version  : " DRIVER_VERSION " (SIMULATED)\n"
         "NVML version        : 580.76\n"
         "DRIVER version      : " DRIVER_VERSION "\n"
         "CUDA Version        : " CUDA_VERSION_TEXT);
}

int main(int argc, char **argv) {
    struct options options = {0};
    if (argc == 2 && is(argv[1], "--help", "-h")) {
        print_help();
        return OK;
    }
    if (argc == 2 && is(argv[1], "--version", NULL)) {
        print_version();
        return OK;
    }
    if (!parse(argv + 1, &options) || !fits_together(&options))
        return BAD_USAGE;
    enum status status = show(&options, 1);
    while (status == OK && options.milliseconds > 0) {
        struct timespec pause = {options.milliseconds / 1000, options.milliseconds % 1000 * 1000000L};
        fflush(stdout);
        nanosleep(&pause, NULL);
        status = show(&options, 0);
    }
    return (int)status;
}
