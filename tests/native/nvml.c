/* An NVIDIA driver's NVML for tests: one device, which no CUDA can use. The names and layouts are those of nvml.h. */
#include <string.h>

typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_t;

static int text(char *to, unsigned length, const char *from) {
    strncpy(to, from, length);
    return 0;
}

int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { (void)code; return "an error"; }
int nvmlSystemGetDriverVersion(char *to, unsigned length) { return text(to, length, "580.65.06"); }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)1; return index == 0 ? 0 : 2; }
int nvmlDeviceGetUUID(void *device, char *to, unsigned length) { (void)device; return text(to, length, "GPU-7e57"); }
int nvmlDeviceGetName(void *device, char *to, unsigned length) { (void)device; return text(to, length, "NVIDIA Test"); }
int nvmlDeviceGetMemoryInfo_v2(void *device, memory_t *memory) { (void)device; memory->total = 1ull << 34; return 0; }
