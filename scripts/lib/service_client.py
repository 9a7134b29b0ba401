#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients of the guest with services (tests/guest/services), run in the lab's client namespace.

    service_client.py SERVICE ADDRESS [-n REQUESTS] [--deadline SECONDS]

Every answer is checked. The last line is a JSON object: requests (whole and right), seconds, ok, and
the error that ended it. With --steps it does one request for each line that it reads, on what it has
open, and answers "ok" or the error: so that a test says when.
"""
import argparse
import json
import os
import random
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from pathlib import Path

HTTP_PORT, TLS_PORT, DNS_PORT, SSH_PORT, OPENSSH_PORT, REDIS_PORT = 8000, 443, 53, 22, 2222, 6379
BODY = b"<html><body><h1>colo-proxy test guest</h1></body></html>\n"
ANSWER_SECONDS = 60  # one answer; then it counts as lost


class Wrong(Exception):
    """An answer that is not what it must be."""


def services_dir():
    return Path(os.environ.get("COLO_CACHE", "/var/cache/colo-proxy")).resolve() / "services"


def program(name):
    return str(services_dir() / "bin" / name)


class Service:
    """One client. request() asks once and checks the answer."""

    def __init__(self, address):
        self.address = address
        self.count = 0
        self.open()

    def open(self):
        """What is kept over all requests."""

    def request(self):
        raise NotImplementedError

    def connect(self, port):
        sock = socket.create_connection((self.address, port), ANSWER_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock


def http_answer(file):
    """Reads one answer of lighttpd and checks it."""
    status = file.readline()
    if not status.startswith(b"HTTP/1.1 200 "):
        raise Wrong(f"status line {status[:80]!r}")
    length = None
    while True:
        line = file.readline()
        if line == b"\r\n":
            break
        if not line:
            raise Wrong("the head ends early")
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    if length != len(BODY):
        raise Wrong(f"Content-Length {length}")
    body = file.read(length)
    if body != BODY:
        raise Wrong(f"body {body[:80]!r}")


class Http(Service):
    port, kept = HTTP_PORT, True

    def wrap(self, sock):
        return sock

    def dial(self):
        sock = self.wrap(self.connect(self.port))
        return sock, sock.makefile("rb")

    def open(self):
        if self.kept:
            self.sock, self.file = self.dial()

    def request(self):
        sock, file = (self.sock, self.file) if self.kept else self.dial()
        head = b"GET / HTTP/1.1\r\nHost: guest.test\r\n"
        sock.sendall(head + (b"\r\n" if self.kept else b"Connection: close\r\n\r\n"))
        http_answer(file)
        if not self.kept:
            if file.read(1):
                raise Wrong("bytes behind the answer")
            file.close()
            sock.close()


class HttpClose(Http):
    kept = False


class TlsKept(Http):
    port = TLS_PORT
    context = None

    def wrap(self, sock):
        if not self.context:
            self.context = ssl.create_default_context(cafile=services_dir() / "tls.crt")
        return self.context.wrap_socket(sock, server_hostname="guest.test")


class Tls(TlsKept):
    """A handshake, a request, the end, each time; no session is resumed."""
    kept = False


class Dns(Service):
    """UDP, one socket for all. A question that is not answered is asked again, as resolvers do."""

    RETRY_SECONDS = 2

    def open(self):
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.connect((self.address, DNS_PORT))
        self.random = random.Random(1)

    def request(self):
        ident, number = self.random.randrange(65536), self.count % 8
        name = b"".join(bytes([len(label)]) + label
                        for label in (b"w%d" % number, b"guest", b"test", b""))
        question = name + struct.pack("!HH", 1, 1)
        query = struct.pack("!HHHHHH", ident, 0, 1, 0, 0, 0) + question
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            self.sock.send(query)
            until = time.monotonic() + self.RETRY_SECONDS
            while (left := until - time.monotonic()) > 0:
                if not select.select([self.sock], [], [], left)[0]:
                    break
                answer = self.sock.recv(4096)
                if answer[:2] == query[:2]:
                    return self.check(answer, question, number)
        raise Wrong(f"no answer within {ANSWER_SECONDS} s")

    @staticmethod
    def check(answer, question, number):
        flags, questions, answers = struct.unpack_from("!HHH", answer, 2)
        record = 12 + len(question)
        want = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 300, 4) + bytes([192, 0, 2, 10 + number])
        if not (flags & 0x8000 and flags & 0x0400) or flags & 15 or (questions, answers) != (1, 1):
            raise Wrong(f"DNS flags {flags:#x}, {questions} questions, {answers} answers")
        if answer[12:record] != question or answer[record:record + len(want)] != want:
            raise Wrong(f"DNS answer {answer.hex()}")


class Ssh(Service):
    """A session for each request: key exchange, public key, one command."""

    port = SSH_PORT

    def argv(self, *command):
        return [program("dbclient"), "-y", "-y", "-T", "-i", str(services_dir() / "client-key"),
                "-p", str(self.port), f"root@{self.address}", *command]

    def request(self):
        done = subprocess.run(self.argv(f"echo answer {self.count}"), capture_output=True,
                              timeout=ANSWER_SECONDS, stdin=subprocess.DEVNULL)
        if done.returncode or done.stdout != b"answer %d\n" % self.count:
            raise Wrong(f"ssh: status {done.returncode}, {done.stdout[-80:]!r}, "
                        f"{done.stderr[-200:].decode(errors='replace')}")


class OpenSsh(Ssh):
    """The same with OpenSSH's server."""
    port = OPENSSH_PORT


class SshKept(Ssh):
    """Commands for one shell, each in the session that was opened first."""

    def open(self):
        self.shell = subprocess.Popen(self.argv("sh"), stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
        self.request()
        self.count += 1

    def request(self):
        self.shell.stdin.write(b"echo answer $((%d + 1))\n" % self.count)
        want, got = b"answer %d\n" % (self.count + 1), b""
        while len(got) < len(want):
            if not select.select([self.shell.stdout], [], [], ANSWER_SECONDS)[0]:
                raise Wrong(f"no answer within {ANSWER_SECONDS} s")
            more = os.read(self.shell.stdout.fileno(), 4096)
            if not more:
                raise Wrong(f"the session ended with {self.shell.wait()}")
            got += more
        if got != want:
            raise Wrong(f"ssh: {got!r} instead of {want!r}")


class Redis(Service):
    """SET, GET and INCR in turns, on one connection."""

    def open(self):
        self.sock = self.connect(REDIS_PORT)
        self.file = self.sock.makefile("rb")
        self.key = b"k%d" % random.SystemRandom().randrange(1 << 40)
        self.counter = 0

    def command(self, *words):
        self.sock.sendall(b"*%d\r\n" % len(words) +
                          b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))

    def expect(self, want):
        got = self.file.read(len(want))
        if got != want:
            raise Wrong(f"redis: {got!r} instead of {want!r}")

    def request(self):
        turn, value = self.count % 3, b"value %d" % (self.count - self.count % 3)
        if turn == 0:
            self.command(b"SET", self.key, value)
            self.expect(b"+OK\r\n")
        elif turn == 1:
            self.command(b"GET", self.key)
            self.expect(b"$%d\r\n%s\r\n" % (len(value), value))
        else:
            self.counter += 1
            self.command(b"INCR", self.key + b".n")
            self.expect(b":%d\r\n" % self.counter)


class Iperf(Service):
    """Runs of iperf3, so many bytes each. To the VM, it ends when all are sent. Between two runs its
    server closes its socket for a moment: who comes then is refused, or reset before a stream is open."""

    extra = ()
    counted = "sum_sent"
    megabytes = 20

    def run(self):
        done = subprocess.run([program("iperf3"), "-c", self.address, "-n", f"{self.megabytes}M",
                               "--json", *self.extra], capture_output=True,
                              timeout=ANSWER_SECONDS, stdin=subprocess.DEVNULL)
        report = json.loads(done.stdout)
        again = not report.get("start", {}).get("connected") and any(
            word in report.get("error", "") for word in ("refused", "reset"))
        return done, report, again

    def request(self):
        until = time.monotonic() + ANSWER_SECONDS
        done, report, again = self.run()
        while again and time.monotonic() < until:
            time.sleep(0.05)
            done, report, again = self.run()
        if done.returncode or "error" in report:
            raise Wrong(f"iperf3: {report.get('error', done.returncode)}")
        got = report["end"][self.counted]["bytes"]
        if got < self.megabytes << 20:
            raise Wrong(f"iperf3: {got} bytes instead of {self.megabytes << 20}")


class IperfDown(Iperf):
    """iperf3 from the guest."""
    extra = ("--reverse",)
    counted = "sum_received"


class IperfDownSame(IperfDown):
    """The same with bytes that are not random."""
    extra = ("--reverse", "--repeating-payload")


class IperfDownPaced(IperfDown):
    """The same, slower than the network: no write finds its socket full."""
    extra = ("--reverse", "--repeating-payload", "--bitrate", "40M")


SERVICES = {
    "http-kept": Http, "http-close": HttpClose, "tls": Tls, "tls-kept": TlsKept, "dns": Dns,
    "ssh": Ssh, "ssh-kept": SshKept, "redis": Redis, "iperf3-up": Iperf, "iperf3-down": IperfDown,
    "iperf3-down-same": IperfDownSame, "iperf3-down-paced": IperfDownPaced, "openssh": OpenSsh,
}


class Deadline(Exception):
    """The time for all of it is over."""


def run(kind, args):
    """All requests; what is printed at the end."""
    def over(_number, _frame):
        raise Deadline

    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, args.deadline)
    started = time.monotonic()
    done, error, slowest = 0, None, 0.0
    try:
        service = kind(args.address)
        while done < args.requests:
            began = time.monotonic()
            service.request()
            slowest = max(slowest, time.monotonic() - began)
            service.count += 1
            done += 1
    except Deadline:
        error = f"not done within {args.deadline:g} s"
    except (Wrong, OSError, ValueError, subprocess.TimeoutExpired) as why:
        error = str(why)[:300] or type(why).__name__
    signal.setitimer(signal.ITIMER_REAL, 0)
    return {"requests": done, "seconds": time.monotonic() - started, "ok": error is None,
            "error": error, "slowest_ms": slowest * 1000}


def steps(kind, args):
    """One request for each line of input."""
    try:
        service = kind(args.address)
        print("open", flush=True)
        for _ in sys.stdin:
            service.request()
            service.count += 1
            print("ok", flush=True)
    except (Wrong, OSError, ValueError, subprocess.TimeoutExpired) as why:
        print(f"{type(why).__name__}: {why}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("service", choices=SERVICES)
    parser.add_argument("address")
    parser.add_argument("-n", dest="requests", type=int, default=1)
    parser.add_argument("--deadline", type=float, default=60)
    parser.add_argument("--steps", action="store_true")
    args = parser.parse_args()
    kind = SERVICES[args.service]
    if args.steps:
        steps(kind, args)
    else:
        print(json.dumps(run(kind, args)))


if __name__ == "__main__":
    main()
