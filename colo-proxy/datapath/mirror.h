/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_DATAPATH_MIRROR_H
#define COLO_DATAPATH_MIRROR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "colo-proxy/core/frame.h"
#include "colo-proxy/datapath/counters.h"

/*
 * The mirror: a copy of every frame that goes to the VM, in the order in which the VM's tap gets
 * them, whole, with metadata and VLAN tags. It also says which of them the VM has taken (rule R5,
 * the input cut).
 *
 * The n-th frame of the mirror (from 0) is taken when mirror_taken() > n. The kernel counts for a
 * tap what its reader takes; frames from before the mirror was opened are told apart by
 * mirror_align().
 */

struct mirror;

struct mirror_counters {
	uint64_t received;       /* frames handed out; the index of the next one */
	uint64_t kernel_dropped; /* copies lost because the socket's buffer was full */
	uint64_t port_dropped; /* frames that found the VM's tap full since the mirror was opened */
};

/*
 * `buffer` bytes of socket buffer (0: 64 MiB), beyond the host's limit when permitted. `port` is
 * the VM's tap. 0, or a negative errno with words in `err`.
 */
int mirror_open(const char *port, unsigned buffer, struct mirror **ret_mirror, char *err,
                size_t errlen);

/* The descriptor to poll for EPOLLIN. */
int mirror_fd(const struct mirror *m);

/*
 * Up to `max` frames as a list, the caller's. Returns their number, 0 when none waits, or a
 * negative errno; -ENOBUFS: copies were lost since the last call, the indexes are not to be trusted
 * any more: take a checkpoint and call mirror_align() anew.
 */
int mirror_receive(struct mirror *m, struct frame **ret_list, unsigned max);

/*
 * Finds which frame is the first that the VM takes after those that the mirror did not see. tap_fd
 * is a descriptor of the VM's tap (a duplicate of QEMU's will do). 0: aligned. -EAGAIN: receive
 * what there is and call again. It succeeds when two calls in turn have found the VM's queue empty,
 * and agree.
 */
int mirror_align(struct mirror *m, int tap_fd);

/* True from a successful mirror_align() until copies or frames are found lost. */
bool mirror_aligned(const struct mirror *m);

/*
 * How many of the mirror's frames the VM has taken, exact at the moment of the call. -ESTALE: not
 * aligned, or the tap dropped frames since (which of them is not known): the cut is unknown, and
 * only a checkpoint with an empty queue helps.
 */
int mirror_taken(struct mirror *m, uint64_t *ret_taken);

void mirror_get_counters(struct mirror *m, struct mirror_counters *ret_counters);

/* NULL is allowed. */
void mirror_close(struct mirror *m);

#endif
