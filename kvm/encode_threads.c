/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "kvm/encode_threads.h"

#include <stdio.h>

#define AUTO_MAX 4u

static unsigned int spare(const struct encode_threads_facts *facts)
{
	unsigned int needed = facts->vcpus + 1; /* the data thread */

	unsigned int have = facts->processors.usable;

	if (have <= 2 || have <= needed)
		return 0;
	return have - needed < AUTO_MAX ? have - needed : AUTO_MAX;
}

void encode_threads_choose(const struct encode_threads_facts *facts, int wish,
                           struct encode_threads_choice *ret_choice)
{
	struct encode_threads_choice *c = ret_choice;

	c->threads = 0;
	if (!facts->packs) {
		snprintf(c->why, sizeof(c->why),
		         "none: with compression = none the data thread encodes faster than it "
		         "encrypts");
	} else if (wish >= 0) {
		c->threads = (unsigned int)wish;
		snprintf(c->why, sizeof(c->why), "%u, as configured", c->threads);
	} else {
		char have[80];

		c->threads = spare(facts);
		processors_text(&facts->processors, have, sizeof(have));
		snprintf(c->why, sizeof(c->why), "%u: %s for %u vCPUs and a data thread",
		         c->threads, have, facts->vcpus);
	}
}
