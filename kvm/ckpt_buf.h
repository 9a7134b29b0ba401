/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_KVM_CKPT_BUF_H
#define COLO_KVM_CKPT_BUF_H

#include <stddef.h>
#include <stdint.h>

/*
 * The memory that one checkpoint is read into: a region of address space reserved once
 * (MAP_NORESERVE), filled from its beginning, reset and used again. It never moves, so pointers
 * into it stay valid until the next reset, and it never grows by copying: with growing buffers the
 * VM stands still twice as long for 50 MB of dirty memory (docs/checkpoint.md).
 *
 * The first `keep` bytes stay resident from init to fini. Above them stays what the last
 * checkpoints took: to fault a page in costs more than to read it, while the VM stands still. When
 * they become smaller, an eighth of the difference goes back to the kernel at each reset.
 */
struct ckpt_buf {
	uint8_t *base;
	size_t limit; /* bytes reserved */
	size_t len;   /* bytes filled */
	size_t keep;  /* bytes that stay resident */
	size_t warm;  /* bytes that the last checkpoints took, the older the less */
	size_t used;  /* bytes that may be resident */
};

/*
 * Reserves `limit` bytes and makes the first `keep` of them resident (both rounded up to whole
 * pages; keep is capped at limit). Returns 0, -EINVAL when limit is 0, -ENOMEM when the address
 * space or the memory for `keep` is not to be had.
 */
int ckpt_buf_init(struct ckpt_buf *buf, size_t limit, size_t keep);

/* Unmaps. NULL, an all-zero and an already finished buffer are allowed. */
void ckpt_buf_fini(struct ckpt_buf *buf);

/*
 * Where the next bytes go: a pointer behind what is filled and the number of bytes that fit there.
 * Returns 0 or -ENOSPC when the buffer is full (outputs untouched).
 */
int ckpt_buf_room(const struct ckpt_buf *buf, uint8_t **ret_ptr, size_t *ret_len);

/* Says that n bytes were written at ckpt_buf_room()'s pointer. Returns 0 or -EINVAL (n > room). */
int ckpt_buf_filled(struct ckpt_buf *buf, size_t n);

/* Appends a copy of n bytes. Returns 0 or -ENOSPC (nothing appended). */
int ckpt_buf_append(struct ckpt_buf *buf, const void *data, size_t n);

/* Empties the buffer; memory above `keep` that the last checkpoints did not need goes back. */
void ckpt_buf_reset(struct ckpt_buf *buf);

#endif
