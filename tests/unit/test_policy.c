/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Rules by flow: what fits, what may fit, in which order, and what covers what. */
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "colo-proxy/config/table.h"
#include "colo-proxy/core/policy.h"
#include "tests/unit/tcp_builder.h"

/* Rules as an operator writes them, one a line, numbered from 1. */
static struct policy rules(const char *text)
{
	struct policy policy = {0};
	char **lines = g_strsplit(text, "\n", -1);

	for (char **line = lines; *line; line++) {
		struct policy_rule rule;
		const char *why = config_rule_parse(&rule, policy.count + 1, *line);

		if (why)
			g_error("%s: %s", *line, why);
		g_assert_cmpint(policy_add(&policy, &rule), ==, 0);
	}
	g_strfreev(lines);
	return policy;
}

static enum policy_action judge(const struct policy *policy, struct frame *frame)
{
	struct policy_subject subject;
	struct flow_key key;
	struct packet packet;

	g_assert_cmpint(packet_parse(&packet, frame), ==, 0);
	if (packet_flow_key(&packet, PACKET_FROM_VM, &key) == 0)
		policy_subject_of_flow(&subject, &key);
	else
		policy_subject_of_packet(&subject, &packet);
	frame_free(frame);
	return policy_decide(policy, &subject);
}

static struct frame *tcp(uint16_t vm_port, uint16_t peer_port)
{
	struct build_tcp t = {.vm_port = vm_port, .peer_port = peer_port, .flags = PACKET_ACK};

	return build_tcp(&t);
}

static struct frame *udp(uint16_t vm_port, uint16_t peer_port)
{
	return build_udp(false, vm_port, peer_port, "x", 1);
}

/* Not the first fragment of a UDP datagram: addresses and protocol, no ports. */
static struct frame *fragment(bool six)
{
	static const uint8_t bytes[64];
	struct frame *whole = six ? build_udp6(false, 53, 1000, bytes, sizeof(bytes))
	                          : build_udp(false, 53, 1000, bytes, sizeof(bytes));
	struct frame *frame = build_fragment(whole, 7, 16, 16, true);

	frame_free(whole);
	return frame;
}

static struct frame *tagged_tcp(int tags)
{
	struct frame *frame = tcp(80, 1000);

	while (tags--)
		frame = build_tagged(frame, 0x8100, (uint16_t)(5 + tags));
	return frame;
}

static void test_default(void)
{
	struct policy none = {0};

	g_assert_cmpint(judge(NULL, tcp(80, 1000)), ==, POLICY_COMPARE);
	g_assert_cmpint(judge(&none, tcp(80, 1000)), ==, POLICY_COMPARE);
	g_assert_cmpint(judge(&none, build_other(0x88cc)), ==, POLICY_COMPARE);
}

static void test_first_that_fits(void)
{
	struct policy p = rules("commit tcp vm-port 80-90 peer 10.0.0.0/30\n"
	                        "compare tcp vm-port 22\n"
	                        "bypass tcp\n"
	                        "commit udp peer-port 53");

	g_assert_cmpint(judge(&p, tcp(80, 1000)), ==, POLICY_COMMIT);
	g_assert_cmpint(judge(&p, tcp(90, 1000)), ==, POLICY_COMMIT);
	g_assert_cmpint(judge(&p, tcp(79, 1000)), ==, POLICY_BYPASS);
	g_assert_cmpint(judge(&p, tcp(91, 1000)), ==, POLICY_BYPASS);
	g_assert_cmpint(judge(&p, tcp(22, 80)), ==, POLICY_COMPARE);
	g_assert_cmpint(judge(&p, udp(1000, 53)), ==, POLICY_COMMIT);
	g_assert_cmpint(judge(&p, udp(53, 1000)), ==, POLICY_COMPARE);
	g_assert_cmpint(judge(&p, build_arp(1, BUILD_PEER_IP)), ==, POLICY_COMPARE);
}

static void test_protocols(void)
{
	struct policy p = rules("bypass icmp\n"
	                        "commit arp\n"
	                        "bypass ether:0x88cc\n"
	                        "commit ip:17");

	g_assert_cmpint(judge(&p, build_echo(false, true, 7, 1)), ==, POLICY_BYPASS);
	g_assert_cmpint(judge(&p, build_arp(1, BUILD_PEER_IP)), ==, POLICY_COMMIT);
	g_assert_cmpint(judge(&p, build_other(0x88cc)), ==, POLICY_BYPASS);
	g_assert_cmpint(judge(&p, build_other(0x88cd)), ==, POLICY_COMPARE);
	g_assert_cmpint(judge(&p, udp(1, 2)), ==, POLICY_COMMIT);
	g_assert_cmpint(judge(&p, build_ipv4(false, 47, 8)), ==, POLICY_COMPARE);
}

static void test_prefixes(void)
{
	static const struct {
		const char *peer;
		bool fits; /* 10.0.0.2 */
	} cases[] = {
	        {"10.0.0.2", true},       {"10.0.0.3", false},      {"10.0.0.2/31", true},
	        {"10.0.0.0/31", false},   {"10.0.0.0/30", true},    {"0.0.0.0/0", true},
	        {"128.0.0.0/1", false},   {"0.0.0.0/1", true},      {"::/0", false},
	        {"2001:db8::/32", false}, {"::ffff:0:0/96", false},
	};

	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		char *text = g_strdup_printf("bypass any peer %s", cases[i].peer);
		struct policy p = rules(text);

		g_test_message("%s", text);
		g_assert_cmpint(judge(&p, tcp(80, 1000)), ==,
		                cases[i].fits ? POLICY_BYPASS : POLICY_COMPARE);
		g_free(text);
	}
}

/* fd00:cafe::a00:1 to fd00:cafe::a00:2, with extension headers and without. */
static void test_ipv6(void)
{
	struct policy p = rules("bypass tcp vm fd00::/8 peer fd00:cafe::a00:2/127 vm-port 443\n"
	                        "commit tcp peer fd00:cafe::a00:2\n"
	                        "bypass tcp vm 0.0.0.0/0\n"
	                        "commit icmp vm fd00:cafe::a00:1");

	for (int extended = 0; extended < 2; extended++) {
		struct build_tcp t = {
		        .ipv6 = true, .extended = extended, .vm_port = 443, .flags = PACKET_ACK};

		g_assert_cmpint(judge(&p, build_tcp(&t)), ==, POLICY_BYPASS);
		t.vm_port = 80;
		g_assert_cmpint(judge(&p, build_tcp(&t)), ==, POLICY_COMMIT);
		t.ipv6 = t.extended = false;
		g_assert_cmpint(judge(&p, build_tcp(&t)), ==, POLICY_BYPASS);
	}
	g_assert_cmpint(judge(&p, build_ipv6(false, false, 58, 16)), ==, POLICY_COMMIT);
	g_assert_cmpint(judge(&p, build_udp6(false, 1, 2, "x", 1)), ==, POLICY_COMPARE);
}

/* Where it cannot be told, the less daring wins: in front of the rule that fits for certain. */
static void test_uncertain(void)
{
	struct policy held = rules("commit udp vm-port 53\n"
	                           "bypass udp");
	struct policy compared = rules("compare udp vm-port 53\n"
	                               "bypass udp");
	struct policy bypassed = rules("bypass udp vm-port 53");
	struct policy behind = rules("bypass udp\n"
	                             "commit udp vm-port 53");
	struct policy tagged = rules("commit any peer 10.0.0.0/8\n"
	                             "bypass any");
	struct policy elsewhere = rules("commit any peer 10.1.0.0/16\n"
	                                "bypass any");

	for (int six = 0; six < 2; six++) {
		g_assert_cmpint(judge(&held, fragment(six)), ==, POLICY_COMMIT);
		g_assert_cmpint(judge(&compared, fragment(six)), ==, POLICY_COMPARE);
		g_assert_cmpint(judge(&bypassed, fragment(six)), ==, POLICY_COMPARE);
		g_assert_cmpint(judge(&behind, fragment(six)), ==, POLICY_BYPASS);
	}
	/* Behind two tags the addresses are seen, behind three they are not. */
	g_assert_cmpint(judge(&tagged, tagged_tcp(2)), ==, POLICY_COMMIT);
	g_assert_cmpint(judge(&tagged, tagged_tcp(3)), ==, POLICY_COMMIT);
	g_assert_cmpint(judge(&elsewhere, tagged_tcp(2)), ==, POLICY_BYPASS);
	g_assert_cmpint(judge(&elsewhere, tagged_tcp(3)), ==, POLICY_COMMIT);
	g_assert_cmpint(judge(&tagged, build_other(0x88cc)), ==, POLICY_BYPASS);
}

static void test_order_and_limit(void)
{
	struct policy policy = {0};
	struct policy_rule rule = {.action = POLICY_COMMIT};

	for (uint32_t i = 0; i < POLICY_MAX_RULES; i++) {
		rule.number =
		        1 + (i * 37) % POLICY_MAX_RULES; /* 37 and 64 have no common divisor */
		g_assert_cmpint(policy_add(&policy, &rule), ==, 0);
	}
	for (uint32_t i = 0; i < POLICY_MAX_RULES; i++)
		g_assert_cmpuint(policy.rule[i].number, ==, i + 1);
	g_assert_cmpint(policy_add(&policy, &rule), ==, -EEXIST);
	rule.number = 1000;
	g_assert_cmpint(policy_add(&policy, &rule), ==, -ENOSPC);
	g_assert_cmpuint(policy_count(&policy, POLICY_COMMIT), ==, POLICY_MAX_RULES);
	g_assert_cmpuint(policy_count(&policy, POLICY_BYPASS), ==, 0);
}

static void test_shadowed(void)
{
	struct policy p = rules("commit tcp vm-port 80-90 peer 10.0.0.0/8\n"
	                        "bypass tcp vm-port 85 peer 10.1.2.3\n"
	                        "bypass tcp vm-port 85-91 peer 10.1.2.3\n"
	                        "compare icmp\n"
	                        "bypass ip:58\n"
	                        "commit any\n"
	                        "bypass ether:0x88cc");
	const uint32_t by[] = {0, 1, 0, 0, 4, 0, 6};

	for (uint32_t i = 0; i < p.count; i++) {
		const struct policy_rule *shadow = policy_shadowed_by(&p, i);

		g_test_message("rule %u", i + 1);
		g_assert_cmpuint(shadow ? shadow->number : 0, ==, by[i]);
	}
}

static void test_text(void)
{
	static const struct {
		const char *in, *out;
	} cases[] = {
	        {"bypass any", NULL},
	        {"commit tcp vm 10.0.0.1 vm-port 80 peer 10.0.0.0/8 peer-port 1024-65535", NULL},
	        {" compare\tudp  peer-port 123 peer 2001:DB8::/32 ",
	         "compare udp peer 2001:db8::/32 peer-port 123"},
	        {"bypass ip:6", "bypass tcp"},
	        {"bypass ether:0x806", "bypass arp"},
	        {"bypass ether:35020", "bypass ether:0x88cc"},
	        {"commit ip:0x2f", "commit ip:47"},
	        {"commit any vm ::/0", NULL},
	        {"commit any vm 10.0.0.1/32", "commit any vm 10.0.0.1"},
	};

	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		struct policy p = rules(cases[i].in);
		char *text = config_rule_text(&p.rule[0]);

		g_assert_cmpstr(text, ==, cases[i].out ? cases[i].out : cases[i].in);
		g_free(text);
	}
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/policy/default", test_default);
	g_test_add_func("/policy/first-that-fits", test_first_that_fits);
	g_test_add_func("/policy/protocols", test_protocols);
	g_test_add_func("/policy/prefixes", test_prefixes);
	g_test_add_func("/policy/ipv6", test_ipv6);
	g_test_add_func("/policy/uncertain", test_uncertain);
	g_test_add_func("/policy/order-and-limit", test_order_and_limit);
	g_test_add_func("/policy/shadowed", test_shadowed);
	g_test_add_func("/policy/text", test_text);
	return g_test_run();
}
