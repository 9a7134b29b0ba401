/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The merged checkpoint: theory of operation
 *
 * The image is a checkpoint as QEMU would read it, with one RAM record for each page that any of
 * the merged ones has, in the order in which the pages came first. A page that comes again is
 * written over the old one in its place. So memory is bounded by the guest's, merging costs one
 * copy of each page, and loading the image needs nothing but an end:
 *
 *   03 section, records, end of records, footer, 00, VMSTATE_SIZE, the newest device state
 *
 * For that all records of a block have one length: each names its block, and a zero page is a page
 * of zeros.
 *
 * The block that is not named. Before any record of the channel has named a block, records speak of
 * the one in which the initial migration ended (stream.h). They are the first of all then, so they
 * stand in front of all others and may stay without a name. Such a page may come again under the
 * block's name: that record is behind, and is loaded later.
 *
 * What follows the image on the channel may begin with "same block as the record before", and means
 * the last record of the last checkpoint that was merged. If the image's last record is in
 * another block, the former is repeated at the end.
 *
 * Commands in a checkpoint (stream.c accepts two, and QEMU 11 sends none there) are left out.
 */
#include "kvm/image.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/wire.h"

#define PAGE_SIZE    ((size_t)STREAM_PAGE_SIZE)
#define MAX_BLOCKS   256u
#define FIRST_SLOTS  4096u
#define SECTION_HEAD 5u
#define TAIL_LEN     (8u + 1u + 4u + 1u + 4u + 8u)
#define RECORD_MAX   (8u + 1u + 255u + PAGE_SIZE)

#define FLAG_PAGE 0x08u
#define FLAG_END  0x10u
#define FLAG_SAME 0x20u

struct block {
	uint8_t len; /* 0: the one that is not named */
	char name[255];
};

/* Where a page's record is. */
struct slot {
	uint64_t key; /* block << 32 | page number, plus 1; 0: free */
	size_t at;
};

struct image {
	struct ckpt ckpt;
	struct stream walk; /* over all checkpoints of the channel */
	bool walking;       /* in the middle of one */
	bool finished;
	struct slot *slots; /* open addressing; a power of 2, at most half of them used */
	size_t slot_count, used;
	struct block *blocks;
	unsigned block_count;
	unsigned newest, last; /* blocks: of the newest record; of the last one in the image */
	size_t newest_at;      /* where the newest record is; 0: there is none */
	uint8_t *state;
	size_t state_len, state_room;
};

int image_new(struct image **ret_image, size_t limit)
{
	struct image *image = calloc(1, sizeof(*image));
	int r = -ENOMEM;

	if (!image)
		return -ENOMEM;
	image->blocks = calloc(MAX_BLOCKS, sizeof(*image->blocks));
	if (image->blocks)
		r = ckpt_buf_init(&image->ckpt.buf, limit, 0);
	if (r < 0) {
		image_free(image);
		return r;
	}
	*ret_image = image;
	return 0;
}

void image_reset(struct image *image)
{
	ckpt_buf_reset(&image->ckpt.buf);
	free(image->slots);
	free(image->state);
	image->slots = NULL;
	image->state = NULL;
	image->slot_count = image->used = 0;
	image->state_len = image->state_room = 0;
	image->block_count = 0;
	image->newest_at = 0;
	image->walking = image->finished = false;
}

void image_free(struct image *image)
{
	if (!image)
		return;
	if (image->ckpt.buf.base)
		image_reset(image);
	ckpt_buf_fini(&image->ckpt.buf);
	free(image->blocks);
	free(image);
}

void image_begin(struct image *image, const struct stream *channel)
{
	image_reset(image);
	image->walk = *channel;
}

size_t image_bytes(const struct image *image)
{
	return image->ckpt.buf.len + image->state_len;
}

size_t image_limit(const struct image *image)
{
	return image->ckpt.buf.limit;
}

/* ---- the index ---- */

static uint64_t spread(uint64_t key)
{
	key *= 0x9e3779b97f4a7c15ull;
	return key ^ key >> 32;
}

/* The key's slot, or the free one where it belongs. */
static struct slot *find(struct slot *slots, size_t count, uint64_t key)
{
	size_t i = spread(key) & (count - 1);

	while (slots[i].key && slots[i].key != key)
		i = (i + 1) & (count - 1);
	return &slots[i];
}

static int make_room(struct image *image)
{
	size_t count = image->slot_count ? image->slot_count * 2 : FIRST_SLOTS;
	struct slot *slots;

	if (image->used * 2 < image->slot_count)
		return 0;
	slots = calloc(count, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	for (size_t i = 0; i < image->slot_count; i++) {
		if (image->slots[i].key)
			*find(slots, count, image->slots[i].key) = image->slots[i];
	}
	free(image->slots);
	image->slots = slots;
	image->slot_count = count;
	return 0;
}

static int block_of(struct image *image, const struct stream_page *page, unsigned *ret_block)
{
	struct block *block;

	for (unsigned i = 0; i < image->block_count; i++) {
		block = &image->blocks[i];
		if (block->len == page->block_len &&
		    memcmp(block->name, page->block, block->len) == 0) {
			*ret_block = i;
			return 0;
		}
	}
	if (image->block_count == MAX_BLOCKS || page->block_len > sizeof(block->name))
		return -ENOSPC;
	block = &image->blocks[image->block_count];
	block->len = (uint8_t)page->block_len;
	memcpy(block->name, page->block, page->block_len);
	*ret_block = image->block_count++;
	return 0;
}

/* ---- records ---- */

static size_t head_len(const struct block *block)
{
	return block->len ? 8u + 1u + block->len : 8u;
}

/* So much can be added, and the end that the image will have. */
static bool has_room(const struct image *image, size_t len)
{
	size_t used = image->ckpt.buf.len + image->state_len + RECORD_MAX + TAIL_LEN;

	return used + len <= image->ckpt.buf.limit;
}

/* The head of a new record at the end; its page's place is behind it. */
static int append_record(struct image *image, unsigned block, uint64_t offset)
{
	const struct block *in = &image->blocks[block];
	size_t len = head_len(in) + PAGE_SIZE;
	uint8_t *to;

	if (!image->ckpt.buf.len) {
		uint8_t head[SECTION_HEAD] = {0x03};

		wire_put_be32(head + 1, image->walk.section);
		if (ckpt_buf_append(&image->ckpt.buf, head, sizeof(head)) < 0)
			return -ENOSPC;
	}
	if (!has_room(image, len))
		return -ENOSPC;
	to = image->ckpt.buf.base + image->ckpt.buf.len;
	wire_put_be64(to, offset | FLAG_PAGE | (in->len ? 0 : FLAG_SAME));
	if (in->len) {
		to[8] = in->len;
		memcpy(to + 9, in->name, in->len);
	}
	image->last = block;
	return ckpt_buf_filled(&image->ckpt.buf, len);
}

static int merge_page(struct image *image, const struct stream_page *page)
{
	struct slot *slot;
	unsigned block = 0;
	uint8_t *to;
	int r;

	if (page->kind == STREAM_PAGE_XBZRLE)
		return -EBADMSG; /* a difference to what only QEMU has */
	r = make_room(image);
	if (r == 0)
		r = block_of(image, page, &block);
	if (r < 0)
		return r;
	slot = find(image->slots, image->slot_count,
	            ((uint64_t)block << 32 | page->offset / PAGE_SIZE) + 1);
	if (!slot->key) {
		size_t at = image->ckpt.buf.len ? image->ckpt.buf.len : SECTION_HEAD;

		r = append_record(image, block, page->offset);
		if (r < 0)
			return r;
		*slot = (struct slot){.key = ((uint64_t)block << 32 | page->offset / PAGE_SIZE) + 1,
		                      .at = at};
		image->used++;
	}
	to = image->ckpt.buf.base + slot->at + head_len(&image->blocks[block]);
	if (page->kind == STREAM_PAGE_ZERO)
		memset(to, page->data[0], PAGE_SIZE);
	else
		memcpy(to, page->data, PAGE_SIZE);
	image->newest = block;
	image->newest_at = slot->at;
	return 0;
}

static int take_state(struct image *image, const struct ckpt *ckpt)
{
	const struct stream_stats *stats = &image->walk.stats;

	if (image->walk.state != STREAM_DONE || stats->bytes != ckpt->buf.len)
		return -EBADMSG;
	if (image->state_room < stats->state_bytes) {
		uint8_t *state = realloc(image->state, stats->state_bytes);

		if (!state)
			return -ENOMEM;
		image->state = state;
		image->state_room = stats->state_bytes;
	}
	image->state_len = stats->state_bytes;
	memcpy(image->state, ckpt->buf.base + stats->state_offset, stats->state_bytes);
	return has_room(image, 0) ? 1 : -ENOSPC;
}

int image_merge(struct image *image, const struct ckpt *ckpt, unsigned records)
{
	assert(!image->finished);
	if (!image->walking)
		stream_begin(&image->walk);
	image->walking = true;
	while (records--) {
		struct stream_page page;
		int r = stream_next(&image->walk, ckpt->buf.base, ckpt->buf.len, &page);

		if (r < 0)
			return -EBADMSG;
		if (r == 0) {
			image->walking = false;
			return take_state(image, ckpt);
		}
		r = merge_page(image, &page);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- the end ---- */

/* Where the channel goes on is where the image ends. */
static void end_in_newest_block(struct image *image)
{
	struct ckpt_buf *buf = &image->ckpt.buf;
	size_t len = head_len(&image->blocks[image->newest]) + PAGE_SIZE;
	int r;

	if (!image->newest_at || image->newest == image->last)
		return;
	r = ckpt_buf_append(buf, buf->base + image->newest_at, len);
	assert(r == 0); /* has_room() */
	(void)r;
}

struct ckpt *image_finish(struct image *image)
{
	struct ckpt_buf *buf = &image->ckpt.buf;
	uint8_t tail[TAIL_LEN] = {0};
	int r = 0;

	assert(!image->walking && !image->finished && image->state_len);
	if (!buf->len) { /* no page at all */
		uint8_t head[SECTION_HEAD] = {0x03};

		wire_put_be32(head + 1, image->walk.section);
		r = ckpt_buf_append(buf, head, sizeof(head));
	}
	end_in_newest_block(image);
	wire_put_be64(tail, FLAG_END);
	tail[8] = 0x7e;
	wire_put_be32(tail + 9, image->walk.section);
	wire_put_be32(tail + 14, COLO_VMSTATE_SIZE);
	wire_put_be64(tail + 18, image->state_len);
	if (r == 0)
		r = ckpt_buf_append(buf, tail, sizeof(tail));
	if (r == 0)
		r = ckpt_buf_append(buf, image->state, image->state_len);
	assert(r == 0); /* has_room() */
	image->finished = true;
	return &image->ckpt;
}
