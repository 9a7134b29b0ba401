/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A rule of [flows]: from text, to text. */
#include "colo-proxy/config/table.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define NUMBER_MAX    9999u
#define ETHERTYPE_MIN 0x0600u /* below: an 802.3 length */
#define ETHERTYPE_ARP 0x0806u
#define PROTO_TCP     6u
#define PROTO_UDP     17u

static const struct {
	const char *word;
	uint8_t match;
	uint16_t value;
} known[] = {
        {"any", POLICY_ANY, 0},
        {"tcp", POLICY_IP, PROTO_TCP},
        {"udp", POLICY_IP, PROTO_UDP},
        {"icmp", POLICY_ICMP, 0},
        {"arp", POLICY_ETHERTYPE, ETHERTYPE_ARP},
};

uint32_t config_rule_number(const char *key)
{
	uint64_t number;

	/* One way to write each number, so that the same key is the same rule. */
	if (!g_str_has_prefix(key, CONFIG_RULE_PREFIX))
		return 0;
	key += strlen(CONFIG_RULE_PREFIX);
	if (*key == '0' || !g_ascii_string_to_unsigned(key, 10, 1, NUMBER_MAX, &number, NULL))
		return 0;
	return (uint32_t)number;
}

/* "N" within the bounds, decimal or with 0x. */
static bool parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret_number)
{
	bool hex = text[0] == '0' && text[1] == 'x';

	return g_ascii_string_to_unsigned(hex ? text + 2 : text, hex ? 16 : 10, min, max,
	                                  ret_number, NULL);
}

static const char *parse_action(struct policy_rule *rule, const char *word)
{
	for (unsigned i = 0; i < POLICY_ACTION_COUNT; i++) {
		if (strcmp(word, policy_action_name(i)) != 0)
			continue;
		rule->action = (uint8_t)i;
		return NULL;
	}
	return "no such action";
}

static const char *parse_protocol(struct policy_rule *rule, const char *word)
{
	uint64_t number;

	for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
		if (strcmp(word, known[i].word) != 0)
			continue;
		rule->match = known[i].match;
		rule->value = known[i].value;
		return NULL;
	}
	if (g_str_has_prefix(word, "ip:")) {
		if (!parse_number(word + 3, 0, 255, &number))
			return "not an IP protocol number";
		rule->match = POLICY_IP;
	} else if (g_str_has_prefix(word, "ether:")) {
		if (!parse_number(word + 6, ETHERTYPE_MIN, 0xffff, &number))
			return "not an EtherType";
		rule->match = POLICY_ETHERTYPE;
	} else {
		return "no such protocol";
	}
	rule->value = (uint16_t)number;
	return NULL;
}

/* The bits behind the prefix have to be zero: a typing error in either half is not guessed at. */
static bool is_network(const struct policy_prefix *prefix)
{
	for (unsigned bit = prefix->bits; bit < 128; bit++)
		if (prefix->address[bit / 8] & (0x80u >> bit % 8))
			return false;
	return true;
}

static const char *parse_prefix(struct policy_prefix *prefix, const char *word)
{
	char **parts = g_strsplit(word, "/", 2);
	const char *why = NULL;
	uint64_t bits = 0;

	if (inet_pton(AF_INET, parts[0] ? parts[0] : "", prefix->address) == 1)
		prefix->family = 4;
	else if (inet_pton(AF_INET6, parts[0] ? parts[0] : "", prefix->address) == 1)
		prefix->family = 6;
	bits = prefix->family == 4 ? 32 : 128;
	if (!prefix->family)
		why = "not an address";
	else if (parts[1] && !parse_number(parts[1], 0, bits, &bits))
		why = "not a prefix length";
	prefix->bits = (uint8_t)bits;
	if (!why && !is_network(prefix))
		why = "address bits behind the prefix";
	g_strfreev(parts);
	return why;
}

static const char *parse_ports(struct policy_ports *ports, const char *word)
{
	char **parts = g_strsplit(word, "-", 2);
	const char *why = NULL;
	uint64_t first = 0, last;

	if (!parts[0] || !parse_number(parts[0], 1, 65535, &first))
		why = "not a port";
	last = first;
	if (!why && parts[1] && !parse_number(parts[1], first, 65535, &last))
		why = "not a range of ports";
	if (!why)
		*ports = (struct policy_ports){(uint16_t)first, (uint16_t)last};
	g_strfreev(parts);
	return why;
}

static const char *parse_condition(struct policy_rule *rule, const char *name, const char *value)
{
	bool vm = g_str_has_prefix(name, "vm");
	struct policy_prefix *prefix = vm ? &rule->vm : &rule->peer;
	struct policy_ports *ports = vm ? &rule->vm_port : &rule->peer_port;

	if (!strcmp(name, "vm") || !strcmp(name, "peer"))
		return prefix->family ? "an address twice" : parse_prefix(prefix, value);
	if (strcmp(name, "vm-port") != 0 && strcmp(name, "peer-port") != 0)
		return "no such condition";
	if (rule->match != POLICY_IP || (rule->value != PROTO_TCP && rule->value != PROTO_UDP))
		return "ports without tcp or udp";
	return ports->last ? "ports twice" : parse_ports(ports, value);
}

/* What could never fit anything. */
static const char *check_families(const struct policy_rule *rule)
{
	uint8_t vm = rule->vm.family, peer = rule->peer.family;

	if (vm && peer && vm != peer)
		return "IPv4 and IPv6 in one rule";
	if ((vm || peer) && rule->match == POLICY_ETHERTYPE &&
	    (rule->value != ETHERTYPE_ARP || vm == 6 || peer == 6))
		return "addresses that such frames do not have";
	return NULL;
}

static const char *parse_words(struct policy_rule *rule, char **words)
{
	const char *why;

	if (!words[0] || !words[1])
		return "an action and a protocol are needed";
	why = parse_action(rule, words[0]);
	if (!why)
		why = parse_protocol(rule, words[1]);
	for (char **word = words + 2; !why && *word; word += 2) {
		if (!word[1])
			return "the last condition has no value";
		why = parse_condition(rule, word[0], word[1]);
	}
	return why ? why : check_families(rule);
}

const char *config_rule_parse(struct policy_rule *ret_rule, uint32_t number, const char *text)
{
	struct policy_rule rule = {.number = number};
	char **all = g_strsplit_set(text, " \t", -1);
	GPtrArray *words = g_ptr_array_new();
	const char *why;

	for (char **word = all; *word; word++)
		if (**word)
			g_ptr_array_add(words, *word);
	g_ptr_array_add(words, NULL);
	why = parse_words(&rule, (char **)words->pdata);
	g_ptr_array_unref(words);
	g_strfreev(all);
	if (!why)
		*ret_rule = rule;
	return why;
}

/* ---- to text ---- */

static void append_prefix(GString *out, const char *name, const struct policy_prefix *prefix)
{
	char text[INET6_ADDRSTRLEN];
	unsigned all = prefix->family == 4 ? 32 : 128;

	if (!prefix->family)
		return;
	inet_ntop(prefix->family == 4 ? AF_INET : AF_INET6, prefix->address, text, sizeof(text));
	g_string_append_printf(out, " %s %s", name, text);
	if (prefix->bits != all)
		g_string_append_printf(out, "/%u", prefix->bits);
}

static void append_ports(GString *out, const char *name, const struct policy_ports *ports)
{
	if (!ports->last)
		return;
	g_string_append_printf(out, " %s %u", name, ports->first);
	if (ports->last != ports->first)
		g_string_append_printf(out, "-%u", ports->last);
}

static void append_protocol(GString *out, const struct policy_rule *rule)
{
	for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
		if (known[i].match != rule->match || known[i].value != rule->value)
			continue;
		g_string_append_printf(out, " %s", known[i].word);
		return;
	}
	if (rule->match == POLICY_ETHERTYPE)
		g_string_append_printf(out, " ether:0x%04x", rule->value);
	else
		g_string_append_printf(out, " ip:%u", rule->value);
}

char *config_rule_text(const struct policy_rule *rule)
{
	GString *out = g_string_new(policy_action_name(rule->action));

	append_protocol(out, rule);
	append_prefix(out, "vm", &rule->vm);
	append_ports(out, "vm-port", &rule->vm_port);
	append_prefix(out, "peer", &rule->peer);
	append_ports(out, "peer-port", &rule->peer_port);
	return g_string_free(out, FALSE);
}

char *config_rules_text(const struct policy *policy)
{
	GString *out = g_string_new(NULL);

	for (uint32_t i = 0; i < policy->count; i++) {
		char *rule = config_rule_text(&policy->rule[i]);

		g_string_append_printf(out, "%s" CONFIG_RULE_PREFIX "%u = %s", i ? "\n" : "",
		                       policy->rule[i].number, rule);
		g_free(rule);
	}
	return g_string_free(out, FALSE);
}
