/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/link/conn.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * The queue is a linear buffer of twice its limit. What is queued is moved to the front when no
 * more than what has gone from there, so at most one byte is moved for each that is sent, and the
 * memory that is touched follows what was ever queued at a time, not what was sent: an idle channel
 * stays in the first pages. Messages are encoded in place in it, and the transport takes large
 * pieces that may hold many messages.
 */

#define OUT_SETUP    (4 * (LINK_HEADER_LEN + LINK_MAX_OWN)) /* all frames of a setup, and more */
#define MOVE_FROM    (512u << 10)                           /* less is not worth the call */
#define WRITE_BUDGET (128u << 10)                           /* 0.2 ms of AES-GCM */
#define READ_PIECE   (128u << 10)

struct conn *conn_new(struct link *link, int channel)
{
	struct conn *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->link = link;
	c->transport.fd = -1;
	c->channel = channel < 0 ? LINK_FAST : (enum link_channel)channel;
	c->out = malloc(OUT_SETUP);
	c->out_room = OUT_SETUP;
	c->budget = WRITE_BUDGET;
	if (!c->out || link_decoder_init(&c->in, channel)) {
		conn_free(c);
		return NULL;
	}
	return c;
}

void conn_free(struct conn *c)
{
	if (!c)
		return;
	transport_close(&c->transport);
	link_decoder_free(&c->in);
	free(c->out);
	free(c);
}

int conn_grow(struct conn *c, size_t limit)
{
	uint8_t *out = realloc(c->out, 2 * limit);

	if (!out)
		return -ENOMEM;
	c->out = out;
	c->out_room = 2 * limit;
	return link_decoder_session(&c->in, c->session);
}

size_t conn_queued(const struct conn *c)
{
	return c->out_tail - c->out_head;
}

void conn_put(struct conn *c, uint8_t type, uint32_t epoch, const struct iovec *iov, int iovcnt,
              uint32_t len)
{
	struct link_header h = {
	        .type = type,
	        .channel = (uint8_t)c->channel,
	        .epoch = epoch,
	        .len = len,
	        .sequence = c->out_sequence++,
	};
	uint8_t *frame, *p;
	int i;

	if ((c->out_head >= MOVE_FROM && c->out_head >= conn_queued(c)) ||
	    c->out_tail + LINK_HEADER_LEN + len > c->out_room) {
		memmove(c->out, c->out + c->out_head, conn_queued(c));
		c->out_tail -= c->out_head;
		c->out_head = 0;
	}
	frame = c->out + c->out_tail;
	p = frame + LINK_HEADER_LEN;
	for (i = 0; i < iovcnt; i++) {
		if (iov[i].iov_len)
			memcpy(p, iov[i].iov_base, iov[i].iov_len);
		p += iov[i].iov_len;
	}
	link_encode(frame, &h, c->seed);
	c->out_tail += LINK_HEADER_LEN + len;
}

void conn_new_turn(struct conn *c)
{
	c->budget = WRITE_BUDGET;
}

int conn_write(struct conn *c)
{
	if (c->error)
		return c->error;
	c->blocked = false;
	while (conn_queued(c)) {
		size_t n = conn_queued(c) < c->budget ? conn_queued(c) : c->budget;
		ssize_t sent = -EAGAIN;

		if (n)
			sent = transport_write(&c->transport, c->out + c->out_head, n, c->failure,
			                       sizeof(c->failure));
		if (sent == -EAGAIN) {
			c->blocked = true;
			break;
		}
		if (sent < 0) {
			c->error = (int)sent;
			return c->error;
		}
		c->out_head += (size_t)sent;
		/* A TLS record that was half written counts when it is done, whatever is left. */
		c->budget -= (size_t)sent < c->budget ? (size_t)sent : c->budget;
	}
	if (c->out_head == c->out_tail)
		c->out_head = c->out_tail = 0;
	return 0;
}

int conn_read(struct conn *c, size_t *ret_len, char *err, size_t errlen)
{
	size_t room;
	uint8_t *to = link_decoder_space(&c->in, &room);
	ssize_t n;

	if (room > READ_PIECE)
		room = READ_PIECE;
	n = transport_read(&c->transport, to, room, err, errlen);
	if (n == -EAGAIN)
		return 0;
	if (n == 0) {
		snprintf(err, errlen, "the peer closed the connection");
		return -ECONNRESET;
	}
	if (n < 0)
		return (int)n;
	link_decoder_filled(&c->in, (size_t)n);
	*ret_len = (size_t)n;
	/* In clear a short read has emptied the socket; a TLS record says nothing of the next. */
	return c->transport.session || (size_t)n == room;
}
