/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The comparison engine between three real TCP stacks: theory of operation
 *
 * Goal: no byte early, none lost, no false divergence, none missed (rules R1, R2, R5, R7), with
 * what Linux's TCP makes of a bad network, and not what a model of it would.
 *
 * This process makes three network namespaces, the client's, the primary VM's and the secondary
 * VM's, each with a tap (virtio-net headers, superframes, checksums left to offload) that it reads
 * and writes itself. The same frames of the client go to both VMs, through the mirror's and the
 * shadow's mapping as in the daemons; what the VMs say goes through the gate and the shadow, and
 * their records cross a link of random delay in the daemons' own encoding. At each of six hops a
 * shim cuts, joins, reorders, drops, delays and doubles frames. One seed is one connection, with a
 * gate and a shadow of its own; hundreds run at once. Both VMs run the same application on real
 * sockets, and a part of the seeds makes one of them lie, or lets the primary die.
 *
 * A seed decides the conversation, the sockets' options and what the shim does with the n-th frame
 * at a hop. When a frame comes is the kernel's own business: a seed that failed is likely to fail
 * again, and --repeat tries it until it does.
 *
 * Limits: One connection for each seed.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/stacks/stacks.h"

#define STALLED_NS   (30000 * MS)
#define LOOK_NS      (20 * MS)
#define LOOK_COUNTS  (5 * LOOK_NS)
#define MAX_FAILURES 5u
#define INDEXES      65536u
#define BATCH        64

struct totals {
	uint64_t seeds, failed, by_match, by_commit, crashes, lies, differed, found, late;
	uint64_t honest, honest_late, checkpoints, cut_short, six, ranges_cut;
};

static struct options {
	uint64_t first, count;
	uint32_t at_once, repeat;
	bool verbose;
} options = {.first = 1, .count = 10000, .at_once = 300, .repeat = 1};

static struct stack stacks[PLACES];
static struct run *active, *by_index[INDEXES];
static uint32_t running, started;
static struct totals totals;
static int epoll = -1;

void watch(int fd, void *what)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
	                            .data.ptr = what};

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
		perror("epoll_ctl");
		exit(2);
	}
}

static void watch_level(int fd, void *what)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = what};

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
		perror("epoll_ctl");
		exit(2);
	}
}

/* ---- whose it is ---- */

static struct run *run_of(uint32_t client_ip, uint16_t port)
{
	uint32_t index = (client_ip - CLIENT_NET - 256) * 50000 + (port - 10000u);
	struct run *run = by_index[index % INDEXES];

	return run && run->index == index && !run->ended ? run : NULL;
}

static struct run *run_of_frame(enum place place, struct frame *frame)
{
	struct segment s;
	uint16_t client_port, vm_port;
	uint32_t client_ip;

	if (!segment_parse(&s, frame))
		return NULL;
	client_ip = place == CLIENT ? s.src : s.dst;
	client_port = place == CLIENT ? s.sport : s.dport;
	vm_port = place == CLIENT ? s.dport : s.sport;
	return run_of(client_ip, client_port == CLIENT_PORT ? vm_port : client_port);
}

void net_drain(enum place place)
{
	struct frame *frame;

	while (tapdev_read(&stacks[place].reader, stacks[place].tap, &frame) == 0) {
		struct run *run = run_of_frame(place, frame);

		if (run)
			run_heard(run, place, frame);
		else
			frame_free(frame);
	}
}

static void accept_one(enum place place, int fd)
{
	struct sockaddr_in6 peer = {0}, self = {0};
	socklen_t len = sizeof(peer);
	struct run *run = NULL;

	if (getpeername(fd, (struct sockaddr *)&peer, &len) == 0 &&
	    getsockname(fd, (struct sockaddr *)&self, &len) == 0)
		run = run_of(ntohl((place == CLIENT ? &self : &peer)->sin6_addr.s6_addr32[3]),
		             ntohs(peer.sin6_port));
	if (!run) {
		close(fd);
		return;
	}
	end_accepted(&run->end[place], fd);
	run_check(run);
}

void net_accept(enum place place)
{
	int fd;

	while ((fd = accept4(stacks[place].listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >=
	       0)
		accept_one(place, fd);
}

/* ---- runs ---- */

static void start_run(uint64_t seed)
{
	struct run *run = run_new(stacks, seed, started++, options.verbose);

	if (options.verbose) {
		char text[1000];

		plan_describe(&run->plan, text, sizeof(text));
		printf("seed %lu: %s\n", (unsigned long)seed, text);
	}
	by_index[run->index % INDEXES] = run;
	run->next = active;
	active = run;
	running++;
	run_check(run);
}

static void count_run(const struct run *run)
{
	const uint32_t *requested = run->requested;

	totals.seeds++;
	totals.six += run->plan.six;
	totals.by_match += run->truth.by_match;
	totals.by_commit += run->truth.by_commit;
	totals.crashes += run->crashed;
	totals.checkpoints += run->checkpoints;
	totals.cut_short += run->cut_short;
	totals.ranges_cut += run->ranges_cut;
	if (run->plan.kind == KIND_LIE) {
		totals.lies++;
		totals.differed += run->differed;
		totals.found += requested[CKPT_MISMATCH] != 0;
		totals.late += !requested[CKPT_MISMATCH] && requested[CKPT_LATE];
	} else {
		totals.honest++;
		totals.honest_late += requested[CKPT_LATE] != 0;
	}
}

static void report(struct run *run)
{
	char text[1000];

	totals.failed++;
	plan_describe(&run->plan, text, sizeof(text));
	printf("seed %lu: %s\n  %s\n  again: --seed %lu --repeat 100\n", (unsigned long)run->seed,
	       run->why, text, (unsigned long)run->seed);
	for (int i = 0; i < PLACES; i++)
		printf("  the %s has said %u of %u, heard %u%s%s%s\n", place_names[i],
		       run->end[i].said, plan_total(&run->plan, (enum place)i), run->end[i].heard,
		       run->end[i].shut ? ", closed" : "", run->end[i].eof ? ", end heard" : "",
		       run->end[i].reset ? ", reset" : "");
	fflush(stdout);
}

static uint32_t progress(const struct run *run)
{
	uint32_t sum = 0;

	for (int i = 0; i < PLACES; i++)
		sum += run->end[i].said + run->end[i].heard + run->end[i].connected +
		       run->end[i].shut + run->end[i].eof + run->end[i].reset + run->end[i].refused;
	return sum;
}

/*
 * A seed has failed when none of its ends has come further for STALLED_NS of looking. The time
 * between two looks counts as LOOK_COUNTS at most: on a busy machine this process, and the kernel's
 * timers with it, stand still for longer than anything here takes, and that says nothing.
 */
static bool stalled(struct run *run, uint64_t since_look)
{
	uint32_t here = progress(run);

	if (here > run->best) {
		run->best = here;
		run->stalled_ns = 0;
	} else {
		run->stalled_ns += since_look < LOOK_COUNTS ? since_look : LOOK_COUNTS;
	}
	return run->stalled_ns > STALLED_NS;
}

static void reap(uint64_t since_look)
{
	struct run **at = &active;

	while (*at) {
		struct run *run = *at;

		run_check(run); /* some wait for a state that does not come */
		if (!run->ended && stalled(run, since_look)) {
			run_fail(run, "does not go on%s%s%s", run->crashed ? ", crashed" : "",
			         run->requested[CKPT_LATE] ? ", late" : "",
			         truth_differed(run) ? ", a divergence was missed" : "");
			run_end(run);
		}
		if (!run->ended || run->events) {
			at = &run->next;
			continue;
		}
		*at = run->next;
		count_run(run);
		if (run->failed)
			report(run);
		if (by_index[run->index % INDEXES] == run)
			by_index[run->index % INDEXES] = NULL;
		run_free(run);
	}
}

static void free_all(void)
{
	event_clear();
	while (active) {
		struct run *next = active->next;

		if (!active->ended)
			run_end(active);
		run_free(active);
		active = next;
	}
}

/* ---- the loop ---- */

static void handle(void *what)
{
	for (int i = 0; i < PLACES; i++) {
		if (what == &stacks[i].tap) {
			net_drain((enum place)i);
			return;
		}
		if (what == &stacks[i].listener) {
			net_accept((enum place)i);
			return;
		}
	}
	end_pump(what);
	run_check(((struct end *)what)->run);
}

static void wait_for_something(uint64_t until)
{
	struct epoll_event events[BATCH];
	uint64_t now = now_ns(), pause = until > now ? until - now : 0;
	struct timespec time = {.tv_sec = 0, .tv_nsec = (long)pause};
	int n = epoll_pwait2(epoll, events, BATCH, &time, NULL);

	if (n < 0 && errno != EINTR) {
		perror("epoll_pwait2");
		exit(2);
	}
	for (int i = 0; i < n; i++)
		handle(events[i].data.ptr);
}

static uint32_t alive(void)
{
	uint32_t n = 0;

	for (const struct run *run = active; run; run = run->next)
		n += !run->ended;
	return n;
}

static void loop(void)
{
	uint64_t reaped = now_ns(), total = options.count * options.repeat;

	while (active || (started < total && totals.failed < MAX_FAILURES)) {
		uint64_t now = now_ns(), next = event_next();
		struct event *event;

		for (int i = 0; i < 4 && started < total && running < options.at_once &&
		                totals.failed < MAX_FAILURES;
		     i++)
			start_run(options.first + started % options.count);
		wait_for_something(next < now + 50 * MS ? next : now + 50 * MS);
		now = now_ns();
		while ((event = event_due(now))) {
			if (!event->run->ended) {
				run_event(event->run, event);
				run_check(event->run);
			}
			event_free(event);
		}
		if (now - reaped > LOOK_NS) {
			reap(now - reaped);
			running = alive();
			reaped = now;
		}
	}
}

static int usage(void)
{
	fprintf(stderr, "usage: stacks [--seeds N] [--first N] [--seed N] [--repeat N] "
	                "[--at-once N] [--verbose]\n");
	return 2;
}

static int read_options(int argc, char **argv)
{
	static const struct option known[] = {
	        {"seeds", required_argument, NULL, 'n'},
	        {"first", required_argument, NULL, 'f'},
	        {"seed", required_argument, NULL, 's'},
	        {"repeat", required_argument, NULL, 'r'},
	        {"at-once", required_argument, NULL, 'a'},
	        {"verbose", no_argument, NULL, 'v'},
	        {NULL, 0, NULL, 0},
	};
	int option;

	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		uint64_t value = optarg ? strtoull(optarg, NULL, 10) : 0;

		switch (option) {
		case 'n':
			options.count = value;
			break;
		case 's':
			options.count = 1;
			options.first = value;
			break;
		case 'f':
			options.first = value;
			break;
		case 'r':
			options.repeat = (uint32_t)value;
			break;
		case 'a':
			options.at_once = (uint32_t)value;
			break;
		case 'v':
			options.verbose = true;
			break;
		default:
			return usage();
		}
	}
	return optind == argc && options.count && options.repeat && options.at_once ? 0 : usage();
}

static void say_totals(uint64_t took)
{
	printf("%lu seeds (%lu over IPv6) in %.1f s: %lu failed; released by match %lu, by commit "
	       "%lu; "
	       "%lu checkpoints\n",
	       (unsigned long)totals.seeds, (unsigned long)totals.six, (double)took / 1e9,
	       (unsigned long)totals.failed, (unsigned long)totals.by_match,
	       (unsigned long)totals.by_commit, (unsigned long)totals.checkpoints);
	printf("%lu with a lie: both said it in %lu, found at once in %lu, late in %lu; "
	       "%lu crashes; of %lu honest ones %lu were late, %lu cut short; %lu ranges in two\n",
	       (unsigned long)totals.lies, (unsigned long)totals.differed,
	       (unsigned long)totals.found, (unsigned long)totals.late,
	       (unsigned long)totals.crashes, (unsigned long)totals.honest,
	       (unsigned long)totals.honest_late, (unsigned long)totals.cut_short,
	       (unsigned long)totals.ranges_cut);
}

/*
 * Segments that a VM waiting for the answer to its SYN-ACK dropped, because of the timestamp that
 * they echo (Linux counts them since 6.15; before, both numbers are -ENOENT). The SVM has to take
 * what the PVM takes.
 */
static bool echoes_are_taken(void)
{
	int64_t pvm = net_counter(&stacks[PVM], "TSEcrRejected");
	int64_t svm = net_counter(&stacks[SVM], "TSEcrRejected");

	printf("dropped for their echo in a handshake: %ld by the PVM, %ld by the SVM\n", (long)pvm,
	       (long)svm);
	return svm <= pvm;
}

int main(int argc, char **argv)
{
	struct rlimit files;
	uint64_t began = now_ns();
	char err[200];
	bool echoes_taken;
	int r = read_options(argc, argv);

	if (r)
		return r;
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	r = net_open(stacks, err, sizeof(err));
	if (r < 0) {
		fprintf(stderr, "stacks: %s\n", err);
		net_close(stacks);
		return 2;
	}
	epoll = epoll_create1(EPOLL_CLOEXEC);
	for (int i = 0; i < PLACES; i++) {
		watch_level(stacks[i].tap, &stacks[i].tap);
		watch_level(stacks[i].listener, &stacks[i].listener);
	}
	loop();
	say_totals(now_ns() - began);
	echoes_taken = echoes_are_taken();
	free_all();
	net_close(stacks);
	close(epoll);
	return totals.failed || !echoes_taken ? 1 : 0;
}
