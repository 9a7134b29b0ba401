/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_STOCK_H
#define COLO_STOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "colo-proxy/vm.h"

/*
 * comparator = qemu, in the control thread: QEMU's own objects around one VM (QEMU:
 * docs/system/qemu-colo.rst). And, whatever compares, what QEMU's events say of checkpoints. Calls
 * block like vm.h's.
 */

struct stock {
	struct vm *vm;
	bool filters;        /* the primary's filters and comparator are there */
	bool channels;       /* and the sockets that they use */
	bool counting;       /* in COLO: a STOP begins a checkpoint */
	uint64_t stopped_us; /* QEMU's clock; 0: runs */
};

/* Where the two QEMUs meet, as a migration URI; the same socket on both sides. g_free(). */
char *stock_uri(const struct config *config);

/*
 * P, after vm_start(): the VM boots without filters, since colo-compare holds all output back
 * while there is no secondary. Only their sockets listen, for the SVM's QEMU to find them.
 */
int stock_open(struct stock *stock, char *err, size_t errlen);

/* P: the filters and the comparator, then migrate to `uri` with the document's parameters. */
int stock_migrate(struct stock *stock, const char *uri, char *err, size_t errlen);

/*
 * The VM runs on alone. P: its channel may hang, so it is shut first; the filters go, and the
 * sockets are made anew for the next secondary. S: the rewriter stays.
 */
int stock_leave(struct stock *stock, bool primary, char *err, size_t errlen);

/* P: the copy was abandoned before COLO: the filters go, or they would hold everything back. */
int stock_drop_filters(struct stock *stock, char *err, size_t errlen);

/* S, on its bridge: QEMU's announcement of the address. */
int stock_announce(struct stock *stock, char *err, size_t errlen);

/* P, with any comparator: QEMU is in COLO. What it did before was no checkpoint. */
void stock_count(struct stock *stock);

struct stock_ops {
	void (*checkpoint)(void *ctx, uint64_t ago_ns, uint64_t pause_ns); /* ago: since the stop */
	void (*left)(void *ctx, const char *why); /* COLO has ended by itself */
};

/* Takes the events that have been read, without waiting. */
void stock_take_events(struct stock *stock, const struct stock_ops *ops, void *ctx);

#endif
