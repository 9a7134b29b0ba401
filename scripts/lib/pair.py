# SPDX-License-Identifier: GPL-2.0-or-later
"""A protected VM in a lab: two daemons from two configuration files, and what they say of it."""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import lab as lab_module  # noqa: E402
from lab import PATIENCE, LabError, build_dir, cache_dir, wait_for, write_config  # noqa: E402

FENCE = Path(__file__).resolve().parent / "lab-fence"
LINK_PORT = 7400
HOSTS = ("primary", "secondary")


class Pair:
    """The two daemons. @overrides is {section: {key: value}} for both, or per host with
    @primary and @secondary."""

    def __init__(self, lab, overrides=None, primary=None, secondary=None, memory=256, fence=True):
        self.lab = lab
        self.name = "vm0"
        self.memory = memory
        self.daemon = {}
        self.under = []  # what starts a daemon: the words before its own
        self.dir = Path(lab.dir) / "pair"
        self.dir.mkdir(exist_ok=True)
        self.key = self.dir / "link.key"
        if not self.key.exists():
            fd = os.open(self.key, os.O_WRONLY | os.O_CREAT, 0o600)
            with os.fdopen(fd, "w") as out:
                out.write(secrets.token_hex(32) + "\n")
        self.fence = fence
        self.peer_address = f"{lab_module.REPLICATION_IP['secondary']}:{LINK_PORT}"
        self.config = {host: self._config(host, overrides, extra)
                       for host, extra in (("primary", primary), ("secondary", secondary))}

    def _config(self, host, *overrides):
        cache = cache_dir()
        other = "secondary" if host == "primary" else "primary"
        run = self.dir / host
        run.mkdir(exist_ok=True)
        sections = {
            "vm": {
                "name": self.name,
                "qemu": cache / "qemu/bin/qemu-system-x86_64",
                "machine": "pc", "accel": "tcg", "memory": self.memory, "smp": 1,
                "kernel": cache / "guest/vmlinuz", "initrd": cache / "guest/initrd.img",
                "append": (cache / "guest/cmdline").read_text().strip(),
                "mac": lab_module.GUEST_MAC,
                "serial-log": run / "serial.log",
            },
            "network": {"bridge": "br0", "tap": "vm0", "address": lab_module.GUEST_IP},
            "replication": {
                "role": host, "key-file": self.key,
                "peer": self.peer_address if host == "primary" else None,
                "listen": self.peer_address if host == "secondary" else None,
                "boot-wait": 200,
            },
            "checkpoint": {},
            "failover": {
                "fence": f"{FENCE} {self.lab.ns(other)}" if self.fence else None,
                "fence-delay": 1000 if host == "primary" else 0,
            },
            "control": {"socket": run / "control.sock", "run-dir": run,
                        "state-dir": self.dir / f"{host}-state"},
        }
        for override in overrides:
            for section, keys in (override or {}).items():
                sections.setdefault(section, {}).update(keys)
        return write_config(self.dir / f"{host}.conf", sections)

    # --- daemons --------------------------------------------------------------------------------

    def start(self, host, log=None, **kw):
        """@log: a file that the daemon writes its log to itself; else it is read from a pipe."""
        argv = [*self.under, build_dir() / "colo-proxy", "start", "--config", self.config[host]]
        if log:
            argv = ["sh", "-c", 'log=$1; shift; exec "$@" >>"$log" 2>&1', "sh", log, *argv]
        self.daemon[host] = self.lab.spawn(host, argv, name="colo-proxy", **kw)
        return self.daemon[host]

    def start_both(self, seconds=120):
        self.start("secondary")
        self.start("primary")
        self.wait_protected(seconds)

    def socket(self, host):
        return self.dir / host / "control.sock"

    def cli(self, host, *argv, check=True, timeout=PATIENCE):
        done = subprocess.run(
            [str(build_dir() / "colo-proxy"), argv[0], "--socket", str(self.socket(host)),
             *map(str, argv[1:])],
            capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
        if check and done.returncode:
            raise LabError(f"colo-proxy {' '.join(map(str, argv))} on {host}: "
                           f"{(done.stderr or done.stdout).strip()}")
        return done

    def status(self, host):
        """The daemon's status, or None while it does not answer."""
        done = self.cli(host, "status", "--json", check=False)
        if done.returncode:
            return None
        status = json.loads(done.stdout)
        return status[0] if isinstance(status, list) else status

    def stats(self, host="primary"):
        return json.loads(self.cli(host, "stats", "--json").stdout)

    def state(self, host):
        status = self.status(host)
        return status["state"] if status else None

    def wait_state(self, host, state, seconds):
        def there():
            child = self.daemon.get(host)
            if child and child.poll() is not None:
                raise LabError(f"colo-proxy on {host} ended with status {child.returncode}:\n"
                               + child.log.read_text()[-2000:])
            return self.state(host) == state

        wait_for(there, seconds, f"{host}: state {state}")

    def wait_protected(self, seconds=120):
        self.wait_state("primary", "protected", seconds)
        self.wait_state("secondary", "standby", 10)

    def checkpoint(self):
        self.cli("primary", "checkpoint")

    def wait_guest(self, seconds=60):
        serial = self.dir / "primary" / "serial.log"
        wait_for(lambda: serial.exists() and b"GUEST READY" in serial.read_bytes(), seconds,
                 "the guest's GUEST READY")
