/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 *   VM --> port (VM's tap), clsact ingress: marked frames pass --------> bridge --> client
 *                  | others: redirect                     ^
 *                  v                                      | redirect to the port's ingress
 *            hold tap, egress                       hold tap, ingress: set the mark
 *                  | read()                               ^ write()
 *                  +-----------> this process ------------+
 *
 * Goal: every frame of the VM, whatever its EtherType, tags, checksum or size, waits here with all
 * its metadata, and continues at the place where it was taken, so that the bridge learns the VM's
 * address on the VM's port and its filters see the VM's port.
 *
 * Invariants:
 * - A frame gets by the port's filter only with the mark, and only the hold tap's filter sets it.
 *   The VM cannot: a mark is no part of a frame. The mark is cleared on the way out, so that it
 *   means nothing on another VM's port with a hold of its own.
 * - The hold tap lives as long as this process's descriptor. After that the redirect has no target
 *   and the kernel drops the frame. Indexes of interfaces are not used again.
 * - Order: one ring in, one write at a time out.
 *
 * Limits: the ring keeps max_frames; more are dropped by the kernel and counted (tx_dropped), never
 * passed. A frame longer than the port's MTU plus 18 that is no superframe is dropped at re-entry.
 */
#include "colo-proxy/datapath/divert.h"
#include "colo-proxy/datapath/hold.h"
#include "colo-proxy/datapath/tc.h"

#include <errno.h>
#include <stdlib.h>

struct hold_tap_state {
	struct hold hold;
	struct divert divert;
};

static enum bpf_mode to_bpf(enum hold_mode mode)
{
	switch (mode) {
	case HOLD_MODE_HOLD:
		return BPF_MODE_DIVERT;
	case HOLD_MODE_PASS:
		return BPF_MODE_PASS;
	case HOLD_MODE_DROP:
		break;
	}
	return BPF_MODE_DROP;
}

static int tap_open(const struct hold_params *params, struct hold **ret_hold, char *err,
                    size_t errlen)
{
	struct divert_params divert = {.port = params->port, .side = TC_SIDE_INGRESS};
	struct hold_tap_state *s = calloc(1, sizeof(*s));
	int ret;

	if (!s)
		return -ENOMEM;
	divert.tap_name = params->tap_name ? params->tap_name : "colo%d";
	divert.mark = params->mark;
	divert.reentry = !params->mute;
	divert.queue = params->max_frames;
	divert.mode = to_bpf(params->mode);
	ret = divert_open(&s->divert, &divert, err, errlen);
	if (ret < 0) {
		free(s);
		return ret;
	}
	s->hold.ops = &hold_tap;
	s->hold.mode = params->mode;
	s->hold.mute = params->mute;
	*ret_hold = &s->hold;
	return 0;
}

static int tap_fds(const struct hold *hold, int ret_fds[2])
{
	ret_fds[0] = ((const struct hold_tap_state *)hold)->divert.tap_fd;
	return 1;
}

static int tap_receive(struct hold *hold, struct frame **ret_list, unsigned max)
{
	return divert_receive(&((struct hold_tap_state *)hold)->divert, ret_list, max);
}

static int tap_release(struct hold *hold, struct frame *f, bool rewritten)
{
	int ret = tapdev_write(((struct hold_tap_state *)hold)->divert.tap_fd, f);

	if (ret == 0)
		frame_free(f);
	return ret;
}

static int tap_discard(struct hold *hold, struct frame *f)
{
	frame_free(f);
	return 0;
}

static int tap_flush(struct hold *hold)
{
	return 0; /* release writes at once */
}

static int tap_set_mode(struct hold *hold, enum hold_mode mode)
{
	return divert_set_mode(&((struct hold_tap_state *)hold)->divert, to_bpf(mode));
}

static int tap_set_mute(struct hold *hold, bool mute)
{
	return divert_set_reentry(&((struct hold_tap_state *)hold)->divert, !mute);
}

static void tap_counters(struct hold *hold, struct hold_counters *ret_counters)
{
	struct hold_tap_state *s = (struct hold_tap_state *)hold;

	/* A failed read keeps the last value: the tap is gone only with our own descriptor. */
	tap_counter_read(&s->divert.tap, TAP_TX_DROPPED, &hold->count.kernel_dropped);
	*ret_counters = hold->count;
}

static void tap_close(struct hold *hold)
{
	struct hold_tap_state *s = (struct hold_tap_state *)hold;

	divert_close(&s->divert, hold->mode == HOLD_MODE_PASS);
	free(s);
}

const struct hold_ops hold_tap = {
        .name = "hold-tap",
        .open = tap_open,
        .fds = tap_fds,
        .receive = tap_receive,
        .release = tap_release,
        .discard = tap_discard,
        .flush = tap_flush,
        .set_mode = tap_set_mode,
        .set_mute = tap_set_mute,
        .counters = tap_counters,
        .close = tap_close,
};
