/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Goal: a page that changed by a word costs some bytes, one that did not change less, and whatever
 * is new costs no more than itself; in pieces that each take some 100 us, because the thread that
 * encodes also carries the VM's packets.
 *
 * The checkpoint is seen as contents (pages, pieces of device state) with gaps between them. Gaps
 * are literal bytes, except that the head of a record that names no block is said in a bit or two.
 * A content is looked up in the cache of what was sent last and becomes one operation. Gathering
 * stops when a block rebuilds BLOCK_RAW bytes or has BLOCK_OPS bytes of operations; a content is
 * never cut, a gap may be.
 *
 * A page that would be sent whole may be told by its hash (AGREE): mostly the peer's VM, which has
 * heard the same input, has written the same. What it has not is asked for (HOLES) block by block,
 * while later blocks are on their way, and filled in front of these. The cache has the page at
 * once, as the peer's will when the checkpoint is settled: so a slot that is told of by AGREE is
 * left alone until the next one.
 *
 * Invariants: the gathered operations rebuild base[block_at..at). The cache holds what the peer's
 * will hold once it has carried out all that was gathered, so no block may be lost or left out
 * before page_encoder_reset(). Nothing depends on what the stream's records mean: a wrong reading
 * of them costs bytes.
 */
#include "kvm/page_codec.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "kvm/stream.h"
#include "kvm/wire.h"

#define BLOCK_RAW   (256u << 10)
#define BLOCK_OPS   (64u << 10)
#define CONTENT_MAX (328u + PAGE_CACHE_PAGE)     /* bytes of operations for one content */
#define HEAD        8u                           /* bytes of a record's head that names no block */
#define STATE_BLOCK UINT64_C(0x57a7e57a7e57a7e5) /* stands for the device state */
#define PAGE_SHIFT  12
#define WORDS       (PAGE_CACHE_PAGE / 8)
#define NO_SLOT     UINT32_MAX

/* The next content, and what is known of its record. */
struct content {
	size_t at; /* in the checkpoint */
	size_t len;
	uint64_t block;
	uint64_t page;
	bool zero;
	bool head; /* the 8 bytes before it are one that can be said in bits */
};

struct page_encoder {
	struct page_cache *cache;
	struct pack *pack;
	struct stream stream;
	uint64_t block;      /* stands for the block that the last record was in */
	uint64_t told_block; /* and for the one that BLOCK has told last */
	uint64_t last_page;  /* of the last head that was said in bits */
	uint32_t last_slot;  /* that was named */
	bool told;           /* a block */
	bool records_over;   /* the walk has ended */
	bool pending;        /* `content` is to be encoded */
	const uint8_t *base; /* of the checkpoint */
	size_t len;
	size_t at;       /* everything before is in a block */
	size_t block_at; /* where the gathered block begins */
	size_t state_at; /* the next piece of device state, once it has */
	size_t state_end;
	struct content content;
	enum page_agree agree, agree_next;
	uint8_t secret[PAGE_SECRET_LEN];
	/* Where the AGREEs of this checkpoint are; in front of these, where the holes are. */
	size_t *agreed;
	uint32_t agreed_n;     /* gathered */
	uint32_t answered_n;   /* of them */
	uint32_t holes_n;      /* of them */
	uint32_t filled_n;     /* of them; gathered */
	uint32_t fill_n;       /* of them; in what was gathered last: no block then */
	uint32_t round;        /* counts checkpoints, from 1 on */
	uint64_t inline_pages; /* whole pages in the gathered block */
	struct page_codec_stats stats;
	size_t n_ops;
	uint8_t *ops; /* PAGE_BLOCK_OPS bytes */
	uint8_t out[PAGE_BLOCK_MAX];
};

static_assert(BLOCK_OPS + CONTENT_MAX <= PAGE_BLOCK_OPS, "operations fit the wire's limit");
static_assert(BLOCK_RAW + HEAD + PAGE_CACHE_PAGE <= PAGE_BLOCK_RAW,
              "a block fits the wire's limit");
static_assert(PAGE_FILL_PAGES * PAGE_CACHE_PAGE <= BLOCK_OPS && PAGE_FILL_HEAD <= PAGE_BLOCK_HEAD,
              "a FILL message fits where blocks do");

int page_encoder_new(struct page_encoder **ret_encoder, size_t cache_bytes)
{
	struct page_encoder *e = calloc(1, sizeof(*e));

	if (!e)
		return -ENOMEM;
	e->ops = malloc(PAGE_BLOCK_OPS);
	if (!e->ops || page_cache_new(&e->cache, cache_bytes) < 0 || pack_new(&e->pack) < 0) {
		page_encoder_free(e);
		return -ENOMEM;
	}
	stream_init(&e->stream);
	*ret_encoder = e;
	return 0;
}

void page_encoder_free(struct page_encoder *e)
{
	if (!e)
		return;
	page_cache_free(e->cache);
	pack_free(e->pack);
	free(e->ops);
	free(e->agreed);
	explicit_bzero(e->secret, sizeof(e->secret));
	free(e);
}

void page_encoder_reset(struct page_encoder *e)
{
	page_cache_reset(e->cache);
	stream_init(&e->stream);
	e->block = e->told_block = e->last_page = e->last_slot = 0;
	e->len = e->at = e->block_at = e->n_ops = 0;
	e->pending = e->told = false;
	e->agree = e->agree_next = PAGE_AGREE_NEVER;
	e->agreed_n = e->answered_n = e->holes_n = e->filled_n = e->fill_n = 0;
}

int page_encoder_agree(struct page_encoder *e, enum page_agree agree, const uint8_t *secret)
{
	e->agree_next = PAGE_AGREE_NEVER;
	if (agree == PAGE_AGREE_ALWAYS && !e->agreed) {
		e->agreed = malloc(PAGE_AGREES_MAX * sizeof(*e->agreed));
		if (!e->agreed)
			return -ENOMEM;
	}
	memcpy(e->secret, secret, sizeof(e->secret));
	e->agree_next = agree;
	return 0;
}

void page_encoder_begin(struct page_encoder *e, const uint8_t *base, size_t len)
{
	stream_begin(&e->stream);
	if (++e->round == 0)
		e->round = 1; /* 0: never */
	e->agree = e->agree_next;
	e->agreed_n = e->answered_n = e->holes_n = e->filled_n = e->fill_n = 0;
	e->base = base;
	e->len = len;
	e->at = e->block_at = 0;
	e->records_over = e->pending = false;
	e->n_ops = 0;
	e->stats.raw_bytes += len;
}

/* ---- what comes next ---- */

/* Records of other kinds (XBZRLE, a page filled with another byte) are literal bytes. */
static bool take_record(struct page_encoder *e, const struct stream_page *page)
{
	bool zero = page->kind == STREAM_PAGE_ZERO && page->data[0] == 0 && page->same_block;
	bool full = page->kind == STREAM_PAGE_FULL;

	if (!page->same_block)
		e->block = XXH3_64bits(page->block, page->block_len);
	if (!zero && !full)
		return false;
	e->content = (struct content){
	        .at = (size_t)(page->data - e->base),
	        .len = page->data_len,
	        .block = e->block,
	        .page = page->offset >> PAGE_SHIFT,
	        .zero = zero,
	        .head = page->same_block,
	};
	return true;
}

static bool next_state(struct page_encoder *e)
{
	if (e->state_end - e->state_at < PAGE_CACHE_PAGE)
		return false;
	e->content = (struct content){
	        .at = e->state_at,
	        .len = PAGE_CACHE_PAGE,
	        .block = STATE_BLOCK,
	        .page = (e->state_at - e->stream.stats.state_offset) >> PAGE_SHIFT,
	};
	e->state_at += PAGE_CACHE_PAGE;
	return true;
}

/* Fills e->content; false when only a gap is left. */
static bool next_content(struct page_encoder *e)
{
	struct stream_page page;
	int rc;

	while (!e->records_over) {
		rc = stream_next(&e->stream, e->base, e->len, &page);
		if (rc == 1) {
			if (take_record(e, &page))
				return true;
			continue;
		}
		e->records_over = true;
		e->state_at = e->state_end = 0;
		if (e->stream.state == STREAM_DONE) {
			e->state_at = e->stream.stats.state_offset;
			e->state_end = e->stream.stats.bytes;
		}
	}
	return next_state(e);
}

/* ---- operations ---- */

static void put_byte(struct page_encoder *e, unsigned int byte)
{
	e->ops[e->n_ops++] = (uint8_t)byte;
}

static size_t put_varint(uint8_t *out, uint64_t v)
{
	size_t n = 0;

	for (; v >= 0x80; v >>= 7)
		out[n++] = (uint8_t)(v | 0x80);
	out[n++] = (uint8_t)v;
	return n;
}

static void put_number(struct page_encoder *e, uint64_t v)
{
	e->n_ops += put_varint(e->ops + e->n_ops, v);
}

static void put_bytes(struct page_encoder *e, const uint8_t *bytes, size_t n)
{
	memcpy(e->ops + e->n_ops, bytes, n);
	e->n_ops += n;
}

/* The gap up to `end`, or as much of it as the block takes. False when some of it is left. */
static bool put_gap(struct page_encoder *e, size_t end)
{
	size_t n = end - e->at;
	size_t room = BLOCK_OPS - e->n_ops;

	if (n == 0)
		return true;
	if (room > BLOCK_RAW - (e->at - e->block_at))
		room = BLOCK_RAW - (e->at - e->block_at);
	if (n > room)
		n = room;
	put_byte(e, PAGE_OP_LITERAL);
	put_number(e, n);
	put_bytes(e, e->base + e->at, n);
	e->at += n;
	return e->at == end;
}

static void put_op(struct page_encoder *e, enum page_op op, uint32_t slot)
{
	const struct content *c = &e->content;
	bool slots = op == PAGE_OP_STORE || op == PAGE_OP_SAME || op == PAGE_OP_DELTA ||
	             (op == PAGE_OP_AGREE && slot != NO_SLOT);
	int64_t step = (int64_t)(c->page - e->last_page);
	unsigned int byte = op;

	if (c->head)
		byte |= step == 1 ? PAGE_OP_HEAD_NEXT : PAGE_OP_HEAD_STEP;
	if (slots && op == PAGE_OP_AGREE)
		byte |= PAGE_OP_AGREE_SLOT;
	if (slots && slot == e->last_slot + 1)
		byte |= PAGE_OP_NEXT_SLOT;
	put_byte(e, byte);
	if (c->head) {
		if (step != 1) /* zigzag: 0, -1, 1, -2, ... as 0, 1, 2, 3, ... */
			put_number(e, (uint64_t)step << 1 ^ (step < 0 ? UINT64_MAX : 0));
		e->last_page = c->page;
	}
	if (!slots)
		return;
	if (slot != e->last_slot + 1)
		put_number(e, slot);
	e->last_slot = slot;
}

static uint64_t word_at(const uint8_t *page, size_t word)
{
	uint64_t v;

	memcpy(&v, page + word * 8, sizeof(v));
	return v;
}

static bool same_word(const uint8_t *a, const uint8_t *b, size_t word)
{
	return word_at(a, word) == word_at(b, word);
}

/* The next word from `word` on that is different; WORDS: none. */
static size_t skip_same(const uint8_t *a, const uint8_t *b, size_t word)
{
	while (word % 8 && word < WORDS && same_word(a, b, word))
		word++;
	if (word % 8)
		return word;
	while (word < WORDS && memcmp(a + word * 8, b + word * 8, 64) == 0)
		word += 8;
	while (word < WORDS && same_word(a, b, word))
		word++;
	return word;
}

/* Runs of different words. Returns their length, 0: equal; more than PAGE_DELTA_MAX: give up. */
static size_t put_delta(uint8_t *out, const uint8_t *before, const uint8_t *now)
{
	size_t word = 0;
	size_t n = 0;

	for (;;) {
		size_t first = skip_same(before, now, word);
		size_t end = first;

		if (first == WORDS)
			return n;
		while (end < WORDS && !same_word(before, now, end))
			end++;
		if (n + 4 + (end - first) * 8 > PAGE_DELTA_MAX)
			return PAGE_DELTA_MAX + 1;
		n += put_varint(out + n, first - word);
		n += put_varint(out + n, end - first);
		for (word = first; word < end; word++, n += 8) {
			uint64_t diff = word_at(before, word) ^ word_at(now, word);

			memcpy(out + n, &diff, sizeof(diff));
		}
	}
}

/* The peer is to know which page of its VM's the content is. False: it cannot. */
static bool tell_block(struct page_encoder *e)
{
	if (e->agree == PAGE_AGREE_NEVER || !e->content.head)
		return false;
	if (e->told && e->told_block == e->content.block)
		return true;
	e->told = true;
	put_byte(e, PAGE_OP_BLOCK);
	put_byte(e, e->stream.block_len);
	put_bytes(e, (const uint8_t *)e->stream.block, e->stream.block_len);
	e->told_block = e->content.block;
	return true;
}

/* A page of which the peer has nothing, into a slot or none. */
static void put_new(struct page_encoder *e, uint32_t slot, const uint8_t *page)
{
	XXH128_canonical_t hash;

	if (!tell_block(e) || e->agree != PAGE_AGREE_ALWAYS || e->agreed_n == PAGE_AGREES_MAX) {
		put_op(e, slot == NO_SLOT ? PAGE_OP_WHOLE : PAGE_OP_STORE, slot);
		put_bytes(e, page, PAGE_CACHE_PAGE);
		e->inline_pages++;
		return;
	}
	XXH128_canonicalFromHash(&hash, XXH3_128bits_withSecret(page, PAGE_CACHE_PAGE, e->secret,
	                                                        sizeof(e->secret)));
	put_op(e, PAGE_OP_AGREE, slot);
	put_bytes(e, hash.digest, sizeof(hash.digest));
	if (slot != NO_SLOT)
		page_cache_agree(e->cache, slot, e->round);
	e->agreed[e->agreed_n++] = (size_t)(page - e->base);
}

static void put_known(struct page_encoder *e, uint32_t slot, const uint8_t *page)
{
	uint8_t delta[PAGE_DELTA_MAX + 8];
	uint8_t *kept = page_cache_page(e->cache, slot);
	size_t n = put_delta(delta, kept, page);

	if (n == 0) {
		put_op(e, PAGE_OP_SAME, slot);
		e->stats.unchanged++;
		return;
	}
	memcpy(kept, page, PAGE_CACHE_PAGE);
	if (n > PAGE_DELTA_MAX) {
		put_new(e, slot, page);
		return;
	}
	put_op(e, PAGE_OP_DELTA, slot);
	put_number(e, n);
	put_bytes(e, delta, n);
	e->stats.delta++;
}

static void put_content(struct page_encoder *e)
{
	const struct content *c = &e->content;
	const uint8_t *page = e->base + c->at;
	uint32_t slot = 0;

	e->at = c->at + c->len;
	if (c->zero) {
		put_op(e, PAGE_OP_ZERO, 0);
		e->stats.zero++;
		return;
	}
	switch (page_cache_find(e->cache, c->block, c->page, e->round, &slot)) {
	case PAGE_CACHE_HIT:
		/* The same page twice in a checkpoint: whether the peer has it is not settled. */
		if (page_cache_agreed(e->cache, slot, e->round))
			put_new(e, NO_SLOT, page);
		else
			put_known(e, slot, page);
		return;
	case PAGE_CACHE_NEW:
		memcpy(page_cache_page(e->cache, slot), page, PAGE_CACHE_PAGE);
		put_new(e, slot, page);
		return;
	case PAGE_CACHE_NONE:
		put_new(e, NO_SLOT, page);
		return;
	}
}

/* ---- holes ---- */

int page_encoder_holes(struct page_encoder *e, const uint8_t *message, size_t len)
{
	const uint8_t *bits;
	uint32_t n = len < PAGE_HOLES_HEAD ? 0 : wire_be32(message);

	if (n == 0 || n > PAGE_BLOCK_AGREES || n > e->agreed_n - e->answered_n ||
	    len != PAGE_HOLES_HEAD + (n + 7) / 8)
		return -EPROTO;
	bits = message + PAGE_HOLES_HEAD;
	if (n % 8 && bits[n / 8] >> n % 8)
		return -EPROTO;
	for (uint32_t i = 0; i < n; i++) {
		size_t at = e->agreed[e->answered_n++];

		if (bits[i / 8] >> i % 8 & 1) {
			e->agreed[e->holes_n++] = at;
			e->stats.holes++;
		} else {
			e->stats.agreed++;
		}
	}
	return 0;
}

bool page_encoder_settled(const struct page_encoder *e)
{
	return e->answered_n == e->agreed_n && e->filled_n == e->holes_n;
}

bool page_encoder_fills(const struct page_encoder *e)
{
	return e->fill_n > 0;
}

static void gather_fill(struct page_encoder *e)
{
	while (e->fill_n < PAGE_FILL_PAGES && e->filled_n < e->holes_n) {
		put_bytes(e, e->base + e->agreed[e->filled_n++], PAGE_CACHE_PAGE);
		e->fill_n++;
		e->inline_pages++;
	}
}

size_t page_encoder_gather(struct page_encoder *e)
{
	e->n_ops = 0;
	e->inline_pages = 0;
	e->fill_n = 0;
	e->block_at = e->at;
	if (e->filled_n < e->holes_n) {
		gather_fill(e);
		return e->n_ops;
	}
	while (e->at < e->len && e->n_ops < BLOCK_OPS && e->at - e->block_at < BLOCK_RAW) {
		size_t head;

		if (!e->pending)
			e->pending = next_content(e);
		if (!e->pending) {
			(void)put_gap(e, e->len);
			continue;
		}
		head = e->content.head ? HEAD : 0;
		/* Behind a gap that was all taken there is room for one content, whatever it is. */
		if (!put_gap(e, e->content.at - head))
			break;
		put_content(e);
		e->pending = false;
	}
	return e->n_ops;
}

/* ---- blocks ---- */

void page_encoder_span(const struct page_encoder *e, size_t *ret_offset, size_t *ret_len)
{
	*ret_offset = e->block_at;
	*ret_len = e->at - e->block_at;
}

int page_gathered_init(struct page_gathered *g)
{
	*g = (struct page_gathered){.ops = malloc(PAGE_BLOCK_OPS)};
	return g->ops ? 0 : -ENOMEM;
}

void page_gathered_fini(struct page_gathered *g)
{
	free(g->ops);
	*g = (struct page_gathered){0};
}

static struct page_gathered gathered(const struct page_encoder *e)
{
	return (struct page_gathered){
	        .offset = e->block_at,
	        .span = e->at - e->block_at,
	        .len = e->n_ops,
	        .whole_pages = e->inline_pages,
	        .ops = e->ops,
	};
}

void page_encoder_take(struct page_encoder *e, struct page_gathered *g)
{
	uint8_t *room = g->ops;

	*g = gathered(e);
	e->ops = room;
}

/* Behind the head. Returns the length. */
static size_t pack_body(const struct page_gathered *g, struct pack *pack, enum pack_method method,
                        uint8_t *body, enum pack_method *ret_method)
{
	size_t n = 0;

	if (method != PACK_NONE && g->len > 1)
		n = pack_bytes(pack, method, g->ops, g->len, body, g->len - 1);
	if (n == 0) {
		method = PACK_NONE;
		n = g->len;
		memcpy(body, g->ops, n);
	}
	*ret_method = method;
	return n;
}

size_t page_gathered_pack(const struct page_gathered *g, struct pack *pack, enum pack_method method,
                          uint8_t *out, enum pack_method *ret_method)
{
	size_t n = pack_body(g, pack, method, out + PAGE_BLOCK_HEAD, &method);

	wire_put_be64(out, g->offset);
	wire_put_be32(out + 8, (uint32_t)method << 24);
	wire_put_be32(out + 12, (uint32_t)g->span);
	wire_put_be32(out + 16, (uint32_t)g->len);
	*ret_method = method;
	return PAGE_BLOCK_HEAD + n;
}

void page_encoder_packed(struct page_encoder *e, const struct page_gathered *g,
                         enum pack_method method, size_t len)
{
	*(method == PACK_NONE ? &e->stats.whole : &e->stats.compressed) += g->whole_pages;
	e->stats.packed_bytes += len;
}

/* Where a block's body is, behind a shorter head. Returns the message's length. */
static size_t pack_fill(struct page_encoder *e, const struct page_gathered *g,
                        enum pack_method method, enum pack_method *ret_method)
{
	uint8_t *head = e->out + PAGE_BLOCK_HEAD - PAGE_FILL_HEAD;
	size_t n = pack_body(g, e->pack, method, e->out + PAGE_BLOCK_HEAD, ret_method);

	wire_put_be32(head, e->filled_n - e->fill_n);
	wire_put_be32(head + 4, (uint32_t)*ret_method << 24);
	wire_put_be32(head + 8, e->fill_n);
	return PAGE_FILL_HEAD + n;
}

enum pack_method page_encoder_pack(struct page_encoder *e, enum pack_method method,
                                   const uint8_t **ret_block, size_t *ret_len)
{
	struct page_gathered g = gathered(e);
	enum pack_method used;

	if (e->fill_n) {
		*ret_block = e->out + PAGE_BLOCK_HEAD - PAGE_FILL_HEAD;
		*ret_len = pack_fill(e, &g, method, &used);
	} else {
		*ret_block = e->out;
		*ret_len = page_gathered_pack(&g, e->pack, method, e->out, &used);
	}
	page_encoder_packed(e, &g, used, *ret_len);
	return used;
}

void page_encoder_stats(const struct page_encoder *e, struct page_codec_stats *ret_stats)
{
	*ret_stats = e->stats;
}

const struct page_cache *page_encoder_cache(const struct page_encoder *e)
{
	return e->cache;
}
