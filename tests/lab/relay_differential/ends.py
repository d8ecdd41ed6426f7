"""One end of a conversation: does its steps on a real socket while it reads, and writes down what it saw."""

from __future__ import annotations

import array
import contextlib
import fcntl
import random
import select
import socket
import struct
import termios
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from .script import Do, Reading, Step

SIOCOUTQ = termios.TIOCOUTQ
TICK_S = 0.001
"""How often a state is looked at that no event tells of (the send queue, the other end's steps)."""
_RESET_NOW = struct.pack("ii", 1, 0)
_DEAD = select.POLLERR | select.POLLHUP
_PATTERN = memoryview(random.Random(9407).randbytes(40 << 20))
_LARGEST = 16 << 20


def pattern(salt: int) -> memoryview:
    """Return the bytes that an end sends: each position differs from its neighbours, each salt from all others."""
    start = salt * 7919 % (len(_PATTERN) - _LARGEST)
    return _PATTERN[start : start + _LARGEST]


class Ended(StrEnum):
    """How the receiving direction of an end ended, as far as the end looked."""

    EOF = "eof"
    RESET = "reset"
    OWN_CLOSE = "own close"
    """It closed or reset the connection itself before it saw another end."""
    HUNG = "hung"
    """Nothing happened until the time was up."""
    NOT_CONNECTED = "not connected"


@dataclass(slots=True)
class Seen:
    """What an end saw and did. `spoiled_at` is the first received byte that the other end had not sent there."""

    sent_bytes: int = 0
    received_bytes: int = 0
    spoiled_at: int | None = None
    ended: Ended = Ended.NOT_CONNECTED
    reset_while_sending: bool = False
    """A send failed, or the kernel reported the death of the connection."""
    sent_fin: bool = False
    """It shut down or closed with nothing unread, so that its kernel owes the other end a FIN."""
    aborted: bool = False
    """It closed or reset so that what the other end still says is lost: the other end may see a reset."""
    before_its_cause: str = ""
    """An EOF or a reset that came before the other end had done anything that could cause it."""
    stuck_at: str = ""

    def __str__(self) -> str:
        flags = [name for name in ("reset_while_sending", "sent_fin", "aborted") if getattr(self, name)]
        if self.spoiled_at is not None:
            flags.append(f"SPOILED AT {self.spoiled_at}")
        flags += [text for text in (self.before_its_cause, self.stuck_at) if text]
        return f"sent {self.sent_bytes}, received {self.received_bytes}, {self.ended} {flags or ''}"


class End:
    """Runs the steps of one end. `run` blocks; the other end runs in another thread and is given to `meet`."""

    _sock: socket.socket

    def __init__(self, steps: Iterable[Step], reading: Reading, sends: memoryview, expects: memoryview) -> None:
        self.seen = Seen()
        self.finished = False
        self.meetings = 0
        self._steps = list(steps)
        self._reading = reading
        self._sends = sends
        self._expects = expects
        self._position = 0
        self._left_to_send = -1
        self._pause_until_s = 0.0
        self._read_at_s = 0.0
        self._slow_reads = reading.slow_reads
        self._reads = True
        self._send_failed = False
        self._took_reset = False
        self._open = True
        self._peer: End | None = None

    def meet(self, peer: End) -> None:
        """Make the other end known: for the MEET steps, and to tell an end from an end without a cause."""
        self._peer = peer

    def run(self, sock: socket.socket, until_s: float) -> None:
        """Do all steps on a connected socket, read to the end and close it; give up at the monotonic time `until_s`."""
        self._sock = sock
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poller = select.poll()
        poller.register(sock, 0)
        try:
            while self._open:
                wait_s = self._advance()
                if not self._open:
                    break
                now_s = time.monotonic()
                if now_s >= until_s:
                    self._give_up()
                    break
                self._await_event(poller, now_s, min(wait_s, until_s - now_s))
        finally:
            self.finished = True
            sock.close()

    # The steps

    def _advance(self) -> float:
        """Do what can be done now; return the seconds after which to look again."""
        while self._open:
            if self._position == len(self._steps):
                self._shutdown()
                if not self._reads_on():
                    self._close()
                return TICK_S * 1000
            step = self._steps[self._position]
            wait_s = self._do(step)
            if wait_s > 0:
                return wait_s
            self._position += 1
        return 0.0

    def _reads_on(self) -> bool:
        return self.seen.ended is Ended.NOT_CONNECTED

    def _do(self, step: Step) -> float:
        """Do a step; return 0 when it is done, else the seconds after which to try again."""
        match step.do:
            case Do.SEND:
                return self._send(step.amount, 0)
            case Do.SEND_MORE:
                return self._send(step.amount, socket.MSG_MORE)
            case Do.PAUSE:
                return self._pause(step.amount / 1e6)
            case Do.AWAIT_BYTES:
                return 1.0 if self._reads_on() and self.seen.received_bytes < step.amount else 0.0
            case Do.AWAIT_EOF:
                return 1.0 if self._reads_on() else 0.0
            case Do.AWAIT_RESET:
                return 0.0 if self._is_dead() else TICK_S
            case Do.AWAIT_ARRIVAL:
                return 0.0 if self._queued(termios.FIONREAD) or self._is_dead() else TICK_S
            case Do.SETTLE:
                return 0.0 if self._send_failed or not self._queued(SIOCOUTQ) or self._is_dead() else TICK_S
            case Do.MEET:
                return self._await_peer()
            case Do.STOP_READING:
                self._reads = False
            case Do.SHUTDOWN:
                self._shutdown()
            case Do.CLOSE:
                self._close()
            case Do.RESET:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_NOW)
                self.seen.aborted = True
                self._leave()
        return 0.0

    def _pause(self, duration_s: float) -> float:
        now_s = time.monotonic()
        if self._pause_until_s == 0.0:
            self._pause_until_s = now_s + duration_s
        if now_s < self._pause_until_s:
            return self._pause_until_s - now_s
        self._pause_until_s = 0.0
        return 0.0

    def _await_peer(self) -> float:
        """Wait until the other end has come to as many meetings, or is gone."""
        peer = self._peer
        position_met = sum(step.do is Do.MEET for step in self._steps[: self._position + 1])
        self.meetings = position_met
        return 0.0 if peer is None or peer.finished or peer.meetings >= position_met else TICK_S

    def _send(self, amount: int, flags: int) -> float:
        if self._left_to_send < 0:
            self._left_to_send = amount
        while self._left_to_send and not self._send_failed:
            start = self.seen.sent_bytes
            try:
                sent = self._sock.send(self._sends[start : start + self._left_to_send], flags)
            except BlockingIOError:
                return 1.0
            except (ConnectionResetError, BrokenPipeError) as error:
                self._send_failed = self.seen.reset_while_sending = True
                self._took_reset = isinstance(error, ConnectionResetError)
                self._check_cause("a send failed")
                break
            self.seen.sent_bytes += sent
            self._left_to_send -= sent
        self._left_to_send = -1
        return 0.0

    def _shutdown(self) -> None:
        if self.seen.sent_fin or self._send_failed:
            return
        self.seen.sent_fin = True
        with contextlib.suppress(OSError):  # ENOTCONN: the other end has reset it already
            self._sock.shutdown(socket.SHUT_WR)

    def _close(self) -> None:
        """Close; the kernel turns that into a reset if something is unread, or when more arrives."""
        self.seen.aborted = self._reads_on()
        if not self._queued(termios.FIONREAD):
            self.seen.sent_fin = True
        self._leave()

    def _leave(self) -> None:
        if self._reads_on():
            self.seen.ended = Ended.OWN_CLOSE
        self._open = False
        self._sock.close()

    def _give_up(self) -> None:
        if self._position < len(self._steps):
            self.seen.stuck_at = f"stuck at {self._steps[self._position]}"
        self.seen.ended = Ended.HUNG
        self.seen.aborted = True
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_NOW)
        self._open = False
        self._sock.close()

    # The events

    def _await_event(self, poller: select.poll, now_s: float, wait_s: float) -> None:
        reads = self._reads and self._reads_on()
        if reads and now_s < self._read_at_s:
            wait_s = min(wait_s, self._read_at_s - now_s)
            reads = False
        sends = self._left_to_send > 0
        if not reads and not sends:
            time.sleep(min(wait_s, 0.02))  # POLLHUP can't be masked: polling would spin
            return
        poller.modify(self._sock, (select.POLLIN if reads else 0) | (select.POLLOUT if sends else 0))
        ready = poller.poll(wait_s * 1000)
        if reads and ready and ready[0][1] & (select.POLLIN | _DEAD):
            self._read()

    def _read(self) -> None:
        slow = self._slow_reads > 0
        try:
            received = self._sock.recv(self._reading.chunk if slow else 262144)
        except BlockingIOError:
            return
        except (ConnectionResetError, BrokenPipeError):
            self.seen.ended = Ended.RESET
            self._check_cause("a reset came")
            return
        except OSError as error:
            self.seen.stuck_at = f"connect: {error}"
            self._open = False
            return
        seen = self.seen
        if not received:
            # A send that fails with ECONNRESET takes the error away: the kernel then says EOF where it would have said
            # reset. EPIPE is another matter: the FIN had come before the reset.
            seen.ended = Ended.RESET if self._took_reset else Ended.EOF
            if seen.ended is Ended.EOF and self._peer is not None and not self._peer.seen.sent_fin:
                seen.before_its_cause = "EOF before the other end's FIN"
            return
        end = seen.received_bytes + len(received)
        if seen.spoiled_at is None and self._expects[seen.received_bytes : end].tobytes() != received:
            seen.spoiled_at = seen.received_bytes
        seen.received_bytes = end
        if slow:
            self._slow_reads -= 1
            self._read_at_s = time.monotonic() + self._reading.pause_us / 1e6

    def _check_cause(self, what: str) -> None:
        if self._peer is not None and not self._peer.seen.aborted:
            self.seen.before_its_cause = f"{what} though the other end had not closed"

    def _is_dead(self) -> bool:
        poller = select.poll()
        poller.register(self._sock, 0)
        dead = bool(poller.poll(0))
        if dead and self._position < len(self._steps) and self._steps[self._position].do is Do.AWAIT_RESET:
            self.seen.reset_while_sending = True
        return dead

    def _queued(self, request: int) -> int:
        answer = array.array("i", [0])
        fcntl.ioctl(self._sock, request, answer)
        return answer[0]
