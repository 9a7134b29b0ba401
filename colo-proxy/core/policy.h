/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_POLICY_H
#define COLO_CORE_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "colo-proxy/core/packet.h"

/*
 * What an operator wants done with the output of a flow: an ordered list of rules, of which the
 * first that fits decides. What no rule fits is compared. See policy.c for how.
 */

/* From the most to the least daring: where it cannot be told whether a rule fits, the later wins.
 */
enum policy_action {
	POLICY_BYPASS,  /* leaves at once, whatever the secondary says: outside of R1 */
	POLICY_COMPARE, /* R1: by match or by commit; the default */
	POLICY_COMMIT,  /* R1 (b) only */
	POLICY_ACTION_COUNT,
};

enum policy_match {
	POLICY_ANY,       /* every frame */
	POLICY_IP,        /* this IP protocol, over IPv4 or IPv6 */
	POLICY_ICMP,      /* ICMP or ICMPv6 */
	POLICY_ETHERTYPE, /* this EtherType */
};

struct policy_prefix {
	uint8_t family; /* 4, 6; 0: every address, and what has none */
	uint8_t bits;
	uint8_t address[16]; /* network order; IPv4 in the first four */
};

struct policy_ports {
	uint16_t first, last; /* both included; last 0: every port */
};

struct policy_rule {
	uint32_t number; /* the operator's */
	uint8_t action;  /* enum policy_action */
	uint8_t match;   /* enum policy_match */
	uint16_t value;  /* of POLICY_IP and POLICY_ETHERTYPE */
	struct policy_prefix vm, peer;
	struct policy_ports vm_port, peer_port;
};

#define POLICY_MAX_RULES 64u

/* Zero: no rules. Rules are in the order of their numbers. */
struct policy {
	struct policy_rule rule[POLICY_MAX_RULES];
	uint32_t count;
};

/* What is known of a packet or a flow, seen from the VM. */
struct policy_subject {
	uint16_t ethertype;
	bool ip_known;        /* protocol */
	bool addresses_known; /* family, vm, peer; family 0: it has none */
	bool ports_known;     /* vm_port, peer_port; of TCP and UDP */
	uint8_t protocol;     /* IP protocol */
	uint8_t family;
	uint8_t vm[16], peer[16];
	uint16_t vm_port, peer_port;
};

void policy_subject_of_flow(struct policy_subject *ret_subject, const struct flow_key *key);

/* Of a packet that the VM says and that has no flow. */
void policy_subject_of_packet(struct policy_subject *ret_subject, const struct packet *packet);

/* What is to be done. policy NULL: compare. */
enum policy_action policy_decide(const struct policy *policy, const struct policy_subject *subject);

/* Adds a rule in the order of the numbers. 0; -EEXIST: the number is taken; -ENOSPC: full. */
int policy_add(struct policy *policy, const struct policy_rule *rule);

/* The rule before rule[i] that fits whatever rule[i] fits, so that it never decides; or NULL. */
const struct policy_rule *policy_shadowed_by(const struct policy *policy, uint32_t i);

/* How many rules have this action. */
uint32_t policy_count(const struct policy *policy, enum policy_action action);

/* "bypass", "compare", "commit" */
const char *policy_action_name(enum policy_action action);

#endif
