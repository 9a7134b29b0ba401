/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * delay-relay LISTEN-IP:PORT TARGET-IP:PORT MS - a TCP relay that is as far away as asked.
 *
 * Each connection to LISTEN becomes one to TARGET. What is read on either side is written to the
 * other no sooner than MS milliseconds (a decimal fraction is allowed) after it was read, the end
 * of a stream as well. A connection that breaks is broken on both sides at once.
 *
 * It delays without limiting the rate: a direction keeps up to RING bytes on their way, so the rate
 * is at most RING / MS; when that many are on their way, reading stops and TCP slows the sender.
 * What is read within MERGE ns of each other leaves together, so a byte is late by at most that and
 * what epoll adds. IPv4 only; at most PAIRS_MAX connections, more are closed. "listening" is
 * printed when connections are accepted.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define RING      (64u << 20) /* bytes; power of two */
#define MARKS     65536u      /* power of two */
#define MERGE     20000u      /* ns */
#define READ_MAX  (1u << 20)
#define PAIRS_MAX 256

/* Bytes up to stream offset @end may leave at @due. */
struct mark {
	uint64_t due;
	uint64_t end;
};

/* One direction. Offsets count from the start of the stream; the ring holds [sent, got), [sent,
 * due) may leave. */
struct pipe {
	uint8_t *ring;
	struct mark *marks;
	uint64_t got, due, sent;
	uint64_t mark_head, mark_tail;
	bool eof; /* the source has finished */
	uint64_t eof_due;
	bool finished; /* and the sink was told so */
};

struct pair;

/* One socket: it is the source of pipe [side] and the sink of pipe [1 - side]. */
struct end {
	struct pair *pair;
	int side;
	int fd;
	uint32_t interest;
	bool blocked; /* waits for EPOLLOUT */
	bool quiet;   /* finished both ways and no longer watched */
};

struct pair {
	struct pair *next;
	struct end end[2];
	struct pipe pipe[2];
	bool dead;
};

static uint64_t delay;
static int epfd;
static struct pair *pairs;
static unsigned int pair_count;
static struct sockaddr_in target;

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

static int pipe_init(struct pipe *p)
{
	p->ring = mmap(NULL, RING, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p->ring == MAP_FAILED) {
		p->ring = NULL;
		return -errno;
	}
	p->marks = calloc(MARKS, sizeof(*p->marks));
	return p->marks ? 0 : -ENOMEM;
}

static void pipe_free(struct pipe *p)
{
	if (p->ring)
		munmap(p->ring, RING);
	free(p->marks);
}

static bool pipe_has_room(const struct pipe *p)
{
	return p->got - p->sent < RING && p->mark_head - p->mark_tail < MARKS;
}

static void pipe_mark(struct pipe *p, uint64_t due)
{
	struct mark *last = &p->marks[(p->mark_head - 1) % MARKS];

	if (p->mark_head == p->mark_tail || due > last->due + MERGE) {
		last = &p->marks[p->mark_head++ % MARKS];
		last->due = due;
	}
	last->end = p->got;
}

/* The bytes at stream offset @at of the ring, at most @len, as one or two pieces. */
static int pipe_iov(const struct pipe *p, uint64_t at, uint64_t len, struct iovec *iov)
{
	uint64_t start = at % RING, first = RING - start;

	if (first >= len) {
		iov[0] = (struct iovec){p->ring + start, len};
		return 1;
	}
	iov[0] = (struct iovec){p->ring + start, first};
	iov[1] = (struct iovec){p->ring, len - first};
	return 2;
}

/* Moves what may leave at @now from the marks to p->due. */
static void pipe_ripen(struct pipe *p, uint64_t now)
{
	while (p->mark_tail != p->mark_head && p->marks[p->mark_tail % MARKS].due <= now)
		p->due = p->marks[p->mark_tail++ % MARKS].end;
}

/* When the next thing of this direction may leave; UINT64_MAX when nothing waits for a time. */
static uint64_t pipe_next(const struct pipe *p)
{
	if (p->mark_tail != p->mark_head)
		return p->marks[p->mark_tail % MARKS].due;
	if (p->eof && !p->finished)
		return p->eof_due;
	return UINT64_MAX;
}

/* Reads what there is at an end. Returns -1 when the connection is broken. */
static int end_read(struct end *e)
{
	struct pipe *p = &e->pair->pipe[e->side];
	uint64_t room = RING - (p->got - p->sent);
	struct iovec iov[2];
	ssize_t n;

	if (p->eof || !pipe_has_room(p))
		return 0;
	n = readv(e->fd, iov, pipe_iov(p, p->got, room < READ_MAX ? room : READ_MAX, iov));
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	if (!n) {
		p->eof = true;
		p->eof_due = now_ns() + delay;
		return 0;
	}
	p->got += n;
	pipe_mark(p, now_ns() + delay);
	return 0;
}

/* Writes what is due to an end. Returns -1 when the connection is broken. */
static int end_write(struct end *e, uint64_t now)
{
	struct pipe *p = &e->pair->pipe[1 - e->side];
	struct iovec iov[2];
	struct msghdr msg = {.msg_iov = iov};
	ssize_t n;

	pipe_ripen(p, now);
	while (!e->blocked && p->sent < p->due) {
		msg.msg_iovlen = pipe_iov(p, p->sent, p->due - p->sent, iov);
		n = sendmsg(e->fd, &msg, MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN)
			return -1;
		if (n < 0)
			e->blocked = true;
		else
			p->sent += n;
	}
	if (!e->blocked && p->eof && !p->finished && p->sent == p->got && now >= p->eof_due) {
		if (shutdown(e->fd, SHUT_WR) < 0)
			return -1;
		p->finished = true;
	}
	return 0;
}

static int end_watch(struct end *e)
{
	const struct pipe *in = &e->pair->pipe[e->side];
	const struct pipe *out = &e->pair->pipe[1 - e->side];
	struct epoll_event ev = {.data.ptr = e};

	if (e->quiet)
		return 0;
	/* epoll would report the hang-up for as long as the other end still has bytes on the way.
	 */
	if (in->eof && out->finished) {
		e->quiet = true;
		return epoll_ctl(epfd, EPOLL_CTL_DEL, e->fd, NULL);
	}
	ev.events = (!in->eof && pipe_has_room(in) ? EPOLLIN : 0) | (e->blocked ? EPOLLOUT : 0);
	if (ev.events == e->interest)
		return 0;
	e->interest = ev.events;
	return epoll_ctl(epfd, EPOLL_CTL_MOD, e->fd, &ev);
}

static void pair_free(struct pair *pair)
{
	int i;

	for (i = 0; i < 2; i++) {
		if (pair->end[i].fd >= 0)
			close(pair->end[i].fd);
		pipe_free(&pair->pipe[i]);
	}
	free(pair);
}

/* An end that is reset is reset, not finished, on the other side. */
static void pair_break(struct pair *pair)
{
	struct linger linger = {.l_onoff = 1};
	int i;

	for (i = 0; i < 2; i++)
		setsockopt(pair->end[i].fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	pair->dead = true;
}

/* Writes what is due in both directions and says what to wait for. */
static void pair_run(struct pair *pair, uint64_t now)
{
	int i;

	for (i = 0; i < 2; i++) {
		if (end_write(&pair->end[i], now) < 0) {
			pair_break(pair);
			return;
		}
	}
	for (i = 0; i < 2; i++) {
		if (end_watch(&pair->end[i]) < 0)
			pair_break(pair);
	}
	if (pair->pipe[0].finished && pair->pipe[1].finished)
		pair->dead = true;
}

static int end_init(struct pair *pair, int side, int fd)
{
	struct end *e = &pair->end[side];
	struct epoll_event ev = {.data.ptr = e};
	int one = 1;

	*e = (struct end){.pair = pair, .side = side, .fd = fd};
	if (fd < 0)
		return -EBADF;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev);
}

/* Takes @fd. */
static void pair_new(int fd)
{
	int other = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct pair *pair = calloc(1, sizeof(*pair));
	int rc;

	if (!pair) {
		close(fd);
		if (other >= 0)
			close(other);
		return;
	}
	rc = other < 0 ? -1 : connect(other, (struct sockaddr *)&target, sizeof(target));
	if (rc < 0 && errno == EINPROGRESS)
		rc = 0;
	rc |= end_init(pair, 0, fd) | end_init(pair, 1, other);
	/* Nothing is written to the target before it is connected. */
	pair->end[1].blocked = true;
	if (rc || pipe_init(&pair->pipe[0]) < 0 || pipe_init(&pair->pipe[1]) < 0 ||
	    pair_count >= PAIRS_MAX) {
		pair_free(pair);
		return;
	}
	pair->next = pairs;
	pairs = pair;
	pair_count++;
	pair_run(pair, now_ns());
}

static void end_event(struct end *e, uint32_t events)
{
	if (e->pair->dead)
		return;
	if (events & EPOLLOUT)
		e->blocked = false;
	if ((events & EPOLLERR) || end_read(e) < 0)
		pair_break(e->pair);
}

static void run_all(void)
{
	uint64_t now = now_ns();
	struct pair **at = &pairs, *pair;

	while ((pair = *at)) {
		if (!pair->dead)
			pair_run(pair, now);
		if (pair->dead) {
			*at = pair->next;
			pair_count--;
			pair_free(pair);
		} else {
			at = &pair->next;
		}
	}
}

/* Time until the first thing is due at an end that can take it; NULL when there is none. */
static const struct timespec *next_timeout(struct timespec *ts)
{
	uint64_t next = UINT64_MAX, due, now = now_ns();
	const struct pair *pair;
	int i;

	for (pair = pairs; pair; pair = pair->next) {
		for (i = 0; i < 2; i++) {
			due = pair->end[1 - i].blocked ? UINT64_MAX : pipe_next(&pair->pipe[i]);
			if (due < next)
				next = due;
		}
	}
	if (next == UINT64_MAX)
		return NULL;
	next = next > now ? next - now : 0;
	ts->tv_sec = next / 1000000000;
	ts->tv_nsec = next % 1000000000;
	return ts;
}

static int parse_address(const char *text, struct sockaddr_in *ret_sa)
{
	const char *colon = strrchr(text, ':');
	char ip[INET_ADDRSTRLEN];
	char *end;
	unsigned long port;

	if (!colon || colon - text >= (long)sizeof(ip))
		return -EINVAL;
	memcpy(ip, text, colon - text);
	ip[colon - text] = '\0';
	port = strtoul(colon + 1, &end, 10);
	*ret_sa = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
	if (*end || !port || port > 65535 || inet_pton(AF_INET, ip, &ret_sa->sin_addr) != 1)
		return -EINVAL;
	return 0;
}

static int listen_on(const struct sockaddr_in *sa)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct epoll_event ev = {.events = EPOLLIN};
	int one = 1;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (const struct sockaddr *)sa, sizeof(*sa)) < 0 || listen(fd, 64) < 0 ||
	    epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev) < 0) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	return fd;
}

static void serve(int listener)
{
	struct epoll_event events[64];
	struct timespec ts;
	int i, n, fd;

	for (;;) {
		n = epoll_pwait2(epfd, events, 64, next_timeout(&ts), NULL);
		for (i = 0; i < n; i++) {
			if (events[i].data.ptr)
				end_event(events[i].data.ptr, events[i].events);
			else if ((fd = accept4(listener, NULL, NULL,
			                       SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
				pair_new(fd);
		}
		run_all();
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in local;
	char *end = NULL;
	double ms = argc == 4 ? strtod(argv[3], &end) : -1;
	int listener;

	if (argc != 4 || *end || !(ms >= 0 && ms <= 60000) || parse_address(argv[1], &local) < 0 ||
	    parse_address(argv[2], &target) < 0) {
		fprintf(stderr, "usage: delay-relay LISTEN-IP:PORT TARGET-IP:PORT MILLISECONDS\n");
		return 2;
	}
	delay = ms * 1e6;
	/* Timers of this thread to the microsecond, not to the default 50 us. */
	prctl(PR_SET_TIMERSLACK, 1000);
	epfd = epoll_create1(EPOLL_CLOEXEC);
	listener = epfd < 0 ? -errno : listen_on(&local);
	if (listener < 0) {
		fprintf(stderr, "delay-relay: %s: %s\n", argv[1], strerror(-listener));
		return 1;
	}
	printf("listening on %s, %s ms from %s\n", argv[1], argv[3], argv[2]);
	fflush(stdout);
	serve(listener);
}
