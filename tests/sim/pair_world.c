/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Time, events, random numbers, and the two hosts. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "colo-proxy/control/log.h"
#include "tests/sim/pair.h"

struct world *world;
struct host *here;

/* ---- words ---- */

static void say(const struct host *host, const char *format, va_list ap)
{
	char text[300];

	vsnprintf(text, sizeof(text), format, ap);
	g_printerr("%10.6f %c %s\n", (double)world->now / 1e9,
	           !host         ? '-'
	           : host->index ? 'B'
	                         : 'A',
	           text);
}

void trace(const struct host *host, const char *format, ...)
{
	va_list ap;

	if (!world->trace)
		return;
	va_start(ap, format);
	say(host, format, ap);
	va_end(ap);
}

void check_failed(const char *what, const char *format, ...)
{
	char text[300];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	world->ending->now = world->now;
	world->ending->turns = world->turns;
	g_strlcpy(world->ending->what, what, sizeof(world->ending->what));
	g_snprintf(world->ending->why, sizeof(world->ending->why), "at %.6f s: %s",
	           (double)world->now / 1e9, text);
	g_printerr("SIM_SEED=%lu %s\n", (unsigned long)world->seed, world->ending->why);
	g_printerr("check failed: %s\n", what);
	abort();
}

/* Takes the place of the log's file. */
void log_write(struct log_site *site, enum log_level level, const char *format, ...)
{
	va_list ap;

	(void)site;
	if (!world->trace || level > LOG_LEVEL_DEBUG)
		return;
	va_start(ap, format);
	say(here, format, ap);
	va_end(ap);
}

/* ---- events ---- */

static bool earlier(const struct event *a, const struct event *b)
{
	return a->at != b->at ? a->at < b->at : a->seq < b->seq;
}

static void push(struct event event)
{
	uint32_t i = world->events_n++;

	if (world->events_n > world->events_room) {
		world->events_room = 2 * world->events_n + 64;
		world->events = g_renew(struct event, world->events, world->events_room);
	}
	while (i && earlier(&event, &world->events[(i - 1) / 2])) {
		world->events[i] = world->events[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	world->events[i] = event;
}

void at(uint64_t when, struct host *host, void (*fn)(struct host *, uint64_t), uint64_t arg)
{
	push((struct event){.at = when, .seq = ++world->seq, .fn = fn, .host = host, .arg = arg});
}

void at_frame(uint64_t when, void (*arrives)(struct frame *frame), struct frame *frame)
{
	push((struct event){.at = when, .seq = ++world->seq, .arrives = arrives, .frame = frame});
}

struct event world_pop(void)
{
	struct event first = world->events[0], last = world->events[--world->events_n];
	uint32_t i = 0;

	for (;;) {
		uint32_t child = 2 * i + 1;

		if (child >= world->events_n)
			break;
		if (child + 1 < world->events_n &&
		    earlier(&world->events[child + 1], &world->events[child]))
			child++;
		if (!earlier(&world->events[child], &last))
			break;
		world->events[i] = world->events[child];
		i = child;
	}
	world->events[i] = last;
	return first;
}

/* ---- hosts ---- */

bool acts(struct host *host)
{
	if (!host->dying && host == world->fuse_host && world->fuse && --world->fuse == 0) {
		trace(host, "the daemon crashes in the middle of its work");
		host->dying = true;
	}
	return !host->dying;
}

void host_clock_goes_on(struct host *host)
{
	if (host->still_until > world->now)
		host->lead += host->still_until - world->now;
	if (host->qemu.clock_at > world->now)
		host->qemu.clock_at = world->now;
	host->still_until = 0;
}

void host_start(struct host *host)
{
	char err[400] = "";
	int r;

	if (!host->power || host->node)
		return;
	trace(host, "the daemon starts");
	here = host;
	host->life++;
	host->turn_at = NEVER;
	host->stalled_until = host->qemu_stalled_until = 0;
	host_clock_goes_on(host);
	r = node_new(&host->node, host->config, "model", &control_operations, host, err,
	             sizeof(err));
	CHECK(r == 0, "the daemon does not start: %s", err);
	loop_wake(host);
	here = NULL;
	link_healed();
}

static void count_matched(const struct host *host)
{
	struct gate_stats stats = {0};

	if (host->node->gate)
		gate_get_stats(host->node->gate, &stats);
	for (unsigned i = 0; i < PACKET_CLASS_COUNT; i++)
		world->count[COUNT_MATCHED] += stats.by_class[i].matched_packets;
}

static void end_daemon(struct host *host)
{
	count_matched(host);
	here = host;
	host->dying = true;
	check_silenced(host);
	qemu_end(host);
	control_clear(host);
	loop_end(host);
	node_free(host->node);
	host->node = NULL;
	host->loop = NULL;
	path_clear(&host->path);
	system_clear(host);
	host->dying = false;
	host->life++;
	here = NULL;
}

void host_kill_daemon(struct host *host)
{
	if (!host->node)
		return;
	trace(host, "the daemon dies");
	link_process_died(host);
	end_daemon(host);
}

void host_power_off(struct host *host)
{
	if (!host->power)
		return;
	trace(host, "the power is off");
	link_power_lost(host);
	path_port_down(host);
	host->power = false;
	if (host->node)
		end_daemon(host);
}

void host_power_on(struct host *host)
{
	if (host->power)
		return;
	trace(host, "the power is on");
	host->power = true;
	host->lead = 100 * SEC - world->now; /* since the boot */
	host->clock_still = host->still_until = 0;
	link_healed();
}

static void tell_vm_lost(struct host *host, uint64_t life)
{
	if (host->life != life || !host->node || host->qemu.alive)
		return;
	here = host;
	node_vm_lost(host->node, "it died");
	here = NULL;
}

void host_qemu_died(struct host *host)
{
	if (!host->qemu.alive)
		return;
	trace(host, "QEMU dies");
	qemu_end(host);
	host->in_colo = false;
	at(world->now + rnd_ns(100 * US, 30 * MS), host, tell_vm_lost, host->life);
}
