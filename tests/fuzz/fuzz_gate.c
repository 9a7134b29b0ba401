/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A schedule from arbitrary bytes for a gate and a shadow: frames of both VMs, digests (the
 * shadow's own and forged ones), cuts, commits, loads, breaks. Nothing crashes, accounts stay
 * balanced, and no frame is released by commit that no checkpoint covers, nor by match in another
 * epoch than the newest committed one. Inputs of odd length are under rules: one port is bypassed,
 * one is released by commit only.
 *
 * Input: records of 8 bytes: 0 what (modulo 10) and framing (divided by 10: 1 IPv6, 2 a VLAN tag, 4
 * extension headers), 1 flow and flags, 2-3 sequence number, 4 length, 5-6 acknowledgement, 7
 * content.
 */
#include <stdlib.h>
#include <string.h>

#include "colo-proxy/core/gate.h"
#include "colo-proxy/core/shadow.h"
#include "tests/unit/tcp_builder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define BYPASS_PORT 1003u
#define COMMIT_PORT 1002u

static const struct policy rules = {
        .rule = {{.number = 1,
                  .action = POLICY_BYPASS,
                  .match = POLICY_IP,
                  .value = 6,
                  .peer_port = {BYPASS_PORT, BYPASS_PORT}},
                 {.number = 2,
                  .action = POLICY_COMMIT,
                  .match = POLICY_IP,
                  .value = 6,
                  .peer_port = {COMMIT_PORT, COMMIT_PORT}}},
        .count = 2,
};

struct rig {
	bool ruled;
	struct gate *gate;
	struct shadow *shadow;
	uint32_t epoch, committed, lineage;
	uint64_t now;
};

static void require(bool holds)
{
	if (!holds)
		abort();
}

static void on_release(void *ctx, struct frame *frame, const struct packet *packet,
                       enum release_why why, uint64_t held_ns)
{
	struct rig *r = ctx;

	uint16_t port = packet->class == PACKET_TCP ? packet->tcp.dport : 0;

	(void)held_ns;
	require(why != RELEASE_UNPROTECTED);
	require((why == RELEASE_BYPASS) == (r->ruled && port == BYPASS_PORT));
	require(why != RELEASE_MATCH || !r->ruled || port != COMMIT_PORT);
	if (why == RELEASE_BYPASS)
		require(frame->origin == (uint8_t)r->epoch);
	else if (why == RELEASE_COMMIT)
		require(frame->origin != (uint8_t)r->committed);
	else
		require(frame->origin == (uint8_t)r->committed);
	frame_free(frame);
}

static void on_request(void *ctx, const struct divergence *why)
{
	(void)ctx;
	require(why->what != NULL && why->cause < CKPT_CAUSE_COUNT);
}

static void on_flow_open(void *ctx, uint32_t epoch, const struct flow_open *open)
{
	struct rig *r = ctx;

	shadow_flow_open(r->shadow, epoch, open, r->now);
}

static void on_ts_lead(void *ctx, uint32_t epoch, uint32_t ticks)
{
	struct rig *r = ctx;

	shadow_ts_lead(r->shadow, epoch, ticks);
}

/* A range is asked for in two: the next answer has hashes of no bytes, or names another range. */
static struct digest_cut cut_asked;
static uint32_t cut_epoch;
static bool cut_waits;

static void on_cut(void *ctx, uint32_t epoch, const struct digest *said, uint32_t at)
{
	(void)ctx;
	require(at - said->seq < said->len);
	cut_asked = (struct digest_cut){.whole = *said, .at = at};
	cut_epoch = epoch;
	cut_waits = true;
}

static void answer_cut(struct rig *r)
{
	if (!cut_waits)
		return;
	cut_waits = false;
	require(gate_digest_cut(r->gate, cut_epoch, &cut_asked, r->now) == 0);
	cut_asked.whole.hash[0]++;
	require(gate_digest_cut(r->gate, cut_epoch, &cut_asked, r->now) == 0);
}

/* Reentrance is forbidden: what the shadow says is kept until it has returned. */
static struct digest kept[512];
static uint32_t kept_lineage[512], kept_count;

static void on_digest(void *ctx, uint32_t lineage, const struct digest *digest)
{
	(void)ctx;
	if (kept_count == 512)
		return;
	kept_lineage[kept_count] = lineage;
	kept[kept_count++] = *digest;
}

static void on_refeed(void *ctx, const struct flow_key *key, uint32_t seq)
{
	(void)ctx;
	(void)key;
	(void)seq;
}

static void hand_over_digests(struct rig *r)
{
	for (uint32_t i = 0; i < kept_count; i++)
		(void)gate_digest(r->gate, kept_lineage[i], &kept[i], r->now);
	kept_count = 0;
	answer_cut(r);
}

/* A piece of a datagram: 1 flow and last, 2 offset, 3 identification, 4 length. */
static struct frame *piece_from(const uint8_t *b, bool from_peer)
{
	static const uint8_t zeros[3072];
	struct frame *whole = b[0] / 10 & 1
	                              ? build_udp6(from_peer, 53, 1000 + (b[1] & 3), zeros, 3072)
	                              : build_udp(from_peer, 53, 1000 + (b[1] & 3), zeros, 3072);
	struct frame *f = build_fragment(whole, b[3], b[2] * 8u, b[4] * 4u, b[1] & 0x80);

	frame_free(whole);
	return f;
}

/* A report of one group: 1 flow, 2 type, 3 group, 6 whether it is clear. */
static struct frame *report_from(const uint8_t *b)
{
	static const uint8_t to4[4] = {224, 0, 0, 22}, to6[16] = {0xff, 2, [15] = 22};
	bool six = b[0] / 10 & 1;
	uint32_t address = six ? 16 : 4, len = 12 + address;
	struct frame *f =
	        six ? build_ipv6(false, b[0] / 10 & 4, 58, len) : build_ipv4(false, 2, len);
	uint8_t *ip = f->data + 14, *l4 = f->data + f->len - len;
	uint64_t sum = 0;

	ip[six ? 7 : 8] = 1 + (b[6] >> 7);
	ip[six ? 23 : 15] ^= b[1] & 1;
	memcpy(ip + (six ? 24 : 16), six ? to6 : to4, address);
	l4[0] = six ? 143 : 0x22;
	l4[7] = 1;
	l4[8] = 1 + b[2] % 6;
	l4[12] = six ? 0xff : 0xef;
	l4[len - 1] = b[3];
	if (six)
		sum = checksum_ipv6_pseudo(ip + 8, 58, len);
	build_put16(l4 + 2, (uint16_t)~checksum_fold(checksum_add(sum, l4, len)));
	return f;
}

static struct frame *bare_frame_from(const uint8_t *b, bool from_peer)
{
	uint8_t bytes[1024];
	uint32_t len = (uint32_t)b[4] * (b[1] & 0x80 ? 4 : 1);
	struct build_tcp t = {
	        .from_peer = from_peer,
	        .ipv6 = b[0] / 10 & 1,
	        .extended = b[0] / 10 & 4,
	        .peer_port = 1000 + (b[1] & 3),
	        .seq = (uint32_t)(b[2] << 8 | b[3]) + 0xffff8000u,
	        .ack = (uint32_t)(b[5] << 8 | b[6]) + 0xffff8000u,
	        .flags = (b[1] >> 2 & 7) | (b[1] & 0x20 ? PACKET_ACK : 0),
	        .has_ts = b[1] & 0x40,
	        .tsval = b[7],
	        .mss = b[1] & 8 ? 1460 : 0,
	        .data = bytes,
	        .len = len,
	        .gso_size = len > 100 ? 100 : 0,
	};

	for (uint32_t i = 0; i < len; i++)
		bytes[i] = (uint8_t)(t.seq + i) ^ (b[7] == 0xff ? 1 : 0);
	if (b[7] == 0xfe)
		return build_udp(from_peer, 53, b[3], bytes, len);
	if (b[7] == 0xfd)
		return build_arp(1, b[3]);
	if (b[7] == 0xfc)
		return build_other((uint16_t)(b[2] << 8 | b[3]));
	if (b[7] == 0xfb)
		return piece_from(b, from_peer);
	if (b[7] == 0xfa)
		return build_other(b[3] & 1 ? 0x88cc : 0x0026);
	if (b[7] == 0xf9 && !from_peer)
		return report_from(b);
	return build_tcp(&t);
}

static struct frame *frame_from(const uint8_t *b, bool from_peer)
{
	struct frame *f = bare_frame_from(b, from_peer);

	return b[0] / 10 & 2 ? build_tagged(f, 0x8100, b[6] & 1) : f;
}

static void forge(struct rig *r, const uint8_t *b)
{
	struct digest d = {
	        .key = {.vm_ip = BUILD_VM_IP,
	                .peer_ip = BUILD_PEER_IP,
	                .vm_port = 80,
	                .peer_port = 1000 + (b[1] & 3),
	                .proto = 6,
	                .kind = (b[6] == 0xf9 ? FLOW_MEMBERSHIP : FLOW_TCP) + (b[7] & 1)},
	        .kind = b[7] >> 1 & 3,
	        .tcp_flags = b[1] >> 2,
	        .seq = (uint32_t)(b[2] << 8 | b[3]) + 0xffff8000u,
	        .len = b[4] == 0xff ? UINT32_MAX : b[4],
	        .ack = (uint32_t)(b[5] << 8 | b[6]) + 0xffff8000u,
	};

	(void)gate_digest(r->gate, r->lineage + (b[7] >> 6) - 1, &d, r->now);
}

static void load(struct rig *r)
{
	if (r->lineage == r->committed)
		return;
	r->lineage = r->committed;
	shadow_lineage(r->shadow, r->lineage);
}

static void schedule(struct rig *r, const uint8_t *b)
{
	struct frame *frame;

	r->now += (uint64_t)b[7] << 16;
	switch (b[0] % 10) {
	case 0:
	case 1:
		frame = frame_from(b, false);
		frame->origin = (uint8_t)r->epoch;
		require(gate_output(r->gate, frame, r->now) == 0);
		break;
	case 2:
	case 3:
		frame = frame_from(b, false);
		shadow_output(r->shadow, frame, r->now);
		frame_free(frame);
		break;
	case 4:
		frame = frame_from(b, true);
		shadow_input(r->shadow, frame, r->now);
		frame_free(frame);
		break;
	case 5:
		forge(r, b);
		break;
	case 6:
		if (r->epoch - r->committed < 2)
			gate_cut(r->gate, ++r->epoch, r->now);
		break;
	case 7:
		if (r->committed < r->epoch) {
			r->committed++;
			gate_commit(r->gate, r->committed, r->now);
			load(r);
		}
		break;
	case 8:
		hand_over_digests(r);
		break;
	default:
		if (b[1] == 0)
			gate_break(r->gate, CKPT_PRESSURE, "fuzz", r->now);
		(void)gate_tick(r->gate, r->now);
		break;
	}
}

/* After the last commit nothing is held; after a takeover every frame still parses. */
static void finish(struct rig *r, const uint8_t *data, size_t size)
{
	struct gate_stats stats;

	while (r->committed < r->epoch) {
		r->committed++;
		gate_commit(r->gate, r->committed, r->now);
	}
	gate_cut(r->gate, ++r->epoch, r->now);
	r->committed = r->epoch;
	gate_commit(r->gate, r->epoch, r->now);
	gate_get_stats(r->gate, &stats);
	require(stats.now_packets == 0 && stats.now_bytes == 0 && gate_has_room(r->gate));
	require(stats.now_flows <= 4);
	shadow_takeover(r->shadow, r->now);
	for (size_t i = 0; i + 8 <= size && i < 256; i += 8) {
		struct frame *frame = frame_from(data + i, false);
		struct packet p;

		shadow_translate(r->shadow, frame, r->now);
		require(packet_parse(&p, frame) == 0);
		frame_free(frame);
	}
	(void)shadow_expire(r->shadow, r->now + 500000000000000);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct gate_ops gate_ops = {on_release, on_request, on_flow_open, on_ts_lead,
	                                         on_cut};
	static const struct shadow_ops shadow_ops = {.digest = on_digest, .refeed = on_refeed};
	static const struct gate_limits limits = {1000000, 1 << 16, 64, 4, 8, 8000000};
	static const struct packet_digest_key key = {{5}};
	struct rig r = {.now = 1000000000, .ruled = size & 1};

	kept_count = 0;
	cut_waits = false;
	require(gate_new(&r.gate, &limits, &key, &gate_ops, &r) == 0);
	require(shadow_new(&r.shadow, 4, &key, &shadow_ops, &r) == 0);
	if (r.ruled)
		gate_set_policy(r.gate, &rules);
	gate_cut(r.gate, 0, r.now);
	shadow_lineage(r.shadow, 0);
	for (size_t i = 0; i + 8 <= size && i < 8192; i += 8)
		schedule(&r, data + i);
	finish(&r, data, size);
	gate_free(r.gate);
	shadow_free(r.shadow);
	return 0;
}
