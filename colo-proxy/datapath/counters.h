/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_DATAPATH_COUNTERS_H
#define COLO_DATAPATH_COUNTERS_H

#include <stdint.h>

/*
 * An interface's counters, cheap enough for every turn of the data thread: the sysfs files stay
 * open and a read takes no lock of the network stack (0.3 us each). Rtnetlink would wait for RTNL.
 *
 * For a tap the kernel's words mean: tx_packets, frames that the reader (QEMU) has taken, counted
 * when it takes them; tx_dropped, frames that found the tap's ring full and are lost.
 */

enum tap_counter { TAP_TX_PACKETS, TAP_TX_DROPPED, TAP_RX_DROPPED, TAP_COUNTERS };

struct tap_counters {
	int fd[TAP_COUNTERS];
};

/*
 * Opens the counters of an interface of the calling thread's network namespace, also when /sys
 * shows another one. 0 or a negative errno; on failure the struct can be closed all the same.
 */
int tap_counters_open(struct tap_counters *c, const char *ifname);

/* Reads one counter. 0 or a negative errno; -ENODEV when the interface is gone. */
int tap_counter_read(const struct tap_counters *c, enum tap_counter which, uint64_t *ret_value);

void tap_counters_close(struct tap_counters *c);

#endif
