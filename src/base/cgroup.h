/* What the control groups of the job leave to this process: memory and CPU time. A batch system puts
 * its limit on a group above the process's own (Slurm: the job's, two levels up), so every group from the
 * process's own up to the root of what is mounted is read. Version 1, version 2 and both side by side. */
#ifndef KVS_BASE_CGROUP_H
#define KVS_BASE_CGROUP_H

#include <stdint.h>

struct cgroup_limits {
    uint64_t memory; /* bytes that may still be taken, files in the page cache not counted as taken;
                        UINT64_MAX: no limit */
    double cpus;     /* CPUs' worth of time (quota over period); INFINITY: no limit */
};

/* Reads ROOT/proc/self/{mountinfo,cgroup} and the groups that they name, below ROOT. root is "" but in tests.
 * What is missing or unreadable is no limit. */
void cgroup_limits(struct cgroup_limits *l, const char *root);

/* Whole CPUs that `cpus` is enough for, at most `most` and at least 1: more threads than that would
 * wait for each other's turn. */
int cgroup_threads(double cpus, int most);

#endif
