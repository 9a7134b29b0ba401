/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The primary's side of the node: theory of operation
 *
 * The PVM's QEMU migrates to a unix socket of ours and believes that the secondary's QEMU is at the
 * other end (kvm/relay_primary.h). A checkpoint goes like this:
 *
 *   something asks (the gate, the epoch timer, the operator)      primary_want()
 *   QEMU is told to                                               ORDER_CHECKPOINT
 *   QEMU asks: REQUEST. The last checkpoint must be loaded by     primary_answer_request()
 *     the SVM first: back-pressure, the PVM runs meanwhile
 *   the PVM stands still                                          primary_vm_stopped()
 *     all that it said is taken from the hold, tagged with the epoch that ends; the mirror says
 *     which input it has taken; the next epoch begins
 *   its state is in the buffer: the PVM runs on                   primary_vm_captured()
 *   the buffer goes, encoded, over the bulk channel               primary_pump_checkpoint()
 *   the secondary has it whole: what was held before goes out     COMMITTED
 *   the SVM runs from it                                          LOADED
 *
 * One checkpoint is in flight at most, which bounds memory here and on the secondary to one buffer
 * each, and is what the gate's two views for each flow count on.
 *
 * Input is copied to the secondary as it enters the VM's tap, numbered. When the link does not take
 * it, it waits in a bounded queue; when that is full, input is lost for the lineage, which is then
 * given up (gate_break): a checkpoint makes the next one whole.
 */
#include <errno.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <xxhash.h>

#include "colo-proxy/control/log.h"
#include "colo-proxy/node/node_private.h"

#define STREAM_CHUNK_MAX (64u << 10)
#define READ_BUDGET      (4u << 20) /* bytes of one turn from the migration socket */
#define START_POLL_NS    (1 * MS)
#define COPY_PAUSE_NS    (500 * MS)
#define READ_RETRY_NS    (1 * MS)    /* the link has no room for the first copy */
#define CHANNEL_WAIT_NS  (1000 * MS) /* for the news that QEMU has died */
#define RCVBUF           (4u << 20)
#define DIGEST_BATCH     64u

static struct primary *of(struct node *node)
{
	return &node->p;
}

/* ---- the gate's operations ---- */

static void gate_release(void *ctx, struct frame *frame, const struct packet *packet,
                         enum release_why why, uint64_t held_ns)
{
	struct node *node = ctx;

	/* packet is of the frame as the VM said it, and is not used once that is translated. */
	if (why == RELEASE_MATCH || why == RELEASE_COMMIT) {
		hist_add(&node->hold_hist[packet->class], held_ns);
		pacer_released(&node->pacer, held_ns);
	}
	if (node->shadow)
		shadow_translate(node->shadow, frame, node_steady(node));
	node_release(node, frame, node->shadow != NULL);
}

static void gate_request(void *ctx, const struct divergence *why)
{
	struct node *node = ctx;

	char flow[FLOW_KEY_TEXT_LEN];

	log_debug("epoch %u: checkpoint wanted (%s): %s, %s, seq %u, wanted %u, seen %u",
	          why->epoch, ckpt_cause_name(why->cause), why->what,
	          flow_key_text(&why->key, flow, sizeof(flow)), why->seq, why->wanted, why->seen);
	primary_want(node, why->cause);
	node_note_divergence(node, why);
}

static void gate_flow_open(void *ctx, uint32_t epoch, const struct flow_open *open)
{
	uint8_t payload[FLOW_OPEN_WIRE_MAX];
	size_t len = flow_open_pack(payload, open);

	map_flow_open(ctx, open);
	node_send(ctx, LINK_FAST, MSG_FLOW_OPEN, epoch, payload, len);
}

static void gate_ts_lead(void *ctx, uint32_t epoch, uint32_t ticks)
{
	uint8_t payload[4] = {ticks >> 24, (uint8_t)(ticks >> 16), (uint8_t)(ticks >> 8),
	                      (uint8_t)ticks};

	node_send(ctx, LINK_FAST, MSG_TS_LEAD, epoch, payload, sizeof(payload));
}

static void gate_cut_range(void *ctx, uint32_t epoch, const struct digest *said, uint32_t at)
{
	struct node *node = ctx;
	uint8_t payload[CUT_ASK_WIRE_MAX];
	struct iovec iov = {.iov_base = payload, .iov_len = cut_ask_pack(payload, said, at)};

	/* A full link is why the range waits; and after a hand-over the peer is no secondary. */
	if (node->role.state == ROLE_PROTECTED)
		(void)link_send(node->link, LINK_FAST, MSG_CUT_ASK, epoch, &iov, 1);
}

static const struct gate_ops gate_operations = {
        .release = gate_release,
        .request = gate_request,
        .flow_open = gate_flow_open,
        .ts_lead = gate_ts_lead,
        .cut = gate_cut_range,
};

/* Late packets, and reading on when there is room again. */
void primary_rearm_gate(struct node *node)
{
	uint64_t now = node_steady(node), due = gate_tick(node->gate, now);
	bool room =
	        gate_has_room(node->gate) && node->unreleased.bytes < node->config->max_held_bytes;

	if (due == UINT64_MAX)
		loop_timer_clear(node->loop, &of(node)->gate_timer);
	else
		node_arm(node, &of(node)->gate_timer, due > now ? due - now : 0);
	for (int i = 0; i < node->hold_sources; i++)
		loop_set_events(node->loop, &node->hold_source[i], room ? EPOLLIN : 0);
}

static void gate_due(void *ctx, uint64_t now)
{
	(void)now;
	primary_rearm_gate(ctx);
}

void primary_output(struct node *node, struct frame *frame)
{
	if (of(node)->silent || node->role.state == ROLE_RETIRED) {
		node->discarded_packets++;
		hold_discard(node->hold, frame);
		return;
	}
	gate_output(node->gate, frame, node_steady(node));
	if (!node->pacer.output && gate_epoch_has_output(node->gate)) {
		pacer_output(&node->pacer);
		primary_pace(node);
	}
}

static int forward_stream(void *ctx, const uint8_t *data, size_t len)
{
	struct node *node = ctx;
	struct iovec iov = {.iov_base = (void *)data, .iov_len = len};

	return link_send(node->link, LINK_BULK, MSG_STREAM, 0, &iov, 1);
}

static const struct relay_primary_ops relay_operations = {
        .forward = forward_stream,
        .requested = primary_vm_requested,
        .stopped = primary_vm_stopped,
        .captured = primary_vm_captured,
};

/* ---- the migration socket ---- */

static void close_pvm(struct node *node)
{
	struct primary *p = of(node);

	loop_timer_clear(node->loop, &p->start_timer);
	loop_timer_clear(node->loop, &p->read_timer);
	loop_timer_clear(node->loop, &p->trigger_timer);
	loop_timer_clear(node->loop, &p->epoch_timer);
	loop_timer_clear(node->loop, &p->dirty_timer);
	if (p->pvm.added) {
		loop_del(node->loop, &p->pvm);
		close(p->pvm.fd);
	}
	primary_calm(node);
	relay_primary_free(p->relay);
	p->relay = NULL;
	cut_end(node);
	encode_stop(node);
	p->wanted = p->triggered = p->in_flight = p->sending = false;
	pacer_end(&node->pacer);
	dirty_rate_end(&node->dirty);
}

/* The channel to the PVM's QEMU is of no use any more: the VM goes on, unprotected, if it may. */
static void pvm_failed(struct node *node, const char *why)
{
	if (node->role.state == ROLE_RETIRED) {
		close_pvm(node); /* its QEMU has been ended */
		return;
	}
	log_error("the migration channel of the VM's QEMU: %s", why);
	if (node->role.state == ROLE_JOINING) {
		node_role(node, ROLE_EV_COPY_FAILED);
		return;
	}
	close_pvm(node);
	if (node->role.state == ROLE_PROTECTED)
		node_arm(node, &of(node)->channel_timer, CHANNEL_WAIT_NS);
}

/*
 * A channel that closes mostly says that QEMU has died, which the control thread learns a moment
 * later (ROLE_EV_VM_LOST): then the secondary is given the right to speak, and needs the session
 * for that. A QEMU that lives on without its channel can only be unprotected: the session ends, the
 * secondary yields when the link is up again or is fenced.
 */
static void channel_lost(void *ctx, uint64_t now)
{
	struct node *node = ctx;

	(void)now;
	if (node->role.state == ROLE_PROTECTED && !of(node)->relay)
		link_drop(node->link, "the primary lost its QEMU's migration channel");
}

void primary_write_pvm(struct node *node)
{
	struct primary *p = of(node);
	const uint8_t *ptr;
	size_t len;

	while (p->relay) {
		ssize_t n;

		relay_primary_pending(p->relay, &ptr, &len);
		if (!len)
			break;
		n = send(p->pvm.fd, ptr, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
			loop_set_events(node->loop, &p->pvm, p->pvm.events | EPOLLOUT);
			return;
		}
		if (n < 0) {
			pvm_failed(node, strerror(errno));
			return;
		}
		relay_primary_wrote(p->relay, (size_t)n);
	}
	if (p->relay)
		loop_set_events(node->loop, &p->pvm, p->pvm.events & ~(uint32_t)EPOLLOUT);
}

/* In the first copy, only as much is read as the link takes. */
static bool may_read(const struct node *node)
{
	const struct primary *p = &node->p;

	if (relay_primary_phase(p->relay) != RELAY_PRIMARY_INITIAL)
		return true;
	return link_queued(node->link, LINK_BULK) + 2 * STREAM_CHUNK_MAX <
	       node->config->link_buffer_bytes / 2;
}

static void read_pvm(struct node *node)
{
	struct primary *p = of(node);
	size_t budget = READ_BUDGET;

	while (p->relay && budget) {
		uint8_t *ptr;
		size_t len;
		ssize_t n;
		int r;

		if (!may_read(node)) {
			loop_set_events(node->loop, &p->pvm, p->pvm.events & ~(uint32_t)EPOLLIN);
			node_arm(node, &p->read_timer, READ_RETRY_NS);
			return;
		}
		r = relay_primary_want(p->relay, &ptr, &len);
		if (r < 0) {
			pvm_failed(node, relay_primary_error(p->relay));
			return;
		}
		if (relay_primary_phase(p->relay) == RELAY_PRIMARY_INITIAL &&
		    len > STREAM_CHUNK_MAX)
			len = STREAM_CHUNK_MAX;
		p->read_at = loop_clock();
		n = recv(p->pvm.fd, ptr, len < budget ? len : budget, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			pvm_failed(node, n == 0 ? "closed by QEMU" : strerror(errno));
			return;
		}
		budget -= (size_t)n;
		r = relay_primary_got(p->relay, (size_t)n, loop_clock());
		if (r < 0) {
			pvm_failed(node, relay_primary_error(p->relay));
			return;
		}
		p->reading_ns += loop_clock() - p->read_at;
		primary_write_pvm(node);
		primary_pump_checkpoint(node);
	}
}

static void read_again(void *ctx, uint64_t now)
{
	struct node *node = ctx;

	(void)now;
	if (!of(node)->pvm.added)
		return;
	loop_set_events(node->loop, &of(node)->pvm, of(node)->pvm.events | EPOLLIN);
	read_pvm(node);
}

static void pvm_ready(void *ctx, uint32_t events)
{
	struct node *node = ctx;

	if (events & EPOLLOUT)
		primary_write_pvm(node);
	if (of(node)->relay && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		read_pvm(node);
}

static void accept_pvm(void *ctx, uint32_t events)
{
	struct node *node = ctx;
	struct primary *p = of(node);
	int size = RCVBUF;
	int fd = accept4(p->listen.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	(void)events;
	if (fd < 0)
		return;
	if (p->relay || node->role.state != ROLE_JOINING) {
		close(fd); /* nobody asked for it */
		return;
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	if (relay_primary_new(&p->relay, &relay_operations, node) < 0 ||
	    loop_add(node->loop, &p->pvm, fd, EPOLLIN, pvm_ready, node) < 0) {
		close(fd);
		log_error("no memory for the migration channel");
		node_role(node, ROLE_EV_COPY_FAILED);
	}
}

/* ---- protection begins ---- */

static void ask_to_protect(struct node *node)
{
	uint8_t payload[4 + sizeof(node->digest_key) + sizeof(node->machine)];
	uint32_t mib = (uint32_t)node->config->memory_mib;
	size_t len = 4;

	payload[0] = mib >> 24;
	payload[1] = (uint8_t)(mib >> 16);
	payload[2] = (uint8_t)(mib >> 8);
	payload[3] = (uint8_t)mib;
	memcpy(payload + len, &node->digest_key, sizeof(node->digest_key));
	len += sizeof(node->digest_key);
	memcpy(payload + len, node->machine, strlen(node->machine));
	len += strlen(node->machine);
	node_send(node, LINK_FAST, MSG_PROTECT, 0, payload, len);
}

void primary_copy_due(void *ctx, uint64_t now)
{
	struct node *node = ctx;
	uint64_t unsettled;

	(void)now;
	if (node->role.state != ROLE_JOINING)
		return;
	/* Before the VM runs there is nothing to copy: primary_vm_ready() comes back. */
	of(node)->copy_due = !of(node)->vm_up;
	if (of(node)->copy_due)
		return;
	unsettled = map_settles_in(node);
	if (unsettled) {
		/* The secondary gets the mapping to the clients whole. */
		node_arm(node, &of(node)->copy_timer, unsettled);
		return;
	}
	if (node_proxies(node) && (!node->mirror || !of(node)->listen.added)) {
		log_error("what protects the VM could not be set up: it stays unprotected");
		node_role(node, ROLE_EV_COPY_FAILED);
		return;
	}
	of(node)->marks++;
	of(node)->marking = true;
	node->ops->order(node->ctx, ORDER_MARK, "");
}

/* The answer to an order of an earlier attempt is about what has been given up. */
void primary_marked(struct node *node, bool ok, const char *text)
{
	struct primary *p = of(node);
	int r;

	if (p->marks)
		p->marks--;
	if (p->marks || !node->is_primary)
		return;
	if (!p->marking) {
		if (role_speaks(&node->role))
			primary_unmark(node);
		return;
	}
	p->marking = false;
	if (!ok) {
		/* Without it a power cut could lead to two speakers: no protection. */
		log_error("cannot write to state-dir %s: %s; the VM is not protected",
		          node->config->state_dir, text);
		node_role(node, ROLE_EV_COPY_FAILED);
		return;
	}
	r = encode_begin_session(node);
	if (r < 0) {
		log_error("no memory for a page cache of %lu MiB; the VM is not protected",
		          (unsigned long)(node->codec.cache_bytes >> 20));
		node_role(node, ROLE_EV_COPY_FAILED);
		return;
	}
	ask_to_protect(node);
}

/* At once the first time; after failures with a pause that doubles. */
void primary_copy(struct node *node)
{
	struct primary *p = of(node);
	uint64_t pause = COPY_PAUSE_NS << (p->copy_failures < 6 ? p->copy_failures : 6);

	if (p->copy_failures)
		node_arm(node, &p->copy_timer, pause);
	else
		primary_copy_due(node, loop_now(node->loop));
}

/*
 * Lineage 0 runs on the secondary and the PVM stands still, rearmed. What it said so far was said
 * unprotected; from here on R1 holds. READY lets it run.
 */
static void start_epoch_0(void *ctx, uint64_t now)
{
	struct node *node = ctx;
	struct primary *p = of(node);
	uint8_t payload[8];
	int unread = 0;
	int r;

	if (!p->relay || node->role.state != ROLE_JOINING)
		return;
	if (ioctl(p->pvm.fd, SIOCOUTQ, &unread) < 0 || unread > 0) {
		node_arm(node, &p->start_timer, START_POLL_NS);
		return;
	}
	node_drain_hold(node);
	primary_mirror(node);
	primary_input_cut(node);
	primary_input_committed(node);
	p->runs = pacer_begin(&node->pacer, now);
	dirty_rate_begin(&node->dirty, now);
	gate_set_comparing(node->gate, p->runs);
	gate_cut(node->gate, 0, node_steady(node));
	u64_pack(payload, p->input_cut);
	primary_begin_replay(node);
	p->map_told = 0; /* a new secondary has no mapping */
	map_cut(node);
	if (!map_send(node, LINK_FAST, 0)) {
		log_error("the link takes no mapping of %u connections", p->map.count);
		node_role(node, ROLE_EV_COPY_FAILED);
		return;
	}
	p->started_here = true;
	r = urgent_find(&p->urgent, p->pvm.fd);
	if (r < 0)
		log_info("QEMU's threads are not found: %s; none runs before others", strerror(-r));
	node_send(node, LINK_FAST, MSG_START, 0, payload, sizeof(payload));
	node->committed_epoch = node->peer_lineage = 0;
	node->by_cause[CKPT_INITIAL]++;
	p->cut_at = p->protected_at = loop_clock();
	p->committed = true;
	p->copy_failures = 0;
	node_role(node, ROLE_EV_LINEAGE_0);
	if (relay_primary_start(p->relay) < 0) {
		pvm_failed(node, "READY could not be sent");
		return;
	}
	primary_write_pvm(node);
	primary_pace(node);
}

/*
 * Lineage 0 runs on the secondary, so the copy is whole and the PVM stands still: the moment to
 * make sure that nothing of what it dirties in epoch 0 is missed (qemu-glue/tcg_rearm.c).
 */
static void lineage_0_runs(struct node *node)
{
	struct primary *p = of(node);

	if (!p->relay || node->role.state != ROLE_JOINING)
		return;
	p->rearms++;
	node->ops->order(node->ctx, ORDER_REARM, "");
}

/* The answer to an order of an earlier attempt says nothing about this one. */
void primary_rearmed(struct node *node, bool ok, const char *text)
{
	struct primary *p = of(node);

	if (p->rearms)
		p->rearms--;
	if (p->rearms || !p->relay || node->role.state != ROLE_JOINING)
		return;
	if (ok) {
		start_epoch_0(node, loop_now(node->loop));
		return;
	}
	log_error("the VM is not protected: what it writes might be missed: %s", text);
	node_role(node, ROLE_EV_COPY_FAILED);
}

/* ---- protection ends ---- */

static void protection_over(struct node *node)
{
	struct primary *p = of(node);

	if (p->protected_at)
		p->protected_ns += loop_clock() - p->protected_at;
	p->protected_at = 0;
	p->marking = false;
	input_log_clear(&p->unsent);
	replay_out_begin(&node->replay_out, 0);
	if (node->evidence)
		evidence_give_up(node->evidence);
	close_pvm(node);
	primary_end_job(&p->asked_job, false, "protection has ended");
	primary_end_job(&p->taken_job, false,
	                "protection has ended before the checkpoint was committed");
}

void primary_stop_copy(struct node *node)
{
	protection_over(node);
	of(node)->copy_failures++;
	/*
	 * It never told the secondary to begin. But one that has not booted knows nothing yet: the
	 * marker that it found is about an earlier copy.
	 */
	if (of(node)->vm_ordered)
		primary_unmark(node);
	loop_timer_clear(node->loop, &of(node)->copy_timer);
	node->ops->order(node->ctx, ORDER_ABORT_COPY, "the copy was not finished");
}

void primary_go_alone(struct node *node)
{
	struct primary *p = of(node);

	protection_over(node);
	/* A switch-over that was under way is off. The VM speaks here, and not for another time. */
	if (p->silent)
		hold_set_mode(node->hold, HOLD_MODE_HOLD);
	p->handing_over = p->silent = false;
	primary_end_job(&p->handover_job, false, "the secondary was lost before it had the VM");
	primary_unmark(node);
	gate_unprotect(node->gate, node_steady(node));
	hold_flush(node->hold);
	primary_rearm_gate(node);
	if (link_is_up(node->link))
		link_drop(node->link, "the VM goes on unprotected");
	node->ops->order(node->ctx, ORDER_LEAVE_COLO, "the secondary is lost");
}

void primary_left_colo(struct node *node, bool ok, const char *text)
{
	if (!ok)
		log_error("QEMU does not leave COLO: %s", text);
	else
		node_event(node, "the VM runs unprotected");
}

/* This side's VM never speaks again; the secondary gets the right to. */
void primary_retire(struct node *node, const char *why)
{
	struct primary *p = of(node);
	uint8_t payload[8];

	p->silent = true;
	hold_set_mode(node->hold, HOLD_MODE_DROP);
	u64_pack(payload, p->input_cut);
	node_event(node, "the secondary may speak: %s", why);
	node_send(node, LINK_FAST, MSG_HANDOVER, node->committed_epoch, payload, sizeof(payload));
	link_flush(node->link);
}

void primary_handover(struct node *node, struct node_job *job)
{
	struct primary *p = of(node);

	if (p->handing_over) {
		job->done(job, false, "a switch-over is under way");
		return;
	}
	p->handing_over = true;
	p->handover_job = job;
	node_event(node, "planned switch-over asked for");
	p->wanted = false;
	primary_want(node, CKPT_COMMAND);
	primary_answer_request(node);
}

static void handover_committed(struct node *node)
{
	struct primary *p = of(node);
	struct node_job *job = p->handover_job;

	primary_retire(node, "planned switch-over");
	node_role(node, ROLE_EV_HANDED_OVER);
	p->handover_job = NULL;
	if (job)
		job->done(job, true, "");
}

/* ---- messages ---- */

static void committed(struct node *node, uint32_t epoch, const uint8_t *payload, size_t len)
{
	struct primary *p = of(node);
	uint32_t looked, alike;

	if (!p->relay)
		return; /* the channel has closed: see channel_lost() */
	if (!p->in_flight || epoch != p->ckpt.epoch || !p->ended || p->committed ||
	    committed_unpack(&looked, &alike, payload, len) < 0) {
		link_drop(node->link, "a commit of a checkpoint that was not sent");
		return;
	}
	encode_looked(node, looked, alike);
	p->committed = true;
	node->committed_epoch = epoch;
	primary_input_committed(node);
	figures_committed(node, loop_clock() - p->cut_at);
	pacer_committed(&node->pacer, loop_clock());
	if (p->taken_job) {
		p->taken_job->epoch = epoch;
		p->taken_job->pause_us = p->last_pause_ns / 1000;
		p->taken_job->commit_us = (loop_clock() - p->cut_at) / 1000;
	}
	primary_end_job(&p->taken_job, true, "");
	gate_commit(node->gate, epoch, node_steady(node));
	node_announce_committed(node);
	hold_flush(node->hold);
	primary_rearm_gate(node);
	primary_say_released(node);
	/* One that was in flight when the switch-over was asked for is not its last one. */
	if (p->handing_over && p->silent)
		handover_committed(node);
}

static void loaded(struct node *node, uint32_t epoch, const uint8_t *payload, size_t len)
{
	struct primary *p = of(node);

	if (!p->relay)
		return; /* the channel has closed: see channel_lost() */
	if (len != 8 || !p->in_flight || epoch != p->ckpt.epoch || !p->committed) {
		link_drop(node->link, "a load of a checkpoint that was not committed");
		return;
	}
	if (u64_unpack(payload))
		figures_loaded(node, u64_unpack(payload));
	node->peer_lineage = epoch;
	p->in_flight = false;
	pacer_ready(&node->pacer, loop_clock());
	dirty_rate_ready(&node->dirty);
	if (!p->wanted) {
		primary_pace(node);
		return;
	}
	if (relay_primary_phase(p->relay) == RELAY_PRIMARY_REQUESTED) {
		primary_answer_request(node);
		primary_write_pvm(node);
		return;
	}
	if (pacer_earliest(&node->pacer) <= loop_clock())
		primary_trigger(node);
	else
		loop_timer_set(node->loop, &p->trigger_timer, pacer_earliest(&node->pacer));
}

/* Takes up to DIGEST_BATCH records. Returns their bytes, or -EPROTO. */
static int digest_batch(struct node *node, uint32_t lineage, const uint8_t *payload, size_t len)
{
	struct digest batch[DIGEST_BATCH] = {0};
	uint32_t count = 0;
	size_t taken = 0;

	for (; taken < len && count < DIGEST_BATCH; count++) {
		int r = digest_unpack(&batch[count], payload + taken, len - taken);

		if (r < 0)
			return -EPROTO;
		taken += (size_t)r;
	}
	gate_ahead_digests(node->gate, batch, count);
	for (uint32_t i = 0; i < count; i++) {
		if (gate_digest(node->gate, lineage, &batch[i], node_steady(node)) != 0)
			return -EPROTO;
	}
	return (int)taken;
}

static void digests(struct node *node, uint32_t lineage, const uint8_t *payload, size_t len)
{
	while (len) {
		int r = digest_batch(node, lineage, payload, len);

		if (r < 0) {
			link_drop(node->link, "a digest of an unknown kind or a future lineage");
			return;
		}
		payload += r;
		len -= (size_t)r;
	}
	hold_flush(node->hold);
	primary_rearm_gate(node);
}

static void cut_arrived(struct node *node, uint32_t lineage, const uint8_t *payload, size_t len)
{
	struct digest_cut cut;

	if (cut_unpack(&cut, payload, len) != 0 ||
	    gate_digest_cut(node->gate, lineage, &cut, node_steady(node)) != 0) {
		link_drop(node->link, "a CUT message that does not fit");
		return;
	}
	hold_flush(node->hold);
	primary_rearm_gate(node);
}

static void stream_back(struct node *node, const uint8_t *payload, size_t len)
{
	if (!of(node)->relay)
		return;
	if (relay_primary_from_peer(of(node)->relay, payload, len) < 0)
		pvm_failed(node, "the secondary's return path overflows");
	else
		primary_write_pvm(node);
}

static void peer_ready(struct node *node, const uint8_t *payload, size_t len)
{
	uint32_t flags;

	if (node->role.state != ROLE_JOINING)
		return;
	if (ready_unpack(&flags, payload, len) < 0) {
		link_drop(node->link, "a READY of the wrong length");
		return;
	}
	encode_peer_ready(node, flags);
	node->ops->order(node->ctx, ORDER_MIGRATE, "");
}

void primary_message(struct node *node, uint8_t type, uint32_t epoch, const uint8_t *payload,
                     size_t len)
{
	switch (type) {
	case MSG_READY:
		peer_ready(node, payload, len);
		return;
	case MSG_REFUSED:
		node_event(node, "the secondary has no copy: %.*s", (int)(len < 300 ? len : 300),
		           (const char *)payload);
		node_role(node, ROLE_EV_PEER_YIELDED);
		return;
	case MSG_STREAM_BACK:
		stream_back(node, payload, len);
		return;
	case MSG_RUNNING:
		lineage_0_runs(node);
		return;
	case MSG_COMMITTED:
		committed(node, epoch, payload, len);
		return;
	case MSG_CKPT_HOLES:
		encode_holes(node, epoch, payload, len);
		return;
	case MSG_LOADED:
		loaded(node, epoch, payload, len);
		return;
	case MSG_DIGEST:
		digests(node, epoch, payload, len);
		return;
	case MSG_CUT:
		cut_arrived(node, epoch, payload, len);
		return;
	case MSG_BROKEN:
		gate_break(node->gate, CKPT_PRESSURE, "the secondary lost input",
		           node_steady(node));
		return;
	case MSG_SAID:
		node_said_arrived(node, payload, len);
		return;
	case MSG_TAKEN:
		node_event(node, "the secondary speaks");
		node_role(node, ROLE_EV_PEER_SPEAKS);
		node_message(node, "the VM is no longer here");
		node->ops->order(node->ctx, ORDER_RETIRED, "");
		return;
	default:
		/* A primary's messages from before this side became one. */
		if (!of(node)->changed_here)
			link_drop(node->link, "a message that a secondary does not send");
	}
}

void primary_room(struct node *node, enum link_channel channel)
{
	if (channel == LINK_FAST) {
		primary_send_unsent(node);
		return;
	}
	primary_pump_checkpoint(node);
}

/* ---- set-up ---- */

int primary_open_listen(struct node *node, char *err, size_t errlen)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int r;

	if (fd < 0)
		return -errno;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", node->migration_path);
	unlink(address.sun_path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 1) < 0) {
		r = -errno;
		snprintf(err, errlen, "migration socket %s: %s", node->migration_path,
		         strerror(errno));
		close(fd);
		return r;
	}
	return loop_add(node->loop, &of(node)->listen, fd, EPOLLIN, accept_pvm, node);
}

/* What a primary has without a data path, too. */
void primary_init_boot(struct node *node)
{
	of(node)->boot_timer = (struct loop_timer){.fire = primary_boot_due, .ctx = node};
}

/* The gate and the hash; a secondary gets them with its copy, so that a takeover needs no memory.
 */
int primary_new_core(struct node *node)
{
	struct primary *p = of(node);
	const struct config *config = node->config;
	struct gate_limits limits = {
	        .late_ns = config->late_timeout_ns,
	        .max_bytes = config->max_held_bytes,
	        .max_packets = (uint32_t)config->max_held_packets,
	        .max_flows = (uint32_t)config->max_flows,
	        .max_digests = 8192,
	        .late_max_ns = config->late_timeout_max_ns,
	};
	int r = gate_new(&node->gate, &limits, &node->digest_key, &gate_operations, node);

	if (r == 0)
		gate_set_policy(node->gate, &config->flows);
	if (r == 0 && !p->hash)
		p->hash = XXH3_createState();
	return r == 0 && !p->hash ? -ENOMEM : r;
}

void primary_init_timers(struct node *node)
{
	struct primary *p = of(node);

	primary_init_boot(node);
	p->start_timer = (struct loop_timer){.fire = start_epoch_0, .ctx = node};
	p->copy_timer = (struct loop_timer){.fire = primary_copy_due, .ctx = node};
	p->read_timer = (struct loop_timer){.fire = read_again, .ctx = node};
	p->gate_timer = (struct loop_timer){.fire = gate_due, .ctx = node};
	p->trigger_timer = (struct loop_timer){.fire = primary_trigger_due, .ctx = node};
	p->channel_timer = (struct loop_timer){.fire = channel_lost, .ctx = node};
	p->epoch_timer = (struct loop_timer){.fire = primary_epoch_over, .ctx = node};
	p->dirty_timer = (struct loop_timer){.fire = dirty_due, .ctx = node};
	p->urgent_timer = (struct loop_timer){.fire = primary_calm_due, .ctx = node};
}

void primary_stop_timers(struct node *node)
{
	struct primary *p = of(node);
	struct loop_timer *timers[] = {
	        &p->start_timer,   &p->copy_timer,    &p->read_timer,  &p->gate_timer,
	        &p->trigger_timer, &p->channel_timer, &p->epoch_timer, &p->cut_timer,
	        &p->boot_timer,    &p->urgent_timer,  &p->dirty_timer,
	};

	for (size_t i = 0; i < sizeof(timers) / sizeof(timers[0]); i++)
		loop_timer_clear(node->loop, timers[i]);
}

/* The copies of input for the secondary. */
int primary_open_input(struct node *node, char *err, size_t errlen)
{
	int r = mirror_open(node->tap, 0, &node->mirror, err, errlen);

	if (r < 0)
		return r;
	r = loop_add(node->loop, &node->mirror_source, mirror_fd(node->mirror), EPOLLIN,
	             primary_mirror_ready, node);
	if (r < 0)
		snprintf(err, errlen, "watching the mirror: %s", strerror(-r));
	return r;
}

int primary_init(struct node *node, char *err, size_t errlen)
{
	struct primary *p = of(node);
	const struct config *config = node->config;
	int r = primary_new_core(node);

	primary_init_timers(node);
	if (r < 0) {
		snprintf(err, errlen, "no memory for the gate");
		return -ENOMEM;
	}
	r = ckpt_buf_init(&p->ckpt.buf, CKPT_LIMIT(config->memory_mib), CKPT_KEEP);
	if (r < 0) {
		snprintf(err, errlen, "no memory for a checkpoint of %lu MiB",
		         (unsigned long)config->memory_mib);
		return r;
	}
	r = cut_init(node, err, errlen);
	if (r < 0)
		return r;
	r = primary_open_input(node, err, errlen);
	return r < 0 ? r : primary_open_listen(node, err, errlen);
}

void primary_fini(struct node *node)
{
	struct primary *p = of(node);

	if (node->loop)
		close_pvm(node);
	if (p->listen.added) {
		loop_del(node->loop, &p->listen);
		close(p->listen.fd);
		unlink(node->migration_path);
	}
	input_log_clear(&p->unsent);
	frame_queue_clear(&p->diverted);
	frame_queue_clear(&p->poured);
	XXH3_freeState(p->hash);
	ckpt_buf_fini(&p->ckpt.buf);
	natmap_clear(&p->map);
	replay_out_begin(&node->replay_out, 0);
	gate_free(node->gate);
	node->gate = NULL;
}
