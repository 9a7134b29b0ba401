/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef QEMU_GLUE_URGENT_H
#define QEMU_GLUE_URGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/*
 * The threads that a VM's pause waits for, and that run before all others meanwhile: QEMU's
 * migration thread, its main loop, the vCPUs that are to stop, and the caller's own, which reads
 * what QEMU writes. They get the real-time class SCHED_RR at its lowest priorities, the vCPUs one
 * below the others, and get back what they had; a thread that is in a real-time class already is
 * left alone.
 *
 * Whoever begins must end it after a bounded time, whether or not the VM runs on by then (R8: the
 * host's other work must not starve). Threads that QEMU starts meanwhile do not inherit the class.
 */
#define URGENT_THREADS 32u /* more vCPUs than this do not become urgent */

struct urgent_thread {
	pid_t tid;
	bool vcpu;
	bool raised;
	int policy; /* what it had */
};

struct urgent {
	struct urgent_thread thread[URGENT_THREADS];
	unsigned count;
};

/*
 * Finds the threads of the process at the other end of a connected unix socket, and the caller.
 * What was raised before is put back. 0; -errno: nothing will be raised.
 */
int urgent_find(struct urgent *urgent, int sock);

/* Raises them. 0; -EPERM: may not; other errors of sched_setscheduler(2). A thread that has ended
 * is no error. After an error nothing is raised, and later calls do nothing and return 0. */
int urgent_begin(struct urgent *urgent);
/* The vCPUs alone get back what they had: before they run on. */
void urgent_spare_vcpus(struct urgent *urgent);
/* All of them. */
void urgent_end(struct urgent *urgent);

#endif
