/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The node: theory of operation
 *
 * One thread, one epoll loop, nothing that waits. It is the only place where the pure core (gate,
 * shadow, role, relays) meets descriptors. Everything that is said to it from the control thread
 * comes as a job posted to the loop; everything that it wants done there goes as an order.
 *
 * What the VM says comes out of the hold, in both roles:
 *   primary, always:       through the gate, which releases it by R1 (or at once, while this host
 *                          is the only one that may speak), a survivor's translated then;
 *   secondary, standing by: into digests, then away;
 *   secondary, taking over: kept, in order.
 * The hold fails closed, so a crash at any of these points says nothing.
 */
#include <errno.h>
#include <gnutls/crypto.h>
#include <net/ethernet.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "colo-proxy/control/log.h"
#include "colo-proxy/datapath/netif.h"
#include "colo-proxy/datapath/tapdev.h"
#include "colo-proxy/node/node_private.h"

#define RELEASE_RETRY_NS (1 * MS)
#define LAPSED_RETRY_NS  (10 * MS)
#define TIMER_SLACK_NS   20000ul
#define DATA_NICE        (-15)
#define STEADY_SLACK_NS  (100 * MS) /* a turn may take so long */

uint64_t node_realtime(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

uint64_t node_steady(struct node *node)
{
	return steady_now(&node->steady, loop_now(node->loop));
}

void node_arm(struct node *node, struct loop_timer *timer, uint64_t delay_ns)
{
	loop_timer_set(node->loop, timer, loop_now(node->loop) + delay_ns);
}

void node_event(struct node *node, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(node->last_event, sizeof(node->last_event), format, ap);
	va_end(ap);
	node->ops->order(node->ctx, ORDER_EVENT, node->last_event);
}

void node_peer_unprotects(struct node *node, const uint8_t *why, size_t len)
{
	node_event(node, "the primary ends protection: %.*s", (int)(len < 100 ? len : 100),
	           (const char *)why);
	node_role(node, ROLE_EV_PEER_ALONE);
}

void node_message(struct node *node, const char *text)
{
	snprintf(node->message, sizeof(node->message), "%s", text);
}

/*
 * A word that the link's queue had no room for may be lost if the next one makes up for it (a
 * heartbeat), or a checkpoint (digests, an opening). Every other one is said once, and the peer
 * waits for it: the session ends, and the roles decide what follows.
 */
static bool may_be_lost(enum msg_type type)
{
	return type == MSG_HEARTBEAT || type == MSG_DIGEST || type == MSG_FLOW_OPEN;
}

static void drop_session(void *ctx, uint64_t now)
{
	struct node *node = ctx;
	char text[80];

	(void)now;
	snprintf(text, sizeof(text), "the link took no %s", msg_type_name(node->unsaid));
	link_drop(node->link, text);
}

int node_send(struct node *node, enum link_channel channel, enum msg_type type, uint32_t epoch,
              const void *payload, size_t len)
{
	struct iovec iov = {.iov_base = (void *)payload, .iov_len = len};
	int r = link_send(node->link, channel, type, epoch, &iov, len ? 1 : 0);

	if (r != -EAGAIN)
		return r;
	log_warn("the link's %s queue is full: %s for epoch %u is not sent",
	         channel == LINK_FAST ? "fast" : "bulk", msg_type_name(type), epoch);
	if (channel == LINK_FAST && !may_be_lost(type)) {
		/* Not here: whoever sends it goes on as if it was said. */
		node->unsaid = type;
		node_arm(node, &node->drop_timer, 0);
	}
	return r;
}

/* ---- the VM's output ---- */

/*
 * R6, where a fence lies or is not there: what a primary may say it says only while its peer cannot
 * have taken over. One that has lost its peer waits for the right to. One that stood still for as
 * long as the peer waits for a heartbeat may have been taken over meanwhile, and what it finds on
 * the link then is from before: it waits until the peer, still in this session, answers a
 * heartbeat of after that (heard()).
 */
static bool may_release(struct node *node)
{
	uint64_t now;

	if (!node->is_primary || !node_proxies(node))
		return true;
	switch (node->role.state) {
	case ROLE_PROTECTED:
		/* Over: what the secondary has to know first (R7) cannot be told any more. */
		if (!node->p.started_here || !link_is_up(node->link))
			return false;
		break;
	case ROLE_DECIDING:
	case ROLE_STUCK:
	case ROLE_RETIRED:
		return false;
	default:
		node->lapsed_at = 0;
		return true;
	}
	if (node->lapsed_at)
		return false;
	now = loop_clock();
	if (now - node->beat_sent_at <= role_patience(&node->role))
		return true;
	node->lapsed_at = now;
	log_warn("this side stood still for %lu ms: nothing is released before the peer answers",
	         (unsigned long)((now - node->beat_sent_at) / MS));
	return false;
}

static void arm_release(struct node *node)
{
	if (!node->release_timer.at)
		node_arm(node, &node->release_timer,
		         may_release(node) ? RELEASE_RETRY_NS : LAPSED_RETRY_NS);
}

/* Writes the frame to the capture, if there is one; a capture that fails ends. */
void node_capture(struct node *node, const struct frame *frame)
{
	int r;

	if (!node->capture)
		return;
	r = capture_frame(node->capture, frame, loop_now(node->loop));
	if (r == 0)
		return;
	log_warn("the capture ends: %s", r == -ENOSPC ? "capture-limit reached" : strerror(-r));
	capture_close(node->capture);
	node->capture = NULL;
}

static int release_one(struct node *node, struct frame *frame)
{
	int r = hold_release(node->hold, frame, frame->rewritten);

	if (r == -EAGAIN || r == -ENOMEM || r == -ENOBUFS)
		return r;
	if (r < 0) {
		log_warn("the kernel refused a frame of %u bytes that was released: %s; dropped",
		         frame->len, strerror(-r));
		hold_discard(node->hold, frame);
	}
	return 0;
}

/* Lets a frame out, or keeps it, in order, until it may go and the kernel takes it. */
void node_release(struct node *node, struct frame *frame, bool rewritten)
{
	frame->rewritten = rewritten;
	node_capture(node, frame);
	if (!node->unreleased.head && may_release(node) && release_one(node, frame) == 0)
		return;
	frame_queue_push(&node->unreleased, frame);
	arm_release(node);
}

static void release_again(void *ctx, uint64_t now)
{
	struct node *node = ctx;

	(void)now;
	while (node->unreleased.head && may_release(node)) {
		struct frame *frame = frame_queue_pop(&node->unreleased);

		if (release_one(node, frame) == 0)
			continue;
		frame_queue_unpop(&node->unreleased, frame);
		break;
	}
	if (node->unreleased.head)
		arm_release(node);
	hold_flush(node->hold);
	if (!node->is_primary)
		return;
	primary_rearm_gate(node); /* there may be room again */
	primary_say_released(node);
}

static void route_output(struct node *node, struct frame *frame)
{
	if (node->is_primary)
		primary_output(node, frame);
	else
		secondary_output(node, frame);
}

/* What comes next, for the flow tables: see gate_ahead(). */
static void look_ahead(const struct node *node, const struct frame *list)
{
	if (node->is_primary && node->gate)
		gate_ahead(node->gate, list);
	else if (!node->is_primary && node->shadow)
		shadow_ahead(node->shadow, list);
}

/* Takes up to `max` frames out of the hold. Returns how many. */
static int take_output(struct node *node, unsigned max)
{
	struct frame *list = NULL;
	int n = hold_receive(node->hold, &list, max);

	if (n < 0) {
		log_error("cannot read what the VM says: %s; it stays held", strerror(-n));
		return 0;
	}
	look_ahead(node, list);
	while (list) {
		struct frame *next = list->next;

		list->next = NULL;
		route_output(node, list);
		list = next;
	}
	return n;
}

static void after_output(struct node *node)
{
	if (!node->is_primary)
		secondary_flush_digests(node);
	hold_flush(node->hold);
	if (node->is_primary)
		primary_rearm_gate(node);
}

/* Reads everything that the VM has said up to now. */
void node_drain_hold(struct node *node)
{
	while (take_output(node, FRAME_BATCH) > 0)
		;
	after_output(node);
}

static void hold_ready(void *ctx, uint32_t events)
{
	struct node *node = ctx;

	(void)events;
	take_output(node, FRAME_BATCH);
	after_output(node);
}

/* ---- who may speak ---- */

static void role_rearm(struct node *node)
{
	uint64_t due = role_deadline(&node->role);

	if (due == UINT64_MAX)
		loop_timer_clear(node->loop, &node->role_timer);
	else
		loop_timer_set(node->loop, &node->role_timer, due);
}

static const char *role_words(const struct node *node)
{
	switch (node->role.state) {
	case ROLE_WAITING:
		return "no primary yet";
	case ROLE_ALONE:
		return node->is_primary ? "the VM runs here, unprotected; no secondary has joined"
		                        : "the VM runs here, unprotected";
	case ROLE_JOINING:
		return "the VM is being copied to the secondary";
	case ROLE_PROTECTED:
	case ROLE_STANDBY:
		return "";
	case ROLE_DECIDING:
		return "the peer is lost; asking for the right to speak";
	case ROLE_STUCK:
		return "the peer is lost and nobody can say whether it is dead. This side is "
		       "silent. "
		       "Make sure that the other host is off, then run: colo-proxy failover "
		       "--force";
	case ROLE_TAKING_OVER:
		return "taking over";
	case ROLE_RETIRED:
		return node->role.handed
		               ? "the VM was handed over and the peer has not said that it has it. "
		                 "If the VM does not answer, make sure that the peer is off and, "
		                 "by "
		                 "its log, has not spoken, then run: colo-proxy failover --force"
		               : "the VM is no longer here";
	case ROLE_STATE_COUNT:
		break;
	}
	return "";
}

void node_ask_fence(struct node *node)
{
	node->takeover.detected_ns = node_realtime();
	node->fence_asked = true;
	node->ops->order(node->ctx, ORDER_FENCE, node->peer);
}

/* The peer has been heard again, or somebody else decided: a fence that is still at it would switch
 * off a host that is needed. */
static void end_question(struct node *node)
{
	if (!node->fence_asked || node->role.state == ROLE_DECIDING)
		return;
	node->fence_asked = false;
	node->ops->order(node->ctx, ORDER_FENCE_END, "");
}

static void act(struct node *node, uint32_t actions)
{
	bool primary = node->is_primary;

	if (actions & ROLE_ACT_TELL) {
		node->state_realtime = node_realtime();
		node_message(node, role_words(node));
		node_event(node, "%s", role_state_name(node->role.state));
		end_question(node);
	}
	if (!node_proxies(node)) {
		stock_act(node, actions);
		return;
	}
	if (actions & ROLE_ACT_YIELD) {
		if (primary)
			primary_retire(node, "the VM's QEMU has ended");
		else
			node_send(node, LINK_FAST, MSG_REFUSED, 0, "the copy is given up", 20);
		link_flush(node->link);
	}
	if (actions & ROLE_ACT_STOP_COPY) {
		if (primary)
			primary_stop_copy(node);
		else
			secondary_stop_copy(node);
	}
	if ((actions & ROLE_ACT_DROP_LINK) && link_is_up(node->link))
		link_drop(node->link, "the session is over");
	if (actions & ROLE_ACT_ASK)
		node_ask_fence(node);
	if (actions & ROLE_ACT_COPY)
		primary_copy(node);
	if (actions & ROLE_ACT_SILENCE)
		primary_silence(node);
	if (actions & ROLE_ACT_FOLLOW)
		reprotect_follow(node);
	if (actions & ROLE_ACT_GO_ALONE)
		primary_go_alone(node);
	if (actions & ROLE_ACT_TAKE_OVER)
		secondary_take_over(node);
}

void node_role(struct node *node, enum role_event event)
{
	uint64_t now = loop_now(node->loop);

	if (event == ROLE_EV_TICK && role_deadline(&node->role) <= now && node->beat_heard_at)
		node->takeover.last_heard_ns =
		        node_realtime() - (loop_clock() - node->beat_heard_at);
	act(node, role_event(&node->role, event, now));
	role_rearm(node);
}

static void role_tick(void *ctx, uint64_t now)
{
	(void)now;
	node_role(ctx, ROLE_EV_TICK);
}

/* ---- heartbeats ---- */

static void beat(void *ctx, uint64_t now)
{
	struct node *node = ctx;
	uint8_t payload[HEARTBEAT_WIRE_LEN];
	struct heartbeat heartbeat = {
	        .sent_ns = loop_clock(),
	        .echo_ns = node->beat_echo,
	        .held_ns = node->beat_echo ? loop_clock() - node->beat_heard_at : 0,
	        .consumed = node->is_primary ? primary_consumed(node) : 0,
	        .state = (uint8_t)node->role.state,
	        .primary = node->is_primary,
	        .term = node->role.term,
	};

	/* A primary whose VM has not been started has nothing to say. */
	if (node->is_primary && !node->p.vm_ordered)
		heartbeat.state = ROLE_WAITING;
	if (capture_flush(node->capture) < 0)
		log_warn("the capture cannot be written");
	(void)node_steady(node); /* time passes when nothing is said, too */
	heartbeat_pack(payload, &heartbeat);
	node->beat_sent_at = heartbeat.sent_ns;
	if (link_is_up(node->link)) {
		bool gate = node->is_primary && node->gate;

		node_send(node, LINK_FAST, MSG_HEARTBEAT,
		          gate ? gate_epoch(node->gate) : node->s.lineage, payload,
		          sizeof(payload));
		if (gate)
			primary_send_unsent(node);
		link_flush(node->link);
	}
	loop_timer_set(node->loop, &node->beat_timer, now + node->config->heartbeat_interval_ns);
}

/* The peer is to know at once what this side is. */
void node_beat_now(struct node *node)
{
	loop_timer_set(node->loop, &node->beat_timer, loop_now(node->loop));
}

static void heard(struct node *node, uint32_t epoch, const uint8_t *payload, size_t len)
{
	struct heartbeat heartbeat;

	if (heartbeat_unpack(&heartbeat, payload, len) != 0) {
		link_drop(node->link, "a heartbeat of the wrong length");
		return;
	}
	if (node->lapsed_at && heartbeat.echo_ns >= node->lapsed_at)
		node->lapsed_at = 0; /* the release timer is armed */
	node->beat_echo = heartbeat.sent_ns;
	node->beat_heard_at = loop_clock();
	if (heartbeat.echo_ns && node->beat_heard_at > heartbeat.echo_ns + heartbeat.held_ns)
		node->rtt_ns = node->beat_heard_at - heartbeat.echo_ns - heartbeat.held_ns;
	if (!node->is_primary)
		secondary_heard(node, epoch, &heartbeat);
	else
		primary_heard(node, &heartbeat);
	node_role(node, ROLE_EV_HEARD);
}

/* ---- the link ---- */

static void link_is_now_up(void *ctx, const struct link_peer *peer)
{
	struct node *node = ctx;

	snprintf(node->peer, sizeof(node->peer), "%s", peer->address);
	node->beat_echo = 0;
	node->beat_heard_at = loop_clock();
	loop_timer_clear(node->loop, &node->drop_timer);
	node_event(node, "link up with %s", peer->address);
	if (!codec_peer(node, peer->caps, peer->caps_len))
		return;
	if (node->is_primary)
		primary_link_up(node);
	node->s.joined_here = false;
	node_role(node, ROLE_EV_LINK_UP);
	node_beat_now(node);
}

static void link_is_now_down(void *ctx, const char *reason)
{
	struct node *node = ctx;

	node_event(node, "link down: %s", reason);
	node_role(node, ROLE_EV_LINK_DOWN);
}

static void link_message(void *ctx, enum link_channel channel, uint8_t type, uint32_t epoch,
                         const uint8_t *payload, size_t len)
{
	struct node *node = ctx;

	(void)channel;
	if (type == MSG_PROTECT)
		node->s.joined_here = true;
	if (type == MSG_HEARTBEAT)
		heard(node, epoch, payload, len);
	else if (!node_proxies(node))
		stock_message(node, type, epoch, payload, len);
	else if (node->is_primary)
		primary_message(node, type, epoch, payload, len);
	else
		secondary_message(node, type, epoch, payload, len);
}

static void link_room(void *ctx, enum link_channel channel)
{
	struct node *node = ctx;

	if (node->is_primary)
		primary_room(node, channel);
}

static void link_refused(void *ctx, const char *text)
{
	(void)ctx;
	log_warn("link: %s", text);
}

static const struct link_ops link_operations = {
        .up = link_is_now_up,
        .down = link_is_now_down,
        .message = link_message,
        .room = link_room,
        .refused = link_refused,
};

static int open_link(struct node *node, char *err, size_t errlen)
{
	const struct config *config = node->config;
	bool connects = config->role == CONFIG_ROLE_PRIMARY;
	const struct config_endpoint *end = connects ? &config->peer : &config->listen;
	struct link_key key = {0};
	uint8_t caps[CODEC_CAPS_LEN];
	struct link_params params = {
	        .role = connects ? LINK_PRIMARY : LINK_SECONDARY,
	        .vm_name = config->name,
	        .address = end->host,
	        .port = end->port,
	        .key = &key,
	        .encrypt = config->encryption == CONFIG_ENCRYPTION_PSK,
	        .caps = caps,
	        .caps_len = sizeof(caps),
	        .queue_limit = {config->link_buffer_bytes, config->link_buffer_bytes},
	        .streams = codec_streams(node),
	};
	int r = link_key_read(config->key_file, &key, err, errlen);

	if (r < 0)
		return r;
	codec_caps(node, caps);
	r = link_new(&node->link, node->loop, &params, &link_operations, node, err, errlen);
	link_key_wipe(&key);
	return r;
}

/* ---- the data path ---- */

/* Frames as long as the client network's; the kernel's own MTU where that is no longer. */
static unsigned tap_mtu(const char *bridge)
{
	int mtu = netif_mtu(bridge);

	return mtu > ETHERMTU ? (unsigned)mtu : 0;
}

static int open_tap(struct node *node, char *err, size_t errlen)
{
	bool on_bridge = node->is_primary;
	struct tapdev_params params = {
	        .name = node->config->tap,
	        .bridge = on_bridge ? node->config->bridge : NULL,
	        .mtu = tap_mtu(node->config->bridge),
	};
	int r = tapdev_create(&params, &node->tap_fd, node->tap, err, errlen);

	if (r < 0)
		return r;
	r = tap_counters_open(&node->counters, node->tap);
	if (r < 0)
		snprintf(err, errlen, "counters of %s: %s", node->tap, strerror(-r));
	return r;
}

/* A side that has been the other one before always has the tap: the VM's frames stay there. */
int node_open_hold(struct node *node, char *err, size_t errlen)
{
	const struct config *config = node->config;
	bool nfqueue = node->is_primary && config->datapath == CONFIG_DATAPATH_NFQUEUE;
	struct hold_params params = {
	        .port = node->tap,
	        .mark = (uint32_t)config->mark,
	        .queue = (uint16_t)config->queue_num,
	        .mode = HOLD_MODE_HOLD,
	        .mute = !node->is_primary,
	};
	int fds[2];
	int r = hold_open(nfqueue ? &hold_nfqueue : &hold_tap, &params, &node->hold, err, errlen);

	if (r < 0)
		return r;
	node->hold_sources = hold_fds(node->hold, fds);
	for (int i = 0; i < node->hold_sources; i++) {
		r = loop_add(node->loop, &node->hold_source[i], fds[i], EPOLLIN, hold_ready, node);
		if (r < 0) {
			snprintf(err, errlen, "watching the hold: %s", strerror(-r));
			return r;
		}
	}
	return 0;
}

static int open_core(struct node *node, char *err, size_t errlen)
{
	const struct config *config = node->config;
	struct role_params role = {
	        .primary = node->is_primary,
	        .fence = config->fence == CONFIG_FENCE_NONE      ? ROLE_FENCE_NONE
	                 : config->fence == CONFIG_FENCE_COMMAND ? ROLE_FENCE_COMMAND
	                                                         : ROLE_FENCE_OPERATOR,
	        .rejoin = node_proxies(node),
	        .goes_on = config->on_secondary_loss == CONFIG_LOSS_CONTINUE,
	        .takes_over = config->auto_failover,
	        .interval_ns = config->heartbeat_interval_ns,
	        .loss = (uint32_t)config->heartbeat_loss,
	        .fence_delay_ns = config->fence_delay_ns,
	};

	role_init(&node->role, &role, loop_clock());
	steady_init(&node->steady, loop_now(node->loop),
	            2 * config->heartbeat_interval_ns + STEADY_SLACK_NS);
	policy_init(node);
	if (node_proxies(node) && config->divergences &&
	    evidence_ring_new(&node->evidence, (uint32_t)config->divergences) < 0) {
		snprintf(err, errlen, "no memory");
		return -ENOMEM;
	}
	if (gnutls_rnd(GNUTLS_RND_KEY, &node->digest_key, sizeof(node->digest_key)) != 0) {
		snprintf(err, errlen, "no random numbers for the digest key");
		return -EIO;
	}
	return 0;
}

static void *run(void *arg)
{
	struct node *node = arg;
	int r;

	prctl(PR_SET_NAME, "colo-data");
	prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
	/* It must not wait behind the vCPUs that wait for it. */
	if (setpriority(PRIO_PROCESS, (id_t)gettid(), DATA_NICE) < 0)
		log_warn("the data thread runs with ordinary priority: %s", strerror(errno));
	r = loop_run(node->loop);
	if (r < 0)
		log_error("the data thread's event loop failed: %s; nothing is released any more",
		          strerror(-r));
	return NULL;
}

/* How long the primary looks for its peer before it boots the VM without having asked it. */
static uint64_t config_boot_wait(const struct node *node)
{
	return node->config->boot_wait_ns;
}

static int open_all(struct node *node, char *err, size_t errlen)
{
	bool has_peer = node->config->comparator != CONFIG_COMPARATOR_NONE;
	int r = loop_new(&node->loop);

	if (r < 0) {
		snprintf(err, errlen, "event loop: %s", strerror(-r));
		return r;
	}
	r = open_core(node, err, errlen);
	if (r == 0)
		r = open_tap(node, err, errlen);
	if (r == 0 && node_proxies(node))
		r = node->is_primary ? primary_init(node, err, errlen)
		                     : secondary_init(node, err, errlen);
	if (r == 0 && node_proxies(node))
		r = node_open_hold(node, err, errlen);
	if (r == 0 && node_proxies(node) && node->config->capture)
		r = capture_open(node->config->capture, node->config->capture_bytes, &node->capture,
		                 err, errlen);
	if (r == 0 && has_peer)
		r = open_link(node, err, errlen);
	if (r < 0)
		return r;
	node->role_timer = (struct loop_timer){.fire = role_tick, .ctx = node};
	node->beat_timer = (struct loop_timer){.fire = beat, .ctx = node};
	node->release_timer = (struct loop_timer){.fire = release_again, .ctx = node};
	node->drop_timer = (struct loop_timer){.fire = drop_session, .ctx = node};
	primary_init_boot(node);
	if (has_peer)
		loop_timer_set(node->loop, &node->beat_timer, loop_clock());
	if (node->is_primary)
		loop_timer_set(node->loop, &node->p.boot_timer,
		               loop_clock() + (has_peer ? config_boot_wait(node) : 0));
	r = -pthread_create(&node->thread, NULL, run, node);
	node->thread_runs = r == 0;
	if (r < 0)
		snprintf(err, errlen, "data thread: %s", strerror(-r));
	return r;
}

int node_new(struct node **ret_node, const struct config *config, const char *machine,
             const struct node_ops *ops, void *ctx, char *err, size_t errlen)
{
	struct node *node = calloc(1, sizeof(*node));
	int r;

	if (!node)
		return -ENOMEM;
	node->config = config;
	node->ops = ops;
	node->ctx = ctx;
	node->tap_fd = -1;
	node->is_primary = config->role == CONFIG_ROLE_PRIMARY;
	node->since_ns = loop_clock();
	node->state_realtime = node_realtime();
	snprintf(node->machine, sizeof(node->machine), "%s", machine);
	snprintf(node->migration_path, sizeof(node->migration_path), "%s/migration.sock",
	         config->run_dir);
	snprintf(node->incoming_path, sizeof(node->incoming_path), "%s/incoming.sock",
	         config->run_dir);
	r = open_all(node, err, errlen);
	if (r < 0) {
		node_free(node);
		return r;
	}
	*ret_node = node;
	return 0;
}

static void stop_loop(void *arg)
{
	loop_stop(arg);
}

void node_free(struct node *node)
{
	if (!node)
		return;
	if (node->thread_runs) {
		/* From its own thread, which may have nothing else to wake up for. */
		while (loop_post(node->loop, stop_loop, node->loop) < 0)
			sched_yield();
		pthread_join(node->thread, NULL);
	}
	link_free(node->link);
	evidence_ring_free(node->evidence);
	primary_fini(node);
	secondary_fini(node);
	codec_fini(node);
	frame_queue_clear(&node->unreleased);
	intercept_close(node->intercept);
	inject_close(node->inject);
	mirror_close(node->mirror);
	hold_close(node->hold);
	capture_close(node->capture);
	if (node->tap_fd >= 0) {
		tap_counters_close(&node->counters);
		close(node->tap_fd);
	}
	loop_free(node->loop);
	free(node);
}

int node_tap_fd(const struct node *node)
{
	return node->tap_fd;
}

const char *node_migration_path(const struct node *node)
{
	return node->migration_path;
}

const char *node_incoming_path(const struct node *node)
{
	return node->incoming_path;
}

void node_set_tcg_flush(struct node *node, struct tcg_flush *flush)
{
	node->s.flush = flush;
}

void node_set_guest_memory(struct node *node, const struct guest_memory *memory)
{
	if (memory)
		node->s.memory = *memory;
	else
		node->s.memory.n = 0;
}

/* ---- from the control thread ---- */

struct told {
	struct node *node;
	void (*fn)(struct node *node, bool ok, const char *text);
	bool ok;
	char text[256];
};

static void tell(void *arg)
{
	struct told *told = arg;

	told->fn(told->node, told->ok, told->text);
	free(told);
}

static void post(struct node *node, void (*fn)(struct node *, bool, const char *), bool ok,
                 const char *text)
{
	struct told *told = calloc(1, sizeof(*told));

	if (!told) {
		log_error("no memory to tell the data thread: %s", text);
		return;
	}
	told->node = node;
	told->fn = fn;
	told->ok = ok;
	snprintf(told->text, sizeof(told->text), "%s", text ? text : "");
	if (loop_post(node->loop, tell, told) < 0) {
		log_error("no memory to tell the data thread: %s", told->text);
		free(told);
	}
}

static void do_vm_ready(struct node *node, bool ok, const char *text)
{
	if (node->is_primary)
		primary_vm_ready(node, ok, text);
	else if (!node_proxies(node))
		stock_vm_ready(node, ok, text);
	else
		secondary_vm_ready(node, ok, text);
}

static void do_copy_failed(struct node *node, bool ok, const char *text)
{
	(void)ok;
	log_warn("copying the VM to the secondary failed: %s", text);
	node_role(node, ROLE_EV_COPY_FAILED);
}

static void do_left_colo(struct node *node, bool ok, const char *text)
{
	if (node->is_primary)
		primary_left_colo(node, ok, text);
	else if (!node_proxies(node))
		stock_left_colo(node, ok, text);
	else
		secondary_left_colo(node, ok, text);
}

static void do_vm_lost(struct node *node, bool ok, const char *text)
{
	(void)ok;
	log_error("the VM's QEMU has ended: %s", text);
	node->s.vm_up = false;
	node_role(node, ROLE_EV_VM_LOST);
}

static void do_fenced(struct node *node, bool granted, const char *text)
{
	node->fence_asked = false;
	node_event(node, "fence: %s: %s", granted ? "the peer is off" : "no", text);
	if (granted)
		node->takeover.fenced_ns = node_realtime();
	node_role(node, granted ? ROLE_EV_RIGHT : ROLE_EV_NO_RIGHT);
}

void node_vm_ready(struct node *node, bool ok, const char *text)
{
	post(node, do_vm_ready, ok, text);
}

void node_marked(struct node *node, bool ok, const char *text)
{
	post(node, primary_marked, ok, text);
}

void node_copy_failed(struct node *node, const char *text)
{
	post(node, do_copy_failed, false, text);
}

void node_rearmed(struct node *node, bool ok, const char *text)
{
	post(node, primary_rearmed, ok, text);
}

void node_left_colo(struct node *node, bool ok, const char *text)
{
	post(node, do_left_colo, ok, text);
}

void node_vm_lost(struct node *node, const char *text)
{
	post(node, do_vm_lost, false, text);
}

void node_fenced(struct node *node, bool granted, const char *text)
{
	post(node, do_fenced, granted, text);
}

static void do_in_colo(struct node *node, bool ok, const char *text)
{
	(void)ok;
	(void)text;
	stock_in_colo(node);
}

static void do_channel_lost(struct node *node, bool ok, const char *text)
{
	(void)ok;
	stock_channel_lost(node, text);
}

void node_in_colo(struct node *node)
{
	post(node, do_in_colo, true, NULL);
}

void node_channel_lost(struct node *node, const char *text)
{
	post(node, do_channel_lost, false, text);
}

struct seen {
	struct node *node;
	uint64_t stopped_at, pause_ns;
};

static void do_checkpoint_seen(void *arg)
{
	struct seen *seen = arg;

	seen->node->p.paused_ns += seen->pause_ns;
	hist_add(&seen->node->pause_hist, seen->pause_ns);
	pacer_paused(&seen->node->pacer, seen->pause_ns);
	if (node_proxies(seen->node)) {
		primary_vm_resumed(seen->node, seen->stopped_at);
		figures_paused(seen->node, seen->stopped_at, seen->pause_ns);
	} else {
		stock_checkpoint_seen(seen->node, seen->stopped_at, seen->pause_ns);
	}
	free(seen);
}

void node_checkpoint_seen(struct node *node, uint64_t stopped_at, uint64_t pause_ns)
{
	struct seen *seen = calloc(1, sizeof(*seen));

	if (seen)
		*seen = (struct seen){node, stopped_at, pause_ns};
	if (!seen || loop_post(node->loop, do_checkpoint_seen, seen) < 0) {
		log_error("no memory to count a checkpoint");
		free(seen);
	}
}

void node_post_job(struct node *node, struct node_job *job, void (*fn)(void *))
{
	job->node = node;
	if (loop_post(node->loop, fn, job) < 0)
		job->done(job, false, "no memory");
}

static void do_checkpoint(void *arg)
{
	struct node_job *job = arg;
	struct node *node = job->node;

	if (!node->is_primary || node->role.state != ROLE_PROTECTED) {
		job->done(job, false,
		          node->is_primary ? "the VM is not protected: there is nobody to send a "
		                             "checkpoint to"
		                           : "checkpoints are taken on the primary: ask there");
		return;
	}
	if (node_proxies(node)) {
		primary_checkpoint(node, job);
		return;
	}
	node->p.wanted = true;
	node->ops->order(node->ctx, ORDER_CHECKPOINT, ckpt_cause_name(CKPT_COMMAND));
	job->done(job, true, "");
}

static const char *no_failover(enum role_state state)
{
	switch (state) {
	case ROLE_STANDBY:
		return "the primary lives: run `colo-proxy failover` there for a planned "
		       "switch-over";
	case ROLE_TAKING_OVER:
		return "it takes over already: `colo-proxy status` says what it waits for";
	default:
		return "there is nothing to fail over";
	}
}

static void do_failover(void *arg)
{
	struct node_job *job = arg;
	struct node *node = job->node;
	enum role_state state = node->role.state;

	if (node->is_primary && state == ROLE_PROTECTED && !node_proxies(node)) {
		job->done(job, false, "QEMU's own comparator has no planned switch-over");
		return;
	}
	if (node->is_primary && state == ROLE_PROTECTED) {
		primary_handover(node, job);
		return;
	}
	if (node->is_primary && job->force && primary_force_boot(node)) {
		job->done(job, true, "");
		return;
	}
	if (state != ROLE_STUCK && state != ROLE_DECIDING && !node->role.handed) {
		job->done(job, false, no_failover(state));
		return;
	}
	if (!job->force) {
		job->done(job, false,
		          "the peer may still speak: make sure that it is off, then use "
		          "--force");
		return;
	}
	node->takeover.detected_ns = node->takeover.fenced_ns = node_realtime();
	node_role(node, ROLE_EV_FORCE);
	job->done(job, true, "");
}

static void do_goodbye(void *arg)
{
	struct node_job *job = arg;
	struct node *node = job->node;

	if (!node->link) {
		job->done(job, true, "");
		return;
	}
	if (node->is_primary) {
		node_send(node, LINK_FAST, MSG_UNPROTECT, 0, "stopped by the operator", 23);
	} else if (node->role.state != ROLE_ALONE) {
		node_send(node, LINK_FAST, MSG_REFUSED, 0, "stopped by the operator", 23);
		/* The peer speaks then: a takeover that is on, or comes yet, has no copy (R6). */
		node_role(node, ROLE_EV_VM_LOST);
	}
	link_flush(node->link);
	job->done(job, true, "");
}

void node_checkpoint(struct node *node, struct node_job *job)
{
	node_post_job(node, job, do_checkpoint);
}

void node_failover(struct node *node, struct node_job *job)
{
	node_post_job(node, job, do_failover);
}

void node_say_goodbye(struct node *node, struct node_job *job)
{
	node_post_job(node, job, do_goodbye);
}
