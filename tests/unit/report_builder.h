/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_TESTS_REPORT_BUILDER_H
#define COLO_TESTS_REPORT_BUILDER_H

/* Makes membership reports of IGMP and, with `six`, of MLD, as tcp_builder.h makes frames. */
#include "tests/unit/tcp_builder.h"

enum build_record_type { IS_IN = 1, IS_EX, TO_IN, TO_EX, ALLOW, BLOCK };

struct build_record {
	uint8_t type, group, source; /* the last byte of each; 0: no source */
};

/* 239.0.0.group or ff05::group. */
static inline void build_group(bool six, uint8_t *at, uint8_t group)
{
	at[0] = six ? 0xff : 239;
	at[1] = six ? 5 : 0;
	at[six ? 15 : 3] = group;
}

/* A packet of `l4_len` zero bytes, without its checksum and where it goes. */
static inline struct frame *build_empty_report(bool six, uint32_t l4_len)
{
	return six ? build_ipv6(false, true, 58, l4_len) : build_ipv4(false, 2, l4_len);
}

/* The packet with its hop limit and checksum, to the given address. */
static inline struct frame *build_report_to(bool six, struct frame *f, uint32_t l4_len,
                                            const uint8_t *to)
{
	uint8_t *header = f->data + 14, *l4 = f->data + f->len - l4_len;
	uint64_t sum = six ? 0 : checksum_add(0, l4, l4_len);

	header[six ? 7 : 8] = 1;
	memcpy(header + (six ? 24 : 16), to, six ? 16 : 4);
	if (six)
		sum = checksum_add(checksum_ipv6_pseudo(header + 8, 58, l4_len), l4, l4_len);
	build_put16(l4 + 2, (uint16_t)~checksum_fold(sum));
	return f;
}

/* IGMPv3 or MLDv2; extra: bytes behind the records, which are in no word. */
static inline struct frame *build_report(bool six, const struct build_record *record,
                                         uint32_t count, uint32_t extra)
{
	static const uint8_t to4[] = {224, 0, 0, 22}, to6[16] = {0xff, 2, [15] = 22};
	uint32_t address = six ? 16 : 4, len = 8 + extra;
	struct frame *f;
	uint8_t *l4;

	for (uint32_t i = 0; i < count; i++)
		len += 4 + address * (record[i].source ? 2 : 1);
	f = build_empty_report(six, len);
	l4 = f->data + f->len - len;
	l4[0] = six ? 143 : 0x22;
	build_put16(l4 + 6, count);
	for (uint8_t *at = l4 + 8; count; count--, record++) {
		at[0] = record->type;
		at[3] = record->source != 0;
		build_group(six, at + 4, record->group);
		at += 4 + address;
		if (record->source) {
			at[address - 1] = record->source;
			at += address;
		}
	}
	return build_report_to(six, f, len, six ? to6 : to4);
}

/* IGMPv2 or MLDv1: joins the group, or leaves it. */
static inline struct frame *build_old_report(bool six, bool joins, uint8_t group)
{
	static const uint8_t routers4[] = {224, 0, 0, 2}, routers6[16] = {0xff, 2, [15] = 2};
	uint32_t len = six ? 24 : 8;
	struct frame *f = build_empty_report(six, len);
	uint8_t *l4 = f->data + f->len - len, to[16] = {0};

	l4[0] = six ? (joins ? 131 : 132) : (joins ? 0x16 : 0x17);
	build_group(six, l4 + len - (six ? 16 : 4), group);
	build_group(six, to, group);
	return build_report_to(six, f, len, joins ? to : six ? routers6 : routers4);
}

#endif
