/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_KVM_PACK_H
#define COLO_KVM_PACK_H

#include <stddef.h>
#include <stdint.h>

/*
 * General compression of a block of bytes (LZ4 block format; Zstandard frame, level 1), and which
 * of the two to use, if any. No I/O and no clock.
 */

/* The numbers are those on the wire. */
enum pack_method {
	PACK_NONE = 0,
	PACK_LZ4 = 1,
	PACK_ZSTD = 2,
	PACK_METHODS,
	PACK_AUTO = PACK_METHODS, /* struct pack_choice only */
};

/* "none", "lz4", "zstd", "auto". */
const char *pack_method_name(enum pack_method method);

struct pack; /* the libraries' working memory */

/* Returns 0 or -ENOMEM. */
int pack_new(struct pack **ret_pack);
/* NULL is allowed. */
void pack_free(struct pack *p);

/* Compresses; returns the bytes written, 0 when they would be more than `room` (or for none). */
size_t pack_bytes(struct pack *p, enum pack_method method, const uint8_t *in, size_t len,
                  uint8_t *out, size_t room);
/* Decompresses to exactly `size` bytes. Returns 0 or -EPROTO. */
int pack_restore(struct pack *p, enum pack_method method, const uint8_t *in, size_t len,
                 uint8_t *out, size_t size);

/*
 * The choice by measurement. A byte costs the time to compress it and the time that what is left of
 * it takes on the link; the method with the least cost is chosen. Speed and ratio of each method
 * are averages over the last blocks; a method that is not in use is tried on a block now and then,
 * so that its figures stay those of what the guest does now.
 */
struct pack_choice {
	enum pack_method fixed; /* PACK_AUTO: measure */
	enum pack_method last;
	uint32_t blocks;
	struct {
		double ns;    /* of one byte */
		double ratio; /* bytes after / before */
		uint32_t seen;
	} by[PACK_METHODS];
};

void pack_choice_init(struct pack_choice *c, enum pack_method fixed);
/* For a block of `len` bytes on a link of so many bytes per second (0: not known). */
enum pack_method pack_choice_pick(struct pack_choice *c, size_t len, uint64_t link_rate);
/* What a byte of a large block costs by what would be picked: packing it, and what is left on the
 * link; ns. */
double pack_choice_ns(const struct pack_choice *c, uint64_t link_rate);
/* What came of it: `in` bytes became `out` in `ns`. */
void pack_choice_note(struct pack_choice *c, enum pack_method method, size_t in, size_t out,
                      uint64_t ns);

#endif
