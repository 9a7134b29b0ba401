/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_KVM_RELAY_PRIMARY_H
#define COLO_KVM_RELAY_PRIMARY_H

#include <stddef.h>
#include <stdint.h>

#include "kvm/ckpt.h"

/*
 * Plays the secondary towards the PVM's QEMU on its migration channel. No I/O and no clock: the
 * data thread reads into the place that relay_primary_want() names and says so with
 * relay_primary_got(); it writes what relay_primary_pending() names and says so with
 * relay_primary_wrote(). After every call that is not `const`, look at pending().
 *
 * The order of things:
 *
 *   INITIAL     every byte of the initial migration goes to ops->forward; what the peer's SVM
 *               answers comes in by relay_primary_from_peer().
 *   relay_primary_start()      READY goes to the PVM, which then runs as epoch 0
 *   RUNNING     the PVM runs
 *   ops->requested             the PVM's QEMU asks for a checkpoint and goes on running
 *   REQUESTED   holding back the reply is the place for back-pressure: nothing times out
 *   relay_primary_reply()      the PVM will stop
 *   STOPPING
 *   ops->stopped               the PVM stands still: drain its output, take the input cut
 *   CAPTURING   the checkpoint is read into the buffer that the reply brought
 *   ops->captured              all of it is there
 *   CAPTURED    the PVM stands still until
 *   relay_primary_resume()     RECEIVED and LOADED go to the PVM; back to RUNNING
 *
 * Callbacks run inside relay_primary_got(). They may call reply() and resume(); they must not free
 * the relay. Once a call returned -EPROTO the relay has failed for good: close the PVM's socket
 * (never leave it undrained, QEMU's main loop would hang) and treat the secondary as lost.
 */

enum relay_primary_phase {
	RELAY_PRIMARY_INITIAL,
	RELAY_PRIMARY_RUNNING,
	RELAY_PRIMARY_REQUESTED,
	RELAY_PRIMARY_STOPPING,
	RELAY_PRIMARY_CAPTURING,
	RELAY_PRIMARY_CAPTURED,
	RELAY_PRIMARY_FAILED,
	RELAY_PRIMARY_PHASE_COUNT
};

struct relay_primary_ops {
	/* Bytes of the initial migration for the peer; valid during the call only. Returns 0 or a
	 * negative errno, which fails the relay. Back-pressure: do not read. */
	int (*forward)(void *ctx, const uint8_t *data, size_t len);
	void (*requested)(void *ctx, uint64_t now);
	void (*stopped)(void *ctx, struct ckpt *ckpt, uint64_t now);
	/* The checkpoint is the caller's again. */
	void (*captured)(void *ctx, struct ckpt *ckpt, uint64_t now);
};

struct relay_primary;

/* `ops` is not copied. Returns 0 or -ENOMEM. */
int relay_primary_new(struct relay_primary **ret_relay, const struct relay_primary_ops *ops,
                      void *ctx);
/* NULL is allowed. A checkpoint that was being captured stays the caller's. */
void relay_primary_free(struct relay_primary *r);

/* Where the next bytes from the PVM go; *ret_len is never 0. Returns 0; -ENOSPC when the
 * checkpoint does not fit its buffer (the relay has failed); -EPROTO when it had failed before. */
int relay_primary_want(struct relay_primary *r, uint8_t **ret_ptr, size_t *ret_len);
/* n bytes (at least 1, at most what want() said) were read there at time `now` (ns).
 * Returns 0, -EPROTO, or what ops->forward returned. */
int relay_primary_got(struct relay_primary *r, size_t n, uint64_t now);

/* Bytes for the PVM; NULL and 0 when there are none. */
void relay_primary_pending(const struct relay_primary *r, const uint8_t **ret_ptr, size_t *ret_len);
/* n of them were written. Returns 0 or -EINVAL (more than were pending). */
int relay_primary_wrote(struct relay_primary *r, size_t n);

/* Return-path bytes of the SVM for the PVM, in INITIAL only. Returns 0, -ENOBUFS when more than
 * 4096 bytes wait (write first), -EBUSY in any other phase. */
int relay_primary_from_peer(struct relay_primary *r, const uint8_t *data, size_t len);

/*
 * The peer says that lineage 0 runs: READY goes to the PVM. Returns 0, -EAGAIN while return-path
 * bytes are pending, -EBUSY when not in INITIAL.
 *
 * QEMUs before 11 read the return path through a buffer that they throw away when SHUT has come
 * (read in migration/migration.c): a READY that is read together with SHUT is lost, and the PVM
 * waits for ever. 11.1.3 takes both in one piece (tried). Where it costs nothing, let SHUT leave
 * the socket first: ioctl(SIOCOUTQ) on it says 0, or query-migrate says "colo".
 */
int relay_primary_start(struct relay_primary *r);

/*
 * Lets the PVM stop for checkpoint C(epoch), which is to be captured into `ckpt` (reset here; the
 * caller owns it and leaves it alone until ops->captured). Returns 0 or -EBUSY when no request is
 * open.
 */
int relay_primary_reply(struct relay_primary *r, struct ckpt *ckpt, uint64_t epoch);

/*
 * Acknowledges the captured checkpoint: the PVM runs on. At once, later, or never (a planned
 * switch-over leaves it standing still). `now` is noted as ckpt->resumed_at. Returns 0 or -EBUSY
 * when none is captured.
 */
int relay_primary_resume(struct relay_primary *r, uint64_t now);

enum relay_primary_phase relay_primary_phase(const struct relay_primary *r);
const char *relay_primary_phase_name(enum relay_primary_phase phase);

/* Bytes of the initial migration so far. */
uint64_t relay_primary_initial_bytes(const struct relay_primary *r);

/* What went wrong, for people; "" while nothing did. */
const char *relay_primary_error(const struct relay_primary *r);

#endif
