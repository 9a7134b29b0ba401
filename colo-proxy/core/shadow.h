/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_SHADOW_H
#define COLO_CORE_SHADOW_H

#include <stdbool.h>
#include <stdint.h>

#include "colo-proxy/core/frame.h"
#include "colo-proxy/core/natmap.h"
#include "colo-proxy/core/recent.h"
#include "colo-proxy/core/records.h"

/*
 * The secondary's half: turns what the SVM says into digests in the PVM's number space, turns what
 * the client says to the PVM into what the SVM must hear, and, after a takeover, translates
 * between the client and the VM for as long as a connection needs it (R7). See shadow.c for how.
 *
 * No I/O, no clock. The digest operation is called from inside the calls below and must not call
 * back.
 */

struct shadow;

struct shadow_ops {
	void (*digest)(void *ctx, uint32_t lineage, const struct digest *digest);
	/* The SVM has lost input: what the client sent from `seq` on must be fed to it again. */
	void (*refeed)(void *ctx, const struct flow_key *key, uint32_t seq);
};

struct shadow_stats {
	uint64_t packets, bytes; /* what the SVM said */
	uint64_t digests;        /* records made of it */
	uint64_t uncompared;     /* packets that are released by commit only */
	uint64_t flows_evicted;
	uint64_t refeeds; /* input that was asked for again */
	uint32_t flows, high_flows;
	uint32_t mapped; /* connections whose numbers differ from the client's */
};

/* Of each kind; the first ones that were heard. */
#define SHADOW_MAX_ADDRESSES 16u
#define SHADOW_MAX_VLANS     16u

/* Where the VM was heard to speak from. Tags are those of struct packet; both 0: without any. */
struct shadow_sources {
	bool mac_known;
	uint8_t mac[6]; /* of what has no tag, if there was any */
	uint32_t vlan_count, ipv4_count, ipv6_count;
	uint16_t vlan[SHADOW_MAX_VLANS][2]; /* with tags, whatever was said there */
	struct shadow_ipv4 {
		uint16_t tag[2];
		uint32_t address; /* host order */
	} ipv4[SHADOW_MAX_ADDRESSES];
	struct shadow_ipv6 {
		uint16_t tag[2];
		uint8_t address[16];
	} ipv6[SHADOW_MAX_ADDRESSES];
};

/* key: as in gate_new(). Returns 0 or -ENOMEM. */
int shadow_new(struct shadow **ret_shadow, uint32_t max_flows, const struct packet_digest_key *key,
               const struct shadow_ops *ops, void *ctx);
void shadow_free(struct shadow *shadow);

/* The SVM has loaded C(lineage): it is a clone again, every mapping is zero (DESIGN section 7). */
void shadow_lineage(struct shadow *shadow, uint32_t lineage);

/* These frames, linked by `next`, come next: see gate_ahead(). */
void shadow_ahead(struct shadow *shadow, const struct frame *list);

/* The SVM has said this. Reads the frame, does not keep or change it. */
void shadow_output(struct shadow *shadow, struct frame *frame, uint64_t now);

/* What makes the packet of the last shadow_output() the PVM's numbers; zero when it needs nothing,
 * or when the mapping is not known yet. */
struct recent_map shadow_last_map(const struct shadow *shadow);

/* The PVM has opened this connection in `epoch`; that of a lineage to come is kept until
 * it comes, that of an older one is ignored. */
void shadow_flow_open(struct shadow *shadow, uint32_t epoch, const struct flow_open *open,
                      uint64_t now);

/* The PVM's timestamp clock leads by this much in `epoch` (see gate_ops.ts_lead). */
void shadow_ts_lead(struct shadow *shadow, uint32_t epoch, uint32_t ticks);

/* Maps, in place, a frame that is on its way to the SVM. Before the takeover that is the input
 * which the PVM got; after it, what the client sends. */
void shadow_input(struct shadow *shadow, struct frame *frame, uint64_t now);

/* The same for what is fed again. It gets the newest acknowledgement and timestamp that the SVM has
 * been fed on the connection: with its own the SVM could take it for an old duplicate (RFC 5961
 * section 5.2; PAWS, RFC 7323 section 5.3). */
void shadow_input_again(struct shadow *shadow, struct frame *frame, uint64_t now);

/* True when the SVM has acknowledged the client's stream up to `seq`, or nothing is known of it:
 * nobody will ask for what is before it again. */
bool shadow_has_acked(struct shadow *shadow, const struct flow_key *key, uint32_t seq);

/* Asks again for what was asked for and has not arrived. Returns true while something is missing:
 * call again in a few milliseconds. */
bool shadow_ask_again(struct shadow *shadow);

/* From here on the VM behind this shadow speaks to the clients: no more digests, and
 * shadow_translate() must see what it says before it is let out. */
void shadow_takeover(struct shadow *shadow, uint64_t now);

/* Maps, in place, a frame that the survivor says to a client. */
void shadow_translate(struct shadow *shadow, struct frame *frame, uint64_t now);

/* After a takeover: forgets connections that have ended, or were idle for longer than one that
 * opens or is open is kept (flow_state_idle_ns()), of the next 65,536 each time. Returns how many
 * connections still need their numbers mapped. */
uint32_t shadow_expire(struct shadow *shadow, uint64_t now);

/*
 * The mapping client <-> VM handed on, after a takeover, to the secondary that will protect the
 * survivor, and taken up there when that takes over in its turn (natmap.h).
 *
 * export: the connections whose numbers are mapped, into the empty *map. 0 or -ENOMEM.
 * changes: counts what would make another export differ from the last.
 * settled_at: no connection begins to be mapped from this time on.
 * superseded: the VM opens a connection anew on this 4-tuple; what it has said of that may be held
 * still, so the old one goes on being mapped here, but is not exported any more.
 * adopt: right before shadow_takeover(). What the lineage has opened itself has no older mapping.
 * Returns how many entries did not fit.
 */
int shadow_map_export(const struct shadow *shadow, struct natmap *map);
uint64_t shadow_map_changes(const struct shadow *shadow);
uint64_t shadow_map_settled_at(const struct shadow *shadow);
void shadow_map_superseded(struct shadow *shadow, const struct flow_open *open);
uint32_t shadow_map_adopt(struct shadow *shadow, const struct natmap *map, uint64_t now);

/* The sources that the VM has been heard to speak from, without VLAN tags, for announcing it. */
const struct shadow_sources *shadow_sources(const struct shadow *shadow);

void shadow_get_stats(const struct shadow *shadow, struct shadow_stats *ret_stats);

#endif
