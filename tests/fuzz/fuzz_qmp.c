/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The input is what a peer says on a QMP connection before it closes: through the greeting, the
 * negotiation and two commands (their ids are colo-1, colo-2 and colo-3), then as events.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "qemu-glue/colo.h"
#include "qemu-glue/qmp.h"
#include "qemu-glue/versions.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void talk(struct qmp *q)
{
	struct colo_progress progress;
	struct qemu_version version;
	json_t *value = NULL;
	char err[128];

	colo_query_progress(q, 10, &progress, err, sizeof(err));
	if (qmp_execute(q, "query-version", NULL, 10, &value, err, sizeof(err)) == 0) {
		qemu_version_from_qmp(value, &version);
		json_decref(value);
	}
	while (qmp_wait_event(q, NULL, 10, NULL, err, sizeof(err)) == 0)
		;
	if (qmp_dispatch(q, err, sizeof(err)) == 0)
		abort(); /* the peer has closed: that must have been seen */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qmp *q = NULL;
	char err[128];
	int pair[2];

	if (size > 65536 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		return 0;
	if (send(pair[0], data, size, MSG_DONTWAIT) != (ssize_t)size && size)
		abort();
	shutdown(pair[0], SHUT_WR);
	if (qmp_open(pair[1], 10, &q, err, sizeof(err)) == 0) {
		talk(q);
		qmp_free(q);
	} else {
		close(pair[1]);
	}
	close(pair[0]);
	return 0;
}
