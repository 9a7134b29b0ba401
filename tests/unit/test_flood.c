/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A SYN flood through both halves of the comparison: connections that are open go on being compared
 * and mapped, tables and queues keep their limits, and nothing goes out that the SVM has not said
 * (R1, R8).
 *
 * The VMs are a server that answers each SYN. A connection's initial sequence number is its
 * client's port times 1,000,000 in the PVM, and that plus SVM_AHEAD in the SVM.
 */
#include <glib.h>

#include "colo-proxy/core/gate.h"
#include "colo-proxy/core/shadow.h"
#include "tests/unit/tcp_builder.h"

#define MS          1000000ull
#define SECOND      (1000 * MS)
#define MAX_FLOWS   64u
#define MAX_PACKETS 200u
#define OPEN        16u /* connections before the flood; the clients' ports are 1 .. OPEN */
#define FLOOD       10000u
#define SVM_AHEAD   5000u
#define CLIENT_ISS  500u

struct rig {
	struct gate *gate;
	struct shadow *shadow;
	uint32_t matched, committed, wants[CKPT_CAUSE_COUNT];
	struct digest digests[8]; /* on their way to the gate */
	uint32_t digest_count;
	struct flow_open opens[8]; /* on their way to the shadow */
	uint32_t open_count;
	uint32_t said[OPEN + 1]; /* bytes on each connection */
	uint64_t now;
};

static void on_release(void *ctx, struct frame *frame, const struct packet *packet,
                       enum release_why why, uint64_t held_ns)
{
	struct rig *r = ctx;

	(void)packet;
	(void)held_ns;
	g_assert_cmpint(why, !=, RELEASE_UNPROTECTED);
	*(why == RELEASE_MATCH ? &r->matched : &r->committed) += 1;
	frame_free(frame);
}

static void on_request(void *ctx, const struct divergence *why)
{
	((struct rig *)ctx)->wants[why->cause]++;
}

static void on_flow_open(void *ctx, uint32_t epoch, const struct flow_open *open)
{
	struct rig *r = ctx;

	(void)epoch;
	g_assert_cmpuint(r->open_count, <, G_N_ELEMENTS(r->opens));
	r->opens[r->open_count++] = *open;
}

static void on_ts_lead(void *ctx, uint32_t epoch, uint32_t ticks)
{
	(void)ctx;
	(void)epoch;
	(void)ticks;
}

static void on_digest(void *ctx, uint32_t lineage, const struct digest *digest)
{
	struct rig *r = ctx;

	(void)lineage;
	g_assert_cmpuint(r->digest_count, <, G_N_ELEMENTS(r->digests));
	r->digests[r->digest_count++] = *digest;
}

static void on_refeed(void *ctx, const struct flow_key *key, uint32_t seq)
{
	(void)ctx;
	(void)key;
	(void)seq;
}

/* What each half has to tell the other. */
static void exchange(struct rig *r)
{
	for (uint32_t i = 0; i < r->open_count; i++)
		shadow_flow_open(r->shadow, 0, &r->opens[i], r->now);
	r->open_count = 0;
	for (uint32_t i = 0; i < r->digest_count; i++)
		g_assert_cmpint(gate_digest(r->gate, 0, &r->digests[i], r->now), ==, 0);
	r->digest_count = 0;
}

static void pvm_says(struct rig *r, struct build_tcp t)
{
	gate_output(r->gate, build_tcp(&t), r->now);
	exchange(r);
}

static void svm_says(struct rig *r, struct build_tcp t)
{
	struct frame *f;

	t.seq += SVM_AHEAD;
	f = build_tcp(&t);
	shadow_output(r->shadow, f, r->now);
	frame_free(f);
	exchange(r);
}

/* A frame of the client's as the SVM gets it: its acknowledgement number. */
static uint32_t client_says(struct rig *r, uint16_t port, uint32_t ack)
{
	struct build_tcp t = {.from_peer = true,
	                      .peer_port = port,
	                      .flags = PACKET_ACK,
	                      .seq = CLIENT_ISS + 1,
	                      .ack = ack};
	struct frame *f = build_tcp(&t);
	struct packet p;
	uint32_t mapped;

	shadow_input(r->shadow, f, r->now);
	g_assert_cmpint(packet_parse(&p, f), ==, 0);
	mapped = p.tcp.ack;
	frame_free(f);
	return mapped;
}

static uint32_t iss_of(uint16_t port)
{
	return port * 1000000u;
}

static struct build_tcp syn_ack(uint16_t port)
{
	return (struct build_tcp){.peer_port = port,
	                          .flags = PACKET_SYN | PACKET_ACK,
	                          .seq = iss_of(port),
	                          .ack = CLIENT_ISS + 1,
	                          .mss = 1460};
}

/* On an open connection the PVM repeats its last ten bytes, and both VMs say the next ten. What is
 * repeated goes out by what is known of the flow: one that was forgotten would wait for the SVM. */
static void talk(struct rig *r, uint16_t port)
{
	static const uint8_t bytes[10] = "ten bytes";
	struct build_tcp t = {.peer_port = port,
	                      .flags = PACKET_ACK,
	                      .seq = iss_of(port) + 1 + r->said[port],
	                      .ack = CLIENT_ISS + 1,
	                      .data = bytes,
	                      .len = 10};
	uint32_t before = r->matched;

	if (r->said[port]) {
		t.seq -= 10;
		pvm_says(r, t);
		g_assert_cmpuint(r->matched, ==, ++before);
		t.seq += 10;
	}
	pvm_says(r, t);
	g_assert_cmpuint(r->matched, ==, before);
	svm_says(r, t);
	g_assert_cmpuint(r->matched, ==, before + 1);
	r->said[port] += 10;
	g_assert_cmpuint(client_says(r, port, t.seq + 10), ==, t.seq + 10 + SVM_AHEAD);
}

static struct rig *rig_new(void)
{
	static const struct packet_digest_key key = {{5}};
	static const struct gate_ops gate_ops = {
	        .release = on_release,
	        .request = on_request,
	        .flow_open = on_flow_open,
	        .ts_lead = on_ts_lead,
	};
	static const struct shadow_ops shadow_ops = {.digest = on_digest, .refeed = on_refeed};
	static const struct gate_limits limits = {
	        .late_ns = 3600 * SECOND,
	        .max_bytes = 1 << 20,
	        .max_packets = MAX_PACKETS,
	        .max_flows = MAX_FLOWS,
	        .max_digests = 8,
	};
	struct rig *r = g_new0(struct rig, 1);

	r->now = 100 * SECOND;
	g_assert_cmpint(gate_new(&r->gate, &limits, &key, &gate_ops, r), ==, 0);
	g_assert_cmpint(shadow_new(&r->shadow, MAX_FLOWS, &key, &shadow_ops, r), ==, 0);
	gate_cut(r->gate, 0, r->now);
	shadow_lineage(r->shadow, 0);
	for (uint16_t port = 1; port <= OPEN; port++) {
		pvm_says(r, syn_ack(port));
		svm_says(r, syn_ack(port));
		client_says(r, port, iss_of(port) + 1);
		talk(r, port);
	}
	g_assert_cmpuint(r->matched, ==, 2 * OPEN);
	return r;
}

static void rig_free(struct rig *r)
{
	gate_free(r->gate);
	shadow_free(r->shadow);
	g_free(r);
}

static void assert_limits(const struct rig *r)
{
	struct gate_stats gate;
	struct shadow_stats shadow;

	gate_get_stats(r->gate, &gate);
	shadow_get_stats(r->shadow, &shadow);
	g_assert_cmpuint(gate.high_flows, <=, MAX_FLOWS);
	g_assert_cmpuint(shadow.high_flows, <=, MAX_FLOWS);
}

/* Both VMs answer each SYN of the flood; each answer goes out as the SVM gives it, and no
 * checkpoint is needed. */
static void test_answered(void)
{
	struct rig *r = rig_new();
	uint32_t before = r->matched;
	struct shadow_stats shadow;
	struct gate_stats gate;

	for (uint32_t i = 0; i < FLOOD; i++) {
		uint16_t port = (uint16_t)(1000 + i);

		r->now += MS;
		pvm_says(r, syn_ack(port));
		g_assert_cmpuint(r->matched, ==, before + i);
		svm_says(r, syn_ack(port));
		g_assert_cmpuint(r->matched, ==, before + i + 1);
	}
	assert_limits(r);
	for (uint32_t i = 0; i < CKPT_CAUSE_COUNT; i++)
		g_assert_cmpuint(r->wants[i], ==, 0);
	gate_get_stats(r->gate, &gate);
	shadow_get_stats(r->shadow, &shadow);
	g_assert_cmpuint(gate.flows_evicted, >=, FLOOD - MAX_FLOWS);
	g_assert_cmpuint(shadow.flows_evicted, >=, FLOOD - MAX_FLOWS);
	for (uint16_t port = 1; port <= OPEN; port++)
		talk(r, port);
	rig_free(r);
}

/* The SVM says none of it: all of it is held, until the gate is full and the VM has to wait. What
 * is open goes on. */
static void test_unanswered(void)
{
	struct rig *r = rig_new();
	uint32_t before = r->matched, held = 0;
	struct gate_stats gate;

	while (gate_has_room(r->gate)) {
		pvm_says(r, syn_ack((uint16_t)(1000 + held)));
		held++;
	}
	g_assert_cmpuint(held, ==, MAX_PACKETS);
	g_assert_cmpuint(r->matched, ==, before);
	g_assert_cmpuint(r->committed, ==, 0);
	g_assert_cmpuint(r->wants[CKPT_PRESSURE], ==, 1);
	assert_limits(r);
	for (uint16_t port = 1; port <= OPEN; port++)
		talk(r, port);
	gate_cut(r->gate, 1, r->now);
	g_assert_cmpuint(r->committed, ==, 0);
	gate_commit(r->gate, 1, r->now);
	g_assert_cmpuint(r->committed, ==, held);
	g_assert_true(gate_has_room(r->gate));
	gate_get_stats(r->gate, &gate);
	g_assert_cmpuint(gate.now_packets, ==, 0);
	rig_free(r);
}

/* Half-open connections are forgotten after about a minute, open ones are not. */
static void test_forgotten(void)
{
	struct rig *r = rig_new();
	struct gate_stats gate;

	for (uint32_t i = 0; i < MAX_FLOWS - OPEN; i++) {
		pvm_says(r, syn_ack((uint16_t)(1000 + i)));
		svm_says(r, syn_ack((uint16_t)(1000 + i)));
	}
	gate_get_stats(r->gate, &gate);
	g_assert_cmpuint(gate.now_flows, ==, MAX_FLOWS);
	for (uint32_t i = 0; i < 100; i++) {
		r->now += 3 * SECOND;
		gate_tick(r->gate, r->now);
	}
	gate_get_stats(r->gate, &gate);
	g_assert_cmpuint(gate.now_flows, ==, OPEN);
	g_assert_cmpuint(gate.flows_evicted, ==, 0);
	for (uint16_t port = 1; port <= OPEN; port++)
		talk(r, port);
	rig_free(r);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/flood/answered", test_answered);
	g_test_add_func("/flood/unanswered", test_unanswered);
	g_test_add_func("/flood/forgotten", test_forgotten);
	return g_test_run();
}
