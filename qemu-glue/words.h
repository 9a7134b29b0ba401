/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef QEMU_GLUE_WORDS_H
#define QEMU_GLUE_WORDS_H

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

/*
 * Puts a formatted sentence into a caller's error buffer (which may be NULL or of size 0) and
 * returns `code`, so that a failing function can say `return words(-EINVAL, err, errlen, ...)`.
 */
__attribute__((format(printf, 4, 5))) static inline int words(int code, char *err, size_t errlen,
                                                              const char *fmt, ...)
{
	va_list ap;

	if (err && errlen) {
		va_start(ap, fmt);
		vsnprintf(err, errlen, fmt, ap);
		va_end(ap);
	}
	return code;
}

#endif
