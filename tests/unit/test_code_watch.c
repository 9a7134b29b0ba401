/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdlib.h>
#include <string.h>

#include <glib.h>

#include "qemu-glue/plugin/code_watch.h"

#define PAGES 4U

struct fixture {
	struct code_watch watch;
	uint8_t *memory; /* the guest's, PAGES pages */
	uint8_t second[WATCH_PAGE_SIZE];
	bool unreadable;
};

static bool read_second(uint64_t addr, uint8_t *buf, unsigned int len, void *ctx)
{
	const struct fixture *f = ctx;

	g_assert_cmpuint(addr % WATCH_PAGE_SIZE, ==, 0);
	memcpy(buf, f->second, len);
	return !f->unreadable;
}

static void set_up(struct fixture *f, gconstpointer data)
{
	(void)data;
	g_assert_cmpint(code_watch_init(&f->watch), ==, 0);
	f->memory = aligned_alloc(WATCH_PAGE_SIZE, PAGES * WATCH_PAGE_SIZE);
	g_assert_nonnull(f->memory);
	memset(f->memory, 0x90, PAGES * WATCH_PAGE_SIZE);
}

static void tear_down(struct fixture *f, gconstpointer data)
{
	(void)data;
	code_watch_fini(&f->watch);
	free(f->memory);
}

static bool changed(struct fixture *f)
{
	return code_watch_changed(&f->watch, read_second, f);
}

/* Each byte of a run is watched, and none beside it; runs begin and end anywhere in a page. */
static void test_each_byte(struct fixture *f, gconstpointer data)
{
	static const unsigned int runs[][2] = {{0, 1},   {5, 3},    {60, 8},   {64, 64},
	                                       {63, 66}, {0, 64},   {4095, 1}, {4000, 96},
	                                       {1, 200}, {0, 4096}, {127, 129}};

	(void)data;
	for (size_t r = 0; r < G_N_ELEMENTS(runs); r++) {
		uint8_t *page = f->memory + WATCH_PAGE_SIZE;
		unsigned int from = runs[r][0];
		unsigned int to = from + runs[r][1];

		code_watch_empty(&f->watch);
		code_watch_add(&f->watch, page + from, to - from);
		g_assert_cmpuint(f->watch.bytes, ==, to - from);
		for (unsigned int i = 0; i < WATCH_PAGE_SIZE; i++) {
			page[i] ^= 0xff;
			g_assert_cmpint(changed(f), ==, i >= from && i < to);
			page[i] ^= 0xff;
		}
		g_assert_false(changed(f));
	}
}

/* Overlapping runs count once; bytes that are added again are taken as they are now. */
static void test_again(struct fixture *f, gconstpointer data)
{
	(void)data;
	code_watch_add(&f->watch, f->memory + 100, 20);
	code_watch_add(&f->watch, f->memory + 110, 20);
	g_assert_cmpuint(f->watch.bytes, ==, 30);
	g_assert_cmpuint(f->watch.by_host.n, ==, 1);
	f->memory[115] = 1;
	g_assert_true(changed(f));
	code_watch_add(&f->watch, f->memory + 110, 10);
	g_assert_false(changed(f));
	f->memory[105] = 1;
	g_assert_true(changed(f));
	code_watch_empty(&f->watch);
	g_assert_false(changed(f));
	g_assert_cmpuint(f->watch.bytes, ==, 0);
}

/* A page that comes back after the table was emptied has none of its old bytes. */
static void test_reuse(struct fixture *f, gconstpointer data)
{
	(void)data;
	code_watch_add(&f->watch, f->memory, WATCH_PAGE_SIZE);
	code_watch_empty(&f->watch);
	code_watch_add(&f->watch, f->memory + 2 * WATCH_PAGE_SIZE, 1);
	f->memory[10] = 1;
	f->memory[2 * WATCH_PAGE_SIZE + 10] = 1;
	g_assert_false(changed(f));
	f->memory[2 * WATCH_PAGE_SIZE] = 1;
	g_assert_true(changed(f));
}

static void test_heads(struct fixture *f, gconstpointer data)
{
	static const uint8_t bytes[] = {1, 2, 3, 4};

	(void)data;
	memcpy(f->second, bytes, sizeof(bytes));
	code_watch_add_head(&f->watch, 0x200000, bytes, 4);
	code_watch_add_head(&f->watch, 0x200000, bytes, 2);
	g_assert_cmpuint(f->watch.by_addr.n, ==, 1);
	g_assert_false(changed(f));
	f->second[4] = 9;
	g_assert_false(changed(f));
	f->second[3] = 9;
	g_assert_true(changed(f));
	code_watch_add_head(&f->watch, 0x200000, f->second, 4);
	g_assert_false(changed(f));
	f->unreadable = true;
	g_assert_true(changed(f));
}

static void test_blind(struct fixture *f, gconstpointer data)
{
	(void)data;
	code_watch_blind(&f->watch);
	g_assert_true(changed(f));
	code_watch_empty(&f->watch);
	g_assert_false(changed(f));
}

/* A full table is blind, and still knows what it has; emptied, it takes new entries. */
static void test_full(struct fixture *f, gconstpointer data)
{
	const uint8_t byte = 7;

	(void)data;
	for (uint64_t i = 0; i < WATCH_PAGES; i++)
		code_watch_add_head(&f->watch, i * WATCH_PAGE_SIZE, &byte, 1);
	f->second[0] = 7;
	g_assert_false(changed(f));
	code_watch_add_head(&f->watch, 5 * WATCH_PAGE_SIZE, &byte, 1);
	g_assert_false(changed(f));
	code_watch_add_head(&f->watch, (uint64_t)WATCH_PAGES * WATCH_PAGE_SIZE, &byte, 1);
	g_assert_true(changed(f));
	g_assert_cmpuint(f->watch.by_addr.n, ==, WATCH_PAGES);
	code_watch_empty(&f->watch);
	code_watch_add_head(&f->watch, 0, &byte, 1);
	g_assert_false(changed(f));
	g_assert_cmpuint(f->watch.by_addr.n, ==, 1);
}

#define ADD(name, function)                                                                        \
	g_test_add("/code_watch/" name, struct fixture, NULL, set_up, function, tear_down)

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	ADD("each_byte", test_each_byte);
	ADD("again", test_again);
	ADD("reuse", test_reuse);
	ADD("heads", test_heads);
	ADD("blind", test_blind);
	ADD("full", test_full);
	return g_test_run();
}
