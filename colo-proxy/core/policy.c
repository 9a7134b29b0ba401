/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Policy by flow: theory of operation
 *
 * Goal: never to be more daring than the rules say. A rule fits a packet, does not fit it, or it
 * cannot be told: a fragment has no ports, a damaged header no addresses. The first rule that fits
 * for certain decides, but a rule in front of it that may fit, and is less daring, wins over it. So
 * a fragment of a datagram that a rule holds does not slip through a wider rule that bypasses.
 *
 * A flow is judged once, when it is first seen (gate_flow.c), so the number of rules is no cost
 * for each packet. Packets without a flow are judged one by one; they are few.
 *
 * Only the primary asks. The secondary tells of every flow; what it tells of one that is not
 * compared is ignored, so that rules which differ between the hosts can release nothing by mistake.
 *
 * Limits: rules know addresses, protocols and ports, behind VLAN tags, too; not the tags, nor who
 * opened a connection. A fragment to which a rule with ports may apply is held for commit when that
 * rule bypasses.
 */
#include "colo-proxy/core/policy.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define ETHERTYPE_IPV4 0x0800u
#define ETHERTYPE_ARP  0x0806u
#define ETHERTYPE_IPV6 0x86ddu
#define ETHERTYPE_LLDP 0x88ccu
#define PROTO_ICMP     1u
#define PROTO_TCP      6u
#define PROTO_UDP      17u
#define PROTO_ICMPV6   58u

/* In the order of certainty: the least certain of a rule's conditions is the rule's. */
enum fit {
	FIT_NO,
	FIT_MAYBE,
	FIT_YES,
};

static const char *const action_names[] = {"bypass", "compare", "commit"};
static_assert(sizeof(action_names) / sizeof(action_names[0]) == POLICY_ACTION_COUNT,
              "one name for each action");

const char *policy_action_name(enum policy_action action)
{
	return (unsigned)action < POLICY_ACTION_COUNT ? action_names[action] : "unknown";
}

/* ---- subjects ---- */

static void put_ipv4(uint8_t *out, uint32_t address)
{
	out[0] = (uint8_t)(address >> 24);
	out[1] = (uint8_t)(address >> 16);
	out[2] = (uint8_t)(address >> 8);
	out[3] = (uint8_t)address;
}

static void put_ipv6(uint8_t out[16], const uint32_t net[3], uint32_t last)
{
	for (int i = 0; i < 3; i++)
		put_ipv4(out + 4 * i, net[i]);
	put_ipv4(out + 12, last);
}

static uint16_t ethertype_of(const struct flow_key *key)
{
	switch (key->kind) {
	case FLOW_ARP:
		return ETHERTYPE_ARP;
	case FLOW_FRAME: /* LLDP, or a frame that has no EtherType */
		return key->peer_port == ETHERTYPE_LLDP ? ETHERTYPE_LLDP : 0;
	default:
		return key->flags & FLOW_IPV6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4;
	}
}

void policy_subject_of_flow(struct policy_subject *ret_subject, const struct flow_key *key)
{
	struct policy_subject subject = {
	        .ethertype = ethertype_of(key),
	        .ip_known = true,
	        .addresses_known = true,
	        .ports_known = true,
	        .protocol = key->proto,
	        .family = key->kind == FLOW_FRAME  ? 0
	                  : key->flags & FLOW_IPV6 ? 6
	                                           : 4,
	};

	if (subject.family == 6) {
		put_ipv6(subject.vm, key->vm_net, key->vm_ip);
		put_ipv6(subject.peer, key->peer_net, key->peer_ip);
	} else {
		put_ipv4(subject.vm, key->vm_ip);
		put_ipv4(subject.peer, key->peer_ip);
	}
	if (key->kind == FLOW_TCP || key->kind == FLOW_UDP) {
		subject.vm_port = key->vm_port;
		subject.peer_port = key->peer_port;
	}
	*ret_subject = subject;
}

/* Whether the parser got as far as to the protocol that the packet carries. */
static bool protocol_known(const struct packet *packet)
{
	switch (packet->why) {
	case PACKET_WHY_VLAN:
	case PACKET_WHY_IP_HEADER:
	case PACKET_WHY_IP_OPTIONS:
	case PACKET_WHY_BIG_TCP:
		return false;
	case PACKET_WHY_FRAGMENT: /* of IPv6: an extension header may come first */
		return packet->version == 4 || packet->proto == PROTO_UDP ||
		       packet->proto == PROTO_TCP || packet->proto == PROTO_ICMPV6;
	default:
		return true;
	}
}

void policy_subject_of_packet(struct policy_subject *ret_subject, const struct packet *packet)
{
	bool header = packet->version && packet->ip_len;
	bool none = !packet->version && packet->ethertype != ETHERTYPE_ARP &&
	            packet->why != PACKET_WHY_VLAN && packet->why != PACKET_WHY_IP_HEADER;
	struct policy_subject subject = {
	        .ethertype = packet->ethertype,
	        .ip_known = protocol_known(packet),
	        .addresses_known = header || none,
	        .protocol = packet->proto,
	        .family = header ? packet->version : 0,
	};

	if (header && packet->version == 6) {
		memcpy(subject.vm, packet_ipv6_src(packet), 16);
		memcpy(subject.peer, packet_ipv6_dst(packet), 16);
	} else {
		put_ipv4(subject.vm, packet->src);
		put_ipv4(subject.peer, packet->dst);
	}
	*ret_subject = subject;
}

/* ---- does a rule fit? ---- */

static enum fit certain(bool fits)
{
	return fits ? FIT_YES : FIT_NO;
}

static bool is_ip(uint16_t ethertype)
{
	return ethertype == ETHERTYPE_IPV4 || ethertype == ETHERTYPE_IPV6;
}

static enum fit fit_match(const struct policy_rule *rule, const struct policy_subject *subject)
{
	switch (rule->match) {
	case POLICY_ANY:
		return FIT_YES;
	case POLICY_ETHERTYPE:
		return certain(rule->value == subject->ethertype);
	default:
		break;
	}
	if (!subject->ip_known)
		return FIT_MAYBE;
	if (!is_ip(subject->ethertype))
		return FIT_NO;
	if (rule->match == POLICY_ICMP)
		return certain(subject->protocol == PROTO_ICMP ||
		               subject->protocol == PROTO_ICMPV6);
	return certain(rule->value == subject->protocol);
}

static bool same_bits(const uint8_t *a, const uint8_t *b, uint8_t bits)
{
	uint8_t bytes = bits / 8, rest = bits % 8;

	return memcmp(a, b, bytes) == 0 && (!rest || (a[bytes] ^ b[bytes]) >> (8 - rest) == 0);
}

static enum fit fit_prefix(const struct policy_prefix *prefix, const struct policy_subject *subject,
                           const uint8_t address[16])
{
	if (!prefix->family)
		return FIT_YES;
	if (!subject->addresses_known)
		return FIT_MAYBE;
	return certain(prefix->family == subject->family &&
	               same_bits(prefix->address, address, prefix->bits));
}

static enum fit fit_ports(const struct policy_ports *ports, const struct policy_subject *subject,
                          uint16_t port)
{
	if (!ports->last)
		return FIT_YES;
	if (!subject->ports_known)
		return FIT_MAYBE;
	return certain(ports->first <= port && port <= ports->last);
}

static enum fit fit_rule(const struct policy_rule *rule, const struct policy_subject *subject)
{
	const enum fit fits[] = {
	        fit_match(rule, subject),
	        fit_prefix(&rule->vm, subject, subject->vm),
	        fit_prefix(&rule->peer, subject, subject->peer),
	        fit_ports(&rule->vm_port, subject, subject->vm_port),
	        fit_ports(&rule->peer_port, subject, subject->peer_port),
	};
	enum fit worst = FIT_YES;

	for (unsigned i = 0; i < sizeof(fits) / sizeof(fits[0]); i++)
		if (fits[i] < worst)
			worst = fits[i];
	return worst;
}

enum policy_action policy_decide(const struct policy *policy, const struct policy_subject *subject)
{
	uint8_t least = POLICY_BYPASS, action = POLICY_COMPARE;

	for (uint32_t i = 0; policy && i < policy->count; i++) {
		const struct policy_rule *rule = &policy->rule[i];
		enum fit fit = fit_rule(rule, subject);

		if (fit == FIT_YES) {
			action = rule->action;
			break;
		}
		if (fit == FIT_MAYBE && rule->action > least)
			least = rule->action;
	}
	return action > least ? action : least;
}

/* ---- lists of rules ---- */

int policy_add(struct policy *policy, const struct policy_rule *rule)
{
	uint32_t at = policy->count;

	while (at > 0 && policy->rule[at - 1].number > rule->number)
		at--;
	if (at > 0 && policy->rule[at - 1].number == rule->number)
		return -EEXIST;
	if (policy->count >= POLICY_MAX_RULES)
		return -ENOSPC;
	memmove(&policy->rule[at + 1], &policy->rule[at],
	        (policy->count - at) * sizeof(policy->rule[0]));
	policy->rule[at] = *rule;
	policy->count++;
	return 0;
}

static bool prefix_covers(const struct policy_prefix *wide, const struct policy_prefix *narrow)
{
	return !wide->family || (wide->family == narrow->family && wide->bits <= narrow->bits &&
	                         same_bits(wide->address, narrow->address, wide->bits));
}

static bool ports_cover(const struct policy_ports *wide, const struct policy_ports *narrow)
{
	return !wide->last ||
	       (narrow->last && wide->first <= narrow->first && narrow->last <= wide->last);
}

static bool match_covers(const struct policy_rule *wide, const struct policy_rule *narrow)
{
	if (wide->match == POLICY_ANY)
		return true;
	if (wide->match == POLICY_ICMP && narrow->match == POLICY_IP)
		return narrow->value == PROTO_ICMP || narrow->value == PROTO_ICMPV6;
	return wide->match == narrow->match && wide->value == narrow->value;
}

static bool covers(const struct policy_rule *wide, const struct policy_rule *narrow)
{
	return match_covers(wide, narrow) && prefix_covers(&wide->vm, &narrow->vm) &&
	       prefix_covers(&wide->peer, &narrow->peer) &&
	       ports_cover(&wide->vm_port, &narrow->vm_port) &&
	       ports_cover(&wide->peer_port, &narrow->peer_port);
}

const struct policy_rule *policy_shadowed_by(const struct policy *policy, uint32_t i)
{
	for (uint32_t before = 0; before < i; before++)
		if (covers(&policy->rule[before], &policy->rule[i]))
			return &policy->rule[before];
	return NULL;
}

uint32_t policy_count(const struct policy *policy, enum policy_action action)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < policy->count; i++)
		n += policy->rule[i].action == action;
	return n;
}
