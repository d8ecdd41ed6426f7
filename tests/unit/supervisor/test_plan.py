"""The order of actions, by their preconditions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lbd.model.address import Endpoint
from lbd.model.desired import DesiredState, Member, Pool, ServiceEngine, VirtualService
from lbd.model.status import VipState
from lbd.supervisor.plan import (
    RESET_GRACE_S,
    Accept,
    Actual,
    Claim,
    Drain,
    DrainView,
    Open,
    Remove,
    Reset,
    ServiceView,
    Update,
    Withdraw,
    key_of,
    plan,
)
from lbd.supervisor.seams import Acceptance, Handle

VIP = "172.16.101.150"
DRAIN_TIMEOUT_S = 60.0


def service(name: str = "web", vip: str = VIP, port: int = 80, weight: int = 1) -> VirtualService:
    return VirtualService(name, vip, port, Pool((Member(Endpoint("10.10.52.11", 80), weight),)))


def desired(*services: VirtualService) -> DesiredState:
    return DesiredState(1, ServiceEngine("se", 2, "front", DRAIN_TIMEOUT_S), services)


def ready(of: VirtualService) -> ServiceView:
    handle = Handle(of.name, of.listen, 1)
    return ServiceView(handle, of, True, True, Acceptance.ACCEPT, Acceptance.ACCEPT)


def actual(*views: ServiceView, draining: Iterable[DrainView] = (), vip: VipState | None = None) -> Actual:
    services = {key_of(view.applied): view for view in views}
    return Actual(services, tuple(draining), {VIP: vip} if vip is not None else {})


def drain(
    of: VirtualService, since_s: float = 0.0, stopped: bool = True, active: int = 1, sent: bool = False
) -> DrainView:
    return DrainView(Handle(of.name, of.listen, 1), since_s, stopped, active, sent)


def test_a_new_service_is_bound_first_and_its_vip_not_yet_claimed() -> None:
    assert plan(desired(service()), Actual(), 0.0) == (Open(service()),)


def test_nothing_is_claimed_before_the_workers_have_acknowledged() -> None:
    view = replace(ready(service()), acknowledged=False)
    assert plan(desired(service()), actual(view), 0.0) == ()


def test_nothing_is_claimed_before_the_first_health_results() -> None:
    view = replace(ready(service()), first_results=False)
    assert plan(desired(service()), actual(view), 0.0) == ()


def test_a_service_accepts_before_its_vip_is_claimed() -> None:
    view = replace(ready(service()), acceptance=Acceptance.HOLD)
    assert plan(desired(service()), actual(view), 0.0) == (Accept(view.handle, Acceptance.ACCEPT),)


def test_a_ready_service_has_its_vip_claimed_once() -> None:
    assert plan(desired(service()), actual(ready(service())), 0.0) == (Claim(VIP),)
    for state in (VipState.CLAIMING, VipState.OWNED):
        assert plan(desired(service()), actual(ready(service()), vip=state), 0.0) == ()


def test_a_vip_waits_for_every_service_on_it() -> None:
    both = desired(service(), service("tls", port=443))
    assert plan(both, actual(ready(service())), 0.0) == (Open(service("tls", port=443)),)


def test_a_service_that_could_not_be_bound_does_not_hold_up_its_vip() -> None:
    both = desired(service(), service("tls", port=443))
    state = replace(actual(ready(service())), retry_at_s={Open(service("tls", port=443)): 9.0})
    assert plan(both, state, 0.0) == (Claim(VIP),)


def test_a_failed_action_is_planned_again_when_its_time_has_come() -> None:
    state = Actual(retry_at_s={Open(service()): 9.0})
    assert plan(desired(service()), state, 8.9) == ()
    assert plan(desired(service()), state, 9.0) == (Open(service()),)


def test_a_foreign_owner_is_asked_again() -> None:
    state = actual(ready(service()), vip=VipState.FOREIGN_OWNER)
    assert plan(desired(service()), state, 0.0) == (Claim(VIP),)


def test_a_changed_pool_is_an_update_and_not_a_new_service() -> None:
    view = ready(service())
    changed = service(weight=5)
    assert plan(desired(changed), actual(view, vip=VipState.OWNED), 0.0) == (Update(view.handle, changed),)


def test_an_unchanged_service_is_left_alone() -> None:
    assert plan(desired(service()), actual(ready(service()), vip=VipState.OWNED), 0.0) == ()


def test_a_removed_service_drains_before_its_address_goes() -> None:
    view = ready(service())
    actions = plan(desired(), actual(view, vip=VipState.OWNED), 0.0)
    assert actions == (Drain(view.handle, "removed from the configuration"),)


def test_the_address_stays_while_connections_drain() -> None:
    state = actual(draining=[drain(service(), active=1)], vip=VipState.OWNED)
    assert plan(desired(), state, 10.0) == ()


def test_a_service_whose_queue_is_not_taken_yet_is_not_removed() -> None:
    state = actual(draining=[drain(service(), stopped=False, active=0)], vip=VipState.OWNED)
    assert plan(desired(), state, 0.0) == ()


def test_a_drained_service_is_removed() -> None:
    view = drain(service(), active=0)
    assert plan(desired(), actual(draining=[view], vip=VipState.OWNED), 0.0) == (Remove(view.handle),)


def test_what_is_left_at_the_drain_deadline_is_reset_once() -> None:
    view = drain(service(), since_s=5.0)
    before, after = 5.0 + DRAIN_TIMEOUT_S - 0.1, 5.0 + DRAIN_TIMEOUT_S
    assert plan(desired(), actual(draining=[view], vip=VipState.OWNED), before) == ()
    assert plan(desired(), actual(draining=[view], vip=VipState.OWNED), after) == (Reset(view.handle),)
    assert plan(desired(), actual(draining=[replace(view, reset_sent=True)], vip=VipState.OWNED), after) == ()


def test_the_address_goes_when_nothing_uses_it_any_more() -> None:
    actions = plan(desired(), actual(vip=VipState.OWNED), 0.0)
    assert actions == (Withdraw(VIP, "no virtual service uses it"),)


def test_the_address_stays_while_another_service_uses_it() -> None:
    other = service("tls", port=443)
    state = actual(ready(other), draining=[drain(service(), active=0)], vip=VipState.OWNED)
    assert plan(desired(other), state, 0.0) == (Remove(drain(service()).handle),)


def test_a_service_that_moves_to_another_port_drains_and_opens_at_once() -> None:
    old, new = ready(service()), service(port=8080)
    actions = plan(desired(new), actual(old, vip=VipState.OWNED), 0.0)
    assert actions == (Drain(old.handle, "removed from the configuration"), Open(new))


def test_a_service_that_comes_back_while_it_drains_is_opened_anew() -> None:
    state = actual(draining=[drain(service())], vip=VipState.OWNED)
    assert plan(desired(service()), state, 0.0) == (Open(service()),)


def test_a_count_that_never_goes_to_zero_does_not_hold_the_address_for_ever() -> None:
    view = replace(drain(service(), since_s=5.0), reset_sent=True)
    after = 5.0 + DRAIN_TIMEOUT_S + RESET_GRACE_S
    assert plan(desired(), actual(draining=[view], vip=VipState.OWNED), after) == (Remove(view.handle),)
