/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reassembly (RFC 791 section 3.2, RFC 8200 section 4.5): theory of operation
 *
 * A packet in the making is known by its flow as far as the IP header tells it (addresses,
 * protocol, tags) and the identification. Its bytes are collected behind a gap that is large enough
 * for every header, and a bit for each block of 8 bytes says which are there. The first fragment's
 * header goes in front when all are, with lengths as if the packet had never been cut; of IPv6 the
 * extension headers in front of the fragment header are left out, as the comparison does not look
 * at them.
 *
 * Fragments that overlap make the packet useless (RFC 5722), also those of IPv4: two readers could
 * disagree. Nothing here ages: the gate forgets what is not whole at a cut, the shadow at a new
 * lineage, and among FRAGMENTS_MAX the oldest gives way.
 *
 * Limits: IPv4 packets beyond 65,535 bytes are refused. Checksums of IP headers are not made:
 * nobody sees these packets.
 */
#include "colo-proxy/core/fragments.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "colo-proxy/core/packet_private.h"

#define PAYLOAD_MAX 65535u
#define BLOCK       8u
#define BLOCKS      ((PAYLOAD_MAX + BLOCK - 1) / BLOCK)
#define HEAD_MAX    (PACKET_ETH_LEN + 8u + 60u) /* Ethernet, two tags, the longest IPv4 header */

struct assembly {
	uint32_t serial; /* 0: unused */
	struct flow_key key;
	uint32_t id;
	struct frame *frame; /* payload at HEAD_MAX */
	uint32_t head_len; /* of the first fragment's headers, at the frame's beginning; 0: not yet
	                    */
	uint32_t ip_off;
	uint32_t have;  /* bytes that are there */
	uint32_t total; /* 0: the last one is not there */
	uint32_t count;
	uint64_t present[(BLOCKS + 63) / 64];
};

struct fragments {
	uint32_t serial;
	struct assembly assembly[FRAGMENTS_MAX];
};

struct fragments *fragments_new(void)
{
	return calloc(1, sizeof(struct fragments));
}

static void forget(struct assembly *a)
{
	frame_free(a->frame);
	memset(a, 0, sizeof(*a));
}

void fragments_clear(struct fragments *fragments)
{
	for (uint32_t i = 0; i < FRAGMENTS_MAX; i++)
		forget(&fragments->assembly[i]);
}

void fragments_free(struct fragments *fragments)
{
	if (!fragments)
		return;
	fragments_clear(fragments);
	free(fragments);
}

static void key_of(const struct packet *p, struct flow_key *ret_key)
{
	struct packet whole = *p;

	/* Compared as an IP message it has the key of its addresses, protocol and tags. */
	whole.class = PACKET_WHOLE;
	(void)packet_flow_key(&whole, PACKET_FROM_VM, ret_key);
}

/* The assembly of the fragment's packet, made if need be. NULL: no memory. */
static struct assembly *get(struct fragments *fragments, const struct packet *p)
{
	struct assembly *oldest = &fragments->assembly[0];
	struct flow_key key;

	key_of(p, &key);
	for (uint32_t i = 0; i < FRAGMENTS_MAX; i++) {
		struct assembly *a = &fragments->assembly[i];

		if (a->serial && a->id == p->fragment.id && flow_key_equal(&a->key, &key))
			return a;
		if (!a->serial || (oldest->serial && a->serial < oldest->serial))
			oldest = a;
	}
	forget(oldest);
	oldest->frame = frame_new(HEAD_MAX + PAYLOAD_MAX);
	if (!oldest->frame)
		return NULL;
	if (++fragments->serial == 0)
		fragments->serial = 1;
	oldest->serial = fragments->serial;
	oldest->key = key;
	oldest->id = p->fragment.id;
	return oldest;
}

/* Marks the blocks of [off, off + len). False when one of them is there already. */
static bool mark(struct assembly *a, uint32_t off, uint32_t len)
{
	for (uint32_t i = off / BLOCK; i < (off + len + BLOCK - 1) / BLOCK; i++) {
		uint64_t bit = 1ull << (i % 64);

		if (a->present[i / 64] & bit)
			return false;
		a->present[i / 64] |= bit;
	}
	return true;
}

static bool add(struct assembly *a, const struct packet *p)
{
	uint32_t off = p->fragment.off, len = p->l4_len;
	const uint8_t *data = p->frame->data;

	if (off + len > PAYLOAD_MAX || len == 0 || (p->fragment.more && len % BLOCK))
		return false;
	if (!p->fragment.more) {
		if (a->total)
			return false;
		a->total = off + len;
	}
	if (!mark(a, off, len))
		return false;
	memcpy(a->frame->data + HEAD_MAX + off, data + p->l4_off, len);
	a->have += len;
	a->count++;
	if (off == 0) {
		uint32_t ip_len = p->version == 6 ? PACKET_IPV6_LEN : p->ip_len;

		a->ip_off = p->ip_off;
		a->head_len = p->ip_off + ip_len;
		assert(a->head_len <= HEAD_MAX);
		memcpy(a->frame->data, data, a->head_len);
		a->frame->start = p->frame->start;
		if (p->version == 6) /* what follows the fragment header */
			a->frame->data[p->ip_off + 6] = p->proto;
	}
	return true;
}

/* Whether all bytes up to the end are there, and none behind it. */
static bool is_whole(const struct assembly *a, uint8_t version)
{
	uint32_t head = version == 6 ? 0 : a->head_len - a->ip_off;

	if (a->have != a->total || head + a->total > PAYLOAD_MAX)
		return false;
	for (uint32_t i = 0; i < (a->total + BLOCK - 1) / BLOCK; i++) {
		if (!(a->present[i / 64] & 1ull << (i % 64)))
			return false;
	}
	return true;
}

/* The packet as if it had never been cut, in a frame of its size; NULL when memory is out. */
static struct frame *finish(const struct assembly *a, uint8_t version)
{
	struct frame *f = frame_new(a->head_len + a->total);
	uint32_t ip_len = a->head_len - a->ip_off;

	if (!f)
		return NULL;
	f->start = a->frame->start;
	f->len = a->head_len + a->total;
	memcpy(f->data, a->frame->data, a->head_len);
	memcpy(f->data + a->head_len, a->frame->data + HEAD_MAX, a->total);
	if (version == 6) {
		frame_put16(f, a->ip_off + 4, (uint16_t)a->total);
	} else {
		frame_put16(f, a->ip_off + 2, (uint16_t)(ip_len + a->total));
		frame_put16(f, a->ip_off + 6, 0);
	}
	return f;
}

struct frame *fragments_add(struct fragments *fragments, const struct packet *packet,
                            uint32_t *ret_serial, uint32_t *ret_count)
{
	struct assembly *a = get(fragments, packet);
	struct frame *whole = NULL;

	*ret_serial = *ret_count = 0;
	if (!a)
		return NULL;
	if (!add(a, packet)) {
		forget(a);
		return NULL;
	}
	*ret_serial = a->serial;
	*ret_count = a->count;
	if (!a->total || !a->head_len || a->have < a->total)
		return NULL;
	if (is_whole(a, packet->version))
		whole = finish(a, packet->version);
	else
		*ret_serial = 0;
	forget(a);
	return whole;
}
