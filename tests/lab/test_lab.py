#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the laboratory and of the test guest: needs root and scripts/setup, not the daemon.

Run it directly; --failfast, -v and names of tests as usual with unittest. The relay's test needs a
build ($COLO_BUILD, or build/)."""
import os
import signal
import subprocess
import sys
import threading
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import lab  # noqa: E402

CLIENT = "import socket, sys, time\n"
OWN = str(os.getpid())  # in the names of the labs: this may run twice on a machine


def python(on, host, text):
    return on.run(host, [sys.executable, "-c", CLIENT + text]).stdout.strip()


class Life(unittest.TestCase):
    """The lab itself: up, down, and nothing left whatever happens to its owner."""

    NAME = f"dead{OWN}"
    OWNER = """
import sys
sys.path.insert(0, {scripts!r})
import lab
with lab.Lab({name!r}) as here:
    child = here.spawn("primary", ["sleep", "1000"])
    other = here.spawn("secondary", ["sh", "-c", "setsid sleep 1000 & echo on; wait"])
    other.wait_line("on", 5)
    print(child.pid, flush=True)
    {body}
"""

    def owner(self, body):
        text = self.OWNER.format(scripts=str(lab.TOP / "scripts"), name=self.NAME, body=body)
        owner = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, text=True)
        self.addCleanup(owner.stdout.close)
        return owner, int(owner.stdout.readline())

    def left(self):
        return [n for folder in ("/run/netns", lab.RUN) for n in os.listdir(folder)
                if n.startswith(self.NAME)]

    @staticmethod
    def alive(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
        except FileNotFoundError:
            return False

    def test_clean_after_exception_and_signals(self):
        for body, number, status in (("raise ValueError", None, 1),
                                     ("child.wait()", signal.SIGINT, 130),
                                     ("child.wait()", signal.SIGTERM, 143),
                                     ("child.wait()", signal.SIGHUP, 129)):
            with self.subTest(body=body, number=number):
                owner, pid = self.owner(body)
                if number:
                    owner.send_signal(number)
                self.assertEqual(owner.wait(lab.PATIENCE), status)
                self.assertFalse(self.alive(pid))
                with lab.one_at_a_time():  # another lab may look whether this one is dead
                    self.assertEqual(self.left(), [])

    def test_next_lab_removes_what_a_killed_one_left(self):
        owner, pid = self.owner("child.wait()")
        with lab.one_at_a_time():  # no other lab removes it
            owner.kill()
            owner.wait(lab.PATIENCE)
            lab.wait_for(lambda: not self.alive(pid), 5, "child of a killed owner dies")
            self.assertNotEqual(self.left(), [])
        with lab.Lab(f"next{OWN}"):
            self.assertEqual(self.left(), [])

    def test_living_lab_is_left_alone(self):
        with lab.Lab(self.NAME):
            with self.assertRaisesRegex(lab.LabError, "in use"):
                lab.Lab(self.NAME).__enter__()
            lab.remove_dead()
            self.assertNotEqual(self.left(), [])
        with lab.one_at_a_time():
            self.assertEqual(self.left(), [])

    def test_lab_that_begins_is_no_dead_one(self):
        """Others look for dead labs at any time, also when a lab has its lock file and not the lock."""
        look = threading.Event()

        def watch():
            while not look.is_set():
                lab.remove_dead()

        watcher = threading.Thread(target=watch)
        watcher.start()
        self.addCleanup(watcher.join)
        self.addCleanup(look.set)
        for _ in range(300):
            begun = lab.Lab(self.NAME)
            begun._take()
            begun.close()

    def test_kept_lab_stays_until_down(self):
        tool, kept = str(lab.TOP / "scripts/lab.py"), f"kept{OWN}"
        subprocess.run([tool, "up", kept], check=True, stdout=subprocess.DEVNULL)
        lab.remove_dead()
        out = subprocess.run([tool, "exec", kept, "primary", "ip", "-br", "addr"], check=True,
                             capture_output=True, text=True).stdout
        self.assertIn("10.78.0.1/24", out)
        subprocess.run([tool, "down", kept], check=True)
        self.assertFalse(Path(f"/run/netns/{kept}-primary").exists())

    def test_config_is_read_back_by_glib(self):
        path = lab.write_config(f"/tmp/lab-test{OWN}.conf", {"a": {
            "s": " x\\y\tz", "l": ["p;q", "r"], "b": True, "n": 7, "none": None}})
        self.addCleanup(path.unlink)
        self.assertEqual(path.read_text(), "[a]\ns=\\sx\\\\y\\tz\nl=p\\;q;r;\nb=true\nn=7\n")
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)


class Links(unittest.TestCase):
    """What can be done to the links, seen from programs on the hosts."""

    SERVER = """
s = socket.create_server(("10.78.0.2", 9000))
print("up", flush=True)
while True:
    c = s.accept()[0]
    n = 0
    while d := c.recv(1 << 20):
        n += len(d)
        if d == b"ping":
            c.sendall(d)
    c.sendall(b"%d" % n)
    c.close()
"""
    CONNECT = f's = socket.create_connection(("10.78.0.2", 9000), timeout={lab.PATIENCE})'
    CANNOT = 's = socket.create_connection(("10.78.0.2", 9000), timeout=1)'

    def setUp(self):
        self.lab = self.enterContext(lab.Lab(f"links{OWN}"))
        server = self.lab.spawn("secondary", [sys.executable, "-c", CLIENT + self.SERVER])
        server.wait_line("up", 10)

    def test_replication_link_can_be_cut_and_restored(self):
        python(self.lab, "primary", self.CONNECT)
        self.lab.link_down("primary", "replication")
        with self.assertRaises(lab.LabError):
            python(self.lab, "primary", self.CANNOT)
        self.lab.link_up("primary", "replication")
        python(self.lab, "primary", self.CONNECT)

    def test_loss_keeps_the_carrier(self):
        self.lab.replication_lossy("primary")
        with self.assertRaisesRegex(lab.LabError, "TimeoutError"):
            python(self.lab, "primary", self.CANNOT)
        carrier = self.lab.run("secondary", ["cat", "/sys/class/net/repl0/carrier"]).stdout
        self.assertEqual(carrier.strip(), "1")
        self.lab.replication_lossy("primary", False)
        python(self.lab, "primary", self.CONNECT)

    def test_power_cut_kills_and_silences(self):
        sleeper = self.lab.spawn("secondary", ["sleep", "1000"])
        self.lab.power_cut("secondary")
        self.assertEqual(sleeper.poll(), -signal.SIGKILL)
        self.assertEqual(self.lab.pids("secondary"), [])
        links = self.lab.run("secondary", ["ip", "-o", "link"]).stdout
        self.assertNotIn(",UP", links.replace("<LOOPBACK,UP,LOWER_UP>", ""))
        self.lab.power_on("secondary")
        server = self.lab.spawn("secondary", [sys.executable, "-c", CLIENT + self.SERVER])
        server.wait_line("up", 10)
        python(self.lab, "primary", self.CONNECT)

    def test_power_cut_while_taps_come_and_go(self):
        flips = """
import subprocess
print("flips", flush=True)
while True:
    for verb in "add", "del":
        subprocess.run(["ip", "tuntap", verb, "dev", "flip0", "mode", "tap"], check=True)
"""
        for _ in range(10):
            self.lab.spawn("secondary", [sys.executable, "-c", flips]).wait_line("flips", 10)
            self.lab.power_cut("secondary")
            self.lab.power_on("secondary")
            self.lab.run("secondary", ["ip", "tuntap", "del", "dev", "flip0", "mode", "tap"])

    def test_delay_relay_delays_and_keeps_every_byte(self):
        if not (lab.build_dir() / "tests/delay-relay").exists():
            self.skipTest("no build")
        self.lab.delay_relay("primary", "10.78.0.1:9100", "10.78.0.2:9000", 15)
        out = python(self.lab, "primary", """
s = socket.create_connection(("10.78.0.1", 9100))
s.setsockopt(6, 1, 1)
s.settimeout(60)
for i in range(10):
    t = time.perf_counter(); s.sendall(b"ping"); s.recv(10)
    print(time.perf_counter() - t)
for i in range(64): s.sendall(b"x" * (1 << 20))
s.shutdown(1)
print(s.recv(100).decode(), len(s.recv(1)))
""").split()
        for rtt in map(float, out[:10]):
            self.assertGreaterEqual(rtt, 0.030)
        self.assertEqual(out[10:], [str((64 << 20) + 40), "0"])


class Guest(unittest.TestCase):
    """The test guest does what its head comment says. One guest for all tests."""

    @classmethod
    def setUpClass(cls):
        cls.lab = cls.enterClassContext(lab.Lab(f"guest{OWN}", ipv6=True))
        cls.guest = cls.lab.boot_guest(append=f"colo.ip6={lab.GUEST_IP6}/64")

    def get(self, path, *options):
        return self.lab.run("client", ["curl", "-sS", "--max-time", str(lab.PATIENCE), *options,
                                       f"http://{lab.GUEST_IP}{path}"]).stdout

    def test_hello_is_the_same_each_time(self):
        first = self.get("/hello", "-i")
        self.assertEqual(first, self.get("/hello", "-i"))
        self.assertTrue(first.endswith("hello from the guest\n"))
        self.assertNotIn("Date", first)

    def test_time_and_random_differ(self):
        self.assertNotEqual(self.get("/time"), self.get("/time"))
        self.assertNotEqual(self.get("/random"), self.get("/random"))

    def test_closes_when_asked_and_keeps_when_not(self):
        two = self.get("/hello", f"http://{lab.GUEST_IP}/hello", "-w", "%{num_connects} ")
        self.assertEqual([w for w in two.split() if w.isdigit()], ["1", "0"])
        self.assertIn("Connection: close", self.get("/hello", "-i", "-H", "Connection: close"))

    def test_stream_and_upload(self):
        size = 5_000_003
        path = self.lab.dir / "stream"
        self.get(f"/bytes/{size}", "-o", path)
        data = bytearray(path.read_bytes())
        self.assertEqual(len(data), size)
        self.assertRegex(self.get("/upload", "-T", path), f"bytes={size} .* pattern=ok")
        # One byte changed, and 65,536 bytes left out: both are seen, and where.
        data[4_000_001] ^= 1
        path.write_bytes(data)
        self.assertRegex(self.get("/upload", "-T", path), "pattern=bad@4000001")
        data[4_000_001] ^= 1
        path.write_bytes(data[:1_000_000] + data[1_065_536:])
        self.assertRegex(self.get("/upload", "-T", path), r"pattern=bad@100000\d$")

    def test_log(self):
        before = self.get("/log").splitlines()
        seq = len(before) + 1
        self.assertEqual(self.get("/log?append=first"), f"seq={seq}\n")
        self.assertEqual(self.get("/log?append=second"), f"seq={seq + 1}\n")
        self.assertEqual(self.get("/log").splitlines(),
                         before + [f"{seq} first", f"{seq + 1} second"])
        self.assertIn("400", self.get("/log?append=a%20b", "-i"))

    def test_bad_requests(self):
        for path in ("/nope", "/bytes/x", "/bytes/-1", "/dirty/", "/connect/1.2.3/4"):
            self.assertRegex(self.get(path, "-i"), "^HTTP/1.1 4")
        out = python(self.lab, "client", f"""
s = socket.create_connection(("{lab.GUEST_IP}", 80))
s.sendall(b"GET /" + b"x" * 9000 + b" HTTP/1.1\\r\\n\\r\\n")
print(s.recv(12).decode())
""")
        self.assertEqual(out, "HTTP/1.1 431")

    def test_pipelined_requests_are_answered_in_order(self):
        out = python(self.lab, "client", f"""
s = socket.create_connection(("{lab.GUEST_IP}", 80))
s.sendall(b"GET /hello HTTP/1.1\\r\\n\\r\\nGET /bytes/8 HTTP/1.1\\r\\nConnection: close\\r\\n\\r\\n")
got = b""
while d := s.recv(1000): got += d
print(got.count(b"HTTP/1.1 200 OK"), got.find(b"hello") < got.find(b"Length: 8"))
""")
        self.assertEqual(out, "2 True")

    def test_echo(self):
        for family, address in (("AF_INET", lab.GUEST_IP), ("AF_INET6", lab.GUEST_IP6)):
            out = python(self.lab, "client", f"""
s = socket.socket(socket.{family}, socket.SOCK_DGRAM)
s.settimeout(60)
s.sendto(b"datagram", ("{address}", 7))
print(s.recv(100).decode())
s = socket.create_connection(("{address}", 7), timeout=60)
s.sendall(b"stream"); s.shutdown(1)
print(s.recv(100).decode(), len(s.recv(1)))
""")
            self.assertEqual(out, "datagram\nstream 0")

    def test_guest_opens_a_connection(self):
        server = self.lab.spawn("client", [sys.executable, "-c", CLIENT + f"""
s = socket.create_server(("{lab.CLIENT_IP}", 9001))
print("up", flush=True)
c, peer = s.accept()
c.sendall(b"to the guest")
print("got", c.recv(100).decode(), "from", peer[0], flush=True)
"""])
        server.wait_line("up", 10)
        self.get(f"/connect/{lab.CLIENT_IP}/9001")
        server.wait_line(f"got to the guest from {lab.GUEST_IP}$", 10)

    def test_dirty_starts_and_stops(self):
        stat = Path(f"/proc/{self.guest.pid}/stat")

        def cpu():
            fields = stat.read_text().rsplit(") ", 1)[1].split()
            return int(fields[11]) + int(fields[12])

        self.assertEqual(self.get("/dirty/400?full=1"), "dirty=400 area=32\n")
        start = cpu()
        lab.wait_for(lambda: cpu() - start > 20, 20, "the guest's CPU time grows")
        self.assertEqual(self.get("/dirty/0"), "dirty=0 area=32\n")

    def test_httpd(self):
        self.assertIn("test guest", self.lab.run(
            "client", ["curl", "-sS", f"http://{lab.GUEST_IP}:8080/"]).stdout)
        size = self.lab.run("client", ["sh", "-c", f"curl -sS http://{lab.GUEST_IP}:8080/8m.bin | wc -c"])
        self.assertEqual(size.stdout.strip(), "8388608")

    def test_zz_reboot(self):
        start = len(self.guest.lines)
        self.lab.run("client", ["curl", "-sS", "--max-time", "1",
                                f"http://{lab.GUEST_IP}/reboot"], check=False)
        self.guest.wait_line("GUEST READY", 60, start)
        self.assertTrue(self.get("/hello"))


if __name__ == "__main__":
    unittest.main()
