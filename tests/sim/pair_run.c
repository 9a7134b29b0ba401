/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One schedule: settings and faults of its seed, then event after event to the end. */
#include <stdio.h>
#include <string.h>

#include "tests/sim/pair.h"

#define DEADLINE   (120 * SEC) /* after the faults */
#define TURNS_MAX  4000000u
#define LINK_SMALL 260u /* KiB; of it 256 are kept free of input */

const char *const plain_names[PLAINS] = {
        [PLAIN_NETWORK] = "network", [PLAIN_DELAY] = "delay", [PLAIN_LIMITS] = "limits",
        [PLAIN_POLICY] = "policy",   [PLAIN_TIMES] = "times", [PLAIN_FENCE] = "fence",
        [PLAIN_CLOCKS] = "clocks",
};

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

static bool plain(enum plain which)
{
	return world->schedule->plain >> which & 1;
}

/* Limits of queues. */
static void vary_limits(struct config *config, bool small)
{
	config->max_held_bytes = small ? (32u << 10) : (4u << 20);
	config->max_held_packets = small ? 64 : 4096;
	config->max_input_log_bytes = small ? (64u << 10) : (4u << 20);
	config->max_flows = 256;
	config->link_buffer_bytes = small ? (LINK_SMALL << 10) : (2u << 20);
}

struct times {
	uint64_t late, longest, latency, rest, fence_delay;
};

static void vary_times(struct config *config, const struct times *times)
{
	config->late_timeout_ns = times->late;
	config->late_timeout_max_ns = 4 * times->late;
	config->longest_epoch_ns = times->longest;
	config->latency_target_ns = times->latency;
	config->rest_ns = times->rest;
	config->boot_wait_ns = 500 * MS;
}

/* How pages are told: by the seed's number, so that nothing else is drawn otherwise. */
static void vary_pages(struct config *config)
{
	static const struct {
		enum config_agreeing agreeing;
		uint64_t cache;
	} pages[4] = {
	        {CONFIG_AGREEING_OFF, 64u << 20},
	        {CONFIG_AGREEING_ON, 0},
	        {CONFIG_AGREEING_ON, 1u << 20},
	        {CONFIG_AGREEING_AUTO, 0},
	};

	config->agreeing_pages = pages[world->seed % 4].agreeing;
	config->page_cache_bytes = pages[world->seed % 4].cache;
}

/* How much may be written to, and when that is looked at; likewise. */
static void vary_dirty(struct config *config)
{
	static const uint64_t most[4] = {0, 2, 8, 16}; /* MiB, of 16 */

	config->dirty_rate_interval_ns = world->seed % 3 ? (world->seed % 5 + 1) * 40 * MS : 0;
	config->max_dirty_mib = most[world->seed / 4 % 4];
}

/* Likewise: mostly more than there ever is to say again. */
static void vary_replay(struct config *config)
{
	static const uint64_t limits[8] = {0, 1 << 10};
	uint64_t limit = limits[world->seed / 4 % 8];
	bool small = world->seed / 4 % 8 < 2 && !plain(PLAIN_LIMITS);

	config->replay_bytes = small ? limit : 256 << 10;
}

/* What a seed has of small limits and other settings. All is drawn, whatever is plain then. */
static void vary(struct config *configs[2])
{
	bool threads = world->seed % 4 == 2 && !plain(PLAIN_LIMITS);
	bool small = chance(30);
	struct times times = {
	        .late = rnd_ns(20 * MS, 150 * MS),
	        .longest = rnd_ns(100 * MS, 1500 * MS),
	        .latency = rnd_ns(10 * MS, 200 * MS),
	        .rest = chance(50) ? 0 : rnd_ns(0, 100 * MS),
	        .fence_delay = chance(80) ? SEC : 0,
	};
	enum pacer_policy policy = chance(50) ? PACER_COMPARE : rnd(PACER_POLICY_COUNT);
	enum config_fence fence = chance(10) ? CONFIG_FENCE_OPERATOR : CONFIG_FENCE_COMMAND;

	if (plain(PLAIN_TIMES))
		times = (struct times){
		        .late = 50 * MS, .longest = SEC, .latency = 50 * MS, .fence_delay = SEC};
	if (plain(PLAIN_POLICY))
		policy = PACER_COMPARE;
	if (plain(PLAIN_FENCE))
		fence = CONFIG_FENCE_COMMAND;
	for (uint32_t i = 0; i < 2; i++) {
		vary_limits(configs[i], small && !plain(PLAIN_LIMITS));
		vary_times(configs[i], &times);
		vary_pages(configs[i]);
		vary_dirty(configs[i]);
		vary_replay(configs[i]);
		configs[i]->policy = policy;
		configs[i]->fence = fence;
		configs[i]->encode_threads = threads ? 2 : 0;
	}
	configs[0]->fence_delay_ns = times.fence_delay;
	count(COUNT_POLICY + policy);
	trace(NULL, "policy %s, %s limits, fence %s", pacer_policy_name(policy),
	      configs[0]->max_flows && small && !plain(PLAIN_LIMITS) ? "small" : "large",
	      fence == CONFIG_FENCE_OPERATOR ? "operator" : "command");
}

static void vary_network(void)
{
	world->delay = chance(80) ? 100 * US : rnd_ns(MS, 10 * MS);
	world->loss = chance(50) ? 0 : rnd(30);
	world->twice = chance(70) ? 0 : rnd(30);
	world->damage = chance(70) ? 0 : rnd(20);
	world->late = 50;
	world->late_ns = 5 * MS;
	world->fence = chance(70) ? FENCE_WORKS : chance(50) ? FENCE_FAILS : FENCE_HANGS;
	if (plain(PLAIN_DELAY))
		world->delay = 100 * US;
	if (plain(PLAIN_NETWORK))
		world->loss = world->twice = world->damage = world->late = 0;
	if (plain(PLAIN_FENCE))
		world->fence = FENCE_WORKS;
}

static void vary_clocks(void)
{
	for (uint32_t i = 0; i < 2; i++) {
		uint64_t lead = rnd_ns(100 * SEC, 104 * SEC) * (1 + rnd(100000));

		world->host[i].lead = plain(PLAIN_CLOCKS) ? 100 * SEC : lead;
		world->host[i].wall_lead = 1700000000 * SEC + rnd_ns(0, 4 * SEC);
	}
}

static void daemon_starts(struct host *host, uint64_t arg)
{
	(void)arg;
	host_start(host);
}

static void seed_random(uint64_t seed)
{
	world->random = seed * 0x9e3779b97f4a7c15ull | 1;
	for (int i = 0; i < 8; i++)
		rnd(2);
}

/* Returns when the faults end. */
static uint64_t set_up(struct config *configs[2])
{
	uint64_t calm_at;

	world->seed = world->schedule->seed;
	world->now = 1000 * MS;
	seed_random(world->seed);
	vary_network();
	vary(configs);
	vary_clocks();
	calm_at = faults_plan();
	/* From here on the course of events: another one with another salt. */
	seed_random(world->seed ^ (uint64_t)world->schedule->salt << 40 ^ 0x5851f42d4c957f2dull);
	for (uint32_t i = 0; i < 2; i++) {
		world->host[i].index = i;
		world->host[i].power = true;
		world->host[i].config = configs[i];
		world->host[i].turn_at = NEVER;
		at(world->now + rnd_ns(0, 300 * MS), &world->host[i], daemon_starts, 0);
	}
	client_start();
	operator_starts();
	return calm_at;
}

/* A daemon changes in its turns only. */
static void end_turn(struct host *host)
{
	if (host->dying) {
		host->dying = false;
		host_kill_daemon(host);
	} else if (host->node) {
		check_host(host);
	}
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
		count(COUNT_TURNS);
		CHECK(++world->turns < TURNS_MAX, "a daemon never rests");
		loop_turn(host);
		here = NULL;
		end_turn(host);
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

void run_schedule(const struct schedule *schedule, struct ending *ending, bool with_trace)
{
	static struct config *configs[2];
	static struct world the_world;
	uint64_t calm_at, deadline;

	if (!configs[0]) {
		configs[0] = parse(primary_text);
		configs[1] = parse(secondary_text);
	}
	world = &the_world;
	memset(world, 0, sizeof(*world));
	world->schedule = schedule;
	world->ending = ending;
	world->count = ending->count;
	world->trace = with_trace;
	world->trace_frames = schedule->show_frames;
	calm_at = set_up(configs);
	while (world->now < calm_at)
		step();
	faults_end();
	deadline = world->now + DEADLINE;
	while (world->now < deadline && !client_done())
		step();
	if (!client_done())
		describe();
	CHECK(client_done(), "service does not go on after the faults are over");
	ending->random = world->random;
	ending->now = world->now;
	ending->turns = world->turns;
	tear_down();
}

/* The options that replay it. */
char *schedule_text(const struct schedule *schedule)
{
	GString *text = g_string_new(NULL);
	const char *between = " --plain ";

	g_string_append_printf(text, "--seed %lu", (unsigned long)schedule->seed);
	if (schedule->salt)
		g_string_append_printf(text, " --salt %u", schedule->salt);
	if (schedule->faults != UINT32_MAX) {
		g_string_append(text, " --faults ");
		for (uint32_t i = 0, n = 0; i < FAULTS_MAX; i++) {
			if (schedule->faults >> i & 1)
				g_string_append_printf(text, "%s%u", n++ ? "," : "", i);
		}
		if (!(schedule->faults & ((1u << FAULTS_MAX) - 1)))
			g_string_append(text, "none");
	}
	if (schedule->clients)
		g_string_append_printf(text, " --clients %u", schedule->clients);
	if (schedule->no_datagrams)
		g_string_append(text, " --no-datagrams");
	if (schedule->calm_ms)
		g_string_append_printf(text, " --calm %lu", (unsigned long)schedule->calm_ms);
	for (uint32_t i = 0; i < PLAINS; i++) {
		if (!(schedule->plain >> i & 1))
			continue;
		g_string_append_printf(text, "%s%s", between, plain_names[i]);
		between = ",";
	}
	return g_string_free(text, FALSE);
}
