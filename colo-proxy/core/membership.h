/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_MEMBERSHIP_H
#define COLO_CORE_MEMBERSHIP_H

#include <stdbool.h>
#include <stdint.h>

#include "colo-proxy/core/packet.h"

/*
 * Membership reports of IGMP (RFC 1112, 2236, 3376) and MLD (RFC 2710, 3810), read as what they
 * mean: for each group that a report names, one *word*, which is whom its sender wants to hear
 * there. gate_membership.c says how words are compared.
 *
 * A word is a keyed hash of the filter mode and the sources. A record of the current state and one
 * of a change to that state are the same word; so are the reports of the older versions (all
 * sources) and their leave and done (none). Records of one group that stand together are one word:
 * a change of the sources takes two (RFC 3810 section 5.2.12).
 */

/*
 * Whether all that the report says is in its words, and its receivers will read it as it is: right
 * checksum, hop limit 1 and destination, one to 255 records of known types, no auxiliary data, and
 * nothing behind them. p: l4_off and l4_len are set.
 */
bool membership_is_clear(const struct packet *p);

/*
 * Whether what the packet says of groups is not known: a report that is not clear, or a part of a
 * packet that may be a report. None is sent in fragments: a report fits the MTU (RFC 3376 section
 * 4.2.16, RFC 3810 section 5.2.15).
 */
bool membership_is_unclear(const struct packet *p);

/* The flow of all reports from this source, whatever version they have; also of unclear ones. */
void membership_key(const struct packet *p, struct flow_key *ret_key);

/* That flow, from the key of one of its groups. */
void membership_key_of_group(const struct flow_key *group, struct flow_key *ret_key);

struct membership_word {
	struct flow_key group; /* FLOW_GROUP, with the group's address as the peer's */
	uint8_t hash[PACKET_DIGEST_LEN];
};

/* The next word of a report (PACKET_MEMBERSHIP); *at is 0 before the first. False: no more. */
bool membership_next(const struct packet *p, const struct packet_digest_key *key, uint32_t *at,
                     struct membership_word *ret_word);

#endif
