/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "kvm/agree.h"

#define PAGE       4096.0
#define HASH_BYTES 20.0   /* of an AGREE */
#define LOOK_NS    2000.0 /* to hash a page here, and to read and hash it there */
#define WEIGHT     4.0    /* checkpoints that the average of whole pages reaches back */
#define LOOKED     64.0   /* pages that the share reaches back, about */
#define LOOKED_FEW 8u     /* with less it is not known */
#define TO_BEGIN   1.5    /* gain / cost from which on it is done, and to which it goes on */
#define TO_GO_ON   1.0

void agree_choice_init(struct agree_choice *c, enum agree_mode mode)
{
	*c = (struct agree_choice){.mode = mode};
}

bool agree_choice_pick(struct agree_choice *c, const struct agree_case *of)
{
	double whole = c->whole * (double)of->pages;
	double cost = (double)of->rtt_ns + whole * (HASH_BYTES * of->byte_ns + LOOK_NS);
	double gain;

	if (!c->last || of->byte_ns < c->byte_ns)
		c->byte_ns = of->byte_ns;
	gain = whole * c->share * PAGE * c->byte_ns;
	if (c->mode != AGREE_AUTO)
		c->last = c->mode == AGREE_ON;
	else if (c->looked < LOOKED_FEW || c->checkpoints == 0)
		c->last = false;
	else
		c->last = gain > cost * (c->last ? TO_GO_ON : TO_BEGIN);
	return c->last;
}

void agree_choice_sent(struct agree_choice *c, uint64_t pages, uint64_t whole)
{
	double share = pages ? (double)whole / (double)pages : 0;

	if (pages == 0)
		return;
	if (share > 1)
		share = 1;
	c->checkpoints++;
	c->whole += (share - c->whole) / (c->checkpoints < WEIGHT ? c->checkpoints : WEIGHT);
}

void agree_choice_looked(struct agree_choice *c, uint64_t looked, uint64_t alike)
{
	double share;
	double weight;

	if (looked == 0 || alike > looked)
		return;
	share = (double)alike / (double)looked;
	weight = c->looked ? (double)looked / ((double)looked + LOOKED) : 1;
	c->share += (share - c->share) * weight;
	c->looked += looked;
}
