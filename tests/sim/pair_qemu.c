/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The model QEMU: the machine, its NIC, and COLO's wire protocol on the migration socket
 * (docs/checkpoint.md). It has the habits of the real one that the daemon has to live with: after
 * it has stopped the machine it may take one frame more from the tap, which the machine hears when
 * it runs again; a channel that closes in the middle of a load ends the process; one that closes
 * while the machine stands still leaves it so, until it is told that the other side is lost.
 */
#include <string.h>

#include "kvm/stream.h"
#include "kvm/wire.h"
#include "tests/sim/pair.h"
#include "tests/unit/tcp_builder.h"

#define FILLER     4096u /* what the first copy has besides the machine */
#define CHUNKS     4u
#define SECTION    2u
#define LOAD_ROOM  (64u << 10)
#define RETURN_LEN 16u
#define RP_SHUT    1u
#define RP_PONG    2u

static uint32_t own_random(struct qemu *qemu, uint32_t below)
{
	qemu->random ^= qemu->random << 13;
	qemu->random ^= qemu->random >> 7;
	qemu->random ^= qemu->random << 17;
	return (uint32_t)((qemu->random >> 16) % below);
}

/* ---- the machine ---- */

uint32_t guest_clock(const struct qemu *qemu)
{
	uint32_t ms = qemu->guest.clock_ms;

	/* It may stand still with its host, and is behind the world's then. */
	if (!qemu->running || qemu->clock_at > world->now)
		return ms;
	return ms + (uint32_t)((world->now - qemu->clock_at) / MS);
}

uint8_t guest_body(uint32_t serial, uint32_t at_byte)
{
	return (uint8_t)(serial * 31 + at_byte * 7 + (at_byte >> 6));
}

static uint32_t owner_random(void *ctx, uint32_t below)
{
	return own_random(&((struct host *)ctx)->qemu, below);
}

static void owner_says(void *ctx, struct frame *frame)
{
	path_vm_says(ctx, frame);
}

/* What the machine says depends on everything that was asked before, in order. */
static uint32_t execute(struct guest *guest, uint32_t who)
{
	guest->serial++;
	guest->history = (guest->history ^ who) * 16777619u + guest->serial;
	return guest->serial;
}

static bool answer(struct guest *guest, struct guest_conn *conn)
{
	uint8_t out[ANSWER_HEAD + ANSWER_MAX];
	uint32_t number = wire_be32(conn->request), len = wire_be32(conn->request + 4);
	uint32_t serial;

	g_assert(len <= ANSWER_MAX);
	if (end_room(&conn->end) < ANSWER_HEAD + len)
		return false;
	serial = execute(guest, (uint32_t)conn->end.peer_port << 16 | number);
	wire_put_be32(out, number);
	wire_put_be32(out + 4, serial);
	wire_put_be32(out + 8, guest->history);
	wire_put_be32(out + 12, len);
	for (uint32_t i = 0; i < len; i++)
		out[ANSWER_HEAD + i] = guest_body(serial, i);
	end_write(&conn->end, out, ANSWER_HEAD + len);
	conn->request_len = 0;
	return true;
}

static uint32_t owner_eats(void *ctx, struct end *end, const uint8_t *data, uint32_t len)
{
	struct guest *guest = &((struct host *)ctx)->qemu.guest;
	struct guest_conn *conn = (struct guest_conn *)end; /* its first member */
	uint32_t eaten = 0;

	while (eaten < len) {
		if (conn->request_len == REQUEST_LEN && !answer(guest, conn))
			break;
		conn->request[conn->request_len++] = data[eaten++];
	}
	if (conn->request_len == REQUEST_LEN)
		answer(guest, conn);
	return eaten;
}

static struct end_owner owner_of(struct host *host)
{
	return (struct end_owner){.is_vm = true,
	                          .clock_ms = guest_clock(&host->qemu),
	                          .random = owner_random,
	                          .says = owner_says,
	                          .eats = owner_eats,
	                          .ctx = host};
}

static struct guest_conn *find_conn(struct guest *guest, uint16_t vm_port, uint16_t peer_port)
{
	for (uint32_t i = 0; i < GUEST_CONNS; i++) {
		struct end *end = &guest->conn[i].end;

		if (end->state != END_CLOSED && end->vm_port == vm_port &&
		    end->peer_port == peer_port)
			return &guest->conn[i];
	}
	return NULL;
}

static struct guest_conn *new_conn(struct guest *guest, uint16_t vm_port, uint16_t peer_port)
{
	for (uint32_t i = 0; i < GUEST_CONNS; i++) {
		struct guest_conn *conn = &guest->conn[i];

		if (conn->end.state != END_CLOSED)
			continue;
		memset(conn, 0, sizeof(*conn));
		conn->end.vm_port = vm_port;
		conn->end.peer_port = peer_port;
		return conn;
	}
	return NULL;
}

static void note_gone(struct guest *guest, const struct end *end)
{
	guest->gone[guest->gone_n++ % GUEST_GONE] = (struct guest_gone){
	        end->vm_port, end->peer_port, end->iss, end->irs, end->max, end->rcv};
}

static void hear_tcp(struct host *host, const struct packet *p)
{
	struct guest *guest = &host->qemu.guest;
	struct end_owner owner = owner_of(host);
	struct guest_conn *conn = find_conn(guest, p->tcp.dport, p->tcp.sport);

	if (conn) {
		end_hears(&conn->end, &owner, p);
		if (conn->end.state == END_CLOSED) {
			note_gone(guest, &conn->end);
			if (world->trace_frames)
				trace(host, "VM: %u > %u is reset", p->tcp.dport, p->tcp.sport);
		}
		if (conn->end.fin_heard)
			conn->end.fin_queued = true;
		return;
	}
	if (p->tcp.dport == GUEST_PORT && (p->tcp.flags & (PACKET_SYN | PACKET_ACK)) == PACKET_SYN)
		conn = new_conn(guest, GUEST_PORT, p->tcp.sport);
	if (conn)
		end_begin(&conn->end, &owner, p);
	else
		end_refuses(&owner, p);
}

static void hear_udp(struct host *host, const struct packet *p)
{
	struct guest *guest = &host->qemu.guest;
	struct end_owner owner = owner_of(host);
	const uint8_t *data = p->frame->data + p->payload_off;
	uint8_t out[12];
	struct guest_conn *conn;

	if (p->payload_len != 4)
		return;
	if (p->udp.dport == ASK_TO_OPEN) {
		uint16_t port = (uint16_t)(CLIENT_IN + wire_be32(data));

		if (find_conn(guest, (uint16_t)(GUEST_OUT + wire_be32(data)), port))
			return;
		conn = new_conn(guest, (uint16_t)(GUEST_OUT + wire_be32(data)), port);
		if (conn)
			end_begin(&conn->end, &owner, NULL);
		return;
	}
	check_heard(host, wire_be32(data));
	memcpy(out, data, 4);
	wire_put_be32(out + 4, execute(guest, 1u << 16 | (wire_be32(data) & 0xffff)));
	wire_put_be32(out + 8, guest->history);
	path_vm_says(host, path_with_checksum(
	                           build_udp(false, p->udp.dport, p->udp.sport, out, sizeof(out))));
}

static void guest_hears(struct host *host, struct frame *frame)
{
	struct packet p;

	if (packet_parse(&p, frame) == 0 && path_is_sound(&p)) {
		if (p.class == PACKET_TCP)
			hear_tcp(host, &p);
		else if (p.class == PACKET_UDP)
			hear_udp(host, &p);
	}
	frame_free(frame);
}

static void guest_acts(struct host *host)
{
	struct qemu *qemu = &host->qemu;
	struct end_owner owner = owner_of(host);

	for (uint32_t i = 0; i < GUEST_CONNS; i++) {
		struct guest_conn *conn = &qemu->guest.conn[i];

		if (conn->end.state == END_CLOSED)
			continue;
		if (conn->request_len == REQUEST_LEN)
			answer(&qemu->guest, conn);
		end_acts(&conn->end, &owner);
		if (end_done(&conn->end)) {
			note_gone(&qemu->guest, &conn->end);
			conn->end.state = END_CLOSED;
		}
	}
}

/* ---- events ---- */

static void qemu_event(struct host *host, uint64_t incarnation);

static void act_at(struct host *host, uint64_t when)
{
	struct qemu *qemu = &host->qemu;

	if (when < host->qemu_stalled_until)
		when = host->qemu_stalled_until;
	if (qemu->acting && qemu->acts_at <= when)
		return;
	qemu->acting = true;
	qemu->acts_at = when;
	at(when, host, qemu_event, qemu->incarnation);
}

void qemu_kick(struct host *host)
{
	if (host->qemu.alive)
		act_at(host, world->now + rnd_ns(5 * US, 80 * US));
}

static void machine_stops(struct host *host)
{
	struct qemu *qemu = &host->qemu;

	if (!qemu->running)
		return;
	qemu->guest.clock_ms = guest_clock(qemu);
	qemu->running = false;
	if (!qemu->extra && chance(50))
		qemu->extra = path_vm_takes(host);
}

static void machine_runs(struct host *host)
{
	struct qemu *qemu = &host->qemu;

	if (qemu->running)
		return;
	qemu->running = true;
	qemu->clock_at = world->now;
	qemu_kick(host);
}

static void machine_turn(struct host *host)
{
	struct qemu *qemu = &host->qemu;
	uint32_t now, next = UINT32_MAX, left = 1 + own_random(qemu, 4), due;
	struct frame *frame = qemu->extra;

	qemu->extra = NULL;
	while (qemu->running && (frame || (left-- && (frame = path_vm_takes(host))))) {
		guest_hears(host, frame);
		frame = NULL;
	}
	guest_acts(host);
	now = guest_clock(qemu);
	for (uint32_t i = 0; i < GUEST_CONNS; i++) {
		if (!end_due(&qemu->guest.conn[i].end, &due))
			continue;
		due = (int32_t)(due - now) > 0 ? due - now : 0;
		next = due < next ? due : next;
	}
	if (host->path.ring.head)
		qemu_kick(host);
	else if (next != UINT32_MAX)
		act_at(host, world->now + next * MS + rnd_ns(MS, 2 * MS));
}

/* ---- the channel ---- */

static void put(struct host *host, const void *data, uint32_t len)
{
	struct socket *socket = host->qemu.socket;

	if (!socket || socket->daemon_closed)
		return;
	g_byte_array_append(socket->to_daemon, data, len);
	loop_wake(host);
}

static void put_message(struct host *host, enum colo_message message)
{
	uint8_t bytes[4];

	wire_put_be32(bytes, message);
	put(host, bytes, 4);
}

static bool take(struct host *host, void *data, uint32_t len)
{
	struct socket *socket = host->qemu.socket;

	if (!socket || socket->to_qemu->len < len)
		return false;
	if (data)
		memcpy(data, socket->to_qemu->data, len);
	g_byte_array_remove_range(socket->to_qemu, 0, len);
	loop_wake(host);
	return true;
}

static bool take_message(struct host *host, enum colo_message message)
{
	uint8_t bytes[4];

	if (!take(host, bytes, 4))
		return false;
	CHECK(wire_be32(bytes) == message, "QEMU: found message %u, expected %u", wire_be32(bytes),
	      message);
	return true;
}

static void close_channel(struct host *host)
{
	struct socket *socket = host->qemu.socket;

	host->qemu.socket = NULL;
	if (socket)
		socket_close_qemu(socket);
}

/* ---- towards a secondary ---- */

static void copy_more(struct host *host)
{
	struct qemu *qemu = &host->qemu;
	uint8_t filler[FILLER];

	if (!qemu->socket->accepted || qemu->socket->to_daemon->len > 16384) {
		act_at(host, world->now + 200 * US);
		return;
	}
	if (qemu->chunks) {
		memset(filler, (int)qemu->chunks, sizeof(filler));
		put(host, filler, sizeof(filler));
		qemu->chunks--;
		act_at(host, world->now + rnd_ns(50 * US, 4 * MS));
		return;
	}
	machine_stops(host);
	check_captured(host, 0);
	qemu->base = qemu->guest;
	put(host, &qemu->guest, sizeof(qemu->guest));
	qemu->phase = QEMU_COPIED;
	qemu->rearmed = false;
}

static void wait_ready(struct host *host)
{
	/* PONG and SHUT; READY comes when these have been read. */
	if (!host->qemu.shut && !take(host, NULL, RETURN_LEN))
		return;
	host->qemu.shut = true;
	if (!take_message(host, COLO_READY))
		return;
	CHECK(host->qemu.rearmed, "the PVM runs on, and its log misses writes");
	host->qemu.phase = QEMU_COLO;
	machine_runs(host);
}

static void put_pages(struct host *host, GByteArray *out)
{
	struct qemu *qemu = &host->qemu;
	uint8_t now[GUEST_PAGES * 4096] = {0}, before[GUEST_PAGES * 4096] = {0}, head[8];
	bool named = false;

	memcpy(now, &qemu->guest, sizeof(qemu->guest));
	memcpy(before, &qemu->base, sizeof(qemu->base));
	for (uint32_t page = 0; page < GUEST_PAGES; page++) {
		if (page && memcmp(now + page * 4096, before + page * 4096, 4096) == 0)
			continue;
		wire_put_be64(head, page * 4096u | 8u | (named ? 0x20u : 0));
		g_byte_array_append(out, head, 8);
		if (!named)
			g_byte_array_append(out, (const uint8_t *)"\6pc.ram", 7);
		named = true;
		g_byte_array_append(out, now + page * 4096, 4096);
	}
}

static void put_section(struct host *host)
{
	GByteArray *out = g_byte_array_new();
	uint8_t b[16];

	b[0] = 3;
	wire_put_be32(b + 1, SECTION);
	g_byte_array_append(out, b, 5);
	put_pages(host, out);
	wire_put_be64(b, 0x10);
	b[8] = 0x7e;
	wire_put_be32(b + 9, SECTION);
	b[13] = 0;
	g_byte_array_append(out, b, 14);
	wire_put_be32(b, COLO_VMSTATE_SIZE);
	wire_put_be64(b + 4, 2);
	b[12] = 4;
	b[13] = 0;
	g_byte_array_append(out, b, 14);
	put(host, out->data, out->len);
	g_byte_array_unref(out);
}

static uint32_t epoch_being_captured(const struct host *host)
{
	return (uint32_t)host->node->p.ckpt.epoch;
}

static void reply_arrived(struct host *host)
{
	struct qemu *qemu = &host->qemu;

	if (!take_message(host, COLO_REPLY))
		return;
	machine_stops(host);
	check_captured(host, epoch_being_captured(host));
	put_message(host, COLO_VMSTATE_SEND);
	qemu->phase = QEMU_CUT;
	act_at(host, world->now + rnd_ns(20 * US, 500 * US));
}

static void send_memory(struct host *host)
{
	struct qemu *qemu = &host->qemu;

	put_section(host);
	qemu->base = qemu->guest;
	qemu->phase = QEMU_SENT;
}

/* ---- from a primary ---- */

static void incoming(struct host *host)
{
	static const uint8_t back[20] = {0, RP_PONG, 0, 4, 0, 0, 0, 1, 0, RP_SHUT, 0, 4};
	struct qemu *qemu = &host->qemu;
	uint8_t bytes[1024] = {0};

	while (qemu->socket->to_qemu->len && qemu->in_len < CHUNKS * FILLER + sizeof(qemu->guest)) {
		uint32_t len = qemu->socket->to_qemu->len;
		uint32_t want = CHUNKS * FILLER + (uint32_t)sizeof(qemu->guest) - qemu->in_len;

		len = len < want ? len : want;
		len = len < sizeof(bytes) ? len : (uint32_t)sizeof(bytes);
		take(host, bytes, len);
		for (uint32_t i = 0; i < len; i++, qemu->in_len++) {
			if (qemu->in_len >= CHUNKS * FILLER)
				((uint8_t *)&qemu->guest)[qemu->in_len - CHUNKS * FILLER] =
				        bytes[i];
		}
	}
	if (qemu->in_len < CHUNKS * FILLER + sizeof(qemu->guest))
		return;
	qemu->in_len = 0;
	check_loaded(host);
	qemu->base = qemu->guest;
	qemu->phase = QEMU_SHADOW;
	put(host, back, sizeof(back)); /* the last four bytes are READY */
	machine_runs(host);
}

/* Reads one checkpoint; 0 when it is not all there yet. */
static uint32_t walk(struct qemu *qemu, bool apply)
{
	uint8_t *ram = (uint8_t *)&qemu->base;
	uint32_t at_byte = 5;

	for (;;) {
		uint64_t word, offset;

		if (qemu->in_len < at_byte + 8)
			return 0;
		word = wire_be64(qemu->in + at_byte);
		at_byte += 8;
		if (word == 0x10)
			break;
		if (!(word & 0x20))
			at_byte += 1u + (qemu->in_len > at_byte ? qemu->in[at_byte] : 0);
		if (qemu->in_len < at_byte + 4096)
			return 0;
		offset = word & ~4095ull;
		CHECK(offset < GUEST_PAGES * 4096, "QEMU: a page at %lu", (unsigned long)offset);
		if (apply && offset < sizeof(qemu->base))
			memcpy(ram + offset, qemu->in + at_byte,
			       MIN(4096, sizeof(qemu->base) - offset));
		at_byte += 4096;
	}
	at_byte += 5 + 1 + 4 + 8 + 2;
	return qemu->in_len >= at_byte ? at_byte : 0;
}

static void loading(struct host *host)
{
	struct qemu *qemu = &host->qemu;
	uint32_t len = qemu->socket->to_qemu->len;

	if (!qemu->half) {
		if (!take_message(host, COLO_VMSTATE_SEND))
			return;
		qemu->half = true;
		qemu->in_len = 0;
		len = qemu->socket->to_qemu->len;
	}
	if (!qemu->in)
		qemu->in = g_malloc(LOAD_ROOM);
	CHECK(qemu->in_len + len <= LOAD_ROOM, "QEMU: a checkpoint without an end");
	take(host, qemu->in + qemu->in_len, len);
	qemu->in_len += len;
	if (!walk(qemu, false))
		return;
	CHECK(walk(qemu, false) == qemu->in_len, "QEMU: bytes behind a checkpoint");
	walk(qemu, true);
	qemu->half = false;
	qemu->in_len = 0;
	qemu->phase = QEMU_LOADING;
	put_message(host, COLO_VMSTATE_RECEIVED);
	qemu->busy_until = world->now + rnd_ns(200 * US, 4 * MS) + rnd_ns(0, host->qemu_slow_ns);
	act_at(host, qemu->busy_until);
}

static void loaded(struct host *host)
{
	struct qemu *qemu = &host->qemu;

	qemu->guest = qemu->base;
	check_loaded(host);
	qemu->phase = QEMU_SHADOW;
	put_message(host, COLO_VMSTATE_LOADED);
	machine_runs(host);
}

/* ---- the state machine ---- */

static void channel_closed(struct host *host)
{
	struct qemu *qemu = &host->qemu;

	close_channel(host);
	if (qemu->phase == QEMU_COPYING) {
		qemu->phase = QEMU_ALONE;
	} else if (qemu->phase == QEMU_LOADING) {
		loaded(host);
	} else if (qemu->phase == QEMU_INCOMING || qemu->half) {
		host_qemu_died(host);
	}
}

static void channel_turn(struct host *host)
{
	struct qemu *qemu = &host->qemu;

	switch (qemu->phase) {
	case QEMU_COPYING:
		copy_more(host);
		break;
	case QEMU_COPIED:
		wait_ready(host);
		break;
	case QEMU_REQUESTED:
		reply_arrived(host);
		break;
	case QEMU_CUT:
		send_memory(host);
		break;
	case QEMU_SENT:
		if (take_message(host, COLO_VMSTATE_RECEIVED))
			qemu->phase = QEMU_SENT_RECEIVED;
		/* fall through */
	case QEMU_SENT_RECEIVED:
		if (qemu->phase == QEMU_SENT_RECEIVED && take_message(host, COLO_VMSTATE_LOADED)) {
			qemu->phase = QEMU_COLO;
			machine_runs(host);
		}
		break;
	case QEMU_INCOMING:
		incoming(host);
		break;
	case QEMU_SHADOW:
		if (take_message(host, COLO_REQUEST)) {
			machine_stops(host);
			put_message(host, COLO_REPLY);
			qemu->phase = QEMU_STOPPED;
		}
		break;
	case QEMU_STOPPED:
		loading(host);
		break;
	case QEMU_LOADING:
		if (world->now < qemu->busy_until)
			act_at(host, qemu->busy_until);
		else
			loaded(host);
		break;
	default:
		break;
	}
}

static void qemu_event(struct host *host, uint64_t incarnation)
{
	struct qemu *qemu = &host->qemu;

	if (!qemu->alive || qemu->incarnation != incarnation || qemu->acts_at != world->now)
		return;
	if (world->now < host->qemu_stalled_until) {
		qemu->acting = false;
		act_at(host, host->qemu_stalled_until);
		return;
	}
	qemu->acting = false;
	qemu->acts_at = 0;
	if (qemu->socket && qemu->socket->daemon_closed && !qemu->socket->to_qemu->len)
		channel_closed(host);
	else if (qemu->socket)
		channel_turn(host);
	if (qemu->alive && qemu->running)
		machine_turn(host);
	if (qemu->alive && qemu->socket && qemu->socket->to_qemu->len)
		qemu_kick(host);
}

/* ---- what the control thread does with it ---- */

static void begin(struct host *host, enum qemu_phase phase)
{
	qemu_end(host);
	host->qemu = (struct qemu){.alive = true,
	                           .phase = phase,
	                           .incarnation = ++world->incarnations,
	                           .random = ((uint64_t)rnd(UINT32_MAX) << 32 | 1) ^ rnd(1 << 30)};
	host->vm_id = world->incarnations;
	CHECK(world->incarnations < G_N_ELEMENTS(world->silenced), "too many QEMUs");
}

void qemu_boot(struct host *host)
{
	begin(host, QEMU_ALONE);
	host->qemu.guest.clock_ms = 0xfffff000u;
	host->qemu.guest.origin = host->qemu.incarnation;
	check_booted(host);
	machine_runs(host);
	path_vm_says(host, build_arp(1, BUILD_VM_IP)); /* a system that comes up says so */
}

void qemu_listen(struct host *host)
{
	begin(host, QEMU_LISTENS);
}

/* One in eight cannot be read, as where the kernel allows no tracing. */
const struct guest_memory *qemu_memory(const struct host *host)
{
	static struct guest_memory memory = {
	        .n = 1,
	        .block = {{.name = "pc.ram", .host = QEMU_RAM_AT, .used = GUEST_PAGES * 4096}},
	};

	memory.pid = (pid_t)host->qemu.incarnation;
	return host->qemu.alive && memory.pid % 8 ? &memory : NULL;
}

void qemu_migrate(struct host *host)
{
	struct qemu *qemu = &host->qemu;

	close_channel(host);
	qemu->socket = socket_new(host);
	qemu->phase = QEMU_COPYING;
	qemu->shut = false;
	qemu->chunks = CHUNKS;
	loop_wake(host);
	qemu_kick(host);
}

void qemu_rearm(struct host *host)
{
	if (host->qemu.alive && host->qemu.phase == QEMU_COPIED)
		host->qemu.rearmed = true;
}

bool qemu_failed_to_copy(const struct host *host)
{
	return host->qemu.phase == QEMU_ALONE;
}

void qemu_trigger(struct host *host)
{
	if (host->qemu.phase != QEMU_COLO || !host->qemu.socket)
		return;
	host->qemu.phase = QEMU_REQUESTED;
	put_message(host, COLO_REQUEST);
}

bool qemu_leave_colo(struct host *host)
{
	struct qemu *qemu = &host->qemu;

	if (!qemu->alive)
		return false;
	if (qemu->phase == QEMU_LOADING)
		loaded(host);
	close_channel(host);
	qemu->phase = QEMU_ALONE;
	machine_runs(host);
	return true;
}

void qemu_end(struct host *host)
{
	struct qemu *qemu = &host->qemu;

	check_silenced(host);
	close_channel(host);
	frame_free(qemu->extra);
	g_free(qemu->in);
	*qemu = (struct qemu){0};
}
