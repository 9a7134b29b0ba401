/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_TESTS_COMPARE_LOAD_H
#define COLO_TESTS_COMPARE_LOAD_H

/*
 * What the comparators are measured with: the TCP segments that two VMs say, the same for each
 * comparator and the same for the same seed.
 *
 * The load is a sequence of turns. A turn is one flow's next bytes, said by both VMs: one segment
 * each when they cut the stream equally; four segments of the PVM's and five of the SVM's when they
 * cut it differently (the first and the last of the five are half as long). The flow of a turn is
 * drawn at random, after each flow has had one turn in order. All segments acknowledge the same
 * byte and carry a timestamp option; the connections are those of a checkpoint, in which both VMs
 * have the same numbers, so that no comparator has anything to map. TCP checksums are left zero:
 * no comparator looks at them.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "colo-proxy/core/checksum.h"

#define LOAD_TURN_MAX 5u
#define LOAD_HEAD     66u /* Ethernet, IPv4, TCP with a timestamp option */
#define LOAD_PATTERN  65536u
#define LOAD_PORTS    50000u /* of one client address */
#define LOAD_FIRST    1000u  /* each flow's first sequence number */

struct segment {
	uint32_t flow, seq, len;
};

struct turn {
	struct segment pvm[LOAD_TURN_MAX], svm[LOAD_TURN_MAX];
	uint32_t pvm_count, svm_count;
	bool svm_first; /* a coin */
};

struct load {
	uint32_t flows, payload; /* of a PVM's segment; even */
	bool different;          /* segmentation */
	uint64_t random;
	uint32_t filled; /* flows that have had a turn */
	uint32_t *next;  /* by flow: its next sequence number */
	uint8_t *pattern;
};

static inline uint64_t load_random(struct load *load)
{
	/* xorshift64*, Marsaglia and Vigna */
	load->random ^= load->random >> 12;
	load->random ^= load->random << 25;
	load->random ^= load->random >> 27;
	return load->random * 0x2545f4914f6cdd1dull;
}

/* Each flow begins again, and they have their first turn in order again. */
static inline void load_again(struct load *load)
{
	load->filled = 0;
	for (uint32_t i = 0; i < load->flows; i++)
		load->next[i] = LOAD_FIRST;
}

/* 0, or -1 when memory is out. */
static inline int load_init(struct load *load, uint32_t flows, uint32_t payload, bool different,
                            uint64_t seed)
{
	*load = (struct load){
	        .flows = flows,
	        .payload = payload,
	        .different = different,
	        .random = seed * 2 + 1,
	        .next = malloc(flows * sizeof(uint32_t)),
	        .pattern = malloc(2 * LOAD_PATTERN),
	};
	if (!load->next || !load->pattern)
		return -1;
	load_again(load);
	for (uint32_t i = 0; i < LOAD_PATTERN; i++)
		load->pattern[i] = (uint8_t)(load_random(load) >> 32);
	memcpy(load->pattern + LOAD_PATTERN, load->pattern, LOAD_PATTERN);
	return 0;
}

static inline void load_fini(struct load *load)
{
	free(load->next);
	free(load->pattern);
}

static inline void load_turn(struct load *load, struct turn *ret_turn)
{
	bool full = load->filled == load->flows;
	uint64_t random = load_random(load);
	uint32_t flow = full ? (uint32_t)((random >> 32) % load->flows) : load->filled++;
	uint32_t seq = load->next[flow], len = load->payload;
	uint32_t count = load->different ? 4 : 1;

	*ret_turn = (struct turn){.pvm_count = count, .svm_count = count};
	ret_turn->svm_first = random & 1;
	for (uint32_t i = 0; i < count; i++)
		ret_turn->pvm[i] = (struct segment){flow, seq + i * len, len};
	memcpy(ret_turn->svm, ret_turn->pvm, sizeof(ret_turn->svm));
	if (load->different) {
		ret_turn->svm_count = count + 1;
		ret_turn->svm[0].len = len / 2;
		for (uint32_t i = 1; i <= count; i++)
			ret_turn->svm[i] = (struct segment){flow, seq + i * len - len / 2, len};
		ret_turn->svm[count].len = len / 2;
	}
	load->next[flow] = seq + count * len;
}

static inline void load_put32(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 24);
	at[1] = (uint8_t)(value >> 16);
	at[2] = (uint8_t)(value >> 8);
	at[3] = (uint8_t)value;
}

/* Writes the segment as an Ethernet frame; returns its length, LOAD_HEAD + segment->len. */
static inline uint32_t load_frame(const struct load *load, const struct segment *segment,
                                  uint8_t *out)
{
	static const uint8_t head[LOAD_HEAD] = {
	        2,    0,    0, 0,  0,  1, 2, 0, 0,  0, 0,  2,  8, 0, /* Ethernet */
	        0x45, 0,    0, 0,  0,  0, 0, 0, 64, 6, 0,  0,        /* IPv4 */
	        10,   0,    0, 1,  10, 1, 0, 0,                      /* its addresses */
	        0,    80,   0, 0,  0,  0, 0, 0, 0,  0, 18, 52,       /* TCP: ports, seq, ack */
	        0x80, 0x10, 2, 0,  0,  0, 0, 0,                      /* ACK, window */
	        1,    1,    8, 10, 0,  0, 4, 0, 0,  0, 8,  0,        /* timestamps */
	};
	uint32_t port = 1024 + segment->flow % LOAD_PORTS;
	uint32_t total = LOAD_HEAD - 14 + segment->len;
	uint16_t sum;

	memcpy(out, head, sizeof(head));
	out[16] = (uint8_t)(total >> 8);
	out[17] = (uint8_t)total;
	load_put32(out + 30, 0x0a010000u + segment->flow / LOAD_PORTS);
	sum = (uint16_t)~checksum_fold(checksum_add(0, out + 14, 20));
	out[24] = (uint8_t)(sum >> 8);
	out[25] = (uint8_t)sum;
	out[36] = (uint8_t)(port >> 8);
	out[37] = (uint8_t)port;
	load_put32(out + 38, segment->seq);
	memcpy(out + LOAD_HEAD,
	       load->pattern + (segment->seq + segment->flow * 7919u) % LOAD_PATTERN, segment->len);
	return LOAD_HEAD + segment->len;
}

/* An option's number; a word that is none ends the program. */
static inline uint64_t load_option(const char *text, uint64_t min, uint64_t max)
{
	char *end;
	uint64_t value;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || end == text || *end || value < min || value > max) {
		fprintf(stderr, "%s: %s is not a number from %" PRIu64 " to %" PRIu64 "\n",
		        program_invocation_short_name, text, min, max);
		exit(2);
	}
	return value;
}

#endif
