"""Which clients share a lane: the program that the kernel will run, run here by a small interpreter of classic BPF."""

from __future__ import annotations

import ipaddress
from collections import Counter

import pytest

from lbd.model.address import Endpoint
from lbd.model.desired import Limits, Member, Persistence, Pool, VirtualService
from lbd.supervisor.steering import Group, Instruction, Steering, assemble, program, steering_of

NETWORK_HEADER = 0xFFF00000


def run(instructions: list[Instruction], packet: bytes) -> int:
    """Run the instructions that `program` uses (Documentation/networking/filter.rst), on a packet of IP."""
    a = x = place = 0
    while True:
        code, if_true, if_false, k = instructions[place]
        place += 1
        if code == 0x00:
            a = k
        elif code == 0x20:
            assert k >= NETWORK_HEADER
            a = int.from_bytes(packet[k - NETWORK_HEADER : k - NETWORK_HEADER + 4], "big")
        elif code == 0x54:
            a &= k
        elif code == 0x24:
            a = a * k & 0xFFFFFFFF
        elif code == 0x74:
            a >>= k
        elif code == 0x94:
            a %= k
        elif code == 0xAC:
            a ^= x
        elif code == 0x07:
            x = a
        elif code == 0x15:
            place += if_true if a == k else if_false
        elif code == 0x06:
            return k
        else:
            assert code == 0x16, hex(code)
            return a


def packet_from(source: str) -> bytes:
    address = ipaddress.ip_address(source)
    return bytes(12 if address.version == 4 else 8) + address.packed + b"\xaa" * 20


def lanes(steering: Steering, sources: list[str], count: int = 4, seed: int = 1) -> list[int]:
    instructions = program(steering, list(range(count)), seed)
    return [run(instructions, packet_from(source)) for source in sources]


def service(
    vip: str = "192.0.2.10",
    persistence: Persistence | None = None,
    limits: Limits | None = None,
    proxies: tuple[str, ...] = (),
) -> VirtualService:
    pool = Pool((Member(Endpoint("10.0.0.1", 80)),), persistence=persistence)
    return VirtualService("web", vip, 80, pool, limits=limits or Limits(), accept_proxy_protocol=proxies)


def test_a_service_that_remembers_no_client_is_not_steered() -> None:
    assert steering_of(service(), 4) is None
    assert steering_of(service(limits=Limits(max_connections=5, connection_rate=3)), 4) is None
    assert steering_of(service(proxies=("10.0.0.0/8",)), 4) is None


@pytest.mark.parametrize("limits", [Limits(max_connections_per_client=1), Limits(connection_rate_per_client=0.5)])
def test_limits_per_client_steer_by_the_whole_address(limits: Limits) -> None:
    assert steering_of(service(limits=limits), 4) == Steering(4, 32)
    assert steering_of(service("2001:db8::10", limits=limits), 4) == Steering(6, 128)


def test_persistence_steers_by_its_prefix_whatever_limits_there_are() -> None:
    persistence = Persistence(ipv4_prefix=24, ipv6_prefix=56)
    for limits in (Limits(), Limits(max_connections_per_client=1)):
        assert steering_of(service(persistence=persistence, limits=limits), 4) == Steering(4, 24)
        assert steering_of(service("2001:db8::10", persistence, limits), 4) == Steering(6, 56)


def test_behind_trusted_proxies_one_lane_gets_everybody() -> None:
    steering = steering_of(service(persistence=Persistence(), proxies=("10.0.0.0/8",)), 4)
    assert steering is not None
    assert steering.lane_of_all in range(4)
    assert len(set(lanes(steering, [f"10.0.0.{host}" for host in range(100)]))) == 1
    assert program(steering, [7, 7, 7, 7], 1) == [(0x06, 0, 0, 7)]


@pytest.mark.parametrize("prefix", [0, 1, 8, 17, 24, 31, 32])
def test_exactly_the_bits_of_an_ipv4_prefix_decide(prefix: int) -> None:
    base = int(ipaddress.ip_address("198.51.100.77"))
    inside = [str(ipaddress.ip_address(base ^ 1 << bit)) for bit in range(32 - prefix)]
    assert set(lanes(Steering(4, prefix), inside, 64)) <= set(lanes(Steering(4, prefix), ["198.51.100.77"], 64))
    for bit in range(32 - prefix, 32):  # over several seeds every bit of the prefix makes a difference
        other = str(ipaddress.ip_address(base ^ 1 << bit))
        assert any(len(set(lanes(Steering(4, prefix), ["198.51.100.77", other], 64, seed))) == 2 for seed in range(4))


@pytest.mark.parametrize("prefix", [0, 1, 32, 48, 63, 64, 65, 127, 128])
def test_exactly_the_bits_of_an_ipv6_prefix_decide(prefix: int) -> None:
    base = int(ipaddress.ip_address("2001:db8:1:2:3:4:5:6"))
    here = str(ipaddress.ip_address(base))
    inside = [str(ipaddress.ip_address(base ^ 1 << bit)) for bit in range(128 - prefix)]
    assert set(lanes(Steering(6, prefix), inside, 64)) <= set(lanes(Steering(6, prefix), [here], 64))
    for bit in range(128 - prefix, 128):
        other = str(ipaddress.ip_address(base ^ 1 << bit))
        assert any(len(set(lanes(Steering(6, prefix), [here, other], 64, seed))) == 2 for seed in range(4))


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("seed", [0, 1, 0xFFFFFFFF])
@pytest.mark.parametrize(
    ("steering", "sources"),
    [
        (Steering(4, 32), [f"10.1.{high}.{low}" for high in range(8) for low in range(1, 251)]),
        (Steering(4, 24), [f"10.{high}.{low}.9" for high in range(8) for low in range(1, 251)]),
        (Steering(6, 64), [f"2001:db8:{high:x}:{low:x}::1" for high in range(8) for low in range(1, 251)]),
        (Steering(6, 128), [f"2001:db8::{high:x}:0:0:{low:x}" for high in range(8) for low in range(1, 251)]),
    ],
)
def test_neighbouring_clients_are_spread_over_all_lanes(
    steering: Steering, sources: list[str], count: int, seed: int
) -> None:
    shares = Counter(lanes(steering, sources, count, seed))
    assert set(shares) == set(range(count))
    assert max(shares.values()) < 1.25 * len(sources) / count, shares


def test_a_lane_is_found_wherever_its_socket_stands() -> None:
    sources = [f"203.0.113.{host}" for host in range(200)]
    plain = program(Steering(4, 32), [0, 1, 2], 5)
    moved = program(Steering(4, 32), [4, 0, 2], 5)
    for source in sources:
        assert run(moved, packet_from(source)) == [4, 0, 2][run(plain, packet_from(source))]


def test_the_kernel_can_take_the_program_of_many_workers() -> None:
    instructions = program(Steering(6, 128), list(range(256, 0, -1)), 1)
    assert len(instructions) <= 4096  # BPF_MAXINSNS
    assert len(assemble(instructions)) == 8 * len(instructions)


def test_the_last_socket_of_a_group_takes_the_place_of_one_that_leaves() -> None:
    group = Group()
    for identity in (11, 12, 21, 22):
        group.joined(identity)
    assert group.places([21, 22]) == [2, 3]
    group.left(11)
    assert group.places([21, 22]) == [2, 0]
    group.left(12)
    assert group.places([21, 22]) == [1, 0]
    assert group.places([11, 21]) is None
