/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control threads (what daemon.c does with the node's orders: one after the other, each takes
 * its time, some fail), the fence, and an operator who looks at both hosts now and then: starts
 * what does not run, and where nobody can decide, switches the other host off and forces it.
 */
#include <errno.h>
#include <string.h>

#include "tests/sim/pair.h"

#define COPY_POLL_NS  (50 * MS)
#define FENCE_TIMEOUT (5 * SEC)
#define LOOK_NS       (400 * MS)
#define SAMPLE_NS     (100 * MS)

static void control_event(struct host *host, uint64_t life);

/* ---- orders ---- */

static uint64_t takes(enum order order)
{
	if (!world->calm && rnd(60) == 0)
		return rnd_ns(50 * MS, 2 * SEC); /* QMP hangs */
	switch (order) {
	case ORDER_START_PRIMARY:
	case ORDER_START_SECONDARY:
		return rnd_ns(10 * MS, 150 * MS);
	case ORDER_LEAVE_COLO:
	case ORDER_ABORT_COPY:
		return rnd_ns(500 * US, 20 * MS);
	default:
		return rnd_ns(100 * US, 3 * MS);
	}
}

uint32_t own_number(struct host *host, uint32_t below)
{
	uint64_t x = world->seed * 2 + host->index + ++host->own_numbers * 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return (uint32_t)((x ^ x >> 31) >> 32) % below;
}

static void go_on(struct host *host)
{
	if (host->control_busy || !host->orders_n)
		return;
	host->control_busy = true;
	at(world->now + takes(host->orders[0].order), host, control_event, host->life);
}

static void order(void *ctx, enum order what, const char *text)
{
	struct host *host = ctx;

	if (!acts(host))
		return;
	if (what == ORDER_EVENT) {
		trace(host, "\"%s\"", text);
		return;
	}
	CHECK(host->orders_n < ORDERS_MAX, "orders pile up");
	if (what == ORDER_DIRTY_SAMPLE) {
		CHECK(host->node->role.state == ROLE_PROTECTED && !host->node->p.in_flight,
		      "QEMU is asked for a sample of memory during a checkpoint");
		count(COUNT_SAMPLED);
	}
	if (what == ORDER_CHECKPOINT && strcmp(text, "dirty") == 0)
		count(COUNT_FOR_DIRTY);
	host->orders[host->orders_n++].order = what;
	go_on(host);
}

const struct node_ops control_operations = {.order = order};

void control_clear(struct host *host)
{
	host->orders_n = 0;
	host->control_busy = host->fencing = host->in_colo = host->job_busy = false;
	host->sampling = false;
	host->bad_since = 0;
}

static void watch_copy(struct host *host, uint64_t life)
{
	if (host->life != life || !host->node || !host->qemu.alive || host->in_colo)
		return;
	if (qemu_failed_to_copy(host)) {
		here = host;
		node_copy_failed(host->node, "the migration failed");
		here = NULL;
		return;
	}
	if (host->qemu.phase >= QEMU_COLO && host->qemu.phase <= QEMU_SENT_RECEIVED) {
		host->in_colo = true;
		return;
	}
	if (host->qemu.phase == QEMU_COPYING || host->qemu.phase == QEMU_COPIED)
		at(world->now + COPY_POLL_NS, host, watch_copy, life);
}

static void migrate(struct host *host)
{
	if (!host->qemu.alive || host->qemu.phase != QEMU_ALONE || (!world->calm && chance(3))) {
		node_copy_failed(host->node, "QEMU does not migrate");
		return;
	}
	host->in_colo = false;
	qemu_migrate(host);
	at(world->now + COPY_POLL_NS, host, watch_copy, host->life);
}

/* What QEMU says the machine writes to: anything, now and then nothing or what cannot be. */
static void sample_ends(struct host *host, uint64_t life)
{
	uint32_t kind = own_number(host, 12);
	uint64_t rate = own_number(host, 60);

	if (host->life != life || !host->node || !host->sampling)
		return;
	host->sampling = false;
	here = host;
	if (!host->qemu.alive || kind == 0)
		node_dirty_sample(host->node, -ETIMEDOUT, 0, "no answer");
	else if (kind == 1 && own_number(host, 8) == 0)
		node_dirty_sample(host->node, -EOPNOTSUPP, 0, "CommandNotFound");
	else
		node_dirty_sample(host->node, 0, kind == 2 ? UINT64_MAX : rate, "");
	here = NULL;
}

/* At a takeover QMP may have no answer in time; the order may be carried out, then or later. */
static void leave_colo(struct host *host)
{
	bool hangs = !world->calm && host->node->role.state == ROLE_TAKING_OVER &&
	             own_number(host, 8) == 0;

	host->in_colo = false;
	if (!hangs) {
		node_left_colo(host->node, qemu_leave_colo(host), "no VM");
		return;
	}
	count(COUNT_LEFT_LATE);
	trace(host, "QMP hangs");
	if (own_number(host, 2))
		qemu_leave_colo(host);
	node_left_colo(host->node, false, "no reply");
}

/* ---- the fence ---- */

static void power_returns(struct host *host, uint64_t arg)
{
	(void)arg;
	host_power_on(host);
	host_start(host);
}

static void fence_ends(struct host *host, uint64_t life)
{
	bool works = (world->fence == FENCE_WORKS && !world->fence_dead) || world->calm;
	struct host *peer = peer_of(host);

	if (host->life != life || !host->node)
		return;
	if (!host->fencing || host->fence_due != world->now) {
		/* It was ended: too late, or in time. */
		if (works && chance(2)) {
			host_power_off(peer);
			at(world->now + rnd_ns(500 * MS, 4 * SEC), peer, power_returns, 0);
		}
		return;
	}
	host->fencing = false;
	count(works ? COUNT_FENCED : COUNT_FENCE_FAILED);
	if (works) {
		trace(host, "fences the peer");
		host_power_off(peer);
		at(world->now + rnd_ns(500 * MS, 4 * SEC), peer, power_returns, 0);
	}
	here = host;
	node_fenced(host->node, works, works ? "done" : "no");
	here = NULL;
}

static void ask_fence(struct host *host)
{
	if (host->fencing)
		return;
	host->fencing = true;
	host->fence_due = world->now +
	                  (world->fence == FENCE_HANGS ? FENCE_TIMEOUT : rnd_ns(20 * MS, 500 * MS));
	at(host->fence_due, host, fence_ends, host->life);
}

static void carry_out(struct host *host, enum order what)
{
	bool starts = world->calm || !chance(3);

	switch (what) {
	case ORDER_START_PRIMARY:
		qemu_boot(host);
		node_vm_ready(host->node, true, "");
		break;
	case ORDER_START_SECONDARY:
		host->in_colo = false;
		if (starts)
			qemu_listen(host);
		else
			qemu_end(host);
		node_set_guest_memory(host->node, qemu_memory(host));
		node_vm_ready(host->node, starts, "QEMU does not start");
		break;
	case ORDER_MARK:
		node_marked(host->node, starts && node_mark(host->node) == 0, "no space");
		break;
	case ORDER_MIGRATE:
		migrate(host);
		break;
	case ORDER_REARM:
		if (starts)
			qemu_rearm(host);
		node_rearmed(host->node, starts, "QEMU does not answer");
		break;
	case ORDER_ABORT_COPY:
	case ORDER_LEAVE_COLO:
		leave_colo(host);
		break;
	case ORDER_CHECKPOINT:
		if (host->in_colo && host->qemu.alive)
			qemu_trigger(host);
		break;
	case ORDER_DIRTY_SAMPLE:
		if (host->sampling) /* of a protection that is over */
			node_dirty_sample(host->node, -EREMOTEIO, 0, "already being measured");
		else
			at(world->now + SAMPLE_NS, host, sample_ends, host->life);
		host->sampling = true;
		break;
	case ORDER_KILL_VM:
	case ORDER_RETIRED:
		trace(host, "ends its QEMU");
		host->in_colo = false;
		qemu_end(host);
		break;
	case ORDER_FENCE:
		ask_fence(host);
		break;
	case ORDER_FENCE_END:
		host->fencing = false;
		break;
	default:
		break;
	}
}

static void control_event(struct host *host, uint64_t life)
{
	enum order what;

	if (host->life != life || !host->node)
		return;
	if (host->stalled_until > world->now) {
		at(host->stalled_until, host, control_event, life);
		return;
	}
	what = host->orders[0].order;
	host->orders_n--;
	memmove(host->orders, host->orders + 1, host->orders_n * sizeof(host->orders[0]));
	host->control_busy = false;
	here = host;
	carry_out(host, what);
	here = NULL;
	go_on(host);
}

/* ---- the operator ---- */

static void job_done(struct node_job *job, bool ok, const char *text)
{
	struct host *host = job->node ? (struct host *)job->node->ctx : here;

	host->job_busy = false;
	trace(host, "the operator's command: %s %s", ok ? "done" : "refused:", text);
}

static bool begin_job(struct host *host)
{
	if (!host->node || host->job_busy)
		return false;
	host->job_busy = true;
	host->job = (struct node_job){.done = job_done, .node = host->node};
	here = host;
	return true;
}

void operator_fails_over(struct host *host, bool force)
{
	if (!begin_job(host))
		return;
	trace(host, "the operator: failover%s", force ? " --force" : "");
	host->job.force = force;
	node_failover(host->node, &host->job);
	here = NULL;
}

void operator_checkpoints(struct host *host)
{
	if (!begin_job(host))
		return;
	trace(host, "the operator: checkpoint");
	node_checkpoint(host->node, &host->job);
	here = NULL;
}

void operator_changes_policy(struct host *host)
{
	if (!begin_job(host))
		return;
	host->job.change.has_policy = true;
	host->job.change.to.policy = (enum pacer_policy)rnd(PACER_POLICY_COUNT);
	trace(host, "the operator: policy %s", pacer_policy_name(host->job.change.to.policy));
	node_policy(host->node, &host->job);
	here = NULL;
}

static void has_stopped(struct host *host, uint64_t life)
{
	if (host->life != life || !host->node)
		return;
	host_kill_daemon(host);
	at(world->now + SEC, host, power_returns, 0);
}

/* The daemon ends when it has said so; orders that it has by then are carried out before. */
void operator_stops(struct host *host)
{
	if (!begin_job(host))
		return;
	trace(host, "the operator: stop");
	node_say_goodbye(host->node, &host->job);
	here = NULL;
	at(world->now + (1 + own_number(host, 8)) * MS, host, has_stopped, host->life);
}

static bool undecided(const struct host *host)
{
	return host->node &&
	       (host->node->role.state == ROLE_STUCK ||
	        (host->node->role.state == ROLE_DECIDING && !host->fencing && !host->orders_n));
}

static bool speaks(const struct host *host)
{
	return host->node && host->qemu.alive && role_speaks(&host->node->role);
}

/* It has handed the VM over, still has it, and the other host has said nothing and does not: what
 * `status` says then is for an operator who knows that it has not. */
static bool handed_in_vain(struct host *host)
{
	return host->node && host->node->role.state == ROLE_RETIRED && host->node->role.handed &&
	       host->qemu.alive && !speaks(peer_of(host)) && !world->silenced[host->vm_id];
}

static bool waits_to_boot(const struct host *host)
{
	return host->node && host->node->is_primary && !host->node->p.vm_ordered &&
	       host->node->role.state != ROLE_RETIRED;
}

/* Long enough that neither can find a way out by itself. */
static bool for_long(struct host *host, bool bad, uint64_t patience)
{
	if (!bad)
		host->bad_since = 0;
	else if (!host->bad_since)
		host->bad_since = world->now;
	return bad && world->now - host->bad_since >= patience;
}

static void decide_for(struct host *host)
{
	struct host *peer = peer_of(host);

	trace(host, "the operator switches the other host off");
	count(COUNT_FORCED);
	host_power_off(peer);
	operator_fails_over(host, true);
	at(world->now + rnd_ns(SEC, 3 * SEC), peer, power_returns, 0);
}

static bool has_vm(const struct host *host)
{
	return host->node && host->qemu.alive && host->node->role.state != ROLE_JOINING &&
	       host->node->role.state != ROLE_WAITING && host->node->role.state != ROLE_RETIRED;
}

/*
 * Both have lost the VM, also by a planned switch-over whose receiver died before it spoke: the
 * primary by configuration is started again.
 */
static void restart_when_lost(void)
{
	struct host *host = &world->host[0];
	bool lost = world->calm && host->node && peer_of(host)->node && !speaks(host) &&
	            !has_vm(host) && !has_vm(peer_of(host)) && !waits_to_boot(host) &&
	            !host->orders_n;

	if (!lost)
		world->lost_since = world->now;
	if (world->now - world->lost_since < 3 * SEC)
		return;
	world->lost_since = world->now;
	trace(host, "the operator restarts the daemon, there is no VM any more");
	host_kill_daemon(host);
	host_start(host);
}

static void operator_looks(struct host *unused, uint64_t arg)
{
	(void)unused;
	(void)arg;
	at(world->now + LOOK_NS, NULL, operator_looks, 0);
	for (uint32_t i = 0; i < 2; i++) {
		struct host *host = &world->host[i], *peer = peer_of(host);
		bool nobody = !speaks(host) && !speaks(peer);

		if (world->calm && !host->node && for_long(host, true, 4 * SEC)) {
			host_power_on(host);
			host_start(host);
			host->bad_since = 0;
		} else if (host->node && for_long(host,
		                                  undecided(host) || handed_in_vain(host) ||
		                                          (waits_to_boot(host) && nobody),
		                                  undecided(host)        ? 3 * SEC
		                                  : handed_in_vain(host) ? 2 * SEC
		                                                         : 8 * SEC)) {
			host->bad_since = 0;
			decide_for(host);
		}
	}
	restart_when_lost();
}

void operator_starts(void)
{
	at(world->now + LOOK_NS, NULL, operator_looks, 0);
}
