/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvm/ckpt_buf.h"
#include "kvm/stream.h"
#include "tests/unit/ckpt_builder.h"

/* Walks over exactly `len` bytes in memory of their own, so that a read behind them is seen. */
static int feed_exact(struct stream *s, const GByteArray *b, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);
	int rc;

	g_assert_nonnull(copy);
	memcpy(copy, b->data, len);
	rc = stream_feed(s, copy, len);
	free(copy);
	return rc;
}

static void assert_sample_stats(const struct stream *s, const GByteArray *b)
{
	g_assert_cmpuint(s->stats.bytes, ==, b->len);
	g_assert_cmpuint(s->stats.pages, ==, 3);
	g_assert_cmpuint(s->stats.zero_pages, ==, 2);
	g_assert_cmpuint(s->stats.xbzrle_pages, ==, 1);
	g_assert_cmpuint(s->stats.state_bytes, ==, 77);
	g_assert_cmpuint(s->stats.state_offset, ==, b->len - 77);
}

static void test_whole(void)
{
	g_autoptr(GByteArray) b = build_sample();
	struct stream s;

	stream_init(&s);
	g_assert_cmpint(feed_exact(&s, b, b->len), ==, 1);
	assert_sample_stats(&s, b);
	g_assert_cmpint(feed_exact(&s, b, b->len), ==, 1);
}

static void test_byte_by_byte(void)
{
	g_autoptr(GByteArray) b = build_sample();
	struct stream s;

	stream_init(&s);
	for (size_t len = 0; len < b->len; len++)
		g_assert_cmpint(feed_exact(&s, b, len), ==, 0);
	g_assert_cmpint(feed_exact(&s, b, b->len), ==, 1);
	assert_sample_stats(&s, b);
}

static void test_every_cut(void)
{
	g_autoptr(GByteArray) b = build_sample();

	for (size_t cut = 0; cut < b->len; cut++) {
		struct stream s;

		stream_init(&s);
		g_assert_cmpint(feed_exact(&s, b, cut), ==, 0);
		g_assert_cmpint(feed_exact(&s, b, b->len), ==, 1);
		assert_sample_stats(&s, b);
	}
}

/* Bytes behind the end are not the walk's: it says where the end is. */
static void test_trailing(void)
{
	g_autoptr(GByteArray) b = build_sample();
	size_t end = b->len;
	struct stream s;

	build_fill(b, 0x55, 100);
	stream_init(&s);
	g_assert_cmpint(feed_exact(&s, b, b->len), ==, 1);
	g_assert_cmpuint(s.stats.bytes, ==, end);
}

static void check_corrupt(const GByteArray *b, size_t at)
{
	struct stream s;
	int whole;
	int cut;

	stream_init(&s);
	whole = feed_exact(&s, b, b->len);
	g_assert_true(whole == 0 || whole == 1 || whole == -EPROTO);
	if (whole == 1)
		g_assert_cmpuint(s.stats.bytes, <=, b->len);
	if (whole == 0)
		g_assert_true(s.state != STREAM_DONE && s.state != STREAM_FAILED);
	if (whole < 0) {
		g_assert_true(g_str_has_prefix(s.err, "checkpoint offset "));
		g_assert_cmpint(feed_exact(&s, b, b->len), ==, -EPROTO);
	}
	/* The same verdict when it is cut behind the corrupted byte. */
	stream_init(&s);
	(void)feed_exact(&s, b, at + 1);
	cut = feed_exact(&s, b, b->len);
	g_assert_cmpint(cut, ==, whole);
}

static void test_every_corruption(void)
{
	static const uint8_t flips[] = {0x01, 0x02, 0x10, 0x20, 0x40, 0x80, 0x08, 0x04, 0xff};
	g_autoptr(GByteArray) b = build_sample();

	for (size_t at = 0; at < b->len; at++) {
		for (size_t i = 0; i < G_N_ELEMENTS(flips); i++) {
			/* Page contents are never looked at: a few of them will do. */
			if (at > 64 && b->data[at] >= 0xa1 && b->data[at] <= 0xa3 && at % 512)
				continue;
			b->data[at] ^= flips[i];
			check_corrupt(b, at);
			b->data[at] ^= flips[i];
		}
	}
}

static void test_random_corruption(void)
{
	for (int round = 0; round < 2000; round++) {
		g_autoptr(GByteArray) b = build_sample();
		struct stream s;
		int hits = g_test_rand_int_range(1, 6);

		while (hits-- > 0)
			b->data[g_test_rand_int_range(0, (gint32)b->len)] =
			        (uint8_t)g_test_rand_int_range(0, 256);
		stream_init(&s);
		(void)feed_exact(&s, b, (size_t)g_test_rand_int_range(0, (gint32)b->len + 1));
		(void)feed_exact(&s, b, b->len);
	}
}

struct malformed {
	const char *expect; /* part of the error text */
	void (*build)(GByteArray *b);
};

static void bad_start_section(GByteArray *b)
{
	build_section(b, 0x01, RAM_SECTION);
}

static void bad_full_section(GByteArray *b)
{
	build_section(b, 0x04, 7);
}

static void bad_other_section(GByteArray *b)
{
	build_section(b, 0x02, RAM_SECTION);
	build_section_end(b, RAM_SECTION);
	build_section(b, 0x03, RAM_SECTION + 1);
}

static void bad_footer_id(GByteArray *b)
{
	build_section(b, 0x03, RAM_SECTION);
	build_section_end(b, RAM_SECTION + 1);
}

static void bad_footer_mark(GByteArray *b)
{
	build_section(b, 0x03, RAM_SECTION);
	build_be64(b, 0x10);
	build_section(b, 0x7f, RAM_SECTION);
}

static void bad_second_end(GByteArray *b)
{
	build_section(b, 0x03, RAM_SECTION);
	build_section_end(b, RAM_SECTION);
	build_section(b, 0x03, RAM_SECTION);
}

static void bad_no_end(GByteArray *b)
{
	build_section(b, 0x02, RAM_SECTION);
	build_section_end(b, RAM_SECTION);
	build_state(b, 5);
}

static void bad_flags(GByteArray *b)
{
	build_section(b, 0x03, RAM_SECTION);
	build_record(b, "pc.ram", 0x1000, 0x0a);
}

static void bad_multifd(GByteArray *b)
{
	build_section(b, 0x03, RAM_SECTION);
	build_be64(b, 0x200);
}

static void bad_eos_offset(GByteArray *b)
{
	build_section(b, 0x03, RAM_SECTION);
	build_be64(b, 0x1010);
}

static void bad_offset(GByteArray *b)
{
	build_section(b, 0x03, RAM_SECTION);
	build_page(b, "pc.ram", STREAM_MAX_OFFSET, 1);
}

static void bad_name_empty(GByteArray *b)
{
	build_section(b, 0x03, RAM_SECTION);
	build_page(b, "", 0, 1);
}

static void bad_name_nul(GByteArray *b)
{
	build_section(b, 0x03, RAM_SECTION);
	build_be64(b, 0x08);
	build_u8(b, 2);
	build_be16(b, 0x4100);
}

static void bad_xbzrle_mark(GByteArray *b)
{
	build_section(b, 0x03, RAM_SECTION);
	build_record(b, "pc.ram", 0, 0x40);
	build_u8(b, 2);
	build_be16(b, 10);
}

static void bad_xbzrle_len(GByteArray *b)
{
	build_section(b, 0x03, RAM_SECTION);
	build_record(b, "pc.ram", 0, 0x40);
	build_u8(b, 1);
	build_be16(b, 4097);
}

static void bad_command(GByteArray *b)
{
	build_command(b, 8, 4);
}

static void bad_command_len(GByteArray *b)
{
	build_command(b, 9, 257);
}

static void bad_message(GByteArray *b)
{
	build_section(b, 0x03, RAM_SECTION);
	build_section_end(b, RAM_SECTION);
	build_u8(b, 0);
	build_be32(b, 5);
}

static void bad_state_zero(GByteArray *b)
{
	build_section(b, 0x03, RAM_SECTION);
	build_section_end(b, RAM_SECTION);
	build_state(b, 0);
}

static void bad_state_large(GByteArray *b)
{
	build_section(b, 0x03, RAM_SECTION);
	build_section_end(b, RAM_SECTION);
	build_u8(b, 0);
	build_be32(b, 4);
	build_be64(b, STREAM_MAX_STATE + 1);
}

static const struct malformed malformed[] = {
        {"offset 0: found section type 0x01", bad_start_section},
        {"offset 0: found section type 0x04", bad_full_section},
        {"offset 18: found live section 4, expected RAM's, 3", bad_other_section},
        {"offset 13: found 7e 00000004, expected a section footer, 7e 00000003", bad_footer_id},
        {"offset 13: found 7f 00000003", bad_footer_mark},
        {"offset 18: found a live section, expected none after RAM's end", bad_second_end},
        {"offset 18: found the end mark, expected the end of RAM first", bad_no_end},
        {"offset 5: found RAM record flags 0x00a", bad_flags},
        {"multifd must be off", bad_multifd},
        {"offset 5: found RAM record flags 0x010", bad_eos_offset},
        {"offset 5: found RAM offset 0x100000000000", bad_offset},
        {"offset 13: found a block name of 0 bytes", bad_name_empty},
        {"offset 14: found a NUL in a block name", bad_name_nul},
        {"offset 20: found xbzrle header 0x02", bad_xbzrle_mark},
        {"offset 20: found 4097 bytes of xbzrle", bad_xbzrle_len},
        {"offset 0: found command 8", bad_command},
        {"offset 0: found 257 bytes of data for command 9", bad_command_len},
        {"offset 19: found message 5 (VMSTATE_RECEIVED), expected VMSTATE_SIZE", bad_message},
        {"offset 23: found 0 bytes of device state", bad_state_zero},
        {"offset 23: found 67108865 bytes of device state", bad_state_large},
};

static void test_malformed(void)
{
	for (size_t i = 0; i < G_N_ELEMENTS(malformed); i++) {
		g_autoptr(GByteArray) b = g_byte_array_new();
		struct stream s;
		int rc = 0;

		malformed[i].build(b);
		stream_init(&s);
		for (size_t len = 0; len <= b->len && rc == 0; len++)
			rc = feed_exact(&s, b, len);
		g_test_message("%s", s.err);
		g_assert_cmpint(rc, ==, -EPROTO);
		g_assert_nonnull(strstr(s.err, malformed[i].expect));
	}
}

struct expected_page {
	const char *block;
	uint64_t offset;
	size_t data_len;
	enum stream_page_kind kind;
	uint8_t first;
	bool same_block;
};

static const struct expected_page sample_pages[] = {
        {"pc.ram", 0x1000, 4096, STREAM_PAGE_FULL, 0xa1, false},
        {"pc.ram", 0x2000, 1, STREAM_PAGE_ZERO, 0x00, true},
        {"pc.ram", 0x7000, 4096, STREAM_PAGE_FULL, 0xa2, true},
        {"0000:00:02.0/vga.vram", 0x3000, 19, STREAM_PAGE_XBZRLE, 0xee, false},
        {"0000:00:02.0/vga.vram", 0x4000, 1, STREAM_PAGE_ZERO, 0x00, true},
        {"pc.ram", UINT64_C(0xfffff000), 4096, STREAM_PAGE_FULL, 0xa3, false},
};

static void assert_page(const struct stream_page *p, const struct expected_page *e)
{
	g_assert_cmpint(p->kind, ==, e->kind);
	g_assert_cmpmem(p->block, p->block_len, e->block, strlen(e->block));
	g_assert_cmpuint(p->offset, ==, e->offset);
	g_assert_cmpuint(p->data_len, ==, e->data_len);
	g_assert_cmpuint(p->data[0], ==, e->first);
	g_assert_cmpuint(p->data[p->data_len - 1], ==, e->first);
	g_assert_cmpint(p->same_block, ==, e->same_block);
}

static void test_pages(void)
{
	g_autoptr(GByteArray) b = build_sample();
	struct stream_page p;
	struct stream s;

	stream_init(&s);
	for (size_t i = 0; i < G_N_ELEMENTS(sample_pages); i++) {
		g_assert_cmpint(stream_next(&s, b->data, b->len, &p), ==, 1);
		assert_page(&p, &sample_pages[i]);
		g_assert_cmpuint(p.record_offset + p.record_len, ==, s.pos);
	}
	g_assert_cmpint(stream_next(&s, b->data, b->len, &p), ==, 0);
	g_assert_cmpint(s.state, ==, STREAM_DONE);
	assert_sample_stats(&s, b);
}

/* Pages come out whole, each as soon as it is there. */
static void test_pages_byte_by_byte(void)
{
	g_autoptr(GByteArray) b = build_sample();
	struct stream_page p;
	struct stream s;
	size_t found = 0;

	stream_init(&s);
	for (size_t len = 0; len <= b->len; len++) {
		if (stream_next(&s, b->data, len, &p) != 1)
			continue;
		g_assert_cmpuint(found, <, G_N_ELEMENTS(sample_pages));
		assert_page(&p, &sample_pages[found++]);
		g_assert_cmpuint(p.record_offset + p.record_len, ==, len);
	}
	g_assert_cmpuint(found, ==, G_N_ELEMENTS(sample_pages));
	assert_sample_stats(&s, b);
}

/* "Same block" and the section id reach into the next checkpoint. */
static void test_next_checkpoint(void)
{
	g_autoptr(GByteArray) first = build_sample();
	g_autoptr(GByteArray) next = g_byte_array_new();
	g_autoptr(GByteArray) other = g_byte_array_new();
	struct stream_page p;
	struct stream s;

	stream_init(&s);
	g_assert_cmpint(feed_exact(&s, first, first->len), ==, 1);

	build_section(next, 0x03, RAM_SECTION);
	build_page(next, NULL, 0x5000, 0xb1);
	build_section_end(next, RAM_SECTION);
	build_state(next, 9);
	stream_begin(&s);
	g_assert_cmpint(stream_next(&s, next->data, next->len, &p), ==, 1);
	g_assert_cmpmem(p.block, p.block_len, "pc.ram", 6);
	g_assert_cmpint(stream_feed(&s, next->data, next->len), ==, 1);
	g_assert_cmpuint(s.stats.pages, ==, 1);

	build_section(other, 0x03, RAM_SECTION + 1);
	stream_begin(&s);
	g_assert_cmpint(feed_exact(&s, other, other->len), ==, -EPROTO);

	stream_init(&s);
	g_assert_cmpint(stream_next(&s, next->data, next->len, &p), ==, 1);
	g_assert_cmpuint(p.block_len, ==, 0);
}

static size_t resident(const struct ckpt_buf *buf)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t pages = buf->limit / page;
	g_autofree unsigned char *map = g_malloc(pages);
	size_t n = 0;

	g_assert_cmpint(mincore(buf->base, buf->limit, map), ==, 0);
	for (size_t i = 0; i < pages; i++)
		n += map[i] & 1;
	return n * page;
}

static void test_buf(void)
{
	const size_t mib = 1024 * 1024;
	struct ckpt_buf buf = {0};
	uint8_t *ptr = NULL;
	size_t len = 0;

	ckpt_buf_fini(NULL);
	ckpt_buf_fini(&buf);
	g_assert_cmpint(ckpt_buf_init(&buf, 0, 0), ==, -EINVAL);
	g_assert_cmpint(ckpt_buf_init(&buf, SIZE_MAX / 2 & ~(size_t)4095, 0), ==, -ENOMEM);
	g_assert_cmpint(ckpt_buf_init(&buf, 8 * mib, 2 * mib), ==, 0);
	g_assert_cmpuint(resident(&buf), ==, 2 * mib);

	g_assert_cmpint(ckpt_buf_room(&buf, &ptr, &len), ==, 0);
	g_assert_cmpuint(len, ==, 8 * mib);
	memset(ptr, 1, 5 * mib);
	g_assert_cmpint(ckpt_buf_filled(&buf, 5 * mib), ==, 0);
	g_assert_cmpint(ckpt_buf_filled(&buf, 3 * mib + 1), ==, -EINVAL);
	g_assert_cmpuint(resident(&buf), ==, 5 * mib);
	g_assert_cmpint(ckpt_buf_room(&buf, &ptr, &len), ==, 0);
	g_assert_true(ptr == buf.base + 5 * mib);
	memset(ptr, 1, 3 * mib);
	g_assert_cmpint(ckpt_buf_filled(&buf, 3 * mib), ==, 0);
	len = 77;
	g_assert_cmpint(ckpt_buf_room(&buf, &ptr, &len), ==, -ENOSPC);
	g_assert_cmpuint(len, ==, 77);
	g_assert_cmpint(ckpt_buf_append(&buf, "x", 1), ==, -ENOSPC);

	/* What one took stays for the next; small ones give it back, an eighth at a time. */
	ckpt_buf_reset(&buf);
	g_assert_cmpuint(buf.len, ==, 0);
	g_assert_cmpuint(resident(&buf), ==, 8 * mib);
	ckpt_buf_reset(&buf);
	g_assert_cmpuint(resident(&buf), ==, 8 * mib);
	g_assert_cmpint(ckpt_buf_append(&buf, "abc", 3), ==, 0);
	ckpt_buf_reset(&buf);
	g_assert_cmpuint(resident(&buf), ==, 7 * mib);
	for (unsigned i = 0; i < 12; i++) {
		g_assert_cmpint(ckpt_buf_append(&buf, "abc", 3), ==, 0);
		ckpt_buf_reset(&buf);
	}
	g_assert_cmpuint(resident(&buf), ==, 2 * mib);
	g_assert_cmpint(ckpt_buf_append(&buf, "abc", 3), ==, 0);
	g_assert_cmpmem(buf.base, buf.len, "abc", 3);
	ckpt_buf_fini(&buf);
	g_assert_null(buf.base);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/stream/whole", test_whole);
	g_test_add_func("/stream/byte-by-byte", test_byte_by_byte);
	g_test_add_func("/stream/every-cut", test_every_cut);
	g_test_add_func("/stream/trailing", test_trailing);
	g_test_add_func("/stream/every-corruption", test_every_corruption);
	g_test_add_func("/stream/random-corruption", test_random_corruption);
	g_test_add_func("/stream/malformed", test_malformed);
	g_test_add_func("/stream/pages", test_pages);
	g_test_add_func("/stream/pages-byte-by-byte", test_pages_byte_by_byte);
	g_test_add_func("/stream/next-checkpoint", test_next_checkpoint);
	g_test_add_func("/ckpt-buf", test_buf);
	return g_test_run();
}
