/* SPDX-License-Identifier: GPL-2.0-or-later */
/* ICMP errors about a mapped connection (RFC 5927 section 4.1): a stack ignores an error that
 * quotes a number which it has not sent, and with it the path's MTU. */
#include <errno.h>
#include <glib.h>

#include "colo-proxy/core/shadow.h"
#include "tests/unit/tcp_builder.h"

#define PVM_ISS 0xfffffff0u
#define SVM_ISS 100u

/* "Too big" about what the VM has sent: a quotation of its headers and `tcp` bytes of TCP. */
static struct frame *too_big(bool ipv6, uint32_t seq, uint32_t tcp)
{
	struct build_tcp t = {.ipv6 = ipv6, .seq = seq, .flags = PACKET_ACK, .ack = 501};
	struct frame *quoted = build_tcp(&t);
	uint32_t header = ipv6 ? 40 : 20, l4 = 14 + header, len = 8 + header + tcp;
	struct frame *f = ipv6 ? build_ipv6(true, false, 58, len) : build_ipv4(true, 1, len);
	struct packet p;

	f->data[l4] = ipv6 ? 2 : 3;
	f->data[l4 + 1] = ipv6 ? 0 : 4;
	memcpy(f->data + l4 + 8, quoted->data + 14, header + tcp);
	frame_free(quoted);
	g_assert_cmpint(packet_parse(&p, f), ==, 0);
	build_put16(f->data + l4 + 2, packet_l4_checksum(&p));
	return f;
}

static uint32_t quoted_seq(const struct frame *f, bool ipv6)
{
	const uint8_t *at = f->data + (ipv6 ? 14 + 40 + 8 + 40 + 4 : 14 + 20 + 8 + 20 + 4);

	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void on_digest(void *ctx, uint32_t lineage, const struct digest *digest)
{
	(void)ctx;
	(void)lineage;
	(void)digest;
}

static void on_refeed(void *ctx, const struct flow_key *key, uint32_t seq)
{
	(void)ctx;
	(void)key;
	(void)seq;
}

/* A shadow that maps the connection between the two: PVM number = SVM number + PVM_ISS - SVM_ISS.
 */
static struct shadow *mapped(bool ipv6)
{
	static const struct shadow_ops ops = {.digest = on_digest, .refeed = on_refeed};
	static const struct packet_digest_key key = {{9}};
	struct build_tcp syn = {
	        .ipv6 = ipv6, .flags = PACKET_SYN | PACKET_ACK, .seq = SVM_ISS, .ack = 501};
	struct flow_open open = {
	        .key = build_key(ipv6, 6, FLOW_TCP, 80, 1000),
	        .iss = PVM_ISS,
	        .has_ack = true,
	        .ack = 501,
	};
	struct shadow *shadow;
	struct frame *f = build_tcp(&syn);

	g_assert_cmpint(shadow_new(&shadow, 16, &key, &ops, NULL), ==, 0);
	shadow_lineage(shadow, 1);
	shadow_flow_open(shadow, 1, &open, 1);
	shadow_output(shadow, f, 1);
	frame_free(f);
	return shadow;
}

static void assert_mapped(struct shadow *shadow, struct frame *f, bool ipv6, uint32_t seq)
{
	uint32_t csum = ipv6 ? 56 : 36;
	struct packet p;

	shadow_input(shadow, f, 2);
	g_assert_cmpuint(quoted_seq(f, ipv6), ==, seq);
	g_assert_cmpint(packet_parse(&p, f), ==, 0);
	g_assert_cmpuint(packet_l4_checksum(&p), ==, f->data[csum] << 8 | f->data[csum + 1]);
	frame_free(f);
}

static void test_mapped(void)
{
	for (int ipv6 = 0; ipv6 < 2; ipv6++) {
		struct shadow *shadow = mapped(ipv6);

		assert_mapped(shadow, too_big(ipv6, PVM_ISS + 50, 8), ipv6, SVM_ISS + 50);
		assert_mapped(shadow, too_big(ipv6, PVM_ISS + 50, 20), ipv6, SVM_ISS + 50);
		shadow_takeover(shadow, 3);
		assert_mapped(shadow, too_big(ipv6, PVM_ISS + 51, 8), ipv6, SVM_ISS + 51);
		shadow_free(shadow);
	}
}

/* Nothing is written when the quotation is another connection's, or not that of a TCP segment. */
static void test_others(void)
{
	struct shadow *shadow = mapped(false);
	struct frame *f = too_big(false, PVM_ISS, 8);
	uint32_t quotation = 14 + 20 + 8;

	f->data[quotation + 21]++; /* the quoted port */
	shadow_input(shadow, f, 2);
	g_assert_cmpuint(quoted_seq(f, false), ==, PVM_ISS);
	f->data[quotation + 21]--;
	f->data[quotation + 9] = 17;
	shadow_input(shadow, f, 2);
	g_assert_cmpuint(quoted_seq(f, false), ==, PVM_ISS);
	f->data[quotation + 9] = 6;
	f->data[quotation + 7] = 1; /* a later fragment has no ports */
	shadow_input(shadow, f, 2);
	g_assert_cmpuint(quoted_seq(f, false), ==, PVM_ISS);
	f->data[quotation + 7] = 0;
	f->data[14 + 20] = 8; /* an echo request that carries the same bytes */
	shadow_input(shadow, f, 2);
	g_assert_cmpuint(quoted_seq(f, false), ==, PVM_ISS);
	f->data[14 + 20] = 3;
	shadow_input(shadow, f, 2);
	g_assert_cmpuint(quoted_seq(f, false), ==, SVM_ISS);
	frame_free(f);
	shadow_free(shadow);
}

/* Every shorter quotation is refused; no byte beyond the message is read. */
static void test_truncated(void)
{
	for (int ipv6 = 0; ipv6 < 2; ipv6++) {
		uint32_t header = ipv6 ? 40 : 20;

		for (uint32_t len = 0; len < 8 + header + 8; len++) {
			struct frame *f =
			        ipv6 ? build_ipv6(true, false, 58, len) : build_ipv4(true, 1, len);
			struct frame *whole = too_big(ipv6, PVM_ISS, 8);
			struct frame *exact = frame_new(f->len);
			struct flow_key key;
			uint32_t off;
			struct packet p;

			memcpy(f->data + 14 + header, whole->data + 14 + header, len);
			exact->len = f->len;
			memcpy(exact->data, f->data, f->len);
			if (packet_parse(&p, exact) == 0)
				g_assert_cmpint(packet_quote(&p, &key, &off), ==, -EINVAL);
			frame_free(exact);
			frame_free(whole);
			frame_free(f);
		}
	}
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/quote/mapped", test_mapped);
	g_test_add_func("/quote/others", test_others);
	g_test_add_func("/quote/truncated", test_truncated);
	return g_test_run();
}
