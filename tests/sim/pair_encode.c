/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * encode_pool.h without threads: a block is made when it is asked for, every second time only some
 * time after that, when the owner is told to come again. What would be wrong with threads is
 * noticed: that a checkpoint changes while it is the pool's, and that another one begins.
 */
#include <string.h>
#include <xxhash.h>

#include "kvm/encode_pool.h"
#include "tests/sim/pair.h"

struct encode_pool {
	struct encode_pool_params params;
	struct encode_job job;
	bool running, asked, ready;

	XXH64_hash_t seen; /* of that, when it was */
	const uint8_t *block;
	size_t block_len;
};

int encode_pool_new(struct encode_pool **ret_pool, const struct encode_pool_params *params)
{
	struct encode_pool *pool = g_new0(struct encode_pool, 1);

	pool->params = *params;
	*ret_pool = pool;
	return 0;
}

void encode_pool_free(struct encode_pool *pool)
{
	g_free(pool);
}

bool encode_pool_pays(const struct encode_pool *pool, size_t len)
{
	(void)pool;
	return len > 0;
}

void encode_pool_begin(struct encode_pool *pool, const struct encode_job *job)
{
	CHECK(!pool->running, "a checkpoint is encoded before the last one was let go of (R3)");
	pool->job = *job;
	pool->running = true;
	pool->asked = pool->ready = false;
	pool->block = NULL;

	pool->seen = XXH3_64bits(job->base, job->len);
}

static bool make_block(struct encode_pool *pool)
{
	struct encode_job *job = &pool->job;
	size_t ops = page_encoder_gather(job->encoder);
	enum pack_method method;
	size_t offset;
	size_t span;

	CHECK(XXH3_64bits(job->base, job->len) == pool->seen,
	      "the checkpoint has changed while it is encoded (R3)");
	if (ops == 0)
		return false;
	page_encoder_span(job->encoder, &offset, &span);
	XXH3_128bits_update(job->hash, job->base + offset, span);
	method = pack_choice_pick(job->choice, ops, job->link_rate);
	(void)page_encoder_pack(job->encoder, method, &pool->block, &pool->block_len);
	return true;
}

static void block_is_ready(struct host *host, uint64_t life)
{
	struct encode_pool *pool;

	if (host->life != life || !host->node || !host->node->codec.pool)
		return;
	pool = host->node->codec.pool;
	pool->ready = true;
	pool->params.wake(pool->params.ctx);
}

enum encode_result encode_pool_next(struct encode_pool *pool, const uint8_t **ret_block,
                                    size_t *ret_len)
{
	if (!pool->running)
		return ENCODE_OVER;
	if (!pool->block && !pool->ready) {
		if (!pool->asked)
			at(world->now + rnd_ns(10 * US, chance(90) ? 2 * MS : 200 * MS), here,
			   block_is_ready, here->life);
		pool->asked = true;
		return ENCODE_LATER;
	}
	if (!pool->block && !make_block(pool)) {
		pool->running = false;
		return ENCODE_OVER;
	}
	*ret_block = pool->block;
	*ret_len = pool->block_len;
	return ENCODE_BLOCK;
}

void encode_pool_taken(struct encode_pool *pool)
{
	CHECK(pool->running && pool->block, "a block is taken that there is none");
	pool->block = NULL;
	pool->ready = !pool->ready;
	pool->asked = false;
}

void encode_pool_stop(struct encode_pool *pool)
{
	pool->running = false;
}

unsigned int encode_pool_threads(const struct encode_pool *pool)
{
	return pool->params.threads;
}

uint64_t encode_pool_spent(struct encode_pool *pool)
{
	(void)pool;
	return 0;
}

uint64_t encode_pool_cache_bytes(struct encode_pool *pool)
{
	return page_cache_bytes(page_encoder_cache(pool->job.encoder));
}
