/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CONTROL_REPORT_DIVERGENCE_H
#define COLO_CONTROL_REPORT_DIVERGENCE_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "colo-proxy/core/evidence.h"

/*
 * The result of the command `divergences`: what it looks like as JSON, and how it is shown. Made of
 * payload, so for those only who may do everything (control_read_only()).
 *
 *   {"divergences": [...], "left_out": N}      oldest first; the oldest are left out of a reply
 *                                              that would get too long
 */

/* At most about max_bytes of text. NULL when memory is out. */
json_t *divergences_to_json(const struct evidence *list, uint32_t count, size_t max_bytes);

/* The listing of `colo-proxy divergences`. 0, or -EPROTO when it is no such result. */
int divergences_print(FILE *out, const json_t *result);

/*
 * Writes both sides' packets as pcapng to `path` ("-": standard output): two interfaces, "primary"
 * and "secondary", and a comment on each packet. Returns the number of packets, or a negative errno
 * with words in `err`.
 */
int divergences_pcapng(const char *path, const json_t *result, char *err, size_t errlen);

#endif
