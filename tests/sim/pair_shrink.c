/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A schedule that fails is made smaller: fewer faults, fewer clients, plain settings, an earlier
 * end of the faults. Each attempt is a run of its own, with the same check to fail. What is left
 * out changes the course of all that follows, so an attempt that does not fail is tried with other
 * courses (salts) of the same faults and settings. At the end the course with the fewest events up
 * to the failure is looked for, and shown in words.
 */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/sim/pair.h"

#define SALTS       40u
#define LAST_SALTS  300u
#define ATTEMPTS    6000u
#define SECONDS     90
#define TRACE_LINES 70u
#define MINUTE      (60 * SEC) /* longer is after the faults anyway */

struct shrinking {
	struct schedule best;
	struct ending ending;
	uint32_t attempts;
	gint64 began;
};

static bool may_go_on(const struct shrinking *s)
{
	return s->attempts < ATTEMPTS &&
	       g_get_monotonic_time() - s->began < (gint64)SECONDS * G_USEC_PER_SEC;
}

static bool fails_so(struct shrinking *s, const struct schedule *schedule, struct ending *ret)
{
	s->attempts++;
	return schedule_fails(schedule, ret) && strcmp(ret->what, s->ending.what) == 0;
}

/* True: the candidate fails, in one course or another, and is the best now. */
static bool try(struct shrinking *s, struct schedule candidate)
{
	struct ending ending;

	for (uint32_t i = 0; i < SALTS && may_go_on(s); i++) {
		if (i)
			candidate.salt = i;
		if (!fails_so(s, &candidate, &ending))
			continue;
		s->best = candidate;
		s->ending = ending;
		return true;
	}
	return false;
}

static uint32_t faults_of(const struct shrinking *s)
{
	return s->ending.faults;
}

/* `n` faults from the i-th on are left out, of those that are there. */
static bool without(struct shrinking *s, uint32_t from, uint32_t n)
{
	struct schedule candidate = s->best;
	uint32_t seen = 0;

	candidate.faults = faults_of(s);
	for (uint32_t i = 0; i < FAULTS_MAX; i++) {
		if (!(faults_of(s) >> i & 1))
			continue;
		if (seen >= from && seen < from + n)
			candidate.faults &= ~(1u << i);
		seen++;
	}
	return candidate.faults != faults_of(s) && try(s, candidate);
}

static uint32_t bits(uint32_t mask)
{
	return (uint32_t)__builtin_popcount(mask);
}

static bool fewer_faults(struct shrinking *s)
{
	bool better = false;

	for (uint32_t n = bits(faults_of(s)); n; n /= 2) {
		for (uint32_t from = 0; from < bits(faults_of(s));) {
			if (without(s, from, n))
				better = true;
			else
				from += n;
		}
	}
	return better;
}

static bool fewer_clients(struct shrinking *s)
{
	struct schedule candidate = s->best;
	bool better = false;

	candidate.clients = 1;
	if (s->best.clients != 1 && try(s, candidate))
		better = true;
	candidate = s->best;
	candidate.clients = 2;
	if (!s->best.clients && try(s, candidate))
		better = true;
	candidate = s->best;
	candidate.no_datagrams = true;
	if (!s->best.no_datagrams && try(s, candidate))
		better = true;
	return better;
}

static bool plainer(struct shrinking *s)
{
	struct schedule candidate = s->best;
	bool better = false;

	candidate.plain = (1u << PLAINS) - 1;
	if (candidate.plain != s->best.plain && try(s, candidate))
		return true;
	for (uint32_t i = 0; i < PLAINS; i++) {
		candidate = s->best;
		candidate.plain |= 1u << i;
		if (candidate.plain != s->best.plain && try(s, candidate))
			better = true;
	}
	return better;
}

/* The fewest events up to the failure. */
static void shortest(struct shrinking *s)
{
	struct schedule candidate = s->best;
	struct ending ending;

	for (uint32_t i = 0; i < LAST_SALTS && may_go_on(s); i++) {
		candidate.salt = i;
		if (!fails_so(s, &candidate, &ending) || ending.turns >= s->ending.turns)
			continue;
		s->best = candidate;
		s->ending = ending;
	}
}

/* The faults end where it has failed, if it then still fails. */
static void earlier_end(struct shrinking *s)
{
	struct schedule candidate = s->best;
	struct ending ending;

	candidate.calm_ms = (s->ending.now - SEC) / MS + 1;
	if (s->ending.now < SEC || s->ending.now > MINUTE || !fails_so(s, &candidate, &ending))
		return;
	s->best = candidate;
	s->ending = ending;
}

/* ---- in words ---- */

static char *traced(const struct schedule *schedule)
{
	FILE *file = tmpfile();
	struct ending ending = {0};
	char *text;
	long len;
	pid_t pid;

	if (!file)
		g_error("no temporary file");
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		dup2(fileno(file), STDERR_FILENO);
		run_schedule(schedule, &ending, true);
		_exit(0);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
	fseek(file, 0, SEEK_END);
	len = ftell(file);
	rewind(file);
	text = g_malloc0((gsize)len + 1);
	if (fread(text, 1, (size_t)len, file) != (size_t)len)
		text[0] = '\0';
	fclose(file);
	return text;
}

static void show_trace(const struct schedule *schedule)
{
	char *text = traced(schedule), **lines = g_strsplit(text, "\n", -1);
	guint n = g_strv_length(lines), from = n > TRACE_LINES ? n - TRACE_LINES : 0;

	if (from)
		printf("#   ... %u lines, then:\n", from);
	for (guint i = from; i < n; i++) {
		if (lines[i][0])
			printf("#   %s\n", lines[i]);
	}
	g_strfreev(lines);
	g_free(text);
}

void shrink(const struct schedule *schedule, const struct ending *ending)
{
	struct shrinking s = {.best = *schedule, .began = g_get_monotonic_time()};
	bool better = true;
	char *text;

	/* It has to fail by itself, and not because of what ran before it in its process. */
	if (!schedule_fails(schedule, &s.ending)) {
		printf("# seed %lu does not fail alone; it said: %s\n",
		       (unsigned long)schedule->seed, ending->why);
		return;
	}
	text = schedule_text(schedule);
	printf("# %s fails, %u faults, %lu turns: %s\n", text, bits(s.ending.faults),
	       (unsigned long)s.ending.turns, s.ending.why);
	fflush(stdout);
	g_free(text);
	while (better && may_go_on(&s)) {
		better = fewer_faults(&s);
		better = fewer_clients(&s) || better;
		better = plainer(&s) || better;
	}
	shortest(&s);
	earlier_end(&s);
	text = schedule_text(&s.best);
	printf("# the smallest of %u attempts, %u faults, %lu turns:\n", s.attempts,
	       bits(s.ending.faults), (unsigned long)s.ending.turns);
	show_trace(&s.best);
	printf("# replay: sim_pair %s --trace\n", text);
	fflush(stdout);
	g_free(text);
}
