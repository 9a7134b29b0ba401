/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * IGMP and MLD reports: what is compared is what they say of each group, not the packets.
 *
 * A host reports its state, after a random delay, each change of it more than once, several changes
 * in one report or each in its own (RFC 3376 section 5, RFC 3810 section 6). So two VMs that mean
 * the same say it in different packets, and one that has just been loaded says all of it again. The
 * secondary tells a report as one digest for each group (membership.h), and only the newest *word*
 * on a group counts, as only it does for a router.
 *
 * A report of the PVM's goes out when for each of its groups the newest word in the SVM's lineage
 * is the same: what the SVM has said last since the cut, or, when it has said nothing, what the PVM
 * had said last before it. The latter is in the checkpoint, as the bytes are that TCP sends again:
 * to repeat it tells the network nothing that lineage did not start from. What only the SVM says is
 * never a difference, nor is another word of the SVM's, which may still change: until it has, the
 * report is late, and then the commit's. All reports from one address leave in the PVM's order, so
 * that the network's newest word on a group is the PVM's.
 *
 * An unclear report, which may say more than its words, is the commit's. After one of the PVM's no
 * word from before counts any more as what is in a checkpoint, and in its epoch, as after one of
 * the SVM's in its lineage, no more reports from that address match.
 *
 * Limits: words are kept in the flow table and go with their flow, when it was not used for 240 s
 * (longer than the time between a querier's queries, RFC 3810 section 9.2) or in favour of others.
 * A word that is not known any more is waited for.
 */
#include "colo-proxy/core/gate_private.h"

#include <string.h>

#include "colo-proxy/core/membership.h"

/* Nothing more of the source's reports matches in this epoch. */
static void note_unclear(struct gate *gate, const struct packet *packet)
{
	struct flow_key key;
	struct flow *flow;

	gate->unclear++;
	if (!gate->protected)
		return;
	membership_key(packet, &key);
	flow = gate_flow_get(gate, &key);
	if (flow)
		gate_view_get(gate, flow, gate->epoch)->broken = true;
	else
		gate_break(gate, CKPT_PRESSURE, "the flow table is full", gate->now);
}

void gate_membership_said(struct gate *gate, const struct packet *packet)
{
	struct membership_word word;
	uint32_t at = 0;

	if (membership_is_unclear(packet))
		note_unclear(gate, packet);
	if (packet->class != PACKET_MEMBERSHIP)
		return;
	while (membership_next(packet, &gate->key, &at, &word)) {
		struct flow *flow = gate_flow_get(gate, &word.group);

		if (!flow)
			continue; /* the table is full: the word is waited for */
		flow_table_set_state(&gate->flows, &flow->entry, FLOW_CLOSING, gate->now);
		(void)gate_view_get(gate, flow, gate->epoch); /* before it has this word */
		memcpy(flow->word, word.hash, sizeof(flow->word));
		flow->word_known = true;
		flow->word_unclear = gate->unclear;
	}
}

void gate_membership_begin(const struct gate *gate, const struct flow *flow, struct view *view)
{
	view->word_known = flow->word_unclear == gate->unclear;
	memcpy(view->word, flow->word, sizeof(view->word));
}

struct flow *gate_membership_heard(struct gate *gate, struct flow *flow, struct view *view,
                                   const struct digest *digest)
{
	struct flow_key key;

	if (digest->key.kind == FLOW_MEMBERSHIP) {
		view->broken = true;
		return NULL;
	}
	flow_table_set_state(&gate->flows, &flow->entry, FLOW_CLOSING, gate->now);
	memcpy(view->word, digest->hash, sizeof(view->word));
	view->word_known = true;
	membership_key_of_group(&digest->key, &key);
	return (struct flow *)flow_table_peek(&gate->flows, &key);
}

bool gate_membership_matches(const struct gate *gate, const struct held *held)
{
	struct membership_word word;
	uint32_t at = 0;

	while (membership_next(&held->packet, &gate->key, &at, &word)) {
		const struct flow *flow =
		        (const struct flow *)flow_table_peek(&gate->flows, &word.group);
		const struct view *view = flow ? &flow->view[held->epoch & 1] : NULL;

		if (!view || view->epoch != held->epoch || !view->word_known ||
		    memcmp(view->word, word.hash, sizeof(view->word)) != 0)
			return false;
	}
	return true;
}
