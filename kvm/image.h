/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_KVM_IMAGE_H
#define COLO_KVM_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "kvm/ckpt.h"
#include "kvm/stream.h"

/*
 * The newest state of a VM whose copy stands still: checkpoints that were not loaded, merged page
 * by page into one that has the same effect as all of them, one after the other. See image.c. Pure:
 * no I/O, no clock.
 */
struct image;

/* `limit`: address space for the merged checkpoint, in bytes: the guest's memory and what its
 * records and device state take. Memory is taken as it is used. Returns 0, -EINVAL or -ENOMEM. */
int image_new(struct image **ret_image, size_t limit);
/* NULL is allowed. */
void image_free(struct image *image);

/* Empties it and gives its memory back. */
void image_reset(struct image *image);

/* The first checkpoint to be merged is the channel's next one; `channel` is the walk over those
 * before it, of which "same block as the record before" may speak (stream.h). */
void image_begin(struct image *image, const struct stream *channel);

/*
 * Merges at most `records` more of the checkpoint's RAM records; `ckpt` is the same until all of
 * it is merged. Returns 1 when it is, 0 when there is more; -EBADMSG when it is malformed or has
 * records that cannot be merged, -ENOSPC when the image is full, -ENOMEM: the image is of no use
 * any more then.
 */
int image_merge(struct image *image, const struct ckpt *ckpt, unsigned records);

/* The merged checkpoint, the image's own: until image_reset() nothing is merged any more.
 * Called between two checkpoints, at least one of which was merged. */
struct ckpt *image_finish(struct image *image);

/* Bytes that it has now, device state included, and may have. */
size_t image_bytes(const struct image *image);
size_t image_limit(const struct image *image);

#endif
