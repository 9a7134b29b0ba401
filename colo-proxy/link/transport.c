/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/link/transport.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define PRIORITY                                                                                   \
	"NONE:+VERS-TLS1.3:+AES-128-GCM:+AEAD:+ECDHE-PSK:+GROUP-X25519:+GROUP-SECP256R1:"          \
	"+SIGN-ALL"
#define IDENTITY   "colo-proxy"
#define MAX_RECORD 16384u
#define AHEAD      (64u << 10)

_Static_assert(sizeof(giovec_t) == sizeof(struct iovec), "GnuTLS's giovec_t is struct iovec");

struct transport_tls {
	bool server;
	uint8_t key[LINK_DERIVED_LEN];
	gnutls_psk_server_credentials_t for_server;
	gnutls_psk_client_credentials_t for_client;
};

static int give_key(gnutls_session_t session, const char *username, gnutls_datum_t *key)
{
	const struct transport_tls *tls = gnutls_session_get_ptr(session);

	key->data = gnutls_malloc(sizeof(tls->key));
	if (!key->data)
		return -1;
	memcpy(key->data, tls->key, sizeof(tls->key));
	key->size = sizeof(tls->key);
	return 0;
}

static int set_client_key(struct transport_tls *tls)
{
	gnutls_datum_t key = {.data = tls->key, .size = sizeof(tls->key)};

	if (gnutls_psk_allocate_client_credentials(&tls->for_client))
		return -ENOMEM;
	if (gnutls_psk_set_client_credentials(tls->for_client, IDENTITY, &key, GNUTLS_PSK_KEY_RAW))
		return -EIO;
	return 0;
}

int transport_tls_new(struct transport_tls **ret_tls, const struct link_key *key, bool server)
{
	struct transport_tls *tls = calloc(1, sizeof(*tls));
	int error;

	if (!tls)
		return -ENOMEM;
	tls->server = server;
	error = link_auth_tls_key(key, tls->key);
	if (!error && !server)
		error = set_client_key(tls);
	if (!error && server && gnutls_psk_allocate_server_credentials(&tls->for_server))
		error = -ENOMEM;
	if (error) {
		transport_tls_free(tls);
		return error;
	}
	if (server)
		gnutls_psk_set_server_credentials_function(tls->for_server, give_key);
	*ret_tls = tls;
	return 0;
}

void transport_tls_free(struct transport_tls *tls)
{
	if (!tls)
		return;
	if (tls->for_server)
		gnutls_psk_free_server_credentials(tls->for_server);
	if (tls->for_client)
		gnutls_psk_free_client_credentials(tls->for_client);
	explicit_bzero(tls->key, sizeof(tls->key));
	free(tls);
}

int transport_socket_options(int fd, uint32_t user_timeout_ms)
{
	unsigned timeout = user_timeout_ms;
	int one = 1, idle_s = 2;

	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one)) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s)) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &idle_s, sizeof(idle_s)) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout)) < 0)
		return -errno;
	return 0;
}

/* GnuTLS's "pull": like recv(2), out of what has been received ahead. */
static ssize_t pull(gnutls_transport_ptr_t ptr, void *to, size_t len)
{
	struct transport *t = ptr;
	struct transport_ahead *ahead = &t->ahead;

	if (ahead->at == ahead->end) {
		ssize_t n;

		if (ahead->drained) {
			ahead->drained = false;
			gnutls_transport_set_errno(t->session, EAGAIN);
			return -1;
		}
		n = recv(t->fd, ahead->buf, AHEAD, 0);
		if (n <= 0) {
			if (n < 0)
				gnutls_transport_set_errno(t->session, errno);
			return n;
		}
		ahead->at = 0;
		ahead->end = (size_t)n;
		ahead->drained = (size_t)n < AHEAD;
	}
	if (len > ahead->end - ahead->at)
		len = ahead->end - ahead->at;
	memcpy(to, ahead->buf + ahead->at, len);
	ahead->at += len;
	return (ssize_t)len;
}

/* GnuTLS's "push": like writev(2), without SIGPIPE. */
static ssize_t push(gnutls_transport_ptr_t ptr, const giovec_t *iov, int iovcnt)
{
	struct transport *t = ptr;
	struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)iovcnt};
	ssize_t n = sendmsg(t->fd, &msg, MSG_NOSIGNAL);

	if (n < 0)
		gnutls_transport_set_errno(t->session, errno);
	return n;
}

static int open_session(struct transport *t, const struct transport_tls *tls)
{
	unsigned flags =
	        GNUTLS_NONBLOCK | GNUTLS_NO_TICKETS | (tls->server ? GNUTLS_SERVER : GNUTLS_CLIENT);
	gnutls_session_t session;

	if (gnutls_init(&session, flags))
		return -ENOMEM;
	t->session = session;
	gnutls_session_set_ptr(session, (void *)tls);
	if (gnutls_priority_set_direct(session, PRIORITY, NULL))
		return -EINVAL;
	if (gnutls_credentials_set(session, GNUTLS_CRD_PSK,
	                           tls->server ? (void *)tls->for_server : (void *)tls->for_client))
		return -ENOMEM;
	t->ahead.buf = malloc(AHEAD);
	if (!t->ahead.buf)
		return -ENOMEM;
	gnutls_transport_set_ptr(session, t);
	gnutls_transport_set_pull_function(session, pull);
	gnutls_transport_set_vec_push_function(session, push);
	return 0;
}

int transport_open(struct transport *t, int fd, const struct transport_tls *tls, bool server)
{
	int error;

	memset(t, 0, sizeof(*t));
	t->fd = fd;
	if (!tls)
		return 0;
	error = open_session(t, tls);
	if (error)
		transport_close(t);
	return error;
}

void transport_close(struct transport *t)
{
	if (t->session)
		gnutls_deinit(t->session);
	free(t->ahead.buf);
	if (t->fd >= 0)
		close(t->fd);
	memset(t, 0, sizeof(*t));
	t->fd = -1;
}

/* gnutls codes to errno and words. */
static int explain(struct transport *t, ssize_t code, char *err, size_t errlen)
{
	if (code == GNUTLS_E_FATAL_ALERT_RECEIVED || code == GNUTLS_E_WARNING_ALERT_RECEIVED)
		snprintf(err, errlen, "TLS: the peer sent the alert \"%s\"",
		         gnutls_alert_get_name(gnutls_alert_get(t->session)));
	else if (code == GNUTLS_E_PREMATURE_TERMINATION)
		snprintf(err, errlen, "TLS: the peer closed the connection");
	else
		snprintf(err, errlen, "TLS: %s", gnutls_strerror((int)code));
	return -EPROTO;
}

static bool try_again(ssize_t code)
{
	return code == GNUTLS_E_AGAIN || code == GNUTLS_E_INTERRUPTED;
}

int transport_handshake(struct transport *t, bool *ret_write, char *err, size_t errlen)
{
	size_t n;
	int code;

	if (!t->session)
		return 1;
	code = gnutls_handshake(t->session);
	if (code == GNUTLS_E_SUCCESS)
		return 1;
	if (!gnutls_error_is_fatal(code)) {
		*ret_write = try_again(code) && gnutls_record_get_direction(t->session);
		return 0;
	}
	gnutls_alert_send_appropriate(t->session, code);
	explain(t, code, err, errlen);
	n = strlen(err);
	snprintf(err + n, errlen - n,
	         "; do both hosts have the same key file, and encryption switched on?");
	return -EPROTO;
}

static ssize_t read_clear(struct transport *t, uint8_t *buf, size_t len, char *err, size_t errlen)
{
	ssize_t n;

	do {
		n = recv(t->fd, buf, len, 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0) {
		n = -errno;
		if (n != -EAGAIN)
			snprintf(err, errlen, "reading: %s", strerror((int)-n));
	}
	return n;
}

ssize_t transport_read(struct transport *t, uint8_t *buf, size_t len, char *err, size_t errlen)
{
	ssize_t n;

	if (!t->session)
		return read_clear(t, buf, len, err, errlen);
	do {
		n = gnutls_record_recv(t->session, buf, len);
	} while (n == GNUTLS_E_INTERRUPTED);
	if (n >= 0)
		return n;
	if (n == GNUTLS_E_AGAIN)
		return -EAGAIN;
	return explain(t, n, err, errlen);
}

static ssize_t write_clear(struct transport *t, const uint8_t *buf, size_t len, char *err,
                           size_t errlen)
{
	ssize_t n;

	do {
		n = send(t->fd, buf, len, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n < 0) {
		n = -errno;
		if (n != -EAGAIN)
			snprintf(err, errlen, "writing: %s", strerror((int)-n));
	}
	return n;
}

ssize_t transport_write(struct transport *t, const uint8_t *buf, size_t len, char *err,
                        size_t errlen)
{
	ssize_t n;

	if (!t->session)
		return write_clear(t, buf, len, err, errlen);
	if (len > MAX_RECORD)
		len = MAX_RECORD;
	do {
		/* An encrypted record that is half written is the library's; it asks for no data.
		 */
		n = t->unsent ? gnutls_record_send(t->session, NULL, 0)
		              : gnutls_record_send(t->session, buf, len);
	} while (n == GNUTLS_E_INTERRUPTED);
	if (n == GNUTLS_E_AGAIN) {
		if (!t->unsent)
			t->unsent = len;
		return -EAGAIN;
	}
	if (n < 0)
		return explain(t, n, err, errlen);
	if (t->unsent) {
		n = (ssize_t)t->unsent;
		t->unsent = 0;
	}
	return n;
}

bool transport_pending(const struct transport *t)
{
	return t->session &&
	       (gnutls_record_check_pending(t->session) > 0 || t->ahead.at != t->ahead.end);
}
