/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TCP's corners through both halves of the comparison, over IPv4 and IPv6: one test for each rule.
 * The two VMs have initial sequence numbers of their own, the client's is one and the same.
 */
#include <glib.h>
#include <string.h>

#include "colo-proxy/core/seq.h"
#include "tests/unit/pair_rig.h"

/* The client's numbers wrap soon, the PVM's a little later. */
#define IRS     0xfffffff8u
#define PVM_ISS 0xffffffc0u
#define SVM_ISS 7000u
#define NONE    UINT32_MAX /* no acknowledgement */

static bool six; /* of the test that runs */

static uint8_t bytes[20000];

static const uint8_t *stream(uint32_t off)
{
	return bytes + off;
}

/* A VM's segment at stream offset `off` (0: behind the SYN); ack: of the client's stream. */
static struct build_tcp seg(uint32_t iss, uint16_t flags, uint32_t off, uint32_t len, uint32_t ack)
{
	return (struct build_tcp){.ipv6 = six,
	                          .seq = iss + 1 + off,
	                          .ack = ack == NONE ? 0 : IRS + 1 + ack,
	                          .len = len,
	                          .data = stream(off < 10000 ? off : 0),
	                          .flags = flags | (ack == NONE ? 0 : PACKET_ACK)};
}

static void pvm(struct pair *p, uint16_t flags, uint32_t off, uint32_t len, uint32_t ack)
{
	struct build_tcp t = seg(PVM_ISS, flags, off, len, ack);

	pair_pvm(p, build_tcp(&t));
}

static void svm(struct pair *p, uint16_t flags, uint32_t off, uint32_t len, uint32_t ack)
{
	struct build_tcp t = seg(SVM_ISS, flags, off, len, ack);

	pair_svm(p, build_tcp(&t));
}

/* The client's segment by the PVM's numbers, as the SVM gets it: the acknowledgement is checked. */
static struct packet_tcp client(struct pair *p, uint16_t flags, uint32_t off, uint32_t len,
                                uint32_t ack)
{
	struct build_tcp t = {.ipv6 = six,
	                      .from_peer = true,
	                      .seq = IRS + 1 + off,
	                      .ack = ack == NONE ? 0 : PVM_ISS + 1 + ack,
	                      .len = len,
	                      .data = stream(0),
	                      .flags = flags | (ack == NONE ? 0 : PACKET_ACK)};

	return pair_tcp(pair_client(p, build_tcp(&t)));
}

static struct build_tcp syn(uint32_t iss, bool has_ack)
{
	struct build_tcp t = seg(iss, PACKET_SYN, 0, 0, has_ack ? 0 : NONE);

	t.seq = iss;
	t.mss = 1440;
	return t;
}

static void pvm_says(struct pair *p, struct build_tcp t)
{
	pair_pvm(p, build_tcp(&t));
}

static void svm_says(struct pair *p, struct build_tcp t)
{
	pair_svm(p, build_tcp(&t));
}

/* Both VMs say it, and it goes out at once. */
static void both(struct pair *p, uint16_t flags, uint32_t off, uint32_t len, uint32_t ack)
{
	svm(p, flags, off, len, ack);
	pvm(p, flags, off, len, ack);
	pair_released(p, 1, RELEASE_MATCH);
}

/* A connection that the client opened in this epoch. */
static struct pair *accepted(void)
{
	struct pair *p = pair_new();

	pvm_says(p, syn(PVM_ISS, true));
	svm_says(p, syn(SVM_ISS, true));
	pair_released(p, 1, RELEASE_MATCH);
	return p;
}

/* What the client gets of the survivor's segment, and what the survivor gets of the client's. */
static void assert_mapped(struct pair *p, uint32_t off)
{
	struct build_tcp t = seg(SVM_ISS, 0, off, 5, 0);
	struct frame *f = build_tcp(&t);
	struct packet_tcp tcp;

	shadow_translate(p->shadow, f, p->now);
	tcp = pair_tcp(f);
	g_assert_cmpuint(tcp.seq, ==, PVM_ISS + 1 + off);
	tcp = client(p, 0, 0, 0, off);
	g_assert_cmpuint(tcp.ack, ==, SVM_ISS + 1 + off);
}

/* ---- probes ---- */

/* Linux probes with an old number and no data, others with a byte beyond the window (RFC 9293
 * section 3.8.6.1). */
static void test_zero_window_probe(void)
{
	struct pair *p = accepted();

	both(p, 0, 0, 100, 0);
	pvm(p, 0, 99, 0, 0);
	pair_released(p, 1, RELEASE_MATCH);
	pvm(p, 0, 100, 1, 0); /* new data: only with the SVM's */
	pair_holds(p, 1);
	svm(p, 0, 99, 0, 0);
	pair_holds(p, 1);
	svm(p, 0, 100, 1, 0);
	pair_released(p, 1, RELEASE_MATCH);
	pvm(p, 0, 100, 1, 0); /* the same byte again */
	pair_released(p, 1, RELEASE_MATCH);
	both(p, 0, 101, 50, 0);
	g_assert_cmpuint(p->wants, ==, 0);
	pair_free(p);
}

/* The first word of a lineage is a probe: coverage must not begin in front of it. */
static void test_probe_first(void)
{
	struct pair *p = pair_new();

	svm_says(p, seg(PVM_ISS, 0, 99, 0, 0)); /* a clone: the same numbers */
	svm_says(p, seg(PVM_ISS, 0, 100, 10, 0));
	pvm(p, 0, 99, 0, 0);
	pvm(p, 0, 100, 10, 0);
	pair_released(p, 2, RELEASE_MATCH);
	g_assert_cmpuint(p->wants, ==, 0);
	pair_free(p);
}

/* Number one below, with no byte or one that means nothing (RFC 9293 section 3.8.4); the answer to
 * the client's is an acknowledgement that was said before. */
static void test_keep_alive(void)
{
	struct pair *p = accepted();
	struct build_tcp t;

	both(p, 0, 0, 100, 0);
	pvm(p, 0, 99, 0, 0);
	pair_released(p, 1, RELEASE_MATCH);
	t = seg(PVM_ISS, 0, 99, 1, 0);
	t.data = stream(5000);
	pvm_says(p, t); /* not the byte that was there: the next checkpoint's */
	pair_holds(p, 1);
	pair_checkpoint(p);
	pair_released(p, 1, RELEASE_COMMIT);
	for (int i = 0; i < 3; i++) {
		client(p, 0, 0, 0, 100);
		pvm(p, 0, 100, 0, 0);
		pair_released(p, 1, RELEASE_MATCH);
	}
	pair_checkpoint(p); /* idle over checkpoints: the number is in each of them */
	pvm(p, 0, 99, 0, 0);
	pvm(p, 0, 100, 0, 0);
	pair_released(p, 2, RELEASE_MATCH);
	g_assert_cmpuint(p->wants, ==, 0);
	pair_free(p);
}

/* ---- urgent data ---- */

static void test_urgent(void)
{
	struct pair *p = accepted();
	struct build_tcp t = seg(PVM_ISS, PACKET_URG | PACKET_PSH, 100, 5, 0);

	both(p, 0, 0, 100, 0);
	t.urgent = 5;
	pvm_says(p, t);
	t.seq = SVM_ISS + 101;
	svm_says(p, t);
	pair_holds(p, 1);
	p->now += PAIR_LATE;
	gate_tick(p->gate, p->now);
	g_assert_true(pair_wants(p, CKPT_UNCOMPARED));
	g_assert_cmpstr(p->want[0].what, ==, "urgent data");
	pair_checkpoint(p);
	pair_released(p, 1, RELEASE_COMMIT);
	/* The next epoch knows how far the stream is, and compares on. */
	p->wants = 0;
	pvm_says(p, seg(PVM_ISS, 0, 100, 5, 0)); /* again, without the flag: never compared */
	pair_holds(p, 1);
	pair_checkpoint(p);
	pair_released(p, 1, RELEASE_COMMIT);
	svm_says(p, seg(PVM_ISS, 0, 105, 10, 0));
	pvm_says(p, seg(PVM_ISS, 0, 105, 10, 0));
	pair_released(p, 1, RELEASE_MATCH);
	g_assert_cmpuint(p->wants, ==, 0);
	pair_free(p);
}

/* ---- opening ---- */

/* Both ends send SYN (RFC 9293 section 3.5, figure 7): the SYN-ACK has the SYN's number. */
static void test_simultaneous_open(void)
{
	struct pair *p = pair_new();

	pvm_says(p, syn(PVM_ISS, false));
	pair_holds(p, 1);
	svm_says(p, syn(SVM_ISS, false));
	pair_released(p, 1, RELEASE_MATCH);
	pvm_says(p, syn(PVM_ISS, true));
	pair_holds(p, 1); /* the SVM has not acknowledged the client's SYN */
	svm_says(p, syn(SVM_ISS, true));
	pair_released(p, 1, RELEASE_MATCH);
	both(p, 0, 0, 50, 0);
	g_assert_cmpuint(p->wants, ==, 0);
	shadow_takeover(p->shadow, p->now);
	assert_mapped(p, 50);
	pair_free(p);
}

/* The same with a checkpoint between the PVM's two: the SVM is a clone in SYN-SENT. */
static void test_simultaneous_open_across_the_cut(void)
{
	struct pair *p = pair_new();

	pvm_says(p, syn(PVM_ISS, false));
	svm_says(p, syn(SVM_ISS, false));
	pair_released(p, 1, RELEASE_MATCH);
	pair_checkpoint(p);
	pvm_says(p, syn(PVM_ISS, true));
	svm_says(p, syn(PVM_ISS, false)); /* a retransmission */
	pair_holds(p, 1);
	svm_says(p, syn(PVM_ISS, true));
	pair_released(p, 1, RELEASE_MATCH);
	svm_says(p, seg(PVM_ISS, 0, 0, 50, 0));
	pvm(p, 0, 0, 50, 0);
	pair_released(p, 1, RELEASE_MATCH);
	g_assert_cmpuint(p->wants, ==, 0);
	pair_free(p);
}

/* A cookie, or data in the SYN: the whole connection is the next checkpoint's (RFC 7413). */
static void test_fast_open(void)
{
	struct pair *p = pair_new();
	struct build_tcp t = syn(PVM_ISS, true);

	t.fastopen = true;
	pvm_says(p, t);
	t.seq = SVM_ISS;
	svm_says(p, t);
	/* Not even a bare acknowledgement may be in front of the SYN-ACK. */
	client(p, PACKET_PSH, 0, 10, NONE);
	svm(p, 0, 0, 0, 10);
	pvm(p, 0, 0, 0, 10);
	pvm(p, 0, 0, 20, 10);
	svm(p, 0, 0, 20, 10);
	pair_holds(p, 3);
	pair_checkpoint(p);
	pair_released(p, 3, RELEASE_COMMIT);
	svm_says(p, seg(PVM_ISS, 0, 20, 20, 10));
	pvm(p, 0, 20, 20, 10);
	pair_released(p, 1, RELEASE_MATCH);
	pair_free(p);
}

/* The 4-tuple of a mapped connection is used again with Fast Open: the old map must be gone. */
static void test_fast_open_reuse(void)
{
	struct pair *p = accepted();
	struct build_tcp t = syn(SVM_ISS + 90000, true);
	struct frame *f;

	t.len = 3; /* data in a SYN */
	svm_says(p, t);
	t.seq = PVM_ISS + 50000;
	pvm_says(p, t);
	svm_says(p, seg(SVM_ISS + 90000, 0, 3, 10, 0));
	pvm_says(p, seg(PVM_ISS + 50000, 0, 3, 10, 0));
	pair_holds(p, 2);
	shadow_takeover(p->shadow, p->now);
	t = seg(SVM_ISS + 90000, 0, 3, 10, 0);
	f = build_tcp(&t);
	shadow_translate(p->shadow, f, p->now);
	g_assert_cmpuint(pair_tcp(f).seq, ==, SVM_ISS + 90000 + 4);
	pair_free(p);
}

/* MD5 and AO (RFC 2385, RFC 5925) are signed: held, and not mapped in either direction. */
static void test_signed(void)
{
	struct pair *p = accepted();
	struct build_tcp t = seg(PVM_ISS, 0, 0, 10, 0);
	struct frame *f, *copy;

	for (int kind = 19; kind <= 29; kind += 10) {
		t.has_sack = true; /* as long as the option that it becomes */
		f = build_tcp(&t);
		f->data[f->len - 10 - 12] = (uint8_t)kind;
		pair_svm(p, frame_copy(f));
		pair_pvm(p, f);
	}
	pair_holds(p, 2);
	p->now += PAIR_LATE;
	gate_tick(p->gate, p->now);
	g_assert_cmpstr(p->want[0].what, ==, "TCP MD5 or AO option");
	t.from_peer = true;
	f = build_tcp(&t);
	f->data[f->len - 10 - 12] = 19;
	copy = frame_copy(f);
	shadow_input(p->shadow, f, p->now);
	g_assert_cmpmem(f->data, f->len, copy->data, copy->len);
	frame_free(f);
	frame_free(copy);
	pair_free(p);
}

/* ---- closing ---- */

/* Both ends send FIN before they have the other's (RFC 9293 section 3.6, figure 13). */
static void test_simultaneous_close(void)
{
	struct pair *p = accepted();

	both(p, PACKET_FIN, 0, 10, 0);
	client(p, PACKET_FIN, 0, 0, 0);
	pvm(p, 0, 11, 0, 1); /* acknowledges the client's FIN */
	pair_holds(p, 1);
	svm(p, 0, 11, 0, 1);
	pair_released(p, 1, RELEASE_MATCH);
	client(p, 0, 1, 0, 11);
	pvm(p, PACKET_FIN, 10, 0, 1); /* again */
	pair_released(p, 1, RELEASE_MATCH);
	g_assert_cmpuint(p->wants, ==, 0);
	shadow_takeover(p->shadow, p->now);
	assert_mapped(p, 11);
	p->now += 61000 * PAIR_MS;
	g_assert_cmpuint(shadow_expire(p->shadow, p->now), ==, 0);
	pair_free(p);
}

/* The VM has sent its FIN and still acknowledges; or the client has, and the VM still sends. */
static void test_half_close(void)
{
	struct pair *p = accepted();

	both(p, PACKET_FIN, 0, 0, 0);
	for (uint32_t off = 0; off < 500; off += 100) {
		client(p, 0, off, 100, 1);
		pvm(p, 0, 1, 0, off + 100);
		pair_holds(p, 1);
		svm(p, 0, 1, 0, off + 100);
		pair_released(p, 1, RELEASE_MATCH);
	}
	pair_free(p);
	p = accepted();
	client(p, PACKET_FIN, 0, 0, 0);
	both(p, 0, 0, 0, 1);
	for (uint32_t off = 0; off < 500; off += 100)
		both(p, 0, off, 100, 1);
	both(p, PACKET_FIN, 500, 0, 1);
	g_assert_cmpuint(p->wants, ==, 0);
	pair_free(p);
}

/* ---- RST ---- */

/* Handshake not finished: from a listener's backlog, by number behind the SYN-ACK. */
static void test_reset_in_handshake(void)
{
	struct pair *p = accepted();

	both(p, PACKET_RST, 0, 0, NONE);
	pair_free(p);
	/* The VM opens and gives up: its SYN alone is known to both. */
	p = pair_new();
	pvm_says(p, syn(PVM_ISS, false));
	svm_says(p, syn(SVM_ISS, false));
	pair_released(p, 1, RELEASE_MATCH);
	both(p, PACKET_RST, 0, 0, 0);
	g_assert_cmpuint(p->wants, ==, 0);
	pair_free(p);
}

/* The SVM is first, with SYN-ACK and RST: while its number has no mapping, a RST counts for
 * nothing. */
static void test_reset_before_the_mapping(void)
{
	struct pair *p = pair_new();

	svm_says(p, syn(SVM_ISS, true));
	svm(p, PACKET_RST, 0, 0, NONE);
	pvm_says(p, syn(PVM_ISS, true));
	pair_released(p, 1, RELEASE_MATCH);
	pvm(p, PACKET_RST, 0, 0, NONE);
	pair_holds(p, 1);
	svm(p, PACKET_RST, 0, 0, NONE); /* said again */
	pair_released(p, 1, RELEASE_MATCH);
	g_assert_cmpuint(p->wants, ==, 0);
	pair_free(p);
}

/* Established, at another offset than the SVM's: never by match. With data: never. */
static void test_reset_established(void)
{
	struct pair *p = accepted();

	both(p, 0, 0, 100, 0);
	pvm(p, PACKET_RST, 100, 0, 0);
	pair_holds(p, 1);
	svm(p, PACKET_RST, 99, 0, 0);
	pair_holds(p, 1);
	svm(p, PACKET_RST, 100, 0, 0);
	pair_released(p, 1, RELEASE_MATCH);
	pvm(p, PACKET_RST, 100, 0, 0); /* how often is not compared */
	pair_released(p, 1, RELEASE_MATCH);
	pair_free(p);
	p = accepted();
	pvm(p, PACKET_RST, 0, 10, 0);
	svm(p, PACKET_RST, 0, 10, 0);
	pair_holds(p, 1);
	pair_checkpoint(p);
	pair_released(p, 1, RELEASE_COMMIT);
	pair_free(p);
}

/* Half-closed, FIN sent or heard. */
static void test_reset_closing(void)
{
	struct pair *p = accepted();

	both(p, PACKET_FIN, 0, 10, 0);
	both(p, PACKET_RST, 11, 0, NONE);
	pair_free(p);
	p = accepted();
	client(p, PACKET_FIN, 0, 0, 0);
	both(p, 0, 0, 0, 1);
	both(p, PACKET_RST, 0, 0, 1);
	g_assert_cmpuint(p->wants, ==, 0);
	pair_free(p);
}

/* No connection: the number is the client's acknowledgement, or 0 and the SYN's is named. */
static void test_reset_closed(void)
{
	struct pair *p = pair_new();
	struct build_tcp t = {.ipv6 = six, .flags = PACKET_RST, .seq = 12345};

	pvm_says(p, t);
	pair_holds(p, 1);
	svm_says(p, t);
	pair_released(p, 1, RELEASE_MATCH);
	t = (struct build_tcp){.ipv6 = six, .flags = PACKET_RST | PACKET_ACK, .ack = 900};
	svm_says(p, t);
	t.ack = 901;
	pvm_says(p, t);
	pair_holds(p, 1);
	svm_says(p, t);
	pair_released(p, 1, RELEASE_MATCH);
	pair_free(p);
	/* The 4-tuple had a connection, whose numbers are mapped. */
	p = accepted();
	svm_says(p, t);
	pvm_says(p, t);
	pair_released(p, 1, RELEASE_MATCH);
	pair_free(p);
}

/* The SVM refuses several SYNs before the PVM has refused the first: the last one counts, what the
 * PVM says of those before waits for a commit. */
static void test_resets_in_a_row(void)
{
	struct pair *p = pair_new();
	struct build_tcp t = {.ipv6 = six, .flags = PACKET_RST | PACKET_ACK};

	for (t.ack = 900; t.ack < 903; t.ack++)
		svm_says(p, t);
	t.ack = 902;
	pvm_says(p, t);
	pair_released(p, 1, RELEASE_MATCH);
	t.ack = 901;
	pvm_says(p, t);
	pair_holds(p, 1);
	pair_checkpoint(p);
	pair_released(p, 1, RELEASE_COMMIT);
	pair_free(p);
}

/* ---- ECN ---- */

/* ECE, CWR and AE are the path's: each VM may have heard of congestion at another time. */
static void test_ecn(void)
{
	struct pair *p = pair_new();
	struct build_tcp t = syn(PVM_ISS, true);

	t.flags |= PACKET_ECE;
	pvm_says(p, t);
	svm_says(p, syn(SVM_ISS, true));
	pair_released(p, 1, RELEASE_MATCH);
	pvm(p, PACKET_ECE | PACKET_CWR | 0x100, 0, 10, 0);
	svm(p, 0, 0, 10, 0);
	pair_released(p, 1, RELEASE_MATCH);
	pvm(p, 0, 10, 10, 0);
	svm(p, PACKET_CWR, 10, 10, 0);
	pair_released(p, 1, RELEASE_MATCH);
	pair_free(p);
}

/* ---- numbers ---- */

static void test_d_sack(void)
{
	struct pair *p = accepted();
	struct build_tcp in = {.ipv6 = six,
	                       .from_peer = true,
	                       .flags = PACKET_ACK,
	                       .seq = IRS + 1,
	                       .ack = PVM_ISS + 1 + 100,
	                       .has_sack = true,
	                       .sack_left = PVM_ISS + 1 + 20, /* below ack: a duplicate */
	                       .sack_right = PVM_ISS + 1 + 80};
	struct frame *f;
	struct packet packet;
	uint32_t left, right;

	both(p, 0, 0, 100, 0);
	for (int taken = 0; taken < 2; taken++) {
		f = pair_client(p, build_tcp(&in));
		g_assert_cmpint(packet_parse(&packet, f), ==, 0);
		packet_sack(&packet, 0, &left, &right);
		g_assert_cmpuint(left, ==, SVM_ISS + 1 + 20);
		g_assert_cmpuint(right, ==, SVM_ISS + 1 + 80);
		g_assert_cmpuint(pair_tcp(f).ack, ==, SVM_ISS + 1 + 100);
		shadow_takeover(p->shadow, p->now);
	}
	pair_free(p);
}

/* Numbers that run over, in both directions, with both VMs at another distance from it; longer than
 * half of the space, over checkpoints. */
static void test_wrapped_numbers(void)
{
	struct pair *p = accepted();
	uint32_t iss = SVM_ISS, off = 0, ack = 0;
	uint64_t outs = 0;

	for (int round = 0; round < 20000; round++) {
		struct build_tcp t = seg(iss, 0, off, 60000, ack);

		t.data = stream(0);
		t.len = 10000;
		svm_says(p, t);
		t.seq = PVM_ISS + 1 + off;
		pvm_says(p, t);
		outs += p->outs;
		pair_forget_outs(p);
		off += 10000;
		ack += 60000;
		if (round % 1000 == 999) {
			pair_checkpoint(p);
			iss = PVM_ISS;
			off += 0x0fff0000u; /* what is in the checkpoint needs no digest */
			t = seg(PVM_ISS, 0, off, 1, ack);
			t.data = stream(0);
			pvm_says(p, t);
			pair_checkpoint(p);
			pair_forget_outs(p);
			off++;
		}
	}
	g_assert_cmpuint(outs, ==, 20000);
	g_assert_cmpuint(p->wants, ==, 0);
	pair_free(p);
}

static struct frame *timed(uint32_t iss, uint16_t flags, uint32_t off, uint32_t tsval,
                           uint32_t tsecr)
{
	struct build_tcp t = seg(iss, flags, off, flags & PACKET_SYN ? 0 : 10, 0);

	if (flags & PACKET_SYN)
		t.seq = iss;
	t.has_ts = true;
	t.tsval = tsval;
	t.tsecr = tsecr;
	return build_tcp(&t);
}

/* A clock that runs over in the PVM, not in the SVM; the lead is told across it (RFC 7323 section
 * 5.2). After the takeover the client sees it go on. */
static void test_wrapped_timestamps(void)
{
	struct pair *p = pair_new();
	struct frame *f;

	pair_pvm(p, timed(PVM_ISS, PACKET_SYN, 0, 0xfffffff0u, 1));
	pair_svm(p, timed(SVM_ISS, PACKET_SYN, 0, 100, 1));
	pair_released(p, 1, RELEASE_MATCH);
	pair_pvm(p, timed(PVM_ISS, 0, 0, 300, 1)); /* 316 ticks on */
	pair_svm(p, timed(SVM_ISS, 0, 0, 110, 1)); /* 10 ticks on: a lead of 306 */
	pair_released(p, 1, RELEASE_MATCH);
	shadow_takeover(p->shadow, p->now);
	f = timed(SVM_ISS, 0, 10, 120, 1);
	shadow_translate(p->shadow, f, p->now);
	g_assert_true(seq_geq(pair_tcp(f).tsval, 300));
	pair_free(p);
}

/* ---- the same 4-tuple again ---- */

/* The client uses its port again while the VM is in TIME-WAIT (RFC 6191). */
static void test_time_wait_reuse(void)
{
	struct pair *p = accepted();
	struct build_tcp t;

	both(p, PACKET_FIN, 0, 10, 0);
	client(p, PACKET_FIN, 0, 0, 11);
	both(p, 0, 11, 0, 1);
	/* A new number each, and the client's is another one, too. */
	t = syn(PVM_ISS + 100000, true);
	t.ack = 4000;
	pvm_says(p, t);
	pair_holds(p, 1);
	t.seq = SVM_ISS + 300000;
	svm_says(p, t);
	pair_released(p, 1, RELEASE_MATCH);
	t = seg(SVM_ISS + 300000, 0, 0, 30, 0);
	t.ack = 4000;
	svm_says(p, t);
	t.seq = PVM_ISS + 100001;
	pvm_says(p, t);
	pair_released(p, 1, RELEASE_MATCH);
	g_assert_cmpuint(p->wants, ==, 0);
	shadow_takeover(p->shadow, p->now);
	t.seq = SVM_ISS + 300001;
	{
		struct frame *f = build_tcp(&t);

		shadow_translate(p->shadow, f, p->now);
		g_assert_cmpuint(pair_tcp(f).seq, ==, PVM_ISS + 100001);
	}
	pair_free(p);
}

/* ---- what repeats ---- */

/* The segment with other bytes than the stream has there. */
static struct build_tcp other(uint32_t off, uint32_t len)
{
	struct build_tcp t = seg(PVM_ISS, 0, off, len, 0);

	t.data = stream(off + 10001);
	return t;
}

/* It is not let out, but by a checkpoint, which it asks for. */
static void assert_only_committed(struct pair *p, struct build_tcp t)
{
	p->wants = 0;
	pvm_says(p, t);
	pair_holds(p, 1);
	p->now += 2 * PAIR_LATE;
	gate_tick(p->gate, p->now);
	pair_holds(p, 1);
	g_assert_cmpuint(p->wants, ==, 1);
	pair_checkpoint(p);
	pair_released(p, 1, RELEASE_COMMIT);
}

/* A guest says the right bytes where no client takes them (a TTL that ends on the way, a checksum
 * that is wrong), and then repeats the range with others. */
static void test_repeats_other_bytes(void)
{
	struct pair *p = accepted();
	struct build_tcp t;
	struct frame *f;

	both(p, 0, 0, 100, 0);
	assert_only_committed(p, other(0, 100));
	assert_only_committed(p, other(0, 1));
	assert_only_committed(p, other(40, 20));
	/* The same while the right ones are held. */
	t = seg(PVM_ISS, 0, 100, 50, 0);
	f = build_tcp(&t);
	f->data[f->len - 50 - 4] ^= 0xff; /* its checksum */
	pair_pvm(p, f);
	pvm_says(p, other(100, 50));
	pair_holds(p, 2);
	svm_says(p, seg(PVM_ISS, 0, 100, 50, 0));
	pair_released(p, 1, RELEASE_MATCH);
	pair_checkpoint(p);
	pair_released(p, 1, RELEASE_COMMIT);
	/* In front of them: now the VMs differ. */
	pvm_says(p, other(150, 50));
	pvm(p, 0, 150, 50, 0);
	svm_says(p, seg(PVM_ISS, 0, 150, 50, 0));
	pair_holds(p, 2);
	g_assert_true(pair_wants(p, CKPT_MISMATCH));
	pair_free(p);
}

/* Some of the bytes are new, and those are right. */
static void test_repeats_overlapping(void)
{
	struct pair *p = accepted();
	struct build_tcp t = seg(PVM_ISS, 0, 50, 100, 0);
	uint8_t mixed[100];

	both(p, 0, 0, 100, 0);
	memcpy(mixed, stream(12345), 50);
	memcpy(mixed + 50, stream(100), 50);
	t.data = mixed;
	pvm_says(p, t);
	svm(p, 0, 100, 50, 0);
	pair_holds(p, 1);
	pair_checkpoint(p);
	pair_released(p, 1, RELEASE_COMMIT);
	/* Two that are held, each with a part of its own. */
	pvm(p, 0, 150, 60, 0);
	t = other(180, 60);
	memcpy(mixed, stream(10500), 30);
	memcpy(mixed + 30, stream(210), 30);
	t.data = mixed;
	pvm_says(p, t);
	svm_says(p, seg(PVM_ISS, 0, 150, 90, 0));
	pair_released(p, 1, RELEASE_MATCH);
	pair_holds(p, 1);
	pair_checkpoint(p);
	pair_released(p, 1, RELEASE_COMMIT);
	pair_free(p);
}

/* What a commit has let out, and what nobody has said: numbers from half the space before. A shift
 * by 2^32 is the same number, and so a repetition. */
static void test_repeats_across_the_cut(void)
{
	struct pair *p = accepted();

	both(p, 0, 0, 100, 0);
	pvm(p, 0, 100, 100, 0); /* the SVM does not say it */
	pair_checkpoint(p);
	pair_released(p, 1, RELEASE_COMMIT);
	pvm(p, 0, 0, 100, 0);
	pvm(p, 0, 100, 100, 0);
	pvm(p, 0, 0, 200, 0);
	pair_released(p, 3, RELEASE_MATCH);
	assert_only_committed(p, other(0, 100));
	assert_only_committed(p, other(100, 100));
	assert_only_committed(p, seg(PVM_ISS, 0, 150, 50, 0)); /* other portions: not remembered */
	assert_only_committed(p, seg(PVM_ISS, 0, 200 - 0x7ffffff0u, 100, 0));
	pair_free(p);
}

static void test_repeats_syn_and_fin(void)
{
	struct pair *p = accepted();
	struct build_tcp t = syn(PVM_ISS, true);

	pvm_says(p, t);
	pair_released(p, 1, RELEASE_MATCH);
	t.mss = 536;
	assert_only_committed(p, t);
	svm_says(p, seg(PVM_ISS, 0, 0, 200, 0));
	pvm(p, 0, 0, 100, 0);
	pvm(p, 0, 100, 100, 0);
	pair_released(p, 2, RELEASE_MATCH);
	/* An end where the SVM's stream goes on. */
	assert_only_committed(p, seg(PVM_ISS, PACKET_FIN, 0, 100, 0));
	svm_says(p, seg(PVM_ISS, PACKET_FIN, 200, 0, 0));
	pvm(p, PACKET_FIN, 200, 0, 0);
	pair_released(p, 1, RELEASE_MATCH);
	pvm(p, PACKET_FIN, 200, 0, 0);
	pvm(p, PACKET_FIN, 100, 100, 0);
	pair_released(p, 2, RELEASE_MATCH);
	pair_checkpoint(p);
	pvm(p, PACKET_FIN, 200, 0, 0);
	pvm(p, PACKET_FIN, 0, 100, 0); /* a checkpoint has let it out */
	pair_released(p, 2, RELEASE_MATCH);
	pair_free(p);
}

/* A client that loses packets: the same bytes, in the same segments, however they are sent. */
static void test_repeats_honestly(void)
{
	struct pair *p = accepted();
	struct build_tcp t = seg(PVM_ISS, 0, 0, 950, 0);

	t.gso_size = 100;
	svm(p, 0, 0, 950, 0); /* in one digest: the frame is hashed when it goes */
	pvm_says(p, t);
	pair_released(p, 1, RELEASE_MATCH);
	for (uint32_t off = 0; off < 900; off += 100)
		pvm(p, 0, off, 100, 0);
	pvm(p, 0, 300, 200, 0);
	pvm(p, 0, 900, 50, 0);
	pair_released(p, 11, RELEASE_MATCH);
	/* The SVM says it in other portions than the PVM. */
	svm(p, 0, 950, 30, 0);
	svm(p, 0, 980, 120, 0);
	pvm(p, 0, 950, 100, 0);
	pvm(p, 0, 950, 100, 0);
	pvm(p, 0, 1050, 50, 0);
	pair_released(p, 3, RELEASE_MATCH);
	pvm(p, 0, 950, 150, 0);
	pvm(p, 0, 1050, 50, 0);
	pair_released(p, 2, RELEASE_MATCH);
	/* Behind a repetition that nothing is known of, what follows waits in its order. */
	assert_only_committed(p, seg(PVM_ISS, 0, 955, 10, 0));
	g_assert_cmpuint(p->wants, ==, 1);
	pair_free(p);
}

/* No more than some is remembered; what is older waits. */
static void test_repeats_the_forgotten(void)
{
	struct pair *p = accepted();

	for (uint32_t off = 0; off < 2000; off++)
		both(p, 0, off, 1, 0);
	pvm(p, 0, 1500, 1, 0);
	pvm(p, 0, 1500, 400, 0);
	pair_released(p, 2, RELEASE_MATCH);
	assert_only_committed(p, seg(PVM_ISS, 0, 100, 1, 0));
	pair_free(p);
}

/* Other connections say a million segments. Where those are written down was the place of what this
 * one had said, and they have other bytes at the same numbers. */
static void test_repeats_what_another_said(void)
{
	struct pair *p = accepted();
	struct build_tcp t = other(0, 9990);

	t.vm_port = 81;
	t.gso_size = 1;
	for (int i = 0; i < 107; i++) {
		if (i == 1) { /* its number is larger than a few */
			svm_says(p, seg(PVM_ISS, 0, 0, 9700, 0));
			pvm(p, 0, 0, 9700, 0);
			pair_released(p, 1, RELEASE_MATCH);
		}
		pvm_says(p, t);
		pair_checkpoint(p);
		pair_released(p, 1, RELEASE_COMMIT);
	}
	assert_only_committed(p, other(9500, 1));
	assert_only_committed(p, seg(PVM_ISS, 0, 0, 9700, 0));
	pair_free(p);
}

/* A copy in another VLAN, of another port or to another client is another flow. */
static void test_repeats_elsewhere(void)
{
	struct pair *p = accepted();
	struct build_tcp t = seg(PVM_ISS, 0, 0, 100, 0);

	both(p, 0, 0, 100, 0);
	pair_pvm(p, build_tagged(build_tcp(&t), 0x8100, 7));
	t.vm_port = 81;
	pvm_says(p, t);
	t.vm_port = 0;
	t.peer_port = 1001;
	pvm_says(p, t);
	pair_holds(p, 3);
	pair_checkpoint(p);
	pair_released(p, 3, RELEASE_COMMIT);
	pair_free(p);
}

/* The 4-tuple's next connection has the same numbers: what the last one said there is not its. */
static void test_repeats_the_last_connection(void)
{
	struct pair *p = accepted();
	struct build_tcp t;

	both(p, 0, 0, 20, 0);
	both(p, 0, 20, 40, 0);
	pvm_says(p, syn(PVM_ISS + 20, true));
	svm_says(p, syn(SVM_ISS + 5000, true));
	pair_released(p, 1, RELEASE_MATCH);
	t = seg(PVM_ISS, 0, 20, 40, 0);
	t.data = stream(3000);
	pvm_says(p, t);
	t.seq = SVM_ISS + 5001;
	svm_says(p, t);
	pair_released(p, 1, RELEASE_MATCH);
	assert_only_committed(p, seg(PVM_ISS, 0, 20, 40, 0));
	pair_free(p);
}

/* ---- older than protection ---- */

/* Neither half has seen its SYN. The first words of the two may be at other places. */
static void test_older_connection(void)
{
	struct pair *p = pair_new();

	svm_says(p, seg(PVM_ISS, 0, 50, 50, 0)); /* a retransmission of the SVM's */
	pvm(p, 0, 100, 20, 0);
	pair_holds(p, 1);
	svm_says(p, seg(PVM_ISS, 0, 100, 20, 0));
	pair_holds(p, 1); /* 50 to 100 is nowhere at the gate: late */
	p->now += PAIR_LATE;
	gate_tick(p->gate, p->now);
	g_assert_true(pair_wants(p, CKPT_LATE) || pair_wants(p, CKPT_MISMATCH));
	pair_checkpoint(p);
	pair_released(p, 1, RELEASE_COMMIT);
	svm_says(p, seg(PVM_ISS, 0, 120, 20, 0));
	pvm(p, 0, 120, 20, 0);
	pair_released(p, 1, RELEASE_MATCH);
	pvm(p, 0, 100, 20, 0); /* from then on retransmissions are known */
	pvm(p, 0, 100, 40, 0);
	pair_released(p, 2, RELEASE_MATCH);
	/* It is a clone's: no number needs mapping after the takeover. */
	shadow_takeover(p->shadow, p->now);
	g_assert_cmpuint(shadow_expire(p->shadow, p->now), ==, 0);
	pair_free(p);
}

static void run_both(const void *data)
{
	six = false;
	((void (*)(void))data)();
	six = true;
	((void (*)(void))data)();
}

int main(int argc, char **argv)
{
	static const struct {
		const char *path;
		void (*test)(void);
	} tests[] = {
	        {"/tcp/zero-window-probe", test_zero_window_probe},
	        {"/tcp/probe-first", test_probe_first},
	        {"/tcp/keep-alive", test_keep_alive},
	        {"/tcp/urgent", test_urgent},
	        {"/tcp/simultaneous-open", test_simultaneous_open},
	        {"/tcp/simultaneous-open-cut", test_simultaneous_open_across_the_cut},
	        {"/tcp/fast-open", test_fast_open},
	        {"/tcp/fast-open-reuse", test_fast_open_reuse},
	        {"/tcp/signed", test_signed},
	        {"/tcp/simultaneous-close", test_simultaneous_close},
	        {"/tcp/half-close", test_half_close},
	        {"/tcp/reset/handshake", test_reset_in_handshake},
	        {"/tcp/reset/before-the-mapping", test_reset_before_the_mapping},
	        {"/tcp/reset/established", test_reset_established},
	        {"/tcp/reset/closing", test_reset_closing},
	        {"/tcp/reset/closed", test_reset_closed},
	        {"/tcp/reset/in-a-row", test_resets_in_a_row},
	        {"/tcp/ecn", test_ecn},
	        {"/tcp/d-sack", test_d_sack},
	        {"/tcp/wrapped-numbers", test_wrapped_numbers},
	        {"/tcp/wrapped-timestamps", test_wrapped_timestamps},
	        {"/tcp/time-wait-reuse", test_time_wait_reuse},
	        {"/tcp/repeats/other-bytes", test_repeats_other_bytes},
	        {"/tcp/repeats/overlapping", test_repeats_overlapping},
	        {"/tcp/repeats/across-the-cut", test_repeats_across_the_cut},
	        {"/tcp/repeats/syn-and-fin", test_repeats_syn_and_fin},
	        {"/tcp/repeats/honestly", test_repeats_honestly},
	        {"/tcp/repeats/the-forgotten", test_repeats_the_forgotten},
	        {"/tcp/repeats/what-another-said", test_repeats_what_another_said},
	        {"/tcp/repeats/elsewhere", test_repeats_elsewhere},
	        {"/tcp/repeats/the-last-connection", test_repeats_the_last_connection},
	        {"/tcp/older-connection", test_older_connection},
	};

	g_test_init(&argc, &argv, NULL);
	for (uint32_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 41 ^ i >> 8);
	for (size_t i = 0; i < G_N_ELEMENTS(tests); i++)
		g_test_add_data_func(tests[i].path, (const void *)tests[i].test, run_both);
	return g_test_run();
}
