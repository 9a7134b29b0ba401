/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The gate by itself: digests are made by hand, in the PVM's numbers. One test for each rule; the
 * stream of a connection is byte_at(offset), so that the same offset always has the same byte.
 */
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "colo-proxy/core/gate.h"
#include "tests/unit/tcp_builder.h"

#define MS      1000000ull
#define LATE    (50 * MS)
#define ROOM    256u
#define VM_PORT 80

struct out {
	struct packet packet;
	enum release_why why;
	uint32_t seq, end, ack;
};

/* What a divergence was shown with. */
struct shown {
	uint32_t packets, seq[DIVERGENCE_PACKETS];
	uint64_t arrived;
	struct digest said;
	bool has_said;
};

struct rig {
	struct gate *gate;
	struct packet_digest_key key;
	struct out out[ROOM];
	uint32_t outs;
	struct divergence wanted[ROOM];
	struct shown shown[ROOM];
	uint32_t wants;
	struct flow_open open[ROOM];
	uint32_t opens, open_epoch;
	uint32_t lead, leads, outs_at_lead;
	struct digest_cut cut;
	uint32_t cuts;
	uint64_t now;
};

static void on_release(void *ctx, struct frame *frame, const struct packet *packet,
                       enum release_why why, uint64_t held_ns)
{
	struct rig *r = ctx;
	struct out *out = &r->out[r->outs++];

	(void)held_ns;
	g_assert_cmpuint(r->outs, <, ROOM);
	*out = (struct out){.packet = *packet, .why = why};
	if (packet->class == PACKET_TCP) {
		out->seq = packet->tcp.seq;
		out->end = packet->tcp.seq + packet_seq_len(packet);
		out->ack = packet->tcp.ack;
	}
	frame_free(frame);
}

static void on_request(void *ctx, const struct divergence *why)
{
	struct rig *r = ctx;

	g_assert_nonnull(why->what);
	g_assert_cmpuint(r->wants, <, ROOM);
	for (uint32_t i = 0; i < why->packets; i++)
		r->shown[r->wants].seq[i] = why->packet[i]->tcp.seq;
	r->shown[r->wants].packets = why->packets;
	r->shown[r->wants].arrived = why->packets ? why->arrived[0] : 0;
	r->shown[r->wants].has_said = why->said != NULL;
	if (why->said)
		r->shown[r->wants].said = *why->said;
	r->wanted[r->wants++] = *why;
}

static void on_flow_open(void *ctx, uint32_t epoch, const struct flow_open *open)
{
	struct rig *r = ctx;

	r->open_epoch = epoch;
	r->open[r->opens++] = *open;
}

static void on_ts_lead(void *ctx, uint32_t epoch, uint32_t ticks)
{
	struct rig *r = ctx;

	(void)epoch;
	r->leads++;
	r->lead = ticks;
	r->outs_at_lead = r->outs;
}

static void on_cut(void *ctx, uint32_t epoch, const struct digest *said, uint32_t at)
{
	struct rig *r = ctx;

	g_assert_cmpuint(epoch, ==, gate_epoch(r->gate));
	r->cut = (struct digest_cut){.whole = *said, .at = at};
	r->cuts++;
}

static const struct gate_ops ops = {on_release, on_request, on_flow_open, on_ts_lead, on_cut};

static struct rig *rig_limited(const struct gate_limits *limits)
{
	struct rig *r = g_new0(struct rig, 1);

	memset(r->key.secret, 7, sizeof(r->key.secret));
	g_assert_cmpint(gate_new(&r->gate, limits, &r->key, &ops, r), ==, 0);
	r->now = 1000 * MS;
	return r;
}

static struct rig *rig_new(void)
{
	static const struct gate_limits limits = {
	        .late_ns = LATE,
	        .max_bytes = 1 << 20,
	        .max_packets = 100,
	        .max_flows = 16,
	        .max_digests = 8,
	};
	struct rig *r = rig_limited(&limits);

	gate_cut(r->gate, 0, r->now);
	return r;
}

static void rig_free(struct rig *r)
{
	gate_free(r->gate);
	g_free(r);
}

static uint8_t byte_at(uint32_t offset)
{
	return (uint8_t)(offset * 37 ^ offset >> 8);
}

static const uint8_t *bytes_at(uint32_t seq, uint32_t len)
{
	static uint8_t bytes[70000];

	g_assert_cmpuint(len, <=, sizeof(bytes));
	for (uint32_t i = 0; i < len; i++)
		bytes[i] = byte_at(seq + i);
	return bytes;
}

static struct flow_key tcp_key(void)
{
	struct flow_key key = {.vm_ip = BUILD_VM_IP,
	                       .peer_ip = BUILD_PEER_IP,
	                       .vm_port = VM_PORT,
	                       .peer_port = 1000,
	                       .proto = 6,
	                       .kind = FLOW_TCP};

	return key;
}

static int pvm_frame(struct rig *r, struct frame *f)
{
	return gate_output(r->gate, f, r->now);
}

/* The PVM says [seq, seq + len) with the flags; ACK is set when ack is not 0. */
static void pvm(struct rig *r, uint16_t flags, uint32_t seq, uint32_t len, uint32_t ack)
{
	struct build_tcp t = {.seq = seq,
	                      .len = len,
	                      .ack = ack,
	                      .data = bytes_at(seq, len),
	                      .flags = flags | (ack ? PACKET_ACK : 0)};

	pvm_frame(r, build_tcp(&t));
}

static struct digest segment(const struct rig *r, uint16_t flags, uint32_t seq, uint32_t len,
                             uint32_t ack)
{
	struct digest d = {.key = tcp_key(),
	                   .kind = DIGEST_SEGMENT,
	                   .seq = seq,
	                   .len = len,
	                   .ack = ack,
	                   .tcp_flags = (uint8_t)(flags | (ack ? PACKET_ACK : 0))};

	digest_stream(&r->key, bytes_at(seq, len), len, d.hash);
	d.len += !!(flags & PACKET_FIN);
	return d;
}

static void svm(struct rig *r, uint32_t lineage, uint16_t flags, uint32_t seq, uint32_t len,
                uint32_t ack)
{
	struct digest d = segment(r, flags, seq, len, ack);

	g_assert_cmpint(gate_digest(r->gate, lineage, &d, r->now), ==, 0);
}

static struct build_tcp syn_of(uint32_t iss, uint32_t ack)
{
	return (struct build_tcp){.seq = iss,
	                          .ack = ack,
	                          .mss = 1460,
	                          .has_wscale = true,
	                          .wscale = 7,
	                          .sack_permitted = true,
	                          .flags = PACKET_SYN | (ack ? PACKET_ACK : 0)};
}

static void pvm_syn(struct rig *r, uint32_t iss, uint32_t ack)
{
	struct build_tcp t = syn_of(iss, ack);

	pvm_frame(r, build_tcp(&t));
}

static void svm_syn_as(struct rig *r, uint32_t lineage, uint32_t iss, struct build_tcp t)
{
	struct digest d = {.key = tcp_key(),
	                   .kind = DIGEST_SEGMENT,
	                   .seq = iss,
	                   .len = 1,
	                   .ack = t.ack,
	                   .tcp_flags = (uint8_t)t.flags};
	struct frame *f = build_tcp(&t);
	struct packet p;

	g_assert_cmpint(packet_parse(&p, f), ==, 0);
	digest_syn(&r->key, &p.tcp, d.hash);
	frame_free(f);
	g_assert_cmpint(gate_digest(r->gate, lineage, &d, r->now), ==, 0);
}

static void svm_syn(struct rig *r, uint32_t lineage, uint32_t iss, uint32_t ack)
{
	svm_syn_as(r, lineage, iss, syn_of(iss, ack));
}

static void svm_datagram(struct rig *r, uint32_t lineage, struct frame *f)
{
	struct digest d = {.kind = DIGEST_DATAGRAM};
	struct packet p;

	g_assert_cmpint(packet_parse(&p, f), ==, 0);
	g_assert_cmpint(packet_flow_key(&p, PACKET_FROM_VM, &d.key), ==, 0);
	g_assert_cmpint(packet_digest_datagram(&p, &r->key, d.hash), ==, 0);
	g_assert_cmpint(gate_digest(r->gate, lineage, &d, r->now), ==, 0);
	frame_free(f);
}

static void assert_out(const struct rig *r, uint32_t outs)
{
	g_assert_cmpuint(r->outs, ==, outs);
}

static void assert_wanted(const struct rig *r, enum ckpt_cause cause)
{
	for (uint32_t i = 0; i < r->wants; i++) {
		if (r->wanted[i].cause == cause)
			return;
	}
	g_error("no checkpoint was asked for because of %s", ckpt_cause_name(cause));
}

/* An established connection with both sides at 101 / 501: opened and matched in epoch 0. */
static struct rig *rig_established(void)
{
	struct rig *r = rig_new();

	pvm_syn(r, 100, 501);
	assert_out(r, 0);
	svm_syn(r, 0, 100, 501);
	assert_out(r, 1);
	r->outs = 0;
	return r;
}

/* ---- R1 ---- */

static void test_nothing_but_match_or_commit(void)
{
	struct rig *r = rig_established();

	pvm(r, 0, 101, 50, 501);
	pvm_frame(r, build_udp(false, 53, 2000, "x", 1));
	pvm_frame(r, build_other(0x88cc));
	pvm_frame(r, build_arp(1, BUILD_PEER_IP));
	r->now += 3600000 * MS;
	g_assert_cmpuint(gate_tick(r->gate, r->now), ==, UINT64_MAX);
	for (int i = 0; i < 200; i++)
		pvm_frame(r, build_udp(false, 53, 2000, "x", 1));
	gate_break(r->gate, CKPT_PRESSURE, "test", r->now);
	gate_commit(r->gate, 0, r->now);
	gate_commit(r->gate, 1, r->now); /* not cut yet */
	assert_out(r, 0);
	gate_cut(r->gate, 1, r->now);
	assert_out(r, 0);
	gate_commit(r->gate, 1, r->now);
	assert_out(r, 204);
	for (uint32_t i = 0; i < r->outs; i++)
		g_assert_cmpint(r->out[i].why, ==, RELEASE_COMMIT);
	rig_free(r);
}

static void test_unprotected(void)
{
	static const struct gate_limits limits = {LATE, 1 << 20, 100, 16, 8, 0};
	struct rig *r = rig_limited(&limits);

	pvm(r, 0, 1, 10, 5);
	assert_out(r, 1);
	g_assert_cmpint(r->out[0].why, ==, RELEASE_UNPROTECTED);
	gate_cut(r->gate, 0, r->now);
	pvm(r, 0, 11, 10, 5);
	assert_out(r, 1);
	gate_unprotect(r->gate, r->now);
	assert_out(r, 2);
	g_assert_false(gate_is_protected(r->gate));
	pvm(r, 0, 21, 10, 5);
	assert_out(r, 3);
	gate_cut(r->gate, 0, r->now); /* protected again: the old epochs are gone */
	pvm(r, 0, 31, 10, 5);
	assert_out(r, 3);
	svm(r, 0, 0, 31, 10, 5);
	assert_out(r, 4);
	/* What broke a lineage ends with the protection. */
	gate_break(r->gate, CKPT_PRESSURE, "test", r->now);
	gate_unprotect(r->gate, r->now);
	gate_cut(r->gate, 0, r->now);
	pvm(r, 0, 41, 10, 5);
	svm(r, 0, 0, 41, 10, 5);
	assert_out(r, 5);
	rig_free(r);
}

static void test_free_releases_nothing(void)
{
	struct rig *r = rig_established();
	struct rig *copy = r;

	pvm(r, 0, 101, 50, 501);
	gate_free(copy->gate);
	assert_out(r, 0);
	g_free(r);
}

static void test_commit_only_what_is_before(void)
{
	struct rig *r = rig_established();

	pvm(r, 0, 101, 10, 501);
	gate_cut(r->gate, 1, r->now);
	pvm(r, 0, 111, 10, 501);
	gate_cut(r->gate, 2, r->now);
	pvm(r, 0, 121, 10, 501);
	gate_commit(r->gate, 1, r->now);
	assert_out(r, 1);
	gate_commit(r->gate, 1, r->now);
	assert_out(r, 1);
	gate_commit(r->gate, 2, r->now);
	assert_out(r, 2);
	gate_commit(r->gate, 1, r->now); /* said again: the newest is still 2 */
	svm(r, 2, 0, 121, 10, 501);
	assert_out(r, 3);
	rig_free(r);
}

/* What the old secondary has acknowledged is not the new one's word. */
static void test_protected_anew(void)
{
	struct rig *r = rig_established();

	svm(r, 0, 0, 101, 0, 900);
	gate_unprotect(r->gate, r->now);
	gate_cut(r->gate, 0, r->now);
	pvm(r, 0, 101, 0, 900);
	assert_out(r, 0);
	svm(r, 0, 0, 101, 0, 900);
	assert_out(r, 1);
	rig_free(r);
}

/* ---- lineages ---- */

static void test_lineage_tags(void)
{
	struct rig *r = rig_established();
	struct digest future = segment(r, 0, 101, 10, 501);
	struct gate_stats stats;

	gate_cut(r->gate, 1, r->now);
	pvm(r, 0, 101, 10, 501);
	svm(r, 0, 0, 101, 10, 501); /* the old lineage said it, not this one */
	assert_out(r, 0);
	g_assert_cmpint(gate_digest(r->gate, 2, &future, r->now), ==, -EPROTO);
	gate_commit(r->gate, 1, r->now);
	assert_out(r, 0);
	svm(r, 0, 0, 101, 10, 501);
	assert_out(r, 0);
	gate_get_stats(r->gate, &stats);
	g_assert_cmpuint(stats.digests_stale, ==, 1);
	svm(r, 1, 0, 101, 10, 501);
	assert_out(r, 1);
	g_assert_cmpint(r->out[0].why, ==, RELEASE_MATCH);
	rig_free(r);
}

static void test_old_lineage_matches_old_epoch(void)
{
	struct rig *r = rig_established();

	pvm(r, 0, 101, 10, 501);
	gate_cut(r->gate, 1, r->now);
	pvm(r, 0, 111, 10, 501);
	svm(r, 0, 0, 101, 20, 501); /* lineage 0 has come as far as the PVM in epoch 1 */
	assert_out(r, 0);           /* a range is verified whole, and half of it is epoch 1's */
	gate_commit(r->gate, 1, r->now);
	assert_out(r, 1);
	rig_free(r);
	r = rig_established();
	pvm(r, 0, 101, 10, 501);
	gate_cut(r->gate, 1, r->now);
	svm(r, 0, 0, 101, 10, 501);
	assert_out(r, 1);
	g_assert_cmpint(r->out[0].why, ==, RELEASE_MATCH);
	rig_free(r);
}

/* Two checkpoints on their way: a digest of the oldest lineage leaves the newest view alone. */
static void test_digest_two_epochs_late(void)
{
	struct rig *r = rig_established();

	gate_cut(r->gate, 1, r->now);
	gate_cut(r->gate, 2, r->now);
	svm(r, 2, 0, 101, 10, 501);
	svm(r, 0, 0, 101, 0, 501);
	gate_commit(r->gate, 2, r->now);
	pvm(r, 0, 101, 10, 501);
	assert_out(r, 1);
	rig_free(r);
}

static void test_retransmission_across_the_cut(void)
{
	struct rig *r = rig_established();

	pvm(r, 0, 101, 10, 501);
	svm(r, 0, 0, 101, 10, 501);
	assert_out(r, 1);
	gate_cut(r->gate, 1, r->now);
	pvm(r, 0, 101, 10, 501);
	assert_out(r, 1); /* nothing of an epoch goes before its checkpoint is committed */
	gate_commit(r->gate, 1, r->now);
	assert_out(r, 2); /* it is in C(1): no digest is needed */
	pvm(r, 0, 101, 15, 501);
	assert_out(r, 2); /* 111 to 116 are new */
	svm(r, 1, 0, 111, 5, 501);
	assert_out(r, 3);
	rig_free(r);
}

static void test_old_connection(void)
{
	static const struct gate_limits limits = {LATE, 1 << 20, 100, 16, 8, 0};
	struct rig *r = rig_limited(&limits);

	/* Seen before protection: the cut's numbers are known, not what was said. */
	pvm(r, 0, 1000, 10, 7);
	gate_cut(r->gate, 0, r->now);
	pvm(r, 0, 1010, 5, 8);
	svm(r, 0, 0, 1010, 5, 7);
	assert_out(r, 1);
	svm(r, 0, 0, 1015, 0, 8);
	assert_out(r, 2);
	pvm(r, 0, 1005, 5, 7);
	assert_out(r, 2);
	gate_cut(r->gate, 1, r->now);
	gate_commit(r->gate, 1, r->now);
	assert_out(r, 3);
	rig_free(r);
	/* Older than this program: the SVM's first word says where coverage begins. */
	r = rig_limited(&limits);
	gate_cut(r->gate, 0, r->now);
	pvm(r, 0, 990, 10, 7);
	svm(r, 0, 0, 1000, 5, 7);
	pvm(r, 0, 1000, 5, 7);
	assert_out(r, 0);
	rig_free(r);
}

/* ---- R2: TCP ---- */

static void test_bytes(void)
{
	struct rig *r = rig_established();
	struct digest d = segment(r, 0, 111, 10, 501);
	struct gate_stats stats;

	pvm(r, 0, 101, 10, 501);
	pvm(r, 0, 111, 10, 501);
	pvm(r, 0, 121, 10, 501);
	d.hash[3] ^= 1;
	svm(r, 0, 0, 101, 10, 501);
	assert_out(r, 1);
	gate_digest(r->gate, 0, &d, r->now);
	svm(r, 0, 0, 121, 10, 501);
	svm(r, 0, 0, 111, 10, 501);
	assert_out(r, 1);
	assert_wanted(r, CKPT_MISMATCH);
	g_assert_cmpuint(r->wanted[0].seq, ==, 111);
	gate_get_stats(r->gate, &stats);
	g_assert_cmpuint(stats.by_class[PACKET_TCP].mismatched, ==,
	                 1); /* and no more is compared */
	gate_cut(r->gate, 1, r->now);
	gate_commit(r->gate, 1, r->now);
	assert_out(r, 3);
	rig_free(r);
	/* A range over several frames. */
	r = rig_established();
	d = segment(r, 0, 101, 20, 501);
	d.hash[15] ^= 1;
	pvm(r, 0, 101, 10, 501);
	pvm(r, 0, 111, 10, 501);
	gate_digest(r->gate, 0, &d, r->now);
	assert_out(r, 0);
	assert_wanted(r, CKPT_MISMATCH);
	rig_free(r);
}

/* A frame of the SVM's was lost on its way to the shadow: the range is told later, out of order. */
static void test_hole(void)
{
	struct rig *r = rig_established();

	pvm(r, 0, 101, 10, 501);
	pvm(r, 0, 111, 10, 501);
	pvm(r, 0, 121, 10, 501);
	svm(r, 0, 0, 121, 10, 501);
	svm(r, 0, 0, 111, 10, 501);
	assert_out(r, 0);
	svm(r, 0, 0, 101, 10, 501);
	assert_out(r, 3);
	g_assert_cmpuint(r->wants, ==, 0);
	rig_free(r);
	/* The first range of a lineage begins in the checkpoint and ends behind it. */
	r = rig_established();
	pvm(r, 0, 101, 10, 501);
	svm(r, 0, 0, 101, 10, 501);
	gate_cut(r->gate, 1, r->now);
	gate_commit(r->gate, 1, r->now);
	pvm(r, 0, 106, 10, 501);
	svm(r, 1, 0, 106, 10, 501);
	assert_out(r, 2);
	g_assert_cmpuint(r->wants, ==, 0);
	rig_free(r);
	/* Of a connection that it has seen from its SYN on, the SVM tells each byte once. */
	r = rig_new();
	pvm_syn(r, 100, 501);
	svm_syn(r, 0, 100, 501);
	pvm(r, 0, 101, 10, 501);
	svm(r, 0, 0, 101, 10, 501);
	assert_out(r, 2);
	svm(r, 0, 0, 106, 10, 501);
	assert_wanted(r, CKPT_MISMATCH);
	rig_free(r);
	/* Of what is repeated only the FIN is new. */
	r = rig_established();
	pvm(r, 0, 101, 10, 501);
	svm(r, 0, 0, 101, 10, 501);
	gate_cut(r->gate, 1, r->now);
	gate_commit(r->gate, 1, r->now);
	pvm(r, PACKET_FIN, 111, 0, 501);
	svm(r, 1, PACKET_FIN, 101, 10, 501);
	assert_out(r, 2);
	g_assert_cmpuint(r->wants, ==, 0);
	rig_free(r);
}

static void test_segmentation(void)
{
	struct rig *r = rig_established();

	pvm(r, 0, 101, 30, 501); /* the SVM in smaller pieces */
	svm(r, 0, 0, 101, 7, 501);
	svm(r, 0, 0, 108, 13, 501);
	assert_out(r, 0);
	svm(r, 0, 0, 121, 10, 501);
	assert_out(r, 1);
	svm(r, 0, 0, 131, 30, 501); /* ahead, and in a larger piece */
	pvm(r, 0, 131, 10, 501);
	pvm(r, 0, 141, 10, 501);
	assert_out(r, 1);
	pvm(r, 0, 151, 10, 501);
	assert_out(r, 4);
	g_assert_cmpuint(r->wants, ==, 0);
	rig_free(r);
}

static void test_ahead_and_behind(void)
{
	struct rig *r = rig_established();

	svm(r, 0, 0, 101, 10, 501);
	svm(r, 0, 0, 111, 10, 502);
	pvm(r, 0, 101, 10, 501);
	assert_out(r, 1);
	pvm(r, 0, 111, 10, 502);
	assert_out(r, 2);
	pvm(r, 0, 121, 10, 502);
	pvm(r, 0, 131, 10, 502);
	svm(r, 0, 0, 121, 10, 502);
	assert_out(r, 3);
	svm(r, 0, 0, 131, 10, 502);
	assert_out(r, 4);
	rig_free(r);
}

static void test_acknowledgements(void)
{
	struct rig *r = rig_established();

	pvm(r, 0, 101, 0, 600);
	pvm(r, 0, 101, 10, 600);
	svm(r, 0, 0, 101, 10, 599);
	assert_out(r, 0);
	svm(r, 0, 0, 111, 0, 600);
	assert_out(r, 2);
	pvm(r, 0, 111, 0, 590); /* older than what the SVM has acknowledged */
	assert_out(r, 3);
	pvm(r, 0, 111, 0, 601);
	assert_out(r, 3);
	svm(r, 0, 0, 111, 0, 700);
	assert_out(r, 4);
	rig_free(r);
}

static void test_fin(void)
{
	struct rig *r = rig_established();

	/* The FIN behind the data in one VM, with it in the other, both ways round. */
	pvm(r, PACKET_FIN, 101, 10, 501);
	svm(r, 0, 0, 101, 10, 501);
	assert_out(r, 0);
	svm(r, 0, PACKET_FIN, 111, 0, 501);
	assert_out(r, 1);
	rig_free(r);
	r = rig_established();
	pvm(r, 0, 101, 10, 501);
	svm(r, 0, PACKET_FIN, 101, 10, 501);
	assert_out(r, 1);
	pvm(r, PACKET_FIN, 111, 0, 501);
	assert_out(r, 2);
	rig_free(r);
	r = rig_established();
	pvm(r, PACKET_FIN, 101, 10, 501); /* the SVM goes on instead */
	svm(r, 0, 0, 101, 10, 501);
	svm(r, 0, 0, 111, 10, 501);
	assert_out(r, 0);
	assert_wanted(r, CKPT_MISMATCH);
	rig_free(r);
	r = rig_established();
	pvm(r, 0, 101, 20, 501); /* the SVM ends where the PVM goes on */
	svm(r, 0, PACKET_FIN, 101, 10, 501);
	assert_out(r, 0);
	assert_wanted(r, CKPT_MISMATCH);
	rig_free(r);
	r = rig_established();
	svm(r, 0, PACKET_FIN, 101, 0, 501); /* the SVM ends first, and the PVM does not */
	pvm(r, 0, 101, 1, 501);
	assert_out(r, 0);
	assert_wanted(r, CKPT_MISMATCH);
	rig_free(r);
}

static void test_reset(void)
{
	struct rig *r = rig_established();

	pvm(r, PACKET_RST, 101, 0, 501);
	assert_out(r, 0);
	svm(r, 0, PACKET_RST, 102, 0, 501);
	assert_out(r, 0);
	svm(r, 0, PACKET_RST, 101, 0, 501);
	assert_out(r, 1);
	rig_free(r);
	/* A closed port: the answer belongs to one SYN. */
	r = rig_new();
	svm(r, 0, PACKET_RST, 0, 0, 900);
	pvm(r, PACKET_RST, 0, 0, 800);
	assert_out(r, 0);
	svm(r, 0, PACKET_RST, 0, 0, 800);
	assert_out(r, 1);
	rig_free(r);
}

static void test_syn_options(void)
{
	struct build_tcp changed[4];
	struct rig *r;

	for (int i = 0; i < 4; i++) {
		changed[i] = syn_of(100, 501);
		r = rig_new();
		pvm_syn(r, 100, 501);
		if (i == 0)
			changed[i].mss = 536;
		if (i == 1)
			changed[i].wscale = 6;
		if (i == 2)
			changed[i].sack_permitted = false;
		if (i == 3)
			changed[i].has_ts = true;
		svm_syn_as(r, 0, 100, changed[i]);
		assert_out(r, 0);
		assert_wanted(r, CKPT_MISMATCH);
		rig_free(r);
	}
	r = rig_new();
	changed[0] = syn_of(100, 501);
	changed[0].window = 1234;
	pvm_syn(r, 100, 501);
	svm_syn_as(r, 0, 100, changed[0]);
	assert_out(r, 1);
	rig_free(r);
}

static void test_wrap(void)
{
	struct rig *r = rig_new();
	uint32_t seq = 0xfffffff0u, ack = 0xfffffffau;

	pvm_syn(r, seq - 1, ack);
	svm_syn(r, 0, seq - 1, ack);
	assert_out(r, 1);
	pvm(r, 0, seq, 40, ack);
	pvm(r, 0, seq + 40, 10, 20);
	svm(r, 0, 0, seq, 40, ack);
	assert_out(r, 2);
	svm(r, 0, 0, seq + 40, 10, 19);
	assert_out(r, 2);
	svm(r, 0, 0, seq + 50, 0, 20);
	assert_out(r, 3);
	rig_free(r);
}

/* More than half of the sequence space in one epoch. */
static void test_long_epoch(void)
{
	struct rig *r = rig_established();
	uint32_t seq = 101, outs = 0;

	for (int i = 0; i < 40000; i++, seq += 60000) {
		pvm(r, 0, seq, 60000, 501);
		svm(r, 0, 0, seq, 60000, 501);
		outs += r->outs;
		r->outs = 0;
	}
	g_assert_cmpuint(outs, ==, 40000);
	rig_free(r);
}

/* ---- connections ---- */

static void test_open(void)
{
	struct rig *r = rig_new();

	pvm_syn(r, 100, 501); /* the client's connection */
	g_assert_cmpuint(r->opens, ==, 1);
	g_assert_true(r->open[0].has_ack && r->open[0].iss == 100 && r->open[0].ack == 501);
	pvm(r, 0, 101, 10, 501);
	svm(r, 0, 0, 101, 10, 501); /* without its SYN nothing counts: the mapping is unknown */
	assert_out(r, 0);
	svm_syn(r, 0, 100, 501);
	svm(r, 0, 0, 101, 10, 501);
	assert_out(r, 2);
	rig_free(r);
	r = rig_new();
	pvm_syn(r, 100, 0); /* the VM's own */
	g_assert_cmpuint(r->opens, ==, 1);
	g_assert_false(r->open[0].has_ack);
	svm_syn(r, 0, 100, 0);
	assert_out(r, 1);
	pvm(r, 0, 101, 0, 900);
	assert_out(r, 1);
	svm(r, 0, 0, 101, 0, 900);
	assert_out(r, 2);
	rig_free(r);
}

static void test_syn_again_in_the_next_epoch(void)
{
	struct rig *r = rig_new();

	pvm_syn(r, 100, 501);
	gate_cut(r->gate, 1, r->now);
	pvm_syn(r, 100, 501);
	g_assert_cmpuint(r->opens, ==, 2);
	g_assert_cmpuint(r->open_epoch, ==, 1);
	gate_commit(r->gate, 1, r->now);
	assert_out(r, 2);
	svm_syn(r, 1, 100, 501);
	pvm(r, 0, 101, 10, 501);
	svm(r, 1, 0, 101, 10, 501);
	assert_out(r, 3);
	g_assert_cmpuint(r->wants, ==, 0);
	pvm_syn(r, 100, 501);
	g_assert_cmpuint(r->opens, ==, 2);
	rig_free(r);
}

static void test_tuple_reuse(void)
{
	struct rig *r = rig_established();

	/* What the SVM still says of the old connection must not serve the new one. */
	pvm_syn(r, 70000, 301);
	svm_syn(r, 0, 100, 301);
	svm(r, 0, 0, 101, 0, 560);
	svm(r, 0, PACKET_RST, 70001, 0, 560);
	assert_out(r, 0);
	svm_syn(r, 0, 70000, 301);
	assert_out(r, 1);
	pvm(r, 0, 70001, 0, 400);
	assert_out(r, 1);
	pvm(r, PACKET_RST, 70001, 0, 301);
	svm(r, 0, 0, 70001, 0, 400);
	assert_out(r, 2);
	g_assert_cmpuint(r->wants, ==, 0);
	rig_free(r);
	/* Frames of the old connection that wait are the commit's, and come first. */
	r = rig_established();
	pvm(r, 0, 101, 10, 501);
	pvm_syn(r, 70000, 801);
	svm_syn(r, 0, 70000, 801);
	assert_out(r, 0);
	gate_cut(r->gate, 1, r->now);
	gate_commit(r->gate, 1, r->now);
	assert_out(r, 2);
	g_assert_cmpuint(r->out[0].seq, ==, 101);
	rig_free(r);
	/* An old acknowledgement is not the new connection's, even when the SVM's is beyond it. */
	r = rig_established();
	pvm(r, 0, 101, 0, 600);
	pvm_syn(r, 70000, 801);
	svm_syn(r, 0, 70000, 801);
	assert_out(r, 0);
	rig_free(r);
}

static void test_order_in_flow(void)
{
	struct rig *r = rig_established();

	pvm(r, 0, 101, 10, 510);
	pvm(r, 0, 111, 10, 501);
	svm(r, 0, 0, 101, 20, 501); /* both are covered; the first one's acknowledgement is not */
	assert_out(r, 0);
	svm(r, 0, 0, 121, 0, 510);
	assert_out(r, 2);
	g_assert_cmpuint(r->out[0].seq, ==, 101);
	g_assert_cmpuint(r->out[1].seq, ==, 111);
	rig_free(r);
}

static void test_exempt(void)
{
	struct rig *r = rig_established();
	struct build_tcp t = {.seq = 101,
	                      .len = 5,
	                      .data = bytes_at(101, 5),
	                      .ack = 501,
	                      .flags = PACKET_ACK | PACKET_URG};
	struct build_tcp open = syn_of(9000, 700);

	pvm_frame(r, build_tcp(&t));
	svm(r, 0, 0, 101, 5, 501);
	open.fastopen = true;
	pvm_frame(r, build_tcp(&open));
	assert_out(r, 0);
	g_assert_cmpuint(r->opens, ==, 1);
	rig_free(r);
}

/* The SVM has said the beginning of a frame and waits: that goes out by itself, and no more. It may
 * be a packet whose Ethernet header is only known. */
static void check_split(bool linked)
{
	struct build_tcp t = {
	        .seq = 101, .len = 30, .ack = 501, .data = bytes_at(101, 30), .flags = PACKET_ACK};
	struct rig *r = rig_established();
	struct frame *frame = build_tcp(&t);
	struct gate_stats stats;

	pvm_frame(r, linked ? build_linked(frame) : frame);
	svm(r, 0, 0, 101, 10, 501);
	assert_out(r, 0);
	r->now = gate_tick(r->gate, r->now);
	g_assert_cmpuint(r->now, <, 1000 * MS + LATE);
	gate_tick(r->gate, r->now);
	assert_out(r, 1);
	g_assert_cmpuint(r->out[0].end, ==, 111);
	gate_tick(r->gate, r->now + LATE);
	assert_out(r, 1);
	svm(r, 0, 0, 111, 20, 501);
	assert_out(r, 2);
	g_assert_cmpuint(r->out[1].seq, ==, 111);
	g_assert_cmpuint(r->out[1].end, ==, 131);
	/* Repeated whole, from the cut on, or up to it. */
	pvm(r, 0, 101, 30, 501);
	pvm(r, 0, 111, 20, 501);
	pvm(r, 0, 101, 10, 501);
	assert_out(r, 5);
	gate_get_stats(r->gate, &stats);
	g_assert_cmpuint(stats.frames_cut, ==, 1);
	g_assert_cmpuint(stats.now_packets, ==, 0);
	g_assert_cmpuint(stats.now_bytes, ==, 0);
	g_assert_cmpuint(stats.by_class[PACKET_TCP].held_bytes, ==,
	                 stats.by_class[PACKET_TCP].matched_bytes);
	rig_free(r);
}

static void test_split(void)
{
	check_split(false);
	check_split(true);
}

/* A superframe that cannot be cut waits for all of it. Each of its segments may be repeated then.
 */
static void test_split_refused(void)
{
	struct build_tcp t = {.seq = 101,
	                      .len = 30,
	                      .ack = 501,
	                      .data = bytes_at(101, 30),
	                      .flags = PACKET_ACK,
	                      .gso_size = 10};
	struct rig *r = rig_established();
	struct frame *frame = build_linked(build_tcp(&t));
	struct gate_stats stats;

	frame->linked = false;
	pvm_frame(r, frame);
	svm(r, 0, 0, 101, 5, 501);
	gate_tick(r->gate, r->now += LATE / 2);
	assert_out(r, 0);
	gate_get_stats(r->gate, &stats);
	g_assert_cmpuint(stats.frames_cut, ==, 0);
	svm(r, 0, 0, 106, 25, 501);
	assert_out(r, 1);
	for (uint32_t seq = 101; seq < 131; seq += 10)
		pvm(r, 0, seq, 10, 501);
	assert_out(r, 4);
	rig_free(r);
}

/* Ticks until the gate asks for a range in two, or has nothing to do before something is late. */
static void tick_for_a_cut(struct rig *r)
{
	uint32_t cuts = r->cuts;
	uint64_t end = r->now + LATE / 2;

	while (r->cuts == cuts && r->now < end) {
		uint64_t next = gate_tick(r->gate, r->now);

		g_assert_cmpuint(next, >, r->now);
		if (r->cuts == cuts)
			r->now = next < end ? next : end;
	}
}

/* The secondary's answer, for the bytes of byte_at(). */
static int answer_cut(struct rig *r)
{
	const struct digest *whole = &r->cut.whole;
	uint32_t end = whole->seq + whole->len - !!(whole->tcp_flags & PACKET_FIN);

	digest_stream(&r->key, bytes_at(whole->seq, r->cut.at - whole->seq), r->cut.at - whole->seq,
	              r->cut.head);
	digest_stream(&r->key, bytes_at(r->cut.at, end - r->cut.at), end - r->cut.at, r->cut.rest);
	return gate_digest_cut(r->gate, 0, &r->cut, r->now);
}

/* The SVM has said more at a time than the PVM, which waits for an acknowledgement of its part. */
static void test_cut(void)
{
	struct rig *r = rig_established();

	pvm(r, 0, 101, 10, 501);
	pvm(r, 0, 111, 10, 501);
	svm(r, 0, PACKET_FIN, 101, 50, 501);
	assert_out(r, 0);
	tick_for_a_cut(r);
	g_assert_cmpuint(r->cuts, ==, 1);
	g_assert_true(r->cut.at == 121 && r->cut.whole.seq == 101 && r->cut.whole.len == 51);
	tick_for_a_cut(r);
	g_assert_cmpuint(r->cuts, ==, 1); /* once */
	assert_out(r, 0);
	g_assert_cmpint(answer_cut(r), ==, 0);
	assert_out(r, 2);
	g_assert_cmpuint(r->out[1].end, ==, 121);
	g_assert_cmpint(answer_cut(r), ==, 0); /* it does not wait any more */
	pvm(r, 0, 121, 10, 501);               /* stops within the rest */
	tick_for_a_cut(r);
	g_assert_cmpuint(r->cuts, ==, 2);
	g_assert_true(r->cut.at == 131 && r->cut.whole.seq == 121);
	g_assert_cmpint(answer_cut(r), ==, 0);
	assert_out(r, 3);
	pvm(r, PACKET_FIN, 131, 20, 501);
	assert_out(r, 4);
	g_assert_cmpuint(r->wants, ==, 0);
	rig_free(r);
}

/* One that moves on, or waits for its commit, is not asked for. */
static void test_cut_not_asked(void)
{
	struct rig *r = rig_established();

	pvm(r, 0, 101, 10, 501);
	svm(r, 0, 0, 101, 30, 501);
	for (int i = 0; i < 10; i++) {
		r->now += 2 * MS;
		gate_tick(r->gate, r->now);
		if (i < 9)
			pvm(r, 0, 111 + 2 * (uint32_t)i, 2, 501);
	}
	g_assert_cmpuint(r->cuts, ==, 0);
	pvm(r, 0, 129, 2, 501);
	assert_out(r, 11);
	gate_cut(r->gate, 1, r->now);
	pvm(r, 0, 131, 10, 501);
	svm(r, 1, 0, 131, 30, 501);
	tick_for_a_cut(r);
	g_assert_cmpuint(r->cuts, ==, 0);
	gate_commit(r->gate, 1, r->now);
	tick_for_a_cut(r);
	g_assert_cmpuint(r->cuts, ==, 1);
	rig_free(r);
}

static void test_cut_bad_answers(void)
{
	struct rig *r = rig_established();
	struct digest_cut cut;

	pvm(r, 0, 101, 10, 501);
	svm(r, 0, 0, 101, 50, 501);
	tick_for_a_cut(r);
	g_assert_cmpuint(r->cuts, ==, 1);
	cut = r->cut;
	cut.at = 101;
	g_assert_cmpint(gate_digest_cut(r->gate, 0, &cut, r->now), ==, -EPROTO);
	cut.at = 151;
	g_assert_cmpint(gate_digest_cut(r->gate, 0, &cut, r->now), ==, -EPROTO);
	cut = r->cut;
	cut.whole.tcp_flags |= PACKET_SYN;
	g_assert_cmpint(gate_digest_cut(r->gate, 0, &cut, r->now), ==, -EPROTO);
	g_assert_cmpint(gate_digest_cut(r->gate, 1, &r->cut, r->now), ==, -EPROTO);
	cut = r->cut;
	cut.at++; /* not where it was asked for */
	g_assert_cmpint(gate_digest_cut(r->gate, 0, &cut, r->now), ==, 0);
	cut = r->cut;
	cut.whole.hash[3] ^= 1; /* another range */
	g_assert_cmpint(gate_digest_cut(r->gate, 0, &cut, r->now), ==, 0);
	cut = r->cut;
	cut.whole.key.peer_port++; /* a flow that is not known */
	g_assert_cmpint(gate_digest_cut(r->gate, 0, &cut, r->now), ==, 0);
	assert_out(r, 0);
	g_assert_cmpuint(r->wants, ==, 0);
	/* Hashes of other bytes: the SVM has said something else. */
	g_assert_cmpint(gate_digest_cut(r->gate, 0, &r->cut, r->now), ==, 0);
	assert_out(r, 0);
	g_assert_cmpuint(r->wants, ==, 1);
	g_assert_cmpuint(r->wanted[0].cause, ==, CKPT_MISMATCH);
	rig_free(r);
}

/* ---- R2: datagrams ---- */

static void test_datagrams(void)
{
	struct rig *r = rig_new();

	pvm_frame(r, build_udp(false, 53, 2000, "one", 3));
	pvm_frame(r, build_udp(false, 53, 2000, "two", 3));
	svm_datagram(r, 0, build_udp(false, 53, 2000, "one", 3));
	assert_out(r, 1);
	svm_datagram(r, 0, build_udp(false, 53, 2001, "two", 3)); /* another flow */
	assert_out(r, 1);
	svm_datagram(r, 0, build_udp(false, 53, 2000, "two", 3));
	assert_out(r, 2);
	svm_datagram(r, 0, build_udp(false, 53, 2000, "x", 1)); /* ahead */
	svm_datagram(r, 0, build_udp(false, 53, 2000, "y", 1));
	pvm_frame(r, build_udp(false, 53, 2000, "x", 1));
	pvm_frame(r, build_udp(false, 53, 2000, "y", 1));
	assert_out(r, 4);
	g_assert_cmpuint(r->wants, ==, 0);
	pvm_frame(r, build_udp(false, 53, 2000, "a", 1));
	svm_datagram(r, 0, build_udp(false, 53, 2000, "b", 1));
	assert_out(r, 4);
	assert_wanted(r, CKPT_MISMATCH);
	svm_datagram(r, 0, build_udp(false, 53, 2000, "a", 1));
	assert_out(r, 4);
	rig_free(r);
}

static void udp_pvm(struct rig *r, const char *word)
{
	pvm_frame(r, build_udp(false, 53, 2000, word, (uint32_t)strlen(word)));
}

static void udp_svm(struct rig *r, const char *word)
{
	svm_datagram(r, 0, build_udp(false, 53, 2000, word, (uint32_t)strlen(word)));
}

/* The SVM's other order is none of the client's business: the PVM's is what goes out. */
static void test_datagram_order(void)
{
	struct rig *r = rig_new();

	udp_pvm(r, "a");
	udp_pvm(r, "b");
	udp_svm(r, "b");
	assert_out(r, 0);
	udp_svm(r, "a");
	assert_out(r, 2);
	g_assert_cmpuint(r->out[0].why, ==, RELEASE_MATCH);
	udp_svm(r, "d"); /* the SVM is ahead */
	udp_svm(r, "c");
	udp_pvm(r, "c");
	assert_out(r, 3);
	udp_pvm(r, "d");
	assert_out(r, 4);
	g_assert_cmpuint(r->wants, ==, 0);
	rig_free(r);
}

/* An answer that only the PVM gave is late, and holds up what is behind it. */
static void test_datagram_pvm_only(void)
{
	struct rig *r = rig_new();

	udp_pvm(r, "a");
	udp_pvm(r, "b");
	udp_svm(r, "b");
	assert_out(r, 0);
	g_assert_cmpuint(r->wants, ==, 0);
	gate_tick(r->gate, r->now + LATE);
	assert_wanted(r, CKPT_LATE);
	assert_out(r, 0);
	rig_free(r);
}

/* One that only the SVM gave, or gave twice, is passed over: for good once the PVM goes on without
 * it, or could have said it for as long as it would wait for the SVM. */
static void test_datagram_svm_only(void)
{
	struct rig *r = rig_new();

	udp_svm(r, "a");
	udp_svm(r, "b");
	udp_pvm(r, "b");
	assert_out(r, 1);
	udp_pvm(r, "c"); /* "a" is no other answer than this one's */
	g_assert_cmpuint(r->wants, ==, 0);
	udp_svm(r, "c");
	assert_out(r, 2);
	udp_svm(r, "c"); /* twice */
	r->now += LATE + 1;
	udp_pvm(r, "d");
	g_assert_cmpuint(r->wants, ==, 0);
	udp_svm(r, "d");
	assert_out(r, 3);
	udp_pvm(r, "e");
	udp_svm(r, "f");
	assert_wanted(r, CKPT_MISMATCH);
	rig_free(r);
}

static void test_icmp_arp(void)
{
	struct rig *r = rig_new();

	pvm_frame(r, build_echo(false, false, 7, 1));
	svm_datagram(r, 0, build_echo(false, false, 7, 1));
	pvm_frame(r, build_arp(2, BUILD_PEER_IP));
	svm_datagram(r, 0, build_arp(2, BUILD_PEER_IP));
	assert_out(r, 2);
	pvm_frame(r, build_echo(false, false, 7, 2));
	svm_datagram(r, 0, build_echo(false, false, 7, 3));
	assert_out(r, 2);
	assert_wanted(r, CKPT_MISMATCH);
	rig_free(r);
}

/* Datagrams of an epoch count from its cut. */
static void test_datagrams_across_the_cut(void)
{
	struct rig *r = rig_new();

	svm_datagram(r, 0, build_udp(false, 53, 2000, "old", 3));
	gate_cut(r->gate, 1, r->now);
	pvm_frame(r, build_udp(false, 53, 2000, "old", 3));
	gate_commit(r->gate, 1, r->now);
	assert_out(r, 0);
	svm_datagram(r, 1, build_udp(false, 53, 2000, "old", 3));
	assert_out(r, 1);
	rig_free(r);
}

/* ---- giving up, limits ---- */

static void test_break(void)
{
	struct rig *r = rig_established();

	pvm(r, 0, 101, 10, 501);
	gate_break(r->gate, CKPT_PRESSURE, "test", r->now);
	assert_wanted(r, CKPT_PRESSURE);
	svm(r, 0, 0, 101, 10, 501);
	assert_out(r, 0);
	gate_cut(r->gate, 1, r->now);
	svm(r, 0, 0, 111, 0, 501); /* the cut does not mend the lineage that runs */
	assert_out(r, 0);
	pvm(r, 0, 111, 10, 501);
	gate_commit(r->gate, 1, r->now);
	assert_out(r, 1);
	svm(r, 1, 0, 111, 10, 501); /* the next one is whole */
	assert_out(r, 2);
	/* Input that is lost while a checkpoint is on its way is lost for both lineages. */
	pvm(r, 0, 121, 10, 501);
	gate_cut(r->gate, 2, r->now);
	pvm(r, 0, 131, 10, 501);
	gate_break(r->gate, CKPT_PRESSURE, "test", r->now);
	svm(r, 1, 0, 121, 10, 501);
	assert_out(r, 2);
	gate_commit(r->gate, 2, r->now);
	svm(r, 2, 0, 131, 10, 501);
	assert_out(r, 3);
	rig_free(r);
}

static void test_late(void)
{
	struct rig *r = rig_established();
	uint64_t due;

	g_assert_cmpuint(gate_tick(r->gate, r->now), ==, UINT64_MAX);
	pvm(r, 0, 101, 10, 501);
	due = gate_tick(r->gate, r->now);
	g_assert_cmpuint(due, ==, r->now + LATE);
	gate_tick(r->gate, due - 1);
	g_assert_cmpuint(r->wants, ==, 0);
	g_assert_cmpuint(gate_tick(r->gate, due), ==, UINT64_MAX);
	assert_wanted(r, CKPT_LATE);
	gate_tick(r->gate, due + LATE);
	g_assert_cmpuint(r->wants, ==, 1); /* once in an epoch */
	/* In the next epoch the wait counts from the commit: before, nobody could say it. */
	gate_cut(r->gate, 1, r->now);
	pvm(r, 0, 111, 10, 501);
	g_assert_cmpuint(gate_tick(r->gate, r->now + 10 * LATE), ==, UINT64_MAX);
	gate_commit(r->gate, 1, r->now + 10 * LATE);
	g_assert_cmpuint(gate_tick(r->gate, r->now + 10 * LATE), ==, r->now + 11 * LATE);
	gate_tick(r->gate, r->now + 11 * LATE);
	g_assert_cmpuint(r->wants, ==, 2);
	rig_free(r);
}

/* The SVM says it this long after the PVM. Returns whether a checkpoint was asked for, and taken,
 * before. */
static bool say_late(struct rig *r, uint32_t *epoch, uint32_t seq, uint64_t lag)
{
	uint32_t wants = r->wants = 0, outs = r->outs = 0;

	pvm(r, 0, seq, 10, 501);
	for (uint64_t end = r->now + lag; r->now < end; r->now += MS) {
		gate_tick(r->gate, r->now);
		if (r->wants == wants)
			continue;
		assert_wanted(r, CKPT_LATE);
		gate_cut(r->gate, ++*epoch, r->now);
		gate_commit(r->gate, *epoch, r->now);
		g_assert_cmpuint(r->outs, ==, outs + 1);
		return true;
	}
	svm(r, *epoch, 0, seq, 10, 501);
	g_assert_cmpuint(r->outs, ==, outs + 1);
	g_assert_cmpuint(r->out[outs].why, ==, RELEASE_MATCH);
	return false;
}

static uint64_t late_wait(const struct rig *r)
{
	struct gate_stats stats;

	gate_get_stats(r->gate, &stats);
	return stats.late_wait_ns;
}

/* An SVM that is behind by more than late_ns is waited for, once that is known, and no longer when
 * it has caught up. What is measured counts from the commit: before, the SVM could not say it. */
static void test_late_adapts(void)
{
	static const struct gate_limits limits = {LATE, 1 << 20, 100, 16, 8, 10 * LATE};
	struct rig *r = rig_limited(&limits);
	uint32_t epoch = 0, late = 0, seq = 101;

	gate_cut(r->gate, 0, r->now);
	g_assert_cmpuint(late_wait(r), ==, LATE);
	for (uint32_t i = 0; i < 50; i++, seq += 10) {
		late += say_late(r, &epoch, seq, 3 * LATE);
		g_assert_true(i > 2 || late == (i < 2 ? i + 1 : 2)); /* 1, 2, 4 times LATE */
	}
	g_assert_cmpuint(late, ==, 2);
	g_assert_cmpuint(late_wait(r), >=, 3 * LATE);
	for (uint32_t i = 0; i < 50; i++, seq += 10) {
		g_assert_false(say_late(r, &epoch, seq, 0));
		r->now += 100 * MS;
	}
	g_assert_cmpuint(late_wait(r), ==, LATE);
	gate_cut(r->gate, ++epoch, r->now);
	r->outs = 0;
	pvm(r, 0, seq, 10, 501);
	r->now += 9 * LATE;
	gate_commit(r->gate, epoch, r->now);
	svm(r, epoch, 0, seq, 10, 501);
	assert_out(r, 1);
	g_assert_cmpuint(late_wait(r), ==, LATE);
	rig_free(r);
}

/* An epoch that is not compared: what the SVM says, or the checkpoint has, lets nothing out. */
static void test_not_comparing(void)
{
	struct rig *r = rig_established();
	uint32_t outs;

	gate_set_comparing(r->gate, false); /* from the next cut on: this epoch goes on as it is */
	pvm(r, 0, 101, 10, 501);
	svm(r, 0, 0, 101, 10, 501);
	outs = r->outs;
	g_assert_cmpuint(r->out[outs - 1].end, ==, 111);
	g_assert_false(gate_epoch_has_output(r->gate));
	gate_cut(r->gate, 1, r->now);
	gate_commit(r->gate, 1, r->now);
	pvm(r, 0, 101, 10, 501); /* again: the checkpoint has it */
	pvm(r, 0, 111, 10, 501);
	svm(r, 1, 0, 111, 10, 501);
	g_assert_cmpuint(r->outs, ==, outs);
	g_assert_true(gate_epoch_has_output(r->gate));
	/* Nobody waits for the SVM. */
	g_assert_cmpuint(gate_tick(r->gate, r->now + 10 * LATE), ==, UINT64_MAX);
	svm(r, 1, PACKET_FIN, 111, 10, 501); /* it differs, and nobody asks for a checkpoint */
	g_assert_cmpuint(r->wants, ==, 0);
	gate_set_comparing(r->gate, true);
	gate_cut(r->gate, 2, r->now);
	g_assert_cmpuint(r->outs, ==, outs);
	gate_commit(r->gate, 2, r->now);
	g_assert_cmpuint(r->outs, ==, outs + 2);
	g_assert_cmpuint(r->out[outs].why, ==, RELEASE_COMMIT);
	pvm(r, 0, 121, 10, 501);
	svm(r, 2, 0, 121, 10, 501);
	g_assert_cmpuint(r->outs, ==, outs + 3);
	g_assert_cmpuint(r->out[outs + 2].why, ==, RELEASE_MATCH);
	rig_free(r);
}

static void test_uncompared(void)
{
	struct rig *r = rig_new();

	pvm_frame(r, build_other(0x86dd));
	assert_wanted(r, CKPT_UNCOMPARED); /* nothing to wait for */
	pvm_frame(r, build_other(0x86dd));
	gate_tick(r->gate, r->now + LATE);
	g_assert_cmpuint(r->wants, ==, 1); /* one for the epoch */
	assert_out(r, 0);
	gate_cut(r->gate, 1, r->now);
	pvm_frame(r, build_other(0x86dd));
	g_assert_cmpuint(r->wants, ==, 2);
	gate_commit(r->gate, 1, r->now);
	assert_out(r, 2);
	gate_set_comparing(r->gate, false);
	gate_cut(r->gate, 2, r->now);
	pvm_frame(r, build_other(0x86dd));
	g_assert_cmpuint(r->wants, ==, 2); /* the policy takes its checkpoints anyway */
	rig_free(r);
}

/* ---- evidence ---- */

static void test_evidence_of_a_mismatch(void)
{
	struct rig *r = rig_established();
	struct digest other;

	for (uint32_t i = 0; i < 8; i++) {
		r->now = (1001 + i) * MS;
		pvm(r, 0, 101 + 10 * i, 10, 501);
	}
	svm(r, 0, 0, 101, 20, 501); /* the first two are equal, and gone */
	assert_out(r, 2);
	other = segment(r, 0, 121, 25, 501);
	other.hash[0] ^= 1;
	g_assert_cmpint(gate_digest(r->gate, 0, &other, r->now), ==, 0);
	g_assert_cmpuint(r->wants, ==, 1);
	g_assert_true(r->wanted[0].has_key && r->wanted[0].iss_known);
	g_assert_cmpuint(r->wanted[0].iss, ==, 100);
	g_assert_cmpuint(r->wanted[0].seq, ==, 121);
	g_assert_cmpuint(r->wanted[0].len, ==, 25);
	g_assert_cmpuint(r->shown[0].packets, ==, 3); /* 121, 131, 141 */
	g_assert_cmpuint(r->shown[0].seq[0], ==, 121);
	g_assert_cmpuint(r->shown[0].seq[2], ==, 141);
	g_assert_cmpuint(r->shown[0].arrived, ==, 1003 * MS);
	g_assert_true(r->shown[0].has_said);
	g_assert_cmpmem(r->shown[0].said.hash, 16, other.hash, 16);
	rig_free(r);
}

static void test_evidence_of_others(void)
{
	struct rig *r = rig_established();

	pvm(r, 0, 101, 10, 501);
	gate_tick(r->gate, r->now + LATE);
	g_assert_cmpint(r->wanted[0].cause, ==, CKPT_LATE);
	g_assert_cmpuint(r->shown[0].packets, ==, 1);
	g_assert_cmpuint(r->shown[0].seq[0], ==, 101);
	g_assert_false(r->shown[0].has_said);
	gate_cut(r->gate, 1, r->now);
	gate_commit(r->gate, 1, r->now);
	pvm_frame(r, build_udp(false, 53, 2000, "a", 1));
	svm_datagram(r, 1, build_udp(false, 53, 2000, "b", 1));
	g_assert_cmpint(r->wanted[1].cause, ==, CKPT_MISMATCH);
	g_assert_cmpint(r->wanted[1].key.kind, ==, FLOW_UDP);
	g_assert_cmpuint(r->shown[1].packets, ==, 1);
	g_assert_true(r->shown[1].has_said);
	gate_cut(r->gate, 2, r->now);
	pvm_frame(r, build_other(0x88cd));
	gate_tick(r->gate, r->now + LATE);
	g_assert_cmpint(r->wanted[2].cause, ==, CKPT_UNCOMPARED);
	g_assert_false(r->wanted[2].has_key);
	g_assert_cmpuint(r->shown[2].packets, ==, 1);
	rig_free(r);
}

/* ---- the operator's rules ---- */

static const struct policy flows = {
        .rule = {{.number = 1,
                  .action = POLICY_BYPASS,
                  .match = POLICY_IP,
                  .value = 17,
                  .vm_port = {53, 53}},
                 {.number = 2, .action = POLICY_COMMIT, .match = POLICY_IP, .value = 6},
                 {.number = 3,
                  .action = POLICY_BYPASS,
                  .match = POLICY_ETHERTYPE,
                  .value = 0x88cc}},
        .count = 3,
};

static void test_bypass(void)
{
	struct rig *r = rig_new();
	struct gate_stats stats;

	gate_set_policy(r->gate, &flows);
	pvm_frame(r, build_udp(false, 53, 2000, "a", 1));
	pvm_frame(r, build_udp(false, 54, 2000, "a", 1)); /* no rule: compared */
	pvm_frame(r, build_other(0x88cc));
	assert_out(r, 2);
	g_assert_cmpint(r->out[0].why, ==, RELEASE_BYPASS);
	g_assert_cmpint(r->out[1].why, ==, RELEASE_BYPASS);
	/* What the SVM says of such a flow is heard, and means nothing. */
	for (int i = 0; i < 20; i++)
		svm_datagram(r, 0, build_udp(false, 53, 2000, "b", 1));
	pvm_frame(r, build_udp(false, 53, 2000, "c", 1));
	assert_out(r, 3);
	g_assert_cmpuint(r->wants, ==, 0);
	svm_datagram(r, 0, build_udp(false, 54, 2000, "a", 1));
	assert_out(r, 4);
	g_assert_cmpint(r->out[3].why, ==, RELEASE_MATCH);
	gate_get_stats(r->gate, &stats);
	g_assert_cmpuint(stats.by_class[PACKET_UDP].bypassed_packets, ==, 2);
	g_assert_cmpuint(stats.by_class[PACKET_UDP].held_packets, ==, 1);
	g_assert_cmpuint(stats.now_packets, ==, 0);
	rig_free(r);
}

/* Released by commit only, although the SVM says the same; and it asks for the checkpoint. */
static void test_commit_rule(void)
{
	struct rig *r = rig_new();

	gate_set_policy(r->gate, &flows);
	pvm_syn(r, 100, 501);
	svm_syn(r, 0, 100, 501);
	pvm(r, 0, 101, 10, 501);
	assert_wanted(r, CKPT_UNCOMPARED);
	for (uint32_t i = 0; i < 20; i++)
		svm(r, 0, 0, 101 + 10 * i, 10, 501);
	assert_out(r, 0);
	g_assert_cmpuint(r->opens, ==, 0); /* the client hears of it when the checkpoint has it */
	gate_tick(r->gate, r->now + LATE);
	g_assert_cmpuint(r->wants, ==, 1);
	gate_cut(r->gate, 1, r->now);
	gate_commit(r->gate, 1, r->now);
	assert_out(r, 2);
	g_assert_cmpint(r->out[0].why, ==, RELEASE_COMMIT);
	rig_free(r);
}

/* A full table holds no bypassed flow back: the rules are asked without an entry for it. */
static void test_bypass_of_a_full_table(void)
{
	static const struct gate_limits limits = {LATE, 1 << 20, 100, 2, 8, 0};
	struct rig *r = rig_limited(&limits);

	gate_set_policy(r->gate, &flows);
	gate_cut(r->gate, 0, r->now);
	pvm_frame(r, build_udp(false, 60, 2000, "a", 1));
	pvm_frame(r, build_udp(false, 61, 2000, "a", 1));
	assert_out(r, 0);
	pvm_frame(r, build_udp(false, 53, 2000, "a", 1));
	assert_out(r, 1);
	g_assert_cmpint(r->out[0].why, ==, RELEASE_BYPASS);
	rig_free(r);
}

static void test_room(void)
{
	static const struct gate_limits limits = {LATE, 1000, 6, 16, 8, 0};
	struct rig *r = rig_limited(&limits);

	gate_cut(r->gate, 0, r->now);
	for (int i = 0; i < 3; i++)
		pvm_frame(r, build_udp(false, 53, 2000, "x", 1));
	g_assert_cmpuint(r->wants, ==, 0);
	pvm_frame(r, build_udp(false, 53, 2000, "x", 1));
	assert_wanted(r, CKPT_PRESSURE);
	g_assert_true(gate_has_room(r->gate));
	pvm_frame(r, build_udp(false, 53, 2000, "x", 1));
	pvm_frame(r, build_udp(false, 53, 2000, "x", 1));
	g_assert_false(gate_has_room(r->gate));
	pvm_frame(r, build_udp(false, 53, 2000, "x", 1)); /* is kept all the same */
	gate_cut(r->gate, 1, r->now);
	gate_commit(r->gate, 1, r->now);
	assert_out(r, 7);
	g_assert_true(gate_has_room(r->gate));
	pvm(r, 0, 1, 2000, 1);
	g_assert_false(gate_has_room(r->gate)); /* by bytes */
	rig_free(r);
}

static void test_full_table(void)
{
	static const struct gate_limits limits = {LATE, 1 << 20, 100, 2, 8, 0};
	struct rig *r = rig_limited(&limits);
	struct gate_stats stats;

	gate_cut(r->gate, 0, r->now);
	for (uint16_t port = 1; port <= 3; port++)
		pvm_frame(r, build_udp(false, 53, port, "x", 1));
	assert_wanted(r, CKPT_PRESSURE);
	for (uint16_t port = 1; port <= 3; port++)
		svm_datagram(r, 0, build_udp(false, 53, port, "x", 1));
	assert_out(r, 2); /* the third is nobody's flow: it waits for the commit */
	gate_cut(r->gate, 1, r->now);
	gate_commit(r->gate, 1, r->now);
	assert_out(r, 3);
	for (uint16_t port = 4; port <= 5; port++)
		pvm_frame(r, build_udp(false, 53, port, "x", 1));
	gate_get_stats(r->gate, &stats);
	g_assert_cmpuint(stats.now_flows, <=, 2);
	g_assert_cmpuint(stats.flows_evicted, >=, 2);
	rig_free(r);
}

static void test_too_far_ahead(void)
{
	struct rig *r = rig_established();

	for (uint32_t i = 0; i < 9; i++)
		svm(r, 0, 0, 101 + i * 10, 10, 501);
	assert_wanted(r, CKPT_PRESSURE);
	pvm(r, 0, 101, 10, 501); /* the flow is given up for this epoch, from its beginning */
	assert_out(r, 0);
	rig_free(r);
	r = rig_new();
	for (uint32_t i = 0; i < 9; i++)
		svm_datagram(r, 0, build_udp(false, 53, 2000, "x", 1));
	assert_wanted(r, CKPT_PRESSURE);
	pvm_frame(r, build_udp(false, 53, 2000, "x", 1));
	assert_out(r, 0);
	rig_free(r);
}

/* All flows together hold no more digests than packets may be held. */
static void test_digests_of_all_flows(void)
{
	static const struct gate_limits limits = {LATE, 1 << 20, 4, 100, 8, 0};
	struct rig *r = rig_limited(&limits);

	gate_cut(r->gate, 0, r->now);
	for (uint16_t port = 1; port <= 4; port++)
		svm_datagram(r, 0, build_udp(false, 53, port, "x", 1));
	g_assert_cmpuint(r->wants, ==, 0);
	svm_datagram(r, 0, build_udp(false, 53, 5, "x", 1));
	assert_wanted(r, CKPT_PRESSURE);
	pvm_frame(r, build_udp(false, 53, 5, "x", 1));
	assert_out(r, 0);
	pvm_frame(r, build_udp(false, 53, 1, "x", 1));
	assert_out(r, 1);
	rig_free(r);
}

static void test_lying_digests(void)
{
	struct rig *r = rig_established();
	struct digest d = segment(r, 0, 101, 10, 501);

	pvm(r, 0, 101, 10, 501);
	d.tcp_flags |= PACKET_SYN; /* ten bytes covered by a SYN */
	g_assert_cmpint(gate_digest(r->gate, 0, &d, r->now), ==, -EPROTO);
	d = segment(r, 0, 101, 0, 501);
	d.tcp_flags |= PACKET_FIN;
	g_assert_cmpint(gate_digest(r->gate, 0, &d, r->now), ==, -EPROTO);
	d = segment(r, 0, 101, 10, 501);
	d.kind = DIGEST_DATAGRAM;
	g_assert_cmpint(gate_digest(r->gate, 0, &d, r->now), ==, -EPROTO);
	d.kind = DIGEST_SEGMENT;
	d.key.kind = FLOW_UDP;
	g_assert_cmpint(gate_digest(r->gate, 0, &d, r->now), ==, -EPROTO);
	d.key.kind = FLOW_TCP;
	d.len = UINT32_MAX;
	g_assert_cmpint(gate_digest(r->gate, 0, &d, r->now), ==, -EPROTO);
	assert_out(r, 0);
	rig_free(r);
}

/* ---- R7 ---- */

static void say_ts(struct rig *r, uint32_t seq, uint32_t tsval)
{
	struct build_tcp t = {.seq = seq,
	                      .len = 10,
	                      .data = bytes_at(seq, 10),
	                      .ack = 501,
	                      .flags = PACKET_ACK,
	                      .has_ts = true,
	                      .tsval = tsval};

	pvm_frame(r, build_tcp(&t));
}

static void hear_ts(struct rig *r, uint32_t seq, uint32_t tsval)
{
	struct digest d = segment(r, 0, seq, 10, 501);

	d.has_ts = true;
	d.tsval = tsval;
	g_assert_cmpint(gate_digest(r->gate, 0, &d, r->now), ==, 0);
}

static void test_ts_lead(void)
{
	struct rig *r = rig_established();

	say_ts(r, 101, 1000);
	hear_ts(r, 101, 1010); /* the SVM's clock is ahead: nothing to tell */
	g_assert_cmpuint(r->leads, ==, 0);
	say_ts(r, 111, 1300);
	hear_ts(r, 111, 1020);
	g_assert_cmpuint(r->leads, ==, 1);
	g_assert_cmpuint(r->lead, >=, 280);
	g_assert_cmpuint(r->outs_at_lead, ==, 1); /* told before the packet is out */
	assert_out(r, 2);
	say_ts(r, 121, 1310);
	hear_ts(r, 121, 1025);
	g_assert_cmpuint(r->leads, ==, 1); /* within what has been told */
	rig_free(r);
	/* Nothing is known of the SVM's clock: no more than the time since the cut. */
	r = rig_established();
	say_ts(r, 101, 5000);
	hear_ts(r, 101, 5000);
	gate_cut(r->gate, 1, r->now);
	r->now += 400 * MS;
	gate_commit(r->gate, 1, r->now);
	say_ts(r, 101, 5400);
	assert_out(r, 2);
	g_assert_cmpuint(r->leads, ==, 1);
	g_assert_cmpuint(r->lead, >=, 400);
	rig_free(r);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/gate/r1/nothing-but-match-or-commit", test_nothing_but_match_or_commit);
	g_test_add_func("/gate/r1/unprotected", test_unprotected);
	g_test_add_func("/gate/r1/protected-anew", test_protected_anew);
	g_test_add_func("/gate/r1/free", test_free_releases_nothing);
	g_test_add_func("/gate/r1/commit", test_commit_only_what_is_before);
	g_test_add_func("/gate/lineage/tags", test_lineage_tags);
	g_test_add_func("/gate/lineage/old-epoch", test_old_lineage_matches_old_epoch);
	g_test_add_func("/gate/lineage/two-epochs-late", test_digest_two_epochs_late);
	g_test_add_func("/gate/lineage/retransmission", test_retransmission_across_the_cut);
	g_test_add_func("/gate/lineage/old-connection", test_old_connection);
	g_test_add_func("/gate/tcp/bytes", test_bytes);
	g_test_add_func("/gate/tcp/hole", test_hole);
	g_test_add_func("/gate/tcp/segmentation", test_segmentation);
	g_test_add_func("/gate/tcp/ahead-and-behind", test_ahead_and_behind);
	g_test_add_func("/gate/tcp/acknowledgements", test_acknowledgements);
	g_test_add_func("/gate/tcp/fin", test_fin);
	g_test_add_func("/gate/tcp/reset", test_reset);
	g_test_add_func("/gate/tcp/syn-options", test_syn_options);
	g_test_add_func("/gate/tcp/wrap", test_wrap);
	g_test_add_func("/gate/tcp/open", test_open);
	g_test_add_func("/gate/tcp/syn-again", test_syn_again_in_the_next_epoch);
	g_test_add_func("/gate/tcp/tuple-reuse", test_tuple_reuse);
	g_test_add_func("/gate/tcp/order", test_order_in_flow);
	g_test_add_func("/gate/tcp/exempt", test_exempt);
	g_test_add_func("/gate/tcp/split", test_split);
	g_test_add_func("/gate/tcp/split-refused", test_split_refused);
	g_test_add_func("/gate/tcp/cut", test_cut);
	g_test_add_func("/gate/tcp/cut-not-asked", test_cut_not_asked);
	g_test_add_func("/gate/tcp/cut-bad-answers", test_cut_bad_answers);
	g_test_add_func("/gate/datagram/udp", test_datagrams);
	g_test_add_func("/gate/datagram/icmp-arp", test_icmp_arp);
	g_test_add_func("/gate/datagram/cut", test_datagrams_across_the_cut);
	g_test_add_func("/gate/break", test_break);
	g_test_add_func("/gate/datagram/order", test_datagram_order);
	g_test_add_func("/gate/datagram/pvm-only", test_datagram_pvm_only);
	g_test_add_func("/gate/datagram/svm-only", test_datagram_svm_only);
	g_test_add_func("/gate/late", test_late);
	g_test_add_func("/gate/late/adapts", test_late_adapts);
	g_test_add_func("/gate/not-comparing", test_not_comparing);
	g_test_add_func("/gate/uncompared", test_uncompared);
	g_test_add_func("/gate/evidence/mismatch", test_evidence_of_a_mismatch);
	g_test_add_func("/gate/evidence/others", test_evidence_of_others);
	g_test_add_func("/gate/rules/bypass", test_bypass);
	g_test_add_func("/gate/rules/commit", test_commit_rule);
	g_test_add_func("/gate/rules/full-table", test_bypass_of_a_full_table);
	g_test_add_func("/gate/r8/room", test_room);
	g_test_add_func("/gate/r8/full-table", test_full_table);
	g_test_add_func("/gate/r8/too-far-ahead", test_too_far_ahead);
	g_test_add_func("/gate/r8/digests", test_digests_of_all_flows);
	g_test_add_func("/gate/lying-digests", test_lying_digests);
	g_test_add_func("/gate/ts-lead", test_ts_lead);
	g_test_add_func("/gate/long/epoch", test_long_epoch); /* the slowest, last */
	return g_test_run();
}
