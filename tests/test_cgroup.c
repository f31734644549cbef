/* What control groups leave to a process, read from made-up /proc and /sys trees: each is one way in which a
 * machine, a container or a batch system sets them up. */
#include "base/cgroup.h"
#include "base/file.h"
#include "base/mem.h"
#include "scratch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MIB (UINT64_C(1) << 20)
#define CG  "sys/fs/cgroup"

static char *root;

static int start(void **state)
{
    (void)state;
    root = scratch_make();
    return 0;
}

static int end(void **state)
{
    (void)state;
    scratch_remove(root);
    return 0;
}

/* A file of the tree with its folders. */
static void put(const char *path, const char *text)
{
    char *full = file_join(root, path);
    *strrchr(full, '/') = 0;
    assert_int_equal(file_mkdirs(full), 0);
    free(full);
    scratch_text(root, path, text);
}

static void expect(uint64_t memory, double cpus)
{
    struct cgroup_limits l;
    cgroup_limits(&l, root);
    assert_true(l.memory == memory);
    assert_true(l.cpus == cpus);
}

#define V2_MOUNT "30 23 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
#define V1_MOUNTS                                                                                            \
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"                                             \
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"                            \
    "33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"                                      \
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"

/* No /proc, then no groups: no limit. */
static void nothing(void **state)
{
    (void)state;
    expect(UINT64_MAX, INFINITY);
    put("proc/self/mountinfo", "23 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
    put("proc/self/cgroup", "0::/\n");
    expect(UINT64_MAX, INFINITY);
    put("proc/self/mountinfo", V2_MOUNT "garbage\n1 2 3 - \n - cgroup2\n");
    expect(UINT64_MAX, INFINITY);
}

/* Slurm with version 2: the limit is the job's, two levels above the task; a tighter one above that counts
 * too. */
static void slurm_v2(void **state)
{
    (void)state;
    put("proc/self/mountinfo", "22 1 0:21 / /proc rw - proc proc rw\n" V2_MOUNT);
    put("proc/self/cgroup", "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n");
    put(CG "/system.slice/slurmstepd.scope/job_7/step_0/user/task_0/memory.max", "max\n");
    put(CG "/system.slice/slurmstepd.scope/job_7/step_0/user/task_0/memory.current", "1048576\n");
    put(CG "/system.slice/slurmstepd.scope/job_7/memory.max", "209715200\n");
    put(CG "/system.slice/slurmstepd.scope/job_7/memory.current", "10485760\n");
    put(CG "/system.slice/slurmstepd.scope/job_7/cpu.max", "max 100000\n");
    expect(190 * MIB, INFINITY);
    put(CG "/system.slice/slurmstepd.scope/job_7/step_0/cpu.max", "350000 100000\n");
    expect(190 * MIB, 3.5);
    put(CG "/system.slice/memory.max", "104857600\n");
    put(CG "/system.slice/memory.current", "31457280\n");
    put(CG "/system.slice/cpu.max", "200000 100000\n");
    expect(70 * MIB, 2);
}

/* Files in the page cache are given up for memory; nothing is left of a group that is over its limit. */
static void page_cache(void **state)
{
    (void)state;
    put("proc/self/mountinfo", V2_MOUNT);
    put("proc/self/cgroup", "0::/a\n");
    put(CG "/a/memory.max", "104857600\n");
    put(CG "/a/memory.current", "104857600\n");
    put(CG "/a/memory.stat", "anon 10485760\nfile 94371840\ninactive_anon 10485760\nactive_anon 0\n"
                             "inactive_file 62914560\nactive_file 20971520\n");
    expect(80 * MIB, INFINITY);
    put(CG "/a/memory.high", "52428800\n"); /* beyond it the process sleeps */
    expect(30 * MIB, INFINITY);
    put(CG "/a/memory.high", "max\n");
    put(CG "/a/memory.max", "10485760\n");
    expect(0, INFINITY);
}

/* Version 1: one tree per controller, each with a path of its own. */
static void v1(void **state)
{
    (void)state;
    put("proc/self/mountinfo", V1_MOUNTS);
    put("proc/self/cgroup", "9:name=systemd:/x\n4:memory:/slurm/uid_0/job_7/step_0/task_0\n"
                            "3:cpuset:/\n2:cpu,cpuacct:/slurm/job_7\n");
    put(CG "/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put(CG "/memory/memory.usage_in_bytes", "5368709120\n");
    put(CG "/memory/slurm/uid_0/job_7/step_0/task_0/memory.limit_in_bytes", "9223372036854771712\n");
    put(CG "/memory/slurm/uid_0/job_7/step_0/task_0/memory.usage_in_bytes", "0\n");
    put(CG "/memory/slurm/uid_0/job_7/memory.limit_in_bytes", "209715200\n");
    put(CG "/memory/slurm/uid_0/job_7/memory.usage_in_bytes", "31457280\n");
    put(CG "/memory/slurm/uid_0/job_7/memory.stat",
        "cache 1\ninactive_file 1\nactive_file 1\ntotal_inactive_file 10485760\ntotal_active_file "
        "10485760\n");
    put(CG "/cpu,cpuacct/slurm/job_7/cpu.cfs_quota_us", "-1\n");
    put(CG "/cpu,cpuacct/slurm/job_7/cpu.cfs_period_us", "100000\n");
    expect(190 * MIB, INFINITY);
    put(CG "/cpu,cpuacct/slurm/job_7/cpu.cfs_quota_us", "150000\n");
    expect(190 * MIB, 1.5);
}

/* Both side by side: version 2 holds the processes and no controller. */
static void hybrid(void **state)
{
    (void)state;
    put("proc/self/mountinfo", V1_MOUNTS "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    put("proc/self/cgroup", "4:memory:/job\n2:cpu,cpuacct:/\n0::/user.slice\n");
    put(CG "/unified/user.slice/cgroup.procs", "1\n");
    put(CG "/memory/job/memory.limit_in_bytes", "104857600\n");
    put(CG "/memory/job/memory.usage_in_bytes", "41943040\n");
    expect(60 * MIB, INFINITY);
}

/* A container sees its own group as the root of the mount, under the path that the host knows, or one that
 * leads out of what is mounted. */
static void container(void **state)
{
    (void)state;
    put("proc/self/mountinfo",
        "35 31 0:32 /docker/c\\0401 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
    put("proc/self/cgroup", "4:memory:/docker/c 1/inner\n");
    put(CG "/memory/memory.limit_in_bytes", "104857600\n");
    put(CG "/memory/memory.usage_in_bytes", "41943040\n");
    expect(60 * MIB, INFINITY);
    put(CG "/memory/inner/memory.limit_in_bytes", "52428800\n");
    put(CG "/memory/inner/memory.usage_in_bytes", "41943040\n");
    expect(10 * MIB, INFINITY);
    put("proc/self/cgroup", "4:memory:/docker/c 12\n");
    expect(60 * MIB, INFINITY);
    put("proc/self/mountinfo", V2_MOUNT);
    put("proc/self/cgroup", "0::/../../elsewhere\n");
    put(CG "/memory.max", "20971520\n");
    put(CG "/memory.current", "0\n");
    expect(20 * MIB, INFINITY);
}

static void threads(void **state)
{
    (void)state;
    assert_int_equal(cgroup_threads(INFINITY, 16), 16);
    assert_int_equal(cgroup_threads(16, 16), 16);
    assert_int_equal(cgroup_threads(3.5, 16), 3);
    assert_int_equal(cgroup_threads(0.5, 16), 1);
    assert_int_equal(cgroup_threads(3.5, 2), 2);
}

int main(void)
{
#define TREE(name) cmocka_unit_test_setup_teardown(name, start, end)
    const struct CMUnitTest tests[] = {
        TREE(nothing), TREE(slurm_v2),  TREE(page_cache),          TREE(v1),
        TREE(hybrid),  TREE(container), cmocka_unit_test(threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
