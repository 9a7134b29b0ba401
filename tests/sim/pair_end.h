/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_SIM_PAIR_END_H
#define COLO_SIM_PAIR_END_H

#include <stdbool.h>
#include <stdint.h>

#include "colo-proxy/core/packet.h"

/*
 * One end of a TCP connection, for the model VM and for the model client alike: handshake from
 * either side, segments, cumulative acknowledgement, go-back-N with a timer that doubles,
 * timestamps and PAWS (RFC 7323 section 5), FIN, RST. In a handshake it takes no echo but of a
 * timestamp that its SYN had, as Linux does. Plain data, so that it can be part of a
 * checkpoint. Offsets of a stream count from 0; the SYN is before, the FIN behind.
 */

#define END_TX  2048u
#define END_MSS 200u

enum end_state { END_CLOSED, END_SYN_SENT, END_SYN_RCVD, END_OPEN };

struct end {
	uint8_t state;
	bool fin_queued, fin_heard, ack_due, refused;
	uint16_t vm_port, peer_port;
	uint32_t iss, irs, ts_offset, ts_recent;
	bool syn_sent;
	uint32_t syn_first, syn_last; /* timestamps of the first SYN or SYN-ACK and the newest */
	uint32_t una, nxt, max;       /* offsets: acknowledged, to send next, the highest sent */
	uint32_t written;             /* the stream's length so far; the FIN is there */
	uint32_t rcv;                 /* offset expected next */
	uint32_t acked;               /* the highest `rcv` that was acknowledged */
	uint32_t resend_at, wait_ms;
	uint8_t tx[END_TX];
};

/* What an end needs of its owner. */
struct end_owner {
	bool is_vm;
	uint32_t clock_ms;
	uint32_t (*random)(void *ctx, uint32_t below);
	void (*says)(void *ctx, struct frame *frame);
	/* Takes up to len bytes of the stream; returns how many. */
	uint32_t (*eats)(void *ctx, struct end *end, const uint8_t *data, uint32_t len);
	void *ctx;
};

/* A connection begins; the ports are set by the caller. The peer's SYN, or NULL to send one. */
void end_begin(struct end *end, const struct end_owner *owner, const struct packet *syn);
/* False when there is no room. */
bool end_write(struct end *end, const void *data, uint32_t len);
uint32_t end_room(const struct end *end);
void end_hears(struct end *end, const struct end_owner *owner, const struct packet *packet);
/* Sends what is due. */
void end_acts(struct end *end, const struct end_owner *owner);
/* By the owner's clock, when end_acts() is due; false: nothing is. */
bool end_due(const struct end *end, uint32_t *ret_at);
/* Both FINs are acknowledged. */
bool end_done(const struct end *end);
/* The answer to a segment that belongs to no connection. */
void end_refuses(const struct end_owner *owner, const struct packet *packet);

#endif
