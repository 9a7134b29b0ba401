/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The configuration: the table's promises, every class of mistake, and lines in messages. */
#include "colo-proxy/config/config.h"
#include "colo-proxy/config/table.h"

#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

/* Further lines of [replication], which is last in MINIMAL. */
#define BOTH_ENDS "listen = 198.51.100.1:9900\n"

#define MINIMAL                                                                                    \
	"[network]\n"                                                                              \
	"bridge = br0\n"                                                                           \
	"[replication]\n"                                                                          \
	"role = primary\n"                                                                         \
	"peer = 198.51.100.2:9900\n"                                                               \
	"key-file = /etc/colo-proxy/guest1.key\n"

/* Parses text that has to be right. */
static struct config *good(const char *text)
{
	GPtrArray *problems = config_problems_new();
	struct config *config = NULL;
	int err = config_parse("/x/guest1.conf", text, strlen(text), problems, &config);

	for (unsigned i = 0; i < problems->len; i++) {
		char *line = config_problem_text(g_ptr_array_index(problems, i));

		g_test_message("%s", line);
		g_free(line);
	}
	g_assert_cmpint(err, ==, 0);
	g_assert_cmpuint(problems->len, ==, 0);
	g_ptr_array_unref(problems);
	return config;
}

/* Parses text that has to be wrong, and returns all messages, one a line. */
static char *bad_bytes(const char *text, size_t len)
{
	GPtrArray *problems = config_problems_new();
	GString *out = g_string_new(NULL);
	struct config *untouched = (struct config *)out;
	struct config *config = untouched;

	g_assert_cmpint(config_parse("/x/guest1.conf", text, len, problems, &config), ==, -EINVAL);
	g_assert_true(config == untouched);
	g_assert_cmpuint(problems->len, >, 0);
	for (unsigned i = 0; i < problems->len; i++) {
		char *line = config_problem_text(g_ptr_array_index(problems, i));

		g_string_append_printf(out, "%s\n", line);
		g_free(line);
	}
	g_ptr_array_unref(problems);
	g_test_message("%s", out->str);
	return g_string_free(out, FALSE);
}

static char *bad(const char *text)
{
	return bad_bytes(text, strlen(text));
}

static void assert_has(const char *messages, const char *part)
{
	if (!strstr(messages, part))
		g_error("no '%s' in:\n%s", part, messages);
}

/* The text is refused with one message, which contains `part`. */
static void refuse(const char *text, const char *part)
{
	char *messages = bad(text);

	assert_has(messages, part);
	g_assert_cmpint((int)(strchr(messages, '\n') - messages), ==, (int)strlen(messages) - 1);
	g_free(messages);
}

static void test_minimal(void)
{
	struct config *config = good(MINIMAL);

	g_assert_cmpstr(config->name, ==, "guest1");
	g_assert_cmpstr(config->bridge, ==, "br0");
	g_assert_cmpstr(config->tap, ==, "tap-guest1");
	g_assert_cmpstr(config->socket, ==, "/run/colo-proxy/guest1.sock");
	g_assert_cmpstr(config->run_dir, ==, "/run/colo-proxy/guest1");
	g_assert_cmpstr(config->peer.host, ==, "198.51.100.2");
	g_assert_cmpuint(config->peer.port, ==, 9900);
	g_assert_null(config->listen.host);
	g_assert_cmpint(config->role, ==, CONFIG_ROLE_PRIMARY);
	g_assert_cmpint(config->fence, ==, CONFIG_FENCE_OPERATOR);
	g_assert_cmpint(config->datapath, ==, CONFIG_DATAPATH_HOLD_TAP);
	g_assert_cmpuint(config->heartbeat_interval_ns, ==, 100000000);
	g_assert_cmpuint(config->heartbeat_loss, ==, 5);
	g_assert_cmpuint(config->max_held_bytes, ==, 64u << 20);
	g_assert_cmpuint(config->memory_mib, ==, 512);
	g_assert_true(config->auto_failover);
	g_assert_cmpuint(config->flows.count, ==, 0);
	g_assert_nonnull(config->extra_args);
	g_assert_null(config->extra_args[0]);
	g_assert_null(config->addresses[0]);
	g_assert_null(config->fence_argv[0]);
	config_free(config);
}

static void test_everything(void)
{
	struct config *config = good("# a comment\r\n"
	                             "[vm]\r\n"
	                             "  name=web.1\r\n"
	                             "extra-args = -device 'virtio-rng-pci,id=a b' -M\\ x\n"
	                             "kernel = /k\n"
	                             "append = a=b  \\n \"c\"\t \n"
	                             "[network]\nbridge=b\nmark = 0xFF\n"
	                             "address = 192.0.2.1, 2001:db8::1;10.0.0.1\n"
	                             "[replication]\nrole=secondary\nlisten = [2001:db8::2]:1\n"
	                             "key-file = /key\n"
	                             "[failover]\nfence = /bin/fence --off 'a b'\n"
	                             "auto-failover = no\n"
	                             "[checkpoint]\nlongest-epoch = 500\n"
	                             "[flows]\nrule-20 = bypass udp peer 2001:db8::/32\n"
	                             "rule-3=commit\ttcp vm-port 80-90\n");

	g_assert_cmpstr(config->name, ==, "web.1");
	g_assert_cmpstr(config->extra_args[1], ==, "virtio-rng-pci,id=a b");
	g_assert_cmpstr(config->extra_args[2], ==, "-M x");
	g_assert_cmpstr(config->append, ==, "a=b  \\n \"c\"");
	g_assert_cmpuint(config->mark, ==, 255);
	g_assert_cmpstr(config->addresses[1], ==, "2001:db8::1");
	g_assert_cmpstr(config->addresses[2], ==, "10.0.0.1");
	g_assert_null(config->addresses[3]);
	g_assert_cmpstr(config->listen.host, ==, "2001:db8::2");
	g_assert_cmpuint(config->listen.port, ==, 1);
	g_assert_cmpint(config->fence, ==, CONFIG_FENCE_COMMAND);
	g_assert_cmpstr(config->fence_argv[2], ==, "a b");
	g_assert_false(config->auto_failover);
	g_assert_cmpuint(config->longest_epoch_ns, ==, 500000000);
	g_assert_cmpuint(config->flows.count, ==, 2);
	g_assert_cmpuint(config->flows.rule[0].number, ==, 3);
	g_assert_cmpint(config->flows.rule[0].action, ==, POLICY_COMMIT);
	g_assert_cmpuint(config->flows.rule[0].vm_port.last, ==, 90);
	g_assert_cmpuint(config->flows.rule[1].number, ==, 20);
	g_assert_cmpuint(config->flows.rule[1].peer.family, ==, 6);
	config_free(config);
}

/* The values of every key, by name: what two configurations are compared by. */
static void assert_same(const struct config *a, const struct config *b)
{
	for (size_t i = 0; i < config_table_len; i++) {
		char *x = config_get(a, &config_table[i]);
		char *y = config_get(b, &config_table[i]);

		g_test_message("%s", config_table[i].key);
		g_assert_cmpstr(x, ==, y);
		g_free(x);
		g_free(y);
	}
}

/* What the example file says is what happens without it. */
static void test_example_is_defaults(void)
{
	char *example = config_example();
	struct config *from_example = good(example);
	struct config *minimal = good(MINIMAL);

	assert_same(from_example, minimal);
	config_free(from_example);
	config_free(minimal);
	g_free(example);
}

/* Its commented-out defaults are the defaults, and its examples are accepted. */
static void test_example_uncommented(void)
{
	char *example = config_example();
	char **lines = g_strsplit(example, "\n", -1);
	GString *text = g_string_new(NULL);
	struct config *config;
	struct config *minimal = good(MINIMAL);

	for (char **line = lines; *line; line++) {
		bool commented = (*line)[0] == '#' && (*line)[1] != ' ';

		g_assert_cmpuint(strlen(*line), <=, 100);
		g_string_append_printf(text, "%s\n", *line + (commented ? 1 : 0));
	}
	config = good(text->str);
	for (size_t i = 0; i < config_table_len; i++) {
		char *value = config_get(config, &config_table[i]);
		char *preset = config_get(minimal, &config_table[i]);

		g_test_message("%s", config_table[i].key);
		g_assert_nonnull(value);
		if (config_table[i].preset)
			g_assert_cmpstr(value, ==, preset);
		g_free(value);
		g_free(preset);
	}
	config_free(config);
	config_free(minimal);
	g_string_free(text, TRUE);
	g_strfreev(lines);
	g_free(example);
}

/* The file in the tree is what the table makes. */
static void test_example_in_tree(void)
{
	char *dir = g_path_get_dirname(__FILE__);
	char *path =
	        g_build_filename(dir, "..", "..", "packaging", "colo-proxy.example.conf", NULL);
	char *example = config_example();
	char *file = NULL;

	g_assert_true(g_file_get_contents(path, &file, NULL, NULL));
	g_assert_cmpstr(file, ==, example);
	g_free(file);
	g_free(example);
	g_free(path);
	g_free(dir);
}

static void test_dump_round_trip(void)
{
	struct config *config = good(
	        MINIMAL "[vm]\nextra-args = 'it''s' \"a b\" c\\'d\n[failover]\nfence = /f 'x y'\n"
	                "[flows]\nrule-9 = bypass icmp\nrule-10 = commit any vm fe80::/10\n");
	char *text = config_dump(config);
	struct config *again = good(text);

	assert_same(config, again);
	config_free(config);
	config_free(again);
	g_free(text);
}

/* A row is complete, its preset is in range, and nothing is documented twice. */
static void test_table(void)
{
	for (size_t i = 0; i < config_table_len; i++) {
		const struct config_key *key = &config_table[i];
		char *allowed = config_allowed(key);

		g_test_message("%s", key->key);
		g_assert_true(config_find(key->section, key->key) == key);
		g_assert_true(key->preset || key->example);
		g_assert_true(!key->required || key->active);
		g_assert_cmpuint(strlen(key->help), >, 8);
		g_assert_false(g_str_has_suffix(key->help, "."));
		g_assert_cmpuint(strlen(allowed), >, 1);
		if (key->type == CONFIG_UINT) {
			g_assert_cmpuint(key->min, <, key->max);
			g_assert_cmpuint(key->max, <=, UINT64_MAX / (key->scale ? key->scale : 1));
		}
		if (key->type == CONFIG_STRING || key->type == CONFIG_PATH)
			g_assert_cmpuint(key->max, >, 0);
		g_free(allowed);
	}
}

/* Every number: its bounds are accepted, what is just outside is refused with line and key. */
static void test_every_range(void)
{
	for (size_t i = 0; i < config_table_len; i++) {
		const struct config_key *key = &config_table[i];
		struct config config = {0};
		char *why = NULL;
		char *value;

		if (key->type != CONFIG_UINT)
			continue;
		value = g_strdup_printf("%" G_GUINT64_FORMAT, key->max);
		g_assert_cmpint(config_set(&config, key, key->key, value, &why), ==, 0);
		g_free(value);
		value = g_strdup_printf("%" G_GUINT64_FORMAT, key->min);
		g_assert_cmpint(config_set(&config, key, key->key, value, &why), ==, 0);
		g_free(value);
		value = g_strdup_printf(MINIMAL "[%s]\n%s = %" G_GUINT64_FORMAT "\n", key->section,
		                        key->key, key->max + 1);
		if (!strcmp(key->section, "replication")) { /* not a second section header's line */
			char *messages = bad(value);

			assert_has(messages, "guest1.conf:8: [replication] ");
			assert_has(messages, "(too large)");
			g_free(messages);
		} else {
			refuse(value, "(too large); allowed: a whole number");
		}
		g_free(value);
	}
}

static void test_bad_values(void)
{
	static const struct {
		const char *section;
		const char *line;
		const char *part;
	} cases[] = {
	        {"vm", "memory = 12x",
	         "memory: found '12x'; allowed: a whole number of MiB from 16"},
	        {"vm", "memory = -1", "memory: found '-1'"},
	        {"vm", "memory = 1 # one", "memory: found '1 # one'"},
	        {"vm", "memory =", "memory: found ''"},
	        {"vm", "memory = 99999999999999999999999", "memory: found '999"},
	        {"vm", "memory = 15", "(too small)"},
	        {"vm", "machine = PC", "machine: found 'PC'; allowed: pc or q35"},
	        {"vm", "accel = hvf", "allowed: auto, tcg or kvm"},
	        {"vm", "name = -x", "name: found '-x'; allowed: 1 to 32 letters"},
	        {"vm", "name = a/b", "name: found 'a/b'"},
	        {"vm", "mac = 01:00:5e:00:00:01", "mac: found '01:00:5e:00:00:01'"},
	        {"vm", "mac = 52-54-00-12-34-56", "a unicast Ethernet address"},
	        {"vm", "qemu = qemu-system-x86_64",
	         "qemu: found 'qemu-system-x86_64' (not absolute)"},
	        {"vm", "extra-args = 'a", "extra-args: found ''a' (unbalanced quotes)"},
	        {"vm", "cpu =", "cpu: found '' (nothing)"},
	        {"vm", "initrd = /i", "initrd: given without kernel"},
	        {"network", "tap = 0123456789abcdef", "tap: found '0123456789abcdef'"},
	        {"network", "tap = a b", "an interface name of 1 to 15"},
	        {"network", "tap = br0", "tap: the same name as the bridge"},
	        {"network", "address = 192.0.2.1 192.0.2", "address: found '192.0.2'"},
	        {"network", "mark = 0x", "mark: found '0x'"},
	        {"network", "mark = 0x100000000", "(too large)"},
	        {"replication", "listen = 192.0.2.1", "listen: found '192.0.2.1' (no port)"},
	        {"replication", "listen = 192.0.2.1:0", "(not a port)"},
	        {"replication", "listen = 192.0.2.1:65536", "(not a port)"},
	        {"replication", "listen = host:1", "listen: found 'host:1' (not an address)"},
	        {"replication", "listen = 2001:db8::1:1", "(not an address)"},
	        {"replication", "listen = [192.0.2.1]:1", "(not an address)"},
	        {"replication", "listen = [2001:db8::1]", "(no port)"},
	        {"replication", "listen = []:1", "(not an address)"},
	        {"checkpoint", "min-interval = 20000", "min-interval: longer than longest-epoch"},
	        {"checkpoint", "late-timeout = 20000", "late-timeout: longer than longest-epoch"},
	        {"checkpoint", "comparator = qemux", "allowed: proxy, qemu or none"},
	        {"flows", "rule-1 = bypass", "rule-1: found 'bypass' (an action and a protocol"},
	        {"flows", "rule-1 = drop any",
	         "(no such action); allowed: compare, commit or bypass;"},
	        {"flows", "rule-1 = bypass sctp", "(no such protocol)"},
	        {"flows", "rule-1 = bypass ip:256", "(not an IP protocol number)"},
	        {"flows", "rule-1 = bypass ether:100", "(not an EtherType)"},
	        {"flows", "rule-1 = bypass tcp vm-port", "(the last condition has no value)"},
	        {"flows", "rule-1 = bypass tcp port 80", "(no such condition)"},
	        {"flows", "rule-1 = bypass tcp vm-port 0", "(not a port)"},
	        {"flows", "rule-1 = bypass tcp vm-port 90-80", "(not a range of ports)"},
	        {"flows", "rule-1 = bypass tcp vm-port 1 vm-port 2", "(ports twice)"},
	        {"flows", "rule-1 = bypass any vm-port 80", "(ports without tcp or udp)"},
	        {"flows", "rule-1 = bypass any peer 10.0.0", "(not an address)"},
	        {"flows", "rule-1 = bypass any peer 10.0.0.0/33", "(not a prefix length)"},
	        {"flows", "rule-1 = bypass any peer 10.0.0.1/8",
	         "(address bits behind the prefix)"},
	        {"flows", "rule-1 = bypass any peer 2001:db8::1/32", "(address bits behind"},
	        {"flows", "rule-1 = bypass any vm ::1 vm ::1", "(an address twice)"},
	        {"flows", "rule-1 = bypass any vm ::1 peer 10.0.0.1",
	         "(IPv4 and IPv6 in one rule)"},
	        {"flows", "rule-1 = bypass arp vm ::1", "(addresses that such frames do not have)"},
	        {"flows", "rule-0 = bypass any", "rule-0: unknown key; did you mean 'rule-1'?"},
	        {"flows", "rule-01 = bypass any", "rule-01: unknown key"},
	        {"flows", "rule-10000 = bypass any", "rule-10000: unknown key"},
	        {"failover", "fence = fence-it",
	         "fence: found 'fence-it'; allowed: none, or a command"},
	        {"failover", "fence =", "fence: found ''"},
	        {"failover", "fence = none really", "fence: found 'none really'"},
	        {"failover", "auto-failover = 1",
	         "auto-failover: found '1'; allowed: true or false"},
	        {"control", "socket = relative", "socket: found 'relative' (not absolute)"},
	        {"control", "log-level = loud", "allowed: error, warn, info or debug"},
	        {"vm", "memroy = 512", "memroy: unknown key; did you mean 'memory'?"},
	        {"vm", "bridge = br0", "bridge: unknown key; it belongs in [network]"},
	        {"vm", "zzzzzzzzzzzz = 1", "zzzzzzzzzzzz: unknown key\n"},
	        {"vm", "what is this", "neither '[section]' nor 'key = value'"},
	        {"vm", "= 1", "neither '[section]' nor"},
	        {"vm", "memory[de] = 1", "memory[de]: unknown key; did you mean"},
	};

	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		bool again = !strcmp(cases[i].section, "network") ||
		             !strcmp(cases[i].section, "replication");
		char *text = g_strdup_printf(MINIMAL "[%s]\n%s\n", cases[i].section, cases[i].line);
		char *messages = bad(text);

		g_test_message("%s", cases[i].line);
		g_assert_true(g_str_has_prefix(messages, "/x/guest1.conf:8: "));
		assert_has(messages, cases[i].part);
		if (!again)
			refuse(text, cases[i].part);
		g_free(messages);
		g_free(text);
	}
}

static void test_structure(void)
{
	refuse("stray = 1\n" MINIMAL, "guest1.conf:1: a key before the first '[section]'");
	refuse(MINIMAL "[vm]\nsmp=1\n\n# x\nsmp=2\n",
	       "guest1.conf:11: [vm] smp: given twice; first in "
	       "line 8");
	refuse(MINIMAL "[chekpoint]\nmin-interval = 5\n",
	       "guest1.conf:7: [chekpoint]: unknown section; did you mean 'checkpoint'?");
	refuse(MINIMAL "[vm\nsmp = 1\n", "guest1.conf:7: neither");
	refuse("[network]\nbridge=b\n[replication]\nrole=secondary\nkey-file=/k\n",
	       "guest1.conf: [replication] listen: missing");
	refuse("[network]\nbridge=b\n[replication]\nrole=primary\nkey-file=/k\n",
	       "guest1.conf: [replication] peer: missing");
	refuse(MINIMAL BOTH_ENDS "[checkpoint]\ncomparator = qemu\nmigration-transport = unix\n",
	       "[checkpoint] migration-path: missing");
	refuse(MINIMAL BOTH_ENDS "[checkpoint]\ncomparator = qemu\n[flows]\nrule-7 = bypass any\n",
	       "guest1.conf:9: [checkpoint] comparator: not proxy, with rules in [flows]");
	refuse(MINIMAL "[flows]\nrule-7 = bypass any\nrule-7 = commit any\n",
	       "guest1.conf:9: [flows] rule-7: given twice; first in line 8");
	refuse(MINIMAL BOTH_ENDS "[checkpoint]\ncomparator = qemu\nqemu-base-port = 9898\n",
	       "guest1.conf:10: [checkpoint] qemu-base-port: its three ports");
	refuse(MINIMAL "[checkpoint]\ncomparator = qemu\n",
	       "guest1.conf: [replication] listen: missing; with comparator = qemu both");
	refuse("[network]\nbridge=b\n[replication]\nrole=secondary\nkey-file=/k\n"
	       "listen=192.0.2.1:1\n[checkpoint]\ncomparator = none\n",
	       "guest1.conf:8: [checkpoint] comparator: none on a secondary");
}

static void test_all_are_reported(void)
{
	char *messages = bad("[vm]\nmemory = x\nsmp = y\nfoo = 1\n[replication]\nrole = z\n");

	assert_has(messages, "guest1.conf:2: [vm] memory: ");
	assert_has(messages, "guest1.conf:3: [vm] smp: ");
	assert_has(messages, "guest1.conf:4: [vm] foo: unknown key");
	assert_has(messages, "guest1.conf:6: [replication] role: ");
	assert_has(messages, "guest1.conf: [network] bridge: missing");
	assert_has(messages, "guest1.conf: [replication] key-file: missing");
	g_free(messages);
	messages = bad("");
	assert_has(messages, "[network] bridge: missing");
	g_free(messages);
}

static void test_odd_bytes(void)
{
	static const char nul[] = MINIMAL "[vm]\nsmp = 1\0\n";
	char *messages = bad_bytes(nul, sizeof(nul) - 1);

	assert_has(messages, "guest1.conf:8: not UTF-8 text");
	g_free(messages);
	messages = bad(MINIMAL "[vm]\ncpu = a\x01"
	                       "b\n");
	assert_has(messages, "guest1.conf:8: [vm] cpu: found 'a?b' (a control character)");
	g_free(messages);
	messages = bad(MINIMAL "[vm]\ncpu = \xff\n");
	assert_has(messages, "guest1.conf:8: not UTF-8 text");
	g_free(messages);
	/* Messages are bounded, in length and in number. */
	{
		GString *text = g_string_new(MINIMAL "[vm]\nmachine = ");

		for (unsigned i = 0; i < 5000; i++)
			g_string_append(text, "\xc3\xa4");
		for (unsigned i = 0; i < 5000; i++)
			g_string_append(text, "\ngarbage");
		messages = bad(text->str);
		g_assert_true(g_utf8_validate(messages, -1, NULL));
		g_assert_cmpuint(strlen(messages), <, 20000);
		g_free(messages);
		g_string_free(text, TRUE);
	}
}

static void test_names(void)
{
	struct config *config;
	char *path;

	g_assert_true(config_name_valid("a"));
	g_assert_true(config_name_valid("Guest-1.x_y"));
	g_assert_false(config_name_valid(""));
	g_assert_false(config_name_valid(".a"));
	g_assert_false(config_name_valid("a b"));
	g_assert_false(config_name_valid("../a"));
	g_assert_false(config_name_valid("123456789012345678901234567890123"));

	/* Long names keep distinct taps; the MAC follows the name. */
	config = good("[vm]\nname = a-long-name-for-a-vm\n" MINIMAL);
	g_assert_cmpuint(strlen(config->tap), ==, 15);
	path = g_strdup(config->tap);
	config_free(config);
	config = good("[vm]\nname = a-long-name-for-a-vn\n" MINIMAL);
	g_assert_cmpstr(config->tap, !=, path);
	g_free(path);
	config_free(config);

	path = config_path("guest1");
	g_assert_cmpstr(path, ==, "/etc/colo-proxy/guest1.conf");
	g_free(path);
	path = config_path("./x.conf");
	g_assert_cmpstr(path, ==, "./x.conf");
	g_free(path);
}

/* The MAC is part of the VM: it must never change with a version of this program. */
static void test_mac_is_stable(void)
{
	struct config *config = good(MINIMAL);

	g_assert_cmpstr(config->mac, ==, "52:54:00:2d:f2:66");
	config_free(config);
}

static void test_load(void)
{
	GPtrArray *problems = config_problems_new();
	struct config *config = NULL;
	char *dir = g_dir_make_tmp("colo-config-XXXXXX", NULL);
	char *path = g_build_filename(dir, "web.conf", NULL);
	char *big = g_strnfill((1u << 20) + 1, '\n');

	g_assert_cmpint(config_load(path, problems, &config), ==, -ENOENT);
	g_assert_cmpuint(problems->len, ==, 1);
	g_assert_true(g_file_set_contents(path, MINIMAL, -1, NULL));
	g_assert_cmpint(config_load(path, problems, &config), ==, 0);
	g_assert_cmpstr(config->name, ==, "web");
	config_free(config);
	config = NULL;
	g_assert_true(g_file_set_contents(path, big, -1, NULL));
	g_assert_cmpint(config_load(path, problems, &config), ==, -EINVAL);
	g_assert_cmpint(config_load(dir, problems, &config), ==, -EISDIR);
	g_assert_null(config);
	config_free(NULL);
	g_assert_cmpint(g_unlink(path), ==, 0);
	g_assert_cmpint(g_rmdir(dir), ==, 0);
	g_ptr_array_unref(problems);
	g_free(big);
	g_free(path);
	g_free(dir);
}

static void test_reference(void)
{
	char *text = config_reference();

	for (size_t i = 0; i < config_table_len; i++) {
		char *head = g_strdup_printf("*%s*\n", config_table[i].key);

		assert_has(text, head);
		g_free(head);
	}
	g_free(text);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/config/minimal", test_minimal);
	g_test_add_func("/config/everything", test_everything);
	g_test_add_func("/config/example/is-defaults", test_example_is_defaults);
	g_test_add_func("/config/example/uncommented", test_example_uncommented);
	g_test_add_func("/config/example/in-tree", test_example_in_tree);
	g_test_add_func("/config/dump-round-trip", test_dump_round_trip);
	g_test_add_func("/config/table", test_table);
	g_test_add_func("/config/every-range", test_every_range);
	g_test_add_func("/config/bad-values", test_bad_values);
	g_test_add_func("/config/structure", test_structure);
	g_test_add_func("/config/all-are-reported", test_all_are_reported);
	g_test_add_func("/config/odd-bytes", test_odd_bytes);
	g_test_add_func("/config/names", test_names);
	g_test_add_func("/config/mac-is-stable", test_mac_is_stable);
	g_test_add_func("/config/load", test_load);
	g_test_add_func("/config/reference", test_reference);
	return g_test_run();
}
