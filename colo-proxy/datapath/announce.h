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
 * migration: it moves the entry in every switch), for each IPv4 address an ARP announcement
 * (RFC 5227 section 3: a request whose sender and target are the address), for each IPv6 address an
 * unsolicited neighbour advertisement to all nodes with the override flag (RFC 4861 section 7.2.6).
 * Router flag not set: a VM that is a router says so itself.
 *
 * *ret_list is the caller's. Returns the number of frames or -ENOMEM.
 */
int announce_build(const uint8_t mac[6], const struct in_addr *ipv4, size_t ipv4_count,
                   const struct in6_addr *ipv6, size_t ipv6_count, struct frame **ret_list);

#endif
