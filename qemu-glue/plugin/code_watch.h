/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef QEMU_GLUE_PLUGIN_CODE_WATCH_H
#define QEMU_GLUE_PLUGIN_CODE_WATCH_H

/*
 * Which bytes of the guest's memory were translated, and whether any of them has changed since.
 *
 * For each page of memory that holds translated code there is a copy of the page and one bit for
 * each byte that is part of a translation. Lines of 64 bytes without such a byte are not looked at;
 * in a line that differs, only the bytes with a bit count. So data beside code may change.
 *
 * Code that is known by its guest-physical address only is kept apart, as "heads": the first bytes
 * of a page, where an instruction ends that began in the page before.
 *
 * Bytes that are added again are taken as they are now. That is right because whoever wrote them
 * in between has also invalidated the translations of the old bytes (see tcg_flush.c).
 *
 * Memory is bounded: WATCH_PAGES pages, 64 MiB with their copies. When the table is full, it is
 * blind from then on: "changed" whatever the memory holds, until it is emptied.
 *
 * No locks, no I/O: the caller's lock protects it. It stands in a header because a QEMU plugin is
 * one file that QEMU loads, and so that it can be tested outside of QEMU.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define WATCH_PAGE_SIZE 4096U
#define WATCH_LINE      64U
#define WATCH_PAGES     14336U
#define WATCH_SLOTS     32768U
#define WATCH_HEAD_MAX  16U

/* Reads `len` bytes at guest-physical `addr`. */
typedef bool (*code_watch_read_fn)(uint64_t addr, uint8_t *buf, unsigned int len, void *ctx);

struct watch_page {
	const uint8_t *host;
	uint64_t lines;                       /* bit n: line n has a bit below */
	uint64_t bytes[WATCH_PAGE_SIZE / 64]; /* bit n: byte n was translated */
	uint8_t copy[WATCH_PAGE_SIZE] __attribute__((aligned(WATCH_LINE)));
};

struct watch_head {
	uint64_t addr;
	unsigned int len;
	uint8_t copy[WATCH_HEAD_MAX];
};

/* Finds an entry's number by its key; entries are numbered in the order in which they came. */
struct watch_index {
	uint64_t keys[WATCH_PAGES];
	uint16_t slots[WATCH_SLOTS]; /* number + 1, 0 is free */
	unsigned int n;
};

struct code_watch {
	struct watch_index by_host;
	struct watch_index by_addr;
	struct watch_page *pages;
	struct watch_head *heads;
	uint64_t bytes; /* how many in pages */
	bool blind;
};

/* 0 or -1 when there is no memory. It takes address space for a full table; pages come with use. */
static inline int code_watch_init(struct code_watch *w)
{
	memset(w, 0, sizeof(*w));
	w->pages = aligned_alloc(WATCH_PAGE_SIZE, WATCH_PAGES * sizeof(*w->pages));
	w->heads = calloc(WATCH_PAGES, sizeof(*w->heads));
	if (w->pages && w->heads)
		return 0;
	free(w->pages);
	free(w->heads);
	return -1;
}

static inline void code_watch_fini(struct code_watch *w)
{
	free(w->pages);
	free(w->heads);
}

/* All translations are gone. */
static inline void code_watch_empty(struct code_watch *w)
{
	memset(w->by_host.slots, 0, sizeof(w->by_host.slots));
	memset(w->by_addr.slots, 0, sizeof(w->by_addr.slots));
	w->by_host.n = w->by_addr.n = 0;
	w->bytes = 0;
	w->blind = false;
}

/* Something was translated that cannot be checked. */
static inline void code_watch_blind(struct code_watch *w)
{
	w->blind = true;
}

/* The entry's number; `index->n` has grown if it is new. WATCH_PAGES when there is no room. */
static inline unsigned int watch_index_get(struct watch_index *index, uint64_t key)
{
	unsigned int slot = (unsigned int)((key * 0x9e3779b97f4a7c15ULL) >> 49);

	while (index->slots[slot]) {
		if (index->keys[index->slots[slot] - 1] == key)
			return index->slots[slot] - 1U;
		slot = (slot + 1) % WATCH_SLOTS;
	}
	if (index->n == WATCH_PAGES)
		return WATCH_PAGES;
	index->keys[index->n] = key;
	index->slots[slot] = (uint16_t)++index->n;
	return index->n - 1;
}

static inline void watch_page_add(struct code_watch *w, struct watch_page *page, unsigned int from,
                                  unsigned int to)
{
	memcpy(page->copy + from, page->host + from, to - from);
	while (from < to) {
		unsigned int line = from / 64;
		unsigned int end = to < (line + 1) * 64 ? to : (line + 1) * 64;
		uint64_t mask = ~0ULL >> (64 - (end - from)) << (from % 64);

		w->bytes += (uint64_t)__builtin_popcountll(mask & ~page->bytes[line]);
		page->bytes[line] |= mask;
		page->lines |= 1ULL << line;
		from = end;
	}
}

/* `len` bytes at `host`, which is the guest's memory, were translated. They lie in one page. */
static inline void code_watch_add(struct code_watch *w, const uint8_t *host, unsigned int len)
{
	unsigned int from = (unsigned int)((uintptr_t)host % WATCH_PAGE_SIZE);
	unsigned int before = w->by_host.n;
	unsigned int n = watch_index_get(&w->by_host, (uintptr_t)(host - from));
	struct watch_page *page = w->pages + n;

	if (n == WATCH_PAGES || from + len > WATCH_PAGE_SIZE) {
		w->blind = true;
		return;
	}
	if (w->by_host.n != before) {
		page->host = host - from;
		page->lines = 0;
		memset(page->bytes, 0, sizeof(page->bytes));
	}
	watch_page_add(w, page, from, from + len);
}

/* The `len` bytes `bytes` at the guest-physical address `addr`, a page's start, were translated. */
static inline void code_watch_add_head(struct code_watch *w, uint64_t addr, const uint8_t *bytes,
                                       unsigned int len)
{
	unsigned int before = w->by_addr.n;
	unsigned int n = watch_index_get(&w->by_addr, addr);
	struct watch_head *head = w->heads + n;

	if (n == WATCH_PAGES || len > WATCH_HEAD_MAX) {
		w->blind = true;
		return;
	}
	if (w->by_addr.n != before) {
		head->addr = addr;
		head->len = 0;
	}
	memcpy(head->copy, bytes, len);
	if (len > head->len)
		head->len = len;
}

static inline bool watch_line_changed(const struct watch_page *page, unsigned int line)
{
	const uint8_t *now = page->host + (size_t)line * WATCH_LINE;
	const uint8_t *then = page->copy + (size_t)line * WATCH_LINE;

	if (memcmp(now, then, WATCH_LINE) == 0)
		return false;
	for (unsigned int i = 0; i < WATCH_LINE; i++) {
		if ((page->bytes[line] >> i & 1) && now[i] != then[i])
			return true;
	}
	return false;
}

static inline bool watch_page_changed(const struct watch_page *page)
{
	for (uint64_t lines = page->lines; lines; lines &= lines - 1) {
		if (watch_line_changed(page, (unsigned int)__builtin_ctzll(lines)))
			return true;
	}
	return false;
}

/* Whether a translated byte differs from what it was, or may. */
static inline bool code_watch_changed(const struct code_watch *w, code_watch_read_fn read_addr,
                                      void *ctx)
{
	uint8_t now[WATCH_HEAD_MAX];

	if (w->blind)
		return true;
	for (unsigned int i = 0; i < w->by_host.n; i++) {
		if (watch_page_changed(w->pages + i))
			return true;
	}
	for (unsigned int i = 0; i < w->by_addr.n; i++) {
		const struct watch_head *head = w->heads + i;

		if (!read_addr(head->addr, now, head->len, ctx) ||
		    memcmp(now, head->copy, head->len) != 0)
			return true;
	}
	return false;
}

#endif
