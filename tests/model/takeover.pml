/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who may speak, and what of: checkpoint, commit, takeover, fencing, protection that begins again.
 * For spin; tests/model/check.py runs it, docs/model.md explains it.
 *
 * Two hosts, each with a daemon that does one thing at a time (the data thread), a link of two
 * channels each way, a fence for each, an operator. Both hosts are the same process, Host: which of
 * them is the primary changes with each takeover, any number of times. Host 0 is the primary by its
 * configuration. Names are those of the code: an inline has the symbols that it stands for in a
 * comment "code:", which a test looks up.
 *
 * Time is not modelled: heartbeats may count as lost at any moment, messages take as long as they
 * like, a host may lose its power and get it back at any moment, any number of times. What holds here
 * needs no timing. The PVM says at most one thing in each epoch, and the SVM the same, or not.
 *
 * Limits: the SVM's numbers, input and everything inside a TCP stream are other tests' (tests/sim).
 * A protection has up to MAX_EPOCH checkpoints. The operator does not lie: he forces a side only
 * when the other host is off. A fence that says yes has switched the other host off; one that says
 * no may have, too.
 *
 * With -DFAULTS=n there are at most n faults; else there is no end of them. With -DLIVENESS, too, they
 * end, and the never claim below is searched for: a run in which the VM is not protected in the end.
 * With -DFENCE_LIES a fence says yes and does nothing; then two may speak, but not for ever. Terms are
 * in that one only: where fences do not lie, there are no two primaries to choose between. With
 * -DREACHES=h only host h's fence can be asked: an arbiter that is reachable from one side only.
 *
 * exempt: MSG_READY, MSG_STREAM, MSG_STREAM_BACK (parts of the first copy, which is one step here)
 * exempt: MSG_INPUT, MSG_FLOW_OPEN, MSG_TS_LEAD, MSG_BROKEN (input and numbers: R5, R7)
 * exempt: MSG_CKPT_DATA, MSG_CKPT_HOLES, MSG_CKPT_FILL (between MSG_CKPT_BEGIN and MSG_CKPT_END: a half checkpoint has begun)
 * exempt: MSG_ASK, MSG_SAID (what is shown of divergences), MSG_MAP (numbers: R7)
 * exempt: MSG_CUT_ASK, MSG_CUT (the inside of a stream: R2)
 * exempt: MSG_REPLAY, MSG_RELEASED (datagrams that a takeover says again: sim_pair)
 * exempt: MSG_TYPE_END (no message), ROLE_EV_HEARD (time), ROLE_ACT_TELL (the status)
 * exempt: ROLE_FENCE_NONE (the operator has written that loss is proof enough: it is not; -DFENCE_LIES
 *         does the same)
 */
#ifndef MAX_EPOCH
#define MAX_EPOCH 2
#endif
#define EPOCHS (MAX_EPOCH + 1)
#define DID(text) printf(text, me) /* the steps of a trail */

mtype = {
	ROLE_WAITING, ROLE_ALONE, ROLE_JOINING, ROLE_PROTECTED, ROLE_STANDBY, ROLE_DECIDING,
	ROLE_STUCK, ROLE_TAKING_OVER, ROLE_RETIRED,
	MSG_HEARTBEAT, MSG_PROTECT, MSG_REFUSED, MSG_RUNNING, MSG_START, MSG_CKPT_BEGIN, MSG_CKPT_END,
	MSG_COMMITTED, MSG_LOADED, MSG_DIGEST, MSG_HANDOVER, MSG_TAKEN, MSG_UNPROTECT
};

/* The link, by the host that hears: what is in a channel can be read as long as that one has not
 * seen the end. */
chan fast[2] = [3] of { mtype, byte };
chan bulk[2] = [2] of { mtype, byte };

#define KEEP 8 /* CKPT_KEEP_FLAG, beside the number of a checkpoint: the SVM stands still in it */

/* What a heartbeat says, as far as somebody listens. */
#define LEADS    1 /* a primary, which has the VM: role_peer_leads */
#define HIGHER   2 /* the same, in a term above the listener's */
#define RETIRED  3 /* a primary that has retired */
#define NO_VM    4 /* a primary that has not booted: WAITING */
#define FREE     5 /* a secondary: WAITING */
#define JOINS    6 /* JOINING */
#define TAKES    7 /* TAKING_OVER */
#define HAS_COPY 8

/* The fence commands: one of each daemon's can run. */
#define IDLE   0
#define RUNS   1
#define KILLED 2

typedef daemon {
	bool on, link;
	bool marker;              /* on disk; host 1 never boots by itself, and looks for none */
	mtype role;               /* struct role */
	bool primary, asked, handed, handed_here;
	byte fence, term;

	/* struct primary, struct gate */
	bool vm_ordered, relay, silent, handing_over;
	bool drop;                /* HOLD_MODE_DROP: the hold lets nothing out, whoever releases */
	bool started_here;
	bool in_flight, committed, begun, ended, sending, runs, protected;
	byte epoch, newest;       /* gate->epoch, gate->committed */
	bool held[EPOCHS];        /* said in that epoch, and not released */
	bool view[EPOCHS];        /* the digest of that lineage has come */
	bool said;                /* this VM has said its word of this epoch, or lineage */

	/* struct secondary */
	bool joined_here, shadow, running, open, whole;
	bool keep, kept, merging, delivering;
	bool yielded;             /* the right is the peer's gift: it may still have the VM, and be forced */
	bool stopped;             /* the SVM stands still; running is for lineage 0 */
	byte lineage, ckpt;

	/* What is true, whatever the daemon believes: */
	byte vm;                  /* the checkpoint from which the SVM runs */
	byte image;               /* the newest that is merged with those kept before */
	bool stale                /* the other host has said something that the VM here does not know */
};
daemon host[2];

#define you (1 - me)
#define my  host[me]
#define its host[you]
#define S_COMMITTED (my.whole -> my.ckpt : my.lineage) /* node->committed_epoch */

bool g_out[EPOCHS];       /* a client has heard the word of that epoch */
bool g_said[EPOCHS];      /* lineage e said it */
byte g_whole;             /* the newest checkpoint that the secondary has whole */
bool g_beyond = true;     /* the primary said something that is in no checkpoint of this protection */

#define UNDECIDED(h) (host[h].role == ROLE_DECIDING || host[h].role == ROLE_STUCK)
#define SPEAKS(h)    (host[h].on && host[h].primary && host[h].vm_ordered && !host[h].silent && \
		      !host[h].drop && (host[h].role == ROLE_ALONE || host[h].role == ROLE_JOINING))
#define PROTECTS(h)  (host[h].on && host[h].link && host[h].primary && !host[h].silent && \
		      host[h].role == ROLE_PROTECTED && host[h].started_here)
#define COPIED(h)    (host[h].on && host[h].link && !host[h].primary && host[h].role == ROLE_STANDBY)

#ifdef REACHES
#define REACHES_ARBITER me == REACHES
#else
#define REACHES_ARBITER true
#endif

#ifdef FENCE_LIES
#define TERMS
#define safe(holds) skip
#define TWO_SPEAK false
#else
#define TWO_SPEAK (SPEAKS(you) || my.stale)
#define safe(holds) assert(holds)
#endif

#ifdef FAULTS
byte faults = FAULTS;
#define CAN_FAIL faults > 0
#define FAIL     faults--
#else
#define CAN_FAIL true
#define FAIL     skip
#endif

/* ---- links ---- */

/* model only */
inline forget(channel)
{
	do
	:: nempty(channel) -> channel?_,_
	:: empty(channel) -> break
	od
}

/* code: node_send link_send. What the other side will not read any more is not kept. */
inline fast_send(type, value) { if :: my.link && its.link -> fast[you]!type,value :: else fi }
/* code: link_send */
inline bulk_send(type, value) { if :: my.link && its.link -> bulk[you]!type,value :: else fi }

/* code: link_drop primary_link_up */
inline link_drop(h)
{
	host[h].link = false;
	host[h].started_here = false;
	host[h].joined_here = false; host[h].handed_here = false;
	forget(fast[h]); forget(bulk[h])
}

/* model only: the command of a question that is over may still switch the other host off. So may any
 * loss of power, so that it need not be told apart from that where those have no number. */
inline asks_no_more()
{
	my.asked = false;
#if !defined(FAULTS) && !defined(BREAK_OLD_FENCE_ANSWERS)
	my.fence = IDLE
#endif
}

/* code: enter: a question that is over is not asked any more */
inline enter(state)
{
	if :: state != ROLE_DECIDING && state != ROLE_STUCK -> asks_no_more() :: else fi;
	my.handed = false; my.handed_here = false;
	my.role = state
}

/* ---- what a client hears ---- */

/* model only: a VM speaks that nobody holds, or may from here on */
inline beyond()
{
	g_beyond = true; g_whole = 0;
	d = 0;
	do
	:: d < EPOCHS -> g_out[d] = false; g_said[d] = false; d++
	:: else -> d = 0; break
	od
}

#ifdef BREAK_RETIRED_RELEASES
#define MAY_RELEASE true
#else
#define MAY_RELEASE (!my.drop && my.role == ROLE_PROTECTED && my.started_here)
#endif

/* code: gate_held_release hold_release may_release: by match or by commit; who does not know keeps it
 * until it does, and what is let out then is the first that it says alone */
inline gate_held_release(e)
{
	my.held[e] = false;
	if
	:: !MAY_RELEASE
	:: else ->
		safe(!SPEAKS(you));               /* R6 */
		safe(!my.stale);                  /* R4 */
		safe(g_said[e] || g_whole > e);   /* R1 */
		if :: e >= g_whole -> g_out[e] = true :: else fi /* what is in a whole one is safe */
	fi
}

/* code: gate_match_release: in the newest committed epoch only */
inline gate_match_release()
{
	if :: my.held[my.newest] && my.view[my.newest] -> gate_held_release(my.newest) :: else fi
}

/* ---- the secondary's copy ---- */

/* model only: nothing of a copy, and no VM */
inline no_copy(h)
{
	host[h].shadow = false; host[h].running = false; host[h].open = false; host[h].whole = false;
	host[h].keep = false; host[h].kept = false; host[h].merging = false;
	host[h].delivering = false; host[h].stopped = false; host[h].said = false;
	host[h].yielded = false;
	host[h].lineage = 0; host[h].ckpt = 0; host[h].vm = 0; host[h].image = 0
}

/* code: secondary_stop_copy still_clear: ROLE_ACT_STOP_COPY */
inline secondary_stop_copy() { no_copy(me) }

/* ---- the primary ---- */

/* code: node_mark primary_unmark */
inline primary_unmark() { my.marker = false }

/* code: boot: a VM that begins anew knows nothing and owes nothing */
inline boot()
{
	my.vm_ordered = true;
	my.stale = false;
	beyond()
}

/* code: close_pvm protection_over */
inline close_pvm()
{
	my.relay = false; my.in_flight = false; my.sending = false; my.runs = false;
	my.committed = false; my.begun = false; my.ended = false
}

/* model only: what is held is of no account before this side knows whether it may speak */
inline gate_hush()
{
	my.said = false;
	d = 0;
	do
	:: d < EPOCHS -> my.held[d] = false; my.view[d] = false; d++
	:: else -> d = 0; break
	od
}

/* model only: no epoch, nothing held */
inline gate_clear()
{
	my.epoch = 0; my.newest = 0; my.protected = false;
	gate_hush()
}

/* code: primary_stop_copy: ROLE_ACT_STOP_COPY */
inline primary_stop_copy()
{
	close_pvm();
#ifndef MUTE_WAITS_FOR_A_BOOT
	assert(my.vm_ordered); /* who begins a copy has booted before: primary_heard */
#endif
	primary_unmark()
}

/* code: link_drop link_down: ROLE_EV_LINK_DOWN */
inline session_over()
{
	link_drop(me);
	if
	:: my.role == ROLE_JOINING && my.primary -> enter(ROLE_ALONE); primary_stop_copy()
	:: my.role == ROLE_JOINING && !my.primary -> enter(ROLE_WAITING); secondary_stop_copy()
	:: else
	fi
}

/* code: primary_go_alone gate_unprotect granted: ROLE_ACT_GO_ALONE */
inline primary_go_alone()
{
	enter(ROLE_ALONE);
	close_pvm();
	if :: my.silent -> my.drop = false :: else fi;
	my.handing_over = false;
#ifndef MUTE_SWITCH_OVER_FOR_EVER
	my.silent = false;
#endif
	primary_unmark();
	gate_clear();         /* what was held goes out: it is the first that it says alone */
	beyond();
	link_drop(me)
}

/* code: primary_silence: ROLE_ACT_SILENCE */
inline primary_silence()
{
	my.silent = true;
#ifndef BREAK_RETIRED_RELEASES
	my.drop = true;
	close_pvm(); gate_clear() /* nobody asks for it any more */
#endif
}

/* code: primary_retire: HANDOVER */
inline primary_retire()
{
	fast_send(MSG_HANDOVER,my.newest);
	primary_silence()
}

/* code: reprotect_follow close_primary: ROLE_ACT_FOLLOW: the marker first, all else is new */
inline reprotect_follow()
{
	my.primary = false;
	my.marker = (me == 0);
	close_pvm(); gate_clear();
	my.vm_ordered = false; my.silent = false; my.handing_over = false; my.drop = false;
	my.started_here = false;
	my.stale = false /* there is no VM here */
}

/* code: peer_speaks: ROLE_EV_PEER_LEADS */
inline peer_leads()
{
	reprotect_follow();
	if
	:: my.link -> enter(ROLE_JOINING)
	:: else -> enter(ROLE_WAITING)
	fi
}

/* code: peer_speaks: ROLE_EV_PEER_SPEAKS */
inline peer_speaks()
{
	my.handed = false; my.handed_here = false;
	if :: my.role != ROLE_RETIRED -> enter(ROLE_RETIRED); primary_silence() :: else fi
}

/* code: lost: ROLE_EV_TICK, the heartbeats are missing; ROLE_ACT_DROP_LINK */
inline lost()
{
	enter(ROLE_DECIDING); my.asked = false;
	if :: my.primary -> gate_hush() :: else fi; /* may_release */
	link_drop(me)
}

/* code: peer_yielded: ROLE_EV_PEER_YIELDED, a primary */
inline p_peer_yielded()
{
	if
	:: my.role == ROLE_PROTECTED || UNDECIDED(me) -> primary_go_alone()
#ifndef MUTE_RIGHT_STAYS_AWAY
	:: my.handed_here -> primary_go_alone()
#endif
	:: my.role == ROLE_JOINING ->
		enter(ROLE_ALONE); primary_stop_copy(); link_drop(me)
#ifndef MUTE_WAITS_IN_SESSION
	:: my.role == ROLE_ALONE -> link_drop(me) /* the peer joins in the next session */
#endif
	:: else
	fi
}

/* code: primary_heard role_gives_way role_event: ROLE_EV_PEER_FREE, ROLE_ACT_COPY */
inline primary_heard(says)
{
	if
	:: says == LEADS || says == HIGHER ->
		if
		:: !my.vm_ordered || my.role == ROLE_RETIRED || says == HIGHER -> peer_leads()
		:: else
		fi
	:: says == TAKES ->
		if :: !my.silent -> peer_speaks() :: else fi
	:: says == NO_VM || says == FREE || says == JOINS ->
		if
#ifndef MUTE_WAITS_FOR_A_BOOT
		:: !my.vm_ordered && my.role != ROLE_RETIRED -> primary_unmark(); boot()
#endif
		:: else
		fi;
		if
		:: !my.started_here && (my.role == ROLE_PROTECTED || UNDECIDED(me)) ->
			p_peer_yielded()
		:: else
		fi;
		if
		:: says == JOINS && my.role == ROLE_ALONE && my.link -> enter(ROLE_JOINING)
		:: else
		fi
	:: else
	fi
}

/* code: start_epoch_0 lineage_0_runs primary_rearmed gate_cut gate_flow_clear_views: ROLE_EV_LINEAGE_0 */
inline start_epoch_0()
{
	if
	:: my.relay && my.role == ROLE_JOINING ->
		gate_clear();
		my.protected = true; my.committed = true; my.started_here = true;
		fast_send(MSG_START,0);
		beyond();
		g_beyond = false;
		enter(ROLE_PROTECTED)
	:: else
	fi
}

/* code: primary_vm_stopped gate_cut pacer_cut: the cut of C(epoch + 1) */
inline primary_vm_stopped(compares)
{
	my.epoch++; my.said = false;
	my.in_flight = true; my.committed = false; my.begun = false; my.ended = false;
	my.runs = compares;
	if :: my.handing_over -> my.silent = true :: else fi;
	my.sending = true /* primary_vm_captured */
}

/* code: gate_commit */
inline gate_commit(e)
{
	my.newest = e;
	d = 0;
	do
	:: d < e && my.held[d] -> gate_held_release(d)
	:: d < e && !my.held[d] -> my.view[d] = false; d++
	:: d >= e -> d = 0; break
	od;
	gate_match_release()
}

/* code: primary_pump_checkpoint send_begin send_end */
inline primary_pump_checkpoint()
{
	if
	:: !my.begun ->
		bulk_send(MSG_CKPT_BEGIN,my.epoch + (my.runs -> 0 : KEEP));
		my.begun = true; my.runs = false
	:: else ->
		bulk_send(MSG_CKPT_END,my.epoch); my.ended = true; my.sending = false
#ifdef BREAK_RELEASE_BEFORE_COMMIT
		; x = my.epoch; gate_commit(x); x = 0
#endif
	fi
}

/* code: committed handover_committed handed_over: MSG_COMMITTED; ROLE_EV_HANDED_OVER */
inline commit_arrived(e)
{
	if
	:: !my.relay
	:: my.relay && (!my.in_flight || e != my.epoch || !my.ended || my.committed) -> session_over()
	:: else ->
		my.committed = true;
		gate_commit(e);
		if
		:: my.handing_over ->
			primary_retire();
			if
			:: my.role == ROLE_PROTECTED || UNDECIDED(me) ->
				enter(ROLE_RETIRED);
				my.handed = true; my.handed_here = true
			:: else
			fi
		:: else
		fi
	fi
}

/* code: loaded: MSG_LOADED */
inline loaded(e)
{
	if
	:: !my.relay
	:: my.relay && (!my.in_flight || e != my.epoch || !my.committed) -> session_over()
	:: else -> my.in_flight = false; my.committed = false; my.begun = false; my.ended = false
	fi
}

/* code: digests digest_batch gate_digest: MSG_DIGEST */
inline digests(e)
{
	if
	:: !my.protected || e < my.newest
	:: else ->
		if
		:: e > my.epoch -> session_over()
		:: else ->
#ifdef BREAK_NO_LINEAGE_TAG
			my.view[my.epoch] = true;
#else
			my.view[e] = true;
#endif
			gate_match_release()
		fi
	fi
}

/* code: primary_message link_message: what an earlier primary said is over. (Otherwise the daemon
 * ends the session, which may happen at any moment here.) */
inline primary_message()
{
	if
	:: m == MSG_HEARTBEAT -> primary_heard(x)
	:: m == MSG_REFUSED -> p_peer_yielded()
	:: m == MSG_RUNNING -> start_epoch_0()
	:: m == MSG_COMMITTED -> commit_arrived(x)
	:: m == MSG_LOADED -> loaded(x)
	:: m == MSG_DIGEST -> digests(x)
	:: m == MSG_TAKEN -> peer_speaks()
	:: else
	fi
}

/* code: vm_lost vm_gone: ROLE_EV_VM_LOST, a primary's */
inline p_vm_lost()
{
	close_pvm();
	if
	:: my.role == ROLE_PROTECTED || UNDECIDED(me) ->
		enter(ROLE_RETIRED); primary_retire()
	:: my.role == ROLE_JOINING || my.role == ROLE_ALONE ->
		if :: my.role == ROLE_JOINING -> primary_stop_copy(); link_drop(me) :: else fi;
		if
		:: me == 0 -> enter(ROLE_RETIRED); primary_silence()
		:: else -> enter(ROLE_WAITING); link_drop(me); reprotect_follow()
		fi
	:: else -> my.handed = false; my.handed_here = false
	fi
}

/* model only: a host loses its power: what is left is the marker. A daemon that ends is the same. */
inline crash(h)
{
	host[h].on = false; host[h].fence = IDLE; host[h].term = 0;
	host[h].primary = (h == 0);
	host[h].role = (h == 0 -> ROLE_ALONE : ROLE_WAITING);
	host[h].asked = false; host[h].handed = false;
	host[h].vm_ordered = false; host[h].relay = false; host[h].silent = false;
	host[h].handing_over = false; host[h].drop = false;
	host[h].in_flight = false; host[h].committed = false; host[h].begun = false;
	host[h].ended = false; host[h].sending = false; host[h].runs = false;
	host[h].protected = false; host[h].epoch = 0; host[h].newest = 0; host[h].said = false;
	d = 0;
	do
	:: d < EPOCHS -> host[h].held[d] = false; host[h].view[d] = false; d++
	:: else -> d = 0; break
	od;
	no_copy(h);
	host[h].stale = false; /* there is no VM that could not know it */
	link_drop(h)
}

/* ---- the secondary ---- */

/* code: deliver: what is merged goes to the SVM as one checkpoint */
inline deliver()
{
	assert(!my.merging && my.stopped); /* R3: nothing that is half */
	my.delivering = true
}

/* code: secondary_take_over still_take_over: ROLE_ACT_TAKE_OVER */
inline secondary_take_over()
{
	enter(ROLE_TAKING_OVER);
#ifdef BREAK_HALF_CHECKPOINT
	if :: my.open -> my.lineage = my.ckpt; my.vm = my.ckpt; my.said = false :: else fi;
#endif
	if :: my.open -> my.open = false; my.ckpt = 0 :: else fi; /* as if it never was (R3) */
#ifdef BREAK_HALF_MERGED
	if :: my.merging -> my.merging = false; my.whole = false :: else fi;
#endif
#ifdef BREAK_KEPT_NOT_LOADED
	if :: my.kept && !my.whole -> my.kept = false; my.stopped = false :: else fi;
#endif
#ifdef BREAK_COMMITTED_NOT_LOADED
	my.whole = false; my.merging = false; my.stopped = false; my.kept = false
#else
	if :: my.kept && !my.whole && !my.delivering -> deliver() :: else fi
#endif
}

/* code: secondary_left_colo go_live reprotect_lead taken_over: ROLE_EV_TAKEN_OVER */
inline secondary_left_colo()
{
	safe(!SPEAKS(you));                  /* R6 */
	safe(!g_beyond);                     /* R4: nobody has heard of anything else */
	safe(my.lineage == g_whole);         /* R3, R4: the newest committed, and only that */
	safe(my.vm == my.lineage);           /* R4: and it runs */
	d = 0;
	do
	:: d < EPOCHS ->
		/* R4: what a client has heard, this VM has said or begun with */
		safe(!g_out[d] || d < my.lineage || (d == my.lineage && my.said));
		d++
	:: else -> d = 0; break
	od;
	fast_send(MSG_TAKEN,0);
	my.primary = true; my.vm_ordered = true;
#ifdef BREAK_UNMARK_WHEN_YIELDED
	primary_unmark();
#else
	if :: !my.yielded -> primary_unmark() :: else fi;
#endif
	no_copy(me);
#ifdef TERMS
	if :: my.term < 2 -> my.term++ :: else its.term = 1 fi;
#endif
	enter(ROLE_ALONE);
	beyond();
	its.stale = its.primary && its.vm_ordered
}

/* code: vm_lost peer_lives: until the next session */
inline copy_given_up()
{
	secondary_stop_copy();
	enter(ROLE_WAITING)
}

/* code: peer_lives: ROLE_EV_PEER_LIVES, ROLE_ACT_YIELD */
inline peer_lives()
{
	if
	:: !my.asked && (my.role == ROLE_STANDBY || UNDECIDED(me)) ->
		fast_send(MSG_REFUSED,0);
		copy_given_up()
	:: else
	fi
}

/* code: peer_yielded: ROLE_EV_PEER_YIELDED, a secondary */
inline s_peer_yielded()
{
	if
	:: my.role == ROLE_STANDBY || UNDECIDED(me) -> my.yielded = true; secondary_take_over()
	:: else
	fi
}

/* code: secondary_heard role_heard_term */
inline secondary_heard(says)
{
#ifdef TERMS
	if :: (says == LEADS || says == HIGHER) && its.term > my.term -> my.term = its.term :: else fi;
#endif
	if
	:: my.joined_here
	:: !my.joined_here && says != LEADS && says != HIGHER -> s_peer_yielded()
	:: !my.joined_here && (says == LEADS || says == HIGHER) -> peer_lives()
	fi
}

/* code: protect_asked link_message: MSG_PROTECT */
inline protect_asked()
{
	my.joined_here = true;
	if
	:: my.role != ROLE_JOINING || my.shadow -> session_over()
	:: else -> my.shadow = true
	fi
}

/* code: epoch_0_begins: MSG_START; ROLE_EV_LINEAGE_0; what the SVM said before is told now */
inline epoch_0_begins()
{
	if
	:: my.role != ROLE_JOINING || !my.running -> session_over()
	:: else ->
		my.lineage = 0; my.vm = 0;
		enter(ROLE_STANDBY);
		if
		:: my.said -> g_said[0] = true; fast_send(MSG_DIGEST,0)
		:: else
		fi
	fi
}

/* code: begin_arrived: MSG_CKPT_BEGIN */
inline begin_arrived(e)
{
	if
	:: my.role != ROLE_STANDBY || my.open || my.whole || my.delivering ||
	   (e & 7) != my.lineage + 1 -> session_over()
	:: else ->
		my.open = true; my.ckpt = e & 7; my.keep = (e & KEEP) != 0
#ifdef BREAK_COMMIT_AT_BEGIN
		; fast_send(MSG_COMMITTED,my.ckpt)
#endif
	fi
}

/* code: end_arrived secondary_load still_take: MSG_CKPT_END; the hash is right, it is committed */
inline end_arrived(e)
{
	if
	:: !my.open || e != my.ckpt -> session_over()
	:: else ->
		my.open = false; my.whole = true; g_whole = e;
		d = 0;
		do
		:: d < e -> g_said[d] = false; g_out[d] = false; d++
		:: else -> d = 0; break
		od;
		if :: my.keep || my.kept -> my.kept = true; my.merging = true :: else fi;
#ifndef BREAK_COMMIT_AT_BEGIN
		fast_send(MSG_COMMITTED,e)
#endif
	fi
}

/* code: vm_stopped secondary_begin_lineage shadow_lineage: the SVM stands still, the lineage begins */
inline vm_stopped() { my.stopped = true; my.lineage = my.ckpt; my.said = false }

/* code: lineage_begins: a checkpoint is kept, and the SVM stands still */
inline lineage_begins()
{
	my.whole = false;
	my.lineage = my.ckpt; my.ckpt = 0;
	if
	:: !my.keep || my.role == ROLE_TAKING_OVER -> deliver()
	:: else -> fast_send(MSG_LOADED,my.lineage)
	fi;
	my.keep = false
}

/* code: vm_loaded still_loaded: the SVM runs */
inline vm_loaded()
{
	if
	:: my.delivering -> my.vm = my.image; my.image = 0; my.kept = false; my.delivering = false
	:: else -> my.vm = my.ckpt; my.whole = false; my.ckpt = 0
	fi;
	my.stopped = false;
	fast_send(MSG_LOADED,my.lineage)
}

/* code: handover_arrived: MSG_HANDOVER */
inline handover_arrived(e)
{
	if
	:: e > S_COMMITTED -> session_over()
	:: else -> s_peer_yielded()
	fi
}

/* code: secondary_message copy_message: ROLE_EV_PEER_ALONE is UNPROTECT's */
inline secondary_message()
{
	if
	:: m == MSG_HEARTBEAT -> secondary_heard(x)
	:: m == MSG_PROTECT -> protect_asked()
	:: m == MSG_UNPROTECT ->
		if
		:: my.role == ROLE_STANDBY || UNDECIDED(me) ->
			enter(ROLE_WAITING); secondary_stop_copy(); link_drop(me)
		:: else
		fi
	:: else ->
		if
		:: !my.shadow || my.role == ROLE_TAKING_OVER
		:: my.shadow && !my.joined_here && m != MSG_HANDOVER /* of another session */
		:: else ->
			if
			:: m == MSG_START -> epoch_0_begins()
			:: m == MSG_CKPT_BEGIN -> begin_arrived(x)
			:: m == MSG_CKPT_END -> end_arrived(x)
			:: m == MSG_HANDOVER -> handover_arrived(x)
			:: else -> session_over()
			fi
		fi
	fi
}

/* ---- what can happen ---- */

/* Somebody acts on it, or may when it arrives: a secondary that has no copy from another session
 * gets none, and a primary that does not need to know who is free does not need it in this one. */
#define YIELDS_AT(h) (!host[h].started_here && (host[h].role == ROLE_PROTECTED || UNDECIDED(h)))
#define BEAT_COUNTS ( \
	its.primary && my.primary      -> (my.role != ROLE_RETIRED) : ( \
	!its.primary                   -> (!its.joined_here && \
					   (its.role == ROLE_STANDBY || UNDECIDED(you))) : ( \
	my.role == ROLE_TAKING_OVER    -> (!its.silent) : ( \
	my.role == ROLE_WAITING        -> (NEEDS_VM(you) || YIELDS_AT(you)) : ( \
	my.role == ROLE_JOINING && (NEEDS_VM(you) || YIELDS_AT(you) || its.role == ROLE_ALONE))))))
#define NEEDS_VM(h) (host[h].primary && !host[h].vm_ordered && host[h].role != ROLE_RETIRED)

/* Somebody acts on it as things are: so that what is said again and again is not taken for life when
 * there are no faults any more. */
#define LEADING (my.primary && my.vm_ordered && my.role != ROLE_RETIRED)
#define BEAT_ACTS ( \
	its.primary && my.primary -> (LEADING -> (!its.vm_ordered || its.role == ROLE_RETIRED || \
						  my.term > its.term) : \
						 (!my.vm_ordered && YIELDS_AT(you))) : ( \
	!its.primary              -> (!its.asked || !LEADING) : ( \
	my.role != ROLE_TAKING_OVER || its.role != ROLE_RETIRED)))

/* code: beat: the peer hears of a state, which may be over by then */
inline beat_says()
{
	if
	:: my.primary && !my.vm_ordered -> x = NO_VM
	:: my.primary && my.vm_ordered && my.role == ROLE_RETIRED -> x = RETIRED
	:: my.primary && my.vm_ordered && my.role != ROLE_RETIRED ->
#ifdef MUTE_TERM_NOT_TOLD
		x = LEADS
#else
		x = (my.term > its.term -> HIGHER : LEADS)
#endif
	:: !my.primary && my.role == ROLE_WAITING -> x = FREE
	:: !my.primary && my.role == ROLE_JOINING -> x = JOINS
	:: !my.primary && my.role == ROLE_TAKING_OVER -> x = TAKES
	:: else -> x = HAS_COPY
	fi
}

/* A host needs longer to come back than the other one does to notice that it is off, and to ask. */
#define PEER_KNOWS (!its.link && its.fence == IDLE && its.role != ROLE_PROTECTED && its.role != ROLE_STANDBY && \
		    (its.role != ROLE_DECIDING || !its.on))

#define ROOM (len(fast[you]) < 2)
#define ROOM_FOR_AN_ANSWER (len(fast[you]) < (my.primary -> 3 : 2))

proctype Host(bit me)
{
	mtype m;
	byte x, d;

end:	do

	/* ---- as a primary ---- */

	/* code: primary_boot_due marker_is_there */
	:: d_step { my.on && my.primary && !my.vm_ordered && my.role != ROLE_RETIRED && !my.marker ->
			DID("%d: primary_boot_due\n");
			boot(); skip }
	/* the VM speaks, and nobody holds it */
	:: d_step { SPEAKS(me) && TWO_SPEAK ->
			DID("%d: the VM speaks, and nobody holds it\n");
			safe(!SPEAKS(you));       /* R6 */
			safe(!my.stale);          /* R4 */
			skip }
	/* code: gate_output primary_output: the VM speaks, and is held */
	:: d_step { my.on && my.primary && my.protected && my.relay && !my.silent && !my.said &&
		    my.role == ROLE_PROTECTED ->
			DID("%d: primary_output\n");
			my.said = true; my.held[my.epoch] = true;
			gate_match_release(); skip }
	/* code: primary_copy primary_copy_due ask_to_protect: the marker is on disk before */
	:: d_step { my.on && my.primary && my.role == ROLE_JOINING && my.link && my.vm_ordered &&
		    !my.relay && ROOM ->
			DID("%d: ask_to_protect\n");
#ifndef BREAK_NO_MARKER
			my.marker = (me == 0);
#endif
			my.relay = true;
			fast_send(MSG_PROTECT,0); skip }
	/* code: primary_answer_request primary_let_stop relay_primary_reply: one is in flight */
	:: d_step { my.on && my.relay && !my.in_flight && my.epoch < MAX_EPOCH &&
		    (my.role == ROLE_PROTECTED || UNDECIDED(me)) ->
			DID("%d: primary_vm_stopped\n");
			primary_vm_stopped(true); skip }
	:: d_step { my.on && my.relay && !my.in_flight && my.epoch < MAX_EPOCH &&
		    (my.role == ROLE_PROTECTED || UNDECIDED(me)) ->
			DID("%d: primary_vm_stopped, to be kept\n");
			primary_vm_stopped(false); skip }
	/* code: primary_room */
	:: d_step { my.on && my.link && my.sending && nfull(bulk[you]) ->
			DID("%d: primary_pump_checkpoint\n");
			primary_pump_checkpoint(); skip }
	/* code: primary_handover: the operator moves the VM */
	:: d_step { CAN_FAIL && my.on && my.primary && my.role == ROLE_PROTECTED &&
		    !my.handing_over && my.epoch < MAX_EPOCH ->
			DID("%d: primary_handover\n");
			FAIL; my.handing_over = true; skip }
	/* code: do_vm_lost: the PVM's QEMU dies */
	:: d_step { CAN_FAIL && my.on && my.primary && my.vm_ordered &&
		    (my.role != ROLE_RETIRED || my.handed) && ROOM ->
			DID("%d: do_vm_lost\n");
			FAIL; p_vm_lost(); skip }
	/* code: pvm_failed: its migration channel does */
	:: d_step { CAN_FAIL && my.on && my.relay && my.role == ROLE_PROTECTED ->
			DID("%d: pvm_failed\n");
			FAIL; close_pvm(); skip }
	/* code: channel_lost */
	:: d_step { my.on && my.started_here && my.role == ROLE_PROTECTED && !my.relay ->
			DID("%d: channel_lost\n");
			link_drop(me); skip }

	/* ---- as a secondary ---- */

	/* code: shadow_output secondary_output secondary_flush_digests: its word of this lineage */
	:: d_step { my.on && !my.primary && (my.role == ROLE_STANDBY || UNDECIDED(me)) &&
		    !my.stopped && !my.said && ROOM ->
			DID("%d: secondary_flush_digests\n");
			assert(my.vm == my.lineage);
			my.said = true; g_said[my.lineage] = true;
			fast_send(MSG_DIGEST,my.lineage); skip }
	/* code: keep_output: kept until epoch 0 has begun, or until it is live */
	:: d_step { my.on && my.running && !my.said && !my.whole && !my.kept &&
		    (my.role == ROLE_JOINING || my.role == ROLE_TAKING_OVER) ->
			DID("%d: keep_output\n");
			my.said = true; skip }
	/* code: vm_running: lineage 0 runs */
	:: d_step { my.on && !my.primary && my.role == ROLE_JOINING && my.shadow && !my.running &&
		    my.link && ROOM ->
			DID("%d: vm_running\n");
			my.running = true;
			fast_send(MSG_RUNNING,0); skip }
	/* code: give_up: ROLE_EV_COPY_FAILED */
	:: d_step { CAN_FAIL && my.on && !my.primary && my.role == ROLE_JOINING && my.shadow &&
		    my.link && ROOM ->
			DID("%d: give_up\n");
			FAIL; fast_send(MSG_REFUSED,0);
			enter(ROLE_WAITING); secondary_stop_copy(); link_drop(me); skip }
	/* code: load_due relay_secondary_load still_stopped */
	:: d_step { my.on && my.whole && !my.stopped ->
			DID("%d: vm_stopped\n");
			vm_stopped(); skip }
	/* code: still_due image_merge */
	:: d_step { my.on && my.merging ->
			DID("%d: image_merge\n");
			my.merging = false; my.image = my.ckpt; skip }
	/* code: still_due */
	:: d_step { my.on && my.kept && my.whole && !my.merging && my.stopped && ROOM ->
			DID("%d: lineage_begins\n");
			lineage_begins(); skip }
	/* code: secondary_load_into_svm image_finish */
	:: d_step { my.on && my.stopped && ROOM && (my.delivering || (my.whole && !my.kept)) ->
			DID("%d: vm_loaded\n");
			vm_loaded(); skip }
	/* code: secondary_leave_colo */
	:: d_step { my.on && my.role == ROLE_TAKING_OVER && !my.whole && !my.kept && ROOM ->
			DID("%d: secondary_left_colo\n");
			secondary_left_colo(); skip }
	/* code: copy_broken secondary_svm_failed: the SVM's QEMU dies */
	:: d_step { CAN_FAIL && my.on && !my.primary && my.shadow && ROOM ->
			DID("%d: copy_broken\n");
			FAIL; fast_send(MSG_REFUSED,0);
			copy_given_up(); skip }

	/* ---- as either ---- */

	/* code: primary_message secondary_message link_message */
	:: d_step { my.on && my.link && nempty(fast[me]) && ROOM_FOR_AN_ANSWER ->
			fast[me]?m,x; printf("%d: hears %e %d\n", me, m, x);
			if :: my.primary -> primary_message() :: else -> secondary_message() fi;
			m = 0; x = 0; skip }
	:: d_step { my.on && my.link && nempty(bulk[me]) && ROOM_FOR_AN_ANSWER && (CAN_FAIL || empty(fast[me])) ->
			bulk[me]?m,x; printf("%d: hears %e %d\n", me, m, x);
			if :: my.primary -> primary_message() :: else -> secondary_message() fi;
			m = 0; x = 0; skip }
	/* code: beat node_beat_now heartbeat_pack */
	:: d_step { my.on && my.link && its.link && empty(fast[you]) && BEAT_COUNTS &&
		    (CAN_FAIL || BEAT_ACTS) ->
			DID("%d: beat\n");
			beat_says();
			fast[you]!MSG_HEARTBEAT,x;
			x = 0; skip }
	/* code: tick loss_deadline role_patience */
	:: d_step { (CAN_FAIL || !my.link || !its.link) && my.on &&
		    (my.role == ROLE_PROTECTED || my.role == ROLE_STANDBY) ->
			DID("%d: loss_deadline\n");
			if :: my.link && its.link -> FAIL :: else fi;
			lost(); skip }
	:: d_step { (CAN_FAIL || !my.link || !its.link) && my.on && my.role == ROLE_JOINING ->
			DID("%d: loss_deadline\n");
			if :: my.link && its.link -> FAIL :: else fi;
			session_over(); skip }
	/* code: link_is_now_down */
	:: d_step { (CAN_FAIL || !its.link) && my.on && my.link ->
			DID("%d: link_is_now_down\n");
			if :: its.link -> FAIL :: else fi;
			session_over(); skip }
	/* code: ask ask_fence: ROLE_FENCE_COMMAND, ROLE_ACT_ASK; each question has its own command */
	:: d_step { my.on && my.role == ROLE_DECIDING && !my.asked ->
			DID("%d: ask\n");
#ifdef BREAK_NO_FENCE
			if :: my.primary -> my.asked = true; my.fence = RUNS
			:: else -> secondary_take_over() fi;
#else
			my.asked = true;
#ifdef BREAK_OLD_FENCE_ANSWERS
			if :: my.fence == IDLE -> my.fence = RUNS :: else fi;
#else
			my.fence = RUNS;
#endif
#endif
			skip }
	/* code: ask: not automatic, or no fence: ROLE_FENCE_OPERATOR */
	:: d_step { my.on && my.role == ROLE_DECIDING && !my.asked ->
			DID("%d: nobody can be asked\n");
			enter(ROLE_STUCK); skip }
	/* code: do_fenced fence_ended: ROLE_EV_RIGHT */
	:: d_step { my.on && my.fence == KILLED ->
			DID("%d: fence_ended: yes\n");
			my.fence = IDLE;
			if
#ifdef BREAK_OLD_FENCE_ANSWERS
			:: UNDECIDED(me) && my.primary -> primary_go_alone()
#else
			:: UNDECIDED(me) && my.asked && my.primary -> primary_go_alone()
#endif
			:: UNDECIDED(me) && my.asked && !my.primary -> secondary_take_over()
			:: else
			fi; skip }
	/* code: denied: ROLE_EV_NO_RIGHT; it may have worked all the same */
	:: d_step { my.on && my.fence != IDLE ->
			DID("%d: fence_ended: no\n");
			my.fence = IDLE; my.asked = false;
#ifdef BREAK_FAILED_FENCE_IS_RIGHT
			if
			:: my.role == ROLE_DECIDING && !my.primary -> secondary_take_over()
			:: my.role == ROLE_DECIDING && my.primary -> enter(ROLE_STUCK)
			:: else
			fi;
#else
			if :: my.role == ROLE_DECIDING -> enter(ROLE_STUCK) :: else fi;
#endif
			skip }
	/* code: do_failover primary_force_boot: ROLE_EV_FORCE: the other host is off, he has looked */
	:: d_step { CAN_FAIL && my.on && !its.on && (UNDECIDED(me) || my.handed ||
		    (my.primary && !my.vm_ordered && my.role != ROLE_RETIRED)) ->
			DID("%d: do_failover\n");
			FAIL;
			if
			:: my.primary && !my.vm_ordered -> primary_unmark(); boot()
			:: my.primary && my.vm_ordered ->
				my.stale = false; /* what a peer said to which it was handed is lost */
				primary_go_alone()
			:: else -> secondary_take_over()
			fi; skip }
	/* code: node_say_goodbye do_goodbye: `stop`; a secondary that ends later than it has said so
	 * is copy_broken() */
	:: d_step { CAN_FAIL && my.on && my.link && ROOM ->
			DID("%d: node_say_goodbye\n");
			FAIL;
			if
			:: my.primary -> fast_send(MSG_UNPROTECT,0); crash(me)
#ifdef BREAK_STOPPED_TAKES_OVER
			:: else -> fast_send(MSG_REFUSED,0)
#else
			:: else -> fast_send(MSG_REFUSED,0); crash(me)
#endif
			fi; skip }
	/* power */
	:: d_step { CAN_FAIL && my.on ->
			DID("%d: power off\n");
			FAIL; crash(me); skip }
	:: d_step { !my.on && (CAN_FAIL || PEER_KNOWS) ->
			DID("%d: power on\n");
			my.on = true; skip }
	od
}

/* code: link_up link_is_now_up: ROLE_EV_LINK_UP; a new session */
proctype sessions()
{
end:	do
	:: d_step { host[0].on && host[1].on && !host[0].link && !host[1].link ->
			printf("link: a new session\n");
			host[0].link = true; host[1].link = true;
			forget(fast[0]); forget(fast[1]); forget(bulk[0]); forget(bulk[1]);
			if :: host[0].role == ROLE_WAITING -> host[0].role = ROLE_JOINING :: else fi;
			if :: host[1].role == ROLE_WAITING -> host[1].role = ROLE_JOINING :: else fi;
			skip }
	od
}

/* The arbiter: of two that ask, the first one's command switches the other host off, in one step, and
 * what that one had asked is gone with it. How a command ends is its host's to hear (fence_ended). */
proctype arbiter(bit me)
{
	byte d;

end:	do
	:: d_step { REACHES_ARBITER && my.on && my.fence == RUNS ->
			DID("%d: fence, the other host is off\n");
			my.fence = (my.asked -> KILLED : IDLE);
#ifdef FENCE_LIES
#elif defined(BREAK_FENCE_LIES)
#else
			if :: its.on -> crash(you) :: else fi;
#endif
			skip }
	od
}

#ifdef LIVENESS
/* Faults end: at the latest when there have been FAULTS of them. */
proctype peace()
{
end:	do
	:: d_step { faults > 0 -> printf("no more faults\n"); faults = 0; skip }
	od
}
#endif

init {
	d_step {
		host[0].on = true; host[0].primary = true; host[0].role = ROLE_ALONE;
		host[1].on = true; host[1].role = ROLE_WAITING
	}
	atomic {
		run Host(0); run Host(1); run sessions(); run arbiter(0); run arbiter(1);
#ifdef LIVENESS
		run peace()
#endif
	}
}

#ifdef LIVENESS
/* Documented, docs/promises.md: both have lost the VM or the word of who has it, and an operator is
 * told so. A VM was handed over, and the session ended before the peer spoke; or the VM has ended here
 * and the copy is lost, too: the daemon waits to be started again. */
#define HANDED(h)   (host[h].role == ROLE_RETIRED && host[h].handed && !host[h].handed_here)
#define ENDED(h)    (host[h].role == ROLE_RETIRED && !host[h].handed)
#define NO_COPY(h)  (!host[h].primary && \
		     (host[h].role == ROLE_WAITING || host[h].role == ROLE_JOINING))
#define OPERATOR    (HANDED(0) || HANDED(1) || ENDED(0) || ENDED(1) || (NO_COPY(0) && NO_COPY(1)))
#define SETTLED     ((PROTECTS(0) && COPIED(1)) || (PROTECTS(1) && COPIED(0)) || OPERATOR)

/* What must not be: that faults have ended, and again and again the VM is not protected. */
never {
	do
	:: true
	:: faults == 0 && !SETTLED -> goto accept
	od;
accept:
	if
	:: true -> do :: true :: faults == 0 && !SETTLED -> goto accept od
	fi
}
#endif
