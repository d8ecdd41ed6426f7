"""The desired state is the merge of its sources."""

from __future__ import annotations

from dataclasses import replace

from lbd.model.address import Endpoint
from lbd.model.desired import DesiredState, Pool, Protocol, ServiceEngine, VirtualService
from lbd.supervisor.merge import Merge

ENGINE = ServiceEngine("se", 1, "front")


def service(
    name: str, vip: str = "172.16.101.150", port: int = 80, protocol: Protocol = Protocol.TCP
) -> VirtualService:
    return VirtualService(name, vip, port, Pool(()), protocol)


def files(*services: VirtualService, generation: int = 1) -> DesiredState:
    return DesiredState(generation, ENGINE, services)


def names(state: DesiredState) -> list[str]:
    return [one.name for one in state.virtual_services]


def test_what_the_cluster_says_is_added_to_what_the_files_say():
    merge = Merge(files(service("web")))
    state = merge.cluster_says((service("default/shop:81", port=81),), 2)
    assert names(state) == ["web", "default/shop:81"]
    assert state.generation == 2
    assert merge.problems == ()


def test_a_reload_keeps_what_the_cluster_said():
    merge = Merge(files())
    merge.cluster_says((service("default/shop:81", port=81),), 2)
    state = merge.files_say(files(service("web"), generation=3))
    assert names(state) == ["web", "default/shop:81"]
    assert state.generation == 3


def test_a_cluster_that_has_not_spoken_adds_nothing():
    assert names(Merge(files()).files_say(files(service("web"), generation=2))) == ["web"]


def test_the_files_go_first_where_both_want_the_same_place():
    merge = Merge(files(service("web")))
    state = merge.cluster_says((service("default/shop:80"), service("default/shop:81", port=81)), 2)
    assert names(state) == ["web", "default/shop:81"]
    assert merge.problems == ('default/shop:80 is not served: 172.16.101.150:80/tcp belongs to "web" of the files',)


def test_the_place_of_the_metrics_is_not_given_away():
    merge = Merge(replace(files(), metrics_listen=Endpoint("172.16.101.150", 9407)))
    state = merge.cluster_says((service("default/shop:9407", port=9407),), 2)
    assert names(state) == []
    assert merge.problems == ("default/shop:9407 is not served: 172.16.101.150:9407/tcp belongs to the metrics",)


def test_one_port_of_two_protocols_is_two_places():
    merge = Merge(files(service("web", port=53)))
    state = merge.cluster_says((service("default/dns:53/udp", port=53, protocol=Protocol.UDP),), 2)
    assert names(state) == ["web", "default/dns:53/udp"]


def test_who_has_a_place_keeps_it_from_one_that_comes_before_it_by_name():
    merge = Merge(files())
    merge.cluster_says((service("b/web:80"),), 2)
    state = merge.cluster_says((service("a/web:80"), service("b/web:80")), 3)
    assert names(state) == ["b/web:80"]
    assert merge.problems == ("a/web:80 is not served: 172.16.101.150:80/tcp belongs to b/web:80",)


def test_a_place_that_becomes_free_goes_to_who_waited():
    merge = Merge(files(service("web")))
    merge.cluster_says((service("a/web:80"),), 2)
    assert names(merge.files_say(files(generation=3))) == ["a/web:80"]
    assert merge.problems == ()


def test_objects_that_did_not_change_stay_the_same_objects():
    unchanged = service("a/web:80")
    merge = Merge(files())
    merge.cluster_says((unchanged,), 2)
    state = merge.cluster_says((unchanged, service("b/web:81", port=81)), 3)
    assert state.virtual_services[0] is unchanged


def test_files_that_would_take_the_address_of_a_service_are_refused_by_name():
    """On any port: an address of the files is never a Service's."""
    merge = Merge(files(service("web")))
    merge.cluster_says(
        (service("default/shop:80", "172.16.101.151"), service("default/shop:81", "172.16.101.151", port=81)), 2
    )
    wanted = files(service("web"), service("new", "172.16.101.151", port=443), service("free", "172.16.101.152"))
    assert merge.why_not(wanted) == (
        'virtual_services: VIP 172.16.101.151 of "new" is that of Service default/shop: delete the Service or give it '
        "another address first",
    )


def test_files_that_have_an_address_already_may_go_on_to_use_it():
    merge = Merge(files(service("web")))
    merge.cluster_says((service("default/shop:81", port=81),), 2)
    assert merge.why_not(files(service("web"), service("more", port=82))) == ()


def test_at_most_20_addresses_are_named():
    merge = Merge(files())
    vips = [f"172.16.101.{number}" for number in range(150, 200)]
    merge.cluster_says(tuple(service(f"default/s{vip}:80", vip) for vip in vips), 2)
    assert len(merge.why_not(files(*(service(vip, vip) for vip in vips)))) == 20
