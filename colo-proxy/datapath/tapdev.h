/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_DATAPATH_TAPDEV_H
#define COLO_DATAPATH_TAPDEV_H

#include <stdbool.h>
#include <stddef.h>

#include "colo-proxy/core/frame.h"

/*
 * Tap devices. They are never persistent: when the last descriptor is closed, by intent or by
 * death, the interface is gone and every redirection to it drops.
 */

#define TAPDEV_TXQUEUELEN 10000u /* 3,000 frames without a reader overran the default of 500 */

struct tapdev_params {
	const char *name;    /* "vm0", or a pattern such as "colo%d" */
	const char *bridge;  /* becomes a port of it; NULL: of none */
	unsigned mtu;        /* 0: the kernel's, 1500 */
	unsigned txqueuelen; /* frames that wait for the reader; 0: TAPDEV_TXQUEUELEN */
	bool for_daemon;     /* this process reads it: 12-byte headers, all offloads accepted */
};

/*
 * Creates the tap, silences the host on it (netif_silence), and sets it up. Without for_daemon it
 * is the VM's: QEMU, given the descriptor with `-netdev tap,fd=N,vhost=off`, finds IFF_VNET_HDR by
 * TUNGETIFF, and sets the header's size and the offloads itself when the guest's driver has
 * negotiated (QEMU net/tap.c, net/tap-linux.c), so both are left at the kernel's defaults (10
 * bytes, no offloads).
 *
 * *ret_fd is nonblocking and close-on-exec; who starts QEMU clears the latter in the child.
 * ret_name has room for IFNAMSIZ bytes. 0 or a negative errno with words in `err`.
 */
int tapdev_create(const struct tapdev_params *params, int *ret_fd, char *ret_name, char *err,
                  size_t errlen);

/* True while frames wait in the tap for its reader; on any descriptor of the tap, also QEMU's. */
bool tapdev_pending(int fd);

/*
 * A reader of packets with a virtio-net header in front. Large frames are handed on without a copy.
 * `header` is its size: 0 for the 12 bytes of the daemon's own taps, tapdev_header() for a VM's.
 */
struct tapdev_reader {
	struct frame *spare;
	size_t header;
};

/* The size of the header that the tap's reader gets, or a negative errno. */
int tapdev_header(int fd);

/* One frame, the caller's; -EAGAIN when there is none; another negative errno. */
int tapdev_read(struct tapdev_reader *reader, int fd, struct frame **ret_frame);
void tapdev_reader_clear(struct tapdev_reader *reader);

/*
 * Moves a received frame that was read into a buffer of the largest size to one of its own size, or
 * hands the large one over: *spare is the buffer, NULL afterwards if it was handed over. Returns
 * NULL when memory is out.
 */
struct frame *tapdev_fit(struct frame **spare);

/* Writes a frame with its header. 0 (the frame stays the caller's) or a negative errno. */
int tapdev_write(int fd, const struct frame *f);

#endif
