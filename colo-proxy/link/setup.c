/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "colo-proxy/link/link_private.h"

/*
 * How a session comes up. The primary opens two connections, one for each channel, with a session
 * id of its own choice. On each of them:
 *
 *	primary				secondary
 *	HELLO ------------------------>		checks version, role, name; is there a session?
 *	      <------------------------ HELLO_REPLY with proof
 *	PROOF ------------------------>		takes the place of its channel in the session
 *	      <------------------------ READY	on both, once both have proven themselves
 *
 * Where both can have streams, the first HELLO_REPLY tells the primary how many, and it opens so
 * many connections more, which go the same way; READY comes when all have.
 *
 * The secondary is up when it sends READY, the primary when it has all. Either says REFUSE with a
 * reason instead. Until a connection has proven that it has the key it is a candidate: it holds a
 * few KiB, there are at most MAX_CANDIDATES, each has a deadline, and nothing it does touches the
 * session. Only the secondary has candidates; the primary's connections are its attempt.
 */

#define MAX_CANDIDATES 16
#define BACKLOG        64 /* more than candidates: who waits here is let in in a moment */

/* Tells the peer why, as well as can be done without waiting, and gives the connection up. */
static void refuse(struct conn *c, const char *reason)
{
	link_put_own(c, LINK_REFUSE, reason, strlen(reason));
	if (conn_write(c))
		link_conn_fail(c, "refused: %s (and could not say so: %s)", reason, c->failure);
	else
		link_conn_fail(c, "refused: %s", reason);
}

/* Setting a session up */

static bool is_due(const struct link *link, unsigned place)
{
	return place < LINK_CHANNELS || (link->agreed > 1 && place - LINK_CHANNELS < link->agreed);
}

/* A connection has done its part; the last one brings the session up. */
void link_conn_done(struct conn *c, bool tell_peer)
{
	struct link *link = c->link;
	struct link_hello hello;
	char err[160];
	unsigned i;
	int error;

	c->state = CONN_WAIT;
	link_update_events(c);
	for (i = 0; i < LINK_PLACES && is_due(link, i); i++) {
		if (!link->conns[i] || link->conns[i]->state != CONN_WAIT)
			return;
	}
	for (i = 0; i < LINK_PLACES && is_due(link, i) && tell_peer; i++) {
		struct conn *conn = link->conns[i];

		link_put_own(conn, LINK_READY, NULL, 0);
		link_write_now(conn);
		if (conn->state == CONN_DEAD)
			return;
	}
	/* Its capabilities: parsed again, from where they stay. */
	c = link->conns[LINK_FAST];
	if (link->role == LINK_PRIMARY)
		error = link_hello_parse(c->transcript.reply,
		                         c->transcript.reply_len + LINK_PROOF_LEN, true, &hello,
		                         err, sizeof(err));
	else
		error = link_hello_parse(c->transcript.hello, c->transcript.hello_len, false,
		                         &hello, err, sizeof(err));
	if (error)
		link_conn_fail(c, "%s", err);
	else
		link_go_up(link, &hello);
}

static void fill_hello(struct conn *c, struct link_hello *hello)
{
	struct link *link = c->link;

	memset(hello, 0, sizeof(*hello));
	hello->role = (uint8_t)link->role;
	hello->encrypted = link->encrypt;
	hello->streams = (uint8_t)link->streams;
	hello->session = c->session;
	hello->name = link->name;
	hello->name_len = strlen(link->name);
	hello->caps = link->caps;
	hello->caps_len = link->caps_len;
}

/* Encodes this side's half of the transcript. 0, or -EIO without randomness. */
static int make_hello(struct conn *c, uint8_t *out, size_t *ret_len)
{
	struct link_hello hello;
	int error;

	fill_hello(c, &hello);
	error = link_auth_random(hello.nonce, sizeof(hello.nonce));
	if (!error)
		*ret_len = link_hello_encode(out, &hello);
	return error;
}

/* The transport is there: the primary speaks first. */
static void start_hello(struct conn *c)
{
	struct link_transcript *t = &c->transcript;

	c->state = CONN_HELLO;
	if (c->link->role == LINK_PRIMARY) {
		if (make_hello(c, t->hello, &t->hello_len)) {
			link_conn_fail(c, "no random numbers for the hello");
			return;
		}
		link_put_own(c, LINK_HELLO, t->hello, t->hello_len);
	}
	link_write_now(c);
}

static void send_reply(struct conn *c)
{
	struct link_transcript *t = &c->transcript;
	struct link *link = c->link;

	if (make_hello(c, t->reply, &t->reply_len) ||
	    link_auth_proof(&link->key, LINK_SECONDARY, c->channel, t, t->reply + t->reply_len)) {
		refuse(c, "cannot compute the answer to the hello");
		return;
	}
	link_put_own(c, LINK_HELLO_REPLY, t->reply, t->reply_len + LINK_PROOF_LEN);
	c->seed = c->in.seed = c->session;
	c->state = CONN_PROOF;
	link_write_now(c);
}

static bool place_is_free(struct conn *c, char *err, size_t errlen)
{
	struct link *link = c->link;
	struct conn *other = NULL;

	for (unsigned i = 0; i < LINK_PLACES && !other; i++)
		other = link->conns[i];
	if (!other || (link->session == c->session && !link->up && !link->conns[c->channel]))
		return true;
	snprintf(err, errlen, "a session with the primary at %s %s", other->peer,
	         link->up ? "is up" : "is being set up");
	return false;
}

/*
 * How many streams the session has, from both hellos of this connection: of its place, and of all
 * connections alike. False with words.
 */
static bool streams_fit(struct conn *c, const struct link_hello *theirs, char *err, size_t errlen)
{
	struct link *link = c->link;

	c->streams = theirs->streams < link->streams ? theirs->streams : link->streams;
	if (c->channel >= LINK_CHANNELS &&
	    (c->streams < 2 || c->channel - LINK_CHANNELS >= c->streams)) {
		snprintf(err, errlen, "a connection for stream %u, the session has %u",
		         c->channel - LINK_CHANNELS + 1u, c->streams);
		return false;
	}
	if (link->agreed && link->session == c->session && link->agreed != c->streams) {
		snprintf(err, errlen, "%u streams on one connection of the session, %u on another",
		         c->streams, link->agreed);
		return false;
	}
	return true;
}

/* What a session's connection may queue and receive. 0 or -ENOMEM. */
static int grow(struct conn *c)
{
	/* A stripe's messages are not in the connection's queue. */
	return conn_grow(c, c->channel < LINK_CHANNELS ? c->link->limit[c->channel]
	                                               : LINK_HEADER_LEN + LINK_MAX_OWN);
}

void link_on_hello(struct conn *c, const struct link_header *h, const uint8_t *payload)
{
	struct link_hello mine, theirs;
	char err[400];

	c->channel = (enum link_channel)h->channel;
	c->in.channel = h->channel;
	fill_hello(c, &mine);
	if (link_hello_parse(payload, h->len, false, &theirs, err, sizeof(err)) ||
	    link_hello_check(&mine, &theirs, err, sizeof(err))) {
		refuse(c, err);
		return;
	}
	c->session = theirs.session;
	if (!place_is_free(c, err, sizeof(err)) || !streams_fit(c, &theirs, err, sizeof(err))) {
		refuse(c, err);
		return;
	}
	memcpy(c->transcript.hello, payload, h->len);
	c->transcript.hello_len = h->len;
	send_reply(c);
}

#define WRONG_PROOF "the peer has another key; both hosts need the same key file"

void link_on_proof(struct conn *c, const struct link_header *h, const uint8_t *payload)
{
	struct link *link = c->link;
	char err[400];

	if (h->len != LINK_PROOF_LEN ||
	    !link_auth_verify(&link->key, LINK_PRIMARY, c->channel, &c->transcript, payload)) {
		refuse(c, WRONG_PROOF);
		return;
	}
	if (!place_is_free(c, err, sizeof(err))) {
		refuse(c, err);
		return;
	}
	if (link->agreed && link->agreed != c->streams) {
		refuse(c, "other streams than the session's other connections have");
		return;
	}
	if (grow(c)) {
		refuse(c, "out of memory");
		return;
	}
	link_unlink_conn(link, c);
	link->session = c->session;
	link->agreed = c->streams;
	link->conns[c->channel] = c;
	link_conn_done(c, true);
}

static void open_stripes(struct conn *c);

void link_on_reply(struct conn *c, const struct link_header *h, const uint8_t *payload)
{
	struct link_transcript *t = &c->transcript;
	struct link *link = c->link;
	struct link_hello mine, theirs;
	uint8_t proof[LINK_PROOF_LEN];
	char err[400];

	c->seed = c->session; /* the secondary has changed to it with its reply */
	fill_hello(c, &mine);
	if (link_hello_parse(payload, h->len, true, &theirs, err, sizeof(err)) ||
	    link_hello_check(&mine, &theirs, err, sizeof(err))) {
		refuse(c, err);
		return;
	}
	memcpy(t->reply, payload, h->len);
	t->reply_len = h->len - LINK_PROOF_LEN;
	if (theirs.session != c->session ||
	    !link_auth_verify(&link->key, LINK_SECONDARY, c->channel, t, theirs.proof)) {
		refuse(c, WRONG_PROOF);
		return;
	}
	if (!streams_fit(c, &theirs, err, sizeof(err))) {
		refuse(c, err);
		return;
	}
	if (link_auth_proof(&link->key, LINK_PRIMARY, c->channel, t, proof) || grow(c)) {
		refuse(c, "out of memory");
		return;
	}
	link_put_own(c, LINK_PROOF, proof, sizeof(proof));
	c->state = CONN_READY;
	link_write_now(c);
	if (c->state != CONN_DEAD && !link->agreed) {
		link->agreed = c->streams;
		open_stripes(c);
	}
}

void link_do_handshake(struct conn *c)
{
	bool want_write = false;
	char err[256];
	int ret = transport_handshake(&c->transport, &want_write, err, sizeof(err));

	if (ret < 0) {
		link_conn_fail(c, "%s", err);
	} else if (ret == 0) {
		c->blocked = want_write;
		link_update_events(c);
	} else {
		c->blocked = false;
		start_hello(c);
		/* The peer's first frame may have come with its last handshake message. */
		link_read_now(c);
	}
}

void link_connected(struct conn *c)
{
	socklen_t len = sizeof(int);
	int error = 0;

	if (getsockopt(c->transport.fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	if (error) {
		link_conn_fail(c, "connecting: %s", strerror(error));
		return;
	}
	c->state = CONN_TLS;
	link_do_handshake(c);
}

/* Opening connections */

static void name_peer(struct conn *c, const struct sockaddr *addr, socklen_t len)
{
	char host[48], port[8];

	if (getnameinfo(addr, len, host, sizeof(host), port, sizeof(port),
	                NI_NUMERICHOST | NI_NUMERICSERV))
		snprintf(c->peer, sizeof(c->peer), "unknown address");
	else
		snprintf(c->peer, sizeof(c->peer), "%s port %s", host, port);
}

/* Gives the connection its socket (taken over) and puts it under watch. 0 or a negative errno. */
static int attach(struct conn *c, int fd, uint32_t events)
{
	struct link *link = c->link;
	int error = transport_open(&c->transport, fd, link->tls, link->role == LINK_SECONDARY);

	if (!error)
		error = transport_socket_options(fd, link->user_timeout_ms);
	if (!error)
		error = loop_add(link->loop, &c->source, fd, events, link_conn_ready, c);
	if (error)
		return error;
	c->deadline.fire = link_deadline_passed;
	c->deadline.ctx = c;
	loop_timer_set(link->loop, &c->deadline, loop_now(link->loop) + link->setup_ms * MS);
	return 0;
}

int link_resolve(const struct link *link, bool passive, struct addrinfo **ret)
{
	struct addrinfo hints = {
	        .ai_socktype = SOCK_STREAM,
	        .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | (passive ? AI_PASSIVE : 0),
	};
	char port[8];

	snprintf(port, sizeof(port), "%u", link->port);
	return getaddrinfo(link->address, port, &hints, ret) ? -EINVAL : 0;
}

/* Starts one connection of the link_attempt; the outcome comes as an event. 0 or a negative errno.
 */
static int start_connect(struct link *link, struct conn *c, const struct addrinfo *to)
{
	int fd = socket(to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int error;

	if (fd < 0)
		return -errno;
	name_peer(c, to->ai_addr, to->ai_addrlen);
	if (connect(fd, to->ai_addr, to->ai_addrlen) < 0 && errno != EINPROGRESS) {
		error = -errno;
		close(fd);
		return error;
	}
	error = attach(c, fd, EPOLLOUT);
	c->blocked = true;
	c->state = CONN_CONNECTING;
	return error;
}

static int open_place(struct link *link, int place, const struct addrinfo *to)
{
	struct conn *c = conn_new(link, place);

	if (!c)
		return -ENOMEM;
	link->conns[place] = c;
	c->session = link->session;
	return start_connect(link, c, to);
}

/* The primary knows how many streams the session has. */
static void open_stripes(struct conn *c)
{
	struct link *link = c->link;
	struct addrinfo *to = NULL;
	unsigned i;
	int error;

	if (link->agreed < 2)
		return;
	error = link_resolve(link, false, &to);
	for (i = 0; i < link->agreed && !error; i++)
		error = open_place(link, (int)(LINK_CHANNELS + i), to);
	if (to)
		freeaddrinfo(to);
	if (error)
		link_conn_fail(c, "connecting stream %u: %s", i, strerror(-error));
}

void link_attempt(void *ctx, uint64_t now)
{
	struct link *link = ctx;
	struct addrinfo *to = NULL;
	char text[512];
	int error, i;

	do {
		error = link_auth_random(&link->session, sizeof(link->session));
	} while (!error && !link->session);
	if (!error)
		error = link_resolve(link, false, &to);
	for (i = 0; i < LINK_CHANNELS && !error; i++)
		error = open_place(link, i, to);
	if (to)
		freeaddrinfo(to);
	if (!error)
		return;
	link_kill_session(link);
	link_retry_later(link);
	snprintf(text, sizeof(text), "%s port %u: connecting: %s", link->address, link->port,
	         strerror(-error));
	link_report_refusal(link, text);
}

static void add_candidate(struct link *link, int fd, const struct sockaddr *addr, socklen_t len)
{
	struct conn *c = conn_new(link, -1), **end;
	int error;

	if (!c) {
		close(fd);
		link->ops->refused(link->ctx, "out of memory for a connection");
		return;
	}
	name_peer(c, addr, len);
	c->state = CONN_TLS;
	for (end = &link->candidates; *end; end = &(*end)->next)
		;
	*end = c;
	link->n_candidates++;
	error = attach(c, fd, EPOLLIN);
	if (error)
		link_conn_fail(c, "setting up: %s", strerror(-error));
	else
		link_do_handshake(c);
}

void link_listen_again(void *ctx, uint64_t now)
{
	struct link *link = ctx;

	loop_set_events(link->loop, &link->listen_source, EPOLLIN);
}

static void on_accept(void *ctx, uint32_t events)
{
	struct link *link = ctx;
	int i;

	for (i = 0; i < MAX_CANDIDATES && !link->closed; i++) {
		struct sockaddr_storage addr;
		socklen_t len = sizeof(addr);
		int fd = accept4(link->listen_fd, (struct sockaddr *)&addr, &len,
		                 SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM)) {
			char text[128];

			snprintf(text, sizeof(text), "accepting a connection: %s", strerror(errno));
			loop_set_events(link->loop, &link->listen_source, 0);
			loop_timer_set(link->loop, &link->listen_again,
			               loop_now(link->loop) + 100 * MS);
			link->ops->refused(link->ctx, text);
		}
		if (fd < 0)
			return;
		if (link->n_candidates >= MAX_CANDIDATES)
			link_conn_fail(link->candidates,
			               "gave way to newer connections, %u were open",
			               MAX_CANDIDATES);
		if (link->closed) {
			close(fd);
			return;
		}
		add_candidate(link, fd, (struct sockaddr *)&addr, len);
	}
}

int link_start_listen(struct link *link)
{
	struct addrinfo *at;
	int one = 1, error;

	error = link_resolve(link, true, &at);
	if (error)
		return error;
	link->listen_fd = socket(at->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (link->listen_fd < 0 ||
	    setsockopt(link->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
	    bind(link->listen_fd, at->ai_addr, at->ai_addrlen) < 0 ||
	    listen(link->listen_fd, BACKLOG) < 0)
		error = -errno;
	freeaddrinfo(at);
	if (error)
		return error;
	return loop_add(link->loop, &link->listen_source, link->listen_fd, EPOLLIN, on_accept,
	                link);
}
