/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Gathering is for one thread at a time: each block builds on what the page cache holds after the
 * one before it. Packing a block needs that block alone. So every thread does both, whichever is
 * there to do: the oldest gathered block that nobody packs comes first, since the link waits for
 * it; otherwise, when nobody gathers and there is a place, the next block is gathered. One thread
 * does both in turns.
 *
 * Places are a ring. Three counts of blocks, each at most the next one, say what is where:
 *
 *      taken        packing       gathered
 *   ----|-------------|--------------|------------> blocks
 *       packed, or    gathered,      one may be on its way
 *       being packed  to be packed
 *
 * and gathered (with the one on its way) - taken is at most the number of places.
 *
 * Invariants: the encoder, the hash and the checkpoint are used only by the thread that has set
 * `gathering`; a place by the thread that has moved a count over it; all else under the lock. So
 * blocks leave in the order in which they were gathered. `busy` counts threads that are in a block,
 * outside the lock: with `running` false and `busy` 0 nothing of the job is in use.
 *
 * Errors: there are none; what cannot be packed leaves as it is (page_gathered_pack()).
 */
#include "kvm/encode_pool.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <xxhash.h>

#define LEAST (512u << 10) /* bytes of a checkpoint */
/* Two for each thread, and two for the link: 144 KiB each. */
#define PLACES(threads) (2u * (threads) + 2u)

struct place {
	struct page_gathered gathered;
	enum pack_method method; /* that is asked for */
	bool packed;
	size_t len;
	uint8_t block[PAGE_BLOCK_MAX];
};

struct worker {
	struct encode_pool *pool;
	struct pack *pack;
	pthread_t thread;
};

struct encode_pool {
	struct encode_pool_params params;
	struct worker workers[ENCODE_THREADS_MAX];
	unsigned int started; /* of them */
	struct place *places;
	unsigned int n_places;

	pthread_mutex_t lock; /* of all below */
	pthread_cond_t work;  /* there may be something to do */
	pthread_cond_t idle;  /* busy is 0 */
	bool quit;
	bool running;   /* there is a job */
	bool gathering; /* one thread is at it */
	bool over;      /* the last block is gathered */
	bool waiting;   /* wake() is owed */
	unsigned int busy;
	uint64_t taken, packing, gathered;
	uint64_t spent, cache_bytes;
	struct encode_job job;
};

static struct place *place_of(struct encode_pool *p, uint64_t block)
{
	return &p->places[block % p->n_places];
}

/* ---- the threads; the lock is held, but in the two that do the work ---- */

static bool may_pack(const struct encode_pool *p)
{
	return p->running && p->packing < p->gathered;
}

static bool may_gather(const struct encode_pool *p)
{
	return p->running && !p->gathering && !p->over && p->gathered - p->taken < p->n_places;
}

static bool is_over(const struct encode_pool *p)
{
	return !p->running || (p->over && p->taken == p->gathered);
}

static bool has_next(struct encode_pool *p)
{
	return p->taken < p->gathered && place_of(p, p->taken)->packed;
}

static void tell(struct encode_pool *p)
{
	if (!p->waiting || !(has_next(p) || is_over(p)))
		return;
	p->waiting = false;
	p->params.wake(p->params.ctx);
}

static void enter(struct encode_pool *p)
{
	p->busy++;
	pthread_mutex_unlock(&p->lock);
}

static void leave(struct encode_pool *p, uint64_t since)
{
	uint64_t now = p->params.clock();

	pthread_mutex_lock(&p->lock);
	p->spent += now - since;
	if (--p->busy == 0)
		pthread_cond_signal(&p->idle);
}

/* The next block's operations; false behind the last one. */
static bool gather(struct encode_job *job, struct place *place, uint64_t *ret_cache)
{
	struct page_gathered *g = &place->gathered;

	if (page_encoder_gather(job->encoder) == 0)
		return false;
	page_encoder_take(job->encoder, g);
	XXH3_128bits_update(job->hash, job->base + g->offset, g->span);
	*ret_cache = page_cache_bytes(page_encoder_cache(job->encoder));
	return true;
}

static void gather_next(struct encode_pool *p)
{
	struct place *place = place_of(p, p->gathered);
	uint64_t since = p->params.clock();
	uint64_t cache = p->cache_bytes;
	bool got;

	p->gathering = true;
	enter(p);
	got = gather(&p->job, place, &cache);
	leave(p, since);
	p->gathering = false;
	p->cache_bytes = cache;
	if (!got) {
		p->over = true;
		return;
	}
	place->packed = false;
	place->method = pack_choice_pick(p->job.choice, place->gathered.len, p->job.link_rate);
	p->gathered++;
}

static void pack_next(struct encode_pool *p, struct worker *w)
{
	struct place *place = place_of(p, p->packing++);
	uint64_t since = p->params.clock();
	enum pack_method used;
	uint64_t took;

	enter(p);
	place->len =
	        page_gathered_pack(&place->gathered, w->pack, place->method, place->block, &used);
	took = p->params.clock() - since;
	leave(p, since);
	/* The others pack meanwhile: of the checkpoint's time it is only a part. */
	pack_choice_note(p->job.choice, place->method, place->gathered.len,
	                 place->len - PAGE_BLOCK_HEAD, took / p->started);
	page_encoder_packed(p->job.encoder, &place->gathered, used, place->len);
	place->packed = true;
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct encode_pool *p = w->pool;

	pthread_mutex_lock(&p->lock);
	while (!p->quit) {
		if (may_pack(p)) {
			pack_next(p, w);
		} else if (may_gather(p)) {
			gather_next(p);
		} else {
			pthread_cond_wait(&p->work, &p->lock);
			continue;
		}
		tell(p);
		/* One that this thread does not do itself in a moment. */
		if (may_pack(p) && may_gather(p))
			pthread_cond_signal(&p->work);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

/* ---- the owner's thread ---- */

static int init_locks(struct encode_pool *p)
{
	pthread_mutexattr_t attr;
	int r = pthread_mutexattr_init(&attr);

	if (r)
		return -r;
	/* The owner runs before all others while the VM stands still (qemu-glue/urgent.h). */
	r = pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
	if (!r)
		r = pthread_mutex_init(&p->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	if (r)
		return -r;
	/* Without attributes glibc's do not fail. */
	(void)pthread_cond_init(&p->work, NULL);
	(void)pthread_cond_init(&p->idle, NULL);
	return 0;
}

static int init_places(struct encode_pool *p)
{
	p->n_places = PLACES(p->params.threads);
	p->places = calloc(p->n_places, sizeof(*p->places));
	if (!p->places)
		return -ENOMEM;
	for (unsigned int i = 0; i < p->n_places; i++)
		if (page_gathered_init(&p->places[i].gathered) < 0)
			return -ENOMEM;
	return 0;
}

static int start_worker(struct encode_pool *p)
{
	struct worker *w = &p->workers[p->started];
	int r = pack_new(&w->pack);

	if (r < 0)
		return r;
	w->pool = p;
	r = -pthread_create(&w->thread, NULL, work, w);
	if (r < 0) {
		pack_free(w->pack);
		return r;
	}
	/* Without a lock: threads read it with a job only, and that comes through the lock. */
	p->started++;
	return 0;
}

static int start_workers(struct encode_pool *p)
{
	sigset_t all;
	sigset_t before;
	int r = 0;

	/* Signals are for the thread that waits for them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (r == 0 && p->started < p->params.threads)
		r = start_worker(p);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r;
}

int encode_pool_new(struct encode_pool **ret_pool, const struct encode_pool_params *params)
{
	struct encode_pool *p;
	int r;

	if (params->threads < 1 || params->threads > ENCODE_THREADS_MAX)
		return -EINVAL;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->params = *params;
	r = init_locks(p);
	if (r < 0) {
		free(p);
		return r;
	}
	r = init_places(p);
	if (r == 0)
		r = start_workers(p);
	if (r < 0) {
		encode_pool_free(p);
		return r;
	}
	*ret_pool = p;
	return 0;
}

void encode_pool_free(struct encode_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->quit = true;
	pool->running = pool->waiting = false;
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned int i = 0; i < pool->started; i++) {
		pthread_join(pool->workers[i].thread, NULL);
		pack_free(pool->workers[i].pack);
	}
	for (unsigned int i = 0; pool->places && i < pool->n_places; i++)
		page_gathered_fini(&pool->places[i].gathered);
	pthread_cond_destroy(&pool->idle);
	pthread_cond_destroy(&pool->work);
	pthread_mutex_destroy(&pool->lock);
	free(pool->places);
	free(pool);
}

bool encode_pool_pays(const struct encode_pool *pool, size_t len)
{
	return pool->started > 0 && len >= LEAST;
}

void encode_pool_begin(struct encode_pool *pool, const struct encode_job *job)
{
	pthread_mutex_lock(&pool->lock);
	assert(is_over(pool) && pool->busy == 0);
	pool->job = *job;
	pool->running = true;
	pool->over = false;
	pool->taken = pool->packing = pool->gathered = 0;
	pool->spent = 0;
	pool->cache_bytes = page_cache_bytes(page_encoder_cache(job->encoder));
	pthread_cond_signal(&pool->work);
	pthread_mutex_unlock(&pool->lock);
}

enum encode_result encode_pool_next(struct encode_pool *pool, const uint8_t **ret_block,
                                    size_t *ret_len)
{
	enum encode_result result = ENCODE_LATER;

	pthread_mutex_lock(&pool->lock);
	if (is_over(pool)) {
		result = ENCODE_OVER;
		pool->running = false;
	} else if (has_next(pool)) {
		const struct place *place = place_of(pool, pool->taken);

		*ret_block = place->block;
		*ret_len = place->len;
		result = ENCODE_BLOCK;
	}
	pool->waiting = result == ENCODE_LATER;
	pthread_mutex_unlock(&pool->lock);
	return result;
}

void encode_pool_taken(struct encode_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	assert(has_next(pool));
	pool->taken++;
	if (may_gather(pool))
		pthread_cond_signal(&pool->work);
	pthread_mutex_unlock(&pool->lock);
}

void encode_pool_stop(struct encode_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	pool->running = pool->waiting = false;
	while (pool->busy > 0)
		pthread_cond_wait(&pool->idle, &pool->lock);
	pthread_mutex_unlock(&pool->lock);
}

unsigned int encode_pool_threads(const struct encode_pool *pool)
{
	return pool->started;
}

static uint64_t read_locked(struct encode_pool *pool, const uint64_t *value)
{
	uint64_t seen;

	pthread_mutex_lock(&pool->lock);
	seen = *value;
	pthread_mutex_unlock(&pool->lock);
	return seen;
}

uint64_t encode_pool_spent(struct encode_pool *pool)
{
	return read_locked(pool, &pool->spent);
}

uint64_t encode_pool_cache_bytes(struct encode_pool *pool)
{
	return read_locked(pool, &pool->cache_bytes);
}
