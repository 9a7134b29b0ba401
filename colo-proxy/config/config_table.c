/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/config/table.h"
#include "colo-proxy/control/log.h"
#include "colo-proxy/link/streams.h"
#include "kvm/encode_threads.h"

#include <string.h>

#define MS  1000000ull
#define KIB 1024ull
#define MIB 1048576ull

#define SUN_PATH_MAX 107 /* unix(7): sun_path with its terminator is 108 bytes */
#define PATH_LEN_MAX 4095
/* The x86 boot protocol's COMMAND_LINE_SIZE is 2048. */
#define APPEND_MAX 2047

static const struct config_choice machines[] = {
        {"pc", CONFIG_MACHINE_PC},
        {"q35", CONFIG_MACHINE_Q35},
        {NULL, 0},
};
static const struct config_choice trackings[] = {
        {"auto", CONFIG_TRACKING_AUTO},
        {"log", CONFIG_TRACKING_LOG},
        {"ring", CONFIG_TRACKING_RING},
        {NULL, 0},
};

static const struct config_choice accels[] = {
        {"auto", CONFIG_ACCEL_AUTO},
        {"tcg", CONFIG_ACCEL_TCG},
        {"kvm", CONFIG_ACCEL_KVM},
        {NULL, 0},
};
static const struct config_choice schedulings[] = {
        {"batch", CONFIG_SCHEDULING_BATCH},
        {"inherit", CONFIG_SCHEDULING_INHERIT},
        {NULL, 0},
};
static const struct config_choice datapaths[] = {
        {"hold-tap", CONFIG_DATAPATH_HOLD_TAP},
        {"nfqueue", CONFIG_DATAPATH_NFQUEUE},
        {NULL, 0},
};
static const struct config_choice roles[] = {
        {"primary", CONFIG_ROLE_PRIMARY},
        {"secondary", CONFIG_ROLE_SECONDARY},
        {NULL, 0},
};
static const struct config_choice encryptions[] = {
        {"psk", CONFIG_ENCRYPTION_PSK},
        {"none", CONFIG_ENCRYPTION_NONE},
        {NULL, 0},
};
static const struct config_choice comparators[] = {
        {"proxy", CONFIG_COMPARATOR_PROXY},
        {"qemu", CONFIG_COMPARATOR_QEMU},
        {"none", CONFIG_COMPARATOR_NONE},
        {NULL, 0},
};
static const struct config_choice policies[] = {
        {"compare", PACER_COMPARE},       {"epoch", PACER_EPOCH}, {"on-output", PACER_ON_OUTPUT},
        {"continuous", PACER_CONTINUOUS}, {"auto", PACER_AUTO},   {NULL, 0},
};
static const struct config_choice transports[] = {
        {"tcp", CONFIG_TRANSPORT_TCP},
        {"unix", CONFIG_TRANSPORT_UNIX},
        {NULL, 0},
};
static const struct config_choice compressions[] = {
        {"auto", CONFIG_COMPRESSION_AUTO},
        {"lz4", CONFIG_COMPRESSION_LZ4},
        {"zstd", CONFIG_COMPRESSION_ZSTD},
        {"none", CONFIG_COMPRESSION_NONE},
        {NULL, 0},
};
/* clang-format off */
#define ONE_TO_EIGHT {"1", 1}, {"2", 2}, {"3", 3}, {"4", 4}, {"5", 5}, {"6", 6}, {"7", 7}, {"8", 8}
/* clang-format on */
static const struct config_choice thread_counts[] = {
        {"auto", ENCODE_THREADS_AUTO},
        {"0", 0},
        ONE_TO_EIGHT,
        {NULL, 0},
};
static const struct config_choice stream_counts[] = {
        {"auto", LINK_STREAMS_AUTO},
        ONE_TO_EIGHT,
        {NULL, 0},
};
static const struct config_choice agreeings[] = {
        {"auto", CONFIG_AGREEING_AUTO},
        {"on", CONFIG_AGREEING_ON},
        {"off", CONFIG_AGREEING_OFF},
        {NULL, 0},
};
static const struct config_choice losses[] = {
        {"continue", CONFIG_LOSS_CONTINUE},
        {"hold", CONFIG_LOSS_HOLD},
        {NULL, 0},
};
static const struct config_choice levels[] = {
        {"error", LOG_LEVEL_ERROR},
        {"warn", LOG_LEVEL_WARN},
        {"info", LOG_LEVEL_INFO},
        {"debug", LOG_LEVEL_DEBUG},
        {NULL, 0},
};

#define KEY(s, k, t, member)                                                                       \
	.section = (s), .key = (k), .type = (t), .offset = offsetof(struct config, member)
#define MILLISECONDS .unit = "ms", .scale = MS
#define MEBIBYTES    .unit = "MiB", .scale = MIB
#define KIBIBYTES    .unit = "KiB", .scale = KIB

/* clang-format off */
const struct config_key config_table[] = {
	{ KEY("vm", "name", CONFIG_NAME, name),
	  .derived = "the file's name without .conf", .example = "guest1",
	  .help = "The VM's name, the same on both hosts" },
	{ KEY("vm", "qemu", CONFIG_PATH, qemu), .max = PATH_LEN_MAX,
	  .derived = "searched for", .example = "/usr/bin/qemu-system-x86_64",
	  .help = "QEMU's system emulator, version 11 or later" },
	{ KEY("vm", "machine", CONFIG_CHOICE, machine), .choices = machines, .preset = "pc",
	  .help = "QEMU's machine type" },
	{ KEY("vm", "accel", CONFIG_CHOICE, accel), .choices = accels, .preset = "auto",
	  .help = "How guest code runs; auto takes KVM where it is usable" },
	{ KEY("vm", "dirty-tracking", CONFIG_CHOICE, dirty_tracking), .choices = trackings,
	  .preset = "auto",
	  .help = "How KVM tells which pages were written to: dirty log or dirty ring; auto "
	          "measures here what reading the log of that much memory costs" },
	{ KEY("vm", "cpu", CONFIG_STRING, cpu), .max = 1024,
	  .derived = "QEMU's own", .example = "max",
	  .help = "QEMU's -cpu; the two hosts must offer the same" },
	{ KEY("vm", "memory", CONFIG_UINT, memory_mib), .unit = "MiB", .min = 16, .max = 16777216,
	  .preset = "512", .help = "Guest memory" },
	{ KEY("vm", "smp", CONFIG_UINT, smp), .unit = "virtual CPUs", .min = 1, .max = 255,
	  .preset = "1", .help = "Virtual CPUs; more than one makes output differ more often" },
	{ KEY("vm", "kernel", CONFIG_PATH, kernel), .max = PATH_LEN_MAX,
	  .example = "/var/lib/colo-proxy/vmlinuz",
	  .help = "A kernel to boot directly, the same file content on both hosts" },
	{ KEY("vm", "initrd", CONFIG_PATH, initrd), .max = PATH_LEN_MAX,
	  .example = "/var/lib/colo-proxy/initrd.img",
	  .help = "Its initial RAM disk" },
	{ KEY("vm", "append", CONFIG_STRING, append), .max = APPEND_MAX,
	  .example = "console=ttyS0 quiet",
	  .help = "Its command line" },
	{ KEY("vm", "mac", CONFIG_MAC, mac),
	  .derived = "made from the name", .example = "52:54:00:12:34:56",
	  .help = "The NIC's Ethernet address, the same on both hosts" },
	{ KEY("vm", "scheduling", CONFIG_CHOICE, scheduling), .choices = schedulings, .preset = "batch",
	  .help = "The class of QEMU's and the daemon's threads: SCHED_BATCH, so that they do not "
	          "interrupt each other on a full host, and SCHED_RR for what a pause waits for; or "
	          "what the daemon was started with" },
	{ KEY("vm", "extra-args", CONFIG_ARGV, extra_args),
	  .derived = "none", .example = "-device virtio-rng-pci",
	  .help = "More arguments for QEMU, split as a shell would, nothing expanded" },
	{ KEY("vm", "serial-log", CONFIG_PATH, serial_log), .max = PATH_LEN_MAX,
	  .derived = "not kept", .example = "/var/log/colo-proxy/guest1.serial",
	  .help = "A file for what the guest writes to its serial port" },

	{ KEY("network", "bridge", CONFIG_IFNAME, bridge), .required = true, .active = true,
	  .example = "br0", .help = "The bridge that connects the VM to its clients" },
	{ KEY("network", "tap", CONFIG_IFNAME, tap),
	  .derived = "tap-NAME, at most 15 characters", .example = "tap-guest1",
	  .help = "The VM's tap device, created at start and removed at stop" },
	{ KEY("network", "datapath", CONFIG_CHOICE, datapath), .choices = datapaths,
	  .preset = "hold-tap",
	  .help = "How the VM's output is held: by tc BPF and a tap (every frame), or by NFQUEUE (IP only)" },
	{ KEY("network", "queue-num", CONFIG_UINT, queue_num), .min = 0, .max = 65535,
	  .preset = "0", .help = "The netfilter queue; datapath = nfqueue, one for each VM" },
	{ KEY("network", "mark", CONFIG_UINT, mark), .min = 1, .max = UINT32_MAX,
	  .preset = "0xc010",
	  .help = "The packet mark of released frames; no other program may set it" },
	{ KEY("network", "capture", CONFIG_PATH, capture), .max = PATH_LEN_MAX,
	  .derived = "none", .example = "/var/log/colo-proxy/guest1.pcap",
	  .help = "A pcap file of what the VM was let to say and, on a primary, what it was told, "
	          "payload and all: for debugging; costs a copy of each frame" },
	{ KEY("network", "capture-limit", CONFIG_UINT, capture_bytes), MEBIBYTES,
	  .min = 1, .max = 1048576, .preset = "256", .help = "Where the capture ends" },
	{ KEY("network", "address", CONFIG_ADDRESSES, addresses),
	  .derived = "learnt from the VM's output", .example = "192.0.2.10",
	  .help = "The VM's IP addresses, announced after a takeover" },

	{ KEY("replication", "role", CONFIG_CHOICE, role), .choices = roles, .required = true,
	  .active = true, .example = "primary",
	  .help = "What this host starts as; a takeover changes it until the daemon ends" },
	{ KEY("replication", "peer", CONFIG_ENDPOINT, peer), .active = true,
	  .example = "198.51.100.2:9900",
	  .help = "The other daemon; the primary connects to it (needed with role = primary)" },
	{ KEY("replication", "listen", CONFIG_ENDPOINT, listen),
	  .example = "198.51.100.1:9900",
	  .help = "Where the secondary is connected to (needed with role = secondary)" },
	{ KEY("replication", "key-file", CONFIG_PATH, key_file), .max = PATH_LEN_MAX,
	  .active = true, .required = true, .example = "/etc/colo-proxy/guest1.key",
	  .help = "The pre-shared key: 32 bytes or more in hexadecimal, the same on both hosts, readable by root only" },
	{ KEY("replication", "encryption", CONFIG_CHOICE, encryption), .choices = encryptions,
	  .preset = "psk",
	  .help = "psk: TLS with the pre-shared key; none: the key proves the peer at the start, then in the clear, for a link that nobody else reaches" },
	{ KEY("replication", "heartbeat-interval", CONFIG_UINT, heartbeat_interval_ns), MILLISECONDS,
	  .min = 10, .max = 60000, .preset = "100", .help = "Between two heartbeats" },
	{ KEY("replication", "heartbeat-loss", CONFIG_UINT, heartbeat_loss), .unit = "heartbeats",
	  .min = 2, .max = 1000, .preset = "5",
	  .help = "So many missing in a row, and the peer counts as lost" },
	{ KEY("replication", "boot-wait", CONFIG_UINT, boot_wait_ns), MILLISECONDS,
	  .min = 0, .max = 600000, .preset = "5000",
	  .help = "How long a primary that starts looks for its peer before it boots the VM; a peer "
	          "that speaks for the VM keeps it from booting a second one" },
	{ KEY("replication", "link-buffer", CONFIG_UINT, link_buffer_bytes), MEBIBYTES,
	  .min = 1, .max = 65536, .preset = "64",
	  .help = "What may wait to be sent to the peer before checkpoints slow down" },
	{ KEY("replication", "streams", CONFIG_CHOICE, streams), .choices = stream_counts,
	  .preset = "auto",
	  .help = "Connections that carry large pieces of checkpoints; more than 1: so many more, with a thread each; "
	          "auto: the processors that no other thread needs, at most 4; the smaller one of the two hosts' counts" },

	{ KEY("checkpoint", "policy", CONFIG_CHOICE, policy), .choices = policies,
	  .preset = "compare",
	  .help = "When a checkpoint is taken. compare: both VMs run, and it is when their output "
	          "differs; epoch: at a pace, on-output: when there is output, continuous: one "
	          "after the other, and in these three only the primary's VM runs; auto: compare, "
	          "else on-output, as measured. `colo-proxy policy` changes it at run time" },
	{ KEY("checkpoint", "latency-target", CONFIG_UINT, latency_target_ns), MILLISECONDS,
	  .min = 5, .max = 60000, .preset = "30",
	  .help = "With policy = epoch: how long output may wait for its commit; epochs are as long "
	          "as that allows" },
	{ KEY("checkpoint", "rest", CONFIG_UINT, rest_ns), MILLISECONDS,
	  .min = 0, .max = 60000, .preset = "0",
	  .help = "With policy = continuous: between a commit and the next checkpoint" },
	{ KEY("checkpoint", "max-pause", CONFIG_UINT, max_pause), .unit = "per cent",
	  .min = 1, .max = 100, .preset = "20",
	  .help = "The share of time that the VM may stand still for checkpoints; it goes before "
	          "every policy's wish for the next one" },
	{ KEY("checkpoint", "longest-epoch", CONFIG_UINT, longest_epoch_ns), MILLISECONDS,
	  .min = 20, .max = 600000, .preset = "10000",
	  .help = "A checkpoint is taken when the last one is that old" },
	{ KEY("checkpoint", "max-dirty", CONFIG_UINT, max_dirty_mib), .unit = "MiB",
	  .min = 0, .max = 1048576, .preset = "64",
	  .help = "A checkpoint is taken when the VM has written to that much since the last one, as far "
	          "as dirty-rate-interval shows, so that its pause and its way over the link have a bound; "
	          "0, or the VM's memory: never" },
	{ KEY("checkpoint", "dirty-rate-interval", CONFIG_UINT, dirty_rate_interval_ns), MILLISECONDS,
	  .min = 0, .max = 60000, .preset = "500",
	  .help = "When the last checkpoint, or sample, is that old, QEMU looks how fast the VM writes to "
	          "its memory; a look takes it a few ms of a processor; 0: never" },
	{ KEY("checkpoint", "late-timeout", CONFIG_UINT, late_timeout_ns), MILLISECONDS,
	  .min = 1, .max = 60000, .preset = "250",
	  .help = "Output that the secondary has not matched for so long asks for a checkpoint; "
	          "longer where the secondary's measured lag is longer" },
	{ KEY("checkpoint", "late-timeout-max", CONFIG_UINT, late_timeout_max_ns), MILLISECONDS,
	  .min = 1, .max = 60000, .preset = "1000",
	  .help = "The longest that is waited for a secondary that lags; at or below late-timeout, "
	          "that time is fixed" },
	{ KEY("checkpoint", "min-interval", CONFIG_UINT, min_interval_ns), MILLISECONDS,
	  .min = 5, .max = 60000, .preset = "20",
	  .help = "The shortest time between two checkpoints" },
	{ KEY("checkpoint", "max-held-bytes", CONFIG_UINT, max_held_bytes), MEBIBYTES,
	  .min = 1, .max = 65536, .preset = "64",
	  .help = "Held output; near the limit a checkpoint is taken, at it the VM waits" },
	{ KEY("checkpoint", "max-held-packets", CONFIG_UINT, max_held_packets), .unit = "packets",
	  .min = 64, .max = 16777216, .preset = "65536",
	  .help = "The same, counted in packets; at a cut the hold's own queue (10000 frames) "
	          "comes on top" },
	{ KEY("checkpoint", "max-flows", CONFIG_UINT, max_flows), .unit = "connections",
	  .min = 16, .max = 16777216, .preset = "65536",
	  .help = "Connections compared at a time; what is beyond is released by commit only" },
	{ KEY("checkpoint", "max-input-log", CONFIG_UINT, max_input_log_bytes), MEBIBYTES,
	  .min = 1, .max = 65536, .preset = "64",
	  .help = "Client input kept for a secondary that is loading a checkpoint" },
	{ KEY("checkpoint", "divergences", CONFIG_UINT, divergences), .min = 0, .max = 256,
	  .preset = "32",
	  .help = "How many of the last divergences a primary keeps for `colo-proxy divergences`, "
	          "with at most 80 KiB of payload each; 0: none" },
	{ KEY("checkpoint", "recent-output", CONFIG_UINT, recent_output_bytes), MEBIBYTES,
	  .min = 0, .max = 1024, .preset = "1",
	  .help = "How much of its VM's last output a secondary keeps, to show what differed; 0: none" },
	{ KEY("checkpoint", "replay-limit", CONFIG_UINT, replay_bytes), KIBIBYTES,
	  .min = 0, .max = 65536, .preset = "256",
	  .help = "How much of the output that waits for a commit and is not TCP goes along with the "
	          "checkpoint, so that a takeover can say what had not left; the smaller one of the "
	          "two hosts' counts, 0: none" },
	{ KEY("checkpoint", "downtime-limit", CONFIG_UINT, downtime_limit_ns), MILLISECONDS,
	  .min = 1, .max = 10000, .preset = "20",
	  .help = "How long the VM may stand still when protection begins" },
	{ KEY("checkpoint", "page-cache", CONFIG_UINT, page_cache_bytes), MEBIBYTES,
	  .min = 0, .max = 65536, .preset = "64",
	  .help = "Pages that both hosts keep as they were last sent, so that only what changed in "
	          "them is sent; the smaller one of the two hosts' counts, 0: none" },
	{ KEY("checkpoint", "compression", CONFIG_CHOICE, compression), .choices = compressions,
	  .preset = "auto",
	  .help = "Of what is left then; auto measures which one pays on this link" },
	{ KEY("checkpoint", "encode-threads", CONFIG_CHOICE, encode_threads),
	  .choices = thread_counts, .preset = "auto",
	  .help = "Threads that compress checkpoints; 0: the thread that carries the VM's packets "
	          "does; auto: the processors that neither it nor the VM needs, at most 4" },
	{ KEY("checkpoint", "agreeing-pages", CONFIG_CHOICE, agreeing_pages), .choices = agreeings,
	  .preset = "auto",
	  .help = "Pages that would be sent whole are told by a hash while the secondary VM runs, and sent "
	          "only if it has others; auto: when that takes less time on this link. off on either host: never" },
	{ KEY("checkpoint", "comparator", CONFIG_CHOICE, comparator), .choices = comparators,
	  .preset = "proxy",
	  .help = "proxy: this program; qemu: QEMU's colo-compare and filters; none: the VM is not protected, nothing is held" },
	{ KEY("checkpoint", "migration-transport", CONFIG_CHOICE, migration_transport),
	  .choices = transports, .preset = "tcp",
	  .help = "With comparator = qemu: what QEMU's migration channel runs over" },
	{ KEY("checkpoint", "qemu-base-port", CONFIG_UINT, qemu_base_port), .min = 1, .max = 65533,
	  .preset = "9000",
	  .help = "With comparator = qemu: the first of three TCP ports on the replication addresses: migration, input mirror, output to compare" },
	{ KEY("checkpoint", "migration-path", CONFIG_PATH, migration_path), .max = SUN_PATH_MAX,
	  .example = "/run/colo-proxy/guest1.migration",
	  .help = "With migration-transport = unix: the socket, for two daemons on one machine" },

	{ KEY("flows", "rule-1", CONFIG_RULES, flows),
	  .derived = "no rules, everything is compared", .example = "bypass udp peer-port 123",
	  .help = "rule-1 to rule-9999, at most 64 of them. compare: by match or by commit; commit: "
	          "released by a checkpoint only; bypass: leaves at once, unprotected" },

	{ KEY("failover", "fence", CONFIG_FENCE, fence),
	  .derived = "not set: only an operator's `failover --force` takes over",
	  .example = "/usr/local/sbin/fence-peer",
	  .help = "A command that ends with 0 when the peer is certainly off; none: take over without one" },
	{ KEY("failover", "fence-timeout", CONFIG_UINT, fence_timeout_ns), MILLISECONDS,
	  .min = 100, .max = 600000, .preset = "10000",
	  .help = "The fence command is killed, and counts as failed, after so long" },
	{ KEY("failover", "fence-delay", CONFIG_UINT, fence_delay_ns), MILLISECONDS,
	  .min = 0, .max = 60000, .preset = "0",
	  .help = "Waited before fencing; set it on one host, so that two do not fence each other" },
	{ KEY("failover", "on-secondary-loss", CONFIG_CHOICE, on_secondary_loss), .choices = losses,
	  .preset = "continue",
	  .help = "The primary without a secondary, once that is fenced: go on unprotected, or hold output until an operator decides" },
	{ KEY("failover", "auto-failover", CONFIG_BOOL, auto_failover), .preset = "true",
	  .help = "Take over when the primary is lost; false: only on `colo-proxy failover`" },

	{ KEY("control", "socket", CONFIG_PATH, socket), .max = SUN_PATH_MAX,
	  .derived = "/run/colo-proxy/NAME.sock", .example = "/run/colo-proxy/guest1.sock",
	  .help = "The control socket" },
	{ KEY("control", "admin-group", CONFIG_STRING, admin_group), .max = 64,
	  .derived = "root only", .example = "colo-admin",
	  .help = "A group whose members may control the daemon" },
	{ KEY("control", "log-level", CONFIG_CHOICE, log_level), .choices = levels,
	  .preset = "info", .help = "What is logged" },
	{ KEY("control", "run-dir", CONFIG_PATH, run_dir), .max = 80,
	  .derived = "/run/colo-proxy/NAME", .example = "/run/colo-proxy/guest1",
	  .help = "Where the daemon keeps its sockets to QEMU; created at start" },
	{ KEY("control", "state-dir", CONFIG_PATH, state_dir), .max = 80,
	  .derived = "/var/lib/colo-proxy/NAME", .example = "/var/lib/colo-proxy/guest1",
	  .help = "Where a primary remembers over a restart of the host that its secondary may have "
	          "taken over; created at start" },
};
/* clang-format on */

const size_t config_table_len = G_N_ELEMENTS(config_table);

const struct config_key *config_find(const char *section, const char *key)
{
	for (size_t i = 0; i < config_table_len; i++)
		if (!strcmp(config_table[i].section, section) &&
		    (!strcmp(config_table[i].key, key) ||
		     (config_table[i].type == CONFIG_RULES && config_rule_number(key))))
			return &config_table[i];
	return NULL;
}

bool config_section_known(const char *section)
{
	for (size_t i = 0; i < config_table_len; i++)
		if (!strcmp(config_table[i].section, section))
			return true;
	return false;
}
