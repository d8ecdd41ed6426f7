"""Measures what checking many members by TCP costs: CPU of the checker's process, lateness, checks per second.

    .venv/bin/python bench/health.py [--members 5000] [--interval 5] [--seconds 15] [--limit 0.5]

The members are listening sockets on loopback addresses 127.x.y.z in a child process. The kernel does the members' half
of each handshake in the context of the one who sends, so the figure is higher than over a real network. Exit status 1
when the share of one core is at or over the limit, or a check failed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import resource
import select
import socket
import subprocess
import sys
import time

import structlog
import uvloop

from lbd.health.checker import HealthChecker
from lbd.model.address import Endpoint
from lbd.model.desired import HealthMonitor, MemberKey, MonitorType
from lbd.model.status import Health, MemberHealth

HTTP_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n"


def address_of(index: int) -> str:
    """Return the loopback address of a member; 127.0.x.x is left to others."""
    return f"127.{1 + index // 62500}.{index // 250 % 250}.{index % 250 + 1}"


def serve_members(count: int) -> None:
    """Listen on `count` addresses and one port, print the port, serve until stdin closes."""
    listeners: dict[int, socket.socket] = {}
    connections: dict[int, socket.socket] = {}
    poller = select.epoll()
    poller.register(sys.stdin.fileno(), select.EPOLLIN)
    port = 0
    for index in range(count):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address_of(index), port))
        port = listener.getsockname()[1]
        listener.listen(16)
        listener.setblocking(False)
        listeners[listener.fileno()] = listener
        poller.register(listener.fileno(), select.EPOLLIN)
    print(port, flush=True)
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == sys.stdin.fileno():
                return
            if descriptor in listeners:
                accept(listeners[descriptor], connections, poller)
            else:
                answer(connections.pop(descriptor))


def accept(listener: socket.socket, connections: dict[int, socket.socket], poller: select.epoll) -> None:
    """Accept one connection."""
    try:
        connection, _ = listener.accept()
    except OSError:  # reset before we came
        return
    connection.setblocking(False)
    connections[connection.fileno()] = connection
    poller.register(connection.fileno(), select.EPOLLIN)


def answer(connection: socket.socket) -> None:
    """Answer whatever was asked, once."""
    with connection:
        try:
            if connection.recv(4096):
                connection.sendall(HTTP_ANSWER)
        except OSError:  # the checker resets what it no longer needs
            return


def cpu_s() -> float:
    """Return the CPU time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(options: argparse.Namespace, port: int) -> int:
    """Run the checker against the members and print what it took."""
    changes: list[Health] = []

    def on_change(_: MemberKey, health: MemberHealth) -> None:
        changes.append(health.health)

    monitor = HealthMonitor("bench", MonitorType(options.type), interval_s=options.interval, timeout_s=2.0)
    keys = [MemberKey("bench", Endpoint(address_of(index), port)) for index in range(options.members)]
    checker = HealthChecker(on_change, rng=random.Random(1))
    await checker.start()
    started_s, started_cpu_s = time.monotonic(), cpu_s()
    checker.set_targets(dict.fromkeys(keys, (monitor,)))
    await checker.wait_first_results(keys)
    first_s, first_cpu_s = time.monotonic() - started_s, cpu_s() - started_cpu_s
    await asyncio.sleep(1.0)
    begin_s, begin_cpu_s, begin = time.monotonic(), cpu_s(), checker.statistics()
    await asyncio.sleep(options.seconds)
    end = checker.statistics()
    elapsed_s = time.monotonic() - begin_s
    share = (cpu_s() - begin_cpu_s) / elapsed_s
    checks = end.checks_total - begin.checks_total
    up = sum(checker.health_of(key).health is Health.UP for key in keys)
    await checker.close()
    print(
        f"members {options.members} ({up} up), {options.type} every {options.interval:g} s, {elapsed_s:.1f} s measured"
    )
    print(f"first results of all after {first_s:.2f} s, {first_cpu_s:.2f} s of CPU")
    per_check_us = share * elapsed_s / max(1, checks) * 1e6
    print(f"checks/s {checks / elapsed_s:.0f}, CPU of the checker {share:.3f} of a core, {per_check_us:.0f} us a check")
    print(
        f"lateness p50 {end.lateness_p50_s * 1e3:.1f} ms, p99 {end.lateness_p99_s * 1e3:.1f} ms, "
        f"max {end.lateness_max_s * 1e3:.1f} ms; loop lag max {end.loop_lag_max_s * 1e3:.1f} ms; void {end.voids_total}"
    )
    good = share < options.limit and up == options.members and set(changes) == {Health.UP}
    print(f"{'ok' if good else 'FAILED'}: limit {options.limit:g} of a core, every member up throughout")
    return 0 if good else 1


def main() -> int:
    """Parse the options, start the members, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=5000)
    parser.add_argument("--interval", type=float, default=5.0, help="seconds")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long to measure")
    parser.add_argument("--limit", type=float, default=0.5, help="share of one core")
    parser.add_argument("--type", choices=("tcp", "http"), default="tcp")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_members(options.members)
        return 0
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    command = [sys.executable, os.path.abspath(__file__), "--serve", "--members", str(options.members)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as members:
        assert members.stdout is not None
        port = int(members.stdout.readline())
        return uvloop.run(measure(options, port))


if __name__ == "__main__":
    sys.exit(main())
