/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Packets from arbitrary bytes: the parser stays inside the frame, its invariants hold, the view
 * after a rewrite equals a fresh parse, and a rewrite can be undone; both parts of a packet that is
 * cut are frames with its bytes.
 *
 * Input: byte 0 bit 0 the frame starts at the IP header, bit 1 partial checksum at the TCP header,
 * bit 2 with bit 0 the header in front is known; byte 1 gso_type; bytes 2-5 and 6-9 (host order)
 * the deltas; then the frame.
 */
#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "colo-proxy/core/fragments.h"
#include "colo-proxy/core/membership.h"
#include "colo-proxy/core/packet.h"

#define HEADER 10u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
	if (!holds)
		abort();
}

static void check_view(const struct packet *p)
{
	const struct frame *f = p->frame;
	uint32_t tcp_end = p->payload_off;

	if (p->class == PACKET_OTHER) {
		require(p->why != PACKET_WHY_NONE && p->why < PACKET_WHY_COUNT);
		return;
	}
	require(p->why == PACKET_WHY_NONE);
	require(p->ip_off + p->ip_len <= p->l4_off);
	require(p->l4_off + p->l4_len <= f->len);
	require(p->payload_off >= p->l4_off);
	require(p->payload_off + p->payload_len == p->l4_off + p->l4_len);
	if (p->class != PACKET_TCP)
		return;
	require(!p->tcp.ts_off || p->tcp.ts_off + 8 <= tcp_end);
	require(p->tcp.sack_count <= PACKET_MAX_SACK);
	require(p->tcp.sack_off + p->tcp.sack_count * 8u <= tcp_end);
}

/* A report has at least one word, and no more than records fit; each group leads to its flow. */
static void check_words(const struct packet *p, const struct packet_digest_key *key)
{
	struct flow_key reports, of_group;
	struct membership_word word;
	uint32_t at = 0, words = 0;

	if (membership_is_unclear(p))
		membership_key(p, &reports);
	if (p->class != PACKET_MEMBERSHIP)
		return;
	membership_key(p, &reports);
	while (membership_next(p, key, &at, &word)) {
		words++;
		require(at <= p->l4_len && word.group.kind == FLOW_GROUP);
		membership_key_of_group(&word.group, &of_group);
		require(flow_key_equal(&of_group, &reports));
	}
	require(words >= 1 && words <= 255);
}

static void check_uses(const struct packet *p)
{
	static const struct packet_digest_key key;
	uint8_t digest[PACKET_DIGEST_LEN];
	struct flow_key out, in;
	char text[160];
	uint32_t len, i, left, right;
	const uint8_t *payload = packet_payload(p, &len);

	require(p->class == PACKET_OTHER ? !payload && !len : payload != NULL);
	require(memchr(packet_describe(p, text, sizeof(text)), 0, sizeof(text)) != NULL);
	require((packet_flow_key(p, PACKET_FROM_VM, &out) == 0) == (p->class != PACKET_OTHER));
	require((packet_flow_key(p, PACKET_TO_VM, &in) == 0) == (p->class != PACKET_OTHER));
	require((packet_digest_datagram(p, &key, digest) == 0) ==
	        (p->class != PACKET_OTHER && p->class != PACKET_TCP &&
	         p->class != PACKET_MEMBERSHIP));
	check_words(p, &key);
	(void)packet_l4_checksum(p);
	require(packet_seq_len(p) <= p->payload_len + 2);
	if (p->class != PACKET_TCP)
		return;
	for (i = 0; i < p->tcp.sack_count; i++)
		packet_sack(p, i, &left, &right);
}

static void check_current(const struct packet *p)
{
	struct packet again;

	require(packet_parse(&again, p->frame) == 0);
	require(again.class == p->class && again.why == p->why);
	require(again.payload_off == p->payload_off && again.payload_len == p->payload_len);
	if (p->class != PACKET_TCP)
		return;
	require(again.tcp.seq == p->tcp.seq && again.tcp.ack == p->tcp.ack);
	require(again.tcp.tsval == p->tcp.tsval && again.tcp.tsecr == p->tcp.tsecr);
	require(again.tcp.sack_off == p->tcp.sack_off && again.tcp.ts_off == p->tcp.ts_off);
}

/* Mapping a quotation there and back leaves every byte as it was, but for the two zeroes. */
static void check_quote(struct packet *p, uint32_t seq_delta)
{
	struct flow_key key;
	uint32_t seq_off, csum;
	struct frame *before;

	if (packet_quote(p, &key, &seq_off) != 0)
		return;
	require(seq_off + 4 <= p->l4_off + p->l4_len && p->l4_off + p->l4_len <= p->frame->len);
	before = frame_copy(p->frame);
	require(before != NULL);
	packet_map_quote(p, seq_off, seq_delta);
	check_current(p);
	packet_map_quote(p, seq_off, -seq_delta);
	csum = p->l4_off + 2;
	if (before->data[csum] == 0xff && before->data[csum + 1] == 0xff)
		memcpy(before->data + csum, p->frame->data + csum, 2);
	require(memcmp(before->data, p->frame->data, before->len) == 0);
	frame_free(before);
}

static void check_rewrite(struct packet *p, uint32_t seq_delta, uint32_t ts_delta)
{
	struct frame *before = frame_copy(p->frame);
	uint8_t *csum, *csum_before;

	require(before != NULL);
	packet_map_out(p, seq_delta, ts_delta);
	check_current(p);
	packet_map_in(p, seq_delta, ts_delta);
	check_current(p);
	packet_set_ack(p, p->tcp.ack + 1);
	packet_set_ack(p, p->tcp.ack - 1);
	if (p->class == PACKET_TCP && p->tcp.ts_off && !p->tcp.tsecr) {
		frame_free(before); /* a TSecr that became 0 stays 0 */
		return;
	}
	packet_map_in(p, -seq_delta, -ts_delta);
	packet_map_out(p, -seq_delta, -ts_delta);
	if (p->class == PACKET_TCP) { /* 0xffff is no checksum; an update may make it 0 */
		csum = p->frame->data + p->l4_off + 16;
		csum_before = before->data + p->l4_off + 16;
		if (csum_before[0] == 0xff && csum_before[1] == 0xff)
			memcpy(csum_before, csum, 2);
	}
	require(memcmp(before->data, p->frame->data, before->len) == 0);
	frame_free(before);
}

/* The frame as a fragment, alone and with the rest of its packet: what comes out parses. */
static void check_fragment(const struct packet *p)
{
	struct fragments *fragments = fragments_new();
	struct packet rest = *p;
	struct frame *f;
	uint32_t serial, count;

	require(fragments != NULL);
	f = fragments_add(fragments, p, &serial, &count);
	require(!f && (serial == 0) == (count == 0));
	rest.fragment.off = (uint16_t)(p->fragment.off ? 0 : p->l4_len);
	rest.fragment.more = p->fragment.off != 0;
	f = fragments_add(fragments, &rest, &serial, &count);
	if (f) {
		struct packet whole;

		require(packet_parse(&whole, f) == 0);
		require(f->len > p->l4_len);
	}
	frame_free(f);
	fragments_free(fragments);
}

/* A part that was cut off; its bytes are at `payload`. */
static void check_part(struct frame *f, uint32_t seq, const uint8_t *payload, uint32_t len)
{
	struct packet p;

	require(f->start == FRAME_AT_ETHERNET && packet_parse(&p, f) == 0);
	check_view(&p);
	require(p.class == PACKET_TCP && p.tcp.seq == seq && p.payload_len == len);
	require(memcmp(f->data + p.payload_off, payload, len) == 0);
}

/* Cuts a copy in two, somewhere. */
static void check_split(const struct packet *p, uint32_t where)
{
	uint32_t prefix = p->class == PACKET_TCP && p->payload_len ? where % p->payload_len : where;
	bool splits = p->class == PACKET_TCP && prefix && prefix < p->payload_len &&
	              !(p->tcp.flags & PACKET_SYN) &&
	              (p->frame->start == FRAME_AT_ETHERNET || p->frame->linked);
	struct frame *rest = frame_copy(p->frame);
	struct frame *first;
	struct packet copy;

	require(rest && packet_parse(&copy, rest) == 0);
	require((packet_split(&copy, prefix, &first) == 0) == splits);
	if (splits) {
		const uint8_t *payload = p->frame->data + p->payload_off;

		check_part(first, p->tcp.seq, payload, prefix);
		check_part(rest, p->tcp.seq + prefix, payload + prefix, p->payload_len - prefix);
		frame_free(first);
	}
	frame_free(rest);
}

/* The header that was in front of an IP packet. */
static void link_frame(struct frame *f)
{
	bool v6 = f->len && f->data[0] >> 4 == 6;

	memset(f->data - FRAME_LINK, 2, FRAME_LINK);
	f->data[-2] = v6 ? 0x86 : 0x08;
	f->data[-1] = v6 ? 0xdd : 0x00;
	f->linked = true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct packet p;
	struct frame *f;
	uint32_t deltas[2];

	if (size < HEADER || size > HEADER + FRAME_MAX_LEN)
		return 0;
	f = frame_new(size - HEADER);
	require(f != NULL);
	f->len = (uint32_t)(size - HEADER);
	memcpy(f->data, data + HEADER, f->len);
	memcpy(deltas, data + 2, sizeof(deltas));
	f->start = data[0] & 1 ? FRAME_AT_IP : FRAME_AT_ETHERNET;
	f->vnet.gso_type = data[1];
	f->vnet.gso_size = htole16(100);
	if (data[0] & 2) {
		f->vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		f->vnet.csum_start = htole16(34);
		f->vnet.csum_offset = htole16(16);
	}
	if ((data[0] & 5) == 5) {
		f->vnet.csum_start = htole16(34 - FRAME_LINK);
		link_frame(f);
	}
	if (packet_parse(&p, f) == 0) {
		check_view(&p);
		if (p.why == PACKET_WHY_FRAGMENT)
			check_fragment(&p);
		check_uses(&p);
		check_rewrite(&p, deltas[0], deltas[1]);
		check_quote(&p, deltas[0]);
		check_split(&p, deltas[1]);
	}
	frame_free(f);
	return 0;
}
