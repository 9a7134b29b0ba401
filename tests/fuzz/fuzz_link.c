/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "colo-proxy/link/codec.h"
#include "colo-proxy/link/hello.h"
#include "colo-proxy/link/link.h"

/*
 * Byte 0 says what the rest is: 0 a stream for the decoder, cut into pieces by byte 1; 1 a stream
 * whose frames are given valid checksums and sequences first, so that what comes after them is
 * reached; 2 a HELLO; 3 a HELLO_REPLY; 8 the bulk connection and two stripes of a session, in
 * pieces: byte 0 of each says of which, byte 1 and 2 how long; frames and markers are repaired as
 * in 1. Accepted things are checked against what they promise.
 */

#define SEED 0x0123456789abcdefu

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
	if (!condition)
		abort();
}

static void check_words(const char *err, size_t size)
{
	size_t n = strnlen(err, size);

	require(n > 0 && n < size);
}

static void fuzz_hello(const uint8_t *data, size_t size, bool reply)
{
	struct link_hello mine = {
	        .role = LINK_SECONDARY, .streams = 1, .name = "vm1", .name_len = 3};
	struct link_hello h;
	uint8_t again[LINK_MAX_OWN];
	char err[200] = "";
	size_t n;

	if (size > LINK_MAX_OWN)
		return;
	if (link_hello_parse(data, size, reply, &h, err, sizeof(err))) {
		check_words(err, sizeof(err));
		return;
	}
	/* What was accepted has one encoding. */
	n = link_hello_encode(again, &h);
	require(n + (reply ? LINK_PROOF_LEN : 0) == size && !memcmp(again, data, n));
	require(!reply || h.proof == data + n);
	if (link_hello_check(&mine, &h, err, sizeof(err)))
		check_words(err, sizeof(err));
	else
		require(h.name_len == 3 && h.role == LINK_PRIMARY);
}

static void drain(struct link_decoder *d)
{
	const uint8_t *payload;
	struct link_header h;
	char err[200] = "";
	int ret;

	while ((ret = link_decoder_next(d, &h, &payload, err, sizeof(err))) == 1) {
		uint32_t i;
		uint8_t sum = 0;

		require(h.len <= link_max_payload(h.type, h.channel));
		require(payload >= d->buf && payload + h.len <= d->buf + d->tail);
		for (i = 0; i < h.len; i++)
			sum ^= payload[i];
		(void)*(volatile uint8_t *)&sum;
	}
	if (ret < 0)
		check_words(err, sizeof(err));
}

static void fuzz_stream(const uint8_t *data, size_t size, size_t step, bool session)
{
	struct link_decoder d;

	if (link_decoder_init(&d, session ? LINK_BULK : -1))
		return;
	if (session && link_decoder_session(&d, SEED)) {
		link_decoder_free(&d);
		return;
	}
	while (size && !d.error) {
		size_t room, n = step < size ? step : size;
		uint8_t *to = link_decoder_space(&d, &room);

		require(room > 0 && to + room == d.buf + d.room);
		if (n > room)
			n = room;
		memcpy(to, data, n);
		link_decoder_filled(&d, n);
		data += n;
		size -= n;
		drain(&d);
	}
	link_decoder_free(&d);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Repairs the frames at the start of the copy as far as they are whole. */
static void fuzz_repaired(const uint8_t *data, size_t size, size_t step)
{
	uint8_t *copy = malloc(size + 1);
	uint64_t sequence = 0;
	size_t at = 0;

	if (!copy)
		return;
	memcpy(copy, data, size);
	while (size - at >= LINK_HEADER_LEN) {
		struct link_header h = {
		        .type = copy[at + 5],
		        .channel = LINK_BULK,
		        .epoch = get32(copy + at + 8),
		        .len = get32(copy + at + 12),
		        .sequence = sequence,
		};

		sequence++;
		if (h.len > size - at - LINK_HEADER_LEN)
			break;
		link_encode(copy + at, &h, SEED);
		at += LINK_HEADER_LEN + h.len;
	}
	fuzz_stream(copy, size, step, true);
	free(copy);
}

/* ---- the bulk connection with its stripes ---- */

#define STRIPES 2u

struct bulk {
	struct link_decoder in[1 + STRIPES]; /* the bulk connection's, and theirs */
	uint64_t sealed[1 + STRIPES];        /* sequence of the next frame */
	uint64_t taken[STRIPES];             /* messages of a stripe that were due and came */
	struct link_marker marker;
	bool waits, ended;
};

/* The next message, if it is there. As link.c and stripes.c do it. */
static bool bulk_next(struct bulk *b)
{
	struct link_decoder *d = b->waits ? &b->in[1 + b->marker.stripe] : &b->in[0];
	const uint8_t *payload;
	struct link_header h;
	char err[200] = "";
	int ret = link_decoder_next(d, &h, &payload, err, sizeof(err));

	if (ret < 0)
		check_words(err, sizeof(err));
	b->ended = ret < 0 || (ret && b->waits && !link_marker_names(&b->marker, &h));
	if (ret <= 0 || b->ended)
		return false;
	if (b->waits) {
		require(h.len == b->marker.len && h.sequence == b->taken[b->marker.stripe]);
		b->taken[b->marker.stripe]++;
		b->waits = false;
	} else if (h.type == LINK_MARKER) {
		b->ended = link_marker_unpack(payload, h.len, STRIPES, &b->marker, err,
		                              sizeof(err)) != 0;
		if (b->ended)
			check_words(err, sizeof(err));
		else
			require(b->marker.stripe < STRIPES);
		b->waits = !b->ended;
	}
	return !b->ended;
}

/* One frame for one of the connections. */
static void bulk_add(struct bulk *b, unsigned place, const uint8_t *data, size_t len)
{
	struct link_header h = {.channel = (uint8_t)(LINK_BULK + place), .len = (uint32_t)len - 1};
	size_t room;
	uint8_t *to = link_decoder_space(&b->in[place], &room);

	if (room < LINK_HEADER_LEN + h.len) {
		b->ended = true; /* nothing is taken there: its sender would wait */
		return;
	}
	h.type = data[0];
	h.sequence = b->sealed[place]++;
	memcpy(to + LINK_HEADER_LEN, data + 1, h.len);
	link_encode(to, &h, SEED);
	link_decoder_filled(&b->in[place], LINK_HEADER_LEN + h.len);
}

static void fuzz_stripes(const uint8_t *data, size_t size)
{
	struct bulk b = {0};
	unsigned i;

	for (i = 0; i < 1 + STRIPES; i++)
		require(!link_decoder_init(&b.in[i], (int)(LINK_BULK + i)) &&
		        !link_decoder_session(&b.in[i], SEED));
	while (size > 3 && !b.ended) {
		size_t len = 1 + (((size_t)data[1] << 8 | data[2]) & 0x7fff);

		if (len > size - 3)
			len = size - 3;
		bulk_add(&b, data[0] % (1 + STRIPES), data + 3, len);
		data += 3 + len;
		size -= 3 + len;
		while (!b.ended && bulk_next(&b))
			;
	}
	for (i = 0; i < 1 + STRIPES; i++)
		link_decoder_free(&b.in[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t step;

	if (size < 2)
		return 0;
	if (data[0] == 8) {
		fuzz_stripes(data + 1, size - 1);
		return 0;
	}
	step = data[1] ? data[1] : 100000;
	switch (data[0] & 3) {
	case 0:
		fuzz_stream(data + 2, size - 2, step, data[0] & 4);
		break;
	case 1:
		fuzz_repaired(data + 2, size - 2, step);
		break;
	case 2:
		fuzz_hello(data + 2, size - 2, false);
		break;
	default:
		fuzz_hello(data + 2, size - 2, true);
		break;
	}
	return 0;
}
