/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is said again at a takeover: which frames, of which checkpoints, how much, for how long. */
#include <errno.h>
#include <glib.h>
#include <netinet/in.h>
#include <string.h>

#include "colo-proxy/core/gate.h"
#include "colo-proxy/core/replay.h"
#include "kvm/wire.h"
#include "tests/unit/tcp_builder.h"

#define LEN  100u
#define COST (LEN + REPLAY_FRAME_COST)
#define SEC  1000000000ull

static struct frame *numbered(uint8_t number)
{
	struct frame *frame = frame_new(LEN);

	frame->len = LEN;
	memset(frame->data, number, LEN);
	return frame;
}

/* ---- which ---- */

static bool wants(struct frame *frame)
{
	struct packet packet = {.frame = frame, .class = PACKET_OTHER};
	bool is;

	(void)packet_parse(&packet, frame);
	is = replay_wants(&packet);
	frame_free(frame);
	return is;
}

static struct frame *udp_with(uint32_t at, uint8_t value)
{
	static const uint8_t data[64];
	struct frame *frame = build_udp(false, 7, 7, data, sizeof(data));

	frame->data[at] = value;
	return frame;
}

static void test_which(void)
{
	static const struct build_tcp tcp = {.vm_port = 80, .peer_port = 2000, .flags = PACKET_ACK};
	static const uint8_t nexts[] = {IPPROTO_TCP, IPPROTO_UDP};
	struct frame *six;

	g_assert_false(wants(build_tcp(&tcp)));
	g_assert_true(wants(udp_with(14, 0x45)));
	g_assert_true(wants(udp_with(23, IPPROTO_ICMP)));
	g_assert_true(wants(udp_with(23, 132)));
	g_assert_true(wants(udp_with(12, 0x88))); /* an EtherType that nobody knows */
	g_assert_true(wants(numbered(0)));
	/* Fragments, by the protocol of their packet: the first one, and another one. */
	for (uint8_t off = 0; off < 2; off++) {
		struct frame *frame = udp_with(21, off);

		frame->data[20] = 0x20;
		g_assert_true(wants(frame));
		frame = udp_with(21, off);
		frame->data[20] = 0x20;
		frame->data[23] = IPPROTO_TCP;
		g_assert_false(wants(frame));
	}
	/* TCP that nobody can read is TCP. */
	six = udp_with(23, IPPROTO_TCP);
	g_assert_false(wants(six));
	for (size_t i = 0; i < G_N_ELEMENTS(nexts); i++) {
		six = frame_new(14 + 40 + 8 + 16);
		six->len = six->room;
		memset(six->data, 0, six->len);
		wire_put_be16(six->data + 12, 0x86dd);
		six->data[14] = 0x60;
		wire_put_be16(six->data + 18, 8 + 16);
		six->data[20] = 44; /* a fragment header, RFC 8200 section 4.5 */
		six->data[54] = nexts[i];
		wire_put_be16(six->data + 56, 8);
		g_assert_true(wants(six) == (nexts[i] == IPPROTO_UDP));
	}
}

/* ---- the primary's half ---- */

static void add(struct replay_out *out, uint8_t number, int result)
{
	struct frame *frame = numbered(number);

	g_assert_cmpint(replay_out_add(out, frame), ==, result);
	frame_free(frame);
}

static void test_order(void)
{
	struct replay_out out = {0};

	replay_out_begin(&out, 10 * COST);
	replay_out_cut(&out, 1);
	for (uint8_t i = 1; i <= 3; i++)
		add(&out, i, 0);
	for (uint8_t i = 1; i <= 3; i++) {
		g_assert_cmpuint(out.first->len, ==, LEN);
		g_assert_cmpuint(out.first->data[LEN - 1], ==, i);
		replay_out_sent(&out);
	}
	g_assert_null(out.first);
	add(&out, 4, 0);
	g_assert_cmpuint(out.first->data[0], ==, 4);
	g_assert_cmpuint(out.sent.packets, ==, 4);
	g_assert_cmpuint(out.sent.bytes, ==, 4 * LEN);
	replay_out_begin(&out, 0); /* what waits is freed */
	g_assert_null(out.first);
	g_assert_cmpuint(out.sent.packets, ==, 4);
}

static void test_out_limit(void)
{
	struct replay_out out = {0};
	struct frame *frame = numbered(0);

	replay_out_begin(&out, 3 * COST - 1);
	replay_out_cut(&out, 1);
	add(&out, 1, 0);
	add(&out, 2, 0);
	add(&out, 3, -ENOSPC);
	replay_out_cut(&out, 2); /* those of C(1) have not left: they count */
	add(&out, 4, -ENOSPC);
	g_assert_true(replay_out_released(&out, 1));
	add(&out, 5, 0);
	add(&out, 6, 0);
	add(&out, 7, -ENOSPC);
	g_assert_cmpuint(out.sent.packets, ==, 4);
	g_assert_cmpuint(out.left_out.packets, ==, 3);
	g_assert_cmpuint(out.left_out.bytes, ==, 3 * LEN);
	frame->start = FRAME_AT_IP;
	g_assert_true(replay_out_released(&out, 2));
	g_assert_cmpint(replay_out_add(&out, frame), ==, -EINVAL);
	frame_free(frame);
	replay_out_begin(&out, 0);
	add(&out, 8, -ENOSPC);
	replay_out_begin(&out, 0);
}

/* A packet whose Ethernet header is only known crosses as the frame that it is in. */
static void test_out_linked(void)
{
	struct frame *frame = numbered(7), *whole = numbered(7);
	struct replay_out out = {0};

	frame->vnet.flags = whole->vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	frame->vnet.csum_start = 34 - FRAME_LINK;
	whole->vnet.csum_start = 34;
	build_linked(frame);
	replay_out_begin(&out, COST);
	replay_out_cut(&out, 1);
	g_assert_cmpint(replay_out_add(&out, frame), ==, 0);
	g_assert_true(frame->linked); /* it is a copy that crosses */
	g_assert_cmpint(out.first->start, ==, FRAME_AT_ETHERNET);
	g_assert_false(out.first->linked);
	g_assert_cmpmem(out.first->data, out.first->len, whole->data, LEN);
	g_assert_cmpmem(&out.first->vnet, sizeof(whole->vnet), &whole->vnet, sizeof(whole->vnet));
	g_assert_cmpuint(out.of_newest, ==, COST);
	g_assert_cmpuint(out.sent.bytes, ==, LEN);
	replay_out_begin(&out, COST - 1);
	replay_out_cut(&out, 1);
	g_assert_cmpint(replay_out_add(&out, frame), ==, -ENOSPC);
	frame_free(frame);
	frame_free(whole);
}

static void test_out_released(void)
{
	struct replay_out out = {0};

	replay_out_begin(&out, 10 * COST);
	g_assert_false(replay_out_released(&out, 0));
	replay_out_cut(&out, 1);
	g_assert_false(replay_out_released(&out, 1)); /* nothing that anybody keeps */
	g_assert_cmpuint(out.released, ==, 1);
	replay_out_cut(&out, 2);
	add(&out, 1, 0);
	g_assert_false(replay_out_released(&out, 1));
	g_assert_true(replay_out_released(&out, 2));
	g_assert_false(replay_out_released(&out, 2));
	replay_out_cut(&out, 3);
	add(&out, 1, 0);
	replay_out_cut(&out, 4); /* C(3)'s did not leave in time, and C(4) has none */
	g_assert_true(replay_out_released(&out, 3));
	g_assert_cmpuint(out.of_older + out.of_newest, ==, 0);
	add(&out, 1, 0);
	g_assert_false(replay_out_released(&out, 3));
	g_assert_cmpuint(out.of_newest, ==, COST);
	replay_out_begin(&out, 0);
}

/* ---- the secondary's half ---- */

static void arrives(struct replay_in *in, uint32_t epoch, uint8_t from, uint8_t to)
{
	replay_in_ckpt(in, epoch);
	for (uint8_t i = from; i <= to; i++)
		g_assert_cmpint(replay_in_add(in, numbered(i), SEC), ==, 0);
}

/* What is left is said: these numbers, and no more. */
static void says(struct replay_in *in, uint8_t from, uint8_t to)
{
	for (uint8_t i = from; i <= to; i++) {
		struct frame *frame = replay_in_take(in, SEC);

		g_assert_nonnull(frame);
		g_assert_cmpuint(frame->data[0], ==, i);
		frame_free(frame);
	}
	g_assert_null(replay_in_take(in, SEC));
}

static void test_whole_only(void)
{
	struct replay_in in = {0};

	replay_in_begin(&in, 10 * COST);
	arrives(&in, 1, 1, 2);
	g_assert_null(replay_in_take(&in, SEC)); /* half a checkpoint is none */
	replay_in_commit(&in);
	arrives(&in, 2, 3, 3);
	says(&in, 1, 2);
	replay_in_commit(&in);
	says(&in, 3, 3);
	g_assert_cmpuint(in.bytes, ==, 0);
	g_assert_cmpuint(in.replayed.packets, ==, 3);
	/* What came half is dropped when another one begins. */
	arrives(&in, 3, 4, 5);
	arrives(&in, 4, 6, 6);
	g_assert_cmpuint(in.bytes, ==, COST);
	replay_in_commit(&in);
	says(&in, 6, 6);
}

static void test_in_released(void)
{
	struct replay_in in = {0};

	replay_in_begin(&in, 10 * COST);
	g_assert_cmpint(replay_in_released(&in, 0), ==, 0);
	g_assert_cmpint(replay_in_released(&in, 1), ==, -EPROTO);
	arrives(&in, 1, 1, 2);
	g_assert_cmpint(replay_in_released(&in, 1), ==, -EPROTO);
	replay_in_commit(&in);
	arrives(&in, 2, 3, 3);
	replay_in_commit(&in);
	arrives(&in, 3, 4, 4);
	g_assert_cmpint(replay_in_released(&in, 1), ==, 0);
	g_assert_cmpuint(in.bytes, ==, 2 * COST);
	says(&in, 3, 3);
	g_assert_cmpint(replay_in_released(&in, 2), ==, 0);
	replay_in_commit(&in); /* what arrived meanwhile is untouched */
	says(&in, 4, 4);
	/* All of it, and the list goes on. */
	arrives(&in, 4, 5, 6);
	replay_in_commit(&in);
	g_assert_cmpint(replay_in_released(&in, 4), ==, 0);
	arrives(&in, 5, 7, 8);
	replay_in_commit(&in);
	says(&in, 7, 8);
	/* Epochs begin anew with a new copy of the VM. */
	arrives(&in, 6, 9, 9);
	replay_in_commit(&in);
	replay_in_begin(&in, 10 * COST);
	g_assert_null(replay_in_take(&in, SEC));
	g_assert_cmpint(replay_in_released(&in, 1), ==, -EPROTO);
	arrives(&in, 1, 10, 10);
	replay_in_commit(&in);
	says(&in, 10, 10);
}

static void test_in_limit(void)
{
	struct replay_in in = {0};

	replay_in_begin(&in, 2 * COST);
	arrives(&in, 1, 1, 2);
	g_assert_cmpint(replay_in_add(&in, numbered(3), SEC), ==, -ENOSPC);
	replay_in_commit(&in);
	g_assert_cmpuint(in.not_kept.packets, ==, 1);
	g_assert_cmpuint(in.kept.packets, ==, 2);
	g_assert_cmpuint(in.high, ==, 2 * COST);
	replay_in_ckpt(&in, 2);
	g_assert_cmpint(replay_in_add(&in, numbered(3), SEC), ==, -ENOSPC);
	g_assert_cmpint(replay_in_released(&in, 1), ==, 0);
	g_assert_cmpint(replay_in_add(&in, numbered(4), SEC), ==, 0);
	replay_in_commit(&in);
	says(&in, 4, 4);
	replay_in_begin(&in, 0);
	replay_in_ckpt(&in, 1);
	g_assert_cmpint(replay_in_add(&in, numbered(1), SEC), ==, -ENOSPC);
}

static void test_too_old(void)
{
	struct replay_in in = {0};
	struct frame *frame;

	replay_in_begin(&in, 10 * COST);
	arrives(&in, 1, 1, 2);
	g_assert_cmpint(replay_in_add(&in, numbered(3), 2 * SEC), ==, 0);
	replay_in_commit(&in);
	frame = replay_in_take(&in, SEC + REPLAY_MAX_AGE_NS);
	g_assert_cmpuint(frame->data[0], ==, 1);
	frame_free(frame);
	frame = replay_in_take(&in, SEC + REPLAY_MAX_AGE_NS + 1);
	g_assert_cmpuint(frame->data[0], ==, 3);
	frame_free(frame);
	g_assert_cmpuint(in.too_old.packets, ==, 1);
	g_assert_cmpuint(in.replayed.packets, ==, 2);
	g_assert_cmpuint(in.bytes, ==, 0);
}

/*
 * Both halves, 20,000 checkpoints: RELEASED on another channel than the frames, late or not at all.
 * What the primary sends there is always room for.
 */
static void test_both(void)
{
	struct replay_out out = {0};
	struct replay_in in = {0};
	GRand *rand = g_rand_new_with_seed(7);
	uint32_t late = 0; /* a RELEASED on its way */

	replay_out_begin(&out, 20 * COST);
	replay_in_begin(&in, 20 * COST);
	for (uint32_t epoch = 1; epoch < 20000; epoch++) {
		replay_out_cut(&out, epoch);
		replay_in_ckpt(&in, epoch);
		for (int n = g_rand_int_range(rand, 0, 30); n > 0; n--) {
			struct frame *frame = numbered((uint8_t)epoch);

			(void)replay_out_add(&out, frame);
			frame_free(frame);
		}
		if (out.first)
			g_assert_cmpint(replay_in_released(&in, out.released), ==, 0);
		for (; out.first; replay_out_sent(&out))
			g_assert_cmpint(replay_in_add(&in, frame_copy(out.first), SEC), ==, 0);
		replay_in_commit(&in);
		if (late && g_rand_int_range(rand, 0, 2)) {
			g_assert_cmpint(replay_in_released(&in, late), ==, 0);
			late = 0;
		}
		if (g_rand_int_range(rand, 0, 3) && replay_out_released(&out, epoch))
			late = epoch;
	}
	g_assert_cmpuint(in.not_kept.packets, ==, 0);
	g_assert_cmpuint(in.kept.packets, ==, out.sent.packets);
	g_assert_cmpuint(out.left_out.packets, >, 0);
	replay_in_begin(&in, 0);
	g_rand_free(rand);
}

/* ---- what the gate would let out ---- */

static void no_release(void *ctx, struct frame *frame, const struct packet *packet,
                       enum release_why why, uint64_t held_ns)
{
	(void)ctx;
	(void)packet;
	(void)why;
	(void)held_ns;
	frame_free(frame);
}

static void no_request(void *ctx, const struct divergence *why)
{
	(void)ctx;
	(void)why;
}

static void note(void *ctx, const struct packet *packet)
{
	GString *text = ctx;

	g_string_append_printf(text, "%c", packet->frame->data[packet->payload_off]);
}

static void says_to_gate(struct gate *gate, const char *letter)
{
	g_assert_cmpint(gate_output(gate, build_udp(false, 7, 7, (const uint8_t *)letter, 1), 0),
	                ==, 0);
}

static void test_gate(void)
{
	static const struct gate_ops ops = {.release = no_release, .request = no_request};
	static const struct gate_limits limits = {.late_ns = SEC,
	                                          .max_bytes = 1 << 20,
	                                          .max_packets = 100,
	                                          .max_flows = 16,
	                                          .max_digests = 16};
	static const struct packet_digest_key key;
	GString *text = g_string_new(NULL);
	struct gate *gate;

	g_assert_cmpint(gate_new(&gate, &limits, &key, &ops, NULL), ==, 0);
	gate_each_before(gate, 1, note, text);
	gate_cut(gate, 0, 0);
	says_to_gate(gate, "a");
	says_to_gate(gate, "b");
	gate_cut(gate, 1, 0);
	says_to_gate(gate, "c"); /* of the epoch that C(1) begins */
	gate_each_before(gate, 1, note, text);
	g_assert_cmpstr(text->str, ==, "ab");
	gate_commit(gate, 1, 0);
	g_string_truncate(text, 0);
	gate_each_before(gate, 1, note, text);
	g_assert_cmpstr(text->str, ==, "");
	gate_each_before(gate, 2, note, text);
	g_assert_cmpstr(text->str, ==, "c");
	gate_unprotect(gate, 0);
	gate_each_before(gate, 2, note, text);
	g_assert_cmpstr(text->str, ==, "c");
	gate_free(gate);
	g_string_free(text, TRUE);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/replay/which", test_which);
	g_test_add_func("/replay/order", test_order);
	g_test_add_func("/replay/out-limit", test_out_limit);
	g_test_add_func("/replay/out-linked", test_out_linked);
	g_test_add_func("/replay/out-released", test_out_released);
	g_test_add_func("/replay/whole-only", test_whole_only);
	g_test_add_func("/replay/in-released", test_in_released);
	g_test_add_func("/replay/in-limit", test_in_limit);
	g_test_add_func("/replay/too-old", test_too_old);
	g_test_add_func("/replay/both", test_both);
	g_test_add_func("/replay/gate", test_gate);
	return g_test_run();
}
