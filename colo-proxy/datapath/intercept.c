/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/datapath/intercept.h"

#include "colo-proxy/datapath/divert.h"
#include "colo-proxy/datapath/tc.h"

#include <errno.h>
#include <stdlib.h>

struct intercept {
	struct divert divert;
	struct intercept_counters count;
};

int intercept_open(const char *port, const char *tap_name, uint32_t mark, unsigned queue,
                   struct intercept **ret_intercept, char *err, size_t errlen)
{
	struct divert_params params = {.port = port, .side = TC_SIDE_EGRESS};
	struct intercept *x = calloc(1, sizeof(*x));
	int ret;

	if (!x)
		return -ENOMEM;
	params.tap_name = tap_name ? tap_name : "colo%d";
	params.mark = mark;
	params.queue = queue;
	params.mode = BPF_MODE_DIVERT;
	ret = divert_open(&x->divert, &params, err, errlen);
	if (ret < 0) {
		free(x);
		return ret;
	}
	*ret_intercept = x;
	return 0;
}

int intercept_fd(const struct intercept *x)
{
	return x->divert.tap_fd;
}

int intercept_receive(struct intercept *x, struct frame **ret_list, unsigned max)
{
	int n = divert_receive(&x->divert, ret_list, max);

	if (n > 0)
		x->count.received += (unsigned)n;
	return n;
}

int intercept_set(struct intercept *x, bool on)
{
	return divert_set_mode(&x->divert, on ? BPF_MODE_DIVERT : BPF_MODE_PASS);
}

void intercept_get_counters(struct intercept *x, struct intercept_counters *ret_counters)
{
	/* A failed read keeps the last value: the tap is gone only with our own descriptor. */
	tap_counter_read(&x->divert.tap, TAP_TX_DROPPED, &x->count.kernel_dropped);
	*ret_counters = x->count;
}

void intercept_close(struct intercept *x)
{
	if (!x)
		return;
	divert_close(&x->divert, x->divert.mode == BPF_MODE_PASS);
	free(x);
}
