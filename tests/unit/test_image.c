/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Random checkpoints, loaded one after the other into a model of guest memory, or merged and loaded
 * once: the memory must be the same, and so must be what the channel's next record means.
 */
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "kvm/image.h"
#include "tests/unit/ckpt_builder.h"

#define PAGES  24u
#define BLOCKS 3u
#define LIMIT  (4u << 20)

static const char *const names[BLOCKS] = {"pc.ram", "vga.vram", "/rom@etc/acpi/tables"};

/* What QEMU has: the bytes that fill each page, and its walk over the channel. */
struct memory {
	uint8_t page[BLOCKS][PAGES];
	unsigned at; /* the block that is meant without a name */
	uint8_t state;
};

static unsigned block_of(const struct stream_page *page, const struct memory *memory)
{
	for (unsigned i = 0; !page->same_block && i < BLOCKS; i++) {
		if (page->block_len == strlen(names[i]) &&
		    memcmp(page->block, names[i], page->block_len) == 0)
			return i;
	}
	g_assert_true(page->same_block);
	return memory->at;
}

static void load(struct memory *memory, const uint8_t *base, size_t len)
{
	struct stream walk;
	struct stream_page page;

	stream_init(&walk);
	while (stream_next(&walk, base, len, &page) == 1) {
		memory->at = block_of(&page, memory);
		g_assert_cmpuint(page.offset / 4096, <, PAGES);
		for (size_t i = 1; i < page.data_len; i++)
			g_assert_cmpuint(page.data[i], ==, page.data[0]);
		memory->page[memory->at][page.offset / 4096] = page.data[0];
	}
	g_assert_cmpint(walk.state, ==, STREAM_DONE);
	g_assert_cmpuint(walk.stats.bytes, ==, len);
	memory->state = base[walk.stats.state_offset];
}

/* What the PVM's QEMU sends; *block is the block of its last record. */
static void build(GByteArray *b, unsigned *block, unsigned records, uint8_t state)
{
	g_byte_array_set_size(b, 0);
	build_section(b, 0x03, RAM_SECTION);
	for (unsigned i = 0; i < records; i++) {
		unsigned to = g_test_rand_int_range(0, 3)
		                      ? *block
		                      : (unsigned)g_test_rand_int_range(0, BLOCKS);
		const char *name = to == *block && g_test_rand_int_range(0, 8) ? NULL : names[to];
		uint64_t offset = 4096u * (unsigned)g_test_rand_int_range(0, PAGES);

		if (g_test_rand_int_range(0, 4))
			build_page(b, name, offset, (uint8_t)g_test_rand_int_range(1, 256));
		else
			build_zero(b, name, offset);
		*block = to;
	}
	build_section_end(b, RAM_SECTION);
	build_state(b, 1 + state % 70);
	b->data[b->len - 1 - state % 70] = state;
}

static int merge(struct image *image, const GByteArray *b, unsigned step)
{
	struct ckpt ckpt = {.buf = {.base = b->data, .len = b->len, .limit = b->len}};
	int r;

	do
		r = image_merge(image, &ckpt, step);
	while (r == 0);
	return r;
}

static void test_random(void)
{
	GByteArray *b = g_byte_array_new();
	struct image *image;

	g_assert_cmpint(image_new(&image, LIMIT), ==, 0);
	for (unsigned run = 0; run < 300; run++) {
		struct memory one = {.at = run % BLOCKS}, merged = one;
		unsigned block = one.at;
		struct stream channel;

		stream_init(&channel);
		for (unsigned round = 0; round < 4; round++) {
			unsigned n = (unsigned)g_test_rand_int_range(1, 6);
			const struct ckpt *ckpt;

			image_begin(image, &channel);
			for (unsigned i = 0; i < n; i++) {
				build(b, &block, (unsigned)g_test_rand_int_range(0, 20),
				      (uint8_t)g_test_rand_int_range(0, 256));
				load(&one, b->data, b->len);
				g_assert_cmpint(merge(image, b, 1 + run % 7), ==, 1);
			}
			ckpt = image_finish(image);
			load(&merged, ckpt->buf.base, ckpt->buf.len);
			g_assert_cmpmem(one.page, sizeof(one.page), merged.page,
			                sizeof(merged.page));
			g_assert_cmpuint(one.at, ==, merged.at);
			g_assert_cmpuint(one.state, ==, merged.state);
			/* The relay's walk goes on behind what it has sent. */
			stream_begin(&channel);
			g_assert_cmpint(stream_feed(&channel, ckpt->buf.base, ckpt->buf.len), ==,
			                1);
			/* One that is loaded as it is. */
			build(b, &block, 3, (uint8_t)round);
			load(&one, b->data, b->len);
			load(&merged, b->data, b->len);
			stream_begin(&channel);
			g_assert_cmpint(stream_feed(&channel, b->data, b->len), ==, 1);
			g_assert_cmpmem(one.page, sizeof(one.page), merged.page,
			                sizeof(merged.page));
		}
	}
	image_free(image);
	g_byte_array_unref(b);
}

/* A page that comes again takes nothing more. */
static void test_bounded(void)
{
	GByteArray *b = g_byte_array_new();
	struct stream channel;
	struct image *image;
	size_t first = 0;

	stream_init(&channel);
	g_assert_cmpint(image_new(&image, 128 << 10), ==, 0);
	g_assert_cmpuint(image_limit(image), ==, 128 << 10);
	image_begin(image, &channel);
	for (unsigned i = 0; i < 1000; i++) {
		g_byte_array_set_size(b, 0);
		build_section(b, 0x02, RAM_SECTION);
		for (unsigned page = 0; page < 20; page++)
			build_page(b, page ? NULL : "pc.ram", page * 4096u, (uint8_t)i);
		build_section_end(b, RAM_SECTION);
		build_section(b, 0x03, RAM_SECTION);
		build_section_end(b, RAM_SECTION);
		build_state(b, 77);
		g_assert_cmpint(merge(image, b, 5), ==, 1);
		first = first ? first : image_bytes(image);
		g_assert_cmpuint(image_bytes(image), ==, first);
	}
	g_assert_cmpuint(first, <, 21 * 4200);
	g_byte_array_set_size(b, 0);
	build_section(b, 0x03, RAM_SECTION);
	for (unsigned page = 20; page < 40; page++)
		build_page(b, NULL, page * 4096u, 1);
	build_section_end(b, RAM_SECTION);
	build_state(b, 77);
	g_assert_cmpint(merge(image, b, 5), ==, -ENOSPC);
	image_reset(image);
	g_assert_cmpuint(image_bytes(image), ==, 0);
	image_free(image);
	image_free(NULL);
	g_byte_array_unref(b);
}

static void test_refused(void)
{
	GByteArray *b = g_byte_array_new();
	struct stream channel;
	struct image *image;

	stream_init(&channel);
	g_assert_cmpint(image_new(&image, LIMIT), ==, 0);
	image_begin(image, &channel);
	build_section(b, 0x03, RAM_SECTION);
	build_xbzrle(b, "pc.ram", 0, 19);
	build_section_end(b, RAM_SECTION);
	build_state(b, 7);
	g_assert_cmpint(merge(image, b, 5), ==, -EBADMSG);
	image_begin(image, &channel);
	g_byte_array_set_size(b, 0);
	build_section(b, 0x03, RAM_SECTION);
	build_page(b, "pc.ram", 0, 1);
	g_assert_cmpint(merge(image, b, 5), ==, -EBADMSG); /* half of one */
	image_begin(image, &channel);
	g_byte_array_set_size(b, 0);
	build_u8(b, 0x77);
	g_assert_cmpint(merge(image, b, 5), ==, -EBADMSG);
	image_free(image);
	g_byte_array_unref(b);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/image/random", test_random);
	g_test_add_func("/image/bounded", test_bounded);
	g_test_add_func("/image/refused", test_refused);
	return g_test_run();
}
