/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu-glue/tcg_flush.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "qemu-glue/words.h"

static_assert(sizeof(struct tcg_flush_page) == TCG_FLUSH_SIZE, "the file's layout");
static_assert(offsetof(struct tcg_flush_page, requested) == 8, "the file's layout");
static_assert(offsetof(struct tcg_flush_page, loaded) == 32, "the file's layout");
static_assert(offsetof(struct tcg_flush_page, check_ns_max) == 88, "the file's layout");

struct tcg_flush {
	struct tcg_flush_page *page;
	char *path;
};

static int map_file(int fd, struct tcg_flush_page **ret_page)
{
	void *map;
	/* Its block is taken now: on a full file system a write to a hole is a SIGBUS. */
	int r = posix_fallocate(fd, 0, TCG_FLUSH_SIZE);

	if (r)
		return -r;
	map = mmap(NULL, TCG_FLUSH_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	*ret_page = map;
	memcpy((*ret_page)->magic, TCG_FLUSH_MAGIC, sizeof((*ret_page)->magic));
	return 0;
}

int tcg_flush_create(const char *path, struct tcg_flush **ret_flush, char *err, size_t errlen)
{
	struct tcg_flush *flush;
	int ret;
	int fd;

	if (unlink(path) < 0 && errno != ENOENT)
		return words(-errno, err, errlen, "cannot replace %s: %s", path, strerror(errno));
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return words(-errno, err, errlen, "cannot create %s: %s", path, strerror(errno));
	flush = calloc(1, sizeof(*flush));
	if (flush)
		flush->path = strdup(path);
	ret = flush && flush->path ? map_file(fd, &flush->page) : -ENOMEM;
	close(fd);
	if (ret) {
		unlink(path);
		if (flush)
			free(flush->path);
		free(flush);
		return words(ret, err, errlen, "cannot map %s: %s", path, strerror(-ret));
	}
	*ret_flush = flush;
	return 0;
}

uint64_t tcg_flush_bump(struct tcg_flush *flush)
{
	return __atomic_add_fetch(&flush->page->requested, 1, __ATOMIC_SEQ_CST);
}

void tcg_flush_settle(struct tcg_flush *flush)
{
	__atomic_store_n(&flush->page->settled, flush->page->requested, __ATOMIC_RELEASE);
}

uint64_t tcg_flush_done(const struct tcg_flush *flush)
{
	return __atomic_load_n(&flush->page->done, __ATOMIC_ACQUIRE);
}

uint64_t tcg_flush_count(const struct tcg_flush *flush)
{
	return __atomic_load_n(&flush->page->flushes, __ATOMIC_ACQUIRE);
}

void tcg_flush_read(const struct tcg_flush *flush, struct tcg_flush_page *ret_page)
{
	const struct tcg_flush_page *page = flush->page;

	memset(ret_page, 0, sizeof(*ret_page));
	memcpy(ret_page->magic, page->magic, sizeof(ret_page->magic));
	for (const uint64_t *from = &page->requested, *end = page->reserved; from < end; from++) {
		uint64_t *to = &ret_page->requested + (from - &page->requested);

		*to = __atomic_load_n(from, __ATOMIC_ACQUIRE);
	}
}

int tcg_flush_loaded(const struct tcg_flush *flush)
{
	return __atomic_load_n(&flush->page->loaded, __ATOMIC_ACQUIRE) != 0;
}

void tcg_flush_free(struct tcg_flush *flush)
{
	if (!flush)
		return;
	munmap(flush->page, TCG_FLUSH_SIZE);
	unlink(flush->path);
	free(flush->path);
	free(flush);
}
