/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What goes wrong. A seed has up to FAULTS_MAX faults at random moments of the first seconds; each
 * heals by itself after a while. SIM_FAULTS=i,j,... lets only these happen, by their number in the
 * plan, which is how a failing seed is made smaller.
 */
#include <string.h>

#include "tests/sim/pair.h"

#define FAULTS_MAX 6u
#define FIRST_AT   (200 * MS)
#define LAST_AT    (7 * SEC)

enum fault {
	FAULT_POWER,
	FAULT_DAEMON,
	FAULT_DAEMON_IN_TURN,
	FAULT_QEMU,
	FAULT_CUT,
	FAULT_CUT_ONE_WAY,
	FAULT_STALL_DAEMON,
	FAULT_STALL_QEMU,
	FAULT_STALL_HOST,
	FAULT_SLOW,
	FAULT_LOSSY,
	FAULT_SWITCH_OVER,
	FAULT_CHECKPOINT,
	FAULT_POLICY,
	FAULTS
};

static const char *const names[FAULTS] = {
        "power lost",    "daemon killed",  "daemon killed in a turn",
        "QEMU killed",   "link cut",       "one-way cut",
        "daemon stalls", "QEMU stalls",    "host stalls",
        "link slow",     "frames lost",    "switch-over",
        "checkpoint",    "policy changed",
};

static void starts_again(struct host *host, uint64_t life)
{
	if (host->life != life)
		return;
	host_power_on(host);
	host_start(host);
}

static void heals(struct host *host, uint64_t arg)
{
	(void)arg;
	world->cut[host->index] = false;
	trace(host, "is heard again");
	link_healed();
}

static void is_fast_again(struct host *host, uint64_t arg)
{
	(void)host;
	(void)arg;
	world->delay = 100 * US;
}

static void loses_less(struct host *host, uint64_t arg)
{
	(void)host;
	(void)arg;
	world->loss = 5;
}

static void cut(struct host *host, uint64_t until)
{
	world->cut[host->index] = true;
	at(until, host, heals, 0);
}

static uint64_t a_while(void)
{
	return chance(60) ? rnd_ns(5 * MS, 400 * MS) : rnd_ns(400 * MS, 4 * SEC);
}

/* The host that is the primary now, mostly. */
static struct host *somebody(void)
{
	struct host *host = &world->host[rnd(2)];

	if (chance(60)) {
		for (uint32_t i = 0; i < 2; i++) {
			if (world->host[i].node && world->host[i].node->is_primary &&
			    world->host[i].qemu.alive)
				return &world->host[i];
		}
	}
	return host;
}

static void dies(struct host *host, enum fault fault)
{
	switch (fault) {
	case FAULT_POWER:
		host_power_off(host);
		break;
	case FAULT_DAEMON:
		host_kill_daemon(host);
		break;
	default:
		world->fuse_host = host;
		world->fuse = 1 + rnd(200);
		return;
	}
	at(world->now + rnd_ns(100 * MS, 4 * SEC), host, starts_again, host->life);
}

static void stalls(struct host *host, enum fault fault)
{
	uint64_t until = world->now + a_while();

	if (fault != FAULT_STALL_QEMU)
		host->stalled_until = until;
	if (fault != FAULT_STALL_DAEMON)
		host->qemu_stalled_until = until;
}

static void happens(struct host *unused, uint64_t number)
{
	enum fault fault = (enum fault)number;
	struct host *host = somebody();
	uint64_t until = world->now + a_while();

	(void)unused;
	world->faults++;
	trace(host, "FAULT: %s", names[fault]);
	switch (fault) {
	case FAULT_POWER:
	case FAULT_DAEMON:
	case FAULT_DAEMON_IN_TURN:
		dies(host, fault);
		break;
	case FAULT_QEMU:
		host_qemu_died(host);
		break;
	case FAULT_CUT:
		cut(peer_of(host), until);
		cut(host, until);
		break;
	case FAULT_CUT_ONE_WAY:
		cut(host, until);
		break;
	case FAULT_STALL_DAEMON:
	case FAULT_STALL_QEMU:
	case FAULT_STALL_HOST:
		stalls(host, fault);
		break;
	case FAULT_SLOW:
		world->delay = rnd_ns(MS, 60 * MS);
		at(until, NULL, is_fast_again, 0);
		break;
	case FAULT_LOSSY:
		world->loss = 50 + rnd(200);
		at(until, NULL, loses_less, 0);
		break;
	case FAULT_SWITCH_OVER:
		operator_fails_over(host, false);
		break;
	case FAULT_CHECKPOINT:
		operator_checkpoints(host);
		break;
	case FAULT_POLICY:
		operator_changes_policy(host);
		break;
	case FAULTS:
		break;
	}
}

static bool is_left_out(uint32_t number)
{
	const char *only = g_getenv("SIM_FAULTS");
	char **list, text[12];
	bool found;

	if (!only)
		return false;
	list = g_strsplit(only, ",", -1);
	g_snprintf(text, sizeof(text), "%u", number);
	found = g_strv_contains((const char *const *)list, text);
	g_strfreev(list);
	return !found;
}

void faults_plan(void)
{
	uint32_t n = rnd(FAULTS_MAX + 1);

	for (uint32_t i = 0; i < n; i++) {
		uint64_t when = rnd_ns(FIRST_AT, LAST_AT);
		uint32_t fault = rnd(FAULTS);

		if (is_left_out(i))
			continue;
		trace(NULL, "fault %u: %s at %.3f", i, names[fault], (double)when / 1e9);
		at(world->now + when, NULL, happens, fault);
	}
}

/* From here on nothing goes wrong any more. */
void faults_end(void)
{
	world->calm = true;
	world->fuse = 0;
	world->delay = 100 * US;
	world->loss = 0;
	for (uint32_t i = 0; i < 2; i++) {
		world->cut[i] = false;
		world->host[i].stalled_until = world->host[i].qemu_stalled_until = 0;
	}
	trace(NULL, "the faults are over");
	link_healed();
}
