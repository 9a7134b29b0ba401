/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_DATAPATH_NETIF_H
#define COLO_DATAPATH_NETIF_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Network interfaces of this network namespace, through rtnetlink. Each call opens its own socket
 * and takes the kernel's RTNL lock: setup work, not for the fast path. All return 0 or a negative
 * errno as the kernel gave it; -ENODEV when there is no such interface.
 */

/* The interface's index, positive. */
int netif_index(const char *name);

/* Sets the interface up or down. */
int netif_up(const char *name, bool up);

/* Makes `name` a port of the bridge; moves it when it is a port of another one. */
int netif_enslave(const char *name, const char *bridge);

/* Takes `name` out of its bridge; no error when it is in none. */
int netif_release(const char *name);

/* The index of the bridge (or other master) that `name` is a port of; 0 when of none. */
int netif_master(const char *name);

/* Bytes of payload, without the Ethernet header. The getter returns a positive number. */
int netif_mtu(const char *name);
int netif_set_mtu(const char *name, unsigned mtu);

/* Frames that a tap keeps for its reader. */
int netif_set_txqueuelen(const char *name, unsigned frames);

/* True when `name` is a bridge; false also when it does not exist. */
bool netif_is_bridge(const char *name);

/*
 * Keeps the host from speaking on the interface by itself: IPv6 off (no router or neighbour
 * solicitations, no MLD, no address), ARP off. The bridge that it is a port of is not affected.
 */
int netif_silence(const char *name);

/*
 * Takes the queueing discipline off, so that a frame is in the tap's ring or counted as dropped
 * and nowhere in between.
 */
int netif_no_queue(const char *name);

#endif
