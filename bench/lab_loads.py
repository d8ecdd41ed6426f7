"""The loads: how each is put on a balancer from the client's namespace, by which program."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from lab_balancers import Balancer
from lab_readers import LoadResult, read_dnsperf, read_h2load, read_iperf3, read_udp_bulk
from lab_testbed import BULK, BULK_UDP, DNS, DNS_ONE, HERE, HTTP, Testbed

CONNECTIONS = 64
OUTSTANDING_QUERIES = 300
OPEN_LOOP_CONNECTIONS = 64
PIPELINED = 16
"""Requests that one connection of the open-loop generator may have under way: one that is due does not wait for the
answer before it."""
LATENCY_TIMES = 3
"""The slowest hundredth of 2 s is a matter of a few dozen milliseconds of the clients' CPU: it varies by half."""
_SLACK_S = 30

Put = Callable[[Testbed, Balancer, int], LoadResult]


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load; `put` puts it on a balancer for some seconds, `times` times a round.

    `put` raises ValueError, subprocess.SubprocessError or RuntimeError when the generator could not do its work.
    """

    name: str
    put: Put
    times: int = 1


def http(name: str, *, port: int = HTTP, path: str = "/", connections: int = CONNECTIONS, close: bool = False) -> Load:
    """Return a load of requests by wrk, as many as it can; `close` makes a connection for each."""

    def put(bed: Testbed, balancer: Balancer, duration_s: int) -> LoadResult:
        return bed.load(balancer.at(port), duration_s, connections, path, close=close)

    return Load(name, put)


def bulk(name: str, streams: int, *, port: int = BULK) -> Load:
    """Return downloads by iperf3 over some connections."""

    def put(bed: Testbed, balancer: Balancer, duration_s: int) -> LoadResult:
        address = balancer.at(port)
        argv = [
            "iperf3",
            "-c",
            address[0],
            "-p",
            str(address[1]),
            "-t",
            str(duration_s),
            "-P",
            str(streams),
            "-R",
            "-J",
        ]
        with bed.iperf3_server():
            done = bed.lab.client.run(argv, check=False, timeout_s=duration_s + _SLACK_S)
        return read_iperf3(done.stdout)

    return Load(name, put)


def queries(name: str, *, port: int = DNS, per_second: int = 0, patience_s: int = 1) -> Load:
    """Return DNS queries by dnsperf, as many as it can or as many as it is told. One that is not answered within
    `patience_s` is lost; dnsperf's own 5 s would stretch a short run."""

    def put(bed: Testbed, balancer: Balancer, duration_s: int) -> LoadResult:
        names = bed.directory / "queries"
        names.write_text("".join(f"host{number}.bench A\n" for number in range(500)))
        address = balancer.at(port)
        argv = ["dnsperf", "-s", address[0], "-p", str(address[1]), "-d", str(names), "-l", str(duration_s)]
        argv += ["-c", str(CONNECTIONS), "-q", str(OUTSTANDING_QUERIES), "-t", str(patience_s)]
        argv += ["-Q", str(per_second)] if per_second else []
        done = bed.lab.client.run(argv, timeout_s=duration_s + _SLACK_S)
        return read_dnsperf(done.stdout)

    return Load(name, put)


def udp_bulk(name: str) -> Load:
    """Return one bulk flow over UDP by udp_bulk.py."""

    def put(bed: Testbed, balancer: Balancer, duration_s: int) -> LoadResult:
        address = balancer.at(BULK_UDP)
        argv = [sys.executable, str(HERE / "udp_bulk.py"), "send", address[0], str(address[1]), str(duration_s)]
        return read_udp_bulk(bed.lab.client.run(argv, timeout_s=duration_s + _SLACK_S).stdout)

    return Load(name, put)


def peak_per_second(bed: Testbed, balancer: Balancer, duration_s: int) -> float:
    """Return the requests per second that the open-loop generator gets answered when it is told no rate."""
    log = bed.directory / "h2load.log"
    log.unlink(missing_ok=True)
    argv = ["h2load", "--h1", "-t1", "-c", str(OPEN_LOOP_CONNECTIONS), "-D", str(duration_s), f"--log-file={log}"]
    done = bed.lab.client.run([*argv, _url(balancer)], timeout_s=duration_s + _SLACK_S)
    with log.open() as lines:
        return read_h2load(done.stdout, lines, asked=0).per_second


def open_loop(name: str, per_second: float) -> Load:
    """Return requests that are sent at this rate whatever comes back, by h2load.

    Connections begin a millisecond apart, so that their clocks are: h2load would else send from all at once.
    """

    def put(bed: Testbed, balancer: Balancer, duration_s: int) -> LoadResult:
        log = bed.directory / "h2load.log"
        log.unlink(missing_ok=True)
        asked = int(per_second * duration_s / OPEN_LOOP_CONNECTIONS) * OPEN_LOOP_CONNECTIONS
        argv = ["h2load", "--h1", "-t1", "-c", str(OPEN_LOOP_CONNECTIONS), "-m", str(PIPELINED), "-n", str(asked)]
        argv += ["-r", "1", "--rate-period=1ms", "--rps", f"{per_second / OPEN_LOOP_CONNECTIONS:.3f}"]
        done = bed.lab.client.run([*argv, f"--log-file={log}", _url(balancer)], timeout_s=duration_s + _SLACK_S)
        with log.open() as lines:
            return read_h2load(done.stdout, lines, asked, per_second)

    return Load(name, put, LATENCY_TIMES)


def _url(balancer: Balancer) -> str:
    address = balancer.at(HTTP)
    return f"http://{address[0]}:{address[1]}/"


KEEP_ALIVE = http("keep-alive requests")
SHORT = http("new connection per request", close=True)
BULK_ONE = bulk("bulk, one stream", 1)
BULK_EIGHT = bulk("bulk, eight streams", 8)
QUERIES = queries("UDP queries")
QUERIES_ONE_RESPONSE = queries("UDP queries, a flow each", port=DNS_ONE)
BULK_DATAGRAMS = udp_bulk("UDP bulk, one flow")
LATENCY_SHARES = {"latency at 30 %": 0.3, "latency at 80 %": 0.8}
"""Of the peak of the best of HAProxy and nginx; one rate for everybody."""
