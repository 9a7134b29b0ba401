/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CONTROL_LOG_H
#define COLO_CONTROL_LOG_H

#include <stdatomic.h>
#include <stdint.h>

/*
 * The daemon's log: one line a message on standard error, written with one write(), from any
 * thread. `2026-01-31T12:00:00.123Z NAME level: text`; when standard error is the journal
 * (JOURNAL_STREAM names its device and inode), `<priority>NAME: text` instead. Control characters
 * are escaped. Never payload: addresses, ports, lengths, numbers and names only.
 *
 * Each call site may write LOG_BURST messages in LOG_WINDOW_NS; what is beyond that is counted and
 * said with the site's next message. Only the edge of the program logs; libraries return errors.
 */

#define LOG_BURST     10u
#define LOG_WINDOW_NS 5000000000ull

enum log_level {
	LOG_LEVEL_ERROR,
	LOG_LEVEL_WARN,
	LOG_LEVEL_INFO,
	LOG_LEVEL_DEBUG,
};

/* A call site's budget. Zero is a fresh one. */
struct log_site {
	_Atomic uint64_t window; /* when it began, ns */
	_Atomic uint32_t written;
	_Atomic uint32_t suppressed;
};

/* Level and VM name (copied, cut at 63 bytes) for all lines that follow. Call before threads. */
void log_init(enum log_level level, const char *name);

/* Changes the level; any thread, any time. */
void log_set_level(enum log_level level);

/* Writes to another descriptor than 2 (tests). */
void log_set_fd(int fd);

/* One line. Any thread. It does not wait for a reader of the log that stands still: such lines are
 * counted, and the next one that there is room for says how many are lost. */
void log_write(struct log_site *site, enum log_level level, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

#define LOG_AT(level, ...)                                                                         \
	do {                                                                                       \
		static struct log_site log_site_;                                                  \
		log_write(&log_site_, level, __VA_ARGS__);                                         \
	} while (0)

#define log_error(...) LOG_AT(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  LOG_AT(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  LOG_AT(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) LOG_AT(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
