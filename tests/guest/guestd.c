/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The service of the test guest: one process, one epoll loop.
 *
 * Two copies of the guest that get the same input say the same, byte for byte, except where a
 * request asks for what must differ (/time, /random, and where /pieces is cut). No answer carries a
 *date, and nothing is sent that no client caused.
 *
 * HTTP/1.1 on port 80, one request at a time per connection, bodies by Content-Length:
 *
 *	GET /hello		"hello from the guest\n"
 *	GET /bytes/N		the first N bytes of the stream in pattern.h
 *	PUT|POST /upload	takes that stream; "bytes=N fnv1a64=HEX pattern=ok|bad@OFFSET\n"
 *	GET /time		"realtime=NS monotonic=NS\n"
 *	GET /random		16 random bytes in hex
 *	GET /pieces/N		as /bytes/N, with Nagle's algorithm, in two writes whose border is
 *not the same in both VMs
 *	GET /dirty/MIB		dirty so many MiB of pages per second from now on, one word in each
 *				page; 0 stops. ?full=1 rewrites whole pages with random bytes,
 *				?area=MIB sets the size of the memory used (32)
 *	GET /rewrite/MIB	rewrite so many MiB with random bytes (not the same in both
 *				VMs), then answer: the next checkpoint is as large. ?alike=1: with
 *				bytes that are the same in both VMs
 *	GET /log?append=ID	append "SEQ ID" to the log; answers "seq=SEQ\n", SEQ from 1
 *	GET /log		the log, one entry a line
 *	GET /connect/IP/PORT	open a TCP connection to there, echo all that comes on it
 *	GET /reboot		reboot the guest (no answer)
 *
 * TCP and UDP port 7: echo.
 *
 * Port 9 is a guest that means harm: what it says goes past its own TCP. Records on TCP, each a
 * byte KIND, a length of 16 bits (big endian) and so many bytes; each is answered by a byte.
 *
 *	KIND 0		an Ethernet frame, sent as it is
 *	KIND 1, 2	the same, but only by a VM that is not marked (1) or that is (2)
 *	KIND 3		COUNT (32 bits), EVERY (16 bits), length (16 bits) and bytes of a frame, and
 *			another frame: COUNT connections, see flood_main(). Answered when it begins
 *
 * A UDP datagram there marks the VM ("S") or takes the mark away: one that only one VM is given
 * makes the two differ until the next checkpoint.
 *
 * `guestd --pattern N` writes N bytes of the stream and ends.
 *
 * Limits: CONN_MAX connections (more are closed at once), REQUEST_MAX bytes of request head,
 * LOG_MAX bytes of log, DIRTY_MAX MiB of dirtied and REWRITE_MAX MiB of rewritten memory.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "pattern.h"

#define CONN_MAX    16384
#define REQUEST_MAX 4096
#define ANSWER_MAX  1024
#define ECHO_MAX    16384
#define LOG_MAX     (16u << 20)
#define ID_MAX      128
#define DIRTY_MAX   1024u
#define REWRITE_MAX 64u
#define DIRTY_TICK  10000000 /* ns */

enum kind {
	KIND_HTTP_LISTEN,
	KIND_ECHO_LISTEN,
	KIND_FRAMES_LISTEN,
	KIND_UDP,
	KIND_MARK,
	KIND_HTTP,
	KIND_ECHO,
	KIND_FRAMES,
};

enum body {
	BODY_NONE,
	BODY_PATTERN,
	BODY_LOG,
};

enum http_state {
	HTTP_HEAD,   /* reading a request's head */
	HTTP_UPLOAD, /* reading a request's body */
	HTTP_ANSWER, /* writing the answer */
	HTTP_LINGER, /* all said and shut down, waiting for the peer to close */
};

struct conn {
	enum kind kind;
	int fd;
	uint32_t interest; /* what epoll watches */

	enum http_state state;
	bool close_after;
	char *in; /* request bytes not yet used, or echo bytes not yet sent */
	size_t in_len;
	size_t in_off; /* echo: how many of them are sent */
	bool eof;      /* echo: the peer has finished */

	uint64_t upload_left, upload_off, upload_hash, upload_bad;

	char out[ANSWER_MAX]; /* head of the answer and a short body */
	size_t out_len, out_off;
	enum body body;
	uint64_t body_off, body_left;
};

static struct pattern pattern;
static uint8_t scratch[4 * PATTERN_BLOCK] __attribute__((aligned(64)));
static int epfd;
static unsigned int conns;
static char *log_text;
static size_t log_len;
static uint64_t log_seq;

/* The dirtying thread reads these; one thread at most. */
static atomic_uint dirty_rate, dirty_area, dirty_full;
static pthread_t dirty_thread;
static bool dirty_running;

static void conn_close(struct conn *c)
{
	close(c->fd);
	free(c->in);
	free(c);
	conns--;
}

static int conn_watch(struct conn *c, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = c};

	if (c->interest == events)
		return 0;
	c->interest = events;
	return epoll_ctl(epfd, EPOLL_CTL_MOD, c->fd, &ev);
}

/* Takes @fd, also on failure. */
static struct conn *conn_new(enum kind kind, int fd, uint32_t events)
{
	struct epoll_event ev = {.events = events};
	struct conn *c = calloc(1, sizeof(*c));
	int one = 1;

	if (!c || (kind >= KIND_HTTP && conns >= CONN_MAX))
		goto fail;
	if (kind >= KIND_HTTP) {
		c->in = malloc(kind == KIND_HTTP ? REQUEST_MAX + 1 : ECHO_MAX);
		if (!c->in)
			goto fail;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	}
	c->kind = kind;
	c->fd = fd;
	c->interest = events;
	ev.data.ptr = c;
	if (epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev) < 0)
		goto fail;
	conns++;
	return c;
fail:
	close(fd);
	if (c)
		free(c->in);
	free(c);
	return NULL;
}

/* --- the memory dirtier ------------------------------------------------------------------------
 */

static void dirty_page(uint64_t *page, uint64_t *state, bool full)
{
	unsigned int i;

	for (i = 0; i < (full ? 512 : 1); i++) {
		*state ^= *state << 13;
		*state ^= *state >> 7;
		*state ^= *state << 17;
		page[i] = *state;
	}
}

static void *dirty_main(void *arg)
{
	uint64_t state = 88172645463325252ull, page = 0, pages, due = 0;
	uint8_t *memory = arg;
	struct timespec tick = {.tv_nsec = DIRTY_TICK};

	/* A stop of the machine is not made up for: each round is one tick's worth. */
	while ((pages = atomic_load(&dirty_rate) * 256ull) != 0) {
		uint64_t area = atomic_load(&dirty_area) * 256ull;

		for (due += pages; due >= 1000000000 / DIRTY_TICK; due -= 1000000000 / DIRTY_TICK) {
			page = (page + 1) % area;
			dirty_page((uint64_t *)(memory + page * 4096), &state, dirty_full);
		}
		clock_nanosleep(CLOCK_MONOTONIC, 0, &tick, NULL);
	}
	munmap(memory, (size_t)DIRTY_MAX << 20);
	return NULL;
}

static int dirty_set(unsigned int mib_per_s, unsigned int area, bool full)
{
	void *memory;

	if (dirty_running && !mib_per_s) {
		atomic_store(&dirty_rate, 0);
		pthread_join(dirty_thread, NULL);
		dirty_running = false;
	}
	atomic_store(&dirty_area, area);
	atomic_store(&dirty_full, full);
	atomic_store(&dirty_rate, mib_per_s);
	if (dirty_running || !mib_per_s)
		return 0;
	memory = mmap(NULL, (size_t)DIRTY_MAX << 20, PROT_READ | PROT_WRITE,
	              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		return -errno;
	if (pthread_create(&dirty_thread, NULL, dirty_main, memory)) {
		munmap(memory, (size_t)DIRTY_MAX << 20);
		return -EAGAIN;
	}
	dirty_running = true;
	return 0;
}

/* --- answers -----------------------------------------------------------------------------------
 */

/* Starts an answer whose body is @text, or @body_len bytes of @body when that is not BODY_NONE. */
static void answer(struct conn *c, const char *status, enum body body, uint64_t body_len,
                   const char *text)
{
	int n;

	if (body == BODY_NONE)
		body_len = strlen(text);
	n = snprintf(c->out, sizeof(c->out),
	             "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %" PRIu64 "\r\n%s\r\n%s",
	             status, body == BODY_PATTERN ? "application/octet-stream" : "text/plain",
	             body_len, c->close_after ? "Connection: close\r\n" : "",
	             body == BODY_NONE ? text : "");
	c->out_len = n;
	c->out_off = 0;
	c->body = body;
	c->body_off = 0;
	c->body_left = body == BODY_NONE ? 0 : body_len;
	c->state = HTTP_ANSWER;
}

static void answer_text(struct conn *c, const char *status, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

static void answer_text(struct conn *c, const char *status, const char *format, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	answer(c, status, BODY_NONE, 0, text);
}

static void answer_bad(struct conn *c, const char *status)
{
	c->close_after = true;
	answer_text(c, status, "%s\n", status);
}

static bool parse_u64(const char *text, uint64_t max, uint64_t *ret_value)
{
	uint64_t value;
	char *end;

	if (!isdigit((unsigned char)*text))
		return false;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || (*end && *end != '?' && *end != '&' && *end != '\r') || value > max)
		return false;
	*ret_value = value;
	return true;
}

static void serve_time(struct conn *c)
{
	struct timespec real, mono;

	clock_gettime(CLOCK_REALTIME, &real);
	clock_gettime(CLOCK_MONOTONIC, &mono);
	answer_text(c, "200 OK", "realtime=%lld%09ld monotonic=%lld%09ld\n", (long long)real.tv_sec,
	            real.tv_nsec, (long long)mono.tv_sec, mono.tv_nsec);
}

/*
 * Two clones of one machine have the same generator state until it is seeded again: the cycle
 * counter, read here, is what makes them differ for certain.
 */
static void serve_random(struct conn *c)
{
	uint64_t r[2] = {0, 0};

	if (getrandom(r, sizeof(r), GRND_NONBLOCK) != sizeof(r))
		r[1] = r[0];
	r[0] ^= __rdtsc() * 0x9e3779b97f4a7c15ull;
	r[1] ^= __rdtsc() * 0xbf58476d1ce4e5b9ull;
	answer_text(c, "200 OK", "%016" PRIx64 "%016" PRIx64 "\n", r[0], r[1]);
}

/* What of the answer is not in the first segment waits until the client has acknowledged that. */
static void serve_pieces(struct conn *c, uint64_t n)
{
	int zero = 0;
	ssize_t sent;

	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &zero, sizeof(zero));
	answer(c, "200 OK", BODY_PATTERN, n, "");
	sent = send(c->fd, c->out, 1 + (__rdtsc() >> 4) % (c->out_len - 1), MSG_NOSIGNAL);
	if (sent > 0)
		c->out_off = sent;
}

static void serve_dirty(struct conn *c, const char *arg)
{
	const char *area_text = strstr(arg, "area=");
	uint64_t rate, area = 32;
	int rc;

	if (!parse_u64(arg, 100000, &rate) ||
	    (area_text && (!parse_u64(area_text + 5, DIRTY_MAX, &area) || !area))) {
		answer_bad(c, "400 Bad Request");
		return;
	}
	rc = dirty_set(rate, area, strstr(arg, "full=1") != NULL);
	if (rc < 0)
		answer_text(c, "500 Internal Server Error", "%s\n", strerror(-rc));
	else
		answer_text(c, "200 OK", "dirty=%" PRIu64 " area=%" PRIu64 "\n", rate, area);
}

static void serve_rewrite(struct conn *c, const char *arg)
{
	static uint64_t *memory;
	static uint64_t rewrites;
	uint64_t state = __rdtsc() | 1, mib, page;
	size_t n = strcspn(arg, "?");
	char number[8] = "";

	if (n < sizeof(number))
		memcpy(number, arg, n);
	if (!strcmp(arg + n, "?alike=1"))
		state = ++rewrites * 0x9e3779b97f4a7c15 | 1;
	if (!parse_u64(number, REWRITE_MAX, &mib)) {
		answer_bad(c, "400 Bad Request");
		return;
	}
	if (!memory)
		memory = calloc(REWRITE_MAX, 1u << 20);
	if (!memory) {
		answer_text(c, "500 Internal Server Error", "%s\n", strerror(ENOMEM));
		return;
	}
	for (page = 0; page < mib * 256; page++)
		dirty_page(memory + page * 512, &state, true);
	answer_text(c, "200 OK", "rewritten %" PRIu64 " MiB\n", mib);
}

static void serve_log_append(struct conn *c, const char *id)
{
	size_t n = strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

	if (!n || n > ID_MAX || id[n]) {
		answer_bad(c, "400 Bad Request");
		return;
	}
	if (log_len + n + 32 > LOG_MAX) {
		answer_bad(c, "507 Insufficient Storage");
		return;
	}
	log_seq++;
	log_len += sprintf(log_text + log_len, "%" PRIu64 " %s\n", log_seq, id);
	answer_text(c, "200 OK", "seq=%" PRIu64 "\n", log_seq);
}

/* @arg: "IP/PORT". The connection echoes; whether it was accepted its other end knows. */
static void serve_connect(struct conn *c, const char *arg)
{
	struct sockaddr_in6 sa6 = {.sin6_family = AF_INET6};
	struct sockaddr_in sa4 = {.sin_family = AF_INET};
	struct sockaddr *sa = (struct sockaddr *)&sa4;
	socklen_t sa_len = sizeof(sa4);
	char ip[INET6_ADDRSTRLEN];
	uint64_t port;
	size_t n = strcspn(arg, "/");
	int fd;

	if (n >= sizeof(ip) || arg[n] != '/' || !parse_u64(arg + n + 1, 65535, &port))
		goto bad;
	memcpy(ip, arg, n);
	ip[n] = '\0';
	sa4.sin_port = sa6.sin6_port = htons(port);
	if (inet_pton(AF_INET6, ip, &sa6.sin6_addr) == 1) {
		sa = (struct sockaddr *)&sa6;
		sa_len = sizeof(sa6);
	} else if (inet_pton(AF_INET, ip, &sa4.sin_addr) != 1) {
		goto bad;
	}
	fd = socket(sa->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0 || (connect(fd, sa, sa_len) < 0 && errno != EINPROGRESS)) {
		answer_text(c, "502 Bad Gateway", "%s\n", strerror(errno));
		if (fd >= 0)
			close(fd);
		return;
	}
	if (!conn_new(KIND_ECHO, fd, EPOLLIN)) {
		answer_bad(c, "503 Service Unavailable");
		return;
	}
	answer_text(c, "200 OK", "connecting %s %" PRIu64 "\n", ip, port);
	return;
bad:
	answer_bad(c, "400 Bad Request");
}

static void serve_get(struct conn *c, const char *path)
{
	uint64_t n;

	if (!strcmp(path, "/hello"))
		answer_text(c, "200 OK", "hello from the guest\n");
	else if (!strncmp(path, "/bytes/", 7) && parse_u64(path + 7, UINT64_MAX >> 1, &n))
		answer(c, "200 OK", BODY_PATTERN, n, "");
	else if (!strcmp(path, "/time"))
		serve_time(c);
	else if (!strcmp(path, "/random"))
		serve_random(c);
	else if (!strncmp(path, "/pieces/", 8) && parse_u64(path + 8, UINT64_MAX >> 1, &n))
		serve_pieces(c, n);
	else if (!strncmp(path, "/dirty/", 7))
		serve_dirty(c, path + 7);
	else if (!strncmp(path, "/rewrite/", 9))
		serve_rewrite(c, path + 9);
	else if (!strcmp(path, "/log"))
		answer(c, "200 OK", BODY_LOG, log_len, "");
	else if (!strncmp(path, "/log?append=", 12))
		serve_log_append(c, path + 12);
	else if (!strncmp(path, "/connect/", 9))
		serve_connect(c, path + 9);
	else if (!strcmp(path, "/reboot"))
		reboot(RB_AUTOBOOT);
	else
		answer_bad(c, "404 Not Found");
}

/* --- HTTP --------------------------------------------------------------------------------------
 */

/* The value of header @name in the zero-terminated @head, or NULL. */
static const char *header(const char *head, const char *name)
{
	size_t n = strlen(name);
	const char *line = head;

	while ((line = strstr(line, "\r\n"))) {
		line += 2;
		if (!strncasecmp(line, name, n) && line[n] == ':')
			return line + n + 1 + strspn(line + n + 1, " \t");
	}
	return NULL;
}

static void start_upload(struct conn *c, const char *head)
{
	const char *length = header(head, "Content-Length");
	const char *expect = header(head, "Expect");
	static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";

	if (!length || !parse_u64(length, UINT64_MAX >> 1, &c->upload_left)) {
		answer_bad(c, "411 Length Required");
		return;
	}
	c->upload_off = 0;
	c->upload_hash = FNV1A64_START;
	c->upload_bad = UINT64_MAX;
	c->state = HTTP_UPLOAD;
	/* 25 bytes at the start of an idle connection: they fit, or the peer is gone. */
	if (expect && !strncasecmp(expect, "100-continue", 12) &&
	    send(c->fd, go_on, sizeof(go_on) - 1, MSG_NOSIGNAL) != sizeof(go_on) - 1)
		answer_bad(c, "400 Bad Request");
}

/* Takes one request head of @len bytes at the start of c->in, terminated by a zero. */
static void take_request(struct conn *c)
{
	const char *connection = header(c->in, "Connection");
	char *path = strchr(c->in, ' ');
	char *version = path ? strchr(path + 1, ' ') : NULL;
	char *line = strstr(c->in, "\r\n");

	if (!version || (line && version > line)) {
		answer_bad(c, "400 Bad Request");
		return;
	}
	c->close_after = !strncmp(version, " HTTP/1.0", 9) ||
	                 (connection && !strncasecmp(connection, "close", 5));
	if (!strncmp(c->in, "PUT /upload ", 12) || !strncmp(c->in, "POST /upload ", 13)) {
		start_upload(c, c->in);
	} else if (!strncmp(c->in, "GET ", 4)) {
		*version = '\0';
		serve_get(c, path + 1);
	} else {
		answer_bad(c, "405 Method Not Allowed");
	}
}

static void take_upload(struct conn *c, const void *buf, size_t len)
{
	size_t right;

	if (c->upload_bad == UINT64_MAX) {
		right = pattern_check(&pattern, c->upload_off, buf, len);
		if (right < len)
			c->upload_bad = c->upload_off + right;
	}
	c->upload_hash = fnv1a64(c->upload_hash, buf, len);
	c->upload_off += len;
	c->upload_left -= len;
}

static void end_upload(struct conn *c)
{
	if (c->upload_bad == UINT64_MAX)
		answer_text(c, "200 OK", "bytes=%" PRIu64 " fnv1a64=%016" PRIx64 " pattern=ok\n",
		            c->upload_off, c->upload_hash);
	else
		answer_text(c, "200 OK",
		            "bytes=%" PRIu64 " fnv1a64=%016" PRIx64 " pattern=bad@%" PRIu64 "\n",
		            c->upload_off, c->upload_hash, c->upload_bad);
}

static void drop_input(struct conn *c, size_t n)
{
	c->in_len -= n;
	memmove(c->in, c->in + n, c->in_len);
}

/* Uses what has been read, as far as the state allows. */
static void http_input(struct conn *c)
{
	size_t n;
	char *end;

	if (c->state == HTTP_HEAD && c->in_len) {
		c->in[c->in_len] = '\0';
		end = strstr(c->in, "\r\n\r\n");
		if (!end) {
			if (c->in_len >= REQUEST_MAX)
				answer_bad(c, "431 Request Header Fields Too Large");
			return;
		}
		end[2] = '\0';
		take_request(c);
		drop_input(c, end + 4 - c->in);
	}
	if (c->state == HTTP_UPLOAD) {
		n = c->in_len < c->upload_left ? c->in_len : c->upload_left;
		take_upload(c, c->in, n);
		drop_input(c, n);
		if (!c->upload_left)
			end_upload(c);
	}
}

/* Returns 1 when the answer is out, 0 when the socket is full, -1 when it is broken. */
static int http_write(struct conn *c)
{
	struct iovec iov[2];
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
	ssize_t n;
	size_t head, body;

	while (c->out_off < c->out_len || c->body_left) {
		head = c->out_len - c->out_off;
		body = c->body_left < sizeof(scratch) ? c->body_left : sizeof(scratch);
		iov[0] = (struct iovec){c->out + c->out_off, head};
		iov[1] = (struct iovec){scratch, body};
		if (c->body == BODY_LOG)
			iov[1].iov_base = log_text + c->body_off;
		else if (body)
			pattern_fill(&pattern, c->body_off, scratch, body);
		n = sendmsg(c->fd, &msg, MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN ? 0 : -1;
		if ((size_t)n < head) {
			c->out_off += n;
			continue;
		}
		c->out_off = c->out_len;
		c->body_off += n - head;
		c->body_left -= n - head;
		if ((size_t)n < head + body)
			return 0;
	}
	return 1;
}

/* Returns 1 when something was read, 0 when there was nothing, -1 at the end. */
static int http_read(struct conn *c)
{
	size_t want;
	ssize_t n;

	if (c->state == HTTP_UPLOAD || c->state == HTTP_LINGER) {
		want = sizeof(scratch);
		if (c->state == HTTP_UPLOAD && c->upload_left < want)
			want = c->upload_left;
		n = recv(c->fd, scratch, want, 0);
		if (n > 0 && c->state == HTTP_UPLOAD) {
			take_upload(c, scratch, n);
			if (!c->upload_left)
				end_upload(c);
		}
	} else {
		n = recv(c->fd, c->in + c->in_len, REQUEST_MAX - c->in_len, 0);
		if (n > 0)
			c->in_len += n;
	}
	if (n > 0)
		return 1;
	return n < 0 && errno == EAGAIN ? 0 : -1;
}

static void http_event(struct conn *c, uint32_t events)
{
	int rc;

	if ((events & (EPOLLERR | EPOLLHUP)) || (c->state != HTTP_ANSWER && http_read(c) < 0)) {
		conn_close(c);
		return;
	}
	for (;;) {
		if (c->state == HTTP_HEAD || c->state == HTTP_UPLOAD)
			http_input(c);
		if (c->state != HTTP_ANSWER)
			break;
		rc = http_write(c);
		if (rc < 0) {
			conn_close(c);
			return;
		}
		if (!rc)
			break;
		c->state = c->close_after ? HTTP_LINGER : HTTP_HEAD;
		if (c->close_after)
			shutdown(c->fd, SHUT_WR);
	}
	conn_watch(c, c->state == HTTP_ANSWER ? EPOLLOUT : EPOLLIN);
}

/* --- echo --------------------------------------------------------------------------------------
 */

static void echo_event(struct conn *c, uint32_t events)
{
	ssize_t n;

	if (events & EPOLLERR)
		goto gone;
	if (c->in_off == c->in_len && !c->eof && (events & (EPOLLIN | EPOLLHUP))) {
		n = recv(c->fd, c->in, ECHO_MAX, 0);
		if (n < 0 && errno != EAGAIN)
			goto gone;
		c->eof = n == 0;
		c->in_off = 0;
		c->in_len = n > 0 ? n : 0;
	}
	while (c->in_off < c->in_len) {
		n = send(c->fd, c->in + c->in_off, c->in_len - c->in_off, MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN)
			goto gone;
		if (n < 0)
			break;
		c->in_off += n;
	}
	if (c->eof && c->in_off == c->in_len)
		goto gone;
	conn_watch(c, c->in_off < c->in_len ? EPOLLOUT : EPOLLIN);
	return;
gone:
	conn_close(c);
}

/* --- frames past TCP ---------------------------------------------------------------------------
 */

#define FLOOD_PORT  2000 /* the first of its own */
#define FLOOD_PORTS 50000
#define TCP_AT      34 /* behind Ethernet and IPv4 without options */

static bool marked;
static int packet_fd = -1;
static atomic_bool flooding;

struct flood {
	uint32_t count;
	uint16_t every;
	size_t first_len, second_len;
	uint8_t first[2048], second[2048];
};

static void send_frame(const void *data, size_t len)
{
	struct sockaddr_ll to = {.sll_family = AF_PACKET,
	                         .sll_ifindex = (int)if_nametoindex("eth0")};

	if (packet_fd < 0)
		packet_fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	while (sendto(packet_fd, data, len, 0, (struct sockaddr *)&to, sizeof(to)) < 0) {
		if (errno != ENOBUFS) {
			perror("guestd: frame");
			return;
		}
		sched_yield(); /* the card's queue is full */
	}
}

static uint32_t get16(const uint8_t *at)
{
	return at[0] << 8 | at[1];
}

/* Puts a value into a 16-bit field of the TCP header, and corrects the checksum (RFC 1624). */
static void put_tcp16(uint8_t *frame, size_t field, uint32_t value)
{
	uint8_t *at = frame + TCP_AT + field, *sum = frame + TCP_AT + 16;
	uint32_t s = (~get16(sum) & 0xffff) + (~get16(at) & 0xffff) + value;

	s = (s & 0xffff) + (s >> 16);
	s = ~((s & 0xffff) + (s >> 16));
	at[0] = value >> 8;
	at[1] = value;
	sum[0] = s >> 8;
	sum[1] = s;
}

/* `count` connections: for each the first frame, a SYN, with ports of its own: FLOOD_PORT and
 * those that follow, then the same ports to the frame's next destination port. For each `every`-th
 * the second frame, too. */
static void *flood_main(void *arg)
{
	struct flood *f = arg;
	uint32_t to_first = get16(f->first + TCP_AT + 2);

	for (uint32_t i = 0; i < f->count; i++) {
		uint32_t from = FLOOD_PORT + i % FLOOD_PORTS, to = to_first + i / FLOOD_PORTS;

		put_tcp16(f->first, 0, from);
		put_tcp16(f->first, 2, to);
		send_frame(f->first, f->first_len);
		if (i % f->every)
			continue;
		put_tcp16(f->second, 0, from);
		put_tcp16(f->second, 2, to);
		send_frame(f->second, f->second_len);
	}
	free(f);
	atomic_store(&flooding, false);
	return NULL;
}

static bool flood_begin(const uint8_t *data, size_t len)
{
	struct flood *f = calloc(1, sizeof(*f));
	size_t first = len > 8 ? get16(data + 6) : 0;
	pthread_t thread;

	if (!f || first < TCP_AT + 20 || first > sizeof(f->first) ||
	    len < 8 + first + TCP_AT + 20 || len - 8 - first > sizeof(f->second) ||
	    atomic_exchange(&flooding, true)) {
		free(f);
		return false;
	}
	f->count = get16(data) << 16 | get16(data + 2);
	f->every = get16(data + 4) ? get16(data + 4) : 1;
	f->first_len = first;
	f->second_len = len - 8 - first;
	memcpy(f->first, data + 8, first);
	memcpy(f->second, data + 8 + first, f->second_len);
	if (pthread_create(&thread, NULL, flood_main, f)) {
		atomic_store(&flooding, false);
		free(f);
		return false;
	}
	pthread_detach(thread);
	return true;
}

static bool take_record(uint8_t kind, const uint8_t *data, size_t len)
{
	if (kind == 3)
		return flood_begin(data, len);
	if (kind == 0 || kind == (marked ? 2 : 1))
		send_frame(data, len);
	return kind <= 2;
}

static void frames_event(struct conn *c, uint32_t events)
{
	size_t used = 0, len;
	ssize_t n;

	n = recv(c->fd, c->in + c->in_len, ECHO_MAX - c->in_len, 0);
	if ((events & EPOLLERR) || n == 0 || (n < 0 && errno != EAGAIN))
		goto gone;
	c->in_len += n > 0 ? n : 0;
	for (;; used += 3 + len) {
		const uint8_t *at = (const uint8_t *)c->in + used;

		if (c->in_len - used < 3)
			break;
		len = get16(at + 1);
		if (len > ECHO_MAX - 3)
			goto gone;
		if (c->in_len - used < 3 + len)
			break;
		if (!take_record(at[0], at + 3, len) || send(c->fd, ".", 1, MSG_NOSIGNAL) != 1)
			goto gone;
	}
	c->in_len -= used;
	memmove(c->in, c->in + used, c->in_len);
	return;
gone:
	conn_close(c);
}

static void mark_event(struct conn *c)
{
	char text[16];

	while (recv(c->fd, text, sizeof(text), 0) > 0)
		marked = text[0] == 'S';
}

static void udp_event(struct conn *c)
{
	struct sockaddr_in6 from;
	socklen_t from_len;
	ssize_t n;

	for (;;) {
		from_len = sizeof(from);
		n = recvfrom(c->fd, scratch, sizeof(scratch), 0, (struct sockaddr *)&from,
		             &from_len);
		if (n < 0)
			return;
		/* A datagram that does not fit in the send buffer is lost, as datagrams may be. */
		if (sendto(c->fd, scratch, n, 0, (struct sockaddr *)&from, from_len) < 0 &&
		    errno != EAGAIN)
			perror("guestd: udp echo");
	}
}

static void accept_event(struct conn *l)
{
	int fd;

	while ((fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
		conn_new(l->kind == KIND_HTTP_LISTEN   ? KIND_HTTP
		         : l->kind == KIND_ECHO_LISTEN ? KIND_ECHO
		                                       : KIND_FRAMES,
		         fd, EPOLLIN);
}

/* --- start -------------------------------------------------------------------------------------
 */

static void die(const char *what)
{
	fprintf(stderr, "guestd: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void listen_on(enum kind kind, int type, uint16_t port)
{
	struct sockaddr_in6 sa = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	int fd = socket(AF_INET6, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int one = 1, zero = 0;

	if (fd < 0)
		die("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		die("bind");
	if (type == SOCK_STREAM && listen(fd, 4096) < 0)
		die("listen");
	if (!conn_new(kind, fd, EPOLLIN))
		die("epoll_ctl");
}

static void dispatch(const struct epoll_event *ev)
{
	struct conn *c = ev->data.ptr;

	switch (c->kind) {
	case KIND_HTTP_LISTEN:
	case KIND_ECHO_LISTEN:
	case KIND_FRAMES_LISTEN:
		accept_event(c);
		break;
	case KIND_UDP:
		udp_event(c);
		break;
	case KIND_MARK:
		mark_event(c);
		break;
	case KIND_FRAMES:
		frames_event(c, ev->events);
		break;
	case KIND_HTTP:
		http_event(c, ev->events);
		break;
	case KIND_ECHO:
		echo_event(c, ev->events);
		break;
	}
}

static int write_pattern(uint64_t left)
{
	uint64_t offset = 0;
	size_t n;

	for (; left; left -= n, offset += n) {
		n = left < sizeof(scratch) ? left : sizeof(scratch);
		pattern_fill(&pattern, offset, scratch, n);
		if (fwrite(scratch, 1, n, stdout) != n)
			return 1;
	}
	return fflush(stdout) ? 1 : 0;
}

int main(int argc, char **argv)
{
	struct rlimit files = {CONN_MAX + 64, CONN_MAX + 64};
	struct epoll_event events[64];
	int i, n;

	pattern_init(&pattern);
	if (argc == 3 && !strcmp(argv[1], "--pattern"))
		return write_pattern(strtoull(argv[2], NULL, 10));

	/* This is the first process: whatever ends is reaped by being ignored. */
	signal(SIGCHLD, SIG_IGN);
	if (setrlimit(RLIMIT_NOFILE, &files) < 0)
		die("setrlimit");
	log_text = mmap(NULL, LOG_MAX, PROT_READ | PROT_WRITE,
	                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	epfd = epoll_create1(EPOLL_CLOEXEC);
	if (log_text == MAP_FAILED || epfd < 0)
		die("start");
	listen_on(KIND_HTTP_LISTEN, SOCK_STREAM, 80);
	listen_on(KIND_ECHO_LISTEN, SOCK_STREAM, 7);
	listen_on(KIND_UDP, SOCK_DGRAM, 7);
	listen_on(KIND_FRAMES_LISTEN, SOCK_STREAM, 9);
	listen_on(KIND_MARK, SOCK_DGRAM, 9);
	puts("GUEST READY");
	fflush(stdout);

	for (;;) {
		n = epoll_wait(epfd, events, 64, -1);
		if (n < 0 && errno != EINTR)
			die("epoll_wait");
		for (i = 0; i < n; i++)
			dispatch(&events[i]);
	}
}
