/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/datapath/netcheck.h"

#include "colo-proxy/datapath/hold.h"
#include "colo-proxy/datapath/netif.h"
#include "colo-proxy/datapath/tapdev.h"

#include <errno.h>
#include <linux/capability.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROBE_PORT    "colochk0"
#define PROBE_MARK    0xc0c0c0c0u
#define PROBE_WAIT_MS 1000

/* What the child in its namespace finds out; sent through a pipe, texts are filled in here. */
struct probe {
	enum finding_level level;
	char text[sizeof(((struct finding *)0)->text)];
};

enum probe_id { PROBE_TAP, PROBE_BPF, PROBE_BRIDGE_NF, PROBE_NFQUEUE, PROBES };

static void say(struct probe *probe, enum finding_level level, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

static void say(struct probe *probe, enum finding_level level, const char *format, ...)
{
	va_list args;

	probe->level = level;
	va_start(args, format);
	vsnprintf(probe->text, sizeof(probe->text), format, args);
	va_end(args);
}

/* ---- in the child ---- */

/* Says a frame on the tap and sees it held: the filter, the redirect and the tap all work. */
static bool hold_catches(struct hold *hold, int tap_fd)
{
	struct frame *said = frame_new(60);
	struct frame *held = NULL;
	struct pollfd p = {.events = POLLIN};
	int fds[2];
	bool caught = false;

	if (!said)
		return false;
	memset(said->data, 0, 60);
	memset(said->data, 0xff, 6);
	said->data[6] = 2;
	said->data[12] = 0x88; /* 0x88b5: local experiments (IEEE 802) */
	said->data[13] = 0xb5;
	said->len = 60;
	hold_fds(hold, fds);
	p.fd = fds[0];
	if (tapdev_write(tap_fd, said) == 0 && poll(&p, 1, PROBE_WAIT_MS) == 1 &&
	    hold_receive(hold, &held, 1) == 1) {
		caught = held->len == 60 && memcmp(held->data, said->data, 60) == 0;
		hold_discard(hold, held);
	}
	frame_free(said);
	return caught;
}

static void probe_hold(struct probe *probe, const struct hold_ops *ops, int tap_fd)
{
	struct hold_params params = {
	        .port = PROBE_PORT, .mark = PROBE_MARK, .mode = HOLD_MODE_HOLD};
	struct hold *hold;
	char err[200] = "";
	int ret = hold_open(ops, &params, &hold, err, sizeof(err));

	if (ret < 0) {
		say(probe, FINDING_FAIL, "the %s back end cannot be opened: %.110s", ops->name,
		    *err ? err : strerror(-ret));
		return;
	}
	if (hold_catches(hold, tap_fd))
		say(probe, FINDING_OK, "the %s back end holds a frame", ops->name);
	else
		say(probe, FINDING_FAIL, "the %s back end opens, but a frame is not held",
		    ops->name);
	hold_close(hold);
}

static void probe_all(struct probe probes[PROBES])
{
	struct tapdev_params params = {.name = PROBE_PORT, .for_daemon = true};
	char name[IFNAMSIZ];
	char err[200] = "";
	int fd;
	int ret = tapdev_create(&params, &fd, name, err, sizeof(err));

	if (access("/proc/sys/net/bridge/bridge-nf-call-iptables", W_OK) == 0)
		say(&probes[PROBE_BRIDGE_NF], FINDING_OK, "br_netfilter is there");
	else
		say(&probes[PROBE_BRIDGE_NF], FINDING_WARN, "br_netfilter is not loaded");
	if (ret < 0) {
		say(&probes[PROBE_TAP], FINDING_FAIL, "%.150s", err);
		return;
	}
	say(&probes[PROBE_TAP], FINDING_OK, "taps can be created");
	probe_hold(&probes[PROBE_BPF], &hold_tap, fd);
	probe_hold(&probes[PROBE_NFQUEUE], &hold_nfqueue, fd);
	close(fd);
}

/* Fills the probes from a child; false when no namespace can be had. */
static bool run_probes(struct probe probes[PROBES])
{
	size_t want = sizeof(struct probe) * PROBES;
	size_t have = 0;
	int fds[2];
	pid_t pid;

	if (pipe(fds) < 0)
		return false;
	pid = fork();
	if (pid == 0) {
		close(fds[0]);
		if (unshare(CLONE_NEWNET) < 0)
			_exit(1);
		probe_all(probes);
		_exit(write(fds[1], probes, want) == (ssize_t)want ? 0 : 1);
	}
	close(fds[1]);
	while (pid > 0 && have < want) {
		ssize_t got = read(fds[0], (char *)probes + have, want - have);

		if (got == 0 || (got < 0 && errno != EINTR))
			break;
		if (got > 0)
			have += (size_t)got;
	}
	close(fds[0]);
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		continue;
	return have == want;
}

/* ---- the findings ---- */

static struct finding finding_of(const char *name, const struct probe *probe, const char *advice)
{
	struct finding f = {.name = name, .level = probe->level};

	memcpy(f.text, probe->text, sizeof(f.text));
	f.text[sizeof(f.text) - 1] = '\0';
	if (f.level != FINDING_OK)
		snprintf(f.advice, sizeof(f.advice), "%s", advice);
	return f;
}

/* CapEff of /proc/self/status, proc(5); 0 when it cannot be read. */
static uint64_t capabilities(void)
{
	FILE *file = fopen("/proc/self/status", "re");
	unsigned long long caps = 0;
	char line[128];

	if (!file)
		return 0;
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "CapEff: %llx", &caps) == 1)
			break;
	fclose(file);
	return caps;
}

static struct finding check_capabilities(void)
{
	static const struct {
		int bit;
		const char *name;
	} need[] = {{CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {CAP_NET_RAW, "CAP_NET_RAW"}};
	uint64_t caps = capabilities();
	bool admin = caps >> CAP_SYS_ADMIN & 1;
	struct probe probe = {.level = FINDING_OK};
	char lacking[80] = "";

	for (size_t i = 0; i < sizeof(need) / sizeof(need[0]); i++)
		if (!(caps >> need[i].bit & 1))
			snprintf(lacking + strlen(lacking), sizeof(lacking) - strlen(lacking),
			         " %s", need[i].name);
	if (!admin && !(caps >> CAP_BPF & 1))
		snprintf(lacking + strlen(lacking), sizeof(lacking) - strlen(lacking), " CAP_BPF");
	if (*lacking)
		say(&probe, FINDING_FAIL, "lacking:%s", lacking);
	else
		say(&probe, FINDING_OK, "CAP_NET_ADMIN, CAP_NET_RAW and %s are there",
		    admin ? "CAP_SYS_ADMIN" : "CAP_BPF");
	return finding_of("capabilities", &probe,
	                  "run as root, or from the systemd unit, which grants them");
}

static struct finding check_bridge(const char *bridge)
{
	struct probe probe = {.level = FINDING_OK};

	if (netif_is_bridge(bridge))
		say(&probe, FINDING_OK, "%s is a bridge with MTU %d", bridge, netif_mtu(bridge));
	else if (netif_index(bridge) > 0)
		say(&probe, FINDING_FAIL, "%s is not a bridge", bridge);
	else
		say(&probe, FINDING_FAIL, "there is no interface %s", bridge);
	return finding_of("bridge", &probe,
	                  "create it (`ip link add NAME type bridge`), or name another one in the "
	                  "configuration");
}

static struct finding check_port(const char *port, const char *bridge)
{
	struct probe probe = {.level = FINDING_OK};
	int master = netif_master(port);

	if (master == -ENODEV)
		say(&probe, FINDING_OK, "%s is not there yet and will be created", port);
	else if (master > 0 && bridge && master == netif_index(bridge))
		say(&probe, FINDING_OK, "%s is a port of %s", port, bridge);
	else if (master > 0 && bridge)
		say(&probe, FINDING_FAIL, "%s is a port of another bridge than %s", port, bridge);
	else
		say(&probe, FINDING_WARN, "%s exists and is on no bridge", port);
	return finding_of(
	        "port", &probe,
	        "the daemon creates the VM's port itself: choose a name that is not in use, "
	        "or remove what is there");
}

static size_t add(struct finding *findings, size_t n, size_t max, struct finding f)
{
	if (n < max)
		findings[n++] = f;
	return n;
}

static size_t add_probes(const struct netcheck_params *params, struct finding *findings, size_t n,
                         size_t max)
{
	struct probe probes[PROBES] = {0};

	for (int i = 0; i < PROBES; i++)
		say(&probes[i], FINDING_FAIL, "not tried: what it needs is missing");
	if (!run_probes(probes))
		for (int i = 0; i < PROBES; i++)
			say(&probes[i], FINDING_WARN,
			    "not tried: no network namespace to try it in");
	if (!params->nfqueue && probes[PROBE_NFQUEUE].level == FINDING_FAIL)
		probes[PROBE_NFQUEUE].level = FINDING_WARN;
	if (params->nfqueue && probes[PROBE_BRIDGE_NF].level == FINDING_WARN)
		probes[PROBE_BRIDGE_NF].level = FINDING_FAIL;
	n = add(findings, n, max,
	        finding_of("tap", &probes[PROBE_TAP],
	                   "load the module tun; in a container, pass /dev/net/tun in"));
	n = add(findings, n, max,
	        finding_of("bpf-tc", &probes[PROBE_BPF],
	                   "both back ends need CONFIG_NET_CLS_BPF, CONFIG_NET_SCH_INGRESS and "
	                   "CONFIG_BPF_SYSCALL"));
	n = add(findings, n, max,
	        finding_of("br-netfilter", &probes[PROBE_BRIDGE_NF],
	                   "only the nfqueue back end needs it: `modprobe br_netfilter`"));
	return add(findings, n, max,
	           finding_of("nfqueue", &probes[PROBE_NFQUEUE],
	                      "only the nfqueue back end needs it: install iptables, load "
	                      "br_netfilter, nfnetlink_queue, xt_NFQUEUE and xt_physdev"));
}

size_t netcheck_run(const struct netcheck_params *params, struct finding *findings, size_t max)
{
	size_t n = add(findings, 0, max, check_capabilities());

	n = add_probes(params, findings, n, max);
	if (params->bridge)
		n = add(findings, n, max, check_bridge(params->bridge));
	if (params->port)
		n = add(findings, n, max, check_port(params->port, params->bridge));
	return n;
}
