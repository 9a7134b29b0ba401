/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/control/log.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1024u /* below PIPE_BUF: lines of several threads do not mix in a pipe */

static char log_name[64];
static _Atomic int log_threshold = LOG_LEVEL_INFO;
static _Atomic int log_fd = 2;
static _Atomic uint32_t log_lost; /* lines that there was no room for */
static bool log_to_journal;

static const char *const level_words[] = {"error", "warn", "info", "debug"};
/* sd-daemon(3): the priorities of syslog(3). */
static const int level_priorities[] = {3, 4, 6, 7};

/* True when fd is the stream that systemd made for the journal (systemd.exec(5)). */
static bool is_journal(int fd)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long dev;
	unsigned long long ino;
	struct stat st;
	char *end;

	if (!stream || fstat(fd, &st) < 0)
		return false;
	errno = 0;
	dev = strtoull(stream, &end, 10);
	if (errno || *end != ':')
		return false;
	ino = strtoull(end + 1, &end, 10);
	return !errno && !*end && st.st_dev == dev && st.st_ino == ino;
}

void log_init(enum log_level level, const char *name)
{
	log_set_level(level);
	snprintf(log_name, sizeof(log_name), "%s", name ? name : "");
	log_to_journal = is_journal(log_fd);
}

void log_set_level(enum log_level level)
{
	atomic_store(&log_threshold, (int)level);
}

void log_set_fd(int fd)
{
	atomic_store(&log_fd, fd);
	log_to_journal = is_journal(fd);
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/*
 * Takes one message from the site's budget. Two threads that open a new window at once may let a
 * message more through; none is lost uncounted.
 */
static bool site_may_write(struct log_site *site, uint32_t *ret_suppressed)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC);
	uint64_t window = atomic_load(&site->window);

	if (!window || now - window >= LOG_WINDOW_NS) {
		if (atomic_compare_exchange_strong(&site->window, &window, now))
			atomic_store(&site->written, 0);
	}
	if (atomic_fetch_add(&site->written, 1) >= LOG_BURST) {
		atomic_fetch_add(&site->suppressed, 1);
		return false;
	}
	*ret_suppressed = atomic_exchange(&site->suppressed, 0);
	return true;
}

/* The line's head; its length. */
static size_t put_head(char *line, size_t size, enum log_level level)
{
	uint64_t now = clock_ns(CLOCK_REALTIME);
	time_t seconds = (time_t)(now / 1000000000ull);
	const char *name = log_name[0] ? log_name : "colo-proxy";
	struct tm tm;
	size_t len;

	if (log_to_journal)
		return (size_t)snprintf(line, size, "<%d>%s: ", level_priorities[level], name);
	gmtime_r(&seconds, &tm);
	len = strftime(line, size, "%Y-%m-%dT%H:%M:%S", &tm);
	return len + (size_t)snprintf(line + len, size - len,
	                              ".%03uZ %s %s: ", (unsigned)(now / 1000000 % 1000), name,
	                              level_words[level]);
}

/* Control characters would let a message forge lines or drive a terminal. */
static void escape(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			*text = '?';
}

/* Whoever reads the log may stand still, and heartbeats must not. */
static bool takes_line(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};

	return poll(&poll_fd, 1, 0) != 0;
}

/* One write for all of it: there is room for PIPE_BUF bytes, and perhaps not for more. */
static void put_line(char *line, size_t len)
{
	char note[160];
	struct iovec iov[2] = {{.iov_base = note}, {.iov_base = line, .iov_len = len}};
	int fd = atomic_load(&log_fd);
	uint32_t lost;
	ssize_t n;

	if (!takes_line(fd)) {
		atomic_fetch_add(&log_lost, 1);
		return;
	}
	lost = atomic_exchange(&log_lost, 0);
	if (lost) {
		len = put_head(note, sizeof(note), LOG_LEVEL_WARN);
		len += (size_t)snprintf(note + len, sizeof(note) - len,
		                        "nobody read the log: %u lines are lost\n", lost);
		iov[0].iov_len = len;
	}
	/* Nobody is left to be told when standard error is gone. */
	do
		n = writev(fd, iov, 2);
	while (n < 0 && errno == EINTR);
}

void log_write(struct log_site *site, enum log_level level, const char *format, ...)
{
	char line[LINE_MAX_BYTES];
	uint32_t suppressed = 0;
	int saved = errno;
	size_t len;
	va_list args;
	int n;

	if ((int)level > atomic_load(&log_threshold) || !site_may_write(site, &suppressed))
		return;
	len = put_head(line, sizeof(line), level);
	errno = saved; /* for %m */
	va_start(args, format);
	n = vsnprintf(line + len, sizeof(line) - len - 1, format, args);
	va_end(args);
	if (n > 0)
		len += (size_t)n < sizeof(line) - len - 1 ? (size_t)n : sizeof(line) - len - 2;
	if (suppressed && len + 48 < sizeof(line))
		len += (size_t)snprintf(line + len, 48, " (%u more like this not shown)",
		                        suppressed);
	line[len] = '\0';
	escape(line);
	line[len++] = '\n';
	put_line(line, len);
	errno = saved;
}
