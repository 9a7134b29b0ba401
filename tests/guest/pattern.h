/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The byte stream that the test guest serves and that clients check, and the digest of uploads.
 *
 * The stream is a row of 64-bit little-endian words. Word k is
 *
 *	block[k mod 8192] + (k / 8192) * 0x9e3779b97f4a7c15	(mod 2^64)
 *
 * where block[] is the first 8192 results of splitmix64 started at 0x636f6c6f ("colo"). A byte that
 * is lost, doubled or moved by any distance puts wrong bytes into the 64 KiB that follow, except
 *with the chance of two pseudo-random words being equal. Making or checking the stream costs one
 *load, one addition and one store for eight bytes, which matters in an emulated machine.
 */
#ifndef COLO_TESTS_PATTERN_H
#define COLO_TESTS_PATTERN_H

#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PATTERN_WORDS  8192u
#define PATTERN_BLOCK  (PATTERN_WORDS * 8u)
#define PATTERN_STRIDE 0x9e3779b97f4a7c15ull
#define FNV1A64_START  0xcbf29ce484222325ull

/* The block; call pattern_init() once before anything else. */
struct pattern {
	uint64_t word[PATTERN_WORDS];
};

static inline void pattern_init(struct pattern *p)
{
	uint64_t state = 0x636f6c6f, z;
	unsigned int i;

	for (i = 0; i < PATTERN_WORDS; i++) {
		state += 0x9e3779b97f4a7c15ull;
		z = state;
		z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
		z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
		p->word[i] = z ^ (z >> 31);
	}
}

/* Word @k of the stream, as it lies in memory. */
static inline uint64_t pattern_word(const struct pattern *p, uint64_t k)
{
	return htole64(p->word[k % PATTERN_WORDS] + k / PATTERN_WORDS * PATTERN_STRIDE);
}

/* How many whole words can be taken at @offset before the block ends or @len does; 0 off a word. */
static inline size_t pattern_run(uint64_t offset, size_t len)
{
	size_t run = PATTERN_WORDS - offset / 8 % PATTERN_WORDS;

	if (offset % 8)
		return 0;
	return run < len / 8 ? run : len / 8;
}

/* Writes the @len bytes of the stream that start at byte @offset to @buf. */
static inline void pattern_fill(const struct pattern *p, uint64_t offset, void *buf, size_t len)
{
	const uint64_t *word;
	uint8_t *out = buf;
	uint64_t w, add;
	size_t run, i;

	while (len) {
		run = pattern_run(offset, len);
		if (!run) {
			w = pattern_word(p, offset / 8);
			*out++ = ((const uint8_t *)&w)[offset++ % 8];
			len--;
			continue;
		}
		word = &p->word[offset / 8 % PATTERN_WORDS];
		add = offset / 8 / PATTERN_WORDS * PATTERN_STRIDE;
		for (i = 0; i < run; i++) {
			w = htole64(word[i] + add);
			memcpy(out + 8 * i, &w, 8);
		}
		out += 8 * run;
		offset += 8 * run;
		len -= 8 * run;
	}
}

/* Compares @buf with the stream at @offset: how many bytes from the start are right. */
static inline size_t pattern_check(const struct pattern *p, uint64_t offset, const void *buf,
                                   size_t len)
{
	const uint8_t *in = buf;
	const uint64_t *word;
	uint64_t w, add;
	size_t done = 0, run, i;

	while (done < len) {
		run = pattern_run(offset + done, len - done);
		word = &p->word[(offset + done) / 8 % PATTERN_WORDS];
		add = (offset + done) / 8 / PATTERN_WORDS * PATTERN_STRIDE;
		for (i = 0; i < run; i++) {
			memcpy(&w, in + done + 8 * i, 8);
			if (w != htole64(word[i] + add))
				break;
		}
		done += 8 * i;
		if (run && i == run)
			continue;
		/* Off a word, less than a word left, or a word that differs: byte by byte. */
		w = pattern_word(p, (offset + done) / 8);
		if (in[done] != ((const uint8_t *)&w)[(offset + done) % 8])
			break;
		done++;
	}
	return done;
}

/* FNV-1a, 64 bits, of @len more bytes; start with FNV1A64_START. */
static inline uint64_t fnv1a64(uint64_t hash, const void *buf, size_t len)
{
	const uint8_t *in = buf;
	size_t i;

	for (i = 0; i < len; i++)
		hash = (hash ^ in[i]) * 0x100000001b3ull;
	return hash;
}

#endif
