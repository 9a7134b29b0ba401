/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * encode-bench: what encoding a checkpoint carries, without a VM and without a link.
 *
 *	encode-bench [--mib N] [--rounds N] [--threads N] [--encrypt] [--json]
 *
 * Two checkpoints of N MiB of the same pages are encoded in turns: "words": they differ in a word
 * of each page; "text": in all of it, and it packs well; "random": in all of it, and it does not.
 * For each, not packed, with LZ4 and with Zstandard: bytes of the checkpoint a second for gathering
 * and packing and decoding alone (one thread), then for the whole with 0, 1, ... threads (0: all in
 * the caller's, as with encode-threads = 0), in turns, the best of the rounds of each. Every block
 * is copied once, as into the link's queue; with --encrypt the caller encrypts it, too, as the link
 * does: then the figures are those of a whole data thread, but for its system calls.
 */
#include <errno.h>
#include <getopt.h>
#include <gnutls/crypto.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <xxhash.h>

#include "colo-proxy/loop/loop.h"
#include "kvm/encode_pool.h"
#include "kvm/page_codec.h"
#include "kvm/wire.h"

#define PAGE      ((size_t)PAGE_CACHE_PAGE)
#define STATE     59249u
#define CACHE     (2048ull << 20) /* more than any checkpoint here */
#define RECORD    16384u          /* of TLS */
#define VARIANTS  (ENCODE_THREADS_MAX + 1)
#define HEAD_NAME "\6pc.ram"

enum load { WORDS, TEXT, RANDOM, LOADS };

static const char *const load_names[LOADS] = {"words", "text", "random"};

struct image {
	uint8_t *bytes;
	size_t len;
};

/* The best of the rounds, ns. */
struct figures {
	uint64_t gather, pack, decode;
	uint64_t whole[VARIANTS];
	uint64_t blocks_len; /* of one checkpoint */
};

struct bench {
	struct image image[2];
	struct page_encoder *encoder;
	struct page_decoder *decoder;
	struct ckpt_buf buf;
	struct encode_pool *pool;
	struct pack_choice choice;
	XXH3_state_t *hash;
	int wake_fd;
	gnutls_aead_cipher_hd_t cipher;
	uint8_t *record; /* encrypted */
	uint8_t *blocks; /* as they leave */
	size_t blocks_len;
};

static unsigned int mib = 32, rounds = 5, threads = 2;
static bool as_json, encrypting;

static void fail(const char *what)
{
	fprintf(stderr, "encode-bench: %s\n", what);
	exit(1);
}

static void *memory(size_t len)
{
	void *p = malloc(len);

	if (!p)
		fail("out of memory");
	return p;
}

/* ---- checkpoints ---- */

static uint64_t random64(void)
{
	static uint64_t x = 88172645463325252u;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

static void random_page(uint8_t *page)
{
	for (size_t at = 0; at < PAGE; at += 8) {
		uint64_t v = random64();

		memcpy(page + at, &v, sizeof(v));
	}
}

/* Lines as of a log: numbers that differ between words that come again. */
static void text_page(uint8_t *page)
{
	static const char *const verb[] = {"GET", "POST", "HEAD", "PUT"};
	static const char *const what[] = {"index.html", "api/v1/items", "style.css", "login"};
	char line[128];
	size_t at = 0;

	while (at < PAGE) {
		uint64_t r = random64();
		int n = snprintf(line, sizeof(line), "10.0.%u.%u - \"%s /%s HTTP/1.1\" 200 %u\n",
		                 (unsigned int)(r & 255), (unsigned int)(r >> 8 & 255),
		                 verb[r >> 16 & 3], what[r >> 18 & 3],
		                 (unsigned int)(r >> 20 & 0xffff));
		size_t take = (size_t)n < PAGE - at ? (size_t)n : PAGE - at;

		memcpy(page + at, line, take);
		at += take;
	}
}

static void fill_page(enum load load, uint8_t *page)
{
	if (load == TEXT)
		text_page(page);
	else
		random_page(page);
}

static void put(struct image *image, const void *bytes, size_t n)
{
	memcpy(image->bytes + image->len, bytes, n);
	image->len += n;
}

static void put_page(struct image *image, size_t n, const uint8_t *page)
{
	uint8_t head[8];

	wire_put_be64(head, (uint64_t)n << 12 | (n == 0 ? 0x08 : 0x28));
	put(image, head, sizeof(head));
	if (n == 0)
		put(image, HEAD_NAME, strlen(HEAD_NAME));
	put(image, page, PAGE);
}

/* docs/checkpoint.md has the layout. */
static void build(struct bench *b, enum load load)
{
	static const uint8_t begin[] = {0x03, 0, 0, 0, 3};
	static const uint8_t end[] = {0, 0, 0, 0, 0, 0, 0,          0x10,        0x7e,
	                              0, 0, 0, 3, 0, 0, 0,          0,           4,
	                              0, 0, 0, 0, 0, 0, STATE >> 8, STATE & 0xff};
	size_t pages = ((size_t)mib << 20) / PAGE;
	uint8_t page[PAGE];

	for (int i = 0; i < 2; i++) {
		b->image[i].bytes = memory(pages * (PAGE + 8) + STATE + 128);
		b->image[i].len = 0;
		put(&b->image[i], begin, sizeof(begin));
	}
	for (size_t n = 0; n < pages; n++) {
		fill_page(load, page);
		put_page(&b->image[0], n, page);
		if (load == WORDS)
			page[n % PAGE] ^= 1;
		else
			fill_page(load, page);
		put_page(&b->image[1], n, page);
	}
	for (int i = 0; i < 2; i++) {
		put(&b->image[i], end, sizeof(end));
		memset(b->image[i].bytes + b->image[i].len, 0xdd, STATE);
		b->image[i].len += STATE;
	}
}

/* ---- encoding ---- */

static void wake(void *ctx)
{
	uint64_t one = 1;

	if (write(((struct bench *)ctx)->wake_fd, &one, sizeof(one)) < 0)
		fail("cannot wake up");
}

static void encrypt(struct bench *b, const uint8_t *bytes, size_t len)
{
	static const uint8_t nonce[12];

	for (size_t at = 0; at < len; at += RECORD) {
		size_t n = len - at < RECORD ? len - at : RECORD;
		size_t room = RECORD + 16;

		if (gnutls_aead_cipher_encrypt(b->cipher, nonce, sizeof(nonce), NULL, 0, 16,
		                               bytes + at, n, b->record, &room) < 0)
			fail("cannot encrypt");
	}
}

static void take_block(struct bench *b, const uint8_t *block, size_t len)
{
	uint8_t size[4];

	wire_put_be32(size, (uint32_t)len);
	memcpy(b->blocks + b->blocks_len, size, sizeof(size));
	memcpy(b->blocks + b->blocks_len + sizeof(size), block, len);
	if (encrypting)
		encrypt(b, b->blocks + b->blocks_len, sizeof(size) + len);
	b->blocks_len += sizeof(size) + len;
}

static void encode_here(struct bench *b, const struct image *image, struct figures *f)
{
	enum pack_method method = b->choice.fixed;
	uint64_t gather = 0;
	uint64_t pack = 0;
	const uint8_t *block;
	size_t offset;
	size_t len;

	for (;;) {
		uint64_t started = loop_clock();
		uint64_t between;
		size_t ops = page_encoder_gather(b->encoder);

		if (ops == 0)
			break;
		page_encoder_span(b->encoder, &offset, &len);
		XXH3_128bits_update(b->hash, image->bytes + offset, len);
		between = loop_clock();
		gather += between - started;
		(void)page_encoder_pack(b->encoder, method, &block, &len);
		pack += loop_clock() - between;
		take_block(b, block, len);
	}
	if (f && (!f->gather || gather < f->gather))
		f->gather = gather;
	if (f && (!f->pack || pack < f->pack))
		f->pack = pack;
}

static void encode_in_pool(struct bench *b, const struct image *image)
{
	struct encode_job job = {
	        .encoder = b->encoder,
	        .base = image->bytes,
	        .len = image->len,
	        .hash = b->hash,
	        .choice = &b->choice,
	};
	struct pollfd fd = {.fd = b->wake_fd, .events = POLLIN};
	const uint8_t *block;
	uint64_t count;
	size_t len;

	encode_pool_begin(b->pool, &job);
	for (;;) {
		switch (encode_pool_next(b->pool, &block, &len)) {
		case ENCODE_BLOCK:
			take_block(b, block, len);
			encode_pool_taken(b->pool);
			break;
		case ENCODE_LATER:
			if (poll(&fd, 1, 10000) != 1 || read(b->wake_fd, &count, sizeof(count)) < 0)
				fail("nobody woke me up");
			break;
		case ENCODE_OVER:
			return;
		}
	}
}

/* One checkpoint; returns ns. */
static uint64_t encode(struct bench *b, int which, struct figures *f)
{
	const struct image *image = &b->image[which];
	uint64_t started = loop_clock();

	b->blocks_len = 0;
	XXH3_128bits_reset(b->hash);
	page_encoder_begin(b->encoder, image->bytes, image->len);
	if (b->pool)
		encode_in_pool(b, image);
	else
		encode_here(b, image, f);
	return loop_clock() - started;
}

static uint64_t decode(struct bench *b, int which)
{
	const struct image *image = &b->image[which];
	uint64_t started = loop_clock();
	uint64_t took;

	ckpt_buf_reset(&b->buf);
	for (size_t at = 0; at < b->blocks_len;) {
		size_t before = b->buf.len;
		size_t len = wire_be32(b->blocks + at);

		if (page_decoder_block(b->decoder, b->blocks + at + 4, len, &b->buf, image->len))
			fail(page_decoder_error(b->decoder));
		XXH3_128bits_update(b->hash, b->buf.base + before, b->buf.len - before);
		at += 4 + len;
	}
	took = loop_clock() - started;
	if (b->buf.len != image->len || memcmp(b->buf.base, image->bytes, image->len) != 0)
		fail("what came out is not what went in");
	return took;
}

static void least(uint64_t *best, uint64_t ns)
{
	if (!*best || ns < *best)
		*best = ns;
}

static void open_variant(struct bench *b, unsigned int n)
{
	struct encode_pool_params params = {
	        .threads = n, .clock = loop_clock, .wake = wake, .ctx = b};

	b->pool = NULL;
	if (page_encoder_new(&b->encoder, CACHE) < 0 || page_decoder_new(&b->decoder, CACHE) < 0)
		fail("out of memory");
	if (n > 0 && encode_pool_new(&b->pool, &params) < 0)
		fail("no threads");
}

static void close_variant(struct bench *b)
{
	encode_pool_free(b->pool);
	page_encoder_free(b->encoder);
	page_decoder_free(b->decoder);
}

/* The first checkpoint fills the caches and is not counted. */
static void run_variant(struct bench *b, unsigned int n, struct figures *f)
{
	open_variant(b, n);
	(void)encode(b, 0, NULL);
	(void)decode(b, 0);
	for (int round = 1; round <= 2; round++) {
		least(&f->whole[n], encode(b, round % 2, f));
		f->blocks_len = b->blocks_len;
		least(&f->decode, decode(b, round % 2));
	}
	close_variant(b);
}

/* ---- what is shown ---- */

static double rate(const struct bench *b, uint64_t ns)
{
	return (double)b->image[0].len * 1e3 / (double)ns;
}

static json_t *to_json(const struct bench *b, const struct figures *f, enum load load)
{
	json_t *whole = json_array();

	for (unsigned int n = 0; n <= threads; n++)
		json_array_append_new(whole, json_pack("{s:i, s:f, s:f}", "threads", (int)n,
		                                       "mb_per_s", rate(b, f->whole[n]), "ratio",
		                                       (double)f->whole[0] / (double)f->whole[n]));
	return json_pack("{s:s, s:s, s:f, s:f, s:f, s:f, s:o}", "load", load_names[load],
	                 "compression", pack_method_name(b->choice.fixed), "share_left",
	                 (double)f->blocks_len / (double)b->image[0].len, "gather_mb_per_s",
	                 rate(b, f->gather), "pack_mb_per_s", rate(b, f->pack), "decode_mb_per_s",
	                 rate(b, f->decode), "encode", whole);
}

static void show(const struct bench *b, const struct figures *f, enum load load)
{
	printf("%-7s %-5s %5.1f %% %8.0f %8.0f %8.0f ", load_names[load],
	       pack_method_name(b->choice.fixed),
	       100 * (double)f->blocks_len / (double)b->image[0].len, rate(b, f->gather),
	       rate(b, f->pack), rate(b, f->decode));
	for (unsigned int n = 0; n <= threads; n++)
		printf("%8.0f (%4.2f)", rate(b, f->whole[n]),
		       (double)f->whole[0] / (double)f->whole[n]);
	printf("\n");
}

static void run(struct bench *b, enum load load, enum pack_method method, json_t *all)
{
	struct figures f = {0};

	pack_choice_init(&b->choice, method);
	for (unsigned int round = 0; round < rounds; round++)
		for (unsigned int n = 0; n <= threads; n++)
			run_variant(b, n, &f);
	if (as_json)
		json_array_append_new(all, to_json(b, &f, load));
	else
		show(b, &f, load);
}

static void run_load(struct bench *b, enum load load, json_t *all)
{
	build(b, load);
	b->blocks = memory(b->image[0].len + b->image[0].len / 8);
	if (ckpt_buf_init(&b->buf, b->image[0].len + PAGE, b->image[0].len) < 0)
		fail("out of memory");
	for (enum pack_method m = PACK_NONE; m < PACK_METHODS; m++)
		run(b, load, m, all);
	ckpt_buf_fini(&b->buf);
	free(b->blocks);
	free(b->image[0].bytes);
	free(b->image[1].bytes);
}

static unsigned int number(const char *text, unsigned int low, unsigned int high)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*end || n < low || n > high)
		fail("a number is out of range");
	return (unsigned int)n;
}

static void parse(int argc, char **argv)
{
	static const struct option options[] = {
	        {"mib", required_argument, NULL, 'm'},     {"rounds", required_argument, NULL, 'r'},
	        {"threads", required_argument, NULL, 't'}, {"encrypt", no_argument, NULL, 'e'},
	        {"json", no_argument, NULL, 'j'},          {NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (c == 'm')
			mib = number(optarg, 1, 512);
		else if (c == 'r')
			rounds = number(optarg, 1, 1000);
		else if (c == 't')
			threads = number(optarg, 0, ENCODE_THREADS_MAX);
		else if (c == 'e')
			encrypting = true;
		else if (c == 'j')
			as_json = true;
		else
			exit(2);
	}
}

static void open_cipher(struct bench *b)
{
	static uint8_t bytes[16];
	gnutls_datum_t key = {bytes, sizeof(bytes)};

	b->record = memory(RECORD + 16);
	if (gnutls_aead_cipher_init(&b->cipher, GNUTLS_CIPHER_AES_128_GCM, &key) < 0)
		fail("no AES-128-GCM");
}

int main(int argc, char **argv)
{
	json_t *all = json_array();
	struct bench b = {0};

	parse(argc, argv);
	open_cipher(&b);
	b.hash = XXH3_createState();
	b.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!b.hash || b.wake_fd < 0)
		fail("out of memory");
	if (!as_json) {
		printf("MB of checkpoint a second, %u MiB of pages, the best of %u%s\n", mib,
		       2 * rounds, encrypting ? ", encrypted" : "");
		printf("%-7s %-5s %7s %8s %8s %8s ", "load", "pack", "left", "gather", "pack",
		       "decode");
		for (unsigned int n = 0; n <= threads; n++)
			printf("%6u thr. ()", n);
		printf("\n");
	}
	for (enum load load = WORDS; load < LOADS; load++)
		run_load(&b, load, all);
	if (as_json) {
		json_t *top = json_pack("{s:i, s:b, s:o}", "mib", (int)mib, "encrypt", encrypting,
		                        "results", all);

		json_dumpf(top, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
		printf("\n");
		json_decref(top);
	} else {
		json_decref(all);
	}
	XXH3_freeState(b.hash);
	gnutls_aead_cipher_deinit(b.cipher);
	free(b.record);
	close(b.wake_fd);
	return 0;
}
