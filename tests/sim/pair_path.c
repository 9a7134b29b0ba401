/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The data path's headers, and the switch between hosts and clients. The order of things at a tap
 * is the kernel's: what comes from the bridge meets the intercept first, then the mirror, then the
 * tap's ring, which QEMU empties. What is injected passes the intercept.
 *
 * Between switch and clients frames are lost, doubled, overtaken and damaged. A damaged frame is
 * one in which a bit is wrong behind the Ethernet header, as by a switch with bad memory that
 * computes the FCS anew: it reaches the tap, the mirror and the daemon, and a stack drops it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "colo-proxy/core/checksum.h"
#include "colo-proxy/datapath/netif.h"
#include "colo-proxy/datapath/tapdev.h"
#include "kvm/wire.h"
#include "tests/sim/pair.h"

#define RING_MAX 200u
#define ETHERNET 14u
#define AGING    (15 * SEC) /* the switch's; mostly 300 s */

struct mirror {
	struct host *host;
	int fd;
	uint64_t base, received; /* base: the tap's counter at its first frame */
	bool aligned, lost;
	uint64_t dropped;
	uint32_t seen_empty;
};

struct inject {
	struct host *host;
};

struct intercept {
	struct host *host;
	int fd;
	bool on;
};

struct model_hold {
	struct hold head;
	struct host *host;
	int fd;
};

void frames_push(struct frames *frames, struct frame *frame)
{
	frame->next = NULL;
	*(frames->tail ? &frames->tail->next : &frames->head) = frame;
	frames->tail = frame;
	frames->n++;
}

struct frame *frames_pop(struct frames *frames)
{
	struct frame *frame = frames->head;

	if (!frame)
		return NULL;
	frames->head = frame->next;
	if (!frames->head)
		frames->tail = NULL;
	frames->n--;
	frame->next = NULL;
	return frame;
}

void frames_clear(struct frames *frames)
{
	struct frame *frame;

	while ((frame = frames_pop(frames)))
		frame_free(frame);
}

static int take_list(struct frames *frames, struct frame **ret_list, unsigned max)
{
	struct frame **end = ret_list;
	int n = 0;

	*ret_list = NULL;
	while (frames->head && (unsigned)n < max) {
		*end = frames_pop(frames);
		end = &(*end)->next;
		n++;
	}
	return n;
}

void path_clear(struct path *path)
{
	frames_clear(&path->ring);
	frames_clear(&path->held);
	frames_clear(&path->copies);
	frames_clear(&path->diverted);
	*path = (struct path){0};
}

/* ---- the tap ---- */

int tapdev_create(const struct tapdev_params *params, int *ret_fd, char *ret_name, char *err,
                  size_t errlen)
{
	(void)err;
	(void)errlen;
	snprintf(ret_name, IFNAMSIZ, "tap%u", here->index);
	*ret_fd = fd_new(here, FD_TAP);
	here->path = (struct path){.tap = true,
	                           .on_bridge = params->bridge != NULL,
	                           .ring_max = chance(20) ? 20 : RING_MAX};
	return 0;
}

bool tapdev_pending(int fd)
{
	(void)fd;
	return here->path.ring.head;
}

int tapdev_header(int fd)
{
	(void)fd;
	return 12;
}

/* The daemon reads what the VM has not taken: the counter does not know who reads. */
int tapdev_read(struct tapdev_reader *reader, int fd, struct frame **ret_frame)
{
	struct frame *frame = path_vm_takes(here);

	(void)reader;
	(void)fd;
	if (!frame)
		return -EAGAIN;
	check_input_dropped(here); /* it waits for the next epoch: node_cut.c */
	*ret_frame = frame;
	return 0;
}

void tapdev_reader_clear(struct tapdev_reader *reader)
{
	(void)reader;
}

int tap_counters_open(struct tap_counters *c, const char *ifname)
{
	(void)ifname;
	*c = (struct tap_counters){{-1, -1, -1}};
	return 0;
}

int tap_counter_read(const struct tap_counters *c, enum tap_counter which, uint64_t *ret_value)
{
	(void)c;
	*ret_value = which == TAP_TX_PACKETS ? here->path.taken : here->path.dropped;
	return 0;
}

void tap_counters_close(struct tap_counters *c)
{
	(void)c;
}

/* The kernel has no memory for the end of a takeover. */
static bool refuses(struct host *host)
{
	if (world->calm || !host->node || host->node->role.state != ROLE_TAKING_OVER ||
	    own_number(host, 12) != 0)
		return false;
	count(COUNT_NOT_LIVE);
	return true;
}

/* An answer that netlink has no room for says nothing of what was done. */
int netif_enslave(const char *name, const char *bridge)
{
	bool fails = refuses(here);

	(void)name;
	(void)bridge;
	if (acts(here) && (!fails || own_number(here, 2)))
		here->path.on_bridge = true;
	return fails ? -ENOBUFS : 0;
}

int netif_mtu(const char *name)
{
	(void)name;
	return 1500;
}

int netif_release(const char *name)
{
	(void)name;
	if (acts(here))
		here->path.on_bridge = false;
	return 0;
}

/* False when the ring was full. */
static bool into_ring(struct host *host, const struct frame *frame)
{
	struct path *path = &host->path;
	struct mirror *mirror = path->mirror;

	if (mirror) {
		frames_push(&path->copies, frame_copy(frame));
		loop_wake(host);
	}
	if (path->ring.n >= path->ring_max) {
		path->dropped++;
		count(COUNT_RING_FULL);
		check_input_dropped(host);
		return false;
	}
	frames_push(&path->ring, frame_copy(frame));
	qemu_kick(host);
	return true;
}

struct frame *path_vm_takes(struct host *host)
{
	struct frame *frame = frames_pop(&host->path.ring);

	if (frame)
		host->path.taken++;
	return frame;
}

/* ---- the mirror ---- */

int mirror_open(const char *port, unsigned buffer, struct mirror **ret_mirror, char *err,
                size_t errlen)
{
	struct mirror *mirror = g_new0(struct mirror, 1);

	(void)port;
	(void)buffer;
	(void)err;
	(void)errlen;
	mirror->host = here;
	mirror->fd = fd_new(here, FD_MIRROR);
	mirror->dropped = here->path.dropped;
	here->path.mirror = mirror;
	*ret_mirror = mirror;
	return 0;
}

int mirror_fd(const struct mirror *m)
{
	return m->fd;
}

int mirror_receive(struct mirror *m, struct frame **ret_list, unsigned max)
{
	int n = take_list(&m->host->path.copies, ret_list, max);

	m->received += (uint64_t)n;
	return n;
}

bool mirror_aligned(const struct mirror *m)
{
	return m->aligned && m->dropped == m->host->path.dropped;
}

int mirror_align(struct mirror *m, int tap_fd)
{
	struct path *path = &m->host->path;

	(void)tap_fd;
	m->aligned = false;
	if (path->ring.n || path->copies.n) {
		m->seen_empty = 0;
		return -EAGAIN;
	}
	if (++m->seen_empty < 2)
		return -EAGAIN;
	m->seen_empty = 0;
	m->base = path->taken - m->received;
	m->dropped = path->dropped;
	m->aligned = true;
	return 0;
}

int mirror_taken(struct mirror *m, uint64_t *ret_taken)
{
	if (!mirror_aligned(m))
		return -ESTALE;
	*ret_taken = m->host->path.taken - m->base;
	return 0;
}

void mirror_get_counters(struct mirror *m, struct mirror_counters *ret_counters)
{
	*ret_counters = (struct mirror_counters){.received = m->received};
}

void mirror_close(struct mirror *m)
{
	if (!m)
		return;
	frames_clear(&m->host->path.copies);
	m->host->path.mirror = NULL;
	g_free(m);
}

/* ---- inject ---- */

int inject_open(const char *port, uint32_t mark, unsigned limit, struct inject **ret_inject,
                char *err, size_t errlen)
{
	(void)port;
	(void)mark;
	(void)limit;
	(void)err;
	(void)errlen;
	*ret_inject = g_new0(struct inject, 1);
	(*ret_inject)->host = here;
	return 0;
}

int inject_send(struct inject *in, const struct frame *f)
{
	if (!acts(in->host))
		return 0;
	if (in->host->path.ring.n >= in->host->path.ring_max)
		return -EAGAIN;
	into_ring(in->host, f);
	return 0;
}

int inject_get_counters(struct inject *in, struct inject_counters *ret_counters)
{
	(void)in;
	*ret_counters = (struct inject_counters){0};
	return 0;
}

void inject_close(struct inject *in)
{
	g_free(in);
}

/* ---- the intercept ---- */

int intercept_open(const char *port, const char *tap_name, uint32_t mark, unsigned queue,
                   struct intercept **ret_intercept, char *err, size_t errlen)
{
	struct intercept *x;

	(void)port;
	(void)tap_name;
	(void)mark;
	(void)queue;
	CHECK(!here->path.intercept, "the tap's input is diverted twice");
	if (refuses(here)) {
		snprintf(err, errlen, "no memory for a tap");
		return -ENOBUFS;
	}
	x = g_new0(struct intercept, 1);
	*x = (struct intercept){.host = here, .fd = fd_new(here, FD_INTERCEPT), .on = true};
	here->path.intercept = x;
	*ret_intercept = x;
	return 0;
}

int intercept_fd(const struct intercept *x)
{
	return x->fd;
}

int intercept_receive(struct intercept *x, struct frame **ret_list, unsigned max)
{
	return take_list(&x->host->path.diverted, ret_list, max);
}

int intercept_set(struct intercept *x, bool on)
{
	if (acts(x->host))
		x->on = on;
	return 0;
}

void intercept_close(struct intercept *x)
{
	if (!x)
		return;
	frames_clear(&x->host->path.diverted);
	x->host->path.intercept = NULL;
	g_free(x);
}

/* ---- the hold ---- */

const struct hold_ops hold_tap = {.name = "hold-tap"};
const struct hold_ops hold_nfqueue = {.name = "nfqueue"};

static struct model_hold *model(const struct hold *hold)
{
	return (struct model_hold *)hold;
}

int hold_open(const struct hold_ops *ops, const struct hold_params *params, struct hold **ret_hold,
              char *err, size_t errlen)
{
	struct model_hold *m = g_new0(struct model_hold, 1);

	(void)err;
	(void)errlen;
	m->head = (struct hold){.ops = ops, .mode = params->mode, .mute = params->mute};
	m->host = here;
	m->fd = fd_new(here, FD_HOLD);
	here->path.hold = &m->head;
	*ret_hold = &m->head;
	return 0;
}

int hold_fds(const struct hold *hold, int ret_fds[2])
{
	ret_fds[0] = model(hold)->fd;
	return 1;
}

int hold_receive(struct hold *hold, struct frame **ret_list, unsigned max)
{
	int n = take_list(&model(hold)->host->path.held, ret_list, max);

	hold->count.received += (uint64_t)n;
	return n;
}

static void to_clients(struct host *host, struct frame *frame);

int hold_release(struct hold *hold, struct frame *f, bool rewritten)
{
	struct host *host = model(hold)->host;

	(void)rewritten;
	if (hold->mute || hold->mode == HOLD_MODE_DROP)
		return -EPERM;
	if (!acts(host)) {
		frame_free(f);
		return 0;
	}
	if (host->hold_full || rnd(500) == 0) {
		count(COUNT_HOLD_REFUSED);
		return -EAGAIN;
	}
	hold->count.released++;
	to_clients(host, f);
	return 0;
}

void hold_discard(struct hold *hold, struct frame *f)
{
	hold->count.discarded++;
	frame_free(f);
}

int hold_flush(struct hold *hold)
{
	(void)hold;
	return 0;
}

int hold_set_mode(struct hold *hold, enum hold_mode mode)
{
	if (acts(model(hold)->host))
		hold->mode = mode;
	return 0;
}

int hold_set_mute(struct hold *hold, bool mute)
{
	if (!mute && refuses(model(hold)->host))
		return -ENOMEM;
	if (acts(model(hold)->host))
		hold->mute = mute;
	return 0;
}

void hold_get_counters(struct hold *hold, struct hold_counters *ret_counters)
{
	*ret_counters = hold->count;
}

void hold_close(struct hold *hold)
{
	if (!hold)
		return;
	frames_clear(&model(hold)->host->path.held);
	model(hold)->host->path.hold = NULL;
	g_free(hold);
}

void path_vm_says(struct host *host, struct frame *frame)
{
	struct path *path = &host->path;

	if (!path->hold || path->hold->mode == HOLD_MODE_DROP) {
		frame_free(frame);
	} else if (path->hold->mode == HOLD_MODE_PASS) {
		check_said(host, frame);
		to_clients(host, frame);
	} else {
		check_said(host, frame);
		frames_push(&path->held, frame);
		loop_wake(host);
	}
}

/* ---- the switch ---- */

struct frame *path_with_checksum(struct frame *frame)
{
	struct packet p;

	g_assert(packet_parse(&p, frame) == 0);
	wire_put_be16(frame->data + p.l4_off + 6, packet_l4_checksum(&p));
	return frame;
}

bool path_is_sound(const struct packet *p)
{
	const struct frame *frame = p->frame;
	uint32_t at_csum = p->l4_off + (p->class == PACKET_TCP ? 16 : 6);

	if (p->version != 4 || (p->class != PACKET_TCP && p->class != PACKET_UDP))
		return true;
	if (checksum_fold(checksum_add(0, frame->data + p->ip_off, p->l4_off - p->ip_off)) !=
	    0xffff)
		return false;
	return packet_l4_checksum(p) == wire_be16(frame->data + at_csum);
}

static void damage(struct frame *frame)
{
	uint32_t bit = rnd((frame->len - ETHERNET) * 8);

	/* The headers, mostly. */
	if (chance(70))
		bit = rnd((frame->len < 80 ? frame->len - ETHERNET : 66) * 8);
	frame->data[ETHERNET + bit / 8] ^= (uint8_t)(1u << bit % 8);
	count(COUNT_FRAMES_DAMAGED);
}

static uint64_t wire_delay(void)
{
	if (rnd(1000) >= world->late)
		return world->now + rnd_ns(50 * US, 80 * US);
	count(COUNT_FRAMES_LATE);
	return world->now + rnd_ns(MS, world->late_ns);
}

static void damaged_at_client(struct frame *frame)
{
	struct packet p;

	/* It is not taken for another one: a single bit is always noticed. */
	if (packet_parse(&p, frame) == 0 && p.version == 4 &&
	    (p.class == PACKET_TCP || p.class == PACKET_UDP))
		CHECK(!path_is_sound(&p), "a damaged frame looks sound");
	frame_free(frame);
}

static void arrives_at_client(struct frame *frame)
{
	client_hears(frame);
	frame_free(frame);
}

/* Over the wire. */
static void carry(struct frame *frame, void (*arrives)(struct frame *),
                  void (*arrives_damaged)(struct frame *))
{
	if (rnd(1000) < world->loss) {
		count(COUNT_FRAMES_LOST);
		frame_free(frame);
		return;
	}
	if (rnd(1000) < world->twice) {
		count(COUNT_FRAMES_TWICE);
		at_frame(wire_delay(), arrives, frame_copy(frame));
	}
	if (rnd(1000) < world->damage) {
		damage(frame);
		at_frame(wire_delay(), arrives_damaged, frame);
	} else {
		at_frame(wire_delay(), arrives, frame);
	}
}

static void to_clients(struct host *host, struct frame *frame)
{
	frame->next = NULL;
	if (!host->path.on_bridge) {
		frame_free(frame);
		return;
	}
	check_emission(host, frame);
	host->path.released++;
	if (host->net_cut) {
		frame_free(frame);
		return;
	}
	world->fdb = host->index;
	world->fdb_at = world->now;
	carry(frame, arrives_at_client, damaged_at_client);
}

static void arrives_at_port(struct host *host, const struct frame *frame)
{
	struct path *path = &host->path;

	if (!path->tap || !path->on_bridge || host->net_cut)
		return;
	check_delivered(frame);
	if (path->intercept && path->intercept->on) {
		frames_push(&path->diverted, frame_copy(frame));
		loop_wake(host);
	} else {
		into_ring(host, frame);
	}
}

static void arrives_at_host(struct frame *frame)
{
	if (world->now - world->fdb_at > AGING)
		world->fdb = FLOODS;
	for (uint32_t i = 0; i < 2; i++) {
		if (world->fdb == i || world->fdb == FLOODS)
			arrives_at_port(&world->host[i], frame);
	}
	frame_free(frame);
}

void path_port_down(const struct host *host)
{
	if (world->fdb == host->index)
		world->fdb = FLOODS;
}

void path_client_sends(struct frame *frame)
{
	carry(frame, arrives_at_host, arrives_at_host);
}
