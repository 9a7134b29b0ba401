# SPDX-License-Identifier: GPL-2.0-or-later
"""A peer on the replication port that has the key and bad intentions: docs/link-protocol.md, by
hand, without encryption."""

import ctypes
import hashlib
import hmac
import re
import secrets
import socket
import struct
from pathlib import Path

from support import TOP, check

MAGIC = 0x434f4c4b
HELLO, HELLO_REPLY, PROOF, READY, REFUSE = 1, 2, 3, 4, 5
FAST, BULK = 0, 1
HEAD = ">IBBBBIIQQ"
MESSAGES = {name: 16 + n for n, name in enumerate(re.findall(
    r"^\tMSG_(\w+)(?: = 16)?,", (TOP / "colo-proxy/link/messages.h").read_text(), re.M))}

SPEC = (TOP / "docs/link-protocol.md").read_text()
VERSION = int(re.search(r"protocol version, (\d+)", SPEC)[1])
ENCODING = int(re.search(r"version of the encoding of checkpoints, (\d+)", SPEC)[1])

xxhash = ctypes.CDLL("libxxhash.so.0")
xxhash.XXH3_64bits_withSeed.restype = ctypes.c_uint64
xxhash.XXH3_64bits_withSeed.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]


def frame(kind, channel, epoch, sequence, payload, seed):
    head = [MAGIC, 1, kind, channel, 0, epoch, len(payload), sequence, 0]
    head[-1] = xxhash.XXH3_64bits_withSeed(struct.pack(HEAD, *head) + payload,
                                           32 + len(payload), seed)
    return struct.pack(HEAD, *head) + payload


class Connection:
    """One channel's."""

    def __init__(self, sock, channel):
        self.sock, self.channel = sock, channel
        self.sequence = 0
        self.last = b""

    def send(self, kind, epoch, payload, seed, sequence=None):
        self.last = frame(kind, self.channel, epoch,
                          self.sequence if sequence is None else sequence, payload, seed)
        self.sequence += 1
        self.sock.sendall(self.last)

    def _read(self, size):
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            check(more, "the link was closed")
            data += more
        return data

    def receive(self):
        """(type, payload)"""
        head = struct.unpack(HEAD, self._read(32))
        return head[2], self._read(head[6])

    def ended(self):
        """Waits for the other side to end it."""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True


class Rogue:
    """A session as a primary, from the primary's host."""

    def __init__(self, env, target, key=None, name=b"vm0"):
        text = Path(env.pair.key).read_text()
        self.key = key or bytes.fromhex("".join(text.split()))
        self.name = name
        self.session = secrets.randbits(63) + 1
        self.channels = []
        for channel in (FAST, BULK):
            sock = env.socket(host="primary")
            sock.connect(target)
            self.channels.append(Connection(sock, channel))

    def open(self):
        """True when the session is up; False: refused."""
        secret = hmac.new(self.key, b"colo-proxy link hello 1", hashlib.sha256).digest()
        for one in self.channels:
            caps = struct.pack(">HHII", ENCODING, 0, 64, 256)
            hello = struct.pack(">HBBB3xQ32sHH", VERSION, 1, 0, 1, self.session,
                                secrets.token_bytes(32), len(self.name), len(caps)) + \
                self.name + caps
            one.send(HELLO, 0, hello, 0)
            kind, reply = one.receive()
            if kind != HELLO_REPLY:
                return False
            said = reply[:-32]
            proof = hmac.new(secret, bytes([1, one.channel]) + struct.pack(">I", len(hello)) +
                             hello + struct.pack(">I", len(said)) + said, hashlib.sha256).digest()
            one.send(PROOF, 0, proof, self.session)
        return all(one.receive()[0] == READY for one in self.channels)

    def send(self, name, epoch=0, payload=b"", channel=FAST, **kw):
        self.channels[channel].send(MESSAGES[name], epoch, payload, self.session, **kw)

    def close(self):
        for one in self.channels:
            one.sock.close()
