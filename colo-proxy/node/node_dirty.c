/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the VM writes to between checkpoints (core/dirty_rate.h): QEMU is asked, the pacer told. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "colo-proxy/control/log.h"
#include "colo-proxy/node/node_private.h"

void dirty_init(struct node *node)
{
	const struct config *config = node->config;
	struct dirty_rate_params params = {
	        .interval_ns = config->dirty_rate_interval_ns,
	        .memory_mib = config->memory_mib,
	        .limit_mib = config->max_dirty_mib,
	};

	dirty_rate_init(&node->dirty, &params);
}

/* None while a checkpoint is about to be taken or in flight. */
static bool may_ask(const struct node *node)
{
	return node->role.state == ROLE_PROTECTED && !node->p.wanted && !node->p.in_flight;
}

void dirty_pace(struct node *node)
{
	uint64_t due = dirty_rate_due(&node->dirty);

	if (due == UINT64_MAX || !may_ask(node))
		loop_timer_clear(node->loop, &node->p.dirty_timer);
	else
		loop_timer_set(node->loop, &node->p.dirty_timer, due);
}

void dirty_due(void *ctx, uint64_t now)
{
	struct node *node = ctx;

	if (!may_ask(node) || dirty_rate_due(&node->dirty) > now)
		return; /* the next checkpoint's end, or the answer, comes back to it */
	dirty_rate_asked(&node->dirty, now);
	node->ops->order(node->ctx, ORDER_DIRTY_SAMPLE, "");
}

struct sample {
	struct node *node;
	int error;
	uint64_t mib_per_s;
	char text[200];
};

/* Twice in vain is no reason to say anything. */
static void no_sample(struct node *node, int error, const char *why)
{
	if (dirty_rate_failed(&node->dirty, error == -EOPNOTSUPP))
		log_warn("QEMU does not say how fast the VM writes to its memory: %s; max-dirty "
		         "has no effect",
		         why);
}

static void do_sample(void *arg)
{
	struct sample *sample = arg;
	struct node *node = sample->node;
	struct dirty_rate *d = &node->dirty;
	uint64_t now = loop_clock(), known = d->samples;

	if (sample->error == 0 && dirty_rate_sampled(d, sample->mib_per_s, now) == -ERANGE) {
		sample->error = -ERANGE;
		snprintf(sample->text, sizeof(sample->text),
		         "%lu MiB/s are more than it has memory", (unsigned long)sample->mib_per_s);
	}
	if (sample->error < 0)
		no_sample(node, sample->error, sample->text);
	if (d->samples > known) {
		pacer_sampled(&node->pacer, d->rate, now);
		pacer_full(&node->pacer, dirty_rate_full_at(d));
	}
	if (node->is_primary && node->pacer.on)
		primary_pace(node);
	free(sample);
}

void node_dirty_sample(struct node *node, int error, uint64_t mib_per_s, const char *text)
{
	struct sample *sample = calloc(1, sizeof(*sample));

	if (sample) {
		*sample = (struct sample){node, error, mib_per_s, ""};
		snprintf(sample->text, sizeof(sample->text), "%s", text);
	}
	if (!sample || loop_post(node->loop, do_sample, sample) < 0) {
		log_error("no memory for a sample of the dirty rate"); /* and no further one */
		free(sample);
	}
}
