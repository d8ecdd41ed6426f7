"""Files as they come: missing, unreadable, too large, not text; and several of them together."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from lbd.config import ConfigErrors, default_paths, load
from lbd.config.files import MAX_FILE_BYTES
from lbd.model.address import Endpoint

ENGINE = "service_engine: {frontend_interface: eth0}\n"
SERVICE = "virtual_services: [{name: NAME, vip: VIP, port: 80, pool: {members: [{address: 10.1.0.1, port: 80}]}}]\n"


def service(name: str, vip: str) -> str:
    return SERVICE.replace("NAME", name).replace("VIP", vip)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "lbd.yaml:1:1: is empty"),
        (b"\n# only a comment\n", "lbd.yaml:1:1: is empty"),
        (b"---\n", "lbd.yaml:2:1: is empty"),
        (b"\xef\xbb\xbf", "lbd.yaml:1:1: is empty"),
        (b"a: b\n\xff\xfe", "lbd.yaml:2:1: the byte 0xff is not UTF-8"),
        ("ü: ".encode() + b"\xc3(", "lbd.yaml:1:4: the byte 0xc3 is not UTF-8"),
        (b"a: \xed\xa0\x80\n", "lbd.yaml:1:4: the byte 0xed is not UTF-8"),
        ("metrics: {}\n".encode("utf-16"), "lbd.yaml:1:1: is UTF-16: save it as UTF-8"),
        (b"metrics:\n  listen: \x00\n", "lbd.yaml:2:11: the character U+0000 may not stand in YAML"),
        (b"\xef\xbb\xbfa: \x1b[31m\n", "lbd.yaml:1:4: the character U+001B may not stand in YAML"),
        (b"\x7fELF\x02\x01\x01" + bytes(64), "lbd.yaml:1:1: the character U+007F may not stand in YAML"),
    ],
)
def test_file_that_is_no_yaml_text_is_one_error_with_its_place(content, line, errors_of):
    assert errors_of(content) == [line]


def test_byte_order_mark_is_skipped(errors_of):
    assert errors_of(b"\xef\xbb\xbf" + ENGINE.encode()) == []


def test_carriage_returns_are_line_ends(errors_of):
    assert errors_of(ENGINE.replace("\n", "\r\n") + "metrics: {}\r\nadmin: 1\r\n") == [
        "lbd.yaml:3:8: admin: must be a mapping, not 1"
    ]


def test_missing_file_directory_and_impossible_names_are_errors(tmp_path):
    for path, reason in (
        (tmp_path / "absent.yaml", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / "a\0b", "embedded null byte"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(ConfigErrors) as found:
            load([path], 1)
        assert [str(error) for error in found.value.errors] == [f"{path}:1:1: can't be read: {reason}"]


def test_file_without_permission_is_an_error(write, tmp_path):
    (path,) = write({"lbd.yaml": ENGINE})
    path.chmod(0)
    tmp_path.chmod(0o755)
    user = os.geteuid()
    if user == 0:  # who may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(ConfigErrors, match=r"^lbd\.yaml:1:1: can't be read: Permission denied$"):
            load([path], 1)
    finally:
        os.seteuid(user)


def test_file_of_100_megabytes_is_refused_without_being_read(tmp_path):
    path = tmp_path / "huge.yaml"
    with open(path, "wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(ConfigErrors, match="is larger than 8 MiB: this is no configuration file"):
        load([path], 1)
    with pytest.raises(ConfigErrors, match="is larger than 8 MiB"):
        load([Path("/dev/zero")], 1)


def test_file_at_the_size_limit_is_read(errors_of):
    assert errors_of(ENGINE.ljust(MAX_FILE_BYTES, "#")) == []
    assert len(errors_of(ENGINE.ljust(MAX_FILE_BYTES + 1, "#"))) == 1


def test_pipe_is_read_to_its_end(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    pieces = (ENGINE, service("web", "10.0.0.1"))

    def feed() -> None:
        with open(path, "wb", buffering=0) as pipe:
            for piece in pieces:
                pipe.write(piece.encode())

    thread = threading.Thread(target=feed)
    thread.start()
    desired = load([path], 1)
    thread.join()
    assert desired.vips == ("10.0.0.1",)


def test_monitors_and_services_of_several_files_add_up(write):
    paths = write(
        {
            "a.yaml": ENGINE + service("web", "10.0.0.1").replace("pool: {", "pool: {health_monitors: [m], "),
            "b.yaml": "health_monitors: {m: {type: ping}}\nadmin: {socket: /tmp/x}\n" + service("shop", "10.0.0.2"),
            "c.yaml": "metrics: {listen: '[::1]:1'}\n",
        }
    )
    desired = load(paths, 7)
    assert desired.generation == 7
    assert [one.name for one in desired.virtual_services] == ["web", "shop"]
    assert [one.name for one in desired.virtual_services[0].pool.health_monitors] == ["m"]
    assert desired.admin_socket == "/tmp/x"
    assert desired.metrics_listen == Endpoint("::1", 1)
    assert desired.service_engine.frontend_interface == "eth0"


def test_what_files_may_not_share_is_an_error_with_both_places(errors_of):
    first = ENGINE + "metrics: {}\nadmin: {}\nhealth_monitors: {m: {type: ping}}\n" + service("web", "10.0.0.1")
    assert errors_of({"a.yaml": first, "b.yaml": "# another\n" + first}) == [
        "b.yaml:2:1: service_engine: is already at a.yaml:1:1: this section may stand in one file only",
        "b.yaml:3:1: metrics: is already at a.yaml:2:1: this section may stand in one file only",
        "b.yaml:4:1: admin: is already at a.yaml:3:1: this section may stand in one file only",
        "b.yaml:5:19: health_monitors.m: is already defined at a.yaml:4:19",
        'b.yaml:6:27: virtual_services[0].name: "web" is already taken at a.yaml:5:27',
        'b.yaml:6:37: virtual_services[0].vip: 10.0.0.1:80/tcp is already taken by virtual service "web" at '
        "a.yaml:5:37",
    ]


def test_errors_come_file_by_file_as_given(errors_of):
    assert errors_of({"z.yaml": "a: 1\n", "a.yaml": "b: 1\n"}) == [
        "z.yaml:1:1: a: is an unknown key; known here: "
        "service_engine, metrics, admin, health_monitors, virtual_services, kubernetes, address_pools, profiles",
        "a.yaml:1:1: b: is an unknown key; known here: "
        "service_engine, metrics, admin, health_monitors, virtual_services, kubernetes, address_pools, profiles",
    ]


def test_nothing_is_said_to_be_missing_while_a_file_cannot_be_read(errors_of):
    using = service("web", "10.0.0.1").replace("pool: {", "pool: {health_monitors: [m], ")
    lines = errors_of({"a.yaml": using, "b.yaml": "service_engine: [\n"})
    assert [line.split(": ")[0] for line in lines] == ["b.yaml:2:1"]


def test_one_file_given_twice_is_one_error(write, tmp_path):
    (path,) = write({"lbd.yaml": ENGINE})
    for other in (path, tmp_path / "lbd.yaml", Path("./x/../lbd.yaml")):
        with pytest.raises(ConfigErrors) as found:
            load([path, other], 1)
        assert [str(error) for error in found.value.errors] == [f"{other}:1:1: is the same file as lbd.yaml"]


def test_no_file_at_all_is_the_callers_mistake():
    with pytest.raises(ValueError, match="no configuration file"):
        load([], 1)


def test_default_paths_are_the_main_file_and_the_parts_in_lexical_order(tmp_path):
    main, parts = tmp_path / "lbd.yaml", tmp_path / "conf.d"
    assert default_paths(tmp_path) == [main]
    parts.mkdir()
    assert default_paths(tmp_path) == [main]
    for name in ("20-b.yaml", "10-a.yaml", "README", "x.yml", ".hidden.yaml", "old.yaml~"):
        (parts / name).touch()
    assert default_paths(tmp_path) == [parts / "10-a.yaml", parts / "20-b.yaml"]
    main.touch()
    assert default_paths(tmp_path) == [main, parts / "10-a.yaml", parts / "20-b.yaml"]


def test_parts_that_cannot_be_listed_are_an_error_and_not_left_out(tmp_path):
    (tmp_path / "conf.d").touch()
    with pytest.raises(ConfigErrors, match=r"conf\.d:1:1: can't be listed: Not a directory"):
        default_paths(tmp_path)
