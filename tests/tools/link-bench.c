/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * link-bench: what the replication link carries, through loopback, one thread for each side.
 *
 *	link-bench [--streams N] [MiB]
 *
 * For clear and TLS: bulk throughput of 256 KiB messages, over one connection or N streams; round
 *trips of 64 bytes on the idle link; the same while the bulk channel is kept full.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "colo-proxy/link/link.h"

#define MESSAGE (256u << 10)
#define ROUNDS  5000u
#define MS      1000000ull

enum { DATA = 16, PING, DONE };

struct end {
	struct loop *loop;
	struct link *link;
	bool echo;
	uint64_t bulk_left, started;
	bool filling;
	unsigned pings;
	uint64_t sent_at;
	uint64_t rounds[ROUNDS];
	void (*next)(struct end *e);
	uint8_t buf[MESSAGE];
};

static void fail(const char *what)
{
	fprintf(stderr, "link-bench: %s\n", what);
	exit(1);
}

static void ping(struct end *e)
{
	struct iovec iov = {.iov_base = e->buf, .iov_len = 64};

	e->sent_at = loop_clock();
	if (link_send(e->link, LINK_FAST, PING, 0, &iov, 1))
		fail("cannot send a ping");
}

static void fill(struct end *e)
{
	struct iovec iov = {.iov_base = e->buf, .iov_len = MESSAGE};

	while (e->bulk_left && !link_send(e->link, LINK_BULK, DATA, 1, &iov, 1))
		e->bulk_left -= e->filling ? 0 : 1;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void print_rounds(struct end *e, const char *when)
{
	size_t mid = ROUNDS / 2, high = ROUNDS - ROUNDS / 100;

	qsort(e->rounds, ROUNDS, sizeof(e->rounds[0]), compare);
	printf("  round trip %s: median %.1f us, 99 %% %.1f us, max %.1f us\n", when,
	       (double)e->rounds[mid] / 1e3, (double)e->rounds[high] / 1e3,
	       (double)e->rounds[ROUNDS - 1] / 1e3);
}

static void busy_done(struct end *e)
{
	print_rounds(e, "while bulk is full");
	link_close(e->link, "done");
	loop_stop(e->loop);
}

static void idle_done(struct end *e)
{
	print_rounds(e, "on the idle link");
	e->pings = 0;
	e->next = busy_done;
	e->filling = true;
	e->bulk_left = 1;
	fill(e);
	ping(e);
}

static void on_up(void *ctx, const struct link_peer *peer)
{
	struct end *e = ctx;

	e->started = loop_clock();
	if (!e->echo)
		fill(e);
}

static void on_down(void *ctx, const char *reason)
{
	struct end *e = ctx;

	loop_stop(e->loop);
}

static void on_message(void *ctx, enum link_channel channel, uint8_t type, uint32_t epoch,
                       const uint8_t *payload, size_t len)
{
	struct iovec iov = {.iov_base = (void *)payload, .iov_len = len};
	struct end *e = ctx;

	if (e->echo && type == DATA) {
		if (!--e->bulk_left && link_send(e->link, LINK_FAST, DONE, 0, NULL, 0))
			fail("cannot say done");
	} else if (e->echo) {
		if (link_send(e->link, channel, type, epoch, &iov, 1))
			fail("cannot echo");
	} else if (type == DONE) {
		e->next(e);
	} else {
		e->rounds[e->pings++] = loop_clock() - e->sent_at;
		if (e->pings < ROUNDS)
			ping(e);
		else
			e->next(e);
	}
}

static void bulk_done(struct end *e)
{
	struct link_counters count;
	double seconds = (double)(loop_clock() - e->started) / 1e9;

	link_counters(e->link, LINK_BULK, &count);
	printf("  bulk: %.0f MB/s (%u KiB messages, %.0f MB, streams: %u)\n",
	       (double)count.sent_bytes / 1e6 / seconds, MESSAGE >> 10,
	       (double)count.sent_bytes / 1e6, link_streams(e->link));
	e->next = idle_done;
	ping(e);
}

static void on_room(void *ctx, enum link_channel channel)
{
	fill(ctx);
}

static void on_refused(void *ctx, const char *text)
{
	fail(text);
}

static const struct link_ops ops = {on_up, on_down, on_message, on_room, on_refused};

static void *run(void *arg)
{
	struct end *e = arg;

	if (loop_run(e->loop))
		fail("the loop failed");
	return NULL;
}

static struct end *start(enum link_role role, bool encrypt, uint16_t port, uint64_t messages,
                         unsigned int streams)
{
	struct link_key key = {.len = 32};
	struct link_params params = {
	        .role = role,
	        .vm_name = "bench",
	        .address = "127.0.0.1",
	        .port = port,
	        .key = &key,
	        .encrypt = encrypt,
	        .streams = streams,
	};
	struct end *e = calloc(1, sizeof(*e));
	char err[256] = "out of memory";

	if (!e || loop_new(&e->loop))
		fail(err);
	e->echo = role == LINK_SECONDARY;
	e->bulk_left = messages;
	e->next = bulk_done;
	if (link_new(&e->link, e->loop, &params, &ops, e, err, sizeof(err)))
		fail(err);
	return e;
}

static void bench(bool encrypt, uint64_t messages, unsigned int streams)
{
	struct end *s = start(LINK_SECONDARY, encrypt, 0, messages, streams);
	struct end *p = start(LINK_PRIMARY, encrypt, link_port(s->link), messages, streams);
	pthread_t thread;

	printf("%s\n", encrypt ? "TLS 1.3, AES-128-GCM" : "clear");
	if (pthread_create(&thread, NULL, run, s))
		fail("no thread");
	run(p);
	pthread_join(thread, NULL);
	link_free(p->link);
	link_free(s->link);
	loop_free(p->loop);
	loop_free(s->loop);
	free(p);
	free(s);
}

int main(int argc, char **argv)
{
	uint64_t streams = 1, mib = 1024;
	int at = 1;

	if (argc > at + 1 && !strcmp(argv[at], "--streams")) {
		streams = strtoull(argv[at + 1], NULL, 10);
		at += 2;
	}
	if (argc > at)
		mib = strtoull(argv[at++], NULL, 10);
	if (mib < 1 || streams < 1 || streams > LINK_STREAMS_MAX || argc > at) {
		fprintf(stderr, "usage: link-bench [--streams N] [MiB]\n");
		return 2;
	}
	bench(false, mib * 4, (unsigned int)streams);
	bench(true, mib * 4, (unsigned int)streams);
	return 0;
}
