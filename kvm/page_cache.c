/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "kvm/page_cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define KEEP_ROUNDS 2u /* a slot that was sent in this round or the one before stays */

struct slot {
	uint64_t key; /* 0: not in use */
	uint32_t round;
	uint32_t agreed; /* round */
};

struct page_cache {
	uint8_t *pages;
	struct slot *slots;
	uint32_t n;
	uint32_t sets;
	uint32_t used;
};

int page_cache_new(struct page_cache **ret_cache, size_t bytes)
{
	struct page_cache *c = calloc(1, sizeof(*c));
	size_t sets = bytes / PAGE_CACHE_PAGE / PAGE_CACHE_WAYS;

	if (!c)
		return -ENOMEM;
	if (sets > UINT32_MAX / PAGE_CACHE_WAYS)
		sets = UINT32_MAX / PAGE_CACHE_WAYS;
	if (sets > 0) {
		c->sets = (uint32_t)sets;
		c->n = c->sets * PAGE_CACHE_WAYS;
		c->slots = calloc(c->n, sizeof(*c->slots));
		c->pages = mmap(NULL, (size_t)c->n * PAGE_CACHE_PAGE, PROT_READ | PROT_WRITE,
		                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (!c->slots || c->pages == MAP_FAILED) {
			if (c->pages == MAP_FAILED)
				c->pages = NULL;
			page_cache_free(c);
			return -ENOMEM;
		}
	}
	*ret_cache = c;
	return 0;
}

void page_cache_free(struct page_cache *c)
{
	if (!c)
		return;
	if (c->pages)
		(void)munmap(c->pages, (size_t)c->n * PAGE_CACHE_PAGE);
	free(c->slots);
	free(c);
}

void page_cache_reset(struct page_cache *c)
{
	if (c->used == 0)
		return;
	memset(c->slots, 0, c->n * sizeof(*c->slots));
	/* Fails only for a region that is not mapped, which page_cache_new() rules out. */
	(void)madvise(c->pages, (size_t)c->n * PAGE_CACHE_PAGE, MADV_DONTNEED);
	c->used = 0;
}

uint32_t page_cache_slots(const struct page_cache *c)
{
	return c->n;
}

uint64_t page_cache_bytes(const struct page_cache *c)
{
	return (uint64_t)c->used * PAGE_CACHE_PAGE;
}

uint8_t *page_cache_page(struct page_cache *c, uint32_t slot)
{
	return c->pages + (size_t)slot * PAGE_CACHE_PAGE;
}

/* Two pages with one key are one page to the policy: it costs bytes. 0 is kept for "none". */
static uint64_t key_of(uint64_t block, uint64_t page)
{
	uint64_t key = (block | 1) * UINT64_C(0x9e3779b97f4a7c15) + page;

	return key ? key : 1;
}

enum page_cache_result page_cache_find(struct page_cache *c, uint64_t block, uint64_t page,
                                       uint32_t round, uint32_t *ret_slot)
{
	uint64_t key = key_of(block, page);
	uint32_t oldest;
	uint32_t set;

	if (c->n == 0)
		return PAGE_CACHE_NONE;
	set = (uint32_t)((block % c->sets + page) % c->sets);
	oldest = set;
	/* Slots of a set are c->sets apart: neighbours in memory get neighbouring numbers. */
	for (uint32_t slot = set; slot < c->n; slot += c->sets) {
		struct slot *s = &c->slots[slot];

		if (s->key == key) {
			s->round = round;
			*ret_slot = slot;
			return PAGE_CACHE_HIT;
		}
		if (c->slots[oldest].key == 0)
			continue;
		if (s->key == 0 || round - s->round > round - c->slots[oldest].round)
			oldest = slot;
	}
	if (c->slots[oldest].key != 0 && round - c->slots[oldest].round < KEEP_ROUNDS)
		return PAGE_CACHE_NONE;
	if (c->slots[oldest].key == 0)
		c->used++;
	c->slots[oldest] = (struct slot){.key = key, .round = round};
	*ret_slot = oldest;
	return PAGE_CACHE_NEW;
}

void page_cache_agree(struct page_cache *c, uint32_t slot, uint32_t round)
{
	c->slots[slot].agreed = round;
}

bool page_cache_agreed(const struct page_cache *c, uint32_t slot, uint32_t round)
{
	return c->slots[slot].agreed == round;
}

void page_cache_take(struct page_cache *c, uint32_t slot)
{
	if (slot < c->n && c->slots[slot].key == 0) {
		c->slots[slot].key = 1;
		c->used++;
	}
}

bool page_cache_taken(const struct page_cache *c, uint32_t slot)
{
	return slot < c->n && c->slots[slot].key != 0;
}
