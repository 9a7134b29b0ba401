/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_KVM_PROCESSORS_H
#define COLO_KVM_PROCESSORS_H

#include <stddef.h>

/*
 * How many processors this process has, for whoever decides how many threads to make: those that
 * its affinity mask names (sched_getaffinity(2), which a cpuset narrows, too), and no more than the
 * quota of its control group and of all groups around it permits. Children share the quota: what
 * the VM's QEMU takes of it is not here.
 */
struct processors {
	unsigned int usable;   /* whole ones, at least 1: the least of the two below */
	unsigned int affinity; /* of the calling thread */
	unsigned int quota;    /* per cent of one processor; 0: there is no limit */
};

/*
 * Quotas are cpu.max (kernel: admin-guide/cgroup-v2.rst) and cpu.cfs_quota_us (version 1, kernel:
 * scheduler/sched-bwc.rst), found through /proc/self/cgroup and /proc/self/mountinfo (cgroups(7),
 * proc_pid_mountinfo(5)). `root` stands in front of all of these paths: "" but in tests. What
 * cannot be read limits nothing, as do groups outside of a container, which are not shown to it.
 */
void processors_find(const char *root, struct processors *ret_processors);

/* "4 processors", "3 processors (of 8, by a quota of 3.50)". */
void processors_text(const struct processors *processors, char *buf, size_t len);

#endif
