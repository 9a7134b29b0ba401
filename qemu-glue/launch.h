/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef QEMU_GLUE_LAUNCH_H
#define QEMU_GLUE_LAUNCH_H

#include "qemu-glue/cmdline.h"
#include "qemu-glue/process.h"
#include "qemu-glue/qmp.h"

/*
 * Starts QEMU from `params` and connects to it: listening socket at `qmp_path` (params' own QMP
 * fields are not used), command line, child, greeting. What QEMU says goes to `log_path`.
 * On failure nothing is left running, and `err` has QEMU's own last words if it said any.
 */
int qemu_launch(const struct qemu_params *params, const char *qmp_path, const char *log_path,
                uint64_t timeout_ms, struct qemu_process **ret_process, struct qmp **ret_q,
                char *err, size_t errlen);

#endif
