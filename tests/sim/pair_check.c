/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The checker sees both machines and everything that leaves a host.
 *
 *  R1, R2  What a protected primary lets out is known to what would go on if it died now: the SVM
 *          as it is, or the checkpoint that is whole beside it: the same bytes at the same offset,
 *          no acknowledgement beyond its own.
 *  R3, R4  No serial is ever given to two requests: a survivor that had forgotten what a client was
 *          told would do that.
 *  R5      No request is executed twice.
 *  R6      A QEMU after which another one has spoken never speaks again; the VM is not booted
 *          while another copy could go on.
 *  R7      The clients (pair_client.c): no connection breaks, no byte is another one.
 *  R8      Queues, after every turn.
 *
 * That service goes on when the faults are over is asked at the end (sim_pair.c).
 */
#include <string.h>

#include "kvm/wire.h"
#include "tests/sim/pair.h"

#define HELD_SLACK (512u << 10) /* what the hold has at a cut comes on top */

void check_answer(uint32_t serial, uint32_t who)
{
	CHECK(serial && serial < G_N_ELEMENTS(world->executed), "serial %u", serial);
	CHECK(!world->executed[serial] || world->executed[serial] == who,
	      "serial %u was given to %u/%u and to %u/%u (R4)", serial,
	      world->executed[serial] >> 16, world->executed[serial] & 0xffff, who >> 16,
	      who & 0xffff);
	if (!world->executed[serial]) {
		for (uint32_t i = 1; i <= world->serials; i++)
			CHECK(world->executed[i] != who, "%u/%u was executed twice (R5)", who >> 16,
			      who & 0xffff);
	}
	world->executed[serial] = who;
	if (serial > world->serials)
		world->serials = serial;
}

void check_captured(struct host *host, uint32_t epoch)
{
	world->image[epoch & 1] = host->qemu.guest;
	world->image_epoch[epoch & 1] = epoch;
	world->image_incarnation[epoch & 1] = host->qemu.incarnation;
	if (epoch)
		world->checkpoints++;
	trace(host, "C(%u) is captured at serial %u", epoch, host->qemu.guest.serial);
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
	world->boots++;
	world->generation++;
	memset(world->executed, 0, sizeof(world->executed));
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

static void check_tcp_known(const struct guest *pvm, const struct guest *svm,
                            const struct packet *p)
{
	const struct guest_conn *said = conn_of(pvm, p), *knows = conn_of(svm, p);
	uint32_t off, end;

	if (!said || p->tcp.flags & PACKET_RST)
		return;
	if (!knows) {
		/* It has come to its end there; or it never began. */
		CHECK(!(p->tcp.flags & PACKET_SYN) && said->end.fin_heard,
		      "port %u: nobody else knows the connection (R1)", p->tcp.dport);
		return;
	}
	off = p->tcp.seq - said->end.iss - 1;
	end = off + p->payload_len + !!(p->tcp.flags & PACKET_FIN);
	if (p->tcp.flags & PACKET_SYN)
		return;
	CHECK(end <= knows->end.max || end == off,
	      "port %u: offset %u is let out, known is %u (R1)", p->tcp.dport, end, knows->end.max);
	for (uint32_t i = 0; i < p->payload_len; i++) {
		if (off + i + END_TX < knows->end.written || off + i >= knows->end.written)
			continue;
		CHECK(p->frame->data[p->payload_off + i] == knows->end.tx[(off + i) % END_TX],
		      "port %u: another byte at %u (R2)", p->tcp.dport, off + i);
	}
	if (p->tcp.flags & PACKET_ACK)
		CHECK((int32_t)(p->tcp.ack - said->end.irs - 1 - knows->end.rcv) <= 0,
		      "port %u: acknowledges %u, heard is %u (R1)", p->tcp.dport,
		      p->tcp.ack - said->end.irs - 1, knows->end.rcv);
}

static void check_known(struct host *host, struct frame *frame)
{
	const struct guest *svm;
	struct packet p;

	if (!host->node->is_primary || !host->qemu.alive ||
	    (host->node->role.state != ROLE_PROTECTED && host->node->role.state != ROLE_DECIDING &&
	     host->node->role.state != ROLE_STUCK))
		return;
	svm = would_go_on(peer_of(host));
	if (!svm || packet_parse(&p, frame) != 0)
		return;
	if (p.class == PACKET_TCP)
		check_tcp_known(&host->qemu.guest, svm, &p);
	else if (p.class == PACKET_UDP && p.payload_len == 12)
		CHECK(wire_be32(frame->data + p.payload_off + 4) <= svm->serial,
		      "serial %u is let out, known is %u (R1)",
		      wire_be32(frame->data + p.payload_off + 4), svm->serial);
}

void check_emission(struct host *host, struct frame *frame)
{
	uint32_t incarnation = host->vm_id;

	CHECK(!world->silenced[incarnation], "%s speaks after the other one has (R6)",
	      host->index ? "B" : "A");
	if (world->speaker != incarnation) {
		trace(host, "speaks");
		if (world->speaker)
			world->takeovers++;
		world->silenced[world->speaker] = world->speaker != 0;
		world->speaker = incarnation;
	}
	/* A survivor's frames carry its clients' numbers, not its own. */
	if (!host->node->shadow)
		check_known(host, frame);
}

void check_host(struct host *host)
{
	const struct node *node = host->node;
	struct gate_stats stats;

	if (node->role.state == ROLE_PROTECTED)
		world->was_protected = true;
	CHECK(node->p.unsent.bytes <= node->config->max_input_log_bytes, "unsent input: %lu (R8)",
	      (unsigned long)node->p.unsent.bytes);
	CHECK(node->s.log.bytes <= node->config->max_input_log_bytes || !node->s.feeding,
	      "input log: %lu (R8)", (unsigned long)node->s.log.bytes);
	if (node->gate) {
		gate_get_stats(node->gate, &stats);
		CHECK(stats.now_bytes <= node->config->max_held_bytes + HELD_SLACK,
		      "held: %lu bytes (R8)", (unsigned long)stats.now_bytes);
		CHECK(stats.now_flows <= node->config->max_flows, "flows: %u (R8)",
		      stats.now_flows);
	}
}
