/* A libonnxruntime that is too old to be used: it says its version and knows no interface. */
typedef struct { const void *(*api)(unsigned); const char *(*version)(void); } base_t;

static const void *api(unsigned version) { (void)version; return 0; }
static const char *version(void) { return "1.17.3"; }
static const base_t base = { api, version };

const base_t *OrtGetApiBase(void) { return &base; }
