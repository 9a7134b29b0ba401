/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Message payloads from arbitrary bytes: they are refused, or read and packed again to the same
 * meaning. Input: byte 0 which message, then the payload.
 */
#include <stdlib.h>
#include <string.h>

#include "colo-proxy/link/messages.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
	if (!holds)
		abort();
}

static void try_digest(const uint8_t *data, size_t size)
{
	struct digest one = {0}, two = {0};
	uint8_t wire[DIGEST_WIRE_MAX];
	int r = digest_unpack(&one, data, size);

	if (r < 0)
		return;
	require(size >= (size_t)r && one.kind < DIGEST_KIND_COUNT);
	require(digest_pack(wire, &one) == (size_t)r);
	require(digest_unpack(&two, wire, (size_t)r) == r);
	require(memcmp(&one.key, &two.key, sizeof(one.key)) == 0 && one.seq == two.seq &&
	        one.len == two.len && one.ack == two.ack && one.tcp_flags == two.tcp_flags &&
	        one.has_ts == two.has_ts && memcmp(one.hash, two.hash, 16) == 0);
}

static void try_flow_open(const uint8_t *data, size_t size)
{
	struct flow_open one = {0}, two = {0};
	uint8_t wire[FLOW_OPEN_WIRE_MAX];

	if (flow_open_unpack(&one, data, size) != 0)
		return;
	require(flow_open_pack(wire, &one) == size);
	require(flow_open_unpack(&two, wire, size) == 0);
	require(one.iss == two.iss && one.ack == two.ack && one.has_ack == two.has_ack);
}

static void try_input(const uint8_t *data, size_t size)
{
	struct frame *frame = NULL;
	uint64_t index;

	if (input_unpack(&index, &frame, data, size) != 0) {
		require(frame == NULL);
		return;
	}
	require(frame->len == size - INPUT_HEAD_LEN);
	require(memcmp(frame->data, data + INPUT_HEAD_LEN, frame->len) == 0);
	frame_free(frame);
}

static void try_ask(const uint8_t *data, size_t size)
{
	struct ask one, two;
	uint8_t wire[ASK_WIRE_MAX];

	if (ask_unpack(&one, data, size) != 0)
		return;
	require(one.kind < ASK_KIND_COUNT && one.digest.kind < DIGEST_KIND_COUNT);
	require(ask_unpack(&two, wire, ask_pack(wire, &one)) == 0);
	require(one.id == two.id && one.kind == two.kind && one.digest.seq == two.digest.seq);
}

static void try_cut(const uint8_t *data, size_t size)
{
	struct digest_cut one, two;
	uint8_t wire[CUT_WIRE_MAX];

	if (cut_ask_unpack(&one, data, size) == 0) {
		require(cut_ask_unpack(&two, wire, cut_ask_pack(wire, &one.whole, one.at)) == 0);
		require(one.at == two.at && one.whole.seq == two.whole.seq);
	}
	if (cut_unpack(&one, data, size) == 0) {
		require(cut_unpack(&two, wire, cut_pack(wire, &one)) == 0);
		require(one.at == two.at && memcmp(one.rest, two.rest, sizeof(one.rest)) == 0 &&
		        memcmp(one.head, two.head, sizeof(one.head)) == 0);
	}
}

/* An answer is also compared with what was asked, and shown. */
static void try_said(const uint8_t *data, size_t size)
{
	static uint8_t wire[SAID_WIRE_MAX];
	struct evidence_ring *ring = NULL;
	struct evidence_side side = {0}, copy = {0};
	struct evidence *noted;
	uint8_t bytes[EVIDENCE_WINDOW];
	uint64_t known;
	uint32_t id, at;

	if (said_unpack(&id, &side, data, size) != 0) {
		require(side.count == 0);
		return;
	}
	require(said_pack(wire, id, &side) == size);
	require(said_unpack(&at, &copy, data, size) == 0 && at == id && copy.count == side.count);
	require(evidence_ring_new(&ring, 1) == 0);
	noted = evidence_add(ring, &(struct evidence){.cause = CKPT_MISMATCH,
	                                              .has_key = true,
	                                              .key = {.kind = FLOW_TCP},
	                                              .seq = 0x01020304,
	                                              .len = 1000,
	                                              .what = "fuzz",
	                                              .found = EVIDENCE_WAITING,
	                                              .pvm = copy});
	evidence_answer(ring, noted->id, &side);
	require(!noted->differs); /* both sides are the same */
	evidence_window(noted, &noted->svm, &at, bytes, &known);
	require(at == 0);
	evidence_ring_free(ring);
}

static void try_map(const uint8_t *data, size_t size)
{
	uint8_t wire[MAP_ENTRY_WIRE_LEN], again[MAP_ENTRY_WIRE_LEN];
	struct natmap_entry entry;
	uint32_t total, first, n;

	if (map_head_unpack(&total, &first, &n, data, size) != 0)
		return;
	require(size == MAP_HEAD_LEN + (size_t)n * MAP_ENTRY_WIRE_LEN);
	for (uint32_t i = 0; i < n; i++) {
		if (map_entry_unpack(&entry,
		                     data + MAP_HEAD_LEN + (size_t)i * MAP_ENTRY_WIRE_LEN) != 0)
			return;
		map_entry_pack(wire, &entry);
		require(map_entry_unpack(&entry, wire) == 0);
		map_entry_pack(again, &entry);
		require(memcmp(wire, again, sizeof(wire)) == 0);
	}
}

static void try_replay(const uint8_t *data, size_t size)
{
	static uint8_t wire[REPLAY_FRAME_LEN + FRAME_MAX_LEN];
	uint32_t released;
	size_t at = REPLAY_HEAD_LEN;

	if (replay_unpack_head(&released, data, size) != 0)
		return;
	while (at < size) {
		struct frame *frame = NULL;
		int r = replay_unpack_frame(&frame, data + at, size - at);

		if (r < 0) {
			require(frame == NULL);
			return;
		}
		require((size_t)r <= size - at && replay_pack_frame(wire, frame) == (size_t)r);
		require(memcmp(wire, data + at, (size_t)r) == 0);
		frame_free(frame);
		at += (size_t)r;
	}
}

static void try_ready(const uint8_t *data, size_t size)
{
	uint8_t wire[COMMITTED_WIRE_LEN];
	uint32_t flags, looked, alike;

	if (ready_unpack(&flags, data, size) == 0) {
		ready_pack(wire, flags);
		require(memcmp(wire, data, size) == 0);
	}
	if (committed_unpack(&looked, &alike, data, size) == 0) {
		require(alike <= looked);
		committed_pack(wire, looked, alike);
		require(memcmp(wire, data, size) == 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct heartbeat beat;

	if (size < 1)
		return 0;
	switch (data[0] & 15) {
	case 0:
		try_digest(data + 1, size - 1);
		break;
	case 1:
		try_flow_open(data + 1, size - 1);
		break;
	case 2:
		try_input(data + 1, size - 1);
		break;
	case 4:
		try_ask(data + 1, size - 1);
		break;
	case 5:
		try_said(data + 1, size - 1);
		break;
	case 7:
		try_cut(data + 1, size - 1);
		break;
	case 8:
		try_ready(data + 1, size - 1);
		break;
	case 9:
		try_replay(data + 1, size - 1);
		break;
	case 6:
		try_map(data + 1, size - 1);
		break;
	default:
		require((heartbeat_unpack(&beat, data + 1, size - 1) == 0) ==
		        (size - 1 == HEARTBEAT_WIRE_LEN));
		break;
	}
	return 0;
}
