/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_KVM_RELAY_SECONDARY_H
#define COLO_KVM_RELAY_SECONDARY_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "kvm/ckpt.h"

/*
 * Plays the primary towards the SVM's QEMU on its migration channel. No I/O and no clock; the data
 * thread moves the bytes as with relay_primary.h.
 *
 *   INITIAL     what the peer sends by relay_secondary_from_peer() goes to the SVM as it is; the
 *               SVM's return-path messages go to ops->back.
 *   SHUT        the SVM has closed its return path and is about to run
 *   ops->running               the SVM said READY and runs lineage 0; READY itself is not passed
 *   RUNNING     the SVM runs (or, after relay_secondary_stop(), will stand still)
 *   relay_secondary_load()     or relay_secondary_stop() before it: REQUEST goes to the SVM
 *   STOPPING    until it replies
 *   STOPPED     it stands still and waits for a checkpoint (only after stop())
 *   SENDING     VMSTATE_SEND and the checkpoint go out, until it says RECEIVED
 *   LOADING     until it says LOADED
 *   ops->loaded                lineage e runs; the checkpoint is the caller's again
 *
 * Callbacks run inside relay_secondary_got(). They may call load() and stop(); they must not free
 * the relay. Once a call returned -EPROTO the relay has failed for good; the SVM's QEMU cannot be
 * brought back from the middle of a load.
 */

enum relay_secondary_phase {
	RELAY_SECONDARY_INITIAL,
	RELAY_SECONDARY_SHUT,
	RELAY_SECONDARY_RUNNING,
	RELAY_SECONDARY_STOPPING,
	RELAY_SECONDARY_STOPPED,
	RELAY_SECONDARY_SENDING,
	RELAY_SECONDARY_LOADING,
	RELAY_SECONDARY_FAILED,
	RELAY_SECONDARY_PHASE_COUNT
};

struct relay_secondary_ops {
	/* A whole return-path message for the peer; valid during the call only. Returns 0 or a
	 * negative errno, which fails the relay. */
	int (*back)(void *ctx, const uint8_t *data, size_t len);
	void (*running)(void *ctx, uint64_t now);
	/* The SVM stands still: after stop(), and in the course of each load(). */
	void (*stopped)(void *ctx, uint64_t now);
	void (*loaded)(void *ctx, struct ckpt *ckpt, uint64_t now);
};

struct relay_secondary;

/* `ops` is not copied. Returns 0 or -ENOMEM. */
int relay_secondary_new(struct relay_secondary **ret_relay, const struct relay_secondary_ops *ops,
                        void *ctx);
/* NULL is allowed. A checkpoint that was being loaded stays the caller's. */
void relay_secondary_free(struct relay_secondary *r);

/* Bytes of the initial migration for the SVM. Takes as many as fit (256 KiB wait at most) and
 * returns how many, which is 0 when none do: write first. -EBUSY once the SVM runs or
 * the relay has failed. */
ssize_t relay_secondary_from_peer(struct relay_secondary *r, const uint8_t *data, size_t len);

/* Where the next bytes from the SVM go; *ret_len is never 0. Returns 0 or -EPROTO (failed). */
int relay_secondary_want(struct relay_secondary *r, uint8_t **ret_ptr, size_t *ret_len);
/* n bytes (at least 1, at most what want() said) were read there at time `now` (ns).
 * Returns 0, -EPROTO, or what ops->back returned. */
int relay_secondary_got(struct relay_secondary *r, size_t n, uint64_t now);

/* Bytes for the SVM; NULL and 0 when there are none. Valid until the next call on r. */
void relay_secondary_pending(const struct relay_secondary *r, const uint8_t **ret_ptr,
                             size_t *ret_len);
/* n of them were written. Returns 0 or -EINVAL (more than were pending). */
int relay_secondary_wrote(struct relay_secondary *r, size_t n);

/*
 * Loads a complete and verified checkpoint. It is walked over first (stream.h), because a QEMU that
 * fails in the middle of a load is lost. `ckpt` is the caller's and stays untouched until
 * ops->loaded. Returns 0; -EBUSY when the SVM is not running or stopped; -EBADMSG when
 * the checkpoint is malformed (nothing was sent, the relay goes on, relay_secondary_error() tells).
 */
int relay_secondary_load(struct relay_secondary *r, struct ckpt *ckpt);

/*
 * Makes the SVM stand still until the next load: for policies whose SVM does not run. It can not
 * be let run again without a load. Returns 0 or -EBUSY when it is not RUNNING.
 */
int relay_secondary_stop(struct relay_secondary *r);

/* The walk over the checkpoints that were loaded: what the channel's next one may refer to. */
const struct stream *relay_secondary_stream(const struct relay_secondary *r);

enum relay_secondary_phase relay_secondary_phase(const struct relay_secondary *r);
const char *relay_secondary_phase_name(enum relay_secondary_phase phase);

/* What went wrong, for people; "" while nothing did. */
const char *relay_secondary_error(const struct relay_secondary *r);

#endif
