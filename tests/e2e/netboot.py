#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A network to boot from, for one machine: DHCP, and HTTP that gives as much as it is told to.

    netboot.py DEVICE SERVER-IP GUEST-IP GUEST-MAC FOLDER

DHCP gives the guest its address and the URL of FOLDER's boot.ipxe. HTTP (port 80) serves the files
of FOLDER. Of the file called `paced` it gives no more than was allowed: a line with a number on
standard input is how many bytes of it may leave from now on. What happens is one line each on
standard output: "listening", "dhcp", "get PATH", "acked BYTES" (of the paced file: all that was
allowed has been acknowledged), "sent PATH BYTES". A request of any other path is printed and
answered with an empty line: that is how a guest says something.
"""
import fcntl
import socket
import struct
import sys
import termios
import threading
import time
from pathlib import Path

DISCOVER, OFFER, REQUEST, ACK = 1, 2, 3, 5
COOKIE = bytes((99, 130, 83, 99))
PACED = "/paced"
CHUNK = 64 << 10


def say(text):
    print(text, flush=True)


def option(number, value):
    return bytes((number, len(value))) + value


def dhcp_type(packet):
    """The message type of a request; None for what is none."""
    if len(packet) < 240 or packet[0] != 1 or packet[236:240] != COOKIE:
        return None
    at = 240
    while at + 1 < len(packet) and packet[at] != 255:
        if packet[at] == 0:
            at += 1
            continue
        if packet[at] == 53:
            return packet[at + 2]
        at += 2 + packet[at + 1]
    return None


def dhcp_reply(packet, kind, server, guest):
    url = f"http://{server}/boot.ipxe".encode()
    head = struct.pack("!BBBB4sHH", 2, 1, 6, 0, packet[4:8], 0, 0x8000)
    head += bytes(4) + socket.inet_aton(guest) + socket.inet_aton(server) + bytes(4)
    head += packet[28:44] + bytes(64) + url.ljust(128, b"\0") + COOKIE
    mine = socket.inet_aton(server)
    return head + option(53, bytes((kind,))) + option(54, mine) + \
        option(51, struct.pack("!I", 86400)) + option(1, bytes((255, 255, 255, 0))) + \
        option(175, option(176, b"\1")) + b"\xff"  # iPXE: no proxy DHCP to wait for


def serve_dhcp(device, server, guest, mac):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    sock.bind(("", 67))
    while True:
        packet = sock.recv(2048)
        kind = dhcp_type(packet)
        if kind in (DISCOVER, REQUEST) and packet[28:34] == mac:
            say("dhcp")
            answer = OFFER if kind == DISCOVER else ACK
            sock.sendto(dhcp_reply(packet, answer, server, guest), ("255.255.255.255", 68))


class Pace:
    """How much of the paced file may leave."""

    def __init__(self):
        self.news = threading.Condition()
        self.allowed = 0

    def allow(self, bytes_):
        with self.news:
            self.allowed = bytes_
            self.news.notify_all()

    def wait(self, beyond):
        with self.news:
            self.news.wait_for(lambda: self.allowed > beyond)
            return self.allowed


def send_paced(conn, data, pace):
    sent = 0
    while sent < len(data):
        upto = min(pace.wait(sent), len(data), sent + CHUNK)
        conn.sendall(data[sent:upto])
        sent = upto
        if sent == min(pace.allowed, len(data)):
            while struct.unpack("i", fcntl.ioctl(conn, termios.TIOCOUTQ, bytes(4)))[0]:
                time.sleep(0.01)  # nothing says when a socket's queue is empty
            say(f"acked {sent}")


def serve_one(conn, folder, pace):
    with conn:
        text = b""
        while b"\r\n\r\n" not in text:
            more = conn.recv(4096)
            if not more:
                return
            text += more
        path = text.split()[1].decode()
        say(f"get {path}")
        file = folder / path.lstrip("/")
        data = file.read_bytes() if file.is_file() else b"\n"
        conn.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
                     .encode())
        if path == PACED:
            send_paced(conn, data, pace)
        else:
            conn.sendall(data)
        say(f"sent {path} {len(data)}")
        conn.shutdown(socket.SHUT_WR)
        while conn.recv(4096):
            pass


def main():
    device, server, guest, mac, folder = sys.argv[1:]
    pace = Pace()
    http = socket.create_server((server, 80))
    threading.Thread(target=serve_dhcp, daemon=True,
                     args=(device, server, guest, bytes.fromhex(mac.replace(":", "")))).start()

    def accept():
        while True:
            conn = http.accept()[0]
            threading.Thread(target=serve_one, args=(conn, Path(folder), pace),
                             daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    say("listening")
    for line in sys.stdin:
        pace.allow(int(line))


if __name__ == "__main__":
    main()
