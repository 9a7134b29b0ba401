/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "kvm/pack.h"

#include <errno.h>
#include <limits.h>
#include <lz4.h>
#include <stdlib.h>
#include <zstd.h>

#define ZSTD_LEVEL   1
#define SMALL        128u         /* bytes that are not worth a call */
#define TRY_EVERY    64u          /* blocks between two trials of a method that is not in use */
#define LINK_UNKNOWN 125000000ull /* bytes/s: 1 Gbit/s */
#define WEIGHT       8.0          /* blocks that the averages reach back */

struct pack {
	ZSTD_CCtx *zstd_out;
	ZSTD_DCtx *zstd_in;
};

const char *pack_method_name(enum pack_method method)
{
	switch (method) {
	case PACK_NONE:
		return "none";
	case PACK_LZ4:
		return "lz4";
	case PACK_ZSTD:
		return "zstd";
	case PACK_AUTO:
		return "auto";
	}
	return "unknown";
}

int pack_new(struct pack **ret_pack)
{
	struct pack *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->zstd_out = ZSTD_createCCtx();
	p->zstd_in = ZSTD_createDCtx();
	if (!p->zstd_out || !p->zstd_in) {
		pack_free(p);
		return -ENOMEM;
	}
	*ret_pack = p;
	return 0;
}

void pack_free(struct pack *p)
{
	if (!p)
		return;
	ZSTD_freeCCtx(p->zstd_out);
	ZSTD_freeDCtx(p->zstd_in);
	free(p);
}

size_t pack_bytes(struct pack *p, enum pack_method method, const uint8_t *in, size_t len,
                  uint8_t *out, size_t room)
{
	size_t n;
	int written;

	if (len > INT_MAX || room > INT_MAX)
		return 0;
	switch (method) {
	case PACK_LZ4:
		written = LZ4_compress_default((const char *)in, (char *)out, (int)len, (int)room);
		return written > 0 ? (size_t)written : 0;
	case PACK_ZSTD:
		n = ZSTD_compressCCtx(p->zstd_out, out, room, in, len, ZSTD_LEVEL);
		return ZSTD_isError(n) ? 0 : n;
	default:
		return 0;
	}
}

int pack_restore(struct pack *p, enum pack_method method, const uint8_t *in, size_t len,
                 uint8_t *out, size_t size)
{
	size_t n;
	int written;

	if (len > INT_MAX || size > INT_MAX)
		return -EPROTO;
	switch (method) {
	case PACK_LZ4:
		written = LZ4_decompress_safe((const char *)in, (char *)out, (int)len, (int)size);
		return written >= 0 && (size_t)written == size ? 0 : -EPROTO;
	case PACK_ZSTD:
		n = ZSTD_decompressDCtx(p->zstd_in, out, size, in, len);
		return !ZSTD_isError(n) && n == size ? 0 : -EPROTO;
	default:
		return -EPROTO;
	}
}

void pack_choice_init(struct pack_choice *c, enum pack_method fixed)
{
	*c = (struct pack_choice){.fixed = fixed};
	c->by[PACK_NONE].ratio = 1;
	c->by[PACK_NONE].seen = 1;
}

static double wire_ns(uint64_t link_rate)
{
	return 1e9 / (double)(link_rate ? link_rate : LINK_UNKNOWN);
}

static enum pack_method cheapest(const struct pack_choice *c, uint64_t link_rate)
{
	double wire = wire_ns(link_rate);
	enum pack_method best = PACK_NONE;
	double least = wire;

	for (enum pack_method m = PACK_LZ4; m < PACK_METHODS; m++) {
		double cost = c->by[m].ns + c->by[m].ratio * wire;

		if (cost < least) {
			least = cost;
			best = m;
		}
	}
	return best;
}

double pack_choice_ns(const struct pack_choice *c, uint64_t link_rate)
{
	enum pack_method m = c->fixed == PACK_AUTO ? cheapest(c, link_rate) : c->fixed;

	return c->by[m].seen ? c->by[m].ns + c->by[m].ratio * wire_ns(link_rate)
	                     : wire_ns(link_rate);
}

enum pack_method pack_choice_pick(struct pack_choice *c, size_t len, uint64_t link_rate)
{
	if (len < SMALL)
		return PACK_NONE;
	if (c->fixed != PACK_AUTO)
		return c->fixed;
	c->blocks++;
	for (enum pack_method m = PACK_LZ4; m < PACK_METHODS; m++) {
		if (!c->by[m].seen)
			return m;
	}
	if (c->blocks % TRY_EVERY == 0)
		return c->blocks / TRY_EVERY % 2 ? PACK_LZ4 : PACK_ZSTD;
	c->last = cheapest(c, link_rate);
	return c->last;
}

void pack_choice_note(struct pack_choice *c, enum pack_method method, size_t in, size_t out,
                      uint64_t ns)
{
	double ratio;
	double each;
	double weight;

	if (method == PACK_NONE || method >= PACK_METHODS || in < SMALL)
		return;
	ratio = (double)out / (double)in;
	each = (double)ns / (double)in;
	c->by[method].seen++;
	weight = c->by[method].seen < WEIGHT ? 1.0 / c->by[method].seen : 1 / WEIGHT;
	c->by[method].ratio += (ratio - c->by[method].ratio) * weight;
	c->by[method].ns += (each - c->by[method].ns) * weight;
}
