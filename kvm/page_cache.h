/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_KVM_PAGE_CACHE_H
#define COLO_KVM_PAGE_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Pages of 4096 bytes as they were last sent, kept by both daemons: what the next version of a page
 * is told as a difference to. The pages lie in numbered slots.
 *
 * Only the sender decides which page is in which slot, and says so with each page; the receiver
 * does as it is told and checks the number. So there is no policy that two sides could disagree on,
 * and a wrong guess of the policy costs bytes, never correctness.
 *
 * The sender's policy: the slots are sets of PAGE_CACHE_WAYS; pages that follow each other in
 * memory belong to sets that follow each other. A page that is not there takes the slot of its set
 * that has not been sent for the longest time, unless that was in this or the last checkpoint: with
 * more pages dirtied in turn than there are slots, a part of them stays and is of use, where least
 * recently used would throw each page out just before it comes again. (QEMU's XBZRLE cache keeps a
 * page for two rounds for the same reason: migration/page_cache.c, CACHED_PAGE_LIFETIME.)
 *
 * Memory: 4096 bytes for each slot in use, reserved but not resident before, and 16 for each slot.
 */

#define PAGE_CACHE_PAGE 4096u
#define PAGE_CACHE_WAYS 8u

struct page_cache;

/* At most `bytes` of pages, rounded down to whole sets; less than one set: no slots, nothing is
 * ever found. Returns 0 or -ENOMEM. */
int page_cache_new(struct page_cache **ret_cache, size_t bytes);
/* NULL is allowed. */
void page_cache_free(struct page_cache *c);

/* Forgets everything and gives the memory back. */
void page_cache_reset(struct page_cache *c);

uint32_t page_cache_slots(const struct page_cache *c);
/* Bytes of the slots that are in use. */
uint64_t page_cache_bytes(const struct page_cache *c);

/* The 4096 bytes of a slot below page_cache_slots(). */
uint8_t *page_cache_page(struct page_cache *c, uint32_t slot);

enum page_cache_result {
	PAGE_CACHE_NONE, /* no slot may be taken for it */
	PAGE_CACHE_NEW,  /* *ret_slot is the page's now; what is in it is another page's */
	PAGE_CACHE_HIT,  /* *ret_slot has the page as it was last sent */
};

/*
 * The sender's side: the slot of page number `page` of the block that `block` stands for (a hash of
 * its name), in checkpoint number `round`, which counts up by one.
 */
enum page_cache_result page_cache_find(struct page_cache *c, uint64_t block, uint64_t page,
                                       uint32_t round, uint32_t *ret_slot);

/*
 * Both sides: the slot's page was said to be what the receiver's VM has (page_codec.h, AGREE), in
 * this round; whether it was. What the slot holds is certain only when the round is over.
 */
void page_cache_agree(struct page_cache *c, uint32_t slot, uint32_t round);
bool page_cache_agreed(const struct page_cache *c, uint32_t slot, uint32_t round);

/* The receiver's side: takes a slot into use; whether it is. False for a slot that is none. */
void page_cache_take(struct page_cache *c, uint32_t slot);
bool page_cache_taken(const struct page_cache *c, uint32_t slot);

#endif
