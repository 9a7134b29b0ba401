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
	                             .automatic = true,
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
		g_assert_false(role_speaks(&role)); /* never again */
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

	role.params.automatic = false;
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
	g_test_add_func("/role/asked", test_asked);
	g_test_add_func("/role/old-answer", test_old_answer);
	g_test_add_func("/role/vm-lost", test_vm_lost);
	g_test_add_func("/role/speaks", test_speaks);
	g_test_add_func("/role/not-automatic", test_not_automatic);
	g_test_add_func("/role/fence-delay", test_fence_delay);
	g_test_add_func("/role/lost-while-joining", test_lost_while_joining);
	g_test_add_func("/role/peer-says", test_peer_says);
	g_test_add_func("/role/one-speaker", test_one_speaker);
	g_test_add_func("/role/names", test_names);
	return g_test_run();
}
