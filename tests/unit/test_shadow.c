/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The shadow by itself: what it tells of the SVM's output, when it knows the mapping, and what it
 * does to numbers in both directions before and after a takeover.
 */
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "colo-proxy/core/shadow.h"
#include "tests/unit/tcp_builder.h"

#define MS   1000000ull
#define ROOM 64u

struct rig {
	struct shadow *shadow;
	struct digest told[ROOM];
	uint32_t tolds;
	uint32_t refeeds, refeed_seq;
	uint64_t now;
};

static void on_digest(void *ctx, uint32_t lineage, const struct digest *digest)
{
	struct rig *r = ctx;

	(void)lineage;
	g_assert_cmpuint(r->tolds, <, ROOM);
	r->told[r->tolds++] = *digest;
}

static void on_refeed(void *ctx, const struct flow_key *key, uint32_t seq)
{
	struct rig *r = ctx;

	(void)key;
	r->refeed_seq = seq;
	r->refeeds++;
}

static const struct shadow_ops ops = {.digest = on_digest, .refeed = on_refeed};

static struct rig *rig_new(uint32_t max_flows)
{
	static const struct packet_digest_key key = {{9}};
	struct rig *r = g_new0(struct rig, 1);

	g_assert_cmpint(shadow_new(&r->shadow, max_flows, &key, &ops, r), ==, 0);
	shadow_lineage(r->shadow, 1);
	r->now = 1000 * MS;
	return r;
}

static void rig_free(struct rig *r)
{
	shadow_free(r->shadow);
	g_free(r);
}

static struct build_tcp segment(uint16_t flags, uint32_t seq, uint32_t len, uint32_t ack)
{
	static const uint8_t zeros[4000];

	return (struct build_tcp){.flags = flags | (ack ? PACKET_ACK : 0),
	                          .seq = seq,
	                          .len = len,
	                          .ack = ack,
	                          .data = zeros};
}

static void svm_says(struct rig *r, struct build_tcp t)
{
	struct frame *f = build_tcp(&t);

	shadow_output(r->shadow, f, r->now);
	frame_free(f);
}

static void svm(struct rig *r, uint16_t flags, uint32_t seq, uint32_t len, uint32_t ack)
{
	svm_says(r, segment(flags, seq, len, ack));
}

static struct flow_open opening(uint32_t iss, uint32_t ack)
{
	return (struct flow_open){
	        .key = {.vm_ip = BUILD_VM_IP,
	                .peer_ip = BUILD_PEER_IP,
	                .vm_port = 80,
	                .peer_port = 1000,
	                .proto = 6,
	                .kind = FLOW_TCP},
	        .iss = iss,
	        .has_ack = ack != 0,
	        .ack = ack,
	};
}

static void opened(struct rig *r, uint32_t epoch, uint32_t iss, uint32_t ack)
{
	struct flow_open open = opening(iss, ack);

	shadow_flow_open(r->shadow, epoch, &open, r->now);
}

/* What the frame's numbers are after the function. */
static struct packet_tcp
through(struct rig *r, void (*fn)(struct shadow *, struct frame *, uint64_t), struct build_tcp t)
{
	struct frame *f = build_tcp(&t);
	struct packet p;
	struct packet_tcp tcp;

	fn(r->shadow, f, r->now);
	g_assert_cmpint(packet_parse(&p, f), ==, 0);
	g_assert_cmpuint(packet_l4_checksum(&p), ==, f->data[50] << 8 | f->data[51]);
	tcp = p.tcp;
	frame_free(f);
	return tcp;
}

static void assert_told(const struct rig *r, uint32_t i, uint32_t seq, uint32_t len, uint32_t ack)
{
	g_assert_cmpuint(r->tolds, >, i);
	g_assert_cmpuint(r->told[i].seq, ==, seq);
	g_assert_cmpuint(r->told[i].len, ==, len);
	g_assert_cmpuint(r->told[i].ack, ==, ack);
}

static void test_each_byte_once(void)
{
	struct rig *r = rig_new(16);

	svm(r, 0, 100, 10, 5);
	svm(r, 0, 100, 10, 5); /* a retransmission */
	svm(r, 0, 105, 10, 5); /* half of it new */
	svm(r, 0, 115, 0, 6);  /* a bare acknowledgement */
	svm(r, 0, 115, 0, 6);
	svm(r, PACKET_FIN, 115, 0, 6);
	svm(r, PACKET_FIN, 105, 10, 6); /* all of it known */
	g_assert_cmpuint(r->tolds, ==, 4);
	assert_told(r, 0, 100, 10, 5);
	assert_told(r, 1, 110, 5, 5);
	assert_told(r, 2, 115, 0, 6);
	assert_told(r, 3, 115, 1, 6);
	g_assert_true(r->told[3].tcp_flags & PACKET_FIN);
	rig_free(r);
}

/* A frame of the SVM's is lost in the guest, or overtaken: it is told when it comes. */
static void test_hole(void)
{
	struct rig *r = rig_new(16);
	struct build_tcp in = segment(0, 5, 0, 100);

	in.from_peer = true;
	svm(r, 0, 100, 10, 5);
	through(r, shadow_input, in); /* what was before the first is no hole */
	svm(r, 0, 120, 10, 5);
	svm(r, 0, 110, 5, 5);
	svm(r, 0, 112, 18, 5); /* the rest, and what is known */
	svm(r, 0, 110, 20, 5);
	g_assert_cmpuint(r->tolds, ==, 4);
	assert_told(r, 1, 120, 10, 5);
	assert_told(r, 2, 110, 5, 5);
	assert_told(r, 3, 115, 5, 5);
	/* One hole at a time: what is behind the second is told when it is repeated. */
	svm(r, 0, 135, 5, 5);
	svm(r, 0, 145, 5, 5);
	g_assert_cmpuint(r->tolds, ==, 5);
	/* What the client has acknowledged will not come, and is in no one's way. */
	in.ack = 150;
	through(r, shadow_input, in);
	svm(r, 0, 145, 5, 5);
	g_assert_cmpuint(r->tolds, ==, 6);
	assert_told(r, 5, 145, 5, 5);
	rig_free(r);
	/* The first segment of a lineage that is heard is not the first one. */
	r = rig_new(16);
	svm(r, 0, 110, 10, 5);
	svm(r, 0, 100, 10, 5);
	g_assert_cmpuint(r->tolds, ==, 2);
	assert_told(r, 1, 100, 10, 5);
	rig_free(r);
}

static void test_superframe_in_pieces(void)
{
	struct rig *r = rig_new(16);
	struct build_tcp t = segment(PACKET_FIN, 0xfffffff0u, 250, 5);

	t.gso_size = 100;
	svm_says(r, t);
	g_assert_cmpuint(r->tolds, ==, 3);
	assert_told(r, 0, 0xfffffff0u, 100, 5);
	assert_told(r, 1, 84, 100, 5);
	assert_told(r, 2, 184, 51, 5);
	g_assert_false(r->told[1].tcp_flags & PACKET_FIN);
	g_assert_true(r->told[2].tcp_flags & PACKET_FIN);
	rig_free(r);
}

static void test_mapping(void)
{
	struct rig *r = rig_new(16);

	svm(r, PACKET_SYN, 100, 0, 501);
	g_assert_cmpuint(r->tolds, ==, 0); /* the PVM's number is not known */
	g_assert_cmpuint(shadow_last_map(r->shadow).seq_delta, ==, 0);
	opened(r, 0, 9999, 501); /* another lineage's */
	g_assert_cmpuint(r->tolds, ==, 0);
	opened(r, 1, 5000, 501);
	assert_told(r, 0, 5000, 1, 501);
	svm(r, 0, 101, 10, 501);
	assert_told(r, 1, 5001, 10, 501);
	g_assert_cmpuint(shadow_last_map(r->shadow).seq_delta, ==, 4900);
	g_assert_cmpuint(
	        through(r, shadow_input,
	                (struct build_tcp){
	                        .from_peer = true, .flags = PACKET_ACK, .seq = 501, .ack = 5011})
	                .ack,
	        ==, 111);
	svm(r, PACKET_SYN, 100, 0, 501); /* a retransmission */
	g_assert_cmpuint(r->tolds, ==, 2);
	/* The PVM first. */
	shadow_lineage(r->shadow, 2);
	opened(r, 2, 5000, 501);
	svm(r, PACKET_SYN, 300, 0, 501);
	assert_told(r, 2, 5000, 1, 501);
	/* Handshakes of two different SYNs are never one connection. */
	shadow_lineage(r->shadow, 3);
	opened(r, 3, 5000, 501);
	svm(r, PACKET_SYN, 300, 0, 777);
	g_assert_cmpuint(r->tolds, ==, 3);
	rig_free(r);
}

static void test_timestamp_mapping(void)
{
	struct rig *r = rig_new(16);
	struct build_tcp syn = segment(PACKET_SYN, 100, 0, 501), t = segment(0, 101, 10, 501);
	struct flow_open open = {
	        .key = {.vm_ip = BUILD_VM_IP,
	                .peer_ip = BUILD_PEER_IP,
	                .vm_port = 80,
	                .peer_port = 1000,
	                .proto = 6,
	                .kind = FLOW_TCP},
	        .iss = 5000,
	        .has_ack = true,
	        .ack = 501,
	        .has_ts = true,
	        .tsval = 70000,
	};

	syn.has_ts = t.has_ts = true;
	syn.tsval = 1000;
	t.tsval = 1010;
	shadow_flow_open(r->shadow, 1, &open, r->now);
	svm_says(r, syn);
	svm_says(r, t);
	assert_told(r, 1, 5001, 10, 501);
	g_assert_cmpuint(r->told[1].tsval, ==, 70010);
	g_assert_cmpuint(through(r, shadow_input,
	                         (struct build_tcp){.from_peer = true,
	                                            .flags = PACKET_ACK,
	                                            .seq = 501,
	                                            .ack = 5011,
	                                            .has_ts = true,
	                                            .tsecr = 70010})
	                         .tsecr,
	                 ==, 1010);
	rig_free(r);
}

/* The client's segment with an echo, as the VM gets it: what it echoes there. */
static uint32_t echoed(struct rig *r, uint32_t ack, uint32_t tsecr)
{
	struct build_tcp in = {.from_peer = true,
	                       .flags = PACKET_ACK,
	                       .seq = 501,
	                       .ack = ack,
	                       .has_ts = true,
	                       .tsecr = tsecr};

	return through(r, shadow_input, in).tsecr;
}

/* RFC 7323 section 3.2: an echo is of a timestamp that was sent, and here only SYNs were. */
static void test_syn_echo(void)
{
	struct rig *r = rig_new(16);
	struct build_tcp syn = segment(PACKET_SYN, 100, 0, 501);
	struct flow_open open = opening(5000, 501);

	syn.has_ts = open.has_ts = true;
	syn.tsval = 1000;
	open.tsval = 70000;
	shadow_flow_open(r->shadow, 1, &open, r->now);
	svm_says(r, syn);
	g_assert_cmpuint(echoed(r, 5001, 70000), ==, 1000);
	g_assert_cmpuint(echoed(r, 5001, 71020), ==, 1000); /* the PVM has repeated it */
	syn.tsval = 2025;                                   /* and the SVM */
	svm_says(r, syn);
	g_assert_cmpuint(echoed(r, 5001, 71020), ==, 2025); /* one that it has said: cookies */
	g_assert_cmpuint(echoed(r, 5001, 71030), ==, 2025);
	g_assert_cmpuint(echoed(r, 5001, 0), ==, 0);
	shadow_ts_lead(r->shadow, 1, 1024);
	shadow_takeover(r->shadow, r->now);
	g_assert_cmpuint(echoed(r, 5001, 70000), ==, 1000); /* the PVM's, without the lead */
	syn.tsval = 3000;
	g_assert_cmpuint(through(r, shadow_translate, syn).tsval, ==, 73024);
	g_assert_cmpuint(echoed(r, 5001, 73024), ==, 3000);
	/* Then the VM says more than its SYN, and its clock is what it is. */
	syn = segment(0, 101, 1, 501);
	syn.has_ts = true;
	syn.tsval = 4500;
	g_assert_cmpuint(through(r, shadow_translate, syn).tsval, ==, 74524);
	g_assert_cmpuint(echoed(r, 5002, 74524), ==, 4500);
	g_assert_cmpuint(echoed(r, 5001, 70000), ==, UINT32_C(1000) - 1024);
	rig_free(r);
}

/* A VM that only receives has nothing but its SYN acknowledged. */
static void test_echo_of_receiver(void)
{
	struct rig *r = rig_new(16);
	struct build_tcp out = segment(PACKET_SYN, 100, 0, 501);
	struct flow_open open = opening(5000, 501);

	out.has_ts = open.has_ts = true;
	out.tsval = 1000;
	open.tsval = 70000;
	shadow_flow_open(r->shadow, 1, &open, r->now);
	svm_says(r, out);
	out = segment(0, 101, 0, 1501);
	out.has_ts = true;
	out.tsval = 1300;
	svm_says(r, out);
	g_assert_cmpuint(echoed(r, 5001, 70000), ==, 1000);
	g_assert_cmpuint(echoed(r, 5001, 70290), ==, 1290);
	g_assert_cmpuint(echoed(r, 5001, 70310), ==, 1300);
	rig_free(r);
}

/* A clone's connection, whose PVM is 200 ms ahead: the SVM hears the newest that it has said. */
static void test_echo_of_the_future(void)
{
	struct rig *r = rig_new(16);
	struct build_tcp out = segment(0, 5000, 1, 501);

	g_assert_cmpuint(echoed(r, 5001, 10200), ==, 10200);
	out.has_ts = true;
	out.tsval = 10000;
	svm_says(r, out);
	out.tsval = 9990; /* overtaken in the guest */
	svm_says(r, out);
	g_assert_cmpuint(echoed(r, 5001, 10200), ==, 10000);
	g_assert_cmpuint(echoed(r, 5001, 9995), ==, 9995);
	g_assert_cmpuint(echoed(r, 5001, 0), ==, 0);
	shadow_ts_lead(r->shadow, 1, 256);
	shadow_takeover(r->shadow, r->now);
	g_assert_cmpuint(echoed(r, 5001, 10300), ==, 10000);
	out.tsval = 10100;
	through(r, shadow_translate, out);
	g_assert_cmpuint(echoed(r, 5001, 10350), ==, 10094);
	g_assert_cmpuint(echoed(r, 5001, 10400), ==, 10100);
	rig_free(r);
}

static void test_opening_is_used_once(void)
{
	struct rig *r = rig_new(16);

	/* The VM opens: neither SYN names the incarnation. The old ones must not serve again. */
	svm(r, PACKET_SYN, 100, 0, 0);
	opened(r, 1, 5000, 0);
	g_assert_cmpuint(r->tolds, ==, 1);
	opened(r, 1, 6000, 0); /* the PVM uses the ports again, the SVM has not yet */
	g_assert_cmpuint(r->tolds, ==, 1);
	svm(r, PACKET_SYN, 200, 0, 0);
	assert_told(r, 1, 6000, 1, 0);
	svm(r, PACKET_SYN, 300, 0, 0); /* the SVM first */
	g_assert_cmpuint(r->tolds, ==, 2);
	opened(r, 1, 7000, 0);
	assert_told(r, 2, 7000, 1, 0);
	rig_free(r);
}

static void test_lineage_to_come(void)
{
	struct rig *r = rig_new(16);

	opened(r, 2, 5000, 501);
	opened(r, 2, 6000, 502); /* the later one is the one that counts */
	opened(r, 3, 7000, 503);
	svm(r, PACKET_SYN, 100, 0, 502);
	g_assert_cmpuint(r->tolds, ==, 0);
	shadow_lineage(r->shadow, 2);
	svm(r, PACKET_SYN, 100, 0, 502);
	assert_told(r, 0, 6000, 1, 502);
	shadow_lineage(r->shadow, 3);
	svm(r, 0, 200, 10, 5); /* a clone again: no mapping */
	assert_told(r, 1, 200, 10, 5);
	rig_free(r);
}

static void test_takeover(void)
{
	struct rig *r = rig_new(16);
	struct shadow_stats stats;
	struct packet_tcp tcp;
	struct build_tcp in = {.from_peer = true,
	                       .flags = PACKET_ACK,
	                       .seq = 501,
	                       .ack = 5050,
	                       .has_sack = true,
	                       .sack_left = 5060,
	                       .sack_right = 5070};

	svm(r, PACKET_SYN, 100, 0, 501);
	opened(r, 1, 5000, 501);
	r->tolds = 0;
	shadow_takeover(r->shadow, r->now);
	tcp = through(r, shadow_translate, segment(0, 150, 10, 501));
	g_assert_cmpuint(tcp.seq, ==, 5050);
	g_assert_cmpuint(tcp.ack, ==, 501);
	tcp = through(r, shadow_input, in);
	g_assert_cmpuint(tcp.ack, ==, 150);
	g_assert_cmpuint(r->tolds, ==, 0);
	shadow_get_stats(r->shadow, &stats);
	g_assert_cmpuint(stats.mapped, ==, 1);
	/* The 4-tuple is used again: the new connection has its own numbers. */
	g_assert_cmpuint(through(r, shadow_translate, segment(PACKET_SYN, 800, 0, 9)).seq, ==, 800);
	g_assert_cmpuint(through(r, shadow_translate, segment(0, 801, 5, 9)).seq, ==, 801);
	g_assert_cmpuint(shadow_expire(r->shadow, r->now), ==, 0);
	rig_free(r);
}

static void test_clock_lead(void)
{
	struct rig *r = rig_new(16);
	struct build_tcp t = segment(0, 100, 10, 5), other = t,
	                 mapped = segment(PACKET_SYN, 100, 0, 501);

	t.peer_port = 1004; /* `mapped` has port 1000 */
	t.has_ts = other.has_ts = true;
	t.tsval = other.tsval = 1000;
	other.peer_port = 1001;
	svm_says(r, t);
	svm_says(r, mapped);
	opened(r, 1, 5000, 501);
	shadow_ts_lead(r->shadow, 1, 256);
	shadow_ts_lead(r->shadow, 1, 128);
	shadow_ts_lead(r->shadow, 0, 5000); /* another lineage's */
	shadow_takeover(r->shadow, r->now);
	g_assert_cmpuint(through(r, shadow_translate, t).tsval, ==, 1256);
	mapped.has_ts = true;
	mapped.tsval = 1000;
	mapped.flags = PACKET_ACK;
	g_assert_cmpuint(through(r, shadow_translate, mapped).tsval, ==, 1256);
	/* A connection that the lineage had not spoken on. */
	g_assert_cmpuint(through(r, shadow_translate, other).tsval, ==, 1256);
	/* One that begins now needs no lead, and gets none in the middle. */
	other.peer_port = 1002;
	other.flags = PACKET_SYN;
	g_assert_cmpuint(through(r, shadow_translate, other).tsval, ==, 1000);
	other.flags = PACKET_ACK;
	g_assert_cmpuint(through(r, shadow_translate, other).tsval, ==, 1000);
	/* Later the survivor's clock has caught up. */
	r->now += 300 * MS;
	other.peer_port = 1003;
	g_assert_cmpuint(through(r, shadow_translate, other).tsval, ==, 1000);
	g_assert_cmpuint(shadow_expire(r->shadow, r->now), ==, 3);
	rig_free(r);
	/* The lead of a lineage that is over is none of this one's. */
	r = rig_new(16);
	shadow_ts_lead(r->shadow, 1, 256);
	shadow_lineage(r->shadow, 3);
	svm_says(r, t);
	shadow_takeover(r->shadow, r->now);
	g_assert_cmpuint(through(r, shadow_translate, t).tsval, ==, 1000);
	rig_free(r);
}

static void test_expire(void)
{
	struct rig *r = rig_new(16);

	svm(r, PACKET_SYN, 100, 0, 501);
	opened(r, 1, 5000, 501);
	shadow_takeover(r->shadow, r->now);
	r->now += 63000 * MS;
	g_assert_cmpuint(shadow_expire(r->shadow, r->now), ==, 1);
	through(r, shadow_input,
	        (struct build_tcp){
	                .from_peer = true, .flags = PACKET_ACK, .seq = 501, .ack = 5001});
	r->now += 7233000 * MS; /* open and idle, until Linux' first keepalive, a bit late */
	g_assert_cmpuint(shadow_expire(r->shadow, r->now), ==, 1);
	through(r, shadow_translate, segment(PACKET_FIN, 101, 0, 501));
	through(r, shadow_input,
	        (struct build_tcp){.from_peer = true,
	                           .flags = PACKET_ACK | PACKET_FIN,
	                           .seq = 501,
	                           .ack = 5002});
	r->now += 59000 * MS;
	g_assert_cmpuint(shadow_expire(r->shadow, r->now), ==, 1);
	r->now += 2000 * MS;
	g_assert_cmpuint(shadow_expire(r->shadow, r->now), ==, 0);
	rig_free(r);
	r = rig_new(16); /* the client has never answered */
	svm(r, PACKET_SYN, 100, 0, 501);
	opened(r, 1, 5000, 501);
	shadow_takeover(r->shadow, r->now);
	r->now += 65000 * MS;
	g_assert_cmpuint(shadow_expire(r->shadow, r->now), ==, 0);
	rig_free(r);
}

static void client_resets(struct rig *r, uint32_t seq, uint32_t ack)
{
	struct build_tcp rst = segment(PACKET_RST, seq, 0, ack);

	rst.from_peer = true;
	through(r, shadow_input, rst);
}

/* How many connections are mapped two minutes later. */
static uint32_t mapped_later(struct rig *r)
{
	r->now += 120000 * MS;
	return shadow_expire(r->shadow, r->now);
}

/* RFC 5961 section 3.2: a RST with any other number than the next one is not taken. */
static void test_reset_not_taken(void)
{
	struct rig *r = rig_new(16);

	svm(r, PACKET_SYN, 100, 0, 501);
	opened(r, 1, 5000, 501);
	svm(r, 0, 101, 10, 501);
	client_resets(r, 600, 0); /* off the path; in the window, or not */
	shadow_takeover(r->shadow, r->now);
	client_resets(r, 500, 5001);
	client_resets(r, 0x12345678, 0);
	g_assert_cmpuint(mapped_later(r), ==, 1);
	through(r, shadow_translate, segment(0, 111, 0, 511)); /* ten bytes of the client's */
	client_resets(r, 501, 0);
	g_assert_cmpuint(mapped_later(r), ==, 1);
	client_resets(r, 511, 0);
	g_assert_cmpuint(mapped_later(r), ==, 0);
	rig_free(r);
	/* With bytes of the client's that the VM has not acknowledged yet. */
	r = rig_new(16);
	svm(r, PACKET_SYN, 100, 0, 501);
	opened(r, 1, 5000, 501);
	shadow_takeover(r->shadow, r->now);
	through(r, shadow_input,
	        (struct build_tcp){.from_peer = true,
	                           .flags = PACKET_ACK,
	                           .seq = 501,
	                           .len = 4,
	                           .data = (const uint8_t *)"abcd",
	                           .ack = 5001});
	client_resets(r, 505, 0);
	g_assert_cmpuint(mapped_later(r), ==, 0);
	rig_free(r);
}

/* RFC 9293 section 3.5.1, figure 10: the VM's SYN meets a connection that only the client knows of.
 * The VM resets that one, and its SYN is said again. */
static void test_reset_of_half_open(void)
{
	struct rig *r = rig_new(16);

	svm(r, PACKET_SYN, 100, 0, 0);
	opened(r, 1, 5000, 0);
	svm(r, PACKET_RST, 77, 0, 0);
	svm(r, PACKET_SYN, 100, 0, 0);
	svm(r, 0, 101, 0, 501);
	shadow_takeover(r->shadow, r->now);
	g_assert_cmpuint(mapped_later(r), ==, 1);
	through(r, shadow_translate, segment(PACKET_RST, 77, 0, 0));
	through(r, shadow_translate, segment(0, 101, 10, 501)); /* it lives on */
	g_assert_cmpuint(mapped_later(r), ==, 1);
	through(r, shadow_translate, segment(PACKET_RST, 111, 0, 0));
	g_assert_cmpuint(mapped_later(r), ==, 0);
	rig_free(r);
	/* The VM's SYN is refused. */
	r = rig_new(16);
	svm(r, PACKET_SYN, 100, 0, 0);
	opened(r, 1, 5000, 0);
	shadow_takeover(r->shadow, r->now);
	client_resets(r, 0, 77);
	g_assert_cmpuint(shadow_expire(r->shadow, r->now), ==, 1);
	client_resets(r, 0, 5001);
	g_assert_cmpuint(mapped_later(r), ==, 0);
	rig_free(r);
}

/* The 4-tuple was in use, and its SYN is refused now (RFC 9293 section 3.5.2). */
static void test_refusal(void)
{
	struct rig *r = rig_new(16);

	svm(r, PACKET_SYN, 100, 0, 501);
	opened(r, 1, 5000, 501);
	svm(r, PACKET_RST, 0, 0, 90001);
	assert_told(r, 1, 0, 0, 90001);
	g_assert_cmpuint(shadow_last_map(r->shadow).seq_delta, ==, 0);
	svm(r, PACKET_RST, 101, 0, 501);
	assert_told(r, 2, 5001, 0, 501);
	shadow_takeover(r->shadow, r->now);
	g_assert_cmpuint(through(r, shadow_translate, segment(PACKET_RST, 0, 0, 90001)).seq, ==, 0);
	g_assert_cmpuint(through(r, shadow_translate, segment(PACKET_RST, 101, 0, 501)).seq, ==,
	                 5001);
	rig_free(r);
}

/* ---- from one takeover to the next ---- */

/* A survivor with one connection that its client knows by a number that is 4,900 higher. */
static struct rig *survivor(void)
{
	struct rig *r = rig_new(16);

	svm(r, PACKET_SYN, 100, 0, 501);
	opened(r, 1, 5000, 501);
	shadow_takeover(r->shadow, r->now);
	return r;
}

static struct natmap handed_on(struct rig *r)
{
	struct natmap map = {0};

	g_assert_cmpint(shadow_map_export(r->shadow, &map), ==, 0);
	return map;
}

/* What an address of 4900 ahead is after ten takeovers: the sum of all that were opened before. */
static void test_map_second_takeover(void)
{
	struct rig *first = survivor(), *second = rig_new(16), *third = rig_new(16);
	struct natmap map = handed_on(first);
	struct build_tcp late = segment(PACKET_SYN, 700, 0, 601);

	g_assert_cmpuint(map.count, ==, 1);
	g_assert_cmpuint(map.entry[0].seq_delta, ==, 4900);
	/* The second lineage opens a connection of its own, which its PVM numbers 50 higher. */
	svm(second, 0, 150, 10, 501);
	late.peer_port = 1001;
	svm_says(second, late);
	{
		struct flow_open open = opening(750, 601);

		open.key.peer_port = 1001;
		shadow_flow_open(second->shadow, 1, &open, second->now);
	}
	shadow_ts_lead(second->shadow, 1, 30);
	assert_told(second, 0, 150, 10, 501); /* the mapping to the clients is not compared with */
	g_assert_cmpuint(shadow_map_adopt(second->shadow, &map, second->now), ==, 0);
	shadow_takeover(second->shadow, second->now);
	g_assert_cmpuint(through(second, shadow_translate, segment(0, 160, 10, 501)).seq, ==, 5060);
	late.flags = PACKET_ACK;
	late.seq = 701;
	g_assert_cmpuint(through(second, shadow_translate, late).seq, ==, 751);
	natmap_clear(&map);
	/* And again, by a lineage that is silent on both. */
	map = handed_on(second);
	g_assert_cmpuint(map.count, ==, 2);
	g_assert_cmpuint(shadow_map_adopt(third->shadow, &map, third->now), ==, 0);
	shadow_ts_lead(third->shadow, 1, 12);
	shadow_takeover(third->shadow, third->now);
	late.has_ts = true;
	late.tsval = 1000;
	g_assert_cmpuint(through(third, shadow_translate, late).seq, ==, 751);
	g_assert_cmpuint(through(third, shadow_translate, late).tsval, ==, 1042);
	g_assert_cmpuint(through(third, shadow_translate, segment(0, 170, 10, 501)).seq, ==, 5070);
	g_assert_cmpuint(
	        through(third, shadow_input,
	                (struct build_tcp){
	                        .from_peer = true, .flags = PACKET_ACK, .seq = 501, .ack = 5080})
	                .ack,
	        ==, 180);
	natmap_clear(&map);
	rig_free(first);
	rig_free(second);
	rig_free(third);
}

/* The lineage has used the 4-tuple itself: what it knows is right, and the old mapping is not. */
static void test_map_reused(void)
{
	struct rig *first = survivor(), *second = rig_new(16);
	struct natmap map = handed_on(first);

	svm(second, PACKET_SYN, 9000, 0, 901);
	opened(second, 1, 9100, 901);
	g_assert_cmpuint(shadow_map_adopt(second->shadow, &map, second->now), ==, 0);
	shadow_takeover(second->shadow, second->now);
	g_assert_cmpuint(through(second, shadow_translate, segment(0, 9001, 1, 901)).seq, ==, 9101);
	natmap_clear(&map);
	rig_free(first);
	rig_free(second);
}

/* The survivor opens the 4-tuple anew while it is protected: the SYN is held, and what is held of
 * the old connection before it is still translated, but a checkpoint has the new one only. */
static void test_map_superseded(void)
{
	struct rig *r = survivor();
	struct flow_open same = opening(100, 501), other = opening(777, 901);
	uint64_t changes = shadow_map_changes(r->shadow);
	struct natmap map;

	shadow_map_superseded(r->shadow, &same); /* the SYN once more */
	g_assert_cmpuint(shadow_map_changes(r->shadow), ==, changes);
	map = handed_on(r);
	g_assert_cmpuint(map.count, ==, 1);
	natmap_clear(&map);
	shadow_map_superseded(r->shadow, &other);
	g_assert_cmpuint(shadow_map_changes(r->shadow), >, changes);
	map = handed_on(r);
	g_assert_cmpuint(map.count, ==, 0);
	g_assert_cmpuint(through(r, shadow_translate, segment(0, 150, 1, 501)).seq, ==, 5050);
	g_assert_cmpuint(through(r, shadow_translate, segment(PACKET_SYN, 777, 0, 901)).seq, ==,
	                 777);
	g_assert_cmpuint(through(r, shadow_translate, segment(0, 778, 1, 901)).seq, ==, 778);
	natmap_clear(&map);
	rig_free(r);
}

/* A SYN-ACK that is sent again after the second takeover is the old connection's. */
static void test_map_syn_again(void)
{
	struct rig *first = survivor(), *second = rig_new(16);
	struct natmap map = handed_on(first);

	g_assert_true(map.entry[0].iss_known && map.entry[0].iss == 100);
	shadow_map_adopt(second->shadow, &map, second->now);
	shadow_takeover(second->shadow, second->now);
	g_assert_cmpuint(through(second, shadow_translate, segment(PACKET_SYN, 100, 0, 501)).seq,
	                 ==, 5000);
	g_assert_cmpuint(through(second, shadow_translate, segment(0, 101, 1, 501)).seq, ==, 5001);
	natmap_clear(&map);
	rig_free(first);
	rig_free(second);
}

/* A handshake that is open at two takeovers: what is echoed is what the VM has said. */
static void test_map_opening(void)
{
	struct rig *first = rig_new(16);
	struct build_tcp syn = segment(PACKET_SYN, 100, 0, 501);
	struct flow_open open = opening(5000, 501);
	struct natmap map;

	syn.has_ts = open.has_ts = true;
	syn.tsval = 1000;
	open.tsval = 70000;
	shadow_flow_open(first->shadow, 1, &open, first->now);
	svm_says(first, syn);
	syn.tsval = 2000;
	svm_says(first, syn);
	shadow_takeover(first->shadow, first->now);
	map = handed_on(first);
	syn.tsval = 3000;
	for (uint32_t repeated = 0; repeated < 2; repeated++) {
		struct rig *second = rig_new(16);

		if (repeated)
			svm_says(second, syn);
		g_assert_cmpuint(shadow_map_adopt(second->shadow, &map, second->now), ==, 0);
		shadow_ts_lead(second->shadow, 1, 128);
		shadow_takeover(second->shadow, second->now);
		g_assert_cmpuint(echoed(second, 5001, 70000), ==, 1000);
		g_assert_cmpuint(echoed(second, 5001, 71500), ==, repeated ? 3000 : 2000);
		g_assert_cmpuint(echoed(second, 5002, 70500), ==, 1372); /* it is over */
		rig_free(second);
	}
	natmap_clear(&map);
	rig_free(first);
}

static void test_map_changes(void)
{
	struct rig *r = survivor();
	uint64_t changes = shadow_map_changes(r->shadow);

	through(r, shadow_translate, segment(0, 150, 1, 501));
	g_assert_cmpuint(shadow_map_changes(r->shadow), ==, changes);
	through(r, shadow_translate, segment(PACKET_RST, 151, 0, 501));
	g_assert_cmpuint(shadow_map_changes(r->shadow), >, changes);
	changes = shadow_map_changes(r->shadow);
	r->now += 61000 * MS;
	g_assert_cmpuint(shadow_expire(r->shadow, r->now), ==, 0);
	g_assert_cmpuint(shadow_map_changes(r->shadow), >, changes);
	rig_free(r);
}

/* A RST that was said before the cut ends nothing that the VM has spoken on since. */
static void test_map_reset(void)
{
	struct rig *first = survivor();
	struct natmap map;

	through(first, shadow_translate, segment(PACKET_RST, 77, 0, 0));
	map = handed_on(first);
	g_assert_true(map.entry[0].reset);
	for (uint32_t spoken = 0; spoken < 2; spoken++) {
		struct rig *second = rig_new(16);

		if (spoken)
			svm(second, 0, 101, 0, 501);
		shadow_map_adopt(second->shadow, &map, second->now);
		shadow_takeover(second->shadow, second->now);
		g_assert_cmpuint(mapped_later(second), ==, spoken);
		rig_free(second);
	}
	natmap_clear(&map);
	rig_free(first);
}

/* Limits: the list's, and a table that is smaller than the one before. */
static void test_map_limits(void)
{
	struct natmap map = {0}, other = {0};
	struct rig *r = rig_new(2);

	for (uint32_t i = 0; i < 200; i++) {
		struct natmap_entry entry = {.key = opening(1, 1).key, .seq_delta = 1};

		entry.key.peer_port = (uint16_t)(2000 + i);
		g_assert_cmpint(natmap_add(&map, &entry, 199), ==, i < 199 ? 0 : -ENOBUFS);
	}
	g_assert_cmpuint(map.count, ==, 199);
	g_assert_cmpuint(shadow_map_adopt(r->shadow, &map, r->now), ==, 197);
	natmap_move(&other, &map);
	g_assert_cmpuint(map.count, ==, 0);
	g_assert_cmpuint(other.count, ==, 199);
	natmap_clear(&other);
	rig_free(r);
}

static void test_full_table(void)
{
	struct rig *r = rig_new(2);
	struct shadow_stats stats;
	struct build_tcp t = segment(0, 100, 10, 5);

	for (uint16_t port = 1; port <= 3; port++) {
		t.peer_port = port;
		svm_says(r, t);
	}
	shadow_get_stats(r->shadow, &stats);
	g_assert_cmpuint(stats.flows, ==, 2);
	g_assert_cmpuint(stats.flows_evicted, ==, 0);
	g_assert_cmpuint(stats.uncompared, ==, 1); /* the others have just talked */
	r->now += 11000 * MS;
	svm_says(r, t);
	shadow_get_stats(r->shadow, &stats);
	g_assert_cmpuint(stats.flows, ==, 2);
	g_assert_cmpuint(stats.flows_evicted, ==, 1);
	for (uint32_t i = 0; i < 10; i++) /* openings of a lineage to come are limited, too */
		opened(r, 2, 1000 + i, 0);
	shadow_lineage(r->shadow, 2);
	r->tolds = 0;
	svm(r, PACKET_SYN, 100, 0, 0);
	assert_told(r, 0, 1001, 1, 0);
	/* What is mapped stays, whatever comes. */
	for (uint16_t port = 1; port <= 3; port++) {
		t.peer_port = port;
		svm_says(r, t);
	}
	shadow_takeover(r->shadow, r->now);
	g_assert_cmpuint(through(r, shadow_translate, segment(0, 101, 10, 5)).seq, ==, 1002);
	rig_free(r);
}

/* The client is fed 20 bytes to the SVM, which misses the last ten of them (RFC 5681, 3.2). */
static void test_missing_input(void)
{
	struct rig *r = rig_new(16);
	struct build_tcp in = segment(0, 501, 10, 100);
	struct flow_key key = {.vm_ip = BUILD_VM_IP,
	                       .peer_ip = BUILD_PEER_IP,
	                       .vm_port = 80,
	                       .peer_port = 1000,
	                       .proto = 6,
	                       .kind = FLOW_TCP};

	in.from_peer = true;
	through(r, shadow_input, in);
	in.seq = 511;
	through(r, shadow_input, in);
	svm(r, 0, 100, 0, 511);
	g_assert_true(shadow_has_acked(r->shadow, &key, 511));
	g_assert_false(shadow_has_acked(r->shadow, &key, 521));
	for (int i = 0; i < 2; i++)
		svm(r, 0, 100, 0, 511);
	g_assert_cmpuint(r->refeeds, ==, 0);
	g_assert_false(shadow_ask_again(r->shadow));
	svm(r, 0, 100, 0, 511); /* the third duplicate */
	g_assert_cmpuint(r->refeeds, ==, 1);
	g_assert_cmpuint(r->refeed_seq, ==, 511);
	g_assert_true(shadow_ask_again(r->shadow)); /* it was lost again */
	g_assert_cmpuint(r->refeeds, ==, 2);
	svm(r, 0, 100, 0, 521);
	g_assert_false(shadow_ask_again(r->shadow));
	g_assert_true(shadow_has_acked(r->shadow, &key, 521));
	g_assert_cmpuint(r->refeeds, ==, 2);
	/* The FIN, too. */
	in = segment(PACKET_FIN, 521, 0, 100);
	in.from_peer = true;
	through(r, shadow_input, in);
	for (int i = 0; i < 3; i++)
		svm(r, 0, 100, 0, 521);
	g_assert_cmpuint(r->refeeds, ==, 3);
	g_assert_cmpuint(r->refeed_seq, ==, 521);
	rig_free(r);
}

/* What is fed again must not look older than what the SVM has heard since. */
static void test_fed_again(void)
{
	struct rig *r = rig_new(16);
	struct build_tcp in = segment(0, 501, 10, 100), later = segment(0, 491, 10, 300);
	struct packet_tcp out;

	in.from_peer = in.has_ts = later.from_peer = later.has_ts = true;
	in.tsval = 7000;
	later.tsval = 9000;
	through(r, shadow_input, in);
	through(r, shadow_input, later);
	out = through(r, shadow_input_again, in);
	g_assert_cmpuint(out.seq, ==, 501);
	g_assert_cmpuint(out.ack, ==, 300);
	g_assert_cmpuint(out.tsval, ==, 9000);
	out = through(r, shadow_input_again, later);
	g_assert_cmpuint(out.ack, ==, 300);
	g_assert_cmpuint(out.tsval, ==, 9000);
	rig_free(r);
}

/* Another client behind the same address translator has lower numbers on the same 4-tuple. */
static void test_fed_again_of_another(void)
{
	struct rig *r = rig_new(16);
	struct build_tcp in = segment(0, 70001, 100, 9000);

	in.from_peer = in.has_ts = true;
	in.tsval = 900000;
	svm(r, 0, 9000, 10, 70001);
	through(r, shadow_input, in);
	for (int i = 0; i < 4; i++)
		svm(r, 0, 9010, 0, 70001);
	g_assert_true(shadow_ask_again(r->shadow));
	svm(r, PACKET_SYN, 100, 0, 501);
	opened(r, 1, 5000, 501);
	g_assert_false(shadow_ask_again(r->shadow));
	r->refeeds = 0;
	for (int i = 0; i < 5; i++) /* updates of its window */
		svm(r, 0, 101, 0, 501);
	g_assert_cmpuint(r->refeeds, ==, 0);
	in = segment(0, 501, 100, 5001);
	in.from_peer = in.has_ts = true;
	in.tsval = 1000;
	through(r, shadow_input, in);
	g_assert_cmpuint(through(r, shadow_input_again, in).ack, ==, 101);
	g_assert_cmpuint(through(r, shadow_input_again, in).tsval, ==, 1000);
	/* The SYN-ACK is said anew, with another number: what was fed is this connection's. */
	svm(r, PACKET_SYN, 200, 0, 501);
	opened(r, 1, 6000, 501);
	for (int i = 0; i < 3; i++)
		svm(r, 0, 201, 0, 501);
	g_assert_cmpuint(r->refeeds, ==, 1);
	rig_free(r);
	/* It is the lineage's first word: the SVM has missed all that the client said behind it. */
	r = rig_new(16);
	in.ack = 101; /* a clone's */
	through(r, shadow_input, in);
	svm(r, PACKET_SYN, 100, 0, 501);
	for (int i = 0; i < 4; i++)
		svm(r, 0, 101, 0, 501);
	g_assert_cmpuint(r->refeeds, ==, 1);
	rig_free(r);
}

static void test_uncompared(void)
{
	struct rig *r = rig_new(16);
	struct build_tcp t = segment(PACKET_URG, 100, 10, 5);
	struct shadow_stats stats;

	svm_says(r, t);
	t.flags = PACKET_SYN;
	svm_says(r, t);
	shadow_get_stats(r->shadow, &stats);
	g_assert_cmpuint(stats.uncompared, ==, 2);
	g_assert_cmpuint(r->tolds, ==, 0);
	rig_free(r);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/shadow/each-byte-once", test_each_byte_once);
	g_test_add_func("/shadow/superframe", test_superframe_in_pieces);
	g_test_add_func("/shadow/mapping", test_mapping);
	g_test_add_func("/shadow/timestamp-mapping", test_timestamp_mapping);
	g_test_add_func("/shadow/syn-echo", test_syn_echo);
	g_test_add_func("/shadow/echo-of-receiver", test_echo_of_receiver);
	g_test_add_func("/shadow/echo-of-the-future", test_echo_of_the_future);
	g_test_add_func("/shadow/opening-used-once", test_opening_is_used_once);
	g_test_add_func("/shadow/lineage-to-come", test_lineage_to_come);
	g_test_add_func("/shadow/takeover", test_takeover);
	g_test_add_func("/shadow/clock-lead", test_clock_lead);
	g_test_add_func("/shadow/expire", test_expire);
	g_test_add_func("/shadow/reset/not-taken", test_reset_not_taken);
	g_test_add_func("/shadow/reset/half-open", test_reset_of_half_open);
	g_test_add_func("/shadow/refusal", test_refusal);
	g_test_add_func("/shadow/map/second-takeover", test_map_second_takeover);
	g_test_add_func("/shadow/map/reused", test_map_reused);
	g_test_add_func("/shadow/map/superseded", test_map_superseded);
	g_test_add_func("/shadow/map/syn-again", test_map_syn_again);
	g_test_add_func("/shadow/map/opening", test_map_opening);
	g_test_add_func("/shadow/map/changes", test_map_changes);
	g_test_add_func("/shadow/map/reset", test_map_reset);
	g_test_add_func("/shadow/map/limits", test_map_limits);
	g_test_add_func("/shadow/full-table", test_full_table);
	g_test_add_func("/shadow/missing-input", test_missing_input);
	g_test_add_func("/shadow/hole", test_hole);
	g_test_add_func("/shadow/fed-again", test_fed_again);
	g_test_add_func("/shadow/fed-again/of-another", test_fed_again_of_another);
	g_test_add_func("/shadow/uncompared", test_uncompared);
	return g_test_run();
}
