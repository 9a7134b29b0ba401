/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_RECORDS_H
#define COLO_CORE_RECORDS_H

#include <stdbool.h>
#include <stdint.h>

#include "colo-proxy/core/packet.h"

/*
 * What the two halves of the comparison tell each other. Sequence numbers in these records are in
 * the PVM's number space: the secondary alone knows and applies the PVM <-> SVM mapping.
 */

#define PACKET_CLASS_COUNT (PACKET_MEMBERSHIP + 1)

enum digest_kind {
	DIGEST_SEGMENT,  /* TCP: [seq, seq + len) and the flags; also a bare acknowledgement (len 0)
	                  */
	DIGEST_DATAGRAM, /* all others: one datagram or frame, in order within its flow */
	DIGEST_KIND_COUNT,
};

/* What the SVM said, without its bytes. */
struct digest {
	struct flow_key key;
	uint8_t kind;      /* enum digest_kind */
	uint8_t tcp_flags; /* SYN, FIN, RST and ACK as in RFC 9293 section 3.1; others zero */
	bool has_ts;       /* tsval is there (RFC 7323) */
	uint32_t seq;      /* first sequence number, SYN included */
	uint32_t len;      /* sequence space covered: payload, plus one each for SYN and FIN */
	uint32_t ack;      /* valid with the ACK flag */
	uint32_t tsval;
	uint8_t hash[16]; /* of the payload; SYN: of the options that bind both sides */
};

/* The number behind the last byte of a segment's digest; its FIN is not one. */
static inline uint32_t digest_data_end(const struct digest *digest)
{
	return digest->seq + digest->len - !!(digest->tcp_flags & PACKET_FIN);
}

/* A range of the SVM's stream, told again in two: what it was told as, and the hashes of its bytes
 * in front of `at` and from there on (without the FIN). */
struct digest_cut {
	struct digest whole;
	uint32_t at; /* behind whole.seq, and in front of its last byte's end */
	uint8_t head[16], rest[16];
};

/* A connection that the PVM opens or accepts: its initial sequence number, told to the secondary
 * before anything of the connection is released (R7). */
struct flow_open {
	struct flow_key key;
	uint32_t iss;
	bool has_ack; /* SYN-ACK */
	uint32_t ack; /* of the SYN-ACK: names the incarnation of the 4-tuple */
	bool has_ts;
	uint32_t tsval;
};

/* Why a checkpoint is asked for. The order is part of the statistics' interface. */
enum ckpt_cause {
	CKPT_INITIAL,
	CKPT_MISMATCH,   /* the SVM said something else */
	CKPT_LATE,       /* the SVM has not said it in time */
	CKPT_UNCOMPARED, /* traffic that is released by commit only */
	CKPT_TIMER,      /* the longest epoch is over */
	CKPT_PRESSURE,   /* a queue or table is near its limit */
	CKPT_COMMAND,
	CKPT_POLICY, /* the policy's own pace (pacer.h) */
	CKPT_DIRTY,  /* the VM has written to as much as one is to have */
	CKPT_CAUSE_COUNT,
};

const char *ckpt_cause_name(enum ckpt_cause cause);

/* The keyed hash (XXH3, 128 bits, canonical byte order) of stream bytes. */
void digest_stream(const struct packet_digest_key *key, const uint8_t *bytes, size_t len,
                   uint8_t ret_hash[16]);

/* The keyed hash of what a SYN binds both sides to for the connection's life, and which a survivor
 * therefore must have promised too: MSS (RFC 9293 3.7.1), window scale and timestamps (RFC 7323),
 * SACK (RFC 2018). The initial sequence number, timestamp values and window are not in it (R2). */
void digest_syn(const struct packet_digest_key *key, const struct packet_tcp *tcp,
                uint8_t ret_hash[16]);

/* Why a TCP packet is not compared although it was parsed (Fast Open data or cookie, data in a SYN,
 * urgent data); PACKET_WHY_NONE when it is. Both halves must agree on this. */
enum packet_why digest_tcp_exempt(const struct packet *packet);

#endif
