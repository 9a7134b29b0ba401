/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who may speak: the ways from state to state, and, over random schedules of two roles with a fence
 * that kills whom it denies, that no two sides speak at the same time (R6).
 */
#include <glib.h>

#include "colo-proxy/core/role.h"

#define MS 1000000ull

static struct role role_of(bool primary, enum role_fence fence)
{
	struct role_params params = {.primary = primary,
	                             .fence = fence,
	                             .rejoin = true,
	                             .goes_on = true,
	                             .takes_over = true,
	                             .interval_ns = 10 * MS,
	                             .loss = 3};
	struct role role;

	role_init(&role, &params, 0);
	return role;
}

static struct role paired(bool primary, enum role_fence fence)
{
	struct role role = role_of(primary, fence);

	role_event(&role, ROLE_EV_LINK_UP, 0);
	role_event(&role, ROLE_EV_PEER_FREE, 0);
	g_assert_cmpint(role.state, ==, ROLE_JOINING);
	role_event(&role, ROLE_EV_LINEAGE_0, 0);
	g_assert_cmpint(role.state, ==, primary ? ROLE_PROTECTED : ROLE_STANDBY);
	return role;
}

static void test_loss(void)
{
	struct role role = paired(false, ROLE_FENCE_COMMAND);

	g_assert_cmpuint(role_deadline(&role), ==, 30 * MS);
	g_assert_cmpuint(role_event(&role, ROLE_EV_TICK, 30 * MS - 1), ==, 0);
	role_event(&role, ROLE_EV_HEARD, 20 * MS);
	g_assert_cmpuint(role_event(&role, ROLE_EV_TICK, 30 * MS), ==, 0);
	g_assert_true(role_event(&role, ROLE_EV_TICK, 50 * MS) & ROLE_ACT_ASK);
	g_assert_cmpint(role.state, ==, ROLE_DECIDING);
	g_assert_false(role_speaks(&role));
	g_assert_true(role_event(&role, ROLE_EV_RIGHT, 60 * MS) & ROLE_ACT_TAKE_OVER);
	g_assert_false(role_speaks(&role));
	role_event(&role, ROLE_EV_TAKEN_OVER, 70 * MS);
	g_assert_true(role_speaks(&role));
}

static void test_no_fence_no_voice(void)
{
	for (int primary = 0; primary < 2; primary++) {
		struct role role = paired(primary, ROLE_FENCE_OPERATOR);

		role_event(&role, ROLE_EV_TICK, 1000 * MS);
		g_assert_cmpint(role.state, ==, ROLE_STUCK);
		g_assert_false(role_speaks(&role));
		g_assert_true(role_event(&role, ROLE_EV_FORCE, 1000 * MS) &
		              (primary ? ROLE_ACT_GO_ALONE : ROLE_ACT_TAKE_OVER));
	}
}

static void test_denied(void)
{
	struct role role = paired(true, ROLE_FENCE_COMMAND);

	role_event(&role, ROLE_EV_LINK_DOWN, 10 * MS);
	role_event(&role, ROLE_EV_TICK, 1000 * MS);
	role_event(&role, ROLE_EV_NO_RIGHT, 1000 * MS);
	g_assert_cmpint(role.state, ==, ROLE_STUCK);
	g_assert_true(role_event(&role, ROLE_EV_PEER_YIELDED, 1000 * MS) & ROLE_ACT_GO_ALONE);
}

/* In a new session the primary's own words decide: it has its VM, or the copy is the VM. */
static void test_new_session(void)
{
	for (int stuck = 0; stuck < 2; stuck++) {
		for (int lives = 0; lives < 2; lives++) {
			struct role role = paired(false, ROLE_FENCE_OPERATOR);
			uint32_t actions;

			role_event(&role, ROLE_EV_LINK_DOWN, 10 * MS);
			if (stuck)
				role_event(&role, ROLE_EV_TICK, 1000 * MS);
			g_assert_cmpint(role.state, ==, stuck ? ROLE_STUCK : ROLE_STANDBY);
			/* The link alone says nothing. */
			g_assert_cmpuint(role_event(&role, ROLE_EV_LINK_UP, 1001 * MS), ==, 0);
			actions =
			        role_event(&role, lives ? ROLE_EV_PEER_LIVES : ROLE_EV_PEER_YIELDED,
			                   1002 * MS);
			g_assert_cmpint(role.state, ==, lives ? ROLE_WAITING : ROLE_TAKING_OVER);
			g_assert_true(actions & (lives ? ROLE_ACT_YIELD : ROLE_ACT_TAKE_OVER));
			g_assert_cmpint(!!(actions & ROLE_ACT_STOP_COPY), ==, lives);
		}
	}
}

/* An arbiter that the primary alone reached: it goes on, and hears the secondary give up the copy
 * that it kept. In that session the secondary does not join, so there has to be another. */
static void test_copy_given_up(void)
{
	struct role role = paired(true, ROLE_FENCE_COMMAND);

	role_event(&role, ROLE_EV_LINK_DOWN, 10 * MS);
	g_assert_true(role_event(&role, ROLE_EV_TICK, 1000 * MS) & ROLE_ACT_ASK);
	g_assert_true(role_event(&role, ROLE_EV_RIGHT, 1001 * MS) & ROLE_ACT_GO_ALONE);
	g_assert_cmpuint(role_event(&role, ROLE_EV_PEER_YIELDED, 1002 * MS), ==, 0);
	role_event(&role, ROLE_EV_LINK_UP, 1003 * MS);
	g_assert_cmpuint(role_event(&role, ROLE_EV_PEER_YIELDED, 1004 * MS), ==,
	                 ROLE_ACT_DROP_LINK);
	g_assert_cmpint(role.state, ==, ROLE_ALONE);
	role_event(&role, ROLE_EV_LINK_DOWN, 1005 * MS);
	role_event(&role, ROLE_EV_LINK_UP, 1006 * MS);
	g_assert_true(role_event(&role, ROLE_EV_PEER_FREE, 1007 * MS) & ROLE_ACT_COPY);
}

/* A fence that has been asked decides, whatever the link brings meanwhile. */
static void test_asked(void)
{
	struct role role = paired(false, ROLE_FENCE_COMMAND);

	role_event(&role, ROLE_EV_LINK_DOWN, 10 * MS);
	g_assert_true(role_event(&role, ROLE_EV_TICK, 1000 * MS) & ROLE_ACT_ASK);
	role_event(&role, ROLE_EV_LINK_UP, 1001 * MS);
	g_assert_cmpuint(role_event(&role, ROLE_EV_PEER_LIVES, 1001 * MS), ==, 0);
	g_assert_cmpint(role.state, ==, ROLE_DECIDING);
	role_event(&role, ROLE_EV_NO_RIGHT, 1002 * MS);
	g_assert_cmpint(role.state, ==, ROLE_STUCK);
	g_assert_true(role_event(&role, ROLE_EV_PEER_LIVES, 1003 * MS) & ROLE_ACT_YIELD);
}

/* The answer to a question that is over, or was not asked, grants nothing. */
static void test_old_answer(void)
{
	for (int primary = 0; primary < 2; primary++) {
		struct role role = paired(primary, ROLE_FENCE_COMMAND);

		role.params.fence_delay_ns = 50 * MS;
		role_event(&role, ROLE_EV_TICK, 1000 * MS);
		g_assert_cmpuint(role_event(&role, ROLE_EV_RIGHT, 1001 * MS), ==, 0);
		g_assert_true(role_event(&role, ROLE_EV_TICK, 1050 * MS) & ROLE_ACT_ASK);
		role_event(&role, ROLE_EV_FORCE, 1051 * MS);
		g_assert_cmpuint(role_event(&role, ROLE_EV_RIGHT, 1052 * MS), ==, 0);
		g_assert_false(role.asked);
	}
}

static void test_vm_lost(void)
{
	struct role role = paired(true, ROLE_FENCE_COMMAND);

	g_assert_true(role_event(&role, ROLE_EV_VM_LOST, 1) & ROLE_ACT_YIELD);
	g_assert_cmpint(role.state, ==, ROLE_RETIRED);
	for (int event = 0; event < ROLE_EV_COUNT; event++) {
		role_event(&role, (enum role_event)event, 1000 * MS);
		g_assert_false(role_speaks(&role)); /* without a new copy, never again */
	}
	role = role_of(true, ROLE_FENCE_COMMAND); /* unprotected: there is nobody to yield to */
	g_assert_cmpuint(role_event(&role, ROLE_EV_VM_LOST, 1), ==,
	                 ROLE_ACT_TELL | ROLE_ACT_SILENCE);
	g_assert_false(role_speaks(&role));
}

/* Who speaks in which state is the table in role.h. */
static void test_speaks(void)
{
	for (int primary = 0; primary < 2; primary++) {
		struct role role = role_of(primary, ROLE_FENCE_COMMAND);

		for (int state = 0; state < ROLE_STATE_COUNT; state++) {
			role.state = (enum role_state)state;
			g_assert_cmpint(role_speaks(&role), ==,
			                state == ROLE_ALONE || (primary && state == ROLE_JOINING));
		}
	}
}

static void test_not_automatic(void)
{
	struct role role = paired(false, ROLE_FENCE_COMMAND);

	role.params.takes_over = false;
	g_assert_false(role_event(&role, ROLE_EV_TICK, 1000 * MS) & ROLE_ACT_ASK);
	g_assert_cmpint(role.state, ==, ROLE_STUCK);
	role = paired(true, ROLE_FENCE_COMMAND);
	role.params.goes_on = false;
	g_assert_false(role_event(&role, ROLE_EV_TICK, 1000 * MS) & ROLE_ACT_ASK);
	g_assert_cmpint(role.state, ==, ROLE_STUCK);
}

static void test_fence_delay(void)
{
	struct role role = paired(false, ROLE_FENCE_COMMAND);

	role.params.fence_delay_ns = 50 * MS;
	g_assert_false(role_event(&role, ROLE_EV_TICK, 100 * MS) & ROLE_ACT_ASK);
	g_assert_cmpint(role.state, ==, ROLE_DECIDING);
	g_assert_cmpuint(role_deadline(&role), ==, 150 * MS);
	g_assert_false(role_event(&role, ROLE_EV_TICK, 149 * MS) & ROLE_ACT_ASK);
	g_assert_true(role_event(&role, ROLE_EV_TICK, 150 * MS) & ROLE_ACT_ASK);
}

/* A copy that is not finished gives no right to anything, and takes none away. */
static void test_lost_while_joining(void)
{
	for (int primary = 0; primary < 2; primary++) {
		struct role role = role_of(primary, ROLE_FENCE_NONE);
		uint32_t actions;

		role_event(&role, ROLE_EV_LINK_UP, 0);
		role_event(&role, ROLE_EV_PEER_FREE, 0);
		actions = role_event(&role, ROLE_EV_TICK, 1000 * MS);
		g_assert_cmpuint(actions, ==,
		                 ROLE_ACT_TELL | ROLE_ACT_STOP_COPY | ROLE_ACT_DROP_LINK);
		g_assert_cmpint(role_speaks(&role), ==, primary);
	}
}

/* What a side hears that its peer does or did ends what it was about to do. */
static void test_peer_says(void)
{
	struct role role = paired(true, ROLE_FENCE_OPERATOR);

	role_event(&role, ROLE_EV_TICK, 1000 * MS);
	g_assert_true(role_event(&role, ROLE_EV_PEER_SPEAKS, 1001 * MS) & ROLE_ACT_SILENCE);
	g_assert_cmpint(role.state, ==, ROLE_RETIRED);
	role = paired(true, ROLE_FENCE_OPERATOR);
	role_event(&role, ROLE_EV_HANDED_OVER, 1);
	g_assert_cmpint(role.state, ==, ROLE_RETIRED);
	for (int stuck = 0; stuck < 2; stuck++) {
		role = paired(false, ROLE_FENCE_OPERATOR);
		if (stuck)
			role_event(&role, ROLE_EV_TICK, 1000 * MS);
		g_assert_true(role_event(&role, ROLE_EV_PEER_ALONE, 1001 * MS) &
		              ROLE_ACT_STOP_COPY);
		g_assert_cmpint(role.state, ==, ROLE_WAITING);
	}
}

/* A switch-over whose receiver gives up before it speaks: the VM, which stands still, speaks on. */
static void test_handed_back(void)
{
	struct role role = paired(true, ROLE_FENCE_COMMAND);

	role_event(&role, ROLE_EV_HANDED_OVER, 1);
	g_assert_true(role_event(&role, ROLE_EV_PEER_YIELDED, 2) & ROLE_ACT_GO_ALONE);
	g_assert_true(role_speaks(&role));
	/* A peer that is only silent may have spoken: the operator's word. */
	role = paired(true, ROLE_FENCE_COMMAND);
	role_event(&role, ROLE_EV_HANDED_OVER, 1);
	role_event(&role, ROLE_EV_LINK_DOWN, 2);
	g_assert_cmpuint(role_event(&role, ROLE_EV_TICK, 10000 * MS), ==, 0);
	role_event(&role, ROLE_EV_LINK_UP, 3);
	/* Started anew, it knows of nothing. */
	g_assert_cmpuint(role_event(&role, ROLE_EV_PEER_YIELDED, 3), ==, 0);
	g_assert_true(role_event(&role, ROLE_EV_FORCE, 4) & ROLE_ACT_GO_ALONE);
	/* Not after it has spoken, and not when there is no VM to go back to. */
	for (int spoken = 0; spoken < 2; spoken++) {
		role = paired(true, ROLE_FENCE_COMMAND);
		role_event(&role, ROLE_EV_HANDED_OVER, 1);
		role_event(&role, spoken ? ROLE_EV_PEER_SPEAKS : ROLE_EV_VM_LOST, 2);
		g_assert_cmpuint(role_event(&role, ROLE_EV_PEER_YIELDED, 3), ==, 0);
		g_assert_cmpuint(role_event(&role, ROLE_EV_FORCE, 3), ==, 0);
		g_assert_cmpint(role.state, ==, ROLE_RETIRED);
	}
	/* Given away at the moment at which the loss is noticed: what is heard later is not
	 * trusted. */
	role = paired(true, ROLE_FENCE_COMMAND);
	role_event(&role, ROLE_EV_TICK, 1000 * MS);
	g_assert_cmpint(role.state, ==, ROLE_DECIDING);
	role_event(&role, ROLE_EV_HANDED_OVER, 1001 * MS);
	g_assert_cmpint(role.state, ==, ROLE_RETIRED);
	g_assert_cmpuint(role_event(&role, ROLE_EV_RIGHT, 1002 * MS), ==, 0);
	/* A VM that has died gave the right away for good. */
	role = paired(true, ROLE_FENCE_COMMAND);
	role_event(&role, ROLE_EV_VM_LOST, 1);
	g_assert_cmpuint(role_event(&role, ROLE_EV_PEER_YIELDED, 2), ==, 0);
}

/* The VM dies in its first copy: the other side has nothing that it could wait for. */
static void test_vm_lost_in_copy(void)
{
	struct role_params params = paired(true, ROLE_FENCE_COMMAND).params;
	struct role role;
	uint32_t actions;

	role_init(&role, &params, 0);
	role_event(&role, ROLE_EV_LINK_UP, 0);
	role_event(&role, ROLE_EV_PEER_FREE, 0);
	g_assert_cmpint(role.state, ==, ROLE_JOINING);
	actions = role_event(&role, ROLE_EV_VM_LOST, 1);
	g_assert_cmpuint(actions, ==,
	                 ROLE_ACT_TELL | ROLE_ACT_SILENCE | ROLE_ACT_STOP_COPY |
	                         ROLE_ACT_DROP_LINK);
	g_assert_cmpint(role.state, ==, ROLE_RETIRED);
}

/* A survivor's VM dies before it is protected again: the host that boots it is not kept from it. */
static void test_survivor_lost(void)
{
	for (int copying = 0; copying < 2; copying++) {
		struct role role = paired(false, ROLE_FENCE_COMMAND);
		uint32_t actions;

		role_event(&role, ROLE_EV_PEER_YIELDED, 1);
		role_event(&role, ROLE_EV_TAKEN_OVER, 2);
		g_assert_true(role_speaks(&role));
		role_event(&role, ROLE_EV_LINK_UP, 3);
		if (copying)
			role_event(&role, ROLE_EV_PEER_FREE, 3);
		actions = role_event(&role, ROLE_EV_VM_LOST, 4);
		g_assert_true(actions & ROLE_ACT_SILENCE && actions & ROLE_ACT_FOLLOW);
		g_assert_cmpint(!(actions & ROLE_ACT_STOP_COPY), ==, !copying);
		g_assert_false(role.primary || role_speaks(&role));
		g_assert_cmpint(role.state, ==, ROLE_WAITING);
	}
}

/* Two sides, a link that breaks and mends, a fence: the first that asks gets the right, and the
 * other side is dead from then on. What one side yields reaches the other by the same link only. */
static void test_one_speaker(void)
{
	for (uint32_t seed = 1; seed <= 20000; seed++) {
		GRand *rand = g_rand_new_with_seed(seed);
		struct role side[2] = {paired(true, ROLE_FENCE_COMMAND),
		                       paired(false, ROLE_FENCE_COMMAND)};
		bool dead[2] = {false, false}, asked[2] = {false, false};
		uint64_t now = 0;

		for (int i = 0; i < 60; i++) {
			int who = g_rand_int_range(rand, 0, 2);
			uint32_t actions = 0;

			now += (uint64_t)g_rand_int_range(rand, 0, 20) * MS;
			if (dead[who])
				continue;
			if (asked[who] && g_rand_int_range(rand, 0, 3) == 0) {
				asked[who] = false;
				if (g_rand_int_range(rand, 0, 3)) {
					dead[!who] = true;
					actions = role_event(&side[who], ROLE_EV_RIGHT, now);
				} else {
					actions = role_event(&side[who], ROLE_EV_NO_RIGHT, now);
				}
			} else {
				static const enum role_event events[] = {
				        ROLE_EV_TICK, ROLE_EV_HEARD,   ROLE_EV_LINK_DOWN,
				        ROLE_EV_TICK, ROLE_EV_VM_LOST, ROLE_EV_TAKEN_OVER,
				};

				actions = role_event(&side[who],
				                     events[g_rand_int_range(rand, 0, 6)], now);
			}
			if (actions & ROLE_ACT_ASK)
				asked[who] = true;
			if (actions & ROLE_ACT_YIELD && !dead[!who])
				role_event(&side[!who], ROLE_EV_PEER_YIELDED, now);
			if (!dead[0] && !dead[1] && role_speaks(&side[0]) && role_speaks(&side[1]))
				g_error("seed %u: both sides speak", seed);
		}
		g_rand_free(rand);
	}
}

/* ---- sides ---- */

/* What the node does with a heartbeat (node_boot.c, node_secondary.c). */
static uint32_t hear(struct role *role, const struct role *peer, bool has_vm, bool joined_here,
                     uint64_t now)
{
	bool peer_has = peer->primary && peer->state != ROLE_WAITING && peer->state != ROLE_RETIRED;
	uint32_t actions = 0;

	if (!role->primary) {
		if (peer_has)
			role_heard_term(role, peer->term);
		if (!joined_here)
			actions = role_event(
			        role, peer_has ? ROLE_EV_PEER_LIVES : ROLE_EV_PEER_YIELDED, now);
	} else if (role_peer_leads(peer->primary, peer->state)) {
		if (role_gives_way(role, peer->term, has_vm))
			actions = role_event(role, ROLE_EV_PEER_LEADS, now);
	} else if (peer->state == ROLE_TAKING_OVER) {
		actions = role_event(role, ROLE_EV_PEER_SPEAKS, now);
	} else if (peer->state == ROLE_JOINING) {
		actions = role_event(role, ROLE_EV_PEER_FREE, now);
	}
	return actions | role_event(role, ROLE_EV_HEARD, now);
}

static void test_back_and_forth(void)
{
	struct role side[2] = {paired(true, ROLE_FENCE_COMMAND), paired(false, ROLE_FENCE_COMMAND)};
	struct role *p = &side[0], *s = &side[1];

	for (uint32_t term = 1; term <= 10; term++) {
		struct role *old = p;

		hear(s, p, true, true, 0);
		role_event(p, ROLE_EV_HANDED_OVER, 0);
		g_assert_cmpint(p->state, ==, ROLE_RETIRED);
		g_assert_true(role_event(s, ROLE_EV_PEER_YIELDED, 0) & ROLE_ACT_TAKE_OVER);
		/* Not before it speaks. */
		g_assert_cmpuint(hear(p, s, true, true, 0) & ROLE_ACT_FOLLOW, ==, 0);
		role_event(s, ROLE_EV_TAKEN_OVER, 0);
		g_assert_true(s->primary && role_speaks(s));
		g_assert_cmpuint(s->term, ==, term);
		g_assert_cmpuint(hear(s, p, true, true, 0) & ROLE_ACT_COPY, ==, 0);
		g_assert_true(hear(p, s, true, true, 0) & ROLE_ACT_FOLLOW);
		g_assert_false(p->primary);
		g_assert_cmpint(p->state, ==, ROLE_JOINING);
		g_assert_true(hear(s, p, true, true, 0) & ROLE_ACT_COPY);
		role_event(s, ROLE_EV_LINEAGE_0, 0);
		role_event(p, ROLE_EV_LINEAGE_0, 0);
		g_assert_cmpint(s->state, ==, ROLE_PROTECTED);
		g_assert_cmpint(p->state, ==, ROLE_STANDBY);
		p = s;
		s = old;
	}
}

/* Without rejoin nothing changes sides (comparator = qemu). */
static void test_no_rejoin(void)
{
	struct role p = paired(true, ROLE_FENCE_COMMAND), s = paired(false, ROLE_FENCE_COMMAND);

	p.params.rejoin = s.params.rejoin = false;
	role_event(&p, ROLE_EV_HANDED_OVER, 0);
	role_event(&s, ROLE_EV_PEER_YIELDED, 0);
	role_event(&s, ROLE_EV_TAKEN_OVER, 0);
	g_assert_false(s.primary);
	g_assert_true(role_speaks(&s));
	g_assert_cmpuint(role_event(&p, ROLE_EV_PEER_LEADS, 0) & ROLE_ACT_FOLLOW, ==, 0);
	g_assert_cmpint(p.state, ==, ROLE_RETIRED);
	g_assert_cmpuint(role_event(&s, ROLE_EV_PEER_FREE, 0), ==, 0);
}

/* A fence that lies makes two speakers; when they hear each other the older term is silent. */
static void test_lying_fence(void)
{
	for (int first = 0; first < 2; first++) {
		struct role side[2] = {paired(true, ROLE_FENCE_NONE),
		                       paired(false, ROLE_FENCE_NONE)};

		hear(&side[1], &side[0], true, true, 0);
		for (int i = 0; i < 2; i++) {
			role_event(&side[i], ROLE_EV_LINK_DOWN, 10 * MS);
			role_event(&side[i], ROLE_EV_TICK, 1000 * MS);
		}
		role_event(&side[1], ROLE_EV_TAKEN_OVER, 1000 * MS);
		g_assert_true(role_speaks(&side[0]) && role_speaks(&side[1]));
		for (int i = 0; i < 2; i++)
			role_event(&side[i], ROLE_EV_LINK_UP, 1001 * MS);
		for (int i = 0; i < 2; i++)
			hear(&side[(i + first) % 2], &side[(i + first + 1) % 2], true, false,
			     1002 * MS);
		g_assert_false(role_speaks(&side[0]));
		g_assert_true(role_speaks(&side[1]));
		g_assert_false(side[0].primary);
	}
}

/* A side without a VM gives way to any term: it was restarted, and has counted nothing. */
static void test_gives_way(void)
{
	struct role p = role_of(true, ROLE_FENCE_COMMAND), s = role_of(false, ROLE_FENCE_COMMAND);

	g_assert_false(role_gives_way(&p, 0, true));
	g_assert_true(role_gives_way(&p, 1, true));
	g_assert_true(role_gives_way(&p, 0, false));
	g_assert_false(role_gives_way(&s, 9, false));
	p.state = ROLE_RETIRED;
	g_assert_true(role_gives_way(&p, 0, true));
}

/* One of two sides in test_sides(). */
struct host {
	struct role role;
	bool alive, asked, has_vm, joined_here, handed;
};

static void host_acts(struct host *host, struct host *peer, bool link, uint32_t actions,
                      uint64_t now)
{
	if (actions & ROLE_ACT_ASK)
		host->asked = true;
	if (actions & ROLE_ACT_YIELD && link && peer->alive)
		host_acts(peer, host, false, role_event(&peer->role, ROLE_EV_PEER_YIELDED, now),
		          now);
	if (actions & (ROLE_ACT_SILENCE | ROLE_ACT_FOLLOW))
		host->has_vm = false;
	if (!host->role.primary && host->role.state == ROLE_WAITING)
		host->has_vm = false;
}

static void host_starts(struct host *host, bool vm, uint64_t now)
{
	struct role_params params = host->role.params;

	params.primary = vm;
	role_init(&host->role, &params, now);
	*host = (struct host){.role = host->role, .alive = true, .has_vm = vm};
}

static void link_changes(struct host host[2], bool up, uint64_t now)
{
	for (int i = 0; i < 2; i++) {
		if (!host[i].alive)
			continue;
		host[i].joined_here = false;
		host_acts(&host[i], &host[!i], false,
		          role_event(&host[i].role, up ? ROLE_EV_LINK_UP : ROLE_EV_LINK_DOWN, now),
		          now);
	}
}

/* The copy of the one that leads is made, as far as both agree to it. */
static void copy_is_made(struct host host[2], uint64_t now)
{
	for (int i = 0; i < 2; i++) {
		if (!host[i].role.primary || host[i].role.state != ROLE_JOINING ||
		    host[!i].role.primary || host[!i].role.state != ROLE_JOINING)
			continue;
		role_event(&host[i].role, ROLE_EV_LINEAGE_0, now);
		role_event(&host[!i].role, ROLE_EV_LINEAGE_0, now);
		host[!i].has_vm = host[!i].joined_here = true;
	}
}

static bool pair_is_whole(const struct host host[2])
{
	return (host[0].role.state == ROLE_PROTECTED && host[1].role.state == ROLE_STANDBY) ||
	       (host[1].role.state == ROLE_PROTECTED && host[0].role.state == ROLE_STANDBY);
}

/* All that can happen to one of the two, one thing at a time. */
static void something_happens(GRand *rand, struct host host[2], bool *link, uint64_t now)
{
	int who = g_rand_int_range(rand, 0, 2);
	struct host *me = &host[who], *peer = &host[!who];
	bool was = *link;
	uint32_t actions = 0;

	if (!me->alive) {
		/* Back, as a secondary: node_boot.c does not boot what the peer may have. */
		if (peer->alive && peer->has_vm)
			host_starts(me, false, now);
		return;
	}
	switch (g_rand_int_range(rand, 0, 8)) {
	case 0:
		if (me->asked) {
			me->asked = false;
			if (g_rand_int_range(rand, 0, 3)) {
				peer->alive = *link = false;
				actions = role_event(&me->role, ROLE_EV_RIGHT, now);
			} else {
				actions = role_event(&me->role, ROLE_EV_NO_RIGHT, now);
			}
		}
		break;
	case 1:
		*link = !*link && peer->alive;
		break;
	case 2:
		actions = role_event(&me->role, ROLE_EV_TAKEN_OVER, now);
		break;
	case 3:
		if (me->role.state == ROLE_PROTECTED && *link && me->joined_here) {
			actions = role_event(&me->role, ROLE_EV_HANDED_OVER, now);
			host_acts(peer, me, false,
			          role_event(&peer->role, ROLE_EV_PEER_YIELDED, now), now);
		}
		break;
	case 4:
		if (*link)
			copy_is_made(host, now);
		me->joined_here |= *link && me->role.state == ROLE_PROTECTED;
		break;
	case 5:
		actions = role_event(&me->role, ROLE_EV_TICK, now);
		break;
	default:
		if (*link)
			actions = hear(&me->role, &peer->role, me->has_vm, me->joined_here, now);
		break;
	}
	host_acts(me, peer, *link, actions, now);
	if (*link != was)
		link_changes(host, *link, now);
}

/*
 * Sides change again and again: takeovers by fence and by hand-over, hosts that come back, sessions
 * that break. With a fence that tells the truth nobody speaks beside the other; and whatever has
 * happened, as long as there is a VM it is protected again when the hosts hear each other.
 */
static void test_sides(void)
{
	uint32_t takeovers = 0, healed = 0;

	for (uint32_t seed = 1; seed <= 20000; seed++) {
		GRand *rand = g_rand_new_with_seed(seed);
		struct host host[2] = {
		        {.role = paired(true, ROLE_FENCE_COMMAND), .alive = true, .has_vm = true},
		        {.role = paired(false, ROLE_FENCE_COMMAND), .alive = true, .has_vm = true},
		};
		bool link = true;
		uint64_t now = 0;

		host[0].joined_here = host[1].joined_here = true;
		for (int i = 0; i < 200; i++) {
			now += (uint64_t)g_rand_int_range(rand, 0, 20) * MS;
			something_happens(rand, host, &link, now);
			if (host[0].alive && host[1].alive && role_speaks(&host[0].role) &&
			    role_speaks(&host[1].role))
				g_error("seed %u, step %d: both sides speak", seed, i);
		}
		takeovers += MAX(host[0].role.term, host[1].role.term);
		if (host[0].alive && host[1].alive &&
		    (role_speaks(&host[0].role) || role_speaks(&host[1].role)) && !host[0].asked &&
		    !host[1].asked) {
			link_changes(host, false, now);
			link_changes(host, true, now);
			for (int i = 0; i < 6; i++) {
				hear(&host[i & 1].role, &host[!(i & 1)].role, host[i & 1].has_vm,
				     host[i & 1].joined_here, now);
				copy_is_made(host, now);
			}
			if (!pair_is_whole(host))
				g_error("seed %u: not protected again: %s and %s", seed,
				        role_state_name(host[0].role.state),
				        role_state_name(host[1].role.state));
			healed++;
		}
		g_rand_free(rand);
	}
	g_test_message("%u takeovers, protected again %u times", takeovers, healed);
	g_assert_cmpuint(takeovers, >, 10000);
	g_assert_cmpuint(healed, >, 1000);
}

static void test_names(void)
{
	for (int i = 0; i < ROLE_STATE_COUNT; i++)
		g_assert_cmpstr(role_state_name((enum role_state)i), !=, "unknown");
	g_assert_cmpstr(role_state_name(ROLE_STATE_COUNT), ==, "unknown");
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/role/loss", test_loss);
	g_test_add_func("/role/no-fence-no-voice", test_no_fence_no_voice);
	g_test_add_func("/role/denied", test_denied);
	g_test_add_func("/role/new-session", test_new_session);
	g_test_add_func("/role/copy-given-up", test_copy_given_up);
	g_test_add_func("/role/asked", test_asked);
	g_test_add_func("/role/old-answer", test_old_answer);
	g_test_add_func("/role/vm-lost", test_vm_lost);
	g_test_add_func("/role/speaks", test_speaks);
	g_test_add_func("/role/not-automatic", test_not_automatic);
	g_test_add_func("/role/fence-delay", test_fence_delay);
	g_test_add_func("/role/lost-while-joining", test_lost_while_joining);
	g_test_add_func("/role/peer-says", test_peer_says);
	g_test_add_func("/role/handed-back", test_handed_back);
	g_test_add_func("/role/vm-lost-in-copy", test_vm_lost_in_copy);
	g_test_add_func("/role/survivor-lost", test_survivor_lost);
	g_test_add_func("/role/one-speaker", test_one_speaker);
	g_test_add_func("/role/back-and-forth", test_back_and_forth);
	g_test_add_func("/role/no-rejoin", test_no_rejoin);
	g_test_add_func("/role/lying-fence", test_lying_fence);
	g_test_add_func("/role/gives-way", test_gives_way);
	g_test_add_func("/role/sides", test_sides);
	g_test_add_func("/role/names", test_names);
	return g_test_run();
}
