/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The clients: conversations over TCP, opened by the client or, when it asks for that by a
 * datagram, by the VM; and datagrams. Every byte of every answer is checked, and every answer's
 * serial is told to the checker. A connection may not break while the VM lives on one host.
 */
#include <string.h>

#include "kvm/wire.h"
#include "tests/sim/pair.h"
#include "tests/unit/tcp_builder.h"

#define CONVERSATIONS 3u
#define OUT           (CONVERSATIONS - 1) /* the VM opens this one */
#define FIRST_PORT    20000u
#define UDP_PORT      700u

enum talk { TALK_NONE, TALK_ASKING, TALK_ON, TALK_CLOSING };

struct conversation {
	struct end end;
	enum talk talk;
	uint32_t asked, answered, left;
	bool last;     /* begun after the faults */
	bool done;     /* one that was begun after the faults has come to its end */
	uint64_t next; /* when to go on */
	uint8_t head[ANSWER_HEAD];
	uint32_t head_len, body, body_len, serial;
};

struct client {
	struct conversation conv[CONVERSATIONS];
	uint32_t ports, opened, datagrams, first_datagram, flood;
	uint32_t conversations;
	uint64_t acts_at, next_datagram;
};

static void client_event(struct host *host, uint64_t arg);

static void act_at(uint64_t when)
{
	struct client *client = world->client;

	if (client->acts_at > world->now && client->acts_at <= when)
		return;
	client->acts_at = when;
	at(when, NULL, client_event, when);
}

static uint32_t owner_random(void *ctx, uint32_t below)
{
	(void)ctx;
	return rnd(below);
}

static void owner_says(void *ctx, struct frame *frame)
{
	(void)ctx;
	path_client_sends(frame);
}

static void answer_begins(struct conversation *conv)
{
	uint32_t number = wire_be32(conv->head);

	conv->serial = wire_be32(conv->head + 4);
	conv->body_len = wire_be32(conv->head + 12);
	CHECK(number == conv->answered + 1 && number <= conv->asked,
	      "port %u: answer %u after %u of %u", conv->end.peer_port, number, conv->answered,
	      conv->asked);
	CHECK(conv->body_len <= ANSWER_MAX, "an answer of %u bytes", conv->body_len);
	conv->body = 0;
	check_answer(conv->serial, (uint32_t)conv->end.peer_port << 16 | number);
}

static void answer_ends(struct conversation *conv)
{
	conv->head_len = 0;
	conv->answered++;
	count(COUNT_ANSWERS);
	conv->next = world->now + (chance(30) ? 0 : rnd_ns(MS, 60 * MS));
}

static uint32_t owner_eats(void *ctx, struct end *end, const uint8_t *data, uint32_t len)
{
	struct conversation *conv = (struct conversation *)end; /* its first member */

	(void)ctx;
	for (uint32_t i = 0; i < len; i++) {
		if (conv->head_len < ANSWER_HEAD) {
			conv->head[conv->head_len++] = data[i];
			if (conv->head_len < ANSWER_HEAD)
				continue;
			answer_begins(conv);
		} else {
			CHECK(data[i] == guest_body(conv->serial, conv->body),
			      "port %u: answer %u has another byte at %u", conv->end.peer_port,
			      conv->answered + 1, conv->body);
			conv->body++;
		}
		if (conv->body == conv->body_len)
			answer_ends(conv);
	}
	return len;
}

static struct end_owner owner_now(void)
{
	return (struct end_owner){.clock_ms = (uint32_t)(world->now / MS),
	                          .random = owner_random,
	                          .says = owner_says,
	                          .eats = owner_eats};
}

/* ---- conversations ---- */

static void begin(struct conversation *conv, enum talk talk)
{
	bool done = conv->done;

	*conv = (struct conversation){.talk = talk, .left = 1 + rnd(12), .last = world->calm};
	conv->done = done;
}

static void open_next(struct conversation *conv, uint32_t slot)
{
	struct client *client = world->client;
	struct end_owner owner = owner_now();

	if (slot == OUT) {
		begin(conv, TALK_ASKING);
		client->opened++;
		conv->end.vm_port = (uint16_t)(GUEST_OUT + client->opened);
		conv->end.peer_port = (uint16_t)(CLIENT_IN + client->opened);
		return;
	}
	begin(conv, TALK_ON);
	conv->end.vm_port = GUEST_PORT;
	conv->end.peer_port = (uint16_t)(FIRST_PORT + client->ports++);
	end_begin(&conv->end, &owner, NULL);
}

static void ask_to_open(struct conversation *conv)
{
	uint8_t data[4];

	wire_put_be32(data, (uint32_t)conv->end.peer_port - CLIENT_IN);
	path_client_sends(path_with_checksum(build_udp(true, ASK_TO_OPEN, UDP_PORT, data, 4)));
	conv->next = world->now + rnd_ns(200 * MS, 400 * MS);
}

static void send_request(struct conversation *conv)
{
	uint8_t request[REQUEST_LEN];

	wire_put_be32(request, conv->asked + 1);
	wire_put_be32(request + 4, rnd(2) ? rnd(ANSWER_MAX + 1) : rnd(50));
	if (!end_write(&conv->end, request, sizeof(request)))
		return;
	conv->asked++;
	conv->left--;
}

static void closed(struct conversation *conv)
{
	if (conv->last)
		conv->done = true;
	conv->talk = TALK_NONE;
	conv->end.state = END_CLOSED;
	conv->next = world->now + rnd_ns(MS, 50 * MS);
}

static void conversation_acts(struct conversation *conv, uint32_t slot)
{
	struct end_owner owner = owner_now();

	if (conv->talk == TALK_NONE && conv->next <= world->now && !(world->calm && conv->done))
		open_next(conv, slot);
	if (conv->talk == TALK_ASKING && conv->next <= world->now)
		ask_to_open(conv);
	if (conv->talk != TALK_ON && conv->talk != TALK_CLOSING)
		return;
	if (conv->end.state == END_CLOSED) {
		/* Refused: the VM has no room for another one. */
		CHECK(!conv->asked, "port %u: the VM broke the connection after %u answers",
		      conv->end.peer_port, conv->answered);
		conv->talk = TALK_NONE;
		conv->next = world->now + 100 * MS;
		return;
	}
	if (conv->end.state == END_OPEN && conv->talk == TALK_ON && conv->next <= world->now &&
	    conv->asked - conv->answered < 2) {
		if (conv->left) {
			send_request(conv);
		} else if (conv->asked == conv->answered) {
			conv->end.fin_queued = true;
			conv->talk = TALK_CLOSING;
		}
	}
	end_acts(&conv->end, &owner);
	if (end_done(&conv->end))
		closed(conv);
}

static void send_datagram(struct client *client)
{
	uint8_t data[4];

	client->next_datagram = world->now + rnd_ns(20 * MS, 150 * MS);
	if (client->flood) {
		client->flood--;
		client->next_datagram = world->now + rnd_ns(5 * US, 300 * US);
	}
	if (world->calm || world->schedule->no_datagrams ||
	    client->datagrams + 1 >= G_N_ELEMENTS(world->copies))
		return;
	count(COUNT_DATAGRAMS);
	wire_put_be32(data, ++client->datagrams);
	path_client_sends(path_with_checksum(build_udp(true, 7, UDP_PORT, data, 4)));
}

static uint64_t conversation_due(const struct conversation *conv)
{
	uint32_t clock = (uint32_t)(world->now / MS), due;
	uint64_t next = NEVER;

	if (conv->next > world->now)
		next = conv->next;
	else if (conv->talk == TALK_ON && conv->end.state == END_OPEN && conv->left &&
	         conv->asked - conv->answered < 2)
		next = world->now + MS;
	if ((conv->talk == TALK_ON || conv->talk == TALK_CLOSING) && end_due(&conv->end, &due)) {
		uint64_t ms = (int32_t)(due - clock) > 0 ? due - clock : 1;

		if (world->now + ms * MS < next)
			next = world->now + ms * MS;
	}
	return next;
}

static void client_event(struct host *host, uint64_t arg)
{
	struct client *client = world->client;
	uint64_t next;

	(void)host;
	if (client->acts_at != arg)
		return;
	client->acts_at = 0;
	for (uint32_t i = 0; i < client->conversations; i++)
		conversation_acts(&client->conv[i], i);
	if (client->next_datagram <= world->now)
		send_datagram(client);
	next = client->next_datagram;
	for (uint32_t i = 0; i < client->conversations; i++) {
		uint64_t due = conversation_due(&client->conv[i]);

		next = due < next ? due : next;
	}
	act_at(next);
}

/* ---- hearing ---- */

static struct conversation *find(const struct packet *p)
{
	for (uint32_t i = 0; i < CONVERSATIONS; i++) {
		struct conversation *conv = &world->client->conv[i];

		if (conv->talk != TALK_NONE && conv->end.vm_port == p->tcp.sport &&
		    conv->end.peer_port == p->tcp.dport)
			return conv;
	}
	return NULL;
}

static void hear_tcp(const struct packet *p)
{
	struct end_owner owner = owner_now();
	struct conversation *conv = find(p);

	if (!conv) {
		end_refuses(&owner, p);
	} else if (conv->talk == TALK_ASKING) {
		if ((p->tcp.flags & (PACKET_SYN | PACKET_ACK)) != PACKET_SYN)
			return;
		conv->talk = TALK_ON;
		end_begin(&conv->end, &owner, p);
	} else {
		CHECK(!(p->tcp.flags & PACKET_ACK) || conv->end.state != END_OPEN ||
		              p->tcp.flags & PACKET_SYN ||
		              (int32_t)(p->tcp.ack - conv->end.iss - 1 - conv->end.max) <= 0,
		      "port %u: acknowledges what was never sent", conv->end.peer_port);
		end_hears(&conv->end, &owner, p);
	}
}

static void hear_udp(const struct packet *p)
{
	const uint8_t *data = p->frame->data + p->payload_off;

	if (p->udp.sport != 7 || p->payload_len != 12)
		return;
	if (wire_be32(data) > world->client->first_datagram)
		check_answer(wire_be32(data + 4), 1u << 16 | (wire_be32(data) & 0xffff));
	count(COUNT_ANSWERS);
}

void client_hears(struct frame *frame)
{
	struct packet p;

	CHECK(packet_parse(&p, frame) == 0, "a frame that is none");
	CHECK(path_is_sound(&p), "a wrong checksum (R7)");
	if (p.class == PACKET_TCP)
		hear_tcp(&p);
	else if (p.class == PACKET_UDP)
		hear_udp(&p);
	act_at(world->now + rnd_ns(10 * US, 100 * US));
}

/* ---- */

void client_start(void)
{
	uint32_t most = world->schedule->clients;

	world->client = g_new0(struct client, 1);
	world->client->conversations = most && most < CONVERSATIONS ? most : CONVERSATIONS;
	act_at(world->now + MS);
}

/* So many datagrams come in a burst, to fill whatever can be filled. */
void client_floods(uint32_t datagrams)
{
	world->client->flood = datagrams;
	world->client->next_datagram = world->now;
	act_at(world->now + 10 * US);
}

bool client_knows(const struct packet *p, uint32_t *ret_iss, uint32_t *ret_irs)
{
	const struct conversation *conv = find(p);

	if (!conv || conv->end.state != END_OPEN)
		return false;
	*ret_iss = conv->end.iss;
	*ret_irs = conv->end.irs;
	return true;
}

/* The connections of the VM that was lost are gone; the ports are never used again. */
void client_vm_rebooted(void)
{
	struct client *client = world->client;

	client->first_datagram = client->datagrams;
	for (uint32_t i = 0; i < CONVERSATIONS; i++) {
		client->conv[i].talk = TALK_NONE;
		client->conv[i].next = world->now + rnd_ns(MS, 50 * MS);
	}
	act_at(world->now + MS);
}

bool client_done(void)
{
	for (uint32_t i = 0; i < world->client->conversations; i++) {
		if (!world->client->conv[i].done)
			return false;
	}
	return true;
}

void client_describe(void)
{
	for (uint32_t i = 0; i < world->client->conversations; i++) {
		const struct conversation *conv = &world->client->conv[i];

		g_printerr(
		        "  client port %u: talk %d, state %d, asked %u, answered %u, done %d, una "
		        "%u of %u, rcv %u\n",
		        conv->end.peer_port, conv->talk, conv->end.state, conv->asked,
		        conv->answered, conv->done, conv->end.una, conv->end.written,
		        conv->end.rcv);
	}
}

void client_free(void)
{
	g_free(world->client);
	world->client = NULL;
}
