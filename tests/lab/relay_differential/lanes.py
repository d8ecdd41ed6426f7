"""Runs many conversations at a time: a lane is one virtual service with one member, and one conversation at a time."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lbd.cli.demo.namespace import Namespace

from .ends import End, pattern
from .judge import Outcome, differences, faults
from .script import CLIENT, SENDS, SERVER, Script, Step

LIMIT_S = 12.0
"""A conversation that has not ended by then hangs: the longest generated one takes about a second."""
GRACE_S = 0.7
"""How long after the client's reset a connection may still reach the server."""
FIRST_PORT = 20_000
"""Below the ports that connections get by themselves: a lane opens its port anew for each script."""
_salts = itertools.count(1)

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one script showed."""

    script: Script
    lane: int
    direct: Outcome
    relayed: Outcome
    harness_faults: tuple[str, ...]
    """Rules that the direct connection broke: the rules are wrong then, not the relay."""
    relay_faults: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"lane {self.lane}: {self.script}\n    direct:  {self.direct}\n    relayed: {self.relayed}\n"
            + "".join(f"    HARNESS: {text}\n" for text in self.harness_faults)
            + "".join(f"    FAULT: {text}\n" for text in self.relay_faults)
        )


SocketMaker = Callable[[int], socket.socket]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a lane's sockets are made, and the address of its member. A maker takes the address family."""

    host: str
    make_member_socket: SocketMaker
    make_client_socket: SocketMaker
    make_direct_socket: SocketMaker
    """Makes the client's socket where it reaches the member without a relay."""


class Lane:
    """One member's listening socket, and where the relay accepts for it."""

    def __init__(self, index: int, place: Place) -> None:
        self.index = index
        self._place = place
        self.family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
        self.member: Address = (place.host, FIRST_PORT + index)
        self.vip: Address | None = None
        self._listen(0)

    def close(self) -> None:
        """Close the member's socket."""
        self._listener.close()

    def judge(self, script: Script, limit_s: float = LIMIT_S) -> Verdict:
        """Run a script directly and through the relay."""
        assert self.vip is not None
        direct = self.run(script, self._place.make_direct_socket(self.family), self.member, limit_s)
        relayed = self.run(script, self._place.make_client_socket(self.family), self.vip, limit_s)
        return Verdict(
            script,
            self.index,
            direct,
            relayed,
            tuple(faults(script, direct)),
            tuple(faults(script, relayed) + differences(script, direct, relayed)),
        )

    def run(self, script: Script, sock: socket.socket, target: Address, limit_s: float) -> Outcome:
        """Run a script once, the client connecting `sock` to `target`."""
        self._listener.close()
        self._listen(script.server_reading.receive_buffer)
        until_s = time.monotonic() + limit_s
        to_server, to_client = pattern(next(_salts)), pattern(next(_salts))
        client = End(script.steps_of(CLIENT), script.client_reading, to_server, to_client)
        server = End(script.steps_of(SERVER), script.server_reading, to_client, to_server)
        client.meet(server)
        server.meet(client)
        thread = threading.Thread(target=self._run_client, args=(client, script, sock, target, until_s), daemon=True)
        thread.start()
        accepted = self._accept(client, until_s)
        if accepted is None:
            server.finished = True
        else:
            server.run(accepted, until_s)
        thread.join()
        return Outcome(client.seen, server.seen, self._extra_connections())

    def _listen(self, receive_buffer: int) -> None:
        """Listen anew, so that nothing is left of the script before, with the receive buffer that connections inherit.

        A buffer that is made smaller after the handshake leaves the sender with a window that is no more: its reset
        then lies outside of the window, and nobody sends it again.
        """
        self._listener = self._place.make_member_socket(self.family)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.bind(self.member)
        self._listener.listen(64)
        self._listener.settimeout(0.02)

    def _run_client(self, client: End, script: Script, sock: socket.socket, target: Address, until_s: float) -> None:
        if script.client_reading.receive_buffer:  # before the handshake: the window scale is made of it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, script.client_reading.receive_buffer)
        sock.setblocking(False)
        sock.connect_ex(target)
        # No look at SO_ERROR: that would take away a reset that has come by now, and connect() looks too.
        poller = select.poll()
        poller.register(sock, select.POLLOUT)
        poller.poll(max(0.1, until_s - time.monotonic()) * 1000)
        client.run(sock, until_s)

    def _accept(self, client: End, until_s: float) -> socket.socket | None:
        """Return the connection of a script, or None if none came."""
        while time.monotonic() < until_s:
            try:
                return self._listener.accept()[0]
            except TimeoutError:
                if client.finished:
                    until_s = min(until_s, time.monotonic() + GRACE_S)
        return None

    def _extra_connections(self) -> int:
        self._listener.setblocking(False)
        count = 0
        try:
            while True:
                self._listener.accept()[0].close()
                count += 1
        except BlockingIOError:
            return count
        finally:
            self._listener.settimeout(0.02)


def answer_every_stray_reset(namespace: Namespace) -> None:
    """Let a namespace's kernel answer every reset that lies outside of the window.

    With the usual limit of two answers a second some resets get lost for ever, with a relay and without.
    """
    namespace.set_sysctl("net/ipv4/tcp_invalid_ratelimit", 0)


class Lanes:
    """A set of lanes and the threads that serve them. The places follow each other in blocks: first IPv4, then IPv6."""

    def __init__(self, count: int, places: Sequence[Place]) -> None:
        self.lanes = [Lane(index, places[index * len(places) // count]) for index in range(count)]
        self._threads = concurrent.futures.ThreadPoolExecutor(count, thread_name_prefix="lane")

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._threads.shutdown()
        for lane in self.lanes:
            lane.close()

    def judge(self, scripts: Sequence[Script], limit_s: float = LIMIT_S) -> list[Verdict]:
        """Run one script in each lane, all at the same time."""
        return list(self._threads.map(Lane.judge, self.lanes, scripts, itertools.repeat(limit_s)))

    def reduce(self, verdict: Verdict, for_s: float = 15.0, limit_s: float = 3.0) -> Verdict:
        """Look for a shorter script that still fails alone in its lane; return the shortest found."""
        until_s = time.monotonic() + for_s
        shortest, found = verdict, True
        while found:
            found = False
            for script in _simpler(shortest.script):
                if time.monotonic() > until_s:
                    return shortest
                again = self.lanes[verdict.lane].judge(script, limit_s)
                if again.relay_faults and not again.harness_faults:
                    shortest, found = again, True
                    break
        return shortest


def _simpler(script: Script) -> Iterator[Script]:
    """Yield scripts with a step less, a smaller amount, or plain reading. A lone MEET ends when the other end does."""
    plain = dataclasses.replace(
        script, client_reading=type(script.client_reading)(), server_reading=type(script.server_reading)()
    )
    if plain != script:
        yield plain
    for index, step in enumerate(script.steps):
        rest = (*script.steps[:index], *script.steps[index + 1 :])
        if _is_causal(rest):
            yield dataclasses.replace(script, steps=rest)
        for amount in {1, step.amount // 2} - {0, step.amount}:
            if step.amount > 1:
                steps = (*script.steps[:index], dataclasses.replace(step, amount=amount), *script.steps[index + 1 :])
                if _is_causal(steps):
                    yield dataclasses.replace(script, steps=steps)


def _is_causal(steps: tuple[Step, ...]) -> bool:
    """Return whether no end waits for bytes or for an end that nothing before it brings."""
    sent = {CLIENT: 0, SERVER: 0}
    ended = set()
    for step in steps:
        peer = SERVER if step.end == CLIENT else CLIENT
        if step.do in SENDS:
            sent[step.end] += step.amount
        elif step.do in ("shutdown", "close", "reset"):
            ended.add(step.end)
        elif (step.do == "await_bytes" and step.amount > sent[peer]) or (
            step.do in ("await_eof", "await_reset") and peer not in ended
        ):
            return False
    return True
