/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `info ramblock` is for people, and prints a line for each block behind a line of titles:
 *
 *               Block Name    PSize              Offset               Used              Total HVA
 * RO pc.ram    4 KiB  0x0000000000000000 0x0000000010000000 0x0000000010000000 0x00007fae57e00000
 * rw
 *
 * A name may be anything, so a line is read from its end. What is not exactly so is refused: then
 * nothing is read, and pages are sent as they always were.
 */
#include "qemu-glue/guest_memory.h"

#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "qemu-glue/words.h"

#define COLUMNS 7u /* behind the name: PSize is two of them */

/* Cuts the last word off [text, *end). Returns its length, 0: there is none. */
static size_t last_word(const char *text, const char **end, const char **ret_word)
{
	const char *to = *end;
	const char *from;

	while (to > text && isspace((unsigned char)to[-1]))
		to--;
	from = to;
	while (from > text && !isspace((unsigned char)from[-1]))
		from--;
	*end = from;
	*ret_word = from;
	return (size_t)(to - from);
}

static bool is_hex(const char *word, size_t len, uint64_t *ret)
{
	uint64_t value = 0;

	if (len < 3 || len > 18 || word[0] != '0' || word[1] != 'x')
		return false;
	for (size_t i = 2; i < len; i++) {
		if (!isxdigit((unsigned char)word[i]))
			return false;
		value = value << 4 |
		        (uint64_t)(isdigit((unsigned char)word[i])
		                           ? word[i] - '0'
		                           : tolower((unsigned char)word[i]) - 'a' + 10);
	}
	*ret = value;
	return true;
}

/* Reads a line; false: it is none of a block's. The name's length is checked by the caller. */
static bool read_line(const char *line, const char *end, struct guest_memory_block *ret,
                      const char **ret_name, size_t *ret_len)
{
	const char *word[COLUMNS];
	size_t len[COLUMNS];
	uint64_t offset, total;

	for (unsigned i = COLUMNS; i-- > 0;) {
		len[i] = last_word(line, &end, &word[i]);
		if (len[i] == 0)
			return false;
	}
	if (!is_hex(word[2], len[2], &offset) || !is_hex(word[3], len[3], &ret->used) ||
	    !is_hex(word[4], len[4], &total) || !is_hex(word[5], len[5], &ret->host))
		return false;
	if (ret->used > total || ret->host == 0 || ret->host % GUEST_MEMORY_PAGE ||
	    ret->host > UINT64_MAX - total)
		return false;
	while (line < end && isspace((unsigned char)*line))
		line++;
	while (end > line && isspace((unsigned char)end[-1]))
		end--;
	*ret_name = line;
	*ret_len = (size_t)(end - line);
	return *ret_len > 0;
}

int guest_memory_parse(const char *text, struct guest_memory *ret_memory, char *err, size_t errlen)
{
	struct guest_memory memory = {0};
	const char *line = strchr(text, '\n'); /* behind the titles */

	for (line = line ? line + 1 : ""; *line && memory.n < GUEST_MEMORY_BLOCKS;) {
		const char *end = line + strcspn(line, "\r\n");
		struct guest_memory_block *block = &memory.block[memory.n];
		const char *name;
		size_t len;

		if (end > line) {
			if (!read_line(line, end, block, &name, &len))
				return words(
				        -EPROTO, err, errlen,
				        "info ramblock: found \"%.*s\", expected a block's name, "
				        "page size, offset, used, total, address, rw or ro",
				        (int)(end - line < 160 ? end - line : 160), line);
			if (len < sizeof(block->name)) {
				memcpy(block->name, name, len);
				memory.n++;
			}
		}
		line = end + strspn(end, "\r\n");
	}
	if (memory.n == 0)
		return words(-EPROTO, err, errlen, "info ramblock: found no block");
	*ret_memory = memory;
	return 0;
}

static int ask(struct qmp *q, uint64_t timeout_ms, struct guest_memory *ret_memory, char *err,
               size_t errlen)
{
	json_t *args = json_pack("{s:s}", "command-line", "info ramblock");
	json_t *value = NULL;
	int r = qmp_execute(q, "human-monitor-command", args, timeout_ms, &value, err, errlen);

	if (r < 0)
		return r;
	if (json_is_string(value))
		r = guest_memory_parse(json_string_value(value), ret_memory, err, errlen);
	else
		r = words(-EPROTO, err, errlen, "info ramblock: found no text");
	json_decref(value);
	return r;
}

int guest_memory_find(struct qmp *q, pid_t pid, uint64_t timeout_ms,
                      struct guest_memory *ret_memory, char *err, size_t errlen)
{
	uint8_t page[GUEST_MEMORY_PAGE];
	struct guest_memory memory;
	int r = ask(q, timeout_ms, &memory, err, errlen);

	if (r < 0)
		return r;
	memory.pid = pid;
	for (uint32_t i = 0; i < memory.n; i++) {
		const struct guest_memory_block *block = &memory.block[i];

		errno = 0;
		if (block->used >= sizeof(page) && !guest_memory_read(&memory, (int)i, 0, page)) {
			r = errno ? -errno : -EIO;
			return words(r, err, errlen, "reading %s of QEMU (pid %d): %s", block->name,
			             (int)pid, strerror(-r));
		}
	}
	*ret_memory = memory;
	return 0;
}

static int largest(const struct guest_memory *memory)
{
	int best = -1;

	for (uint32_t i = 0; i < memory->n; i++) {
		if (best < 0 || memory->block[i].used > memory->block[best].used)
			best = (int)i;
	}
	return best;
}

int guest_memory_block(const struct guest_memory *memory, const char *name, size_t len)
{
	if (len == 0)
		return largest(memory);
	for (uint32_t i = 0; i < memory->n; i++) {
		if (strlen(memory->block[i].name) == len &&
		    memcmp(memory->block[i].name, name, len) == 0)
			return (int)i;
	}
	return -1;
}

bool guest_memory_read(const struct guest_memory *memory, int block, uint64_t offset,
                       uint8_t page[GUEST_MEMORY_PAGE])
{
	struct iovec local = {.iov_base = page, .iov_len = GUEST_MEMORY_PAGE};
	const struct guest_memory_block *from;
	struct iovec remote = {.iov_len = GUEST_MEMORY_PAGE};
	uintptr_t at;

	if (block < 0 || (uint32_t)block >= memory->n)
		return false;
	from = &memory->block[block];
	if (offset % GUEST_MEMORY_PAGE || from->used < GUEST_MEMORY_PAGE ||
	    offset > from->used - GUEST_MEMORY_PAGE)
		return false;
	at = (uintptr_t)(from->host + offset);
	memcpy(&remote.iov_base, &at, sizeof(at)); /* another process's: no pointer of ours */
	return process_vm_readv(memory->pid, &local, 1, &remote, 1, 0) == GUEST_MEMORY_PAGE;
}

/* ---- what this host allows ---- */

static int read_scope(const char *yama)
{
	char line[16] = "";
	FILE *f = fopen(yama, "re");

	if (!f)
		return 0;
	if (!fgets(line, sizeof(line), f))
		line[0] = 0;
	fclose(f);
	return (int)strtol(line, NULL, 10);
}

int guest_memory_probe(const char *yama, int *ret_scope)
{
	static volatile uint32_t there = 0;
	uint32_t here = 0;
	struct iovec local = {.iov_base = &here, .iov_len = sizeof(here)};
	struct iovec remote = {.iov_base = (void *)&there, .iov_len = sizeof(there)};
	int r = 0;
	pid_t pid;

	*ret_scope = read_scope(yama);
	there = 0x5ca1ab1e;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		for (;;)
			pause();
	}
	if (process_vm_readv(pid, &local, 1, &remote, 1, 0) != sizeof(here))
		r = errno ? -errno : -EIO;
	else if (here != there)
		r = -EIO;
	kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
	return r;
}
