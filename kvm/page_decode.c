/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Goal: rebuild what the encoder saw, byte for byte, or say no. Every length and number in a block
 * comes from outside: each is compared with what is left of the operations, of the block's own
 * claim, of the checkpoint or of the cache before it is used. A slot is only read when it was
 * stored in this session. The bytes go behind those that the buffer has and count only when the
 * whole block was right.
 *
 * AGREE: the VM runs and may write to the page at any time, so it is copied first, and the copy is
 * hashed. If that is what the sender has, it is the page, whatever the VM does with its own later;
 * if not, it is a hole, which is listed with its slot until FILL brings the page. A guest that
 * wants two pages with one hash does not know the secret, and the hash of the whole checkpoint,
 * which is another one, would tell.
 */
#include "kvm/page_codec.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "kvm/wire.h"

#define PAGE_SHIFT 12
#define WORDS      (PAGE_CACHE_PAGE / 8)
#define ERR_LEN    160
#define SAMPLE     16u /* one of so many whole pages is compared with the VM's */
#define NO_SLOT    UINT32_MAX

struct hole {
	size_t at; /* in the checkpoint */
	uint32_t slot;
};

struct page_decoder {
	struct page_cache *cache;
	struct pack *pack;
	uint64_t last_page;
	uint32_t last_slot;
	uint32_t round; /* counts checkpoints, from 1 on */
	struct page_memory memory;
	uint8_t secret[PAGE_SECRET_LEN];
	bool has_memory;
	bool block_told; /* BLOCK has come */
	int block;       /* of the VM's memory; -1: it has none of that name */
	uint32_t agrees; /* in this checkpoint */
	uint32_t block_agrees;
	uint8_t block_holes[(PAGE_BLOCK_AGREES + 7) / 8];
	struct hole *holes; /* of this checkpoint */
	uint32_t holes_n, holes_room;
	uint32_t filled_n; /* of them */
	uint32_t whole, looked, alike;
	char err[ERR_LEN];
	uint8_t ops[PAGE_BLOCK_OPS];
};

/* Operations on their way into a checkpoint. */
struct cursor {
	const uint8_t *in;
	size_t left;
	const uint8_t *base; /* of the checkpoint */
	uint8_t *out;
	size_t room;
};

int page_decoder_new(struct page_decoder **ret_decoder, size_t cache_bytes)
{
	struct page_decoder *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	if (page_cache_new(&d->cache, cache_bytes) < 0 || pack_new(&d->pack) < 0) {
		page_decoder_free(d);
		return -ENOMEM;
	}
	d->round = 1;
	*ret_decoder = d;
	return 0;
}

void page_decoder_free(struct page_decoder *d)
{
	if (!d)
		return;
	page_cache_free(d->cache);
	pack_free(d->pack);
	free(d->holes);
	explicit_bzero(d->secret, sizeof(d->secret));
	free(d);
}

void page_decoder_reset(struct page_decoder *d)
{
	page_cache_reset(d->cache);
	d->last_page = d->last_slot = 0;
	d->has_memory = d->block_told = false;
	d->err[0] = '\0';
	page_decoder_begin(d);
}

void page_decoder_memory(struct page_decoder *d, const struct page_memory *memory,
                         const uint8_t *secret)
{
	d->memory = *memory;
	d->has_memory = true;
	memcpy(d->secret, secret, sizeof(d->secret));
}

void page_decoder_begin(struct page_decoder *d)
{
	if (++d->round == 0)
		d->round = 1; /* 0: never */
	d->agrees = d->block_agrees = d->holes_n = d->filled_n = 0;
	d->whole = d->looked = d->alike = 0;
}

static int fail(struct page_decoder *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int fail(struct page_decoder *d, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(d->err, sizeof(d->err), fmt, args);
	va_end(args);
	return -EPROTO;
}

static int take_varint(struct cursor *c, uint64_t *ret)
{
	uint64_t v = 0;

	for (unsigned int shift = 0; shift < 64; shift += 7) {
		uint8_t byte;

		if (c->left == 0)
			return -EPROTO;
		byte = *c->in++;
		c->left--;
		if (shift == 63 && byte > 1)
			return -EPROTO;
		v |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80)) {
			*ret = v;
			return 0;
		}
	}
	return -EPROTO;
}

static int put(struct page_decoder *d, struct cursor *c, const uint8_t *bytes, size_t n)
{
	if (n > c->room)
		return fail(d, "operations rebuild more than the block says");
	memcpy(c->out, bytes, n);
	c->out += n;
	c->room -= n;
	return 0;
}

/* Appends the next n bytes of the operations. */
static int copy(struct page_decoder *d, struct cursor *c, uint64_t n)
{
	int rc;

	if (n == 0 || n > c->left)
		return fail(d, "found %" PRIu64 " bytes in an operation, expected 1 to %zu", n,
		            c->left);
	rc = put(d, c, c->in, (size_t)n);
	if (rc < 0)
		return rc;
	c->in += n;
	c->left -= (size_t)n;
	return 0;
}

static int literal(struct page_decoder *d, struct cursor *c, uint8_t op)
{
	uint64_t n;

	if (op != PAGE_OP_LITERAL || take_varint(c, &n) < 0)
		return fail(d, "found operation 0x%02x, which is no whole LITERAL", op);
	return copy(d, c, n);
}

static int rebuild_head(struct page_decoder *d, struct cursor *c, uint8_t op)
{
	enum page_op kind = op & PAGE_OP_KIND;
	bool zero = kind == PAGE_OP_ZERO;
	uint8_t head[8];
	uint64_t step;

	switch (op & PAGE_OP_HEAD) {
	case 0:
		if (zero || kind == PAGE_OP_AGREE)
			return fail(d, "found operation 0x%02x without a head", op);
		return 0;
	case PAGE_OP_HEAD_NEXT:
		d->last_page++;
		break;
	case PAGE_OP_HEAD_STEP:
		if (take_varint(c, &step) < 0)
			return fail(d, "found a step that is no number");
		d->last_page += step >> 1 ^ (0 - (step & 1));
		break;
	default:
		return fail(d, "found operation 0x%02x, expected no head bits 3", op);
	}
	wire_put_be64(head, d->last_page << PAGE_SHIFT | (zero ? PAGE_HEAD_ZERO : PAGE_HEAD_FULL));
	return put(d, c, head, sizeof(head));
}

static int take_slot(struct page_decoder *d, struct cursor *c, uint8_t op, uint32_t *ret_slot)
{
	uint64_t slot = (uint64_t)d->last_slot + 1;
	enum page_op kind = op & PAGE_OP_KIND;
	bool store = kind == PAGE_OP_STORE || kind == PAGE_OP_AGREE;

	if (!(op & PAGE_OP_NEXT_SLOT) && take_varint(c, &slot) < 0)
		return fail(d, "found a slot that is no number");
	if (slot >= page_cache_slots(d->cache))
		return fail(d, "found slot %" PRIu64 ", expected below %" PRIu32, slot,
		            page_cache_slots(d->cache));
	if (!store && !page_cache_taken(d->cache, (uint32_t)slot))
		return fail(d, "found slot %" PRIu64 ", in which nothing was stored", slot);
	if (page_cache_agreed(d->cache, (uint32_t)slot, d->round))
		return fail(d, "found slot %" PRIu64 ", which is not settled yet", slot);
	*ret_slot = d->last_slot = (uint32_t)slot;
	return 0;
}

static void xor_words(uint8_t *page, const uint8_t *diff, size_t words)
{
	for (size_t i = 0; i < words; i++, page += 8, diff += 8) {
		uint64_t a;
		uint64_t b;

		memcpy(&a, page, sizeof(a));
		memcpy(&b, diff, sizeof(b));
		a ^= b;
		memcpy(page, &a, sizeof(a));
	}
}

static int change(struct page_decoder *d, struct cursor *c, uint8_t *page)
{
	struct cursor runs = {0};
	uint64_t word = 0;
	uint64_t len;

	if (take_varint(c, &len) < 0 || len == 0 || len > PAGE_DELTA_MAX || len > c->left)
		return fail(d, "found a difference that does not fit");
	runs.in = c->in;
	runs.left = (size_t)len;
	c->in += len;
	c->left -= (size_t)len;
	while (runs.left > 0) {
		uint64_t skip;
		uint64_t n;

		if (take_varint(&runs, &skip) < 0 || take_varint(&runs, &n) < 0 ||
		    skip >= WORDS - word || n == 0 || n > WORDS - word - skip || n > runs.left / 8)
			return fail(d, "found a difference that leads out of its page");
		word += skip;
		xor_words(page + word * 8, runs.in, (size_t)n);
		word += n;
		runs.in += n * 8;
		runs.left -= (size_t)n * 8;
		if (word == WORDS && runs.left > 0)
			return fail(d, "found a difference that goes on behind its page");
	}
	return 0;
}

static int from_slot(struct page_decoder *d, struct cursor *c, uint8_t op)
{
	uint8_t *page;
	uint32_t slot = 0;
	int rc;

	rc = take_slot(d, c, op, &slot);
	if (rc < 0)
		return rc;
	page = page_cache_page(d->cache, slot);
	if ((op & PAGE_OP_KIND) == PAGE_OP_STORE) {
		rc = copy(d, c, PAGE_CACHE_PAGE);
		if (rc < 0)
			return rc;
		memcpy(page, c->out - PAGE_CACHE_PAGE, PAGE_CACHE_PAGE);
		page_cache_take(d->cache, slot);
		return 0;
	}
	if ((op & PAGE_OP_KIND) == PAGE_OP_DELTA)
		rc = change(d, c, page);
	return rc < 0 ? rc : put(d, c, page, PAGE_CACHE_PAGE);
}

/* ---- the VM's own pages ---- */

static int name_block(struct page_decoder *d, struct cursor *c, uint8_t op)
{
	size_t n = c->left > 0 ? *c->in : 0;

	if (op != PAGE_OP_BLOCK || n >= c->left)
		return fail(d, "found operation 0x%02x, which is no whole BLOCK", op);
	d->block = d->has_memory ? d->memory.block(d->memory.ctx, (const char *)c->in + 1, n) : -1;
	d->block_told = true;
	c->in += 1 + n;
	c->left -= 1 + n;
	return 0;
}

/* The page of the last head, as the VM has it now. */
static bool read_page(struct page_decoder *d, uint8_t *page)
{
	return d->has_memory && d->block_told && d->block >= 0 &&
	       d->memory.read(d->memory.ctx, d->block, d->last_page << PAGE_SHIFT, page);
}

/* Now and then, a page that has just been rebuilt. */
static void sample(struct page_decoder *d, const struct cursor *c, uint8_t op)
{
	uint8_t page[PAGE_CACHE_PAGE];

	if (!(op & PAGE_OP_HEAD) || d->whole++ % SAMPLE || !read_page(d, page))
		return;
	d->looked++;
	d->alike += memcmp(page, c->out - PAGE_CACHE_PAGE, PAGE_CACHE_PAGE) == 0;
}

static int add_hole(struct page_decoder *d, size_t at, uint32_t slot)
{
	if (d->holes_n == d->holes_room) {
		uint32_t room = d->holes_room ? 2 * d->holes_room : 256;
		struct hole *holes = realloc(d->holes, room * sizeof(*holes));

		if (!holes)
			return fail(d, "no memory for %" PRIu32 " holes", room);
		d->holes = holes;
		d->holes_room = room;
	}
	d->holes[d->holes_n++] = (struct hole){.at = at, .slot = slot};
	return 0;
}

static bool is_page(const struct page_decoder *d, const uint8_t *page, const uint8_t *hash)
{
	XXH128_canonical_t own;

	XXH128_canonicalFromHash(
	        &own, XXH3_128bits_withSecret(page, PAGE_CACHE_PAGE, d->secret, sizeof(d->secret)));
	return memcmp(own.digest, hash, sizeof(own.digest)) == 0;
}

/* The page that AGREE stands for, at its place; or a hole. */
static int put_own(struct page_decoder *d, struct cursor *c, uint32_t slot)
{
	const uint8_t *hash = c->in;
	uint8_t *page = c->out;

	if (c->left < PAGE_HASH_LEN || c->room < PAGE_CACHE_PAGE)
		return fail(d, "found a hash that does not fit");
	c->in += PAGE_HASH_LEN;
	c->left -= PAGE_HASH_LEN;
	c->out += PAGE_CACHE_PAGE;
	c->room -= PAGE_CACHE_PAGE;
	d->agrees++;
	d->block_agrees++;
	if (read_page(d, page) && is_page(d, page, hash)) {
		if (slot != NO_SLOT)
			memcpy(page_cache_page(d->cache, slot), page, PAGE_CACHE_PAGE);
		return 0;
	}
	d->block_holes[(d->block_agrees - 1) / 8] |= 1u << (d->block_agrees - 1) % 8;
	return add_hole(d, (size_t)(page - c->base), slot);
}

static int agree(struct page_decoder *d, struct cursor *c, uint8_t op)
{
	uint32_t slot = NO_SLOT;
	int rc;

	if (!d->has_memory || !d->block_told)
		return fail(d, "found AGREE, which was not offered, or before a block's name");
	if (d->block_agrees == PAGE_BLOCK_AGREES || d->agrees == PAGE_AGREES_MAX)
		return fail(d, "found more than %u AGREEs in a block or %u in a checkpoint",
		            PAGE_BLOCK_AGREES, PAGE_AGREES_MAX);
	if (op & PAGE_OP_AGREE_SLOT) {
		rc = take_slot(d, c, op, &slot);
		if (rc < 0)
			return rc;
		page_cache_take(d->cache, slot);
		page_cache_agree(d->cache, slot, d->round);
	}
	return put_own(d, c, slot);
}

/* The bits of its first byte that an operation may have. */
static uint8_t allowed_bits(uint8_t op)
{
	uint8_t allowed = PAGE_OP_KIND | PAGE_OP_HEAD;
	enum page_op kind = op & PAGE_OP_KIND;

	if (kind == PAGE_OP_AGREE)
		allowed |= PAGE_OP_AGREE_SLOT;
	if (kind == PAGE_OP_AGREE ? op & PAGE_OP_AGREE_SLOT : kind >= PAGE_OP_STORE)
		allowed |= PAGE_OP_NEXT_SLOT;
	return allowed;
}

static int operation(struct page_decoder *d, struct cursor *c)
{
	static const uint8_t zero = 0;
	uint8_t op = *c->in++;
	enum page_op kind = op & PAGE_OP_KIND;
	int rc;

	c->left--;
	if (kind == PAGE_OP_LITERAL)
		return literal(d, c, op);
	if (kind == PAGE_OP_BLOCK)
		return name_block(d, c, op);
	if (op & ~allowed_bits(op))
		return fail(d, "found operation 0x%02x, which there is none", op);
	rc = rebuild_head(d, c, op);
	if (rc < 0)
		return rc;
	if (kind == PAGE_OP_ZERO)
		return put(d, c, &zero, 1);
	if (kind == PAGE_OP_AGREE)
		return agree(d, c, op);
	rc = kind == PAGE_OP_WHOLE ? copy(d, c, PAGE_CACHE_PAGE) : from_slot(d, c, op);
	if (rc == 0 && (kind == PAGE_OP_WHOLE || kind == PAGE_OP_STORE))
		sample(d, c, op);
	return rc;
}

static int run(struct page_decoder *d, const uint8_t *ops, size_t len, const struct ckpt_buf *buf,
               uint8_t *out, size_t raw)
{
	struct cursor c = {.in = ops, .left = len, .base = buf->base, .out = out, .room = raw};
	int rc = 0;

	while (rc == 0 && c.left > 0)
		rc = operation(d, &c);
	if (rc < 0)
		return rc;
	if (c.room > 0)
		return fail(d, "operations rebuild %zu bytes less than the block says", c.room);
	return 0;
}

/* Checks a block's head against the checkpoint that it is for. */
static int check_head(struct page_decoder *d, const uint8_t *block, size_t len,
                      const struct ckpt_buf *buf, uint64_t size)
{
	uint32_t raw = wire_be32(block + 12);
	uint32_t ops = wire_be32(block + 16);

	if (wire_be64(block) != buf->len)
		return fail(d, "found a block for offset %" PRIu64 ", expected %zu",
		            wire_be64(block), buf->len);
	if (block[8] >= PACK_METHODS || block[9] || block[10] || block[11])
		return fail(d, "found a block packed by method %u, expected below %d", block[8],
		            PACK_METHODS);
	if (raw == 0 || raw > PAGE_BLOCK_RAW || buf->len > size || raw > size - buf->len)
		return fail(d,
		            "found a block of %" PRIu32 " bytes for a checkpoint of %" PRIu64
		            " that has %zu",
		            raw, size, buf->len);
	if (ops == 0 || ops > PAGE_BLOCK_OPS ||
	    (block[8] == PACK_NONE && ops != len - PAGE_BLOCK_HEAD))
		return fail(d, "found %" PRIu32 " bytes of operations in a block of %zu bytes", ops,
		            len);
	return 0;
}

int page_decoder_block(struct page_decoder *d, const uint8_t *block, size_t len,
                       struct ckpt_buf *buf, uint64_t size)
{
	const uint8_t *ops;
	uint8_t *out;
	size_t room;
	uint32_t raw;
	uint32_t n;
	int rc;

	if (len <= PAGE_BLOCK_HEAD)
		return fail(d, "found a block of %zu bytes, expected more than %u", len,
		            PAGE_BLOCK_HEAD);
	d->block_agrees = 0;
	memset(d->block_holes, 0, sizeof(d->block_holes));
	rc = check_head(d, block, len, buf, size);
	if (rc < 0)
		return rc;
	raw = wire_be32(block + 12);
	n = wire_be32(block + 16);
	if (ckpt_buf_room(buf, &out, &room) < 0 || raw > room)
		return fail(d, "found a checkpoint that is larger than its buffer");
	ops = block + PAGE_BLOCK_HEAD;
	if (block[8] != PACK_NONE) {
		rc = pack_restore(d->pack, block[8], ops, len - PAGE_BLOCK_HEAD, d->ops, n);
		if (rc < 0)
			return fail(d, "found %zu bytes of %s that cannot be unpacked",
			            len - PAGE_BLOCK_HEAD, pack_method_name(block[8]));
		ops = d->ops;
	}
	rc = run(d, ops, n, buf, out, raw);
	return rc < 0 ? rc : ckpt_buf_filled(buf, raw);
}

/* ---- holes ---- */

size_t page_decoder_holes(const struct page_decoder *d, uint8_t out[PAGE_HOLES_MAX])
{
	size_t n = (d->block_agrees + 7) / 8;

	if (d->block_agrees == 0)
		return 0;
	wire_put_be32(out, d->block_agrees);
	memcpy(out + PAGE_HOLES_HEAD, d->block_holes, n);
	return PAGE_HOLES_HEAD + n;
}

static void fill_hole(struct page_decoder *d, struct ckpt_buf *buf, const uint8_t *page)
{
	const struct hole *hole = &d->holes[d->filled_n++];

	memcpy(buf->base + hole->at, page, PAGE_CACHE_PAGE);
	if (hole->slot != NO_SLOT)
		memcpy(page_cache_page(d->cache, hole->slot), page, PAGE_CACHE_PAGE);
}

int page_decoder_fill(struct page_decoder *d, const uint8_t *message, size_t len,
                      struct ckpt_buf *buf)
{
	const uint8_t *pages;
	uint32_t n = len <= PAGE_FILL_HEAD ? 0 : wire_be32(message + 8);
	size_t bytes = (size_t)n * PAGE_CACHE_PAGE;

	if (n == 0 || n > PAGE_FILL_PAGES || n > d->holes_n - d->filled_n ||
	    wire_be32(message) != d->filled_n)
		return fail(d,
		            "found %" PRIu32 " pages for holes of which %" PRIu32 " of %" PRIu32
		            " are filled",
		            n, d->filled_n, d->holes_n);
	if (message[4] >= PACK_METHODS || message[5] || message[6] || message[7] ||
	    (message[4] == PACK_NONE && len - PAGE_FILL_HEAD != bytes))
		return fail(d, "found pages packed by method %u in %zu bytes", message[4], len);
	pages = message + PAGE_FILL_HEAD;
	if (message[4] != PACK_NONE) {
		if (pack_restore(d->pack, message[4], pages, len - PAGE_FILL_HEAD, d->ops, bytes) <
		    0)
			return fail(d, "found %zu bytes of %s that cannot be unpacked",
			            len - PAGE_FILL_HEAD, pack_method_name(message[4]));
		pages = d->ops;
	}
	for (uint32_t i = 0; i < n; i++)
		fill_hole(d, buf, pages + (size_t)i * PAGE_CACHE_PAGE);
	return 0;
}

size_t page_decoder_solid(const struct page_decoder *d, const struct ckpt_buf *buf)
{
	return d->filled_n < d->holes_n ? d->holes[d->filled_n].at : buf->len;
}

void page_decoder_samples(const struct page_decoder *d, uint32_t *ret_looked, uint32_t *ret_alike)
{
	*ret_looked = d->looked;
	*ret_alike = d->alike;
}

const char *page_decoder_error(const struct page_decoder *d)
{
	return d->err;
}

const struct page_cache *page_decoder_cache(const struct page_decoder *d)
{
	return d->cache;
}
