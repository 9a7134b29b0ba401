/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/link/codec.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/*
 * Header fields are checked as soon as the header is there, before its payload is waited for, so
 * that a wrong length is refused at once. The checksum covers the header too; a header that is
 * damaged but plausible is found when its payload has come.
 */

/* Two of the largest frame: moved at half, there is always room for the rest of a frame. */
#define OWN_ROOM     (2 * (LINK_HEADER_LEN + LINK_MAX_OWN))
#define SESSION_ROOM (2 * (LINK_HEADER_LEN + LINK_MAX_BULK))

#define AT_VERSION  4
#define AT_TYPE     5
#define AT_CHANNEL  6
#define AT_FLAGS    7
#define AT_EPOCH    8
#define AT_LEN      12
#define AT_SEQUENCE 16
#define AT_CHECKSUM 24

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

static uint64_t get64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return be64toh(v);
}

static void put32(uint8_t *p, uint32_t v)
{
	v = htobe32(v);
	memcpy(p, &v, sizeof(v));
}

static void put64(uint8_t *p, uint64_t v)
{
	v = htobe64(v);
	memcpy(p, &v, sizeof(v));
}

uint32_t link_max_payload(uint8_t type, uint8_t channel)
{
	if (channel >= LINK_PLACES)
		return 0;
	if (type == LINK_MARKER)
		return channel == LINK_BULK ? LINK_MARKER_LEN : 0;
	if (type >= LINK_TYPE_USER)
		return channel == LINK_FAST ? LINK_MAX_FAST : LINK_MAX_BULK;
	return type >= LINK_HELLO && type <= LINK_BYE ? LINK_MAX_OWN : 0;
}

void link_encode(uint8_t *out, const struct link_header *h, uint64_t seed)
{
	put32(out, LINK_MAGIC);
	out[AT_VERSION] = LINK_FRAME_VERSION;
	out[AT_TYPE] = h->type;
	out[AT_CHANNEL] = h->channel;
	out[AT_FLAGS] = 0;
	put32(out + AT_EPOCH, h->epoch);
	put32(out + AT_LEN, h->len);
	put64(out + AT_SEQUENCE, h->sequence);
	memset(out + AT_CHECKSUM, 0, 8);
	put64(out + AT_CHECKSUM, XXH3_64bits_withSeed(out, LINK_HEADER_LEN + h->len, seed));
}

int link_decoder_init(struct link_decoder *d, int channel)
{
	memset(d, 0, sizeof(*d));
	d->channel = channel;
	d->buf = malloc(OWN_ROOM);
	if (!d->buf)
		return -ENOMEM;
	d->room = OWN_ROOM;
	return 0;
}

int link_decoder_session(struct link_decoder *d, uint64_t seed)
{
	uint8_t *buf = realloc(d->buf, SESSION_ROOM);

	if (!buf)
		return -ENOMEM;
	d->buf = buf;
	d->room = SESSION_ROOM;
	d->seed = seed;
	d->session = true;
	return 0;
}

void link_decoder_free(struct link_decoder *d)
{
	free(d->buf);
	memset(d, 0, sizeof(*d));
}

uint8_t *link_decoder_space(struct link_decoder *d, size_t *ret_len)
{
	if (d->head == d->tail) {
		d->head = d->tail = 0;
	} else if (d->head >= d->room / 2) {
		/* Moves at most half a buffer for half a buffer handed out. */
		memmove(d->buf, d->buf + d->head, d->tail - d->head);
		d->tail -= d->head;
		d->head = 0;
	}
	*ret_len = d->room - d->tail;
	return d->buf + d->tail;
}

void link_decoder_filled(struct link_decoder *d, size_t n)
{
	d->tail += n;
}

__attribute__((format(printf, 5, 6))) static int bad(struct link_decoder *d, int error, char *err,
                                                     size_t errlen, const char *fmt, ...)
{
	va_list ap;
	int n;

	d->error = error;
	n = snprintf(err, errlen, "bad frame at offset %" PRIu64 " of the stream: ", d->offset);
	if (n >= 0 && (size_t)n < errlen) {
		va_start(ap, fmt);
		vsnprintf(err + n, errlen - (size_t)n, fmt, ap);
		va_end(ap);
	}
	return error;
}

static int check_magic(struct link_decoder *d, const uint8_t *p, size_t have, char *err,
                       size_t errlen)
{
	static const uint8_t magic[] = {'C', 'O', 'L', 'K', LINK_FRAME_VERSION};
	size_t n = have < sizeof(magic) ? have : sizeof(magic);

	if (!memcmp(p, magic, n))
		return 0;
	if (p[0] >= 0x14 && p[0] <= 0x17) /* the record types of RFC 8446 section 5.1 */
		return bad(d, -EPROTO, err, errlen,
		           "the peer speaks TLS; is encryption switched off on this side only?");
	if (memcmp(p, magic, n < 4 ? n : 4) != 0)
		return bad(d, -EPROTO, err, errlen,
		           "magic is %02x.., the peer speaks another protocol", p[0]);
	return bad(d, -EPROTO, err, errlen, "framing version %u, this side knows %u only",
	           p[AT_VERSION], LINK_FRAME_VERSION);
}

static int check_header(struct link_decoder *d, const uint8_t *p, const struct link_header *h,
                        char *err, size_t errlen)
{
	uint32_t max = link_max_payload(h->type, h->channel);

	if (p[AT_FLAGS])
		return bad(d, -EPROTO, err, errlen, "flags 0x%02x, none are defined", p[AT_FLAGS]);
	if (h->channel >= LINK_PLACES || (d->channel >= 0 && h->channel != d->channel))
		return bad(d, -EPROTO, err, errlen, "channel %u on a connection of channel %d",
		           h->channel, d->channel);
	if (!max || (h->type >= LINK_TYPE_USER && !d->session))
		return bad(d, -EPROTO, err, errlen, "type %u is not allowed here", h->type);
	if (h->len > max)
		return bad(d, -EPROTO, err, errlen,
		           "payload of %u bytes, type %u may have %u on this channel", h->len,
		           h->type, max);
	if (h->sequence != d->sequence)
		return bad(d, -EPROTO, err, errlen, "sequence %" PRIu64 " where %" PRIu64 " is due",
		           h->sequence, d->sequence);
	return 0;
}

static int check_sum(struct link_decoder *d, uint8_t *p, const struct link_header *h, char *err,
                     size_t errlen)
{
	uint64_t sum = get64(p + AT_CHECKSUM);

	memset(p + AT_CHECKSUM, 0, 8);
	if (XXH3_64bits_withSeed(p, LINK_HEADER_LEN + h->len, d->seed) == sum)
		return 0;
	return bad(d, -EBADMSG, err, errlen,
	           "checksum differs (type %u, %u bytes): damaged, or of another session", h->type,
	           h->len);
}

int link_decoder_next(struct link_decoder *d, struct link_header *ret_header,
                      const uint8_t **ret_payload, char *err, size_t errlen)
{
	size_t have = d->tail - d->head;
	uint8_t *p = d->buf + d->head;
	struct link_header h;

	if (d->error)
		return bad(d, d->error, err, errlen, "the stream was given up before");
	if (!have)
		return 0;
	if (check_magic(d, p, have, err, errlen))
		return d->error;
	if (have < LINK_HEADER_LEN)
		return 0;
	h.type = p[AT_TYPE];
	h.channel = p[AT_CHANNEL];
	h.epoch = get32(p + AT_EPOCH);
	h.len = get32(p + AT_LEN);
	h.sequence = get64(p + AT_SEQUENCE);
	if (check_header(d, p, &h, err, errlen))
		return d->error;
	if (have < LINK_HEADER_LEN + h.len)
		return 0;
	if (check_sum(d, p, &h, err, errlen))
		return d->error;
	d->head += LINK_HEADER_LEN + h.len;
	d->offset += LINK_HEADER_LEN + h.len;
	d->sequence++;
	*ret_header = h;
	*ret_payload = p + LINK_HEADER_LEN;
	return 1;
}

void link_marker_pack(uint8_t out[LINK_MARKER_LEN], const struct link_marker *marker)
{
	memset(out, 0, LINK_MARKER_LEN);
	put64(out, marker->sequence);
	put32(out + 8, marker->len);
	out[12] = marker->stripe;
}

int link_marker_unpack(const uint8_t *payload, size_t len, unsigned stripes,
                       struct link_marker *ret_marker, char *err, size_t errlen)
{
	if (len != LINK_MARKER_LEN || memcmp(payload + 13, "\0\0", 3) != 0) {
		snprintf(err, errlen, "a marker of %zu bytes that is malformed", len);
		return -EPROTO;
	}
	if (payload[12] >= stripes) {
		snprintf(err, errlen, "a marker of stream %u, there are %u", payload[12] + 1u,
		         stripes);
		return -EPROTO;
	}
	ret_marker->sequence = get64(payload);
	ret_marker->len = get32(payload + 8);
	ret_marker->stripe = payload[12];
	return 0;
}

bool link_marker_names(const struct link_marker *marker, const struct link_header *h)
{
	return h->sequence == marker->sequence && h->len == marker->len &&
	       h->channel == LINK_CHANNELS + marker->stripe;
}
