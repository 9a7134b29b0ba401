/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reports, byte by byte. Offsets from the IGMP or ICMPv6 header:
 *
 *   IGMPv1, v2     0 type, 1 zero, 2 checksum, 4 group
 *   MLDv1          0 type, 1 zero, 2 checksum, 4 zero, 8 group
 *   IGMPv3, MLDv2  0 type, 1 zero, 2 checksum, 4 zero, 6 number of records, 8 records
 *   a record       0 type, 1 length of auxiliary data, 2 number of sources, 4 group, then sources
 *
 * Groups and sources have 4 bytes in IGMP and 16 in MLD. Fields that are sent as zero and not read
 * by receivers must be zero: what they say would be in no word.
 */
#include "colo-proxy/core/membership.h"

#include <endian.h>
#include <string.h>

/* The inlined form has the state's layout without depending on the shared library's version. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "colo-proxy/core/checksum.h"
#include "colo-proxy/core/packet_private.h"

#define PROTO_IGMP  2u
#define PROTO_TCP   6u
#define PROTO_UDP   17u
#define PROTO_ICMP6 58u

#define IGMP_V2_LEAVE  0x17u
#define IGMP_V3_REPORT 0x22u
#define MLD_V1_REPORT  131u
#define MLD_V1_DONE    132u
#define MLD_V2_REPORT  143u

#define HEADER_LEN  8u
#define RECORD_LEN  4u /* without the group */
#define MAX_RECORDS 255u

/* Who hears a report (RFC 2236 section 9, RFC 3376 section 4.2.14; RFC 2710 section 5, RFC 3810
 * section 5.2.14). */
static const uint8_t all_routers4[4] = {224, 0, 0, 2}, all_reports4[4] = {224, 0, 0, 22};
static const uint8_t all_routers6[16] = {0xff, 2, [15] = 2},
                     all_reports6[16] = {0xff, 2, [15] = 22};

/* What a record means, as the letter that its word begins with; 0: unknown. */
static char meaning_of(uint8_t record_type)
{
	static const char meanings[] = {0, 'I', 'E', 'I', 'E', 'A', 'B'};

	return record_type < sizeof(meanings) ? meanings[record_type] : 0;
}

static bool is_mld_report(uint8_t type)
{
	return type == MLD_V1_REPORT || type == MLD_V1_DONE || type == MLD_V2_REPORT;
}

static uint32_t address_len(const struct packet *p)
{
	return p->version == 6 ? 16 : 4;
}

static bool has_records(uint8_t type)
{
	return type == IGMP_V3_REPORT || type == MLD_V2_REPORT;
}

static bool checksum_right(const struct packet *p)
{
	uint64_t sum = 0;

	if (packet_needs_csum(p))
		return false; /* a receiver would see another one */
	if (p->version == 6)
		sum = checksum_ipv6_pseudo(packet_ipv6_src(p), p->proto, p->l4_len);
	sum = checksum_add(sum, p->frame->data + p->l4_off, p->l4_len);
	return checksum_fold(sum) == 0xffff;
}

/* The length of the record at `at`; 0: not all there, unknown, or not about a group. */
static uint32_t record_len(const struct packet *p, uint32_t at)
{
	const uint8_t *record = p->frame->data + p->l4_off + at;
	uint32_t address = address_len(p), len;
	bool group;

	if (p->l4_len - at < RECORD_LEN + address)
		return 0;
	len = RECORD_LEN + address * (1 + (uint32_t)(record[2] << 8 | record[3]));
	group = address == 16 ? record[RECORD_LEN] == 0xff : record[RECORD_LEN] >> 4 == 0xe;
	if (len > p->l4_len - at || !meaning_of(record[0]) || record[1] != 0 || !group)
		return 0;
	return len;
}

static bool records_clear(const struct packet *p)
{
	const uint8_t *l4 = p->frame->data + p->l4_off;
	uint32_t count = (uint32_t)(l4[6] << 8 | l4[7]), at = HEADER_LEN;

	if (count == 0 || count > MAX_RECORDS || l4[4] || l4[5])
		return false;
	for (; count; count--) {
		uint32_t len = record_len(p, at);

		if (!len)
			return false;
		at += len;
	}
	return at == p->l4_len;
}

/* A report of an older version about one group, and where it is to go. */
static bool single_clear(const struct packet *p, const uint8_t **ret_to)
{
	const uint8_t *l4 = p->frame->data + p->l4_off;
	uint32_t address = address_len(p);

	if (address == 4) {
		*ret_to = l4[0] == IGMP_V2_LEAVE ? all_routers4 : l4 + 4;
		return p->l4_len == 8 && l4[4] >> 4 == 0xe;
	}
	*ret_to = l4[0] == MLD_V1_DONE ? all_routers6 : l4 + 8;
	return p->l4_len == 24 && l4[8] == 0xff && !frame_get32(p->frame, p->l4_off + 4);
}

bool membership_is_clear(const struct packet *p)
{
	const uint8_t *ip = p->frame->data + p->ip_off, *l4 = p->frame->data + p->l4_off, *to;
	bool six = p->version == 6;

	if (p->l4_len < HEADER_LEN || l4[1] || ip[six ? 7 : 8] != 1 || !checksum_right(p))
		return false;
	to = six ? all_reports6 : all_reports4;
	if (has_records(l4[0]) ? !records_clear(p) : !single_clear(p, &to))
		return false;
	return memcmp(ip + (six ? 24 : 16), to, address_len(p)) == 0;
}

bool membership_is_unclear(const struct packet *p)
{
	if (p->why != PACKET_WHY_FRAGMENT)
		return p->why == PACKET_WHY_MEMBERSHIP;
	if (p->fragment.off != 0)
		return false; /* the first one tells */
	if (p->version == 4)
		return p->proto == PROTO_IGMP;
	if (p->proto == PROTO_ICMP6)
		return p->l4_len == 0 || is_mld_report(p->frame->data[p->l4_off]);
	return p->proto != PROTO_TCP && p->proto != PROTO_UDP; /* other headers may come first */
}

static void set_peer(struct flow_key *key, const uint8_t *address)
{
	uint32_t words[4];

	if (!(key->flags & FLOW_IPV6)) {
		memcpy(words, address, 4);
		key->peer_ip = be32toh(words[0]);
		return;
	}
	memcpy(words, address, 16);
	for (uint32_t i = 0; i < 3; i++)
		key->peer_net[i] = be32toh(words[i]);
	key->peer_ip = be32toh(words[3]);
}

void membership_key_of_group(const struct flow_key *group, struct flow_key *ret_key)
{
	*ret_key = *group;
	ret_key->kind = FLOW_MEMBERSHIP;
	ret_key->vm_port = ret_key->peer_port = 0;
	set_peer(ret_key, group->flags & FLOW_IPV6 ? all_reports6 : all_reports4);
}

void membership_key(const struct packet *p, struct flow_key *ret_key)
{
	struct packet report = *p;

	report.class = PACKET_MEMBERSHIP;
	report.proto = p->version == 6 ? PROTO_ICMP6 : PROTO_IGMP;
	(void)packet_flow_key(&report, PACKET_FROM_VM,
	                      ret_key); /* of this class there always is one */
}

static void add_record(XXH3_state_t *word, char meaning, const uint8_t *sources, uint32_t len)
{
	uint8_t head[] = {(uint8_t)meaning, (uint8_t)(len >> 8), (uint8_t)len};

	XXH3_128bits_update(word, head, sizeof(head));
	XXH3_128bits_update(word, sources, len);
}

/* Adds the records of the group that the one at `at` is about, as far as they stand together.
 * Returns where the next one begins. */
static uint32_t add_records(XXH3_state_t *word, const struct packet *p, uint32_t at)
{
	const uint8_t *l4 = p->frame->data + p->l4_off, *group = l4 + at + RECORD_LEN;
	uint32_t address = address_len(p), head = RECORD_LEN + address;

	while (at < p->l4_len && memcmp(l4 + at + RECORD_LEN, group, address) == 0) {
		uint32_t len = record_len(p, at);

		add_record(word, meaning_of(l4[at]), l4 + at + head, len - head);
		at += len;
	}
	return at;
}

bool membership_next(const struct packet *p, const struct packet_digest_key *key, uint32_t *at,
                     struct membership_word *ret_word)
{
	const uint8_t *l4 = p->frame->data + p->l4_off, *group;
	XXH3_state_t word = {0};
	XXH128_canonical_t canonical;

	if (*at >= p->l4_len ||
	    XXH3_128bits_reset_withSecret(&word, key->secret, sizeof(key->secret)) != XXH_OK)
		return false;
	if (has_records(l4[0])) {
		uint32_t start = *at ? *at : HEADER_LEN;

		group = l4 + start + RECORD_LEN;
		*at = add_records(&word, p, start);
	} else {
		bool left = l4[0] == IGMP_V2_LEAVE || l4[0] == MLD_V1_DONE;

		group = l4 + p->l4_len - address_len(p);
		add_record(&word, left ? 'I' : 'E', NULL, 0);
		*at = p->l4_len;
	}
	membership_key(p, &ret_word->group);
	ret_word->group.kind = FLOW_GROUP;
	set_peer(&ret_word->group, group);
	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&word));
	memcpy(ret_word->hash, canonical.digest, sizeof(ret_word->hash));
	return true;
}
