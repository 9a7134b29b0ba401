/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "colo-proxy/link/link.h"

#define TEXT_MAX (4 * LINK_KEY_MAX) /* two digits a byte, and white space */

static int hex_digit(int c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = tolower(c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int parse_hex(const char *path, const char *text, size_t len, struct link_key *key,
                     char *err, size_t errlen)
{
	size_t i, digits = 0;

	for (i = 0; i < len; i++) {
		int v = hex_digit((unsigned char)text[i]);

		if (v < 0 && isspace((unsigned char)text[i]))
			continue;
		if (v < 0 || digits / 2 >= LINK_KEY_MAX) {
			snprintf(err, errlen, "key file %s, byte %zu: %s", path, i + 1,
			         v < 0 ? "not a hexadecimal digit" : "the key is too long");
			return -EINVAL;
		}
		key->bytes[digits / 2] = (uint8_t)(key->bytes[digits / 2] << 4 | v);
		digits++;
	}
	key->len = digits / 2;
	if (digits % 2 || key->len < LINK_KEY_MIN) {
		snprintf(err, errlen,
		         "key file %s has %zu hexadecimal digits; an even number and at least %u "
		         "are needed. Make one: openssl rand -hex 32",
		         path, digits, 2 * LINK_KEY_MIN);
		return -EINVAL;
	}
	return 0;
}

static int check_file(const char *path, int fd, char *err, size_t errlen)
{
	struct stat st;

	if (fstat(fd, &st) < 0) {
		int error = -errno;

		snprintf(err, errlen, "key file %s: %s", path, strerror(-error));
		return error;
	}
	if (!S_ISREG(st.st_mode)) {
		snprintf(err, errlen, "key file %s is not a regular file", path);
		return -EINVAL;
	}
	if (st.st_mode & S_IRWXO) {
		snprintf(err, errlen,
		         "key file %s has mode %04o, others may use it; do: chmod 600 %s", path,
		         st.st_mode & 07777, path);
		return -EPERM;
	}
	return 0;
}

int link_key_read(const char *path, struct link_key *ret_key, char *err, size_t errlen)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct link_key key = {.len = 0};
	char text[TEXT_MAX];
	ssize_t n;
	int error;

	if (fd < 0) {
		error = -errno;
		snprintf(err, errlen, "key file %s: %s", path, strerror(-error));
		return error;
	}
	error = check_file(path, fd, err, errlen);
	if (error) {
		close(fd);
		return error;
	}
	n = read(fd, text, sizeof(text));
	if (n < 0) {
		error = -errno;
		snprintf(err, errlen, "key file %s: %s", path, strerror(-error));
	} else if ((size_t)n == sizeof(text)) {
		error = -EFBIG;
		snprintf(err, errlen, "key file %s has more than %u bytes", path, TEXT_MAX - 1);
	} else {
		error = parse_hex(path, text, (size_t)n, &key, err, errlen);
	}
	close(fd);
	explicit_bzero(text, sizeof(text));
	if (!error)
		*ret_key = key;
	link_key_wipe(&key);
	return error;
}

void link_key_wipe(struct link_key *key)
{
	explicit_bzero(key, sizeof(*key));
}
