/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_TESTS_PAIR_RIG_H
#define COLO_TESTS_PAIR_RIG_H

/*
 * The gate and the shadow, tied to each other as the two daemons tie them, without delay: what the
 * PVM says, what the SVM says and what the client says goes in as frames, and what is released
 * comes out. The two VMs' connections may have different initial sequence numbers.
 */
#include <glib.h>
#include <string.h>

#include "colo-proxy/core/gate.h"
#include "colo-proxy/core/shadow.h"
#include "tests/unit/tcp_builder.h"

#define PAIR_ROOM 512u
#define PAIR_MS   1000000ull
#define PAIR_LATE (50 * PAIR_MS)

struct pair_out {
	struct frame *frame;
	enum release_why why;
};

struct pair {
	struct gate *gate;
	struct shadow *shadow;
	struct pair_out out[PAIR_ROOM];
	uint32_t outs;
	struct divergence want[PAIR_ROOM];
	uint32_t wants;
	struct digest said[PAIR_ROOM]; /* on their way to the gate */
	uint32_t saids, refeeds;
	uint32_t epoch;
	uint64_t now;
};

static inline void pair_on_release(void *ctx, struct frame *frame, const struct packet *packet,
                                   enum release_why why, uint64_t held_ns)
{
	struct pair *p = ctx;

	(void)packet;
	(void)held_ns;
	g_assert_cmpuint(p->outs, <, PAIR_ROOM);
	p->out[p->outs++] = (struct pair_out){frame, why};
}

static inline void pair_on_request(void *ctx, const struct divergence *why)
{
	struct pair *p = ctx;

	g_assert_cmpuint(p->wants, <, PAIR_ROOM);
	p->want[p->wants++] = *why;
}

static inline void pair_on_flow_open(void *ctx, uint32_t epoch, const struct flow_open *open)
{
	struct pair *p = ctx;

	shadow_flow_open(p->shadow, epoch, open, p->now);
}

static inline void pair_on_ts_lead(void *ctx, uint32_t epoch, uint32_t ticks)
{
	struct pair *p = ctx;

	shadow_ts_lead(p->shadow, epoch, ticks);
}

static inline void pair_on_digest(void *ctx, uint32_t lineage, const struct digest *digest)
{
	struct pair *p = ctx;

	g_assert_cmpuint(lineage, ==, p->epoch);
	g_assert_cmpuint(p->saids, <, PAIR_ROOM);
	p->said[p->saids++] = *digest;
}

static inline void pair_on_refeed(void *ctx, const struct flow_key *key, uint32_t seq)
{
	struct pair *p = ctx;

	(void)key;
	(void)seq;
	p->refeeds++;
}

/* Protected, in epoch 0. */
static inline struct pair *pair_new(void)
{
	static const struct gate_ops gate_ops = {
	        .release = pair_on_release,
	        .request = pair_on_request,
	        .flow_open = pair_on_flow_open,
	        .ts_lead = pair_on_ts_lead,
	};
	static const struct shadow_ops shadow_ops = {.digest = pair_on_digest,
	                                             .refeed = pair_on_refeed};
	static const struct gate_limits limits = {PAIR_LATE, 1 << 24, 400, 64, 200, 0};
	static const struct packet_digest_key key = {{3}};
	struct pair *p = g_new0(struct pair, 1);

	g_assert_cmpint(gate_new(&p->gate, &limits, &key, &gate_ops, p), ==, 0);
	g_assert_cmpint(shadow_new(&p->shadow, 64, &key, &shadow_ops, p), ==, 0);
	p->now = 1000 * PAIR_MS;
	gate_cut(p->gate, 0, p->now);
	shadow_lineage(p->shadow, 0);
	return p;
}

static inline void pair_forget_outs(struct pair *p)
{
	for (uint32_t i = 0; i < p->outs; i++)
		frame_free(p->out[i].frame);
	p->outs = 0;
}

static inline void pair_free(struct pair *p)
{
	pair_forget_outs(p);
	gate_free(p->gate);
	shadow_free(p->shadow);
	g_free(p);
}

/* What the shadow has told reaches the gate. */
static inline void pair_deliver(struct pair *p)
{
	for (uint32_t i = 0; i < p->saids; i++)
		g_assert_cmpint(gate_digest(p->gate, p->epoch, &p->said[i], p->now), ==, 0);
	p->saids = 0;
}

static inline void pair_pvm(struct pair *p, struct frame *frame)
{
	g_assert_cmpint(gate_output(p->gate, frame, p->now), ==, 0);
	pair_deliver(p);
}

static inline void pair_svm(struct pair *p, struct frame *frame)
{
	shadow_output(p->shadow, frame, p->now);
	frame_free(frame);
	pair_deliver(p);
}

/* The client's frame as the SVM gets it; the caller's. */
static inline struct frame *pair_client(struct pair *p, struct frame *frame)
{
	shadow_input(p->shadow, frame, p->now);
	pair_deliver(p);
	return frame;
}

/* A checkpoint that is cut, committed and loaded at once. */
static inline void pair_checkpoint(struct pair *p)
{
	p->epoch++;
	gate_cut(p->gate, p->epoch, p->now);
	shadow_lineage(p->shadow, p->epoch);
	gate_commit(p->gate, p->epoch, p->now);
	pair_deliver(p);
}

/* Asserts how many frames are out and why, and forgets them. */
static inline void pair_released(struct pair *p, uint32_t count, enum release_why why)
{
	g_assert_cmpuint(p->outs, ==, count);
	for (uint32_t i = 0; i < count; i++)
		g_assert_cmpint(p->out[i].why, ==, why);
	pair_forget_outs(p);
}

static inline void pair_holds(struct pair *p, uint32_t count)
{
	struct gate_stats stats;

	gate_get_stats(p->gate, &stats);
	g_assert_cmpuint(stats.now_packets, ==, count);
	g_assert_cmpuint(p->outs, ==, 0);
}

static inline bool pair_wants(const struct pair *p, enum ckpt_cause cause)
{
	for (uint32_t i = 0; i < p->wants; i++) {
		if (p->want[i].cause == cause)
			return true;
	}
	return false;
}

/* A TCP view of the frame, whose checksum must be right; the frame is freed. */
static inline struct packet_tcp pair_tcp(struct frame *frame)
{
	struct packet packet;
	struct packet_tcp tcp;

	g_assert_cmpint(packet_parse(&packet, frame), ==, 0);
	g_assert_cmpint(packet.class, ==, PACKET_TCP);
	g_assert_cmphex(packet_l4_checksum(&packet), ==,
	                frame->data[packet.l4_off + 16] << 8 | frame->data[packet.l4_off + 17]);
	tcp = packet.tcp;
	frame_free(frame);
	return tcp;
}

#endif
