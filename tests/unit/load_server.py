#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The server of test_colo_load.c: what the test guest serves, and the same with faults.

Makes the stream of tests/guest/pattern.h on its own. Prints "http=PORT tcp=PORT udp=PORT" and
serves on 127.0.0.1 until stdin ends.

  GET /hello  /bytes/N  /log  /log?append=ID  /connect/IP/PORT   PUT /upload     as the guest
  GET /bad/N/OFFSET   the byte at OFFSET is wrong          /cut/N       ends after half of N bytes
  GET /stall/N/MS     rests for MS ms after half           /extra       a byte too many
  GET /short/N        one byte fewer, and says so          /drop        closes without an answer
  GET /wronghello     another text, same length            /eof/N       no length, ends by closing
  PUT /upload-bad     claims another digest

  An ID with "skip" in it: the answer to the third entry skips a number. With "forget": the log
  lacks the third entry. With "twice": it has it twice.
  TCP echo: a message whose number (first 8 bytes) is 666 comes back with its last byte changed.
  UDP echo: 5 is not answered, 7 is answered twice, 9 is answered after 10; 666 as for TCP.
"""
import array
import socket
import socketserver
import sys
import threading
import time

MASK = (1 << 64) - 1


def splitmix_block():
    state, words = 0x636F6C6F, []
    for _ in range(8192):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        words.append(z ^ (z >> 31))
    return words


BLOCK = splitmix_block()


def pattern(length):
    words = array.array("Q")
    for block in range((length + 65535) // 65536):
        add = block * 0x9E3779B97F4A7C15
        words.extend((word + add) & MASK for word in BLOCK)
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()[:length]


def fnv1a64(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


class Echo(socketserver.BaseRequestHandler):
    """Echoes whole messages of the length that the first recv() has; the tests use short ones."""

    def handle(self):
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := self.request.recv(65536):
            if int.from_bytes(data[:8], "big") == 666:
                data = data[:-1] + bytes([data[-1] ^ 1])
            self.request.sendall(data)


class Http(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True
    log = []

    def answer(self, body, length=None, close=False):
        head = "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n" % (
            len(body) if length is None else length, "Connection: close\r\n" if close else "")
        self.wfile.write(head.encode() + body)

    def handle(self):
        while line := self.rfile.readline():
            method, path, _ = line.decode().split()
            headers = {}
            while (line := self.rfile.readline().strip()):
                name, value = line.decode().split(":", 1)
                headers[name.lower()] = value.strip()
            body = self.rfile.read(int(headers.get("content-length", 0)))
            if not self.serve(method, path, body) or headers.get("connection") == "close":
                return

    def serve(self, method, path, body):
        """Returns whether the connection stays."""
        name, *args = path.split("/")[1:]
        if method == "PUT":
            digest = fnv1a64(body) ^ (name == "upload-bad")
            right = "ok" if body == pattern(len(body)) else "bad"
            self.answer(b"bytes=%d fnv1a64=%016x pattern=%s\n" % (len(body), digest,
                                                                  right.encode()))
            return True
        if name.startswith("log"):
            return self.serve_log(path)
        return getattr(self, "serve_" + name)(*args)

    def serve_log(self, path):
        if path == "/log":
            self.answer("".join(entry + "\n" for entry in self.log).encode())
            return True
        entry = path.split("=")[1]
        third = entry.endswith("-3")
        count = getattr(self, "count", 0) + 1 + ("skip" in entry and third)
        self.count = count
        if not ("forget" in entry and third):
            self.log.append("%d %s" % (count, entry))
        if "twice" in entry and third:
            self.log.append("%d %s" % (count, entry))
        self.answer(b"seq=%d\n" % count)
        return True

    def serve_hello(self):
        self.answer(b"hello from the guest\n")
        return True

    def serve_wronghello(self):
        self.answer(b"hello from the ghost\n")
        return True

    def serve_bytes(self, count):
        self.answer(pattern(int(count)))
        return True

    def serve_bad(self, count, offset):
        data = bytearray(pattern(int(count)))
        data[int(offset)] ^= 0x10
        self.answer(bytes(data))
        return True

    def serve_cut(self, count):
        self.answer(pattern(int(count))[:int(count) // 2], int(count))
        return False

    def serve_short(self, count):
        self.answer(pattern(int(count) - 1))
        return True

    def serve_stall(self, count, ms):
        data = pattern(int(count))
        self.answer(data[:len(data) // 2], len(data))
        time.sleep(int(ms) / 1000)  # the fault that is asked for
        self.wfile.write(data[len(data) // 2:])
        return True

    def serve_extra(self):
        self.answer(b"hello from the guest\nx", 21)
        return True

    def serve_drop(self):
        return False

    def serve_eof(self, count):
        self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + pattern(int(count)))
        return False

    def serve_connect(self, ip, port):
        sock = socket.create_connection((ip, int(port)))
        self.answer(b"connecting\n")
        threading.Thread(target=Echo, args=(sock, None, None), daemon=True).start()
        return True


def udp_echo(sock):
    held = None
    while True:
        data, peer = sock.recvfrom(65536)
        number = int.from_bytes(data[:8], "big")
        if number == 9:
            held = data
        if number in (5, 9):
            continue
        if number == 666:
            data = data[:-1] + bytes([data[-1] ^ 1])
        sock.sendto(data, peer)
        if number == 7:
            sock.sendto(data, peer)
        if number == 10 and held:
            sock.sendto(held, peer)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 1024

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main():
    http, tcp = Server(("127.0.0.1", 0), Http), Server(("127.0.0.1", 0), Echo)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    for target, args in ((http.serve_forever, ()), (tcp.serve_forever, ()), (udp_echo, (udp,))):
        threading.Thread(target=target, args=args, daemon=True).start()
    print("http=%d tcp=%d udp=%d" % (http.server_address[1], tcp.server_address[1],
                                     udp.getsockname()[1]), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
