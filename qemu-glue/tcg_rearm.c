/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Goal: the first checkpoint after a first copy has every page that the PVM has written since.
 *
 * A vCPU under TCG that writes to a page marks it dirty, and then notes in its TLB that it need not
 * do so again. Whoever clears the dirty marks has to take these notes away. QEMU does it when it
 * moves the marks into the migration's bitmap, but only if one of them is new there
 * (migration/ram.c, physical_memory_sync_dirty_bitmap(): `if (num_dirty)`). The last sync of a
 * first copy is the one that can find none: the marks made since the sync before it may all be of
 * pages that have not been sent yet. Then the marks are cleared, the pages are sent, the VM runs
 * on, and what it writes there is not marked until something else empties the TLB (a guest that
 * switches tasks, for one). These pages are missing in the first checkpoint, and in all later ones
 * until they are written again. Seen with QEMU 11.1.3: one of three to twelve VMs whose first
 * checkpoint came at once had a secondary that could not go on (docs/qemu.md).
 *
 * In later checkpoints each mark is new, since nothing is left in the bitmap, and a VM that loads a
 * checkpoint begins with empty TLBs (target/i386/machine.c, cpu_post_load()).
 *
 * How: QEMU empties the TLBs of all vCPUs when the memory map changes (system/physmem.c,
 * tcg_commit()), and takes a write to a PAM register of the host bridge for a change, whatever is
 * written (hw/pci-host/pam.c, pam_update() switches a region off and on). So the register is read
 * and written back, through configuration mechanism 1 (PCI Local Bus Specification 3.0, section
 * 3.2.2.3.2) with its address register put back to what the guest had there. The monitor's commands
 * for ports work while the VM stands still; nothing can come between them.
 */
#include "qemu-glue/tcg_rearm.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#define CONFIG_ADDRESS 0xcf8u
#define CONFIG_DATA    0xcfcu
#define CONFIG_ENABLE  0x80000000u /* bus 0, device 0, function 0: the host bridge */
#define PAM0_I440FX    0x59u       /* 82441FX datasheet, section 3.2.14 */
#define PAM0_Q35       0x90u       /* Q35 MCH datasheet, section 5.1.18 */

static int monitor(struct qmp *q, uint64_t timeout_ms, json_t **ret_text, char *err, size_t errlen,
                   const char *fmt, ...) __attribute__((format(printf, 6, 7)));

/* A command of the human monitor. Its output is a string. */
static int monitor(struct qmp *q, uint64_t timeout_ms, json_t **ret_text, char *err, size_t errlen,
                   const char *fmt, ...)
{
	char line[64];
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	return qmp_execute(q, "human-monitor-command", json_pack("{s:s}", "command-line", line),
	                   timeout_ms, ret_text, err, errlen);
}

/* `size` is the monitor's letter: b, h or w for 1, 2 or 4 bytes. */
static int read_port(struct qmp *q, char size, unsigned int port, uint64_t timeout_ms,
                     unsigned int *ret_value, char *err, size_t errlen)
{
	unsigned int at, value;
	const char *text;
	json_t *reply = NULL;
	int r = monitor(q, timeout_ms, &reply, err, errlen, "i /x%c 0x%x", size, port);

	if (r < 0)
		return r;
	text = json_string_value(reply);
	if (text && sscanf(text, "port%*c[0x%x] = 0x%x", &at, &value) == 2 && at == port) {
		*ret_value = value;
	} else {
		snprintf(err, errlen, "reading port 0x%x: QEMU's monitor says \"%.80s\"", port,
		         text ? text : "");
		r = -EPROTO;
	}
	json_decref(reply);
	return r;
}

/* A command that says something has refused. */
static int write_port(struct qmp *q, char size, unsigned int port, unsigned int value,
                      uint64_t timeout_ms, char *err, size_t errlen)
{
	json_t *reply = NULL;
	int r = monitor(q, timeout_ms, &reply, err, errlen, "o /x%c 0x%x 0x%x", size, port, value);

	if (r < 0)
		return r;
	if (!json_is_string(reply) || json_string_length(reply) > 0) {
		snprintf(err, errlen, "writing port 0x%x: QEMU's monitor says \"%.80s\"", port,
		         json_is_string(reply) ? json_string_value(reply) : "");
		r = -EPROTO;
	}
	json_decref(reply);
	return r;
}

static int write_back(struct qmp *q, unsigned int port, uint64_t timeout_ms, char *err,
                      size_t errlen)
{
	unsigned int value;
	int r = read_port(q, 'b', port, timeout_ms, &value, err, errlen);

	return r < 0 ? r : write_port(q, 'b', port, value, timeout_ms, err, errlen);
}

int tcg_rearm(struct qmp *q, bool q35, uint64_t timeout_ms, char *err, size_t errlen)
{
	unsigned int reg = q35 ? PAM0_Q35 : PAM0_I440FX;
	unsigned int guests;
	char words[160];
	int restored;
	int r = read_port(q, 'w', CONFIG_ADDRESS, timeout_ms, &guests, err, errlen);

	if (r < 0)
		return r;
	r = write_port(q, 'w', CONFIG_ADDRESS, CONFIG_ENABLE | (reg & ~3u), timeout_ms, err,
	               errlen);
	if (r == 0)
		r = write_back(q, CONFIG_DATA + (reg & 3u), timeout_ms, err, errlen);
	restored = write_port(q, 'w', CONFIG_ADDRESS, guests, timeout_ms, words, sizeof(words));
	if (r == 0 && restored < 0)
		snprintf(err, errlen, "%s", words);
	return r < 0 ? r : restored;
}
