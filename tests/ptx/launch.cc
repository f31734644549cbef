// Kernels are launched by the address of their C++ function: its name among the symbols of this module leads
// to the .entry of the same name.
#include "machine.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <map>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string>

const ptx_module *kernel;
bool racing, racing_strictly;
unsigned order;

namespace
{

std::map<std::string, const ptx_module *> &modules(void) // filled before main, file by file
{
    static std::map<std::string, const ptx_module *> all;
    return all;
}

unsigned number_in(const char *name)
{
    const char *text = getenv(name);
    return text ? (unsigned)strtoul(text, NULL, 10) : 0;
}

std::vector<char> file_content(const char *path)
{
    std::vector<char> all;
    FILE *f = fopen(path, "rb");
    if (!f)
        stop(NULL, 0, "cannot read %s", path);
    fseek(f, 0, SEEK_END);
    all.resize((size_t)ftell(f));
    rewind(f);
    if (fread(all.data(), 1, all.size(), f) != all.size())
        stop(NULL, 0, "cannot read %s", path);
    fclose(f);
    return all;
}

/* Names of all functions of this module, by address; static ones too, which only .symtab has. */
std::map<const void *, std::string> function_names(void)
{
    std::map<const void *, std::string> names;
    Dl_info here;
    if (!dladdr((const void *)&function_names, &here))
        stop(NULL, 0, "the module does not find itself");
    const std::vector<char> file = file_content(here.dli_fname);
    const ElfW(Ehdr) *head = (const ElfW(Ehdr) *)(const void *)file.data();
    const ElfW(Shdr) *sections = (const ElfW(Shdr) *)(const void *)(file.data() + head->e_shoff);
    for (unsigned i = 0; i < head->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB)
            continue;
        const ElfW(Sym) *symbols = (const ElfW(Sym) *)(const void *)(file.data() + sections[i].sh_offset);
        const char *text = file.data() + sections[sections[i].sh_link].sh_offset;
        for (size_t s = 0; s < sections[i].sh_size / sizeof *symbols; s++)
            if ((symbols[s].st_info & 0xf) == STT_FUNC && symbols[s].st_value)
                names[(const char *)here.dli_fbase + symbols[s].st_value] = text + symbols[s].st_name;
    }
    return names;
}

const ptx_module *module_of(const void *function)
{
    static const std::map<const void *, std::string> names = function_names();
    static std::map<const void *, const ptx_module *> known;
    const ptx_module *&module = known[function];
    if (module)
        return module;
    auto name = names.find(function);
    if (name == names.end())
        stop(NULL, 0, "a kernel without a name: is the module stripped?");
    std::string entry = name->second; // static functions have an L there, entries do not
    if (entry.compare(0, 3, "_ZL") == 0)
        entry.erase(2, 1);
    auto found = modules().find(entry);
    if (found == modules().end())
        stop(NULL, 0, "no .entry for %s", name->second.c_str());
    return module = found->second;
}

/* More than 48 KiB of shared memory only for kernels that were allowed their dynamic part. */
void check_shared(const void *function, size_t all, size_t dynamic)
{
    if (all > SHARED_MOST)
        stop(NULL, 0, "%zu bytes of shared memory", all);
    if (all > 48U << 10 && dynamic > shim_allowed(function))
        stop(NULL, 0, "%zu bytes of shared memory, %zu of them dynamic, and %zu allowed", all, dynamic,
             shim_allowed(function));
}

void check_launch(dim3 grid, dim3 block, const std::vector<size_t> &bytes)
{
    const unsigned n = block.x * block.y * block.z;
    if (!n || n > 1024 || !grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535 || block.z > 64)
        stop(NULL, 0, "a launch that no GPU would take");
    if (kernel->max_threads && n > kernel->max_threads)
        stop(NULL, 0, "%u threads in a block, compiled for %u", n, kernel->max_threads);
    if (bytes != kernel->param_sizes)
        stop(NULL, 0, "arguments of other sizes than the kernel's");
}

/* A launch of the shim (cuda_shim.h). */
void launch(const void *function, dim3 grid, dim3 block, void **args, const std::vector<size_t> &bytes,
            size_t dynamic)
{
    kernel = module_of(function);
    const unsigned shared = ptx_dynamic(kernel->shared) + (unsigned)dynamic;
    check_launch(grid, block, bytes);
    check_shared(function, shared - PTX_SHARED_BASE, dynamic);
    std::vector<uint64_t> room(kernel->param_bytes / 8 + 1);
    char *param = (char *)room.data();
    for (size_t i = 0; i < bytes.size(); i++)
        memcpy(param + kernel->param_at[i], args[i], bytes[i]);
    memory_launch(param, kernel->param_bytes);
    ptx_block.ntid = {block.x, block.y, block.z};
    ptx_block.nctaid = {grid.x, grid.y, grid.z};
    shim_device_begin();
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                ptx_block.ctaid = {x, y, z};
                run_block(param, shared);
            }
    shim_device_end();
    kernel = NULL;
}

struct beginning {
    beginning()
    {
        racing = number_in("KVS_PTX_RACE") > 0;
        racing_strictly = number_in("KVS_PTX_RACE") > 1;
        order = number_in("KVS_PTX_ORDER");
        shim_launcher = launch;
    }
} begins;

} // namespace

ptx_module::ptx_module(const char *name_, void (*run_)(ptx_thread *, const char *), std::vector<size_t> sizes,
                       std::vector<size_t> at, size_t bytes, unsigned shared_, unsigned most,
                       const char *ptx_, const ptx_loc *locs_, size_t n, const char *const *files_)
    : name(name_), run(run_), param_sizes(std::move(sizes)), param_at(std::move(at)), param_bytes(bytes),
      shared(shared_), max_threads(most), ptx(ptx_), locs(locs_), n_locs(n), files(files_)
{
    modules()[name] = this;
}

unsigned some_number(void)
{
    static uint64_t state = order;
    state = state * 6364136223846793005U + 1442695040888963407U;
    return (unsigned)(state >> 33);
}

std::string place(unsigned line)
{
    std::string text = std::string(kernel->ptx) + ":" + std::to_string(line);
    const ptx_loc *loc = NULL;
    for (size_t i = 0; i < kernel->n_locs && kernel->locs[i].line <= line; i++)
        loc = &kernel->locs[i];
    if (!loc)
        return text;
    const auto source = [](unsigned file, unsigned row) {
        const std::string path = kernel->files[file];
        return path.substr(path.rfind('/') + 1) + ":" + std::to_string(row);
    };
    text += " (" + source(loc->file, loc->row);
    if (loc->from_row)
        text += " in " + source(loc->from_file, loc->from_row);
    return text + ")";
}

void stop(const thread *t, unsigned line, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "ptx: ");
    vfprintf(stderr, fmt, args);
    va_end(args);
    if (kernel) {
        fprintf(stderr, "\n  in %s, block %u %u %u", kernel->name, ptx_block.ctaid.x, ptx_block.ctaid.y,
                ptx_block.ctaid.z);
        if (t)
            fprintf(stderr, ", thread %u", t->id);
        if (line)
            fprintf(stderr, ", at %s", place(line).c_str());
    }
    fprintf(stderr, "\n");
    abort();
}
