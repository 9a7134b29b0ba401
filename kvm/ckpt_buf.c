/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "kvm/ckpt_buf.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static size_t page_round_up(size_t n, size_t page)
{
	return (n + page - 1) & ~(page - 1);
}

/* Makes the first `len` bytes resident. Kernels before 5.14 have no MADV_POPULATE_WRITE. */
static int make_resident(uint8_t *base, size_t len, size_t page)
{
	if (len == 0)
		return 0;
#ifdef MADV_POPULATE_WRITE
	if (madvise(base, len, MADV_POPULATE_WRITE) == 0)
		return 0;
	if (errno != EINVAL)
		return -ENOMEM;
#endif
	for (size_t at = 0; at < len; at += page)
		((volatile uint8_t *)base)[at] = 0;
	return 0;
}

int ckpt_buf_init(struct ckpt_buf *buf, size_t limit, size_t keep)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	void *base;
	int rc;

	if (limit == 0 || limit > SIZE_MAX - page)
		return -EINVAL;
	limit = page_round_up(limit, page);
	keep = keep > limit ? limit : page_round_up(keep, page);
	base = mmap(NULL, limit, PROT_READ | PROT_WRITE,
	            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return -ENOMEM;
	rc = make_resident(base, keep, page);
	if (rc < 0) {
		(void)munmap(base, limit);
		return rc;
	}
	*buf = (struct ckpt_buf){.base = base, .limit = limit, .keep = keep};
	return 0;
}

void ckpt_buf_fini(struct ckpt_buf *buf)
{
	if (!buf || !buf->base)
		return;
	(void)munmap(buf->base, buf->limit);
	*buf = (struct ckpt_buf){0};
}

int ckpt_buf_room(const struct ckpt_buf *buf, uint8_t **ret_ptr, size_t *ret_len)
{
	if (buf->len >= buf->limit)
		return -ENOSPC;
	*ret_ptr = buf->base + buf->len;
	*ret_len = buf->limit - buf->len;
	return 0;
}

int ckpt_buf_filled(struct ckpt_buf *buf, size_t n)
{
	if (n > buf->limit - buf->len)
		return -EINVAL;
	buf->len += n;
	return 0;
}

int ckpt_buf_append(struct ckpt_buf *buf, const void *data, size_t n)
{
	if (n > buf->limit - buf->len)
		return -ENOSPC;
	if (n > 0)
		memcpy(buf->base + buf->len, data, n);
	buf->len += n;
	return 0;
}

void ckpt_buf_reset(struct ckpt_buf *buf)
{
	size_t stays;

	if (!buf->len)
		return;
	if (buf->len >= buf->warm)
		buf->warm = buf->len;
	else
		buf->warm -= (buf->warm - buf->len + 7) / 8;
	if (buf->len > buf->used)
		buf->used = buf->len;
	stays = page_round_up(buf->warm, (size_t)sysconf(_SC_PAGESIZE));
	if (stays < buf->keep)
		stays = buf->keep;
	/* Fails only for a region that is not mapped, which base and limit rule out. */
	if (buf->used > stays) {
		(void)madvise(buf->base + stays, buf->limit - stays, MADV_DONTNEED);
		buf->used = stays;
	}
	buf->len = 0;
}
