/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Goal: the PVM stands still only for a copy into local memory. QEMU checks the order of the COLO
 * messages and nothing else, so the relay may acknowledge a checkpoint as soon as it has read it;
 * that the secondary has it is somebody else's concern (rule R1: nothing of the new epoch is
 * released before that).
 *
 * The channel is a strict dialogue. Between the end of the initial migration and READY, between
 * REQUEST and REPLY, between the last byte of device state and LOADED, and from LOADED to the next
 * REQUEST, QEMU sends nothing: it blocks in a read, or runs the VM. Therefore messages are read
 * with reads of exactly 4 bytes, and only a checkpoint's contents with large ones; no byte is ever
 * read into the wrong place. A byte that comes while QEMU ought to be silent is an error, never
 * data.
 *
 * Where the initial migration ends is not visible in its bytes (device sections have no length).
 * It is known from the order of events: the SVM says READY only after it has read all of it, so
 * every byte has passed here before relay_primary_start() is called, and the next one is the first
 * of a REQUEST. If that were ever wrong, those bytes would fail as an unknown message.
 */
#include "kvm/relay_primary.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/wire.h"

#define STAGE_SIZE (256u * 1024u)
#define OUT_SIZE   4096u
#define OUT_SPARE  16u /* room for our own messages behind the peer's bytes */

struct relay_primary {
	const struct relay_primary_ops *ops;
	void *ctx;
	enum relay_primary_phase phase;
	struct ckpt *ckpt;
	struct stream stream;
	uint64_t initial_bytes;
	uint64_t requested_at;
	uint8_t msg[4];
	size_t msg_len;
	size_t out_at;
	size_t out_len;
	char err[STREAM_ERR_LEN + 64];
	uint8_t out[OUT_SIZE + OUT_SPARE];
	uint8_t stage[STAGE_SIZE];
};

static const char *const phase_names[] = {
        "initial", "running", "requested", "stopping", "capturing", "captured", "failed",
};
static_assert(sizeof(phase_names) / sizeof(*phase_names) == RELAY_PRIMARY_PHASE_COUNT,
              "a name for each phase");

int relay_primary_new(struct relay_primary **ret_relay, const struct relay_primary_ops *ops,
                      void *ctx)
{
	struct relay_primary *r;

	r = malloc(sizeof(*r));
	if (!r)
		return -ENOMEM;
	memset(r, 0, offsetof(struct relay_primary, out));
	r->ops = ops;
	r->ctx = ctx;
	stream_init(&r->stream);
	*ret_relay = r;
	return 0;
}

void relay_primary_free(struct relay_primary *r)
{
	free(r);
}

static int fail(struct relay_primary *r, int error, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

static int fail(struct relay_primary *r, int error, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(r->err, sizeof(r->err), fmt, args);
	va_end(args);
	r->phase = RELAY_PRIMARY_FAILED;
	return error;
}

int relay_primary_want(struct relay_primary *r, uint8_t **ret_ptr, size_t *ret_len)
{
	int rc;

	switch (r->phase) {
	case RELAY_PRIMARY_INITIAL:
		*ret_ptr = r->stage;
		*ret_len = sizeof(r->stage);
		return 0;
	case RELAY_PRIMARY_CAPTURING:
		rc = ckpt_buf_room(&r->ckpt->buf, ret_ptr, ret_len);
		if (rc < 0)
			return fail(r, rc,
			            "checkpoint %" PRIu64 " is larger than its %zu bytes of buffer",
			            r->ckpt->epoch, r->ckpt->buf.limit);
		return 0;
	case RELAY_PRIMARY_FAILED:
		return -EPROTO;
	default:
		*ret_ptr = r->msg + r->msg_len;
		*ret_len = sizeof(r->msg) - r->msg_len;
		return 0;
	}
}

static int got_initial(struct relay_primary *r, size_t n)
{
	int rc;

	if (n > sizeof(r->stage))
		return fail(r, -EPROTO, "%zu bytes read, more than were asked for", n);
	r->initial_bytes += n;
	rc = r->ops->forward(r->ctx, r->stage, n);
	if (rc < 0)
		return fail(r, rc, "initial migration: cannot forward %zu bytes", n);
	return 0;
}

static int got_message(struct relay_primary *r, size_t n, uint32_t *ret_message)
{
	if (n > sizeof(r->msg) - r->msg_len)
		return fail(r, -EPROTO, "%zu bytes read, more than were asked for", n);
	r->msg_len += n;
	if (r->msg_len < sizeof(r->msg))
		return 0;
	r->msg_len = 0;
	*ret_message = wire_be32(r->msg);
	return 1;
}

static int expect(struct relay_primary *r, size_t n, enum colo_message expected)
{
	uint32_t message = 0;
	int rc;

	rc = got_message(r, n, &message);
	if (rc <= 0)
		return rc;
	if (r->out_len != r->out_at)
		return fail(r, -EPROTO,
		            "PVM (%s): found %s, expected none before our answer was written",
		            phase_names[r->phase], colo_message_name(message));
	if (message != expected)
		return fail(r, -EPROTO, "PVM (%s): found message %" PRIu32 " (%s), expected %s",
		            phase_names[r->phase], message, colo_message_name(message),
		            colo_message_name(expected));
	return 1;
}

static int got_checkpoint(struct relay_primary *r, size_t n, uint64_t now)
{
	struct ckpt *ckpt = r->ckpt;
	int rc;

	if (!ckpt->first_at)
		ckpt->first_at = now;
	if (ckpt_buf_filled(&ckpt->buf, n) < 0)
		return fail(r, -EPROTO, "%zu bytes read, more than were asked for", n);
	rc = stream_feed(&r->stream, ckpt->buf.base, ckpt->buf.len);
	if (rc < 0)
		return fail(r, rc, "PVM, checkpoint %" PRIu64 ": %s", ckpt->epoch, r->stream.err);
	if (rc == 0)
		return 0;
	if (ckpt->buf.len > r->stream.stats.bytes)
		return fail(r, -EPROTO,
		            "PVM, checkpoint %" PRIu64 ": found %" PRIu64
		            " bytes behind its end at %" PRIu64 ", expected none",
		            ckpt->epoch, (uint64_t)ckpt->buf.len - r->stream.stats.bytes,
		            r->stream.stats.bytes);
	ckpt->stats = r->stream.stats;
	ckpt->captured_at = now;
	r->phase = RELAY_PRIMARY_CAPTURED;
	r->ops->captured(r->ctx, ckpt, now);
	return 0;
}

int relay_primary_got(struct relay_primary *r, size_t n, uint64_t now)
{
	int rc;

	switch (r->phase) {
	case RELAY_PRIMARY_INITIAL:
		return got_initial(r, n);
	case RELAY_PRIMARY_RUNNING:
		rc = expect(r, n, COLO_REQUEST);
		if (rc <= 0)
			return rc;
		r->phase = RELAY_PRIMARY_REQUESTED;
		r->requested_at = now;
		r->ops->requested(r->ctx, now);
		return 0;
	case RELAY_PRIMARY_STOPPING:
		rc = expect(r, n, COLO_VMSTATE_SEND);
		if (rc <= 0)
			return rc;
		r->phase = RELAY_PRIMARY_CAPTURING;
		r->ckpt->stopped_at = now;
		r->ops->stopped(r->ctx, r->ckpt, now);
		return 0;
	case RELAY_PRIMARY_CAPTURING:
		return got_checkpoint(r, n, now);
	case RELAY_PRIMARY_REQUESTED:
	case RELAY_PRIMARY_CAPTURED:
		return fail(r, -EPROTO,
		            "PVM (%s): found %zu bytes, expected none before our answer",
		            phase_names[r->phase], n);
	default:
		return -EPROTO;
	}
}

void relay_primary_pending(const struct relay_primary *r, const uint8_t **ret_ptr, size_t *ret_len)
{
	*ret_len = r->out_len - r->out_at;
	*ret_ptr = *ret_len ? r->out + r->out_at : NULL;
}

int relay_primary_wrote(struct relay_primary *r, size_t n)
{
	if (n > r->out_len - r->out_at)
		return -EINVAL;
	r->out_at += n;
	if (r->out_at == r->out_len)
		r->out_at = r->out_len = 0;
	return 0;
}

/* Room for it is there by construction: expect() lets no dialogue go on over unwritten answers. */
static void put_message(struct relay_primary *r, enum colo_message message)
{
	assert(sizeof(r->out) - r->out_len >= 4);
	wire_put_be32(r->out + r->out_len, message);
	r->out_len += 4;
}

/* Moves what is unwritten to the front. */
static void pack(struct relay_primary *r)
{
	memmove(r->out, r->out + r->out_at, r->out_len - r->out_at);
	r->out_len -= r->out_at;
	r->out_at = 0;
}

int relay_primary_from_peer(struct relay_primary *r, const uint8_t *data, size_t len)
{
	if (r->phase != RELAY_PRIMARY_INITIAL)
		return -EBUSY;
	pack(r);
	if (len > OUT_SIZE - r->out_len)
		return -ENOBUFS;
	if (len > 0)
		memcpy(r->out + r->out_len, data, len);
	r->out_len += len;
	return 0;
}

int relay_primary_start(struct relay_primary *r)
{
	if (r->phase != RELAY_PRIMARY_INITIAL)
		return -EBUSY;
	if (r->out_len != r->out_at)
		return -EAGAIN;
	put_message(r, COLO_READY);
	r->phase = RELAY_PRIMARY_RUNNING;
	return 0;
}

int relay_primary_reply(struct relay_primary *r, struct ckpt *ckpt, uint64_t epoch)
{
	if (r->phase != RELAY_PRIMARY_REQUESTED)
		return -EBUSY;
	ckpt_buf_reset(&ckpt->buf);
	ckpt->epoch = epoch;
	ckpt->stats = (struct stream_stats){0};
	ckpt->requested_at = r->requested_at;
	ckpt->stopped_at = ckpt->first_at = ckpt->captured_at = ckpt->resumed_at = 0;
	stream_begin(&r->stream);
	r->ckpt = ckpt;
	put_message(r, COLO_REPLY);
	r->phase = RELAY_PRIMARY_STOPPING;
	return 0;
}

int relay_primary_resume(struct relay_primary *r, uint64_t now)
{
	if (r->phase != RELAY_PRIMARY_CAPTURED)
		return -EBUSY;
	r->ckpt->resumed_at = now;
	r->ckpt = NULL;
	put_message(r, COLO_VMSTATE_RECEIVED);
	put_message(r, COLO_VMSTATE_LOADED);
	r->phase = RELAY_PRIMARY_RUNNING;
	return 0;
}

enum relay_primary_phase relay_primary_phase(const struct relay_primary *r)
{
	return r->phase;
}

const char *relay_primary_phase_name(enum relay_primary_phase phase)
{
	return phase < RELAY_PRIMARY_PHASE_COUNT ? phase_names[phase] : "unknown";
}

uint64_t relay_primary_initial_bytes(const struct relay_primary *r)
{
	return r->initial_bytes;
}

const char *relay_primary_error(const struct relay_primary *r)
{
	return r->err;
}
