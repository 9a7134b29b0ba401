/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu-glue/versions.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <gio/gio.h>

#include "qemu-glue/words.h"

#define INSTALL_11 "Install QEMU 11.1 or later (Debian 13: trixie-backports), or run scripts/setup."

/* Ascending; the first row is for everything older than the second. */
static const struct qemu_support table[] = {
        {{0, 0, 0},
         QEMU_VERDICT_BROKEN,
         0,
         "COLO in QEMU before 7.2 was never tried here.",
         INSTALL_11},
        {{7, 2, 0},
         QEMU_VERDICT_KVM_ONLY,
         QEMU_QUIRK_NO_RETURN_PATH | QEMU_QUIRK_PC_ONLY | QEMU_QUIRK_NO_DIRTY_RING,
         "QEMU 7.2 hangs under TCG within a few checkpoints, and aborts with machine q35, with "
         "KVM's "
         "dirty ring and with return-path.",
         INSTALL_11},
        {{8, 0, 0},
         QEMU_VERDICT_BROKEN,
         0,
         "QEMU 8 and 9.0 abort the secondary with a block graph assertion (QEMU issue 2277).",
         INSTALL_11},
        {{9, 1, 0},
         QEMU_VERDICT_BROKEN,
         QEMU_QUIRK_RETURN_PATH,
         "COLO in QEMU 9.1 and 9.2 is not tested and hangs under TCG in the releases around it.",
         INSTALL_11},
        {{10, 0, 0},
         QEMU_VERDICT_BROKEN,
         QEMU_QUIRK_RETURN_PATH,
         "QEMU 10.0 and 10.1 break the transition to COLO; stable updates that mend it still hang "
         "under TCG.",
         INSTALL_11},
        {{10, 2, 0},
         QEMU_VERDICT_KVM_ONLY,
         QEMU_QUIRK_RETURN_PATH | QEMU_QUIRK_TCG_FLUSH | QEMU_QUIRK_DOWNTIME,
         "QEMU 10.2 has the transition to COLO mended, but was not tested here.",
         INSTALL_11},
        {{11, 0, 0},
         QEMU_VERDICT_WORKS,
         QEMU_QUIRK_RETURN_PATH | QEMU_QUIRK_TCG_FLUSH | QEMU_QUIRK_DOWNTIME,
         "QEMU 11 works under TCG and KVM, with machines pc and q35 and with KVM's dirty ring "
         "(tested "
         "with 11.1.3).",
         ""},
        {{12, 0, 0},
         QEMU_VERDICT_UNTESTED,
         QEMU_QUIRK_RETURN_PATH | QEMU_QUIRK_TCG_FLUSH | QEMU_QUIRK_DOWNTIME,
         "This QEMU is newer than the newest that was tested (11.1.3).",
         "Try failovers with it before relying on it."},
};

static const char *const verdict_names[] = {
        [QEMU_VERDICT_WORKS] = "works",
        [QEMU_VERDICT_UNTESTED] = "untested",
        [QEMU_VERDICT_KVM_ONLY] = "kvm-only",
        [QEMU_VERDICT_BROKEN] = "broken",
};
static_assert(G_N_ELEMENTS(verdict_names) == QEMU_VERDICT_BROKEN + 1, "one name for each verdict");

/* Reads a decimal below 10000; moves *text behind it. -1 if there is none. */
static int take_number(const char **text)
{
	int value = 0;
	int digits = 0;

	while (**text >= '0' && **text <= '9') {
		if (++digits > 4)
			return -1;
		value = value * 10 + (**text - '0');
		(*text)++;
	}
	return digits ? value : -1;
}

int qemu_version_parse(const char *text, struct qemu_version *ret_version)
{
	static const char prefix[] = "QEMU emulator version ";
	struct qemu_version v = {0};

	if (strncmp(text, prefix, sizeof(prefix) - 1) == 0)
		text += sizeof(prefix) - 1;
	v.major = take_number(&text);
	if (v.major < 0 || *text++ != '.')
		return -EINVAL;
	v.minor = take_number(&text);
	if (v.minor < 0)
		return -EINVAL;
	if (*text == '.') {
		text++;
		v.micro = take_number(&text);
		if (v.micro < 0)
			return -EINVAL;
	}
	*ret_version = v;
	return 0;
}

int qemu_version_from_qmp(const json_t *reply, struct qemu_version *ret_version)
{
	struct qemu_version v;

	if (json_unpack((json_t *)reply, "{s:{s:i, s:i, s:i}}", "qemu", "major", &v.major, "minor",
	                &v.minor, "micro", &v.micro) < 0)
		return -EINVAL;
	*ret_version = v;
	return 0;
}

int qemu_version_probe(const char *binary, struct qemu_version *ret_version, char *err,
                       size_t errlen)
{
	g_autoptr(GError) error = NULL;
	g_autofree char *out = NULL;
	const char *const argv[] = {binary, "--version", NULL};
	int status = 0;

	if (!g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL, &out,
	                  NULL, &status, &error))
		return words(-ENOENT, err, errlen, "cannot run %s: %s", binary, error->message);
	if (!g_spawn_check_wait_status(status, &error))
		return words(-EIO, err, errlen, "%s --version failed: %s", binary, error->message);
	if (qemu_version_parse(out, ret_version) < 0)
		return words(-EINVAL, err, errlen, "%s --version says no QEMU version: %.60s",
		             binary, out);
	return 0;
}

int qemu_version_compare(struct qemu_version a, struct qemu_version b)
{
	if (a.major != b.major)
		return a.major < b.major ? -1 : 1;
	if (a.minor != b.minor)
		return a.minor < b.minor ? -1 : 1;
	if (a.micro != b.micro)
		return a.micro < b.micro ? -1 : 1;
	return 0;
}

const struct qemu_support *qemu_support_for(struct qemu_version version)
{
	size_t i = G_N_ELEMENTS(table) - 1;

	while (i > 0 && qemu_version_compare(version, table[i].first) < 0)
		i--;
	return &table[i];
}

const char *qemu_verdict_name(enum qemu_verdict verdict)
{
	return verdict_names[verdict];
}

int qemu_support_check(struct qemu_version version, bool tcg, char *err, size_t errlen)
{
	const struct qemu_support *row = qemu_support_for(version);

	if (row->verdict == QEMU_VERDICT_WORKS || row->verdict == QEMU_VERDICT_UNTESTED)
		return 0;
	return words(-EOPNOTSUPP, err, errlen, "QEMU %d.%d.%d cannot be used%s: %s %s",
	             version.major, version.minor, version.micro, tcg ? " under TCG" : "",
	             row->reason, row->remedy);
}
