/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * link.h between the two hosts of the world: one session at a time, two channels, each in order,
 * each with its own random delay. What is queued here leaves at the end of a turn, as far as the
 * sockets take it; what is on its way when a process dies arrives or does not, when a host loses
 * its power it does not. A cut lets nothing arrive; when it heals, TCP sends again. The side that
 * is left alone learns of the end when a packet of the other one can reach it.
 *
 * A byte that arrives changed ends the session where it is noticed (link/codec.c; under TLS, by the
 * record): all that came before has been delivered. A length that has become larger is noticed only
 * when so many bytes have come, or the rest of the frame has not come for too long: until then that
 * channel is deaf.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/sim/pair.h"

#define SOCKET_BYTES (96u << 10)
#define TURN_BYTES   (128u << 10)
#define REST_TIMEOUT (10 * SEC) /* link.c's */

struct message {
	struct message *next;
	uint64_t arrives;
	uint8_t type;
	uint32_t epoch, len;
	uint8_t payload[];
};

struct pipe {
	struct message *head, *tail;
	size_t bytes;
	uint32_t n;
};

struct link {
	struct host *host;
	struct link_params params;
	const struct link_ops *ops;
	void *ctx;
	bool up, closed, pending; /* pending: up() is due at up_at */
	uint64_t up_at, down_at, retry_at, retry_pause;
	char why[64];
	uint64_t session;
	uint8_t caps[LINK_CAPS_MAX];
	struct pipe queue[LINK_CHANNELS]; /* not yet taken by the sockets */
	struct pipe wire[LINK_CHANNELS];  /* on its way to this side */
	uint64_t last_arrival[LINK_CHANNELS];
	uint64_t deaf[LINK_CHANNELS]; /* bytes until a damaged length is noticed; 0: none */
	uint64_t deaf_until;
	bool full[LINK_CHANNELS], paused[LINK_CHANNELS];
	struct link_counters count[LINK_CHANNELS];
};

static void pipe_push(struct pipe *pipe, struct message *message)
{
	message->next = NULL;
	*(pipe->tail ? &pipe->tail->next : &pipe->head) = message;
	pipe->tail = message;
	pipe->bytes += LINK_HEADER_LEN + message->len;
	pipe->n++;
}

static struct message *pipe_pop(struct pipe *pipe)
{
	struct message *message = pipe->head;

	if (!message)
		return NULL;
	pipe->head = message->next;
	if (!pipe->head)
		pipe->tail = NULL;
	pipe->bytes -= LINK_HEADER_LEN + message->len;
	pipe->n--;
	return message;
}

/* Pages told by their hashes: those that the other machine has, and those that it has not. */
static void count_pages(const struct message *message)
{
	uint32_t n = message->type == MSG_CKPT_HOLES ? message->payload[3] : 0;

	for (uint32_t i = 0; i < n; i++)
		count(message->payload[4 + i / 8] >> i % 8 & 1 ? COUNT_HOLES : COUNT_AGREED);
}

/* It does not arrive. */
static void lose(struct message *message)
{
	if (message->type == MSG_TS_LEAD)
		world->lead_lost = true;
	g_free(message);
}

static void pipe_keep(struct pipe *pipe, uint32_t n)
{
	struct pipe kept = {0};
	struct message *message;

	while ((message = pipe_pop(pipe))) {
		if (kept.n < n)
			pipe_push(&kept, message);
		else
			lose(message);
	}
	*pipe = kept;
}

static struct link *other(const struct link *link)
{
	return peer_of(link->host)->link;
}

static bool is_primary(const struct link *link)
{
	return link->params.role == LINK_PRIMARY;
}

int link_key_read(const char *path, struct link_key *ret_key, char *err, size_t errlen)
{
	(void)path;
	(void)err;
	(void)errlen;
	*ret_key = (struct link_key){.len = LINK_KEY_MIN};
	return 0;
}

void link_key_wipe(struct link_key *key)
{
	*key = (struct link_key){0};
}

int link_new(struct link **ret_link, struct loop *loop, const struct link_params *params,
             const struct link_ops *ops, void *ctx, char *err, size_t errlen)
{
	struct link *link = g_new0(struct link, 1);

	(void)loop;
	(void)err;
	(void)errlen;
	link->host = here;
	link->params = *params;
	if (params->caps_len)
		memcpy(link->caps, params->caps, params->caps_len);
	link->ops = ops;
	link->ctx = ctx;
	link->down_at = link->deaf_until = NEVER;
	link->retry_pause = 100 * MS;
	link->retry_at = is_primary(link) ? world->now : NEVER;
	here->link = link;
	*ret_link = link;
	return 0;
}

static void empty(struct link *link)
{
	for (enum link_channel c = LINK_FAST; c < LINK_CHANNELS; c++) {
		pipe_keep(&link->queue[c], 0);
		pipe_keep(&link->wire[c], 0);
		link->full[c] = link->paused[c] = false;
		link->deaf[c] = 0;
		link->last_arrival[c] = 0;
	}
	link->down_at = link->deaf_until = NEVER;
	link->pending = false;
}

void link_free(struct link *link)
{
	if (!link)
		return;
	empty(link);
	if (link->host->link == link)
		link->host->link = NULL;
	g_free(link);
}

/* The other side of this session is told, when something can reach it. */
static void tell_other(struct link *link, const char *why)
{
	struct link *peer = other(link);

	if (!peer || peer->session != link->session || !(peer->up || peer->pending))
		return;
	snprintf(peer->why, sizeof(peer->why), "%s", why);
	if (!world->cut[link->host->index])
		peer->down_at = world->now + rnd_ns(20 * US, world->delay + 50 * US);
}

static void end_session(struct link *link, const char *reason)
{
	bool was_up = link->up;

	link->up = false;
	empty(link);
	link->session = 0;
	if (is_primary(link) && !link->closed) {
		link->retry_pause = 100 * MS;
		link->retry_at = world->now + link->retry_pause;
	}
	if (was_up)
		link->ops->down(link->ctx, reason);
}

static bool may_send(const struct link *link)
{
	const struct link *peer = other(link);

	return peer && peer->session == link->session && (peer->up || peer->pending);
}

/* From the queue into the sockets. */
static void write_out(struct link *link, enum link_channel c)
{
	struct link *peer = other(link);
	struct message *message;

	while (link->queue[c].head) {
		if (link->host->sockets_full)
			break;
		if (may_send(link) && peer->wire[c].bytes >= SOCKET_BYTES)
			break;
		message = pipe_pop(&link->queue[c]);
		if (!may_send(link)) {
			lose(message);
			continue;
		}
		message->arrives = world->now + rnd_ns(10 * US, world->delay);
		if (message->arrives < peer->last_arrival[c])
			message->arrives = peer->last_arrival[c];
		peer->last_arrival[c] = message->arrives;
		pipe_push(&peer->wire[c], message);
	}
}

void link_flush(struct link *link)
{
	if (!link->up || !acts(link->host))
		return;
	for (enum link_channel c = LINK_FAST; c < LINK_CHANNELS; c++)
		write_out(link, c);
}

int link_send(struct link *link, enum link_channel channel, uint8_t type, uint32_t epoch,
              const struct iovec *iov, int iovcnt)
{
	struct message *message;
	size_t len = 0;

	for (int i = 0; i < iovcnt; i++)
		len += iov[i].iov_len;
	if (!link->up || !acts(link->host))
		return -ENOTCONN;
	g_assert(type >= LINK_TYPE_USER);
	if (len > link_max_payload(type, (uint8_t)channel))
		return -EMSGSIZE;
	if (link->queue[channel].bytes + LINK_HEADER_LEN + len >
	            link->params.queue_limit[channel] ||
	    (link->host->queue_full && channel == LINK_FAST)) {
		link->full[channel] = true;
		return -EAGAIN;
	}
	message = g_malloc(sizeof(*message) + len);
	*message = (struct message){.type = type, .epoch = epoch, .len = (uint32_t)len};
	len = 0;
	for (int i = 0; i < iovcnt; i++) {
		if (iov[i].iov_len)
			memcpy(message->payload + len, iov[i].iov_base, iov[i].iov_len);
		len += iov[i].iov_len;
	}
	pipe_push(&link->queue[channel], message);
	link->count[channel].sent_messages++;
	link->count[channel].sent_bytes += len;
	return 0;
}

size_t link_queued(const struct link *link, enum link_channel channel)
{
	return link->queue[channel].bytes;
}

uint64_t link_rate(const struct link *link, enum link_channel channel)
{
	(void)link;
	(void)channel;
	return chance(30) ? 0 : 1ull << (16 + rnd(14));
}

void link_pause(struct link *link, enum link_channel channel, bool pause)
{
	link->paused[channel] = pause;
}

/* Two honest daemons: whatever is lost, neither sends a checkpoint that the other refuses. */
static bool is_honest(const char *reason)
{
	return !g_str_has_prefix(reason, "checkpoint ") && !g_str_has_prefix(reason, "replay: ") &&
	       !g_str_has_prefix(reason, "pages are missing") &&
	       strcmp(reason, "a checkpoint that is not what its end says") != 0;
}

void link_drop(struct link *link, const char *reason)
{
	if (!link->up || !acts(link->host))
		return;
	trace(link->host, "drops the session: %s", reason);
	CHECK(is_honest(reason), "the session is dropped: %s (R3)", reason);
	link_flush(link);
	tell_other(link, reason);
	end_session(link, reason);
}

void link_close(struct link *link, const char *reason)
{
	link->closed = true;
	link->retry_at = NEVER;
	link_drop(link, reason);
}

bool link_is_up(const struct link *link)
{
	return link->up;
}

unsigned int link_streams(const struct link *link)
{
	return link->up ? 1 : 0;
}

uint16_t link_port(const struct link *link)
{
	return link->params.port;
}

void link_counters(const struct link *link, enum link_channel channel, struct link_counters *ret)
{
	*ret = link->count[channel];
}

/* ---- sessions ---- */

uint64_t link_session(const struct host *host)
{
	return host->link && host->link->up ? host->link->session : 0;
}

static bool net_works(void)
{
	return !world->cut[0] && !world->cut[1];
}

static void connect_now(struct link *link)
{
	struct link *peer = other(link);
	uint64_t setup = rnd_ns(100 * US, 4 * world->delay + 200 * US);

	link->retry_pause = link->retry_pause < 2 * SEC ? 2 * link->retry_pause : link->retry_pause;
	link->retry_at = world->now + link->retry_pause;
	if (!net_works() || !peer || peer->closed || peer->up || peer->pending ||
	    peer->host->stalled_until > world->now || is_primary(peer))
		return;
	link->retry_at = NEVER;
	link->session = peer->session = ++world->seq;
	peer->pending = link->pending = true;
	peer->up_at = world->now + setup;
	link->up_at = peer->up_at + rnd_ns(20 * US, world->delay);
}

static void goes_up(struct link *link)
{
	char address[] = "10.9.0.1:7001";
	struct link_peer peer = {.session = link->session};
	const struct link *from = other(link);

	if (from && from->session == link->session) {
		peer.caps = from->caps;
		peer.caps_len = from->params.caps_len;
	}

	link->pending = false;
	link->up = true;
	link->retry_pause = 100 * MS;
	memcpy(peer.address, address, sizeof(address));
	link->ops->up(link->ctx, &peer);
}

static void damage_noticed(struct link *link)
{
	trace(link->host, "a frame on the link is damaged");
	count(COUNT_LINK_DAMAGED);
	tell_other(link, "bad frame");
	end_session(link, "bad frame");
}

/* True: the message is not delivered. The session may be over. */
static bool is_damaged(struct link *link, enum link_channel c, const struct message *message)
{
	struct host *host = link->host;

	if (link->deaf[c]) {
		uint64_t len = LINK_HEADER_LEN + message->len;

		link->deaf[c] = len < link->deaf[c] ? link->deaf[c] - len : 0;
		if (!link->deaf[c])
			damage_noticed(link);
		return true;
	}
	if (!host->damaged || --host->damaged)
		return false;
	if (chance(70)) {
		damage_noticed(link);
	} else {
		/* One bit of the length. */
		trace(host, "a length on the link is damaged");
		count(COUNT_LINK_DEAF);
		link->deaf[c] = 1ull << rnd(c == LINK_FAST ? 18 : 20);
		if (link->deaf_until == NEVER)
			link->deaf_until = world->now + REST_TIMEOUT;
	}
	return true;
}

static void deliver(struct link *link, enum link_channel c)
{
	uint64_t session = link->session;
	size_t budget = TURN_BYTES;

	while (link->up && link->session == session && !link->paused[c] &&
	       !world->cut[peer_of(link->host)->index]) {
		struct message *message = link->wire[c].head;
		struct link *peer;

		if (!message || message->arrives > world->now || message->len > budget)
			break;
		budget -= message->len;
		pipe_pop(&link->wire[c]);
		peer = other(link);
		if (peer && peer->session == session && peer->queue[c].head)
			write_out(peer, c);
		if (peer && peer->full[c])
			loop_wake(peer->host);
		if (is_damaged(link, c, message)) {
			lose(message);
			continue;
		}
		link->count[c].received_messages++;
		link->count[c].received_bytes += message->len;
		count_pages(message);
		if (message->type == MSG_RELEASED)
			check_released(message->epoch);
		link->ops->message(link->ctx, c, message->type, message->epoch, message->payload,
		                   message->len);
		g_free(message);
	}
}

void link_turn(struct host *host)
{
	struct link *link = host->link;

	if (!link)
		return;
	if (link->retry_at <= world->now && !link->up && !link->pending)
		connect_now(link);
	if (link->pending && link->up_at <= world->now)
		goes_up(link);
	for (enum link_channel c = LINK_FAST; c < LINK_CHANNELS; c++)
		deliver(link, c);
	for (enum link_channel c = LINK_FAST; c < LINK_CHANNELS; c++) {
		if (link->up && link->full[c] &&
		    link->queue[c].bytes <= link->params.queue_limit[c] / 2) {
			link->full[c] = false;
			link->ops->room(link->ctx, c);
		}
	}
	if (link->up && link->deaf_until <= world->now)
		damage_noticed(link);
	if (link->down_at <= world->now && !world->cut[peer_of(host)->index]) {
		trace(host, "finds the session over: %s", link->why);
		end_session(link, link->why);
	}
}

void link_turn_end(struct host *host)
{
	if (host->link)
		link_flush(host->link);
}

uint64_t link_next(const struct host *host)
{
	const struct link *link = host->link;
	uint64_t next = NEVER;

	if (!link)
		return NEVER;
	if (link->retry_at < next && !link->up && !link->pending)
		next = link->retry_at;
	if (link->pending && link->up_at < next)
		next = link->up_at;
	if (link->up && link->deaf_until < next)
		next = link->deaf_until;
	if (world->cut[peer_of(host)->index])
		return next;
	if (link->down_at < next)
		next = link->down_at;
	for (enum link_channel c = LINK_FAST; link->up && c < LINK_CHANNELS; c++) {
		if (link->wire[c].head && !link->paused[c] && link->wire[c].head->arrives < next)
			next = link->wire[c].head->arrives;
	}
	return next > world->now ? next : world->now;
}

/* ---- what happens to hosts ---- */

/* The kernel closes its sockets: what is on its way arrives, some of it, or none. */
void link_process_died(struct host *host)
{
	struct link *peer = peer_of(host)->link;

	if (!host->link || !peer || !host->link->session || peer->session != host->link->session)
		return;
	for (enum link_channel c = LINK_FAST; c < LINK_CHANNELS; c++) {
		if (chance(50))
			pipe_keep(&peer->wire[c], rnd(peer->wire[c].n + 1));
	}
	tell_other(host->link, "closed by the peer");
}

void link_power_lost(struct host *host)
{
	struct link *peer = peer_of(host)->link;

	if (!host->link || !peer || !host->link->session || peer->session != host->link->session)
		return;
	for (enum link_channel c = LINK_FAST; c < LINK_CHANNELS; c++) {
		struct message *message = peer->wire[c].head;
		uint32_t n = 0;

		for (; message && message->arrives <= world->now; message = message->next)
			n++;
		pipe_keep(&peer->wire[c], n);
	}
}

/* A session whose other end is gone: the next packet is answered by a reset. */
static void find_dead(struct host *host)
{
	struct link *link = host->link, *peer;

	if (!link || !link->session || !(link->up || link->pending))
		return;
	peer = other(link);
	if (peer_of(host)->power && (!peer || peer->session != link->session) &&
	    link->down_at == NEVER) {
		snprintf(link->why, sizeof(link->why), "reset by the peer");
		link->down_at = world->now + rnd_ns(MS, 200 * MS);
	}
}

/* The network works again, or a host is on again. */
void link_healed(void)
{
	if (!net_works())
		return;
	for (uint32_t i = 0; i < 2; i++) {
		struct link *link = world->host[i].link;

		for (enum link_channel c = LINK_FAST; link && c < LINK_CHANNELS; c++) {
			uint64_t again = world->now + rnd_ns(MS, 300 * MS);

			for (struct message *m = link->wire[c].head; m; m = m->next)
				m->arrives = m->arrives > again ? m->arrives : again;
			if (link->last_arrival[c] < again)
				link->last_arrival[c] = again;
		}
		find_dead(&world->host[i]);
	}
}
