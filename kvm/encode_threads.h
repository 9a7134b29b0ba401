/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_KVM_ENCODE_THREADS_H
#define COLO_KVM_ENCODE_THREADS_H

#include <stdbool.h>

#include "kvm/processors.h"

/* How many threads encode checkpoints (kvm/encode_pool.h), and why so many. */

#define ENCODE_THREADS_MAX  8u
#define ENCODE_THREADS_AUTO (-1)

struct encode_threads_facts {
	struct processors processors; /* that the daemon may run on */
	unsigned int vcpus;
	bool packs; /* compression is not none */
};

struct encode_threads_choice {
	unsigned int threads;
	char why[160]; /* for people */
};

/*
 * `wish`: ENCODE_THREADS_AUTO or a number. auto: the processors that neither the VM nor the data
 * thread needs, 4 at most, and none with two processors. Threads pay where blocks are packed;
 * without packing there are none, whatever the wish (docs/checkpoint.md has the measurement).
 */
void encode_threads_choose(const struct encode_threads_facts *facts, int wish,
                           struct encode_threads_choice *ret_choice);

#endif
