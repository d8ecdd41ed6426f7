"""Claims about who serves behind a Service's port, by its EndpointSlices."""

from __future__ import annotations

import random

import pytest

from lbd.kubernetes.objects.kinds import EndpointSlice, ObjectKey, ServicePort, SliceEndpoint
from lbd.kubernetes.translation.endpoints import Server, Vetting, servers_of, slices_of
from lbd.model.desired import Protocol

HTTP = ServicePort("http", 80, Protocol.TCP)
PORTS = (("http", 8080, Protocol.TCP),)


def a_slice(
    *endpoints: SliceEndpoint, ports: tuple[tuple[str, int, Protocol], ...] = PORTS, family: int = 4
) -> EndpointSlice:
    return EndpointSlice(ObjectKey("shop", "web-a"), "web", family, ports, endpoints)


def ready(*addresses: str) -> SliceEndpoint:
    return SliceEndpoint(addresses)


def leaving(*addresses: str) -> SliceEndpoint:
    """Terminating, and still serving."""
    return SliceEndpoint(addresses, ready=False, serving=True, terminating=True)


def gone(*addresses: str) -> SliceEndpoint:
    """Terminating, and serving no longer."""
    return SliceEndpoint(addresses, ready=False, serving=False, terminating=True)


def unready(*addresses: str) -> SliceEndpoint:
    return SliceEndpoint(addresses, ready=False, serving=False)


def servers(*slices: EndpointSlice, port: ServicePort = HTTP) -> list[Server]:
    return servers_of(slices, port, Vetting(frozenset(), ()))


def refused(address: str, *, forbidden: frozenset[str] = frozenset(), pod_cidrs: tuple[str, ...] = ()) -> str | None:
    """Return why an endpoint is no member, None if it is one."""
    vetting = Vetting(forbidden, pod_cidrs)
    found = servers_of([a_slice(ready(address, "10.0.0.1"))], HTTP, vetting)
    assert Server("10.0.0.1", 8080, False) in found
    assert (Server(address, 8080, False) in found) == (address not in vetting.refused)
    return vetting.refused.get(address)


# Conditions.


def test_ready_endpoints_serve_and_others_do_not():
    one = a_slice(ready("10.0.0.1"), unready("10.0.0.2"), gone("10.0.0.3"))
    assert servers(one) == [Server("10.0.0.1", 8080, False)]


def test_one_that_is_leaving_drains_beside_one_that_is_ready():
    found = servers(a_slice(leaving("10.0.0.2"), ready("10.0.0.1")))
    assert found == [Server("10.0.0.1", 8080, False), Server("10.0.0.2", 8080, True)]


def test_without_a_ready_one_those_that_are_leaving_serve():
    found = servers(a_slice(leaving("10.0.0.2"), unready("10.0.0.1"), gone("10.0.0.3")))
    assert found == [Server("10.0.0.2", 8080, False)]


def test_nobody_serves_when_all_are_unready_or_gone():
    assert servers(a_slice(unready("10.0.0.1"), gone("10.0.0.2"))) == []
    assert servers() == []


def test_a_ready_endpoint_serves_though_it_is_terminating():
    """As publishNotReadyAddresses has it."""
    assert servers(a_slice(SliceEndpoint(("10.0.0.1",), ready=True, terminating=True))) == [
        Server("10.0.0.1", 8080, False)
    ]


def test_the_fallback_is_of_one_port():
    """Where the ready Pod has only one of two ports, the other port falls back to the Pod that is leaving."""
    both = (("http", 8080, Protocol.TCP), ("admin", 9000, Protocol.TCP))
    slices = (a_slice(ready("10.0.0.1")), a_slice(leaving("10.0.0.2"), ports=both))
    assert servers(*slices) == [Server("10.0.0.1", 8080, False), Server("10.0.0.2", 8080, True)]
    admin = ServicePort("admin", 90, Protocol.TCP)
    assert servers(*slices, port=admin) == [Server("10.0.0.2", 9000, False)]


def test_a_hostile_ready_endpoint_does_not_keep_others_from_serving():
    found = servers_of([a_slice(ready("127.0.0.1"), leaving("10.0.0.2"))], HTTP, Vetting(frozenset(), ()))
    assert found == [Server("10.0.0.2", 8080, False)]


# Ports.


def test_ports_are_matched_by_name_and_protocol():
    ports = (("http", 8080, Protocol.TCP), ("http", 8081, Protocol.UDP), ("", 8082, Protocol.TCP))
    one = a_slice(ready("10.0.0.1"), ports=ports)
    assert servers(one) == [Server("10.0.0.1", 8080, False)]
    assert servers(one, port=ServicePort("http", 80, Protocol.UDP)) == [Server("10.0.0.1", 8081, False)]
    assert servers(one, port=ServicePort("", 80, Protocol.TCP)) == [Server("10.0.0.1", 8082, False)]
    assert servers(one, port=ServicePort("8080", 8080, Protocol.TCP)) == []


def test_a_named_target_port_may_be_another_number_on_each_pod():
    slices = (
        a_slice(ready("10.0.0.1")),
        a_slice(ready("10.0.0.2"), ports=(("http", 9090, Protocol.TCP),)),
    )
    assert servers(*slices) == [Server("10.0.0.1", 8080, False), Server("10.0.0.2", 9090, False)]


# Merging.


def test_an_endpoint_in_several_slices_is_one_server():
    slices = (a_slice(ready("10.0.0.1"), ready("10.0.0.1", "10.0.0.2")), a_slice(ready("10.0.0.1")))
    assert servers(*slices) == [Server("10.0.0.1", 8080, False), Server("10.0.0.2", 8080, False)]


def test_one_that_is_ready_in_one_slice_and_leaving_in_another_is_ready():
    for endpoints in ((ready("10.0.0.1"), leaving("10.0.0.1")), (leaving("10.0.0.1"), ready("10.0.0.1"))):
        assert servers(*(a_slice(one) for one in endpoints)) == [Server("10.0.0.1", 8080, False)]


def test_the_order_of_servers_is_that_of_address_and_port_whatever_that_of_slices():
    addresses = [f"10.0.{high}.{low}" for high in range(3) for low in range(20)]
    expected = servers(a_slice(*(ready(address) for address in addresses)))
    assert [(one.address, one.port) for one in expected] == sorted((address, 8080) for address in addresses)
    shuffled = addresses[:]
    random.Random(4).shuffle(shuffled)
    assert servers(*(a_slice(ready(address)) for address in shuffled)) == expected


# Families.


def test_a_vip_has_the_slices_of_its_family():
    four, six = a_slice(ready("10.0.0.1")), a_slice(ready("fd00::1"), family=6)
    assert slices_of([four, six], 4) == [four]
    assert slices_of([four, six], 6) == [six]


def test_a_vip_without_endpoints_of_its_family_has_those_of_the_other():
    four, nothing = a_slice(ready("10.0.0.1")), a_slice(family=6)
    assert slices_of([four], 6) == [four]
    assert slices_of([four, nothing], 6) == [four]


def test_unready_endpoints_of_its_family_are_still_those_of_a_vip():
    four, six = a_slice(ready("10.0.0.1")), a_slice(unready("fd00::1"), family=6)
    assert slices_of([four, six], 6) == [six]


# Addresses.


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "a loopback address"),
        ("127.255.255.254", "a loopback address"),
        ("::1", "a loopback address"),
        ("169.254.169.254", "a link-local address"),
        ("fe80::1", "a link-local address"),
        ("224.0.0.1", "a multicast address"),
        ("ff02::1", "a multicast address"),
        ("0.0.0.0", "the unspecified address"),
        ("::", "the unspecified address"),
        ("255.255.255.255", "the broadcast address"),
        ("0.1.2.3", "an address of 0.0.0.0/8 (this network)"),
        ("::ffff:10.0.0.9", "an IPv4 address in IPv6 form"),
        ("::ffff:7f00:1", "an IPv4 address in IPv6 form"),
    ],
)
def test_an_address_that_no_pod_can_have_is_refused(address, reason):
    assert refused(address) == reason


@pytest.mark.parametrize("address", ["10.0.0.2", "240.0.0.1", "fd00::1", "192.0.2.1"])
def test_an_address_that_a_pod_can_have_is_taken(address):
    assert refused(address) is None


def test_a_vip_and_an_address_of_the_engine_are_refused():
    assert refused("10.0.0.9", forbidden=frozenset({"10.0.0.9"})) == "a VIP or an address of a service engine"


def test_pod_cidrs_are_all_that_members_may_have():
    cidrs = ("10.0.0.0/29", "fd00:10::/64")
    for address, reason in (
        ("10.0.0.7", None),
        ("10.0.0.8", "outside of pod_cidrs"),
        ("fd00:10::7", None),
        ("fd00:11::7", "outside of pod_cidrs"),
        ("127.0.0.1", "a loopback address"),
    ):
        assert refused(address, pod_cidrs=cidrs) == reason


def test_changed_pod_cidrs_and_vips_count_at_once():
    assert refused("10.0.0.9", pod_cidrs=("10.0.0.0/29",)) == "outside of pod_cidrs"
    assert refused("10.0.0.9", pod_cidrs=("10.0.0.0/28",)) is None
    assert refused("10.0.0.9", forbidden=frozenset({"10.0.0.9"})) is not None
    assert refused("10.0.0.9") is None
