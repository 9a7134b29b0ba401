/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The page codec. Byte 0 is even: the rest are blocks as an attacker sends them, each behind a
 * be16 with its length; nothing may be written behind what a block says, and a refused block leaves
 * the checkpoint as it was. Byte 0 is odd: the rest is sent as a checkpoint, twice and once more
 * with a byte changed, and must come out as it went in.
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

static void set_up(void)
{
	if (!buf.base) {
		check(page_encoder_new(&encoder, CACHE) == 0);
		check(page_decoder_new(&decoder, CACHE) == 0);
		check(ckpt_buf_init(&buf, LIMIT, LIMIT) == 0);
	}
	page_encoder_reset(encoder);
	page_decoder_reset(decoder);
	ckpt_buf_reset(&buf);
}

/* In memory of its own size, so that a read behind it is seen. */
static int decode(const uint8_t *block, size_t len, uint64_t whole)
{
	uint8_t *copy = malloc(len ? len : 1);
	int rc;

	check(copy != NULL);
	memcpy(copy, block, len);
	rc = page_decoder_block(decoder, copy, len, &buf, whole);
	free(copy);
	return rc;
}

static void hostile(const uint8_t *data, size_t size)
{
	while (size >= 2) {
		size_t len = wire_be16(data);
		size_t before = buf.len;

		data += 2;
		size -= 2;
		if (len > size)
			len = size;
		if (decode(data, len, CLAIM) < 0) {
			check(buf.len == before && page_decoder_error(decoder)[0]);
			return;
		}
		check(buf.len > before && buf.len <= CLAIM);
		data += len;
		size -= len;
	}
}

static void round_trip(const uint8_t *data, size_t size, enum pack_method method)
{
	ckpt_buf_reset(&buf);
	page_encoder_begin(encoder, data, size);
	while (page_encoder_gather(encoder) > 0) {
		const uint8_t *block;
		size_t len;

		(void)page_encoder_pack(encoder, method, &block, &len);
		check(len <= PAGE_BLOCK_HEAD + PAGE_BLOCK_OPS);
		check(decode(block, len, size) == 0);
	}
	check(buf.len == size && memcmp(buf.base, data, size) == 0);
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
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	set_up();
	if (data[0] % 2 == 0)
		hostile(data + 1, size - 1);
	else if (size - 1 <= LIMIT / 2)
		three_times(data + 1, size - 1, data[0]);
	return 0;
}
