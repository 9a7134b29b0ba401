/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Goal: an SVM that is behind (a slower host, a longer link, delayed acknowledgements) is not taken
 * for one that differs; and where it is prompt, what it does not say is known to be missing early.
 *
 * As the retransmission timer of TCP (RFC 6298): a smoothed lag and a smoothed mean deviation,
 *
 *      deviation += (|smoothed - sample| - deviation) / 4      smoothed += (sample - smoothed) / 8
 *
 * and the time to wait is smoothed + 4 * deviation, within a floor and a ceiling. TCP takes one
 * sample in each round trip; here each packet that matches is one, thousands a second, and most of
 * them are prompt while few are late. So the sample is the longest lag of an interval (100 ms). One
 * that is longer than what was known counts at once, twice, not only when its interval is over.
 *
 * What a checkpoint has released was not measured (as a segment that was sent again is not, Karn's
 * algorithm): an SVM that is slower than the time to wait would never be seen to be slow. So each
 * time that it was waited for in vain doubles the time (RFC 6298 section 5.5), and each interval
 * that is measured takes one doubling back.
 *
 * Invariant: floor <= lag_wait_ns() <= ceiling.
 */
#include "colo-proxy/core/lag.h"

#define INTERVAL_NS  100000000u
#define BACKOFF_MAX  16u
#define SAMPLE_LIMIT (1ull << 40) /* 18 minutes: keeps the sums small */

void lag_init(struct lag *lag, uint64_t floor_ns, uint64_t ceiling_ns)
{
	*lag = (struct lag){
	        .floor_ns = floor_ns,
	        .ceiling_ns = ceiling_ns < floor_ns ? floor_ns : ceiling_ns,
	};
}

static void take_sample(struct lag *lag, uint64_t sample)
{
	uint64_t apart =
	        sample > lag->smoothed_ns ? sample - lag->smoothed_ns : lag->smoothed_ns - sample;

	if (lag->intervals == 0) {
		lag->smoothed_ns = sample;
		lag->variance_ns = sample / 2;
	} else {
		lag->variance_ns = (3 * lag->variance_ns + apart) / 4;
		lag->smoothed_ns = (7 * lag->smoothed_ns + sample) / 8;
	}
	if (lag->intervals < UINT32_MAX)
		lag->intervals++;
	if (lag->backoff)
		lag->backoff--;
}

void lag_measured(struct lag *lag, uint64_t lag_ns, uint64_t now)
{
	if (lag_ns > SAMPLE_LIMIT)
		lag_ns = SAMPLE_LIMIT;
	if (!lag->measuring) {
		lag->measuring = true;
		lag->began = now;
		lag->highest_ns = lag_ns;
	} else if (now - lag->began >= INTERVAL_NS) {
		take_sample(lag, lag->highest_ns);
		lag->began = now;
		lag->highest_ns = lag_ns;
	} else if (lag_ns > lag->highest_ns) {
		lag->highest_ns = lag_ns;
	}
}

void lag_gave_up(struct lag *lag)
{
	if (lag->backoff < BACKOFF_MAX)
		lag->backoff++;
}

uint64_t lag_wait_ns(const struct lag *lag)
{
	uint64_t wait = lag->smoothed_ns + 4 * lag->variance_ns;

	if (lag->measuring && 2 * lag->highest_ns > wait)
		wait = 2 * lag->highest_ns;
	if (wait < lag->floor_ns)
		wait = lag->floor_ns;
	wait <<= lag->backoff;
	return wait > lag->ceiling_ns ? lag->ceiling_ns : wait;
}
