/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/control/pcapng.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BLOCK_SECTION   0x0a0d0d0au
#define BLOCK_INTERFACE 1u
#define BLOCK_PACKET    6u
#define BYTE_ORDER_MARK 0x1a2b3c4du
#define LINK_ETHERNET   1u

enum option {
	OPTION_END = 0,
	OPTION_COMMENT = 1,     /* of every block */
	OPTION_NAME = 2,        /* if_name */
	OPTION_DESCRIPTION = 3, /* if_description */
	OPTION_APPLICATION = 4, /* shb_userappl */
	OPTION_RESOLUTION = 9,  /* if_tsresol */
};

struct pcapng {
	FILE *file;
};

/* ---- a block: type, length, body, options, length again; all of it padded to 4 bytes ---- */

static void put32(GByteArray *block, uint32_t value)
{
	g_byte_array_append(block, (const guint8 *)&value, sizeof(value));
}

static void put16(GByteArray *block, uint16_t value)
{
	g_byte_array_append(block, (const guint8 *)&value, sizeof(value));
}

static void put_padded(GByteArray *block, const void *bytes, uint32_t len)
{
	static const guint8 zero[4];

	g_byte_array_append(block, bytes, len);
	g_byte_array_append(block, zero, (4 - len % 4) % 4);
}

static void put_option(GByteArray *block, enum option option, const void *bytes, size_t len)
{
	uint16_t fits = len < UINT16_MAX ? (uint16_t)len : UINT16_MAX;

	put16(block, (uint16_t)option);
	put16(block, fits);
	put_padded(block, bytes, fits);
}

static GByteArray *block_begin(uint32_t type)
{
	GByteArray *block = g_byte_array_new();

	put32(block, type);
	put32(block, 0); /* the length, known at the end */
	return block;
}

/* Writes and frees the block. */
static int block_end(struct pcapng *file, GByteArray *block)
{
	uint32_t len;
	bool written;

	put16(block, OPTION_END);
	put16(block, 0);
	len = block->len + 4;
	put32(block, len);
	memcpy(block->data + 4, &len, sizeof(len));
	written = fwrite(block->data, 1, block->len, file->file) == block->len;
	g_byte_array_unref(block);
	return written ? 0 : -EIO;
}

/* ---- the file ---- */

static int write_section(struct pcapng *file)
{
	static const char application[] = "colo-proxy";
	GByteArray *block = block_begin(BLOCK_SECTION);

	put32(block, BYTE_ORDER_MARK);
	put16(block, 1); /* version 1.0 */
	put16(block, 0);
	put32(block, UINT32_MAX); /* the section's length is not told */
	put32(block, UINT32_MAX);
	put_option(block, OPTION_APPLICATION, application, sizeof(application) - 1);
	return block_end(file, block);
}

int pcapng_open(const char *path, struct pcapng **ret_file)
{
	struct pcapng *file;
	int fd, r;

	if (strcmp(path, "-") == 0)
		fd = dup(STDOUT_FILENO);
	else
		fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	file = g_new0(struct pcapng, 1);
	file->file = fdopen(fd, "w");
	if (!file->file) {
		r = -errno;
		close(fd);
		g_free(file);
		return r;
	}
	r = write_section(file);
	if (r < 0) {
		pcapng_close(file);
		return r;
	}
	*ret_file = file;
	return 0;
}

int pcapng_interface(struct pcapng *file, const char *name, const char *description)
{
	static const uint8_t nanoseconds = 9; /* 10^-9 */
	GByteArray *block = block_begin(BLOCK_INTERFACE);

	put16(block, LINK_ETHERNET);
	put16(block, 0);
	put32(block, 0); /* no limit of length */
	put_option(block, OPTION_NAME, name, strlen(name));
	put_option(block, OPTION_DESCRIPTION, description, strlen(description));
	put_option(block, OPTION_RESOLUTION, &nanoseconds, 1);
	return block_end(file, block);
}

int pcapng_packet(struct pcapng *file, uint32_t interface, uint64_t at_ns, const void *bytes,
                  uint32_t len, uint32_t original, const char *comment)
{
	GByteArray *block = block_begin(BLOCK_PACKET);

	put32(block, interface);
	put32(block, (uint32_t)(at_ns >> 32));
	put32(block, (uint32_t)at_ns);
	put32(block, len);
	put32(block, original);
	put_padded(block, bytes, len);
	put_option(block, OPTION_COMMENT, comment, strlen(comment));
	return block_end(file, block);
}

int pcapng_close(struct pcapng *file)
{
	int r = 0;

	if (!file)
		return 0;
	if (ferror(file->file))
		r = -EIO;
	if (fclose(file->file) != 0 && r == 0)
		r = -errno;
	g_free(file);
	return r;
}
