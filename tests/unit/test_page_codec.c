/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/page_codec.h"
#include "kvm/stream.h"
#include "tests/unit/ckpt_builder.h"

#define CACHE (64u * PAGE_CACHE_PAGE)
#define LIMIT (8u << 20)

/* ---- a guest's memory, a checkpoint of some of its pages ---- */

#define GUEST_PAGES 96u

struct guest {
	uint8_t pages[GUEST_PAGES][PAGE_CACHE_PAGE];
	uint8_t state[3 * PAGE_CACHE_PAGE + 77];
	GRand *rand;
};

static struct guest *guest_new(uint32_t seed)
{
	struct guest *g = g_new0(struct guest, 1);

	g->rand = g_rand_new_with_seed(seed);
	return g;
}

static void guest_free(struct guest *g)
{
	g_rand_free(g->rand);
	g_free(g);
}

static void scribble(struct guest *g, uint8_t *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		bytes[i] = (uint8_t)g_rand_int(g->rand);
}

/* What a guest does to a page between two checkpoints. */
static void guest_write(struct guest *g, uint8_t *page)
{
	switch (g_rand_int_range(g->rand, 0, 6)) {
	case 0: /* the same again */
		return;
	case 1:
		memset(page, 0, PAGE_CACHE_PAGE);
		return;
	case 2:
		scribble(g, page, PAGE_CACHE_PAGE);
		return;
	case 3: /* a few words */
		for (int i = 0; i < 9; i++)
			scribble(g, page + 8 * g_rand_int_range(g->rand, 0, 512), 8);
		return;
	case 4: /* about as much as a difference may have */
		for (size_t at = 0; at < PAGE_CACHE_PAGE; at += 24)
			scribble(g, page + at, 8);
		return;
	default: /* the page's ends */
		scribble(g, page, 3);
		scribble(g, page + PAGE_CACHE_PAGE - 5, 5);
		return;
	}
}

static void add_page(GByteArray *b, const struct guest *g, unsigned int n, const char *name)
{
	static const uint8_t zero[PAGE_CACHE_PAGE];
	uint64_t offset = (uint64_t)n << 12;

	if (memcmp(g->pages[n], zero, sizeof(zero)) == 0) {
		build_zero(b, name, offset);
		return;
	}
	build_record(b, name, offset, 0x08);
	g_byte_array_append(b, g->pages[n], PAGE_CACHE_PAGE);
}

/* Dirties pages and captures them; `first`: the channel's first, which names no block. */
static GByteArray *guest_checkpoint(struct guest *g, bool first)
{
	GByteArray *b = g_byte_array_new();
	const char *name = first ? NULL : "pc.ram";

	build_section(b, 0x03, RAM_SECTION);
	for (unsigned int n = 0; n < GUEST_PAGES; n++) {
		if (g_rand_int_range(g->rand, 0, 4) == 0)
			continue;
		guest_write(g, g->pages[n]);
		add_page(b, g, n, name);
		name = NULL;
		if (g_rand_int_range(g->rand, 0, 40) == 0) {
			build_xbzrle(b, "vga.vram", 0x3000, 19);
			name = "pc.ram";
		}
	}
	build_section_end(b, RAM_SECTION);
	scribble(g, g->state + g_rand_int_range(g->rand, 0, 12000), 30);
	build_u8(b, 0);
	build_be32(b, 4);
	build_be64(b, sizeof(g->state));
	g_byte_array_append(b, g->state, sizeof(g->state));
	return b;
}

/* ---- two sides ---- */

struct pair {
	struct page_encoder *encoder;
	struct page_decoder *decoder;
	struct ckpt_buf buf;
};

static void pair_init(struct pair *p, size_t cache)
{
	g_assert_cmpint(page_encoder_new(&p->encoder, cache), ==, 0);
	g_assert_cmpint(page_decoder_new(&p->decoder, cache), ==, 0);
	p->buf = (struct ckpt_buf){0};
	g_assert_cmpint(ckpt_buf_init(&p->buf, LIMIT, 0), ==, 0);
}

static void pair_fini(struct pair *p)
{
	page_encoder_free(p->encoder);
	page_decoder_free(p->decoder);
	ckpt_buf_fini(&p->buf);
}

/* The decoder gets each block in memory of its own size, so that a read behind it is seen. */
static int decode(struct pair *p, const uint8_t *block, size_t len, uint64_t size)
{
	uint8_t *copy = malloc(len ? len : 1);
	int rc;

	g_assert_nonnull(copy);
	memcpy(copy, block, len);
	rc = page_decoder_block(p->decoder, copy, len, &p->buf, size);
	free(copy);
	return rc;
}

/* Sends a checkpoint and compares; returns the bytes of the blocks. */
static size_t pass(struct pair *p, const GByteArray *b, enum pack_method method)
{
	size_t sent = 0;
	size_t offset;
	size_t span;

	ckpt_buf_reset(&p->buf);
	page_encoder_begin(p->encoder, b->data, b->len);
	while (page_encoder_gather(p->encoder) > 0) {
		const uint8_t *block;
		size_t len;
		int rc;

		page_encoder_span(p->encoder, &offset, &span);
		g_assert_cmpuint(offset, ==, p->buf.len);
		(void)page_encoder_pack(p->encoder, method, &block, &len);
		g_assert_cmpuint(len, <=, PAGE_BLOCK_HEAD + PAGE_BLOCK_OPS);
		rc = decode(p, block, len, b->len);
		if (rc < 0)
			g_error("%s", page_decoder_error(p->decoder));
		g_assert_cmpuint(p->buf.len, ==, offset + span);
		sent += len;
	}
	g_assert_cmpmem(p->buf.base, p->buf.len, b->data, b->len);
	return sent;
}

/* ---- round trips ---- */

static void round_trips(enum pack_method method, size_t cache, uint32_t seed)
{
	struct guest *g = guest_new(seed);
	struct page_codec_stats stats;
	uint64_t raw = 0;
	uint64_t sent = 0;
	struct pair p;

	pair_init(&p, cache);
	for (int i = 0; i < 25; i++) {
		g_autoptr(GByteArray) b = guest_checkpoint(g, i == 0);

		raw += b->len;
		sent += pass(&p, b, method);
		g_assert_cmpuint(page_cache_bytes(page_encoder_cache(p.encoder)), ==,
		                 page_cache_bytes(page_decoder_cache(p.decoder)));
	}
	page_encoder_stats(p.encoder, &stats);
	g_assert_cmpuint(stats.raw_bytes, ==, raw);
	g_assert_cmpuint(stats.packed_bytes, ==, sent);
	g_assert_cmpuint(stats.zero, >, 0);
	g_assert_cmpuint(stats.whole + stats.compressed, >, 0);
	if (cache >= CACHE) {
		g_assert_cmpuint(stats.unchanged, >, 0);
		g_assert_cmpuint(stats.delta, >, 0);
		g_assert_cmpuint(sent * 4, <, raw * 3);
	}
	g_assert_cmpuint(page_cache_bytes(page_encoder_cache(p.encoder)), <=, cache);
	guest_free(g);
	pair_fini(&p);
}

static void test_round_trips(void)
{
	static const size_t caches[] = {0, 8 * PAGE_CACHE_PAGE, CACHE, 256 * PAGE_CACHE_PAGE};

	for (enum pack_method m = PACK_NONE; m < PACK_METHODS; m++)
		for (size_t i = 0; i < G_N_ELEMENTS(caches); i++)
			round_trips(m, caches[i], 7 + (uint32_t)i);
}

static void test_sample(void)
{
	g_autoptr(GByteArray) b = build_sample();
	struct page_codec_stats stats;
	struct pair p;

	pair_init(&p, CACHE);
	(void)pass(&p, b, PACK_NONE);
	page_encoder_stats(p.encoder, &stats);
	g_assert_cmpuint(stats.whole, ==, 3);
	g_assert_cmpuint(stats.zero, ==, 2);
	(void)pass(&p, b, PACK_LZ4);
	page_encoder_stats(p.encoder, &stats);
	g_assert_cmpuint(stats.unchanged, ==, 3);
	pair_fini(&p);
}

/* The point of it all: one word in each page, and nothing at all. */
static void test_small_changes(void)
{
	struct guest *g = guest_new(3);
	struct pair p;

	pair_init(&p, 256 * PAGE_CACHE_PAGE);
	for (int round = 0; round < 3; round++) {
		g_autoptr(GByteArray) b = g_byte_array_new();
		size_t sent;

		build_section(b, 0x03, RAM_SECTION);
		for (unsigned int n = 0; n < GUEST_PAGES; n++) {
			if (round == 0)
				scribble(g, g->pages[n], PAGE_CACHE_PAGE);
			if (round == 1)
				scribble(g, g->pages[n], 8);
			add_page(b, g, n, n ? NULL : "pc.ram");
		}
		build_section_end(b, RAM_SECTION);
		build_state(b, 100);
		sent = pass(&p, b, PACK_NONE);
		if (round == 0)
			g_assert_cmpuint(sent, <, b->len);
		if (round == 1)
			g_assert_cmpuint(sent, <, 250 + GUEST_PAGES * 13);
		if (round == 2)
			g_assert_cmpuint(sent, <, 250 + GUEST_PAGES * 2);
	}
	guest_free(g);
	pair_fini(&p);
}

/* Bytes that are no checkpoint are sent all the same: what to do with them is not ours to say. */
static void test_not_a_checkpoint(void)
{
	struct guest *g = guest_new(5);
	g_autoptr(GByteArray) b = build_sample();
	g_autoptr(GByteArray) noise = g_byte_array_new();
	struct pair p;

	pair_init(&p, CACHE);
	g_byte_array_set_size(noise, 700000);
	scribble(g, noise->data, noise->len);
	(void)pass(&p, noise, PACK_ZSTD);
	g_byte_array_append(b, noise->data, 5000);
	(void)pass(&p, b, PACK_LZ4);
	for (size_t cut = 1; cut < b->len; cut += 97) {
		g_autoptr(GByteArray) part = g_byte_array_new();

		g_byte_array_append(part, b->data, (guint)cut);
		(void)pass(&p, part, PACK_NONE);
	}
	guest_free(g);
	pair_fini(&p);
}

static void test_reset(void)
{
	struct guest *g = guest_new(11);
	g_autoptr(GByteArray) a = guest_checkpoint(g, true);
	g_autoptr(GByteArray) b = guest_checkpoint(g, false);
	size_t first;
	struct pair p;

	pair_init(&p, CACHE);
	first = pass(&p, a, PACK_NONE);
	(void)pass(&p, b, PACK_NONE);
	/* In the middle of a checkpoint, as when the link is lost. */
	page_encoder_begin(p.encoder, b->data, b->len);
	g_assert_cmpuint(page_encoder_gather(p.encoder), >, 0);
	page_encoder_reset(p.encoder);
	page_decoder_reset(p.decoder);
	g_assert_cmpuint(page_cache_bytes(page_encoder_cache(p.encoder)), ==, 0);
	g_assert_cmpuint(page_cache_bytes(page_decoder_cache(p.decoder)), ==, 0);
	g_assert_cmpuint(pass(&p, a, PACK_NONE), ==, first);
	guest_free(g);
	pair_fini(&p);
}

/* ---- pages that the peer's VM has, too ---- */

/* A block with operations of the test's own, in the clear. */
static GByteArray *block_of(uint64_t offset, uint32_t raw, const uint8_t *ops, size_t n)
{
	GByteArray *b = g_byte_array_new();

	build_be64(b, offset);
	build_be32(b, 0);
	build_be32(b, raw);
	build_be32(b, (uint32_t)n);
	g_byte_array_append(b, ops, (guint)n);
	return b;
}

static const uint8_t secret[PAGE_SECRET_LEN] = {1, 2, 3};

/* The secondary's VM. */
struct svm {
	uint8_t pages[GUEST_PAGES][PAGE_CACHE_PAGE];
	int reads;
	bool unreadable;
};

static int svm_block(void *ctx, const char *name, size_t len)
{
	(void)ctx;
	return len == 0 || (len == 6 && memcmp(name, "pc.ram", 6) == 0) ? 3 : -1;
}

static bool svm_read(void *ctx, int block, uint64_t offset, uint8_t *page)
{
	struct svm *svm = ctx;

	g_assert_cmpint(block, ==, 3);
	svm->reads++;
	if (svm->unreadable || offset >= sizeof(svm->pages))
		return false;
	memcpy(page, svm->pages[offset >> 12], PAGE_CACHE_PAGE);
	return true;
}

static void offer(struct pair *p, struct svm *svm)
{
	struct page_memory memory = {.block = svm_block, .read = svm_read, .ctx = svm};

	page_decoder_memory(p->decoder, &memory, secret);
}

/* Gives the encoder the last block's answer; true: there was one. */
static bool answer(struct pair *p)
{
	uint8_t message[PAGE_HOLES_MAX];
	size_t len = page_decoder_holes(p->decoder, message);

	if (len == 0)
		return false;
	g_assert_cmpint(page_encoder_holes(p->encoder, message, len), ==, 0);
	return true;
}

static int fill(struct pair *p, const uint8_t *message, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);
	int rc;

	g_assert_nonnull(copy);
	memcpy(copy, message, len);
	rc = page_decoder_fill(p->decoder, copy, len, &p->buf);
	free(copy);
	return rc;
}

/*
 * As pass(), with answers, some of which come late (bit i of `late`: that of the i-th block waits
 * for the next one's). Returns the bytes.
 */
static size_t pass_agreeing(struct pair *p, const GByteArray *b, enum pack_method method,
                            uint32_t late)
{
	uint8_t waiting[32][PAGE_HOLES_MAX];
	size_t waiting_len[32];
	unsigned int waits = 0;
	unsigned int blocks = 0;
	size_t sent = 0;

	ckpt_buf_reset(&p->buf);
	g_assert_cmpint(page_encoder_agree(p->encoder, PAGE_AGREE_ALWAYS, secret), ==, 0);
	page_encoder_begin(p->encoder, b->data, b->len);
	page_decoder_begin(p->decoder);
	for (;;) {
		const uint8_t *message;
		size_t len;
		int rc;

		if (page_encoder_gather(p->encoder) == 0) {
			if (waits == 0)
				break;
			late = 0;
		} else {
			bool fills = page_encoder_fills(p->encoder);

			(void)page_encoder_pack(p->encoder, method, &message, &len);
			rc = fills ? fill(p, message, len) : decode(p, message, len, b->len);
			if (rc < 0)
				g_error("%s", page_decoder_error(p->decoder));
			sent += len;
			g_assert_cmpuint(page_decoder_solid(p->decoder, &p->buf), <=, p->buf.len);
			g_assert_cmpmem(p->buf.base, page_decoder_solid(p->decoder, &p->buf),
			                b->data, page_decoder_solid(p->decoder, &p->buf));
			if (!fills) {
				waiting_len[waits] = page_decoder_holes(p->decoder, waiting[waits]);
				waits += waiting_len[waits] > 0;
				blocks++;
			}
		}
		if (late >> blocks % 32 & 1 && waits < 31)
			continue;
		for (unsigned int i = 0; i < waits; i++)
			g_assert_cmpint(page_encoder_holes(p->encoder, waiting[i], waiting_len[i]),
			                ==, 0);
		waits = 0;
	}
	g_assert_true(page_encoder_settled(p->encoder));
	g_assert_cmpuint(page_decoder_solid(p->decoder, &p->buf), ==, p->buf.len);
	g_assert_cmpmem(p->buf.base, p->buf.len, b->data, b->len);
	return sent;
}

/* The other VM has done the same with so many of a hundred pages. */
static void svm_follows(struct svm *svm, struct guest *g, int percent)
{
	for (unsigned int n = 0; n < GUEST_PAGES; n++)
		if (g_rand_int_range(g->rand, 0, 100) < percent)
			memcpy(svm->pages[n], g->pages[n], PAGE_CACHE_PAGE);
}

static void agreeing(enum pack_method method, size_t cache, int percent, uint32_t seed)
{
	struct svm *svm = g_new0(struct svm, 1);
	struct guest *g = guest_new(seed);
	struct page_codec_stats stats;
	struct pair p;

	pair_init(&p, cache);
	offer(&p, svm);
	for (int i = 0; i < 25; i++) {
		g_autoptr(GByteArray) b = guest_checkpoint(g, i == 0);

		svm_follows(svm, g, percent);
		svm->unreadable = percent && i % 8 == 7;
		(void)pass_agreeing(&p, b, method, (uint32_t)g_rand_int(g->rand));
		g_assert_cmpuint(page_cache_bytes(page_encoder_cache(p.encoder)), ==,
		                 page_cache_bytes(page_decoder_cache(p.decoder)));
	}
	page_encoder_stats(p.encoder, &stats);
	if (percent)
		g_assert_cmpuint(stats.agreed, >, 20);
	else
		g_assert_cmpuint(stats.agreed, ==, 0);
	g_assert_cmpuint(stats.holes, >, 20);
	g_assert_cmpuint(stats.whole + stats.compressed, >=, stats.holes);
	guest_free(g);
	g_free(svm);
	pair_fini(&p);
}

static void test_agreeing(void)
{
	static const size_t caches[] = {0, 8 * PAGE_CACHE_PAGE, CACHE, 256 * PAGE_CACHE_PAGE};
	static const int percent[] = {0, 10, 60, 100};

	for (enum pack_method m = PACK_NONE; m < PACK_METHODS; m++)
		for (size_t i = 0; i < G_N_ELEMENTS(caches); i++)
			for (size_t j = 0; j < G_N_ELEMENTS(percent); j++)
				agreeing(m, caches[i], percent[j], 100 + (uint32_t)(i + j));
}

/* A checkpoint of the guest with each page written anew. */
static void build_new_pages(GByteArray *b, struct guest *g)
{
	build_section(b, 0x03, RAM_SECTION);
	for (unsigned int n = 0; n < GUEST_PAGES; n++) {
		scribble(g, g->pages[n], PAGE_CACHE_PAGE);
		add_page(b, g, n, n ? NULL : "pc.ram");
	}
	build_section_end(b, RAM_SECTION);
	build_state(b, 100);
}

/* What it is for: new pages that are the same cost some bytes each. */
static void test_agreed_bytes(void)
{
	struct svm *svm = g_new0(struct svm, 1);
	struct guest *g = guest_new(31);
	g_autoptr(GByteArray) b = g_byte_array_new();
	struct page_codec_stats stats;
	struct pair p;

	pair_init(&p, 2 * GUEST_PAGES * PAGE_CACHE_PAGE);
	offer(&p, svm);
	build_new_pages(b, g);
	svm_follows(svm, g, 100);
	g_assert_cmpuint(pass_agreeing(&p, b, PACK_NONE, 0), <, 4500 + GUEST_PAGES * 18);
	page_encoder_stats(p.encoder, &stats);
	g_assert_cmpuint(stats.agreed, ==, GUEST_PAGES - 1); /* the first one names its block */
	g_assert_cmpuint(stats.holes, ==, 0);
	/* Settled, they are what differences are told to. */
	g_assert_cmpuint(pass_agreeing(&p, b, PACK_NONE, 0), <, 250 + GUEST_PAGES * 2);
	page_encoder_stats(p.encoder, &stats);
	g_assert_cmpuint(stats.unchanged, ==, GUEST_PAGES);
	guest_free(g);
	g_free(svm);
	pair_fini(&p);
}

/* A page that comes twice: its slot is not settled, and no base for the second time. */
static void agreed_twice(bool alike)
{
	struct svm *svm = g_new0(struct svm, 1);
	struct guest *g = guest_new(37);
	struct page_codec_stats stats;
	struct pair p;

	pair_init(&p, CACHE);
	offer(&p, svm);
	for (int round = 0; round < 3; round++) {
		g_autoptr(GByteArray) b = g_byte_array_new();

		build_section(b, 0x03, RAM_SECTION);
		scribble(g, g->pages[1], PAGE_CACHE_PAGE);
		add_page(b, g, 0, "pc.ram");
		add_page(b, g, 1, NULL);
		if (alike)
			memcpy(svm->pages[1], g->pages[1], PAGE_CACHE_PAGE);
		scribble(g, g->pages[1], 8);
		add_page(b, g, 1, NULL);
		add_page(b, g, 1, NULL);
		build_section_end(b, RAM_SECTION);
		build_state(b, 100);
		(void)pass_agreeing(&p, b, PACK_LZ4, 0);
		/* And the next one builds on the first of them, on both sides. */
		(void)pass_agreeing(&p, b, PACK_LZ4, 0);
	}
	page_encoder_stats(p.encoder, &stats);
	g_assert_cmpuint(stats.agreed, ==, alike ? 3 : 0);
	guest_free(g);
	g_free(svm);
	pair_fini(&p);
}

static void test_agreed_twice(void)
{
	agreed_twice(true);
	agreed_twice(false);
}

/* Whole pages are compared now and then, for what the sender wants to know. */
static void test_samples(void)
{
	struct svm *svm = g_new0(struct svm, 1);
	struct guest *g = guest_new(41);
	uint32_t looked, alike;
	struct pair p;

	pair_init(&p, 0);
	offer(&p, svm);
	for (int round = 0; round < 2; round++) {
		g_autoptr(GByteArray) b = g_byte_array_new();

		build_new_pages(b, g);
		if (round == 1)
			svm_follows(svm, g, 100);
		g_assert_cmpint(page_encoder_agree(p.encoder, PAGE_AGREE_SAMPLE, secret), ==, 0);
		page_decoder_begin(p.decoder);
		(void)pass(&p, b, PACK_NONE);
		page_decoder_samples(p.decoder, &looked, &alike);
		g_assert_cmpuint(looked, ==, (GUEST_PAGES - 1 + 15) / 16);
		g_assert_cmpuint(alike, ==, round ? looked : 0);
		g_assert_false(answer(&p));
	}
	guest_free(g);
	g_free(svm);
	pair_fini(&p);
}

/* Answers that lie about more than what is in a page. */
static void test_hostile_holes(void)
{
	static const uint8_t none[] = {0, 0, 0, 0};
	static const uint8_t many[] = {0, 0, 0, 96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
	static const uint8_t high[] = {0, 0, 0, 3, 8};
	static const uint8_t all[] = {0, 0, 0, 3, 7};
	struct guest *g = guest_new(43);
	g_autoptr(GByteArray) b = g_byte_array_new();
	struct page_codec_stats stats;
	struct pair p;

	pair_init(&p, CACHE);
	build_section(b, 0x03, RAM_SECTION);
	for (unsigned int n = 0; n < 4; n++) {
		scribble(g, g->pages[n], PAGE_CACHE_PAGE);
		add_page(b, g, n, n ? NULL : "pc.ram");
	}
	build_section_end(b, RAM_SECTION);
	build_state(b, 100);
	g_assert_cmpint(page_encoder_agree(p.encoder, PAGE_AGREE_ALWAYS, secret), ==, 0);
	page_encoder_begin(p.encoder, b->data, b->len);
	g_assert_cmpint(page_encoder_holes(p.encoder, all, sizeof(all)), ==, -EPROTO);
	while (page_encoder_gather(p.encoder) > 0)
		;
	g_assert_false(page_encoder_settled(p.encoder));
	g_assert_cmpint(page_encoder_holes(p.encoder, none, sizeof(none)), ==, -EPROTO);
	g_assert_cmpint(page_encoder_holes(p.encoder, many, sizeof(many)), ==, -EPROTO);
	g_assert_cmpint(page_encoder_holes(p.encoder, high, sizeof(high)), ==, -EPROTO);
	for (size_t len = 0; len < sizeof(all); len++)
		g_assert_cmpint(page_encoder_holes(p.encoder, all, len), ==, -EPROTO);
	g_assert_cmpint(page_encoder_holes(p.encoder, many, 6), ==, -EPROTO);
	g_assert_cmpint(page_encoder_holes(p.encoder, all, sizeof(all)), ==, 0);
	g_assert_false(page_encoder_settled(p.encoder));
	/* Once is enough. */
	g_assert_cmpint(page_encoder_holes(p.encoder, all, sizeof(all)), ==, -EPROTO);
	g_assert_cmpuint(page_encoder_gather(p.encoder), ==, 3 * PAGE_CACHE_PAGE);
	g_assert_true(page_encoder_fills(p.encoder));
	g_assert_true(page_encoder_settled(p.encoder));
	g_assert_cmpuint(page_encoder_gather(p.encoder), ==, 0);
	page_encoder_stats(p.encoder, &stats);
	g_assert_cmpuint(stats.holes, ==, 3);
	guest_free(g);
	pair_fini(&p);
}

static void fill_head(uint8_t *out, uint32_t first, uint32_t method, uint32_t n)
{
	g_autoptr(GByteArray) b = g_byte_array_new();

	build_be32(b, first);
	build_be32(b, method);
	build_be32(b, n);
	memcpy(out, b->data, b->len);
}

/* Pages that nobody asked for, and operations on a slot that is not settled. */
static void test_hostile_fills(void)
{
	uint8_t message[PAGE_FILL_HEAD + 3 * PAGE_CACHE_PAGE] = {0};
	struct svm *svm = g_new0(struct svm, 1);
	g_autoptr(GByteArray) ops = g_byte_array_new();
	g_autoptr(GByteArray) first = NULL;
	struct pair p;

	pair_init(&p, CACHE);
	offer(&p, svm);
	fill_head(message, 0, 0, 1);
	g_assert_cmpint(fill(&p, message, PAGE_FILL_HEAD + PAGE_CACHE_PAGE), ==, -EPROTO);
	/* Two holes: into slot 5, and into none. */
	g_byte_array_append(ops, (const uint8_t *)"\7\6pc.ram\x4e\5", 10);
	build_fill(ops, 0x5a, PAGE_HASH_LEN);
	build_u8(ops, 0x0e);
	build_fill(ops, 0x5a, PAGE_HASH_LEN);
	first = block_of(0, 2 * (8 + PAGE_CACHE_PAGE), ops->data, ops->len);
	g_assert_cmpint(decode(&p, first->data, first->len, LIMIT), ==, 0);
	g_assert_cmpuint(page_decoder_solid(p.decoder, &p.buf), ==, 8);
	for (uint32_t i = 0; i < 6; i++) {
		static const uint32_t bad[6][3] = {{0, 0, 3},        {1, 0, 1}, {0, 0, 0},
		                                   {0, 3u << 24, 2}, {0, 1, 2}, {0, 1u << 24, 2}};

		fill_head(message, bad[i][0], bad[i][1], bad[i][2]);
		g_assert_cmpint(fill(&p, message, PAGE_FILL_HEAD + bad[i][2] * PAGE_CACHE_PAGE), ==,
		                -EPROTO);
	}
	fill_head(message, 0, 0, 2);
	for (size_t len = 0; len < PAGE_FILL_HEAD + 2 * PAGE_CACHE_PAGE; len += len < 16 ? 1 : 999)
		g_assert_cmpint(fill(&p, message, len), ==, -EPROTO);
	g_assert_cmpint(fill(&p, message, PAGE_FILL_HEAD + 2 * PAGE_CACHE_PAGE), ==, 0);
	g_assert_cmpint(fill(&p, message, PAGE_FILL_HEAD + 2 * PAGE_CACHE_PAGE), ==, -EPROTO);
	g_assert_cmpuint(page_decoder_solid(p.decoder, &p.buf), ==, p.buf.len);
	g_free(svm);
	pair_fini(&p);
}

/* Operations behind an AGREE for slot 5, in the same checkpoint. */
static void assert_unsettled(uint8_t op, const char *words)
{
	struct svm *svm = g_new0(struct svm, 1);
	g_autoptr(GByteArray) ops = g_byte_array_new();
	g_autoptr(GByteArray) b = NULL;
	struct pair p;

	pair_init(&p, CACHE);
	offer(&p, svm);
	g_byte_array_append(ops, (const uint8_t *)"\7\6pc.ram\x4e\5", 10);
	build_fill(ops, 0x5a, PAGE_HASH_LEN);
	build_u8(ops, op);
	build_u8(ops, 5);
	build_fill(ops, 0x01, PAGE_CACHE_PAGE);
	b = block_of(0, 5 * PAGE_CACHE_PAGE, ops->data, ops->len);
	g_assert_cmpint(decode(&p, b->data, b->len, LIMIT), ==, -EPROTO);
	if (!strstr(page_decoder_error(p.decoder), words))
		g_error("\"%s\" has no \"%s\"", page_decoder_error(p.decoder), words);
	g_free(svm);
	pair_fini(&p);
}

static void test_unsettled_slots(void)
{
	assert_unsettled(0x0b, "not settled"); /* STORE */
	assert_unsettled(0x0c, "not settled"); /* SAME */
	assert_unsettled(0x0d, "not settled"); /* DELTA */
	assert_unsettled(0x4e, "not settled"); /* AGREE */
}

/* ---- what must be refused ---- */

static void assert_refused(const uint8_t *ops, size_t n, uint32_t raw, const char *words)
{
	g_autoptr(GByteArray) b = block_of(0, raw, ops, n);
	struct pair p;

	pair_init(&p, CACHE);
	g_assert_cmpint(decode(&p, b->data, b->len, LIMIT), ==, -EPROTO);
	if (!strstr(page_decoder_error(p.decoder), words))
		g_error("\"%s\" has no \"%s\"", page_decoder_error(p.decoder), words);
	g_assert_cmpuint(p.buf.len, ==, 0);
	pair_fini(&p);
}

#define REFUSED(raw, words, ...)                                                                   \
	do {                                                                                       \
		static const uint8_t ops[] = {__VA_ARGS__};                                        \
		assert_refused(ops, sizeof(ops), (raw), (words));                                  \
	} while (0)

static void test_hostile_operations(void)
{
	REFUSED(1, "no whole LITERAL", 0x00);
	REFUSED(1, "0 bytes", 0x00, 0x00);
	REFUSED(5, "expected 1 to 2", 0x00, 0x05, 'a', 'b');
	REFUSED(1, "more than the block says", 0x00, 0x02, 'a', 'b');
	REFUSED(3, "less than the block says", 0x00, 0x02, 'a', 'b');
	REFUSED(1, "no whole LITERAL", 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	        0x02);
	REFUSED(1, "no whole LITERAL", 0x08, 0x01, 'a');
	REFUSED(1, "without a head", 0x06);
	REFUSED(1, "without a head", 0x46);
	REFUSED(1, "there is none", 0x2e);
	REFUSED(1, "there is none", 0x8e);
	REFUSED(4104, "not offered", 0x0e);
	REFUSED(1, "no whole BLOCK", 0x07);
	REFUSED(1, "less than the block says", 0x07, 0x00);
	REFUSED(1, "no whole BLOCK", 0x07, 0x02, 'a');
	REFUSED(1, "no whole BLOCK", 0x47, 0x01, 'a');
	REFUSED(1, "less than the block says", 0x07, 0x01, 'a');
	REFUSED(1, "there is none", 0x43);
	REFUSED(1, "there is none", 0x22);
	REFUSED(1, "no whole LITERAL", 0x20, 0x01, 'a');
	REFUSED(9, "without a head", 0x01);
	REFUSED(9, "no head bits 3", 0x19);
	REFUSED(9, "step that is no number", 0x11, 0x80);
	REFUSED(8, "more than the block says", 0x09);
	REFUSED(4096, "expected 1 to 1", 0x02, 'a');
	REFUSED(4096, "slot that is no number", 0x03);
	REFUSED(4096, "expected below 64", 0x03, 64, 'a');
	REFUSED(4096, "expected below 64", 0x04, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	        0xff, 0x01);
	REFUSED(4096, "nothing was stored", 0x04, 0);
	REFUSED(4096, "nothing was stored", 0x24);
	REFUSED(4096, "nothing was stored", 0x05, 3, 1, 0);
}

/* A difference to a slot that was stored before, in the same block. */
static void assert_delta_refused(const uint8_t *delta, size_t n, const char *words)
{
	g_autoptr(GByteArray) ops = g_byte_array_new();

	build_u8(ops, 0x03);
	build_u8(ops, 9);
	build_fill(ops, 0x5a, PAGE_CACHE_PAGE);
	build_u8(ops, 0x05);
	build_u8(ops, 9);
	g_byte_array_append(ops, delta, (guint)n);
	assert_refused(ops->data, ops->len, 2 * PAGE_CACHE_PAGE, words);
}

#define DELTA_REFUSED(words, ...)                                                                  \
	do {                                                                                       \
		static const uint8_t delta[] = {__VA_ARGS__};                                      \
		assert_delta_refused(delta, sizeof(delta), (words));                               \
	} while (0)

static void test_hostile_deltas(void)
{
	DELTA_REFUSED("does not fit", 0);
	DELTA_REFUSED("does not fit", 11, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8);
	DELTA_REFUSED("does not fit", 0x81, 0x18);
	DELTA_REFUSED("leads out", 1, 0);
	DELTA_REFUSED("leads out", 2, 0, 0);
	DELTA_REFUSED("leads out", 9, 0, 1, 1, 2, 3, 4, 5, 6, 7);
	DELTA_REFUSED("leads out", 11, 0x80, 0x04, 1, 1, 2, 3, 4, 5, 6, 7, 8); /* word 512 */
	DELTA_REFUSED("leads out", 19, 0xff, 0x03, 2, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7,
	              8);
	DELTA_REFUSED("leads out", 10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1);
	DELTA_REFUSED("goes on behind", 12, 0xff, 0x03, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0);
}

static void test_hostile_heads(void)
{
	static const uint8_t ops[] = {0x00, 0x02, 'a', 'b'};
	g_autoptr(GByteArray) good = block_of(0, 2, ops, sizeof(ops));
	static const struct {
		size_t at;
		uint8_t value;
	} wrong[] = {{7, 1},  {8, 3},  {8, 1},  {8, 2},  {9, 1}, {10, 1},
	             {11, 1}, {15, 0}, {12, 1}, {19, 3}, {17, 2}};
	struct pair p;

	pair_init(&p, CACHE);
	for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
		uint8_t kept = good->data[wrong[i].at];

		good->data[wrong[i].at] = wrong[i].value;
		g_assert_cmpint(decode(&p, good->data, good->len, LIMIT), ==, -EPROTO);
		good->data[wrong[i].at] = kept;
	}
	for (size_t len = 0; len < good->len; len++)
		g_assert_cmpint(decode(&p, good->data, len, LIMIT), ==, -EPROTO);
	g_assert_cmpint(decode(&p, good->data, good->len, 1), ==, -EPROTO);
	g_assert_cmpuint(p.buf.len, ==, 0);
	g_assert_cmpint(decode(&p, good->data, good->len, 2), ==, 0);
	/* The same again is for another place. */
	g_assert_cmpint(decode(&p, good->data, good->len, LIMIT), ==, -EPROTO);
	g_assert_cmpmem(p.buf.base, p.buf.len, "ab", 2);
	pair_fini(&p);
}

/* A block cut at any byte is refused and leaves the buffer alone. */
static void every_cut(enum pack_method method)
{
	struct guest *g = guest_new(17);
	g_autoptr(GByteArray) b = guest_checkpoint(g, true);
	const uint8_t *block;
	size_t len;
	struct pair p;

	pair_init(&p, CACHE);
	page_encoder_begin(p.encoder, b->data, b->len);
	g_assert_cmpuint(page_encoder_gather(p.encoder), >, 0);
	g_assert_cmpint(page_encoder_pack(p.encoder, method, &block, &len), ==, method);
	for (size_t cut = 0; cut < len; cut += cut < 4200 ? 1 : 61) {
		g_assert_cmpint(decode(&p, block, cut, b->len), ==, -EPROTO);
		g_assert_cmpuint(p.buf.len, ==, 0);
	}
	page_decoder_reset(p.decoder);
	g_assert_cmpint(decode(&p, block, len, b->len), ==, 0);
	guest_free(g);
	pair_fini(&p);
}

static void test_every_cut(void)
{
	every_cut(PACK_NONE);
	every_cut(PACK_LZ4);
	every_cut(PACK_ZSTD);
}

/* Random damage: refused, or other bytes, which the checkpoint's hash tells; never worse. */
static void test_damage(void)
{
	struct guest *g = guest_new(23);
	struct pair p;

	pair_init(&p, CACHE);
	for (int i = 0; i < 3000; i++) {
		g_autoptr(GByteArray) ops = g_byte_array_new();
		g_autoptr(GByteArray) b = NULL;

		for (int n = g_rand_int_range(g->rand, 1, 60); n > 0; n--)
			build_u8(ops, (uint8_t)g_rand_int_range(g->rand, 0, 64));
		if (i % 3 == 0)
			build_fill(ops, (uint8_t)i, PAGE_CACHE_PAGE);
		b = block_of(p.buf.len, (uint32_t)g_rand_int_range(g->rand, 1, 9000), ops->data,
		             ops->len);
		b->data[8] = (uint8_t)g_rand_int_range(g->rand, 0, 3);
		(void)decode(&p, b->data, b->len, LIMIT);
		if (p.buf.len > LIMIT / 2)
			ckpt_buf_reset(&p.buf);
	}
	guest_free(g);
	pair_fini(&p);
}

/* ---- the cache ---- */

static void test_cache_policy(void)
{
	struct page_cache *c;
	uint32_t slot;
	uint32_t first;

	g_assert_cmpint(page_cache_new(&c, 3 * 8 * PAGE_CACHE_PAGE + 5000), ==, 0);
	g_assert_cmpuint(page_cache_slots(c), ==, 24);
	g_assert_cmpint(page_cache_find(c, 1, 100, 1, &first), ==, PAGE_CACHE_NEW);
	g_assert_cmpint(page_cache_find(c, 1, 100, 1, &slot), ==, PAGE_CACHE_HIT);
	g_assert_cmpuint(slot, ==, first);
	g_assert_cmpint(page_cache_find(c, 2, 100, 1, &slot), ==, PAGE_CACHE_NEW);
	/* 22 more fill it; nobody loses a slot that was sent in this round or the last. */
	for (uint64_t page = 0; page < 300; page++)
		(void)page_cache_find(c, 1, page, 1, &slot);
	g_assert_cmpuint(page_cache_bytes(c), ==, 24 * PAGE_CACHE_PAGE);
	g_assert_cmpint(page_cache_find(c, 1, 100, 2, &slot), ==, PAGE_CACHE_HIT);
	g_assert_cmpint(page_cache_find(c, 1, 1000, 2, &slot), ==, PAGE_CACHE_NONE);
	g_assert_cmpint(page_cache_find(c, 1, 1000, 3, &slot), ==, PAGE_CACHE_NEW);
	g_assert_cmpint(page_cache_find(c, 1, 100, 3, &slot), ==, PAGE_CACHE_HIT);
	g_assert_cmpuint(slot, ==, first);
	page_cache_free(c);
}

/* Twice as many pages in turn as there are slots: half of them are of use all the same. */
static void test_cache_cycle(void)
{
	struct page_cache *c;
	unsigned int hits = 0;
	uint32_t slot;

	g_assert_cmpint(page_cache_new(&c, 64 * PAGE_CACHE_PAGE), ==, 0);
	for (uint32_t round = 1; round <= 10; round++)
		for (uint64_t page = 0; page < 128; page++)
			hits += page_cache_find(c, 1, page, round, &slot) == PAGE_CACHE_HIT;
	g_assert_cmpuint(hits, ==, 9 * 64);
	page_cache_free(c);
}

/* ---- the choice of the compression ---- */

static void feed_choice(struct pack_choice *c, double lz4_ns, double lz4, double zstd_ns,
                        double zstd, uint64_t rate, int blocks)
{
	const size_t len = 65536;

	for (int i = 0; i < blocks; i++) {
		enum pack_method m = pack_choice_pick(c, len, rate);
		double ns = m == PACK_LZ4 ? lz4_ns : zstd_ns;
		double ratio = m == PACK_LZ4 ? lz4 : zstd;

		pack_choice_note(c, m, len, (size_t)((double)len * ratio),
		                 (uint64_t)((double)len * ns));
	}
}

static void test_choice(void)
{
	struct pack_choice c;

	/* lz4: 600 MB/s to a half, zstd: 200 MB/s to a third; and 10 Gbit/s, 1 Gbit/s, 100 Mbit/s
	 */
	pack_choice_init(&c, PACK_AUTO);
	feed_choice(&c, 1.6, 0.5, 5, 0.33, 1250000000, 30);
	g_assert_cmpint(c.last, ==, PACK_NONE);
	feed_choice(&c, 1.6, 0.5, 5, 0.33, 125000000, 30);
	g_assert_cmpint(c.last, ==, PACK_LZ4);
	feed_choice(&c, 1.6, 0.5, 5, 0.33, 12500000, 30);
	g_assert_cmpint(c.last, ==, PACK_ZSTD);
	/* What the guest writes becomes random: neither pays. Then it is text again. */
	feed_choice(&c, 0.4, 1, 2, 1, 12500000, 2000);
	g_assert_cmpint(c.last, ==, PACK_NONE);
	feed_choice(&c, 1.6, 0.5, 5, 0.33, 12500000, 2000);
	g_assert_cmpint(c.last, ==, PACK_ZSTD);
	pack_choice_init(&c, PACK_LZ4);
	g_assert_cmpint(pack_choice_pick(&c, 65536, 0), ==, PACK_LZ4);
	g_assert_cmpint(pack_choice_pick(&c, 20, 0), ==, PACK_NONE);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/page-codec/round-trips", test_round_trips);
	g_test_add_func("/page-codec/sample", test_sample);
	g_test_add_func("/page-codec/small-changes", test_small_changes);
	g_test_add_func("/page-codec/not-a-checkpoint", test_not_a_checkpoint);
	g_test_add_func("/page-codec/reset", test_reset);
	g_test_add_func("/page-codec/agreeing", test_agreeing);
	g_test_add_func("/page-codec/agreed-bytes", test_agreed_bytes);
	g_test_add_func("/page-codec/agreed-twice", test_agreed_twice);
	g_test_add_func("/page-codec/samples", test_samples);
	g_test_add_func("/page-codec/hostile-holes", test_hostile_holes);
	g_test_add_func("/page-codec/hostile-fills", test_hostile_fills);
	g_test_add_func("/page-codec/unsettled-slots", test_unsettled_slots);
	g_test_add_func("/page-codec/hostile-operations", test_hostile_operations);
	g_test_add_func("/page-codec/hostile-deltas", test_hostile_deltas);
	g_test_add_func("/page-codec/hostile-heads", test_hostile_heads);
	g_test_add_func("/page-codec/every-cut", test_every_cut);
	g_test_add_func("/page-codec/damage", test_damage);
	g_test_add_func("/page-cache/policy", test_cache_policy);
	g_test_add_func("/page-cache/cycle", test_cache_cycle);
	g_test_add_func("/pack/choice", test_choice);
	return g_test_run();
}
