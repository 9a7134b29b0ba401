/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The secondary's memory of the SVM's last words. An ask looks through all of it, newest first: at
 * most RECENT_MAX_FRAMES headers, a few hundred microseconds, once for each cause and epoch.
 */
#include "colo-proxy/core/recent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "colo-proxy/core/seq.h"

struct kept {
	struct frame *frame;
	uint64_t at;
	uint32_t lineage;
	struct recent_map map;
};

struct recent {
	uint64_t max_bytes, bytes;
	uint32_t first, count; /* the oldest one's slot */
	struct kept slot[RECENT_MAX_FRAMES];
};

int recent_new(struct recent **ret_recent, uint64_t max_bytes)
{
	struct recent *recent = calloc(1, sizeof(*recent));

	if (!recent)
		return -ENOMEM;
	recent->max_bytes = max_bytes;
	*ret_recent = recent;
	return 0;
}

void recent_free(struct recent *recent)
{
	free(recent);
}

static uint64_t size_of(const struct frame *frame)
{
	return sizeof(*frame) + FRAME_HEADROOM + frame->room;
}

void recent_keep(struct recent *recent, struct frame *frame, uint32_t lineage,
                 struct recent_map map, uint64_t now)
{
	uint32_t slot = (recent->first + recent->count) % RECENT_MAX_FRAMES;

	recent->slot[slot] =
	        (struct kept){.frame = frame, .at = now, .lineage = lineage, .map = map};
	recent->count++;
	recent->bytes += size_of(frame);
}

struct frame *recent_evict(struct recent *recent, bool all)
{
	struct frame *frame;

	if (!recent->count ||
	    (!all && recent->bytes <= recent->max_bytes && recent->count < RECENT_MAX_FRAMES))
		return NULL;
	frame = recent->slot[recent->first].frame;
	recent->first = (recent->first + 1) % RECENT_MAX_FRAMES;
	recent->count--;
	recent->bytes -= size_of(frame);
	return frame;
}

/* ---- asks ---- */

/* A SYN may have been kept before its mapping was known; the ask says what it is. */
static struct recent_map map_of(const struct kept *kept, const struct packet *packet,
                                const struct ask *ask)
{
	struct recent_map map = kept->map;

	if (ask->kind == ASK_SAID && (packet->tcp.flags & PACKET_SYN))
		map.seq_delta = ask->digest.seq - packet->tcp.seq;
	return map;
}

static bool segment_asked(const struct kept *kept, const struct packet *packet,
                          const struct digest *digest)
{
	uint32_t start = packet->tcp.seq + kept->map.seq_delta;
	uint32_t end = start + packet_seq_len(packet);
	bool syn = packet->tcp.flags & PACKET_SYN, reset = packet->tcp.flags & PACKET_RST;

	if (digest->tcp_flags & (PACKET_SYN | PACKET_RST))
		return digest->tcp_flags & PACKET_SYN ? syn : reset;
	return seq_lt(start, digest->seq + digest->len) && seq_gt(end, digest->seq);
}

/* Whether the packet is (a part of) what is asked for. */
static bool is_asked(const struct kept *kept, const struct packet *packet,
                     const struct packet_digest_key *key, const struct ask *ask)
{
	uint8_t hash[PACKET_DIGEST_LEN];
	struct flow_key own;

	if (packet_flow_key(packet, PACKET_FROM_VM, &own) != 0 ||
	    !flow_key_equal(&own, &ask->digest.key))
		return false;
	if (ask->kind == ASK_NEWEST)
		return true;
	if (packet->class == PACKET_TCP)
		return segment_asked(kept, packet, &ask->digest);
	return packet_digest_datagram(packet, key, hash) == 0 &&
	       memcmp(hash, ask->digest.hash, sizeof(hash)) == 0;
}

/* A copy in the PVM's numbers, as the client would have heard it. NULL when memory is out. */
static struct frame *translated(const struct kept *kept, const struct packet *packet,
                                const struct ask *ask)
{
	struct recent_map map = map_of(kept, packet, ask);
	struct frame *copy;
	struct packet view;

	copy = evidence_cut(kept->frame, ask->digest.seq - map.seq_delta,
	                    ask->kind == ASK_SAID ? ask->digest.len : 0);
	if (copy && packet_parse(&view, copy) == 0)
		packet_map_out(&view, map.seq_delta, map.ts_delta);
	return copy;
}

/* The bytes [seq, end) of the flow in the kept frame, NULL when it does not have them all. */
static const uint8_t *bytes_of(const struct kept *kept, const struct flow_key *key, uint32_t seq,
                               uint32_t end)
{
	struct packet packet;
	struct flow_key own;
	uint32_t start;

	if (packet_parse(&packet, kept->frame) != 0 || packet.class != PACKET_TCP ||
	    packet_flow_key(&packet, PACKET_FROM_VM, &own) != 0 || !flow_key_equal(&own, key) ||
	    (packet.tcp.flags & (PACKET_SYN | PACKET_RST)))
		return NULL;
	start = packet.tcp.seq + kept->map.seq_delta;
	if (seq_lt(seq, start) || seq_gt(end, start + packet.payload_len))
		return NULL;
	return kept->frame->data + packet.payload_off + (seq - start);
}

int recent_cut(const struct recent *recent, const struct packet_digest_key *key, uint32_t lineage,
               struct digest_cut *cut)
{
	const struct digest *whole = &cut->whole;
	uint32_t end = digest_data_end(whole);
	uint8_t hash[PACKET_DIGEST_LEN];

	if (seq_leq(cut->at, whole->seq) || seq_geq(cut->at, end))
		return -ENOENT;
	for (uint32_t i = recent->count; i > 0; i--) {
		const struct kept *kept =
		        &recent->slot[(recent->first + i - 1) % RECENT_MAX_FRAMES];
		const uint8_t *bytes = kept->lineage == lineage
		                               ? bytes_of(kept, &whole->key, whole->seq, end)
		                               : NULL;

		if (!bytes)
			continue;
		digest_stream(key, bytes, end - whole->seq, hash);
		if (memcmp(hash, whole->hash, sizeof(hash)) != 0)
			continue;
		digest_stream(key, bytes, cut->at - whole->seq, cut->head);
		digest_stream(key, bytes + (cut->at - whole->seq), end - cut->at, cut->rest);
		return 0;
	}
	return -ENOENT;
}

void recent_find(const struct recent *recent, const struct packet_digest_key *key, uint32_t lineage,
                 const struct ask *ask, uint64_t now, struct evidence_side *ret_side)
{
	struct evidence_packet found[EVIDENCE_PACKETS];
	uint32_t n = 0;

	for (uint32_t i = recent->count; i > 0 && n < EVIDENCE_PACKETS; i--) {
		const struct kept *kept =
		        &recent->slot[(recent->first + i - 1) % RECENT_MAX_FRAMES];
		struct packet packet;

		if (kept->lineage != lineage || packet_parse(&packet, kept->frame) != 0 ||
		    !is_asked(kept, &packet, key, ask))
			continue;
		found[n] = (struct evidence_packet){
		        .at_ns = now - kept->at,
		        .original = kept->frame->len,
		        .frame = translated(kept, &packet, ask),
		};
		n += found[n].frame != NULL;
	}
	ret_side->count = n;
	for (uint32_t i = 0; i < n; i++)
		ret_side->packet[i] = found[n - 1 - i];
}
