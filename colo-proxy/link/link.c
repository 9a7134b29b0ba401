/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/link/link.h"

#include <errno.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "colo-proxy/link/link_private.h"

/*
 * How a session comes up: setup.c.
 *
 * Invariants:
 *  - up() and down() alternate, and the states are final before either is called.
 *  - link_send() and link_flush() never call back: an error of writing is kept in the connection
 *    and reported by the turn timer, at the end of the loop's turn.
 *  - A connection that is killed inside a callback stays allocated, with its payload, until the
 *    reaper timer, so whoever is up the stack only has to look at its state.
 *  - Once a connection has proven itself it is not read until both have, so no message can come
 *    before up().
 */

#define READ_BUDGET (128u << 10) /* bytes for each event, so that channels take turns */
#define CORK        (64u << 10)  /* bytes gathered that are written without waiting further */

/* Ending connections */

static void reap(void *ctx, uint64_t now)
{
	struct link *link = ctx;

	while (link->dead) {
		struct conn *c = link->dead;

		link->dead = c->next;
		conn_free(c);
	}
}

void link_unlink_conn(struct link *link, struct conn *c)
{
	struct conn **pos;

	for (unsigned i = 0; i < LINK_PLACES; i++) {
		if (link->conns[i] == c)
			link->conns[i] = NULL;
	}
	for (pos = &link->candidates; *pos; pos = &(*pos)->next) {
		if (*pos == c) {
			*pos = c->next;
			link->n_candidates--;
			return;
		}
	}
}

void link_kill_conn(struct link *link, struct conn *c)
{
	if (!c || c->state == CONN_DEAD)
		return;
	link_unlink_conn(link, c);
	c->state = CONN_DEAD;
	loop_del(link->loop, &c->source);
	loop_timer_clear(link->loop, &c->deadline);
	/* The peer learns at once; the descriptor is closed by the reaper. */
	shutdown(c->transport.fd, SHUT_RDWR);
	c->next = link->dead;
	link->dead = c;
	loop_timer_set(link->loop, &link->reaper, loop_now(link->loop));
}

void link_kill_session(struct link *link)
{
	for (unsigned i = 0; i < LINK_PLACES; i++)
		link_kill_conn(link, link->conns[i]);
	link_stripes_stop(link);
	link->session = 0;
	link->agreed = 0;
}

void link_retry_later(struct link *link)
{
	if (link->closed || link->role != LINK_PRIMARY)
		return;
	loop_timer_set(link->loop, &link->retry, loop_now(link->loop) + link->backoff_ms * MS);
	link->backoff_ms = link->backoff_ms > link->backoff_max_ms / 2 ? link->backoff_max_ms
	                                                               : link->backoff_ms * 2;
}

static void end_session(struct link *link, const char *reason)
{
	bool was_up = link->up;

	link->up = false;
	link_kill_session(link);
	link->backoff_ms = link->backoff_min_ms;
	link_retry_later(link);
	if (was_up)
		link->ops->down(link->ctx, reason);
}

void link_report_refusal(struct link *link, const char *text)
{
	if (link->role == LINK_PRIMARY) {
		if (!strcmp(text, link->last_refusal))
			return;
		snprintf(link->last_refusal, sizeof(link->last_refusal), "%s", text);
	}
	link->ops->refused(link->ctx, text);
}

void link_put_own(struct conn *c, enum link_own_type type, const void *payload, size_t len)
{
	struct iovec iov = {.iov_base = (void *)payload, .iov_len = len};

	conn_put(c, (uint8_t)type, 0, &iov, 1, (uint32_t)len);
}

/* Only a courtesy: where the queue is not empty, the peer sees the end without a reason. */
static void say_bye(struct link *link, const char *reason)
{
	size_t len = strlen(reason);
	int i;

	for (i = 0; i < LINK_CHANNELS && link->up; i++) {
		struct conn *c = link->conns[i];

		if (conn_write(c) || conn_queued(c))
			continue;
		link_put_own(c, LINK_BYE, reason, len < LINK_MAX_OWN ? len : LINK_MAX_OWN);
		(void)conn_write(c);
	}
}

/* The connection is of no more use: ends its session, its attempt or only itself. */
void link_conn_fail(struct conn *c, const char *fmt, ...)
{
	struct link *link = c->link;
	char text[512];
	va_list ap;
	int n;

	if (c->state == CONN_DEAD)
		return;
	n = snprintf(text, sizeof(text), "%s: ", c->peer);
	va_start(ap, fmt);
	vsnprintf(text + n, sizeof(text) - (size_t)n, fmt, ap);
	va_end(ap);
	if (c->state == CONN_UP) {
		say_bye(link, text);
		end_session(link, text);
		return;
	}
	if (link->conns[c->channel] == c)
		link_kill_session(link);
	else
		link_kill_conn(link, c);
	link_retry_later(link);
	link_report_refusal(link, text);
}

void link_deadline_passed(void *ctx, uint64_t now)
{
	struct conn *c = ctx;
	static const char *const waits[] = {
	        [CONN_CONNECTING] = "an answer to TCP's connect",
	        [CONN_TLS] = "the TLS handshake",
	        [CONN_HELLO] = "the peer's hello",
	        [CONN_PROOF] = "the peer's proof",
	        [CONN_READY] = "the peer to be ready",
	        [CONN_WAIT] = "the other connections of the session",
	};

	if (c->state != CONN_UP)
		link_conn_fail(c, "no session within %u ms, waited for %s", c->link->setup_ms,
		               waits[c->state]);
	else if (c->waits)
		link_stripes_late(c);
	else if (!c->paused && c->in.head != c->in.tail)
		link_conn_fail(c, "the rest of a message has not come within %u ms",
		               c->link->user_timeout_ms);
}

/*
 * Bytes have come. In a message that is not whole the next ones are due, or its length is damaged,
 * and nothing of this channel would ever be delivered again.
 */
void link_expect_rest(struct conn *c)
{
	struct link *link = c->link;

	if (c->state != CONN_UP || c->waits)
		return;
	if (c->in.head == c->in.tail)
		loop_timer_clear(link->loop, &c->deadline);
	else
		loop_timer_set(link->loop, &c->deadline,
		               loop_now(link->loop) + link->user_timeout_ms * MS);
}

/* Sending */

void link_turn_soon(struct link *link)
{
	if (!link->turn.at)
		loop_timer_set(link->loop, &link->turn, loop_now(link->loop));
}

void link_update_events(struct conn *c)
{
	uint32_t events = c->blocked ? EPOLLOUT : 0;
	int error;

	if (c->state == CONN_DEAD)
		return;
	if (c->state == CONN_WAIT)
		events |= EPOLLRDHUP;
	else if (!c->paused && !c->waits)
		events |= EPOLLIN;
	error = loop_set_events(c->link->loop, &c->source, events);
	if (error)
		link_conn_fail(c, "waiting for events: %s", strerror(-error));
}

/* Writes, from the loop only: fails the connection by itself. */
void link_write_now(struct conn *c)
{
	conn_new_turn(c);
	if (conn_write(c)) {
		link_conn_fail(c, "%s", c->failure);
		return;
	}
	link_update_events(c);
}

static void tell_room(struct conn *c)
{
	struct link *link = c->link;

	if (c->state != CONN_UP || !c->want_room ||
	    link_queued(link, c->channel) > link->limit[c->channel] / 2)
		return;
	c->want_room = false;
	if (c->channel == LINK_BULK)
		atomic_store(&link->bell.room, false);
	link->ops->room(link->ctx, c->channel);
}

static void drain(struct conn *c);

void link_go_up(struct link *link, const struct link_hello *peer_hello)
{
	struct conn *conns[LINK_CHANNELS];
	struct link_peer peer = {
	        .session = link->session,
	        .caps = peer_hello->caps,
	        .caps_len = peer_hello->caps_len,
	};
	int i, error;

	error = link->agreed > 1 ? link_stripes_start(link) : 0;
	if (error) {
		link_conn_fail(link->conns[LINK_FAST], "starting %u streams: %s", link->agreed,
		               strerror(-error));
		return;
	}
	memcpy(conns, link->conns, sizeof(conns));
	snprintf(peer.address, sizeof(peer.address), "%s", conns[LINK_FAST]->peer);
	for (i = 0; i < LINK_CHANNELS; i++) {
		loop_timer_clear(link->loop, &conns[i]->deadline);
		conns[i]->state = CONN_UP;
	}
	link->up = true;
	link->last_refusal[0] = '\0';
	link->ops->up(link->ctx, &peer);
	/* From here on either may be dead: the functions below look. */
	for (i = 0; i < LINK_CHANNELS; i++) {
		link_update_events(conns[i]);
		drain(conns[i]);
	}
	link_turn_soon(link);
}

/* Receiving */

static void on_words(struct conn *c, const struct link_header *h, const uint8_t *payload)
{
	char text[400];

	link_hello_text(text, sizeof(text), payload, h->len);
	link_conn_fail(
	        c, h->type == LINK_BYE ? "the peer ended the session: %s" : "the peer refused: %s",
	        text);
}

void link_deliver(struct conn *c, const struct link_header *h, const uint8_t *payload)
{
	struct link *link = c->link;
	struct link_counters *n = &link->counters[c->channel];

	n->received_messages++;
	n->received_bytes += h->len;
	link->ops->message(link->ctx, c->channel, h->type, h->epoch, payload, h->len);
}

static void on_frame(struct conn *c, const struct link_header *h, const uint8_t *payload)
{
	struct link *link = c->link;

	if (h->type >= LINK_TYPE_USER && c->state == CONN_UP) {
		link_deliver(c, h, payload);
	} else if (h->type == LINK_MARKER && c->state == CONN_UP) {
		link_stripes_marker(c, h, payload);
	} else if ((h->type == LINK_REFUSE && c->state != CONN_UP) ||
	           (h->type == LINK_BYE && c->state == CONN_UP)) {
		on_words(c, h, payload);
	} else if (c->state == CONN_HELLO && h->type == LINK_HELLO &&
	           link->role == LINK_SECONDARY) {
		link_on_hello(c, h, payload);
	} else if (c->state == CONN_HELLO && h->type == LINK_HELLO_REPLY &&
	           link->role == LINK_PRIMARY) {
		link_on_reply(c, h, payload);
	} else if (c->state == CONN_PROOF && h->type == LINK_PROOF) {
		link_on_proof(c, h, payload);
	} else if (c->state == CONN_READY && h->type == LINK_READY) {
		link_conn_done(c, false);
	} else {
		link_conn_fail(c, "a message of type %u, out of turn", h->type);
	}
}

static bool may_take(const struct conn *c)
{
	return c->state != CONN_DEAD && c->state != CONN_WAIT && !c->paused;
}

static bool may_read(const struct conn *c)
{
	return may_take(c) && !c->waits;
}

/* Hands out a frame; false: there is none. */
static bool next_frame(struct conn *c)
{
	const uint8_t *payload;
	struct link_header h;
	char err[256];
	int ret = link_decoder_next(&c->in, &h, &payload, err, sizeof(err));

	if (ret < 0)
		link_conn_fail(c, "%s", err);
	if (ret <= 0)
		return false;
	on_frame(c, &h, payload);
	return true;
}

/* Hands out what is there. */
static void drain(struct conn *c)
{
	while (may_take(c)) {
		if (!(c->waits ? link_stripes_take(c) : next_frame(c)))
			break;
	}
	link_stripes_settle(c);
}

void link_read_now(struct conn *c)
{
	size_t budget = READ_BUDGET;

	while (may_read(c)) {
		char err[256];
		size_t n = 0;
		int more = conn_read(c, &n, err, sizeof(err));

		if (more < 0) {
			link_conn_fail(c, "%s", err);
			return;
		}
		drain(c);
		link_expect_rest(c);
		if (!more || n >= budget)
			break;
		budget -= n;
	}
	/* Bytes inside the TLS library raise no event. */
	if (may_read(c) && transport_pending(&c->transport))
		link_turn_soon(c->link);
}

void link_go_on(struct conn *c)
{
	tell_room(c);
	drain(c);
	if (may_read(c) && transport_pending(&c->transport))
		link_read_now(c);
}

/* The end of a turn: what link_send() left to do. */
static void end_turn(void *ctx, uint64_t now)
{
	struct link *link = ctx;
	int i;

	for (i = 0; i < LINK_CHANNELS; i++) {
		struct conn *c = link->conns[i];

		if (!c || c->state != CONN_UP)
			continue;
		if (c->blocked && !c->error)
			link_update_events(c);
		else
			link_write_now(c);
		link_go_on(c);
	}
}

void link_conn_ready(void *ctx, uint32_t events)
{
	struct conn *c = ctx;

	if (c->state == CONN_CONNECTING) {
		link_connected(c);
		return;
	}
	if (c->state == CONN_TLS) {
		link_do_handshake(c);
		return;
	}
	if (events & EPOLLOUT) {
		link_write_now(c);
		tell_room(c);
	}
	if (!(events & ~(uint32_t)EPOLLOUT) || c->state == CONN_DEAD)
		return;
	if (may_read(c))
		link_read_now(c);
	else if (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP))
		link_conn_fail(c, "the peer closed the connection");
}

/* The public side */

static uint32_t or_default(uint32_t value, uint32_t otherwise)
{
	return value ? value : otherwise;
}

static int copy_params(struct link *link, const struct link_params *p)
{
	static const size_t limits[] = {4u << 20, 4u << 20};
	int i;

	link->role = p->role;
	link->encrypt = p->encrypt;
	link->port = p->port;
	link->key = *p->key;
	link->setup_ms = or_default(p->setup_ms, 5000);
	link->backoff_min_ms = or_default(p->backoff_min_ms, 100);
	link->backoff_max_ms = or_default(p->backoff_max_ms, 400);
	link->user_timeout_ms = or_default(p->user_timeout_ms, 10000);
	link->backoff_ms = link->backoff_min_ms;
	link->streams = p->streams > 1 ? p->streams : 1;
	for (i = 0; i < LINK_CHANNELS; i++) {
		size_t least = 2 * (LINK_HEADER_LEN + link_max_payload(LINK_TYPE_USER, (uint8_t)i));

		link->limit[i] = p->queue_limit[i] ? p->queue_limit[i] : limits[i];
		if (link->limit[i] < least)
			link->limit[i] = least;
	}
	link->name = strdup(p->vm_name);
	link->address = strdup(p->address);
	link->caps = malloc(p->caps_len + 1);
	if (!link->name || !link->address || !link->caps)
		return -ENOMEM;
	if (p->caps_len)
		memcpy(link->caps, p->caps, p->caps_len);
	link->caps_len = p->caps_len;
	return 0;
}

static int check_params(const struct link_params *p, char *err, size_t errlen)
{
	const char *wrong = NULL;
	size_t name_len = strlen(p->vm_name);

	if (p->role != LINK_PRIMARY && p->role != LINK_SECONDARY)
		wrong = "the role is neither primary nor secondary";
	else if (name_len < 1 || name_len > LINK_NAME_MAX)
		wrong = "the VM's name must have 1 to 128 bytes";
	else if (p->streams > LINK_STREAMS_MAX)
		wrong = "more than 8 streams";
	else if (p->caps_len > LINK_CAPS_MAX)
		wrong = "more than 1024 bytes of capabilities";
	else if (p->key->len < LINK_KEY_MIN)
		wrong = "the key is too short";
	else if (p->role == LINK_PRIMARY && !p->port)
		wrong = "the primary needs the secondary's port";
	if (!wrong)
		return 0;
	snprintf(err, errlen, "replication link: %s", wrong);
	return -EINVAL;
}

static int start(struct link *link, char *err, size_t errlen)
{
	struct addrinfo *ai;
	int error = link_resolve(link, false, &ai);

	if (error) {
		snprintf(err, errlen, "replication link: \"%s\" is not a numeric address",
		         link->address);
		return error;
	}
	freeaddrinfo(ai);
	if (link->streams > 1)
		error = link_stripes_init(link);
	if (error) {
		snprintf(err, errlen, "replication link: an event for the streams: %s",
		         strerror(-error));
		return error;
	}
	if (link->encrypt)
		error = transport_tls_new(&link->tls, &link->key, link->role == LINK_SECONDARY);
	if (error) {
		snprintf(err, errlen, "replication link: cannot set up TLS: %s", strerror(-error));
		return error;
	}
	if (link->role == LINK_PRIMARY) {
		loop_timer_set(link->loop, &link->retry, loop_now(link->loop));
		return 0;
	}
	error = link_start_listen(link);
	if (error)
		snprintf(err, errlen, "replication link: listening on %s port %u: %s",
		         link->address, link->port, strerror(-error));
	return error;
}

int link_new(struct link **ret_link, struct loop *loop, const struct link_params *params,
             const struct link_ops *ops, void *ctx, char *err, size_t errlen)
{
	struct link *link;
	int error = check_params(params, err, errlen);

	if (error)
		return error;
	link = calloc(1, sizeof(*link));
	if (!link)
		return -ENOMEM;
	link->loop = loop;
	link->ops = ops;
	link->ctx = ctx;
	link->listen_fd = link->bell.fd = -1;
	link->turn = (struct loop_timer){.fire = end_turn, .ctx = link};
	link->reaper = (struct loop_timer){.fire = reap, .ctx = link};
	link->retry = (struct loop_timer){.fire = link_attempt, .ctx = link};
	link->listen_again = (struct loop_timer){.fire = link_listen_again, .ctx = link};
	error = copy_params(link, params);
	if (error)
		snprintf(err, errlen, "replication link: out of memory");
	else
		error = start(link, err, errlen);
	if (error) {
		link_free(link);
		return error;
	}
	*ret_link = link;
	return 0;
}

static void stop(struct link *link)
{
	link->closed = true;
	loop_timer_clear(link->loop, &link->retry);
	loop_timer_clear(link->loop, &link->listen_again);
	loop_del(link->loop, &link->listen_source);
	if (link->listen_fd >= 0)
		close(link->listen_fd);
	link->listen_fd = -1;
	while (link->candidates)
		link_kill_conn(link, link->candidates);
}

void link_free(struct link *link)
{
	if (!link)
		return;
	stop(link);
	link_kill_session(link);
	link_stripes_fini(link);
	reap(link, 0);
	loop_timer_clear(link->loop, &link->turn);
	loop_timer_clear(link->loop, &link->reaper);
	transport_tls_free(link->tls);
	link_key_wipe(&link->key);
	free(link->name);
	free(link->address);
	free(link->caps);
	free(link);
}

static ssize_t total_len(const struct iovec *iov, int iovcnt, size_t max)
{
	size_t total = 0;
	int i;

	for (i = 0; i < iovcnt; i++) {
		if (iov[i].iov_len > max - total)
			return -EMSGSIZE;
		total += iov[i].iov_len;
	}
	return (ssize_t)total;
}

static bool takes_stripe(const struct link *link, enum link_channel channel, size_t len)
{
	return channel == LINK_BULK && len >= STRIPE_LEAST && link_stripes_count(link) > 0;
}

static bool has_room(struct link *link, enum link_channel channel, size_t len)
{
	size_t need = LINK_HEADER_LEN + len;

	if (takes_stripe(link, channel, len))
		need += LINK_HEADER_LEN + LINK_MARKER_LEN;
	if (link_queued(link, channel) + need <= link->limit[channel])
		return true;
	if (channel == LINK_BULK && link_stripes_count(link) > 0) {
		/* First the bell, then a look: what the threads write meanwhile is not missed. */
		atomic_store(&link->bell.room, true);
		link_turn_soon(link);
	}
	return false;
}

int link_send(struct link *link, enum link_channel channel, uint8_t type, uint32_t epoch,
              const struct iovec *iov, int iovcnt)
{
	ssize_t len;
	struct conn *c;

	if ((unsigned)channel >= LINK_CHANNELS || type < LINK_TYPE_USER)
		return -EINVAL;
	len = total_len(iov, iovcnt, link_max_payload(type, (uint8_t)channel));
	if (len < 0)
		return (int)len;
	c = link->conns[channel];
	if (!link->up || c->error)
		return -ENOTCONN;
	if (!has_room(link, channel, (size_t)len)) {
		c->want_room = true;
		return -EAGAIN;
	}
	if (!takes_stripe(link, channel, (size_t)len) ||
	    link_stripes_send(link, type, epoch, iov, iovcnt, (uint32_t)len) < 0)
		conn_put(c, type, epoch, iov, iovcnt, (uint32_t)len);
	link->counters[channel].sent_messages++;
	link->counters[channel].sent_bytes += (size_t)len;
	if (!c->blocked && conn_queued(c) >= CORK)
		(void)conn_write(c); /* its error is kept for end_turn() */
	link_turn_soon(link);
	return 0;
}

void link_flush(struct link *link)
{
	int i;

	for (i = 0; i < LINK_CHANNELS && link->up; i++) {
		struct conn *c = link->conns[i];

		if (!c->blocked && conn_queued(c))
			(void)conn_write(c); /* its error is kept for end_turn() */
		if (c->blocked || c->error)
			link_turn_soon(link);
	}
}

size_t link_queued(const struct link *link, enum link_channel channel)
{
	size_t bytes = link->up ? conn_queued(link->conns[channel]) : 0;

	return channel == LINK_BULK ? bytes + link_stripes_queued(link) : bytes;
}

uint64_t link_rate(const struct link *link, enum link_channel channel)
{
	uint64_t own = link->up ? transport_rate(link->conns[channel]->transport.fd) : 0;
	uint64_t striped = channel == LINK_BULK ? link_stripes_rate(link) : 0;

	/* With stripes the channel's own connection carries markers. */
	return striped > 0 ? striped : own;
}

void link_pause(struct link *link, enum link_channel channel, bool pause)
{
	struct conn *c = link->up ? link->conns[channel] : NULL;

	if (!c || c->paused == pause)
		return;
	c->paused = pause;
	link_turn_soon(link);
}

void link_drop(struct link *link, const char *reason)
{
	say_bye(link, reason);
	end_session(link, reason);
}

void link_close(struct link *link, const char *reason)
{
	stop(link);
	link_drop(link, reason);
}

bool link_is_up(const struct link *link)
{
	return link->up;
}

unsigned int link_streams(const struct link *link)
{
	unsigned int stripes = link_stripes_count(link);

	if (!link->up)
		return 0;
	return stripes ? stripes : 1;
}

uint16_t link_port(const struct link *link)
{
	struct sockaddr_storage addr;
	socklen_t len = sizeof(addr);
	char port[8];

	if (link->listen_fd < 0 ||
	    getsockname(link->listen_fd, (struct sockaddr *)&addr, &len) < 0 ||
	    getnameinfo((struct sockaddr *)&addr, len, NULL, 0, port, sizeof(port), NI_NUMERICSERV))
		return link->port;
	return (uint16_t)strtoul(port, NULL, 10);
}

void link_counters(const struct link *link, enum link_channel channel, struct link_counters *ret)
{
	*ret = link->counters[channel];
}
