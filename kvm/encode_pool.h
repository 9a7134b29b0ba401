/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_KVM_ENCODE_POOL_H
#define COLO_KVM_ENCODE_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvm/encode_threads.h"
#include "kvm/pack.h"
#include "kvm/page_codec.h"

/*
 * Threads that encode a checkpoint, for hosts with processors to spare: the thread that carries the
 * VM's packets then only hands finished blocks to the link. The blocks are those that
 * page_encoder_gather() and page_encoder_pack() make in one thread, in the same order.
 *
 * One checkpoint at a time. Every call is for one and the same thread, the owner's.
 */

struct encode_pool;

struct encode_pool_params {
	unsigned int threads;    /* 1 to ENCODE_THREADS_MAX */
	uint64_t (*clock)(void); /* ns; any thread */
	/*
	 * Called by one of the threads when encode_pool_next() has said ENCODE_LATER and would now
	 * say something else. It must not call the pool.
	 */
	void (*wake)(void *ctx);
	void *ctx;
};

/* What is encoded, and with what. It is the pool's until ENCODE_OVER or encode_pool_stop(). */
struct encode_job {
	struct page_encoder *encoder; /* after page_encoder_begin() */
	const uint8_t *base;          /* of the checkpoint */
	size_t len;
	void *hash; /* XXH3_state_t: gets what the blocks rebuild, in order */
	struct pack_choice *choice;
	uint64_t link_rate; /* pack_choice_pick() */
};

enum encode_result {
	ENCODE_BLOCK,
	ENCODE_LATER, /* wake() will be called */
	ENCODE_OVER,  /* no block is left, no thread is at work; also when there is no job */
};

/* Starts the threads, with all signals blocked. Returns 0 or a negative errno. */
int encode_pool_new(struct encode_pool **ret_pool, const struct encode_pool_params *params);
/* Stops what is under way and ends the threads; wake() is not called any more. NULL is allowed. */
void encode_pool_free(struct encode_pool *pool);

/*
 * Whether a checkpoint of so many bytes is worth it: to hand a small one over and to be woken up
 * takes longer than to encode it.
 */
bool encode_pool_pays(const struct encode_pool *pool, size_t len);

/* Begins with a checkpoint. The last one is over, or was stopped. */
void encode_pool_begin(struct encode_pool *pool, const struct encode_job *job);

/* The next block, in order; it stays the next one, and where it is, until encode_pool_taken(). */
enum encode_result encode_pool_next(struct encode_pool *pool, const uint8_t **ret_block,
                                    size_t *ret_len);
/* The block that next() gave is of no use any more. */
void encode_pool_taken(struct encode_pool *pool);

/*
 * Gives the checkpoint up. Waits for the block that each thread has in hand, some 100 us of work;
 * then nobody but the caller uses anything of the job. The encoder has to be reset.
 */
void encode_pool_stop(struct encode_pool *pool);

unsigned int encode_pool_threads(const struct encode_pool *pool);
/* Time that the threads took for the job, all together. */
uint64_t encode_pool_spent(struct encode_pool *pool);
/* page_cache_bytes() of the job's encoder as of the last block gathered. */
uint64_t encode_pool_cache_bytes(struct encode_pool *pool);
#endif
