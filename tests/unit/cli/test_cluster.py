"""What the Kubernetes side of the daemon learns of this machine."""

from __future__ import annotations

from lbd.announce.inventory import InterfaceAddress, Inventory, Link
from lbd.cli.cluster import surroundings
from lbd.model.desired import DesiredState, Pool, ServiceEngine, VirtualService

FRONT = Link(2, "front", b"\x02\x00\x00\x00\x00\x01", True, True)
BACK = Link(3, "back", b"\x02\x00\x00\x00\x00\x02", True, True)
INVENTORY = Inventory(
    (FRONT, BACK),
    (
        InterfaceAddress(2, "172.16.101.1", 24),
        InterfaceAddress(2, "fd00:101::1", 64),
        InterfaceAddress(2, "172.16.101.160", 32, ours=True),
        InterfaceAddress(2, "172.16.101.170", 32),
        InterfaceAddress(3, "10.10.52.1", 24),
    ),
)
DESIRED = DesiredState(
    1,
    ServiceEngine("se", 1, "front", frontend_gateways=("172.16.101.254",)),
    (VirtualService("web", "172.16.101.150", 80, Pool(())),),
)


def test_what_this_machine_the_files_and_the_gateway_have_is_taken():
    assert dict(surroundings(DESIRED, INVENTORY).taken) == {
        "172.16.101.1": "this machine",
        "fd00:101::1": "this machine",
        "172.16.101.170": "this machine",
        "10.10.52.1": "this machine",
        "172.16.101.254": "frontend_gateway",
        "172.16.101.150": 'virtual service "web"',
    }


def test_an_address_that_lbd_has_added_is_free_for_the_service_that_has_it():
    assert "172.16.101.160" not in surroundings(DESIRED, INVENTORY).taken


def test_no_route_to_pods_may_lead_into_the_frontend_network():
    assert dict(surroundings(DESIRED, INVENTORY).networks) == {
        "172.16.101.0/24": "the frontend network",
        "fd00:101::/64": "the frontend network",
    }


def test_without_the_interface_there_is_no_frontend_network():
    assert dict(surroundings(DESIRED, Inventory((BACK,), INVENTORY.addresses)).networks) == {}
