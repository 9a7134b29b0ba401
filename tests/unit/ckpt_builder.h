/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_TESTS_CKPT_BUILDER_H
#define COLO_TESTS_CKPT_BUILDER_H

#include <glib.h>
#include <string.h>

#include "kvm/wire.h"

/* Builds a checkpoint's bytes part by part, right or wrong ones. docs/checkpoint.md has the layout.
 */

#define RAM_SECTION 3u

static inline void build_u8(GByteArray *b, uint8_t v)
{
	g_byte_array_append(b, &v, 1);
}

static inline void build_be16(GByteArray *b, uint16_t v)
{
	uint8_t p[2];

	wire_put_be16(p, v);
	g_byte_array_append(b, p, sizeof(p));
}

static inline void build_be32(GByteArray *b, uint32_t v)
{
	uint8_t p[4];

	wire_put_be32(p, v);
	g_byte_array_append(b, p, sizeof(p));
}

static inline void build_be64(GByteArray *b, uint64_t v)
{
	uint8_t p[8];

	wire_put_be64(p, v);
	g_byte_array_append(b, p, sizeof(p));
}

static inline void build_fill(GByteArray *b, uint8_t v, size_t n)
{
	size_t at = b->len;

	g_byte_array_set_size(b, (guint)(at + n));
	memset(b->data + at, v, n);
}

static inline void build_section(GByteArray *b, uint8_t type, uint32_t id)
{
	build_u8(b, type);
	build_be32(b, id);
}

/* A record's head; name NULL: same block. */
static inline void build_record(GByteArray *b, const char *name, uint64_t offset,
                                unsigned int flags)
{
	build_be64(b, offset | flags | (name ? 0 : 0x20));
	if (name) {
		build_u8(b, (uint8_t)strlen(name));
		g_byte_array_append(b, (const uint8_t *)name, (guint)strlen(name));
	}
}

static inline void build_page(GByteArray *b, const char *name, uint64_t offset, uint8_t fill)
{
	build_record(b, name, offset, 0x08);
	build_fill(b, fill, 4096);
}

static inline void build_zero(GByteArray *b, const char *name, uint64_t offset)
{
	build_record(b, name, offset, 0x02);
	build_u8(b, 0);
}

static inline void build_xbzrle(GByteArray *b, const char *name, uint64_t offset, uint16_t len)
{
	build_record(b, name, offset, 0x40);
	build_u8(b, 1);
	build_be16(b, len);
	build_fill(b, 0xee, len);
}

/* End of the records and the section's footer. */
static inline void build_section_end(GByteArray *b, uint32_t id)
{
	build_be64(b, 0x10);
	build_u8(b, 0x7e);
	build_be32(b, id);
}

static inline void build_command(GByteArray *b, uint16_t command, uint16_t len)
{
	build_u8(b, 0x08);
	build_be16(b, command);
	build_be16(b, len);
	build_fill(b, 0xcc, len);
}

/* End mark, VMSTATE_SIZE and n bytes of device state. */
static inline void build_state(GByteArray *b, uint64_t n)
{
	build_u8(b, 0);
	build_be32(b, 4);
	build_be64(b, n);
	build_fill(b, 0xdd, n);
}

/* One of everything: 3 pages, 2 zero pages, 1 xbzrle page, 77 bytes of state. */
static inline GByteArray *build_sample(void)
{
	GByteArray *b = g_byte_array_new();

	build_command(b, 9, 0);
	build_section(b, 0x02, RAM_SECTION);
	build_page(b, "pc.ram", 0x1000, 0xa1);
	build_zero(b, NULL, 0x2000);
	build_section_end(b, RAM_SECTION);
	build_section(b, 0x03, RAM_SECTION);
	build_page(b, NULL, 0x7000, 0xa2);
	build_xbzrle(b, "0000:00:02.0/vga.vram", 0x3000, 19);
	build_zero(b, NULL, 0x4000);
	build_page(b, "pc.ram", UINT64_C(0xfffff000), 0xa3);
	build_section_end(b, RAM_SECTION);
	build_command(b, 11, 5);
	build_state(b, 77);
	return b;
}

#endif
