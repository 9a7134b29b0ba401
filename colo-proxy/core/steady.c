/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/core/steady.h"

void steady_init(struct steady *steady, uint64_t clock, uint64_t step_ns)
{
	*steady = (struct steady){clock, clock, step_ns};
}

uint64_t steady_now(struct steady *steady, uint64_t clock)
{
	uint64_t step = clock > steady->clock ? clock - steady->clock : 0;

	steady->clock += step;
	steady->now += step < steady->step_ns ? step : steady->step_ns;
	return steady->now;
}
