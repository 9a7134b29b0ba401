/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The policy (core/pacer.h) of this daemon: from the configuration, changed at run time, shown. */
#include <stdio.h>

#include "colo-proxy/node/node_private.h"

void policy_init(struct node *node)
{
	const struct config *config = node->config;
	struct pacer_params params = {
	        .policy = config->policy,
	        .latency_ns = config->latency_target_ns,
	        .rest_ns = config->rest_ns,
	        .max_pause = config->max_pause,
	        .min_interval_ns = config->min_interval_ns,
	        .longest_ns = config->longest_epoch_ns,
	};

	pacer_init(&node->pacer, &params);
	dirty_init(node);
}

void policy_status(const struct node *node, struct status_policy *status)
{
	const struct pacer *pacer = &node->pacer;

	if (!node_proxies(node))
		return;
	snprintf(status->name, sizeof(status->name), "%s", pacer_policy_name(pacer->params.policy));
	snprintf(status->in_force, sizeof(status->in_force), "%s",
	         pacer_policy_name(pacer_in_force(pacer)));
	snprintf(status->why, sizeof(status->why), "%s", pacer_why(pacer));
	status->compares = pacer->compares;
	status->latency_target_ms = pacer->params.latency_ns / MS;
	status->rest_ms = pacer->params.rest_ns / MS;
	status->max_pause_percent = pacer->params.max_pause;
	status->epoch_us = pacer_epoch_length(pacer) / 1000;
	status->pause_us = pacer->pause.value / 1000;
	status->commit_us = pacer->commit.value / 1000;
}

static void do_policy(void *arg)
{
	struct node_job *job = arg;
	struct node *node = job->node;
	struct pacer *pacer = &node->pacer;
	enum pacer_policy before = pacer->params.policy;

	if (!node_proxies(node)) {
		job->done(job, false, "policies are this program's: comparator is not proxy");
		return;
	}
	pacer_change(pacer, &job->change, loop_clock());
	if (pacer->params.policy != before)
		node_event(node, "policy %s", pacer_policy_name(pacer->params.policy));
	if (node->is_primary && pacer->on)
		primary_pace(node);
	policy_status(node, &job->status.policy);
	job->done(job, true, "");
}

void node_policy(struct node *node, struct node_job *job)
{
	node_post_job(node, job, do_policy);
}
