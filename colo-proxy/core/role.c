/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who may speak: theory of operation
 *
 * Goal: at no time do two hosts speak for one VM (R6), and one does as soon as it has the right.
 *
 * Silence on the link proves nothing: the peer may be dead, or speak. So losing the peer leads to
 * DECIDING, in which nothing more is said than R1 allows without the peer, that is nothing. Out of
 * it there are four ways: the fence says that the peer is dead; the operator wrote `fence = none`
 * or forces the decision; the peer itself says that it does not speak (it yields); or nobody knows,
 * and the state is STUCK, silent, until one of those comes.
 *
 * Before lineage 0 exists the secondary has no right to anything, and the primary speaks freely.
 * The primary counts as protected from the moment at which it is about to tell the secondary so:
 * from there on the secondary may take over, whether or not the telling arrives back.
 *
 * When a link comes up again after a loss, the lineage is broken all the same (messages are lost).
 * What the primary then says of itself decides: it has its VM, and the secondary yields; or it has
 * none (it was restarted, or has retired), and yields itself: the copy is the VM.
 *
 * A planned switch-over gives the right away, and the VM stands still until the peer speaks
 * (handed). A peer that gives its copy up before it spoke says so, in the same session: the right
 * comes back. If it is only silent, it may have spoken: the operator can vouch that it is off, and
 * what it said is lost then.
 *
 * Sides. Who has taken over is the primary from then on, and protects its VM with whoever comes
 * and has none. That is mostly the old primary: it hears a primary that speaks, knows that its own
 * VM, if it still has one, is not the VM any more, and becomes the secondary. Both may believe in
 * good faith that they speak (a fence that lied). So each takeover counts up a number, the term,
 * which the secondary learns from its primary, and the lower term gives way. A side without a VM
 * gives way to any.
 */
#include "colo-proxy/core/role.h"

#include <assert.h>

static const char *const state_names[] = {
        "waiting",  "unprotected", "joining",     "protected", "standby",
        "deciding", "stuck",       "taking-over", "retired",
};
static_assert(sizeof(state_names) / sizeof(state_names[0]) == ROLE_STATE_COUNT,
              "one name for each state");

const char *role_state_name(enum role_state state)
{
	return (unsigned)state < ROLE_STATE_COUNT ? state_names[state] : "unknown";
}

void role_init(struct role *role, const struct role_params *params, uint64_t now)
{
	*role = (struct role){
	        .params = *params,
	        .primary = params->primary,
	        .state = params->primary ? ROLE_ALONE : ROLE_WAITING,
	        .since = now,
	};
}

static uint32_t enter(struct role *role, enum role_state state, uint64_t now)
{
	if (state != ROLE_DECIDING && state != ROLE_STUCK)
		role->asked = false; /* an answer that still comes is to a question that is over */
	role->handed = role->handed_here = false;
	role->state = state;
	role->since = now;
	return ROLE_ACT_TELL;
}

/* Somebody vouches that the peer is silent. */
static uint32_t granted(struct role *role, uint64_t now)
{
	if (role->primary)
		return enter(role, ROLE_ALONE, now) | ROLE_ACT_GO_ALONE;
	return enter(role, ROLE_TAKING_OVER, now) | ROLE_ACT_TAKE_OVER;
}

static uint32_t ask(struct role *role, uint64_t now)
{
	bool automatic = role->primary ? role->params.goes_on : role->params.takes_over;

	if (!automatic || role->params.fence == ROLE_FENCE_OPERATOR)
		return enter(role, ROLE_STUCK, now);
	if (role->params.fence == ROLE_FENCE_NONE)
		return granted(role, now);
	role->asked = true;
	return ROLE_ACT_ASK;
}

static uint32_t lost(struct role *role, uint64_t now)
{
	uint32_t actions = enter(role, ROLE_DECIDING, now) | ROLE_ACT_DROP_LINK;

	role->lost_at = now;
	role->asked = false;
	if (role->params.fence_delay_ns == 0)
		actions |= ask(role, now);
	return actions;
}

uint64_t role_patience(const struct role *role)
{
	return role->params.interval_ns * role->params.loss;
}

static uint64_t loss_deadline(const struct role *role)
{
	return role->heard_at + role_patience(role);
}

static uint32_t tick(struct role *role, uint64_t now)
{
	switch (role->state) {
	case ROLE_JOINING:
		if (now < loss_deadline(role))
			return 0;
		return enter(role, role->primary ? ROLE_ALONE : ROLE_WAITING, now) |
		       ROLE_ACT_STOP_COPY | ROLE_ACT_DROP_LINK;
	case ROLE_PROTECTED:
	case ROLE_STANDBY:
		return now < loss_deadline(role) ? 0 : lost(role, now);
	case ROLE_DECIDING:
		if (role->asked || now < role->lost_at + role->params.fence_delay_ns)
			return 0;
		return ask(role, now);
	default:
		return 0;
	}
}

static bool undecided(const struct role *role)
{
	return role->state == ROLE_DECIDING || role->state == ROLE_STUCK;
}

static uint32_t link_up(struct role *role, uint64_t now)
{
	role->link = true;
	role->handed_here = false; /* a peer that starts anew does not know what it said before */
	role->heard_at = now;
	return role->state == ROLE_WAITING ? enter(role, ROLE_JOINING, now) : 0;
}

/*
 * A secondary with a copy hears the primary in a new session, which has its VM: the lineage is
 * broken, and the primary goes on. If the fence has been asked, its answer decides.
 */
static uint32_t peer_lives(struct role *role, uint64_t now)
{
	if (role->primary || role->asked || (role->state != ROLE_STANDBY && !undecided(role)))
		return 0;
	return enter(role, ROLE_WAITING, now) | ROLE_ACT_STOP_COPY | ROLE_ACT_YIELD;
}

static uint32_t link_down(struct role *role, uint64_t now)
{
	role->link = false;
	if (role->state != ROLE_JOINING)
		return 0; /* the missing heartbeats will say */
	return enter(role, role->primary ? ROLE_ALONE : ROLE_WAITING, now) | ROLE_ACT_STOP_COPY;
}

/*
 * The peer has taken over. What is here is not the VM any more. A peer that still takes over speaks
 * in a moment (PEER_SPEAKS); one that has become a primary can have this side as its secondary.
 */
static uint32_t peer_speaks(struct role *role, bool leads, uint64_t now)
{
	if (!role->primary)
		return 0;
	role->handed = role->handed_here = false;
	if (leads && role->params.rejoin) {
		uint32_t actions = ROLE_ACT_SILENCE | ROLE_ACT_FOLLOW;

		role->primary = false;
		role->asked = false;
		role->heard_at = now;
		return enter(role, role->link ? ROLE_JOINING : ROLE_WAITING, now) | actions;
	}
	if (role->state == ROLE_RETIRED)
		return 0;
	return enter(role, ROLE_RETIRED, now) | ROLE_ACT_SILENCE;
}

static uint32_t taken_over(struct role *role, uint64_t now)
{
	if (role->state != ROLE_TAKING_OVER)
		return 0;
	role->primary = role->params.rejoin;
	role->term++;
	return enter(role, ROLE_ALONE, now);
}

void role_heard_term(struct role *role, uint32_t term)
{
	if (!role->primary && term > role->term)
		role->term = term;
}

bool role_gives_way(const struct role *role, uint32_t term, bool has_vm)
{
	return role->primary && (!has_vm || role->state == ROLE_RETIRED || term > role->term);
}

bool role_peer_leads(bool primary, enum role_state state)
{
	return primary && state != ROLE_WAITING && state != ROLE_RETIRED;
}

/* The fence did not work. What the peer says of itself, when it is heard, may still decide. */
static uint32_t denied(struct role *role, uint64_t now)
{
	role->asked = false;
	return role->state == ROLE_DECIDING ? enter(role, ROLE_STUCK, now) : 0;
}

static uint32_t peer_yielded(struct role *role, uint64_t now)
{
	if (role->primary) {
		if (role->state == ROLE_PROTECTED || undecided(role) || role->handed_here)
			return granted(role, now);
		if (role->state == ROLE_JOINING)
			return enter(role, ROLE_ALONE, now) | ROLE_ACT_STOP_COPY |
			       ROLE_ACT_DROP_LINK;
		/* A peer that gives up an old copy joins in the next session, not in this one. */
		return role->state == ROLE_ALONE && role->link ? ROLE_ACT_DROP_LINK : 0;
	}
	if (role->state == ROLE_STANDBY || undecided(role))
		return granted(role, now);
	return 0;
}

/*
 * The VM has died here, and nobody else has it. The host that boots it by its configuration waits
 * to be started again; the other one has nothing to say about it any more, and can be its
 * secondary.
 */
static uint32_t vm_gone(struct role *role, uint64_t now)
{
	uint32_t actions = ROLE_ACT_SILENCE;

	if (role->state == ROLE_JOINING)
		actions |= ROLE_ACT_STOP_COPY | ROLE_ACT_DROP_LINK;
	if (role->params.primary || !role->params.rejoin)
		return enter(role, ROLE_RETIRED, now) | actions;
	role->primary = false;
	return enter(role, ROLE_WAITING, now) | actions | ROLE_ACT_DROP_LINK | ROLE_ACT_FOLLOW;
}

static uint32_t vm_lost(struct role *role, uint64_t now)
{
	switch (role->state) {
	case ROLE_PROTECTED:
	case ROLE_DECIDING:
	case ROLE_STUCK:
	case ROLE_STANDBY:
	case ROLE_JOINING:
	case ROLE_TAKING_OVER:
		if (role->primary && role->state == ROLE_JOINING)
			return vm_gone(role, now);
		if (role->primary)
			return enter(role, ROLE_RETIRED, now) | ROLE_ACT_YIELD;
		return enter(role, ROLE_WAITING, now) | ROLE_ACT_YIELD | ROLE_ACT_STOP_COPY;
	case ROLE_ALONE:
		return vm_gone(role, now);
	default:
		role->handed = role->handed_here = false;
		return 0;
	}
}

/* The VM stays here, and can be gone back to for as long as the peer has not spoken for it. */
static uint32_t handed_over(struct role *role, uint64_t now)
{
	uint32_t actions;

	if (role->state != ROLE_PROTECTED && !undecided(role))
		return 0;
	actions = enter(role, ROLE_RETIRED, now);
	role->handed = role->handed_here = true;
	return actions;
}

uint32_t role_event(struct role *role, enum role_event event, uint64_t now)
{
	switch (event) {
	case ROLE_EV_TICK:
		return tick(role, now);
	case ROLE_EV_LINK_UP:
		return link_up(role, now);
	case ROLE_EV_LINK_DOWN:
		return link_down(role, now);
	case ROLE_EV_HEARD:
		role->heard_at = now;
		return 0;
	case ROLE_EV_COPY_FAILED:
		if (role->state != ROLE_JOINING)
			return 0;
		return enter(role, role->primary ? ROLE_ALONE : ROLE_WAITING, now) |
		       ROLE_ACT_STOP_COPY | ROLE_ACT_DROP_LINK;
	case ROLE_EV_LINEAGE_0:
		if (role->state != ROLE_JOINING)
			return 0;
		return enter(role, role->primary ? ROLE_PROTECTED : ROLE_STANDBY, now);
	case ROLE_EV_RIGHT:
		return undecided(role) && role->asked ? granted(role, now) : 0;
	case ROLE_EV_NO_RIGHT:
		return denied(role, now);
	case ROLE_EV_FORCE:
		return undecided(role) || role->handed ? granted(role, now) : 0;
	case ROLE_EV_PEER_LIVES:
		return peer_lives(role, now);
	case ROLE_EV_PEER_YIELDED:
		return peer_yielded(role, now);
	case ROLE_EV_PEER_FREE:
		if (!role->primary || role->state != ROLE_ALONE || !role->link)
			return 0;
		return enter(role, ROLE_JOINING, now) | ROLE_ACT_COPY;
	case ROLE_EV_PEER_SPEAKS:
		return peer_speaks(role, false, now);
	case ROLE_EV_PEER_LEADS:
		return peer_speaks(role, true, now);
	case ROLE_EV_PEER_ALONE:
		if (role->primary || (role->state != ROLE_STANDBY && !undecided(role)))
			return 0;
		return enter(role, ROLE_WAITING, now) | ROLE_ACT_STOP_COPY | ROLE_ACT_DROP_LINK;
	case ROLE_EV_HANDED_OVER:
		return handed_over(role, now);
	case ROLE_EV_TAKEN_OVER:
		return taken_over(role, now);
	case ROLE_EV_VM_LOST:
		return vm_lost(role, now);
	case ROLE_EV_COUNT:
		break;
	}
	return 0;
}

uint64_t role_deadline(const struct role *role)
{
	switch (role->state) {
	case ROLE_JOINING:
	case ROLE_PROTECTED:
	case ROLE_STANDBY:
		return loss_deadline(role);
	case ROLE_DECIDING:
		return role->asked ? UINT64_MAX : role->lost_at + role->params.fence_delay_ns;
	default:
		return UINT64_MAX;
	}
}

bool role_speaks(const struct role *role)
{
	return role->state == ROLE_ALONE || (role->primary && role->state == ROLE_JOINING);
}
