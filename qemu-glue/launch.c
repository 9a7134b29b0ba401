/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu-glue/launch.h"

#include <unistd.h>

static int spawn(const struct qemu_params *params, const char *log_path,
                 struct qemu_process **ret_process, char *err, size_t errlen)
{
	struct qemu_spawn how = {.log_path = log_path};
	char **argv = NULL;
	int fds[2];
	int ret = qemu_cmdline(params, &argv, err, errlen);

	if (ret)
		return ret;
	how.argv = argv;
	how.fds = fds;
	how.n_fds = qemu_params_fds(params, fds);
	ret = qemu_process_spawn(&how, ret_process, err, errlen);
	g_strfreev(argv);
	return ret;
}

int qemu_launch(const struct qemu_params *params, const char *qmp_path, const char *log_path,
                uint64_t timeout_ms, struct qemu_process **ret_process, struct qmp **ret_q,
                char *err, size_t errlen)
{
	struct qemu_params with_qmp = *params;
	struct qemu_process *process = NULL;
	int ret = qemu_listen(qmp_path, &with_qmp.qmp_fd, err, errlen);

	if (ret)
		return ret;
	ret = spawn(&with_qmp, log_path, &process, err, errlen);
	close(with_qmp.qmp_fd); /* QEMU has it now; its end is then the socket's end */
	if (!ret)
		ret = qemu_process_qmp(process, qmp_path, timeout_ms, ret_q, err, errlen);
	if (ret)
		qemu_process_free(process);
	else
		*ret_process = process;
	return ret;
}
