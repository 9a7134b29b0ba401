/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/link/messages.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static const char *const msg_names[] = {
        "HEARTBEAT", "PROTECT",  "READY",      "REFUSED",   "STREAM",  "STREAM_BACK",
        "RUNNING",   "START",    "INPUT",      "FLOW_OPEN", "TS_LEAD", "CKPT_BEGIN",
        "CKPT_DATA", "CKPT_END", "COMMITTED",  "LOADED",    "DIGEST",  "BROKEN",
        "HANDOVER",  "TAKEN",    "UNPROTECT",  "ASK",       "SAID",    "MAP",
        "CUT_ASK",   "CUT",      "CKPT_HOLES", "CKPT_FILL", "REPLAY",  "RELEASED",
};
static_assert(sizeof(msg_names) / sizeof(msg_names[0]) == MSG_TYPE_END - MSG_HEARTBEAT,
              "one name for each message");
static_assert(FLOW_KEY_NARROW == 16 && sizeof(struct flow_key) == 44,
              "the flow key is 16 bytes on the wire, and 28 more when it is wide");
static_assert(sizeof(struct virtio_net_hdr_v1) == 12, "virtio 1.0 section 5.1.6");

#define KEY_WIDE_LEN     (DIGEST_WIRE_MAX - DIGEST_WIRE_LEN)
#define MAP_ENTRY_NARROW 40u
static_assert(MAP_ENTRY_WIRE_LEN == MAP_ENTRY_NARROW + KEY_WIDE_LEN, "see messages.h");
static_assert(KEY_WIDE_LEN == 28 && FLOW_OPEN_WIRE_MAX - FLOW_OPEN_WIRE_LEN == 28,
              "the same for both records");

const char *msg_type_name(uint8_t type)
{
	if (type < MSG_HEARTBEAT || type >= MSG_TYPE_END)
		return "unknown";
	return msg_names[type - MSG_HEARTBEAT];
}

static void u32_pack(uint8_t out[4], uint32_t value)
{
	out[0] = value >> 24;
	out[1] = value >> 16;
	out[2] = value >> 8;
	out[3] = value;
}

static uint32_t u32_unpack(const uint8_t in[4])
{
	return (uint32_t)in[0] << 24 | (uint32_t)in[1] << 16 | (uint32_t)in[2] << 8 | in[3];
}

void u64_pack(uint8_t out[8], uint64_t value)
{
	u32_pack(out, value >> 32);
	u32_pack(out + 4, (uint32_t)value);
}

uint64_t u64_unpack(const uint8_t in[8])
{
	return (uint64_t)u32_unpack(in) << 32 | u32_unpack(in + 4);
}

void codec_caps_pack(uint8_t out[CODEC_CAPS_LEN], const struct codec_caps *caps)
{
	u32_pack(out, (uint32_t)caps->version << 16);
	u32_pack(out + 4, (uint32_t)(caps->cache_bytes >> 20));
	u32_pack(out + 8, (uint32_t)(caps->replay_bytes >> 10));
}

int codec_caps_unpack(struct codec_caps *ret_caps, const uint8_t *payload, size_t len)
{
	if (len < CODEC_CAPS_LEN)
		return -EPROTO;
	ret_caps->version = (uint16_t)(u32_unpack(payload) >> 16);
	ret_caps->cache_bytes = (uint64_t)u32_unpack(payload + 4) << 20;
	ret_caps->replay_bytes = (uint64_t)u32_unpack(payload + 8) << 10;
	return 0;
}

void ready_pack(uint8_t out[READY_WIRE_LEN], uint32_t flags)
{
	u32_pack(out, flags);
}

int ready_unpack(uint32_t *ret_flags, const uint8_t *payload, size_t len)
{
	if (len != READY_WIRE_LEN)
		return -EPROTO;
	*ret_flags = u32_unpack(payload);
	return 0;
}

void committed_pack(uint8_t out[COMMITTED_WIRE_LEN], uint32_t looked, uint32_t alike)
{
	u32_pack(out, looked);
	u32_pack(out + 4, alike);
}

int committed_unpack(uint32_t *ret_looked, uint32_t *ret_alike, const uint8_t *payload, size_t len)
{
	if (len != COMMITTED_WIRE_LEN || u32_unpack(payload + 4) > u32_unpack(payload))
		return -EPROTO;
	*ret_looked = u32_unpack(payload);
	*ret_alike = u32_unpack(payload + 4);
	return 0;
}

void heartbeat_pack(uint8_t out[HEARTBEAT_WIRE_LEN], const struct heartbeat *beat)
{
	memset(out, 0, HEARTBEAT_WIRE_LEN);
	u64_pack(out, beat->sent_ns);
	u64_pack(out + 8, beat->echo_ns);
	u64_pack(out + 16, beat->held_ns);
	u64_pack(out + 24, beat->consumed);
	out[32] = beat->state;
	out[33] = beat->primary;
	u32_pack(out + 36, beat->term);
}

int heartbeat_unpack(struct heartbeat *ret_beat, const uint8_t *payload, size_t len)
{
	if (len != HEARTBEAT_WIRE_LEN)
		return -EPROTO;
	ret_beat->sent_ns = u64_unpack(payload);
	ret_beat->echo_ns = u64_unpack(payload + 8);
	ret_beat->held_ns = u64_unpack(payload + 16);
	ret_beat->consumed = u64_unpack(payload + 24);
	ret_beat->state = payload[32];
	ret_beat->primary = payload[33] & 1;
	ret_beat->term = u32_unpack(payload + 36);
	return 0;
}

/* The key travels field by field: its layout in memory is this host's affair. A wide one has the
 * rest at the record's end, at `wide`. */
static void key_pack(uint8_t out[16], uint8_t wide[KEY_WIDE_LEN], const struct flow_key *key)
{
	memset(out, 0, 16);
	u32_pack(out, key->vm_ip);
	u32_pack(out + 4, key->peer_ip);
	out[8] = key->vm_port >> 8;
	out[9] = (uint8_t)key->vm_port;
	out[10] = key->peer_port >> 8;
	out[11] = (uint8_t)key->peer_port;
	out[12] = key->proto;
	out[13] = key->kind;
	out[14] = key->flags;
	if (!key->flags)
		return;
	for (int i = 0; i < 2; i++) {
		wide[i * 2] = key->tag[i] >> 8;
		wide[i * 2 + 1] = (uint8_t)key->tag[i];
	}
	for (int i = 0; i < 3; i++) {
		u32_pack(wide + 4 + i * 4, key->vm_net[i]);
		u32_pack(wide + 16 + i * 4, key->peer_net[i]);
	}
}

static void key_unpack(struct flow_key *ret_key, const uint8_t in[16], const uint8_t *wide)
{
	memset(ret_key, 0, sizeof(*ret_key));
	ret_key->vm_ip = u32_unpack(in);
	ret_key->peer_ip = u32_unpack(in + 4);
	ret_key->vm_port = (uint16_t)(in[8] << 8 | in[9]);
	ret_key->peer_port = (uint16_t)(in[10] << 8 | in[11]);
	ret_key->proto = in[12];
	ret_key->kind = in[13];
	ret_key->flags = in[14];
	if (!ret_key->flags)
		return;
	for (int i = 0; i < 2; i++)
		ret_key->tag[i] = (uint16_t)(wide[i * 2] << 8 | wide[i * 2 + 1]);
	for (int i = 0; i < 3; i++) {
		ret_key->vm_net[i] = u32_unpack(wide + 4 + i * 4);
		ret_key->peer_net[i] = u32_unpack(wide + 16 + i * 4);
	}
}

/* The length of the record that begins with this key; 0 when `len` bytes do not hold it. */
static size_t record_len(const uint8_t *payload, size_t len, size_t narrow)
{
	size_t need;

	if (len < narrow || (payload[14] & ~(FLOW_IPV6 | FLOW_TAGGED)))
		return 0;
	need = narrow + (payload[14] ? KEY_WIDE_LEN : 0);
	return len < need ? 0 : need;
}

size_t digest_pack(uint8_t out[DIGEST_WIRE_MAX], const struct digest *digest)
{
	memset(out, 0, DIGEST_WIRE_LEN);
	key_pack(out, out + DIGEST_WIRE_LEN, &digest->key);
	out[16] = digest->kind;
	out[17] = digest->tcp_flags;
	out[18] = digest->has_ts;
	u32_pack(out + 20, digest->seq);
	u32_pack(out + 24, digest->len);
	u32_pack(out + 28, digest->ack);
	u32_pack(out + 32, digest->tsval);
	memcpy(out + 36, digest->hash, 16);
	return DIGEST_WIRE_LEN + (digest->key.flags ? KEY_WIDE_LEN : 0);
}

int digest_unpack(struct digest *ret_digest, const uint8_t *payload, size_t len)
{
	size_t need = record_len(payload, len, DIGEST_WIRE_LEN);

	if (!need || payload[16] >= DIGEST_KIND_COUNT)
		return -EPROTO;
	key_unpack(&ret_digest->key, payload, payload + DIGEST_WIRE_LEN);
	ret_digest->kind = payload[16];
	ret_digest->tcp_flags = payload[17];
	ret_digest->has_ts = payload[18] & 1;
	ret_digest->seq = u32_unpack(payload + 20);
	ret_digest->len = u32_unpack(payload + 24);
	ret_digest->ack = u32_unpack(payload + 28);
	ret_digest->tsval = u32_unpack(payload + 32);
	memcpy(ret_digest->hash, payload + 36, 16);
	return (int)need;
}

size_t flow_open_pack(uint8_t out[FLOW_OPEN_WIRE_MAX], const struct flow_open *open)
{
	memset(out, 0, FLOW_OPEN_WIRE_LEN);
	key_pack(out, out + FLOW_OPEN_WIRE_LEN, &open->key);
	u32_pack(out + 16, open->iss);
	u32_pack(out + 20, open->ack);
	u32_pack(out + 24, open->tsval);
	out[28] = (uint8_t)((open->has_ack ? 1 : 0) | (open->has_ts ? 2 : 0));
	return FLOW_OPEN_WIRE_LEN + (open->key.flags ? KEY_WIDE_LEN : 0);
}

int flow_open_unpack(struct flow_open *ret_open, const uint8_t *payload, size_t len)
{
	if (!len || record_len(payload, len, FLOW_OPEN_WIRE_LEN) != len)
		return -EPROTO;
	key_unpack(&ret_open->key, payload, payload + FLOW_OPEN_WIRE_LEN);
	ret_open->iss = u32_unpack(payload + 16);
	ret_open->ack = u32_unpack(payload + 20);
	ret_open->tsval = u32_unpack(payload + 24);
	ret_open->has_ack = payload[28] & 1;
	ret_open->has_ts = payload[28] & 2;
	return 0;
}

size_t ask_pack(uint8_t out[ASK_WIRE_MAX], const struct ask *ask)
{
	memset(out, 0, ASK_HEAD_LEN);
	u32_pack(out, ask->id);
	out[4] = ask->kind;
	return ASK_HEAD_LEN + digest_pack(out + ASK_HEAD_LEN, &ask->digest);
}

int ask_unpack(struct ask *ret_ask, const uint8_t *payload, size_t len)
{
	struct ask ask = {0};
	int r;

	if (len < ASK_HEAD_LEN || payload[4] >= ASK_KIND_COUNT)
		return -EPROTO;
	r = digest_unpack(&ask.digest, payload + ASK_HEAD_LEN, len - ASK_HEAD_LEN);
	if (r < 0 || (size_t)r != len - ASK_HEAD_LEN)
		return -EPROTO;
	ask.id = u32_unpack(payload);
	ask.kind = payload[4];
	*ret_ask = ask;
	return 0;
}

/* Both messages of a range in two: its record behind a head that begins with where to cut. */
static size_t cut_pack_record(uint8_t *out, size_t head, uint32_t at, const struct digest *whole)
{
	u32_pack(out, at);
	memset(out + 4, 0, 4);
	return head + digest_pack(out + head, whole);
}

static int cut_unpack_record(struct digest_cut *ret_cut, size_t head, const uint8_t *payload,
                             size_t len)
{
	struct digest_cut cut = {0};
	int r = len < head ? -EPROTO : digest_unpack(&cut.whole, payload + head, len - head);

	if (r < 0 || (size_t)r != len - head)
		return -EPROTO;
	cut.at = u32_unpack(payload);
	*ret_cut = cut;
	return 0;
}

size_t cut_ask_pack(uint8_t out[CUT_ASK_WIRE_MAX], const struct digest *said, uint32_t at)
{
	return cut_pack_record(out, CUT_ASK_HEAD_LEN, at, said);
}

int cut_ask_unpack(struct digest_cut *ret_cut, const uint8_t *payload, size_t len)
{
	return cut_unpack_record(ret_cut, CUT_ASK_HEAD_LEN, payload, len);
}

size_t cut_pack(uint8_t out[CUT_WIRE_MAX], const struct digest_cut *cut)
{
	memcpy(out + 8, cut->head, sizeof(cut->head));
	memcpy(out + 24, cut->rest, sizeof(cut->rest));
	return cut_pack_record(out, CUT_HEAD_LEN, cut->at, &cut->whole);
}

int cut_unpack(struct digest_cut *ret_cut, const uint8_t *payload, size_t len)
{
	struct digest_cut cut;
	int r = cut_unpack_record(&cut, CUT_HEAD_LEN, payload, len);

	if (r < 0)
		return r;
	memcpy(cut.head, payload + 8, sizeof(cut.head));
	memcpy(cut.rest, payload + 24, sizeof(cut.rest));
	*ret_cut = cut;
	return 0;
}

size_t said_pack(uint8_t out[SAID_WIRE_MAX], uint32_t id, const struct evidence_side *side)
{
	size_t at = SAID_HEAD_LEN;

	memset(out, 0, SAID_HEAD_LEN);
	u32_pack(out, id);
	out[4] = (uint8_t)side->count;
	for (uint32_t i = 0; i < side->count; i++) {
		const struct evidence_packet *packet = &side->packet[i];
		uint32_t n = packet->frame->len;

		memset(out + at, 0, SAID_PACKET_LEN);
		u64_pack(out + at, packet->at_ns);
		u32_pack(out + at + 8, packet->original);
		out[at + 12] = (uint8_t)(n >> 8);
		out[at + 13] = (uint8_t)n;
		out[at + 14] = packet->frame->start;
		memcpy(out + at + SAID_PACKET_LEN, packet->frame->data, n);
		at += SAID_PACKET_LEN + n;
	}
	return at;
}

/* One packet of a SAID message; *len is what is left of the message, and then what it took. */
static int said_packet_unpack(struct evidence_packet *ret_packet, const uint8_t *from, size_t *len)
{
	struct frame *frame;
	uint32_t n;

	if (*len < SAID_PACKET_LEN)
		return -EPROTO;
	n = (uint32_t)from[12] << 8 | from[13];
	if (n > EVIDENCE_PACKET_MAX || n > *len - SAID_PACKET_LEN || from[14] > FRAME_AT_IP)
		return -EPROTO;
	frame = frame_new(n);
	if (!frame)
		return -ENOMEM;
	frame->len = n;
	frame->start = from[14];
	memcpy(frame->data, from + SAID_PACKET_LEN, n);
	*ret_packet = (struct evidence_packet){u64_unpack(from), u32_unpack(from + 8), frame};
	*len = SAID_PACKET_LEN + n;
	return 0;
}

int said_unpack(uint32_t *ret_id, struct evidence_side *ret_side, const uint8_t *payload,
                size_t len)
{
	struct evidence_side side = {0};
	size_t at = SAID_HEAD_LEN;
	int r = len < SAID_HEAD_LEN || payload[4] > EVIDENCE_PACKETS ? -EPROTO : 0;

	for (uint32_t i = 0; r == 0 && i < payload[4]; i++) {
		size_t left = len - at;

		r = said_packet_unpack(&side.packet[i], payload + at, &left);
		if (r == 0) {
			side.count++;
			at += left;
		}
	}
	if (r == 0 && at != len)
		r = -EPROTO;
	if (r < 0) {
		evidence_side_clear(&side);
		return r;
	}
	*ret_id = u32_unpack(payload);
	*ret_side = side;
	return 0;
}

void map_entry_pack(uint8_t out[MAP_ENTRY_WIRE_LEN], const struct natmap_entry *entry)
{
	memset(out, 0, MAP_ENTRY_WIRE_LEN);
	key_pack(out, out + MAP_ENTRY_NARROW, &entry->key);
	u32_pack(out + 16, entry->seq_delta);
	u32_pack(out + 20, entry->ts_delta);
	u32_pack(out + 24, entry->iss);
	out[28] = (uint8_t)(entry->iss_known | entry->fin_in << 1 | entry->fin_out << 2 |
	                    entry->reset << 3 | entry->opening << 4);
	u32_pack(out + 32, entry->tsval);
	u32_pack(out + 36, entry->syn_tsval);
}

int map_entry_unpack(struct natmap_entry *ret_entry, const uint8_t in[MAP_ENTRY_WIRE_LEN])
{
	if (!record_len(in, MAP_ENTRY_WIRE_LEN, MAP_ENTRY_NARROW))
		return -EPROTO;
	key_unpack(&ret_entry->key, in, in + MAP_ENTRY_NARROW);
	ret_entry->seq_delta = u32_unpack(in + 16);
	ret_entry->ts_delta = u32_unpack(in + 20);
	ret_entry->iss = u32_unpack(in + 24);
	ret_entry->iss_known = in[28] & 1;
	ret_entry->fin_in = in[28] & 2;
	ret_entry->fin_out = in[28] & 4;
	ret_entry->reset = in[28] & 8;
	ret_entry->opening = in[28] & 16;
	ret_entry->tsval = u32_unpack(in + 32);
	ret_entry->syn_tsval = u32_unpack(in + 36);
	return 0;
}

void map_head_pack(uint8_t out[MAP_HEAD_LEN], uint32_t total, uint32_t first)
{
	u32_pack(out, total);
	u32_pack(out + 4, first);
}

int map_head_unpack(uint32_t *ret_total, uint32_t *ret_first, uint32_t *ret_n,
                    const uint8_t *payload, size_t len)
{
	if (len < MAP_HEAD_LEN || (len - MAP_HEAD_LEN) % MAP_ENTRY_WIRE_LEN)
		return -EPROTO;
	*ret_total = u32_unpack(payload);
	*ret_first = u32_unpack(payload + 4);
	*ret_n = (uint32_t)((len - MAP_HEAD_LEN) / MAP_ENTRY_WIRE_LEN);
	return 0;
}

void input_pack_head(uint8_t out[INPUT_HEAD_LEN], uint64_t index, const struct frame *frame)
{
	u64_pack(out, index);
	memcpy(out + 8, &frame->vnet, sizeof(frame->vnet));
	u32_pack(out + 20, frame->since);
}

int input_unpack(uint64_t *ret_index, struct frame **ret_frame, const uint8_t *payload, size_t len)
{
	struct frame *frame;

	if (len < INPUT_HEAD_LEN + 14 || len - INPUT_HEAD_LEN > FRAME_MAX_LEN)
		return -EPROTO;
	frame = frame_new(len - INPUT_HEAD_LEN);
	if (!frame)
		return -ENOMEM;
	memcpy(&frame->vnet, payload + 8, sizeof(frame->vnet));
	frame->since = u32_unpack(payload + 20);
	frame->len = len - INPUT_HEAD_LEN;
	memcpy(frame->data, payload + INPUT_HEAD_LEN, frame->len);
	*ret_index = u64_unpack(payload);
	*ret_frame = frame;
	return 0;
}

void replay_pack_head(uint8_t out[REPLAY_HEAD_LEN], uint32_t released)
{
	u32_pack(out, released);
	u32_pack(out + 4, 0);
}

int replay_unpack_head(uint32_t *ret_released, const uint8_t *payload, size_t len)
{
	if (len < REPLAY_HEAD_LEN)
		return -EPROTO;
	*ret_released = u32_unpack(payload);
	return 0;
}

size_t replay_pack_frame(uint8_t *out, const struct frame *frame)
{
	memcpy(out, &frame->vnet, sizeof(frame->vnet));
	u32_pack(out + 12, frame->len);
	memcpy(out + REPLAY_FRAME_LEN, frame->data, frame->len);
	return REPLAY_FRAME_LEN + frame->len;
}

int replay_unpack_frame(struct frame **ret_frame, const uint8_t *payload, size_t len)
{
	struct frame *frame;
	uint32_t n;

	if (len < REPLAY_FRAME_LEN + 14)
		return -EPROTO;
	n = u32_unpack(payload + 12);
	if (n < 14 || n > FRAME_MAX_LEN || n > len - REPLAY_FRAME_LEN)
		return -EPROTO;
	frame = frame_new(n);
	if (!frame)
		return -ENOMEM;
	memcpy(&frame->vnet, payload, sizeof(frame->vnet));
	frame->len = n;
	memcpy(frame->data, payload + REPLAY_FRAME_LEN, n);
	*ret_frame = frame;
	return (int)(REPLAY_FRAME_LEN + n);
}
