/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The reference: it reads what the three stacks say at their taps and what passes to the engine,
 * with a parser of its own, and knows each place's stream from the plan. Whatever the engine lets
 * out is held against that:
 *
 *   match    each byte is the PVM's and the SVM's at that offset, and a SYN, FIN or RST there is,
 *            and the SVM has said it in that lineage, or it is in that lineage's checkpoint; the
 *            acknowledgement is not beyond the SVM's (R1 (a), R2)
 *   commit   a later checkpoint is whole on the secondary (R1 (b))
 *   takeover what the survivor says continues what the client has been shown (R7)
 */
#include <stdlib.h>
#include <string.h>

#include "colo-proxy/core/packet.h"
#include "colo-proxy/core/seq.h"
#include "tests/stacks/stacks.h"

int truth_init(struct run *run)
{
	struct truth *truth = &run->truth;

	for (int i = 0; i < 2; i++) {
		truth->said[i].epoch = i ? NEVER : 0;
		truth->said[i].script = SVM;
		truth->said[i].bytes = calloc(run->plan.vm_total + 3, 1); /* a lie adds one */
		if (!truth->said[i].bytes)
			return -1;
	}
	return 0;
}

void truth_fini(struct run *run)
{
	free(run->truth.said[0].bytes);
	free(run->truth.said[1].bytes);
}

/* The segment's first byte as an offset of its side's stream, the SYN being -1. */
static uint32_t offset_of(const struct truth *truth, enum place place, const struct segment *s)
{
	return s->seq - truth->iss[place] - !(s->flags & PACKET_SYN);
}

static uint32_t ack_offset(const struct truth *truth, uint32_t ack)
{
	return ack - truth->iss[CLIENT] - 1;
}

void truth_heard(struct run *run, enum place place, const struct segment *s)
{
	struct truth *truth = &run->truth;
	uint32_t end;

	if (s->flags & PACKET_SYN) {
		truth->iss_known[place] = true;
		truth->iss[place] = s->seq;
		return;
	}
	if (place != PVM || (s->flags & PACKET_RST))
		return;
	end = offset_of(truth, PVM, s) + s->len + !!(s->flags & PACKET_FIN);
	if (seq_gt(end, truth->pvm_end))
		truth->pvm_end = end;
	if ((s->flags & PACKET_ACK) && seq_gt(ack_offset(truth, s->ack), truth->pvm_ack))
		truth->pvm_ack = ack_offset(truth, s->ack);
}

void truth_svm_said(struct run *run, const struct segment *s, uint32_t lineage)
{
	struct truth *truth = &run->truth;
	struct said *said = &truth->said[lineage & 1];
	uint32_t at = offset_of(truth, SVM, s), end = at + s->len + !!(s->flags & PACKET_FIN);
	uint32_t total = plan_total(&run->plan, said->script);

	if (said->epoch != lineage)
		return;
	if (s->flags & PACKET_SYN)
		said->syn = true;
	if (s->flags & PACKET_ACK) {
		uint32_t ack = ack_offset(truth, s->ack);

		said->ack = said->ack_known ? seq_max(said->ack, ack) : ack;
		said->ack_known = true;
	}
	if (s->flags & PACKET_RST) {
		if (said->resets < RESETS)
			said->reset[said->resets++] = at;
	} else if (!(s->flags & PACKET_SYN)) {
		for (; seq_lt(at, end) && at <= total; at++)
			said->bytes[at] = 1;
	}
}

void truth_cut(struct run *run, uint32_t epoch)
{
	struct truth *truth = &run->truth;
	struct said *said = &truth->said[epoch & 1];
	uint32_t total = plan_total(&run->plan, PVM);

	said->epoch = epoch;
	said->script = PVM;
	memset(said->bytes, 0, run->plan.vm_total + 3);
	memset(said->bytes, 1, truth->pvm_end < total + 1 ? truth->pvm_end : total + 1);
	said->syn = said->ack_known = true;
	said->ack = truth->pvm_ack;
	said->resets = 0;
}

static bool reset_said(const struct said *said, uint32_t at)
{
	for (uint32_t i = 0; i < said->resets; i++) {
		if (said->reset[i] == at)
			return true;
	}
	return said->resets == RESETS; /* more than are remembered */
}

static void check_stream(struct run *run, const struct segment *s, const struct said *said,
                         enum place speaker)
{
	const struct plan *plan = &run->plan;
	enum place script = said ? said->script : run->end[SVM].script;
	uint32_t at = offset_of(&run->truth, speaker, s), total = plan_total(plan, script);
	const uint8_t *bytes = s->frame->data + s->data_off;

	for (uint32_t i = 0; i < s->len; i++, at++) {
		if (at >= total || (said && !said->bytes[at])) {
			run_fail(run, "byte %u goes out, the SVM has not said it", at);
			return;
		}
		if (bytes[i] != plan_byte(plan, run->seed, script, at)) {
			run_fail(run, "byte %u goes out, the SVM has said another", at);
			return;
		}
	}
	if ((s->flags & PACKET_FIN) && (at != total || (said && !said->bytes[at])))
		run_fail(run, "the FIN at %u goes out, the SVM has not said it", at);
}

/* As the client sees it: segments of every kind; timestamps never go back after a takeover. */
static void note_shown(struct run *run, const struct segment *s)
{
	struct truth *truth = &run->truth;

	truth->to_client++;
	if (!s->ts_off || (s->flags & PACKET_RST))
		return;
	if (run->crashed) {
		if (truth->ts_shown && seq_lt(s->tsval, truth->ts))
			run_fail(run, "the timestamp goes back from %u to %u", truth->ts, s->tsval);
		return; /* the survivor's own frames may have overtaken each other */
	}
	if (!truth->ts_shown || seq_gt(s->tsval, truth->ts))
		truth->ts = s->tsval;
	truth->ts_shown = true;
}

static void check_match(struct run *run, const struct segment *s, uint32_t epoch)
{
	const struct truth *truth = &run->truth;
	const struct said *said = &truth->said[epoch & 1];

	if (said->epoch != epoch) {
		run_fail(run, "a match in epoch %u, which is over", epoch);
		return;
	}
	if (s->flags & PACKET_SYN) {
		if (!said->syn)
			run_fail(run, "the SYN goes out before the SVM's");
	} else if (s->flags & PACKET_RST) {
		if (!reset_said(said, offset_of(truth, PVM, s)))
			run_fail(run, "a RST at %u that the SVM has not said",
			         offset_of(truth, PVM, s));
	} else {
		check_stream(run, s, said, PVM);
	}
	if ((s->flags & PACKET_ACK) &&
	    (!said->ack_known || seq_gt(ack_offset(truth, s->ack), said->ack)))
		run_fail(run, "acknowledges %u, the SVM %u", ack_offset(truth, s->ack),
		         said->ack_known ? said->ack : 0);
}

void truth_released(struct run *run, struct frame *frame, enum release_why why)
{
	uint32_t now = gate_epoch(run->gate), epoch = now - (uint8_t)(now - frame->origin);
	struct segment s;

	if (!segment_parse(&s, frame)) {
		run_fail(run, "what is released is no segment");
		return;
	}
	if (why == RELEASE_MATCH) {
		run->truth.by_match++;
		check_match(run, &s, epoch);
	} else if (why == RELEASE_COMMIT) {
		run->truth.by_commit++;
		if (epoch >= run->truth.whole)
			run_fail(run, "epoch %u goes out, C(%u) is the newest whole one", epoch,
			         run->truth.whole);
	} else {
		run_fail(run, "released without protection");
	}
	note_shown(run, &s);
}

void truth_translated(struct run *run, struct frame *frame)
{
	struct segment s;

	if (!segment_parse(&s, frame)) {
		run_fail(run, "what is translated is no segment");
		return;
	}
	if (!(s.flags & (PACKET_SYN | PACKET_RST)) && run->truth.iss_known[PVM])
		check_stream(run, &s, NULL, PVM);
	note_shown(run, &s);
}

bool truth_differed(const struct run *run)
{
	uint32_t at = plan_difference(&run->plan, run->seed);

	/* What a checkpoint has found on its way is resolved. */
	return at != NEVER && run->checkpoints == 0 && run->truth.pvm_end > at &&
	       run->truth.said[0].epoch == 0 && run->truth.said[0].bytes[at];
}
