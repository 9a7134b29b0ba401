/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/link/streams.h"

#include <stdio.h>

#include "colo-proxy/link/stripe.h"

#define AUTO_MAX 4u

static unsigned int spare(const struct link_streams_facts *facts)
{
	unsigned int needed = facts->vcpus + 1 + facts->encoders; /* 1: the data thread */
	unsigned int left = facts->processors > needed ? facts->processors - needed : 0;

	if (left < 2)
		return 1;
	return left < AUTO_MAX ? left : AUTO_MAX;
}

void link_streams_choose(const struct link_streams_facts *facts, int wish,
                         struct link_streams_choice *ret_choice)
{
	struct link_streams_choice *c = ret_choice;
	char memory[64] = "";

	c->streams = wish >= 1 ? (unsigned int)wish : spare(facts);
	if (c->streams > 1)
		snprintf(memory, sizeof(memory), "; %u MiB at most for what they receive",
		         c->streams * STRIPE_MEMORY >> 20);
	if (wish >= 1)
		snprintf(c->why, sizeof(c->why), "%u, as configured%s", c->streams, memory);
	else
		snprintf(c->why, sizeof(c->why),
		         "%u: %u processors for %u vCPUs, a data thread and %u that encode%s",
		         c->streams, facts->processors, facts->vcpus, facts->encoders, memory);
}
