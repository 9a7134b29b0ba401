/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What goes wrong. A seed has up to six faults at random moments of the first seconds, one in
 * twenty has up to FAULTS_MAX in three times as long: takeover after takeover. Each heals by itself
 * after a while.
 *
 * A fault's parameters are drawn from a stream of its own, so that it stays what it is when others
 * of the plan are left out (struct schedule), which is how a failing seed is made smaller.
 */
#include <string.h>

#include "tests/sim/pair.h"

#define FEW      6u
#define FIRST_AT (200 * MS)
#define LAST_AT  (7 * SEC)
#define CALM_AT  (8 * SEC)
#define LONGER   3u

const char *const fault_names[FAULTS] = {
        [FAULT_POWER] = "power lost",
        [FAULT_DAEMON] = "daemon killed",
        [FAULT_DAEMON_IN_TURN] = "daemon killed in a turn",
        [FAULT_POWER_AT_PHASE] = "power lost at a phase",
        [FAULT_QEMU] = "QEMU killed",
        [FAULT_CUT] = "link cut",
        [FAULT_CUT_ONE_WAY] = "link cut one way",
        [FAULT_PARTITION] = "host cut off from all",
        [FAULT_CLIENT_NET] = "host cut off from clients",
        [FAULT_FENCE] = "fence out of reach",
        [FAULT_STALL_DAEMON] = "daemon stalls",
        [FAULT_STALL_QEMU] = "QEMU stalls",
        [FAULT_STALL_HOST] = "host stalls",
        [FAULT_SUSPEND] = "host and its clock stand still",
        [FAULT_CLOCK_LEAPS] = "monotonic clock leaps",
        [FAULT_WALL_CLOCK] = "wall clock jumps",
        [FAULT_SLOW_LINK] = "link slow",
        [FAULT_SLOW_DAEMON] = "daemon slow",
        [FAULT_SLOW_QEMU] = "loads slow",
        [FAULT_LOSS] = "frames lost",
        [FAULT_DUPLICATES] = "frames doubled",
        [FAULT_REORDER] = "frames overtaken",
        [FAULT_DAMAGED_FRAMES] = "frames damaged",
        [FAULT_DAMAGED_LINK] = "a byte damaged on the link",
        [FAULT_FULL_LINK] = "link takes nothing",
        [FAULT_FULL_HOLD] = "kernel takes no frame",
        [FAULT_FLOOD] = "flood of datagrams",
        [FAULT_SWITCH_OVER] = "switch-over",
        [FAULT_CHECKPOINT] = "checkpoint by command",
        [FAULT_POLICY] = "policy changed",
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

static void clients_reach(struct host *host, uint64_t arg)
{
	(void)arg;
	host->net_cut = false;
	trace(host, "is on the clients' network again");
}

static void fence_answers(struct host *host, uint64_t arg)
{
	(void)host;
	(void)arg;
	world->fence_dead = false;
}

static void is_fast_again(struct host *host, uint64_t arg)
{
	(void)host;
	(void)arg;
	world->delay = 100 * US;
}

static void takes_again(struct host *host, uint64_t arg)
{
	(void)arg;
	host->sockets_full = host->queue_full = host->hold_full = false;
	host->slow_ns = host->qemu_slow_ns = 0;
	loop_wake(host);
}

static void network_is_good(struct host *host, uint64_t arg)
{
	(void)host;
	(void)arg;
	world->loss = world->twice = world->damage = 5;
	world->late = 50;
	world->late_ns = 5 * MS;
}

static void cut(struct host *host, uint64_t until)
{
	world->cut[host->index] = true;
	at(until, host, heals, 0);
}

static void cut_net(struct host *host, uint64_t until)
{
	host->net_cut = true;
	path_port_down(host);
	at(until, host, clients_reach, 0);
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
	case FAULT_QEMU:
		host_qemu_died(host);
		return;
	default:
		world->fuse_host = host;
		world->fuse = 1 + rnd(200);
		return;
	}
	at(world->now + rnd_ns(100 * MS, 4 * SEC), host, starts_again, host->life);
}

/* Of half a checkpoint, one that is there and not loaded, a copy, a takeover, a switch-over. */
static bool is_there(const struct host *host, enum phase phase)
{
	const struct node *node = host->node;

	switch (phase) {
	case PHASE_HALF:
		return !node->is_primary && node->s.ckpt_open && !node->s.ckpt_whole;
	case PHASE_WHOLE:
		return !node->is_primary && node->s.ckpt_whole;
	case PHASE_COPY:
		return node->role.state == ROLE_JOINING && host->qemu.alive;
	case PHASE_TAKEOVER:
		return node->role.state == ROLE_TAKING_OVER;
	case PHASE_HANDED:
		return node->role.state == ROLE_RETIRED && node->role.handed;
	default:
		return false;
	}
}

static void power_fails(struct host *host, uint64_t arg)
{
	(void)arg;
	dies(host, FAULT_POWER);
}

static void asks_to_switch(struct host *host, uint64_t arg)
{
	(void)arg;
	operator_fails_over(host, false);
}

static enum moment moment_of(const struct node *node)
{
	if (!node || node->role.state != ROLE_PROTECTED || !node->p.relay || !node->p.in_flight ||
	    node->p.committed)
		return MOMENT_NONE;
	return relay_primary_phase(node->p.relay) == RELAY_PRIMARY_CAPTURING ? MOMENT_IN_PAUSE
	                                                                     : MOMENT_IN_FLIGHT;
}

static void switch_at_moment(struct host *host)
{
	enum moment moment = moment_of(host->node);

	if (!moment || moment != world->switches)
		return;
	world->switches = MOMENT_NONE;
	count(moment == MOMENT_IN_PAUSE ? COUNT_SWITCH_IN_PAUSE : COUNT_SWITCH_IN_FLIGHT);
	at(world->now, host, asks_to_switch, 0);
}

static void is_stopped(struct host *host, uint64_t arg)
{
	(void)arg;
	if (!host->node || host->node->is_primary || host->job_busy)
		return;
	count(COUNT_RECEIVER_STOPPED);
	operator_stops(host);
}

/* The receiver's daemon, somewhere between the word that the VM is its own and its first frame. */
static void stop_receiver(struct host *giver)
{
	bool handed = giver->node && giver->node->role.handed_here;

	if (handed && !giver->handed && !world->calm && own_number(giver, 4) == 0)
		at(world->now + own_number(giver, 8000) * US, peer_of(giver), is_stopped, 0);
	giver->handed = handed;
}

void faults_trap(struct host *host)
{
	stop_receiver(host);
	switch_at_moment(host);
	if (!world->trap || !host->node || !is_there(host, world->trap))
		return;
	trace(host, "it is at phase %d", world->trap);
	world->trap = PHASE_NONE;
	at(world->now + (chance(50) ? 0 : rnd_ns(0, 3 * MS)), world->trap_host, power_fails, 0);
}

static void is_cut(struct host *host, enum fault fault, uint64_t until)
{
	switch (fault) {
	case FAULT_CUT:
		cut(peer_of(host), until);
		cut(host, until);
		break;
	case FAULT_CUT_ONE_WAY:
		cut(host, until);
		break;
	case FAULT_PARTITION:
		cut(peer_of(host), until);
		cut(host, until);
		cut_net(host, until + rnd_ns(0, 300 * MS)); /* they do not come back together */
		break;
	case FAULT_CLIENT_NET:
		cut_net(host, until);
		break;
	default:
		world->fence_dead = true;
		at(until, NULL, fence_answers, 0);
		break;
	}
}

static void stalls(struct host *host, enum fault fault, uint64_t until)
{
	struct qemu *qemu = &host->qemu;

	if (fault != FAULT_STALL_QEMU)
		host->stalled_until = MAX(host->stalled_until, until);
	if (fault != FAULT_STALL_DAEMON)
		host->qemu_stalled_until = MAX(host->qemu_stalled_until, until);
	if (fault != FAULT_SUSPEND || host->still_until > world->now)
		return;
	host->clock_still = host_clock(host);
	host->lead -= until - world->now;
	host->still_until = until;
	/* The VM's, too. */
	if (qemu->alive && qemu->running) {
		qemu->guest.clock_ms = guest_clock(qemu);
		qemu->clock_at = until;
	}
}

static void clock_jumps(struct host *host, enum fault fault)
{
	uint64_t by = chance(50) ? rnd_ns(MS, 900 * MS) : rnd_ns(SEC, 4 * SEC) * (1 + rnd(1000));

	if (fault == FAULT_CLOCK_LEAPS) {
		by *= 1 + rnd(4);
		host->lead += by;
		check_leapt(host, by);
		loop_wake(host);
	} else {
		host->wall_lead += chance(50) ? by : 0 - by;
	}
}

static void is_slow(struct host *host, enum fault fault, uint64_t until)
{
	if (fault == FAULT_SLOW_LINK) {
		world->delay = rnd_ns(MS, 60 * MS);
		at(until, NULL, is_fast_again, 0);
		return;
	}
	if (fault == FAULT_SLOW_DAEMON)
		host->slow_ns = rnd_ns(MS, 60 * MS);
	else
		host->qemu_slow_ns = rnd_ns(10 * MS, 600 * MS);
	at(until, host, takes_again, 0);
}

static void network_is_bad(enum fault fault, uint64_t until)
{
	uint32_t rate = 50 + rnd(200);

	if (fault == FAULT_LOSS)
		world->loss = rate;
	else if (fault == FAULT_DUPLICATES)
		world->twice = rate;
	else if (fault == FAULT_DAMAGED_FRAMES)
		world->damage = rate;
	else
		world->late = rate;
	world->late_ns = rnd_ns(MS, 60 * MS);
	at(until, NULL, network_is_good, 0);
}

static void is_full(struct host *host, enum fault fault, uint64_t until)
{
	if (fault == FAULT_FULL_LINK)
		host->sockets_full = host->queue_full = true;
	else
		host->hold_full = true;
	at(until, host, takes_again, 0);
}

static void happens(struct host *host, enum fault fault)
{
	uint64_t until = world->now + a_while();

	switch (fault) {
	case FAULT_POWER:
	case FAULT_DAEMON:
	case FAULT_DAEMON_IN_TURN:
	case FAULT_QEMU:
		dies(host, fault);
		break;
	case FAULT_POWER_AT_PHASE:
		world->trap = (enum phase)(1 + rnd(PHASE_HANDED));
		world->trap_host = host;
		break;
	case FAULT_CUT:
	case FAULT_CUT_ONE_WAY:
	case FAULT_PARTITION:
	case FAULT_CLIENT_NET:
	case FAULT_FENCE:
		is_cut(host, fault, until);
		break;
	case FAULT_STALL_DAEMON:
	case FAULT_STALL_QEMU:
	case FAULT_STALL_HOST:
	case FAULT_SUSPEND:
		stalls(host, fault, until);
		break;
	case FAULT_CLOCK_LEAPS:
	case FAULT_WALL_CLOCK:
		clock_jumps(host, fault);
		break;
	case FAULT_SLOW_LINK:
	case FAULT_SLOW_DAEMON:
	case FAULT_SLOW_QEMU:
		is_slow(host, fault, until);
		break;
	case FAULT_LOSS:
	case FAULT_DUPLICATES:
	case FAULT_REORDER:
	case FAULT_DAMAGED_FRAMES:
		network_is_bad(fault, until);
		break;
	case FAULT_DAMAGED_LINK:
		host->damaged = 1 + rnd(100);
		break;
	case FAULT_FULL_LINK:
	case FAULT_FULL_HOLD:
		is_full(host, fault, until);
		break;
	case FAULT_FLOOD:
		client_floods(50 + rnd(400));
		break;
	case FAULT_SWITCH_OVER:
		world->switches = (enum moment)rnd(MOMENTS);
		if (!world->switches)
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

static void begins(struct host *unused, uint64_t number)
{
	enum fault fault = (enum fault)(number % FAULTS);
	uint64_t random = world->random;
	struct host *host;

	(void)unused;
	world->random = (world->seed * FAULTS_MAX + number / FAULTS) * 0xd1342543de82ef95ull | 1;
	for (int i = 0; i < 4; i++)
		rnd(2);
	host = somebody();
	world->count[fault]++;
	trace(host, "FAULT %lu: %s", (unsigned long)(number / FAULTS), fault_names[fault]);
	happens(host, fault);
	world->random = random;
}

uint64_t faults_plan(void)
{
	bool many = chance(5);
	uint32_t n = rnd((many ? FAULTS_MAX : FEW) + 1);
	uint64_t times = many ? LONGER : 1, calm = times * CALM_AT;

	if (world->schedule->calm_ms && 1000 * MS + world->schedule->calm_ms * MS < calm)
		calm = 1000 * MS + world->schedule->calm_ms * MS;
	for (uint32_t i = 0; i < n; i++) {
		uint64_t when = world->now + rnd_ns(FIRST_AT, times * LAST_AT);
		uint32_t fault = rnd(FAULTS);

		if (!(world->schedule->faults >> i & 1) || when >= calm)
			continue;
		world->ending->faults |= 1u << i;
		trace(NULL, "fault %u: %s at %.3f", i, fault_names[fault], (double)when / 1e9);
		at(when, NULL, begins, (uint64_t)i * FAULTS + fault);
	}
	return calm;
}

/* From here on nothing goes wrong any more. */
void faults_end(void)
{
	world->calm = true;
	world->fuse = 0;
	world->trap = PHASE_NONE;
	world->switches = MOMENT_NONE;
	world->delay = 100 * US;
	world->loss = world->twice = world->damage = world->late = 0;
	world->fence_dead = false;
	trace(NULL, "the faults are over");
	for (uint32_t i = 0; i < 2; i++) {
		struct host *host = &world->host[i];

		world->cut[i] = host->net_cut = false;
		host_clock_goes_on(host);
		host->stalled_until = MIN(host->stalled_until, world->now);
		host->qemu_stalled_until = MIN(host->qemu_stalled_until, world->now);
		host->damaged = 0;
		takes_again(host, 0);
	}
	link_healed();
}
