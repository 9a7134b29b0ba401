/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The secondary: what the link brings of a checkpoint becomes its bytes again (kvm/page_codec.h).
 *
 * A few bytes of a block can stand for many, so a turn of the loop that has rebuilt for SLICE_NS
 * lets the bulk channel wait until the next one: this thread also has the SVM's packets.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "colo-proxy/node_private.h"

#define SLICE_NS (MS / 2)

static struct codec *of(struct node *node)
{
	return &node->codec;
}

static void go_on(void *ctx, uint64_t now)
{
	struct node *node = ctx;

	(void)now;
	of(node)->turn_ns = 0;
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
	c->turn_ns = 0;
	if (c->decoder)
		page_decoder_reset(c->decoder);
}

void decode_begin(struct node *node)
{
	XXH3_128bits_reset(of(node)->hash);
}

bool decode_block(struct node *node, const uint8_t *payload, size_t len)
{
	struct ckpt *ckpt = &node->s.ckpt;
	struct codec *c = of(node);
	uint64_t started = loop_clock();
	size_t before = ckpt->buf.len;
	char text[240];

	if (page_decoder_block(c->decoder, payload, len, &ckpt->buf, node->s.ckpt_size) < 0) {
		snprintf(text, sizeof(text), "checkpoint %lu, from byte %zu on: %s",
		         (unsigned long)ckpt->epoch, before, page_decoder_error(c->decoder));
		link_drop(node->link, text);
		return false;
	}
	XXH3_128bits_update(c->hash, ckpt->buf.base + before, ckpt->buf.len - before);
	c->turn_ns += loop_clock() - started;
	if (!c->turn_timer.at)
		node_arm(node, &c->turn_timer, 0);
	if (c->turn_ns >= SLICE_NS)
		link_pause(node->link, LINK_BULK, true);
	return true;
}

bool decode_is_whole(struct node *node, const uint8_t hash[16])
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(of(node)->hash));
	return node->s.ckpt.buf.len == node->s.ckpt_size &&
	       memcmp(canonical.digest, hash, sizeof(canonical.digest)) == 0;
}
