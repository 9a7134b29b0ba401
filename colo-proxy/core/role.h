/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_ROLE_H
#define COLO_CORE_ROLE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Who may speak: the state machine of one daemon (rules R4 and R6, DESIGN section 6). No I/O, no
 * clock: events go in with a time, and a set of actions comes out that the caller carries out.
 *
 * A side is the primary (P) or the secondary (S) of the pair as it is now: a takeover makes the
 * secondary the primary, and the old primary, when it hears of that, the new one's secondary.
 *
 * state        side  the VM here                    speaks
 * WAITING      S     none                           no
 * ALONE        P     runs, unprotected              yes
 * JOINING      P     runs, is being copied          yes
 *              S     receives the copy              no
 * PROTECTED    P     runs, output held              by R1
 * STANDBY      S     runs beside the primary's      no
 * DECIDING     both  peer lost, asks for the right  no (P: what it said is held)
 * STUCK        both  peer lost, right denied        no: an operator decides
 * TAKING_OVER  S     has the right; loads, leaves   no
 * RETIRED      P     stands still; the right is S's no
 *
 * With `rejoin` false, S stays S when it takes over (ALONE), and RETIRED is for good.
 */
enum role_state {
	ROLE_WAITING,
	ROLE_ALONE,
	ROLE_JOINING,
	ROLE_PROTECTED,
	ROLE_STANDBY,
	ROLE_DECIDING,
	ROLE_STUCK,
	ROLE_TAKING_OVER,
	ROLE_RETIRED,
	ROLE_STATE_COUNT,
};

enum role_event {
	ROLE_EV_TICK, /* nothing but time */
	ROLE_EV_LINK_UP,
	ROLE_EV_LINK_DOWN,
	ROLE_EV_HEARD,        /* a heartbeat of the peer */
	ROLE_EV_COPY_FAILED,  /* JOINING did not work out */
	ROLE_EV_LINEAGE_0,    /* P: about to tell S that epoch 0 begins. S: has been told */
	ROLE_EV_RIGHT,        /* the fence that was asked granted the right to speak */
	ROLE_EV_NO_RIGHT,     /* it did not */
	ROLE_EV_FORCE,        /* the operator grants it, and answers for it */
	ROLE_EV_PEER_LIVES,   /* S: in a new session, the primary is heard to have its VM */
	ROLE_EV_PEER_YIELDED, /* the peer says that it does not and will not speak: P: S gave its
	                         copy up. S: P handed over */
	ROLE_EV_PEER_FREE,    /* P: the peer has no VM and wants to be the secondary */
	ROLE_EV_PEER_SPEAKS,  /* P: S has taken over while this side was cut off */
	ROLE_EV_PEER_LEADS, /* as PEER_SPEAKS, and S is a primary now, which can have a secondary */
	ROLE_EV_PEER_ALONE, /* S: P goes on unprotected and says so */
	ROLE_EV_HANDED_OVER, /* P: has granted S the right and is silent; the VM is still here */
	ROLE_EV_TAKEN_OVER,  /* S: the VM here speaks now */
	ROLE_EV_VM_LOST,     /* the QEMU of this side has died */
	ROLE_EV_COUNT,
};

/* Actions, a bit mask. */
#define ROLE_ACT_COPY      0x01u  /* P: start protecting. */
#define ROLE_ACT_STOP_COPY 0x02u  /* P: abandon the copy, the VM runs on; S: drop the copy */
#define ROLE_ACT_DROP_LINK 0x04u  /* the session is worthless now */
#define ROLE_ACT_ASK       0x08u  /* ask the fence for the right, then RIGHT or NO_RIGHT */
#define ROLE_ACT_GO_ALONE  0x10u  /* P: release what is held, leave COLO, go on unprotected */
#define ROLE_ACT_TAKE_OVER 0x20u  /* S: load what is committed, leave COLO, speak; TAKEN_OVER */
#define ROLE_ACT_YIELD     0x40u  /* tell the peer that this side will not speak */
#define ROLE_ACT_TELL      0x80u  /* the state has changed: publish it */
#define ROLE_ACT_SILENCE   0x100u /* what the VM here says goes nowhere any more; end it */
#define ROLE_ACT_FOLLOW    0x200u /* this side is a secondary from here on */

enum role_fence {
	ROLE_FENCE_OPERATOR, /* nobody can be asked */
	ROLE_FENCE_NONE,     /* the operator has written `fence = none`: loss is proof enough */
	ROLE_FENCE_COMMAND,
};

struct role_params {
	bool primary; /* at the start */
	bool rejoin;  /* sides change with a takeover */
	enum role_fence fence;
	bool goes_on;         /* P: goes on unprotected without being told, if it has the right */
	bool takes_over;      /* S: takes over without being told, if it has the right */
	uint64_t interval_ns; /* of heartbeats */
	uint32_t loss;        /* heartbeats missed in a row that mean: lost */
	uint64_t fence_delay_ns;
};

struct role {
	struct role_params params;
	enum role_state state;
	bool primary;  /* now */
	uint32_t term; /* takeovers of this VM, as far as this side knows (role_heard_term()) */
	bool link;
	bool asked;        /* in DECIDING: the fence has been asked */
	bool handed;       /* in RETIRED: handed over, and the peer was not heard to speak */
	bool handed_here;  /* and that in the session that goes on */
	uint64_t heard_at; /* the peer's last sign of life */
	uint64_t lost_at;  /* when DECIDING began */
	uint64_t since;
};

void role_init(struct role *role, const struct role_params *params, uint64_t now);

/* Returns the actions. Events that mean nothing in a state change nothing. */
uint32_t role_event(struct role *role, enum role_event event, uint64_t now);

/* The peer is a primary that has its VM, and says in which term. */
void role_heard_term(struct role *role, uint32_t term);

/* True when this side, a primary, gives way to a primary of that term: ROLE_EV_PEER_LEADS. */
bool role_gives_way(const struct role *role, uint32_t term, bool has_vm);

/* True when a peer that says this of itself has the VM, and is or will be the one that speaks. */
bool role_peer_leads(bool primary, enum role_state state);

/* How long a peer may be silent before it counts as lost, in ns; the same on both sides. */
uint64_t role_patience(const struct role *role);

/* When ROLE_EV_TICK is due; UINT64_MAX: not at all. */
uint64_t role_deadline(const struct role *role);

/* True if what this side's VM says may leave the host without a match or commit (R6). */
bool role_speaks(const struct role *role);

const char *role_state_name(enum role_state state);

#endif
