/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef QEMU_GLUE_VERSIONS_H
#define QEMU_GLUE_VERSIONS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* Which QEMU releases can run COLO, and what each needs. One table, in versions.c. */

struct qemu_version {
	int major;
	int minor;
	int micro;
};

enum qemu_verdict {
	QEMU_VERDICT_WORKS,    /* supported */
	QEMU_VERDICT_UNTESTED, /* newer than what was tested; let through with a warning */
	QEMU_VERDICT_KVM_ONLY, /* breaks under TCG; not supported */
	QEMU_VERDICT_BROKEN,   /* COLO does not work */
};

/* What a release needs or lacks. */
#define QEMU_QUIRK_TCG_FLUSH      (1u << 0) /* secondaries under TCG need the flush plugin */
#define QEMU_QUIRK_RETURN_PATH    (1u << 1) /* needs capability return-path on both sides */
#define QEMU_QUIRK_NO_RETURN_PATH (1u << 2) /* return-path breaks COLO */
#define QEMU_QUIRK_PC_ONLY        (1u << 3) /* machine q35 aborts the secondary */
#define QEMU_QUIRK_NO_DIRTY_RING  (1u << 4) /* KVM's dirty ring aborts the primary */
#define QEMU_QUIRK_DOWNTIME       (1u << 5) /* entering COLO pauses for downtime-limit: lower it */

struct qemu_support {
	struct qemu_version first; /* this row is for first <= version < next row's first */
	enum qemu_verdict verdict;
	unsigned int quirks;
	const char *reason; /* a sentence: what is known of these releases */
	const char *remedy; /* a sentence: what the operator can do; "" if nothing is needed */
};

/*
 * Reads "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1)" or "11.1.3...". The micro version may
 * be missing. 0, or -EINVAL.
 */
int qemu_version_parse(const char *text, struct qemu_version *ret_version);
/* From the reply of QMP's query-version. 0, or -EINVAL. */
int qemu_version_from_qmp(const json_t *reply, struct qemu_version *ret_version);
/* Runs `binary --version`. 0, or a negative errno with words. */
int qemu_version_probe(const char *binary, struct qemu_version *ret_version, char *err,
                       size_t errlen);
/* <0, 0 or >0 as a is older than, the same as or newer than b. */
int qemu_version_compare(struct qemu_version a, struct qemu_version b);

/* The table's row for a version; never NULL. Static. */
const struct qemu_support *qemu_support_for(struct qemu_version version);
/* "works", "untested", "kvm-only" or "broken". */
const char *qemu_verdict_name(enum qemu_verdict verdict);
/*
 * Whether a protected VM may be started: 0, or -EOPNOTSUPP with a sentence that names the version,
 * the reason and the remedy.
 */
int qemu_support_check(struct qemu_version version, bool tcg, char *err, size_t errlen);

#endif
