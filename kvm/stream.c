/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Goal: know exactly where a checkpoint ends, because early acknowledgement depends on it, and
 * refuse everything that the secondary's QEMU would choke on, because a QEMU that fails in the
 * middle of a load has no way back.
 *
 * The walk consumes tokens: section header, RAM record, footer, VMSTATE_SIZE, device state. A
 * token's fixed part is looked at only when all of it has arrived; until then the walk stays where
 * it is, so a cut at any byte gives the same result. A token's contents (a page, the device state)
 * are stepped over by moving `pos`, which may then lie beyond the bytes that are there.
 *
 * Invariants: nothing is read at or behind `len`. `pos` never moves backwards within a checkpoint
 * and every token moves it by at least one byte. No length from the stream is added to `pos`
 * before it was compared with its limit, so `pos` cannot wrap.
 *
 * Limits: pages of 4096 bytes (x86), section footers present (machine types from 2.4 on), RAM the
 * only section that is sent live. Sections that start something (type 1) or carry a device (type
 * 4) belong to the initial migration and are refused here.
 */
#include "kvm/stream.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "kvm/wire.h"

/* Section types: QEMU's migration/savevm.h. */
#define SECTION_END_OF_LIVE 0x00u
#define SECTION_PART        0x02u
#define SECTION_END         0x03u
#define SECTION_COMMAND     0x08u
#define SECTION_FOOTER      0x7eu

/* Commands that carry nothing but their data and make nobody answer. */
#define COMMAND_ENABLE_COLO      9u
#define COMMAND_SWITCHOVER_START 11u
#define COMMAND_MAX_DATA         256u

/* Record flags, in the low 12 bits of the offset: QEMU's migration/ram.h. */
#define RAM_FULL          0x001u
#define RAM_ZERO          0x002u
#define RAM_MEM_SIZE      0x004u
#define RAM_PAGE          0x008u
#define RAM_EOS           0x010u
#define RAM_CONTINUE      0x020u
#define RAM_XBZRLE        0x040u
#define RAM_HOOK          0x080u
#define RAM_COMPRESS      0x100u
#define RAM_MULTIFD_FLUSH 0x200u

enum step {
	STEP_MORE,  /* the token is not all there */
	STEP_MOVED, /* one token further */
	STEP_PAGE,  /* one token further, and it was a page */
};

static const char *const message_names[] = {
        "CHECKPOINT_READY", "CHECKPOINT_REQUEST", "CHECKPOINT_REPLY", "VMSTATE_SEND",
        "VMSTATE_SIZE",     "VMSTATE_RECEIVED",   "VMSTATE_LOADED",
};
static_assert(sizeof(message_names) / sizeof(*message_names) == COLO_MESSAGE_COUNT,
              "a name for each COLO message");

const char *colo_message_name(uint32_t message)
{
	return message < COLO_MESSAGE_COUNT ? message_names[message] : "unknown";
}

void stream_init(struct stream *s)
{
	*s = (struct stream){.state = STREAM_SECTION};
}

void stream_begin(struct stream *s)
{
	s->state = STREAM_SECTION;
	s->pos = 0;
	s->section_last = false;
	s->ram_ended = false;
	s->stats = (struct stream_stats){0};
	s->err[0] = '\0';
}

static int fail(struct stream *s, size_t at, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

static int fail(struct stream *s, size_t at, const char *fmt, ...)
{
	va_list args;
	int n;

	n = snprintf(s->err, sizeof(s->err), "checkpoint offset %zu: ", at);
	va_start(args, fmt);
	(void)vsnprintf(s->err + n, sizeof(s->err) - (size_t)n, fmt, args);
	va_end(args);
	s->state = STREAM_FAILED;
	return -EPROTO;
}

/* Whether the `n` bytes at the position are there. */
static bool have(const struct stream *s, size_t len, size_t n)
{
	return s->pos <= len && len - s->pos >= n;
}

static int step_command(struct stream *s, const uint8_t *base, size_t len)
{
	const uint8_t *p = base + s->pos;
	unsigned int command;
	unsigned int data;

	if (!have(s, len, 5))
		return STEP_MORE;
	command = wire_be16(p + 1);
	data = wire_be16(p + 3);
	if (command != COMMAND_ENABLE_COLO && command != COMMAND_SWITCHOVER_START)
		return fail(s, s->pos, "found command %u, expected %u or %u", command,
		            COMMAND_ENABLE_COLO, COMMAND_SWITCHOVER_START);
	if (data > COMMAND_MAX_DATA)
		return fail(s, s->pos, "found %u bytes of data for command %u, expected up to %u",
		            data, command, COMMAND_MAX_DATA);
	s->pos += 5 + data;
	return STEP_MOVED;
}

static int step_ram_section(struct stream *s, const uint8_t *base, size_t len)
{
	const uint8_t *p = base + s->pos;
	uint32_t id;

	if (!have(s, len, 5))
		return STEP_MORE;
	id = wire_be32(p + 1);
	if (s->section_known && id != s->section)
		return fail(s, s->pos, "found live section %" PRIu32 ", expected RAM's, %" PRIu32,
		            id, s->section);
	if (s->ram_ended)
		return fail(s, s->pos, "found a live section, expected none after RAM's end");
	s->section = id;
	s->section_known = true;
	s->section_last = p[0] == SECTION_END;
	s->pos += 5;
	s->state = STREAM_RECORD;
	return STEP_MOVED;
}

static int step_section(struct stream *s, const uint8_t *base, size_t len)
{
	uint8_t type;

	if (!have(s, len, 1))
		return STEP_MORE;
	type = base[s->pos];
	switch (type) {
	case SECTION_END_OF_LIVE:
		if (!s->ram_ended)
			return fail(s, s->pos, "found the end mark, expected the end of RAM first");
		s->pos += 1;
		s->state = STREAM_SIZE;
		return STEP_MOVED;
	case SECTION_PART:
	case SECTION_END:
		return step_ram_section(s, base, len);
	case SECTION_COMMAND:
		return step_command(s, base, len);
	default:
		return fail(s, s->pos, "found section type 0x%02x, expected 00, 02, 03 or 08",
		            type);
	}
}

static const char *flag_hint(unsigned int flags)
{
	if (flags & RAM_MULTIFD_FLUSH)
		return " (multifd must be off)";
	if (flags & RAM_COMPRESS)
		return " (compression must be off)";
	if (flags & RAM_HOOK)
		return " (RDMA is not supported)";
	if (flags & RAM_MEM_SIZE)
		return " (a migration starts again)";
	return "";
}

/* Where a record's parts are. */
struct record {
	uint64_t offset;
	unsigned int flags;
	const uint8_t *name; /* NULL: same block */
	size_t name_len;
	size_t head; /* bytes before the data */
	size_t data; /* bytes of data */
};

static int parse_kind(struct stream *s, const uint8_t *base, size_t len, struct record *r)
{
	const uint8_t *p = base + s->pos + r->head;

	switch (r->flags & ~RAM_CONTINUE) {
	case RAM_PAGE:
		r->data = STREAM_PAGE_SIZE;
		return STEP_PAGE;
	case RAM_ZERO:
		if (!have(s, len, r->head + 1))
			return STEP_MORE;
		r->data = 1;
		return STEP_PAGE;
	case RAM_XBZRLE:
		if (!have(s, len, r->head + 3))
			return STEP_MORE;
		r->data = wire_be16(p + 1);
		if (p[0] != 1)
			return fail(s, s->pos + r->head, "found xbzrle header 0x%02x, expected 01",
			            p[0]);
		if (r->data > STREAM_PAGE_SIZE)
			return fail(s, s->pos + r->head,
			            "found %zu bytes of xbzrle, expected up to %u", r->data,
			            STREAM_PAGE_SIZE);
		r->head += 3;
		return STEP_PAGE;
	default:
		return fail(s, s->pos,
		            "found RAM record flags 0x%03x, expected 002, 008, 010 or 040%s",
		            r->flags, flag_hint(r->flags));
	}
}

static int parse_record(struct stream *s, const uint8_t *base, size_t len, struct record *r)
{
	const uint8_t *p = base + s->pos;
	uint64_t word;

	if (!have(s, len, 8))
		return STEP_MORE;
	word = wire_be64(p);
	*r = (struct record){.flags = word & (STREAM_PAGE_SIZE - 1),
	                     .offset = word & ~(uint64_t)(STREAM_PAGE_SIZE - 1),
	                     .head = 8};
	if (word == RAM_EOS)
		return STEP_MOVED;
	if (r->offset >= STREAM_MAX_OFFSET)
		return fail(s, s->pos, "found RAM offset 0x%" PRIx64 ", expected below 0x%" PRIx64,
		            r->offset, STREAM_MAX_OFFSET);
	if (r->flags & (RAM_ZERO | RAM_PAGE | RAM_XBZRLE) && !(r->flags & RAM_CONTINUE)) {
		if (!have(s, len, 9))
			return STEP_MORE;
		r->name_len = p[8];
		if (r->name_len == 0)
			return fail(s, s->pos + 8, "found a block name of 0 bytes, expected 1-255");
		if (!have(s, len, 9 + r->name_len))
			return STEP_MORE;
		r->name = p + 9;
		if (memchr(r->name, 0, r->name_len))
			return fail(s, s->pos + 9, "found a NUL in a block name");
		r->head = 9 + r->name_len;
	}
	return parse_kind(s, base, len, r);
}

static void count_page(struct stream *s, unsigned int flags)
{
	if (flags & RAM_PAGE)
		s->stats.pages++;
	else if (flags & RAM_ZERO)
		s->stats.zero_pages++;
	else
		s->stats.xbzrle_pages++;
}

static void fill_page(const struct stream *s, const uint8_t *base, const struct record *r,
                      struct stream_page *page)
{
	*page = (struct stream_page){
	        .kind = r->flags & RAM_PAGE   ? STREAM_PAGE_FULL
	                : r->flags & RAM_ZERO ? STREAM_PAGE_ZERO
	                                      : STREAM_PAGE_XBZRLE,
	        .same_block = !r->name,
	        .block = s->block,
	        .block_len = s->block_len,
	        .offset = r->offset,
	        .data = base + s->pos + r->head,
	        .data_len = r->data,
	        .record_offset = s->pos,
	        .record_len = r->head + r->data,
	};
}

/* With `page`, a record counts only when its data is there too. */
static int step_record(struct stream *s, const uint8_t *base, size_t len, struct stream_page *page)
{
	struct record r;
	int rc;

	rc = parse_record(s, base, len, &r);
	if (rc == STEP_MORE || rc < 0)
		return rc;
	if (rc == STEP_MOVED) {
		s->pos += 8;
		s->state = STREAM_FOOTER;
		return STEP_MOVED;
	}
	if (page && !have(s, len, r.head + r.data))
		return STEP_MORE;
	if (r.name) {
		memcpy(s->block, r.name, r.name_len);
		s->block_len = (uint8_t)r.name_len;
	}
	count_page(s, r.flags);
	if (page)
		fill_page(s, base, &r, page);
	s->pos += r.head + r.data;
	return STEP_PAGE;
}

static int step_footer(struct stream *s, const uint8_t *base, size_t len)
{
	const uint8_t *p = base + s->pos;

	if (!have(s, len, 5))
		return STEP_MORE;
	if (p[0] != SECTION_FOOTER || wire_be32(p + 1) != s->section)
		return fail(s, s->pos,
		            "found %02x %08" PRIx32 ", expected a section footer, 7e %08" PRIx32,
		            p[0], wire_be32(p + 1), s->section);
	s->pos += 5;
	s->ram_ended = s->section_last;
	s->state = STREAM_SECTION;
	return STEP_MOVED;
}

static int step_size(struct stream *s, const uint8_t *base, size_t len)
{
	const uint8_t *p = base + s->pos;
	uint64_t size;

	if (!have(s, len, 4))
		return STEP_MORE;
	if (wire_be32(p) != COLO_VMSTATE_SIZE)
		return fail(s, s->pos, "found message %" PRIu32 " (%s), expected VMSTATE_SIZE, 4",
		            wire_be32(p), colo_message_name(wire_be32(p)));
	if (!have(s, len, 12))
		return STEP_MORE;
	size = wire_be64(p + 4);
	if (size == 0 || size > STREAM_MAX_STATE)
		return fail(s, s->pos + 4,
		            "found %" PRIu64 " bytes of device state, expected 1 to %" PRIu64, size,
		            STREAM_MAX_STATE);
	s->stats.state_bytes = size;
	s->stats.state_offset = s->pos + 12;
	s->pos += 12 + size;
	s->state = STREAM_STATE;
	return STEP_MOVED;
}

static int step(struct stream *s, const uint8_t *base, size_t len, struct stream_page *page)
{
	switch (s->state) {
	case STREAM_SECTION:
		return step_section(s, base, len);
	case STREAM_RECORD:
		return step_record(s, base, len, page);
	case STREAM_FOOTER:
		return step_footer(s, base, len);
	case STREAM_SIZE:
		return step_size(s, base, len);
	case STREAM_STATE:
		if (len < s->pos)
			return STEP_MORE;
		s->stats.bytes = s->pos;
		s->state = STREAM_DONE;
		return STEP_MOVED;
	case STREAM_DONE:
		return STEP_MORE;
	case STREAM_FAILED:
		break;
	}
	return -EPROTO;
}

int stream_feed(struct stream *s, const uint8_t *base, size_t len)
{
	int rc;

	do
		rc = step(s, base, len, NULL);
	while (rc == STEP_MOVED || rc == STEP_PAGE);
	if (rc < 0)
		return rc;
	return s->state == STREAM_DONE;
}

int stream_next(struct stream *s, const uint8_t *base, size_t len, struct stream_page *ret_page)
{
	int rc;

	do
		rc = step(s, base, len, ret_page);
	while (rc == STEP_MOVED);
	return rc == STEP_PAGE ? 1 : rc;
}
