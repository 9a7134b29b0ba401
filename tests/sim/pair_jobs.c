/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Many schedules: workers, which are processes, take seed after seed; job j of n takes every n-th.
 * A check that does not hold ends its worker (an assertion in the daemon's code would, too); the
 * parent notes the seed and starts another worker behind it. What was counted is in memory that
 * they share.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/sim/pair.h"

#define JOBS_MAX     64u
#define SEED_SECONDS 60 /* of a processor; then it hangs */
#define PROGRESS_US  (15 * G_USEC_PER_SEC)
#define SHOWN        5u

const char *const count_names[COUNTS] = {
        [COUNT_FRAMES_LOST] = "frames lost on their way",
        [COUNT_FRAMES_TWICE] = "frames doubled",
        [COUNT_FRAMES_LATE] = "frames late",
        [COUNT_FRAMES_DAMAGED] = "frames damaged",
        [COUNT_LINK_DAMAGED] = "sessions ended by a damaged byte",
        [COUNT_LINK_DEAF] = "lengths damaged",
        [COUNT_LINK_FULL] = "link full: input waits",
        [COUNT_RING_FULL] = "VM's ring full: frames dropped",
        [COUNT_GATE_FULL] = "gate full",
        [COUNT_HOLD_REFUSED] = "releases refused by the kernel",
        [COUNT_PROTECTED] = "protected for the first time",
        [COUNT_PROTECTED_AGAIN] = "protected again",
        [COUNT_LOST_PEER] = "peer lost",
        [COUNT_STUCK] = "stuck",
        [COUNT_TAKING_OVER] = "takeovers",
        [COUNT_HALF_CHECKPOINT] = "  with half a checkpoint there",
        [COUNT_COMMITTED_LOADED] = "  with a committed one to load",
        [COUNT_SPEAKERS] = "changes of speaker",
        [COUNT_RETIRED] = "retired",
        [COUNT_SWITCH_IN_PAUSE] = "switch-overs asked for between a cut and its capture",
        [COUNT_SWITCH_IN_FLIGHT] = "switch-overs asked for with a checkpoint on its way",
        [COUNT_HANDED] = "switch-overs that handed over",
        [COUNT_RECEIVER_STOPPED] = "  and whose receiver was stopped",
        [COUNT_LEFT_LATE] = "takeovers for which QEMU answered too late",
        [COUNT_NOT_LIVE] = "  and whose end the kernel refused",
        [COUNT_FENCED] = "fenced",
        [COUNT_FENCE_FAILED] = "fence failed",
        [COUNT_FORCED] = "forced by the operator",
        [COUNT_BOOTS] = "boots of the VM",
        [COUNT_CHECKPOINTS] = "checkpoints",
        [COUNT_LOADS] = "loads",
        [COUNT_SAMPLED] = "samples of what the machine writes to",
        [COUNT_FOR_DIRTY] = "  and checkpoints asked for because of them",
        [COUNT_PAGES_READ] = "pages of the secondary's machine read",
        [COUNT_AGREED] = "pages told by their hashes that it has",
        [COUNT_HOLES] = "  and that it has not",
        [COUNT_MATCHED] = "released by match",
        [COUNT_REPLAYED] = "said again at a takeover",
        [COUNT_REPLAYED_TWICE] = "  that had left",
        [COUNT_ANSWERS] = "answers",
        [COUNT_DATAGRAMS] = "datagrams sent",
        [COUNT_POLICY + PACER_COMPARE] = "policy compare",
        [COUNT_POLICY + PACER_EPOCH] = "policy epoch",
        [COUNT_POLICY + PACER_ON_OUTPUT] = "policy on-output",
        [COUNT_POLICY + PACER_CONTINUOUS] = "policy continuous",
        [COUNT_POLICY + PACER_AUTO] = "policy auto",
        [COUNT_R1_TCP] = "R1 TCP segments",
        [COUNT_R1_DATAGRAM] = "R1 datagrams",
        [COUNT_R2_ACK] = "R2 acknowledgements",
        [COUNT_R3] = "R3 loaded memories",
        [COUNT_R4] = "R4 speakers' memories",
        [COUNT_R5_REQUEST] = "R5 answers",
        [COUNT_R5_ORDER] = "R5 datagrams at both",
        [COUNT_R5_SESSION] = "R5 turns in another session",
        [COUNT_R6] = "R6 frames",
        [COUNT_R7] = "R7 segments",
        [COUNT_REPLAY_OWED] = "replay: answers owed",
        [COUNT_REPLAY_HEARD] = "replay: answers told to have left",
        [COUNT_R8_KEPT] = "R8 datagrams in order",
        [COUNT_R8] = "R8 queues",
        [COUNT_TURNS] = "turns of the daemons",
};

struct worker {
	pid_t pid;
	uint64_t next; /* seed */
	/* Written by the child. */
	uint64_t done;
	uint64_t count[COUNTS];
	struct ending now;
};

struct failure {
	uint64_t seed;
	struct ending ending;
};

struct run {
	const struct jobs_options *options;
	struct worker *worker; /* shared */
	GArray *failures;
	gint64 began, said;
};

static void *shared(size_t len)
{
	void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		g_error("no memory");
	return at;
}

/* A child that ends with its parent, leaves no core, and does not run for ever. */
static pid_t child(void)
{
	struct rlimit none = {0};
	pid_t parent = getpid(), pid;

	fflush(NULL);
	pid = fork();
	if (pid < 0)
		g_error("fork: %s", g_strerror(errno));
	if (pid > 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	setrlimit(RLIMIT_CORE, &none);
	return 0;
}

static void allow_seconds(void)
{
	struct itimerval limit = {.it_value.tv_sec = SEED_SECONDS};

	setitimer(ITIMER_VIRTUAL, &limit, NULL); /* SIGVTALRM ends it */
}

static void work(struct run *run, struct worker *worker)
{
	uint64_t end = run->options->first + run->options->seeds;

	/* What a worker says of its end is said again when the schedule is made smaller. */
	if (run->options->failures > 1 && !freopen("/dev/null", "w", stderr))
		_exit(1);
	for (; worker->next < end; worker->next += run->options->jobs) {
		struct schedule schedule = SCHEDULE_OF(worker->next);

		memset(&worker->now, 0, sizeof(worker->now));
		if (worker->done % 64 == 0)
			allow_seconds();
		run_schedule(&schedule, &worker->now, false);
		for (uint32_t i = 0; i < COUNTS; i++)
			worker->count[i] += worker->now.count[i];
		worker->done++;
	}
	exit(0); /* what leaks is said now */
}

static void start(struct run *run, struct worker *worker)
{
	pid_t pid = child();

	if (pid == 0)
		work(run, worker);
	worker->pid = pid;
}

static void describe_end(struct ending *ending, int status)
{
	if (ending->what[0])
		return;
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGVTALRM)
		g_strlcpy(ending->what, "it hangs", sizeof(ending->what));
	else
		g_snprintf(ending->what, sizeof(ending->what), "the process ends by %s %d",
		           WIFSIGNALED(status) ? "signal" : "exit status",
		           WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	g_strlcpy(ending->why, ending->what, sizeof(ending->why));
}

bool schedule_fails(const struct schedule *schedule, struct ending *ret)
{
	static struct ending *ending;
	int status;
	pid_t pid;

	if (!ending)
		ending = shared(sizeof(*ending));
	memset(ending, 0, sizeof(*ending));
	pid = child();
	if (pid == 0) {
		/* Only the last one, with its trace, is to be read. */
		if (!freopen("/dev/null", "w", stderr))
			_exit(1);
		allow_seconds();
		run_schedule(schedule, ending, false);
		_exit(0);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return false;
	describe_end(ending, status);
	*ret = *ending;
	return true;
}

/* ---- what is said ---- */

static uint64_t total(const struct run *run, uint32_t what)
{
	uint64_t n = 0;

	for (uint32_t j = 0; j < run->options->jobs; j++)
		n += run->worker[j].count[what];
	return n;
}

static uint64_t done(const struct run *run)
{
	uint64_t n = 0;

	for (uint32_t j = 0; j < run->options->jobs; j++)
		n += run->worker[j].done;
	return n;
}

static double seconds(const struct run *run)
{
	return (double)(g_get_monotonic_time() - run->began) / 1e6;
}

static void say_progress(struct run *run)
{
	gint64 now = g_get_monotonic_time();

	if (!run->options->progress || now - run->said < PROGRESS_US)
		return;
	run->said = now;
	g_printerr("%lu of %lu seeds, %.0f a second, %u failed\n", (unsigned long)done(run),
	           (unsigned long)run->options->seeds, (double)done(run) / seconds(run),
	           run->failures->len);
}

static double processor_seconds(void)
{
	struct rusage used;

	getrusage(RUSAGE_CHILDREN, &used);
	return (double)used.ru_utime.tv_sec + (double)used.ru_stime.tv_sec +
	       (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void say_counts(const struct run *run, const char *title, uint32_t first, uint32_t end)
{
	printf("# %s\n", title);
	for (uint32_t i = first; i < end; i++)
		printf("# %14lu  %s\n", (unsigned long)total(run, i),
		       i < FAULTS ? fault_names[i] : count_names[i]);
}

/* True: everything that is counted has happened. */
static bool all_seen(const struct run *run)
{
	bool seen = true;

	for (uint32_t i = 0; i < COUNTS; i++) {
		if (total(run, i))
			continue;
		printf("# never seen: %s\n", i < FAULTS ? fault_names[i] : count_names[i]);
		seen = false;
	}
	return seen;
}

static void say_summary(const struct run *run)
{
	double took = seconds(run), used = processor_seconds();

	say_counts(run, "faults", 0, FAULTS);
	say_counts(run, "what came of them", FAULTS, COUNT_R1_TCP);
	say_counts(run, "how often each rule was asserted", COUNT_R1_TCP, COUNT_TURNS);
	printf("# %lu schedules in %.1f s, %.0f a second; %.0f a second on a core; %lu turns\n",
	       (unsigned long)done(run), took, (double)done(run) / took, (double)done(run) / used,
	       (unsigned long)total(run, COUNT_TURNS));
	fflush(stdout);
}

/* ---- failures ---- */

static void note_failure(struct run *run, struct worker *worker, int status)
{
	struct failure failure = {.seed = worker->next, .ending = worker->now};

	if (worker->next >= run->options->first + run->options->seeds)
		g_strlcpy(failure.ending.what, "at the end: a leak?", sizeof(failure.ending.what));
	describe_end(&failure.ending, status);
	g_array_append_val(run->failures, failure);
	printf("# FAILED SIM_SEED=%lu %s [%s]\n", (unsigned long)failure.seed, failure.ending.why,
	       failure.ending.what);
	fflush(stdout);
	worker->done++;
	worker->next += run->options->jobs;
}

/* The first seed of each kind of failure, made smaller. */
static void shrink_failures(const struct run *run)
{
	for (guint i = 0, shown = 0; i < run->failures->len && shown < SHOWN; i++) {
		struct failure *failure = &g_array_index(run->failures, struct failure, i);
		struct schedule schedule = SCHEDULE_OF(failure->seed);
		bool seen = false;

		for (guint j = 0; j < i && !seen; j++)
			seen = strcmp(g_array_index(run->failures, struct failure, j).ending.what,
			              failure->ending.what) == 0;
		if (seen)
			continue;
		shown++;
		shrink(&schedule, &failure->ending);
	}
}

/* ---- */

static struct worker *worker_of(struct run *run, pid_t pid)
{
	for (uint32_t j = 0; j < run->options->jobs; j++) {
		if (run->worker[j].pid == pid)
			return &run->worker[j];
	}
	return NULL;
}

static void wait_for_children(const sigset_t *child_signal)
{
	struct timespec second = {.tv_sec = 1};

	if (sigtimedwait(child_signal, NULL, &second) < 0 && errno != EAGAIN && errno != EINTR)
		g_error("sigtimedwait: %s", g_strerror(errno));
}

static void reap(struct run *run, uint32_t *running)
{
	struct worker *worker;
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		worker = worker_of(run, pid);
		if (!worker)
			continue;
		worker->pid = 0;
		--*running;
		if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
			continue;
		note_failure(run, worker, status);
		if (run->failures->len < run->options->failures &&
		    worker->next < run->options->first + run->options->seeds) {
			start(run, worker);
			++*running;
		}
	}
}

static void end_workers(struct run *run)
{
	for (uint32_t j = 0; j < run->options->jobs; j++) {
		if (run->worker[j].pid > 0 && kill(run->worker[j].pid, SIGKILL) == 0)
			waitpid(run->worker[j].pid, NULL, 0);
	}
}

bool jobs_run(const struct jobs_options *given)
{
	struct jobs_options options = *given;
	struct run run = {.options = &options, .began = g_get_monotonic_time()};
	sigset_t child_signal, before;
	uint32_t running = 0;
	bool ok;

	options.jobs = CLAMP(options.jobs, 1, JOBS_MAX);
	options.failures = MAX(options.failures, 1);
	run.said = run.began;
	run.worker = shared(options.jobs * sizeof(*run.worker));
	run.failures = g_array_new(FALSE, FALSE, sizeof(struct failure));
	sigemptyset(&child_signal);
	sigaddset(&child_signal, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child_signal, &before);
	for (; running < options.jobs; running++) {
		run.worker[running].next = options.first + running;
		start(&run, &run.worker[running]);
	}
	while (running && run.failures->len < options.failures) {
		wait_for_children(&child_signal);
		reap(&run, &running);
		say_progress(&run);
	}
	end_workers(&run);
	sigprocmask(SIG_SETMASK, &before, NULL);
	say_summary(&run);
	ok = run.failures->len == 0;
	if (ok && options.all_seen)
		ok = all_seen(&run);
	if (options.shrink)
		shrink_failures(&run);
	g_array_unref(run.failures);
	munmap(run.worker, options.jobs * sizeof(*run.worker));
	return ok;
}
