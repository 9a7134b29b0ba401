/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu-glue/urgent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define VCPU_NAME      "CPU " /* "CPU 0/TCG", "CPU 1/KVM" */
#define MIGRATION_NAME "mig/src/main"

/* The name of a thread (at most 15 bytes); "" when it has ended. */
static void name_of(int tasks, const char *tid, char *buf, size_t size)
{
	char path[64];
	ssize_t n = -1;
	int fd;

	snprintf(path, sizeof(path), "%.32s/comm", tid);
	fd = openat(tasks, path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, buf, size - 1);
		close(fd);
	}
	buf[n > 0 ? n : 0] = 0;
}

static void add(struct urgent *urgent, pid_t tid, bool vcpu)
{
	int policy = sched_getscheduler(tid);

	if (policy < 0 || urgent->count == URGENT_THREADS)
		return;
	if ((policy & ~SCHED_RESET_ON_FORK) == SCHED_FIFO ||
	    (policy & ~SCHED_RESET_ON_FORK) == SCHED_RR)
		return;
	urgent->thread[urgent->count++] =
	        (struct urgent_thread){.tid = tid, .vcpu = vcpu, .policy = policy};
}

static int add_all(struct urgent *urgent, pid_t pid)
{
	char path[64];
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	if (!dir)
		return -errno;
	while ((entry = readdir(dir))) {
		pid_t tid = (pid_t)strtol(entry->d_name, NULL, 10);
		char name[32];
		bool vcpu;

		if (tid <= 0)
			continue;
		name_of(dirfd(dir), entry->d_name, name, sizeof(name));
		vcpu = strncmp(name, VCPU_NAME, strlen(VCPU_NAME)) == 0;
		if (vcpu || tid == pid ||
		    strncmp(name, MIGRATION_NAME, strlen(MIGRATION_NAME)) == 0)
			add(urgent, tid, vcpu);
	}
	closedir(dir);
	return 0;
}

int urgent_find(struct urgent *urgent, int sock)
{
	struct ucred peer = {0};
	socklen_t len = sizeof(peer);
	int r;

	urgent_end(urgent);
	urgent->count = 0;
	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return -errno;
	if (peer.pid <= 0)
		return -ESRCH; /* of another PID namespace */
	add(urgent, gettid(), false);
	r = add_all(urgent, peer.pid);
	if (r < 0)
		urgent->count = 0;
	return r;
}

/* A vCPU that has not noticed yet that it is to stop must not be in front of those who wait for it.
 */
static int raise_one(struct urgent_thread *thread)
{
	int least = sched_get_priority_min(SCHED_RR);
	struct sched_param param = {.sched_priority = thread->vcpu ? least : least + 1};

	if (sched_setscheduler(thread->tid, SCHED_RR | SCHED_RESET_ON_FORK, &param) < 0)
		return errno == ESRCH ? 0 : -errno;
	thread->raised = true;
	return 0;
}

static void put_back(struct urgent_thread *thread)
{
	const struct sched_param none = {0};

	if (thread->raised)
		sched_setscheduler(thread->tid, thread->policy, &none); /* fails if it has ended */
	thread->raised = false;
}

int urgent_begin(struct urgent *urgent)
{
	for (unsigned i = 0; i < urgent->count; i++) {
		int r = raise_one(&urgent->thread[i]);

		if (r < 0) {
			urgent_end(urgent);
			urgent->count = 0;
			return r;
		}
	}
	return 0;
}

void urgent_spare_vcpus(struct urgent *urgent)
{
	for (unsigned i = 0; i < urgent->count; i++) {
		if (urgent->thread[i].vcpu)
			put_back(&urgent->thread[i]);
	}
}

void urgent_end(struct urgent *urgent)
{
	for (unsigned i = 0; i < urgent->count; i++)
		put_back(&urgent->thread[i]);
}
