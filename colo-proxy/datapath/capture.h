/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_DATAPATH_CAPTURE_H
#define COLO_DATAPATH_CAPTURE_H

#include <stddef.h>
#include <stdint.h>

#include "colo-proxy/core/frame.h"

/* Frames written to a pcap file (link type Ethernet, nanoseconds), for later reading. */

struct capture;

/*
 * Creates or empties the file, readable by its owner only; at most `limit` bytes will be written
 * (0: no limit). 0, or a negative errno with words in `err`.
 */
int capture_open(const char *path, uint64_t limit, struct capture **ret_capture, char *err,
                 size_t errlen);

/*
 * Adds a frame at `now` (CLOCK_BOOTTIME, ns; written as wall-clock time). One that starts at IP
 * gets an Ethernet header with zero addresses. 0; -ENOSPC: the limit is reached, nothing written;
 * another negative errno of writing.
 */
int capture_frame(struct capture *c, const struct frame *f, uint64_t now);

/* Writes out what is buffered. 0 or -EIO. NULL is allowed. */
int capture_flush(struct capture *c);

/* Writes out and closes: 0 or a negative errno: the file is not complete. NULL is allowed. */
int capture_close(struct capture *c);

#endif
