/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The application at one end of a connection: says its stream as far as the plan's steps allow,
 * checks every byte that it hears, and closes as the plan has it. The two VMs run the same one;
 * only how much they write at a time, and when they rest, differs, as scheduling does.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/stacks/stacks.h"

#define CHUNK 65536u

static enum place peer_of(const struct end *end)
{
	return end->place == CLIENT ? PVM : CLIENT;
}

static void configure(const struct end *end)
{
	const struct plan *plan = &end->run->plan;
	int on = 1, size;

	setsockopt(end->fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on));
	if (plan->nodelay[end->place])
		setsockopt(end->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	size = (int)plan->rcvbuf[end->place];
	if (size)
		setsockopt(end->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	size = (int)plan->sndbuf[end->place];
	if (size)
		setsockopt(end->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	size = (int)plan->maxseg;
	if (size && end->place == CLIENT)
		setsockopt(end->fd, IPPROTO_TCP, TCP_MAXSEG, &size, sizeof(size));
}

void end_connect(struct end *end, struct stack *stack, uint32_t ip, uint16_t port, uint32_t peer_ip,
                 uint16_t peer_port)
{
	bool six = end->run->plan.six;
	struct sockaddr_in6 to = net_address(six, peer_ip, peer_port);

	end->fd = net_socket(stack, six, ip, port, false);
	if (end->fd < 0) {
		run_fail(end->run, "the %s has no socket: %s", place_names[end->place],
		         strerror(-end->fd));
		return;
	}
	configure(end);
	watch(end->fd, end);
	if (connect(end->fd, (struct sockaddr *)&to, sizeof(to)) < 0 && errno != EINPROGRESS)
		run_fail(end->run, "the %s cannot connect: %s", place_names[end->place],
		         strerror(errno));
}

void end_accepted(struct end *end, int fd)
{
	if (end->fd >= 0) {
		close(fd);
		run_fail(end->run, "the %s accepts twice", place_names[end->place]);
		return;
	}
	end->fd = fd;
	end->connected = true;
	configure(end);
	watch(fd, end);
	end_pump(end);
}

static void rest(struct end *end, uint64_t now)
{
	end->resting_until = now + 500000 + rng_below(&end->rng, 4000) * 1000ull;
	event_add(end->run, EVENT_WAKE, end->resting_until)->value = end->place;
}

static void lost(struct end *end, int error)
{
	if (error == ECONNREFUSED && end->run->plan.ending == END_REFUSED)
		end->refused = true;
	else if (error == ECONNRESET || error == EPIPE)
		end->reset = true;
	else
		run_fail(end->run, "the %s's connection has ended: %s (said %u, heard %u)",
		         place_names[end->place], strerror(error), end->said, end->heard);
}

static void check(struct end *end, const uint8_t *bytes, uint32_t n)
{
	const struct run *run = end->run;
	enum place peer = peer_of(end);

	if (end->heard + n > plan_total(&run->plan, peer)) {
		run_fail(end->run, "the %s hears %u bytes, there are %u", place_names[end->place],
		         end->heard + n, plan_total(&run->plan, peer));
		return;
	}
	for (uint32_t i = 0; i < n; i++) {
		if (bytes[i] != plan_byte(&run->plan, run->seed, peer, end->heard + i)) {
			run_fail(end->run, "the %s hears another byte at %u",
			         place_names[end->place], end->heard + i);
			return;
		}
	}
}

/* False: has nothing more for now. */
static bool hear(struct end *end, uint64_t now)
{
	static uint8_t bytes[CHUNK];
	uint32_t most = end->run->plan.max_read[end->place];
	ssize_t n;

	if (end->eof || end->reset || end->refused)
		return false;
	n = recv(end->fd, bytes, most ? most : CHUNK, 0);
	if (n < 0 && errno == EAGAIN)
		return false;
	if (n < 0 && errno == ENOTCONN)
		return false;
	if (n < 0) {
		lost(end, errno);
		return false;
	}
	end->connected = true;
	if (n == 0) {
		end->eof = true;
		return false;
	}
	check(end, bytes, (uint32_t)n);
	end->heard += (uint32_t)n;
	if (most && rng_chance(&end->rng, 50)) {
		rest(end, now);
		return false;
	}
	return true;
}

static bool say(struct end *end, uint64_t now)
{
	const struct plan *plan = &end->run->plan;
	static uint8_t bytes[CHUNK];
	uint32_t allowed = plan_allowed(plan, end->script, end->heard);
	uint32_t n = allowed > end->said ? allowed - end->said : 0, most;
	ssize_t put;

	if (!n || end->shut || end->reset || end->refused)
		return false;
	most = 1 + rng_below(&end->rng, plan->max_write[end->place]);
	n = n < most ? n : most;
	for (uint32_t i = 0; i < n; i++)
		bytes[i] = plan_byte(plan, end->run->seed, end->script, end->said + i);
	put = send(end->fd, bytes, n, MSG_NOSIGNAL);
	if (put < 0 && (errno == EAGAIN || errno == ENOTCONN))
		return false;
	if (put < 0) {
		lost(end, errno);
		return false;
	}
	end->connected = true;
	end->said += (uint32_t)put;
	if (rng_chance(&end->rng, plan->rest[end->place])) {
		rest(end, now);
		return false;
	}
	return true;
}

static bool said_all(const struct end *end)
{
	return end->said == plan_total(&end->run->plan, end->script);
}

static bool heard_all(const struct end *end)
{
	return end->heard == plan_total(&end->run->plan, peer_of(end));
}

static void reset(struct end *end)
{
	struct linger none = {.l_onoff = 1};

	setsockopt(end->fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
	close(end->fd);
	end->fd = -1;
	end->shut = end->reset = true;
}

/* To shut a socket down in its handshake would end it. */
static bool connected(struct end *end)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);

	if (!end->connected && getsockopt(end->fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0)
		end->connected = info.tcpi_state != TCP_SYN_SENT && info.tcpi_state != TCP_CLOSE;
	return end->connected;
}

static void finish(struct end *end)
{
	bool vm = end->place != CLIENT;
	bool first = true;

	if (end->fd < 0 || end->shut || end->reset || !said_all(end) || !connected(end))
		return;
	switch (end->run->plan.ending) {
	case END_VM_FIRST:
		first = vm;
		break;
	case END_CLIENT_FIRST:
		first = !vm;
		break;
	case END_BOTH:
		break;
	case END_VM_RESETS:
		if (vm && heard_all(end))
			reset(end);
		return;
	case END_CLIENT_RESETS:
		if (!vm && heard_all(end))
			reset(end);
		return;
	case END_REFUSED:
		return;
	}
	if (!first && !end->eof)
		return;
	if (shutdown(end->fd, SHUT_WR) == 0)
		end->shut = true;
	else
		lost(end, errno);
}

void end_pump(struct end *end)
{
	uint64_t now = now_ns();

	if (end->fd < 0 || end->run->ended || end->resting_until > now)
		return;
	do {
		while (hear(end, now))
			;
		while (end->resting_until <= now && say(end, now))
			;
	} while (end->resting_until <= now && hear(end, now));
	finish(end);
}

/* A RST is not repeated: lost, or said by a lineage that ends, it is not heard. */
static bool may_miss_reset(const struct end *end)
{
	const struct run *run = end->run;

	for (int i = 0; i < HOPS; i++) {
		if (run->plan.hop[i].drop)
			return end->place == CLIENT;
	}
	return end->place == CLIENT && (run->crashed || run->checkpoints);
}

bool end_done(const struct end *end)
{
	switch (end->run->plan.ending) {
	case END_REFUSED:
		return end->place == CLIENT ? end->refused : true;
	case END_VM_RESETS:
		return said_all(end) && heard_all(end) && (end->reset || may_miss_reset(end));
	case END_CLIENT_RESETS:
		return end->place == CLIENT ? end->reset : true;
	default:
		return said_all(end) && heard_all(end) && end->shut && end->eof;
	}
}

void end_abort(struct end *end)
{
	if (end->fd >= 0)
		reset(end);
}
