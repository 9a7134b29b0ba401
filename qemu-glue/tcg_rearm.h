/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef QEMU_GLUE_TCG_REARM_H
#define QEMU_GLUE_TCG_REARM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qemu-glue/qmp.h"

/*
 * Makes TCG log every page that the VM dirties from now on: empties the TLBs of all its vCPUs.
 * tcg_rearm.c says why that is needed between the end of a first copy and its first checkpoint.
 *
 * The VM must stand still, and its state is not changed. `q35`: which of the machine types it is.
 * Under KVM there is nothing to do. 0, or the errors of qmp.h; -EPROTO when QEMU's answer is not
 * the value of a port.
 */
int tcg_rearm(struct qmp *q, bool q35, uint64_t timeout_ms, char *err, size_t errlen);

#endif
