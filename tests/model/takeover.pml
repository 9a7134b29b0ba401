/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who may speak, and what of: checkpoint, commit, takeover, fencing, protection that begins again.
 * For spin; tests/model/check.py runs it, docs/model.md explains it.
 *
 * Two hosts, P and S, each with a daemon that does one thing at a time (the data thread), a link of
 * two channels to the secondary and one back, a fence for each, an operator. Names are those of the
 * code: an inline has the symbols that it stands for in a comment "code:", which a test looks up.
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
 * exempt: MSG_READY, MSG_STREAM, MSG_STREAM_BACK (parts of the first copy, which is one step here)
 * exempt: MSG_INPUT, MSG_FLOW_OPEN, MSG_TS_LEAD, MSG_BROKEN (input and numbers: R5, R7)
 * exempt: MSG_CKPT_DATA (between MSG_CKPT_BEGIN and MSG_CKPT_END: a half checkpoint has begun)
 * exempt: MSG_ASK, MSG_SAID (what is shown of divergences), MSG_MAP (numbers: R7), MSG_CUT_ASK, MSG_CUT (the inside of a stream: R2)
 * exempt: ROLE_EV_PEER_FREE (here the link alone begins a copy), ROLE_EV_PEER_LEADS, ROLE_ACT_FOLLOW
 *         (here sides do not change: P stays P; /role/sides in tests/unit/test_role.c is about that)
 * exempt: MSG_TYPE_END (no message), ROLE_EV_HEARD (time), ROLE_ACT_TELL (the status)
 * exempt: ROLE_FENCE_NONE (the operator has written that loss is proof enough: it is not)
 */
#ifndef MAX_EPOCH
#define MAX_EPOCH 2
#endif
#define EPOCHS (MAX_EPOCH + 1)
#define DID(text) printf(text) /* the steps of a trail */

mtype = {
	ROLE_WAITING, ROLE_ALONE, ROLE_JOINING, ROLE_PROTECTED, ROLE_STANDBY, ROLE_DECIDING,
	ROLE_STUCK, ROLE_TAKING_OVER, ROLE_RETIRED,
	MSG_HEARTBEAT, MSG_PROTECT, MSG_REFUSED, MSG_RUNNING, MSG_START, MSG_CKPT_BEGIN, MSG_CKPT_END,
	MSG_COMMITTED, MSG_LOADED, MSG_DIGEST, MSG_HANDOVER, MSG_TAKEN, MSG_UNPROTECT
};

/* The link: what is in a channel can be read as long as the reader has not seen the end. */
chan fast = [3] of { mtype, byte };
chan bulk = [2] of { mtype, byte };
chan back = [3] of { mtype, byte };

/* struct role, struct primary, struct gate of P's daemon */
bool p_on = true, p_link, p_asked, p_vm_ordered, p_relay, p_silent, p_handing_over;
bool p_handed;           /* RETIRED by a switch-over in this session, S has not said that it speaks */
bool p_drop;             /* HOLD_MODE_DROP: the hold lets nothing out, whoever releases */
bool p_started_here, p_in_flight, p_committed, p_begun, p_ended, p_sending, p_protected;
mtype p_role = ROLE_ALONE;
byte p_epoch, p_newest;  /* gate->epoch, gate->committed */
bool p_held[EPOCHS];     /* said in that epoch, and not released */
bool p_said;             /* the PVM has said its word of this epoch */
bool p_view[EPOCHS];     /* the digest of that lineage has come */
bool p_marker;           /* on disk */

/* struct role, struct secondary of S's daemon */
bool s_on = true, s_link, s_asked, s_joined_here, s_shadow, s_running, s_open, s_whole, s_loading;
bool s_said;
mtype s_role = ROLE_WAITING;
byte s_lineage, s_ckpt;
#define S_COMMITTED (s_whole -> s_ckpt : s_lineage) /* node->committed_epoch */

/* The fence commands: one of each daemon's can run. */
#define IDLE   0
#define RUNS   1
#define KILLED 2
byte p_fence = IDLE, s_fence = IDLE;

/* What is true, whatever the daemons believe. */
bool g_out[EPOCHS];       /* a client has heard the word of that epoch */
bool g_said[EPOCHS];      /* lineage e said it */
byte g_whole;             /* the newest checkpoint that S has whole */
bool g_beyond = true;     /* P said something that is in no checkpoint of this protection */
bool g_survivor_spoke;    /* S said something that the PVM does not know */

#define S_SPEAKS    (s_on && s_role == ROLE_ALONE)
#define P_UNDECIDED (p_role == ROLE_DECIDING || p_role == ROLE_STUCK)
#define S_UNDECIDED (s_role == ROLE_DECIDING || s_role == ROLE_STUCK)
#define P_MAY_SPEAK (p_on && p_vm_ordered && !p_silent && !p_drop && \
		     (p_role == ROLE_ALONE || p_role == ROLE_JOINING))

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
inline fast_send(type, value) { if :: p_link && s_link -> fast!type,value :: else fi }
/* code: link_send */
inline bulk_send(type, value) { if :: p_link && s_link -> bulk!type,value :: else fi }
/* code: node_send */
inline back_send(type, value) { if :: p_link && s_link -> back!type,value :: else fi }

/* code: link_drop */
inline p_link_drop() { p_link = false; p_started_here = false; forget(back) }
/* code: link_drop */
inline s_link_drop() { s_link = false; s_joined_here = false; forget(fast); forget(bulk) }

/* ---- what a client hears ---- */

/* code: gate_held_release hold_release: by match or by commit */
inline gate_held_release(e)
{
	p_held[e] = false;
	if
	:: p_drop
	:: else ->
		assert(!S_SPEAKS);                /* R6 */
		assert(!g_survivor_spoke);        /* R4 */
		assert(g_said[e] || g_whole > e); /* R1 */
		if :: e >= g_whole -> g_out[e] = true :: else fi /* what is in a whole one is safe */
	fi
}

/* code: gate_match_release: in the newest committed epoch only */
inline gate_match_release()
{
	if :: p_held[p_newest] && p_view[p_newest] -> gate_held_release(p_newest) :: else fi
}

/* ---- the primary ---- */

/* code: primary_mark primary_unmark */
inline primary_unmark() { p_marker = false }

/* code: boot: a VM that begins anew knows nothing and owes nothing */
inline boot()
{
	p_vm_ordered = true;
	g_survivor_spoke = false
}

/* code: close_pvm protection_over */
inline close_pvm()
{
	p_relay = false; p_in_flight = false; p_sending = false;
	p_committed = false; p_begun = false; p_ended = false
}

/* model only: no epoch, nothing held */
inline gate_clear()
{
	p_epoch = 0; p_newest = 0; p_protected = false; p_said = false;
	d = 0;
	do
	:: d < EPOCHS -> p_held[d] = false; p_view[d] = false; d++
	:: else -> d = 0; break
	od
}

/* code: enter: a question that is over is not asked any more
 * code: primary_stop_copy: ROLE_ACT_STOP_COPY */
inline primary_stop_copy()
{
	close_pvm();
#ifdef BREAK_UNMARK_WITHOUT_VM
	primary_unmark()
#else
	if :: p_vm_ordered -> primary_unmark() :: else fi
#endif
}

/* code: primary_go_alone gate_unprotect granted: ROLE_ACT_GO_ALONE */
inline primary_go_alone()
{
	p_role = ROLE_ALONE;
	p_asked = false;
	close_pvm();
	if :: p_silent -> p_drop = false :: else fi;
	p_handing_over = false; p_silent = false; p_handed = false;
	primary_unmark();
	gate_clear();         /* what was held goes out: it is the first that P says alone */
	p_link_drop()
}

/* code: primary_retire: HANDOVER */
inline primary_retire()
{
	p_silent = true;
#ifndef BREAK_RETIRED_RELEASES
	p_drop = true;
#endif
	fast_send(MSG_HANDOVER,p_newest)
}

/* code: primary_silence: ROLE_ACT_SILENCE */
inline primary_silence()
{
	p_silent = true; p_drop = true;
	p_role = ROLE_RETIRED; p_asked = false
}

/* code: lost: ROLE_EV_TICK, the heartbeats are missing; ROLE_ACT_DROP_LINK */
inline p_lost()
{
	p_role = ROLE_DECIDING; p_asked = false;
	p_link_drop()
}

/* code: ask ask_fence: ROLE_FENCE_COMMAND, ROLE_ACT_ASK; each question has a command of its own */
inline p_ask()
{
	p_asked = true;
#ifdef BREAK_OLD_FENCE_ANSWERS
	if :: p_fence == IDLE -> p_fence = RUNS :: else fi
#else
	p_fence = RUNS
#endif
}

/* code: peer_yielded: ROLE_EV_PEER_YIELDED */
inline p_peer_yielded()
{
	if
	:: p_role == ROLE_PROTECTED || P_UNDECIDED || p_handed -> primary_go_alone()
	:: p_role == ROLE_JOINING ->
		p_role = ROLE_ALONE; primary_stop_copy(); p_link_drop()
	:: else
	fi
}

/* code: primary_heard role_event: what a heartbeat says; ROLE_EV_PEER_SPEAKS */
inline primary_heard(state)
{
	if
	:: state == ROLE_ALONE || state == ROLE_TAKING_OVER ->
		if :: !p_silent && p_role != ROLE_RETIRED -> primary_silence() :: else fi;
		if :: !p_silent || state == ROLE_ALONE -> p_handed = false :: else fi
	:: state == ROLE_WAITING || state == ROLE_JOINING ->
		if
		:: !p_vm_ordered && p_role != ROLE_RETIRED -> primary_unmark(); boot()
		:: else
		fi;
		if
		:: !p_started_here && (p_role == ROLE_PROTECTED || P_UNDECIDED) -> p_peer_yielded()
		:: else
		fi
	:: else
	fi
}

/* code: start_epoch_0 gate_cut gate_flow_clear_views: ROLE_EV_LINEAGE_0 */
inline start_epoch_0()
{
	if
	:: p_relay && p_role == ROLE_JOINING ->
		gate_clear();
		p_protected = true; p_committed = true; p_started_here = true;
		fast_send(MSG_START,0);
		g_beyond = false; g_whole = 0;
		do
		:: d < EPOCHS -> g_out[d] = false; g_said[d] = false; d++
		:: else -> d = 0; break
		od;
		p_role = ROLE_PROTECTED
	:: else
	fi
}

/* code: primary_vm_stopped gate_cut: the cut of C(p_epoch + 1) */
inline primary_vm_stopped()
{
	p_epoch++; p_said = false;
	p_in_flight = true; p_committed = false; p_begun = false; p_ended = false;
	if :: p_handing_over -> p_silent = true :: else fi;
	p_sending = true /* primary_vm_captured */
}

/* code: gate_commit */
inline gate_commit(e)
{
	p_newest = e;
	d = 0;
	do
	:: d < e && p_held[d] -> gate_held_release(d)
	:: d < e && !p_held[d] -> d++
	:: d >= e -> d = 0; break
	od;
	gate_match_release()
}

/* code: primary_pump_checkpoint send_begin send_end */
inline primary_pump_checkpoint()
{
	if
	:: !p_begun -> bulk_send(MSG_CKPT_BEGIN,p_epoch); p_begun = true
	:: else ->
		bulk_send(MSG_CKPT_END,p_epoch); p_ended = true; p_sending = false
#ifdef BREAK_RELEASE_BEFORE_COMMIT
		; gate_commit(p_epoch)
#endif
	fi
}

/* code: committed handover_committed handed_over: MSG_COMMITTED; ROLE_EV_HANDED_OVER */
inline committed(e)
{
	if
	:: !p_relay
	:: p_relay && (!p_in_flight || e != p_epoch || !p_ended || p_committed) -> p_link_drop()
	:: else ->
		p_committed = true;
		gate_commit(e);
		if
		:: p_handing_over ->
			primary_retire();
			if
			:: p_role == ROLE_PROTECTED || P_UNDECIDED ->
				p_role = ROLE_RETIRED; p_handed = true; p_asked = false
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
	:: !p_relay
	:: p_relay && (!p_in_flight || e != p_epoch || !p_committed) -> p_link_drop()
	:: else -> p_in_flight = false; p_committed = false; p_begun = false; p_ended = false
	fi
}

/* code: digests gate_digest: MSG_DIGEST */
inline digests(lineage)
{
	if
	:: !p_protected || lineage < p_newest
	:: else ->
		if
		:: lineage > p_epoch -> p_link_drop()
		:: else ->
#ifdef BREAK_NO_LINEAGE_TAG
			p_view[p_epoch] = true;
#else
			p_view[lineage] = true;
#endif
			gate_match_release()
		fi
	fi
}

/* code: primary_message */
inline primary_message()
{
	if
	:: m == MSG_HEARTBEAT -> primary_heard(x)
	:: m == MSG_REFUSED -> p_peer_yielded()
	:: m == MSG_RUNNING -> start_epoch_0()
	:: m == MSG_COMMITTED -> committed(x)
	:: m == MSG_LOADED -> loaded(x)
	:: m == MSG_DIGEST -> digests(x)
	:: m == MSG_TAKEN -> p_handed = false
	fi;
	m = 0; x = 0
}

/* code: vm_lost vm_gone: ROLE_EV_VM_LOST */
inline p_vm_lost()
{
	close_pvm();
	p_handed = false;
	if
	:: p_role == ROLE_PROTECTED || P_UNDECIDED ->
		p_role = ROLE_RETIRED; p_asked = false; primary_retire()
	:: p_role == ROLE_JOINING ->
		p_role = ROLE_RETIRED; primary_silence(); primary_stop_copy(); p_link_drop()
	:: p_role == ROLE_ALONE -> primary_silence()
	:: else
	fi
}

/* model only: P's host loses its power: what is left is the marker. */
inline p_crash()
{
	p_on = false; p_role = ROLE_ALONE; p_link = false; p_asked = false;
	p_vm_ordered = false; p_silent = false; p_drop = false; p_handing_over = false; p_handed = false; p_started_here = false;
	close_pvm(); gate_clear();
	forget(back);
	g_survivor_spoke = false; /* there is no PVM that could not know it */
	p_fence = IDLE
}

/* ---- the secondary ---- */

/* code: secondary_stop_copy: ROLE_ACT_STOP_COPY */
inline secondary_stop_copy()
{
	s_asked = false; /* every way here leaves DECIDING */
	s_shadow = false; s_running = false; s_open = false; s_whole = false; s_loading = false;
	s_said = false; s_lineage = 0; s_ckpt = 0
}

/* code: secondary_take_over secondary_leave_colo: ROLE_ACT_TAKE_OVER */
inline secondary_take_over()
{
	s_role = ROLE_TAKING_OVER;
	s_asked = false;
#ifdef BREAK_HALF_CHECKPOINT
	if :: s_open -> s_lineage = s_ckpt; s_said = false :: else fi;
#endif
	if :: s_open -> s_open = false; s_ckpt = 0 :: else fi /* it came half: as if it never was (R3) */
#ifdef BREAK_COMMITTED_NOT_LOADED
	; s_whole = false; s_loading = false
#endif
}

/* code: secondary_left_colo go_live: ROLE_EV_TAKEN_OVER, R4 and R6 at the moment that S speaks */
inline secondary_left_colo()
{
	assert(!P_MAY_SPEAK);                 /* R6 */
	assert(!g_beyond);                    /* R4: nobody has heard of anything else */
	assert(s_lineage == g_whole);         /* R3, R4: the newest committed, and only that */
	d = 0;
	do
	:: d < EPOCHS ->
		/* R4: what a client has heard, this VM has said or begun with */
		assert(!g_out[d] || d < s_lineage || (d == s_lineage && s_said));
		d++
	:: else -> d = 0; break
	od;
	s_role = ROLE_ALONE;
	back_send(MSG_TAKEN,0);
	g_survivor_spoke = p_vm_ordered
}

/* code: lost: ROLE_EV_TICK; ROLE_ACT_DROP_LINK */
inline s_lost()
{
	s_role = ROLE_DECIDING; s_asked = false;
	s_link_drop()
}

/* code: ask ask_fence: ROLE_ACT_ASK */
inline s_ask()
{
#ifdef BREAK_NO_FENCE
	secondary_take_over()
#else
	s_asked = true;
	s_fence = RUNS
#endif
}

/* code: peer_lives: ROLE_EV_PEER_LIVES, ROLE_ACT_YIELD */
inline s_peer_lives()
{
	if
	:: !s_asked && (s_role == ROLE_STANDBY || S_UNDECIDED) ->
		s_role = ROLE_WAITING;
		back_send(MSG_REFUSED,0);
		secondary_stop_copy()
	:: else
	fi
}

/* code: peer_yielded: ROLE_EV_PEER_YIELDED */
inline s_peer_yielded()
{
	if :: s_role == ROLE_STANDBY || S_UNDECIDED -> secondary_take_over() :: else fi
}

/* code: secondary_heard */
inline secondary_heard(state)
{
	if
	:: s_joined_here
	:: !s_joined_here && (state == ROLE_WAITING || state == ROLE_RETIRED) -> s_peer_yielded()
	:: !s_joined_here && state != ROLE_WAITING && state != ROLE_RETIRED -> s_peer_lives()
	fi
}

/* code: protect_asked link_message: MSG_PROTECT */
inline protect_asked()
{
	s_joined_here = true;
	if
	:: s_role != ROLE_JOINING || s_shadow -> s_link_drop()
	:: else -> s_shadow = true
	fi
}

/* code: epoch_0_begins: MSG_START; ROLE_EV_LINEAGE_0; what the SVM said before is told now */
inline epoch_0_begins()
{
	if
	:: s_role != ROLE_JOINING || !s_running -> s_link_drop()
	:: else ->
		s_lineage = 0;
		s_role = ROLE_STANDBY;
		if
		:: s_said -> g_said[0] = true; back_send(MSG_DIGEST,0)
		:: else
		fi
	fi
}

/* code: begin_arrived: MSG_CKPT_BEGIN */
inline begin_arrived(e)
{
	if
	:: s_role != ROLE_STANDBY || s_open || s_whole || e != s_lineage + 1 -> s_link_drop()
	:: else ->
		s_open = true; s_ckpt = e
#ifdef BREAK_COMMIT_AT_BEGIN
		; back_send(MSG_COMMITTED,e)
#endif
	fi
}

/* code: end_arrived secondary_load: MSG_CKPT_END; the hash is right, it is committed */
inline end_arrived(e)
{
	if
	:: !s_open || e != s_ckpt -> s_link_drop()
	:: else ->
		s_open = false; s_whole = true; g_whole = e;
		d = 0;
		do
		:: d < e -> g_said[d] = false; g_out[d] = false; d++
		:: else -> d = 0; break
		od;
#ifndef BREAK_COMMIT_AT_BEGIN
		back_send(MSG_COMMITTED,e)
#endif
	fi
}

/* code: vm_stopped shadow_lineage: the SVM stands still, the new lineage begins */
inline vm_stopped() { s_loading = true; s_lineage = s_ckpt; s_said = false }

/* code: vm_loaded secondary_leave_colo */
inline vm_loaded()
{
	s_whole = false; s_loading = false; s_ckpt = 0;
	back_send(MSG_LOADED,s_lineage)
}

/* code: handover_arrived: MSG_HANDOVER */
inline handover_arrived(e)
{
	if
	:: e > S_COMMITTED -> s_link_drop()
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
		:: s_role == ROLE_STANDBY || S_UNDECIDED ->
			s_role = ROLE_WAITING; secondary_stop_copy(); s_link_drop()
		:: else
		fi
	:: m != MSG_HEARTBEAT && m != MSG_PROTECT && m != MSG_UNPROTECT ->
		if
		:: !s_shadow || s_role == ROLE_ALONE || s_role == ROLE_TAKING_OVER
		:: else ->
			if
			:: m == MSG_START -> epoch_0_begins()
			:: m == MSG_CKPT_BEGIN -> begin_arrived(x)
			:: m == MSG_CKPT_END -> end_arrived(x)
			:: m == MSG_HANDOVER -> handover_arrived(x)
			fi
		fi
	fi;
	m = 0; x = 0
}

/* model only: S's host loses its power: the copy is gone. */
inline s_crash()
{
	s_on = false; s_role = ROLE_WAITING; s_link = false; s_asked = false;
	s_joined_here = false;
	secondary_stop_copy();
	forget(fast); forget(bulk);
	s_fence = IDLE
}

/* ---- what can happen ---- */

active proctype P()
{
	mtype m;
	byte x, d;

	do
	/* code: primary_boot_due marker_is_there */
	:: d_step { p_on && !p_vm_ordered && p_role != ROLE_RETIRED && !p_marker ->
			DID("P: primary_boot_due\n");
			boot(); skip }
	/* code: primary_force_boot: the other host is off, the operator has looked */
	:: d_step { p_on && !p_vm_ordered && p_role != ROLE_RETIRED && p_marker && !s_on ->
			DID("P: primary_force_boot\n");
			primary_unmark(); boot(); skip }
	/* the VM speaks, and nobody holds it */
	:: d_step { P_MAY_SPEAK && (!g_beyond || S_SPEAKS || g_survivor_spoke) ->
			DID("P: the VM speaks, and nobody holds it\n");
			assert(!S_SPEAKS);          /* R6 */
			assert(!g_survivor_spoke);  /* R4 */
			g_beyond = true; skip }
	/* code: gate_output primary_output: the VM speaks, and is held */
	:: d_step { p_on && p_protected && p_relay && !p_silent && !p_said &&
		    p_role != ROLE_RETIRED ->
			DID("P: primary_output\n");
			p_said = true; p_held[p_epoch] = true;
			gate_match_release(); skip }
	/* code: primary_copy_due ask_to_protect: the copy begins, the marker is on disk before */
	:: d_step { p_on && p_role == ROLE_JOINING && p_link && p_vm_ordered && !p_relay &&
		    nfull(fast) ->
			DID("P: ask_to_protect\n");
#ifndef BREAK_NO_MARKER
			p_marker = true;
#endif
			p_relay = true;
			fast_send(MSG_PROTECT,0); skip }
	/* code: primary_message link_message */
	:: d_step { p_on && p_link && nempty(back) && nfull(fast) ->
			back?m,x; printf("P: hears %e %d\n", m, x);
			primary_message(); skip }
	/* code: beat: the peer hears of a state, which may be over by then; none that it ignores */
	:: d_step { p_on && p_link && s_link && empty(fast) && !s_joined_here ->
			DID("P: beat\n");
			x = (p_vm_ordered -> p_role : ROLE_WAITING);
			fast_send(MSG_HEARTBEAT,x);
			x = 0; skip }
	/* code: primary_answer_request primary_let_stop relay_primary_reply: one is in flight */
	:: d_step { p_on && p_relay && !p_in_flight && p_epoch < MAX_EPOCH &&
		    (p_role == ROLE_PROTECTED || P_UNDECIDED) ->
			DID("P: primary_vm_stopped\n");
			primary_vm_stopped(); skip }
	/* code: primary_pump_checkpoint primary_room */
	:: d_step { p_on && p_link && p_sending && nfull(bulk) ->
			DID("P: primary_pump_checkpoint\n");
			primary_pump_checkpoint(); skip }
	/* code: primary_handover: the operator moves the VM */
	:: d_step { p_on && p_role == ROLE_PROTECTED && !p_handing_over && p_epoch < MAX_EPOCH ->
			DID("P: primary_handover\n");
			p_handing_over = true; skip }
	/* code: tick loss_deadline */
	:: d_step { p_on && p_role == ROLE_PROTECTED ->
			DID("P: loss_deadline\n");
			p_lost(); skip }
	:: d_step { p_on && p_role == ROLE_JOINING ->
			DID("P: loss_deadline\n");
			p_role = ROLE_ALONE; primary_stop_copy(); p_link_drop(); skip }
	/* code: link_down link_is_now_down: ROLE_EV_LINK_DOWN */
	:: d_step { p_on && p_link ->
			DID("P: link_is_now_down\n");
			p_link_drop();
			if
			:: p_role == ROLE_JOINING -> p_role = ROLE_ALONE; primary_stop_copy()
			:: else
			fi; skip }
	/* code: ask */
	:: d_step { p_on && p_role == ROLE_DECIDING && !p_asked ->
			DID("P: ask\n");
			p_ask(); skip }
	/* code: denied: not automatic, or no fence: ROLE_FENCE_OPERATOR */
	:: d_step { p_on && p_role == ROLE_DECIDING && !p_asked ->
			DID("P: denied\n");
			p_role = ROLE_STUCK; skip }
	/* code: do_failover: ROLE_EV_FORCE: the other host is off */
	:: d_step { p_on && P_UNDECIDED && !s_on ->
			DID("P: do_failover\n");
			primary_go_alone(); skip }
	/* code: do_fenced fence_over: ROLE_EV_RIGHT, ROLE_EV_NO_RIGHT */
	:: d_step { p_on && p_fence == KILLED ->
			DID("P: fence_over\n");
			p_fence = IDLE;
			if
#ifdef BREAK_OLD_FENCE_ANSWERS
			:: P_UNDECIDED -> primary_go_alone()
#else
			:: P_UNDECIDED && p_asked -> primary_go_alone()
#endif
			:: else
			fi; skip }
	:: d_step { p_on && p_fence != IDLE ->
			DID("P: fence_over\n");
			p_fence = IDLE; p_asked = false;
			if :: p_role == ROLE_DECIDING -> p_role = ROLE_STUCK :: else fi; skip }
	/* code: do_vm_lost: the PVM's QEMU dies */
	:: d_step { p_on && p_vm_ordered && (p_role != ROLE_RETIRED || p_handed) && nfull(fast) ->
			DID("P: do_vm_lost\n");
			p_vm_lost(); skip }
	/* code: pvm_failed channel_lost: its migration channel does */
	:: d_step { p_on && p_relay && p_role == ROLE_PROTECTED ->
			DID("P: channel_lost\n");
			close_pvm(); skip }
	/* code: node_say_goodbye: `stop` */
	:: d_step { p_on && p_link && nfull(fast) ->
			DID("P: node_say_goodbye\n");
			fast_send(MSG_UNPROTECT,0); p_crash(); skip }
	/* power */
	:: d_step { p_on ->
			DID("P: power off\n");
			p_crash(); skip }
	:: d_step { !p_on ->
			DID("P: power on\n");
			p_on = true; skip }
	od
}

active proctype S()
{
	mtype m;
	byte x, d;

	do
	/* the survivor speaks */
	:: d_step { S_SPEAKS && P_MAY_SPEAK ->
			DID("S: the survivor speaks\n");
			assert(!P_MAY_SPEAK); skip } /* R6 */
	/* code: shadow_output secondary_flush_digests: the SVM says its word of this lineage */
	:: d_step { s_on && (s_role == ROLE_STANDBY || S_UNDECIDED) && !s_loading && !s_said &&
		    len(back) < 2 ->
			DID("S: secondary_flush_digests\n");
			s_said = true; g_said[s_lineage] = true;
			back_send(MSG_DIGEST,s_lineage); skip }
	/* code: keep_output: kept until epoch 0 has begun, or until it is live */
	:: d_step { s_on && s_running && !s_said && !s_whole &&
		    (s_role == ROLE_JOINING || s_role == ROLE_TAKING_OVER) ->
			DID("S: keep_output\n");
			s_said = true; skip }
	/* code: vm_running: lineage 0 runs */
	:: d_step { s_on && s_role == ROLE_JOINING && s_shadow && !s_running && s_link &&
		    nfull(back) ->
			DID("S: vm_running\n");
			s_running = true;
			back_send(MSG_RUNNING,0); skip }
	/* code: give_up: ROLE_EV_COPY_FAILED */
	:: d_step { s_on && s_role == ROLE_JOINING && s_shadow && s_link && nfull(back) ->
			DID("S: give_up\n");
			back_send(MSG_REFUSED,0);
			s_role = ROLE_WAITING; secondary_stop_copy(); s_link_drop(); skip }
	/* code: secondary_message link_message */
	:: d_step { s_on && s_link && nempty(fast) && len(back) < 2 ->
			fast?m,x; printf("S: hears %e %d\n", m, x);
			secondary_message(); skip }
	:: d_step { s_on && s_link && nempty(bulk) && len(back) < 2 ->
			bulk?m,x; printf("S: hears %e %d\n", m, x);
			secondary_message(); skip }
	/* code: beat */
	:: d_step { s_on && s_link && p_link && empty(back) &&
		    (((s_role == ROLE_ALONE || s_role == ROLE_TAKING_OVER) && !p_silent) ||
		     ((s_role == ROLE_WAITING || s_role == ROLE_JOINING) && !p_started_here)) ->
			DID("S: beat\n");
			back_send(MSG_HEARTBEAT,s_role); skip }
	/* code: secondary_load load_due relay_secondary_load */
	:: d_step { s_on && s_whole && !s_loading ->
			DID("S: vm_stopped\n");
			vm_stopped(); skip }
	:: d_step { s_on && s_whole && s_loading && nfull(back) ->
			DID("S: vm_loaded\n");
			vm_loaded(); skip }
	/* code: tick loss_deadline */
	:: d_step { s_on && s_role == ROLE_STANDBY ->
			DID("S: loss_deadline\n");
			s_lost(); skip }
	:: d_step { s_on && s_role == ROLE_JOINING ->
			DID("S: loss_deadline\n");
			s_role = ROLE_WAITING; secondary_stop_copy(); s_link_drop(); skip }
	/* code: link_down link_is_now_down */
	:: d_step { s_on && s_link ->
			DID("S: link_is_now_down\n");
			s_link_drop();
			if
			:: s_role == ROLE_JOINING -> s_role = ROLE_WAITING; secondary_stop_copy()
			:: else
			fi; skip }
	/* code: ask */
	:: d_step { s_on && s_role == ROLE_DECIDING && !s_asked ->
			DID("S: ask\n");
			s_ask(); skip }
	/* code: denied */
	:: d_step { s_on && s_role == ROLE_DECIDING && !s_asked ->
			DID("S: denied\n");
			s_role = ROLE_STUCK; skip }
	/* code: do_failover: ROLE_EV_FORCE: the other host is off */
	:: d_step { s_on && S_UNDECIDED && !p_on ->
			DID("S: do_failover\n");
			secondary_take_over(); skip }
	/* code: do_fenced fence_over: ROLE_EV_RIGHT, ROLE_EV_NO_RIGHT */
	:: d_step { s_on && s_fence == KILLED ->
			DID("S: fence_over\n");
			s_fence = IDLE;
			if :: S_UNDECIDED && s_asked -> secondary_take_over() :: else fi; skip }
	:: d_step { s_on && s_fence != IDLE ->
			DID("S: fence_over\n");
			s_fence = IDLE; s_asked = false;
#ifdef BREAK_FAILED_FENCE_IS_RIGHT
			if :: s_role == ROLE_DECIDING -> secondary_take_over() :: else fi; skip }
#else
			if :: s_role == ROLE_DECIDING -> s_role = ROLE_STUCK :: else fi }
#endif
	/* code: secondary_take_over secondary_left_colo */
	:: d_step { s_on && s_role == ROLE_TAKING_OVER && !s_whole ->
			DID("S: secondary_left_colo\n");
			secondary_left_colo(); skip }
	/* code: do_vm_lost copy_broken: the SVM's QEMU dies */
	:: d_step { s_on && s_shadow && s_role != ROLE_ALONE && len(back) < 2 ->
			DID("S: copy_broken\n");
			back_send(MSG_REFUSED,0);
			s_role = ROLE_WAITING; secondary_stop_copy(); skip }
	:: d_step { S_SPEAKS ->
			DID("S: copy_broken\n");
			s_role = ROLE_RETIRED; secondary_stop_copy(); skip }
	/* code: node_say_goodbye */
	:: d_step { s_on && s_link && s_role != ROLE_ALONE && nfull(back) ->
			DID("S: node_say_goodbye\n");
			back_send(MSG_REFUSED,0); s_crash(); skip }
	/* power */
	:: d_step { s_on ->
			DID("S: power off\n");
			s_crash(); skip }
	:: d_step { !s_on ->
			DID("S: power on\n");
			s_on = true; skip }
	od
}

/* code: link_up link_is_now_up primary_link_up: ROLE_EV_LINK_UP, ROLE_ACT_COPY; a new session */
active proctype link()
{
	do
	:: d_step { p_on && s_on && !p_link && !s_link ->
			DID("link: a new session\n");
			p_link = true; s_link = true;
			forget(fast); forget(bulk); forget(back);
			p_started_here = false; s_joined_here = false; p_handed = false;
			if :: p_role == ROLE_ALONE -> p_role = ROLE_JOINING :: else fi;
			if :: s_role == ROLE_WAITING -> s_role = ROLE_JOINING :: else fi; skip }
	od
}

/* The fences' commands switch the other host off; how they end is P's and S's. */
active proctype arbiter()
{
	byte d;

	do
	:: d_step { p_on && p_fence == RUNS ->
			DID("fence: P asked, S is off\n");
			p_fence = (p_asked -> KILLED : IDLE);
#ifndef BREAK_FENCE_LIES
			if :: s_on -> s_crash() :: else fi
#endif
			; skip }
	:: d_step { s_on && s_fence == RUNS ->
			DID("fence: S asked, P is off\n");
			s_fence = (s_asked -> KILLED : IDLE);
#ifndef BREAK_FENCE_LIES
			if :: p_on -> p_crash() :: else fi
#endif
			; skip }
	od
}
