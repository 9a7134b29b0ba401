/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_PACER_H
#define COLO_CORE_PACER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "colo-proxy/core/records.h"

/*
 * When the next checkpoint is taken, and whether the epoch that it begins is compared: the policy.
 * See pacer.c for how, docs/policies.md for when to choose which.
 *
 * No I/O and no clock: what happens goes in with a time (ns), and the answers are asked for. What
 * is released, and when, is the gate's: a policy cannot break R1.
 */

enum pacer_policy {
	PACER_COMPARE,    /* COLO: when output differs, or the longest epoch is over */
	PACER_EPOCH,      /* Remus, Cuju: at a pace; nothing is compared */
	PACER_ON_OUTPUT,  /* Kemari: when there is output to release */
	PACER_CONTINUOUS, /* Curling: when the last one is committed, and a rest */
	PACER_AUTO,       /* compare while that pays, else as on-output */
	PACER_POLICY_COUNT,
};

/* "compare", ...; "unknown" for anything else. */
const char *pacer_policy_name(enum pacer_policy policy);
/* 0, or -EINVAL: there is none of that name. */
int pacer_policy_parse(enum pacer_policy *ret_policy, const char *name);

struct pacer_params {
	enum pacer_policy policy;
	uint64_t latency_ns;      /* epoch: the longest that output is to wait, commit included */
	uint64_t rest_ns;         /* continuous: between a commit and the next checkpoint */
	uint64_t max_pause;       /* per cent of the time, 1 to 100 */
	uint64_t min_interval_ns; /* between two cuts */
	uint64_t longest_ns;      /* the longest epoch, of every policy */
};

/* What an operator changes; the others stay. */
struct pacer_change {
	bool has_policy, has_latency, has_rest, has_max_pause;
	struct pacer_params to;
};

/* A mean that forgets: a quarter of it is the newest sample. */
struct pacer_mean {
	uint64_t value;
	bool known;
};

struct pacer {
	struct pacer_params params;
	bool on;       /* protected */
	bool compares; /* the epoch that runs is compared */
	bool settled;  /* the secondary does what this policy has it do */
	bool output;   /* of this epoch, that only a commit releases */
	bool in_flight;
	uint64_t cut_at, ready_at;
	uint64_t last_pause; /* of the checkpoint that began this epoch */
	uint64_t last_pages;
	struct pacer_mean pause, commit; /* ns */
	uint64_t length;                 /* ns of the epoch that the last cut ended */
	struct pacer_mean lead;          /* ns from asking to the cut */
	struct pacer_mean rate;          /* dirty pages a second, of short epochs */
	uint64_t sampled, sampled_at;    /* the same, by QEMU's sample; 0: none yet */
	uint64_t full_at;                /* UINT64_MAX: not known */
	uint64_t fixed;                  /* ns of a commit that no page is to blame for */
	struct pacer_mean per_page;      /* ns of a commit for each page */
	/* auto */
	bool epochs;        /* not comparing at present */
	bool trial;         /* comparing to see whether that pays again */
	uint8_t differed;   /* of the last eight epochs, a bit each: ended by a difference */
	uint32_t looked_at; /* epochs since the last change, up to eight */
	uint64_t held_sum, held_count;
	struct pacer_mean cost_compare, cost_epochs; /* ns that output waits, and pauses */
	uint64_t backoff, try_at;
	char why[120];
};

void pacer_init(struct pacer *pacer, const struct pacer_params *params);

/* At run time; what was measured stays. */
void pacer_change(struct pacer *pacer, const struct pacer_change *change, uint64_t now);

/* Protection begins with epoch 0, or is over. begin() says whether epoch 0 is compared. */
bool pacer_begin(struct pacer *pacer, uint64_t now);
void pacer_end(struct pacer *pacer);

/* The checkpoint that is cut next was asked for so long ago. */
void pacer_asked(struct pacer *pacer, uint64_t ago_ns);
/* A checkpoint is cut, for this cause; the next epoch begins. Whether that is compared. */
bool pacer_cut(struct pacer *pacer, enum ckpt_cause cause, uint64_t now);
/* The PVM stood still so long, and had written to so many pages in the epoch that ended. */
void pacer_captured(struct pacer *pacer, uint64_t pause_ns, uint64_t pages);
/* What QEMU says of the same pause later; it sees more of it. */
void pacer_paused(struct pacer *pacer, uint64_t pause_ns);
/* The newest checkpoint is committed; the secondary is ready for the next one. */
void pacer_committed(struct pacer *pacer, uint64_t now);
void pacer_ready(struct pacer *pacer, uint64_t now);

/* QEMU has looked how many pages a second the PVM writes to within a second (dirty_rate.h). */
void pacer_sampled(struct pacer *pacer, uint64_t pages_per_s, uint64_t now);
/* The PVM will have written to as much as one checkpoint is to have; UINT64_MAX: not by now. For
 * the epoch that runs. */
void pacer_full(struct pacer *pacer, uint64_t at);

/* The PVM has said something in this epoch that is held. */
void pacer_output(struct pacer *pacer);
/* The gate let a frame out by match or commit, held for so long. */
void pacer_released(struct pacer *pacer, uint64_t held_ns);

/* No cut before this, whoever asks: the paused share of time stays below max_pause. */
uint64_t pacer_earliest(const struct pacer *pacer);
/* When the policy itself wants the next one, and as what; UINT64_MAX: not by itself yet. */
uint64_t pacer_due(const struct pacer *pacer, enum ckpt_cause *ret_cause);

/* The length of an epoch that the policy `epoch` aims at, ns. */
uint64_t pacer_epoch_length(const struct pacer *pacer);
/* What is done now: with `auto` one of the others. */
enum pacer_policy pacer_in_force(const struct pacer *pacer);
/* Why, in words; "" when it is what was asked for. */
const char *pacer_why(const struct pacer *pacer);

#endif
