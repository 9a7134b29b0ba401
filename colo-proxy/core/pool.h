/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_POOL_H
#define COLO_CORE_POOL_H

#include <stddef.h>
#include <stdint.h>

/*
 * Pieces of memory of one size that come and go with each packet: up to `keep` of them wait here
 * for the next use, which malloc() does for seven of a size and thread only. A build with
 * AddressSanitizer keeps none, so that the use of one that was given back is seen.
 */
struct pool {
	size_t size;
	uint32_t keep, kept;
	void *first;
};

/* A piece with any contents; NULL when memory is out. Given back or freed with free(). */
void *pool_get(struct pool *pool);

/* Gives a piece back; NULL is allowed. */
void pool_put(struct pool *pool, void *piece);

/* Frees what is kept. */
void pool_fini(struct pool *pool);

#endif
