/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Three network namespaces without names, each with a tap that this process reads: the client's,
 * the primary VM's and the secondary VM's. They and all that is in them are gone with the
 * process's last descriptor, so that a run that is killed leaves nothing behind.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include "tests/stacks/stacks.h"

#ifndef TCP_REPAIR
#define TCP_REPAIR 19
#endif

const char *const place_names[PLACES] = {"client", "PVM", "SVM"};

static const uint8_t macs[PLACES][6] = {
        {2, 0, 0, 0, 0, 1},
        {2, 0, 0, 0, 0, 2},
        {2, 0, 0, 0, 0, 3},
};

/* Retransmissions after milliseconds, so that a lost frame costs no more; nothing is paced. */
static const char settings[] =
        "for s in rto_min_us=5000 congestion_control=reno no_metrics_save=1 syn_retries=25 "
        "synack_retries=25 retries2=100 rto_max_ms=1000 max_syn_backlog=8192 syncookies=0 "
        "fastopen=0 ecn=1 "
        "max_orphans=100000 invalid_ratelimit=0 challenge_ack_limit=1000000; do "
        "  f=/proc/sys/net/ipv4/tcp_${s%%=*}; [ ! -e $f ] || echo ${s#*=} >$f || exit 1; "
        "done; "
        "echo 8192 >/proc/sys/net/core/somaxconn; "
        "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$f; done; "
        "echo 0 >/proc/sys/net/ipv6/conf/all/disable_ipv6 && "
        "echo 1 >/proc/sys/net/ipv6/ip_nonlocal_bind && "
        "ip link set lo up && ip link set dev tap0 address $MAC arp off && "
        "ip address add $ADDRESS/8 dev tap0 && ip route replace 10.0.0.0/8 dev tap0 rto_min 5ms && "
        "ip address add fd00::$ADDRESS/64 dev tap0 nodad && "
        "ip route replace fd00::/64 dev tap0 rto_min 5ms";

static int fail(char *err, size_t errlen, const char *what)
{
	int r = -errno;

	snprintf(err, errlen, "%s: %s", what, strerror(-r));
	return r;
}

static int configure(enum place place, char *err, size_t errlen)
{
	char mac[18], address[16];
	int status;

	snprintf(mac, sizeof(mac), "02:00:00:00:00:%02x", macs[place][5]);
	snprintf(address, sizeof(address), "%s", place == CLIENT ? "10.9.0.1" : "10.8.0.1");
	setenv("MAC", mac, 1);
	setenv("ADDRESS", address, 1);
	status = system(settings);
	if (status == 0 && place == CLIENT)
		status = system("ip route add local 10.9.0.0/16 dev lo && "
		                "ip route add local fd00::10.9.0.0/112 dev lo");
	if (status == 0)
		return 0;
	snprintf(err, errlen, "the %s's namespace cannot be set up: status %d", place_names[place],
	         status);
	return -EIO;
}

struct sockaddr_in6 net_address(bool six, uint32_t ip, uint16_t port)
{
	struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_port = htons(port)};

	to.sin6_addr.s6_addr32[0] = six ? htonl(0xfd000000u) : 0;
	to.sin6_addr.s6_addr32[2] = six ? 0 : htonl(0xffffu);
	to.sin6_addr.s6_addr32[3] = htonl(ip);
	return to;
}

static int open_socket(const struct stack *stack, const struct sockaddr_in6 *to, bool repair)
{
	int on = 1, fd, r;

	if (setns(stack->ns, CLONE_NEWNET) < 0)
		return -errno;
	fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
	    (!repair || setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)) == 0) &&
	    bind(fd, (const struct sockaddr *)to, sizeof(*to)) == 0)
		return fd;
	r = -errno;
	close(fd);
	return r;
}

int net_socket(const struct stack *stack, bool six, uint32_t ip, uint16_t port, bool repair)
{
	struct sockaddr_in6 to = net_address(six, ip, port);

	return open_socket(stack, &to, repair);
}

/* On every address of both families. */
static int listen_on(const struct stack *stack, uint16_t port)
{
	struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	int fd = open_socket(stack, &to, false);

	if (fd < 0)
		return fd;
	if (listen(fd, 4096) < 0) {
		int r = -errno;

		close(fd);
		return r;
	}
	return fd;
}

static int stack_open(struct stack *stack, enum place place, char *err, size_t errlen)
{
	struct tapdev_params params = {.name = "tap0", .for_daemon = true};
	char name[16];
	int r;

	if (unshare(CLONE_NEWNET) < 0)
		return fail(err, errlen, "a network namespace (needs root)");
	stack->ns = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	if (stack->ns < 0)
		return fail(err, errlen, "/proc/thread-self/ns/net");
	r = tapdev_create(&params, &stack->tap, name, err, errlen);
	if (r < 0)
		return r;
	r = configure(place, err, errlen);
	if (r < 0)
		return r;
	stack->listener = listen_on(stack, place == CLIENT ? CLIENT_PORT : VM_PORT);
	if (stack->listener < 0) {
		errno = -stack->listener;
		return fail(err, errlen, "listen");
	}
	return 0;
}

int net_open(struct stack stacks[PLACES], char *err, size_t errlen)
{
	for (int i = 0; i < PLACES; i++) {
		stacks[i] = (struct stack){.ns = -1, .tap = -1, .listener = -1};
	}
	for (int i = 0; i < PLACES; i++) {
		int r = stack_open(&stacks[i], (enum place)i, err, errlen);

		if (r < 0)
			return r;
	}
	return 0;
}

/* The number below the counter's name: /proc/net/netstat has a line of names for each of numbers.
 */
static int64_t counter_of(FILE *netstat, const char *counter)
{
	char names[8192], values[8192];

	while (fgets(names, sizeof(names), netstat) && fgets(values, sizeof(values), netstat)) {
		char *name_rest, *value_rest;
		char *name = strtok_r(names, " \n", &name_rest);
		char *value = strtok_r(values, " \n", &value_rest);

		for (; name && value; name = strtok_r(NULL, " \n", &name_rest),
		                      value = strtok_r(NULL, " \n", &value_rest)) {
			if (strcmp(name, counter) == 0)
				return strtoll(value, NULL, 10);
		}
	}
	return -ENOENT;
}

int64_t net_counter(const struct stack *stack, const char *counter)
{
	FILE *netstat;
	int64_t count;

	if (setns(stack->ns, CLONE_NEWNET) < 0)
		return -errno;
	netstat = fopen("/proc/thread-self/net/netstat", "re");
	if (!netstat)
		return -errno;
	count = counter_of(netstat, counter);
	fclose(netstat);
	return count;
}

void net_close(struct stack stacks[PLACES])
{
	for (int i = 0; i < PLACES; i++) {
		tapdev_reader_clear(&stacks[i].reader);
		if (stacks[i].listener >= 0)
			close(stacks[i].listener);
		if (stacks[i].tap >= 0)
			close(stacks[i].tap);
		if (stacks[i].ns >= 0)
			close(stacks[i].ns);
	}
}

void net_deliver(const struct stack *stack, enum place place, struct frame *frame)
{
	memcpy(frame->data, macs[place], 6);
	/* A frame that the kernel refuses is lost, and what that breaks will show. */
	if (tapdev_write(stack->tap, frame) < 0)
		fprintf(stderr, "the %s's tap refuses a frame of %u bytes\n", place_names[place],
		        frame->len);
	frame_free(frame);
}
