/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_DATAPATH_INTERCEPT_H
#define COLO_DATAPATH_INTERCEPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "colo-proxy/core/frame.h"

/*
 * What is on its way to the VM comes here first: a survivor's sequence numbers differ from what its
 * clients know, and every frame is mapped before it is injected (inject.h, the same mark). Fail-
 * closed: when this process dies the VM gets no input. A mirror on the port sees what is injected,
 * that is what the VM gets.
 */

struct intercept;

struct intercept_counters {
	uint64_t received;       /* frames handed out */
	uint64_t kernel_dropped; /* lost because the tap's ring was full */
};

/*
 * On the port (the VM's tap), switched on. `tap_name` is a name or pattern, NULL: "colo%d"; `queue`
 * frames wait in the kernel at most (0: TAPDEV_TXQUEUELEN). 0, or a negative errno with words in
 * `err`.
 */
int intercept_open(const char *port, const char *tap_name, uint32_t mark, unsigned queue,
                   struct intercept **ret_intercept, char *err, size_t errlen);

/* The descriptor to poll for EPOLLIN. */
int intercept_fd(const struct intercept *x);

/* Up to `max` frames as a list, the caller's; their number, 0 when none waits, negative errno. */
int intercept_receive(struct intercept *x, struct frame **ret_list, unsigned max);

/*
 * Off: frames go to the VM by themselves. Then receive and inject until none comes, and close: none
 * is lost; those can be overtaken by newer ones. On again at any time.
 */
int intercept_set(struct intercept *x, bool on);

void intercept_get_counters(struct intercept *x, struct intercept_counters *ret_counters);

/* When it is off the port is left as it was before; when on, it is left shut. NULL is allowed. */
void intercept_close(struct intercept *x);

#endif
