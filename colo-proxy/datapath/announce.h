/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_DATAPATH_ANNOUNCE_H
#define COLO_DATAPATH_ANNOUNCE_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>

#include "colo-proxy/core/frame.h"

/*
 * Frames that tell the network where the VM is now, to be released through the hold on the new
 * host. Pure: no I/O.
 *
 * In this order: one RARP request for the address itself (RFC 903; what QEMU sends after a
 * migration: it moves the entry in every switch), without a tag and in each VLAN; for each IPv4
 * address, in its VLAN, an ARP announcement (RFC 5227 section 3: a request whose sender and target
 * are the address); for each IPv6 address an unsolicited neighbour advertisement to all nodes with
 * the override flag (RFC 4861 section 7.2.6). Router flag not set: a VM that is a router says so
 * itself.
 */
#define ANNOUNCE_MAX 24u /* of each kind */

/* Tags as in struct packet (core/packet.h): the outer one first, 0 for none. */
struct announce {
	uint8_t mac[6];
	uint32_t vlan_count, ipv4_count, ipv6_count;
	uint16_t vlan[ANNOUNCE_MAX][2];
	struct announce_ipv4 {
		uint16_t tag[2];
		struct in_addr address;
	} ipv4[ANNOUNCE_MAX];
	struct announce_ipv6 {
		uint16_t tag[2];
		struct in6_addr address;
	} ipv6[ANNOUNCE_MAX];
};

/* *ret_list is the caller's. Returns the number of frames or -ENOMEM. */
int announce_build(const struct announce *what, struct frame **ret_list);

/*
 * How long after the `sent`-th announcement (1: the first) the next one is due, in ns; 0: that was
 * the last. The first ANNOUNCE_FAST come within a second, for the clients; then the time between
 * two doubles, for a network that is cut off, or whose ports do not forward yet (a spanning tree
 * takes 30 s, IEEE 802.1D), until a switch has forgotten by itself where the VM was (300 s, the
 * same standard). Those later ones should name no IP address: switches go by the frame's, and the
 * VM may have given an address away since it was heard to have it (VRRP, RFC 9568).
 */
#define ANNOUNCE_FAST 5u
uint64_t announce_wait_ns(uint32_t sent);

#endif
