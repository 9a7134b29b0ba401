/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Evidence of divergences: the primary's ring, the secondary's memory, and what they show. */
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "colo-proxy/control/report_divergence.h"
#include "colo-proxy/core/evidence.h"
#include "colo-proxy/core/recent.h"
#include "tests/unit/tcp_builder.h"

#define MS  1000000ull
#define ISS 1000u

static const struct packet_digest_key secret = {{3}};

static struct flow_key key_of(struct frame *frame)
{
	struct packet packet;
	struct flow_key key;

	g_assert_cmpint(packet_parse(&packet, frame), ==, 0);
	g_assert_cmpint(packet_flow_key(&packet, PACKET_FROM_VM, &key), ==, 0);
	return key;
}

static struct frame *segment(uint32_t seq, const char *text, uint16_t flags, uint16_t gso)
{
	struct build_tcp t = {.seq = seq,
	                      .ack = 1,
	                      .flags = flags | PACKET_ACK,
	                      .data = (const uint8_t *)text,
	                      .len = (uint32_t)strlen(text),
	                      .gso_size = gso};

	return build_tcp(&t);
}

static void put(struct evidence_side *side, struct frame *frame)
{
	side->packet[side->count++] =
	        (struct evidence_packet){.at_ns = 5, .original = frame->len, .frame = frame};
}

/* A mismatch over [seq, seq + len) of a connection, with the PVM's packet. */
static struct evidence mismatch(uint32_t seq, uint32_t len, struct frame *frame)
{
	struct evidence evidence = {
	        .cause = CKPT_MISMATCH,
	        .has_key = true,
	        .has_iss = true,
	        .iss = ISS,
	        .seq = seq,
	        .len = len,
	        .what = "test",
	        .found = EVIDENCE_WAITING,
	        .key = key_of(frame),
	};

	put(&evidence.pvm, frame);
	return evidence;
}

static const struct evidence *answered(struct evidence_ring *ring, struct evidence evidence,
                                       struct frame *one, struct frame *two)
{
	struct evidence_side side = {0};
	struct evidence *noted = evidence_add(ring, &evidence);

	if (one)
		put(&side, one);
	if (two)
		put(&side, two);
	evidence_answer(ring, noted->id, &side);
	return noted;
}

static struct evidence_ring *ring_of(uint32_t max)
{
	struct evidence_ring *ring = NULL;

	g_assert_cmpint(evidence_ring_new(&ring, max), ==, 0);
	return ring;
}

/* ---- the ring ---- */

static void test_quotas(void)
{
	static const uint32_t expected[] = {3, 6, 7, 8};
	struct evidence_ring *ring = ring_of(2);
	struct evidence timer = {.cause = CKPT_TIMER, .what = "test"};
	struct evidence *list;
	uint32_t n;

	g_assert_null(evidence_last(ring));
	for (int i = 0; i < 3; i++)
		(void)evidence_add(ring, &timer); /* 1, 2, 3 */
	for (int i = 0; i < 4; i++) {
		struct evidence one = mismatch(ISS + 1, 1, segment(ISS + 1, "a", 0, 0));

		(void)evidence_add(ring, &one); /* 4 to 7 */
	}
	(void)evidence_add(ring, &timer); /* 8 */
	g_assert_cmpuint(evidence_last(ring)->id, ==, 7);
	g_assert_cmpint(evidence_copy(ring, 100, true, &list, &n), ==, 0);
	g_assert_cmpuint(n, ==, G_N_ELEMENTS(expected));
	for (uint32_t i = 0; i < n; i++)
		g_assert_cmpuint(list[i].id, ==, expected[i]);
	evidence_list_free(list, n);
	g_assert_cmpint(evidence_copy(ring, 1, false, &list, &n), ==, 0);
	g_assert_cmpuint(n, ==, 1);
	g_assert_cmpuint(list[0].id, ==, 7);
	evidence_ring_free(ring); /* the copy is not the ring's */
	g_assert_cmpuint(list[0].pvm.count, ==, 1);
	g_assert_cmpuint(list[0].pvm.packet[0].frame->len, ==, 55);
	evidence_list_free(list, n);
}

static void test_unexpected_answers(void)
{
	struct evidence_ring *ring = ring_of(1);
	struct evidence_side side = {0};
	const struct evidence *one;

	put(&side, segment(ISS + 1, "a", 0, 0));
	evidence_answer(ring, 7, &side); /* freed */
	one = answered(ring, mismatch(ISS + 1, 1, segment(ISS + 1, "a", 0, 0)), NULL, NULL);
	g_assert_cmpint(one->found, ==, EVIDENCE_GONE);
	put(&side, segment(ISS + 1, "b", 0, 0));
	evidence_answer(ring, one->id, &side); /* a second one: freed */
	g_assert_cmpint(one->found, ==, EVIDENCE_GONE);
	g_assert_false(one->differs);
	{
		struct evidence next = mismatch(ISS + 1, 1, segment(ISS + 1, "a", 0, 0));

		one = evidence_add(ring, &next); /* in place of the first */
	}
	g_assert_cmpint(one->found, ==, EVIDENCE_WAITING);
	evidence_give_up(ring);
	g_assert_cmpint(one->found, ==, EVIDENCE_GONE);
	evidence_ring_free(ring);
}

/* ---- the difference ---- */

static void test_difference(void)
{
	struct evidence_ring *ring = ring_of(8);
	const struct evidence *one;
	uint32_t offset;

	/* The same stream, cut elsewhere: the SVM's range begins inside the PVM's packet. */
	one = answered(ring, mismatch(ISS + 1 + 2, 6, segment(ISS + 1, "abcdefgh", 0, 0)),
	               segment(ISS + 1, "abcd", 0, 0), segment(ISS + 1 + 4, "efgX", 0, 0));
	g_assert_cmpint(one->found, ==, EVIDENCE_HERE);
	g_assert_true(one->differs);
	g_assert_cmpuint(one->differs_at, ==, 5);
	g_assert_true(evidence_offset(one, one->seq + one->differs_at, &offset));
	g_assert_cmpuint(offset, ==, 7);
	/* Bytes outside of the range do not count. */
	one = answered(ring, mismatch(ISS + 1, 2, segment(ISS + 1, "abc", 0, 0)),
	               segment(ISS + 1, "abX", 0, 0), NULL);
	g_assert_false(one->differs);
	/* One of them ends earlier. */
	one = answered(ring, mismatch(ISS + 1, 4, segment(ISS + 1, "abc", PACKET_FIN, 0)),
	               segment(ISS + 1, "abcd", 0, 0), NULL);
	g_assert_true(one->differs);
	g_assert_cmpuint(one->differs_at, ==, 3);
	evidence_ring_free(ring);
}

static void test_datagrams(void)
{
	struct evidence_ring *ring = ring_of(8);
	struct evidence udp = mismatch(0, 0, build_udp(false, 53, 1000, "answer 1", 8));
	const struct evidence *one =
	        answered(ring, udp, build_udp(false, 53, 1000, "answer 2", 8), NULL);

	g_assert_true(one->differs);
	g_assert_cmpuint(one->differs_at, ==, 7);
	udp = mismatch(0, 0, build_udp(false, 53, 1000, "answer", 6));
	one = answered(ring, udp, build_udp(false, 53, 1000, "answers", 7), NULL);
	g_assert_cmpuint(one->differs_at, ==, 6);
	evidence_ring_free(ring);
}

static void test_window(void)
{
	struct evidence_ring *ring = ring_of(8);
	uint8_t bytes[EVIDENCE_WINDOW];
	char pvm[101], svm[101];
	const struct evidence *one;
	uint64_t known;
	uint32_t at;

	for (int i = 0; i < 100; i++)
		pvm[i] = svm[i] = (char)('0' + i % 10);
	pvm[100] = svm[100] = '\0';
	svm[70] = 'X';
	one = answered(ring, mismatch(ISS + 1, 100, segment(ISS + 1, pvm, 0, 0)),
	               segment(ISS + 1, svm, 0, 0), NULL);
	evidence_window(one, &one->svm, &at, bytes, &known);
	g_assert_cmpuint(at, ==, 48); /* the row before that of 70 */
	g_assert_cmpuint(bytes[70 - 48], ==, 'X');
	g_assert_cmphex(known, ==, (1ull << EVIDENCE_WINDOW) - 1);
	svm[90] = '\0'; /* of the last row only the beginning */
	one = answered(ring, mismatch(ISS + 1, 100, segment(ISS + 1, pvm, 0, 0)),
	               segment(ISS + 1, svm, 0, 0), NULL);
	evidence_window(one, &one->svm, &at, bytes, &known);
	g_assert_cmphex(known, ==, (1ull << (90 - 48)) - 1);
	evidence_ring_free(ring);
}

static void test_text(void)
{
	struct evidence_ring *ring = ring_of(2);
	char text[256];
	const struct evidence *one =
	        answered(ring, mismatch(ISS + 1, 3, segment(ISS + 1, "abc", 0, 0)),
	                 segment(ISS + 1, "abX", 0, 0), NULL);

	g_assert_cmpstr(
	        evidence_text(one, text, sizeof(text)), ==,
	        "mismatch in epoch 0: test, tcp 10.0.0.1:80 - 10.0.0.2:1000, stream offset 2");
	evidence_ring_free(ring);
}

/* ---- cutting ---- */

static void test_cut(void)
{
	char *text = g_strnfill(40000, 'a');
	struct frame *super, *cut;
	struct packet packet;
	uint16_t sum;

	text[2500] = 'X';
	super = segment(ISS + 1, text, 0, 1000);
	super->vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	super->vnet.csum_start = 34;
	super->vnet.csum_offset = 16;
	cut = evidence_cut(super, ISS + 1 + 2000, 1000);
	g_assert_cmpint(packet_parse(&packet, cut), ==, 0);
	g_assert_cmpuint(packet.tcp.seq, ==, ISS + 1 + 2000);
	g_assert_cmpuint(packet.payload_len, ==, 1000);
	g_assert_cmpuint(cut->data[packet.payload_off + 500], ==, 'X');
	sum = (uint16_t)(cut->data[packet.l4_off + 16] << 8 | cut->data[packet.l4_off + 17]);
	g_assert_cmphex(sum, ==, packet_l4_checksum(&packet));
	frame_free(cut);
	cut = evidence_cut(super, 0, 0); /* its first segment */
	g_assert_cmpint(packet_parse(&packet, cut), ==, 0);
	g_assert_cmpuint(packet.payload_len, ==, 1000);
	g_assert_cmpuint(packet.tcp.seq, ==, ISS + 1);
	frame_free(cut);
	cut = evidence_cut(super, ISS + 1, 40000); /* as much as is kept */
	g_assert_cmpuint(cut->len, <=, EVIDENCE_PACKET_MAX);
	frame_free(cut);
	frame_free(super);
	super = build_udp(false, 53, 1000, text, 30000);
	cut = evidence_cut(super, 0, 0);
	g_assert_cmpuint(cut->len, ==, EVIDENCE_PACKET_MAX);
	frame_free(cut);
	frame_free(super);
	g_free(text);
}

/* ---- the secondary's memory ---- */

static struct recent *recent_of(uint64_t bytes)
{
	struct recent *recent = NULL;

	g_assert_cmpint(recent_new(&recent, bytes), ==, 0);
	return recent;
}

static void forget(struct recent *recent)
{
	struct frame *frame;

	while ((frame = recent_evict(recent, true)))
		frame_free(frame);
	recent_free(recent);
}

static void test_limits(void)
{
	struct recent *recent = recent_of(100000);
	uint32_t evicted = 0;
	struct frame *frame;

	for (uint32_t i = 0; i < 1000; i++) {
		char text[16];

		g_snprintf(text, sizeof(text), "%u", i);
		recent_keep(recent, segment(1, text, 0, 0), 0, (struct recent_map){0}, i);
		while ((frame = recent_evict(recent, false))) {
			struct packet packet;

			g_assert_cmpint(packet_parse(&packet, frame), ==, 0);
			g_snprintf(text, sizeof(text), "%u", evicted++); /* oldest first */
			g_assert_cmpmem(frame->data + packet.payload_off, packet.payload_len, text,
			                strlen(text));
			frame_free(frame);
		}
	}
	g_assert_cmpuint(evicted, >, 100);
	g_assert_cmpuint(evicted, <, 900);
	forget(recent);
	recent = recent_of(UINT64_MAX);
	for (uint32_t i = 0; i < 2 * RECENT_MAX_FRAMES; i++) {
		recent_keep(recent, build_other(0x88cc), 0, (struct recent_map){0}, i);
		while ((frame = recent_evict(recent, false)))
			frame_free(frame);
	}
	for (evicted = 0; (frame = recent_evict(recent, true)); evicted++)
		frame_free(frame);
	g_assert_cmpuint(evicted, <, RECENT_MAX_FRAMES + 1);
	recent_free(recent);
}

static struct ask ask_for(struct frame *like, enum ask_kind kind, uint32_t seq, uint32_t len)
{
	struct ask ask = {.id = 1, .kind = (uint8_t)kind};

	ask.digest.key = key_of(like);
	ask.digest.seq = seq;
	ask.digest.len = len;
	frame_free(like);
	return ask;
}

/* The SVM's numbers are 100 behind the PVM's. */
static void test_find_segments(void)
{
	static const struct recent_map map = {100, 0};
	struct recent *recent = recent_of(1 << 20);
	struct evidence_side side = {0};
	struct packet packet;
	struct ask ask;

	for (uint32_t i = 0; i < 10; i++)
		recent_keep(recent, segment(ISS + 10 * i, "0123456789", 0, 0), 4, map, i * MS);
	recent_keep(recent, segment(ISS + 30, "9876543210", 0, 0), 5, map, 20 * MS);
	ask = ask_for(segment(1, "", 0, 0), ASK_SAID, ISS + 100 + 25, 10);
	recent_find(recent, &secret, 4, &ask, 30 * MS, &side);
	g_assert_cmpuint(side.count, ==, 2); /* [20, 30) and [30, 40), not those of lineage 5 */
	g_assert_cmpuint(side.packet[0].at_ns, ==, 28 * MS);
	g_assert_cmpint(packet_parse(&packet, side.packet[1].frame), ==, 0);
	g_assert_cmpuint(packet.tcp.seq, ==, ISS + 100 + 30); /* the PVM's numbers */
	g_assert_cmpuint(packet.frame->data[packet.payload_off], ==, '0');
	evidence_side_clear(&side);
	recent_find(recent, &secret, 6, &ask, 30 * MS, &side);
	g_assert_cmpuint(side.count, ==, 0);
	ask.kind = ASK_NEWEST;
	recent_find(recent, &secret, 4, &ask, 30 * MS, &side);
	g_assert_cmpuint(side.count, ==, EVIDENCE_PACKETS);
	g_assert_cmpuint(side.packet[0].at_ns, ==, 24 * MS);
	g_assert_cmpuint(side.packet[3].at_ns, ==, 21 * MS);
	evidence_side_clear(&side);
	ask.digest.key.peer_port++;
	recent_find(recent, &secret, 4, &ask, 30 * MS, &side);
	g_assert_cmpuint(side.count, ==, 0);
	forget(recent);
}

/* A SYN was kept before its mapping was known. */
static struct digest_cut cut_for(const struct ask *ask, const char *bytes, uint32_t at, bool fin)
{
	struct digest_cut cut = {.whole = ask->digest, .at = at};

	digest_stream(&secret, (const uint8_t *)bytes, strlen(bytes), cut.whole.hash);
	cut.whole.len = (uint32_t)strlen(bytes) + fin;
	cut.whole.tcp_flags = fin ? PACKET_FIN : 0;
	return cut;
}

/* A range in two: from the frame that has it whole, in its lineage, in the PVM's numbers. */
static void test_range_in_two(void)
{
	static const struct recent_map map = {100, 0};
	struct recent *recent = recent_of(1 << 20);
	struct ask ask = ask_for(segment(1, "", 0, 0), ASK_SAID, ISS + 100 + 2, 5);
	struct digest_cut cut = cut_for(&ask, "23456", ISS + 100 + 4, false);
	uint8_t hash[16];

	recent_keep(recent, segment(ISS, "0123456789", 0, 0), 4, map, 0);
	recent_keep(recent, segment(ISS, "01xx456789", 0, 0), 4, map, 1);
	recent_keep(recent, segment(ISS + 4, "456789", 0, 0), 4, map, 2);
	g_assert_cmpint(recent_cut(recent, &secret, 4, &cut), ==, 0);
	digest_stream(&secret, (const uint8_t *)"23", 2, hash);
	g_assert_cmpmem(cut.head, 16, hash, 16);
	digest_stream(&secret, (const uint8_t *)"456", 3, hash);
	g_assert_cmpmem(cut.rest, 16, hash, 16);
	cut = cut_for(&ask, "23456", ISS + 100 + 4, true); /* its FIN is not among the bytes */
	g_assert_cmpint(recent_cut(recent, &secret, 4, &cut), ==, 0);
	g_assert_cmpmem(cut.rest, 16, hash, 16);
	g_assert_cmpint(recent_cut(recent, &secret, 5, &cut), ==, -ENOENT);
	cut.at = ISS + 100 + 2;
	g_assert_cmpint(recent_cut(recent, &secret, 4, &cut), ==, -ENOENT);
	cut.at = ISS + 100 + 7;
	g_assert_cmpint(recent_cut(recent, &secret, 4, &cut), ==, -ENOENT);
	cut = cut_for(&ask, "2345678901", ISS + 100 + 4, false); /* goes beyond what is kept */
	g_assert_cmpint(recent_cut(recent, &secret, 4, &cut), ==, -ENOENT);
	cut = cut_for(&ask, "23456", ISS + 100 + 4, false);
	cut.whole.key.peer_port++;
	g_assert_cmpint(recent_cut(recent, &secret, 4, &cut), ==, -ENOENT);
	forget(recent);
}

static void test_find_syn(void)
{
	struct recent *recent = recent_of(1 << 20);
	struct evidence_side side = {0};
	struct packet packet;
	struct ask ask = ask_for(segment(1, "", 0, 0), ASK_SAID, 7777, 1);

	ask.digest.tcp_flags = PACKET_SYN | PACKET_ACK;
	recent_keep(recent, segment(ISS, "", PACKET_SYN, 0), 0, (struct recent_map){0}, 0);
	recent_keep(recent, segment(ISS + 1, "a", 0, 0), 0, (struct recent_map){7777 - ISS, 0}, 0);
	recent_find(recent, &secret, 0, &ask, 0, &side);
	g_assert_cmpuint(side.count, ==, 1);
	g_assert_cmpint(packet_parse(&packet, side.packet[0].frame), ==, 0);
	g_assert_cmpuint(packet.tcp.seq, ==, 7777);
	evidence_side_clear(&side);
	forget(recent);
}

static void test_find_datagram(void)
{
	struct recent *recent = recent_of(1 << 20);
	struct frame *said = build_udp(false, 53, 1000, "two", 3);
	struct evidence_side side = {0};
	struct ask ask = ask_for(frame_copy(said), ASK_SAID, 0, 0);
	struct packet packet;

	g_assert_cmpint(packet_parse(&packet, said), ==, 0);
	g_assert_cmpint(packet_digest_datagram(&packet, &secret, ask.digest.hash), ==, 0);
	recent_keep(recent, build_udp(false, 53, 1000, "one", 3), 0, (struct recent_map){0}, 1);
	recent_keep(recent, said, 0, (struct recent_map){0}, 2);
	recent_keep(recent, build_udp(false, 53, 1000, "three", 5), 0, (struct recent_map){0}, 3);
	recent_find(recent, &secret, 0, &ask, 4, &side);
	g_assert_cmpuint(side.count, ==, 1);
	g_assert_cmpuint(side.packet[0].at_ns, ==, 2);
	g_assert_cmpmem(side.packet[0].frame->data, side.packet[0].frame->len, said->data,
	                said->len);
	evidence_side_clear(&side);
	forget(recent);
}

/* ---- the operator's view ---- */

/* A reply has its limit: the newest are in it, and how many are not. */
static void test_json_limit(void)
{
	char *text = g_strnfill(9000, 'a');
	struct evidence_ring *ring = ring_of(100);
	struct evidence *list;
	json_t *json;
	char *dump;
	uint32_t n;

	for (int i = 0; i < 100; i++) {
		struct evidence one = mismatch(ISS + 1, 9000, segment(ISS + 1, text, 0, 0));

		(void)evidence_add(ring, &one);
	}
	g_assert_cmpint(evidence_copy(ring, UINT32_MAX, true, &list, &n), ==, 0);
	json = divergences_to_json(list, n, 200000);
	dump = json_dumps(json, JSON_COMPACT);
	g_assert_cmpuint(strlen(dump), <, 210000);
	g_assert_cmpuint(strlen(dump), >, 150000);
	n = (uint32_t)json_integer_value(json_object_get(json, "left_out"));
	g_assert_cmpuint(n + json_array_size(json_object_get(json, "divergences")), ==, 100);
	g_assert_cmpint(json_integer_value(json_object_get(
	                        json_array_get(json_object_get(json, "divergences"), 0), "id")),
	                ==, n + 1);
	free(dump);
	json_decref(json);
	evidence_list_free(list, 100);
	evidence_ring_free(ring);
	g_free(text);
}

/* What a daemon of another version, or a liar, may answer. */
static void test_odd_answers(void)
{
	static const char *const answers[] = {
	        "{\"divergences\": [{}]}",
	        "{\"divergences\": [3, null, {\"bytes\": 1, \"primary\": [{\"data\": \"!\"}, 7]}]}",
	        "{\"divergences\": [{\"bytes\": {\"primary\": \"0\", \"secondary\": \"zz\"}}]}",
	};
	FILE *out = tmpfile();

	for (size_t i = 0; i < G_N_ELEMENTS(answers); i++) {
		json_t *json = json_loads(answers[i], 0, NULL);

		g_assert_cmpint(divergences_print(out, json), ==, 0);
		json_decref(json);
	}
	g_assert_cmpint(divergences_print(out, NULL), ==, -EPROTO);
	{
		json_t *json = json_loads(answers[1], 0, NULL);
		char err[100] = "";

		g_assert_cmpint(divergences_pcapng("/dev/null", json, err, sizeof(err)), ==,
		                -EPROTO);
		g_assert_nonnull(strstr(err, "cannot be read"));
		g_assert_cmpint(divergences_pcapng("/dev/full", json, err, sizeof(err)), <, 0);
		json_decref(json);
	}
	fclose(out);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/evidence/quotas", test_quotas);
	g_test_add_func("/evidence/unexpected-answers", test_unexpected_answers);
	g_test_add_func("/evidence/difference", test_difference);
	g_test_add_func("/evidence/datagrams", test_datagrams);
	g_test_add_func("/evidence/window", test_window);
	g_test_add_func("/evidence/text", test_text);
	g_test_add_func("/evidence/cut", test_cut);
	g_test_add_func("/recent/limits", test_limits);
	g_test_add_func("/recent/segments", test_find_segments);
	g_test_add_func("/recent/range-in-two", test_range_in_two);
	g_test_add_func("/recent/syn", test_find_syn);
	g_test_add_func("/recent/datagram", test_find_datagram);
	g_test_add_func("/report/json-limit", test_json_limit);
	g_test_add_func("/report/odd-answers", test_odd_answers);
	return g_test_run();
}
