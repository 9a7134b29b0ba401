/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <glib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "qemu-glue/guest_memory.h"

#define TITLES                                                                                     \
	"              Block Name    PSize              Offset               Used              "   \
	"Total                HVA  RO\n"
/* As QEMU 11.1.3 prints it. */
#define RAM                                                                                        \
	"                  pc.ram    4 KiB  0x0000000000000000 0x0000000010000000 "                \
	"0x0000000010000000 0x00007fae57e00000  rw\n"
#define VGA                                                                                        \
	"   0000:00:02.0/vga.vram    4 KiB  0x0000000010080000 0x0000000001000000 "                \
	"0x0000000001000000 0x00007fae56c00000  rw\n"
#define ACPI                                                                                       \
	"    /rom@etc/acpi/tables    4 KiB  0x00000000110c0000 0x0000000000020000 "                \
	"0x0000000000200000 0x00007faeb4200000  ro\n"

static void test_parse(void)
{
	struct guest_memory memory;
	char err[256] = "";

	g_assert_cmpint(guest_memory_parse(TITLES RAM VGA ACPI, &memory, err, sizeof(err)), ==, 0);
	g_assert_cmpuint(memory.n, ==, 3);
	g_assert_cmpstr(memory.block[0].name, ==, "pc.ram");
	g_assert_cmpuint(memory.block[0].host, ==, 0x7fae57e00000);
	g_assert_cmpuint(memory.block[0].used, ==, 0x10000000);
	g_assert_cmpstr(memory.block[1].name, ==, "0000:00:02.0/vga.vram");
	g_assert_cmpuint(memory.block[2].used, ==, 0x20000);
	g_assert_cmpint(guest_memory_block(&memory, "pc.ram", 6), ==, 0);
	g_assert_cmpint(guest_memory_block(&memory, "pc.ramx", 6), ==, 0);
	g_assert_cmpint(guest_memory_block(&memory, "pc.ram", 5), ==, -1);
	g_assert_cmpint(guest_memory_block(&memory, "", 0), ==, 0);
	g_assert_cmpint(guest_memory_block(&(struct guest_memory){0}, "", 0), ==, -1);
	g_assert_cmpint(guest_memory_block(&memory, "/rom@etc/acpi/tables", 20), ==, 2);
	/* The monitor ends its lines with a return, too; a name may have spaces. */
	g_assert_cmpint(guest_memory_parse("titles\r\n a b  2 MiB 0x0 0x1000 0x1000 0x1000 rw\r\n",
	                                   &memory, err, sizeof(err)),
	                ==, 0);
	g_assert_cmpuint(memory.n, ==, 1);
	g_assert_cmpstr(memory.block[0].name, ==, "a b");
}

static void refused(const char *text, const char *words)
{
	struct guest_memory memory = {.n = 77};
	char err[256] = "";

	g_assert_cmpint(guest_memory_parse(text, &memory, err, sizeof(err)), ==, -EPROTO);
	if (!strstr(err, words))
		g_error("\"%s\" has no \"%s\"", err, words);
	g_assert_cmpuint(memory.n, ==, 77);
}

static void test_refused(void)
{
	refused("", "no block");
	refused("info ramblock is not known", "no block");
	refused(TITLES, "no block");
	refused(TITLES "pc.ram 4 KiB 0x0 0x1000 0x1000 rw\n", "expected a block's name");
	refused(TITLES "4 KiB 0x0 0x1000 0x1000 0x1000 rw\n", "expected a block's name");
	refused(TITLES "pc.ram 4 KiB 0x0 0x1000 0x1000 1000 rw\n", "pc.ram");
	refused(TITLES "pc.ram 4 KiB 0x0 0x1000 0x1000 0x10g0 rw\n", "pc.ram");
	refused(TITLES "pc.ram 4 KiB 0x0 0x1000 0x1000 0x rw\n", "pc.ram");
	refused(TITLES "pc.ram 4 KiB 0x0 0x1000 0x1000 0x0 rw\n", "pc.ram");
	refused(TITLES "pc.ram 4 KiB 0x0 0x1000 0x1000 0x1800 rw\n", "pc.ram");
	refused(TITLES "pc.ram 4 KiB 0x0 0x2000 0x1000 0x1000 rw\n", "pc.ram");
	refused(TITLES "pc.ram 4 KiB 0x0 0x1000 0x2000 0xfffffffffffff000 rw\n", "pc.ram");
	refused(TITLES "pc.ram 4 KiB 0x0 0x1000 0x1000 0x10000000000000000 rw\n", "pc.ram");
	refused(TITLES RAM "and then something else\n", "and then");
}

/* More blocks than there is room for, and a name that is too long. */
static void test_bounds(void)
{
	g_autoptr(GString) text = g_string_new(TITLES);
	struct guest_memory memory;

	for (int i = 0; i < 40; i++) {
		if (i == 3)
			for (int j = 0; j < 200; j++)
				g_string_append_c(text, 'x');
		g_string_append_printf(text, "block%d 4 KiB 0x0 0x1000 0x1000 0x%x000 rw\n", i,
		                       i + 1);
	}
	g_assert_cmpint(guest_memory_parse(text->str, &memory, NULL, 0), ==, 0);
	g_assert_cmpuint(memory.n, ==, GUEST_MEMORY_BLOCKS);
	g_assert_cmpstr(memory.block[3].name, ==, "block4");
}

/* This process's own memory. */
static void test_read(void)
{
	uint8_t *bytes = mmap(NULL, 3 * GUEST_MEMORY_PAGE, PROT_READ | PROT_WRITE,
	                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct guest_memory memory = {.pid = getpid(), .n = 1};
	uint8_t page[GUEST_MEMORY_PAGE];

	g_assert_true(bytes != MAP_FAILED);
	memset(bytes, 1, GUEST_MEMORY_PAGE);
	memset(bytes + GUEST_MEMORY_PAGE, 2, GUEST_MEMORY_PAGE);
	memory.block[0].host = (uint64_t)(uintptr_t)bytes;
	memory.block[0].used = 2 * GUEST_MEMORY_PAGE + 100;
	g_assert_true(guest_memory_read(&memory, 0, 0, page));
	g_assert_cmpmem(page, sizeof(page), bytes, sizeof(page));
	g_assert_true(guest_memory_read(&memory, 0, GUEST_MEMORY_PAGE, page));
	g_assert_cmpuint(page[4095], ==, 2);
	g_assert_false(guest_memory_read(&memory, 0, 2 * GUEST_MEMORY_PAGE, page));
	g_assert_false(guest_memory_read(&memory, 0, 100, page));
	g_assert_false(guest_memory_read(&memory, 0, UINT64_MAX - 4095, page));
	g_assert_false(guest_memory_read(&memory, 1, 0, page));
	g_assert_false(guest_memory_read(&memory, -1, 0, page));
	g_assert_cmpint(munmap(bytes + GUEST_MEMORY_PAGE, GUEST_MEMORY_PAGE), ==, 0);
	g_assert_true(guest_memory_read(&memory, 0, 0, page));
	g_assert_false(guest_memory_read(&memory, 0, GUEST_MEMORY_PAGE, page));
	munmap(bytes, 3 * GUEST_MEMORY_PAGE);
}

/* A host's own answer, and what Yama's file says. */
static void test_probe(void)
{
	g_autofree char *path = NULL;
	GError *error = NULL;
	int scope = 77;
	int fd = g_file_open_tmp("scope.XXXXXX", &path, &error);

	g_assert_no_error(error);
	g_assert_cmpint(write(fd, "2\n", 2), ==, 2);
	(void)close(fd);
	g_assert_cmpint(guest_memory_probe("/nonexistent", &scope), <=, 0);
	g_assert_cmpint(scope, ==, 0);
	/* Where a child may be read at all, what it had at the fork is found. */
	if (guest_memory_probe(GUEST_MEMORY_YAMA, &scope) == 0)
		g_assert_cmpint(guest_memory_probe(path, &scope), ==, 0);
	(void)guest_memory_probe(path, &scope);
	g_assert_cmpint(scope, ==, 2);
	g_assert_cmpint(unlink(path), ==, 0);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/guest-memory/parse", test_parse);
	g_test_add_func("/guest-memory/refused", test_refused);
	g_test_add_func("/guest-memory/bounds", test_bounds);
	g_test_add_func("/guest-memory/read", test_read);
	g_test_add_func("/guest-memory/probe", test_probe);
	return g_test_run();
}
