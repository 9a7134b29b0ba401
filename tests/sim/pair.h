/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_SIM_PAIR_H
#define COLO_SIM_PAIR_H

/*
 * The simulation of a pair (sim_pair.c says what for): what its parts know of each other.
 *
 *   pair_world.c   time, random numbers, the two hosts
 *   pair_control.c the control threads, the fence, the operator
 *   pair_fault.c   what goes wrong, and when
 *   pair_loop.c    loop.h
 *   pair_link.c    link.h
 *   pair_path.c    the data path's headers: taps, hold, mirror, inject, intercept; the switch
 *   pair_system.c  the system calls that the node makes itself: unix sockets, the marker, clocks
 *   pair_qemu.c    two model QEMUs and the machine that they run
 *   pair_encode.c  encode_pool.h
 *   pair_client.c  the clients
 *   pair_check.c   the omniscient checker
 *   pair_end.c     TCP, for the machine and the clients
 *   pair_run.c     one schedule, from its seed to its end
 *   pair_jobs.c    many schedules, in processes of their own; what was counted
 *   pair_shrink.c  a schedule that fails is made smaller
 *
 * One thread; one world at a time, `world`. `here` is the host whose daemon's code is running.
 */
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "colo-proxy/config/config.h"
#include "colo-proxy/node/node_private.h"
#include "tests/sim/pair_end.h"

#define US    1000ull
#define SEC   (1000 * MS)
#define NEVER UINT64_MAX

struct host;

/* ---- frames ---- */

struct frames {
	struct frame *head, *tail;
	uint32_t n;
};
void frames_push(struct frames *frames, struct frame *frame);
struct frame *frames_pop(struct frames *frames);
void frames_clear(struct frames *frames);

/* ---- the machine and its QEMU ---- */

#define GUEST_CONNS 4u
#define GUEST_GONE  16u
#define GUEST_PORT  80u
#define GUEST_OUT   4000u /* first port of connections that the machine opens */
#define CLIENT_IN   9000u /* where they go */
#define ASK_TO_OPEN 9u    /* UDP port: open a connection to the port in the payload */
#define REQUEST_LEN 8u    /* be32 number, be32 length of the answer's body */
#define ANSWER_HEAD 16u   /* be32 number, be32 serial, be32 history, be32 length */
#define ANSWER_MAX  900u

/* Plain data: the machine's memory. What it says depends on all that it has heard, in order. */
struct guest {
	uint32_t clock_ms; /* at the moment of the copy */
	uint32_t serial;   /* requests executed */
	uint32_t history;  /* a hash of them, in order */
	uint32_t opened;
	/* Written for the checker only: */
	uint32_t origin;  /* the incarnation that this memory was copied from, or is */
	uint32_t lineage; /* the checkpoint that it was captured in, or began with */
	uint32_t heard;   /* datagrams, since the copy began */
	struct guest_gone {
		uint16_t vm_port, peer_port;
		uint32_t iss, irs, max, rcv;
	} gone[GUEST_GONE]; /* connections that have come to their end */
	uint32_t gone_n;
	struct guest_conn {
		struct end end;
		uint8_t request[REQUEST_LEN];
		uint32_t request_len;
	} conn[GUEST_CONNS];
};

#define GUEST_PAGES ((sizeof(struct guest) + 4095) / 4096)

enum qemu_phase {
	QEMU_ALONE,
	/* towards a secondary */
	QEMU_COPYING, /* the first copy; the machine runs */
	QEMU_COPIED,  /* it stands still, until READY */
	QEMU_COLO,
	QEMU_REQUESTED,
	QEMU_CUT,  /* it stands still, its memory has not gone out */
	QEMU_SENT, /* until RECEIVED */
	QEMU_SENT_RECEIVED,
	/* from a primary */
	QEMU_LISTENS,
	QEMU_INCOMING,
	QEMU_SHADOW,
	QEMU_STOPPED, /* REPLY has gone out */
	QEMU_LOADING,
	QEMU_PHASES
};

struct socket; /* a unix socket between the daemon and its QEMU */

struct qemu {
	bool alive, running, shut;
	uint32_t incarnation;
	enum qemu_phase phase;
	struct guest guest, base; /* base: what the other side has (P), the last load (S) */
	uint64_t clock_at;
	uint64_t random;
	struct socket *socket;
	bool acting; /* an event is on its way */
	uint64_t acts_at;
	uint32_t chunks;     /* of the first copy still to send */
	uint64_t busy_until; /* with a load */
	struct frame *extra; /* taken from the tap after the machine was stopped */
	uint8_t *in;
	uint32_t in_len, in_room;
	bool half;    /* a load has begun */
	bool rearmed; /* since it stands still at the end of the first copy */
};

void qemu_boot(struct host *host);
void qemu_listen(struct host *host);
void qemu_migrate(struct host *host);
void qemu_kick(struct host *host);
void qemu_rearm(struct host *host);
void qemu_trigger(struct host *host);
/* False: it cannot. */
bool qemu_leave_colo(struct host *host);
void qemu_end(struct host *host);
bool qemu_failed_to_copy(const struct host *host);
/* Where the node may read the machine's memory. NULL: nowhere. */
const struct guest_memory *qemu_memory(const struct host *host);
#define QEMU_RAM_AT 0x7f0000000000ull
uint32_t guest_clock(const struct qemu *qemu);
uint8_t guest_body(uint32_t serial, uint32_t at);

/* ---- system calls ---- */

struct socket {
	struct host *host;
	GByteArray *to_qemu, *to_daemon;
	bool daemon_closed, qemu_closed, accepted;
};

enum fd_kind {
	FD_FREE,
	FD_LISTEN,
	FD_SOCKET,
	FD_CONNECTED,
	FD_TAP,
	FD_HOLD,
	FD_MIRROR,
	FD_INTERCEPT,
	FD_DIR
};
#define FD_BASE 1000000
#define FD_MAX  64

struct fd {
	enum fd_kind kind;
	struct socket *socket;
};
int fd_new(struct host *host, enum fd_kind kind);
struct fd *fd_of(struct host *host, int fd);
uint32_t fd_poll(struct host *host, int fd);
void system_clear(struct host *host);
struct socket *socket_new(struct host *host);
void socket_close_qemu(struct socket *socket);
void socket_unref(struct socket *socket);

/* ---- the data path of one daemon ---- */

struct path {
	bool tap, on_bridge;
	struct frames ring; /* to the VM */
	uint64_t taken, dropped, arrived;
	uint32_t ring_max;
	struct hold *hold;
	struct frames held;
	struct mirror *mirror;
	struct frames copies;
	struct intercept *intercept;
	struct frames diverted;
	uint64_t released;
};
void path_clear(struct path *path);
void path_client_sends(struct frame *frame);
/* The host's port has lost its carrier: the switch forgets what it knew of it. */
void path_port_down(const struct host *host);
/* The frame with the checksum that build_udp() leaves out. */
struct frame *path_with_checksum(struct frame *frame);
/* Whether a real stack would take it: the checksums of IPv4, TCP and UDP. */
bool path_is_sound(const struct packet *packet);
void path_vm_says(struct host *host, struct frame *frame);
struct frame *path_vm_takes(struct host *host);

/* ---- link ---- */

uint64_t link_next(const struct host *host);
void link_turn(struct host *host);
void link_turn_end(struct host *host);
void link_power_lost(struct host *host);
void link_process_died(struct host *host);
void link_healed(void);
/* The session that is up as the host sees it; 0: none. */
uint64_t link_session(const struct host *host);
void link_world_clear(void);

/* ---- loop ---- */

uint64_t loop_next(const struct host *host);
void loop_turn(struct host *host);
void loop_wake(struct host *host);
void loop_end(struct host *host);

/* ---- hosts ---- */

#define ORDERS_MAX 64u
#define SAID_MAX   1024u

/* The answers to datagrams that a primary's VM has given and that have not left the host. */
struct said {
	uint32_t serial[SAID_MAX], first, n;
};

struct host {
	uint32_t index;
	bool power;
	uint32_t life; /* counts the daemon's starts and ends */
	struct config *config;
	struct node *node;
	struct loop *loop;
	struct link *link;
	struct path path;
	struct fd fd[FD_MAX];
	bool marker, dying, in_colo;
	uint32_t vm_id; /* the last QEMU here */
	uint64_t stalled_until, qemu_stalled_until;
	uint64_t urgent_since;
	uint64_t turn_at;
	/* Its monotonic clock and its wall clock before the world's: not the same on both. */
	uint64_t lead, wall_lead;
	uint64_t clock_still,
	        still_until;   /* while the host is suspended: what it shows; until when */
	uint64_t slow_ns;      /* each turn takes up to so long */
	uint64_t qemu_slow_ns; /* and each load */
	bool net_cut;          /* its port to the clients' network is dead */
	bool sockets_full;     /* the link's sockets take nothing from it */
	bool queue_full;       /* nor does the queue of what is urgent */
	bool hold_full;        /* the kernel takes no frame back from it */
	uint32_t damaged;      /* the n-th message that it receives now is damaged; 0: none */
	struct said said;
	uint32_t last_state; /* enum role_state + 1 */
	bool gate_full, link_full, half, whole;
	bool owes; /* it has taken over, and what it owes the clients may wait for the kernel: */
	struct said owed;
	uint64_t last_session,
	        last_input; /* at the end of its last turn: of the link, of the log */
	struct qemu qemu;
	struct {
		enum order order;
	} orders[ORDERS_MAX];
	uint32_t orders_n;
	bool control_busy, fencing;
	bool sampling; /* what its machine writes to; until the node is told */
	uint64_t own_numbers;
	uint64_t fence_due;  /* when the fence that is asked answers */
	uint64_t bad_since;  /* since when the operator has reason to act; 0: none */
	struct node_job job; /* the operator's */
	bool job_busy;
	bool handed; /* at the end of its last turn: it has given the right away */
};

/* ---- the world ---- */

#define FLOODS 2u

enum fence_kind { FENCE_WORKS, FENCE_FAILS, FENCE_HANGS };

struct event {
	uint64_t at, seq;
	void (*fn)(struct host *host, uint64_t arg);
	struct host *host;
	uint64_t arg;
	/* Instead of fn: a frame arrives; it is the function's. */
	void (*arrives)(struct frame *frame);
	struct frame *frame;
};

struct client;

/* ---- what happens in a run ---- */

#define FAULTS_MAX 20u

/* In the order of pair_fault.c's table. */
enum fault {
	FAULT_POWER,
	FAULT_DAEMON,
	FAULT_DAEMON_IN_TURN,
	FAULT_POWER_AT_PHASE,
	FAULT_QEMU,
	FAULT_CUT,
	FAULT_CUT_ONE_WAY,
	FAULT_PARTITION,
	FAULT_CLIENT_NET,
	FAULT_FENCE,
	FAULT_STALL_DAEMON,
	FAULT_STALL_QEMU,
	FAULT_STALL_HOST,
	FAULT_SUSPEND,
	FAULT_CLOCK_LEAPS,
	FAULT_WALL_CLOCK,
	FAULT_SLOW_LINK,
	FAULT_SLOW_DAEMON,
	FAULT_SLOW_QEMU,
	FAULT_LOSS,
	FAULT_DUPLICATES,
	FAULT_REORDER,
	FAULT_DAMAGED_FRAMES,
	FAULT_DAMAGED_LINK,
	FAULT_FULL_LINK,
	FAULT_FULL_HOLD,
	FAULT_FLOOD,
	FAULT_SWITCH_OVER,
	FAULT_CHECKPOINT,
	FAULT_POLICY,
	FAULTS
};

/* What is counted in a run besides the faults; names in pair_jobs.c. */
enum count {
	COUNT_FRAMES_LOST = FAULTS,
	COUNT_FRAMES_TWICE,
	COUNT_FRAMES_LATE,
	COUNT_FRAMES_DAMAGED,
	COUNT_LINK_DAMAGED,
	COUNT_LINK_DEAF,
	COUNT_LINK_FULL,
	COUNT_RING_FULL,
	COUNT_GATE_FULL,
	COUNT_HOLD_REFUSED,
	COUNT_PROTECTED,
	COUNT_PROTECTED_AGAIN,
	COUNT_LOST_PEER,
	COUNT_STUCK,
	COUNT_TAKING_OVER,
	COUNT_HALF_CHECKPOINT,
	COUNT_COMMITTED_LOADED,
	COUNT_SPEAKERS,
	COUNT_RETIRED,
	COUNT_SWITCH_IN_PAUSE,
	COUNT_SWITCH_IN_FLIGHT,
	COUNT_HANDED,
	COUNT_RECEIVER_STOPPED,
	COUNT_LEFT_LATE,
	COUNT_NOT_LIVE,
	COUNT_FENCED,
	COUNT_FENCE_FAILED,
	COUNT_FORCED,
	COUNT_BOOTS,
	COUNT_CHECKPOINTS,
	COUNT_LOADS,
	COUNT_SAMPLED,
	COUNT_FOR_DIRTY,
	COUNT_PAGES_READ,
	COUNT_AGREED,
	COUNT_HOLES,
	COUNT_MATCHED,
	COUNT_REPLAYED,
	COUNT_REPLAYED_TWICE,
	COUNT_ANSWERS,
	COUNT_DATAGRAMS,
	COUNT_POLICY, /* one for each: the seeds that began with it */
	COUNT_R1_TCP = COUNT_POLICY + PACER_POLICY_COUNT,
	COUNT_R1_DATAGRAM,
	COUNT_R2_ACK,
	COUNT_R3,
	COUNT_R4,
	COUNT_R5_REQUEST,
	COUNT_R5_ORDER,
	COUNT_R5_SESSION,
	COUNT_R6,
	COUNT_R7,
	COUNT_REPLAY_OWED,
	COUNT_REPLAY_HEARD,
	COUNT_R8_KEPT,
	COUNT_R8,
	COUNT_TURNS,
	COUNTS
};
extern const char *const fault_names[FAULTS];
extern const char *const count_names[COUNTS];

/* Settings of a seed that can be replaced by plain ones (--plain). */
enum plain {
	PLAIN_NETWORK,
	PLAIN_DELAY,
	PLAIN_LIMITS,
	PLAIN_POLICY,
	PLAIN_TIMES,
	PLAIN_FENCE,
	PLAIN_CLOCKS,
	PLAINS
};
extern const char *const plain_names[PLAINS];

/* A seed, and what of it happens. The same schedule is the same run, event by event. */
struct schedule {
	uint64_t seed;
	uint32_t salt;    /* another course of events under the same faults and settings */
	uint32_t faults;  /* bit i: the i-th of the plan happens */
	uint32_t clients; /* conversations over TCP at a time; 0: all */
	bool no_datagrams;
	uint32_t plain;   /* bits: enum plain */
	uint64_t calm_ms; /* when the faults end; 0: as the seed has it */
	bool show_frames; /* of TCP, as they leave a host, in the trace */
};
#define SCHEDULE_OF(number) ((struct schedule){.seed = (number), .faults = UINT32_MAX})

/* How a run ended, in memory that outlives the process. */
struct ending {
	uint64_t count[COUNTS];
	uint64_t random, now, turns;
	uint32_t faults; /* in the plan */
	char what[200];  /* the check that did not hold: its text in the code */
	char why[400];   /* with the figures */
};

void run_schedule(const struct schedule *schedule, struct ending *ending, bool with_trace);
char *schedule_text(const struct schedule *schedule);

struct jobs_options {
	uint64_t first, seeds;
	uint32_t jobs, failures; /* processes; failures after which it ends */
	bool progress, shrink, all_seen;
};
/* Runs them and prints what came of it. False when one failed. */
bool jobs_run(const struct jobs_options *options);
/* Runs the schedule in a process of its own. True when it failed, and then why is in `ret`. */
bool schedule_fails(const struct schedule *schedule, struct ending *ret);
void shrink(const struct schedule *schedule, const struct ending *ending);

#define INPUT_SEEN 2048u

struct world {
	const struct schedule *schedule;
	struct ending *ending;
	uint64_t seed, random, now, seq;
	bool trace, trace_frames, calm;
	struct event *events;
	uint32_t events_n, events_room;
	struct host host[2];
	bool cut[2];     /* [i]: nothing from host i arrives at the other */
	bool fence_dead; /* the fence cannot be reached */
	uint64_t delay;  /* of the link, longest */
	uint32_t fdb;    /* the host that the switch sends to; FLOODS: it does not know, to both */
	/* Of frames between switch and clients, per mille: lost, doubled, late, damaged; how late.
	 */
	uint32_t loss, twice, late, damage;
	uint64_t late_ns;
	uint64_t fdb_at; /* when the switch has heard from there last */
	/* When the operator switches over: as soon as a checkpoint is there. */
	enum moment {
		MOMENT_NONE,
		MOMENT_IN_PAUSE, /* between its cut and its capture */
		MOMENT_IN_FLIGHT,
		MOMENTS
	} switches;
	/* Its power is lost as soon as a host is there. */
	enum phase {
		PHASE_NONE,
		PHASE_HALF,
		PHASE_WHOLE,
		PHASE_COPY,
		PHASE_TAKEOVER,
		PHASE_HANDED
	} trap;
	struct host *trap_host;
	struct client *client;
	enum fence_kind fence;
	uint64_t lost_since; /* since when the operator sees no VM anywhere */
	uint32_t incarnations, fuse;
	struct host *fuse_host;
	/* the checker */
	uint32_t generation, speaker; /* incarnation that spoke last */
	uint8_t silenced[256];        /* by incarnation: another one has spoken since */
	uint32_t executed[1 << 14];   /* by serial: who asked for it */
	uint32_t serials;             /* the highest of them */
	uint32_t asked[1 << 14];      /* requests that have been executed: a hash table of `who` */
	uint8_t copies[1 << 12];      /* by datagram: how many the network has delivered */
	uint8_t answered[1 << 12];    /* and how often it has been executed */
	struct guest image[2];        /* by epoch & 1: what was captured */
	uint32_t image_epoch[2], image_incarnation[2];
	uint32_t loaded_epoch; /* the newest that a secondary has loaded */
	/* Of what was captured: the answers to datagrams that had been said and had not left. */
	struct said owed[2];
	uint8_t left[1 << 14]; /* by serial: LEFT, HEARD */
	/* Datagrams that the primary's VM has heard since the copy began, by number; and where that
	 * says nothing of the secondary's: lineages up to this one. */
	uint32_t input_origin, input_heard, input[INPUT_SEEN];
	uint32_t input_excused, protections;
	/* Of the checker of R7, by client: what the VM has said last. */
	struct shown {
		uint16_t vm_port, peer_port;
		uint32_t ack, tsval;
		bool any;
	} shown[8];
	uint32_t shown_next;
	uint64_t copy_session; /* of the link, in which the newest copy was made */
	bool lead_lost;    /* a TS_LEAD was on its way when its session ended, and did not arrive */
	uint32_t leapt_ms; /* of leaps of clocks: so much may a survivor have taken for time */
	uint64_t turns, *count; /* COUNTS */
};

extern struct world *world;
extern struct host *here;

static inline uint32_t rnd(uint32_t below)
{
	world->random ^= world->random << 13;
	world->random ^= world->random >> 7;
	world->random ^= world->random << 17;
	return (uint32_t)((uint64_t)(uint32_t)(world->random >> 16) * below >> 32);
}

static inline bool chance(uint32_t percent)
{
	return rnd(100) < percent;
}

static inline uint64_t rnd_ns(uint64_t low, uint64_t high)
{
	return high <= low ? low : low + rnd((uint32_t)((high - low) / 1000 + 1)) * 1000ull;
}

static inline void count(enum count what)
{
	world->count[what]++;
}

void at(uint64_t when, struct host *host, void (*fn)(struct host *, uint64_t), uint64_t arg);
void at_frame(uint64_t when, void (*arrives)(struct frame *frame), struct frame *frame);
struct event world_pop(void);
static inline struct host *peer_of(const struct host *host)
{
	return &world->host[!host->index];
}

/* Said with SIM_TRACE=1. */
void trace(const struct host *host, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* True while the daemon's acts have an effect: a crash in the middle of a turn ends that. */
bool acts(struct host *host);

/* The host's monotonic clock. */
static inline uint64_t host_clock(const struct host *host)
{
	uint64_t now = world->now + host->lead;

	return now > host->clock_still ? now : host->clock_still;
}

void host_start(struct host *host);
/* It was suspended until later, and is not any more. */
void host_clock_goes_on(struct host *host);
void host_kill_daemon(struct host *host);
void host_power_off(struct host *host);
void host_power_on(struct host *host);
void host_qemu_died(struct host *host);

/* ---- the control threads and the operator (pair_control.c) ---- */

extern const struct node_ops control_operations;
void control_clear(struct host *host);
void operator_starts(void);
void operator_fails_over(struct host *host, bool force);
void operator_checkpoints(struct host *host);
void operator_changes_policy(struct host *host);
/* `stop`, by command or by SIGTERM. */
void operator_stops(struct host *host);
/* By the host's own count, so that a schedule's other draws stay as they are. */
uint32_t own_number(struct host *host, uint32_t below);

/* ---- faults (pair_fault.c) ---- */

/* Until when. */
uint64_t faults_plan(void);
/* After a turn of the host. */
void faults_trap(struct host *host);
void faults_end(void);

#define CHECK(holds, ...)                                                                          \
	do {                                                                                       \
		if (!(holds))                                                                      \
			check_failed(#holds, __VA_ARGS__);                                         \
	} while (0)
void check_failed(const char *what, const char *format, ...)
        __attribute__((format(printf, 2, 3), noreturn));

/* ---- checker ---- */

void check_emission(struct host *host, struct frame *frame);
void check_answer(uint32_t serial, uint32_t who);
void check_host(struct host *host);
void check_booted(struct host *host);
void check_captured(struct host *host, uint32_t epoch);
/* The machine has the memory of a checkpoint. */
void check_loaded(struct host *host);
/* The network has brought it to a tap. */
void check_delivered(const struct frame *frame);
/* It hears a datagram. */
void check_heard(struct host *host, uint32_t number);
/* The host's clock has leapt. */
void check_leapt(const struct host *host, uint64_t by);
/* A frame was dropped in front of it. */
void check_input_dropped(struct host *host);
/* It says something, which is held or goes on. */
void check_said(struct host *host, const struct frame *frame);
void check_silenced(struct host *host);
void check_released(uint32_t epoch);

/* ---- clients ---- */

void client_start(void);
void client_hears(struct frame *frame);
void client_vm_rebooted(void);
bool client_done(void);
void client_floods(uint32_t datagrams);
/* The numbers of the client's connection: its own, and the VM's as it knows it. */
bool client_knows(const struct packet *from_vm, uint32_t *ret_iss, uint32_t *ret_irs);
void client_describe(void);
void client_free(void);

#endif
