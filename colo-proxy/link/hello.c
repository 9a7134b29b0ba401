/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/link/hello.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "colo-proxy/link/link.h"

static unsigned get16(const uint8_t *p)
{
	return (unsigned)p[0] << 8 | p[1];
}

static void put16(uint8_t *p, size_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static uint64_t get64(const uint8_t *p)
{
	uint64_t v = 0;
	int i;

	for (i = 0; i < 8; i++)
		v = v << 8 | p[i];
	return v;
}

static void put64(uint8_t *p, uint64_t v)
{
	int i;

	for (i = 0; i < 8; i++)
		p[i] = (uint8_t)(v >> (56 - 8 * i));
}

size_t link_hello_encode(uint8_t *out, const struct link_hello *hello)
{
	memset(out, 0, LINK_HELLO_FIXED);
	put16(out, LINK_PROTOCOL);
	out[2] = hello->role;
	out[3] = hello->encrypted;
	out[4] = hello->streams;
	put64(out + 8, hello->session);
	memcpy(out + 16, hello->nonce, LINK_NONCE_LEN);
	put16(out + 48, hello->name_len);
	put16(out + 50, hello->caps_len);
	out += LINK_HELLO_FIXED;
	memcpy(out, hello->name, hello->name_len);
	if (hello->caps_len)
		memcpy(out + hello->name_len, hello->caps, hello->caps_len);
	return LINK_HELLO_FIXED + hello->name_len + hello->caps_len;
}

static int parse_lengths(const uint8_t *p, size_t len, bool reply, struct link_hello *h, char *err,
                         size_t errlen)
{
	size_t want;

	h->name_len = get16(p + 48);
	h->caps_len = get16(p + 50);
	want = LINK_HELLO_FIXED + h->name_len + h->caps_len + (reply ? LINK_PROOF_LEN : 0);
	if (h->name_len < 1 || h->name_len > LINK_NAME_MAX || h->caps_len > LINK_CAPS_MAX ||
	    len != want) {
		snprintf(err, errlen,
		         "hello of %zu bytes with a name of %zu and capabilities of %zu", len,
		         h->name_len, h->caps_len);
		return -EPROTO;
	}
	h->name = (const char *)p + LINK_HELLO_FIXED;
	h->caps = p + LINK_HELLO_FIXED + h->name_len;
	h->proof = reply ? h->caps + h->caps_len : NULL;
	return 0;
}

int link_hello_parse(const uint8_t *payload, size_t len, bool reply, struct link_hello *ret_hello,
                     char *err, size_t errlen)
{
	struct link_hello h = {0};
	int ret;

	if (len >= 2 && get16(payload) != LINK_PROTOCOL) {
		snprintf(err, errlen, "the peer speaks link protocol %u, this side %u; upgrade one",
		         get16(payload), LINK_PROTOCOL);
		return -EPROTONOSUPPORT;
	}
	if (len < LINK_HELLO_FIXED) {
		snprintf(err, errlen, "hello of %zu bytes, at least %u are due", len,
		         LINK_HELLO_FIXED);
		return -EPROTO;
	}
	h.role = payload[2];
	h.encrypted = payload[3] == 1;
	h.streams = payload[4];
	h.session = get64(payload + 8);
	memcpy(h.nonce, payload + 16, LINK_NONCE_LEN);
	if ((h.role != LINK_PRIMARY && h.role != LINK_SECONDARY) || payload[3] > 1 || !h.session ||
	    h.streams < 1 || h.streams > LINK_STREAMS_MAX || memcmp(payload + 5, "\0\0", 3) != 0) {
		snprintf(
		        err, errlen,
		        "hello with role %u, encryption %u, %u streams or a session that cannot be",
		        h.role, payload[3], h.streams);
		return -EPROTO;
	}
	ret = parse_lengths(payload, len, reply, &h, err, errlen);
	if (!ret)
		*ret_hello = h;
	return ret;
}

void link_hello_text(char *out, size_t outlen, const uint8_t *text, size_t len)
{
	size_t i;

	if (len > outlen - 1)
		len = outlen - 1;
	for (i = 0; i < len; i++)
		out[i] = text[i] < 0x20 || text[i] == 0x7f ? '?' : (char)text[i];
	out[len] = '\0';
}

int link_hello_check(const struct link_hello *mine, const struct link_hello *theirs, char *err,
                     size_t errlen)
{
	char a[LINK_NAME_MAX + 1], b[LINK_NAME_MAX + 1];

	if (theirs->role == mine->role) {
		snprintf(err, errlen, "both sides are %s",
		         mine->role == LINK_PRIMARY ? "primary" : "secondary");
		return -EPERM;
	}
	if (theirs->name_len != mine->name_len ||
	    memcmp(theirs->name, mine->name, mine->name_len) != 0) {
		link_hello_text(a, sizeof(a), (const uint8_t *)theirs->name, theirs->name_len);
		link_hello_text(b, sizeof(b), (const uint8_t *)mine->name, mine->name_len);
		snprintf(err, errlen, "the primary's VM is \"%s\", the secondary's is \"%s\"",
		         mine->role == LINK_PRIMARY ? b : a, mine->role == LINK_PRIMARY ? a : b);
		return -EPERM;
	}
	if (theirs->encrypted != mine->encrypted) {
		snprintf(err, errlen, "one side encrypts the link and the other does not");
		return -EPERM;
	}
	return 0;
}
