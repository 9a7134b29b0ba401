/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CONFIG_CONFIG_H
#define COLO_CONFIG_CONFIG_H

#include "colo-proxy/core/pacer.h"
#include "colo-proxy/core/policy.h"

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * One protected VM's configuration: a GKeyFile, /etc/colo-proxy/NAME.conf.
 *
 * Every key is a row of one table (config_table.c): section, key, type, unit, range or words,
 * default, help. Parsing, range checks, the example file and the reference are all made from that
 * table. Parsing reads nothing but the text it is given: whether files, bridges and programs exist
 * is looked at by `colo-proxy check` and at start.
 *
 * Values are taken as written, without GKeyFile's escapes. Units are converted while parsing:
 * times are kept in nanoseconds (_ns), sizes in bytes (_bytes).
 */

#define CONFIG_DIR       "/etc/colo-proxy"
#define CONFIG_STATE_DIR "/var/lib/colo-proxy"
#define CONFIG_RUN_DIR   "/run/colo-proxy"

enum config_machine { CONFIG_MACHINE_PC, CONFIG_MACHINE_Q35 };
enum config_accel { CONFIG_ACCEL_AUTO, CONFIG_ACCEL_TCG, CONFIG_ACCEL_KVM };
enum config_tracking { CONFIG_TRACKING_AUTO, CONFIG_TRACKING_LOG, CONFIG_TRACKING_RING };
enum config_scheduling { CONFIG_SCHEDULING_BATCH, CONFIG_SCHEDULING_INHERIT };
enum config_datapath { CONFIG_DATAPATH_HOLD_TAP, CONFIG_DATAPATH_NFQUEUE };
enum config_role { CONFIG_ROLE_PRIMARY, CONFIG_ROLE_SECONDARY };
enum config_encryption { CONFIG_ENCRYPTION_PSK, CONFIG_ENCRYPTION_NONE };
enum config_comparator { CONFIG_COMPARATOR_PROXY, CONFIG_COMPARATOR_QEMU, CONFIG_COMPARATOR_NONE };
enum config_transport { CONFIG_TRANSPORT_TCP, CONFIG_TRANSPORT_UNIX };
enum config_compression {
	CONFIG_COMPRESSION_AUTO,
	CONFIG_COMPRESSION_LZ4,
	CONFIG_COMPRESSION_ZSTD,
	CONFIG_COMPRESSION_NONE,
};
enum config_agreeing { CONFIG_AGREEING_AUTO, CONFIG_AGREEING_ON, CONFIG_AGREEING_OFF };
enum config_on_loss { CONFIG_LOSS_CONTINUE, CONFIG_LOSS_HOLD };

/* How a takeover gets the right to speak (rule R6). */
enum config_fence {
	CONFIG_FENCE_OPERATOR, /* no `fence` key: only an operator's `failover --force` takes over
	                        */
	CONFIG_FENCE_NONE,     /* `fence = none`: the operator vouches that one host is enough */
	CONFIG_FENCE_COMMAND,  /* a command has to end with status 0 first */
};

/* IPv4:port or [IPv6]:port; host is numeric, without brackets. host NULL: the key was not given. */
struct config_endpoint {
	char *host;
	uint16_t port;
};

/* Strings are NULL when a key has no default and was not given. */
struct config {
	char *file; /* where it came from, as given */

	/* [vm]; both hosts need the same name, machine, cpu, memory, smp and mac */
	char *name;
	char *qemu; /* NULL: search */
	enum config_machine machine;
	enum config_accel accel;
	enum config_tracking dirty_tracking;
	char *cpu; /* NULL: QEMU's default */
	uint64_t memory_mib;
	uint64_t smp;
	char *kernel;
	char *initrd;
	char *append;
	char *mac; /* never NULL: derived from the name by default */
	enum config_scheduling scheduling;
	char **extra_args; /* NULL-terminated, never NULL */
	char *serial_log;  /* NULL: the serial port is discarded */

	/* [network] */
	char *bridge;
	char *tap; /* never NULL: tap-NAME by default, at most 15 characters */
	enum config_datapath datapath;
	uint64_t queue_num;
	uint64_t mark;
	char *capture; /* NULL: none */
	uint64_t capture_bytes;
	char **addresses; /* NULL-terminated, never NULL; IPv4 or IPv6 in text */

	/* [replication] */
	enum config_role role;
	struct config_endpoint peer;
	struct config_endpoint listen;
	char *key_file;
	enum config_encryption encryption;
	uint64_t heartbeat_interval_ns;
	uint64_t heartbeat_loss;
	uint64_t boot_wait_ns;
	uint64_t link_buffer_bytes;
	int streams; /* or LINK_STREAMS_AUTO (link/streams.h) */

	/* [checkpoint] */
	uint64_t latency_target_ns;
	uint64_t replay_bytes;
	uint64_t rest_ns;
	uint64_t max_pause; /* per cent */
	uint64_t longest_epoch_ns;
	uint64_t max_dirty_mib;
	uint64_t dirty_rate_interval_ns;
	uint64_t late_timeout_ns;
	uint64_t late_timeout_max_ns;
	uint64_t min_interval_ns;
	uint64_t max_held_bytes;
	uint64_t max_held_packets;
	uint64_t max_flows;
	uint64_t max_input_log_bytes;
	uint64_t divergences;
	uint64_t recent_output_bytes;
	uint64_t downtime_limit_ns;
	uint64_t page_cache_bytes;
	enum pacer_policy policy;
	enum config_compression compression;
	int encode_threads; /* or ENCODE_THREADS_AUTO (kvm/encode_threads.h) */
	enum config_agreeing agreeing_pages;
	enum config_comparator comparator;
	enum config_transport migration_transport; /* comparator = qemu only */
	uint64_t qemu_base_port;                   /* see config_port */
	char *migration_path;                      /* unix socket, migration-transport = unix */

	/* [flows] */
	struct policy flows;

	/* [failover] */
	enum config_fence fence;
	char **fence_argv; /* CONFIG_FENCE_COMMAND; NULL-terminated, never NULL */
	uint64_t fence_timeout_ns;
	uint64_t fence_delay_ns;
	enum config_on_loss on_secondary_loss;
	bool auto_failover;

	/* [control] */
	char *socket;      /* never NULL */
	char *admin_group; /* NULL: root only */
	int log_level;     /* enum log_level */
	char *run_dir;     /* never NULL */
	char *state_dir;   /* never NULL */
};

/* With comparator = qemu, TCP ports on the replication addresses: qemu_base_port + one of these. */
enum config_port {
	CONFIG_PORT_MIGRATION, /* the secondary's -incoming */
	CONFIG_PORT_MIRROR,    /* client input, primary to secondary */
	CONFIG_PORT_COMPARE,   /* guest output, secondary to primary */
	CONFIG_PORTS,
};

/* One thing wrong with a file. */
struct config_problem {
	char *file;
	unsigned line; /* from 1; 0: the file as a whole */
	char *section; /* NULL: not in one */
	char *key;     /* NULL: not about one */
	char *text;    /* what was found and what is allowed */
};

/* An array for the functions below that owns what it holds; free with g_ptr_array_unref(). */
GPtrArray *config_problems_new(void);

/* "FILE:LINE: [SECTION] KEY: TEXT" with the parts that there are. Caller frees with g_free(). */
char *config_problem_text(const struct config_problem *problem);

/*
 * Parses `len` bytes of `text`, called `file` in messages; the VM's name comes from the file name
 * when [vm] has none. All problems found are added to `problems`. Returns 0 and a configuration of
 * the caller's (config_free), or -EINVAL when there was a problem.
 */
int config_parse(const char *file, const char *text, size_t len, GPtrArray *problems,
                 struct config **ret_config);

/* The same for a file (at most 1 MiB). Also -errno when it cannot be read, with a problem. */
int config_load(const char *path, GPtrArray *problems, struct config **ret_config);

/* NULL is allowed. */
void config_free(struct config *config);

/* NAME -> /etc/colo-proxy/NAME.conf; what holds a '/' is a path already. g_free(). */
char *config_path(const char *name_or_path);

/*
 * The QEMU to run: the configured one, else the one that scripts/setup installs
 * (${COLO_CACHE:-/var/cache/colo-proxy}/qemu/bin), else qemu-system-x86_64 in PATH. `config` may be
 * NULL. NULL when there is none; a configured one is not looked for. g_free().
 */
char *config_qemu_path(const struct config *config);

/* True for a VM name: 1 to 32 of [A-Za-z0-9._-], starting with a letter or a digit. */
bool config_name_valid(const char *name);

/* A rule of [flows] as it would be written, without its key. g_free(). */
char *config_rule_text(const struct policy_rule *rule);

/* The commented example file, /usr/share/doc/…/colo-proxy.example.conf. g_free(). */
char *config_example(void);

/* The key reference as scdoc text (colo-proxy.conf(5)). g_free(). */
char *config_reference(void);

#endif
