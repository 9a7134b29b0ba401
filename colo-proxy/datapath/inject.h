/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_DATAPATH_INJECT_H
#define COLO_DATAPATH_INJECT_H

#include <stddef.h>
#include <stdint.h>

#include "colo-proxy/core/frame.h"

/*
 * Puts frames into the VM through its tap, marked so that an intercept on it lets them pass. The
 * kernel reports no loss when a tap is full, so the injector knows by the tap's counters how many
 * frames wait and refuses in time. Exact while it is the only one who sends to the tap (a secondary
 * before takeover, or behind an intercept); when others send too, a loss shows in `lost`.
 */

struct inject;

struct inject_counters {
	uint64_t sent;    /* accepted by the kernel */
	uint64_t waiting; /* of these, not yet taken by the VM */
	uint64_t lost;    /* frames that the tap dropped since, without those of -ENOBUFS */
};

/*
 * `limit`: frames that may wait in the tap (0: TAPDEV_TXQUEUELEN; the tap's txqueuelen is not to be
 * less). 0, or a negative errno with words in `err`.
 */
int inject_open(const char *port, uint32_t mark, unsigned limit, struct inject **ret_inject,
                char *err, size_t errlen);

/*
 * Sends one frame, which stays the caller's. 0; -EAGAIN: the tap or the socket is full, keep the
 * frame and try again when the VM has taken some; -ENOBUFS: the
 * kernel dropped it (a tap filled by others, or a filter), it did not go in, try again; -EMSGSIZE:
 * longer than the tap's MTU allows; -EINVAL:
 * the virtio-net header contradicts the frame; -ENETDOWN, -ENXIO: no such tap any more.
 */
int inject_send(struct inject *in, const struct frame *f);

/* 0 or a negative errno of reading the tap's counters. */
int inject_get_counters(struct inject *in, struct inject_counters *ret_counters);

/* NULL is allowed. */
void inject_close(struct inject *in);

#endif
