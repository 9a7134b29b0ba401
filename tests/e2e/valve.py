#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""valve.py LISTEN-IP:PORT TARGET-IP:PORT [records] - a TCP relay whose flow towards TARGET can be shut.

It stands between two daemons, so that a test can hold a checkpoint half-way for as long as it
likes. Commands on stdin, one a line:

    stall-after N   each connection, also one that is yet to come, stops after N more bytes
                    towards TARGET, until `open`
    stall-back-after N   the same for bytes from TARGET
    rate N          N bytes per second towards TARGET, all connections together; 0 stops them
    open            everything flows again
    tamper WHAT     the man in the middle, with `records`, which looks at the records of TLS: the
                    next one of data that passes is sent again (repeat), behind the next one of its
                    connection (swap), not at all (drop), with a bit of it changed (flip), without
                    its last byte (shorten), or behind the first one of data of its connection (old)

Events on stdout: "listening", "open" when done, "stalled" when a connection has used up its N, and
"tampered".
Without stall-back-after, bytes from TARGET always flow. IPv4."""
import os
import selectors
import socket
import sys
import time

CHUNK = 1 << 16
DATA = 23  # application_data, RFC 8446 section 5.1
TICK = 0.01


def endpoint(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


class Flow:
    """One direction of one connection."""

    def __init__(self, source, sink, limited):
        self.source, self.sink, self.limited = source, sink, limited
        self.pending = b""
        self.left = None  # bytes until it stalls; None: no limit
        self.text = b""  # less than a record
        self.first = self.held = None  # records


class Valve:
    def __init__(self, listen, target, records):
        self.target = target
        self.records, self.tamper = records, None
        self.stall = {True: None, False: None}  # bytes for new connections, by Flow.limited
        self.rate = None
        self.credit = 0.0
        self.credit_at = time.monotonic()
        self.flows = []
        self.selector = selectors.DefaultSelector()
        self.listener = socket.create_server(listen)
        self.selector.register(self.listener, selectors.EVENT_READ, self.accept)
        os.set_blocking(0, False)
        self.selector.register(0, selectors.EVENT_READ, self.command)
        self.text = b""
        print("listening", flush=True)

    def accept(self, _mask):
        near, _ = self.listener.accept()
        try:
            far = socket.create_connection(self.target, 5)
        except OSError:
            near.close()
            return
        pair = [Flow(near, far, True), Flow(far, near, False)]
        for sock in (near, far):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for flow in pair:
            flow.left = self.stall[flow.limited]
            self.flows.append(flow)
        self.watch()

    def command(self, _mask):
        data = os.read(0, 4096)
        if not data:
            self.selector.unregister(0)
        self.text += data
        while b"\n" in self.text:
            line, self.text = self.text.split(b"\n", 1)
            word, *rest = line.decode().split()
            if word in ("stall-after", "stall-back-after"):
                towards = word == "stall-after"
                self.stall = {towards: int(rest[0]), not towards: None}
                for flow in self.flows:
                    flow.left = self.stall[flow.limited]
            elif word == "tamper":
                self.tamper = rest[0]
            elif word == "rate":
                self.rate = float(rest[0])
                self.credit = 0.0
            elif word == "open":
                self.rate = None
                self.stall = {True: None, False: None}
                for flow in self.flows:
                    flow.left = None
            print(word, flush=True)
        self.watch()

    def allowed(self, flow):
        """How many bytes this flow may take now."""
        room = CHUNK if flow.left is None else min(CHUNK, flow.left)
        if flow.limited and self.rate is not None:
            now = time.monotonic()
            self.credit = min(self.credit + self.rate * (now - self.credit_at),
                              max(self.rate * TICK * 4, 1 if self.rate else 0))
            self.credit_at = now
            room = min(room, int(self.credit))
        return room

    def whole(self, flow, data):
        """What goes on of the bytes that have come: whole records, tampered with if that is wanted."""
        flow.text += data
        out = b""
        while len(flow.text) >= 5:
            size = 5 + int.from_bytes(flow.text[3:5], "big")
            if len(flow.text) < size:
                break
            record, flow.text = flow.text[:size], flow.text[size:]
            out += self.tampered(flow, record) if record[0] == DATA else record
        return out

    def tampered(self, flow, record):
        old, flow.first = flow.first, flow.first or record
        if flow.held:
            record, flow.held = record + flow.held, None
            print("tampered", flush=True)
            return record
        # TLS 1.3 hides the handshake in records of data, too: the first ones are let alone.
        what, self.tamper = (self.tamper, None) if old else (None, self.tamper)
        if not what:
            return record
        if what == "swap":
            flow.held = record
            return b""
        print("tampered", flush=True)
        return {"repeat": record * 2, "drop": b"", "old": record + old,
                "flip": record[:-3] + bytes([record[-3] ^ 4]) + record[-2:],
                "shorten": record[:3] + (len(record) - 6).to_bytes(2, "big") + record[5:-1]}[what]

    def move(self, flow):
        """Returns False when the connection has ended."""
        try:
            if not flow.pending:
                room = self.allowed(flow)
                if not room:
                    return True
                flow.pending = flow.source.recv(room)
                if not flow.pending:
                    return False
                if self.records:
                    flow.pending = self.whole(flow, flow.pending)
                    return self.push(flow) if flow.pending else True
                if flow.limited and self.rate is not None:
                    self.credit -= len(flow.pending)
                if flow.left is not None:
                    flow.left -= len(flow.pending)
                    if flow.left == 0:
                        print("stalled", flush=True)
            return self.push(flow)
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True

    def push(self, flow):
        sent = flow.sink.send(flow.pending)
        flow.pending = flow.pending[sent:]
        return True

    def close(self, flow):
        gone = {flow.source, flow.sink}
        self.flows = [f for f in self.flows if f.source not in gone]
        for sock in gone:
            if sock.fileno() in self.selector.get_map():
                self.selector.unregister(sock)
            sock.close()

    def watch(self):
        """Listens to what can move; returns whether something waits for the rate."""
        wanted = {}
        waits = False
        for flow in self.flows:
            if flow.pending:
                wanted[flow.sink] = wanted.get(flow.sink, 0) | selectors.EVENT_WRITE
            elif self.allowed(flow):
                wanted[flow.source] = wanted.get(flow.source, 0) | selectors.EVENT_READ
            elif self.rate:
                waits = True
        for flow in self.flows:
            sock = flow.source
            key = self.selector.get_map().get(sock.fileno())
            mask = wanted.get(sock, 0)
            if key and not mask:
                self.selector.unregister(sock)
            elif key and key.events != mask:
                self.selector.modify(sock, mask, None)
            elif not key and mask:
                self.selector.register(sock, mask, None)
        return waits

    def run(self):
        while True:
            waits = self.watch()
            ready = self.selector.select(TICK if waits else None)
            for key, mask in ready:
                if key.data:
                    key.data(mask)
            moved = {key.fileobj for key, _ in ready if not key.data}
            for flow in list(self.flows):
                if flow in self.flows and (flow.source in moved or flow.sink in moved):
                    if not self.move(flow):
                        self.close(flow)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[3:] not in ([], ["records"]):
        sys.exit(__doc__)
    Valve(endpoint(sys.argv[1]), endpoint(sys.argv[2]), len(sys.argv) == 4).run()
