/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Both daemons under one seed: the data thread's real code (node*.c, core, kvm, the messages) on
 * two hosts, in one process and in virtual time. What touches the world is replaced when the test
 * is linked (tests/sim/pair.h lists the models): the loop, the link, the data path, the system
 * calls, QEMU, the control threads, the clients, and an operator. Faults come at random moments;
 * the checker (pair_check.c) sees everything.
 *
 * The same seed is the same run, event by event. With --seed or --seeds it runs schedules as it is
 * told (--help); otherwise it is a test program as others are:
 *
 *   SIM_SEEDS=n    so many seeds, from 1 or SIM_FIRST on, up to the first that fails
 *   SIM_SEED=n     that seed only, in this process; SIM_TRACE=1: in words
 *
 * What is not modelled: the link's own framing and TLS (tests/unit/test_link.c), the kernel's data
 * path (test_datapath.c), real QEMUs and kernels (tests/e2e).
 */
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/sim/pair.h"

#ifdef __SANITIZE_ADDRESS__
#define DEFAULT_SEEDS 300u
#else
#define DEFAULT_SEEDS 1000u
#endif

static uint64_t setting(const char *name, uint64_t otherwise)
{
	const char *text = g_getenv(name);

	return text ? g_ascii_strtoull(text, NULL, 10) : otherwise;
}

/* The same seed is the same run. */
static void test_replay(void)
{
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct schedule schedule = SCHEDULE_OF(seed);
		struct ending one = {0}, two = {0};

		run_schedule(&schedule, &one, false);
		run_schedule(&schedule, &two, false);
		g_assert_cmpmem(&one, sizeof(one), &two, sizeof(two));
	}
}

static void test_seeds(void)
{
	struct jobs_options options = {
	        .first = setting("SIM_FIRST", 1),
	        .seeds = setting("SIM_SEEDS", DEFAULT_SEEDS),
	        .jobs = 1,
	        .failures = 1,
	        .shrink = setting("SIM_SHRINK", 1),
	};
	uint64_t one = setting("SIM_SEED", 0);
	struct schedule schedule = SCHEDULE_OF(one);
	struct ending ending = {0};

	if (one)
		run_schedule(&schedule, &ending, g_getenv("SIM_TRACE") != NULL);
	else if (!jobs_run(&options))
		g_test_fail();
}

/* ---- as it is told ---- */

static uint32_t faults_from(const char *text)
{
	char **list = g_strsplit(text, ",", -1);
	uint32_t mask = 0;

	for (char **word = list; *word; word++) {
		guint64 number = g_ascii_strtoull(*word, NULL, 10);

		if (strcmp(*word, "none") != 0 && number < FAULTS_MAX)
			mask |= 1u << number;
	}
	g_strfreev(list);
	return mask;
}

/* False: there is no such setting. */
static bool plain_from(const char *text, uint32_t *ret_mask)
{
	char **list = g_strsplit(text, ",", -1);
	bool known = true;

	for (char **word = list; *word && known; word++) {
		known = false;
		for (uint32_t i = 0; i < PLAINS; i++) {
			if (strcmp(*word, plain_names[i]) == 0 || strcmp(*word, "all") == 0) {
				*ret_mask |= 1u << i;
				known = true;
			}
		}
	}
	g_strfreev(list);
	return known;
}

static int one_schedule(const struct schedule *schedule, bool with_trace, bool smaller)
{
	struct ending ending = {0};

	if (smaller) {
		shrink(schedule, &ending);
		return 0;
	}
	run_schedule(schedule, &ending, with_trace);
	printf("# it holds: %lu turns, up to %.3f s\n", (unsigned long)ending.turns,
	       (double)ending.now / 1e9);
	return 0;
}

static int as_told(int argc, char **argv)
{
	struct schedule schedule = SCHEDULE_OF(0);
	struct jobs_options options = {.first = 1, .jobs = 1, .failures = 1000, .progress = true};
	gint64 seed = 0, seeds = 0, first = 1, calm = 0;
	gint jobs = 1, failures = 1000, clients = 0, salt = 0;
	gboolean trace_it = FALSE, smaller = FALSE, no_shrink = FALSE, seen = FALSE, no_udp = FALSE,
	         frames = FALSE;
	char *faults = NULL, *plain = NULL;
	const GOptionEntry entries[] = {
	        {"seeds", 0, 0, G_OPTION_ARG_INT64, &seeds, "so many seeds", "N"},
	        {"first", 0, 0, G_OPTION_ARG_INT64, &first, "from this one on (1)", "SEED"},
	        {"jobs", 0, 0, G_OPTION_ARG_INT, &jobs, "processes (1)", "N"},
	        {"failures", 0, 0, G_OPTION_ARG_INT, &failures, "and end after so many (1000)",
	         "N"},
	        {"no-shrink", 0, 0, G_OPTION_ARG_NONE, &no_shrink, "only name what fails", NULL},
	        {"all-seen", 0, 0, G_OPTION_ARG_NONE, &seen,
	         "fail when something that is counted has not happened", NULL},
	        {"seed", 0, 0, G_OPTION_ARG_INT64, &seed, "one schedule, in this process", "SEED"},
	        {"trace", 0, 0, G_OPTION_ARG_NONE, &trace_it, "in words", NULL},
	        {"frames", 0, 0, G_OPTION_ARG_NONE, &frames, "and what leaves the hosts", NULL},
	        {"shrink", 0, 0, G_OPTION_ARG_NONE, &smaller, "make it smaller", NULL},
	        {"faults", 0, 0, G_OPTION_ARG_STRING, &faults, "only these of it, or none", "I,J"},
	        {"clients", 0, 0, G_OPTION_ARG_INT, &clients, "connections at a time (3)", "N"},
	        {"no-datagrams", 0, 0, G_OPTION_ARG_NONE, &no_udp, "TCP only", NULL},
	        {"plain", 0, 0, G_OPTION_ARG_STRING, &plain,
	         "network,delay,limits,policy,times,fence,clocks or all as they are mostly", "X,Y"},
	        {"calm", 0, 0, G_OPTION_ARG_INT64, &calm, "the faults end after so long", "MS"},
	        {"salt", 0, 0, G_OPTION_ARG_INT, &salt, "another course of events", "N"},
	        {0},
	};
	GOptionContext *context = g_option_context_new("- both daemons under one seed");
	GError *error = NULL;
	bool ok;

	g_option_context_add_main_entries(context, entries, NULL);
	ok = g_option_context_parse(context, &argc, &argv, &error);
	g_option_context_free(context);
	if (ok && plain && !plain_from(plain, &schedule.plain))
		ok = false;
	if (!ok || argc > 1 || (seed <= 0) == (seeds <= 0)) {
		g_printerr("sim_pair: %s\n", error ? error->message : "see --help");
		return 2;
	}
	schedule.seed = (uint64_t)seed;
	schedule.salt = (uint32_t)salt;
	schedule.clients = (uint32_t)clients;
	schedule.calm_ms = (uint64_t)calm;
	schedule.no_datagrams = no_udp;
	schedule.show_frames = frames;
	if (faults)
		schedule.faults = faults_from(faults);
	if (seed)
		return one_schedule(&schedule, trace_it, smaller);
	options.first = (uint64_t)first;
	options.seeds = (uint64_t)seeds;
	options.jobs = (uint32_t)MAX(jobs, 1);
	options.failures = (uint32_t)MAX(failures, 1);
	options.shrink = !no_shrink;
	options.all_seen = seen;
	ok = jobs_run(&options);
	printf("%s\n", ok ? "1 passed, 0 failed" : "0 passed, 1 failed");
	return ok ? 0 : 1;
}

int main(int argc, char **argv)
{
	/* A schedule's memory is the next one's: no page is given back and cleared again. */
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 512 << 20);
	for (int i = 1; i < argc; i++) {
		if (g_str_has_prefix(argv[i], "--seed") || strcmp(argv[i], "--help") == 0)
			return as_told(argc, argv);
	}
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/sim/pair/replay", test_replay);
	g_test_add_func("/sim/pair/seeds", test_seeds);
	return g_test_run();
}
