/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The secondary's half: theory of operation
 *
 * Goal: tell the primary what the SVM says, in the PVM's numbers, byte for byte once; let the SVM
 * hear the client as if the client talked to it; and keep what is needed to go on talking to that
 * client when the PVM is gone.
 *
 * A fresh lineage is a clone: every connection in it has the PVM's numbers. A connection that is
 * opened later has an initial sequence number and a timestamp offset of its own in each VM. The
 * primary tells the PVM's in a FLOW_OPEN, and the SVM's own SYN or SYN-ACK is held back as a digest
 * until that is there. So the digest of a SYN, without which the primary releases nothing of the
 * connection, says: the mapping is known here (R7). The acknowledgement number of a SYN-ACK names
 * the incarnation; two handshakes that acknowledge different SYNs are never mapped.
 *
 *      PVM number = SVM number + seq_delta        PVM timestamp = SVM timestamp + ts_delta
 *
 * Digests of a connection cover consecutive ranges, each byte once: `told` is how far they went.
 * A superframe is digested in pieces of its segment size, because the PVM, whose congestion window
 * has a history of its own, may cut the stream elsewhere, and a range can only be verified whole.
 *
 * At the takeover the mapping PVM <-> SVM becomes the mapping client <-> VM, since the client has
 * only ever heard the PVM's numbers. Timestamps get the lead that the primary has seen the PVM's
 * clock have over the SVM's on top, so that none goes back (RFC 7323 section 5: PAWS drops those).
 *
 * Limits: a full table evicts connections that need no mapping; when every connection needs one, new
 * ones are not digested, and the primary releases them by commit.
 */
#include "colo-proxy/core/shadow.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "colo-proxy/core/seq.h"

#define EVICT_TRIES   16u
#define DUPLICATE_ACKS 3u /* RFC 5681 section 3.2 */
#define MAX_ADDRESSES 8u
#define NO_EPOCH      UINT32_MAX
#define TS_TICK_NS    1000000u
#define CLOSED_FOR_NS 60000000000ull /* a closed connection's last segments: TIME-WAIT of Linux */

/* A SYN or SYN-ACK of one of the two VMs. */
struct opening {
	bool seen, has_ack, has_ts;
	bool used;                  /* mapped: it never belongs to another one again */
	uint32_t iss, ack, tsval;
};

struct flow {
	struct flow *bucket_next;
	struct flow *lru_older, *lru_newer;
	struct flow_key key;
	struct opening pvm, svm;
	uint8_t syn_hash[16];
	bool mapped;                /* the deltas are those of a handshake of this lineage */
	bool told_known, ack_known;
	bool fin_in, fin_out, reset;
	bool fed_known, missing;    /* missing: the SVM repeats its acknowledgement */
	uint32_t fed;               /* number behind the last byte of the client's that was fed */
	uint32_t missing_until;     /* `fed` when that began */
	uint32_t repeats;           /* acknowledgements in a row that were the same */
	uint32_t told;              /* SVM number behind the last digested byte */
	uint32_t ack;               /* highest acknowledgement told */
	uint32_t seq_delta, ts_delta;
	uint64_t used;
};

struct future_open {
	struct future_open *next;
	uint32_t epoch;
	struct flow_open open;
};

struct shadow {
	struct packet_digest_key key;
	const struct shadow_ops *ops;
	void *ctx;
	uint32_t lineage;
	bool speaking;              /* after the takeover */
	uint32_t max_flows;
	struct flow **buckets;
	uint32_t bucket_mask;
	struct flow *lru_oldest, *lru_newest;
	struct future_open *future, **future_end; /* in the order in which they came */
	uint32_t futures;
	uint32_t missing;           /* flows whose input is missing */
	uint32_t lead_epoch[2], lead[2];
	uint32_t taken_lead;        /* of the lineage that took over */
	uint64_t lead_until;        /* the survivor's clock has caught up with the lead then */
	uint32_t addresses[MAX_ADDRESSES], address_count;
	uint8_t mac[6];
	bool mac_known;
	struct shadow_stats stats;
};

/* ---- flows ---- */

static struct flow **bucket_of(const struct shadow *shadow, const struct flow_key *key)
{
	uint64_t hash = XXH3_64bits_withSecret(key, sizeof(*key), shadow->key.secret,
					       sizeof(shadow->key.secret));

	return &shadow->buckets[(uint32_t)hash & shadow->bucket_mask];
}

static void lru_unlink(struct shadow *shadow, struct flow *flow)
{
	*(flow->lru_older ? &flow->lru_older->lru_newer : &shadow->lru_oldest) = flow->lru_newer;
	*(flow->lru_newer ? &flow->lru_newer->lru_older : &shadow->lru_newest) = flow->lru_older;
	flow->lru_older = flow->lru_newer = NULL;
}

static void lru_push(struct shadow *shadow, struct flow *flow)
{
	flow->lru_older = shadow->lru_newest;
	*(shadow->lru_newest ? &shadow->lru_newest->lru_newer : &shadow->lru_oldest) = flow;
	shadow->lru_newest = flow;
}

static void flow_free(struct shadow *shadow, struct flow *flow)
{
	struct flow **at = bucket_of(shadow, &flow->key);

	while (*at != flow)
		at = &(*at)->bucket_next;
	*at = flow->bucket_next;
	lru_unlink(shadow, flow);
	if (flow->missing)
		shadow->missing--;
	free(flow);
	shadow->stats.flows--;
}

static struct flow *flow_find(struct shadow *shadow, const struct flow_key *key, uint64_t now)
{
	for (struct flow *flow = *bucket_of(shadow, key); flow; flow = flow->bucket_next) {
		if (memcmp(&flow->key, key, sizeof(*key)) != 0)
			continue;
		if (shadow->lru_newest != flow) {
			lru_unlink(shadow, flow);
			lru_push(shadow, flow);
		}
		flow->used = now;
		return flow;
	}
	return NULL;
}

static bool evict_one(struct shadow *shadow)
{
	struct flow *flow = shadow->lru_oldest;

	for (uint32_t i = 0; flow && i < EVICT_TRIES; i++, flow = flow->lru_newer) {
		if (flow->mapped || flow->pvm.seen || flow->ts_delta)
			continue;
		flow_free(shadow, flow);
		shadow->stats.flows_evicted++;
		return true;
	}
	return false;
}

static struct flow *flow_get(struct shadow *shadow, const struct flow_key *key, uint64_t now)
{
	struct flow *flow = flow_find(shadow, key, now);
	struct flow **bucket = bucket_of(shadow, key);

	if (flow)
		return flow;
	if (shadow->stats.flows >= shadow->max_flows && !evict_one(shadow))
		return NULL;
	flow = calloc(1, sizeof(*flow));
	if (!flow)
		return NULL;
	flow->key = *key;
	flow->used = now;
	flow->bucket_next = *bucket;
	*bucket = flow;
	lru_push(shadow, flow);
	shadow->stats.flows++;
	if (shadow->stats.flows > shadow->stats.high_flows)
		shadow->stats.high_flows = shadow->stats.flows;
	return flow;
}

/* ---- digests ---- */

static void tell(struct shadow *shadow, const struct digest *digest)
{
	shadow->stats.digests++;
	shadow->ops->digest(shadow->ctx, shadow->lineage, digest);
}

/* What every digest of the segment has in common. */
static struct digest digest_of(const struct flow *flow, const struct packet *packet)
{
	const struct packet_tcp *tcp = &packet->tcp;

	return (struct digest){
		.key = flow->key,
		.kind = DIGEST_SEGMENT,
		.tcp_flags = tcp->flags & PACKET_ACK,
		.has_ts = tcp->ts_off != 0,
		.seq = tcp->seq + flow->seq_delta,
		.ack = (tcp->flags & PACKET_ACK) ? tcp->ack : 0,
		.tsval = tcp->ts_off ? tcp->tsval + flow->ts_delta : 0,
	};
}

/* The sequence numbers of both handshakes are known and belong together: tells the SYN. */
static void try_map(struct shadow *shadow, struct flow *flow)
{
	struct digest digest = {
		.key = flow->key,
		.kind = DIGEST_SEGMENT,
		.tcp_flags = PACKET_SYN | (flow->svm.has_ack ? PACKET_ACK : 0),
		.has_ts = flow->svm.has_ts,
		.seq = flow->pvm.iss,
		.len = 1,
		.ack = flow->svm.ack,
		.tsval = flow->pvm.tsval,
	};

	if (!flow->pvm.seen || flow->pvm.used || !flow->svm.seen || flow->svm.used ||
	    flow->pvm.has_ack != flow->svm.has_ack || flow->pvm.ack != flow->svm.ack)
		return;
	flow->mapped = flow->pvm.used = flow->svm.used = true;
	flow->seq_delta = flow->pvm.iss - flow->svm.iss;
	flow->ts_delta =
		flow->pvm.has_ts && flow->svm.has_ts ? flow->pvm.tsval - flow->svm.tsval : 0;
	flow->told_known = true;
	flow->told = flow->svm.iss + 1;
	flow->ack_known = flow->svm.has_ack;
	flow->ack = flow->svm.ack;
	memcpy(digest.hash, flow->syn_hash, sizeof(digest.hash));
	tell(shadow, &digest);
}

static void syn_seen(struct shadow *shadow, struct flow *flow, const struct packet *packet)
{
	const struct packet_tcp *tcp = &packet->tcp;
	bool has_ack = tcp->flags & PACKET_ACK;

	if (flow->svm.seen && flow->svm.iss == tcp->seq && flow->svm.has_ack == has_ack)
		return; /* a retransmission: it has been told, or waits */
	flow->mapped = flow->told_known = flow->ack_known = false;
	flow->fin_in = flow->fin_out = flow->reset = false;
	flow->seq_delta = flow->ts_delta = 0;
	flow->svm = (struct opening){
		.seen = true,
		.has_ack = has_ack,
		.has_ts = tcp->ts_off != 0,
		.iss = tcp->seq,
		.ack = has_ack ? tcp->ack : 0,
		.tsval = tcp->tsval,
	};
	digest_syn(&shadow->key, tcp, flow->syn_hash);
	try_map(shadow, flow);
}

/* Tells [from, to) of the segment's payload in pieces of its segment size, and FIN with the last. */
static void tell_range(struct shadow *shadow, const struct flow *flow, const struct packet *packet,
		       uint32_t from, bool fin)
{
	const struct frame *frame = packet->frame;
	uint32_t start = packet->tcp.seq, piece = packet->payload_len;
	uint32_t end = start + packet->payload_len;

	if (frame->vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE && frame->vnet.gso_size)
		piece = frame->vnet.gso_size; /* little endian, as this host is */
	do {
		struct digest digest = digest_of(flow, packet);
		uint32_t offset = from - start;
		uint32_t len = piece ? piece - offset % piece : 0;

		if (len > end - from)
			len = end - from;
		digest.seq = from + flow->seq_delta;
		digest.len = len;
		digest_stream(&shadow->key, frame->data + packet->payload_off + offset, len,
			      digest.hash);
		from += len;
		if (from == end && fin) {
			digest.len++;
			digest.tcp_flags |= PACKET_FIN;
		}
		tell(shadow, &digest);
	} while (from != end);
}

/*
 * The SVM acknowledges less than it was fed, again and again: input is lost between the tap and its
 * stream (its receive buffer was full because it runs behind the PVM, whose window the client goes
 * by). The client will not send it again, for the PVM has it. This is fast retransmit and fast
 * recovery (RFC 5681 section 3.2, RFC 6582) from the input log, between this daemon and the SVM.
 */
static void watch_ack(struct shadow *shadow, struct flow *flow, const struct packet *packet)
{
	uint32_t ack = packet->tcp.ack;

	if (!flow->fed_known || !flow->ack_known || !(packet->tcp.flags & PACKET_ACK))
		return;
	if (seq_gt(ack, flow->ack)) {
		flow->repeats = 0;
		if (flow->missing && seq_geq(ack, flow->missing_until)) {
			flow->missing = false;
			shadow->missing--;
		}
	} else if (ack == flow->ack && !packet->payload_len && seq_lt(ack, flow->fed)) {
		if (++flow->repeats != DUPLICATE_ACKS)
			return;
		if (!flow->missing) {
			flow->missing = true;
			flow->missing_until = flow->fed;
			shadow->missing++;
		}
	} else {
		return;
	}
	if (!flow->missing)
		return;
	shadow->stats.refeeds++;
	shadow->ops->refeed(shadow->ctx, &flow->key, ack);
}

static void segment_seen(struct shadow *shadow, struct flow *flow, const struct packet *packet)
{
	const struct packet_tcp *tcp = &packet->tcp;
	bool fin = tcp->flags & PACKET_FIN;
	uint32_t data_end = tcp->seq + packet->payload_len;
	uint32_t end = data_end + fin;
	bool new_ack = (tcp->flags & PACKET_ACK) && (!flow->ack_known || seq_gt(tcp->ack, flow->ack));

	if (fin)
		flow->fin_out = true;
	if (tcp->flags & PACKET_RST) {
		struct digest digest = digest_of(flow, packet);

		flow->reset = true;
		digest.tcp_flags |= PACKET_RST;
		tell(shadow, &digest);
		return;
	}
	watch_ack(shadow, flow, packet);
	if (new_ack) {
		flow->ack_known = true;
		flow->ack = tcp->ack;
	}
	if (!flow->told_known) {
		flow->told_known = true;
		flow->told = tcp->seq;
	}
	if (seq_gt(end, flow->told)) {
		uint32_t from = seq_max(tcp->seq, flow->told);

		/* Only the FIN is new: there is no payload to go with it. */
		flow->told = end;
		tell_range(shadow, flow, packet, seq_min(from, data_end), fin);
	} else if (new_ack) {
		struct digest digest = digest_of(flow, packet);

		tell(shadow, &digest);
	}
}

static void note_source(struct shadow *shadow, const struct packet *packet)
{
	uint32_t address = packet->class == PACKET_ARP ? packet->arp.spa : packet->src;

	if (packet->frame->start == FRAME_AT_ETHERNET && packet->frame->len >= 12) {
		memcpy(shadow->mac, packet->frame->data + 6, 6);
		shadow->mac_known = true;
	}
	if (!address)
		return;
	for (uint32_t i = 0; i < shadow->address_count; i++) {
		if (shadow->addresses[i] == address)
			return;
	}
	if (shadow->address_count < MAX_ADDRESSES)
		shadow->addresses[shadow->address_count++] = address;
}

void shadow_output(struct shadow *shadow, struct frame *frame, uint64_t now)
{
	struct packet packet;
	struct flow_key key;
	struct flow *flow;

	shadow->stats.packets++;
	shadow->stats.bytes += frame->len;
	if (packet_parse(&packet, frame) != 0 ||
	    packet_flow_key(&packet, PACKET_FROM_VM, &key) != 0) {
		shadow->stats.uncompared++;
		return;
	}
	note_source(shadow, &packet);
	if (packet.class != PACKET_TCP) {
		struct digest digest = { .key = key, .kind = DIGEST_DATAGRAM };

		if (packet_digest_datagram(&packet, &shadow->key, digest.hash) == 0)
			tell(shadow, &digest);
		return;
	}
	flow = digest_tcp_exempt(&packet) ? NULL : flow_get(shadow, &key, now);
	if (!flow) {
		shadow->stats.uncompared++;
		return;
	}
	if (packet.tcp.flags & PACKET_SYN)
		syn_seen(shadow, flow, &packet);
	else
		segment_seen(shadow, flow, &packet);
}

/* ---- what the primary tells ---- */

static void remember_open(struct shadow *shadow, uint32_t epoch, const struct flow_open *open)
{
	struct future_open *future;

	if (shadow->futures >= shadow->max_flows)
		return; /* its SYN stays untold: released by commit only */
	future = malloc(sizeof(*future));
	if (!future)
		return; /* likewise */
	*future = (struct future_open){ .epoch = epoch, .open = *open };
	*shadow->future_end = future;
	shadow->future_end = &future->next;
	shadow->futures++;
}

void shadow_flow_open(struct shadow *shadow, uint32_t epoch, const struct flow_open *open,
		      uint64_t now)
{
	struct flow *flow;

	if (shadow->speaking || epoch < shadow->lineage)
		return;
	if (epoch > shadow->lineage) {
		remember_open(shadow, epoch, open);
		return;
	}
	flow = flow_get(shadow, &open->key, now);
	if (!flow)
		return;
	if (flow->pvm.seen && flow->pvm.iss == open->iss && flow->pvm.has_ack == open->has_ack &&
	    flow->pvm.ack == open->ack)
		return;
	flow->pvm = (struct opening){
		.seen = true,
		.has_ack = open->has_ack,
		.has_ts = open->has_ts,
		.iss = open->iss,
		.ack = open->ack,
		.tsval = open->tsval,
	};
	try_map(shadow, flow);
}

void shadow_ts_lead(struct shadow *shadow, uint32_t epoch, uint32_t ticks)
{
	uint32_t slot = epoch & 1;

	if (shadow->lead_epoch[slot] != epoch)
		shadow->lead[slot] = 0;
	shadow->lead_epoch[slot] = epoch;
	if (ticks > shadow->lead[slot])
		shadow->lead[slot] = ticks;
}

void shadow_lineage(struct shadow *shadow, uint32_t lineage)
{
	struct future_open *future = shadow->future;

	while (shadow->lru_oldest)
		flow_free(shadow, shadow->lru_oldest);
	shadow->lineage = lineage;
	shadow->future = NULL;
	shadow->future_end = &shadow->future;
	shadow->futures = 0;
	while (future) {
		struct future_open *next = future->next;

		if (future->epoch > lineage)
			remember_open(shadow, future->epoch, &future->open);
		else if (future->epoch == lineage)
			shadow_flow_open(shadow, lineage, &future->open, 0);
		free(future);
		future = next;
	}
}

/* ---- the client speaks ---- */

static void note_fed(struct flow *flow, const struct packet *packet)
{
	uint32_t end = packet->tcp.seq + packet->payload_len;

	flow->fed = flow->fed_known ? seq_max(flow->fed, end) : end;
	flow->fed_known = true;
}

bool shadow_has_acked(struct shadow *shadow, const struct flow_key *key, uint32_t seq)
{
	for (struct flow *flow = *bucket_of(shadow, key); flow; flow = flow->bucket_next) {
		if (memcmp(&flow->key, key, sizeof(*key)) == 0)
			return !flow->ack_known || flow->reset || seq_geq(flow->ack, seq);
	}
	return true;
}

bool shadow_ask_again(struct shadow *shadow)
{
	if (!shadow->missing || shadow->speaking)
		return false;
	for (struct flow *flow = shadow->lru_newest; flow; flow = flow->lru_older) {
		if (!flow->missing)
			continue;
		shadow->stats.refeeds++;
		shadow->ops->refeed(shadow->ctx, &flow->key, flow->ack);
	}
	return true;
}

void shadow_input(struct shadow *shadow, struct frame *frame, uint64_t now)
{
	struct packet packet;
	struct flow_key key;
	struct flow *flow;

	if (packet_parse(&packet, frame) != 0 || packet.class != PACKET_TCP ||
	    packet_flow_key(&packet, PACKET_TO_VM, &key) != 0)
		return;
	flow = !shadow->speaking && packet.payload_len ? flow_get(shadow, &key, now)
						       : flow_find(shadow, &key, now);
	if (!flow)
		return;
	if (packet.payload_len)
		note_fed(flow, &packet);
	if (packet.tcp.flags & PACKET_FIN)
		flow->fin_in = true;
	if (packet.tcp.flags & PACKET_RST)
		flow->reset = true;
	if (flow->seq_delta || flow->ts_delta)
		packet_map_in(&packet, flow->seq_delta, flow->ts_delta);
}

/* ---- after the takeover ---- */

void shadow_takeover(struct shadow *shadow, uint64_t now)
{
	uint32_t slot = shadow->lineage & 1;
	uint32_t lead = shadow->lead_epoch[slot] == shadow->lineage ? shadow->lead[slot] : 0;
	struct flow *next;

	shadow->speaking = true;
	shadow->taken_lead = lead;
	shadow->lead_until = now + (uint64_t)lead * TS_TICK_NS;
	for (struct flow *flow = shadow->lru_oldest; flow; flow = next) {
		next = flow->lru_newer;
		flow->ts_delta += lead;
		if (!flow->reset && !(flow->fin_in && flow->fin_out))
			flow->used = now;
		if (!flow->seq_delta && !flow->ts_delta)
			flow_free(shadow, flow);
	}
	shadow->stats.mapped = shadow->stats.flows;
}

/*
 * The first word of a connection that the lineage had been silent on. The PVM may have shown the
 * client its clock there, so the lead applies; a connection that begins now is only remembered
 * for as long as it could be taken for an old one.
 */
static struct flow *lead_flow(struct shadow *shadow, const struct flow_key *key,
			      const struct packet *packet, uint64_t now)
{
	struct flow *flow;

	if (now >= shadow->lead_until || !packet->tcp.ts_off)
		return NULL;
	flow = flow_get(shadow, key, now);
	if (flow && !(packet->tcp.flags & PACKET_SYN))
		flow->ts_delta = shadow->taken_lead;
	return flow;
}

void shadow_translate(struct shadow *shadow, struct frame *frame, uint64_t now)
{
	struct packet packet;
	struct flow_key key;
	struct flow *flow;

	if (packet_parse(&packet, frame) != 0 ||
	    packet_flow_key(&packet, PACKET_FROM_VM, &key) != 0)
		return;
	note_source(shadow, &packet);
	if (packet.class != PACKET_TCP)
		return;
	flow = flow_find(shadow, &key, now);
	if (!flow)
		flow = lead_flow(shadow, &key, &packet, now);
	if (!flow)
		return;
	if ((packet.tcp.flags & PACKET_SYN) && (flow->seq_delta || flow->ts_delta) &&
	    !(flow->svm.seen && flow->svm.iss == packet.tcp.seq)) {
		flow_free(shadow, flow); /* the 4-tuple is used again; the new one needs no map */
		return;
	}
	if (packet.tcp.flags & PACKET_FIN)
		flow->fin_out = true;
	if (packet.tcp.flags & PACKET_RST)
		flow->reset = true;
	packet_map_out(&packet, flow->seq_delta, flow->ts_delta);
}

uint32_t shadow_expire(struct shadow *shadow, uint64_t idle_ns, uint64_t now)
{
	struct flow *next;

	for (struct flow *flow = shadow->lru_oldest; flow; flow = next) {
		bool closed = flow->reset || (flow->fin_in && flow->fin_out);
		uint64_t idle = now - flow->used;

		next = flow->lru_newer;
		if (idle > idle_ns || (closed && idle > CLOSED_FOR_NS) ||
		    (shadow->speaking && now >= shadow->lead_until && !flow->seq_delta &&
		     !flow->ts_delta))
			flow_free(shadow, flow);
	}
	shadow->stats.mapped = shadow->speaking ? shadow->stats.flows : 0;
	return shadow->stats.mapped;
}

/* ---- the rest ---- */

int shadow_new(struct shadow **ret_shadow, uint32_t max_flows, const struct packet_digest_key *key,
	       const struct shadow_ops *ops, void *ctx)
{
	struct shadow *shadow = calloc(1, sizeof(*shadow));
	uint32_t buckets = 256;

	if (!shadow)
		return -ENOMEM;
	while (buckets < max_flows && buckets < 1u << 20)
		buckets *= 2;
	shadow->buckets = calloc(buckets, sizeof(struct flow *));
	if (!shadow->buckets) {
		free(shadow);
		return -ENOMEM;
	}
	shadow->bucket_mask = buckets - 1;
	shadow->key = *key;
	shadow->max_flows = max_flows;
	shadow->ops = ops;
	shadow->ctx = ctx;
	shadow->future_end = &shadow->future;
	shadow->lead_epoch[0] = shadow->lead_epoch[1] = NO_EPOCH;
	*ret_shadow = shadow;
	return 0;
}

void shadow_free(struct shadow *shadow)
{
	if (!shadow)
		return;
	while (shadow->lru_oldest) {
		assert(!shadow->lru_oldest->lru_older);
		flow_free(shadow, shadow->lru_oldest);
	}
	while (shadow->future) {
		struct future_open *next = shadow->future->next;

		free(shadow->future);
		shadow->future = next;
	}
	free(shadow->buckets);
	free(shadow);
}

uint32_t shadow_addresses(const struct shadow *shadow, uint32_t *ret_ipv4, uint32_t max,
			  uint8_t ret_mac[6])
{
	uint32_t n = shadow->address_count < max ? shadow->address_count : max;

	memcpy(ret_ipv4, shadow->addresses, n * sizeof(*ret_ipv4));
	if (shadow->mac_known)
		memcpy(ret_mac, shadow->mac, 6);
	return n;
}

void shadow_get_stats(const struct shadow *shadow, struct shadow_stats *ret_stats)
{
	*ret_stats = shadow->stats;
}
