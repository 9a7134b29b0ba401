/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The secondary: what the link brings of a checkpoint becomes its bytes again (kvm/page_codec.h).
 *
 * A page may be told by its hash: then it is the SVM's own, if that has it (process_vm_readv(2):
 * the SVM runs on), and if not, the primary is told and sends it (CKPT_HOLES, CKPT_FILL). The
 * checkpoint's own hash goes up to the first hole; it is over all of it, whoever had which page.
 *
 * A few bytes of a block can stand for many, so a turn of the loop that has rebuilt for SLICE_NS
 * lets the bulk channel wait until the next one: this thread also has the SVM's packets.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "colo-proxy/node/node_private.h"

#define SLICE_NS    (MS / 2)
#define HASH_STRIDE (256u << 10)

static struct codec *of(struct node *node)
{
	return &node->codec;
}

/* Hashes what is there, as far as this turn has time for. False: there is more. */
static bool hash_on(struct node *node)
{
	const struct ckpt_buf *buf = &node->s.ckpt.buf;
	struct codec *c = of(node);
	size_t solid = page_decoder_solid(c->decoder, buf);
	uint64_t started = loop_clock();

	while (c->hashed < solid && c->turn_ns + (loop_clock() - started) < SLICE_NS) {
		size_t n = solid - c->hashed;

		n = n < HASH_STRIDE ? n : HASH_STRIDE;
		XXH3_128bits_update(c->hash, buf->base + c->hashed, n);
		c->hashed += n;
	}
	c->turn_ns += loop_clock() - started;
	return c->hashed == solid;
}

/* Something was rebuilt: what is left of the turn's time is the SVM's packets'. */
static void end_slice(struct node *node)
{
	struct codec *c = of(node);
	bool all = hash_on(node);

	if (!c->turn_timer.at)
		node_arm(node, &c->turn_timer, 0);
	if (!all || c->turn_ns >= SLICE_NS)
		link_pause(node->link, LINK_BULK, true);
}

static void go_on(void *ctx, uint64_t now)
{
	struct node *node = ctx;

	(void)now;
	of(node)->turn_ns = 0;
	/* What is behind a hole that was filled late may take turns; CKPT_END waits for it. */
	if (node->s.ckpt_open && !hash_on(node))
		node_arm(node, &of(node)->turn_timer, 0);
	else
		link_pause(node->link, LINK_BULK, false);
}

int decode_begin_session(struct node *node)
{
	struct codec *c = of(node);

	decode_stop(node);
	if (c->decoder && c->decoder_bytes != c->cache_bytes) {
		page_decoder_free(c->decoder);
		c->decoder = NULL;
	}
	if (!c->hash)
		c->hash = XXH3_createState();
	if (!c->hash)
		return -ENOMEM;
	if (!c->decoder) {
		int r = page_decoder_new(&c->decoder, c->cache_bytes);

		if (r < 0)
			return r;
		c->decoder_bytes = c->cache_bytes;
	}
	c->turn_timer = (struct loop_timer){.fire = go_on, .ctx = node};
	return 0;
}

void decode_stop(struct node *node)
{
	struct codec *c = of(node);

	loop_timer_clear(node->loop, &c->turn_timer);
	link_pause(node->link, LINK_BULK, false);
	c->turn_ns = 0;
	if (c->decoder)
		page_decoder_reset(c->decoder);
}

void decode_begin(struct node *node)
{
	struct codec *c = of(node);

	XXH3_128bits_reset(c->hash);
	c->hashed = 0;
	page_decoder_begin(c->decoder);
}

static bool refused(struct node *node, size_t at)
{
	char text[240];

	snprintf(text, sizeof(text), "checkpoint %lu, from byte %zu on: %s",
	         (unsigned long)node->s.ckpt.epoch, at, page_decoder_error(of(node)->decoder));
	link_drop(node->link, text);
	return false;
}

/* What this side's VM has not. It must arrive: the primary waits for it. */
static bool send_holes(struct node *node)
{
	uint8_t message[PAGE_HOLES_MAX];
	struct iovec iov = {.iov_base = message};

	iov.iov_len = page_decoder_holes(of(node)->decoder, message);
	if (iov.iov_len == 0 || link_send(node->link, LINK_FAST, MSG_CKPT_HOLES,
	                                  (uint32_t)node->s.ckpt.epoch, &iov, 1) == 0)
		return true;
	link_drop(node->link, "the link takes no word of the pages that are missing");
	return false;
}

bool decode_block(struct node *node, const uint8_t *payload, size_t len)
{
	struct ckpt *ckpt = &node->s.ckpt;
	struct codec *c = of(node);
	uint64_t started = loop_clock();
	size_t before = ckpt->buf.len;

	if (page_decoder_block(c->decoder, payload, len, &ckpt->buf, node->s.ckpt_size) < 0)
		return refused(node, before);
	if (!send_holes(node))
		return false;
	c->turn_ns += loop_clock() - started;
	end_slice(node);
	return true;
}

bool decode_fill(struct node *node, const uint8_t *payload, size_t len)
{
	struct codec *c = of(node);
	uint64_t started = loop_clock();

	if (page_decoder_fill(c->decoder, payload, len, &node->s.ckpt.buf) < 0)
		return refused(node, page_decoder_solid(c->decoder, &node->s.ckpt.buf));
	c->turn_ns += loop_clock() - started;
	end_slice(node);
	return true;
}

void decode_looked(const struct node *node, uint32_t *ret_looked, uint32_t *ret_alike)
{
	page_decoder_samples(node->codec.decoder, ret_looked, ret_alike);
}

/* ---- the SVM's memory ---- */

static int own_block(void *ctx, const char *name, size_t len)
{
	return guest_memory_block(ctx, name, len);
}

static bool own_page(void *ctx, int block, uint64_t offset, uint8_t *page)
{
	return guest_memory_read(ctx, block, offset, page);
}

uint32_t decode_ready(struct node *node)
{
	struct page_memory memory = {own_block, own_page, &node->s.memory};

	if (node->config->agreeing_pages == CONFIG_AGREEING_OFF || node->s.memory.n == 0)
		return 0;
	page_decoder_memory(of(node)->decoder, &memory, node->digest_key.secret);
	return READY_READS_FLAG;
}

bool decode_is_whole(struct node *node, const uint8_t hash[16])
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(of(node)->hash));
	return node->s.ckpt.buf.len == node->s.ckpt_size && of(node)->hashed == node->s.ckpt_size &&
	       memcmp(canonical.digest, hash, sizeof(canonical.digest)) == 0;
}
