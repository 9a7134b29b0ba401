/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The checker sees both machines and everything that leaves a host. It asserts with what the models
 * know, not with what the daemons believe of themselves.
 *
 *  R1  check_known(): what a protected primary lets out is known to what would go on if it died now
 *      (the SVM as it is, or the checkpoint that is whole beside it): TCP up to that offset, a
 *      datagram by its serial. Also of a survivor that is protected again, in its clients' numbers.
 *  R2  check_known(): the same bytes at the same offset, and no acknowledgement beyond its own.
 *  R3  check_loaded(): the memory of a secondary's machine after a load is, to the byte, what was
 *      captured as one checkpoint, and never an older one than before.
 *  R4  check_emission(): a machine that begins to speak has executed all that clients were told of;
 *      check_answer(): no serial is ever given to two requests; check_handed(): a machine that is
 *      handed over has stood still since the checkpoint that the other host goes on from.
 *  R5  check_answer(): no request is executed twice, no datagram more often than it came;
 *      check_heard(): the n-th datagram that the secondary's machine hears is the primary's n-th;
 *      check_session(): a lineage takes no input of another session than its copy's.
 *  R6  check_emission(): a QEMU after which another one has spoken never speaks again;
 *      check_booted(): the VM is not booted while another copy could go on.
 *  R7  pair_client.c: no connection breaks, no byte is another one, every checksum is right;
 *      check_told(): a protected primary says nothing while it can tell its secondary nothing;
 *      check_shown(): no acknowledgement and no timestamp goes back, whoever speaks. (Of timestamps
 *      it is not asked any more when what the secondary was to know of them was lost with a cut
 *      link, before the primary: a limit of the daemon's.)
 *  Replay  check_owed(): what a checkpoint's machine had said and had not left by then leaves the
 *      host that takes it over, before anything else that this machine says; check_again(): it
 *      may have left before, unless the secondary has been told so; check_released(): what it is
 *      told is so. (With a small replay-limit, or none, only the last two and the bound.)
 *  R8  check_host(), after every step: queues; check_said(): what the primary's VM has said leaves
 *      the host in order and without a gap, however full queues are.
 *
 * That service goes on when the faults are over is asked at the end (pair_run.c).
 */
#include <string.h>

#include "kvm/wire.h"
#include "tests/sim/pair.h"

#define HELD_SLACK (512u << 10) /* what the hold has at a cut comes on top */

#define LEFT          1            /* a host */
#define HEARD         2            /* ... and the secondary was told so */
#define REPLAY_ENOUGH (128u << 10) /* more than a flood says between two checkpoints */

#define DATAGRAM (1u << 16) /* in `who`, instead of a port */

/* False: it was there. */
static bool remember(uint32_t who)
{
	uint32_t slot = who * 2654435761u >> 18;

	for (; world->asked[slot]; slot = (slot + 1) % G_N_ELEMENTS(world->asked)) {
		if (world->asked[slot] == who)
			return false;
	}
	world->asked[slot] = who;
	return true;
}

void check_answer(uint32_t serial, uint32_t who)
{
	CHECK(serial && serial < G_N_ELEMENTS(world->executed), "serial %u", serial);
	CHECK(!world->executed[serial] || world->executed[serial] == who,
	      "serial %u was given to %u/%u and to %u/%u (R4)", serial,
	      world->executed[serial] >> 16, world->executed[serial] & 0xffff, who >> 16,
	      who & 0xffff);
	count(COUNT_R5_REQUEST);
	if (world->executed[serial])
		return;
	if (who >> 16 == DATAGRAM >> 16) {
		uint32_t number = who & 0xffff;

		bool sent = number < G_N_ELEMENTS(world->copies);

		CHECK(sent && ++world->answered[number] <= world->copies[number],
		      "datagram %u came %u times and was executed once more (R5)", number,
		      sent ? world->copies[number] : 0);
	} else {
		CHECK(remember(who), "%u/%u was executed twice (R5)", who >> 16, who & 0xffff);
	}
	world->executed[serial] = who;
	if (serial > world->serials)
		world->serials = serial;
}

/* The number of a client's datagram; false: it is none. */
static bool datagram_number(const struct frame *frame, uint32_t *ret_number)
{
	const uint8_t *ip = frame->data + 14;

	if (frame->len != 14 + 20 + 8 + 4 || ip[9] != 17 || wire_be16(ip + 22) != 7)
		return false;
	*ret_number = wire_be32(ip + 28);
	return *ret_number < G_N_ELEMENTS(world->copies);
}

/* The network has brought it to the VM's tap. */
void check_delivered(const struct frame *frame)
{
	uint32_t number;

	if (datagram_number(frame, &number))
		world->copies[number]++;
}

/* ---- checkpoints ---- */

/* What C(epoch) owes the clients; NULL: nothing is known of it. */
static const struct said *owed_by(uint32_t epoch, uint32_t origin)
{
	uint32_t i = epoch & 1;

	if (!epoch || world->image_epoch[i] != epoch || world->image_incarnation[i] != origin)
		return NULL;
	return &world->owed[i];
}

static bool replay_is_small(void)
{
	return world->host[0].config->replay_bytes < REPLAY_ENOUGH;
}

/* The secondary hears that what waited for the commits up to C(epoch) has left. */
void check_released(uint32_t epoch)
{
	const struct said *owed = owed_by(epoch, world->input_origin);

	for (uint32_t i = 0; owed && i < owed->n; i++) {
		uint32_t serial = owed->serial[i];

		count(COUNT_REPLAY_HEARD);
		CHECK(world->left[serial], "C(%u) is told to be released, serial %u has not left",
		      epoch, serial);
		world->left[serial] |= HEARD;
	}
}

/* What the host owes that takes over, or has; else NULL. */
static const struct said *owed_here(const struct host *host)
{
	const struct guest *guest = &host->qemu.guest;

	if (host->owes)
		return &host->owed;
	if (host->node->role.state != ROLE_TAKING_OVER)
		return NULL;
	return owed_by(guest->lineage, guest->origin);
}

/* It says what its checkpoint owes, as far as that has not left. */
static void check_again(struct host *host, uint32_t serial)
{
	const struct said *owed = owed_here(host);
	uint32_t wait = 0;
	bool is_owed = false;

	CHECK(!host->qemu.alive || serial <= host->qemu.guest.serial,
	      "serial %u is said by a machine that is at %u", serial, host->qemu.guest.serial);
	for (uint32_t i = 0; owed && i < owed->n; i++) {
		is_owed |= owed->serial[i] == serial;
		wait += owed->serial[i] < serial && !world->left[owed->serial[i]];
	}
	CHECK(!(world->left[serial] & HEARD), "serial %u is said again, and was told to have left",
	      serial);
	CHECK(!wait || replay_is_small(), "serial %u is said in front of %u older that are owed",
	      serial, wait);
	if (is_owed)
		count(world->left[serial] ? COUNT_REPLAYED_TWICE : COUNT_REPLAYED);
}

/* It has taken over, and nothing waits for the kernel any more. */
static void check_owed(struct host *host)
{
	for (uint32_t i = 0; i < host->owed.n && !replay_is_small(); i++) {
		count(COUNT_REPLAY_OWED);
		CHECK(world->left[host->owed.serial[i]],
		      "a checkpoint is taken over, and serial %u, which it had said, never leaves",
		      host->owed.serial[i]);
	}
	host->owes = false;
}

static void check_replay(struct host *host)
{
	const struct node *node = host->node;
	const struct said *owed;

	if (host->last_state == ROLE_TAKING_OVER + 1 && node->is_primary) {
		const struct guest *guest = &host->qemu.guest;

		owed = owed_by(guest->lineage, guest->origin);
		host->owes = owed != NULL;
		if (owed)
			host->owed = *owed;
	}
	if (host->owes && !node->unreleased.head)
		check_owed(host);
	CHECK(node->replay_in.bytes <= node->config->replay_bytes,
	      "kept to be said again: %lu (R8)", (unsigned long)node->replay_in.bytes);
}

void check_captured(struct host *host, uint32_t epoch)
{
	struct guest *guest = &host->qemu.guest;

	world->owed[epoch & 1] = (struct said){0};
	for (uint32_t i = 0; i < host->said.n; i++)
		world->owed[epoch & 1].serial[i] =
		        host->said.serial[(host->said.first + i) % SAID_MAX];
	world->owed[epoch & 1].n = host->said.n;
	if (epoch == 0) {
		world->input_origin = guest->origin = host->qemu.incarnation;
		world->input_heard = guest->heard = 0;
		world->input_excused = 0;
		world->loaded_epoch = 0;
		world->copy_session = link_session(host);
		memset(world->input, 0, sizeof(world->input));
	} else {
		count(COUNT_CHECKPOINTS);
	}
	guest->lineage = epoch;
	world->image[epoch & 1] = *guest;
	world->image_epoch[epoch & 1] = epoch;
	world->image_incarnation[epoch & 1] = host->qemu.incarnation;
	trace(host, "C(%u) is captured at serial %u", epoch, guest->serial);
}

static bool same_memory(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct guest)) == 0;
}

void check_loaded(struct host *host)
{
	const struct guest *guest = &host->qemu.guest;
	uint32_t epoch = guest->lineage, i = epoch & 1;

	/* Byte by byte: it is memory. */
	CHECK(world->image_epoch[i] == epoch && world->image_incarnation[i] == guest->origin &&
	              same_memory(guest, &world->image[i]),
	      "what is loaded as C(%u) was never captured (R3)", epoch);
	if (guest->origin == world->input_origin) {
		CHECK(epoch >= world->loaded_epoch, "C(%u) is loaded after C(%u) (R3)", epoch,
		      world->loaded_epoch);
		world->loaded_epoch = epoch;
	}
	count(COUNT_R3);
	if (epoch)
		count(COUNT_LOADS);
}

/* ---- input ---- */

static bool is_pair(const struct host *p, const struct host *s)
{
	return p->node && s->node && p->node->is_primary && p->node->role.state == ROLE_PROTECTED &&
	       !s->node->is_primary && s->node->role.state == ROLE_STANDBY &&
	       p->qemu.incarnation == world->input_origin;
}

/*
 * Not asked of a datagram that the secondary's machine hears first. Nor of lineage 0: QEMU stops
 * the VM for the first copy when it likes, so that the input cannot be drained before, and what its
 * tap holds then may be heard by one of them only (they differ, and the next checkpoint heals it).
 */
void check_heard(struct host *host, uint32_t number)
{
	struct guest *guest = &host->qemu.guest;
	struct host *peer = peer_of(host);
	uint32_t n = ++guest->heard, *seen = &world->input[n % INPUT_SEEN];

	if (guest->origin != world->input_origin)
		return;
	if (host->qemu.incarnation == world->input_origin) {
		world->input_heard = n;
		*seen = number;
		return;
	}
	if (!is_pair(peer, host) || n > world->input_heard || n + INPUT_SEEN <= world->input_heard)
		return;
	if (guest->lineage <= world->input_excused)
		return;
	count(COUNT_R5_ORDER);
	CHECK(*seen == number, "lineage %u hears datagram %u, the primary's %u. was %u (R5)",
	      guest->lineage, number, n, *seen);
}

/* In front of the primary's machine only: the other one's daemon gives it what there is room for.
 */
void check_input_dropped(struct host *host)
{
	if (host->qemu.incarnation != world->input_origin)
		return;
	world->input_excused = host->qemu.guest.lineage;
}

static bool has_copy(const struct host *host)
{
	if (!host->node || !host->qemu.alive)
		return false;
	switch (host->node->role.state) {
	case ROLE_STANDBY:
	case ROLE_DECIDING:
	case ROLE_STUCK:
	case ROLE_TAKING_OVER:
	case ROLE_ALONE:
	case ROLE_PROTECTED:
		return true;
	default:
		return false;
	}
}

void check_booted(struct host *host)
{
	CHECK(!has_copy(peer_of(host)), "the VM is booted although %s has it (R6)",
	      peer_of(host)->index ? "B" : "A");
	count(COUNT_BOOTS);
	world->generation++;
	memset(world->executed, 0, sizeof(world->executed));
	memset(world->asked, 0, sizeof(world->asked));
	memset(world->answered, 0, sizeof(world->answered));
	memset(world->left, 0, sizeof(world->left));
	memset(world->owed, 0, sizeof(world->owed));
	world->serials = 0;
	trace(host, "the VM boots");
	client_vm_rebooted();
}

/* What would go on if the primary died now; NULL: nobody would. */
static const struct guest *would_go_on(const struct host *s)
{
	const struct node *node = s->node;

	if (!s->power || !node || !s->qemu.alive || node->is_primary || s->dying)
		return NULL;
	if (node->role.state != ROLE_STANDBY && node->role.state != ROLE_DECIDING &&
	    node->role.state != ROLE_STUCK)
		return NULL;
	if (node->s.ckpt_whole) {
		uint32_t epoch = (uint32_t)node->s.ckpt.epoch;

		CHECK(world->image_epoch[epoch & 1] == epoch, "C(%u) was never captured", epoch);
		return &world->image[epoch & 1];
	}
	if (node->s.kept) {
		uint32_t epoch = node->s.lineage;

		CHECK(world->image_epoch[epoch & 1] == epoch, "C(%u) was never captured", epoch);
		return &world->image[epoch & 1];
	}
	return &s->qemu.guest;
}

static const struct guest_conn *conn_of(const struct guest *guest, const struct packet *p)
{
	for (uint32_t i = 0; i < GUEST_CONNS; i++) {
		const struct end *end = &guest->conn[i].end;

		if (end->state != END_CLOSED && end->vm_port == p->tcp.sport &&
		    end->peer_port == p->tcp.dport)
			return &guest->conn[i];
	}
	return NULL;
}

/* One that has come to its end there, the newest of these ports. */
static const struct guest_gone *gone_of(const struct guest *guest, const struct packet *p)
{
	for (uint32_t i = guest->gone_n; i > 0 && i + GUEST_GONE > guest->gone_n; i--) {
		const struct guest_gone *gone = &guest->gone[(i - 1) % GUEST_GONE];

		if (gone->vm_port == p->tcp.sport && gone->peer_port == p->tcp.dport)
			return gone;
	}
	return NULL;
}

static void check_tcp_known(const struct host *host, const struct guest *svm,
                            const struct packet *p)
{
	const struct guest_conn *said = conn_of(&host->qemu.guest, p), *knows = conn_of(svm, p);
	uint32_t off, end, iss, irs, max, rcv;

	if (!said || p->tcp.flags & PACKET_RST)
		return;
	if (knows) {
		max = knows->end.max;
		rcv = knows->end.rcv;
	} else {
		/*
		 * It has come to its end there, since the SVM has heard more by now, such as the
		 * client's RST to what left a moment ago; or it never began.
		 */
		const struct guest_gone *gone = gone_of(svm, p);

		CHECK(gone && (said->end.state == END_SYN_SENT || gone->irs == said->end.irs),
		      "port %u: nobody else knows the connection (R1)", p->tcp.dport);
		max = gone->max;
		rcv = gone->rcv;
	}
	if (p->tcp.flags & PACKET_SYN)
		return;
	iss = said->end.iss;
	irs = said->end.irs;
	/* A survivor's frames carry its clients' numbers, not its own. */
	if (host->node->shadow && !client_knows(p, &irs, &iss))
		return;
	off = p->tcp.seq - iss - 1;
	end = off + p->payload_len + !!(p->tcp.flags & PACKET_FIN);
	count(COUNT_R1_TCP);
	CHECK(end <= max || end == off, "port %u: offset %u is let out, known is %u (R1)",
	      p->tcp.dport, end, max);
	for (uint32_t i = 0; knows && i < p->payload_len; i++) {
		if (off + i + END_TX < knows->end.written || off + i >= knows->end.written)
			continue;
		CHECK(p->frame->data[p->payload_off + i] == knows->end.tx[(off + i) % END_TX],
		      "port %u: another byte at %u (R2)", p->tcp.dport, off + i);
	}
	if (!(p->tcp.flags & PACKET_ACK))
		return;
	count(COUNT_R2_ACK);
	CHECK((int32_t)(p->tcp.ack - irs - 1 - rcv) <= 0,
	      "port %u: acknowledges %u, heard is %u (R2)", p->tcp.dport, p->tcp.ack - irs - 1,
	      rcv);
}

/* A protected primary tells its secondary of the lead of its clock before it says what shows it. */
static void check_told(const struct host *host)
{
	bool bound = host->node->is_primary && host->node->role.state == ROLE_PROTECTED &&
	             host->qemu.incarnation == world->input_origin;

	CHECK(!bound || link_session(host) == world->copy_session,
	      "%s lets something out and can tell its secondary nothing (R7)",
	      host->index ? "B" : "A");
}

static void check_known(struct host *host, const struct packet *p)
{
	const struct guest *svm;
	uint32_t serial;

	if (!host->node->is_primary || !host->qemu.alive ||
	    (host->node->role.state != ROLE_PROTECTED && host->node->role.state != ROLE_DECIDING &&
	     host->node->role.state != ROLE_STUCK))
		return;
	svm = would_go_on(peer_of(host));
	if (!svm)
		return;
	if (p->class == PACKET_TCP) {
		check_tcp_known(host, svm, p);
	} else if (p->class == PACKET_UDP && p->payload_len == 12) {
		serial = wire_be32(p->frame->data + p->payload_off + 4);
		count(COUNT_R1_DATAGRAM);
		CHECK(serial <= svm->serial, "serial %u is let out, known is %u (R1)", serial,
		      svm->serial);
	}
}

static struct shown *shown_of(const struct packet *p)
{
	struct shown *shown;

	for (uint32_t i = 0; i < G_N_ELEMENTS(world->shown); i++) {
		shown = &world->shown[i];
		if (shown->any && shown->vm_port == p->tcp.sport &&
		    shown->peer_port == p->tcp.dport)
			return shown;
	}
	shown = &world->shown[world->shown_next++ % G_N_ELEMENTS(world->shown)];
	*shown = (struct shown){.vm_port = p->tcp.sport, .peer_port = p->tcp.dport};
	return shown;
}

/*
 * A survivor's VM does not leap: what its daemon has counted of the leap (core/steady.h) is missing
 * when it takes the lead of the clock that it took over for caught up.
 */
void check_leapt(const struct host *host, uint64_t by)
{
	uint64_t counted = host->node ? host->node->steady.step_ns : 0;

	world->leapt_ms += (uint32_t)(MIN(by, counted) / MS) + 1;
}

/* What a client sees of one connection, in the order in which it leaves the hosts. */
static void check_shown(const struct packet *p)
{
	struct shown *shown;

	if (p->class != PACKET_TCP || p->tcp.flags & PACKET_RST || !(p->tcp.flags & PACKET_ACK))
		return;
	shown = shown_of(p);
	if (p->tcp.flags & PACKET_SYN)
		shown->any = false; /* of a connection that begins anew: an old SYN came late */
	if (shown->any) {
		count(COUNT_R7);
		CHECK((int32_t)(p->tcp.ack - shown->ack) >= 0,
		      "port %u: the acknowledgement goes back from %u to %u (R7)", p->tcp.dport,
		      shown->ack, p->tcp.ack);
		CHECK(!p->tcp.ts_off || world->lead_lost ||
		              (int32_t)(p->tcp.tsval - shown->tsval + world->leapt_ms) >= 0,
		      "port %u: the timestamp goes back from %u to %u (R7)", p->tcp.dport,
		      shown->tsval, p->tcp.tsval);
	}
	shown->any = true;
	shown->ack = p->tcp.ack;
	if (p->tcp.ts_off)
		shown->tsval = p->tcp.tsval;
}

/* ---- what is said, and leaves ---- */

/* The serial of an answer to a datagram; 0: another frame. */
static uint32_t answer_of(const struct frame *frame)
{
	const uint8_t *ip = frame->data + 14;

	if (frame->len != 14 + 20 + 8 + 12 || wire_be16(ip - 2) != 0x0800 || ip[9] != 17 ||
	    wire_be16(ip + 20) != 7)
		return 0;
	return wire_be32(ip + 32);
}

void check_said(struct host *host, const struct frame *frame)
{
	struct said *said = &host->said;
	uint32_t serial = answer_of(frame);

	if (!serial || !host->node->is_primary)
		return;
	if (said->n == SAID_MAX)
		said->n = 0;
	said->serial[(said->first + said->n++) % SAID_MAX] = serial;
}

void check_silenced(struct host *host)
{
	host->said.n = 0;
	host->owes = false;
}

static void check_left(struct host *host, const struct frame *frame)
{
	struct said *said = &host->said;
	uint32_t serial = answer_of(frame);

	if (!serial)
		return;
	check_again(host, serial);
	world->left[serial] |= LEFT;
	for (uint32_t i = 0; i < said->n; i++) {
		if (said->serial[(said->first + i) % SAID_MAX] != serial)
			continue;
		count(COUNT_R8_KEPT);
		CHECK(i == 0, "serial %u leaves, %u was said before it and has not (R8)", serial,
		      said->serial[said->first % SAID_MAX]);
		said->first++;
		said->n--;
		return;
	}
}

static void begins_to_speak(struct host *host)
{
	trace(host, "speaks");
	if (world->speaker)
		count(COUNT_SPEAKERS);
	world->silenced[world->speaker] = world->speaker != 0;
	world->speaker = host->vm_id;
	if (!host->qemu.alive)
		return;
	count(COUNT_R4);
	CHECK(host->qemu.phase < QEMU_LISTENS, "%s speaks, and its QEMU is still a secondary",
	      host->index ? "B" : "A");
	CHECK(host->qemu.guest.serial >= world->serials,
	      "%s goes on at serial %u, clients have heard of %u (R4)", host->index ? "B" : "A",
	      host->qemu.guest.serial, world->serials);
}

void check_emission(struct host *host, struct frame *frame)
{
	struct packet p;

	count(COUNT_R6);
	CHECK(!world->silenced[host->vm_id], "%s speaks after the other one has (R6)",
	      host->index ? "B" : "A");
	if (world->speaker != host->vm_id)
		begins_to_speak(host);
	check_left(host, frame);
	check_told(host);
	if (packet_parse(&p, frame) != 0)
		return;
	if (world->trace_frames && p.class == PACKET_TCP)
		trace(host, "%u > %u seq %u len %u ack %u flags 0x%02x ts %u %u", p.tcp.sport,
		      p.tcp.dport, p.tcp.seq, p.payload_len, p.tcp.ack, p.tcp.flags, p.tcp.tsval,
		      p.tcp.tsecr);
	check_known(host, &p);
	check_shown(&p);
}

/* ---- after every step ---- */

/* Input of another session than the copy's is not its lineage's: between them there was more. */
static void check_session(struct host *host)
{
	const struct node *node = host->node;
	const struct input *newest = node->s.log.tail;
	uint64_t session = link_session(host);
	bool waits = node->role.state == ROLE_STANDBY || node->role.state == ROLE_DECIDING ||
	             node->role.state == ROLE_STUCK;

	if (!node->is_primary && waits && newest && session == host->last_session && session &&
	    session != world->copy_session) {
		count(COUNT_R5_SESSION);
		CHECK(newest->index == host->last_input,
		      "%s takes the input of another session (R5)", host->index ? "B" : "A");
	}
	host->last_session = session;
	host->last_input = newest ? newest->index : 0;
}

/* What a machine does behind the checkpoint that is handed over is lost: it does nothing. */
static void check_handed(const struct host *host)
{
	count(COUNT_HANDED);
	CHECK(!host->qemu.running, "%s hands over a VM that has run on since C(%u) (R4)",
	      host->index ? "B" : "A", host->node->committed_epoch);
}

static void count_state(struct host *host)
{
	const struct node *node = host->node;

	switch (node->role.state) {
	case ROLE_PROTECTED:
		count(world->protections++ ? COUNT_PROTECTED_AGAIN : COUNT_PROTECTED);
		break;
	case ROLE_DECIDING:
		count(COUNT_LOST_PEER);
		break;
	case ROLE_STUCK:
		count(COUNT_STUCK);
		break;
	case ROLE_TAKING_OVER:
		count(COUNT_TAKING_OVER);
		if (host->half)
			count(COUNT_HALF_CHECKPOINT);
		if (host->whole)
			count(COUNT_COMMITTED_LOADED);
		break;
	case ROLE_RETIRED:
		count(COUNT_RETIRED);
		if (node->role.handed)
			check_handed(host);
		break;
	default:
		break;
	}
}

static void check_gate(struct host *host)
{
	const struct config *config = host->node->config;
	struct gate_stats stats;
	bool full;

	gate_get_stats(host->node->gate, &stats);
	full = stats.now_packets >= config->max_held_packets ||
	       stats.now_bytes >= config->max_held_bytes;
	if (full && !host->gate_full)
		count(COUNT_GATE_FULL);
	host->gate_full = full;
	CHECK(stats.now_bytes <= config->max_held_bytes + HELD_SLACK, "held: %lu bytes (R8)",
	      (unsigned long)stats.now_bytes);
	CHECK(stats.now_flows <= config->max_flows, "flows: %u (R8)", stats.now_flows);
}

void check_host(struct host *host)
{
	const struct node *node = host->node;

	check_replay(host);
	if (host->last_state != (uint32_t)node->role.state + 1) {
		host->last_state = (uint32_t)node->role.state + 1;
		count_state(host);
	}
	if (!node->is_primary)
		check_silenced(host);
	if (node->p.unsent.head && !host->link_full)
		count(COUNT_LINK_FULL);
	host->link_full = node->p.unsent.head;
	check_session(host);
	host->half = node->s.ckpt_open && !node->s.ckpt_whole;
	host->whole = node->s.ckpt_whole;
	faults_trap(host);
	count(COUNT_R8);
	CHECK(node->p.unsent.bytes <= node->config->max_input_log_bytes, "unsent input: %lu (R8)",
	      (unsigned long)node->p.unsent.bytes);
	CHECK(node->s.log.bytes <= node->config->max_input_log_bytes || !node->s.feeding,
	      "input log: %lu (R8)", (unsigned long)node->s.log.bytes);
	if (node->gate)
		check_gate(host);
}
