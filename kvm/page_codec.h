/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_KVM_PAGE_CODEC_H
#define COLO_KVM_PAGE_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvm/ckpt_buf.h"
#include "kvm/pack.h"
#include "kvm/page_cache.h"

/*
 * A checkpoint in fewer bytes. The encoder walks over a captured checkpoint (kvm/stream.h) and
 * tells its pages by what the peer has of them already; the decoder rebuilds the same bytes, all of
 * them, in order. Both hold the pages that were sent last (kvm/page_cache.h).
 *
 * A checkpoint becomes blocks. A block is the payload of one CKPT_DATA message, all big endian:
 *
 *   offset size
 *        0    8  where the bytes that it rebuilds belong in the checkpoint
 *        8    1  how the operations are packed: 0 not, 1 LZ4 block, 2 Zstandard frame
 *        9    3  0
 *       12    4  bytes that it rebuilds: 1 to PAGE_BLOCK_RAW
 *       16    4  bytes of operations, unpacked: 1 to PAGE_BLOCK_OPS
 *       20    n  operations, packed or not (then n is their length)
 *
 * An operation appends to the checkpoint. Its first byte:
 *
 *   bits 0-2  0 LITERAL  varint n (at least 1), n bytes: they are appended
 *             1 ZERO     the record of a zero page: head, and the byte 0
 *             2 WHOLE    head; 4096 bytes follow and are appended
 *             3 STORE    the same, and the slot keeps them
 *             4 SAME     head; the slot's 4096 bytes are appended
 *             5 DELTA    head; the slot is changed, then as SAME
 *             6 AGREE    head; 4096 bytes: those that the receiver's VM has in this page now, if
 *                        they have the hash that follows; else they are a hole
 *             7 BLOCK    byte n, n bytes: the RAM block whose pages WHOLE, STORE and AGREE with a
 *                        head are, from here on; nothing is appended. n is 0 while the sender does
 *                        not know the name (stream.h): mostly it is the largest one. A wrong guess
 *                        makes holes
 *   bits 3-4  0 no head  (LITERAL and BLOCK always; ZERO and AGREE never)
 *             1 next     be64: the last head's offset + 4096, or-ed with flag 020 (same block) and
 *                        002 (ZERO) or 008 (others)
 *             2 step     the same with the last offset + 4096 * a zigzag varint
 *             3          never
 *   bit 5     STORE, SAME, DELTA, and AGREE with bit 6: the slot is the last slot named + 1
 *   bit 6     AGREE: a slot keeps the page; no later operation of this checkpoint names that slot
 *   bit 7     0
 *
 * then, in this order: the step (head 2); the slot, a varint (what has one, without bit 5); the
 * contents. AGREE's contents are the XXH3-128 (canonical) of the page with the session's secret.
 * DELTA's contents: varint length, at most PAGE_DELTA_MAX, and so many bytes of runs: varint words
 * of 8 bytes to skip, varint words that follow (at least 1), and these, which are xor-ed into the
 * slot. "The last offset" and "the last slot named" begin as 0 with a session and reach across
 * blocks and checkpoints. A varint has 7 bits in each byte, the lowest first, bit 7 set in all but
 * the last; at most 10 bytes.
 *
 * The receiver answers each block that has AGREEs, with one HOLES message:
 *
 *   offset size
 *        0    4  n: the number of AGREEs in the block, 1 to PAGE_BLOCK_AGREES
 *        4    m  m = n / 8, rounded up: bit i % 8 of byte i / 8: the i-th of them is a hole. 0
 * above
 *
 * and the sender fills the holes, in their order, each once, by FILL messages:
 *
 *   offset size
 *        0    4  holes of this checkpoint that were filled before this message
 *        4    1  how the pages are packed, as in a block
 *        5    3  0
 *        8    4  n: pages, 1 to PAGE_FILL_PAGES
 *       12       the 4096 bytes of each of the next n holes, packed or not
 *
 * A checkpoint ends when every AGREE has been answered and every hole filled.
 *
 * Nothing here does I/O or reads a clock; one thread for each encoder and decoder.
 */

#define PAGE_BLOCK_HEAD 20u
#define PAGE_BLOCK_RAW  (264u << 10)
#define PAGE_BLOCK_OPS  (72u << 10)
#define PAGE_DELTA_MAX  3072u

#define PAGE_BLOCK_AGREES (PAGE_BLOCK_RAW / (8u + PAGE_CACHE_PAGE))
#define PAGE_HOLES_HEAD   4u
#define PAGE_HOLES_MAX    (PAGE_HOLES_HEAD + (PAGE_BLOCK_AGREES + 7u) / 8u)
#define PAGE_FILL_HEAD    12u
#define PAGE_FILL_PAGES   16u
#define PAGE_AGREES_MAX   (128u << 10) /* of one checkpoint: 512 MiB; the rest is sent whole */
#define PAGE_HASH_LEN     16u
#define PAGE_SECRET_LEN   192u

enum page_op {
	PAGE_OP_LITERAL,
	PAGE_OP_ZERO,
	PAGE_OP_WHOLE,
	PAGE_OP_STORE,
	PAGE_OP_SAME,
	PAGE_OP_DELTA,
	PAGE_OP_AGREE,
	PAGE_OP_BLOCK,
};

#define PAGE_OP_KIND       0x07u
#define PAGE_OP_HEAD       0x18u
#define PAGE_OP_HEAD_NEXT  0x08u
#define PAGE_OP_HEAD_STEP  0x10u
#define PAGE_OP_NEXT_SLOT  0x20u
#define PAGE_OP_AGREE_SLOT 0x40u

/* RAM record flags (QEMU's migration/ram.h): same block, zero page, page. */
#define PAGE_HEAD_FULL 0x28u
#define PAGE_HEAD_ZERO 0x22u

/* Since the encoder was made; 4096-byte pieces of the device state count as pages. */
struct page_codec_stats {
	uint64_t raw_bytes;    /* of the checkpoints */
	uint64_t packed_bytes; /* of the blocks */
	uint64_t zero;
	uint64_t unchanged;
	uint64_t delta;
	uint64_t compressed; /* whole ones in a block that was packed */
	uint64_t whole;      /* in one that was not */
	uint64_t agreed;     /* the receiver's VM had them */
	uint64_t holes;      /* it had others: they are whole or compressed ones, too */
};

/* What the encoder does with a page that is new to the cache, or too different. */
enum page_agree {
	PAGE_AGREE_NEVER,  /* it is sent */
	PAGE_AGREE_SAMPLE, /* it is sent, and the receiver can tell which page it is */
	PAGE_AGREE_ALWAYS, /* its hash is sent */
};

struct page_encoder;

/* Returns 0 or -ENOMEM. */
int page_encoder_new(struct page_encoder **ret_encoder, size_t cache_bytes);
/* NULL is allowed. */
void page_encoder_free(struct page_encoder *e);

/* A new session with a peer whose cache is empty and has the same size, at least. */
void page_encoder_reset(struct page_encoder *e);

/*
 * From the next checkpoint on, until page_encoder_reset(). `secret` (PAGE_SECRET_LEN bytes) is
 * copied. Returns 0 or -ENOMEM, after which it is PAGE_AGREE_NEVER.
 */
int page_encoder_agree(struct page_encoder *e, enum page_agree agree, const uint8_t *secret);

/* The checkpoint that is encoded next. It must stay where it is until it is settled. */
void page_encoder_begin(struct page_encoder *e, const uint8_t *base, size_t len);

/*
 * Gathers the operations of the next block, or pages for holes that the peer has told; returns
 * their length, 0 when there is nothing to send now: behind the last one, unless
 * page_encoder_settled() says that answers are to come. A checkpoint that cannot be walked over is
 * sent as literal bytes from there on.
 */
size_t page_encoder_gather(struct page_encoder *e);

/* What was gathered fills holes: page_encoder_pack() makes a FILL message of it, not a block. */
bool page_encoder_fills(const struct page_encoder *e);

/* A HOLES message. Returns 0, or -EPROTO: it does not fit to what was gathered. */
int page_encoder_holes(struct page_encoder *e, const uint8_t *message, size_t len);

/* All AGREEs that were gathered have been answered, and all holes were gathered. */
bool page_encoder_settled(const struct page_encoder *e);

/*
 * Packs what was gathered, unless that makes it no smaller, and lays the block out. *ret_block is
 * valid until the next gather. Returns how it was packed.
 */
enum pack_method page_encoder_pack(struct page_encoder *e, enum pack_method method,
                                   const uint8_t **ret_block, size_t *ret_len);

/* Where the gathered block begins in the checkpoint, and how many bytes it rebuilds (a FILL: 0). */
void page_encoder_span(const struct page_encoder *e, size_t *ret_offset, size_t *ret_len);

/*
 * A gathered block apart from its encoder, so that it can be packed while that gathers the next one
 * (kvm/encode_pool.h). Zero at first; page_gathered_fini() frees what it holds.
 */
struct page_gathered {
	size_t offset; /* where what it rebuilds begins in the checkpoint */
	size_t span;   /* bytes that it rebuilds */
	size_t len;    /* bytes of operations */
	uint64_t whole_pages;
	uint8_t *ops;
};

#define PAGE_BLOCK_MAX (PAGE_BLOCK_HEAD + PAGE_BLOCK_OPS)

/* Room for operations. Returns 0 or -ENOMEM. */
int page_gathered_init(struct page_gathered *g);
void page_gathered_fini(struct page_gathered *g);
/* Instead of page_encoder_pack(): what was gathered is in `g`, whose room the encoder has now. */
void page_encoder_take(struct page_encoder *e, struct page_gathered *g);
/* As page_encoder_pack(), into PAGE_BLOCK_MAX bytes; any thread. Returns the block's length. */
size_t page_gathered_pack(const struct page_gathered *g, struct pack *pack, enum pack_method method,
                          uint8_t *out, enum pack_method *ret_method);
/* That a block of so many bytes became of it is counted with the encoder's figures. */
void page_encoder_packed(struct page_encoder *e, const struct page_gathered *g,
                         enum pack_method method, size_t len);

void page_encoder_stats(const struct page_encoder *e, struct page_codec_stats *ret_stats);
const struct page_cache *page_encoder_cache(const struct page_encoder *e);

struct page_decoder;

/* The memory of the receiver's VM, which may run meanwhile. */
struct page_memory {
	/* The number of the RAM block of that name; len 0: the largest. -1: there is none. */
	int (*block)(void *ctx, const char *name, size_t len);
	/* Copies the page at `offset` of it, of any number; false: it cannot be read. */
	bool (*read)(void *ctx, int block, uint64_t offset, uint8_t *page);
	void *ctx;
};

/* Returns 0 or -ENOMEM. */
int page_decoder_new(struct page_decoder **ret_decoder, size_t cache_bytes);
/* NULL is allowed. */
void page_decoder_free(struct page_decoder *d);
/* A new session, without a VM's memory. */
void page_decoder_reset(struct page_decoder *d);

/* AGREE is accepted from now on, until page_decoder_reset(). `secret` is copied. */
void page_decoder_memory(struct page_decoder *d, const struct page_memory *memory,
                         const uint8_t *secret);

/* The next checkpoint. */
void page_decoder_begin(struct page_decoder *d);

/*
 * Rebuilds what a block of a checkpoint of `size` bytes in all says, behind what is in `buf`; what
 * is in a hole is not defined. Returns 0, or -EPROTO with words (page_decoder_error()); then buf is
 * as it was, what the cache holds is not defined any more, and the session is of no use.
 */
int page_decoder_block(struct page_decoder *d, const uint8_t *block, size_t len,
                       struct ckpt_buf *buf, uint64_t size);

/* The HOLES message for the last block; returns its length, 0: there is none to send. */
size_t page_decoder_holes(const struct page_decoder *d, uint8_t out[PAGE_HOLES_MAX]);

/* A FILL message. Returns 0, or -EPROTO as above. */
int page_decoder_fill(struct page_decoder *d, const uint8_t *message, size_t len,
                      struct ckpt_buf *buf);

/* How much of the checkpoint is there from its beginning on, up to the first hole. */
size_t page_decoder_solid(const struct page_decoder *d, const struct ckpt_buf *buf);

/*
 * Of the pages of this checkpoint that were sent whole some were compared with the VM's: how many,
 * and how many were the same. It is what the sender learns from, whether AGREE pays.
 */
void page_decoder_samples(const struct page_decoder *d, uint32_t *ret_looked, uint32_t *ret_alike);

const char *page_decoder_error(const struct page_decoder *d);
const struct page_cache *page_decoder_cache(const struct page_decoder *d);

#endif
