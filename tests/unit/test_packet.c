/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Packets: the parser against scapy (data/packets.txt, made by packet_oracle.py), the rewriting
 * against a full computation of the checksum on random packets, and the rules of the flow key and
 * of the datagram digest one by one.
 */
#include <glib.h>
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "colo-proxy/core/checksum.h"
#include "colo-proxy/core/membership.h"
#include "colo-proxy/core/packet.h"
#include "colo-proxy/core/records.h"

/* A copy in an allocation of exactly that size, so that the sanitizer sees a read behind it. */
static struct frame *frame_of(const void *data, size_t len)
{
	struct frame *f = frame_new(len);

	g_assert_nonnull(f);
	memcpy(f->data, data, len);
	f->len = (uint32_t)len;
	return f;
}

static void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v & 0xffff);
}

/* The checksum the slow way: words in a 32-bit sum, folded at each step. Independent of core. */
static uint16_t slow_checksum(const uint8_t *a, size_t alen, const uint8_t *b, size_t blen)
{
	uint32_t sum = 0;
	size_t i;

	for (i = 0; i < alen + blen; i++) {
		uint32_t byte = i < alen ? a[i] : b[i - alen];

		sum += i % 2 ? byte : byte << 8;
		if (sum > 0xffff)
			sum = (sum & 0xffff) + 1;
	}
	return (uint16_t)~sum;
}

/* What the TCP checksum of an Ethernet frame with a 20-byte IP header must be. */
static uint16_t slow_tcp_checksum(const struct frame *f)
{
	uint8_t pseudo[12] = {0};
	uint8_t segment[2048] = {0};
	size_t len = f->len - 34;

	g_assert_cmpuint(len, <=, sizeof(segment));
	memcpy(pseudo, f->data + 26, 8);
	pseudo[9] = 6;
	put16(pseudo + 10, (uint32_t)len);
	memcpy(segment, f->data + 34, len);
	put16(segment + 16, 0);
	return slow_checksum(pseudo, sizeof(pseudo), segment, len);
}

/* --- against scapy --------------------------------------------------------------------------- */

static uint32_t rows_seen, whys_seen; /* bits */
static unsigned guesses_seen;

struct oracle {
	const char *name;
	GHashTable *words;
};

static const char *word(const struct oracle *o, const char *key)
{
	return g_hash_table_lookup(o->words, key);
}

static uint32_t number(const struct oracle *o, const char *key)
{
	const char *text = word(o, key);

	return text ? (uint32_t)g_ascii_strtoull(text, NULL, 10) : 0;
}

static uint32_t address(const struct oracle *o, const char *key)
{
	struct in_addr addr;

	g_assert_cmpint(inet_pton(AF_INET, word(o, key), &addr), ==, 1);
	return ntohl(addr.s_addr);
}

static GByteArray *bytes(const char *hex)
{
	GByteArray *array = g_byte_array_new();
	size_t i;

	for (i = 0; hex[i] && hex[i + 1]; i += 2) {
		uint8_t byte = (uint8_t)(g_ascii_xdigit_value(hex[i]) * 16 +
		                         g_ascii_xdigit_value(hex[i + 1]));

		g_byte_array_append(array, &byte, 1);
	}
	return array;
}

static struct frame *oracle_frame(const struct oracle *o)
{
	GByteArray *data = bytes(word(o, "hex"));
	struct frame *f = frame_of(data->data, data->len);

	if (g_str_equal(word(o, "start"), "ip"))
		f->start = FRAME_AT_IP;
	g_byte_array_unref(data);
	return f;
}

static void assert_bytes(const struct oracle *o, const char *key, const void *data, size_t len)
{
	GByteArray *expect = bytes(word(o, key));

	if (len != expect->len || (len && memcmp(data, expect->data, len) != 0)) {
		GString *got = g_string_new(NULL);
		size_t i;

		for (i = 0; i < len; i++)
			g_string_append_printf(got, "%02x", ((const uint8_t *)data)[i]);
		g_error("%s: %s is\n%s, expected\n%s", o->name, key, got->str, word(o, key));
	}
	g_byte_array_unref(expect);
}

/* The addresses as scapy writes them. */
static void check_addresses(const struct oracle *o, const struct packet *p)
{
	struct in6_addr src, dst;

	if (strchr(word(o, "src"), '.')) {
		g_assert_cmpuint(p->version, ==, 4);
		g_assert_cmpuint(p->src, ==, address(o, "src"));
		g_assert_cmpuint(p->dst, ==, address(o, "dst"));
		return;
	}
	g_assert_cmpuint(p->version, ==, 6);
	g_assert_cmpint(inet_pton(AF_INET6, word(o, "src"), &src), ==, 1);
	g_assert_cmpint(inet_pton(AF_INET6, word(o, "dst"), &dst), ==, 1);
	g_assert_cmpmem(packet_ipv6_src(p), 16, &src, 16);
	g_assert_cmpmem(packet_ipv6_dst(p), 16, &dst, 16);
}

static void check_tags(const struct oracle *o, const struct packet *p)
{
	char text[32] = "";

	if (p->tag[1])
		snprintf(text, sizeof(text), "%u.%u", p->tag[0] & PACKET_TAG_VID,
		         p->tag[1] & PACKET_TAG_VID);
	else if (p->tag[0])
		snprintf(text, sizeof(text), "%u", p->tag[0] & PACKET_TAG_VID);
	g_assert_cmpstr(text, ==, word(o, "tags") ? word(o, "tags") : "");
}

static void assert_same_tcp(const struct packet *a, const struct packet *b)
{
	g_assert_cmpint(a->class, ==, b->class);
	g_assert_cmpuint(a->tcp.seq, ==, b->tcp.seq);
	g_assert_cmpuint(a->tcp.ack, ==, b->tcp.ack);
	g_assert_cmpuint(a->tcp.tsval, ==, b->tcp.tsval);
	g_assert_cmpuint(a->tcp.tsecr, ==, b->tcp.tsecr);
	g_assert_cmpuint(a->tcp.ts_off, ==, b->tcp.ts_off);
	g_assert_cmpuint(a->tcp.sack_off, ==, b->tcp.sack_off);
	g_assert_cmpuint(a->tcp.flags, ==, b->tcp.flags);
	g_assert_cmpuint(a->payload_len, ==, b->payload_len);
}

/* The view equals a fresh parse of the frame. */
static void assert_view_current(const struct packet *p)
{
	struct packet again;

	g_assert_cmpint(packet_parse(&again, p->frame), ==, 0);
	assert_same_tcp(p, &again);
}

static void check_rewrites(const struct oracle *o)
{
	static const char *const keys[] = {"out", "in", "setack"};
	uint32_t dseq = number(o, "dseq"), dts = number(o, "dts");
	size_t i;

	for (i = 0; i < G_N_ELEMENTS(keys); i++) {
		struct frame *f = oracle_frame(o);
		struct packet p;

		g_assert_cmpint(packet_parse(&p, f), ==, 0);
		if (i == 0)
			packet_map_out(&p, dseq, dts);
		else if (i == 1)
			packet_map_in(&p, dseq, dts);
		else
			packet_set_ack(&p, dseq);
		assert_bytes(o, keys[i], f->data, f->len);
		assert_view_current(&p);
		frame_free(f);
	}
}

static void check_options(const struct oracle *o, const struct packet *p)
{
	char text[128] = "";
	uint32_t i;

	g_assert_cmpuint(p->tcp.mss, ==, number(o, "mss"));
	g_assert_cmpint(p->tcp.has_wscale, ==, word(o, "wscale") != NULL);
	g_assert_cmpuint(p->tcp.wscale, ==, number(o, "wscale"));
	g_assert_cmpint(p->tcp.has_sack_permitted, ==, word(o, "sackok") != NULL);
	g_assert_cmpint(p->tcp.has_fastopen, ==, word(o, "tfo") != NULL);
	g_assert_false(p->tcp.has_auth);
	if (p->tcp.ts_off)
		snprintf(text, sizeof(text), "%u,%u", p->tcp.tsval, p->tcp.tsecr);
	g_assert_cmpstr(text, ==, word(o, "ts") ? word(o, "ts") : "");
	text[0] = '\0';
	for (i = 0; i < p->tcp.sack_count; i++) {
		uint32_t left, right;
		size_t used = strlen(text);

		packet_sack(p, i, &left, &right);
		snprintf(text + used, sizeof(text) - used, "%s%u-%u", i ? "," : "", left, right);
	}
	g_assert_cmpstr(text, ==, word(o, "sack") ? word(o, "sack") : "");
}

static void check_exempt(const struct oracle *o, const struct packet *p)
{
	enum packet_why why = digest_tcp_exempt(p);
	g_autofree char *name = g_strdelimit(g_strdup(packet_why_name(why)), " ", '_');

	g_assert_cmpstr(name, ==, word(o, "exempt") ? word(o, "exempt") : "comparable");
	whys_seen |= 1u << why;
}

static void check_tcp(const struct oracle *o, const struct packet *p)
{
	uint16_t field =
	        (uint16_t)(p->frame->data[p->l4_off + 16] << 8 | p->frame->data[p->l4_off + 17]);

	g_assert_cmpint(p->class, ==, PACKET_TCP);
	g_assert_cmpuint(p->tcp.sport, ==, number(o, "sport"));
	g_assert_cmpuint(p->tcp.dport, ==, number(o, "dport"));
	g_assert_cmpuint(p->tcp.seq, ==, number(o, "seq"));
	g_assert_cmpuint(p->tcp.ack, ==, number(o, "ack"));
	g_assert_cmpuint(p->tcp.flags, ==, number(o, "flags"));
	g_assert_cmpuint(p->tcp.window, ==, number(o, "window"));
	g_assert_cmpuint(p->tcp.urgent, ==, number(o, "urg"));
	g_assert_cmpuint(packet_l4_checksum(p), ==, field);
	check_exempt(o, p);
	check_options(o, p);
	check_rewrites(o);
}

static void check_arp(const struct oracle *o, const struct packet *p)
{
	g_assert_cmpint(p->class, ==, PACKET_ARP);
	g_assert_cmpuint(p->arp.op, ==, number(o, "op"));
	g_assert_cmpuint(p->arp.spa, ==, address(o, "spa"));
	g_assert_cmpuint(p->arp.tpa, ==, address(o, "tpa"));
	assert_bytes(o, "sha", p->arp.sha, 6);
	assert_bytes(o, "tha", p->arp.tha, 6);
	g_assert_cmpuint(p->payload_len, ==, 28);
}

static void check_other(const struct oracle *o, const struct packet *p)
{
	g_autofree char *why = g_strdelimit(g_strdup(packet_why_name(p->why)), " ", '_');
	struct flow_key key;
	uint32_t len = 1;

	if (p->class != PACKET_OTHER)
		g_error("%s: class %u, expected PACKET_OTHER for %s", o->name, p->class,
		        word(o, "why"));
	g_assert_cmpstr(why, ==, word(o, "why"));
	g_assert_cmpint(packet_flow_key(p, PACKET_FROM_VM, &key), ==, -EINVAL);
	g_assert_null(packet_payload(p, &len));
	g_assert_cmpuint(len, ==, 0);
}

/* Appends the addresses of a list with commas, as they stand in a packet. */
static void append_addresses(GByteArray *out, const char *list)
{
	g_auto(GStrv) texts = g_strsplit(list, ",", -1);

	for (size_t i = 0; texts[i]; i++) {
		int family = strchr(texts[i], '.') ? AF_INET : AF_INET6;
		uint8_t address[16];

		g_assert_cmpint(inet_pton(family, texts[i], address), ==, 1);
		g_byte_array_append(out, address, family == AF_INET ? 4 : 16);
	}
}

/* "E" or "A10.0.0.9+B10.0.0.8,10.0.0.7": each record as its letter, the bytes of its sources, them.
 */
static void meaning_hash(const char *text, const struct packet_digest_key *key, uint8_t hash[16])
{
	g_auto(GStrv) records = g_strsplit(text, "+", -1);
	GByteArray *all = g_byte_array_new();

	for (size_t i = 0; records[i]; i++) {
		guint at = all->len;

		g_byte_array_append(all, (const uint8_t *)records[i], 1);
		g_byte_array_append(all, (const uint8_t[]){0, 0}, 2);
		append_addresses(all, records[i] + 1);
		put16(all->data + at + 1, all->len - at - 3);
	}
	digest_stream(key, all->data, all->len, hash);
	g_byte_array_unref(all);
}

static void check_membership(const struct oracle *o, const struct packet *p)
{
	static const struct packet_digest_key key = {{7}};
	g_auto(GStrv) texts = g_strsplit(word(o, "words"), ";", -1);
	struct membership_word said;
	struct flow_key flow;
	uint32_t at = 0;

	g_assert_cmpint(p->class, ==, PACKET_MEMBERSHIP);
	for (size_t i = 0; texts[i]; i++) {
		g_auto(GStrv) parts = g_strsplit(texts[i], "=", 2);
		struct packet to = *p;
		struct frame *f = frame_copy(p->frame);
		struct flow_key group;
		uint8_t hash[16];

		g_assert_true(membership_next(p, &key, &at, &said));
		meaning_hash(parts[1], &key, hash);
		g_assert_cmpmem(said.hash, 16, hash, 16);
		/* The key of the same packet, if it were something else to that address. */
		g_assert_cmpint(inet_pton(p->version == 6 ? AF_INET6 : AF_INET, parts[0],
		                          f->data + p->ip_off + (p->version == 6 ? 24 : 16)),
		                ==, 1);
		g_assert_cmpint(packet_parse(&to, f), ==, 0);
		to.class = PACKET_WHOLE;
		g_assert_cmpint(packet_flow_key(&to, PACKET_FROM_VM, &group), ==, 0);
		group.kind = FLOW_GROUP;
		g_assert_cmpmem(&said.group, sizeof(group), &group, sizeof(group));
		membership_key_of_group(&said.group, &group);
		g_assert_cmpint(packet_flow_key(p, PACKET_FROM_VM, &flow), ==, 0);
		g_assert_cmpmem(&flow, sizeof(flow), &group, sizeof(group));
		frame_free(f);
	}
	g_assert_false(membership_next(p, &key, &at, &said));
}

static void check_ip(const struct oracle *o, const struct packet *p)
{
	const char *class = word(o, "class");
	uint32_t len;
	const uint8_t *payload = packet_payload(p, &len);

	if (word(o, "src"))
		check_addresses(o, p);
	check_tags(o, p);
	g_assert_cmpuint(len, ==, number(o, "plen"));
	assert_bytes(o, "payload", payload, len);
	if (g_str_equal(class, "tcp")) {
		check_tcp(o, p);
	} else if (g_str_equal(class, "udp")) {
		g_assert_cmpint(p->class, ==, PACKET_UDP);
		g_assert_cmpuint(p->udp.sport, ==, number(o, "sport"));
		g_assert_cmpuint(p->udp.dport, ==, number(o, "dport"));
	} else if (g_str_equal(class, "membership")) {
		check_membership(o, p);
	} else if (g_str_equal(class, "whole")) {
		g_assert_cmpint(p->class, ==, PACKET_WHOLE);
	} else {
		g_assert_cmpint(p->class, ==, PACKET_ICMP);
		g_assert_cmpuint(packet_l4_checksum(p), ==,
		                 p->frame->data[p->l4_off + 2] << 8 |
		                         p->frame->data[p->l4_off + 3]);
		g_assert_cmpuint(p->icmp.type, ==, number(o, "type"));
		g_assert_cmpuint(p->icmp.code, ==, number(o, "code"));
		g_assert_cmpuint(p->icmp.id, ==, number(o, "id"));
	}
}

/* The guess is the key of TCP and UDP behind plain headers; there is none of a tagged frame. */
static void check_guess(const struct packet *p, enum packet_direction direction)
{
	uint32_t head = p->version == 6 ? 40 : 20;
	struct flow_key guess, key;
	int r = packet_flow_guess(p->frame, direction, &guess);

	if (p->tag[0])
		g_assert_cmpint(r, ==, -EINVAL);
	if (p->tag[0] || (p->class != PACKET_TCP && p->class != PACKET_UDP) || p->ip_len != head ||
	    p->frame->len < p->ip_off + 44)
		return;
	guesses_seen++;
	g_assert_cmpint(r, ==, 0);
	g_assert_cmpint(packet_flow_key(p, direction, &key), ==, 0);
	g_assert_cmpmem(&guess, sizeof(guess), &key, sizeof(key));
}

/* The row of the table, where scapy's words name it; and the class that its treatment allows. */
static void check_row(const struct oracle *o, const struct packet *p)
{
	const struct protocol *row = &protocols[p->protocol];
	g_autofree char *name = g_strdelimit(g_strdup(row->name), " ", '_');

	if (word(o, "row"))
		g_assert_cmpstr(name, ==, word(o, "row"));
	if (row->treatment == TREAT_COMMIT || row->treatment == TREAT_INSIDE)
		g_assert_cmpint(p->class, ==, PACKET_OTHER);
	if (p->class != PACKET_OTHER)
		g_assert_cmpint(p->class == PACKET_TCP, ==, row->treatment == TREAT_STREAM);
	rows_seen |= 1u << p->protocol;
	whys_seen |= 1u << p->why;
}

static void check_line(const char *line)
{
	g_auto(GStrv) parts = g_strsplit(line, " ", -1);
	struct oracle o = {.name = parts[0], .words = g_hash_table_new(g_str_hash, g_str_equal)};
	struct frame *f;
	struct packet p;
	char text[256];
	size_t i;

	for (i = 1; parts[i]; i++) {
		char *value = strchr(parts[i], '=');

		g_assert_nonnull(value);
		*value = '\0';
		g_hash_table_insert(o.words, parts[i], value + 1);
	}
	f = oracle_frame(&o);
	g_assert_cmpint(packet_parse(&p, f), ==, 0);
	g_test_message("%s: %s", o.name, packet_describe(&p, text, sizeof(text)));
	check_row(&o, &p);
	check_guess(&p, PACKET_FROM_VM);
	check_guess(&p, PACKET_TO_VM);
	if (g_str_equal(word(&o, "class"), "other"))
		check_other(&o, &p);
	else if (g_str_equal(word(&o, "class"), "arp"))
		check_arp(&o, &p);
	else
		check_ip(&o, &p);
	frame_free(f);
	g_hash_table_destroy(o.words);
}

static void test_oracle(void)
{
	g_autofree char *here = g_path_get_dirname(__FILE__);
	g_autofree char *path = g_build_filename(here, "data", "packets.txt", NULL);
	g_autofree char *text = NULL;
	g_autoptr(GError) error = NULL;
	g_auto(GStrv) lines = NULL;
	unsigned count = 0;
	size_t i;

	g_file_get_contents(path, &text, NULL, &error);
	g_assert_no_error(error);
	lines = g_strsplit(text, "\n", -1);
	for (i = 0; lines[i]; i++) {
		if (lines[i][0] == '\0' || lines[i][0] == '#')
			continue;
		check_line(lines[i]);
		count++;
	}
	g_assert_cmpuint(count, >=, 300);
	g_assert_cmpuint(guesses_seen, >=, 100);
	/* Every row and every reason; only a vnet header, which scapy has not, gives these two. */
	g_assert_cmphex(rows_seen, ==, (1u << PROTOCOL_COUNT) - 1);
	whys_seen |= 1u << PACKET_WHY_CSUM_START | 1u << PACKET_WHY_UDP_SEGMENTS;
	g_assert_cmphex(whys_seen, ==, (1u << PACKET_WHY_COUNT) - 1);
}

/* --- random packets -------------------------------------------------------------------------- */

static GRand *seeded(void)
{
	const char *given = g_getenv("PACKET_SEED");
	guint32 seed = given ? (guint32)g_ascii_strtoull(given, NULL, 0) : g_random_int();

	g_test_message("PACKET_SEED=%u", seed);
	return g_rand_new_with_seed(seed);
}

/* Random, often close to the wrap or to zero. */
static uint32_t rand32(GRand *r)
{
	uint32_t near = (uint32_t)g_rand_int_range(r, -3, 4);

	switch (g_rand_int_range(r, 0, 4)) {
	case 0:
		return near;
	case 1:
		return 0x80000000u + near;
	default:
		return g_rand_int(r);
	}
}

/* Appends options with random gaps; returns the new length, at most 40. */
static size_t rand_options(GRand *r, uint8_t *at)
{
	size_t n = 0, i, blocks;

	while (g_rand_int_range(r, 0, 3) && n < 3)
		at[n++] = 1;
	if (g_rand_boolean(r)) {
		at[n] = 8;
		at[n + 1] = 10;
		put32(at + n + 2, rand32(r));
		put32(at + n + 6, rand32(r));
		n += 10;
	}
	while (g_rand_boolean(r) && n < 16)
		at[n++] = 1;
	blocks = (size_t)g_rand_int_range(r, 0, 5);
	while (blocks && n + 2 + blocks * 8 > 40)
		blocks--;
	if (blocks) {
		at[n] = 5;
		at[n + 1] = (uint8_t)(2 + blocks * 8);
		for (i = 0; i < blocks * 2; i++)
			put32(at + n + 2 + i * 4, rand32(r));
		n += 2 + blocks * 8;
	}
	while (n % 4)
		at[n++] = g_rand_boolean(r) ? 1 : 0;
	return n;
}

/* An Ethernet frame, 20-byte IP header, TCP with a right checksum. */
static struct frame *rand_tcp(GRand *r)
{
	uint8_t b[256] = {0};
	size_t options = rand_options(r, b + 54), len, i;
	struct frame *f;

	len = 54 + options + (size_t)g_rand_int_range(r, 0, 40);
	for (i = 54 + options; i < len; i++)
		b[i] = (uint8_t)g_rand_int(r);
	put16(b + 12, 0x0800);
	b[14] = 0x45;
	put16(b + 16, (uint32_t)len - 14);
	b[23] = 6;
	put32(b + 26, g_rand_int(r));
	put32(b + 30, g_rand_int(r));
	put32(b + 34, g_rand_int(r));
	put32(b + 38, rand32(r));
	put32(b + 42, rand32(r));
	put16(b + 46, (uint32_t)(20 + options) / 4 << 12 | (g_rand_int(r) & 0xff));
	put16(b + 48, g_rand_int(r));
	f = frame_of(b, len);
	put16(f->data + 50, slow_tcp_checksum(f));
	return f;
}

static void test_map_random(void)
{
	GRand *r = seeded();
	unsigned round;

	for (round = 0; round < 50000; round++) {
		struct frame *f = rand_tcp(r);
		struct frame *before = frame_copy(f);
		uint32_t dseq = rand32(r), dts = rand32(r);
		struct packet p;

		g_assert_cmpint(packet_parse(&p, f), ==, 0);
		g_assert_cmpint(p.class, ==, PACKET_TCP);
		g_assert_cmpuint(packet_l4_checksum(&p), ==, slow_tcp_checksum(f));
		packet_map_out(&p, dseq, dts);
		g_assert_cmpuint(packet_l4_checksum(&p), ==, slow_tcp_checksum(f));
		packet_map_in(&p, dseq, dts);
		packet_set_ack(&p, p.tcp.ack - 5);
		assert_view_current(&p);
		g_assert_cmphex(f->data[50] << 8 | f->data[51], ==, slow_tcp_checksum(f));
		/* And back: every byte as before. A TSecr that became 0 does not come back. */
		packet_set_ack(&p, p.tcp.ack + 5);
		if (!p.tcp.ts_off || p.tcp.tsecr) {
			packet_map_in(&p, -dseq, -dts);
			packet_map_out(&p, -dseq, -dts);
			g_assert_cmpmem(f->data, f->len, before->data, before->len);
		}
		frame_free(before);
		frame_free(f);
	}
	g_rand_free(r);
}

/* With a partial checksum the field is the pseudo header's sum and must not move. */
static void test_map_partial_checksum(void)
{
	GRand *r = seeded();
	unsigned round;

	for (round = 0; round < 1000; round++) {
		struct frame *f = rand_tcp(r);
		struct packet p;

		f->vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		f->vnet.csum_start = htole16(34);
		f->vnet.csum_offset = htole16(16);
		put16(f->data + 50, 0x1234);
		g_assert_cmpint(packet_parse(&p, f), ==, 0);
		g_assert_cmpint(p.class, ==, PACKET_TCP);
		packet_map_out(&p, g_rand_int(r), g_rand_int(r));
		packet_map_in(&p, g_rand_int(r), g_rand_int(r));
		packet_set_ack(&p, g_rand_int(r));
		assert_view_current(&p);
		g_assert_cmphex(f->data[50] << 8 | f->data[51], ==, 0x1234);
		frame_free(f);
	}
	g_rand_free(r);
}

/* Every prefix of a packet parses without a read outside, and only the whole one as TCP. */
static void test_truncated(void)
{
	GRand *r = seeded();
	unsigned round;

	for (round = 0; round < 200; round++) {
		struct frame *f = rand_tcp(r);
		uint32_t len;

		for (len = 0; len <= f->len; len++) {
			struct frame *cut = frame_of(f->data, len);
			struct packet p = {.why = 99};
			int rc = packet_parse(&p, cut);

			if (len < 14) {
				g_assert_cmpint(rc, ==, -EBADMSG);
				g_assert_cmpint(p.why, ==, 99);
			} else {
				g_assert_cmpint(rc, ==, 0);
				g_assert_cmpint(p.class, ==,
				                len == f->len ? PACKET_TCP : PACKET_OTHER);
			}
			frame_free(cut);
		}
		frame_free(f);
	}
	g_rand_free(r);
}

static void test_checksum_replace(void)
{
	GRand *r = seeded();
	unsigned round;

	for (round = 0; round < 200000; round++) {
		uint8_t b[12] = {0};
		unsigned at = (unsigned)g_rand_int_range(r, 0, 9), i;
		uint32_t to = rand32(r), from;
		uint16_t old;

		for (i = 0; i < sizeof(b); i++)
			b[i] = g_rand_int_range(r, 0, 3) ? (uint8_t)g_rand_int(r) : 0xff;
		b[11] |= 1; /* a pseudo header is never all zero */
		if (at == 8)
			to |= 1;
		from = (uint32_t)b[at] << 24 | b[at + 1] << 16 | b[at + 2] << 8 | b[at + 3];
		old = slow_checksum(b, sizeof(b), b, 0);
		g_assert_cmphex((uint16_t)~checksum_fold(checksum_add(0, b, sizeof(b))), ==, old);
		put32(b + at, to);
		g_assert_cmphex(checksum_replace32(old, from, to, at & 1), ==,
		                slow_checksum(b, sizeof(b), b, 0));
	}
	g_rand_free(r);
}

/* --- rules ----------------------------------------------------------------------------------- */

/* seq 1000, ack 2000, TSval 10 TSecr 20 behind two NOPs, SACK 1500-1600. */
static struct frame *plain_tcp(uint16_t flags, uint32_t tsecr)
{
	uint8_t b[78] = {0};

	put16(b + 12, 0x0800);
	b[14] = 0x45;
	put16(b + 16, 64);
	b[23] = 6;
	put32(b + 26, 0x0a000001);
	put32(b + 30, 0x0a000002);
	put16(b + 34, 80);
	put16(b + 36, 1234);
	put32(b + 38, 1000);
	put32(b + 42, 2000);
	put16(b + 46, 11u << 12 | flags);
	put32(b + 54, 0x0101080a); /* two NOPs, timestamp */
	put32(b + 58, 10);
	put32(b + 62, tsecr);
	put32(b + 66, 0x0101050a); /* two NOPs, SACK */
	put32(b + 70, 1500);
	put32(b + 74, 1600);
	return frame_of(b, sizeof(b));
}

static void test_map_in_rules(void)
{
	static const struct {
		uint16_t flags;
		uint32_t tsecr, ack, left, tsecr_after;
	} cases[] = {
	        {PACKET_ACK, 20, 1900, 1400, 17},
	        {PACKET_ACK | PACKET_SYN, 20, 1900, 1400, 17},
	        {PACKET_ACK | PACKET_RST, 20, 1900, 1400, 17},
	        {PACKET_ACK, 0, 1900, 1400, 0}, /* 0 means none */
	        {PACKET_SYN, 20, 2000, 1500, 20},
	        {PACKET_RST, 20, 2000, 1500, 20},
	};
	size_t i;

	for (i = 0; i < G_N_ELEMENTS(cases); i++) {
		struct frame *f = plain_tcp(cases[i].flags, cases[i].tsecr);
		uint32_t left, right;
		struct packet p;

		g_assert_cmpint(packet_parse(&p, f), ==, 0);
		packet_map_in(&p, 100, 3);
		packet_sack(&p, 0, &left, &right);
		g_assert_cmpuint(p.tcp.seq, ==, 1000);
		g_assert_cmpuint(p.tcp.ack, ==, cases[i].ack);
		g_assert_cmpuint(left, ==, cases[i].left);
		g_assert_cmpuint(right, ==, cases[i].left + 100);
		g_assert_cmpuint(p.tcp.tsval, ==, 10);
		g_assert_cmpuint(p.tcp.tsecr, ==, cases[i].tsecr_after);
		frame_free(f);
	}
}

static void test_map_out_rules(void)
{
	static const uint16_t flags[] = {PACKET_ACK, PACKET_SYN, PACKET_RST};
	size_t i;

	for (i = 0; i < G_N_ELEMENTS(flags); i++) {
		struct frame *f = plain_tcp(flags[i], 20);
		uint32_t left, right;
		struct packet p;

		g_assert_cmpint(packet_parse(&p, f), ==, 0);
		packet_map_out(&p, 100, 3);
		packet_sack(&p, 0, &left, &right);
		g_assert_cmpuint(p.tcp.seq, ==, 1100);
		g_assert_cmpuint(p.tcp.tsval, ==, 13);
		g_assert_cmpuint(p.tcp.ack, ==, 2000);
		g_assert_cmpuint(p.tcp.tsecr, ==, 20);
		g_assert_cmpuint(left, ==, 1500);
		frame_free(f);
	}
}

/* What a receiver sees of a packet: its bytes of the stream, and headers that fit them. */
static void assert_segment(struct frame *f, uint32_t seq, const uint8_t *payload, uint32_t len,
                           uint16_t flags)
{
	struct packet p;

	g_assert_cmpint(packet_parse(&p, f), ==, 0);
	g_assert_cmpint(p.class, ==, PACKET_TCP);
	g_assert_cmpuint(p.tcp.seq, ==, seq);
	g_assert_cmpuint(p.payload_len, ==, len);
	g_assert_cmpuint(p.tcp.flags, ==, flags);
	g_assert_cmpmem(f->data + p.payload_off, p.payload_len, payload, len);
	g_assert_cmpuint(slow_checksum(f->data + p.ip_off, p.ip_len, f->data, 0), ==, 0);
}

/* As from a hold that hands over IP packets, and knows the header that was in front. */
static void take_link_off(struct frame *f)
{
	f->data += FRAME_LINK;
	f->len -= FRAME_LINK;
	f->room -= FRAME_LINK;
	f->start = FRAME_AT_IP;
	f->linked = true;
	if (f->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		f->vnet.csum_start -= FRAME_LINK;
}

/* Both parts carry the stream's bytes once, in order, with right checksums. */
static void test_split(void)
{
	GRand *r = seeded();

	for (unsigned i = 0; i < 20000; i++) {
		struct frame *f = rand_tcp(r);
		struct frame *first = NULL;
		struct packet p;
		uint32_t prefix, seq, len;
		uint8_t *payload;
		uint16_t flags, gone = 0; /* from the second part */

		g_assert_cmpint(packet_parse(&p, f), ==, 0);
		put16(f->data + p.ip_off + 10, 0);
		put16(f->data + p.ip_off + 10,
		      slow_checksum(f->data + p.ip_off, p.ip_len, f->data, 0));
		seq = p.tcp.seq;
		len = p.payload_len;
		flags = p.tcp.flags;
		if (i & 2) { /* CWR is RFC 3168's, and goes with the first segment */
			f->vnet.gso_type = VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN;
			f->vnet.gso_size = 40;
			gone = PACKET_CWR;
		}
		payload = g_memdup2(f->data + p.payload_off, len);
		prefix = len ? (uint32_t)g_rand_int_range(r, 0, (gint32)len + 1) : 0;
		if (prefix == 0 || prefix == len || (flags & PACKET_SYN)) {
			g_assert_cmpint(packet_split(&p, prefix, &first), ==, -EINVAL);
			g_assert_null(first);
		} else {
			if (i & 1) {
				take_link_off(f);
				g_assert_cmpint(packet_parse(&p, f), ==, 0);
			}
			g_assert_cmpint(packet_split(&p, prefix, &first), ==, 0);
			g_assert_cmpint(first->start, ==, FRAME_AT_ETHERNET);
			g_assert_cmpint(f->start, ==, FRAME_AT_ETHERNET);
			g_assert_cmpmem(first->data, 14, f->data, 14);
			g_assert_cmpint(first->data[12] << 8 | first->data[13], ==, 0x0800);
			assert_segment(first, seq, payload, prefix,
			               flags & (uint16_t) ~(PACKET_FIN | PACKET_PSH));
			assert_segment(f, seq + prefix, payload + prefix, len - prefix,
			               flags & (uint16_t)~gone);
			g_assert_cmpuint(packet_l4_checksum(&p), ==, slow_tcp_checksum(f));
			if (!(f->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)) {
				struct packet q;

				g_assert_cmpint(packet_parse(&q, first), ==, 0);
				g_assert_cmpuint(first->data[q.l4_off + 16] << 8 |
				                         first->data[q.l4_off + 17],
				                 ==, slow_tcp_checksum(first));
			}
			frame_free(first);
		}
		g_free(payload);
		frame_free(f);
	}
	g_rand_free(r);
}

/* A superframe: the partial checksum counts the new length, a single segment is none any more. */
static void check_split_superframe(bool linked)
{
	struct frame *small = plain_tcp(PACKET_ACK, 1);
	struct frame *f = frame_new(small->len + 4);
	struct frame *first;
	struct packet p;

	memset(f->data, 0x55, f->room);
	memcpy(f->data, small->data, small->len);
	f->len = f->room;
	put16(f->data + 16, f->len - 14);
	frame_free(small);
	g_assert_cmpint(packet_parse(&p, f), ==, 0);
	g_assert_cmpuint(p.payload_len, ==, 4);
	f->vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	f->vnet.csum_start = (uint16_t)p.l4_off;
	f->vnet.csum_offset = 16;
	f->vnet.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
	f->vnet.gso_size = 1;
	f->vnet.hdr_len = (uint16_t)f->len; /* guests count the linear part, payload and all */
	if (linked) {
		take_link_off(f);
		f->vnet.csum_start--; /* cannot be where it says */
		g_assert_cmpint(packet_parse(&p, f), ==, 0);
		g_assert_cmpint(packet_split(&p, 1, &first), ==, -EINVAL);
		f->vnet.csum_start++;
	}
	g_assert_cmpint(packet_parse(&p, f), ==, 0);
	g_assert_cmpint(packet_split(&p, 1, &first), ==, 0);
	g_assert_cmpuint(first->vnet.csum_start, ==, p.l4_off);
	g_assert_cmpuint(f->vnet.csum_start, ==, p.l4_off);
	g_assert_cmpuint(first->vnet.gso_type, ==, VIRTIO_NET_HDR_GSO_NONE);
	g_assert_cmpuint(first->vnet.gso_size, ==, 0);
	g_assert_cmpuint(first->vnet.hdr_len, <=, first->len);
	g_assert_cmpuint(f->vnet.hdr_len, <=, f->len);
	g_assert_cmpuint(f->vnet.gso_type, ==, VIRTIO_NET_HDR_GSO_TCPV4);
	g_assert_cmpuint(first->data[p.l4_off + 16] << 8 | first->data[p.l4_off + 17], ==,
	                 checksum_fold(checksum_ipv4_pseudo(p.src, p.dst, p.proto,
	                                                    p.payload_off - p.l4_off + 1)));
	frame_free(first);
	frame_free(f);
}

static void test_split_superframe(void)
{
	check_split_superframe(false);
	check_split_superframe(true);
}

/* The header in front comes along. */
static void test_copy_linked(void)
{
	struct frame *f = plain_tcp(PACKET_ACK, 4);
	struct frame *first, *copy;
	struct packet p;

	put16(f->data + 46, 8u << 12 | PACKET_ACK); /* the last 12 bytes become payload */
	take_link_off(f);
	copy = frame_copy(f);
	g_assert_cmpint(packet_parse(&p, copy), ==, 0);
	g_assert_cmpint(packet_split(&p, 1, &first), ==, 0);
	g_assert_cmpmem(first->data, FRAME_LINK, f->data - FRAME_LINK, FRAME_LINK);
	g_assert_cmpmem(copy->data, FRAME_LINK, f->data - FRAME_LINK, FRAME_LINK);
	frame_free(first);
	frame_free(copy);
	frame_free(f);
}

static void test_seq_len(void)
{
	struct frame *f = plain_tcp(PACKET_SYN | PACKET_FIN, 0);
	struct packet p;

	g_assert_cmpint(packet_parse(&p, f), ==, 0);
	g_assert_cmpuint(packet_seq_len(&p), ==, 2);
	put16(f->data + 46, 10u << 12 | PACKET_ACK); /* the last 4 bytes become payload */
	put16(f->data + 68, 0x0101);                 /* and their option goes */
	g_assert_cmpint(packet_parse(&p, f), ==, 0);
	g_assert_cmpint(p.class, ==, PACKET_TCP);
	g_assert_cmpuint(packet_seq_len(&p), ==, 4);
	frame_free(f);
}

/* A guest that asks the device to put the checksum elsewhere would change bytes behind our back. */
static void test_csum_start(void)
{
	static const struct {
		uint16_t start, offset;
		int class;
	} cases[] = {{34, 16, PACKET_TCP}, {34, 18, PACKET_OTHER}, {50, 16, PACKET_OTHER}};
	struct frame *f = plain_tcp(PACKET_ACK, 20);
	struct packet p;
	size_t i;

	f->vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	for (i = 0; i < G_N_ELEMENTS(cases); i++) {
		f->vnet.csum_start = htole16(cases[i].start);
		f->vnet.csum_offset = htole16(cases[i].offset);
		g_assert_cmpint(packet_parse(&p, f), ==, 0);
		g_assert_cmpint(p.class, ==, cases[i].class);
		if (p.class == PACKET_OTHER)
			g_assert_cmpint(p.why, ==, PACKET_WHY_CSUM_START);
	}
	frame_free(f);
}

/* IPv4 with `len` bytes of message; addresses 10.0.0.1 > 10.0.0.2, or swapped. */
static struct frame *datagram(uint8_t proto, bool swap, const void *message, size_t len)
{
	uint8_t b[128] = {0};

	put16(b + 12, 0x0800);
	b[14] = 0x45;
	put16(b + 16, (uint32_t)(20 + len));
	b[23] = proto;
	put32(b + 26, swap ? 0x0a000002 : 0x0a000001);
	put32(b + 30, swap ? 0x0a000001 : 0x0a000002);
	memcpy(b + 34, message, len);
	return frame_of(b, 34 + len);
}

static struct flow_key key_of(struct frame *f, enum packet_direction direction)
{
	struct packet p;
	struct flow_key key;

	memset(&key, 0xee, sizeof(key)); /* every byte must be written */
	g_assert_cmpint(packet_parse(&p, f), ==, 0);
	g_assert_cmpint(packet_flow_key(&p, direction, &key), ==, 0);
	frame_free(f);
	return key;
}

static void assert_keys(struct flow_key a, struct flow_key b, bool same)
{
	g_assert_cmpint(memcmp(&a, &b, sizeof(a)) == 0, ==, same);
}

static void test_flow_key(void)
{
	static const uint8_t request[8] = {8, 0, 0, 0, 0x12, 0x34, 0, 1};
	static const uint8_t reply[8] = {0, 0, 0, 0, 0x12, 0x34, 0, 1};
	static const uint8_t out[8] = {0, 53, 4, 210, 0, 8, 0, 0};
	static const uint8_t in[8] = {4, 210, 0, 53, 0, 8, 0, 0};
	static const uint8_t unreachable[8] = {3, 1};
	static const uint8_t toobig[8] = {3, 4};
	struct flow_key vm_asks = key_of(datagram(1, false, request, 8), PACKET_FROM_VM);
	struct flow_key vm_gets = key_of(datagram(1, true, reply, 8), PACKET_TO_VM);
	struct flow_key peer_asks = key_of(datagram(1, true, request, 8), PACKET_TO_VM);
	struct flow_key vm_replies = key_of(datagram(1, false, reply, 8), PACKET_FROM_VM);
	struct flow_key udp_out = key_of(datagram(17, false, out, 8), PACKET_FROM_VM);

	assert_keys(vm_asks, vm_gets, true);
	assert_keys(peer_asks, vm_replies, true);
	assert_keys(vm_asks, peer_asks, false);
	assert_keys(udp_out, key_of(datagram(17, true, in, 8), PACKET_TO_VM), true);
	assert_keys(udp_out, key_of(datagram(17, true, out, 8), PACKET_TO_VM), false);
	assert_keys(key_of(datagram(1, false, unreachable, 8), PACKET_FROM_VM),
	            key_of(datagram(1, false, toobig, 8), PACKET_FROM_VM), false);
	g_assert_cmphex(udp_out.vm_ip, ==, 0x0a000001);
	g_assert_cmphex(udp_out.peer_ip, ==, 0x0a000002);
	g_assert_cmpuint(udp_out.vm_port, ==, 53);
	g_assert_cmpuint(udp_out.peer_port, ==, 1234);
	g_assert_cmpuint(udp_out.proto, ==, 17);
	g_assert_cmpuint(vm_asks.vm_port, ==, 0x1234);
}

struct hashed {
	uint8_t bytes[PACKET_DIGEST_LEN];
};

static struct hashed digest_of(struct frame *f, const struct packet_digest_key *key)
{
	struct packet p;
	struct hashed d = {0};

	g_assert_cmpint(packet_parse(&p, f), ==, 0);
	g_assert_cmpint(packet_digest_datagram(&p, key, d.bytes), ==, 0);
	frame_free(f);
	return d;
}

static void assert_digests(struct hashed a, struct hashed b, bool same)
{
	g_assert_cmpint(memcmp(&a, &b, sizeof(a)) == 0, ==, same);
}

static struct packet_digest_key test_key(uint8_t first)
{
	struct packet_digest_key key;
	size_t i;

	for (i = 0; i < sizeof(key.secret); i++)
		key.secret[i] = (uint8_t)(first + i * 7);
	return key;
}

/* Few and many bytes are hashed by two programs; both are the library's XXH3. */
static void test_digest_stream(void)
{
	g_autofree uint8_t *bytes = g_malloc(FRAME_MAX_LEN);
	struct packet_digest_key key;

	for (uint32_t i = 0; i < sizeof(key.secret); i++)
		key.secret[i] = (uint8_t)(i * 151 + 7);
	for (uint32_t i = 0; i < FRAME_MAX_LEN; i++)
		bytes[i] = (uint8_t)(i * 31 ^ i >> 7);
	for (uint32_t len = 0; len <= FRAME_MAX_LEN; len = len < 520 ? len + 1 : len * 2) {
		XXH128_canonical_t canonical;
		uint8_t hash[16];

		XXH128_canonicalFromHash(&canonical, XXH3_128bits_withSecret(bytes, len, key.secret,
		                                                             sizeof(key.secret)));
		digest_stream(&key, bytes, len, hash);
		g_assert_cmpmem(hash, 16, canonical.digest, 16);
	}
}

static void test_digest_udp(void)
{
	static const uint8_t a[] = "\0\65\4\322\0\14\x11\x22"
	                           "abcd";
	static const uint8_t csum[] = "\0\65\4\322\0\14\x33\x44"
	                              "abcd";
	static const uint8_t other[] = "\0\65\4\322\0\14\x11\x22"
	                               "abce";
	struct packet_digest_key key = test_key(1), key2 = test_key(2);
	struct hashed d = digest_of(datagram(17, false, a, 12), &key);
	struct frame *super = datagram(17, false, a, 12), *super2;
	struct hashed d_super;

	assert_digests(d, digest_of(datagram(17, false, csum, 12), &key), true);
	assert_digests(d, digest_of(datagram(17, false, other, 12), &key), false);
	assert_digests(d, digest_of(datagram(17, false, a, 12), &key2), false);

	super->vnet.gso_type = 5; /* VIRTIO_NET_HDR_GSO_UDP_L4: two datagrams of two bytes */
	super->vnet.gso_size = htole16(2);
	super2 = frame_copy(super);
	super2->vnet.gso_size = htole16(3);
	d_super = digest_of(super, &key);
	assert_digests(d, d_super, false);
	assert_digests(d_super, digest_of(super2, &key), false);
}

/* The same bytes may be cut into other datagrams, and NFQUEUE does not tell. */
static void test_udp_segments(void)
{
	static const uint8_t bytes[] = "\0\65\4\322\0\14\x11\x22"
	                               "abcd";
	struct frame *f = datagram(17, false, bytes, 12);
	struct packet p;

	f->vnet.gso_type = 5; /* VIRTIO_NET_HDR_GSO_UDP_L4 */
	g_assert_cmpint(packet_parse(&p, f), ==, 0);
	g_assert_cmpint(p.class, ==, PACKET_OTHER);
	g_assert_cmpint(p.why, ==, PACKET_WHY_UDP_SEGMENTS);
	f->vnet.gso_size = htole16(2);
	g_assert_cmpint(packet_parse(&p, f), ==, 0);
	g_assert_cmpint(p.class, ==, PACKET_UDP);
	frame_free(f);
}

static void test_digest_icmp(void)
{
	static const uint8_t a[10] = {8, 0, 0x11, 0x22, 0, 1, 0, 2, 'h', 'i'};
	struct packet_digest_key key = test_key(1);
	struct hashed d = digest_of(datagram(1, false, a, sizeof(a)), &key);
	size_t i;

	for (i = 0; i < sizeof(a); i++) {
		uint8_t b[sizeof(a)];

		memcpy(b, a, sizeof(a));
		b[i] ^= 0x40;
		assert_digests(d, digest_of(datagram(1, false, b, sizeof(b)), &key),
		               i == 2 || i == 3);
	}
}

static void test_digest_arp(void)
{
	uint8_t b[60] = {0};
	struct packet_digest_key key = test_key(1);
	struct hashed d;
	struct frame *f;
	struct packet p;

	put16(b + 12, 0x0806);
	put32(b + 14, 0x00010800);
	put32(b + 18, 0x06040001);
	d = digest_of(frame_of(b, 42), &key);
	b[50] = 1; /* padding */
	assert_digests(d, digest_of(frame_of(b, 60), &key), true);
	b[41] = 1; /* target address */
	assert_digests(d, digest_of(frame_of(b, 60), &key), false);

	f = plain_tcp(PACKET_ACK, 0);
	g_assert_cmpint(packet_parse(&p, f), ==, 0);
	g_assert_cmpint(packet_digest_datagram(&p, &key, d.bytes), ==, -EINVAL);
	frame_free(f);
}

static void test_describe(void)
{
	struct frame *f = plain_tcp(PACKET_ACK | PACKET_PSH, 0);
	struct packet p;
	char text[128], small[10];

	g_assert_cmpint(packet_parse(&p, f), ==, 0);
	g_assert_cmpstr(packet_describe(&p, text, sizeof(text)), ==,
	                "tcp 10.0.0.1:80 > 10.0.0.2:1234 seq 1000 ack 2000 len 0 [P.]");
	g_assert_cmpstr(packet_describe(&p, small, sizeof(small)), ==, "tcp 10.0.");
	frame_free(f);
}

/* Every reason has words of its own. */
static void test_why_names(void)
{
	int i, k;

	for (i = 0; i < PACKET_WHY_COUNT; i++) {
		g_assert_nonnull(packet_why_name((enum packet_why)i));
		for (k = 0; k < i; k++)
			g_assert_cmpstr(packet_why_name((enum packet_why)i), !=,
			                packet_why_name((enum packet_why)k));
	}
	g_assert_nonnull(packet_why_name(PACKET_WHY_COUNT));
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/packet/oracle", test_oracle);
	g_test_add_func("/packet/map/random", test_map_random);
	g_test_add_func("/packet/map/partial-checksum", test_map_partial_checksum);
	g_test_add_func("/packet/map/in-rules", test_map_in_rules);
	g_test_add_func("/packet/map/out-rules", test_map_out_rules);
	g_test_add_func("/packet/truncated", test_truncated);
	g_test_add_func("/packet/split", test_split);
	g_test_add_func("/packet/split-superframe", test_split_superframe);
	g_test_add_func("/packet/copy-linked", test_copy_linked);
	g_test_add_func("/packet/seq-len", test_seq_len);
	g_test_add_func("/packet/csum-start", test_csum_start);
	g_test_add_func("/packet/checksum-replace", test_checksum_replace);
	g_test_add_func("/packet/flow-key", test_flow_key);
	g_test_add_func("/packet/digest/stream", test_digest_stream);
	g_test_add_func("/packet/digest/udp", test_digest_udp);
	g_test_add_func("/packet/udp-segments", test_udp_segments);
	g_test_add_func("/packet/digest/icmp", test_digest_icmp);
	g_test_add_func("/packet/digest/arp", test_digest_arp);
	g_test_add_func("/packet/describe", test_describe);
	g_test_add_func("/packet/why-names", test_why_names);
	return g_test_run();
}
