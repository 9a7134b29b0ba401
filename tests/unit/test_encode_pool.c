/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The threads that encode make the same blocks in the same order as one thread does, and let go of
 * a checkpoint when they are told to: its memory is taken away then, so that a thread that is
 * still at it is seen.
 */
#include <errno.h>
#include <glib.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "colo-proxy/loop/loop.h"
#include "kvm/encode_pool.h"
#include "tests/unit/ckpt_builder.h"

#define PAGES      400u
#define CACHE      (300u * PAGE_CACHE_PAGE) /* some do not fit */
#define LIMIT      (16u << 20)
#define DEADLINE   120000 /* ms */
#define CHECKPOINT 3      /* of a run */

/* ---- checkpoints ---- */

/* Pages of all kinds: new ones that pack well or not at all, changed ones, the same again, zero. */
static void add_page(GByteArray *b, GRand *rand, unsigned int n, bool first)
{
	uint64_t offset = (uint64_t)n << 12;
	const char *name = first ? "pc.ram" : NULL;
	size_t at;

	switch (g_rand_int_range(rand, 0, 5)) {
	case 0:
		build_zero(b, name, offset);
		return;
	case 1:
		build_page(b, name, offset, (uint8_t)n);
		return;
	case 2:
		build_page(b, name, offset, (uint8_t)n);
		b->data[b->len - 1 - g_rand_int_range(rand, 0, 4096)] ^= 1;
		return;
	case 3:
		build_page(b, name, offset, (uint8_t)g_rand_int(rand));
		return;
	default:
		build_page(b, name, offset, 0);
		for (at = b->len - PAGE_CACHE_PAGE; at < b->len; at++)
			b->data[at] = (uint8_t)g_rand_int(rand);
		return;
	}
}

static GByteArray *checkpoint(GRand *rand, unsigned int pages)
{
	GByteArray *b = g_byte_array_new();

	build_section(b, 0x03, RAM_SECTION);
	for (unsigned int n = 0; n < pages; n++)
		add_page(b, rand, n, n == 0);
	build_section_end(b, RAM_SECTION);
	build_state(b, 9000);
	return b;
}

/* ---- what comes out of them ---- */

struct result {
	GPtrArray *blocks; /* of GBytes */
	XXH128_hash_t hash;
	struct page_codec_stats stats;
};

static void result_clear(struct result *r)
{
	g_ptr_array_unref(r->blocks);
	*r = (struct result){0};
}

static struct result in_one_thread(struct page_encoder *e, const GByteArray *ckpt,
                                   enum pack_method method)
{
	struct result r = {.blocks = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref)};
	const uint8_t *block;
	size_t len;

	page_encoder_begin(e, ckpt->data, ckpt->len);
	while (page_encoder_gather(e) > 0) {
		(void)page_encoder_pack(e, method, &block, &len);
		g_ptr_array_add(r.blocks, g_bytes_new(block, len));
	}
	page_encoder_stats(e, &r.stats);
	r.hash = XXH3_128bits(ckpt->data, ckpt->len);
	return r;
}

/* ---- a pool and its owner ---- */

struct owner {
	struct encode_pool *pool;
	struct page_encoder *encoder;
	struct pack_choice choice;
	XXH3_state_t *hash;
	int wake_fd;
};

static void wake(void *ctx)
{
	uint64_t one = 1;

	g_assert_cmpint(write(((struct owner *)ctx)->wake_fd, &one, sizeof(one)), ==, sizeof(one));
}

static void owner_init(struct owner *o, unsigned int threads, enum pack_method method)
{
	struct encode_pool_params params = {
	        .threads = threads, .clock = loop_clock, .wake = wake, .ctx = o};

	o->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	g_assert_cmpint(o->wake_fd, >=, 0);
	o->hash = XXH3_createState();
	pack_choice_init(&o->choice, method);
	g_assert_cmpint(page_encoder_new(&o->encoder, CACHE), ==, 0);
	g_assert_cmpint(encode_pool_new(&o->pool, &params), ==, 0);
	g_assert_cmpuint(encode_pool_threads(o->pool), ==, threads);
}

static void owner_fini(struct owner *o)
{
	encode_pool_free(o->pool);
	page_encoder_free(o->encoder);
	XXH3_freeState(o->hash);
	close(o->wake_fd);
}

static void begin(struct owner *o, const uint8_t *base, size_t len)
{
	struct encode_job job = {
	        .encoder = o->encoder,
	        .base = base,
	        .len = len,
	        .hash = o->hash,
	        .choice = &o->choice,
	        .link_rate = 50000000,
	};

	XXH3_128bits_reset(o->hash);
	page_encoder_begin(o->encoder, base, len);
	encode_pool_begin(o->pool, &job);
}

/* The next block; false: over. */
static bool next_block(struct owner *o, const uint8_t **ret_block, size_t *ret_len)
{
	struct pollfd fd = {.fd = o->wake_fd, .events = POLLIN};
	enum encode_result result;
	uint64_t count;

	for (;;) {
		result = encode_pool_next(o->pool, ret_block, ret_len);
		if (result != ENCODE_LATER)
			return result == ENCODE_BLOCK;
		g_assert_cmpint(poll(&fd, 1, DEADLINE), ==, 1);
		g_assert_cmpint(read(o->wake_fd, &count, sizeof(count)), ==, sizeof(count));
	}
}

static struct result in_pool(struct owner *o, const GByteArray *ckpt)
{
	struct result r = {.blocks = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref)};
	const uint8_t *block;
	size_t len;

	begin(o, ckpt->data, ckpt->len);
	while (next_block(o, &block, &len)) {
		g_ptr_array_add(r.blocks, g_bytes_new(block, len));
		encode_pool_taken(o->pool);
	}
	g_assert_cmpint(encode_pool_next(o->pool, &block, &len), ==, ENCODE_OVER);
	page_encoder_stats(o->encoder, &r.stats);
	r.hash = XXH3_128bits_digest(o->hash);
	return r;
}

static void assert_same(const struct result *a, const struct result *b)
{
	g_assert_cmpuint(a->blocks->len, ==, b->blocks->len);
	for (guint i = 0; i < a->blocks->len; i++)
		g_assert_true(g_bytes_equal(a->blocks->pdata[i], b->blocks->pdata[i]));
	g_assert_true(XXH128_isEqual(a->hash, b->hash));
	g_assert_cmpmem(&a->stats, sizeof(a->stats), &b->stats, sizeof(b->stats));
}

/* ---- tests ---- */

static void same_blocks(unsigned int threads, enum pack_method method)
{
	GRand *rand = g_rand_new_with_seed(threads * 10 + method);
	struct page_encoder *alone;
	struct owner o;

	g_assert_cmpint(page_encoder_new(&alone, CACHE), ==, 0);
	owner_init(&o, threads, method);
	for (int i = 0; i < CHECKPOINT; i++) {
		GByteArray *ckpt = checkpoint(rand, i == 1 ? 1 : PAGES);
		struct result want = in_one_thread(alone, ckpt, method);
		struct result got = in_pool(&o, ckpt);

		assert_same(&want, &got);
		g_assert_cmpuint(encode_pool_cache_bytes(o.pool), ==,
		                 page_cache_bytes(page_encoder_cache(alone)));
		g_assert_cmpuint(encode_pool_spent(o.pool), >, 0);
		result_clear(&want);
		result_clear(&got);
		g_byte_array_unref(ckpt);
	}
	owner_fini(&o);
	page_encoder_free(alone);
	g_rand_free(rand);
}

static void test_same_blocks(void)
{
	static const unsigned int threads[] = {1, 2, 3, ENCODE_THREADS_MAX};

	for (size_t i = 0; i < G_N_ELEMENTS(threads); i++)
		for (enum pack_method m = PACK_NONE; m < PACK_METHODS; m++)
			same_blocks(threads[i], m);
}

/* With auto, how a block is packed depends on time; what it says does not. */
static void test_auto(void)
{
	GRand *rand = g_rand_new_with_seed(5);
	struct page_decoder *decoder;
	struct ckpt_buf buf;
	struct owner o;

	owner_init(&o, 2, PACK_AUTO);
	g_assert_cmpint(page_decoder_new(&decoder, CACHE), ==, 0);
	g_assert_cmpint(ckpt_buf_init(&buf, LIMIT, 4096), ==, 0);
	for (int i = 0; i < CHECKPOINT; i++) {
		GByteArray *ckpt = checkpoint(rand, PAGES);
		struct result got = in_pool(&o, ckpt);

		ckpt_buf_reset(&buf);
		for (guint n = 0; n < got.blocks->len; n++) {
			size_t len;
			const uint8_t *block = g_bytes_get_data(got.blocks->pdata[n], &len);

			g_assert_cmpint(page_decoder_block(decoder, block, len, &buf, ckpt->len),
			                ==, 0);
		}
		g_assert_cmpmem(buf.base, buf.len, ckpt->data, ckpt->len);
		g_assert_cmpuint(o.choice.by[PACK_LZ4].seen, >, 0);
		g_assert_cmpuint(o.choice.by[PACK_ZSTD].seen, >, 0);
		result_clear(&got);
		g_byte_array_unref(ckpt);
	}
	ckpt_buf_fini(&buf);
	page_decoder_free(decoder);
	owner_fini(&o);
	g_rand_free(rand);
}

/* ---- pages that are told by their hashes ---- */

/* The peer's VM: it has most of the checkpoint's pages, too. */
struct peer {
	struct page_decoder *decoder;
	struct ckpt_buf buf;
	uint8_t *memory; /* of PAGES */
	GByteArray *answers;
	GArray *answer_len;
};

static const uint8_t secret[PAGE_SECRET_LEN] = "a secret of this test, which is no secret at all";

static int peer_block(void *ctx, const char *name, size_t len)
{
	return 0;
}

static bool peer_read(void *ctx, int block, uint64_t offset, uint8_t *page)
{
	if (block != 0 || offset >= PAGES * (uint64_t)PAGE_CACHE_PAGE)
		return false;
	memcpy(page, ((struct peer *)ctx)->memory + offset, PAGE_CACHE_PAGE);
	return true;
}

static void peer_init(struct peer *p)
{
	const struct page_memory memory = {peer_block, peer_read, p};

	p->memory = g_malloc0(PAGES * (size_t)PAGE_CACHE_PAGE);
	p->answers = g_byte_array_new();
	p->answer_len = g_array_new(FALSE, FALSE, sizeof(size_t));
	g_assert_cmpint(page_decoder_new(&p->decoder, CACHE), ==, 0);
	g_assert_cmpint(ckpt_buf_init(&p->buf, LIMIT, 4096), ==, 0);
	page_decoder_memory(p->decoder, &memory, secret);
}

static void peer_fini(struct peer *p)
{
	ckpt_buf_fini(&p->buf);
	page_decoder_free(p->decoder);
	g_array_unref(p->answer_len);
	g_byte_array_unref(p->answers);
	g_free(p->memory);
}

/* Of the pages, one in `others` is another one in the peer's VM. */
static GByteArray *shared_checkpoint(GRand *rand, struct peer *p, int others)
{
	GByteArray *b = g_byte_array_new();

	build_section(b, 0x03, RAM_SECTION);
	for (unsigned int n = 0; n < PAGES; n++) {
		guint before = b->len;
		uint8_t *page = p->memory + n * (size_t)PAGE_CACHE_PAGE;

		add_page(b, rand, n, n == 0);
		if (b->len - before < PAGE_CACHE_PAGE)
			memset(page, 0, PAGE_CACHE_PAGE);
		else
			memcpy(page, b->data + b->len - PAGE_CACHE_PAGE, PAGE_CACHE_PAGE);
		if (g_rand_int_range(rand, 0, others) == 0)
			page[g_rand_int_range(rand, 0, PAGE_CACHE_PAGE)] ^= 1;
	}
	build_section_end(b, RAM_SECTION);
	build_state(b, 9000);
	return b;
}

/* Each block is decoded when it comes, and answered when no thread has the encoder any more. */
static void send_shared(struct owner *o, struct peer *p, const GByteArray *ckpt)
{
	uint8_t message[PAGE_HOLES_MAX];
	const uint8_t *block, *answer;
	size_t len;

	ckpt_buf_reset(&p->buf);
	page_decoder_begin(p->decoder);
	g_byte_array_set_size(p->answers, 0);
	g_array_set_size(p->answer_len, 0);
	begin(o, ckpt->data, ckpt->len);
	while (next_block(o, &block, &len)) {
		g_assert_cmpint(page_decoder_block(p->decoder, block, len, &p->buf, ckpt->len), ==,
		                0);
		encode_pool_taken(o->pool);
		len = page_decoder_holes(p->decoder, message);
		if (!len)
			continue;
		g_byte_array_append(p->answers, message, (guint)len);
		g_array_append_val(p->answer_len, len);
	}
	answer = p->answers->data;
	for (guint i = 0; i < p->answer_len->len; i++) {
		len = g_array_index(p->answer_len, size_t, i);
		g_assert_false(page_encoder_settled(o->encoder));
		g_assert_cmpint(page_encoder_holes(o->encoder, answer, len), ==, 0);
		answer += len;
	}
	while (page_encoder_gather(o->encoder) > 0) {
		g_assert_true(page_encoder_fills(o->encoder));
		(void)page_encoder_pack(o->encoder, PACK_LZ4, &block, &len);
		g_assert_cmpint(page_decoder_fill(p->decoder, block, len, &p->buf), ==, 0);
	}
	g_assert_true(page_encoder_settled(o->encoder));
	g_assert_cmpuint(page_decoder_solid(p->decoder, &p->buf), ==, ckpt->len);
	g_assert_cmpmem(p->buf.base, p->buf.len, ckpt->data, ckpt->len);
	g_assert_true(
	        XXH128_isEqual(XXH3_128bits_digest(o->hash), XXH3_128bits(ckpt->data, ckpt->len)));
}

/* Threads encode hashes; what the peer lacks is sent by the owner afterwards. */
static void test_agreeing(void)
{
	static const int others[] = {1, 3, 1000};

	for (unsigned int i = 0; i < G_N_ELEMENTS(others); i++) {
		GRand *rand = g_rand_new_with_seed(11 + i);
		struct page_codec_stats stats;
		struct owner o;
		struct peer p = {0};

		owner_init(&o, 1 + i, i == 1 ? PACK_AUTO : PACK_LZ4);
		peer_init(&p);
		g_assert_cmpint(page_encoder_agree(o.encoder, PAGE_AGREE_ALWAYS, secret), ==, 0);
		for (int round = 0; round < 2 * CHECKPOINT; round++) {
			GByteArray *ckpt = shared_checkpoint(rand, &p, others[i]);

			if (round == CHECKPOINT) {
				const uint8_t *block;
				size_t len;

				/* Given up in its middle, with answers on their way: a new session.
				 */
				begin(&o, ckpt->data, ckpt->len);
				g_assert_true(next_block(&o, &block, &len));
				encode_pool_taken(o.pool);
				encode_pool_stop(o.pool);
				page_encoder_reset(o.encoder);
				peer_fini(&p);
				peer_init(&p);
				g_byte_array_unref(ckpt);
				ckpt = shared_checkpoint(rand, &p, others[i]);
				g_assert_cmpint(
				        page_encoder_agree(o.encoder, PAGE_AGREE_ALWAYS, secret),
				        ==, 0);
			}
			send_shared(&o, &p, ckpt);
			g_byte_array_unref(ckpt);
		}
		page_encoder_stats(o.encoder, &stats);
		if (others[i] > 1)
			g_assert_cmpuint(stats.agreed, >, PAGES / 4);
		if (others[i] < 1000)
			g_assert_cmpuint(stats.holes, >, PAGES / 4);
		peer_fini(&p);
		owner_fini(&o);
		g_rand_free(rand);
	}
}

/* A checkpoint in memory that can be taken away. */
static uint8_t *mapped(const GByteArray *ckpt)
{
	uint8_t *base =
	        mmap(NULL, ckpt->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	g_assert_true(base != MAP_FAILED);
	memcpy(base, ckpt->data, ckpt->len);
	return base;
}

/* Stopped after any number of blocks; the next checkpoint is as if there had been none. */
static void test_stop(void)
{
	GRand *rand = g_rand_new_with_seed(7);
	GByteArray *ckpt = checkpoint(rand, PAGES);
	struct page_encoder *alone;
	struct result want;
	struct owner o;

	g_assert_cmpint(page_encoder_new(&alone, CACHE), ==, 0);
	owner_init(&o, 3, PACK_LZ4);
	for (unsigned int i = 0; i < 200; i++) {
		uint8_t *base = mapped(ckpt);
		const uint8_t *block;
		size_t len;

		begin(&o, base, ckpt->len);
		for (unsigned int n = 0; n < i % 7 && next_block(&o, &block, &len); n++)
			encode_pool_taken(o.pool);
		encode_pool_stop(o.pool);
		g_assert_cmpint(munmap(base, ckpt->len), ==, 0);
		page_encoder_reset(o.encoder);
		g_assert_cmpint(encode_pool_next(o.pool, &block, &len), ==, ENCODE_OVER);
	}
	want = in_one_thread(alone, ckpt, PACK_LZ4);
	for (unsigned int i = 0; i < 2; i++) {
		struct result got = in_pool(&o, ckpt);

		g_assert_cmpuint(got.blocks->len, >, 5);
		if (i == 0) {
			got.stats = want.stats; /* those of the encoder have the rest, too */
			assert_same(&want, &got);
		}
		result_clear(&got);
	}
	result_clear(&want);
	owner_fini(&o);
	page_encoder_free(alone);
	g_byte_array_unref(ckpt);
	g_rand_free(rand);
}

/* Nobody takes the blocks: the ring fills up, and freeing does not wait for more. */
static void test_free_at_work(void)
{
	GRand *rand = g_rand_new_with_seed(9);
	GByteArray *ckpt = checkpoint(rand, PAGES);

	for (unsigned int i = 0; i < 100; i++) {
		uint8_t *base = mapped(ckpt);
		const uint8_t *block;
		struct owner o;
		size_t len;

		owner_init(&o, 1 + i % 3, PACK_ZSTD);
		begin(&o, base, ckpt->len);
		if (i % 2)
			g_assert_true(next_block(&o, &block, &len));
		encode_pool_free(o.pool);
		o.pool = NULL;
		g_assert_cmpint(munmap(base, ckpt->len), ==, 0);
		owner_fini(&o);
	}
	g_byte_array_unref(ckpt);
	g_rand_free(rand);
}

static void test_limits(void)
{
	struct encode_pool_params params = {.clock = loop_clock, .wake = wake};
	struct encode_pool *pool = NULL;

	g_assert_cmpint(encode_pool_new(&pool, &params), ==, -EINVAL);
	params.threads = ENCODE_THREADS_MAX + 1;
	g_assert_cmpint(encode_pool_new(&pool, &params), ==, -EINVAL);
	g_assert_null(pool);
	encode_pool_free(NULL);
}

static unsigned int chosen(unsigned int processors, unsigned int vcpus, bool packs, int wish)
{
	struct encode_threads_facts facts = {{processors, processors, 0}, vcpus, packs};
	struct encode_threads_choice choice;

	encode_threads_choose(&facts, wish, &choice);
	g_assert_cmpuint(strlen(choice.why), >, 0);
	return choice.threads;
}

static void test_how_many(void)
{
	static const struct {
		unsigned int processors, vcpus, threads;
	} cases[] = {
	        {1, 1, 0}, {2, 1, 0}, {3, 1, 1}, {4, 1, 2},
	        {4, 3, 0}, {4, 8, 0}, {8, 2, 4}, {64, 8, 4},
	};

	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		g_assert_cmpuint(
		        chosen(cases[i].processors, cases[i].vcpus, true, ENCODE_THREADS_AUTO), ==,
		        cases[i].threads);
		g_assert_cmpuint(chosen(cases[i].processors, cases[i].vcpus, true, 3), ==, 3);
		g_assert_cmpuint(
		        chosen(cases[i].processors, cases[i].vcpus, false, ENCODE_THREADS_AUTO), ==,
		        0);
	}
	g_assert_cmpuint(chosen(64, 1, true, 0), ==, 0);
	g_assert_cmpuint(chosen(64, 1, false, 3), ==, 0);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/encode-pool/same-blocks", test_same_blocks);
	g_test_add_func("/encode-pool/auto", test_auto);
	g_test_add_func("/encode-pool/agreeing", test_agreeing);
	g_test_add_func("/encode-pool/stop", test_stop);
	g_test_add_func("/encode-pool/free-at-work", test_free_at_work);
	g_test_add_func("/encode-pool/limits", test_limits);
	g_test_add_func("/encode-threads/how-many", test_how_many);
	return g_test_run();
}
