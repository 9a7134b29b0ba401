/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The page codec. Byte 0 is even: the rest are blocks as an attacker sends them, each behind a
 * be16 with its length; nothing may be written behind what a block says, and a refused block leaves
 * the checkpoint as it was. Bit 15 of the length: it is a FILL message. Byte 0 is odd: the rest is
 * sent as a checkpoint, twice and once more with a byte changed, and must come out as it went in;
 * with bit 7 the receiver has the second half of the first one in its VM's memory, and the first
 * byte of the rest is also a HOLES message's.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/page_codec.h"
#include "kvm/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CACHE (32u * PAGE_CACHE_PAGE)
#define LIMIT (1u << 20)
#define CLAIM 600000u /* bytes of the checkpoint that hostile blocks are for */

static void check(int ok)
{
	if (!ok)
		abort();
}

static struct page_encoder *encoder;
static struct page_decoder *decoder;
static struct ckpt_buf buf;

/* As good as random: with a secret of equal bytes XXH3 takes pages for alike whose bytes have
 * changed places. */
static uint8_t secret[PAGE_SECRET_LEN];

static void set_up(void)
{
	if (!buf.base) {
		uint64_t state = 7;

		for (size_t i = 0; i < sizeof(secret); i++) { /* xorshift64 */
			state ^= state << 13;
			state ^= state >> 7;
			state ^= state << 17;
			secret[i] = (uint8_t)(state >> 32);
		}
		check(page_encoder_new(&encoder, CACHE) == 0);
		check(page_decoder_new(&decoder, CACHE) == 0);
		check(ckpt_buf_init(&buf, LIMIT, LIMIT) == 0);
	}
	page_encoder_reset(encoder);
	page_decoder_reset(decoder);
	ckpt_buf_reset(&buf);
}

/* ---- the receiver's VM ---- */

struct memory {
	const uint8_t *bytes;
	size_t len;
};

static int memory_block(void *ctx, const char *name, size_t len)
{
	(void)ctx;
	return len > 0 && name[0] != 'x' ? name[0] : -1;
}

static bool memory_read(void *ctx, int block, uint64_t offset, uint8_t *page)
{
	const struct memory *memory = ctx;

	(void)block;
	if (memory->len < PAGE_CACHE_PAGE)
		return false;
	offset %= memory->len - PAGE_CACHE_PAGE + 1;
	memcpy(page, memory->bytes + offset, PAGE_CACHE_PAGE);
	return true;
}

static void offer(struct memory *memory)
{
	struct page_memory offered = {memory_block, memory_read, memory};

	page_decoder_memory(decoder, &offered, secret);
}

/* In memory of its own size, so that a read behind it is seen. */
static int decode(const uint8_t *block, size_t len, uint64_t whole, bool fills)
{
	uint8_t *copy = malloc(len ? len : 1);
	int rc;

	check(copy != NULL);
	memcpy(copy, block, len);
	rc = fills ? page_decoder_fill(decoder, copy, len, &buf)
	           : page_decoder_block(decoder, copy, len, &buf, whole);
	free(copy);
	return rc;
}

static void hostile(const uint8_t *data, size_t size)
{
	while (size >= 2) {
		size_t len = wire_be16(data) & 0x7fff;
		bool fills = data[0] >> 7;
		size_t before = buf.len;

		data += 2;
		size -= 2;
		if (len > size)
			len = size;
		if (decode(data, len, CLAIM, fills) < 0) {
			check(buf.len == before && page_decoder_error(decoder)[0]);
			return;
		}
		check(fills ? buf.len == before : buf.len > before && buf.len <= CLAIM);
		check(page_decoder_solid(decoder, &buf) <= buf.len);
		data += len;
		size -= len;
	}
}

static void round_trip(const uint8_t *data, size_t size, enum pack_method method)
{
	uint8_t holes[PAGE_HOLES_MAX];

	ckpt_buf_reset(&buf);
	page_encoder_begin(encoder, data, size);
	page_decoder_begin(decoder);
	while (page_encoder_gather(encoder) > 0) {
		bool fills = page_encoder_fills(encoder);
		const uint8_t *block;
		size_t len;

		(void)page_encoder_pack(encoder, method, &block, &len);
		check(len <= PAGE_BLOCK_HEAD + PAGE_BLOCK_OPS);
		check(decode(block, len, size, fills) == 0);
		len = fills ? 0 : page_decoder_holes(decoder, holes);
		check(!len || page_encoder_holes(encoder, holes, len) == 0);
	}
	check(page_encoder_settled(encoder) && page_decoder_solid(decoder, &buf) == size);
	check(buf.len == size && memcmp(buf.base, data, size) == 0);
}

/* Answers as an attacker gives them: a refused one changes nothing. */
static void hostile_holes(const uint8_t *data, size_t size)
{
	page_encoder_begin(encoder, data, size);
	while (page_encoder_gather(encoder) > 0) {
		size_t len = size < PAGE_HOLES_MAX + 9 ? size : PAGE_HOLES_MAX + 9;
		uint8_t *copy = malloc(len);

		check(copy != NULL);
		memcpy(copy, data, len);
		if (len >= PAGE_HOLES_HEAD)
			memset(copy, 0, PAGE_HOLES_HEAD - 1);
		(void)page_encoder_holes(encoder, copy, len);
		free(copy);
	}
}

static void three_times(const uint8_t *data, size_t size, uint8_t seed)
{
	uint8_t *copy = malloc(size);

	check(copy != NULL);
	memcpy(copy, data, size);
	round_trip(copy, size, seed / 2 % PACK_METHODS);
	round_trip(copy, size, (seed / 2 + 1) % PACK_METHODS);
	copy[seed * 257u % size] ^= 0x81;
	round_trip(copy, size, (seed / 2 + 2) % PACK_METHODS);
	if (seed & 0x80)
		hostile_holes(copy, size);
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct memory memory = {data, size};

	if (size < 2)
		return 0;
	set_up();
	if (data[0] & 0x80) {
		offer(&memory);
		memory.bytes += data[0] % 2 ? size / 2 : 0;
		memory.len -= data[0] % 2 ? size / 2 : 0;
		check(page_encoder_agree(encoder, PAGE_AGREE_ALWAYS, secret) == 0);
	}
	if (data[0] % 2 == 0)
		hostile(data + 1, size - 1);
	else if (size - 1 <= LIMIT / 2)
		three_times(data + 1, size - 1, data[0]);
	return 0;
}
