"""Each kind of value: what is taken, what it means, and the exact sentence about what is not."""

from __future__ import annotations

import pytest

from lbd.config import scalars
from lbd.model.address import Endpoint
from lbd.model.desired import AdminState, StatusRange

duration = scalars.duration("100ms", "2h")
admin_state = scalars.one_of(AdminState)


@pytest.mark.parametrize(
    ("reader", "written", "meant"),
    [
        (duration, "250ms", 0.25),
        (duration, "2s", 2.0),
        (duration, "10m", 600.0),
        (duration, "1h", 3600.0),
        (duration, "1m30s", 90.0),
        (duration, "1h1m1s1ms", 3661.001),
        (duration, "90m", 5400.0),
        (duration, "100ms", 0.1),
        (duration, "2h", 7200.0),
        (scalars.jitter, "0%", 0.0),
        (scalars.jitter, "10%", 0.1),
        (scalars.jitter, "2.5%", 0.025),
        (scalars.jitter, "50%", 0.5),
        (scalars.port, 1, 1),
        (scalars.port, 65535, 65535),
        (scalars.workers, "auto", None),
        (scalars.workers, 64, 64),
        (scalars.address, "10.0.0.1", "10.0.0.1"),
        (scalars.address, "2001:DB8:0::1", "2001:db8::1"),
        (scalars.listen, "[::]:9407", Endpoint("::", 9407)),
        (scalars.listen, "0.0.0.0:1", Endpoint("0.0.0.0", 1)),
        (scalars.listen, "off", None),
        (scalars.interface, "ens192.101", "ens192.101"),
        (scalars.interface, "a" * 15, "a" * 15),
        (scalars.socket_path, "/" + "a" * 106, "/" + "a" * 106),
        (scalars.request_path, "/healthz?full=1&x=%20", "/healthz?full=1&x=%20"),
        (scalars.host, "shop.example:8080", "shop.example:8080"),
        (scalars.host, "[2001:db8::1]:80", "[2001:db8::1]:80"),
        (scalars.status_range, 204, StatusRange(204, 204)),
        (scalars.status_range, "200-399", StatusRange(200, 399)),
        (scalars.payload, "PING\r\n", b"PING\r\n"),
        (scalars.payload, "ü", b"\xc3\xbc"),
        (scalars.name, "web_1.shop-a", "web_1.shop-a"),
        (scalars.name, "a" * 128, "a" * 128),
        (admin_state, "draining", AdminState.DRAINING),
        (scalars.flag, True, True),
    ],
)
def test_good_value_means_what_the_reference_says(reader, written, meant):
    assert reader(written) == meant


NO_UNIT = "has no unit: write {0}s, or use ms, m or h"
NOT_A_DURATION = "is not a duration: write it like 250ms, 2s, 10m, 1h or 1m30s"
NO_NAME = "is not a name: use letters, digits, '.', '_' and '-', with a letter or digit at both ends"
NO_REQUEST = "has characters that a request can't carry: write %20 for a blank, and no #"
NO_HOST = "is not a host (NAME, ADDRESS or [IPV6-ADDRESS], with or without :PORT)"
NO_INTERFACE = "is not the name of an interface (1-15 bytes without spaces, slashes and colons)"


@pytest.mark.parametrize(
    ("reader", "written", "sentence"),
    [
        (duration, 5, "5 " + NO_UNIT.format(5)),
        (duration, 0, "0 " + NO_UNIT.format(0)),
        (duration, "5", '"5" ' + NOT_A_DURATION),
        (duration, "1.5s", '"1.5s" ' + NOT_A_DURATION),
        (duration, "30s1m", '"30s1m" ' + NOT_A_DURATION),
        (duration, "1s1s", '"1s1s" ' + NOT_A_DURATION),
        (duration, "-1s", '"-1s" ' + NOT_A_DURATION),
        (duration, "1 s", '"1 s" ' + NOT_A_DURATION),
        (duration, "1S", '"1S" ' + NOT_A_DURATION),
        (duration, "\u0661s", '"\u0661s" ' + NOT_A_DURATION),
        (duration, "9999999999s", '"9999999999s" ' + NOT_A_DURATION),
        (duration, "", '"" ' + NOT_A_DURATION),
        (duration, True, "true " + NOT_A_DURATION),
        (duration, ["1s"], "a list " + NOT_A_DURATION),
        (duration, "0s", '"0s" is too short (at least 100ms)'),
        (duration, "99ms", '"99ms" is too short (at least 100ms)'),
        (duration, "2h1ms", '"2h1ms" is too long (at most 2h)'),
        (scalars.jitter, 10, "10 has no unit: write 10%"),
        (scalars.jitter, "51%", '"51%" is not a percentage from 0% to 50%'),
        (scalars.jitter, "50.001%", '"50.001%" is not a percentage from 0% to 50%'),
        (scalars.jitter, "-1%", '"-1%" is not a percentage from 0% to 50%'),
        (scalars.port, 0, "0 is not a port (1-65535)"),
        (scalars.port, 65536, "65536 is not a port (1-65535)"),
        (scalars.port, -80, "-80 is not a port (1-65535)"),
        (scalars.port, True, "true is not a port (1-65535)"),
        (scalars.port, "80", '"80" is not a port (1-65535): write the number without quotes'),
        (scalars.port, "022", '"022" is not a port (1-65535): write the number without leading zeros'),
        (scalars.port, "12:30", '"12:30" is not a port (1-65535)'),
        (scalars.port, "1_000", '"1_000" is not a port (1-65535)'),
        (scalars.port, "8e1", '"8e1" is not a port (1-65535)'),
        (scalars.port, {}, "a mapping is not a port (1-65535)"),
        (scalars.weight, 0, "0 is not a weight (1-1000)"),
        (scalars.weight, 1001, "1001 is not a weight (1-1000)"),
        (scalars.workers, 65, "65 is not a number of workers (1-64), and not auto"),
        (scalars.workers, "Auto", '"Auto" is not a number of workers (1-64), and not auto'),
        (scalars.flag, "yes", '"yes" is not true or false'),
        (scalars.name, 22, '22 must be text: put it in quotes ("22") if text is meant'),
        (scalars.name, "", '"" ' + NO_NAME),
        (scalars.name, "a b", '"a b" ' + NO_NAME),
        (scalars.name, "shop/web", '"shop/web" ' + NO_NAME),
        (scalars.name, "-a", '"-a" ' + NO_NAME),
        (scalars.name, 'a"\n\x1b[31m', '"a\\"\\n\\u001b[31m" ' + NO_NAME),
        (scalars.name, "a" * 129, f'"{"a" * 59}…" is too long for a name (at most 128 characters)'),
        (scalars.address, "web.example", '"web.example" is not an IP address: names are not looked up'),
        (
            scalars.address,
            "10.0.0.256",
            '"10.0.0.256" is not an IP address (each part is 0-255, without leading zeros)',
        ),
        (scalars.address, "010.0.0.1", '"010.0.0.1" is not an IP address (each part is 0-255, without leading zeros)'),
        (scalars.address, "10.0.0.1/32", '"10.0.0.1/32" is not an IP address: write it without a prefix length'),
        (scalars.address, "[2001:db8::1]", '"[2001:db8::1]" is not an IP address: write it without brackets'),
        (scalars.address, "", '"" is not an IP address'),
        (scalars.address, 167772161, '167772161 must be text: put it in quotes ("167772161") if text is meant'),
        (
            scalars.address,
            "fe80::1%eth0",
            '"fe80::1%eth0" has a zone id: only addresses that mean the same everywhere can be used',
        ),
        (
            scalars.address,
            "::ffff:10.0.0.1",
            '"::ffff:10.0.0.1" is an IPv4 address in IPv6 form: write 10.0.0.1',
        ),
        (scalars.listen, "9407", '"9407" is not ADDRESS:PORT, [IPV6-ADDRESS]:PORT or off'),
        (scalars.listen, ":9407", '"" is not an IP address'),
        (scalars.listen, "::1:9407", '"::1:9407" is not ADDRESS:PORT, [IPV6-ADDRESS]:PORT or off'),
        (scalars.listen, "[10.0.0.1]:80", '"[10.0.0.1]" is not an IP address: write it without brackets'),
        (scalars.listen, "10.0.0.1:0", "0 is not a port (1-65535)"),
        (scalars.listen, "10.0.0.1:99999", "99999 is not a port (1-65535)"),
        (scalars.listen, "224.0.0.1:80", '"224.0.0.1:80" is not an address to listen on'),
        (scalars.listen, False, 'false must be text: put it in quotes ("false") if text is meant'),
        (scalars.socket_path, "admin.sock", '"admin.sock" is not an absolute path of a socket'),
        (scalars.socket_path, "/run/lbd/", '"/run/lbd/" is not an absolute path of a socket'),
        (scalars.socket_path, "/run/\n", '"/run/\\n" is not an absolute path of a socket'),
        (
            scalars.socket_path,
            "/" + "ü" * 54,
            f'"/{"ü" * 54}" is too long for a unix socket (at most 107 bytes)',
        ),
        (scalars.interface, "a" * 16, f'"{"a" * 16}" ' + NO_INTERFACE),
        (scalars.interface, "eth0/1", '"eth0/1" ' + NO_INTERFACE),
        (scalars.interface, "eth 0", '"eth 0" ' + NO_INTERFACE),
        (scalars.interface, "eth0:1", '"eth0:1" ' + NO_INTERFACE),
        (scalars.interface, "..", '".." ' + NO_INTERFACE),
        (scalars.interface, "", '"" ' + NO_INTERFACE),
        (scalars.request_path, "healthz", '"healthz" does not begin with a slash'),
        (scalars.request_path, "/a b", '"/a b" ' + NO_REQUEST),
        (scalars.request_path, "/a\r\nX-Evil: 1", '"/a\\r\\nX-Evil: 1" ' + NO_REQUEST),
        (scalars.request_path, "/ü", '"/ü" ' + NO_REQUEST),
        (scalars.request_path, "/a#b", '"/a#b" ' + NO_REQUEST),
        (scalars.request_path, "/" * 2049, f'"{"/" * 59}…" is too long (at most 2048 characters)'),
        (scalars.host, "a\r\nX: y", '"a\\r\\nX: y" ' + NO_HOST),
        (scalars.host, "a b", '"a b" ' + NO_HOST),
        (scalars.host, ".a", '".a" ' + NO_HOST),
        (scalars.host, "a..b", '"a..b" ' + NO_HOST),
        (scalars.host, "user@a", '"user@a" ' + NO_HOST),
        (scalars.host, "", '"" ' + NO_HOST),
        (scalars.method, "POST", '"POST" is not GET, HEAD or OPTIONS'),
        (scalars.method, "get", '"get" is not GET, HEAD or OPTIONS'),
        (scalars.status_range, "399-200", '"399-200" is reversed: write 200-399'),
        (scalars.status_range, 99, "99 is not an HTTP status (100-599)"),
        (scalars.status_range, "200-600", "600 is not an HTTP status (100-599)"),
        (scalars.status_range, "2xx", '"2xx" is not a status or a range of them: write 200 or 200-399'),
        (scalars.payload, "x" * 1025, f'"{"x" * 59}…" is too long (at most 1024 bytes)'),
        (scalars.payload, 1, '1 must be text: put it in quotes ("1") if text is meant'),
        (scalars.payload, [], "must be text, not a list"),
        (admin_state, "drain", '"drain" is not enabled, draining or disabled; did you mean draining?'),
        (admin_state, "off", '"off" is not enabled, draining or disabled'),
        (scalars.protocol, "udp", "udp is not supported by this version (only tcp is)"),
        (scalars.protocol, "sctp", '"sctp" is not tcp'),
        (scalars.monitor_type, "udp", "udp is not supported by this version (tcp, http, https and ping are)"),
        (scalars.monitor_type, "htp", '"htp" is not tcp, http, https or ping; did you mean http?'),
    ],
)
def test_bad_value_is_refused_with_a_sentence_that_says_what_to_write(reader, written, sentence):
    with pytest.raises(ValueError) as refusal:
        reader(written)
    assert str(refusal.value) == sentence
