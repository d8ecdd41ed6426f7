"""What the load generators print is read as it is meant, and a failure never as a result."""

from __future__ import annotations

import json

import pytest
from lab_readers import percentile, read_dnsperf, read_h2load, read_iperf3, read_udp_bulk, read_wrk

WRK = """\
Running 1s test @ http://172.16.101.20/missing
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   673.72us    1.13ms   8.68ms   86.74%
    Req/Sec    26.85k     7.54k   46.85k    90.00%
  Latency Distribution
     50%  160.00us
     75%  565.00us
     90%    2.26ms
     99%    5.05ms
  26708 requests in 1.00s, 3.87MB read
Requests/sec:  26693.29
Transfer/sec:      3.87MB
"""
H2LOAD = """\
finished in 2.01s, 12800.00 req/s, 1.86MB/s
requests: 4 total, 4 started, 4 done, 4 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 4 2xx, 0 3xx, 0 4xx, 0 5xx
"""
DNSPERF = """\
Statistics:

  Queries sent:         25727
  Queries completed:    25707 (99.92%)
  Queries lost:         20 (0.08%)

  Response codes:       NOERROR 12854 (50.00%), REFUSED 12853 (50.00%)
  Average packet size:  request 30, response 55
  Run time (s):         1.007954
  Queries per second:   25504.140070
"""


def test_wrk_counts_requests_bytes_and_latencies_in_their_units() -> None:
    result = read_wrk(WRK)
    assert (result.operations, result.duration_s, result.errors) == (26708, 1.0, 0)
    assert result.received_bytes == int(3.87 * (1 << 20))
    assert (result.p50_ms, result.p99_ms) == (0.16, 5.05)
    assert result.per_second == 26708


def test_wrk_errors_are_failed_sockets_and_wrong_answers_together() -> None:
    text = WRK + "  Socket errors: connect 1, read 20, write 300, timeout 4000\n  Non-2xx or 3xx responses: 50000\n"
    assert read_wrk(text).errors == 54321


@pytest.mark.parametrize("text", ["", "unable to connect to 10.0.0.1:99 Connection refused\n"])
def test_wrk_that_could_not_connect_is_no_result(text: str) -> None:
    with pytest.raises(ValueError, match="wrk said"):
        read_wrk(text)


def test_h2load_takes_latencies_and_the_rate_from_its_log() -> None:
    log = ["1000000\t200\t900\n", "1500000\t200\t100\n", "2000000\t200\t300\n", "2000000\t200\t200\n"]
    result = read_h2load(H2LOAD, log, asked=4, offered_per_second=4.0)
    assert (result.operations, result.duration_s, result.errors) == (4, 1.0, 0)
    assert (result.p50_ms, result.p99_ms, result.offered_per_second) == (0.2, 0.9, 4.0)


def test_h2load_requests_that_were_asked_for_and_not_answered_are_errors() -> None:
    log = ["1000000\t200\t900\n", "2000000\t-1\t100\n", "2000000\t200\t300\n"]
    result = read_h2load(H2LOAD.replace("4 succeeded", "2 succeeded"), log, asked=6)
    assert (result.operations, result.errors) == (2, 4)


def test_h2load_failed_requests_make_no_latency_better() -> None:
    log = ["1000000\t200\t5000\n", "1500000\t-1\t1\n", "1600000\t503\t1\n", "2000000\t200\t5000\n"]
    assert read_h2load(H2LOAD, log, asked=4).p50_ms == 5.0


def test_h2load_without_answers_is_no_result() -> None:
    with pytest.raises(ValueError, match="h2load"):
        read_h2load(H2LOAD, [], asked=4)
    with pytest.raises(ValueError, match="h2load said"):
        read_h2load("could not connect", ["1000000\t200\t900\n"], asked=4)


def test_percentile_is_the_nearest_rank() -> None:
    hundred = [float(number) for number in range(1, 101)]
    assert [percentile(hundred, share) for share in (0.5, 0.99, 1.0, 0.0)] == [50, 99, 100, 1]
    assert percentile([7.0], 0.99) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_dnsperf_tells_lost_queries_from_wrong_answers() -> None:
    result = read_dnsperf(DNSPERF)
    assert (result.operations, result.lost, result.errors) == (25707, 20, 12853)
    assert result.duration_s == 1.007954


def test_dnsperf_that_lost_everything_is_a_result_of_nothing() -> None:
    text = "Queries completed:    0 (0.00%)\nQueries lost:   20 (100.00%)\nResponse codes:       \nRun time (s):  1.0\n"
    result = read_dnsperf(text)
    assert (result.operations, result.lost, result.errors) == (0, 20, 0)


def test_dnsperf_that_did_not_run_is_no_result() -> None:
    with pytest.raises(ValueError, match="dnsperf said"):
        read_dnsperf("Error: unable to open file\n")


def test_iperf3_counts_what_the_receiver_got() -> None:
    ends = {
        "sum_sent": {"seconds": 1.02, "bytes": 1_049_100_288},
        "sum_received": {"seconds": 1.0, "bytes": 992_073_608},
    }
    result = read_iperf3(json.dumps({"end": ends}))
    assert (result.operations, result.received_bytes, result.duration_s) == (992, 992_073_608, 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"end": {}}',
        '{"end": {}, "error": "unable to connect to server: Connection refused"}',
        '{"end": {"sum_received": {"bytes": 1, "seconds": 1}}, "error": "control socket has closed unexpectedly"}',
    ],
)
def test_iperf3_that_failed_is_no_result(text: str) -> None:
    with pytest.raises(ValueError, match="iperf3 said"):
        read_iperf3(text)


def test_udp_bulk_counts_what_arrived_and_what_was_lost() -> None:
    report = {"sent_datagrams": 120, "arrived_datagrams": 100, "arrived_bytes": 140_000, "duration_s": 2.0}
    result = read_udp_bulk(json.dumps(report))
    assert (result.operations, result.lost, result.received_bytes, result.per_second) == (100, 20, 140_000, 50)


def test_udp_bulk_of_which_nothing_arrived_is_no_result() -> None:
    with pytest.raises(ValueError, match=r"udp_bulk\.py said"):
        read_udp_bulk(json.dumps({"sent_datagrams": 40, "arrived_datagrams": 0}))
