/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CONTROL_PCAPNG_H
#define COLO_CONTROL_PCAPNG_H

#include <stdint.h>

/*
 * A pcapng file (draft-ietf-opsawg-pcapng) of Ethernet packets with comments, which libpcap cannot
 * write: a section header, one interface description for each interface, enhanced packet blocks.
 * In this host's byte order, as the format allows; times in nanoseconds.
 */

struct pcapng;

/* Creates or empties the file, readable by its owner only; "-" is standard output. 0 or -errno. */
int pcapng_open(const char *path, struct pcapng **ret_file);

/* The next interface: 0, 1, ... 0 or -EIO. */
int pcapng_interface(struct pcapng *file, const char *name, const char *description);

/* A packet of `original` bytes, of which `len` are given; at_ns is CLOCK_REALTIME. 0 or -EIO. */
int pcapng_packet(struct pcapng *file, uint32_t interface, uint64_t at_ns, const void *bytes,
                  uint32_t len, uint32_t original, const char *comment);

/* Writes out and closes: 0, or a negative errno: the file is not complete. NULL is allowed. */
int pcapng_close(struct pcapng *file);

#endif
