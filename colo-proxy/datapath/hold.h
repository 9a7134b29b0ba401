/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_DATAPATH_HOLD_H
#define COLO_DATAPATH_HOLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "colo-proxy/core/frame.h"

/*
 * The hold: everything that the VM says comes here and goes on only when it is released (rule R1).
 * Fail-closed: when this process dies, or a queue overflows, or a filter cannot decide, nothing
 * passes. One thread, nonblocking; not for a port that another hold is on.
 */

enum hold_mode {
	HOLD_MODE_HOLD, /* frames come to hold_receive() */
	HOLD_MODE_PASS, /* the VM is unprotected: frames go their way, none comes here */
	HOLD_MODE_DROP, /* the VM is silenced */
};

struct hold_params {
	const char *port;     /* the VM's tap */
	const char *tap_name; /* name or pattern of the hold tap; NULL: "colo%d" */
	uint32_t mark;  /* of released frames, not 0; with hold_nfqueue no other VM here has it */
	uint16_t queue; /* NFQUEUE number (hold_nfqueue only) */
	unsigned max_frames; /* that the kernel keeps for us; 0: TAPDEV_TXQUEUELEN */
	enum hold_mode mode; /* at the start; HOLD_MODE_PASS does not disturb a running VM */
	bool mute;           /* see hold_set_mute() */
};

struct hold_counters {
	uint64_t received;  /* frames handed out by hold_receive() */
	uint64_t released;  /* let out */
	uint64_t discarded; /* by hold_discard() */
	uint64_t rejected;  /* released, refused by the kernel as malformed; they did not go out */
	uint64_t kernel_dropped; /* lost before hold_receive(): ring or queue full. Ask for a
	                            checkpoint */
	uint64_t overruns;       /* ENOBUFS seen on the NFQUEUE socket */
	uint64_t verdict_lost; /* verdicts that came too late: someone changed the nftables rules */
	uint64_t truncated;    /* IP packets above NFQUEUE's 65,531 bytes, handed out incomplete */
};

struct hold;

/* A back end. All functions as their hold_ counterparts below. */
struct hold_ops {
	const char *name; /* as in the configuration: "hold-tap", "nfqueue" */
	int (*open)(const struct hold_params *params, struct hold **ret_hold, char *err,
	            size_t errlen);
	int (*fds)(const struct hold *hold, int ret_fds[2]);
	int (*receive)(struct hold *hold, struct frame **ret_list, unsigned max);
	int (*release)(struct hold *hold, struct frame *f, bool rewritten);
	int (*discard)(struct hold *hold, struct frame *f);
	int (*flush)(struct hold *hold);
	int (*set_mode)(struct hold *hold, enum hold_mode mode);
	int (*set_mute)(struct hold *hold, bool mute);
	void (*counters)(struct hold *hold, struct hold_counters *ret_counters);
	void (*close)(struct hold *hold);
};

extern const struct hold_ops hold_tap;     /* tc BPF and a tap; sees every EtherType; the default */
extern const struct hold_ops hold_nfqueue; /* br_netfilter and NFQUEUE; others by a hold tap */

/* The head of a back end's own struct. */
struct hold {
	const struct hold_ops *ops;
	struct hold_counters count;
	enum hold_mode mode;
	bool mute;
};

/* The back end of that name, or NULL. */
const struct hold_ops *hold_by_name(const char *name);

/*
 * Opens a hold on the port, also one that an earlier process left shut. 0, or a negative errno with
 * words in `err`.
 */
int hold_open(const struct hold_ops *ops, const struct hold_params *params, struct hold **ret_hold,
              char *err, size_t errlen);

/* The descriptors to poll for EPOLLIN; returns how many, 1 or 2. */
int hold_fds(const struct hold *hold, int ret_fds[2]);

/*
 * Takes up to `max` frames, in the order in which the VM said them (with hold_nfqueue: in order
 * among IPv4 and IPv6, and in order among the others), as a list linked by `next`, each with its
 * virtio-net header, and IP packets with the Ethernet header if it is known (frame.linked). They
 * are the caller's to release or discard. Returns their number, 0 when none waits, or a negative
 * errno. Call it until it returns less than `max`, or poll again.
 */
int hold_receive(struct hold *hold, struct frame **ret_list, unsigned max);

/*
 * Lets the frame out, as if the VM said it now, and consumes it. `rewritten`: the caller changed
 * bytes in place; checksums are the caller's, except that with VIRTIO_NET_HDR_F_NEEDS_CSUM the
 * field holds the pseudo-header's sum as it did. 0, or a negative errno and the frame is still the
 * caller's: -EPERM while mute or in mode DROP, -EAGAIN or -ENOMEM: try again, -EINVAL (counted as
 * rejected): discard it. Releases go out in order of the calls; hold_nfqueue's with the next
 * hold_flush().
 */
int hold_release(struct hold *hold, struct frame *f, bool rewritten);

/* Consumes the frame, which never goes out. NULL is allowed. */
void hold_discard(struct hold *hold, struct frame *f);

/* Sends what is batched. 0, or a negative errno and what could not be sent stays batched. */
int hold_flush(struct hold *hold);

/*
 * HOLD to PASS without loss or reordering: stop the VM (or know that it is silent), receive and
 * release until hold_receive() returns 0, hold_flush(), hold_set_mode(PASS), receive once more and
 * release what came, continue the VM. With the VM running the same order of calls loses nothing,
 * but frames of the last receive can be overtaken. PASS to HOLD is safe at any time: no frame is
 * lost, and what has passed is older than what is held. In mode DROP nothing can be released.
 */
int hold_set_mode(struct hold *hold, enum hold_mode mode);

/*
 * While mute nothing can be released, by the kernel's filter too: a secondary before takeover,
 * whose port is on no bridge and whose frames must not get to the host itself either. Un-mute after
 * the port is on the bridge; hold_nfqueue changes from the tap to the queue by this call.
 */
int hold_set_mute(struct hold *hold, bool mute);

/* Also asks the kernel for what it dropped; not for every frame. */
void hold_get_counters(struct hold *hold, struct hold_counters *ret_counters);

/*
 * Ends the hold and drops what the kernel still keeps for it; frames in the caller's hands are the
 * caller's to free. In mode PASS the port is left as it was before; in the other modes it is left
 * shut (rule R1: a shutdown releases nothing). Removes the rules that it added, and no other.
 * NULL is allowed.
 */
void hold_close(struct hold *hold);

#endif
