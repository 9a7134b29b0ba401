/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What has been said of a flow's stream, so that what repeats it can be told from what only claims
 * to.
 *
 * Coverage says that the SVM has said a range, not with which bytes a later frame fills it. A guest
 * can say the right bytes in a frame that no client takes (with a bad checksum, or with a TTL that
 * ends on the way), and then repeat the range with other ones. So a frame's bytes are released by
 * match only when a digest was verified over this very frame, or when they are equal, piece by
 * piece, to pieces of which that is true or that a commit has let out. The same holds for a SYN's
 * options and a FIN's place. What repeats in other portions than it said at first, or repeats what
 * is not remembered any more, waits for the SVM's checkpoint like all that is not compared.
 *
 * A piece is a range and a part of its keyed hash: the digest's own where that is a segment of the
 * frame, as nearly always; else the frame is hashed, segment by segment, when it goes.
 *
 * Limits: SPOKEN_MAX pieces of a flow and SPOKEN_ALL of all flows are remembered, the newest.
 */
#include "colo-proxy/core/gate_private.h"

#include <stdlib.h>
#include <string.h>

#include "colo-proxy/core/seq.h"

#define SPOKEN_MIN 4u
#define SPOKEN_MAX 1024u       /* powers of two; at 1,448 bytes each, 1.4 MB of a stream */
#define SPOKEN_ALL (1u << 20)  /* 16 MiB */
#define SPOKEN_FIN UINT64_C(1) /* in place of a hash, with length 0 */

struct piece {
	uint32_t seq, len;
	uint64_t hash;
};

/* A ring; what has not been used yet is zero, which is no piece. */
struct spoken {
	uint32_t count; /* all that ever were */
	uint32_t size;
	struct piece piece[];
};

static uint64_t part_of(const uint8_t hash[PACKET_DIGEST_LEN])
{
	uint64_t part;

	memcpy(&part, hash, sizeof(part));
	return part;
}

static uint64_t hash_range(const struct gate *gate, const struct held *held, uint32_t seq,
                           uint32_t len)
{
	uint8_t hash[PACKET_DIGEST_LEN];
	uint32_t at = held->packet.payload_off + (seq - gate_held_data(held));

	digest_stream(&gate->key, held->frame->data + at, len, hash);
	return part_of(hash);
}

static uint64_t hash_syn(const struct gate *gate, const struct held *held)
{
	uint8_t hash[PACKET_DIGEST_LEN];

	digest_syn(&gate->key, &held->packet.tcp, hash);
	return part_of(hash);
}

/* The ring with room for one more, if it may grow; NULL: there is none. */
static struct spoken *make_room(struct gate *gate, struct flow *flow)
{
	struct spoken *spoken = flow->spoken, *larger;
	uint32_t old = spoken ? spoken->size : 0;
	uint32_t size = old ? old * 2 : SPOKEN_MIN;

	if (old && (spoken->count < old || old == SPOKEN_MAX))
		return spoken;
	if (gate->spoken_all + (size - old) > SPOKEN_ALL)
		return spoken;
	larger = realloc(spoken, sizeof(*spoken) + size * sizeof(spoken->piece[0]));
	if (!larger)
		return spoken;
	memset(larger->piece + old, 0, (size - old) * sizeof(larger->piece[0]));
	if (!old)
		larger->count = 0;
	larger->size = size;
	gate->spoken_all += size - old;
	flow->spoken = larger;
	return larger;
}

static void remember(struct gate *gate, struct flow *flow, uint32_t seq, uint32_t len,
                     uint64_t hash)
{
	struct spoken *spoken = make_room(gate, flow);

	if (spoken)
		spoken->piece[spoken->count++ % spoken->size] = (struct piece){seq, len, hash};
}

void gate_spoken_forget(struct gate *gate, struct flow *flow)
{
	if (flow->spoken)
		gate->spoken_all -= flow->spoken->size;
	free(flow->spoken);
	flow->spoken = NULL;
}

/* The length of one segment of the frame. */
static uint32_t segment_of(const struct held *held)
{
	const struct virtio_net_hdr_v1 *vnet = &held->frame->vnet;

	if (vnet->gso_type != VIRTIO_NET_HDR_GSO_NONE && vnet->gso_size)
		return vnet->gso_size; /* little endian, as this host is */
	return held->packet.payload_len;
}

/* ---- what a digest has proved ---- */

void gate_spoken_proved(struct gate *gate, struct flow *flow, struct held *held, uint32_t seq,
                        uint32_t len, const uint8_t hash[PACKET_DIGEST_LEN])
{
	uint32_t at = seq - gate_held_data(held), segment = segment_of(held);

	if (!held->proved)
		held->proved_start = seq;
	else if (held->proved_end != seq)
		return; /* coverage does not jump within a frame; it need not be counted on */
	held->proved = true;
	held->proved_end = seq + len;
	if (hash && !held->first_segment && at % segment == 0 &&
	    (len == segment || (len < segment && at + len == held->packet.payload_len))) {
		remember(gate, flow, seq, len, part_of(hash));
		held->remembered += len;
	}
}

void gate_spoken_syn(struct gate *gate, struct flow *flow, struct held *held)
{
	held->proved_syn = true;
	remember(gate, flow, held->packet.tcp.seq, 1, hash_syn(gate, held));
}

void gate_spoken_fin(struct gate *gate, struct flow *flow, uint32_t epoch, uint32_t seq)
{
	for (struct held *held = flow->head; held; held = held->flow_next) {
		if (held->epoch == epoch && held->incarnation == flow->incarnation &&
		    (held->packet.tcp.flags & PACKET_FIN) && held->end - 1 == seq)
			held->proved_fin = true;
	}
	remember(gate, flow, seq, 0, SPOKEN_FIN);
}

void gate_spoken_split(struct held *held, uint32_t part)
{
	uint32_t segment = segment_of(held), first = held->first_segment;

	first = part < first ? first - part : segment - (part - first) % segment;
	if (first > held->packet.payload_len - part)
		first = held->packet.payload_len - part;
	held->first_segment = first;
}

void gate_spoken_released(struct gate *gate, struct flow *flow, const struct held *held)
{
	uint32_t seq = gate_held_data(held), left = held->packet.payload_len;
	uint32_t segment = segment_of(held), first = held->first_segment;

	if (held->incarnation != flow->incarnation)
		return;
	if ((held->packet.tcp.flags & PACKET_SYN) && !held->proved_syn)
		remember(gate, flow, held->packet.tcp.seq, 1, hash_syn(gate, held));
	if (held->remembered < left) {
		for (uint32_t len; left; left -= len, seq += len) {
			len = first ? first : segment;
			len = left < len ? left : len;
			first = 0;
			remember(gate, flow, seq, len, hash_range(gate, held, seq, len));
		}
	}
	if ((held->packet.tcp.flags & PACKET_FIN) && !held->proved_fin)
		remember(gate, flow, held->end - 1, 0, SPOKEN_FIN);
}

/* ---- what repeats ---- */

static bool has_piece(const struct spoken *spoken, uint32_t seq, uint32_t len, uint64_t hash)
{
	for (uint32_t i = 0; spoken && i < spoken->size; i++) {
		const struct piece *piece = &spoken->piece[i];

		if (piece->seq == seq && piece->len == len && piece->hash == hash)
			return true;
	}
	return false;
}

/* Whether pieces that are remembered make up the frame's bytes [seq, end). */
static bool is_made_up(const struct gate *gate, const struct spoken *spoken,
                       const struct held *held, uint32_t seq, uint32_t end)
{
	uint32_t next = 0, looked = 0; /* what was said one behind the other is found so */

	while (spoken && seq != end && looked < spoken->size) {
		const struct piece *piece = &spoken->piece[next++ % spoken->size];

		looked++;
		if (piece->seq != seq || !piece->len || piece->len > end - seq ||
		    piece->hash != hash_range(gate, held, seq, piece->len))
			continue;
		seq += piece->len;
		looked = 0;
	}
	return seq == end;
}

static bool bytes_are_said(const struct gate *gate, const struct flow *flow,
                           const struct held *held)
{
	uint32_t seq = gate_held_data(held), end = seq + held->packet.payload_len;

	if (seq == end)
		return true;
	if (held->proved && seq_geq(held->proved_end, end)) {
		if (seq_leq(held->proved_start, seq))
			return true; /* the usual case */
		if (seq_lt(held->proved_start, end))
			end = held->proved_start;
	}
	return is_made_up(gate, flow->spoken, held, seq, end);
}

bool gate_spoken_is(struct gate *gate, const struct flow *flow, struct held *held)
{
	const struct packet_tcp *tcp = &held->packet.tcp;
	uint32_t count = flow->spoken ? flow->spoken->count : 0;
	bool is;

	if (held->looked && held->looked_at == count)
		return false; /* nothing has been said since it was found wanting */
	is = (!(tcp->flags & PACKET_FIN) || held->proved_fin ||
	      has_piece(flow->spoken, held->end - 1, 0, SPOKEN_FIN)) &&
	     (!(tcp->flags & PACKET_SYN) || held->proved_syn ||
	      has_piece(flow->spoken, tcp->seq, 1, hash_syn(gate, held))) &&
	     bytes_are_said(gate, flow, held);
	held->looked = !is;
	held->looked_at = count;
	return is;
}
