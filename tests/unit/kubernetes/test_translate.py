"""Claims about the virtual services that a Service becomes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from lbd.kubernetes.objects.kinds import NOBODY, EndpointSlice, ObjectKey, Service, ServicePort, SliceEndpoint
from lbd.kubernetes.objects.problem import Problem
from lbd.kubernetes.rules.rule_policy import BackendPolicy, RulePolicy
from lbd.kubernetes.translation.translate import MAX_MEMBERS, Translation, translate
from lbd.model.address import Endpoint
from lbd.model.desired import (
    SYSTEM_MONITORS,
    AdminState,
    Algorithm,
    Bulk,
    ClientLogs,
    HashKey,
    Keepalive,
    Limits,
    Member,
    OnAllDown,
    Persistence,
    Pool,
    Protocol,
    ProxyProtocol,
    Source,
    Timeouts,
    UdpOptions,
    VirtualService,
)
from lbd.model.kubernetes import ApplicationProfile, Kubernetes, NetworkProfile, NetworkSecurityPolicy

VIP, VIP6 = "172.16.101.150", "fd00:101::150"
HTTP = ServicePort("http", 80, Protocol.TCP)
DNS_TCP, DNS_UDP = ServicePort("dns-tcp", 53, Protocol.TCP), ServicePort("dns", 53, Protocol.UDP)
SYSTEM_TCP, _PING, _HTTP, SYSTEM_UDP = SYSTEM_MONITORS
KUBERNETES = Kubernetes()


def service(*ports: ServicePort, **fields: Any) -> Service:
    given: dict[str, Any] = {"ports": ports or (HTTP,), "ingress": (VIP,)} | fields
    key = ObjectKey("shop", "web")
    return Service(key, "1", "1", "2026-11-29T10:00:00Z", "LoadBalancer", "lbd.io/service-engine", **given)


def serving(*addresses: str, ports: tuple[ServicePort, ...] = (HTTP,), leaving: bool = False) -> EndpointSlice:
    """Return a slice of ready (or leaving) endpoints whose target ports are 8000 above the Service's."""
    endpoints = tuple(SliceEndpoint((address,), not leaving, True, leaving) for address in addresses)
    targets = tuple((port.name, port.port + 8000, port.protocol) for port in ports)
    return EndpointSlice(ObjectKey("shop", "web-a"), "web", 6 if ":" in addresses[0] else 4, targets, endpoints)


def translated(
    asked: Service,
    *slices: EndpointSlice,
    rule: RulePolicy | None = None,
    kubernetes: Kubernetes = KUBERNETES,
    forbidden: frozenset[str] = frozenset({VIP, VIP6}),
) -> Translation:
    return translate(asked, slices, rule, kubernetes, forbidden)


def only(translation: Translation) -> VirtualService:
    (virtual_service,) = translation.virtual_services
    return virtual_service


def problem_of(translation: Translation) -> Problem:
    (problem,) = translation.problems
    return problem


def names(translation: Translation) -> list[str]:
    return [one.name for one in translation.virtual_services]


def addresses(virtual_service: VirtualService) -> list[str]:
    return [member.endpoint.address for member in virtual_service.pool.members]


# What a Service becomes without a rule.


def test_a_service_becomes_a_virtual_service_with_its_pods_as_members():
    translation = translated(service(), serving("10.10.52.12", "10.10.52.11"))
    assert translation == Translation(
        (
            VirtualService(
                name="shop/web:80",
                vip=VIP,
                port=80,
                protocol=Protocol.TCP,
                pool=Pool(
                    members=(Member(Endpoint("10.10.52.11", 8080)), Member(Endpoint("10.10.52.12", 8080))),
                    algorithm=Algorithm.ROUND_ROBIN,
                    health_monitors=(SYSTEM_TCP,),
                    on_all_down=OnAllDown.REFUSE,
                ),
            ),
        )
    )


def test_without_an_address_in_its_status_it_becomes_nothing():
    assert translated(service(ingress=()), serving("10.10.52.11", "127.0.0.1")) == Translation()
    rule = RulePolicy(application=ApplicationProfile("app", proxy_protocol=ProxyProtocol.V1))
    assert translated(service(DNS_UDP, ingress=()), rule=rule) == Translation()


def test_scaled_to_zero_it_keeps_its_virtual_service_with_an_empty_pool():
    for slices in ((), (EndpointSlice(ObjectKey("shop", "web-a"), "web", 4, (), ()),)):
        virtual_service = only(translated(service(), *slices))
        assert virtual_service.pool.members == ()
        assert virtual_service.pool.on_all_down is OnAllDown.REFUSE


def test_each_port_is_a_virtual_service_of_its_own():
    asked = service(HTTP, DNS_TCP, DNS_UDP)
    translation = translated(asked, serving("10.0.0.1", ports=(HTTP, DNS_TCP, DNS_UDP)))
    assert names(translation) == ["shop/web:80", "shop/web:53", "shop/web:53/udp"]
    assert [(one.port, one.protocol) for one in translation.virtual_services] == [
        (80, Protocol.TCP),
        (53, Protocol.TCP),
        (53, Protocol.UDP),
    ]
    assert {one.pool.members[0].endpoint.port for one in translation.virtual_services} == {8080, 8053}
    assert len({one.name for one in translation.virtual_services}) == 3


def test_udp_has_its_own_monitor_and_idle_time():
    virtual_service = only(translated(service(DNS_UDP), serving("10.0.0.1", ports=(DNS_UDP,))))
    assert virtual_service.pool.health_monitors == (SYSTEM_UDP,)
    assert virtual_service.timeouts == Timeouts(idle_s=60.0)


def test_a_port_without_endpoints_of_its_name_has_an_empty_pool_beside_one_that_has():
    full, empty = translated(service(HTTP, DNS_UDP), serving("10.0.0.1")).virtual_services
    assert (len(full.pool.members), len(empty.pool.members)) == (1, 0)


def test_a_pod_that_is_leaving_is_draining_and_is_never_reset():
    virtual_service = only(translated(service(), serving("10.0.0.1"), serving("10.0.0.2", leaving=True)))
    assert [member.admin_state for member in virtual_service.pool.members] == [
        AdminState.ENABLED,
        AdminState.DRAINING,
    ]
    assert virtual_service.pool.drain_timeout_s is None


def test_without_a_ready_pod_one_that_is_leaving_is_enabled():
    virtual_service = only(translated(service(), serving("10.0.0.2", leaving=True)))
    assert [member.admin_state for member in virtual_service.pool.members] == [AdminState.ENABLED]


def test_session_affinity_is_persistence():
    virtual_service = only(translated(service(affinity_timeout_s=10800), serving("10.0.0.1")))
    assert virtual_service.pool.persistence == Persistence(timeout_s=10800.0)
    assert only(translated(service(), serving("10.0.0.1"))).pool.persistence is None


def test_load_balancer_source_ranges_are_source_ranges():
    assert only(translated(service(source_ranges=("10.0.0.0/8",)))).source_ranges == ("10.0.0.0/8",)


# Addresses.


def test_a_dual_stack_service_has_members_of_the_family_of_each_vip():
    asked = service(ip_families=(4, 6), ingress=(VIP, VIP6))
    translation = translated(asked, serving("10.0.0.1"), serving("fd00::1"))
    assert names(translation) == ["shop/web:80", "shop/web:80/ipv6"]
    four, six = translation.virtual_services
    assert (four.vip, addresses(four)) == (VIP, ["10.0.0.1"])
    assert (six.vip, addresses(six)) == (VIP6, ["fd00::1"])


def test_names_depend_on_the_first_family_and_not_on_the_order_of_the_status():
    asked = service(DNS_UDP, ip_families=(6, 4), ingress=(VIP, VIP6))
    assert sorted(names(translated(asked))) == ["shop/web:53/udp", "shop/web:53/udp/ipv4"]
    plain = next(one for one in translated(asked).virtual_services if one.name == "shop/web:53/udp")
    assert plain.vip == VIP6
    assert names(translated(service(ip_families=(4,), ingress=(VIP6,)))) == ["shop/web:80/ipv6"]


def test_a_vip_without_pods_of_its_family_has_those_of_the_other():
    virtual_service = only(translated(service(ingress=(VIP6,)), serving("10.0.0.1")))
    assert addresses(virtual_service) == ["10.0.0.1"]


def test_from_the_addresses_of_clients_pods_of_another_family_are_left_out_and_named():
    rule = RulePolicy(application=ApplicationProfile("see-through", source=Source.TRANSPARENT))
    translation = translated(service(ingress=(VIP6,)), serving("10.0.0.1", "10.0.0.2"), rule=rule)
    assert only(translation).source is Source.TRANSPARENT
    assert addresses(only(translation)) == []
    assert problem_of(translation) == Problem(
        "EndpointsUnreachable",
        'shop/web:80/ipv6 has 2 endpoints that are left out: the application profile "see-through" connects from the '
        "addresses of clients, and they are of another family",
    )
    assert addresses(only(translated(service(), serving("10.0.0.1"), rule=rule))) == ["10.0.0.1"]


def test_a_second_address_of_a_family_is_not_served_and_named():
    translation = translated(service(ingress=(VIP, "172.16.101.151")))
    assert [one.vip for one in translation.virtual_services] == [VIP]
    message = f"172.16.101.151 is a second IPv4 address in the status: only {VIP} is served"
    assert problem_of(translation) == Problem("SecondAddress", message)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "fe80::1", "224.0.0.1"])
def test_an_address_that_no_machine_can_own_is_never_a_vip(address):
    translation = translated(service(ingress=(address,)), serving("10.0.0.1"))
    assert translation.virtual_services == ()
    assert problem_of(translation).reason == "AddressUnusable"
    assert problem_of(translation).message.startswith(f"{address} is ")


# Hostile endpoints.


def test_hostile_endpoints_are_left_out_and_named_with_the_reason():
    asked = translated(
        service(),
        serving("10.0.0.1", "127.0.0.1", VIP, "192.0.2.9"),
        kubernetes=Kubernetes(pod_cidrs=("10.0.0.0/8",)),
    )
    assert addresses(only(asked)) == ["10.0.0.1"]
    assert problem_of(asked) == Problem(
        "EndpointsRejected",
        "EndpointSlices have addresses that can't be members: 127.0.0.1 is a loopback address; "
        f"{VIP} is a VIP or an address of a service engine; 192.0.2.9 is outside of pod_cidrs",
    )


def test_what_of_a_slice_could_not_be_read_is_said():
    odd = replace(
        serving("10.0.0.1"), complaints=tuple(f"endpoints[{number}] is 7, not an object" for number in range(5))
    )
    translation = translated(service(), odd)
    assert addresses(only(translation)) == ["10.0.0.1"]
    assert problem_of(translation) == Problem(
        "EndpointsRejected",
        "EndpointSlices have what can't be used: "
        + "; ".join(f"{odd.key.name}: endpoints[{number}] is 7, not an object" for number in range(3))
        + "; and 2 more",
    )


def test_many_hostile_endpoints_are_counted():
    translation = translated(service(HTTP, DNS_TCP), serving(*(f"127.0.0.{last}" for last in range(1, 101))))
    message = problem_of(translation).message
    assert message.count(" is a loopback address") == 5
    assert message.endswith("; and 95 more")


def test_what_can_be_said_of_hostile_endpoints_is_of_bounded_length():
    many = tuple(f"fe80:aaaa:bbbb:cccc:dddd:eeee:ffff:{last:x}" for last in range(4096, 4196))
    assert len(problem_of(translated(service(), serving(*many))).message) < 1024


def test_a_pool_has_at_most_4096_members_and_says_that_there_are_more():
    many = [f"10.0.{high}.{low}" for high in range(17) for low in range(250)]
    translation = translated(service(), serving(*many))
    members = only(translation).pool.members
    assert len(members) == MAX_MEMBERS == 4096
    assert [member.endpoint for member in members] == sorted(member.endpoint for member in members)
    assert problem_of(translation) == Problem(
        "TooManyEndpoints", "shop/web:80 has 4250 endpoints, and only 4096 of them are used"
    )


def test_a_pool_of_4096_is_not_too_large():
    many = [f"10.0.{high}.{low}" for high in range(16) for low in range(256)]
    translation = translated(service(), serving(*many))
    assert (len(only(translation).pool.members), translation.problems) == (4096, ())


def test_what_many_ports_have_together_is_bounded_so_that_one_service_does_not_keep_all_others_waiting():
    ports = tuple(ServicePort(f"p{number}", number, Protocol.TCP) for number in range(1, 101))
    own = tuple((port.name, port.port, Protocol.TCP) for port in ports)
    every = [
        replace(serving(*(f"10.{block}.{high}.{low}" for high in range(4) for low in range(250))), ports=own)
        for block in range(4)
    ]
    translation = translated(service(*ports), *every)
    counts = [len(one.pool.members) for one in translation.virtual_services]
    assert counts == [4000, 4000, 4000, 4000, *[0] * 96]
    assert (
        Problem(
            "TooManyEndpoints",
            "shop/web:5 has 4000 endpoints, and of all ports of the Service together only 16384 are used",
        )
        in translation.problems
    )


def test_pods_that_are_leaving_do_not_push_out_those_that_serve():
    some_leaving = serving(*(f"10.0.{high}.{low}" for high in range(4) for low in range(250)), leaving=True)
    many_ready = serving(*(f"10.1.{high}.{low}" for high in range(16) for low in range(250)))
    members = only(translated(service(), some_leaving, many_ready)).pool.members
    assert sum(member.admin_state is AdminState.ENABLED for member in members) == 4000
    assert len(members) == MAX_MEMBERS


# What a rule changes.

FULL_BACKEND = BackendPolicy(
    80,
    Protocol.TCP,
    algorithm=Algorithm.CONSISTENT_HASH,
    hash_key=HashKey.SOURCE_IP_PORT,
    persistence=Persistence(timeout_s=60.0),
    health_monitors=(SYSTEM_MONITORS[1], SYSTEM_TCP),
    min_members_up=2,
)
APPLICATION = ApplicationProfile("app", Source.SNAT, ProxyProtocol.V2, ("172.16.101.0/24",), 10, 100.0, 1.0)
NETWORK = NetworkProfile(
    "net",
    Timeouts(connect_s=1.0, idle_s=2.0, lifetime_s=9.0),
    5.0,
    Keepalive(1, 2, 3),
    Keepalive(4, 5, 6),
    UdpOptions(1, 2),
    Bulk.SPLICE,
)
RULE = RulePolicy(
    max_connections=105,
    max_throughput_bps=100_000_000,
    client_logs=ClientLogs(20, 0.0, 0.5),
    application=APPLICATION,
    network=NETWORK,
    backends=(FULL_BACKEND,),
)


def test_a_rule_says_everything_that_its_service_has():
    virtual_service = only(translated(service(affinity_timeout_s=5), serving("10.0.0.1"), rule=RULE))
    assert virtual_service == VirtualService(
        name="shop/web:80",
        vip=VIP,
        port=80,
        pool=Pool(
            members=(Member(Endpoint("10.0.0.1", 8080)),),
            algorithm=Algorithm.CONSISTENT_HASH,
            health_monitors=(SYSTEM_MONITORS[1], SYSTEM_TCP),
            hash_key=HashKey.SOURCE_IP_PORT,
            persistence=Persistence(timeout_s=60.0),
            min_members_up=2,
        ),
        timeouts=Timeouts(connect_s=1.0, idle_s=2.0, lifetime_s=9.0),
        proxy_protocol=ProxyProtocol.V2,
        accept_proxy_protocol=("172.16.101.0/24",),
        limits=Limits(
            max_connections=105,
            max_connections_per_client=10,
            connection_rate=100.0,
            connection_rate_per_client=1.0,
            max_throughput_bps=100_000_000,
        ),
        client_keepalive=Keepalive(1, 2, 3),
        member_keepalive=Keepalive(4, 5, 6),
        client_logs=ClientLogs(20, 0.0, 0.5),
        bulk=Bulk.SPLICE,
    )


def test_a_rule_changes_neither_name_nor_address_nor_members():
    """So it is the same virtual service, and its connections go on."""
    before = only(translated(service(), serving("10.0.0.1", "10.0.0.2")))
    after = only(translated(service(), serving("10.0.0.1", "10.0.0.2"), rule=RULE))
    assert (after.name, after.listen, after.protocol) == (before.name, before.listen, before.protocol)
    assert after.pool.members == before.pool.members


def test_a_port_that_the_rule_says_nothing_of_has_lbds_defaults():
    rule = RulePolicy(backends=(BackendPolicy(80, Protocol.UDP), BackendPolicy(81, Protocol.TCP)))
    assert only(translated(service(), serving("10.0.0.1"), rule=rule)) == only(
        translated(service(), serving("10.0.0.1"))
    )


def test_a_backend_has_the_rules_default_algorithm():
    rule = RulePolicy(backends=(BackendPolicy(80, Protocol.TCP),))
    virtual_service = only(translated(service(affinity_timeout_s=7), serving("10.0.0.1"), rule=rule))
    assert virtual_service.pool.algorithm is Algorithm.LEAST_CONNECTIONS
    assert virtual_service.pool.health_monitors == (SYSTEM_TCP,)
    assert virtual_service.pool.persistence == Persistence(timeout_s=7.0)


def test_a_disabled_backend_takes_nothing_ends_what_it_has_and_pauses_its_monitors():
    rule = RulePolicy(backends=(BackendPolicy(53, Protocol.TCP, enabled=False),))
    ports = (DNS_TCP, DNS_UDP)
    tcp, udp = translated(
        service(*ports), serving("10.0.0.1", ports=ports), serving("10.0.0.2", ports=ports, leaving=True), rule=rule
    ).virtual_services
    assert tcp.admin_state is AdminState.DISABLED
    assert {member.admin_state for member in tcp.pool.members} == {AdminState.DISABLED}
    assert tcp.pool.drain_timeout_s == 0.0
    assert udp.admin_state is AdminState.ENABLED
    assert udp.pool.drain_timeout_s is None


def test_udp_takes_of_a_rule_what_is_for_udp_and_the_rest_is_named():
    rule = replace(RULE, application=replace(APPLICATION, proxy_protocol=ProxyProtocol.V1))
    translation = translated(service(DNS_UDP), serving("10.0.0.1", ports=(DNS_UDP,)), rule=rule)
    virtual_service = only(translation)
    assert virtual_service.timeouts == Timeouts(idle_s=5.0)
    assert virtual_service.udp == UdpOptions(1, 2)
    assert (virtual_service.client_keepalive, virtual_service.member_keepalive) == (None, None)
    assert (virtual_service.proxy_protocol, virtual_service.accept_proxy_protocol) == (None, ())
    assert virtual_service.limits.max_connections == 105
    assert virtual_service.client_logs == ClientLogs(20, 0.0, 0.5)
    assert [problem.reason for problem in translation.problems] == ["NotForUdp", "NotForUdp"]
    assert "UDP port 53" in translation.problems[0].message


def test_tcp_takes_nothing_of_a_rule_that_is_for_udp():
    virtual_service = only(translated(service(), serving("10.0.0.1"), rule=RULE))
    assert virtual_service.udp == UdpOptions()


def test_udp_per_packet_has_neither_affinity_nor_header_and_says_so():
    rule = RulePolicy(
        application=ApplicationProfile("app", proxy_protocol=ProxyProtocol.V2),
        network=NetworkProfile("System-UDP-Per-Pkt", udp=UdpOptions(per_packet=True)),
    )
    translation = translated(service(HTTP, DNS_UDP, affinity_timeout_s=60), rule=rule)
    tcp, udp = translation.virtual_services
    assert (tcp.pool.persistence, tcp.proxy_protocol) == (Persistence(timeout_s=60.0), ProxyProtocol.V2)
    assert (udp.pool.persistence, udp.proxy_protocol) == (None, None)
    assert [problem.message.split()[0] for problem in translation.problems] == ["proxy_protocol", "sessionAffinity"]


def secured(service_ranges: tuple[str, ...], policy_ranges: tuple[str, ...]) -> Translation:
    rule = RulePolicy(network_security=NetworkSecurityPolicy("office", policy_ranges))
    return translated(service(source_ranges=service_ranges), rule=rule)


def test_who_is_let_in_must_be_in_both_lists():
    translation = secured(("10.0.0.0/8", "192.168.0.0/16"), ("10.1.0.0/16", "172.16.0.0/12"))
    assert only(translation).source_ranges == ("10.1.0.0/16",)
    assert translation.problems == ()
    assert only(secured((), ("10.1.0.0/16",))).source_ranges == ("10.1.0.0/16",)
    assert only(secured(("10.0.0.0/8",), ())).source_ranges == ("10.0.0.0/8",)


def test_lists_with_nothing_in_common_let_nobody_in_and_say_so():
    translation = secured(("10.0.0.0/8",), ("192.168.0.0/16",))
    assert only(translation).source_ranges == NOBODY != ()
    assert problem_of(translation) == Problem(
        "NobodyLetIn",
        'no client is let in: loadBalancerSourceRanges and the network security policy "office" have no address in '
        "common",
    )


def test_unreadable_source_ranges_let_nobody_in_whatever_the_rule_says():
    assert only(secured(NOBODY, ("0.0.0.0/0", "::/0"))).source_ranges == NOBODY


# Sameness and speed.


def test_the_same_objects_in_any_order_give_the_same_value():
    one, other = serving("10.0.0.1", "10.0.0.3"), serving("10.0.0.2", "10.0.0.1")
    assert translated(service(), one, other) == translated(service(), other, one)


def test_a_service_with_20_endpoints_is_translated_in_less_than_a_millisecond():
    slices = [serving(*(f"10.10.52.{last}" for last in range(1, 21)))]
    kubernetes = Kubernetes(pod_cidrs=("10.10.0.0/16", "fd00::/8"))
    asked, forbidden = service(), frozenset({VIP})

    def once_s() -> float:
        begin_s = time.perf_counter()
        translate(asked, slices, RULE, kubernetes, forbidden)
        return time.perf_counter() - begin_s

    assert min(once_s() for _ in range(50)) < 0.001
