/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The primary: a captured checkpoint onto the link, in fewer bytes (kvm/page_codec.h).
 *
 * It happens after the PVM runs on, in slices: the thread that encodes also carries the VM's
 * packets, so it goes back to the loop after SLICE_NS and comes again in the next turn. A block
 * that the link has no room for is kept; nothing is encoded before it is gone.
 *
 * With threads for it (encode-threads), this thread only takes the blocks, in order, and hands them
 * to the link. A checkpoint of a few blocks it still encodes itself: to hand it over and to be
 * woken up would take longer. What was captured stays until the threads have let go of it: they
 * have when the last block is taken, and whatever ends a checkpoint before comes through
 * encode_stop(), which waits for the block that each has in hand.
 *
 * Pages that the SVM has in its memory as well are told by their hashes, if that pays (kvm/agree.h)
 * and the SVM has heard what the PVM has: its epoch was compared. The secondary answers what it has
 * not (CKPT_HOLES) while the checkpoint goes on, and gets it from the buffer, which stays until
 * then (CKPT_FILL); CKPT_END comes when nothing is missing. The encoder is the threads' while they
 * have the checkpoint: answers that come before they are done wait, and this thread fills.
 *
 * Both sides begin a session, and each protection in it, with an empty cache of the size that both
 * agree on: the smaller one of the two configurations'. What the peer can do it says with the
 * link's HELLO; one that encodes in another way is refused.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "colo-proxy/control/log.h"
#include "colo-proxy/link/streams.h"
#include "colo-proxy/node/node_private.h"

#define SLICE_NS    (MS * 3 / 10)
#define ANSWERS_MAX (1u << 20) /* bytes; an AGREE takes 6 at most, being alone in its block */

static const enum pack_method methods[] = {
        [CONFIG_COMPRESSION_AUTO] = PACK_AUTO,
        [CONFIG_COMPRESSION_LZ4] = PACK_LZ4,
        [CONFIG_COMPRESSION_ZSTD] = PACK_ZSTD,
        [CONFIG_COMPRESSION_NONE] = PACK_NONE,
};

static const enum agree_mode modes[] = {
        [CONFIG_AGREEING_AUTO] = AGREE_AUTO,
        [CONFIG_AGREEING_ON] = AGREE_ON,
        [CONFIG_AGREEING_OFF] = AGREE_OFF,
};

static struct codec *of(struct node *node)
{
	return &node->codec;
}

/* ---- what both sides agree on ---- */

static uint64_t own_cache(const struct node *node)
{
	uint64_t bytes = node->config->page_cache_bytes;
	uint64_t memory = node->config->memory_mib << 20;

	return bytes < memory ? bytes : memory;
}

void codec_caps(const struct node *node, uint8_t out[CODEC_CAPS_LEN])
{
	struct codec_caps caps = {.version = CODEC_VERSION,
	                          .cache_bytes = own_cache(node),
	                          .replay_bytes = node->config->replay_bytes};

	codec_caps_pack(out, &caps);
}

bool codec_peer(struct node *node, const uint8_t *caps, size_t len)
{
	struct codec_caps peer;
	char text[160];

	if (codec_caps_unpack(&peer, caps, len) < 0 || peer.version != CODEC_VERSION) {
		snprintf(text, sizeof(text),
		         "the peer encodes checkpoints in another way than this side (version %u); "
		         "install the same colo-proxy on both hosts",
		         CODEC_VERSION);
		log_error("%s", text);
		link_drop(node->link, text);
		return false;
	}
	of(node)->cache_bytes = own_cache(node);
	if (peer.cache_bytes < of(node)->cache_bytes)
		of(node)->cache_bytes = peer.cache_bytes;
	node->replay_bytes = node->config->replay_bytes;
	if (peer.replay_bytes < node->replay_bytes)
		node->replay_bytes = peer.replay_bytes;
	return true;
}

void codec_fini(struct node *node)
{
	struct codec *c = of(node);

	encode_pool_free(c->pool);
	free(c->answers);
	c->answers = NULL;
	c->answers_len = c->answers_room = 0;
	c->pool = NULL;
	c->pooled = false;
	page_encoder_free(c->encoder);
	page_decoder_free(c->decoder);
	XXH3_freeState(c->hash);
	c->encoder = NULL;
	c->decoder = NULL;
	c->hash = NULL;
}

struct stats_queue codec_memory(struct node *node)
{
	struct codec *c = of(node);
	uint64_t now = 0;

	if (c->pooled)
		now += encode_pool_cache_bytes(c->pool);
	else if (c->encoder)
		now += page_cache_bytes(page_encoder_cache(c->encoder));
	if (c->decoder)
		now += page_cache_bytes(page_decoder_cache(c->decoder));
	if (now > c->cache_high)
		c->cache_high = now;
	return (struct stats_queue){.now = now, .high = c->cache_high, .limit = c->cache_bytes};
}

/* ---- the primary ---- */

static void pump_again(void *ctx, uint64_t now)
{
	(void)now;
	primary_pump_checkpoint(ctx);
}

static void pool_ready(void *arg)
{
	primary_pump_checkpoint(arg);
}

/* One of the pool's threads: this one is to come back to the pool. */
static void wake(void *ctx)
{
	struct node *node = ctx;

	/* No memory for a few bytes: there will be, or nothing goes on at all. */
	while (loop_post(node->loop, pool_ready, node) < 0)
		sched_yield();
}

static unsigned int threads_here(const struct config *config)
{
	struct encode_threads_facts facts = {
	        .vcpus = (unsigned int)config->smp,
	        .packs = config->compression != CONFIG_COMPRESSION_NONE,
	};
	struct encode_threads_choice choice;

	processors_find("", &facts.processors);
	encode_threads_choose(&facts, config->encode_threads, &choice);
	return choice.threads;
}

unsigned int codec_streams(const struct node *node)
{
	struct link_streams_facts facts = {
	        .vcpus = (unsigned int)node->config->smp,
	        .encoders = threads_here(node->config),
	};
	struct link_streams_choice choice;
	struct processors processors;

	processors_find("", &processors);
	facts.processors = processors.usable;
	link_streams_choose(&facts, node->config->streams, &choice);
	return choice.streams;
}

/* Without them this thread encodes. */
static void start_pool(struct node *node)
{
	struct encode_pool_params params = {.clock = loop_clock, .wake = wake, .ctx = node};
	struct codec *c = of(node);
	int r;

	if (c->pool)
		return;
	params.threads = threads_here(node->config);
	if (params.threads == 0)
		return;
	r = encode_pool_new(&c->pool, &params);
	if (r < 0)
		log_warn("no threads to encode checkpoints with: %s; the data thread does it",
		         strerror(-r));
}

int encode_begin_session(struct node *node)
{
	struct codec *c = of(node);

	encode_stop(node);
	if (c->encoder && c->encoder_bytes != c->cache_bytes) {
		page_encoder_free(c->encoder);
		c->encoder = NULL;
	}
	c->peer_reads = false;
	if (!c->encoder) {
		int r = page_encoder_new(&c->encoder, c->cache_bytes);

		if (r < 0)
			return r;
		c->encoder_bytes = c->cache_bytes;
	}
	start_pool(node);
	pack_choice_init(&c->choice, methods[node->config->compression]);
	c->pump_timer = (struct loop_timer){.fire = pump_again, .ctx = node};
	log_info("checkpoints: up to %lu MiB of pages are kept on both hosts, compression %s, "
	         "%u threads",
	         (unsigned long)(c->cache_bytes >> 20), pack_method_name(c->choice.fixed),
	         c->pool ? encode_pool_threads(c->pool) : 0);
	return 0;
}

void encode_stop(struct node *node)
{
	loop_timer_clear(node->loop, &of(node)->pump_timer);
	if (of(node)->pooled)
		encode_pool_stop(of(node)->pool);
	of(node)->pooled = false;
	of(node)->answers_len = 0;
	of(node)->block = NULL;
	if (of(node)->encoder)
		page_encoder_reset(of(node)->encoder);
}

/* The checkpoint's blocks are the pool's, if that pays. */
static void begin_pool(struct node *node)
{
	struct codec *c = of(node);
	struct encode_job job = {
	        .encoder = c->encoder,
	        .base = node->p.ckpt.buf.base,
	        .len = node->p.ckpt.buf.len,
	        .hash = node->p.hash,
	        .choice = &c->choice,
	        .link_rate = c->link_rate,
	};

	c->pooled = c->pool && encode_pool_pays(c->pool, node->p.ckpt.buf.len);
	if (c->pooled)
		encode_pool_begin(c->pool, &job);
}

void encode_peer_ready(struct node *node, uint32_t flags)
{
	struct codec *c = of(node);

	c->peer_reads = flags & READY_READS_FLAG;
	agree_choice_init(&c->agree, modes[node->config->agreeing_pages]);
	if (c->agree.mode != AGREE_OFF && !c->peer_reads)
		log_info("checkpoints: the secondary does not read its VM's memory: "
		         "pages that both VMs have are sent all the same");
}

/* Before the encoder begins. */
static void choose_agreeing(struct node *node)
{
	const struct stream_stats *stats = &node->p.ckpt.stats;
	enum page_agree agree = PAGE_AGREE_NEVER;
	struct codec *c = of(node);
	struct agree_case now = {
	        .pages = stats->pages,
	        .byte_ns = pack_choice_ns(&c->choice, c->link_rate),
	        .rtt_ns = node->rtt_ns,
	};

	if (c->peer_reads && node->p.ran && c->agree.mode != AGREE_OFF)
		agree = agree_choice_pick(&c->agree, &now) ? PAGE_AGREE_ALWAYS : PAGE_AGREE_SAMPLE;
	if (page_encoder_agree(c->encoder, agree, node->digest_key.secret) < 0)
		log_warn("no memory for the places of pages told by their hashes: they are sent");
}

static bool send_begin(struct node *node)
{
	struct primary *p = &node->p;
	struct codec *c = of(node);
	uint8_t payload[24];

	u64_pack(payload, p->ckpt.buf.len);
	u64_pack(payload + 8, p->input_cut);
	u64_pack(payload + 16, p->runs ? 0 : CKPT_KEEP_FLAG);
	if (node_send(node, LINK_BULK, MSG_CKPT_BEGIN, (uint32_t)p->ckpt.epoch, payload,
	              sizeof(payload)) != 0)
		return false;
	p->begun = true;
	XXH3_128bits_reset(p->hash);
	page_encoder_stats(c->encoder, &c->seen);
	c->link_rate = link_rate(node->link, LINK_BULK);
	choose_agreeing(node);
	page_encoder_begin(c->encoder, p->ckpt.buf.base, p->ckpt.buf.len);
	c->encode_ns = 0;
	begin_pool(node);
	return true;
}

/* The next block; false behind the last one. */
static bool encode_block(struct node *node)
{
	struct primary *p = &node->p;
	struct codec *c = of(node);
	uint64_t started = loop_clock();
	uint64_t gathered;
	size_t ops = page_encoder_gather(c->encoder);
	enum pack_method method;
	size_t offset;
	size_t span;
	size_t head;

	if (!ops)
		return false;
	page_encoder_span(c->encoder, &offset, &span);
	XXH3_128bits_update(p->hash, p->ckpt.buf.base + offset, span);
	method = pack_choice_pick(&c->choice, ops, c->link_rate);
	gathered = loop_clock();
	(void)page_encoder_pack(c->encoder, method, &c->block, &c->block_len);
	head = page_encoder_fills(c->encoder) ? PAGE_FILL_HEAD : PAGE_BLOCK_HEAD;
	pack_choice_note(&c->choice, method, ops, c->block_len - head, loop_clock() - gathered);
	c->encode_ns += loop_clock() - started;
	return true;
}

/* A CKPT_HOLES for the encoder. False: it does not fit, and the session is over. */
static bool take_answer(struct node *node, const uint8_t *answer, size_t len)
{
	if (page_encoder_holes(of(node)->encoder, answer, len) == 0)
		return true;
	link_drop(node->link, "pages are missing of a checkpoint that does not have them");
	return false;
}

/* The threads are done: the encoder is this thread's, and has what came meanwhile. */
static bool leave_pool(struct node *node)
{
	struct codec *c = of(node);
	size_t len = c->answers_len;

	c->encode_ns = encode_pool_spent(c->pool);
	c->pooled = false;
	c->answers_len = 0;
	for (size_t at = 0; at < len; at += 1u + c->answers[at]) {
		if (!take_answer(node, c->answers + at + 1, c->answers[at]))
			return false;
	}
	return true;
}

static enum encode_result next_block(struct node *node)
{
	struct codec *c = of(node);

	if (c->block)
		return ENCODE_BLOCK;
	if (c->pooled) {
		enum encode_result next = encode_pool_next(c->pool, &c->block, &c->block_len);

		if (next != ENCODE_OVER)
			return next;
		if (!leave_pool(node))
			return ENCODE_LATER; /* never: the session is over */
	}
	return encode_block(node) ? ENCODE_BLOCK : ENCODE_OVER;
}

static bool send_block(struct node *node)
{
	struct codec *c = of(node);
	struct iovec iov = {.iov_base = (void *)c->block, .iov_len = c->block_len};
	bool fills = !c->pooled && page_encoder_fills(c->encoder);
	uint8_t type = fills ? MSG_CKPT_FILL : MSG_CKPT_DATA;

	if (link_send(node->link, LINK_BULK, type, (uint32_t)node->p.ckpt.epoch, &iov, 1) != 0)
		return false;
	c->block = NULL;
	if (c->pooled)
		encode_pool_taken(c->pool);
	return true;
}

/* The figures of one checkpoint. */
static void count(struct node *node)
{
	struct codec *c = of(node);
	struct page_codec_stats now;
	uint64_t whole, agreed, holes;

	page_encoder_stats(c->encoder, &now);
	whole = now.whole + now.compressed - c->seen.whole - c->seen.compressed;
	agreed = now.agreed - c->seen.agreed;
	holes = now.holes - c->seen.holes;
	node->plain_last = now.raw_bytes - c->seen.raw_bytes;
	node->bytes_last = now.packed_bytes - c->seen.packed_bytes;
	node->plain_total += node->plain_last;
	node->bytes_total += node->bytes_last;
	c->total.zero += now.zero - c->seen.zero;
	c->total.unchanged += now.unchanged - c->seen.unchanged;
	c->total.delta += now.delta - c->seen.delta;
	c->total.compressed += now.compressed - c->seen.compressed;
	c->total.whole += now.whole - c->seen.whole;
	c->total.agreed += agreed;
	c->total.holes += holes;
	if (node->p.ran) {
		agree_choice_sent(&c->agree, node->p.ckpt.stats.pages, whole + agreed);
		agree_choice_looked(&c->agree, agreed + holes, agreed);
	}
	hist_add(&node->encode_hist, c->encode_ns);
	figures_encoded(node);
}

static bool send_end(struct node *node)
{
	struct primary *p = &node->p;
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(p->hash));
	if (node_send(node, LINK_BULK, MSG_CKPT_END, (uint32_t)p->ckpt.epoch, canonical.digest,
	              sizeof(canonical.digest)) != 0)
		return false;
	p->ended = true;
	p->sending = false;
	count(node);
	return true;
}

/* Sends as much of the checkpoint as a slice and the link take; link_ops.room calls again. */
void primary_pump_checkpoint(struct node *node)
{
	struct primary *p = &node->p;
	struct codec *c = of(node);
	uint64_t deadline;

	if (!p->sending)
		return;
	deadline = loop_clock() + SLICE_NS;
	loop_timer_clear(node->loop, &c->pump_timer);
	if (!p->begun && !send_begin(node))
		return;
	if (!map_send(node, LINK_BULK, (uint32_t)p->ckpt.epoch))
		return;
	for (;;) {
		enum encode_result next = next_block(node);

		if (next == ENCODE_LATER)
			return; /* until the pool wakes this thread up */
		if (next == ENCODE_OVER)
			break;
		if (!send_block(node))
			return; /* until there is room */
		if (loop_clock() >= deadline) {
			node_arm(node, &c->pump_timer, 0);
			return;
		}
	}
	if (!page_encoder_settled(c->encoder)) {
		link_flush(node->link);
		return; /* until the secondary has said what it lacks */
	}
	if (primary_send_replay(node))
		(void)send_end(node);
	link_flush(node->link);
}

/* Each behind its length in a byte. */
static void keep_answer(struct node *node, const uint8_t *answer, size_t len)
{
	struct codec *c = of(node);
	size_t room = c->answers_room ? 2 * c->answers_room : 1024;

	if (c->answers_len + 1 + len > c->answers_room) {
		uint8_t *more = room <= ANSWERS_MAX ? realloc(c->answers, room) : NULL;

		if (!more) {
			link_drop(node->link, "more answers than a checkpoint can have");
			return;
		}
		c->answers = more;
		c->answers_room = room;
	}
	c->answers[c->answers_len] = (uint8_t)len;
	memcpy(c->answers + c->answers_len + 1, answer, len);
	c->answers_len += 1 + len;
}

void encode_holes(struct node *node, uint32_t epoch, const uint8_t *payload, size_t len)
{
	struct primary *p = &node->p;

	if (!p->relay)
		return; /* the channel has closed: see channel_lost() */
	if (!p->sending || !p->begun || epoch != p->ckpt.epoch || len > PAGE_HOLES_MAX)
		link_drop(node->link, "pages are missing of a checkpoint that is not sent");
	else if (of(node)->pooled)
		keep_answer(node, payload, len);
	else if (take_answer(node, payload, len))
		primary_pump_checkpoint(node);
}

void encode_looked(struct node *node, uint32_t looked, uint32_t alike)
{
	if (node->p.ran)
		agree_choice_looked(&of(node)->agree, looked, alike);
}
