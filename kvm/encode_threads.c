/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "kvm/encode_threads.h"

#include <sched.h>
#include <stdio.h>

#define AUTO_MAX 4u

static unsigned int spare(const struct encode_threads_facts *facts)
{
	unsigned int needed = facts->vcpus + 1; /* the data thread */

	if (facts->processors <= 2 || facts->processors <= needed)
		return 0;
	return facts->processors - needed < AUTO_MAX ? facts->processors - needed : AUTO_MAX;
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
		c->threads = spare(facts);
		snprintf(c->why, sizeof(c->why), "%u: %u processors for %u vCPUs and a data thread",
		         c->threads, facts->processors, facts->vcpus);
	}
}

unsigned int encode_threads_processors(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return 1; /* more processors than fit: nobody has tried it there */
	return (unsigned int)CPU_COUNT(&set);
}
