/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The secondary's side of the node: theory of operation
 *
 * Standing by. The SVM's tap is on no bridge and the hold is mute, so that nothing it says can
 * leave the host. What it says becomes digests; what the PVM hears is fed to it, mapped.
 *
 * The input log. Input comes numbered. It is fed to the lineage that runs, and kept as long as a
 * checkpoint to come could be older than it: C(j) says how much of the input is in it, and what is
 * not is fed (again) to lineage j (R5). Only what the PVM has taken while it was in the epoch of
 * the lineage that runs here can be in every later checkpoint, and is forgotten.
 *
 * A checkpoint is buffered whole, its length and hash are checked, and then it is committed: the
 * primary is told, and whatever happens to it from then on, the SVM continues from no older state
 * (R3, R4). Then it is loaded:
 *   the SVM stands still      vm_stopped(): what it said is read as the old lineage's; input that
 *                             it has not taken is thrown away; the new lineage begins
 *   the SVM runs              vm_loaded(): input from the cut on is fed
 *
 * A checkpoint whose epoch is not compared is kept and not loaded: node_still.c.
 *
 * Taking over: finish a load of what is committed, leave COLO, connect the tap to the bridge, hear
 * what the clients say through the intercept (mapped), speak (mapped), announce the address. What
 * the VM says meanwhile is kept in order and said then. A checkpoint that came half is as if it
 * never was.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "colo-proxy/control/log.h"
#include "colo-proxy/datapath/tapdev.h"
#include "colo-proxy/node/node_private.h"
#include "qemu-glue/tcg_flush.h"

#define BACKLOG_MAX (16u << 20)
/* Of what is kept of a VM that stands still: its memory, heads of records, QEMU's own blocks */
#define IMAGE_LIMIT(mib) ((size_t)((mib) << 20) + (size_t)((mib) << 13) + 2 * CKPT_EXTRA)
#define LOAD_DRAIN_NS    (2 * MS)
#define LOAD_LOOK_NS     (MS / 10)
#define PROTECT_HEAD_LEN (4 + sizeof(struct packet_digest_key))

static struct secondary *of(struct node *node)
{
	return &node->s;
}

static void give_up(struct node *node, const char *why)
{
	log_error("the copy of the VM: %s", why);
	node_send(node, LINK_FAST, MSG_REFUSED, 0, why, strlen(why));
	link_flush(node->link);
	node_role(node, ROLE_EV_COPY_FAILED);
}

/* The lineage cannot go on: the copy is worthless, and the primary goes on without one. */
static void copy_broken(struct node *node, const char *why)
{
	if (node->role.state == ROLE_JOINING) {
		give_up(node, why);
		return;
	}
	log_error("the copy of the VM is lost: %s", why);
	node_role(node, ROLE_EV_VM_LOST);
}

/* ---- what the SVM says ---- */

static void shadow_digest(void *ctx, uint32_t lineage, const struct digest *digest)
{
	struct node *node = ctx;
	struct secondary *s = of(node);

	(void)lineage; /* flushed before it changes */
	s->batch_len += digest_pack(s->batch + s->batch_len, digest);
	s->batch_count++;
	if (sizeof(s->batch) - s->batch_len < DIGEST_WIRE_MAX)
		secondary_flush_digests(node);
}

static const struct shadow_ops shadow_operations = {
        .digest = shadow_digest,
        .refeed = secondary_refeed,
};

void secondary_flush_digests(struct node *node)
{
	struct secondary *s = of(node);

	if (!s->batch_len)
		return;
	if (node_send(node, LINK_FAST, MSG_DIGEST, s->lineage, s->batch, s->batch_len) != 0)
		s->digests_lost += s->batch_count;
	s->batch_len = s->batch_count = 0;
}

static void keep_output(struct node *node, struct frame *frame)
{
	struct secondary *s = of(node);

	if (s->backlog.bytes + frame->len > BACKLOG_MAX) {
		node->discarded_packets++;
		hold_discard(node->hold, frame);
		return;
	}
	frame_queue_push(&s->backlog, frame);
}

void secondary_speak(struct node *node, struct frame *frame)
{
	shadow_translate(node->shadow, frame, node_steady(node));
	node_release(node, frame, true);
}

void secondary_output(struct node *node, struct frame *frame)
{
	struct secondary *s = of(node);

	switch (node->role.state) {
	case ROLE_JOINING:
		if (!node->shadow)
			break;
		keep_output(node, frame); /* until the primary has begun epoch 0 */
		return;
	case ROLE_TAKING_OVER:
		if (s->ckpt_whole || s->kept)
			break; /* a lineage that is about to be replaced */
		keep_output(node, frame);
		return;
	case ROLE_STANDBY:
	case ROLE_DECIDING:
	case ROLE_STUCK:
		shadow_output(node->shadow, frame, node_steady(node));
		secondary_keep(node, frame);
		return;
	default:
		break;
	}
	hold_discard(node->hold, frame);
}

/* ---- the migration socket ---- */

void secondary_close_svm(struct node *node)
{
	struct secondary *s = of(node);

	if (s->svm.added) {
		loop_del(node->loop, &s->svm);
		close(s->svm.fd);
	}
	relay_secondary_free(s->relay);
	s->relay = NULL;
	free(s->stream);
	s->stream = NULL;
	s->stream_len = s->stream_done = 0;
}

void secondary_svm_failed(struct node *node, const char *why)
{
	char text[200];

	snprintf(text, sizeof(text), "the migration channel of the SVM's QEMU: %s", why);
	secondary_close_svm(node);
	copy_broken(node, text);
}

static void write_svm(struct node *node)
{
	struct secondary *s = of(node);
	const uint8_t *ptr;
	size_t len;

	while (s->relay) {
		ssize_t n;

		relay_secondary_pending(s->relay, &ptr, &len);
		if (!len)
			break;
		n = send(s->svm.fd, ptr, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
			loop_set_events(node->loop, &s->svm, EPOLLIN | EPOLLOUT);
			return;
		}
		if (n < 0) {
			secondary_svm_failed(node, strerror(errno));
			return;
		}
		relay_secondary_wrote(s->relay, (size_t)n);
	}
	if (s->relay)
		loop_set_events(node->loop, &s->svm, EPOLLIN);
}

/* The socket did not take everything: EPOLLOUT calls again. */
static bool svm_blocked(struct node *node)
{
	const uint8_t *ptr;
	size_t len = 0;

	if (of(node)->relay)
		relay_secondary_pending(of(node)->relay, &ptr, &len);
	return len > 0;
}

/* Gives the relay what it did not take of the initial stream. */
static void push_stream(struct node *node)
{
	struct secondary *s = of(node);

	while (s->relay && s->stream_done < s->stream_len) {
		ssize_t n = relay_secondary_from_peer(s->relay, s->stream + s->stream_done,
		                                      s->stream_len - s->stream_done);

		if (n < 0) {
			secondary_svm_failed(node,
			                     "the primary sent stream bytes after the stream");
			return;
		}
		s->stream_done += (size_t)n;
		write_svm(node);
		if (svm_blocked(node))
			return; /* until the socket takes more */
	}
	if (s->stream && s->stream_done == s->stream_len) {
		free(s->stream);
		s->stream = NULL;
		s->stream_len = s->stream_done = 0;
		link_pause(node->link, LINK_BULK, false);
	}
}

static void stream_arrived(struct node *node, const uint8_t *payload, size_t len)
{
	struct secondary *s = of(node);
	ssize_t n;

	if (!s->relay || s->stream) {
		link_drop(node->link, "stream bytes that nobody asked for");
		return;
	}
	n = relay_secondary_from_peer(s->relay, payload, len);
	if (n < 0) {
		secondary_svm_failed(node, "the primary sent stream bytes after the stream");
		return;
	}
	if ((size_t)n < len) {
		s->stream = malloc(len - (size_t)n);
		if (!s->stream) {
			secondary_svm_failed(node, "no memory for the stream");
			return;
		}
		s->stream_len = len - (size_t)n;
		memcpy(s->stream, payload + n, s->stream_len);
		link_pause(node->link, LINK_BULK, true);
	}
	write_svm(node);
	push_stream(node);
}

static void svm_ready(void *ctx, uint32_t events)
{
	struct node *node = ctx;
	struct secondary *s = of(node);

	if (events & EPOLLOUT) {
		write_svm(node);
		push_stream(node);
	}
	while (s->relay && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
		uint8_t *ptr;
		size_t len;
		ssize_t n;

		if (relay_secondary_want(s->relay, &ptr, &len) < 0) {
			secondary_svm_failed(node, relay_secondary_error(s->relay));
			return;
		}
		n = recv(s->svm.fd, ptr, len, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n <= 0) {
			secondary_svm_failed(node, n == 0 ? "closed by QEMU" : strerror(errno));
			return;
		}
		if (relay_secondary_got(s->relay, (size_t)n, loop_clock()) < 0) {
			secondary_svm_failed(node, relay_secondary_error(s->relay));
			return;
		}
		if (s->relay)
			write_svm(node);
	}
}

/* ---- the relay's operations ---- */

static int stream_back(void *ctx, const uint8_t *data, size_t len)
{
	return node_send(ctx, LINK_FAST, MSG_STREAM_BACK, 0, data, len);
}

static void vm_running(void *ctx, uint64_t now)
{
	struct node *node = ctx;

	(void)now;
	shadow_lineage(node->shadow, 0);
	node_send(node, LINK_FAST, MSG_RUNNING, 0, NULL, 0);
	link_flush(node->link);
}

/* The lineage of the checkpoint in the buffer takes the place of the one before it. */
void secondary_begin_lineage(struct node *node)
{
	struct secondary *s = of(node);

	s->lineage = (uint32_t)s->ckpt.epoch;
	map_begins(node);
	shadow_lineage(node->shadow, s->lineage);
}

static void vm_stopped(void *ctx, uint64_t now)
{
	struct node *node = ctx;
	struct secondary *s = of(node);

	s->load_started = now;
	node_drain_hold(node);
	secondary_empty_tap(node);
	secondary_begin_lineage(node);
	if (s->flush)
		tcg_flush_bump(s->flush);
	if (s->kept)
		still_stopped(node);
}

/* What is in the checkpoint in the buffer is not fed any more. */
void secondary_cut_log(struct node *node)
{
	struct secondary *s = of(node);

	while (s->log.head && s->log.head->index < s->input_cut)
		input_log_pop(&s->log);
	s->next_to_feed = s->log.head;
	s->consumed = s->lineage_cut = s->input_cut;
}

static void vm_loaded(void *ctx, struct ckpt *ckpt, uint64_t now)
{
	struct node *node = ctx;
	struct secondary *s = of(node);
	uint8_t payload[8];

	if (s->flush)
		tcg_flush_settle(s->flush);
	s->loads++;
	hist_add(&node->load_hist, now - s->load_started);
	if (ckpt == &s->ckpt) {
		s->ckpt_whole = s->loading = false;
		ckpt_buf_reset(&s->ckpt.buf);
		secondary_cut_log(node);
	} else {
		still_loaded(node);
	}
	if (s->taking_over)
		node->takeover.load_ns = now - s->load_started;
	s->feeding = true;
	s->behind_since = now;
	u64_pack(payload, now - s->load_started);
	if (link_is_up(node->link)) {
		node_send(node, LINK_FAST, MSG_LOADED, s->lineage, payload, sizeof(payload));
		link_flush(node->link);
	}
	secondary_feed(node);
	if (s->taking_over)
		secondary_leave_colo(node);
}

static const struct relay_secondary_ops relay_operations = {
        .back = stream_back,
        .running = vm_running,
        .stopped = vm_stopped,
        .loaded = vm_loaded,
};

/* ---- joining ---- */

/* Reads PROTECT's head. What is wrong is said to the primary or ends the session. */
bool secondary_has_same_vm(struct node *node, const uint8_t *payload, size_t len)
{
	char text[400];
	uint32_t mib;

	if (len < PROTECT_HEAD_LEN) {
		link_drop(node->link, "a PROTECT message that is too short");
		return false;
	}
	mib = (uint32_t)payload[0] << 24 | (uint32_t)payload[1] << 16 | (uint32_t)payload[2] << 8 |
	      payload[3];
	if (mib != node->config->memory_mib || len - PROTECT_HEAD_LEN != strlen(node->machine) ||
	    memcmp(payload + PROTECT_HEAD_LEN, node->machine, len - PROTECT_HEAD_LEN) != 0) {
		snprintf(text, sizeof(text),
		         "the VM is another one here: here \"%s\", %lu MiB; on the primary "
		         "\"%.*s\", "
		         "%u MiB. Make [vm] the same in both configurations",
		         node->machine, (unsigned long)node->config->memory_mib,
		         (int)(len - PROTECT_HEAD_LEN < 120 ? len - PROTECT_HEAD_LEN : 120),
		         (const char *)payload + PROTECT_HEAD_LEN, mib);
		give_up(node, text);
		return false;
	}
	return true;
}

static void protect_asked(struct node *node, const uint8_t *payload, size_t len)
{
	if (node->role.state != ROLE_JOINING || node->shadow) {
		link_drop(node->link, "protection was asked for twice");
		return;
	}
	if (!secondary_has_same_vm(node, payload, len))
		return;
	memcpy(&node->digest_key, payload + 4, sizeof(node->digest_key));
	if (shadow_new(&node->shadow, (uint32_t)node->config->max_flows, &node->digest_key,
	               &shadow_operations, node) < 0 ||
	    primary_new_core(node) < 0) {
		give_up(node, "no memory");
		return;
	}
	if (decode_begin_session(node) < 0) {
		give_up(node, "no memory for the page cache");
		return;
	}
	if (node->config->recent_output_bytes &&
	    recent_new(&of(node)->recent, node->config->recent_output_bytes) < 0)
		log_warn("no memory for the VM's recent output: divergences are shown without it");
	secondary_empty_tap(node);
	of(node)->starts++;
	node->ops->order(node->ctx, ORDER_START_SECONDARY, "");
}

static int connect_svm(struct node *node)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int size = 4 << 20;
	int r;

	if (fd < 0)
		return -errno;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", node->incoming_path);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	r = relay_secondary_new(&of(node)->relay, &relay_operations, node);
	if (r == 0)
		r = loop_add(node->loop, &of(node)->svm, fd, EPOLLIN, svm_ready, node);
	if (r < 0)
		close(fd);
	return r;
}

/*
 * What the primary says of itself. In another session than the one that made the copy, the lineage
 * is broken: the primary goes on if it has its VM, and if it has none, the copy is the VM.
 */
void secondary_heard(struct node *node, uint32_t epoch, const struct heartbeat *heartbeat)
{
	struct secondary *s = of(node);

	bool has_vm = heartbeat->primary && heartbeat->state != ROLE_WAITING &&
	              heartbeat->state != ROLE_RETIRED;

	secondary_consumed(node, epoch, heartbeat->consumed);
	if (has_vm)
		role_heard_term(&node->role, heartbeat->term);
	if (s->joined_here)
		return;
	if (!has_vm)
		s->yielded = true;
	node_role(node, has_vm ? ROLE_EV_PEER_LIVES : ROLE_EV_PEER_YIELDED);
}

void secondary_say_ready(struct node *node, uint32_t flags)
{
	uint8_t ready[READY_WIRE_LEN];

	ready_pack(ready, flags);
	node_send(node, LINK_FAST, MSG_READY, 0, ready, sizeof(ready));
	link_flush(node->link);
}

void secondary_vm_ready(struct node *node, bool ok, const char *text)
{
	int r;

	/* The answer to an order of an earlier attempt is about a QEMU that the next one ends. */
	if (of(node)->starts)
		of(node)->starts--;
	if (of(node)->starts || !node->shadow || node->role.state != ROLE_JOINING)
		return;
	if (!ok) {
		give_up(node, text);
		return;
	}
	of(node)->vm_up = true;
	r = connect_svm(node);
	if (r < 0) {
		char words[160];

		snprintf(words, sizeof(words), "cannot connect to the SVM's QEMU at %s: %s",
		         node->incoming_path, strerror(-r));
		give_up(node, words);
		return;
	}
	secondary_say_ready(node, decode_ready(node));
}

static void epoch_0_begins(struct node *node, const uint8_t *payload, size_t len)
{
	struct secondary *s = of(node);
	struct frame *frame;

	if (len != 8 || node->role.state != ROLE_JOINING || !s->relay) {
		link_drop(node->link, "an epoch that begins without a copy");
		return;
	}
	s->lineage = 0;
	s->yielded = false;
	s->input_cut = s->lineage_cut = u64_unpack(payload);
	replay_in_begin(&node->replay_in, node->config->replay_bytes);
	s->feeding = true;
	map_begins(node);
	node->committed_epoch = 0;
	node->takeover = (struct status_takeover){0};
	node_role(node, ROLE_EV_LINEAGE_0);
	while ((frame = frame_queue_pop(&s->backlog)))
		secondary_output(node, frame);
	secondary_flush_digests(node);
}

/* ---- checkpoints ---- */

static void begin_arrived(struct node *node, uint32_t epoch, const uint8_t *payload, size_t len)
{
	struct secondary *s = of(node);

	if (len != 24 || node->role.state != ROLE_STANDBY || s->ckpt_open || s->ckpt_whole ||
	    s->delivering || epoch != s->lineage + 1 || u64_unpack(payload) > s->ckpt.buf.limit) {
		link_drop(node->link, "a checkpoint that is out of turn or too large");
		return;
	}
	ckpt_buf_reset(&s->ckpt.buf);
	s->ckpt.epoch = epoch;
	s->ckpt_size = u64_unpack(payload);
	s->input_cut = u64_unpack(payload + 8);
	s->keep = u64_unpack(payload + 16) & CKPT_KEEP_FLAG;
	s->ckpt_open = true;
	s->map_open = s->map_whole = false;
	replay_in_ckpt(&node->replay_in, epoch);
	decode_begin(node);
}

static void data_arrived(struct node *node, uint8_t type, uint32_t epoch, const uint8_t *payload,
                         size_t len)
{
	struct secondary *s = of(node);

	if (!s->ckpt_open || epoch != s->ckpt.epoch)
		link_drop(node->link, "a part of a checkpoint that did not begin");
	else if (type == MSG_CKPT_FILL)
		decode_fill(node, payload, len);
	else
		decode_block(node, payload, len);
}

/*
 * What the SVM's tap holds is left to it to take, for a moment, and then thrown away: QEMU takes
 * one more frame after it has stopped the VM and would give it to the new lineage (node_cut.c).
 */
static void load_due(void *ctx, uint64_t now)
{
	struct node *node = ctx;
	struct secondary *s = of(node);

	if (!s->relay || !s->loading)
		return;
	if (tapdev_pending(node->tap_fd) && now < s->load_deadline) {
		loop_timer_set(node->loop, &s->load_timer, now + LOAD_LOOK_NS);
		return;
	}
	secondary_empty_tap(node);
	if (!s->kept) {
		secondary_load_into_svm(node, &s->ckpt);
		return;
	}
	if (relay_secondary_stop(s->relay) == 0)
		write_svm(node);
}

void secondary_load_into_svm(struct node *node, struct ckpt *ckpt)
{
	struct secondary *s = of(node);

	if (relay_secondary_load(s->relay, ckpt) < 0)
		secondary_svm_failed(node, relay_secondary_error(s->relay));
	else
		write_svm(node);
}

/* The SVM stops; unless its state is only kept, it runs on in the checkpoint. */
void secondary_load(struct node *node)
{
	struct secondary *s = of(node);
	uint64_t now = loop_clock();

	if (!s->ckpt_whole || s->loading)
		return;
	s->loading = true;
	s->feeding = false;
	s->load_deadline = now + LOAD_DRAIN_NS;
	load_due(node, now);
}

static void end_arrived(struct node *node, uint32_t epoch, const uint8_t *payload, size_t len)
{
	struct secondary *s = of(node);
	uint8_t committed[COMMITTED_WIRE_LEN];
	uint32_t looked, alike;

	if (len != 16 || !s->ckpt_open || epoch != s->ckpt.epoch || s->map_open) {
		link_drop(node->link, "the end of a checkpoint that did not begin");
		return;
	}
	s->ckpt_open = false;
	if (!decode_is_whole(node, payload)) {
		link_drop(node->link, "a checkpoint that is not what its end says");
		return;
	}
	s->ckpt_whole = true;
	node->committed_epoch = epoch;
	replay_in_commit(&node->replay_in);
	decode_looked(node, &looked, &alike);
	committed_pack(committed, looked, alike);
	node_send(node, LINK_FAST, MSG_COMMITTED, epoch, committed, sizeof(committed));
	link_flush(node->link);
	if (s->keep || s->kept)
		still_take(node);
	else
		secondary_load(node);
}

void secondary_stop_copy(struct node *node)
{
	struct secondary *s = of(node);

	secondary_stop_timers(node);
	s->consumed = s->lineage_cut = 0;
	secondary_close_svm(node);
	input_log_clear(&s->log);
	s->next_to_feed = NULL;
	frame_queue_clear(&s->backlog);
	ckpt_buf_reset(&s->ckpt.buf);
	decode_stop(node);
	s->ckpt_open = s->ckpt_whole = s->loading = s->feeding = false;
	s->taking_over = false;
	still_clear(node);
	replay_in_begin(&node->replay_in, 0);
	s->batch_len = s->batch_count = 0;
	s->lineage = 0;
	secondary_forget(node);
	map_clear(node);
	shadow_free(node->shadow);
	node->shadow = NULL;
	gate_free(node->gate);
	node->gate = NULL;
	if (s->vm_up)
		node->ops->order(node->ctx, ORDER_KILL_VM, "the copy is worthless");
	s->vm_up = false;
}

/* ---- messages ---- */

static void handover_arrived(struct node *node, uint32_t epoch, size_t len)
{
	if (len != 8 || epoch > node->committed_epoch) {
		link_drop(node->link, "a handover to a checkpoint that is not committed");
		return;
	}
	node_event(node, "the primary hands over");
	node->takeover.detected_ns = node->takeover.fenced_ns = node_realtime();
	of(node)->yielded = true;
	node_role(node, ROLE_EV_PEER_YIELDED);
}

static void flow_open_arrived(struct node *node, uint32_t epoch, const uint8_t *payload, size_t len)
{
	struct flow_open open;

	if (flow_open_unpack(&open, payload, len) != 0) {
		link_drop(node->link, "a FLOW_OPEN of the wrong length");
		return;
	}
	shadow_flow_open(node->shadow, epoch, &open, node_steady(node));
	secondary_flush_digests(node);
}

static void ts_lead_arrived(struct node *node, uint32_t epoch, const uint8_t *payload, size_t len)
{
	if (len != 4) {
		link_drop(node->link, "a TS_LEAD of the wrong length");
		return;
	}
	shadow_ts_lead(node->shadow, epoch,
	               (uint32_t)payload[0] << 24 | (uint32_t)payload[1] << 16 |
	                       (uint32_t)payload[2] << 8 | payload[3]);
}

/* Messages that only make sense while there is a copy. */
static void copy_message(struct node *node, uint8_t type, uint32_t epoch, const uint8_t *payload,
                         size_t len)
{
	switch (type) {
	case MSG_STREAM:
		stream_arrived(node, payload, len);
		return;
	case MSG_START:
		epoch_0_begins(node, payload, len);
		return;
	case MSG_INPUT:
		secondary_input(node, payload, len);
		return;
	case MSG_FLOW_OPEN:
		flow_open_arrived(node, epoch, payload, len);
		return;
	case MSG_TS_LEAD:
		ts_lead_arrived(node, epoch, payload, len);
		return;
	case MSG_CKPT_BEGIN:
		begin_arrived(node, epoch, payload, len);
		return;
	case MSG_CKPT_DATA:
	case MSG_CKPT_FILL:
		data_arrived(node, type, epoch, payload, len);
		return;
	case MSG_CKPT_END:
		end_arrived(node, epoch, payload, len);
		return;
	case MSG_ASK:
		secondary_asked(node, epoch, payload, len);
		return;
	case MSG_CUT_ASK:
		secondary_asked_to_cut(node, epoch, payload, len);
		return;
	case MSG_MAP:
		map_arrived(node, payload, len);
		return;
	case MSG_REPLAY:
		secondary_replay_arrived(node, epoch, payload, len);
		return;
	case MSG_RELEASED:
		secondary_released(node, epoch, len);
		return;
	case MSG_HANDOVER:
		handover_arrived(node, epoch, len);
		return;
	default:
		link_drop(node->link, "a message that a primary does not send");
	}
}

void secondary_message(struct node *node, uint8_t type, uint32_t epoch, const uint8_t *payload,
                       size_t len)
{
	switch (type) {
	case MSG_PROTECT:
		protect_asked(node, payload, len);
		return;
	case MSG_UNPROTECT:
		node_peer_unprotects(node, payload, len);
		return;
	default:
		break;
	}
	/* What was on its way when the copy was given up or the VM became this side's. */
	if (!node->shadow || node->role.state == ROLE_TAKING_OVER)
		return;
	/*
	 * The session of the copy is over, and this side may go on with it: the primary's input and
	 * checkpoints of another session are not this lineage's.
	 */
	if (!node->s.joined_here && type != MSG_HANDOVER)
		return;
	copy_message(node, type, epoch, payload, len);
}

/* ---- set-up ---- */

void secondary_init_timers(struct node *node)
{
	struct secondary *s = of(node);

	s->feed_timer = (struct loop_timer){.fire = secondary_feed_due, .ctx = node};
	s->load_timer = (struct loop_timer){.fire = load_due, .ctx = node};
	s->still_timer = (struct loop_timer){.fire = still_due, .ctx = node};
	s->refeed_timer = (struct loop_timer){.fire = secondary_refeed_due, .ctx = node};
	s->announce_timer = (struct loop_timer){.fire = secondary_announce_due, .ctx = node};
	s->expire_timer = (struct loop_timer){.fire = map_expire_due, .ctx = node};
	s->live_timer = (struct loop_timer){.fire = secondary_live_due, .ctx = node};
}

void secondary_stop_timers(struct node *node)
{
	struct secondary *s = of(node);

	loop_timer_clear(node->loop, &s->feed_timer);
	loop_timer_clear(node->loop, &s->refeed_timer);
	loop_timer_clear(node->loop, &s->load_timer);
	loop_timer_clear(node->loop, &s->still_timer);
	loop_timer_clear(node->loop, &s->live_timer);
}

int secondary_init(struct node *node, char *err, size_t errlen)
{
	struct secondary *s = of(node);
	int r = ckpt_buf_init(&s->ckpt.buf, CKPT_LIMIT(node->config->memory_mib), CKPT_KEEP);

	if (r == 0)
		r = image_new(&s->image, IMAGE_LIMIT(node->config->memory_mib));
	if (r < 0) {
		snprintf(err, errlen, "no memory for a checkpoint of %lu MiB",
		         (unsigned long)node->config->memory_mib);
		return r;
	}
	secondary_init_timers(node);
	return inject_open(node->tap, (uint32_t)node->config->mark, 0, &node->inject, err, errlen);
}

void secondary_fini(struct node *node)
{
	struct secondary *s = of(node);

	if (node->loop)
		secondary_close_svm(node);
	if (node->hold)
		secondary_forget(node);
	input_log_clear(&s->log);
	frame_queue_clear(&s->backlog);
	ckpt_buf_fini(&s->ckpt.buf);
	image_free(s->image);
	s->image = NULL;
	map_clear(node);
	replay_in_begin(&node->replay_in, 0);
	shadow_free(node->shadow);
	node->shadow = NULL;
}
