/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_NODE_PRIVATE_H
#define COLO_NODE_PRIVATE_H

#include <net/if.h>
#include <pthread.h>

#include "colo-proxy/core/dirty_rate.h"
#include "colo-proxy/core/evidence.h"
#include "colo-proxy/core/gate.h"
#include "colo-proxy/core/hist.h"
#include "colo-proxy/core/history.h"
#include "colo-proxy/core/pacer.h"
#include "colo-proxy/core/replay.h"
#include "colo-proxy/core/role.h"
#include "colo-proxy/core/shadow.h"
#include "colo-proxy/core/steady.h"
#include "colo-proxy/datapath/capture.h"
#include "colo-proxy/datapath/counters.h"
#include "colo-proxy/datapath/hold.h"
#include "colo-proxy/datapath/inject.h"
#include "colo-proxy/datapath/intercept.h"
#include "colo-proxy/datapath/mirror.h"
#include "colo-proxy/link/link.h"
#include "colo-proxy/link/messages.h"
#include "colo-proxy/loop/loop.h"
#include "colo-proxy/node/node.h"
#include "kvm/agree.h"
#include "kvm/encode_pool.h"
#include "kvm/image.h"
#include "kvm/page_codec.h"
#include "kvm/relay_primary.h"
#include "kvm/relay_secondary.h"
#include "qemu-glue/guest_memory.h"
#include "qemu-glue/urgent.h"

/*
 * Inside the data thread:
 *   node.c             set-up, the way of the VM's output, heartbeats, who may speak, jobs
 *   node_boot.c        when a primary may start its VM
 *   node_primary.c     the primary: the gate, the migration channel, protection's begin and end
 *   node_mirror.c      the primary's input, copied to the secondary
 *   node_cut.c         the primary's input around a checkpoint
 *   node_checkpoint.c  a checkpoint from its cause onto the link
 *   node_dirty.c       how much the VM writes to between checkpoints
 *   node_encode.c      the checkpoint in fewer bytes; what both sides agree on for that
 *   node_decode.c      the same bytes again, on the secondary
 *   node_secondary.c   the secondary: digests, the migration channel, checkpoints and their load
 *   node_feed.c        the secondary's input log
 *   node_still.c       the secondary's VM stands still: checkpoints are kept, not loaded
 *   node_takeover.c    the secondary becomes the one that speaks
 *   node_reprotect.c   sides change: the survivor becomes a primary, who lost the VM its secondary
 *   node_policy.c      the policy: its parameters, changed at run time, and shown
 *   node_replay.c      what is said again at a takeover, because nothing else would
 *   node_map.c         the mapping between a survivor and its clients, here and to the secondary
 *   node_stock.c       the other comparators
 *   node_evidence.c    what the two VMs said when they differed
 *   node_figures.c     statistics and status
 *   node_queue.c       queues of frames
 */

#define FRAME_BATCH 64u
/* What a checkpoint has beside the memory: devices, the firmware's and the display's memory. */
#define CKPT_EXTRA (64u << 20)
/* Bytes of a checkpoint of all pages, each with the 8 bytes that QEMU puts in front of it. */
#define CKPT_LIMIT(mib) ((size_t)((mib) << 20) + (size_t)((mib) << 11) + CKPT_EXTRA)
#define CKPT_KEEP       (64u << 20) /* of them stay resident */
#define MS              1000000ull

struct frame_queue {
	struct frame *head, *tail;
	uint64_t bytes;
};

/* One input frame in the secondary's log, or in the primary's queue for the link. */
struct input {
	struct input *next;
	uint64_t index;
	struct frame *frame;
	/* On the secondary, of TCP segments with payload: where they belong. */
	bool segment;
	struct flow_key key;
	uint32_t seq, end;
};

struct input_log {
	struct input *head, *tail;
	uint64_t bytes, high, dropped;
};

/* NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding): in the order of reading */
struct primary {
	struct relay_primary *relay;
	struct ckpt ckpt;
	struct loop_source listen, pvm; /* the migration socket */
	struct loop_timer start_timer;  /* until SHUT has left the socket */
	uint32_t marks, rearms;         /* that were ordered and not answered */
	bool marking;                   /* the newest mark is for an attempt that goes on */
	struct loop_timer copy_timer;   /* paces attempts to protect after failures */
	uint32_t copy_failures;         /* in a row */
	struct loop_timer read_timer;   /* until the link takes more of the first copy */
	struct loop_timer cut_timer;    /* node_cut.c */
	struct frame_queue diverted;
	unsigned taken_back;       /* at its head, of a cut that has not taken place */
	struct frame_queue poured; /* what was taken back, until the mirror has it again */
	bool input_diverted, pouring;
	uint64_t cut_deadline;
	struct loop_timer gate_timer;    /* late packets */
	struct loop_timer trigger_timer; /* paces and repeats checkpoint requests */
	struct loop_timer channel_timer; /* the migration channel has closed: has QEMU died? */
	struct loop_timer epoch_timer;   /* the policy's next checkpoint */
	struct loop_timer dirty_timer;   /* the next sample of what the VM writes to */
	struct loop_timer urgent_timer;  /* the pause is over, or has taken too long */
	struct urgent urgent;            /* who goes first while the VM stands still */
	struct input_log unsent;         /* input that the link has not taken */
	uint64_t input_index;            /* frames that have been seen on their way to the VM */
	uint64_t input_cut;              /* of the checkpoint in the buffer */
	bool wanted, triggered;          /* a checkpoint is due; has been asked for */
	enum ckpt_cause cause;           /* the first reason of the next checkpoint */
	enum ckpt_cause taken_cause;     /* that of the one in flight */
	bool in_flight, committed;       /* not loaded yet; not committed yet */
	bool sending, begun, ended;      /* progress of the checkpoint onto the link */
	bool runs; /* the SVM runs from it: the epoch that it began is compared */
	bool ran;  /* and the epoch that it ended was: the SVM has done what the PVM did */
	bool handing_over, silent;
	struct node_job *handover_job;
	struct node_job *asked_job,
	        *taken_job; /* who asked for a checkpoint; for the one in flight */
	void *hash;         /* XXH3_state_t of what was encoded */
	uint64_t cut_at;
	uint64_t last_pause_ns; /* as the relay saw it: a part of what the VM stood still */
	uint64_t asked_at, replied_at, reading_ns; /* of the next checkpoint; see core/history.h */
	uint64_t read_at;                          /* when the read that is under way began */
	uint64_t paused_ns, protected_at, protected_ns;
	struct loop_timer boot_timer; /* until the peer can be asked who speaks */
	bool vm_ordered, vm_up, copy_due;
	bool started_here; /* START was sent in this session */
	bool changed_here; /* this side became the primary in this session */
	/* node_map.c: the mapping that goes with the checkpoint in the buffer, if it has changed */
	struct natmap map;
	bool map_due;
	uint32_t map_sent;
	uint64_t map_told; /* shadow_map_changes() of what was sent last */
};

struct secondary {
	struct relay_secondary *relay;
	struct ckpt ckpt;
	struct loop_source svm;
	uint64_t consumed; /* input that every later checkpoint has */
	struct loop_timer refeed_timer;
	struct loop_timer load_timer;
	uint64_t load_deadline;
	struct loop_timer feed_timer, announce_timer, expire_timer;
	struct loop_timer live_timer; /* the end of a takeover is tried again */
	bool left_colo;               /* of that: QEMU has */
	struct tcg_flush *flush;
	uint8_t *stream; /* bytes of the initial stream the relay did not take */
	size_t stream_len, stream_done;
	struct input_log log;
	struct input *next_to_feed;
	uint32_t lineage, primary_epoch;
	struct guest_memory memory; /* the SVM's */
	uint64_t input_cut;         /* of the checkpoint in the buffer */
	uint64_t lineage_cut; /* of the one that the lineage began with: it has what is below */
	uint64_t ckpt_size;
	bool joined_here; /* the copy was made in this session */
	bool yielded;     /* the right to speak, if it comes now, is the peer's own gift */
	bool ckpt_open, ckpt_whole, loading, feeding, vm_up;
	/* node_still.c */
	struct image *image;
	size_t image_high;
	struct loop_timer still_timer;
	bool keep;       /* the checkpoint in the buffer is not to be loaded */
	bool kept;       /* the newest state is in the image, or is on its way there */
	bool merging;    /* what is in the buffer, into it */
	bool delivering; /* it is being loaded */
	uint32_t starts; /* of QEMU that were ordered and not answered */
	bool taking_over;
	uint32_t announcements;
	bool announce_at_commit;
	uint8_t batch[64 * DIGEST_WIRE_MAX]; /* digests of this turn */
	uint32_t batch_count;
	size_t batch_len;
	struct frame_queue backlog; /* what the VM says while it takes over */
	struct recent *recent;      /* what it has said; NULL: not kept */
	/* The primary's mapping to its clients: of the lineage; as it arrives; of a checkpoint */
	struct natmap map, map_arriving;
	bool map_open, map_whole;
	uint64_t loads, injected, injected_bytes, digests_lost;
	uint64_t load_started;
	uint64_t behind_since; /* the load's end; 0: all input that had waited is fed */
};

/* A checkpoint between what QEMU says and what the link carries: node_encode.c, node_decode.c. */
struct codec {
	uint64_t cache_bytes; /* agreed on in this session */
	uint64_t cache_high;  /* the most of it that was seen in use */
	/* The primary's side. */
	struct page_encoder *encoder;
	uint64_t encoder_bytes; /* that its cache was made for */
	struct pack_choice choice;
	struct encode_pool *pool;     /* NULL: this thread encodes */
	bool pooled;                  /* the checkpoint is the pool's */
	struct loop_timer pump_timer; /* the next slice */
	const uint8_t *block;         /* encoded, not yet taken by the link; NULL: none */
	size_t block_len;
	uint64_t link_rate;                  /* bytes/s when the checkpoint began */
	uint64_t encode_ns;                  /* spent on this checkpoint */
	struct page_codec_stats seen, total; /* before this checkpoint; in all */
	bool peer_reads;                     /* its VM's memory */
	uint8_t *answers;                    /* CKPT_HOLES that wait for the pool's end */
	size_t answers_len, answers_room;
	struct agree_choice agree;
	/* The secondary's. */
	struct page_decoder *decoder;
	uint64_t decoder_bytes;
	void *hash;                   /* XXH3_state_t of what was rebuilt */
	size_t hashed;                /* of it: up to the first hole at most */
	struct loop_timer turn_timer; /* the bulk channel goes on */
	uint64_t turn_ns;             /* spent since it did */
};

struct node {
	const struct config *config;
	const struct node_ops *ops;
	void *ctx;
	char machine[160];
	char migration_path[108], incoming_path[108];
	char tap[IFNAMSIZ];
	int tap_fd;
	pthread_t thread;
	bool thread_runs;

	struct loop *loop;
	struct link *link;
	struct role role;
	struct steady steady;
	struct loop_timer role_timer, beat_timer, release_timer;
	struct loop_timer drop_timer; /* the link had no room for a word that must not be lost: */
	enum msg_type unsaid;         /* this one */
	struct hold *hold;
	struct loop_source hold_source[2];
	int hold_sources;
	struct mirror *mirror;
	struct loop_source mirror_source;
	struct tap_counters counters;
	struct inject *inject;
	struct intercept *intercept;
	struct loop_source intercept_source;
	struct capture *capture;
	struct frame_queue unreleased; /* the kernel did not take them yet, or lapsed; in order */
	uint64_t lapsed_at;            /* when it was seen that this side stood still, or 0 */
	struct gate *gate;     /* a secondary with a copy has one, too, for when it takes over */
	struct shadow *shadow; /* the secondary's; a survivor's is its mapping to its clients */
	struct replay_out replay_out;   /* the primary's */
	struct replay_in replay_in;     /* the secondary's */
	uint64_t replay_bytes;          /* agreed on in this session */
	struct evidence_ring *evidence; /* NULL: none is kept */
	struct packet_digest_key digest_key;

	bool is_primary;                   /* now; at the start by configuration */
	bool fence_asked;                  /* and its answer has not come */
	uint64_t beat_echo, beat_heard_at; /* the peer's last sent_ns and when it came */
	uint64_t beat_sent_at;
	struct primary p;
	struct secondary s;
	struct codec codec;
	struct pacer pacer; /* the policy, on the primary */
	struct dirty_rate dirty;

	/* figures */
	struct hist hold_hist[PACKET_CLASS_COUNT];
	struct hist pause_hist, commit_hist, load_hist, encode_hist, catchup_hist;
	struct history history;
	uint64_t by_cause[CKPT_CAUSE_COUNT];
	uint64_t pages_last, pages_total, bytes_last, bytes_total, plain_last, plain_total;
	uint64_t copied_packets, copied_bytes;
	uint64_t rtt_ns, since_ns;
	uint64_t discarded_packets;
	uint32_t committed_epoch;
	uint32_t peer_lineage;
	char last_event[160], message[256], peer[96];
	uint64_t state_realtime;
	struct status_takeover takeover;
};

/* False with comparator = qemu and none: no hold, no mirror, no relay, no gate (node_stock.c). */
static inline bool node_proxies(const struct node *node)
{
	return node->config->comparator == CONFIG_COMPARATOR_PROXY;
}

/* node.c */
int node_open_hold(struct node *node, char *err, size_t errlen);
uint64_t node_realtime(void);
/* The time of what the VM says and hears, for gate and shadow: core/steady.h. */
uint64_t node_steady(struct node *node);
void node_beat_now(struct node *node);
void node_role(struct node *node, enum role_event event);
void node_event(struct node *node, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Asks the fence for the right to speak. */
void node_ask_fence(struct node *node);
/* S: UNPROTECT has come. */
void node_peer_unprotects(struct node *node, const uint8_t *why, size_t len);
void node_message(struct node *node, const char *text);
/* Runs fn(job) in the data thread. */
void node_post_job(struct node *node, struct node_job *job, void (*fn)(void *));
void node_capture(struct node *node, const struct frame *frame);
int node_send(struct node *node, enum link_channel channel, enum msg_type type, uint32_t epoch,
              const void *payload, size_t len);
void node_release(struct node *node, struct frame *frame, bool rewritten);
void node_drain_hold(struct node *node);
void node_arm(struct node *node, struct loop_timer *timer, uint64_t delay_ns);
void frame_queue_push(struct frame_queue *queue, struct frame *frame);
struct frame *frame_queue_pop(struct frame_queue *queue);
void frame_queue_unpop(struct frame_queue *queue, struct frame *frame);
void frame_queue_clear(struct frame_queue *queue);
int input_log_push(struct input_log *log, uint64_t index, struct frame *frame, uint64_t limit);
void input_log_pop(struct input_log *log);
void input_log_clear(struct input_log *log);

/* node_primary.c */
int primary_init(struct node *node, char *err, size_t errlen);
void primary_init_boot(struct node *node);
void primary_fini(struct node *node);
void primary_output(struct node *node, struct frame *frame);
void primary_mirror(struct node *node);
void primary_message(struct node *node, uint8_t type, uint32_t epoch, const uint8_t *payload,
                     size_t len);
void primary_room(struct node *node, enum link_channel channel);
void primary_copy(struct node *node);
void primary_stop_copy(struct node *node);
void primary_go_alone(struct node *node);
void primary_marked(struct node *node, bool ok, const char *text);
void primary_rearmed(struct node *node, bool ok, const char *text);
void primary_left_colo(struct node *node, bool ok, const char *text);
void primary_want(struct node *node, enum ckpt_cause cause);
void primary_checkpoint(struct node *node, struct node_job *job);
void primary_handover(struct node *node, struct node_job *job);
void primary_retire(struct node *node, const char *why);
uint64_t primary_consumed(struct node *node);
void primary_let_stop(struct node *node);
void primary_rearm_gate(struct node *node);
void primary_send_unsent(struct node *node);
void primary_link_up(struct node *node);
void primary_heard(struct node *node, const struct heartbeat *heartbeat);
int primary_new_core(struct node *node);
int primary_open_input(struct node *node, char *err, size_t errlen);
int primary_open_listen(struct node *node, char *err, size_t errlen);
void primary_init_timers(struct node *node);
void primary_stop_timers(struct node *node);
void primary_vm_ready(struct node *node, bool ok, const char *text);
void primary_silence(struct node *node);

/* node_policy.c */
void policy_init(struct node *node);
void policy_status(const struct node *node, struct status_policy *status);

/* node_dirty.c */
void dirty_init(struct node *node);
/* Arms the timer for the next sample, as things are now. */
void dirty_pace(struct node *node);
void dirty_due(void *ctx, uint64_t now);

/* node_boot.c */
void primary_unmark(struct node *node);
bool primary_force_boot(struct node *node);
void primary_boot_due(void *ctx, uint64_t now);

/* node_checkpoint.c */
void primary_answer_request(struct node *node);
void primary_end_job(struct node_job **job, bool ok, const char *text);
void primary_epoch_over(void *ctx, uint64_t now);
void primary_pace(struct node *node);
void primary_trigger(struct node *node);
void primary_trigger_due(void *ctx, uint64_t now);
void primary_vm_captured(void *ctx, struct ckpt *ckpt, uint64_t now);
void primary_vm_resumed(struct node *node, uint64_t stopped_at);
/* No thread is urgent any more. */
void primary_calm(struct node *node);
void primary_calm_due(void *ctx, uint64_t now);
void primary_vm_requested(void *ctx, uint64_t now);
void primary_vm_stopped(void *ctx, struct ckpt *ckpt, uint64_t now);

/* node_encode.c */
void codec_caps(const struct node *node, uint8_t out[CODEC_CAPS_LEN]);
/* Streams that this side can have (link_params.streams). */
unsigned int codec_streams(const struct node *node);
/* What the peer says of itself; false: it was refused, the session is over. */
bool codec_peer(struct node *node, const uint8_t *caps, size_t len);
void codec_fini(struct node *node);
/* The pages kept, in bytes. */
struct stats_queue codec_memory(struct node *node);
/* Before the first checkpoint of a copy; 0 or -ENOMEM. */
int encode_begin_session(struct node *node);
/* What was captured is not sent any further. */
void encode_stop(struct node *node);
void primary_pump_checkpoint(struct node *node);
/* READY's flags have come. */
void encode_peer_ready(struct node *node, uint32_t flags);
/* CKPT_HOLES has come. */
void encode_holes(struct node *node, uint32_t epoch, const uint8_t *payload, size_t len);
/* With COMMITTED: of the pages that came whole the secondary looked at some. */
void encode_looked(struct node *node, uint32_t looked, uint32_t alike);

/* node_decode.c */
int decode_begin_session(struct node *node);
/* Forgets all pages. */
void decode_stop(struct node *node);
/* The SVM's QEMU runs: READY's flags. */
uint32_t decode_ready(struct node *node);
void decode_begin(struct node *node);
/* Adds to the checkpoint in the buffer; false: it cannot be, the session is over. */
bool decode_block(struct node *node, const uint8_t *payload, size_t len);
/* Adds what was missing in it, as above. */
bool decode_fill(struct node *node, const uint8_t *payload, size_t len);
/* What to tell with COMMITTED. */
void decode_looked(const struct node *node, uint32_t *ret_looked, uint32_t *ret_alike);
/* Whether all of it is there and right. */
bool decode_is_whole(struct node *node, const uint8_t hash[16]);

/* node_feed.c */
void secondary_count_injected(struct node *node, const struct frame *frame);
void secondary_empty_tap(struct node *node);
void secondary_feed(struct node *node);
void secondary_feed_due(void *ctx, uint64_t now);
void secondary_forget_input(struct node *node, uint64_t below);
void secondary_input(struct node *node, const uint8_t *payload, size_t len);
void secondary_refeed(void *ctx, const struct flow_key *key, uint32_t seq);
void secondary_refeed_due(void *ctx, uint64_t now);

/* node_mirror.c */
void primary_input_cut(struct node *node);
void primary_input_committed(struct node *node);
void primary_mirror_ready(void *ctx, uint32_t events);

/* node_primary.c */
void primary_copy_due(void *ctx, uint64_t now);
void primary_write_pvm(struct node *node);

/* node_figures.c; the last checkpoints, step by step */
void figures_captured(struct node *node);
void figures_paused(struct node *node, uint64_t stopped_at, uint64_t pause_ns);
void figures_committed(struct node *node, uint64_t commit_ns);
void figures_loaded(struct node *node, uint64_t load_ns);
void figures_encoded(struct node *node);
/* comparator = qemu: the stop was a checkpoint of QEMU's */
void figures_stock(struct node *node, enum ckpt_cause cause, uint64_t stopped_at,
                   uint64_t pause_ns);

/* node_evidence.c; what there is no memory or no room on the link for is left out */
void node_note_divergence(struct node *node, const struct divergence *why);
void node_note_cause(struct node *node, enum ckpt_cause cause);
void node_said_arrived(struct node *node, const uint8_t *payload, size_t len);
/* One line about the newest divergence; buf is untouched when there is none. */
void node_last_divergence(const struct node *node, char *buf, size_t len);
/* Takes a frame that the shadow has just seen, and that never goes out. */
void secondary_keep(struct node *node, struct frame *frame);
void secondary_forget(struct node *node);
void secondary_asked(struct node *node, uint32_t epoch, const uint8_t *payload, size_t len);
void secondary_asked_to_cut(struct node *node, uint32_t epoch, const uint8_t *payload, size_t len);

/* node_still.c */
void still_take(struct node *node);
void still_stopped(struct node *node);
void still_due(void *ctx, uint64_t now);
void still_take_over(struct node *node);
void still_loaded(struct node *node);
void still_clear(struct node *node);
struct stats_queue still_memory(const struct node *node);

/* node_secondary.c */
void secondary_begin_lineage(struct node *node);
void secondary_cut_log(struct node *node);
/* The SVM's QEMU waits for the stream. */
void secondary_say_ready(struct node *node, uint32_t flags);
void secondary_load(struct node *node);
void secondary_load_into_svm(struct node *node, struct ckpt *ckpt);
void secondary_svm_failed(struct node *node, const char *why);
void secondary_close_svm(struct node *node);
void secondary_speak(struct node *node, struct frame *frame);

/* node_takeover.c */
/* Tells the network that the VM is here. Only where the VM may speak. */
void node_announce(struct node *node);
void secondary_announce_due(void *ctx, uint64_t now);
void node_announce_committed(struct node *node);
void secondary_leave_colo(struct node *node);
void secondary_live_due(void *ctx, uint64_t now);

/* node_reprotect.c */
void reprotect_lead(struct node *node);
void reprotect_follow(struct node *node);

/* node_replay.c */
/* Epoch 0 begins. */
void primary_begin_replay(struct node *node);
/* True when all that goes along with the checkpoint is on the link; call again when there is room.
 */
bool primary_send_replay(struct node *node);
/* Whenever what was let out may have left: tells the secondary, if there is news for it. */
void primary_say_released(struct node *node);
void secondary_released(struct node *node, uint32_t epoch, size_t len);
void secondary_replay_arrived(struct node *node, uint32_t epoch, const uint8_t *payload,
                              size_t len);
/* At a takeover: says all that is kept and has not left. */
void secondary_replay(struct node *node);

/* node_map.c */
uint64_t map_settles_in(struct node *node);
void map_expire_due(void *ctx, uint64_t now);
void map_begin(struct node *node);
void map_flow_open(struct node *node, const struct flow_open *open);
void map_cut(struct node *node);
bool map_send(struct node *node, enum link_channel channel, uint32_t epoch);
void map_arrived(struct node *node, const uint8_t *payload, size_t len);
void map_begins(struct node *node);
void map_clear(struct node *node);

/* node_cut.c */
int cut_init(struct node *node, char *err, size_t errlen);
/* Diverts the VM's input; primary_let_stop() is called when the VM has taken what was there. */
void cut_begin(struct node *node);
/* What was taken back is the new epoch's, and the lineages that will have it begin with it. */
void cut_taken(struct node *node, uint32_t epoch);
/* The mirror has this: 0, or the first lineage that has not heard it before. */
uint32_t cut_since(struct node *node, const struct frame *frame);
/* Gives the VM what was diverted. */
void cut_end(struct node *node);
/* All input goes through the diversion from here on, to be mapped; until cut_unmap(). */
int cut_map(struct node *node);
void cut_unmap(struct node *node);
/* The diversion ends, for a tap that is on no bridge: nothing comes this way meanwhile. */
void cut_close(struct node *node);

/* node_secondary.c */
void secondary_init_timers(struct node *node);
void secondary_stop_timers(struct node *node);
int secondary_init(struct node *node, char *err, size_t errlen);
void secondary_fini(struct node *node);
void secondary_output(struct node *node, struct frame *frame);
void secondary_flush_digests(struct node *node);
void secondary_message(struct node *node, uint8_t type, uint32_t epoch, const uint8_t *payload,
                       size_t len);
void secondary_vm_ready(struct node *node, bool ok, const char *text);
void secondary_stop_copy(struct node *node);
void secondary_take_over(struct node *node);
void secondary_left_colo(struct node *node, bool ok, const char *text);
void secondary_heard(struct node *node, uint32_t epoch, const struct heartbeat *heartbeat);
void secondary_consumed(struct node *node, uint32_t epoch, uint64_t consumed);
bool secondary_has_same_vm(struct node *node, const uint8_t *payload, size_t len);

/* node_stock.c */
void stock_act(struct node *node, uint32_t actions);
void stock_message(struct node *node, uint8_t type, uint32_t epoch, const uint8_t *payload,
                   size_t len);
void stock_vm_ready(struct node *node, bool ok, const char *text);
void stock_left_colo(struct node *node, bool ok, const char *text);
void stock_in_colo(struct node *node);
void stock_channel_lost(struct node *node, const char *text);
void stock_checkpoint_seen(struct node *node, uint64_t stopped_at, uint64_t pause_ns);

#endif
