/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_DATAPATH_NETLINK_H
#define COLO_DATAPATH_NETLINK_H

#include <errno.h>
#include <stddef.h>

struct nl_msg;

/*
 * Internal to the data path: one rtnetlink request and its acknowledgement. The message stays the
 * caller's. Returns 0 or the kernel's negative errno, not libnl's own numbering.
 */
int netlink_talk(struct nl_msg *msg);

/* What the last system call failed with: always negative, also where a library forgot errno. */
static inline int netlink_errno(void)
{
	return errno > 0 ? -errno : -EIO;
}

/* Fills the caller's buffer with words; err may be NULL. Returns `code`, to be returned in turn. */
int netlink_error(char *err, size_t errlen, int code, const char *format, ...)
        __attribute__((format(printf, 4, 5)));

#endif
