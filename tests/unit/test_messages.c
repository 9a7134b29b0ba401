/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The payloads of messages: every field at its offset, there and back, and wrong lengths refused.
 */
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "colo-proxy/link/messages.h"

static const struct flow_key key = {.vm_ip = 0x01020304,
                                    .peer_ip = 0x05060708,
                                    .vm_port = 0x090a,
                                    .peer_port = 0x0b0c,
                                    .proto = 6,
                                    .kind = FLOW_TCP};
static const uint8_t key_bytes[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 6, FLOW_TCP};

static void test_digest(void)
{
	struct digest in = {.key = key,
	                    .kind = DIGEST_SEGMENT,
	                    .tcp_flags = PACKET_ACK,
	                    .has_ts = true,
	                    .seq = 0x11223344,
	                    .len = 0x55,
	                    .ack = 0x66,
	                    .tsval = 0x77,
	                    .hash = {0xaa, 0xbb}};
	struct digest out;
	uint8_t wire[DIGEST_WIRE_MAX];

	memset(&out, 0xff, sizeof(out));
	g_assert_cmpuint(digest_pack(wire, &in), ==, DIGEST_WIRE_LEN);
	g_assert_cmpmem(wire, 16, key_bytes, 16);
	g_assert_cmpuint(wire[17], ==, PACKET_ACK);
	g_assert_cmpuint(wire[18], ==, 1);
	g_assert_cmpmem(wire + 20, 4, "\x11\x22\x33\x44", 4);
	g_assert_cmpuint(wire[27], ==, 0x55);
	g_assert_cmpuint(wire[31], ==, 0x66);
	g_assert_cmpuint(wire[35], ==, 0x77);
	g_assert_cmpuint(wire[36], ==, 0xaa);
	g_assert_cmpint(digest_unpack(&out, wire, DIGEST_WIRE_LEN), ==, DIGEST_WIRE_LEN);
	g_assert_cmpmem(&out.key, sizeof(out.key), &in.key, sizeof(in.key));
	g_assert_true(out.kind == in.kind && out.tcp_flags == in.tcp_flags && out.has_ts);
	g_assert_true(out.seq == in.seq && out.len == in.len && out.ack == in.ack &&
	              out.tsval == in.tsval);
	g_assert_cmpmem(out.hash, 16, in.hash, 16);
	g_assert_cmpint(digest_unpack(&out, wire, DIGEST_WIRE_LEN - 1), ==, -EPROTO);
	wire[16] = DIGEST_KIND_COUNT;
	g_assert_cmpint(digest_unpack(&out, wire, sizeof(wire)), ==, -EPROTO);
}

static void test_flow_open(void)
{
	struct flow_open in = {.key = key,
	                       .iss = 0x01020304,
	                       .has_ack = true,
	                       .ack = 5,
	                       .has_ts = true,
	                       .tsval = 6};
	struct flow_open out;
	uint8_t wire[FLOW_OPEN_WIRE_MAX];

	for (int i = 0; i < 4; i++) {
		in.has_ack = i & 1;
		in.has_ts = i & 2;
		memset(&out, 0xff, sizeof(out));
		g_assert_cmpuint(flow_open_pack(wire, &in), ==, FLOW_OPEN_WIRE_LEN);
		g_assert_cmpuint(wire[28], ==, i);
		g_assert_cmpint(flow_open_unpack(&out, wire, FLOW_OPEN_WIRE_LEN), ==, 0);
		g_assert_cmpmem(&out.key, sizeof(out.key), &in.key, sizeof(in.key));
		g_assert_true(out.iss == in.iss && out.ack == in.ack && out.tsval == in.tsval);
		g_assert_true(out.has_ack == in.has_ack && out.has_ts == in.has_ts);
	}
	g_assert_cmpint(flow_open_unpack(&out, wire, FLOW_OPEN_WIRE_LEN - 1), ==, -EPROTO);
	g_assert_cmpint(flow_open_unpack(&out, wire, FLOW_OPEN_WIRE_LEN + 1), ==, -EPROTO);
}

/* IPv6 and tags: 28 bytes more, at the record's end. */
static void test_wide_key(void)
{
	struct flow_key wide = key;
	struct digest digest = {.kind = DIGEST_DATAGRAM, .seq = 7}, digest_out;
	struct flow_open open = {.iss = 8}, open_out;
	uint8_t wire[DIGEST_WIRE_MAX], open_wire[FLOW_OPEN_WIRE_MAX];

	wide.flags = FLOW_IPV6 | FLOW_TAGGED;
	for (uint32_t i = 0; i < 3; i++) {
		wide.vm_net[i] = 0xa0a1a200u + i;
		wide.peer_net[i] = 0xb0b1b200u + i;
	}
	wide.tag[0] = 0x1fff;
	wide.tag[1] = 0x2001;
	digest.key = open.key = wide;
	g_assert_cmpuint(digest_pack(wire, &digest), ==, DIGEST_WIRE_MAX);
	g_assert_cmpuint(wire[14], ==, 3);
	g_assert_cmpmem(wire + 56, 4, "\x1f\xff\x20\x01", 4);
	g_assert_cmpmem(wire + 60, 4, "\xa0\xa1\xa2\x00", 4);
	g_assert_cmpmem(wire + 80, 4, "\xb0\xb1\xb2\x02", 4);
	g_assert_cmpint(digest_unpack(&digest_out, wire, sizeof(wire)), ==, DIGEST_WIRE_MAX);
	g_assert_true(flow_key_equal(&digest_out.key, &wide));
	g_assert_cmpuint(digest_out.seq, ==, 7);
	g_assert_cmpint(digest_unpack(&digest_out, wire, DIGEST_WIRE_MAX - 1), ==, -EPROTO);
	wire[14] = 4; /* a kind of key that is not known */
	g_assert_cmpint(digest_unpack(&digest_out, wire, DIGEST_WIRE_MAX), ==, -EPROTO);
	g_assert_cmpuint(flow_open_pack(open_wire, &open), ==, FLOW_OPEN_WIRE_MAX);
	g_assert_cmpmem(open_wire + 32, 4, "\x1f\xff\x20\x01", 4);
	g_assert_cmpint(flow_open_unpack(&open_out, open_wire, FLOW_OPEN_WIRE_MAX), ==, 0);
	g_assert_true(flow_key_equal(&open_out.key, &wide));
	g_assert_cmpint(flow_open_unpack(&open_out, open_wire, FLOW_OPEN_WIRE_LEN), ==, -EPROTO);
	g_assert_cmpint(flow_open_unpack(&open_out, open_wire, FLOW_OPEN_WIRE_MAX - 1), ==,
	                -EPROTO);
}

static void test_ready_and_committed(void)
{
	static const uint8_t ready[READY_WIRE_LEN] = {1, 2, 3, 4};
	static const uint8_t committed[COMMITTED_WIRE_LEN] = {0, 0, 1, 2, 0, 0, 1, 1};
	static const uint8_t more[COMMITTED_WIRE_LEN] = {0, 0, 1, 2, 0, 0, 1, 3};
	uint8_t wire[COMMITTED_WIRE_LEN + 1] = {0};
	uint32_t flags = 0, looked = 0, alike = 0;

	ready_pack(wire, 0x01020304);
	g_assert_cmpmem(wire, READY_WIRE_LEN, ready, sizeof(ready));
	g_assert_cmpint(ready_unpack(&flags, wire, READY_WIRE_LEN), ==, 0);
	g_assert_cmpuint(flags, ==, 0x01020304);
	g_assert_cmpint(ready_unpack(&flags, wire, READY_WIRE_LEN - 1), ==, -EPROTO);
	g_assert_cmpint(ready_unpack(&flags, wire, READY_WIRE_LEN + 1), ==, -EPROTO);
	committed_pack(wire, 0x102, 0x101);
	g_assert_cmpmem(wire, COMMITTED_WIRE_LEN, committed, sizeof(committed));
	g_assert_cmpint(committed_unpack(&looked, &alike, wire, COMMITTED_WIRE_LEN), ==, 0);
	g_assert_cmpuint(looked, ==, 0x102);
	g_assert_cmpuint(alike, ==, 0x101);
	g_assert_cmpint(committed_unpack(&looked, &alike, wire, COMMITTED_WIRE_LEN - 1), ==,
	                -EPROTO);
	g_assert_cmpint(committed_unpack(&looked, &alike, wire, COMMITTED_WIRE_LEN + 1), ==,
	                -EPROTO);
	g_assert_cmpint(committed_unpack(&looked, &alike, more, COMMITTED_WIRE_LEN), ==, -EPROTO);
	g_assert_cmpuint(alike, ==, 0x101);
}

static void test_codec_caps(void)
{
	static const uint8_t expected[CODEC_CAPS_LEN] = {1, 2, 0, 0, 0, 1, 2, 3, 0, 4, 5, 6};
	struct codec_caps in = {.version = 0x0102,
	                        .cache_bytes = 0x010203ull << 20,
	                        .replay_bytes = 0x040506ull << 10},
	                  out;
	uint8_t wire[CODEC_CAPS_LEN + 1] = {0};

	codec_caps_pack(wire, &in);
	g_assert_cmpmem(wire, CODEC_CAPS_LEN, expected, sizeof(expected));
	g_assert_cmpint(codec_caps_unpack(&out, wire, CODEC_CAPS_LEN), ==, 0);
	g_assert_cmpuint(out.version, ==, in.version);
	g_assert_cmpuint(out.cache_bytes, ==, in.cache_bytes);
	g_assert_cmpuint(out.replay_bytes, ==, in.replay_bytes);
	g_assert_cmpint(codec_caps_unpack(&out, wire, CODEC_CAPS_LEN + 1), ==, 0);
	g_assert_cmpint(codec_caps_unpack(&out, wire, CODEC_CAPS_LEN - 1), ==, -EPROTO);
	g_assert_cmpint(codec_caps_unpack(&out, wire, 0), ==, -EPROTO);
}

static void test_heartbeat(void)
{
	struct heartbeat in = {0x0102030405060708, 2, 3, 4, 5, true, 0x01020304}, out;
	uint8_t wire[HEARTBEAT_WIRE_LEN];

	heartbeat_pack(wire, &in);
	g_assert_cmpuint(wire[0], ==, 1);
	g_assert_cmpint(heartbeat_unpack(&out, wire, sizeof(wire)), ==, 0);
	g_assert_true(out.sent_ns == in.sent_ns && out.echo_ns == 2 && out.held_ns == 3 &&
	              out.consumed == 4 && out.state == 5 && out.primary && out.term == 0x01020304);
	g_assert_cmpuint(wire[33], ==, 1);
	g_assert_cmpuint(wire[39], ==, 4);
	g_assert_cmpint(heartbeat_unpack(&out, wire, sizeof(wire) - 1), ==, -EPROTO);
	g_assert_cmpint(heartbeat_unpack(&out, wire, sizeof(wire) + 1), ==, -EPROTO);
}

static void test_map(void)
{
	struct natmap_entry in = {.key = {.vm_ip = 0x0a000001,
	                                  .peer_ip = 0x0a000002,
	                                  .vm_port = 80,
	                                  .peer_port = 4000,
	                                  .proto = 6,
	                                  .kind = FLOW_TCP},
	                          .seq_delta = 0xfffffff0,
	                          .ts_delta = 7,
	                          .iss = 0x01020304,
	                          .tsval = 0x11121314,
	                          .syn_tsval = 0x21222324},
	                    out;
	uint8_t wire[MAP_HEAD_LEN + 2 * MAP_ENTRY_WIRE_LEN];
	uint32_t total, first, n;

	for (int i = 0; i < 32; i++) {
		in.iss_known = i & 1;
		in.fin_in = i & 2;
		in.fin_out = i & 4;
		in.reset = i & 8;
		in.opening = i & 16;
		map_entry_pack(wire, &in);
		g_assert_cmpuint(wire[28], ==, i);
		g_assert_true(wire[32] == 0x11 && wire[36] == 0x21);
		memset(&out, 0xff, sizeof(out));
		g_assert_cmpint(map_entry_unpack(&out, wire), ==, 0);
		g_assert_cmpmem(&out.key, sizeof(out.key), &in.key, sizeof(in.key));
		g_assert_true(out.seq_delta == in.seq_delta && out.ts_delta == 7 &&
		              out.iss == in.iss);
		g_assert_true(out.iss_known == in.iss_known && out.fin_in == in.fin_in &&
		              out.fin_out == in.fin_out && out.reset == in.reset);
		g_assert_true(out.opening == in.opening && out.tsval == in.tsval &&
		              out.syn_tsval == in.syn_tsval);
	}
	in.key.flags = FLOW_IPV6;
	in.key.peer_net[2] = 0x20010db8;
	map_entry_pack(wire, &in);
	g_assert_cmpint(map_entry_unpack(&out, wire), ==, 0);
	g_assert_cmpmem(&out.key, sizeof(out.key), &in.key, sizeof(in.key));
	wire[14] = 0x80;
	g_assert_cmpint(map_entry_unpack(&out, wire), ==, -EPROTO);
	map_head_pack(wire, 0x11223344, 5);
	g_assert_cmpuint(wire[0], ==, 0x11);
	g_assert_cmpint(map_head_unpack(&total, &first, &n, wire, sizeof(wire)), ==, 0);
	g_assert_true(total == 0x11223344 && first == 5 && n == 2);
	g_assert_cmpint(map_head_unpack(&total, &first, &n, wire, MAP_HEAD_LEN), ==, 0);
	g_assert_cmpuint(n, ==, 0);
	for (size_t len = 0; len < sizeof(wire); len++) {
		int r = map_head_unpack(&total, &first, &n, wire, len);

		g_assert_cmpint(r, ==, len == 8 || len == 8 + MAP_ENTRY_WIRE_LEN ? 0 : -EPROTO);
	}
}

static void test_input(void)
{
	struct frame *in = frame_new(100), *out = NULL;
	uint8_t wire[INPUT_HEAD_LEN + 100] = {0};
	uint64_t index = 0;

	g_assert_nonnull(in);
	in->vnet.gso_size = 1448;
	input_pack_head(wire, 0x1122334455667788, in);
	memset(wire + INPUT_HEAD_LEN, 0x5a, 100);
	g_assert_cmpint(input_unpack(&index, &out, wire, sizeof(wire)), ==, 0);
	g_assert_cmpuint(index, ==, 0x1122334455667788);
	g_assert_cmpuint(out->len, ==, 100);
	g_assert_cmpuint(out->vnet.gso_size, ==, 1448);
	g_assert_cmpuint(out->data[99], ==, 0x5a);
	frame_free(out);
	out = NULL;
	g_assert_cmpint(input_unpack(&index, &out, wire, INPUT_HEAD_LEN + 13), ==, -EPROTO);
	g_assert_cmpint(input_unpack(&index, &out, wire, INPUT_HEAD_LEN + FRAME_MAX_LEN + 1), ==,
	                -EPROTO);
	g_assert_null(out);
	frame_free(in);
}

static void test_ask(void)
{
	struct ask in = {.id = 0x01020304, .kind = ASK_NEWEST, .digest = {.key = key, .seq = 9}};
	struct ask out;
	uint8_t wire[ASK_WIRE_MAX + 1] = {0};
	size_t len = ask_pack(wire, &in);

	g_assert_cmpmem(wire, 5, "\x01\x02\x03\x04\x01", 5);
	g_assert_cmpmem(wire + ASK_HEAD_LEN, 16, key_bytes, 16);
	g_assert_cmpint(ask_unpack(&out, wire, len), ==, 0);
	g_assert_true(out.id == in.id && out.kind == in.kind && out.digest.seq == 9);
	g_assert_cmpint(ask_unpack(&out, wire, len - 1), ==, -EPROTO);
	g_assert_cmpint(ask_unpack(&out, wire, len + 1), ==, -EPROTO);
	g_assert_cmpint(ask_unpack(&out, wire, 3), ==, -EPROTO);
	wire[4] = ASK_KIND_COUNT;
	g_assert_cmpint(ask_unpack(&out, wire, len), ==, -EPROTO);
}

static void test_cut(void)
{
	struct digest_cut in = {.whole = {.key = key, .seq = 9, .len = 20}, .at = 0x01020304};
	struct digest_cut out;
	uint8_t wire[CUT_WIRE_MAX + 1] = {0};
	size_t len = cut_ask_pack(wire, &in.whole, in.at);

	memset(in.head, 0xaa, sizeof(in.head));
	memset(in.rest, 0xbb, sizeof(in.rest));
	g_assert_cmpmem(wire, 8, "\x01\x02\x03\x04\0\0\0\0", 8);
	g_assert_cmpmem(wire + CUT_ASK_HEAD_LEN, 16, key_bytes, 16);
	g_assert_cmpint(cut_ask_unpack(&out, wire, len), ==, 0);
	g_assert_true(out.at == in.at && out.whole.seq == 9 && out.whole.len == 20);
	g_assert_cmpint(cut_ask_unpack(&out, wire, len - 1), ==, -EPROTO);
	g_assert_cmpint(cut_ask_unpack(&out, wire, len + 1), ==, -EPROTO);
	g_assert_cmpint(cut_ask_unpack(&out, wire, 3), ==, -EPROTO);
	len = cut_pack(wire, &in);
	g_assert_cmpmem(wire, 8, "\x01\x02\x03\x04\0\0\0\0", 8);
	g_assert_cmpmem(wire + 8, 16, in.head, 16);
	g_assert_cmpmem(wire + 24, 16, in.rest, 16);
	g_assert_cmpmem(wire + CUT_HEAD_LEN, 16, key_bytes, 16);
	g_assert_cmpint(cut_unpack(&out, wire, len), ==, 0);
	g_assert_true(out.at == in.at && out.whole.seq == 9);
	g_assert_cmpmem(out.head, 16, in.head, 16);
	g_assert_cmpmem(out.rest, 16, in.rest, 16);
	g_assert_cmpint(cut_unpack(&out, wire, len - 1), ==, -EPROTO);
	g_assert_cmpint(cut_unpack(&out, wire, len + 1), ==, -EPROTO);
	g_assert_cmpint(cut_unpack(&out, wire, CUT_HEAD_LEN - 1), ==, -EPROTO);
}

static void test_said(void)
{
	struct evidence_side in = {0}, out = {0};
	uint8_t *wire = g_malloc0(SAID_WIRE_MAX + 1);
	uint32_t id = 0;
	size_t len;

	for (uint32_t i = 0; i < EVIDENCE_PACKETS; i++) {
		struct frame *frame = frame_new(EVIDENCE_PACKET_MAX);

		g_assert_nonnull(frame);
		frame->len = i ? EVIDENCE_PACKET_MAX : 2;
		frame->start = i & 1;
		memset(frame->data, (int)(0x50 + i), frame->len);
		in.packet[in.count++] = (struct evidence_packet){0x0102030405060708, 70000, frame};
	}
	len = said_pack(wire, 0x0a0b0c0d, &in);
	g_assert_cmpuint(len, <=, SAID_WIRE_MAX);
	g_assert_cmpmem(wire, 5, "\x0a\x0b\x0c\x0d\x04", 5);
	g_assert_cmpmem(wire + 8, 18,
	                "\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01\x11\x70\x00\x02\x00\x00\x50\x50",
	                18);
	g_assert_cmpint(said_unpack(&id, &out, wire, len), ==, 0);
	g_assert_cmpuint(id, ==, 0x0a0b0c0d);
	g_assert_cmpuint(out.count, ==, in.count);
	for (uint32_t i = 0; i < out.count; i++) {
		const struct frame *a = in.packet[i].frame, *b = out.packet[i].frame;

		g_assert_cmpmem(a->data, a->len, b->data, b->len);
		g_assert_cmpuint(a->start, ==, b->start);
		g_assert_cmpuint(out.packet[i].at_ns, ==, 0x0102030405060708);
		g_assert_cmpuint(out.packet[i].original, ==, 70000);
	}
	evidence_side_clear(&out);
	evidence_side_clear(&in);
	g_assert_cmpint(said_unpack(&id, &out, wire, len - 1), ==, -EPROTO);
	g_assert_cmpint(said_unpack(&id, &out, wire, len + 1), ==, -EPROTO);
	g_assert_cmpint(said_unpack(&id, &out, wire, 7), ==, -EPROTO);
	wire[4]++; /* one packet too many */
	g_assert_cmpint(said_unpack(&id, &out, wire, len), ==, -EPROTO);
	g_assert_cmpuint(out.count, ==, 0);
	len = said_pack(wire, 1, &in);
	g_assert_cmpint(said_unpack(&id, &out, wire, len), ==, 0);
	g_assert_cmpuint(out.count, ==, 0);
	g_free(wire);
}

static void test_replay(void)
{
	uint8_t *wire = g_malloc(REPLAY_WIRE_MAX);
	struct frame *in = frame_new(100), *out = NULL;
	uint32_t released;
	size_t len;

	in->len = 100;
	memset(in->data, 0x5a, in->len);
	in->vnet.hdr_len = 0x1234;
	replay_pack_head(wire, 0x01020304);
	g_assert_cmpint(replay_unpack_head(&released, wire, REPLAY_HEAD_LEN), ==, 0);
	g_assert_cmpuint(released, ==, 0x01020304);
	g_assert_cmpuint(wire[0], ==, 1);
	g_assert_cmpint(replay_unpack_head(&released, wire, REPLAY_HEAD_LEN - 1), ==, -EPROTO);
	len = replay_pack_frame(wire, in);
	g_assert_cmpuint(len, ==, REPLAY_FRAME_LEN + 100);
	g_assert_cmpuint(wire[15], ==, 100);
	/* What is behind it is the next one's. */
	g_assert_cmpint(replay_unpack_frame(&out, wire, len + 7), ==, (int)len);
	g_assert_cmpmem(out->data, out->len, in->data, in->len);
	g_assert_cmpmem(&out->vnet, sizeof(out->vnet), &in->vnet, sizeof(in->vnet));
	frame_free(out);
	out = NULL;
	g_assert_cmpint(replay_unpack_frame(&out, wire, len - 1), ==, -EPROTO);
	g_assert_cmpint(replay_unpack_frame(&out, wire, REPLAY_FRAME_LEN), ==, -EPROTO);
	wire[15] = 13; /* no Ethernet header has room in it */
	g_assert_cmpint(replay_unpack_frame(&out, wire, len), ==, -EPROTO);
	wire[12] = 0xff; /* longer than any frame, and than the message */
	g_assert_cmpint(replay_unpack_frame(&out, wire, len), ==, -EPROTO);
	g_assert_null(out);
	frame_free(in);
	/* The largest frames: two of them are a message. */
	in = frame_new(FRAME_MAX_LEN);
	in->len = FRAME_MAX_LEN;
	memset(in->data, 1, in->len);
	len = REPLAY_HEAD_LEN;
	len += replay_pack_frame(wire + len, in);
	len += replay_pack_frame(wire + len, in);
	g_assert_cmpuint(len, ==, REPLAY_WIRE_MAX);
	frame_free(in);
	g_free(wire);
}

static void test_names(void)
{
	for (int type = 0; type < 256; type++) {
		bool known = type >= MSG_HEARTBEAT && type < MSG_TYPE_END;

		g_assert_true(known == !g_str_equal(msg_type_name((uint8_t)type), "unknown"));
	}
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/messages/digest", test_digest);
	g_test_add_func("/messages/flow-open", test_flow_open);
	g_test_add_func("/messages/wide-key", test_wide_key);
	g_test_add_func("/messages/codec-caps", test_codec_caps);
	g_test_add_func("/messages/ready-and-committed", test_ready_and_committed);
	g_test_add_func("/messages/heartbeat", test_heartbeat);
	g_test_add_func("/messages/map", test_map);
	g_test_add_func("/messages/input", test_input);
	g_test_add_func("/messages/ask", test_ask);
	g_test_add_func("/messages/cut", test_cut);
	g_test_add_func("/messages/said", test_said);
	g_test_add_func("/messages/replay", test_replay);
	g_test_add_func("/messages/names", test_names);
	return g_test_run();
}
