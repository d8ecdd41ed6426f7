"""One bulk flow over UDP with a window, as QUIC has it: many datagrams a system call (UDP GSO and GRO, Linux 5.0).

    python udp_bulk.py sink PORT                    counts and acknowledges for ever
    python udp_bulk.py send ADDRESS PORT SECONDS    prints what arrived as JSON

An acknowledgement is 16 bytes: the bytes and the datagrams of this flow that have arrived so far. The sender keeps a
window of bytes under way. The window grows by a batch with each window that arrived and halves when nothing came back
for a while; what was under way then counts as lost. So what a balancer drops costs it speed, as it would a real flow.
Uses the standard library alone, because it runs where lbd need not be.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time

_UDP_SEGMENT, _UDP_GRO = 103, 104  # linux/udp.h
_SOL_UDP = 17
DATAGRAM_BYTES = 1400
"""Fits an Ethernet frame with any header, as QUIC's datagrams do."""
BATCH_DATAGRAMS = 40
"""56,000 bytes: below the 65,507 of one system call and the kernel's 64 segments."""
MOST_WINDOW_BYTES = 1 << 20
SILENCE_S = 0.02
_ACKNOWLEDGEMENT = struct.Struct("!QQ")
_RECEIVE_BUFFER_BYTES = 8 << 20


def _set_buffer(sock: socket.socket) -> None:
    """Ask for a receive buffer that no batch overflows: what is measured is the balancer."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_RCVBUFFORCE", 33), _RECEIVE_BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)


def sink(port: int) -> None:
    """Count and acknowledge every flow that comes to `port`, for ever."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", port))
        sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        _set_buffer(sock)
        flows: dict[object, list[int]] = {}
        buffer = bytearray(65536)
        while True:
            size, ancillary, _, peer = sock.recvmsg_into([buffer], 64)
            segment = size
            for level, kind, content in ancillary:
                if level == _SOL_UDP and kind == _UDP_GRO:
                    segment = struct.unpack_from("i", content)[0]
            counts = flows.setdefault(peer, [0, 0])
            counts[0] += size
            counts[1] += -(-size // max(segment, 1))
            sock.sendto(_ACKNOWLEDGEMENT.pack(*counts), peer)


def send(address: str, port: int, duration_s: float) -> dict[str, float]:
    """Send one flow for some time and return what was sent and what arrived."""
    batch = bytes(DATAGRAM_BYTES * BATCH_DATAGRAMS)
    sent = arrived = arrived_datagrams = forgiven = 0
    window = 4 * len(batch)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        _set_buffer(sock)
        sock.setsockopt(_SOL_UDP, _UDP_SEGMENT, DATAGRAM_BYTES)
        sock.settimeout(SILENCE_S)
        sock.connect((address, port))
        started_s = time.monotonic()
        until_s = started_s + duration_s
        while (now_s := time.monotonic()) < until_s or sent > arrived + forgiven:
            while now_s < until_s and sent - arrived - forgiven < window:
                sock.send(batch)
                sent += len(batch)
            try:
                before = arrived
                arrived, arrived_datagrams = _ACKNOWLEDGEMENT.unpack(sock.recv(64))
                window = min(window + len(batch) * max(arrived - before, 0) // window, MOST_WINDOW_BYTES)
            except TimeoutError:
                forgiven = sent - arrived
                window = max(window // 2, len(batch))
    return {
        "sent_datagrams": sent // DATAGRAM_BYTES,
        "arrived_datagrams": arrived_datagrams,
        "arrived_bytes": arrived,
        "duration_s": time.monotonic() - started_s,
    }


if __name__ == "__main__":
    if sys.argv[1] == "sink":
        sink(int(sys.argv[2]))
    else:
        print(json.dumps(send(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))))
