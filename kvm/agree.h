/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_KVM_AGREE_H
#define COLO_KVM_AGREE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Whether the pages of a checkpoint that would be sent whole are told by their hashes
 * (page_codec.h, AGREE). No I/O and no clock.
 *
 * What a hash saves is the time that its page takes on the link, if the peer's VM has the same.
 * What hashes cost is a round trip at the end of the checkpoint, the pages that the VM has not the
 * same twice over, and a look at each page on both sides. How many pages are sent whole and how
 * many are the same are averages over the last checkpoints, the latter from pages of which the
 * secondary looked at some although they came (page_decoder_samples()), or from what came of the
 * hashes.
 */

enum agree_mode {
	AGREE_AUTO,
	AGREE_ON,
	AGREE_OFF,
};

struct agree_choice {
	enum agree_mode mode;
	bool last;
	double whole;   /* of a checkpoint's pages, those that would be sent whole */
	double share;   /* of them, those that the peer's VM has as well */
	double byte_ns; /* when they were sent last: hashes tell nothing of how pages are packed */
	uint32_t checkpoints;
	uint64_t looked;
};

/* What a checkpoint is, and the link. */
struct agree_case {
	uint64_t pages;  /* that it has */
	double byte_ns;  /* to send one of them a byte (pack_choice_ns()) */
	uint64_t rtt_ns; /* of the link */
};

void agree_choice_init(struct agree_choice *c, enum agree_mode mode);

bool agree_choice_pick(struct agree_choice *c, const struct agree_case *of);

/* A checkpoint of so many pages had so many that were sent whole, or would have been. */
void agree_choice_sent(struct agree_choice *c, uint64_t pages, uint64_t whole);

/* Of so many pages that were looked at, so many were the same in the peer's VM. */
void agree_choice_looked(struct agree_choice *c, uint64_t looked, uint64_t alike);

#endif
