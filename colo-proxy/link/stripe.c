/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * The thread turns around poll(2): it writes a piece, reads a piece, and sleeps when there is
 * nothing to do. Messages are handed over in lists, each allocated with its frame: the one that
 * sends fills in the payload, the thread the header with its checksum.
 *
 *	stripe_send() -> out -> `writing` -> transport -> ... -> decoder -> in -> stripe_take()
 *
 * Bounded: `out` by its user, who counts stripe_queued() in the bulk channel's limit; `in` by
 * STRIPE_IN_LIMIT and one message: when it is full the thread reads no more, and the sender's
 * socket, its `out` and its user's limit fill up one after the other.
 *
 * Invariants: the connection, with its transport and its decoder, and `writing`, `written`, `dry`
 * are the thread's from its start until it has ended; all else is under the lock. Before it sleeps
 * the thread sets `asleep` under the same lock under which it has seen that there is nothing to do,
 * so whoever changes that wakes it up, and no wake-up is lost. The thread holds the lock for
 * moments only, never while it encrypts, writes or sleeps: the loop's thread does not wait for it.
 *
 * The first error ends the thread; the user sees it when the bell rings, and ends the session. What
 * was received before and not taken is lost with it, as on any connection.
 */
#include "colo-proxy/link/stripe.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECE (128u << 10) /* bytes written, and bytes read, in a turn */

struct list {
	struct stripe_message *head, **tail;
	size_t bytes; /* of frames */
};

struct stripe {
	struct conn *conn;
	struct stripe_bell *bell;
	pthread_t thread;
	int wake_fd;
	uint64_t next_sequence; /* the loop's thread */

	/* The thread's own. */
	struct stripe_message *writing; /* its bytes are still counted in `out` */
	size_t written;                 /* of it */
	bool dry;                       /* the decoder has no whole frame */

	pthread_mutex_t lock; /* of all below */
	struct list out, in;
	bool quit, gone, asleep;
	bool awaited; /* stripe_take() found nothing */
	uint64_t received;
	int error;
	char failure[200];
};

static size_t frame_len(const struct stripe_message *m)
{
	return LINK_HEADER_LEN + m->h.len;
}

static void push(struct list *list, struct stripe_message *m)
{
	m->next = NULL;
	*list->tail = m;
	list->tail = &m->next;
}

static struct stripe_message *pop(struct list *list)
{
	struct stripe_message *m = list->head;

	if (!m)
		return NULL;
	list->head = m->next;
	if (!list->head)
		list->tail = &list->head;
	return m;
}

static void free_list(struct list *list)
{
	struct stripe_message *m;

	while ((m = pop(list)))
		free(m);
}

static void add_one(int fd)
{
	uint64_t one = 1;
	ssize_t n;

	/* It only fails when the counter is at its end, and then it is readable all the same. */
	do {
		n = write(fd, &one, sizeof(one));
	} while (n < 0 && errno == EINTR);
}

/* With the lock. */
static void wake(struct stripe *s)
{
	if (!s->asleep)
		return;
	s->asleep = false;
	add_one(s->wake_fd);
}

/* ---- the thread ---- */

static void fail(struct stripe *s, int error, const char *why)
{
	pthread_mutex_lock(&s->lock);
	s->error = error;
	snprintf(s->failure, sizeof(s->failure), "%s", why);
	pthread_mutex_unlock(&s->lock);
}

static bool next_out(struct stripe *s)
{
	pthread_mutex_lock(&s->lock);
	s->writing = pop(&s->out);
	pthread_mutex_unlock(&s->lock);
	s->written = 0;
	if (!s->writing)
		return false;
	link_encode(s->writing->frame, &s->writing->h, s->conn->seed);
	return true;
}

static void written_out(struct stripe *s)
{
	pthread_mutex_lock(&s->lock);
	s->out.bytes -= frame_len(s->writing);
	pthread_mutex_unlock(&s->lock);
	free(s->writing);
	s->writing = NULL;
	if (atomic_load(&s->bell->room))
		add_one(s->bell->fd);
}

/* Writes a piece, as far as the socket takes it. 0 or a negative errno with words. */
static int write_some(struct stripe *s, char *err, size_t errlen)
{
	size_t done = 0;

	while (done < PIECE && (s->writing || next_out(s))) {
		ssize_t n = transport_write(&s->conn->transport, s->writing->frame + s->written,
		                            frame_len(s->writing) - s->written, err, errlen);

		if (n == -EAGAIN)
			return 0;
		if (n < 0)
			return (int)n;
		done += (size_t)n;
		s->written += (size_t)n;
		if (s->written == frame_len(s->writing))
			written_out(s);
	}
	return 0;
}

static bool is_full(const struct stripe *s)
{
	return s->in.bytes >= STRIPE_IN_LIMIT;
}

static int take_in(struct stripe *s, const struct link_header *h, const uint8_t *payload,
                   bool *ret_full)
{
	struct stripe_message *m = malloc(sizeof(*m) + LINK_HEADER_LEN + h->len);
	bool ring;

	if (!m)
		return -ENOMEM;
	m->h = *h;
	memcpy(m->frame + LINK_HEADER_LEN, payload, h->len);
	pthread_mutex_lock(&s->lock);
	push(&s->in, m);
	s->in.bytes += frame_len(m);
	*ret_full = is_full(s);
	ring = s->awaited;
	s->awaited = false;
	pthread_mutex_unlock(&s->lock);
	if (ring)
		add_one(s->bell->fd);
	return 0;
}

/* Hands over the frames that are there, until there is no room. 0 or a negative errno with words.
 */
static int decode(struct stripe *s, char *err, size_t errlen)
{
	bool full = false;

	while (!full) {
		const uint8_t *payload;
		struct link_header h;
		int r = link_decoder_next(&s->conn->in, &h, &payload, err, errlen);

		s->dry = r == 0;
		if (r <= 0)
			return r;
		if (h.type < LINK_TYPE_USER) {
			snprintf(err, errlen, "a message of type %u, out of turn", h.type);
			return -EPROTO;
		}
		r = take_in(s, &h, payload, &full);
		if (r < 0) {
			snprintf(err, errlen, "no memory for a message of %u bytes", h.len);
			return r;
		}
	}
	return 0;
}

static void count_in(struct stripe *s, size_t n)
{
	pthread_mutex_lock(&s->lock);
	s->received += n;
	pthread_mutex_unlock(&s->lock);
}

/* Reads a piece; there is room. 0 or a negative errno with words. */
static int read_some(struct stripe *s, char *err, size_t errlen)
{
	size_t left = PIECE;
	int r = decode(s, err, errlen);

	while (r == 0 && s->dry) {
		size_t n = 0;
		int more = conn_read(s->conn, &n, err, errlen);

		if (more < 0)
			return more;
		count_in(s, n);
		r = decode(s, err, errlen);
		if (!more || n >= left)
			break;
		left -= n;
	}
	return r;
}

/*
 * What to wait for, and whether to wait at all; false: no more. *ret_full: there is no room to read
 * to.
 */
static bool plan(struct stripe *s, short *ret_events, int *ret_timeout, bool *ret_full)
{
	bool more = !s->dry || transport_pending(&s->conn->transport);
	bool go_on;

	pthread_mutex_lock(&s->lock);
	go_on = !s->quit && !s->error;
	*ret_full = is_full(s);
	*ret_events = 0;
	if (!*ret_full)
		*ret_events |= POLLIN;
	if (s->writing || s->out.head)
		*ret_events |= POLLOUT;
	*ret_timeout = more && !*ret_full ? 0 : -1;
	s->asleep = *ret_timeout != 0;
	pthread_mutex_unlock(&s->lock);
	return go_on;
}

/* Waits, and does what there is to do. 0 or a negative errno with words. */
static int turn(struct stripe *s, short events, int timeout, bool full, char *err, size_t errlen)
{
	struct pollfd fds[] = {
	        {.fd = s->conn->transport.fd, .events = events},
	        {.fd = s->wake_fd, .events = POLLIN},
	};
	uint64_t count;
	int r = 0;

	if (poll(fds, 2, timeout) < 0 && errno != EINTR) {
		snprintf(err, errlen, "waiting for events: %s", strerror(errno));
		return -errno;
	}
	if (fds[1].revents && read(s->wake_fd, &count, sizeof(count)) < 0 && errno != EAGAIN) {
		snprintf(err, errlen, "being woken up: %s", strerror(errno));
		return -errno;
	}
	if (fds[0].revents & POLLOUT)
		r = write_some(s, err, errlen);
	if (r < 0)
		return r;
	if (!full && (timeout == 0 || fds[0].revents & (POLLIN | POLLHUP | POLLERR)))
		return read_some(s, err, errlen);
	if (fds[0].revents & (POLLHUP | POLLERR)) {
		snprintf(err, errlen, "the peer closed the connection");
		return -ECONNRESET;
	}
	return 0;
}

static void *run(void *arg)
{
	struct stripe *s = arg;
	char err[200] = "";
	short events;
	int timeout;
	bool full;

	while (plan(s, &events, &timeout, &full)) {
		int r = turn(s, events, timeout, full, err, sizeof(err));

		if (r < 0)
			fail(s, r, err);
	}
	pthread_mutex_lock(&s->lock);
	s->gone = true;
	pthread_mutex_unlock(&s->lock);
	/* stripe_free() waits for the thread itself: all of this is still there. */
	add_one(s->bell->fd);
	return NULL;
}

/* ---- the loop's thread ---- */

static int init_lock(pthread_mutex_t *lock)
{
	pthread_mutexattr_t attr;
	int r = pthread_mutexattr_init(&attr);

	if (r)
		return -r;
	/* The loop's thread runs before all others while the VM stands still. */
	r = pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
	if (!r)
		r = pthread_mutex_init(lock, &attr);
	pthread_mutexattr_destroy(&attr);
	return -r;
}

static int start_thread(struct stripe *s)
{
	sigset_t all;
	sigset_t before;
	int r;

	/* Signals are for the thread that waits for them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&s->thread, NULL, run, s);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -r;
}

int stripe_new(struct stripe **ret_stripe, struct conn *c, struct stripe_bell *bell)
{
	struct stripe *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->conn = c;
	s->bell = bell;
	s->next_sequence = c->out_sequence;
	s->out.tail = &s->out.head;
	s->in.tail = &s->in.head;
	s->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (s->wake_fd < 0) {
		r = -errno;
		free(s);
		return r;
	}
	r = init_lock(&s->lock);
	if (r == 0) {
		r = start_thread(s);
		if (r == 0) {
			*ret_stripe = s;
			return 0;
		}
		pthread_mutex_destroy(&s->lock);
	}
	close(s->wake_fd);
	free(s);
	return r;
}

void stripe_stop(struct stripe *stripe)
{
	pthread_mutex_lock(&stripe->lock);
	stripe->quit = true;
	wake(stripe);
	pthread_mutex_unlock(&stripe->lock);
	/* The peer learns at once. The descriptor stays open until the thread has ended. */
	shutdown(stripe->conn->transport.fd, SHUT_RDWR);
}

bool stripe_gone(struct stripe *stripe)
{
	bool gone;

	pthread_mutex_lock(&stripe->lock);
	gone = stripe->gone;
	pthread_mutex_unlock(&stripe->lock);
	return gone;
}

void stripe_free(struct stripe *stripe)
{
	if (!stripe)
		return;
	stripe_stop(stripe);
	pthread_join(stripe->thread, NULL);
	free_list(&stripe->out);
	free_list(&stripe->in);
	free(stripe->writing);
	conn_free(stripe->conn);
	pthread_mutex_destroy(&stripe->lock);
	close(stripe->wake_fd);
	free(stripe);
}

int stripe_send(struct stripe *stripe, uint8_t type, uint32_t epoch, const struct iovec *iov,
                int iovcnt, uint32_t len, uint64_t *ret_sequence)
{
	struct stripe_message *m = malloc(sizeof(*m) + LINK_HEADER_LEN + len);
	uint8_t *p;

	if (!m)
		return -ENOMEM;
	m->h = (struct link_header){
	        .type = type,
	        .channel = (uint8_t)stripe->conn->channel,
	        .epoch = epoch,
	        .len = len,
	        .sequence = stripe->next_sequence++,
	};
	p = m->frame + LINK_HEADER_LEN;
	for (int i = 0; i < iovcnt; i++) {
		if (iov[i].iov_len)
			memcpy(p, iov[i].iov_base, iov[i].iov_len);
		p += iov[i].iov_len;
	}
	*ret_sequence = m->h.sequence;
	pthread_mutex_lock(&stripe->lock);
	push(&stripe->out, m);
	stripe->out.bytes += frame_len(m);
	wake(stripe);
	pthread_mutex_unlock(&stripe->lock);
	return 0;
}

size_t stripe_queued(struct stripe *stripe)
{
	size_t bytes;

	pthread_mutex_lock(&stripe->lock);
	bytes = stripe->out.bytes;
	pthread_mutex_unlock(&stripe->lock);
	return bytes;
}

struct stripe_message *stripe_take(struct stripe *stripe)
{
	struct stripe_message *m;

	pthread_mutex_lock(&stripe->lock);
	m = pop(&stripe->in);
	stripe->awaited = !m;
	if (m) {
		bool was_full = is_full(stripe);

		stripe->in.bytes -= frame_len(m);
		if (was_full && !is_full(stripe))
			wake(stripe);
	}
	pthread_mutex_unlock(&stripe->lock);
	return m;
}

uint64_t stripe_received(struct stripe *stripe)
{
	uint64_t bytes;

	pthread_mutex_lock(&stripe->lock);
	bytes = stripe->received;
	pthread_mutex_unlock(&stripe->lock);
	return bytes;
}

int stripe_error(struct stripe *stripe, char *err, size_t errlen)
{
	int error;

	pthread_mutex_lock(&stripe->lock);
	error = stripe->error;
	if (error)
		snprintf(err, errlen, "%s", stripe->failure);
	pthread_mutex_unlock(&stripe->lock);
	return error;
}

uint64_t stripe_rate(const struct stripe *stripe)
{
	return transport_rate(stripe->conn->transport.fd);
}

const char *stripe_peer(const struct stripe *stripe)
{
	return stripe->conn->peer;
}
