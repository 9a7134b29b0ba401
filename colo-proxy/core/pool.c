/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/core/pool.h"

#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define KEEPS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KEEPS 0
#endif
#endif
#ifndef KEEPS
#define KEEPS 1
#endif

/* A kept piece begins with the address of the next one. */
void *pool_get(struct pool *pool)
{
	void *piece = pool->first;

	if (!piece)
		return malloc(pool->size);
	memcpy(&pool->first, piece, sizeof(pool->first));
	pool->kept--;
	return piece;
}

void pool_put(struct pool *pool, void *piece)
{
	if (!KEEPS || !piece || pool->kept >= pool->keep) {
		free(piece);
		return;
	}
	memcpy(piece, &pool->first, sizeof(pool->first));
	pool->first = piece;
	pool->kept++;
}

void pool_fini(struct pool *pool)
{
	while (pool->first)
		free(pool_get(pool));
}
