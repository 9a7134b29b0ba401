/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Both daemons under one seed: the data thread's real code (node*.c, core, kvm, the messages) on
 * two hosts, in one process and in virtual time. What touches the world is replaced when the test
 * is linked (tests/sim/pair.h lists the models): the loop, the link, the data path, the system
 * calls, QEMU, the control threads, the clients, and an operator. Faults come at random moments;
 * the checker (pair_check.c) sees everything.
 *
 * The same seed is the same run, event by event.
 *
 *   SIM_SEED=n     that seed only            SIM_SEEDS=n    so many seeds, from 1 or SIM_FIRST on
 *   SIM_TRACE=1    what happens, in words    SIM_FAULTS=0,2 only these faults of the seed
 *
 * What is not modelled: the link's own framing and TLS (tests/unit/test_link.c), the kernel's data
 * path (test_datapath.c), real QEMUs and kernels (tests/e2e).
 */
#include <stdio.h>
#include <string.h>

#include "tests/sim/pair.h"

#ifdef __SANITIZE_ADDRESS__
#define DEFAULT_SEEDS 500u
#else
#define DEFAULT_SEEDS 5000u
#endif
#define CALM_AT  (8 * SEC)
#define DEADLINE (120 * SEC)
#define LOOK_NS  (20 * MS)

static const char primary_text[] = "[vm]\nname=model\nmemory=16\n[network]\nbridge=br0\n"
                                   "[replication]\nrole=primary\npeer=10.9.0.2:7001\n"
                                   "key-file=/key\n[failover]\nfence=/bin/true\n";
static const char secondary_text[] = "[vm]\nname=model\nmemory=16\n[network]\nbridge=br0\n"
                                     "[replication]\nrole=secondary\nlisten=10.9.0.2:7001\n"
                                     "key-file=/key\n[failover]\nfence=/bin/true\n";

static struct config *parse(const char *text)
{
	GPtrArray *problems = config_problems_new();
	struct config *config = NULL;

	if (config_parse("model.conf", text, strlen(text), problems, &config) < 0) {
		for (guint i = 0; i < problems->len; i++)
			g_printerr("%s\n", config_problem_text(problems->pdata[i]));
		g_error("the simulation's configuration is wrong");
	}
	g_ptr_array_unref(problems);
	return config;
}

/* What a seed has of small limits and other settings. */
static void vary(struct config *a, struct config *b)
{
	bool small = chance(30);
	uint64_t held = small ? (32u << 10) : (4u << 20), log = small ? (64u << 10) : (4u << 20);
	uint64_t late = rnd_ns(20 * MS, 150 * MS), longest = rnd_ns(100 * MS, 1500 * MS);
	enum pacer_policy policy = chance(50) ? PACER_COMPARE : rnd(PACER_POLICY_COUNT);
	uint64_t latency = rnd_ns(10 * MS, 200 * MS), rest = chance(50) ? 0 : rnd_ns(0, 100 * MS);
	enum config_fence fence = chance(10) ? CONFIG_FENCE_OPERATOR : CONFIG_FENCE_COMMAND;

	for (uint32_t i = 0; i < 2; i++) {
		struct config *config = i ? b : a;

		config->max_held_bytes = held;
		config->max_held_packets = small ? 64 : 4096;
		config->max_input_log_bytes = log;
		config->max_flows = 256;
		config->link_buffer_bytes = 2u << 20;
		config->late_timeout_ns = late;
		config->late_timeout_max_ns = 4 * late;
		config->longest_epoch_ns = longest;
		config->policy = policy;
		config->latency_target_ns = latency;
		config->rest_ns = rest;
		config->fence = fence;
		config->boot_wait_ns = 500 * MS;
	}
	trace(NULL, "policy %s", pacer_policy_name(policy));
	a->fence_delay_ns = chance(80) ? SEC : 0;
}

static void daemon_starts(struct host *host, uint64_t arg)
{
	(void)arg;
	host_start(host);
}

static void set_up(uint64_t seed, struct config *configs[2])
{
	world->seed = seed;
	world->trace = g_getenv("SIM_TRACE") != NULL;
	world->random = seed * 0x9e3779b97f4a7c15ull | 1;
	for (int i = 0; i < 8; i++)
		rnd(2);
	world->now = 1000 * MS;
	world->delay = chance(80) ? 100 * US : rnd_ns(MS, 10 * MS);
	world->loss = chance(50) ? 0 : rnd(30);
	world->fence = chance(70) ? FENCE_WORKS : chance(50) ? FENCE_FAILS : FENCE_HANGS;
	vary(configs[0], configs[1]);
	for (uint32_t i = 0; i < 2; i++) {
		world->host[i].index = i;
		world->host[i].power = true;
		world->host[i].config = configs[i];
		world->host[i].turn_at = NEVER;
		at(world->now + rnd_ns(0, 300 * MS), &world->host[i], daemon_starts, 0);
	}
	client_start();
	operator_starts();
	faults_plan();
}

/* The next thing that happens. */
static void step(void)
{
	uint64_t next = world->events_n ? world->events[0].at : NEVER;
	struct host *host = NULL;

	for (uint32_t i = 0; i < 2; i++) {
		uint64_t turn = loop_next(&world->host[i]);

		if (turn < next) {
			next = turn;
			host = &world->host[i];
		}
	}
	world->now = next > world->now ? next : world->now;
	if (!host) {
		struct event event = world_pop();

		if (event.frame)
			event.arrives(event.frame);
		else
			event.fn(event.host, event.arg);
	} else {
		here = host;
		world->turns++;
		loop_turn(host);
		here = NULL;
	}
	for (uint32_t i = 0; i < 2; i++) {
		if (world->host[i].dying) {
			world->host[i].dying = false;
			host_kill_daemon(&world->host[i]);
		} else if (world->host[i].node) {
			check_host(&world->host[i]);
		}
	}
}

static void describe(void)
{
	for (uint32_t i = 0; i < 2; i++) {
		const struct host *host = &world->host[i];

		g_printerr("  %c: power %d, daemon %d, %s, QEMU %d phase %d running %d\n",
		           i ? 'B' : 'A', host->power, host->node != NULL,
		           host->node ? role_state_name(host->node->role.state) : "-",
		           host->qemu.alive, host->qemu.phase, host->qemu.running);
	}
	client_describe();
}

static void tear_down(void)
{
	for (uint32_t i = 0; i < 2; i++)
		host_power_off(&world->host[i]);
	while (world->events_n)
		frame_free(world_pop().frame);
	client_free();
	g_free(world->events);
}

static void run(uint64_t seed, struct config *configs[2])
{
	memset(world, 0, sizeof(*world));
	set_up(seed, configs);
	while (world->now < CALM_AT)
		step();
	faults_end();
	while (world->now < DEADLINE && !client_done())
		step();
	if (!client_done()) {
		describe();
		CHECK(false, "service does not go on after the faults are over");
	}
	tear_down();
}

/* The same seed is the same run. */
static void test_replay(void)
{
	struct config *configs[2] = {parse(primary_text), parse(secondary_text)};
	uint64_t random, turns, answers;

	world = g_new0(struct world, 1);
	for (uint64_t seed = 1; seed <= 20; seed++) {
		run(seed, configs);
		random = world->random;
		turns = world->turns;
		answers = world->answers;
		run(seed, configs);
		g_assert_cmpuint(world->random, ==, random);
		g_assert_cmpuint(world->turns, ==, turns);
		g_assert_cmpuint(world->answers, ==, answers);
	}
	g_free(world);
	config_free(configs[0]);
	config_free(configs[1]);
}

static uint64_t setting(const char *name, uint64_t otherwise)
{
	const char *text = g_getenv(name);

	return text ? g_ascii_strtoull(text, NULL, 10) : otherwise;
}

static void test_seeds(void)
{
	uint64_t one = setting("SIM_SEED", 0), seeds = setting("SIM_SEEDS", DEFAULT_SEEDS);
	uint64_t first = one ? one : setting("SIM_FIRST", 1), last = one ? one : first + seeds - 1;
	uint64_t checkpoints = 0, takeovers = 0, answers = 0, matched = 0, faults = 0, turns = 0,
	         boots = 0;
	struct config *configs[2] = {parse(primary_text), parse(secondary_text)};
	gint64 began = g_get_monotonic_time();
	double seconds;

	world = g_new0(struct world, 1);
	for (uint64_t seed = first; seed <= last; seed++) {
		run(seed, configs);
		checkpoints += world->checkpoints;
		takeovers += world->takeovers;
		answers += world->answers;
		matched += world->matched;
		faults += world->faults;
		turns += world->turns;
		boots += world->boots;
	}
	seconds = (double)(g_get_monotonic_time() - began) / 1e6;
	g_test_message(
	        "%lu schedules in %.1f s, %.0f a second; faults %lu, turns %lu, answers %lu, "
	        "released by match %lu, checkpoints %lu, changes of speaker %lu, boots %lu",
	        (unsigned long)(last - first + 1), seconds, (double)(last - first + 1) / seconds,
	        (unsigned long)faults, (unsigned long)turns, (unsigned long)answers,
	        (unsigned long)matched, (unsigned long)checkpoints, (unsigned long)takeovers,
	        (unsigned long)boots);
	g_assert_cmpuint(answers, >, 0);
	g_assert_true(one || matched);
	g_assert_true(one || checkpoints);
	g_free(world);
	config_free(configs[0]);
	config_free(configs[1]);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/sim/pair/replay", test_replay);
	g_test_add_func("/sim/pair/seeds", test_seeds);
	return g_test_run();
}
