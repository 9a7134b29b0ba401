/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The parser of TCP (RFC 9293) and of the options that the comparison and the mapping need. */
#include "colo-proxy/core/packet_private.h"

#define TCP_MIN_LEN 20u

#define OPT_END             0
#define OPT_NOP             1
#define OPT_MSS             2
#define OPT_WSCALE          3
#define OPT_SACK_PERMITTED  4
#define OPT_SACK            5
#define OPT_TIMESTAMP       8
#define OPT_MD5             19
#define OPT_AO              29
#define OPT_FASTOPEN        34
#define OPT_EXPERIMENT      254
#define EXPERIMENT_FASTOPEN 0xf989u /* RFC 7413 appendix, RFC 6994 */

/* RFC 7323 appendix A: how most segments of a connection have their only option. */
#define TIMESTAMP_LIST     0x0101080au /* two NOPs, kind, length */
#define TIMESTAMP_LIST_LEN 12u

/* TSval is at `off`, TSecr behind it. */
static void note_timestamps(struct packet *p, uint32_t off)
{
	p->tcp.ts_off = off;
	p->tcp.tsval = frame_get32(p->frame, off);
	p->tcp.tsecr = frame_get32(p->frame, off + 4);
}

/* One option of the list, `len` bytes with kind and length. */
static enum packet_why parse_option(struct packet *p, uint32_t off, uint8_t kind, uint8_t len)
{
	const struct frame *f = p->frame;
	struct packet_tcp *tcp = &p->tcp;

	switch (kind) {
	case OPT_MSS:
		if (len != 4)
			return PACKET_WHY_TCP_OPTIONS;
		tcp->mss = frame_get16(f, off + 2);
		break;
	case OPT_WSCALE:
		if (len != 3)
			return PACKET_WHY_TCP_OPTIONS;
		tcp->has_wscale = true;
		tcp->wscale = f->data[off + 2];
		break;
	case OPT_SACK_PERMITTED:
		if (len != 2)
			return PACKET_WHY_TCP_OPTIONS;
		tcp->has_sack_permitted = true;
		break;
	case OPT_SACK:
		if (len < 10 || (len - 2) % 8 || tcp->sack_off)
			return PACKET_WHY_TCP_OPTIONS;
		tcp->sack_off = off + 2;
		tcp->sack_count = (uint8_t)((len - 2) / 8);
		break;
	case OPT_TIMESTAMP:
		if (len != 10 || tcp->ts_off)
			return PACKET_WHY_TCP_OPTIONS;
		note_timestamps(p, off + 2);
		break;
	case OPT_MD5:
	case OPT_AO:
		tcp->has_auth = true;
		break;
	case OPT_FASTOPEN:
		tcp->has_fastopen = true;
		break;
	case OPT_EXPERIMENT:
		if (len >= 4 && frame_get16(f, off + 2) == EXPERIMENT_FASTOPEN)
			tcp->has_fastopen = true;
		break;
	default:
		break;
	}
	return PACKET_WHY_NONE;
}

static enum packet_why parse_options(struct packet *p, uint32_t off, uint32_t end)
{
	const uint8_t *data = p->frame->data;

	if (end - off == TIMESTAMP_LIST_LEN && frame_get32(p->frame, off) == TIMESTAMP_LIST) {
		note_timestamps(p, off + 4);
		return PACKET_WHY_NONE;
	}
	while (off < end && data[off] != OPT_END) {
		enum packet_why why;

		if (data[off] == OPT_NOP) {
			off++;
			continue;
		}
		if (end - off < 2 || data[off + 1] < 2 || data[off + 1] > end - off)
			return PACKET_WHY_TCP_OPTIONS;
		why = parse_option(p, off, data[off], data[off + 1]);
		if (why != PACKET_WHY_NONE)
			return why;
		off += data[off + 1];
	}
	return p->tcp.has_auth ? PACKET_WHY_TCP_AUTH : PACKET_WHY_NONE;
}

void packet_parse_tcp(struct packet *p)
{
	const struct frame *f = p->frame;
	uint32_t off = p->l4_off;
	uint32_t header;
	uint16_t word;
	enum packet_why why;

	if (p->l4_len < TCP_MIN_LEN) {
		packet_set_other(p, PACKET_WHY_TCP_HEADER);
		return;
	}
	word = frame_get16(f, off + 12);
	header = (word >> 12) * 4u;
	p->tcp.sport = frame_get16(f, off);
	p->tcp.dport = frame_get16(f, off + 2);
	p->tcp.seq = frame_get32(f, off + 4);
	p->tcp.ack = frame_get32(f, off + 8);
	p->tcp.flags = word & 0x0fff;
	p->tcp.window = frame_get16(f, off + 14);
	p->tcp.urgent = frame_get16(f, off + 18);
	if (header < TCP_MIN_LEN || header > p->l4_len) {
		packet_set_other(p, PACKET_WHY_TCP_HEADER);
		return;
	}
	p->payload_off = off + header;
	p->payload_len = p->l4_len - header;
	why = parse_options(p, off + TCP_MIN_LEN, off + header);
	if (why == PACKET_WHY_NONE && !packet_csum_start_ok(p, PACKET_TCP_CSUM_OFF))
		why = PACKET_WHY_CSUM_START;
	if (why != PACKET_WHY_NONE)
		packet_set_other(p, why);
	else
		p->class = PACKET_TCP;
}
