/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_EVIDENCE_H
#define COLO_CORE_EVIDENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "colo-proxy/core/packet.h"
#include "colo-proxy/core/records.h"

/*
 * Why checkpoints were asked for, and what the two VMs had said then: the primary's ring of the
 * last divergences. See evidence.c for how.
 */

#define EVIDENCE_PACKETS    4u     /* of one side */
#define EVIDENCE_PACKET_MAX 10240u /* bytes kept of a packet: a frame of 9000 bytes is whole */
#define EVIDENCE_WINDOW     48u    /* bytes of evidence_window() */

struct evidence_packet {
	uint64_t at_ns;      /* when it was said; CLOCK_REALTIME of the primary's host */
	uint32_t original;   /* its length as the VM's NIC sent it */
	struct frame *frame; /* what is kept: all of it, or a segment cut out of a superframe */
};

struct evidence_side {
	struct evidence_packet packet[EVIDENCE_PACKETS];
	uint32_t count;
};

/* The state of the secondary's side. */
enum evidence_found {
	EVIDENCE_NOT_ASKED, /* no divergence, or the link was full */
	EVIDENCE_WAITING,   /* it has been asked for */
	EVIDENCE_HERE,
	EVIDENCE_GONE, /* not kept any more, or never said; or the secondary is lost */
	EVIDENCE_FOUND_COUNT,
};

struct evidence {
	uint32_t id; /* from 1 on */
	uint64_t at_ns;
	enum ckpt_cause cause;
	uint32_t epoch; /* the PVM's and, of a mismatch, the SVM's lineage; epoch + 1 resolves it */
	bool has_key;
	struct flow_key key;
	bool has_iss;
	uint32_t iss;          /* TCP: offset 0 of the stream is iss + 1 */
	uint32_t seq, len;     /* TCP: the range in question, in the PVM's numbers */
	uint32_t wanted, seen; /* TCP, late: see struct divergence */
	const char *what;      /* static text */
	struct evidence_side pvm, svm;
	enum evidence_found found;
	bool differs;        /* differs_at is known */
	uint32_t differs_at; /* first differing byte: TCP: from seq on; others: of the payload */
};

/* The SVM has said something else, or not in time. */
bool evidence_is_divergence(enum ckpt_cause cause);

/* "not asked", "waiting", "here", "gone" */
const char *evidence_found_name(enum evidence_found found);

/* ---- packets ---- */

/*
 * A copy of a frame to keep: whole, or when it is a superframe or longer than EVIDENCE_PACKET_MAX,
 * the segment that has [seq, seq + len) of it, or what of that fits; with its checksums complete.
 * len 0: from its beginning. NULL when memory is out.
 */
struct frame *evidence_cut(const struct frame *frame, uint32_t seq, uint32_t len);

/* Frees the packets. */
void evidence_side_clear(struct evidence_side *side);

/* ---- the ring ---- */

struct evidence_ring;

/* Keeps the last `max` divergences and the last `max` other causes. 0 or -ENOMEM. */
int evidence_ring_new(struct evidence_ring **ret_ring, uint32_t max);
void evidence_ring_free(struct evidence_ring *ring);

/*
 * Adds one; takes over what is in pvm.packet, and gives it its id. Returns the entry, which lasts
 * until the next call.
 */
struct evidence *evidence_add(struct evidence_ring *ring, const struct evidence *evidence);

/*
 * The secondary's answer for entry `id`: takes over what is in `side`, and looks for the first byte
 * that differs. An answer that nobody waits for is thrown away.
 */
void evidence_answer(struct evidence_ring *ring, uint32_t id, struct evidence_side *side);

/* Nobody will answer any more. */
void evidence_give_up(struct evidence_ring *ring);

/* The newest divergence, or NULL. */
const struct evidence *evidence_last(const struct evidence_ring *ring);

/* A copy of the newest `max` divergences, or causes of any kind, oldest first, in *ret_list and its
 * length in *ret_count; evidence_list_free(). 0 or -ENOMEM. */
int evidence_copy(const struct evidence_ring *ring, uint32_t max, bool any_kind,
                  struct evidence **ret_list, uint32_t *ret_count);
void evidence_list_free(struct evidence *list, uint32_t count);

/* ---- reading one ---- */

/*
 * The bytes of one side around the first difference, or at the beginning of what is in question:
 * *ret_at is the offset of the first of them (as differs_at), equal for both sides. Bytes that the
 * side has not said are not in *ret_known (bit i: byte i is there).
 */
void evidence_window(const struct evidence *evidence, const struct evidence_side *side,
                     uint32_t *ret_at, uint8_t ret_bytes[EVIDENCE_WINDOW], uint64_t *ret_known);

/* TCP with a known beginning: the stream's offset of sequence number seq; else false. */
bool evidence_offset(const struct evidence *evidence, uint32_t seq, uint32_t *ret_offset);

/* As flow_key_text(); "" without a flow. Returns buf. */
const char *evidence_flow_text(const struct evidence *evidence, char *buf, size_t len);

/* One line without payload: "mismatch in epoch 7: ..., tcp ..., stream offset 4391". Returns buf.
 */
const char *evidence_text(const struct evidence *evidence, char *buf, size_t len);

#endif
