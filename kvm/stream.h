/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_KVM_STREAM_H
#define COLO_KVM_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Walks over one COLO checkpoint as the primary QEMU sends it after VMSTATE_SEND, and knows where
 * it ends. docs/checkpoint.md has the layout by byte offset; QEMU's migration/colo.c,
 * migration/ram.c and migration/savevm.c are where it comes from.
 *
 * The bytes lie in one piece that only grows (a ckpt_buf). The walk may be called after every
 * read, cut anywhere; page contents are stepped over, not copied.
 *
 * "Same block as the record before" reaches from one checkpoint into the next, and so does the id
 * of RAM's section: one struct stream serves one migration channel from the end of the initial
 * migration on. The initial migration itself is not walked over (its device sections have no
 * length), so a first record that names no block has block_len 0.
 */

#define STREAM_PAGE_SIZE  4096u
#define STREAM_MAX_OFFSET (UINT64_C(1) << 44)  /* of a page in its block: 16 TiB */
#define STREAM_MAX_STATE  (UINT64_C(64) << 20) /* device state, bytes; a small guest has 59 KB */
#define STREAM_ERR_LEN    160

/* COLO messages, be32 (QEMU's qapi/migration.json, COLOMessage). */
enum colo_message {
	COLO_READY = 0,
	COLO_REQUEST = 1,
	COLO_REPLY = 2,
	COLO_VMSTATE_SEND = 3,
	COLO_VMSTATE_SIZE = 4, /* be64 follows */
	COLO_VMSTATE_RECEIVED = 5,
	COLO_VMSTATE_LOADED = 6,
	COLO_MESSAGE_COUNT
};

/* The name of a message for error texts, "unknown" for anything else. */
const char *colo_message_name(uint32_t message);

struct stream_stats {
	uint64_t bytes;        /* of the whole checkpoint; 0 until it is complete */
	uint64_t pages;        /* sent with their 4096 bytes */
	uint64_t zero_pages;   /* sent as one byte that fills the page */
	uint64_t xbzrle_pages; /* sent as a difference to what the destination has */
	uint64_t state_bytes;  /* device state */
	uint64_t state_offset; /* where it starts in the checkpoint */
};

enum stream_page_kind {
	STREAM_PAGE_FULL,   /* data: 4096 bytes */
	STREAM_PAGE_ZERO,   /* data: the one byte that fills the page */
	STREAM_PAGE_XBZRLE, /* data: data_len bytes of QEMU's xbzrle encoding */
};

/* One RAM record. Pointers lead into the checkpoint, `block` also into the struct stream. */
struct stream_page {
	enum stream_page_kind kind;
	bool same_block;   /* the record itself names no block */
	const char *block; /* not terminated */
	size_t block_len;  /* 0: not known (see above) */
	uint64_t offset;   /* in the block; a multiple of 4096 */
	const uint8_t *data;
	size_t data_len;
	size_t record_offset; /* of the whole record in the checkpoint */
	size_t record_len;
};

enum stream_state {
	STREAM_SECTION, /* at a section's type byte, or the end mark */
	STREAM_RECORD,  /* at a RAM record */
	STREAM_FOOTER,  /* at a section footer */
	STREAM_SIZE,    /* at VMSTATE_SIZE */
	STREAM_STATE,   /* in the device state */
	STREAM_DONE,
	STREAM_FAILED,
};

struct stream {
	enum stream_state state;
	size_t pos;       /* next byte to look at; may lie beyond what has arrived */
	uint32_t section; /* id of RAM's section */
	bool section_known;
	bool section_last; /* in the section that ends RAM */
	bool ram_ended;    /* it was seen */
	char block[256];   /* the block that the last record was in */
	uint8_t block_len;
	struct stream_stats stats;
	char err[STREAM_ERR_LEN];
};

/* A walk at the beginning of a channel's first checkpoint. */
void stream_init(struct stream *s);

/* Back to the beginning for the next checkpoint; keeps what reaches across checkpoints. */
void stream_begin(struct stream *s);

/*
 * Walks on. `base` is the beginning of the checkpoint, `len` how much of it is there.
 * Returns 1 when the checkpoint is complete (it is s->stats.bytes long; bytes behind it are not
 * looked at), 0 when more is needed, -EPROTO when it is malformed (s->err says at which offset
 * what was found and what was expected; every later call returns -EPROTO too).
 */
int stream_feed(struct stream *s, const uint8_t *base, size_t len);

/*
 * The same, but stops behind the next RAM record whose bytes are all there.
 * Returns 1 and fills *ret_page; 0 at the end of the checkpoint (s->state is STREAM_DONE) or when
 * more bytes are needed; -EPROTO as above.
 */
int stream_next(struct stream *s, const uint8_t *base, size_t len, struct stream_page *ret_page);

#endif
