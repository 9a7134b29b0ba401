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
 *   pair_client.c  the clients
 *   pair_check.c   the omniscient checker
 *   pair_end.c     TCP, for the machine and the clients
 *
 * One thread; one world at a time, `world`. `here` is the host whose daemon's code is running.
 */
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "colo-proxy/config/config.h"
#include "colo-proxy/node_private.h"
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
void path_vm_says(struct host *host, struct frame *frame);
struct frame *path_vm_takes(struct host *host);

/* ---- link ---- */

uint64_t link_next(const struct host *host);
void link_turn(struct host *host);
void link_turn_end(struct host *host);
void link_power_lost(struct host *host);
void link_process_died(struct host *host);
void link_healed(void);
void link_world_clear(void);

/* ---- loop ---- */

uint64_t loop_next(const struct host *host);
void loop_turn(struct host *host);
void loop_wake(struct host *host);
void loop_end(struct host *host);

/* ---- hosts ---- */

#define ORDERS_MAX 64u

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
	struct qemu qemu;
	struct {
		enum order order;
	} orders[ORDERS_MAX];
	uint32_t orders_n;
	bool control_busy, fencing;
	uint64_t bad_since;  /* since when the operator has reason to act; 0: none */
	struct node_job job; /* the operator's */
	bool job_busy;
};

/* ---- the world ---- */

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
struct wire;

struct world {
	uint64_t seed, random, now, seq;
	bool trace, calm;
	struct event *events;
	uint32_t events_n, events_room;
	struct host host[2];
	bool cut[2];    /* [i]: nothing from host i arrives at the other */
	uint64_t delay; /* of the link, longest */
	uint32_t fdb;   /* the host that the switch sends to */
	uint32_t loss;  /* per mille of frames between switch and clients */
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
	struct guest image[2];        /* by epoch & 1: what was captured */
	uint32_t image_epoch[2], image_incarnation[2];
	bool was_protected;
	/* figures */
	uint64_t checkpoints, takeovers, answers, matched, faults, turns, boots;
};

extern struct world *world;
extern struct host *here;

uint32_t rnd(uint32_t below);
bool chance(uint32_t percent);
uint64_t rnd_ns(uint64_t low, uint64_t high);
void at(uint64_t when, struct host *host, void (*fn)(struct host *, uint64_t), uint64_t arg);
void at_frame(uint64_t when, void (*arrives)(struct frame *frame), struct frame *frame);
struct event world_pop(void);
struct host *peer_of(const struct host *host);
/* Said with SIM_TRACE=1. */
void trace(const struct host *host, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* True while the daemon's acts have an effect: a crash in the middle of a turn ends that. */
bool acts(struct host *host);

void host_start(struct host *host);
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

/* ---- faults (pair_fault.c) ---- */

void faults_plan(void);
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

/* ---- clients ---- */

void client_start(void);
void client_hears(struct frame *frame);
void client_vm_rebooted(void);
bool client_done(void);
void client_describe(void);
void client_free(void);

#endif
