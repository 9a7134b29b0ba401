/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Goal: the SVM's QEMU sees exactly what a primary would send it, and a checkpoint only as a whole
 * (rule R3): a QEMU that waits for the rest of a checkpoint answers nothing on QMP.
 *
 * What the SVM sends is framed in three ways, and the phase says which: return-path messages (be16
 * type, be16 length, payload) up to and with SHUT, then READY, then COLO messages (be32). Reads
 * ask for exactly the bytes that the current frame lacks, so that nothing is read across a change
 * of framing.
 *
 * Invariants: the SVM says nothing but answers. REPLY comes only after all of REQUEST was written,
 * RECEIVED only after the last byte of the checkpoint was; anything that comes earlier is an error.
 */
#include "kvm/relay_secondary.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/wire.h"

#define OUT_SIZE (256u * 1024u)

/* Return-path messages: QEMU's migration/migration.h, enum mig_rp_message_type. */
#define RP_SHUT     1u
#define RP_TYPE_MAX 7u
#define RP_HEAD     4u
#define RP_MAX_DATA 512u

struct relay_secondary {
	const struct relay_secondary_ops *ops;
	void *ctx;
	enum relay_secondary_phase phase;
	struct ckpt *ckpt; /* to load, or in flight */
	size_t ckpt_at;    /* bytes of it written */
	struct stream stream;
	size_t in_len;
	size_t out_at;
	size_t out_len;
	char err[STREAM_ERR_LEN + 64];
	uint8_t in[RP_HEAD + RP_MAX_DATA];
	uint8_t out[OUT_SIZE];
};

static const char *const phase_names[] = {
        "initial", "shut", "running", "stopping", "stopped", "sending", "loading", "failed",
};
static_assert(sizeof(phase_names) / sizeof(*phase_names) == RELAY_SECONDARY_PHASE_COUNT,
              "a name for each phase");

int relay_secondary_new(struct relay_secondary **ret_relay, const struct relay_secondary_ops *ops,
                        void *ctx)
{
	struct relay_secondary *r;

	r = malloc(sizeof(*r));
	if (!r)
		return -ENOMEM;
	memset(r, 0, offsetof(struct relay_secondary, out));
	r->ops = ops;
	r->ctx = ctx;
	stream_init(&r->stream);
	*ret_relay = r;
	return 0;
}

void relay_secondary_free(struct relay_secondary *r)
{
	free(r);
}

static int fail(struct relay_secondary *r, int error, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

static int fail(struct relay_secondary *r, int error, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(r->err, sizeof(r->err), fmt, args);
	va_end(args);
	r->phase = RELAY_SECONDARY_FAILED;
	return error;
}

/* Moves what is unwritten to the front. */
static void pack(struct relay_secondary *r)
{
	memmove(r->out, r->out + r->out_at, r->out_len - r->out_at);
	r->out_len -= r->out_at;
	r->out_at = 0;
}

ssize_t relay_secondary_from_peer(struct relay_secondary *r, const uint8_t *data, size_t len)
{
	if (r->phase != RELAY_SECONDARY_INITIAL && r->phase != RELAY_SECONDARY_SHUT)
		return -EBUSY;
	if (len > sizeof(r->out) - r->out_len)
		pack(r);
	if (len > sizeof(r->out) - r->out_len)
		len = sizeof(r->out) - r->out_len;
	if (len > 0)
		memcpy(r->out + r->out_len, data, len);
	r->out_len += len;
	return (ssize_t)len;
}

/* The length of the frame that is coming in, as far as it is known. */
static size_t frame_len(const struct relay_secondary *r)
{
	if (r->phase != RELAY_SECONDARY_INITIAL)
		return 4;
	if (r->in_len < RP_HEAD)
		return RP_HEAD;
	return RP_HEAD + wire_be16(r->in + 2);
}

int relay_secondary_want(struct relay_secondary *r, uint8_t **ret_ptr, size_t *ret_len)
{
	if (r->phase == RELAY_SECONDARY_FAILED)
		return -EPROTO;
	*ret_ptr = r->in + r->in_len;
	*ret_len = frame_len(r) - r->in_len;
	return 0;
}

/* Nothing is read across a return-path frame's head before it has passed here. */
static int check_return_head(struct relay_secondary *r)
{
	unsigned int type = wire_be16(r->in);
	unsigned int len = wire_be16(r->in + 2);

	if (type == 0 || type > RP_TYPE_MAX)
		return fail(
		        r, -EPROTO,
		        "SVM: found return-path message %u, expected 1 to %u (is its capability "
		        "return-path on?)",
		        type, RP_TYPE_MAX);
	if (len > RP_MAX_DATA)
		return fail(r, -EPROTO,
		            "SVM: found %u bytes in return-path message %u, expected up to %u", len,
		            type, RP_MAX_DATA);
	if (type == RP_SHUT && len != 4)
		return fail(r, -EPROTO, "SVM: found %u bytes in SHUT, expected 4", len);
	return 0;
}

static int got_return_path(struct relay_secondary *r)
{
	size_t len;
	int rc;

	if (r->in_len == RP_HEAD) {
		rc = check_return_head(r);
		if (rc < 0)
			return rc;
	}
	len = frame_len(r);
	if (r->in_len < len)
		return 0;
	r->in_len = 0;
	rc = r->ops->back(r->ctx, r->in, len);
	if (rc < 0)
		return fail(r, rc, "cannot pass on %zu bytes of the return path", len);
	if (wire_be16(r->in) != RP_SHUT)
		return 0;
	if (wire_be32(r->in + RP_HEAD) != 0)
		return fail(r, -EPROTO,
		            "SVM: the initial migration failed there (SHUT %" PRIu32 ")",
		            wire_be32(r->in + RP_HEAD));
	r->phase = RELAY_SECONDARY_SHUT;
	return 0;
}

static void put_message(struct relay_secondary *r, enum colo_message message)
{
	pack(r);
	assert(sizeof(r->out) - r->out_len >= 4);
	wire_put_be32(r->out + r->out_len, message);
	r->out_len += 4;
}

static void start_sending(struct relay_secondary *r)
{
	put_message(r, COLO_VMSTATE_SEND);
	r->ckpt_at = 0;
	r->phase = RELAY_SECONDARY_SENDING;
}

static enum colo_message expected_message(enum relay_secondary_phase phase)
{
	switch (phase) {
	case RELAY_SECONDARY_SHUT:
		return COLO_READY;
	case RELAY_SECONDARY_STOPPING:
		return COLO_REPLY;
	case RELAY_SECONDARY_SENDING:
		return COLO_VMSTATE_RECEIVED;
	case RELAY_SECONDARY_LOADING:
		return COLO_VMSTATE_LOADED;
	default:
		return COLO_MESSAGE_COUNT;
	}
}

static int check_message(struct relay_secondary *r, uint32_t message)
{
	enum colo_message expected = expected_message(r->phase);
	const uint8_t *ptr;
	size_t unwritten;

	if (expected == COLO_MESSAGE_COUNT)
		return fail(r, -EPROTO, "SVM (%s): found message %" PRIu32 " (%s), expected none",
		            phase_names[r->phase], message, colo_message_name(message));
	if (message != expected)
		return fail(r, -EPROTO, "SVM (%s): found message %" PRIu32 " (%s), expected %s",
		            phase_names[r->phase], message, colo_message_name(message),
		            colo_message_name(expected));
	relay_secondary_pending(r, &ptr, &unwritten);
	if (unwritten > 0)
		return fail(r, -EPROTO,
		            "SVM (%s): found %s while %zu bytes were still to be written",
		            phase_names[r->phase], colo_message_name(message), unwritten);
	return 0;
}

static int got_message(struct relay_secondary *r, uint64_t now)
{
	struct ckpt *ckpt;
	int rc;

	if (r->in_len < 4)
		return 0;
	r->in_len = 0;
	rc = check_message(r, wire_be32(r->in));
	if (rc < 0)
		return rc;
	switch (r->phase) {
	case RELAY_SECONDARY_SHUT:
		r->phase = RELAY_SECONDARY_RUNNING;
		r->ops->running(r->ctx, now);
		break;
	case RELAY_SECONDARY_STOPPING:
		if (r->ckpt)
			start_sending(r);
		else
			r->phase = RELAY_SECONDARY_STOPPED;
		r->ops->stopped(r->ctx, now);
		break;
	case RELAY_SECONDARY_SENDING:
		r->phase = RELAY_SECONDARY_LOADING;
		break;
	default:
		ckpt = r->ckpt;
		r->ckpt = NULL;
		r->phase = RELAY_SECONDARY_RUNNING;
		r->ops->loaded(r->ctx, ckpt, now);
		break;
	}
	return 0;
}

int relay_secondary_got(struct relay_secondary *r, size_t n, uint64_t now)
{
	if (r->phase == RELAY_SECONDARY_FAILED)
		return -EPROTO;
	if (n > frame_len(r) - r->in_len)
		return fail(r, -EPROTO, "%zu bytes read, more than were asked for", n);
	r->in_len += n;
	if (r->phase == RELAY_SECONDARY_INITIAL)
		return got_return_path(r);
	return got_message(r, now);
}

void relay_secondary_pending(const struct relay_secondary *r, const uint8_t **ret_ptr,
                             size_t *ret_len)
{
	*ret_ptr = NULL;
	*ret_len = r->out_len - r->out_at;
	if (*ret_len > 0) {
		*ret_ptr = r->out + r->out_at;
	} else if (r->phase == RELAY_SECONDARY_SENDING && r->ckpt_at < r->ckpt->buf.len) {
		*ret_ptr = r->ckpt->buf.base + r->ckpt_at;
		*ret_len = r->ckpt->buf.len - r->ckpt_at;
	}
}

int relay_secondary_wrote(struct relay_secondary *r, size_t n)
{
	const uint8_t *ptr;
	size_t len;

	relay_secondary_pending(r, &ptr, &len);
	if (n > len)
		return -EINVAL;
	if (r->out_len == r->out_at) {
		r->ckpt_at += n;
		return 0;
	}
	r->out_at += n;
	if (r->out_at == r->out_len)
		r->out_at = r->out_len = 0;
	return 0;
}

/* Walks over the checkpoint; what reaches across checkpoints is kept only from good ones. */
static int check_checkpoint(struct relay_secondary *r, const struct ckpt *ckpt)
{
	struct stream walk = r->stream;
	int rc;

	stream_begin(&walk);
	rc = stream_feed(&walk, ckpt->buf.base, ckpt->buf.len);
	if (rc == 1 && walk.stats.bytes == ckpt->buf.len) {
		r->stream = walk;
		return 0;
	}
	if (rc < 0)
		(void)snprintf(r->err, sizeof(r->err), "checkpoint %" PRIu64 ": %s", ckpt->epoch,
		               walk.err);
	else
		(void)snprintf(r->err, sizeof(r->err),
		               "checkpoint %" PRIu64 " has %zu bytes and does not end there",
		               ckpt->epoch, ckpt->buf.len);
	return -EBADMSG;
}

int relay_secondary_load(struct relay_secondary *r, struct ckpt *ckpt)
{
	int rc;

	if (r->ckpt ||
	    (r->phase != RELAY_SECONDARY_RUNNING && r->phase != RELAY_SECONDARY_STOPPING &&
	     r->phase != RELAY_SECONDARY_STOPPED))
		return -EBUSY;
	rc = check_checkpoint(r, ckpt);
	if (rc < 0)
		return rc;
	r->ckpt = ckpt;
	if (r->phase == RELAY_SECONDARY_STOPPED) {
		start_sending(r);
	} else if (r->phase == RELAY_SECONDARY_RUNNING) {
		put_message(r, COLO_REQUEST);
		r->phase = RELAY_SECONDARY_STOPPING;
	}
	return 0;
}

int relay_secondary_stop(struct relay_secondary *r)
{
	if (r->phase != RELAY_SECONDARY_RUNNING)
		return -EBUSY;
	put_message(r, COLO_REQUEST);
	r->phase = RELAY_SECONDARY_STOPPING;
	return 0;
}

const struct stream *relay_secondary_stream(const struct relay_secondary *r)
{
	return &r->stream;
}

enum relay_secondary_phase relay_secondary_phase(const struct relay_secondary *r)
{
	return r->phase;
}

const char *relay_secondary_phase_name(enum relay_secondary_phase phase)
{
	return phase < RELAY_SECONDARY_PHASE_COUNT ? phase_names[phase] : "unknown";
}

const char *relay_secondary_error(const struct relay_secondary *r)
{
	return r->err;
}
