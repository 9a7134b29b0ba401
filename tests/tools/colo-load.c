/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * colo-load: load generator and client-side checker.
 *
 *	colo-load MODE TARGET [options]
 *
 *	http       requests on N connections           TARGET http://HOST[:PORT]/PATH
 *	download   one GET, every byte checked         TARGET http://HOST[:PORT][/PATH]
 *	upload     one PUT, its digest checked         TARGET http://HOST[:PORT][/upload]
 *	keepalive  numbered requests, one connection   TARGET http://HOST[:PORT][/PATH]
 *	hold       N idle connections, used at the end TARGET http://HOST[:PORT]/PATH
 *	rr         TCP echo round trips                TARGET HOST[:PORT] (7)
 *	udp        UDP echo round trips                TARGET HOST[:PORT] (7)
 *	accept     round trips on connections that the VM opens to us
 *	                                               TARGET http://HOST[:PORT] (its /connect)
 *	ping       ICMP echo                           TARGET HOST
 *
 * Exit status: 0 all as it must be, 1 not (the reason on stderr and in "error"), 2 usage.
 *
 * Theory of operation. One process, one epoll loop, one static `load`. A struct conn is one socket
 * and lives, in the array or list it was made in, to the end of the program; it is opened and
 * closed any number of times. Its protocol (HTTP, echo, UDP, ICMP) moves bytes and checks them; its
 * mode says what is asked next:
 *
 *	ready(c)     the connection is open and idle: ask something, or retire
 *	answered(c)  the answer was right (c->fd is -1 when the server closed it)
 *
 * An operation is one request and its checked answer. What goes wrong with a connection is an
 * error; a wrong byte is `wrong` besides. In mode http an error costs a retry 100 ms later, in all
 * others it ends the run, for there the connection itself is what is tested.
 *
 * The longest gap is the longest time without a completed operation (download and upload: without
 * a byte), with the moment when it began; it is what a client sees of a failover. Nothing polls:
 * the loop sleeps until a socket or the next timer.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <jansson.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "colo-proxy/core/checksum.h"
#include "tests/guest/pattern.h"

#define SECOND        1000000000ull
#define MS            1000000ull
#define RETRY_DELAY   (100 * MS)
#define PACE_TICK     (5 * MS)
#define OPENING_MAX   128u /* connections on their way at the same time */
#define BUFFER_LEN    (256u << 10)
#define HEAD_MAX      2048u
#define TEXT_MAX      256u
#define MESSAGE_MAX   65000u
#define MESSAGE_MIN   16u
#define PING_LEN      64u /* ICMP header and payload */
#define PING_WINDOW   65536u
#define NOT_WRONG     UINT64_MAX
#define HELLO         "hello from the guest\n"
#define HISTOGRAM     (40u * 64u)
#define DEFAULT_BYTES ((gint64)8 << 20)
#define WWW_8M_BYTES  8388608u /* /8m.bin of the guest's second web server */

struct conn;

/* Latencies in us, log-linear with 64 steps per power of two (1.6 %). */
struct histogram {
	uint64_t count[HISTOGRAM];
	uint64_t total;
	uint64_t max_ns;
	uint64_t max_at; /* CLOCK_REALTIME when the slowest one began */
};

struct mode {
	const char *name;
	bool http;             /* TARGET is a URL */
	uint16_t port;         /* default */
	bool strict;           /* an error ends the run */
	bool marks_bytes;      /* gaps are counted between bytes, not operations */
	unsigned int interval; /* default, ms */
	int (*start)(void);
	void (*ready)(struct conn *c);
	void (*answered)(struct conn *c);
	void (*report)(json_t *out);
};

enum check {
	CHECK_LENGTH,  /* only that it is all there */
	CHECK_PATTERN, /* the stream of pattern.h */
	CHECK_TEXT,    /* exactly load.expect */
	CHECK_SEQ,     /* "seq=N\n", one more than the last time */
	CHECK_UPLOAD,  /* the digest of what was sent */
	CHECK_LOG,     /* the guest's log has this run's entries, each once, in order */
};

enum http_state {
	HTTP_IDLE,
	HTTP_HEAD,
	HTTP_BODY,
	HTTP_DRAIN, /* all read; waiting for the server to close */
};

struct conn {
	int fd; /* -1: closed */
	uint32_t interest;
	uint32_t index;
	bool opening, retired, mine; /* mine: opened by us, not accepted */
	void (*event)(struct conn *c, uint32_t events);
	void (*timer_fn)(struct conn *c);
	uint64_t timer_at;
	GSequenceIter *timer; /* NULL: not set */
	uint64_t op_started, op_number;

	char out[512];
	size_t out_len, out_off;
	uint64_t upload_len, upload_off, upload_hash;

	enum http_state state;
	enum check check;
	bool server_closes, until_eof;
	char *head; /* HEAD_MAX + 1 */
	size_t head_len;
	uint64_t body_len, body_off;
	char text[TEXT_MAX];
	GString *collect;

	uint8_t *message, *echo; /* of load.size bytes */
	size_t message_off, echo_off;
};

static struct {
	const struct mode *mode;
	/* options */
	struct sockaddr_storage addr;
	socklen_t addr_len;
	char *host, *path, *expect, *id, *own;
	int connections, interval_ms, progress_ms, size, listen_port, timeout_ms;
	gint64 requests, bytes, rate, max_lost;
	double duration, deadline;
	gboolean close, json, allow_errors, check_log, until_eof, warm;
	enum check check;
	/* state */
	int epfd;
	GSequence *timers;
	struct conn *conns;
	struct conn signals, input, listener, via;
	GPtrArray *accepted;
	unsigned int active, opening, opened, held;
	uint32_t next_open;
	uint64_t started, started_real, issued, ops, errors, wrong, bytes_done;
	uint64_t gap_last, gap_longest, gap_at, first_wrong, seq_last, seq_first;
	uint64_t lost, late, duplicate, via_asked, interval_max;
	bool stop, done, failed, trigger, triggered;
	char error[512]; /* the first one */
	char note[128];  /* what befell a datagram, where that is no error */
	struct histogram latency;
	uint64_t ping_sent[PING_WINDOW];
	struct pattern pattern;
	uint8_t buffer[BUFFER_LEN];
} load;

static uint64_t now_of(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * SECOND + (uint64_t)ts.tv_nsec;
}

static uint64_t now_ns(void)
{
	return now_of(CLOCK_MONOTONIC);
}

/* The wall-clock time of a moment of CLOCK_MONOTONIC. */
static uint64_t wall_of(uint64_t mono)
{
	return load.started_real + (mono - load.started);
}

/* --- figures --------------------------------------------------------------------------------- */

static uint32_t histogram_index(uint64_t us)
{
	uint32_t e;

	if (us < 64)
		return (uint32_t)us;
	e = 63 - (uint32_t)__builtin_clzll(us);
	if (e >= 44)
		return HISTOGRAM - 1;
	return (e - 5) * 64 + (uint32_t)((us >> (e - 6)) & 63);
}

static double histogram_value_ms(uint32_t index)
{
	uint32_t e = index / 64 + 5;

	if (index < 64)
		return index / 1000.0;
	return (double)((uint64_t)(64 + index % 64) << (e - 6)) / 1000.0;
}

static double histogram_percentile(const struct histogram *h, double share)
{
	uint64_t rank = (uint64_t)((double)h->total * share), seen = 0;
	uint32_t i;

	for (i = 0; i < HISTOGRAM; i++) {
		seen += h->count[i];
		if (seen > rank)
			return MIN(histogram_value_ms(i), (double)h->max_ns / 1e6);
	}
	return (double)h->max_ns / 1e6;
}

static void histogram_add(struct histogram *h, uint64_t start, uint64_t end)
{
	uint64_t ns = end - start;

	h->count[histogram_index(ns / 1000)]++;
	h->total++;
	if (ns >= h->max_ns) {
		h->max_ns = ns;
		h->max_at = wall_of(start);
	}
	load.interval_max = MAX(load.interval_max, ns);
}

/* Something useful happened now. */
static void gap_mark(uint64_t now)
{
	uint64_t gap = now - load.gap_last;

	if (load.gap_last && gap > load.gap_longest) {
		load.gap_longest = gap;
		load.gap_at = wall_of(load.gap_last);
	}
	load.gap_last = now;
}

static void bytes_mark(size_t n)
{
	load.bytes_done += n;
	if (load.mode->marks_bytes)
		gap_mark(now_ns());
}

static void op_done(struct conn *c)
{
	uint64_t now = now_ns();

	load.ops++;
	histogram_add(&load.latency, c->op_started, now);
	if (!load.mode->marks_bytes)
		gap_mark(now);
}

/* --- end of the run -------------------------------------------------------------------------- */

static void note_error(const char *format, va_list ap)
{
	char text[sizeof(load.error)];

	vsnprintf(text, sizeof(text), format, ap);
	load.errors++;
	if (!load.error[0])
		memcpy(load.error, text, sizeof(text));
}

/* The run has failed and ends now. */
static void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void fail(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	note_error(format, ap);
	va_end(ap);
	load.failed = true;
	load.done = true;
}

/* Whether another operation may start; takes it when so. */
static bool take_operation(void)
{
	if (load.stop || (load.requests && load.issued >= (uint64_t)load.requests))
		return false;
	load.issued++;
	return true;
}

/* --- timers ---------------------------------------------------------------------------------- */

static gint timer_compare(gconstpointer a, gconstpointer b, gpointer unused)
{
	const struct conn *x = a, *y = b;

	(void)unused;
	return x->timer_at < y->timer_at ? -1 : x->timer_at > y->timer_at;
}

static void timer_clear(struct conn *c)
{
	if (c->timer)
		g_sequence_remove(c->timer);
	c->timer = NULL;
}

static void timer_set(struct conn *c, uint64_t at, void (*fn)(struct conn *c))
{
	timer_clear(c);
	c->timer_at = at;
	c->timer_fn = fn;
	c->timer = g_sequence_insert_sorted(load.timers, c, timer_compare, NULL);
}

/* Runs what is due; returns the time of the next one, UINT64_MAX for none. */
static uint64_t timers_run(void)
{
	while (!load.done && !g_sequence_is_empty(load.timers)) {
		struct conn *c = g_sequence_get(g_sequence_get_begin_iter(load.timers));

		if (c->timer_at > now_ns())
			return c->timer_at;
		timer_clear(c);
		c->timer_fn(c);
	}
	return UINT64_MAX;
}

/* --- connections ----------------------------------------------------------------------------- */

static void conn_watch(struct conn *c, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = c};

	if (c->fd < 0 || c->interest == events)
		return;
	if (epoll_ctl(load.epfd, EPOLL_CTL_MOD, c->fd, &ev) < 0)
		fail("epoll_ctl: %s", strerror(errno));
	c->interest = events;
}

/* Takes the descriptor. */
static void conn_attach(struct conn *c, int fd, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = c};

	c->fd = fd;
	c->interest = events;
	if (epoll_ctl(load.epfd, EPOLL_CTL_ADD, fd, &ev) < 0)
		fail("epoll_ctl: %s", strerror(errno));
}

static void conn_close(struct conn *c)
{
	timer_clear(c);
	if (c->opening)
		load.opening--;
	c->opening = false;
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	c->state = HTTP_IDLE;
}

/* The connection has no more to do; the run ends with the last one. */
static void conn_retire(struct conn *c)
{
	conn_close(c);
	if (c->retired)
		return;
	c->retired = true;
	if (--load.active == 0)
		load.done = true;
}

static void conn_open(struct conn *c);
static void conns_open_more(void);
static void hold_ready(struct conn *c);

static void conn_again(struct conn *c)
{
	if (load.stop)
		conn_retire(c);
	else
		conn_open(c);
}

static void conn_error(struct conn *c, const char *format, ...)
        __attribute__((format(printf, 2, 3)));

static void conn_error(struct conn *c, const char *format, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	if (load.mode->strict || !c->mine) {
		fail("connection %u, after %" PRIu64 " operations: %s", c->index, load.ops, text);
		return;
	}
	load.errors++;
	if (!load.error[0])
		snprintf(load.error, sizeof(load.error), "connection %u: %s", c->index, text);
	conn_close(c);
	timer_set(c, now_ns() + RETRY_DELAY, conn_again);
	conns_open_more();
}

/* A byte that is not what it must be. */
static void conn_wrong(struct conn *c, uint64_t offset, const char *what)
{
	load.wrong++;
	if (load.first_wrong == NOT_WRONG)
		load.first_wrong = offset;
	fail("connection %u, operation %" PRIu64 ": %s (byte %" PRIu64 ")", c->index, load.ops + 1,
	     what, offset);
}

static void conn_opening_event(struct conn *c)
{
	int err = 0;
	socklen_t len = sizeof(err);

	getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len);
	if (err) {
		conn_error(c, "connect: %s", strerror(err));
		return;
	}
	c->opening = false;
	load.opening--;
	load.opened++;
	conn_watch(c, EPOLLIN);
	load.mode->ready(c);
	conns_open_more();
}

static void conn_open(struct conn *c)
{
	int one = 1;
	int fd;

	fd = socket(load.addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		fail("socket: %s", strerror(errno));
		return;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	c->opening = true;
	load.opening++;
	conn_attach(c, fd, EPOLLOUT);
	if (connect(fd, (struct sockaddr *)&load.addr, load.addr_len) < 0 && errno != EINPROGRESS)
		conn_error(c, "connect: %s", strerror(errno));
}

/* Asks the next thing, on a new connection where the server has closed the last one. */
static void conn_next(struct conn *c)
{
	if (c->fd < 0)
		conn_again(c);
	else
		load.mode->ready(c);
}

/* The answered() of modes that go on asking. */
static void next_after_interval(struct conn *c)
{
	if (load.interval_ms)
		timer_set(c, now_ns() + (uint64_t)load.interval_ms * MS, conn_next);
	else
		conn_next(c);
}

static void conn_init(struct conn *c, uint32_t index, void (*event)(struct conn *, uint32_t))
{
	c->fd = -1;
	c->index = index;
	c->event = event;
	c->mine = true;
	load.active++;
}

/* load.connections of them, not yet open. */
static void conns_new(void (*event)(struct conn *c, uint32_t events))
{
	uint32_t i;

	load.conns = g_new0(struct conn, load.connections);
	for (i = 0; i < (uint32_t)load.connections; i++)
		conn_init(&load.conns[i], i, event);
}

/* Opens those that were not open yet, OPENING_MAX of them at a time. */
static void conns_open_more(void)
{
	while (load.conns && !load.done && load.opening < OPENING_MAX &&
	       load.next_open < (uint32_t)load.connections)
		conn_open(&load.conns[load.next_open++]);
}

static int conns_open(void)
{
	conns_open_more();
	return 0;
}

/* --- HTTP ------------------------------------------------------------------------------------ */

/* With --rate: whether `done` bytes are ahead of it; then the connection rests. */
static bool http_paced(struct conn *c, uint64_t done);

static void http_send(struct conn *c)
{
	while (c->out_off < c->out_len || c->upload_off < c->upload_len) {
		const void *from = c->out + c->out_off;
		size_t len = c->out_len - c->out_off;
		bool head = len > 0;
		ssize_t n;

		if (!head) {
			if (http_paced(c, c->upload_off))
				return;
			len = (size_t)MIN(c->upload_len - c->upload_off, 65536u);
			pattern_fill(&load.pattern, c->upload_off, load.buffer, len);
			from = load.buffer;
		}
		n = send(c->fd, from, len, MSG_NOSIGNAL);
		if (n < 0) {
			if (errno != EAGAIN)
				conn_error(c, "send: %s", strerror(errno));
			else
				conn_watch(c, EPOLLIN | EPOLLOUT);
			return;
		}
		if (head) {
			c->out_off += (size_t)n;
			continue;
		}
		c->upload_hash = fnv1a64(c->upload_hash, load.buffer, (size_t)n);
		c->upload_off += (uint64_t)n;
		bytes_mark((size_t)n);
	}
	conn_watch(c, EPOLLIN);
}

static void http_rested(struct conn *c)
{
	if (c->upload_off < c->upload_len)
		http_send(c);
	else
		conn_watch(c, EPOLLIN);
}

static bool http_paced(struct conn *c, uint64_t done)
{
	uint64_t now = now_ns();
	double due = (double)done / (double)MAX(load.rate, 1) * 1e9;

	if (!load.rate || due <= (double)(now - c->op_started))
		return false;
	conn_watch(c, 0);
	timer_set(c, MAX(c->op_started + (uint64_t)due, now + PACE_TICK), http_rested);
	return true;
}

/* Starts one exchange. The body of the answer is checked as `check` says. */
static void http_ask(struct conn *c, const char *path, uint64_t upload_len, enum check check)
{
	char length[64] = "";

	if (upload_len)
		snprintf(length, sizeof(length), "Content-Length: %" PRIu64 "\r\n", upload_len);
	c->out_len =
	        (size_t)snprintf(c->out, sizeof(c->out), "%s %s HTTP/1.1\r\nHost: %s\r\n%s%s\r\n",
	                         upload_len ? "PUT" : "GET", path, load.host, length,
	                         load.close ? "Connection: close\r\n" : "");
	if (c->out_len >= sizeof(c->out)) {
		fail("the path is too long");
		return;
	}
	if (!c->head)
		c->head = g_malloc(HEAD_MAX + 1);
	c->out_off = 0;
	c->upload_len = upload_len;
	c->upload_off = 0;
	c->upload_hash = FNV1A64_START;
	c->check = check;
	c->state = HTTP_HEAD;
	c->head_len = 0;
	c->body_off = 0;
	c->op_started = now_ns();
	http_send(c);
}

static const char *http_header(const char *head, const char *name)
{
	size_t n = strlen(name);
	const char *line = head;

	while ((line = strstr(line, "\r\n"))) {
		line += 2;
		if (!g_ascii_strncasecmp(line, name, n) && line[n] == ':')
			return line + n + 1 + strspn(line + n + 1, " \t");
	}
	return NULL;
}

/* The head is complete and zero-terminated. */
static bool http_head(struct conn *c)
{
	const char *length = http_header(c->head, "Content-Length");
	const char *connection = http_header(c->head, "Connection");

	if (!g_str_has_prefix(c->head, "HTTP/1.") || !g_str_has_prefix(c->head + 8, " 200")) {
		*strchrnul(c->head, '\r') = '\0';
		conn_error(c, "the answer is \"%s\"", c->head);
		return false;
	}
	c->until_eof = !length;
	c->body_len = length ? g_ascii_strtoull(length, NULL, 10) : UINT64_MAX;
	c->server_closes = load.close || !length || c->head[7] == '0' ||
	                   (connection && !g_ascii_strncasecmp(connection, "close", 5));
	if (c->check == CHECK_PATTERN && load.bytes && length &&
	    c->body_len != (uint64_t)load.bytes) {
		conn_wrong(c, c->body_len, "the length of the answer is not the one asked for");
		return false;
	}
	if (c->check == CHECK_LOG)
		c->collect = g_string_new(NULL);
	c->state = HTTP_BODY;
	return true;
}

/* Whether the exchange is an operation, and not one that only helps the mode. */
static bool http_counts(const struct conn *c)
{
	return c->check != CHECK_LOG && c != &load.via;
}

static void http_body(struct conn *c, const uint8_t *data, size_t n)
{
	if (c->body_off < TEXT_MAX)
		memcpy(c->text + c->body_off, data, MIN(n, TEXT_MAX - (size_t)c->body_off));
	if (c->collect)
		g_string_append_len(c->collect, (const char *)data, (gssize)n);
	if (c->check == CHECK_PATTERN) {
		size_t right = pattern_check(&load.pattern, c->body_off, data, n);

		if (right < n) {
			load.bytes_done += right;
			conn_wrong(c, c->body_off + right, "the body differs from the pattern");
			return;
		}
	}
	c->body_off += n;
	if (http_counts(c) && c->check != CHECK_UPLOAD)
		bytes_mark(n);
}

static bool check_seq(struct conn *c)
{
	uint64_t seq;

	if (sscanf(c->text, "seq=%" SCNu64, &seq) != 1) {
		conn_wrong(c, 0, "the answer is not seq=N");
		return false;
	}
	if (load.seq_last && seq != load.seq_last + 1) {
		load.wrong++;
		fail("the answer to request %" PRIu64 " is seq=%" PRIu64 ", after seq=%" PRIu64,
		     c->op_number, seq, load.seq_last);
		return false;
	}
	if (!load.seq_last)
		load.seq_first = seq;
	load.seq_last = seq;
	return true;
}

/* The entries "SEQ ID-NUMBER" of this run: numbers 1 to ops, each once, in order. */
static bool check_log(struct conn *c)
{
	g_auto(GStrv) lines = g_strsplit(c->collect->str, "\n", -1);
	size_t id_len = strlen(load.id), i;
	uint64_t expect = 1;

	g_string_free(c->collect, TRUE);
	c->collect = NULL;
	for (i = 0; lines[i]; i++) {
		const char *entry = strchr(lines[i], ' ');

		if (!entry || !g_str_has_prefix(entry + 1, load.id) || entry[1 + id_len] != '-')
			continue;
		if (g_ascii_strtoull(entry + 2 + id_len, NULL, 10) != expect) {
			load.wrong++;
			fail("the log has \"%s\" where entry %" PRIu64 " must stand", lines[i],
			     expect);
			return false;
		}
		expect++;
	}
	if (expect - 1 != load.ops) {
		load.wrong++;
		fail("the log has %" PRIu64 " of %" PRIu64 " acknowledged entries", expect - 1,
		     load.ops);
		return false;
	}
	return true;
}

static bool check_upload(struct conn *c)
{
	char expect[128];

	snprintf(expect, sizeof(expect), "bytes=%" PRIu64 " fnv1a64=%016" PRIx64 " pattern=ok\n",
	         c->upload_len, c->upload_hash);
	if (!strcmp(c->text, expect))
		return true;
	load.wrong++;
	c->text[strcspn(c->text, "\n")] = '\0';
	expect[strlen(expect) - 1] = '\0';
	fail("the answer to the upload is \"%.100s\", expected \"%s\"", c->text, expect);
	return false;
}

static bool http_check(struct conn *c)
{
	size_t len = (size_t)MIN(c->body_off, TEXT_MAX - 1);

	c->text[len] = '\0';
	switch (c->check) {
	case CHECK_TEXT:
		if (c->body_off == strlen(load.expect) && !memcmp(c->text, load.expect, len))
			return true;
		conn_wrong(c, 0, "the body is not the expected text");
		return false;
	case CHECK_SEQ:
		return check_seq(c);
	case CHECK_UPLOAD:
		return check_upload(c);
	case CHECK_LOG:
		return check_log(c);
	default:
		return true;
	}
}

static void http_complete(struct conn *c)
{
	if (!http_check(c))
		return;
	if (http_counts(c))
		op_done(c);
	c->state = c->server_closes ? HTTP_DRAIN : HTTP_IDLE;
	if (c->state == HTTP_IDLE)
		load.mode->answered(c);
}

static void http_input(struct conn *c, const uint8_t *data, size_t n)
{
	if (c->state == HTTP_HEAD) {
		size_t room = HEAD_MAX - c->head_len, take = MIN(room, n), used;
		char *end;

		memcpy(c->head + c->head_len, data, take);
		c->head[c->head_len + take] = '\0';
		end = strstr(c->head, "\r\n\r\n");
		if (!end) {
			c->head_len += take;
			if (take < n || c->head_len == HEAD_MAX)
				conn_error(c, "the head of the answer is too long");
			return;
		}
		used = (size_t)(end + 4 - c->head) - c->head_len;
		end[2] = '\0';
		if (!http_head(c))
			return;
		data += used;
		n -= used;
	}
	if (c->state == HTTP_BODY) {
		size_t take = (size_t)MIN(c->body_len - c->body_off, n);

		http_body(c, data, take);
		n -= take;
	}
	if (n && !load.done)
		conn_error(c, "%zu bytes that nobody asked for", n);
	else if (c->state == HTTP_BODY && c->body_off == c->body_len && !load.done)
		http_complete(c);
}

static void http_eof(struct conn *c)
{
	if (c->state == HTTP_BODY && c->until_eof) {
		http_complete(c);
		if (load.done)
			return;
	}
	if (c->state == HTTP_DRAIN) {
		conn_close(c);
		load.mode->answered(c);
		return;
	}
	conn_error(c, c->state == HTTP_IDLE ? "the server closed the idle connection"
	                                    : "the server closed the connection within an answer");
}

static void http_event(struct conn *c, uint32_t events)
{
	ssize_t n;

	if (c->opening) {
		conn_opening_event(c);
		return;
	}
	if (events & EPOLLOUT)
		http_send(c);
	if (c->fd < 0 || load.done || !(events & ~(uint32_t)EPOLLOUT))
		return;
	n = recv(c->fd, load.buffer, sizeof(load.buffer), 0);
	if (n < 0 && errno != EAGAIN)
		conn_error(c, "recv: %s", strerror(errno));
	else if (n == 0)
		http_eof(c);
	else if (n > 0)
		http_input(c, load.buffer, (size_t)n);
	if (n > 0 && c->state == HTTP_BODY && !load.done && c->fd >= 0)
		http_paced(c, c->body_off);
}

/* What the body at the path must be, as far as that is known. */
static void http_expect(void)
{
	load.check = CHECK_LENGTH;
	if (load.expect) {
		load.check = CHECK_TEXT;
	} else if (!strcmp(load.path, "/hello")) {
		load.expect = g_strdup(HELLO);
		load.check = CHECK_TEXT;
	} else if (g_str_has_prefix(load.path, "/bytes/")) {
		load.bytes = g_ascii_strtoll(load.path + 7, NULL, 10);
		load.check = CHECK_PATTERN;
	} else if (!strcmp(load.path, "/8m.bin")) {
		load.bytes = WWW_8M_BYTES;
		load.check = CHECK_PATTERN;
	}
}

/* --- modes over HTTP ------------------------------------------------------------------------- */

static int http_start(void)
{
	http_expect();
	conns_new(http_event);
	return conns_open();
}

static void http_ready(struct conn *c)
{
	if (take_operation())
		http_ask(c, load.path, 0, load.check);
	else
		conn_retire(c);
}

static int download_start(void)
{
	load.connections = 1;
	load.requests = 1;
	if (!strcmp(load.path, "/")) {
		g_free(load.path);
		load.path =
		        g_strdup_printf("/bytes/%" PRId64, load.bytes ? load.bytes : DEFAULT_BYTES);
	}
	http_expect();
	if (load.check == CHECK_LENGTH)
		load.check = CHECK_PATTERN; /* whatever its name, it is compared with the stream */
	conns_new(http_event);
	return conns_open();
}

static int upload_start(void)
{
	load.connections = 1;
	load.requests = 1;
	if (!strcmp(load.path, "/")) {
		g_free(load.path);
		load.path = g_strdup("/upload");
	}
	load.bytes = load.bytes ? load.bytes : DEFAULT_BYTES;
	conns_new(http_event);
	return conns_open();
}

static void upload_ready(struct conn *c)
{
	if (take_operation())
		http_ask(c, load.path, (uint64_t)load.bytes, CHECK_UPLOAD);
	else
		conn_retire(c);
}

static void bulk_report(json_t *out)
{
	json_object_set_new(out, "first_wrong_byte",
	                    load.first_wrong == NOT_WRONG
	                            ? json_null()
	                            : json_integer((json_int_t)load.first_wrong));
}

static int keepalive_start(void)
{
	load.connections = 1;
	if (!load.id)
		load.id = g_strdup_printf("load%d.%u", getpid(), g_random_int());
	http_expect();
	conns_new(http_event);
	return conns_open();
}

static void keepalive_ready(struct conn *c)
{
	char path[256];

	if (load.opened > 1) {
		fail("the server closed the connection after %" PRIu64 " requests", load.ops);
	} else if (take_operation()) {
		c->op_number = load.issued;
		if (!g_str_equal(load.path, "/")) {
			http_ask(c, load.path, 0, load.check);
			return;
		}
		snprintf(path, sizeof(path), "/log?append=%s-%" PRIu64, load.id, c->op_number);
		http_ask(c, path, 0, CHECK_SEQ);
	} else if (load.check_log && c->check != CHECK_LOG) {
		http_ask(c, "/log", 0, CHECK_LOG);
	} else {
		conn_retire(c);
	}
}

static void keepalive_report(json_t *out)
{
	json_object_set_new(out, "first_seq", json_integer((json_int_t)load.seq_first));
	json_object_set_new(out, "last_seq", json_integer((json_int_t)load.seq_last));
	json_object_set_new(out, "log_checked", json_boolean(load.check_log));
}

/*
 * hold: an operation for --warm when the connection has been opened, one after the trigger. A
 * connection counts as held when it rests between them. A trigger that comes before all are held
 * waits for that.
 */
static void hold_use(void)
{
	uint32_t i;

	if (load.mode->ready != hold_ready)
		return;
	load.trigger = true;
	if (load.triggered || load.held < (unsigned int)load.connections)
		return;
	load.triggered = true;
	for (i = 0; i < (uint32_t)load.connections && !load.done; i++) {
		load.issued++;
		http_ask(&load.conns[i], load.path, 0, load.check);
	}
}

static void hold_ready(struct conn *c)
{
	if (load.warm && !c->op_number) {
		c->op_number = 1;
		http_ask(c, load.path, 0, load.check);
		return;
	}
	if (++load.held < (unsigned int)load.connections)
		return;
	printf("{\"event\":\"held\",\"t\":%" PRIu64 ",\"connections\":%u}\n", wall_of(now_ns()),
	       load.held);
	fflush(stdout);
	if (load.trigger)
		hold_use();
}

static void hold_answered(struct conn *c)
{
	if (load.triggered)
		conn_retire(c);
	else if (c->fd >= 0)
		hold_ready(c);
	else
		fail("the server does not keep connections open");
}

static void input_event(struct conn *c, uint32_t events)
{
	char text[256];

	(void)events;
	if (read(c->fd, text, sizeof(text)) > 0)
		return;
	epoll_ctl(load.epfd, EPOLL_CTL_DEL, c->fd, NULL);
	hold_use();
}

static int hold_start(void)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &load.input};

	http_expect();
	load.input.fd = -1;
	load.input.event = input_event;
	if (load.until_eof && epoll_ctl(load.epfd, EPOLL_CTL_ADD, STDIN_FILENO, &ev) < 0) {
		if (errno != EPERM)
			return -errno;
		load.trigger = true; /* a file, not a pipe: at its end already */
	} else if (load.until_eof) {
		load.input.fd = STDIN_FILENO;
	}
	conns_new(http_event);
	return conns_open();
}

static void hold_report(json_t *out)
{
	json_object_set_new(out, "held", json_integer(load.held));
}

/* --- echo ------------------------------------------------------------------------------------ */

/* Message `number` of flow `index`: both as be64, then bytes that follow from them. */
static void message_make(struct conn *c)
{
	uint64_t head[2] = {htobe64(c->op_number), htobe64(c->index)};

	memcpy(c->message, head, sizeof(head));
	pattern_fill(&load.pattern, (c->op_number * 31 + c->index) * 1021,
	             c->message + sizeof(head), (size_t)load.size - sizeof(head));
}

static void message_room(struct conn *c)
{
	if (!c->message) {
		c->message = g_malloc0((size_t)load.size);
		c->echo = g_malloc0((size_t)load.size);
	}
}

static bool message_check(struct conn *c, size_t len)
{
	size_t i = 0;

	while (i < len && c->echo[i] == c->message[i])
		i++;
	if (i == len)
		return true;
	conn_wrong(c, i, "the echo differs from what was sent");
	return false;
}

static void echo_send(struct conn *c)
{
	while (c->message_off < (size_t)load.size) {
		ssize_t n = send(c->fd, c->message + c->message_off,
		                 (size_t)load.size - c->message_off, MSG_NOSIGNAL);

		if (n < 0) {
			if (errno != EAGAIN)
				conn_error(c, "send: %s", strerror(errno));
			else
				conn_watch(c, EPOLLIN | EPOLLOUT);
			return;
		}
		c->message_off += (size_t)n;
	}
	conn_watch(c, EPOLLIN);
}

static void echo_ready(struct conn *c)
{
	if (!take_operation()) {
		conn_retire(c);
		return;
	}
	message_room(c);
	c->op_number++;
	message_make(c);
	c->message_off = 0;
	c->echo_off = 0;
	c->op_started = now_ns();
	echo_send(c);
}

static void echo_event(struct conn *c, uint32_t events)
{
	ssize_t n;

	if (c->opening) {
		conn_opening_event(c);
		return;
	}
	if (events & EPOLLOUT)
		echo_send(c);
	if (c->fd < 0 || load.done || !(events & ~(uint32_t)EPOLLOUT))
		return;
	n = c->echo ? recv(c->fd, c->echo + c->echo_off, (size_t)load.size - c->echo_off, 0)
	            : recv(c->fd, load.buffer, 1, 0);
	if (n < 0 && errno != EAGAIN)
		conn_error(c, "recv: %s", strerror(errno));
	if (n == 0)
		conn_error(c, c->echo && c->echo_off == (size_t)load.size
		                      ? "bytes or an end that nobody asked for"
		                      : "the peer closed the connection");
	if (n <= 0)
		return;
	if (!c->echo) {
		conn_error(c, "bytes that nobody asked for");
		return;
	}
	c->echo_off += (size_t)n;
	load.bytes_done += (uint64_t)n;
	if (!message_check(c, c->echo_off) || c->echo_off < (size_t)load.size)
		return;
	op_done(c);
	load.mode->answered(c);
}

static int rr_start(void)
{
	conns_new(echo_event);
	return conns_open();
}

/* --- accept ---------------------------------------------------------------------------------- */

static void accept_event(struct conn *l, uint32_t events)
{
	int one = 1;
	int fd;

	(void)events;
	while ((fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		struct conn *c = g_new0(struct conn, 1);

		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		conn_init(c, load.accepted->len, echo_event);
		c->mine = false;
		g_ptr_array_add(load.accepted, c);
		conn_attach(c, fd, EPOLLIN);
		if (load.accepted->len == (guint)load.connections)
			conn_retire(l);
		echo_ready(c);
	}
}

/* Asks the guest for the next connection: /connect/OWN-ADDRESS/PORT. */
static void accept_ask(struct conn *c)
{
	struct sockaddr_storage own;
	socklen_t len = sizeof(own);
	char host[64], path[128];

	if (load.own) {
		g_strlcpy(host, load.own, sizeof(host));
	} else if (getsockname(c->fd, (struct sockaddr *)&own, &len) < 0 ||
	           getnameinfo((struct sockaddr *)&own, len, host, sizeof(host), NULL, 0,
	                       NI_NUMERICHOST)) {
		fail("cannot tell the own address; say --own ADDRESS");
		return;
	}
	load.via_asked++;
	snprintf(path, sizeof(path), "/connect/%s/%d", host, load.listen_port);
	http_ask(c, path, 0, CHECK_LENGTH);
}

static void accept_ready(struct conn *c)
{
	if (c != &load.via)
		echo_ready(c);
	else if (load.via_asked < (uint64_t)load.connections)
		accept_ask(c);
	else
		conn_retire(c);
}

static void accept_answered(struct conn *c)
{
	if (c != &load.via) {
		next_after_interval(c);
		return;
	}
	accept_ready(c);
}

static int accept_start(void)
{
	struct sockaddr_in6 sa = {.sin6_family = AF_INET6};
	socklen_t len = sizeof(sa);
	int one = 1, zero = 0;
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	sa.sin6_port = htons((uint16_t)load.listen_port);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	if (bind(fd, (struct sockaddr *)&sa, len) < 0 || listen(fd, 4096) < 0 ||
	    getsockname(fd, (struct sockaddr *)&sa, &len) < 0) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	load.listen_port = ntohs(sa.sin6_port);
	load.accepted = g_ptr_array_new();
	conn_init(&load.listener, 0, accept_event);
	conn_attach(&load.listener, fd, EPOLLIN);
	conn_init(&load.via, 0, http_event);
	conn_open(&load.via);
	return 0;
}

static void accept_report(json_t *out)
{
	json_object_set_new(out, "accepted", json_integer(load.accepted->len));
}

/* --- UDP ------------------------------------------------------------------------------------- */

static void udp_send(struct conn *c);

static void udp_timeout(struct conn *c)
{
	load.lost++;
	udp_send(c);
}

static void udp_send(struct conn *c)
{
	if (!take_operation()) {
		conn_retire(c);
		return;
	}
	c->op_number++;
	message_make(c);
	c->op_started = now_ns();
	timer_set(c, c->op_started + (uint64_t)load.timeout_ms * MS, udp_timeout);
	/* A datagram that cannot be sent is a lost one, like one that the network drops. */
	if (send(c->fd, c->message, (size_t)load.size, MSG_NOSIGNAL) < 0 && !load.note[0])
		snprintf(load.note, sizeof(load.note), "send: %s", strerror(errno));
}

static void udp_input(struct conn *c, size_t len)
{
	uint64_t number;

	if (len != (size_t)load.size) {
		conn_wrong(c, len, "the echo has another length");
		return;
	}
	memcpy(&number, c->echo, sizeof(number));
	number = be64toh(number);
	if (number < c->op_number) {
		load.late++;
		return;
	}
	if (!message_check(c, len))
		return;
	if (c->timer_fn != udp_timeout || !c->timer) {
		load.duplicate++; /* answered before, resting now */
		return;
	}
	load.bytes_done += len;
	op_done(c);
	timer_clear(c);
	if (load.interval_ms)
		timer_set(c, now_ns() + (uint64_t)load.interval_ms * MS, udp_send);
	else
		udp_send(c);
}

static void udp_event(struct conn *c, uint32_t events)
{
	ssize_t n;

	(void)events;
	while (!load.done && c->fd >= 0) {
		n = recv(c->fd, c->echo, (size_t)load.size, MSG_TRUNC);
		if (n < 0 && errno == EAGAIN)
			return;
		if (n >= 0)
			udp_input(c, (size_t)n);
		else if (!load.note[0]) /* an ICMP error; the datagram times out */
			snprintf(load.note, sizeof(load.note), "recv: %s", strerror(errno));
	}
}

static int udp_start(void)
{
	uint32_t i;

	conns_new(udp_event);
	for (i = 0; i < (uint32_t)load.connections; i++) {
		struct conn *c = &load.conns[i];
		int fd = socket(load.addr.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

		if (fd < 0)
			return -errno;
		conn_attach(c, fd, EPOLLIN);
		if (connect(fd, (struct sockaddr *)&load.addr, load.addr_len) < 0)
			return -errno;
		message_room(c);
		udp_send(c);
	}
	return 0;
}

static void datagram_report(json_t *out)
{
	json_object_set_new(out, "sent", json_integer((json_int_t)load.issued));
	json_object_set_new(out, "lost", json_integer((json_int_t)load.lost));
	json_object_set_new(out, "late", json_integer((json_int_t)load.late));
	json_object_set_new(out, "duplicates", json_integer((json_int_t)load.duplicate));
}

/* --- ping ------------------------------------------------------------------------------------ */

/* Answers count whenever they come; what has not come --timeout after the last one is lost. */
static void ping_end(struct conn *c)
{
	load.lost = load.issued - load.ops;
	conn_retire(c);
}

static void ping_send(struct conn *c)
{
	uint8_t message[PING_LEN] = {ICMP_ECHO};
	uint64_t now = now_ns();
	uint16_t words[3];

	if (!take_operation()) {
		if (load.ops == load.issued)
			ping_end(c);
		else
			timer_set(c, now + (uint64_t)load.timeout_ms * MS, ping_end);
		return;
	}
	c->op_number = load.issued;
	words[1] = htons((uint16_t)c->index);
	words[2] = htons((uint16_t)c->op_number);
	memcpy(message + 4, words + 1, 4);
	pattern_fill(&load.pattern, 0, message + 8, sizeof(message) - 8);
	words[0] = htons((uint16_t)~checksum_fold(checksum_add(0, message, sizeof(message))));
	memcpy(message + 2, words, 2);
	load.ping_sent[c->op_number % PING_WINDOW] = now;
	if (send(c->fd, message, sizeof(message), MSG_NOSIGNAL) < 0 && !load.note[0])
		snprintf(load.note, sizeof(load.note), "send: %s", strerror(errno));
	timer_set(c, now + (uint64_t)MAX(load.interval_ms, 1) * MS, ping_send);
}

static void ping_input(struct conn *c, const uint8_t *ip, size_t len)
{
	size_t header = (size_t)(ip[0] & 15) * 4;
	const uint8_t *message = ip + header;
	uint64_t *sent;

	if (len < header + 8 || message[0] != ICMP_ECHOREPLY ||
	    (uint32_t)(message[4] << 8 | message[5]) != c->index)
		return; /* somebody else's */
	sent = &load.ping_sent[message[6] << 8 | message[7]];
	if (len != header + PING_LEN ||
	    pattern_check(&load.pattern, 0, message + 8, PING_LEN - 8) != PING_LEN - 8) {
		conn_wrong(c, len, "the echo differs from what was sent");
		return;
	}
	if (!*sent) {
		load.duplicate++;
		return;
	}
	c->op_started = *sent;
	*sent = 0;
	load.bytes_done += PING_LEN;
	op_done(c);
	if (c->timer_fn == ping_end && load.ops == load.issued)
		ping_end(c);
}

static void ping_event(struct conn *c, uint32_t events)
{
	uint8_t packet[2048];
	ssize_t n;

	(void)events;
	while (!load.done && c->fd >= 0) {
		n = recv(c->fd, packet, sizeof(packet), 0);
		if (n < 0 && errno == EAGAIN)
			return;
		if (n >= 20)
			ping_input(c, packet, (size_t)n);
		else if (n < 0 && !load.note[0])
			snprintf(load.note, sizeof(load.note), "recv: %s", strerror(errno));
	}
}

static int ping_start(void)
{
	int fd = socket(AF_INET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_ICMP);

	if (fd < 0)
		return -errno;
	load.connections = 1;
	conns_new(ping_event);
	load.conns[0].index = g_random_int() & 0xffff;
	conn_attach(&load.conns[0], fd, EPOLLIN);
	if (load.addr.ss_family != AF_INET)
		return -EAFNOSUPPORT;
	if (connect(fd, (struct sockaddr *)&load.addr, load.addr_len) < 0)
		return -errno;
	ping_send(&load.conns[0]);
	return 0;
}

static const struct mode modes[] = {
        {"http", true, 80, false, false, 0, http_start, http_ready, next_after_interval, NULL},
        {"download", true, 80, true, true, 0, download_start, http_ready, conn_retire, bulk_report},
        {"upload", true, 80, true, true, 0, upload_start, upload_ready, conn_retire, bulk_report},
        {"keepalive", true, 80, true, false, 10, keepalive_start, keepalive_ready,
         next_after_interval, keepalive_report},
        {"hold", true, 80, true, false, 0, hold_start, hold_ready, hold_answered, hold_report},
        {"rr", false, 7, true, false, 0, rr_start, echo_ready, next_after_interval, NULL},
        {"udp", false, 7, true, false, 10, udp_start, NULL, NULL, datagram_report},
        {"accept", true, 80, true, false, 10, accept_start, accept_ready, accept_answered,
         accept_report},
        {"ping", false, 0, true, false, 100, ping_start, NULL, NULL, datagram_report},
};

/* --- report ---------------------------------------------------------------------------------- */

static json_t *report_make(void)
{
	double seconds = (double)(now_ns() - load.started) / 1e9;
	const struct histogram *h = &load.latency;
	json_t *out = json_pack(
	        "{s:s, s:b, s:I, s:f, s:I, s:I, s:I, s:f, s:I, s:f, s:{s:f, s:f, s:f, s:f, s:I}, "
	        "s:f, s:I}",
	        "mode", load.mode->name, "ok", !load.failed, "started_ns",
	        (json_int_t)load.started_real, "seconds", seconds, "requests", (json_int_t)load.ops,
	        "errors", (json_int_t)load.errors, "wrong", (json_int_t)load.wrong, "rps",
	        (double)load.ops / seconds, "bytes", (json_int_t)load.bytes_done, "MBps",
	        (double)load.bytes_done / seconds / 1e6, "latency_ms", "p50",
	        histogram_percentile(h, 0.5), "p90", histogram_percentile(h, 0.9), "p99",
	        histogram_percentile(h, 0.99), "max", (double)h->max_ns / 1e6, "max_at_ns",
	        (json_int_t)h->max_at, "longest_gap_ms", (double)load.gap_longest / 1e6,
	        "longest_gap_at_ns", (json_int_t)load.gap_at);

	if (load.error[0])
		json_object_set_new(out, "error", json_string(load.error));
	if (load.note[0])
		json_object_set_new(out, "note", json_string(load.note));
	if (load.mode->report)
		load.mode->report(out);
	return out;
}

static void report(void)
{
	json_t *out = report_make(), *value;
	const char *key;
	char *text;

	if (load.json) {
		text = json_dumps(out, JSON_COMPACT | JSON_REAL_PRECISION(9));
		puts(text);
		free(text);
	} else {
		json_object_foreach(out, key, value)
		{
			text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
			printf("%-18s %s\n", key, text);
			free(text);
		}
	}
	json_decref(out);
}

/* The longest time that this progress line has waited for, so that an outage shows at once. */
static void progress(struct conn *c)
{
	uint64_t now = now_ns();

	printf("{\"event\":\"progress\",\"t\":%" PRIu64 ",\"bytes\":%" PRIu64
	       ",\"requests\":%" PRIu64 ",\"errors\":%" PRIu64 ",\"max_ms\":%.3f}\n",
	       wall_of(now), load.bytes_done, load.ops, load.errors,
	       (double)load.interval_max / 1e6);
	fflush(stdout);
	load.interval_max = 0;
	timer_set(c, now + (uint64_t)load.progress_ms * MS, progress);
}

/* --- start ----------------------------------------------------------------------------------- */

static void stop_timer(struct conn *unused)
{
	(void)unused;
	load.stop = true;
	hold_use();
}

static void deadline_timer(struct conn *unused)
{
	(void)unused;
	fail("not finished after %g s: %" PRIu64 " operations, %" PRIu64
	     " bytes, nothing for the last %.3f s",
	     load.deadline, load.ops, load.bytes_done, (double)(now_ns() - load.gap_last) / 1e9);
}

/* SIGUSR1 triggers mode hold; SIGINT and SIGTERM end the run as --duration does. */
static void signal_event(struct conn *c, uint32_t events)
{
	struct signalfd_siginfo info;

	(void)events;
	if (read(c->fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGUSR1) {
		hold_use();
	} else if (load.stop) {
		fail("interrupted");
	} else {
		stop_timer(NULL);
	}
}

static void signals_start(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	load.signals.event = signal_event;
	conn_attach(&load.signals, signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC), EPOLLIN);
}

/* Datagrams may be lost, but not all of them, and not more than --max-lost. */
static void check_lost(void)
{
	if (load.failed || load.mode->report != datagram_report)
		return;
	if (!load.ops)
		fail("no answer to any of %" PRIu64 " requests", load.issued);
	else if (load.max_lost >= 0 && load.lost > (uint64_t)load.max_lost)
		fail("%" PRIu64 " of %" PRIu64 " lost", load.lost, load.issued);
}

static void run(void)
{
	static struct conn stop, deadline, ticker;
	struct epoll_event events[64];
	struct timespec ts;
	int i, n, rc;

	if (load.duration > 0)
		timer_set(&stop, load.started + (uint64_t)(load.duration * 1e9), stop_timer);
	timer_set(&deadline, load.started + (uint64_t)(load.deadline * 1e9), deadline_timer);
	if (load.progress_ms)
		timer_set(&ticker, load.started + (uint64_t)load.progress_ms * MS, progress);
	rc = load.mode->start();
	if (rc < 0)
		fail("%s: %s", load.mode->name, strerror(-rc));
	while (!load.done) {
		uint64_t next = timers_run(), now = now_ns();
		uint64_t wait = next > now ? next - now : 0;

		if (load.done)
			break;
		ts.tv_sec = (time_t)(wait / SECOND);
		ts.tv_nsec = (long)(wait % SECOND);
		n = epoll_pwait2(load.epfd, events, 64, next == UINT64_MAX ? NULL : &ts, NULL);
		if (n < 0 && errno != EINTR)
			fail("epoll_pwait2: %s", strerror(errno));
		for (i = 0; i < n && !load.done; i++) {
			struct conn *c = events[i].data.ptr;

			if (c->fd >= 0)
				c->event(c, events[i].events);
		}
	}
}

static int usage(const char *what)
{
	fprintf(stderr, "colo-load: %s\nTry colo-load --help.\n", what);
	return 2;
}

/* "http://HOST[:PORT][/PATH]" or "HOST[:PORT]"; an IPv6 address in brackets. */
static const char *parse_target(const char *text)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
	g_autofree char *port = g_strdup_printf("%u", load.mode->port);
	g_autofree char *host = NULL;
	const char *end;

	if (load.mode->http && !g_str_has_prefix(text, "http://"))
		return "the target of this mode is http://HOST[:PORT]/PATH";
	if (load.mode->http)
		text += strlen("http://");
	end = *text == '[' ? strchr(text, ']') : text + strcspn(text, ":/");
	if (!end)
		return "the target lacks a ]";
	host = *text == '[' ? g_strndup(text + 1, (gsize)(end++ - text - 1))
	                    : g_strndup(text, (gsize)(end - text));
	if (*end == ':') {
		size_t n = strcspn(end + 1, "/");

		g_free(port);
		port = g_strndup(end + 1, n);
		end += 1 + n;
	}
	load.path = g_strdup(*end ? end : "/");
	if (getaddrinfo(host, port, &hints, &found))
		return "the target's host or port is not known";
	memcpy(&load.addr, found->ai_addr, found->ai_addrlen);
	load.addr_len = found->ai_addrlen;
	freeaddrinfo(found);
	load.host = g_steal_pointer(&host);
	return NULL;
}

static const GOptionEntry entries[] = {
        {"connections", 'c', 0, G_OPTION_ARG_INT, &load.connections, "Connections or flows (1)",
         "N"},
        {"requests", 'n', 0, G_OPTION_ARG_INT64, &load.requests, "End after so many operations",
         "N"},
        {"duration", 'd', 0, G_OPTION_ARG_DOUBLE, &load.duration,
         "Start nothing new after so long; hold: use the connections then", "S"},
        {"deadline", 0, 0, G_OPTION_ARG_DOUBLE, &load.deadline,
         "Fail when not finished by then (duration + 60, or 300)", "S"},
        {"interval", 'i', 0, G_OPTION_ARG_INT, &load.interval_ms,
         "Rest after each answer; ping: between requests (http, rr 0; keepalive, udp, accept 10; "
         "ping 100)",
         "MS"},
        {"timeout", 0, 0, G_OPTION_ARG_INT, &load.timeout_ms,
         "udp, ping: lost when not answered by then (1000)", "MS"},
        {"max-lost", 0, 0, G_OPTION_ARG_INT64, &load.max_lost,
         "udp, ping: fail when more are lost (without: only when all are)", "N"},
        {"close", 0, 0, G_OPTION_ARG_NONE, &load.close, "http: one connection per request", NULL},
        {"expect", 0, 0, G_OPTION_ARG_STRING, &load.expect, "http: the body must be this", "TEXT"},
        {"allow-errors", 0, 0, G_OPTION_ARG_NONE, &load.allow_errors,
         "http: broken connections are counted, but are no failure", NULL},
        {"bytes", 'b', 0, G_OPTION_ARG_INT64, &load.bytes, "download, upload: so much (8 MiB)",
         "N"},
        {"rate", 'r', 0, G_OPTION_ARG_INT64, &load.rate, "download, upload: not faster", "BYTES/S"},
        {"size", 's', 0, G_OPTION_ARG_INT, &load.size, "rr, udp, accept: message size (64)", "N"},
        {"id", 0, 0, G_OPTION_ARG_STRING, &load.id, "keepalive: name of the log entries", "NAME"},
        {"check-log", 0, 0, G_OPTION_ARG_NONE, &load.check_log,
         "keepalive: at the end the guest's log must have each entry once", NULL},
        {"warm", 0, 0, G_OPTION_ARG_NONE, &load.warm, "hold: one request before resting", NULL},
        {"until-eof", 0, 0, G_OPTION_ARG_NONE, &load.until_eof,
         "hold: use them at the end of stdin (else: SIGUSR1, --duration)", NULL},
        {"listen", 0, 0, G_OPTION_ARG_INT, &load.listen_port, "accept: port (any)", "PORT"},
        {"own", 0, 0, G_OPTION_ARG_STRING, &load.own, "accept: address to connect to", "IP"},
        {"progress", 0, 0, G_OPTION_ARG_INT, &load.progress_ms, "A JSON line so often", "MS"},
        {"json", 0, 0, G_OPTION_ARG_NONE, &load.json, "The result as one JSON line", NULL},
        {0},
};

static const char *check_options(void)
{
	if (load.connections < 1 || load.requests < 0 || load.duration < 0 || load.bytes < 0 ||
	    load.rate < 0 || load.progress_ms < 0 || load.timeout_ms < 1 || load.listen_port < 0 ||
	    load.listen_port > 65535)
		return "a number is out of range";
	if (load.size < (int)MESSAGE_MIN || load.size > (int)MESSAGE_MAX)
		return "--size must be from 16 to 65000";
	if (load.expect && strlen(load.expect) >= TEXT_MAX)
		return "--expect is too long";
	if (load.check_log && !g_str_equal(load.path, "/"))
		return "--check-log needs a target without a path";
	if (load.interval_ms < 0)
		load.interval_ms = (int)load.mode->interval;
	if (load.deadline <= 0)
		load.deadline = load.duration > 0 ? load.duration + 60 : 300;
	/* Without an end: ping and keepalive would run to the deadline. */
	if (!load.requests && load.duration <= 0)
		load.requests = 1;
	return NULL;
}

static const char *parse_arguments(int argc, char **argv)
{
	size_t i;

	if (argc != 3)
		return "a mode and a target are needed";
	for (i = 0; i < G_N_ELEMENTS(modes); i++) {
		if (!strcmp(argv[1], modes[i].name))
			load.mode = &modes[i];
	}
	if (!load.mode)
		return "no such mode";
	return parse_target(argv[2]);
}

int main(int argc, char **argv)
{
	g_autoptr(GOptionContext) context = g_option_context_new("MODE TARGET");
	g_autoptr(GError) error = NULL;
	struct rlimit files;
	const char *bad;

	load.connections = 1;
	load.interval_ms = -1;
	load.timeout_ms = 1000;
	load.max_lost = -1;
	load.size = 64;
	load.first_wrong = NOT_WRONG;
	g_option_context_set_summary(
	        context, "Modes: http download upload keepalive hold rr udp accept ping");
	g_option_context_add_main_entries(context, entries, NULL);
	if (!g_option_context_parse(context, &argc, &argv, &error))
		return usage(error->message);
	bad = parse_arguments(argc, argv);
	bad = bad ? bad : check_options();
	if (bad)
		return usage(bad);

	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	pattern_init(&load.pattern);
	load.timers = g_sequence_new(NULL);
	load.epfd = epoll_create1(EPOLL_CLOEXEC);
	load.started_real = now_of(CLOCK_REALTIME);
	load.started = load.gap_last = now_ns();
	signals_start();
	run();
	check_lost();
	if (load.errors && !load.allow_errors)
		load.failed = true;
	report();
	if (load.failed)
		fprintf(stderr, "colo-load %s: %s\n", load.mode->name, load.error);
	return load.failed ? 1 : 0;
}
