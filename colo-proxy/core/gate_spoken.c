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
 * All flows write into one ring, one piece behind the other, and each piece tells how far behind it
 * its flow's last one is. So what is written is in the processor's cache, whichever flow it is of;
 * nothing is read of what was said before, and nothing grows or is freed. Looking for a piece goes
 * from a flow's newest one back; then it is a miss for each step, but only repetitions are looked
 * for.
 *
 * Limits: of all flows the SPOKEN_ALL newest pieces are remembered, and of a flow no more than
 * LOOKS are looked at.
 */
#include "colo-proxy/core/gate_private.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "colo-proxy/core/seq.h"

#define SPOKEN_ALL (1u << 20)  /* a power of two; 20 MiB */
#define LOOKS      1024u       /* at 1,448 bytes each, 1.4 MB of a stream */
#define PASSES     16u         /* over them, for one frame */
#define SPOKEN_FIN UINT64_C(1) /* in place of a hash, with length 0 */

/* They have numbers from 1 on, which never come again. */
struct piece {
	uint32_t seq;
	uint32_t back;    /* so much smaller is the number of the flow's piece before; 0: none */
	uint32_t hash[2]; /* in halves: no holes between the pieces */
	uint32_t len;
};
static_assert(sizeof(struct piece) == 20, "the documents say so");

int gate_spoken_init(struct gate *gate)
{
	/* The kernel backs it as it is written; what is behind the newest number is never read. In
	 * small pages that would be one fault for each 204 segments, 60 ns of each one's time. */
	void *memory = mmap(NULL, SPOKEN_ALL * sizeof(struct piece), PROT_READ | PROT_WRITE,
	                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		return -ENOMEM;
	(void)madvise(memory, SPOKEN_ALL * sizeof(struct piece), MADV_HUGEPAGE);
	gate->pieces = memory;
	return 0;
}

void gate_spoken_fini(struct gate *gate)
{
	if (gate->pieces)
		munmap(gate->pieces, SPOKEN_ALL * sizeof(struct piece));
}

/* The piece of that number, if it is remembered; 0 is none's. */
static const struct piece *piece_of(const struct gate *gate, uint64_t number)
{
	if (!number || gate->spoken - number >= SPOKEN_ALL)
		return NULL;
	return &gate->pieces[number % SPOKEN_ALL];
}

/* The number of the piece that the flow said before this one. */
static uint64_t number_before(const struct piece *piece, uint64_t number)
{
	return piece->back ? number - piece->back : 0;
}

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

static void remember(struct gate *gate, struct flow *flow, uint32_t seq, uint32_t len,
                     uint64_t hash)
{
	uint64_t number = ++gate->spoken, back = flow->spoken ? number - flow->spoken : 0;
	struct piece *piece = &gate->pieces[number % SPOKEN_ALL];

	piece->seq = seq;
	piece->back = back < SPOKEN_ALL ? (uint32_t)back : 0;
	memcpy(piece->hash, &hash, sizeof(hash));
	piece->len = len;
	flow->spoken = number;
}

void gate_spoken_forget(struct flow *flow)
{
	flow->spoken = 0;
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

static bool is_hash(const struct piece *piece, uint64_t hash)
{
	return memcmp(piece->hash, &hash, sizeof(hash)) == 0;
}

static bool has_piece(const struct gate *gate, const struct flow *flow, uint32_t seq, uint32_t len,
                      uint64_t hash)
{
	const struct piece *piece;
	uint64_t number = flow->spoken;

	for (uint32_t i = 0; i < LOOKS && (piece = piece_of(gate, number)); i++) {
		if (piece->seq == seq && piece->len == len && is_hash(piece, hash))
			return true;
		number = number_before(piece, number);
	}
	return false;
}

/* Takes off the end of the frame's bytes [seq, end) what pieces make up, looking at each once. What
 * was said one behind the other is found so. Returns the end of what is left. */
static uint32_t take_off(const struct gate *gate, const struct flow *flow, const struct held *held,
                         uint32_t seq, uint32_t end)
{
	const struct piece *piece;
	uint64_t number = flow->spoken;

	for (uint32_t i = 0; i < LOOKS && seq != end && (piece = piece_of(gate, number)); i++) {
		uint32_t start = end - piece->len;

		number = number_before(piece, number);
		if (piece->seq == start && piece->len && piece->len <= end - seq &&
		    is_hash(piece, hash_range(gate, held, start, piece->len)))
			end = start;
	}
	return end;
}

/* Whether pieces that are remembered make up the frame's bytes [seq, end). */
static bool is_made_up(const struct gate *gate, const struct flow *flow, const struct held *held,
                       uint32_t seq, uint32_t end)
{
	for (uint32_t i = 0; i < PASSES && seq != end; i++) {
		uint32_t left = take_off(gate, flow, held, seq, end);

		if (left == end)
			return false;
		end = left;
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
	return is_made_up(gate, flow, held, seq, end);
}

bool gate_spoken_is(struct gate *gate, const struct flow *flow, struct held *held)
{
	const struct packet_tcp *tcp = &held->packet.tcp;
	bool is;

	if (held->looked && held->looked_at == flow->spoken)
		return false; /* nothing has been said since it was found wanting */
	is = (!(tcp->flags & PACKET_FIN) || held->proved_fin ||
	      has_piece(gate, flow, held->end - 1, 0, SPOKEN_FIN)) &&
	     (!(tcp->flags & PACKET_SYN) || held->proved_syn ||
	      has_piece(gate, flow, tcp->seq, 1, hash_syn(gate, held))) &&
	     bytes_are_said(gate, flow, held);
	held->looked = !is;
	held->looked_at = flow->spoken;
	return is;
}
