/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A checkpoint of a connection: the PVM's socket, as the kernel shows it in repair mode
 * (TCP_REPAIR, tcp(7)), and the application's state, made again in the SVM's namespace. The new
 * socket has the same numbers, queues, options and clock; its congestion window and timers are
 * fresh, which only makes it another guest of the same streams.
 *
 * A side that has closed is restored open and closes again, and the client's FIN is given to it
 * again: both repeat what is in the checkpoint. Connections that are gone from the kernel's table
 * of live ones (TIME-WAIT, reset) and handshakes are not copied.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "colo-proxy/core/checksum.h"
#include "colo-proxy/core/packet.h"
#include "colo-proxy/core/seq.h"
#include "tests/stacks/stacks.h"

#define MAX_QUEUE (1u << 20)

#ifndef TCP_REPAIR_OFF_NO_WP
#define TCP_REPAIR_OFF_NO_WP (-1)
#endif

/* include/net/tcp_states.h */
enum tcp_state {
	STATE_ESTABLISHED = 1,
	STATE_FIN_WAIT1 = 4,
	STATE_FIN_WAIT2 = 5,
	STATE_CLOSE_WAIT = 8,
	STATE_LAST_ACK = 9,
	STATE_CLOSING = 11,
};

struct image {
	struct end end;
	uint32_t ip, peer_ip;
	uint16_t port, peer_port;
	uint32_t snd_una, rcv_nxt; /* rcv_nxt: without the FIN */
	bool peer_closed;
	uint32_t sent, unsent, received; /* bytes in the queues */
	uint8_t *out, *in;
	struct tcp_repair_window window;
	struct tcp_info info;
	int mss, timestamp;
};

static int get(int fd, int option, void *value, socklen_t len)
{
	return getsockopt(fd, IPPROTO_TCP, option, value, &len) < 0 ? -errno : 0;
}

static int set(int fd, int option, int value)
{
	return setsockopt(fd, IPPROTO_TCP, option, &value, sizeof(value)) < 0 ? -errno : 0;
}

/* The bytes of the queue that repair mode is set to; NULL: an error. */
static uint8_t *peek(int fd, int queue, uint32_t *ret_len)
{
	uint8_t *bytes;
	ssize_t n;

	if (set(fd, TCP_REPAIR_QUEUE, queue) < 0)
		return NULL;
	bytes = malloc(MAX_QUEUE);
	if (!bytes)
		return NULL;
	n = recv(fd, bytes, MAX_QUEUE, MSG_PEEK | MSG_DONTWAIT);
	if (n < 0 && errno != EAGAIN) {
		free(bytes);
		return NULL;
	}
	*ret_len = n < 0 ? 0 : (uint32_t)n;
	return bytes;
}

static bool copied_in(uint8_t state)
{
	return state == STATE_ESTABLISHED || state == STATE_FIN_WAIT1 || state == STATE_FIN_WAIT2 ||
	       state == STATE_CLOSE_WAIT || state == STATE_LAST_ACK || state == STATE_CLOSING;
}

static int take_addresses(int fd, struct image *image)
{
	struct sockaddr_in6 self = {0}, peer = {0};
	socklen_t len = sizeof(self);

	if (getsockname(fd, (struct sockaddr *)&self, &len) < 0 ||
	    getpeername(fd, (struct sockaddr *)&peer, &len) < 0)
		return -errno;
	image->ip = ntohl(self.sin6_addr.s6_addr32[3]);
	image->port = ntohs(self.sin6_port);
	image->peer_ip = ntohl(peer.sin6_addr.s6_addr32[3]);
	image->peer_port = ntohs(peer.sin6_port);
	return 0;
}

static int take_queues(int fd, struct image *image)
{
	uint32_t write_seq, all, closed = image->end.shut;
	int outq, unsent;
	uint8_t *out;

	image->in = peek(fd, TCP_RECV_QUEUE, &image->received);
	if (!image->in || get(fd, TCP_QUEUE_SEQ, &image->rcv_nxt, 4) < 0)
		return -EIO;
	image->rcv_nxt -= image->peer_closed;
	out = peek(fd, TCP_SEND_QUEUE, &all);
	image->out = out;
	if (!out || get(fd, TCP_QUEUE_SEQ, &write_seq, 4) < 0 || ioctl(fd, SIOCOUTQ, &outq) < 0 ||
	    ioctl(fd, SIOCOUTQNSD, &unsent) < 0)
		return -EIO;
	/* The FIN has a number, too, and may be unsent. */
	image->snd_una = write_seq - (uint32_t)outq;
	if (closed && outq == 0)
		image->snd_una--;
	else if (closed)
		outq--;
	if (closed && unsent)
		unsent--;
	/* The first of the kernel's buffers may begin with bytes that are acknowledged. */
	memmove(out, out + (all - (uint32_t)outq), (uint32_t)outq);
	image->unsent = (uint32_t)unsent;
	image->sent = (uint32_t)outq - image->unsent;
	return 0;
}

static int take(int fd, struct image *image)
{
	int r = take_addresses(fd, image);
	uint8_t state;

	if (r == 0)
		r = get(fd, TCP_INFO, &image->info, sizeof(image->info));
	state = image->info.tcpi_state;
	if (r == 0 && !copied_in(state))
		r = -ENOTCONN;
	if (r < 0)
		return r;
	image->peer_closed =
	        state == STATE_CLOSE_WAIT || state == STATE_LAST_ACK || state == STATE_CLOSING;
	r = take_queues(fd, image);
	if (r == 0)
		r = get(fd, TCP_REPAIR_WINDOW, &image->window, sizeof(image->window));
	if (r == 0)
		r = get(fd, TCP_MAXSEG, &image->mss, sizeof(image->mss));
	if (r == 0)
		r = get(fd, TCP_TIMESTAMP, &image->timestamp, sizeof(image->timestamp));
	return r;
}

struct image *image_take(const struct end *end)
{
	struct image *image;
	int r;

	if (end->fd < 0 || !end->connected || end->reset)
		return NULL;
	image = calloc(1, sizeof(*image));
	if (!image)
		abort();
	image->end = *end;
	r = set(end->fd, TCP_REPAIR, 1);
	if (r == 0)
		r = take(end->fd, image);
	set(end->fd, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
	if (r == 0)
		return image;
	image_free(image);
	return NULL;
}

static int put(int fd, int queue, const uint8_t *bytes, uint32_t len)
{
	int r = set(fd, TCP_REPAIR_QUEUE, queue);

	while (r == 0 && len) {
		ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);

		if (n <= 0)
			return -errno;
		bytes += n;
		len -= (uint32_t)n;
	}
	return r;
}

static int put_options(int fd, const struct image *image)
{
	uint8_t flags = image->info.tcpi_options;
	struct tcp_repair_opt opt[4] = {{.opt_code = 2, .opt_val = (uint32_t)image->mss}};
	uint32_t n = 1;

	if (flags & TCPI_OPT_WSCALE)
		opt[n++] = (struct tcp_repair_opt){3, image->info.tcpi_snd_wscale |
		                                              image->info.tcpi_rcv_wscale << 16};
	if (flags & TCPI_OPT_SACK)
		opt[n++] = (struct tcp_repair_opt){4, 0};
	if (flags & TCPI_OPT_TIMESTAMPS)
		opt[n++] = (struct tcp_repair_opt){8, 0};
	if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, opt, n * sizeof(opt[0])) < 0)
		return -errno;
	/* The kernel stamps with a clock that it has read a little earlier. */
	return set(fd, TCP_TIMESTAMP, image->timestamp + 1);
}

static int put_window(int fd, const struct image *image)
{
	struct tcp_repair_window window = image->window;

	/* The FIN is to be heard again. */
	window.rcv_wnd += image->peer_closed;
	window.rcv_wup = seq_min(window.rcv_wup, image->rcv_nxt);
	/* The window may be closed, and the last word on the PVM's own out of order behind it. */
	window.snd_wl1 = seq_min(window.snd_wl1, image->rcv_nxt + window.rcv_wnd);
	if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, sizeof(window)) < 0)
		return -errno;
	return 0;
}

static int put_connection(int fd, const struct image *image)
{
	struct sockaddr_in6 peer =
	        net_address(image->end.run->plan.six, image->peer_ip, image->peer_port);
	int big = (int)MAX_QUEUE, r;

	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof(big));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof(big));
	r = set(fd, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE);
	if (r == 0)
		r = set(fd, TCP_QUEUE_SEQ, (int)image->snd_una);
	if (r == 0)
		r = set(fd, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE);
	if (r == 0)
		r = set(fd, TCP_QUEUE_SEQ, (int)(image->rcv_nxt - image->received));
	if (r == 0 && connect(fd, (struct sockaddr *)&peer, sizeof(peer)) < 0)
		r = -errno;
	if (r == 0)
		r = put_options(fd, image);
	if (r == 0)
		r = put(fd, TCP_RECV_QUEUE, image->in, image->received);
	if (r == 0)
		r = put(fd, TCP_SEND_QUEUE, image->out, image->sent);
	if (r == 0)
		r = put_window(fd, image);
	if (r == 0)
		r = set(fd, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
	for (uint32_t done = 0; r == 0 && done < image->unsent;) {
		ssize_t n = send(fd, image->out + image->sent + done, image->unsent - done,
		                 MSG_NOSIGNAL);

		if (n <= 0)
			r = -errno;
		else
			done += (uint32_t)n;
	}
	return r;
}

static void put_head(struct frame *frame, bool six, uint32_t src, uint32_t dst)
{
	struct sockaddr_in6 from = net_address(six, src, 0), to = net_address(six, dst, 0);
	uint8_t *d = frame->data, *ip = d + 14;

	d[12] = six ? 0x86 : 0x08;
	d[13] = six ? 0xdd : 0x00;
	ip[0] = six ? 0x60 : 0x45;
	ip[six ? 6 : 9] = IPPROTO_TCP;
	ip[six ? 7 : 8] = 64;
	ip[six ? 5 : 3] = six ? 20 : 40;
	memcpy(ip + (six ? 8 : 12), from.sin6_addr.s6_addr + (six ? 0 : 12), six ? 16 : 4);
	memcpy(ip + (six ? 24 : 16), to.sin6_addr.s6_addr + (six ? 0 : 12), six ? 16 : 4);
}

/* A segment of the client's to the SVM alone. */
static void tell_svm(const struct image *image, const struct stack *stack, uint32_t seq,
                     uint8_t flags)
{
	bool six = image->end.run->plan.six;
	uint32_t head = six ? 54 : 34, words[] = {htonl(seq), htonl(image->snd_una)};
	struct frame *frame = frame_new(head + 20);
	uint8_t *tcp;

	if (!frame)
		abort();
	frame->len = head + 20;
	memset(frame->data, 0, frame->len);
	put_head(frame, six, image->peer_ip, image->ip);
	tcp = frame->data + head;
	tcp[0] = (uint8_t)(image->peer_port >> 8);
	tcp[1] = (uint8_t)image->peer_port;
	tcp[2] = (uint8_t)(image->port >> 8);
	tcp[3] = (uint8_t)image->port;
	memcpy(tcp + 4, words, 8);
	tcp[12] = 5 << 4;
	tcp[13] = flags;
	tcp[14] = tcp[15] = 0xff;
	segment_seal(frame);
	net_deliver(stack, SVM, frame);
}

int image_load(const struct image *image, struct end *end, const struct stack *stack)
{
	const struct run *run = end->run;
	int fd, r, on = 1;

	/* What is left of the SVM's own is a handshake or TIME-WAIT, and a RST ends it. */
	tell_svm(image, stack, run->truth.iss[CLIENT] + 1, PACKET_RST);
	tell_svm(image, stack, run->truth.iss[CLIENT] + run->plan.client_total + 2, PACKET_RST);
	fd = net_socket(stack, run->plan.six, image->ip, image->port, true);
	if (fd < 0)
		return fd;
	r = put_connection(fd, image);
	if (r < 0) {
		close(fd);
		return r;
	}
	if (end->run->plan.nodelay[SVM])
		set(fd, TCP_NODELAY, 1);
	setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on));
	if (image->peer_closed)
		tell_svm(image, stack, image->rcv_nxt, PACKET_FIN | PACKET_ACK);
	if (image->end.shut && shutdown(fd, SHUT_WR) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	*end = (struct end){
	        .run = end->run,
	        .place = SVM,
	        .script = image->end.script,
	        .fd = fd,
	        .connected = true,
	        .shut = image->end.shut,
	        .eof = image->end.eof,
	        .said = image->end.said,
	        .heard = image->end.heard,
	        .rng = end->rng,
	};
	watch(fd, end);
	return 0;
}

uint32_t image_heard(const struct image *image)
{
	return image->rcv_nxt + image->peer_closed;
}

void image_free(struct image *image)
{
	if (!image)
		return;
	free(image->out);
	free(image->in);
	free(image);
}
