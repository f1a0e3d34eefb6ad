/* Counts what Python asks of its allocators: compiled by router_load.py, called through ctypes. */
#include <stddef.h>

typedef struct {
    void *context;
    void *(*malloc)(void *, size_t);
    void *(*calloc)(void *, size_t, size_t);
    void *(*realloc)(void *, void *, size_t);
    void (*free)(void *, void *);
} Allocator; /* PyMemAllocatorEx */

enum { FIRST = 1, LAST = 2 }; /* PYMEM_DOMAIN_MEM and _OBJ, both called with the interpreter's lock held */

static Allocator inner[LAST + 1];
static unsigned long long calls;

static void *counted_malloc(void *domain, size_t size)
{
    Allocator *to = domain;
    calls++;
    return to->malloc(to->context, size);
}

static void *counted_calloc(void *domain, size_t count, size_t size)
{
    Allocator *to = domain;
    calls++;
    return to->calloc(to->context, count, size);
}

static void *counted_realloc(void *domain, void *block, size_t size)
{
    Allocator *to = domain;
    calls++;
    return to->realloc(to->context, block, size);
}

static void counted_free(void *domain, void *block)
{
    Allocator *to = domain;
    to->free(to->context, block);
}

void install(void (*get)(int, Allocator *), void (*set)(int, Allocator *))
{
    for (int domain = FIRST; domain <= LAST; domain++) {
        Allocator counting = {&inner[domain], counted_malloc, counted_calloc, counted_realloc, counted_free};
        get(domain, &inner[domain]);
        set(domain, &counting);
    }
}

unsigned long long allocations(void) { return calls; }
