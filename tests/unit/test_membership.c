/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * IGMP and MLD reports through both halves of the comparison: each group's newest word is compared,
 * in whatever packets the two VMs say it. Each test runs for IGMP, for MLD, and for MLD in a VLAN.
 */
#include <glib.h>
#include <string.h>

#include "tests/unit/pair_rig.h"
#include "tests/unit/report_builder.h"

struct ip {
	const char *name;
	bool six;
	uint16_t vlan; /* 0: without a tag */
};

static const struct ip ips[] = {
        {.name = "igmp"},
        {.name = "mld", .six = true},
        {.name = "mld-vlan", .six = true, .vlan = 7},
};

static struct frame *in_vlan(const struct ip *ip, struct frame *f)
{
	return ip->vlan ? build_tagged(f, 0x8100, ip->vlan) : f;
}

static struct frame *report_with(const struct ip *ip, const struct build_record *record,
                                 uint32_t count, uint32_t extra)
{
	return in_vlan(ip, build_report(ip->six, record, count, extra));
}

static struct frame *report(const struct ip *ip, const struct build_record *record, uint32_t count)
{
	return report_with(ip, record, count, 0);
}

static struct frame *one(const struct ip *ip, uint8_t type, uint8_t group, uint8_t source)
{
	struct build_record record = {type, group, source};

	return report(ip, &record, 1);
}

static struct frame *old(const struct ip *ip, bool joins, uint8_t group)
{
	return in_vlan(ip, build_old_report(ip->six, joins, group));
}

/* Waits for as long as the SVM is waited for; then what is held is late, and never a mismatch. */
static void check_late(struct pair *p, bool expected)
{
	p->now += PAIR_LATE + PAIR_MS;
	(void)gate_tick(p->gate, p->now);
	g_assert_false(pair_wants(p, CKPT_MISMATCH));
	g_assert_cmpint(pair_wants(p, CKPT_LATE), ==, expected);
}

static void test_same_meaning(const void *data)
{
	const struct ip *ip = data;
	struct pair *p = pair_new();
	struct build_record both[] = {{TO_EX, 1, 0}, {IS_EX, 2, 0}};
	struct build_record changes[] = {{ALLOW, 3, 8}, {BLOCK, 3, 9}, {TO_EX, 1, 0}};

	pair_pvm(p, report(ip, both, 2));
	pair_holds(p, 1);
	pair_svm(p, old(ip, true, 2));
	pair_holds(p, 1);
	pair_svm(p, one(ip, IS_EX, 1, 0));
	pair_released(p, 1, RELEASE_MATCH);
	pair_pvm(p, old(ip, true, 1)); /* again, in other words */
	pair_pvm(p, one(ip, TO_EX, 2, 0));
	pair_released(p, 2, RELEASE_MATCH);

	pair_svm(p, one(ip, TO_IN, 1, 0)); /* includes nothing: has left */
	pair_pvm(p, old(ip, false, 1));
	pair_released(p, 1, RELEASE_MATCH);
	pair_svm(p, report(ip, changes, 3)); /* two records about one group are one word */
	pair_pvm(p, report(ip, changes, 2));
	pair_pvm(p, old(ip, true, 1));
	pair_released(p, 2, RELEASE_MATCH);
	check_late(p, false);
	pair_free(p);
}

static void test_svm_alone(const void *data)
{
	const struct ip *ip = data;
	struct pair *p = pair_new();

	for (uint8_t i = 0; i < 5; i++) { /* as after it was loaded */
		pair_svm(p, one(ip, TO_EX, 1, 0));
		pair_svm(p, one(ip, TO_EX, i, 0));
	}
	check_late(p, false);
	g_assert_cmpuint(p->wants, ==, 0);
	pair_pvm(p, one(ip, TO_EX, 3, 0));
	pair_released(p, 1, RELEASE_MATCH);
	pair_free(p);
}

static void test_pvm_alone(const void *data)
{
	const struct ip *ip = data;
	struct pair *p = pair_new();
	struct build_record both[] = {{TO_EX, 1, 0}, {TO_EX, 2, 0}};

	pair_svm(p, one(ip, TO_EX, 1, 0));
	pair_pvm(p, report(ip, both, 2));
	pair_pvm(p, one(ip, TO_EX, 1, 0)); /* the SVM means it, but reports leave in order */
	pair_holds(p, 2);
	check_late(p, true);
	pair_checkpoint(p);
	pair_released(p, 2, RELEASE_COMMIT);
	pair_free(p);
}

/* What the SVM means is not what the PVM means, yet. */
static void test_other_word(const void *data)
{
	const struct ip *ip = data;
	struct pair *p = pair_new();

	pair_svm(p, one(ip, TO_EX, 1, 0));
	pair_svm(p, one(ip, TO_IN, 1, 5));
	pair_pvm(p, one(ip, TO_EX, 1, 0)); /* it was the word once, and is not the newest */
	pair_holds(p, 1);
	pair_svm(p, one(ip, TO_IN, 1, 6));
	pair_svm(p, one(ip, TO_EX, 1, 6));
	pair_svm(p, one(ip, ALLOW, 1, 6));
	pair_svm(p, one(ip, TO_EX, 2, 0)); /* of another group */
	pair_holds(p, 1);
	pair_svm(p, one(ip, TO_EX, 1, 0));
	pair_released(p, 1, RELEASE_MATCH);
	pair_pvm(p, one(ip, TO_IN, 1, 0));
	pair_holds(p, 1);
	check_late(p, true);
	pair_free(p);
}

/* The checkpoint has what the PVM had said last before it. */
static void test_across_a_cut(const void *data)
{
	const struct ip *ip = data;
	struct pair *p = pair_new();

	pair_pvm(p, one(ip, TO_EX, 1, 0));
	pair_pvm(p, one(ip, TO_EX, 2, 0));
	pair_checkpoint(p);
	pair_released(p, 2, RELEASE_COMMIT);
	pair_pvm(p, one(ip, IS_EX, 1, 0));
	pair_released(p, 1, RELEASE_MATCH);
	pair_pvm(p, one(ip, TO_IN, 1, 0)); /* this is news */
	pair_holds(p, 1);
	pair_svm(p, one(ip, TO_IN, 1, 0));
	pair_released(p, 1, RELEASE_MATCH);
	pair_pvm(p, one(ip, IS_EX, 1, 0)); /* and this is not what the lineage means any more */
	pair_svm(p, one(ip, TO_IN, 2, 0));
	pair_holds(p, 1);
	pair_checkpoint(p);
	pair_released(p, 1, RELEASE_COMMIT);
	pair_pvm(p, one(ip, IS_EX, 1, 0)); /* the newest of the PVM's, not of the old lineage's */
	pair_pvm(p, one(ip, IS_EX, 2, 0));
	pair_released(p, 2, RELEASE_MATCH);
	pair_free(p);
}

/* Words from before the cut count as soon as the checkpoint is committed, and not before. */
static void test_in_flight(const void *data)
{
	const struct ip *ip = data;
	struct pair *p = pair_new();

	pair_pvm(p, one(ip, TO_EX, 1, 0));
	gate_cut(p->gate, 1, p->now);
	pair_pvm(p, one(ip, TO_EX, 1, 0));
	pair_holds(p, 2);
	pair_svm(p, one(ip, TO_EX, 1, 0)); /* of lineage 0: for what was said in epoch 0 */
	pair_released(p, 1, RELEASE_MATCH);
	gate_commit(p->gate, 1, p->now);
	pair_released(p, 1, RELEASE_MATCH);
	pair_free(p);
}

static void test_unprotected(const void *data)
{
	const struct ip *ip = data;
	struct pair *p = pair_new();

	gate_unprotect(p->gate, p->now);
	pair_pvm(p, one(ip, TO_EX, 1, 0));
	pair_released(p, 1, RELEASE_UNPROTECTED);
	gate_cut(p->gate, 0, p->now);
	pair_pvm(p, one(ip, TO_EX, 1, 0));
	pair_released(p, 1, RELEASE_MATCH);

	gate_unprotect(p->gate, p->now);
	pair_pvm(p, report_with(ip, &(struct build_record){TO_IN, 1, 0}, 1, 4));
	pair_released(p, 1, RELEASE_UNPROTECTED);
	gate_cut(p->gate, 0, p->now);
	pair_pvm(p, one(ip, TO_EX, 1, 0)); /* who knows what it has said since */
	pair_holds(p, 1);
	pair_svm(p, one(ip, TO_EX, 1, 0));
	pair_released(p, 1, RELEASE_MATCH);
	pair_free(p);
}

static void test_unclear(const void *data)
{
	const struct ip *ip = data;
	struct pair *p = pair_new();
	struct build_record leave = {TO_IN, 1, 0};

	pair_pvm(p, one(ip, TO_EX, 1, 0));
	pair_svm(p, one(ip, TO_EX, 1, 0));
	pair_released(p, 1, RELEASE_MATCH);
	pair_pvm(p, report_with(ip, &leave, 1, 4));
	pair_pvm(p, one(ip, TO_EX, 1, 0)); /* must not be in front of it */
	pair_svm(p, one(ip, TO_EX, 1, 0));
	pair_holds(p, 2);
	pair_checkpoint(p);
	pair_released(p, 2, RELEASE_COMMIT);
	pair_pvm(p, one(ip, TO_EX, 1, 0)); /* said after it: in the checkpoint */
	pair_released(p, 1, RELEASE_MATCH);
	pair_pvm(p, report_with(ip, &leave, 1, 4));
	pair_checkpoint(p);
	pair_released(p, 1, RELEASE_COMMIT);
	pair_pvm(p, one(ip, TO_EX, 1, 0)); /* the newest in the checkpoint is not known */
	pair_holds(p, 1);
	pair_svm(p, one(ip, TO_EX, 1, 0));
	pair_released(p, 1, RELEASE_MATCH);

	pair_svm(p, report_with(ip, &leave, 1, 4)); /* nor is the SVM's now */
	pair_pvm(p, one(ip, TO_EX, 1, 0));
	pair_holds(p, 1);
	check_late(p, true);
	pair_free(p);
}

/* No stack sends a report in fragments; one that does gets it out by commit. */
static void test_fragments(const void *data)
{
	const struct ip *ip = data;
	struct pair *p = pair_new();
	struct build_record many[] = {{TO_EX, 1, 9}, {TO_EX, 2, 9}};
	struct frame *whole = report(&(struct ip){.six = ip->six}, many, 2);
	uint32_t len = whole->len - (ip->six ? 54 : 34);
	struct frame *first = build_fragment(whole, 5, 0, 16, true);
	struct frame *rest = build_fragment(whole, 5, 16, len - 16, false);

	frame_free(whole);
	pair_svm(p, frame_copy(first));
	pair_svm(p, frame_copy(rest));
	pair_svm(p, one(&(struct ip){.six = ip->six}, TO_EX, 1, 9));
	pair_pvm(p, first);
	pair_pvm(p, rest);
	pair_pvm(p, one(&(struct ip){.six = ip->six}, TO_EX, 1, 9));
	pair_holds(p, 3);
	pair_checkpoint(p);
	pair_released(p, 3, RELEASE_COMMIT);
	pair_free(p);
}

/* A querier in the VM: what it asks is compared packet by packet. */
static void test_query(const void *data)
{
	const struct ip *ip = data;
	uint32_t len = ip->six ? 24 : 8;
	struct pair *p = pair_new();

	for (uint8_t delay = 10; delay <= 20; delay += 10) {
		struct frame *f = build_empty_report(ip->six, len);

		f->data[f->len - len] = ip->six ? 130 : 0x11;
		f->data[f->len - len + (ip->six ? 5 : 1)] = 10;
		pair_pvm(p, frame_copy(f));
		f->data[f->len - len + (ip->six ? 5 : 1)] = delay;
		pair_svm(p, f);
		g_assert_cmpint(pair_wants(p, CKPT_MISMATCH), ==, delay == 20);
	}
	pair_released(p, 1, RELEASE_MATCH);
	pair_free(p);
}

/* More groups than the table has flows for: their reports are the commit's. */
static void test_many_groups(const void *data)
{
	const struct ip *ip = data;
	struct pair *p = pair_new();
	struct build_record all[200];
	struct gate_stats stats;

	for (uint32_t i = 0; i < G_N_ELEMENTS(all); i++)
		all[i] = (struct build_record){TO_EX, (uint8_t)(i + 1), 0};
	for (int i = 0; i < 3; i++) {
		pair_svm(p, report(ip, all, G_N_ELEMENTS(all)));
		pair_pvm(p, report(ip, all, G_N_ELEMENTS(all)));
	}
	pair_holds(p, 3);
	gate_get_stats(p->gate, &stats);
	g_assert_cmpuint(stats.now_flows, <=, 64);
	pair_checkpoint(p);
	pair_released(p, 3, RELEASE_COMMIT);
	pair_free(p);
}

/* The rules are for packets: to whom the reports go, not what they are about. */
static void test_policy(const void *data)
{
	const struct ip *ip = data;
	struct policy rules = {
	        .rule = {{.number = 1, .action = POLICY_BYPASS, .match = POLICY_ANY}},
	        .count = 1,
	};
	struct pair *p = pair_new();

	rules.rule[0].peer.family = ip->six ? 6 : 4;
	rules.rule[0].peer.bits = ip->six ? 128 : 32;
	build_group(ip->six, rules.rule[0].peer.address, 1);
	gate_set_policy(p->gate, &rules);
	pair_pvm(p, one(ip, TO_EX, 1, 0));
	pair_holds(p, 1);
	pair_svm(p, one(ip, TO_EX, 1, 0));
	pair_released(p, 1, RELEASE_MATCH);
	pair_free(p);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		GTestDataFunc run;
	} tests[] = {
	        {"same-meaning", test_same_meaning}, {"svm-alone", test_svm_alone},
	        {"pvm-alone", test_pvm_alone},       {"other-word", test_other_word},
	        {"across-a-cut", test_across_a_cut}, {"in-flight", test_in_flight},
	        {"unprotected", test_unprotected},   {"unclear", test_unclear},
	        {"fragments", test_fragments},       {"query", test_query},
	        {"many-groups", test_many_groups},   {"policy", test_policy},
	};

	g_test_init(&argc, &argv, NULL);
	for (size_t i = 0; i < G_N_ELEMENTS(ips); i++) {
		for (size_t j = 0; j < G_N_ELEMENTS(tests); j++) {
			g_autofree char *path =
			        g_strdup_printf("/membership/%s/%s", ips[i].name, tests[j].name);

			g_test_add_data_func(path, &ips[i], tests[j].run);
		}
	}
	return g_test_run();
}
