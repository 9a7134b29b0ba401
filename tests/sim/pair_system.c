/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The system calls that the node makes itself (the linker's --wrap): the unix socket to QEMU, the
 * tap's descriptor, the marker in state-dir, the wall clock, threads, random numbers. Outside of a
 * daemon's code they are the real ones.
 */
#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "kvm/ckpt_buf.h"
#include "qemu-glue/urgent.h"
#include "tests/sim/pair.h"

#define SOCKET_BYTES (24u << 10)
#define KEEP_BYTES   (64u << 10)

int __real_close(int fd);
ssize_t __real_read(int fd, void *buf, size_t len);
int __real_clock_gettime(clockid_t clock, struct timespec *ts);
int __real_ckpt_buf_init(struct ckpt_buf *buf, size_t limit, size_t keep);

int __wrap_socket(int domain, int type, int protocol);
int __wrap_bind(int fd, const struct sockaddr *address, socklen_t len);
int __wrap_listen(int fd, int backlog);
int __wrap_accept4(int fd, struct sockaddr *address, socklen_t *len, int flags);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t len);
ssize_t __wrap_send(int fd, const void *buf, size_t len, int flags);
ssize_t __wrap_recv(int fd, void *buf, size_t len, int flags);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t len);
int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_close(int fd);
ssize_t __wrap_read(int fd, void *buf, size_t len);
int __wrap_unlink(const char *path);
int __wrap_access(const char *path, int mode);
int __wrap_open(const char *path, int flags, ...);
int __wrap_mkdir(const char *path, mode_t mode);
int __wrap_fsync(int fd);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ts);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *arg);
int __wrap_pthread_join(pthread_t thread, void **ret);
int __wrap_gnutls_rnd(gnutls_rnd_level_t level, void *data, size_t len);
int __wrap_ckpt_buf_init(struct ckpt_buf *buf, size_t limit, size_t keep);
ssize_t __wrap_process_vm_readv(pid_t pid, const struct iovec *local, unsigned long local_n,
                                const struct iovec *remote, unsigned long remote_n,
                                unsigned long flags);

/* ---- descriptors ---- */

int fd_new(struct host *host, enum fd_kind kind)
{
	for (int i = 0; i < FD_MAX; i++) {
		if (host->fd[i].kind == FD_FREE) {
			host->fd[i] = (struct fd){.kind = kind};
			return FD_BASE + i;
		}
	}
	g_error("a daemon leaks descriptors");
}

struct fd *fd_of(struct host *host, int fd)
{
	g_assert(fd >= FD_BASE && fd < FD_BASE + FD_MAX);
	CHECK(host->fd[fd - FD_BASE].kind != FD_FREE, "descriptor %d is closed", fd);
	return &host->fd[fd - FD_BASE];
}

static struct socket *waiting(const struct host *host)
{
	struct socket *socket = host->qemu.socket;

	return socket && !socket->accepted && host->qemu.phase == QEMU_COPYING ? socket : NULL;
}

uint32_t fd_poll(struct host *host, int number)
{
	const struct fd *fd = fd_of(host, number);
	const struct path *path = &host->path;
	uint32_t events = 0;

	switch (fd->kind) {
	case FD_LISTEN:
		return waiting(host) ? EPOLLIN : 0;
	case FD_CONNECTED:
		if (fd->socket->to_daemon->len)
			events |= EPOLLIN;
		if (fd->socket->qemu_closed)
			return events | EPOLLIN | EPOLLHUP;
		return fd->socket->to_qemu->len < SOCKET_BYTES ? events | EPOLLOUT : events;
	case FD_HOLD:
		return path->held.head ? EPOLLIN : 0;
	case FD_MIRROR:
		return path->copies.head ? EPOLLIN : 0;
	case FD_INTERCEPT:
		return path->diverted.head ? EPOLLIN : 0;
	default:
		return 0;
	}
}

/* ---- the unix socket ---- */

struct socket *socket_new(struct host *host)
{
	struct socket *socket = g_new0(struct socket, 1);

	socket->host = host;
	socket->to_qemu = g_byte_array_new();
	socket->to_daemon = g_byte_array_new();
	return socket;
}

void socket_unref(struct socket *socket)
{
	if (!socket || !socket->daemon_closed || !socket->qemu_closed)
		return;
	g_byte_array_unref(socket->to_qemu);
	g_byte_array_unref(socket->to_daemon);
	g_free(socket);
}

void socket_close_qemu(struct socket *socket)
{
	struct host *host = socket->host;

	socket->qemu_closed = true;
	if (!socket->accepted)
		socket->daemon_closed = true;
	if (!socket->daemon_closed)
		loop_wake(host);
	socket_unref(socket);
}

static void socket_close_daemon(struct socket *socket)
{
	struct host *host = socket->host;

	socket->daemon_closed = true;
	if (!socket->qemu_closed)
		qemu_kick(host);
	socket_unref(socket);
}

void system_clear(struct host *host)
{
	for (int i = 0; i < FD_MAX; i++) {
		if (host->fd[i].kind == FD_CONNECTED)
			socket_close_daemon(host->fd[i].socket);
		host->fd[i] = (struct fd){0};
	}
}

int __wrap_socket(int domain, int type, int protocol)
{
	(void)domain;
	(void)type;
	(void)protocol;
	return fd_new(here, FD_SOCKET);
}

int __wrap_bind(int fd, const struct sockaddr *address, socklen_t len)
{
	(void)address;
	(void)len;
	fd_of(here, fd)->kind = FD_LISTEN;
	return 0;
}

int __wrap_listen(int fd, int backlog)
{
	(void)backlog;
	fd_of(here, fd);
	return 0;
}

int __wrap_accept4(int fd, struct sockaddr *address, socklen_t *len, int flags)
{
	struct socket *socket = waiting(here);
	int r;

	(void)fd;
	(void)address;
	(void)len;
	(void)flags;
	if (!socket) {
		errno = EAGAIN;
		return -1;
	}
	r = fd_new(here, FD_CONNECTED);
	fd_of(here, r)->socket = socket;
	socket->accepted = true;
	qemu_kick(here);
	return r;
}

int __wrap_connect(int number, const struct sockaddr *address, socklen_t len)
{
	struct fd *fd = fd_of(here, number);
	struct qemu *qemu = &here->qemu;

	(void)address;
	(void)len;
	if (!qemu->alive || qemu->phase != QEMU_LISTENS || qemu->socket) {
		errno = ECONNREFUSED;
		return -1;
	}
	qemu->socket = socket_new(here);
	qemu->socket->accepted = true;
	qemu->phase = QEMU_INCOMING;
	*fd = (struct fd){.kind = FD_CONNECTED, .socket = qemu->socket};
	return 0;
}

ssize_t __wrap_send(int number, const void *buf, size_t len, int flags)
{
	struct socket *socket = fd_of(here, number)->socket;
	size_t room;

	(void)flags;
	if (!acts(here) || socket->qemu_closed) {
		errno = EPIPE;
		return -1;
	}
	room = socket->to_qemu->len < SOCKET_BYTES ? SOCKET_BYTES - socket->to_qemu->len : 0;
	if (!room) {
		errno = EAGAIN;
		return -1;
	}
	len = len < room ? len : room;
	g_byte_array_append(socket->to_qemu, buf, (guint)len);
	qemu_kick(here);
	return (ssize_t)len;
}

ssize_t __wrap_recv(int number, void *buf, size_t len, int flags)
{
	struct socket *socket = fd_of(here, number)->socket;

	(void)flags;
	if (!socket->to_daemon->len) {
		if (socket->qemu_closed)
			return 0;
		errno = EAGAIN;
		return -1;
	}
	if (len > socket->to_daemon->len)
		len = socket->to_daemon->len;
	if (len > 64 && chance(20))
		len = 1 + rnd((uint32_t)len); /* a short read */
	memcpy(buf, socket->to_daemon->data, len);
	g_byte_array_remove_range(socket->to_daemon, 0, (guint)len);
	return (ssize_t)len;
}

int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	(void)fd;
	(void)level;
	(void)name;
	(void)value;
	(void)len;
	return 0;
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	int *unread;

	g_assert(request == SIOCOUTQ);
	va_start(ap, request);
	unread = va_arg(ap, int *);
	va_end(ap);
	*unread = (int)fd_of(here, fd)->socket->to_qemu->len;
	return 0;
}

int __wrap_close(int number)
{
	struct fd *fd;

	if (number < FD_BASE)
		return __real_close(number);
	fd = fd_of(here, number);
	if (fd->kind == FD_CONNECTED)
		socket_close_daemon(fd->socket);
	*fd = (struct fd){0};
	return 0;
}

ssize_t __wrap_read(int fd, void *buf, size_t len)
{
	struct frame *frame;

	if (fd < FD_BASE)
		return __real_read(fd, buf, len);
	g_assert(fd_of(here, fd)->kind == FD_TAP);
	frame = path_vm_takes(here);
	if (!frame) {
		errno = EAGAIN;
		return -1;
	}
	len = frame->len;
	frame_free(frame);
	return (ssize_t)len;
}

/* ---- the marker ---- */

int __wrap_unlink(const char *path)
{
	if (!g_str_has_suffix(path, "peer-may-speak"))
		return 0; /* a socket */
	if (acts(here) && here->marker) {
		trace(here, "removes the marker");
		here->marker = false;
	}
	return 0;
}

int __wrap_access(const char *path, int mode)
{
	(void)path;
	(void)mode;
	errno = ENOENT;
	return here->marker ? 0 : -1;
}

int __wrap_open(const char *path, int flags, ...)
{
	(void)path;
	if (flags & O_CREAT && acts(here) && !here->marker) {
		trace(here, "writes the marker");
		here->marker = true;
	}
	return fd_new(here, FD_DIR);
}

int __wrap_mkdir(const char *path, mode_t mode)
{
	(void)path;
	(void)mode;
	return 0;
}

int __wrap_fsync(int fd)
{
	fd_of(here, fd);
	return 0;
}

/* ---- others ---- */

int __wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
	uint64_t now;

	if (!here)
		return __real_clock_gettime(clock, ts);
	now = clock == CLOCK_REALTIME ? world->now + here->wall_lead : host_clock(here);
	ts->tv_sec = (time_t)(now / SEC);
	ts->tv_nsec = (long)(now % SEC);
	return 0;
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *arg)
{
	(void)attr;
	(void)fn;
	(void)arg;
	*thread = 0;
	return 0; /* the world turns the loop */
}

int __wrap_pthread_join(pthread_t thread, void **ret)
{
	(void)thread;
	(void)ret;
	return 0;
}

int __wrap_gnutls_rnd(gnutls_rnd_level_t level, void *data, size_t len)
{
	(void)level;
	for (size_t i = 0; i < len; i++)
		((uint8_t *)data)[i] = (uint8_t)rnd(256);
	return 0;
}

/* The machine's memory as it is now; it runs. */
ssize_t __wrap_process_vm_readv(pid_t pid, const struct iovec *local, unsigned long local_n,
                                const struct iovec *remote, unsigned long remote_n,
                                unsigned long flags)
{
	const struct qemu *qemu = &here->qemu;
	uint8_t ram[GUEST_PAGES * 4096] = {0};
	uint64_t from = (uint64_t)(uintptr_t)remote->iov_base - QEMU_RAM_AT;

	g_assert(local_n == 1 && remote_n == 1 && flags == 0);
	if (!qemu->alive || (pid_t)qemu->incarnation != pid) {
		errno = ESRCH;
		return -1;
	}
	CHECK(from < sizeof(ram) && remote->iov_len <= sizeof(ram) - from &&
	              remote->iov_len == local->iov_len,
	      "memory is read at %lu", (unsigned long)from);
	memcpy(ram, &qemu->guest, sizeof(qemu->guest));
	memcpy(local->iov_base, ram + from, local->iov_len);
	count(COUNT_PAGES_READ);
	return (ssize_t)local->iov_len;
}

/* Real memory would be most of a schedule's time. */
int __wrap_ckpt_buf_init(struct ckpt_buf *buf, size_t limit, size_t keep)
{
	(void)limit;
	(void)keep;
	return __real_ckpt_buf_init(buf, KEEP_BYTES, KEEP_BYTES);
}

/* ---- urgent.h: nobody may starve the host's other work (R8) ---- */

#define URGENT_MOST (32 * MS)

int urgent_find(struct urgent *urgent, int sock)
{
	g_assert(fd_of(here, sock)->kind == FD_CONNECTED);
	urgent_end(urgent);
	urgent->count = 1;
	return 0;
}

int urgent_begin(struct urgent *urgent)
{
	CHECK(!urgent->thread[0].raised, "a pause is urgent, and the one before still is");
	urgent->thread[0].raised = urgent->count > 0;
	here->urgent_since = world->now;
	return 0;
}

void urgent_spare_vcpus(struct urgent *urgent)
{
	(void)urgent;
}

void urgent_end(struct urgent *urgent)
{
	/* A daemon that stands still has its timer late. */
	CHECK(!urgent->thread[0].raised || world->now - here->urgent_since <= URGENT_MOST ||
	              here->stalled_until > here->urgent_since,
	      "urgent for %lu us", (unsigned long)((world->now - here->urgent_since) / US));
	urgent->thread[0].raised = false;
}
