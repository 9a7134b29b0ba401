/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <glib.h>

#include "kvm/agree.h"

#define US         1000ull
#define MBIT       125000.0 /* bytes/s */
#define BYTE(rate) (1e9 / (rate))

static struct agree_case of(uint64_t pages, double rate, uint64_t rtt_ns)
{
	return (struct agree_case){.pages = pages, .byte_ns = BYTE(rate), .rtt_ns = rtt_ns};
}

static struct agree_choice known(double whole, double share)
{
	struct agree_choice c;

	agree_choice_init(&c, AGREE_AUTO);
	for (int i = 0; i < 20; i++) {
		agree_choice_sent(&c, 1000, (uint64_t)(1000 * whole));
		agree_choice_looked(&c, 100, (uint64_t)(100 * share));
	}
	return c;
}

static bool picks(struct agree_choice c, struct agree_case now)
{
	return agree_choice_pick(&c, &now);
}

/* A saved page is 4 KB of the link's time; a round trip and 2 us for each page are what it costs.
 */
static void test_pays(void)
{
	struct agree_choice most = known(0.5, 0.8), few = known(0.5, 0.001), none = known(0, 1);

	/* 500 whole pages at 100 Mbit/s are 164 ms */
	g_assert_true(picks(most, of(1000, 100 * MBIT, 200 * US)));
	g_assert_true(picks(most, of(1000, 100 * MBIT, 50000 * US)));
	g_assert_false(picks(most, of(1000, 100 * MBIT, 200000 * US)));
	g_assert_false(picks(most, of(2, 100 * MBIT, 500 * US)));
	/* at 10 Gbit/s 1.6 ms, of which 0.8 are 1.3, and 1 ms to look at them */
	g_assert_false(picks(most, of(1000, 10000 * MBIT, 200 * US)));
	g_assert_false(picks(few, of(1000, 100 * MBIT, 500 * US)));
	g_assert_false(picks(none, of(1000, 100 * MBIT, 500 * US)));
}

static void test_unknown(void)
{
	struct agree_case now = of(10000, 100 * MBIT, 100 * US);
	struct agree_choice c;

	agree_choice_init(&c, AGREE_AUTO);
	g_assert_false(agree_choice_pick(&c, &now));
	agree_choice_sent(&c, 100, 100);
	g_assert_false(agree_choice_pick(&c, &now));
	agree_choice_looked(&c, 7, 7);
	g_assert_false(agree_choice_pick(&c, &now));
	agree_choice_looked(&c, 1, 1);
	g_assert_true(agree_choice_pick(&c, &now));
	agree_choice_init(&c, AGREE_ON);
	g_assert_true(agree_choice_pick(&c, &now));
	agree_choice_init(&c, AGREE_OFF);
	agree_choice_looked(&c, 100, 100);
	g_assert_false(agree_choice_pick(&c, &now));
}

/* The two VMs part, and come together again; nonsense is not learned from. */
static void test_follows(void)
{
	struct agree_case now = of(1000, 100 * MBIT, 500 * US);
	struct agree_choice c = known(0.5, 0.9);

	g_assert_true(agree_choice_pick(&c, &now));
	for (int i = 0; i < 30; i++)
		agree_choice_looked(&c, 500, 0);
	g_assert_false(agree_choice_pick(&c, &now));
	agree_choice_looked(&c, 0, 0);
	agree_choice_looked(&c, 10, 11);
	g_assert_false(agree_choice_pick(&c, &now));
	for (int i = 0; i < 30; i++)
		agree_choice_looked(&c, 16, 15);
	g_assert_true(agree_choice_pick(&c, &now));
	/* While hashes are sent the blocks pack badly: that says nothing of the pages. */
	now = of(1000, 1000 * MBIT, 500 * US);
	c = known(0.5, 0.9);
	g_assert_true(agree_choice_pick(&c, &now));
	now.byte_ns *= 10;
	now.rtt_ns = 20000 * US;
	g_assert_false(agree_choice_pick(&c, &now));
}

/* What has begun goes on for a little less than it begins for. */
static void test_hysteresis(void)
{
	struct agree_choice c = known(0.5, 0.8);
	struct agree_case now = of(1000, 100 * MBIT, 0);
	uint64_t begins = 0, ends = 0;

	for (now.rtt_ns = 200000 * US; now.rtt_ns > 0; now.rtt_ns -= 1000 * US) {
		if (!begins && agree_choice_pick(&c, &now))
			begins = now.rtt_ns;
	}
	for (now.rtt_ns = 0; now.rtt_ns < 300000 * US; now.rtt_ns += 1000 * US) {
		if (!ends && !agree_choice_pick(&c, &now))
			ends = now.rtt_ns;
	}
	g_assert_cmpuint(begins, >, 0);
	g_assert_cmpuint(ends, >, begins + begins / 4);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/agree/pays", test_pays);
	g_test_add_func("/agree/unknown", test_unknown);
	g_test_add_func("/agree/follows", test_follows);
	g_test_add_func("/agree/hysteresis", test_hysteresis);
	return g_test_run();
}
