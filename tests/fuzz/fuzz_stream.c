/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The checkpoint walk: byte 0 seeds the cuts, the rest is a checkpoint. Whatever the bytes, the
 * walk must give the same result in one piece, in random pieces, and page by page.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
	if (!ok)
		abort();
}

static int in_pieces(struct stream *s, const uint8_t *base, size_t len, uint32_t seed)
{
	size_t at = 0;
	int rc = 0;

	while (rc == 0 && at < len) {
		seed = seed * 1103515245 + 12345;
		at += 1 + (seed >> 16) % 4099;
		rc = stream_feed(s, base, at < len ? at : len);
	}
	return rc;
}

static int page_by_page(struct stream *s, const uint8_t *base, size_t len)
{
	struct stream_page page;
	int rc;

	while ((rc = stream_next(s, base, len, &page)) == 1) {
		check(page.data >= base && page.data_len <= len);
		check((size_t)(page.data - base) <= len - page.data_len);
		check(page.record_offset + page.record_len <= len);
		check(page.block_len <= sizeof(s->block));
		check(page.offset % STREAM_PAGE_SIZE == 0);
	}
	return rc < 0 ? rc : s->state == STREAM_DONE;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct stream whole;
	struct stream pieces;
	struct stream pages;
	int rc;

	if (size < 2)
		return 0;
	stream_init(&whole);
	stream_init(&pieces);
	stream_init(&pages);
	rc = stream_feed(&whole, data + 1, size - 1);
	check(rc == 1 || rc == 0 || rc < 0);
	check(in_pieces(&pieces, data + 1, size - 1, data[0]) == rc);
	check(memcmp(&whole.stats, &pieces.stats, sizeof(whole.stats)) == 0);
	check(strcmp(whole.err, pieces.err) == 0);
	check((rc < 0) == (whole.err[0] != '\0'));
	if (rc == 1) {
		check(whole.stats.bytes <= size - 1);
		check(page_by_page(&pages, data + 1, size - 1) == 1);
		check(memcmp(&whole.stats, &pages.stats, sizeof(whole.stats)) == 0);
	} else {
		check(page_by_page(&pages, data + 1, size - 1) == rc);
	}
	return 0;
}
