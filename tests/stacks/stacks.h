/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_TESTS_STACKS_H
#define COLO_TESTS_STACKS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "colo-proxy/core/gate.h"
#include "colo-proxy/core/recent.h"
#include "colo-proxy/core/shadow.h"
#include "colo-proxy/datapath/tapdev.h"

/*
 * The comparison engine between three real TCP stacks. See main.c for the theory of operation.
 *
 *   main.c    options, the loop, the sum at the end
 *   net.c     three network namespaces with a tap each
 *   segment.c TCP frames: cut, joined, renumbered, with right checksums
 *   plan.c    what a seed decides
 *   end.c     the applications at the three ends of a connection, on real sockets
 *   shim.c    events in time, and the hops at which frames are treated badly
 *   clone.c   a checkpoint of a connection: the PVM's socket copied over the SVM's
 *   run.c     one seed: the engine between the taps
 *   truth.c   the reference, which has seen everything
 */

#define MS 1000000ull

enum place {
	CLIENT,
	PVM,
	SVM,
	PLACES,
};

extern const char *const place_names[PLACES];

struct run;

/* ---- random numbers ---- */

struct rng {
	uint64_t state;
};

struct rng rng_of(uint64_t seed, uint64_t what);
uint32_t rng_below(struct rng *rng, uint32_t below); /* 0 for 0 */
bool rng_chance(struct rng *rng, uint32_t percent);
uint32_t rng_size(struct rng *rng, uint32_t max); /* 1 .. max, small ones as often as large ones */

/* ---- net.c ---- */

#define VM_IP       0x0a080001u /* 10.8.0.1, in both of the VMs' namespaces */
#define CLIENT_NET  0x0a090000u /* 10.9.0.0/16, all in the client's */
#define VM_PORT     80u         /* where the VM listens */
#define CLOSED_PORT 81u         /* where it does not */
#define CLIENT_PORT 90u         /* where the client listens */

struct stack {
	int ns, tap, listener;
	struct tapdev_reader reader;
};

/* Makes the namespaces; they are gone with the process. 0, or a negative errno with words. */
int net_open(struct stack stacks[PLACES], char *err, size_t errlen);
void net_close(struct stack stacks[PLACES]);

/* A counter of /proc/net/netstat there by its name; negative errno: it cannot be read. */
int64_t net_counter(const struct stack *stack, const char *counter);

/* The address for sockets, which are all of IPv6: IPv4's as ::ffff:ADDRESS, of six fd00::ADDRESS.
 */
struct sockaddr_in6 net_address(bool six, uint32_t ip, uint16_t port);

/* A TCP socket in the namespace, bound to the address; -errno. */
int net_socket(const struct stack *stack, bool six, uint32_t ip, uint16_t port, bool repair);

/* Writes the frame to the namespace's tap: its stack has heard it when this returns. */
void net_deliver(const struct stack *stack, enum place place, struct frame *frame);

/* ---- segment.c ---- */

/* A TCP segment; all numbers in host order, offsets into the frame's data; of IPv6 addresses the
 * last 32 bits. */
struct segment {
	struct frame *frame;
	bool six;
	uint32_t ip_off, tcp_off, data_off, len;
	uint32_t src, dst, seq, ack;
	uint16_t sport, dport;
	uint8_t flags;
	uint32_t ts_off, sack_off, sack_count;
	uint32_t tsval;
};

/* False: not TCP, or with extension headers. */
bool segment_parse(struct segment *ret, struct frame *frame);

/* Its bytes [from, from + count) as a frame of its own. partial: leaves the checksum to offload. */
struct frame *segment_part(const struct segment *s, uint32_t from, uint32_t count, bool partial);

/* Both in one frame, a superframe when it is long; NULL when b does not continue a. */
struct frame *segment_join(const struct segment *a, const struct segment *b);

/* Computes the checksum that was left to offload, as a network card does. */
void segment_complete(struct segment *s);

/* What a SYN offers, and the other side takes if it arrives. */
enum offer {
	OFFER_TIMESTAMPS,
	OFFER_SACK,
	OFFER_WSCALE,
	OFFER_ECN,
	OFFERS,
};

/* Takes out of a SYN what is not to be offered, as some firewalls do. */
void segment_restrict(struct segment *s, const bool offer[OFFERS]);

/* Sets the lengths and checksums of a frame that was made by hand. */
void segment_seal(struct frame *frame);

/* Adds to sequence number and TSval, or, of what has an acknowledgement, takes from the
 * acknowledgement, the SACK blocks and TSecr. */
void segment_shift_out(struct segment *s, uint32_t seq, uint32_t ts);
void segment_shift_in(struct segment *s, uint32_t seq, uint32_t ts);

/* ---- plan.c ---- */

enum ending {
	END_VM_FIRST,     /* the VM closes its half when it has said all */
	END_CLIENT_FIRST, /* the client closes its half first, the VM after it */
	END_BOTH,
	END_VM_RESETS, /* SO_LINGER, when the client has confirmed everything */
	END_CLIENT_RESETS,
	END_REFUSED, /* nobody listens */
};

enum kind {
	KIND_HONEST,
	KIND_LIE,   /* the two servers say different things */
	KIND_CRASH, /* the primary dies, the secondary goes on */
};

enum lie {
	LIE_FLIP,   /* one byte is another */
	LIE_OMIT,   /* one byte is missing */
	LIE_INSERT, /* one byte is there twice */
	LIE_END,    /* closes early */
};

#define STEPS 8u
#define NEVER UINT32_MAX

struct step {
	bool by_vm, wait; /* wait: for all that the other side says before */
	uint32_t len;
};

enum hop {
	HOP_NET_IN,  /* client -> switch */
	HOP_PVM_IN,  /* switch -> PVM */
	HOP_SVM_IN,  /* secondary daemon -> SVM */
	HOP_PVM_OUT, /* PVM -> gate */
	HOP_SVM_OUT, /* SVM -> shadow */
	HOP_NET_OUT, /* gate -> client */
	HOPS,
};

extern const char *const hop_names[HOPS];

/* In percent of the frames; delays in microseconds. */
struct handling {
	uint8_t drop, duplicate, cut, join, complete, hold_back;
	uint32_t delay, far_delay;
};

struct plan {
	enum kind kind;
	enum ending ending;
	bool six; /* IPv6 */
	bool vm_opens;
	struct step steps[STEPS];
	uint32_t step_count;
	uint32_t vm_total, client_total;
	enum lie lie;
	enum place liar;
	uint32_t lie_at;
	uint32_t crash_after; /* frames that the client has been given */
	bool checkpoints;
	uint32_t urgent_at; /* offset in the VM's stream; NEVER */
	bool offer[OFFERS];
	bool nodelay[PLACES];
	uint32_t max_write[PLACES], rcvbuf[PLACES], sndbuf[PLACES], max_read[PLACES];
	uint8_t rest[PLACES]; /* percent of the writes after which it rests */
	uint32_t maxseg;      /* of the client; 0: the kernel's */
	uint32_t iss[PLACES], ts[PLACES];
	uint32_t svm_starts; /* microseconds behind the PVM */
	uint32_t link_delay; /* microseconds */
	struct handling hop[HOPS];
};

void plan_make(struct plan *plan, uint64_t seed);
void plan_describe(const struct plan *plan, char *text, size_t len);

/* The stream that each place says: length, byte, and how much of it may be said at `heard`. */
uint32_t plan_total(const struct plan *plan, enum place place);
uint8_t plan_byte(const struct plan *plan, uint64_t seed, enum place place, uint32_t at);
uint32_t plan_allowed(const struct plan *plan, enum place place, uint32_t heard);
/* The first offset at which the VMs differ, NEVER if nowhere. */
uint32_t plan_difference(const struct plan *plan, uint64_t seed);

/* ---- end.c ---- */

struct end {
	struct run *run;
	enum place place;
	enum place script; /* the SVM, once it is a copy of the PVM, says what the PVM says */
	int fd;
	bool connected, shut, eof, reset, refused;
	uint32_t said, heard;
	uint64_t resting_until;
	struct rng rng;
};

/* Opens, or takes, its socket. */
void end_connect(struct end *end, struct stack *stack, uint32_t ip, uint16_t port, uint32_t peer_ip,
                 uint16_t peer_port);
void end_accepted(struct end *end, int fd);
/* Reads and writes as far as it goes. */
void end_pump(struct end *end);
/* Everything said, heard and closed, as the plan has it. */
bool end_done(const struct end *end);
/* Ends the connection without a trace. */
void end_abort(struct end *end);

/* ---- shim.c ---- */

enum event_kind {
	EVENT_FRAME, /* the frame has passed the hop */
	EVENT_TO_S,  /* a message of the link */
	EVENT_TO_P,
	EVENT_TICK,
	EVENT_REFEED,
	EVENT_WAKE, /* an end has rested */
	EVENT_SVM_STARTS,
	EVENT_LOAD,       /* the SVM loads a checkpoint */
	EVENT_CHECKPOINT, /* it is time for one */
	EVENT_END,
};

struct event {
	uint64_t at, serial;
	struct run *run;
	enum event_kind kind;
	uint32_t value;
	struct frame *frame;
	void *message;
};

struct hop_state {
	struct rng rng;
	uint64_t last; /* when the last one in order arrives */
	struct event *joinable;
};

uint64_t now_ns(void);

/* The event is the shim's; run_event() gets it back in time. */
struct event *event_add(struct run *run, enum event_kind kind, uint64_t at);
struct event *event_due(uint64_t now); /* NULL: none yet */
uint64_t event_next(void);             /* UINT64_MAX: none at all */
void event_free(struct event *event);
void event_clear(void);

/* The frames on their way through the hop have passed it now, or, with lose, never will. */
void *link_take(const struct run *run); /* the next message on its way to the secondary */
void hop_flush(struct run *run, enum hop hop, bool lose);

/* Takes the frame into the hop. */
void hop_take(struct run *run, enum hop hop, struct frame *frame);

/* ---- truth.c ---- */

#define RESETS 32u

/* What has been said in one epoch and lineage. */
struct said {
	uint32_t epoch;
	enum place script;
	uint8_t *bytes; /* of the SVM's stream: 1 for each offset that was said, the FIN last */
	bool syn, ack_known;
	uint32_t ack; /* the highest, as an offset of the client's stream */
	uint32_t reset[RESETS], resets;
};

struct truth {
	bool iss_known[PLACES];
	uint32_t iss[PLACES];
	struct said said[2]; /* by parity of the epoch */
	uint32_t pvm_end;    /* the PVM has said everything below, FIN included */
	uint32_t pvm_ack;
	bool ts_shown;
	uint32_t ts;
	uint32_t to_client; /* frames */
	uint32_t whole;     /* newest checkpoint that is whole on the secondary */
	uint32_t by_match, by_commit;
};

int truth_init(struct run *run);
void truth_fini(struct run *run);
/* A frame of the place's stack has been read. */
void truth_heard(struct run *run, enum place place, const struct segment *s);
/* The shadow sees this now. */
void truth_svm_said(struct run *run, const struct segment *s, uint32_t lineage);
/* The cut: what the PVM has said and acknowledged is in C(epoch). */
void truth_cut(struct run *run, uint32_t epoch);
void truth_released(struct run *run, struct frame *frame, enum release_why why);
void truth_translated(struct run *run, struct frame *frame);
/* Both VMs have said what they differ in. */
bool truth_differed(const struct run *run);

/* ---- clone.c ---- */

struct image; /* a socket and its application, of one connection */

/* A copy of the PVM's end; NULL when it is in a state of which no copy is made. */
struct image *image_take(const struct end *end);
/* Makes it the SVM's end. -errno. */
int image_load(const struct image *image, struct end *end, const struct stack *stack);
/* The number behind what it has heard in order. */
uint32_t image_heard(const struct image *image);
void image_free(struct image *image);

/* ---- run.c ---- */

struct input {
	struct input *next;
	struct frame *frame;
	uint64_t index;
};

struct run {
	struct run *next; /* of the active ones */
	uint64_t seed;
	uint32_t index;
	uint32_t client_ip;
	uint16_t port; /* of the one that opens; its own among all runs */
	struct stack *stacks;
	struct plan plan;
	struct end end[PLACES];
	struct gate *gate;
	struct shadow *shadow;
	struct recent *recent; /* what the SVM said last */
	struct packet_digest_key key;
	struct hop_state hop[HOPS];
	struct rng rng;
	uint64_t to_s_last, to_p_last, tick_at;
	bool shift_known[PLACES];
	uint32_t shift[PLACES];
	struct input *log, **log_end, *next_to_feed;
	uint64_t input_index, pvm_taken, image_cut;
	bool crashed, refeed_armed, svm_silent, verbose;
	struct image *image;     /* of the checkpoint that the SVM has not loaded */
	bool committing, wanted; /* the primary has not heard of the commit */
	uint64_t wanted_since;
	uint32_t image_epoch, lineage, checkpoints;
	bool differed; /* before the first checkpoint */
	uint32_t requested[CKPT_CAUSE_COUNT];
	uint32_t ranges_cut; /* once it has ended */
	struct truth truth;
	uint32_t events; /* that point here */
	bool ended, failed, cut_short;
	uint64_t began;
	uint32_t best;       /* how far the three ends have come together */
	uint64_t stalled_ns; /* how long that has not changed: see main.c */
	char why[200];
};

struct run *run_new(struct stack *stacks, uint64_t seed, uint32_t index, bool verbose);
void run_free(struct run *run); /* when it has ended and no event points here */
void run_heard(struct run *run, enum place place, struct frame *frame);
void run_passed(struct run *run, enum hop hop, struct frame *frame);
void run_event(struct run *run, struct event *event);
void run_check(struct run *run);
void run_end(struct run *run);
void run_fail(struct run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));
void run_trace(const struct run *run, const char *what, struct frame *frame);
/* Reads what waits in the taps; the runs' frames go where they belong. */
void net_drain(enum place place);
/* Takes the connections that the place's listener has. */
void net_accept(enum place place);
void watch(int fd, void *what);

#endif
