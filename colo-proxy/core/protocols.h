/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_PROTOCOLS_H
#define COLO_CORE_PROTOCOLS_H

#include <stdbool.h>
#include <stdint.h>

/*
 * The treatment of everything that a VM may say: the table that the parser (packet.c) dispatches
 * by, and that `colo-proxy check --protocols` prints. What is in no row is unknown, and unknown is
 * held for the next commit.
 *
 * There is no treatment "let through": R1 knows no packet that is harmless by its kind. Even an ARP
 * request tells the network where the VM is, and a VM that was never committed to exist must not.
 */

enum treatment {
	TREAT_INSIDE,   /* by what it carries */
	TREAT_STREAM,   /* compared as a stream: TCP */
	TREAT_DATAGRAM, /* compared one by one, in the order of the flow */
	TREAT_GROUPS,   /* compared by the newest word on each group: gate_membership.c */
	TREAT_COMMIT,   /* not compared: held for the next commit */
	TREAT_COUNT,
};

/* Where a protocol's number stands. */
enum protocol_layer {
	LAYER_LINK,  /* EtherType */
	LAYER_LLC,   /* DSAP and SSAP of an 802.3 frame */
	LAYER_IP,    /* IPv4 protocol, IPv6 next header */
	LAYER_UDP,   /* either port */
	LAYER_ICMP6, /* type */
	LAYER_IGMP,  /* type */
	LAYER_COUNT,
};

/* The rows, in the order of the table. */
enum protocol_id {
	PROTOCOL_IPV4,
	PROTOCOL_IPV6,
	PROTOCOL_VLAN,
	PROTOCOL_PROVIDER_VLAN,
	PROTOCOL_STACKED_VLAN,
	PROTOCOL_ARP,
	PROTOCOL_LLDP,
	PROTOCOL_STP,
	PROTOCOL_LLC,
	PROTOCOL_ETHERTYPE,
	PROTOCOL_TCP,
	PROTOCOL_UDP,
	PROTOCOL_ICMP,
	PROTOCOL_ICMP6,
	PROTOCOL_IGMP,
	PROTOCOL_SCTP,
	PROTOCOL_IPSEC,
	PROTOCOL_IP,
	PROTOCOL_DHCP,
	PROTOCOL_DHCP6,
	PROTOCOL_NDP,
	PROTOCOL_MLD_REPORT,
	PROTOCOL_MLD_QUERY,
	PROTOCOL_IGMP_REPORT,
	PROTOCOL_COUNT,
};

#define PROTOCOL_RANGES 3u

/* NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding): in the order of reading */
struct protocol {
	const char *name;
	enum protocol_layer layer;
	enum treatment treatment;
	/* The numbers that the row stands for, ranges with both ends; all zero: every other one. */
	struct {
		uint16_t from, to;
	} number[PROTOCOL_RANGES];
	const char *rule; /* what must be equal, or why it is not compared */
};

extern const struct protocol protocols[PROTOCOL_COUNT];

/* The row of an EtherType, or of what has none (below 0x0600: a length, RFC 894 and IEEE 802.3);
 * saps: DSAP and SSAP of the latter. */
enum protocol_id protocol_of_link(uint16_t ethertype, uint16_t saps);

/* The row of an IPv4 protocol number, or of the last next-header value of an IPv6 packet. */
enum protocol_id protocol_of_ip(uint8_t number);

/* The row that says more about a packet of PROTOCOL_UDP, PROTOCOL_ICMP6 or PROTOCOL_IGMP, or that
 * row itself. */
enum protocol_id protocol_of_udp(uint16_t sport, uint16_t dport);
enum protocol_id protocol_of_icmp6(uint8_t type);
enum protocol_id protocol_of_igmp(uint8_t type);

/* "stream", ...; "ethertype", ...; never NULL. */
const char *treatment_name(enum treatment treatment);
const char *protocol_layer_name(enum protocol_layer layer);

#endif
