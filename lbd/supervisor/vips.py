"""The VIPs on their way: claims run beside the loop, because each waits for answers from the wire."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from lbd.announce.errors import AnnounceError, ClaimError
from lbd.model.status import VipState, VipStatus
from lbd.supervisor.backoff import Backoff
from lbd.supervisor.plan import Action, Claim, Withdraw
from lbd.supervisor.seams import Announcer
from lbd.supervisor.tasks import Tasks

log = structlog.get_logger(__name__)


class VipDesk:
    """Claims and withdraws VIPs through an announcer, and knows where each is. `on_change` is told which one moved."""

    def __init__(self, announcer: Announcer, backoff: Backoff[Action], on_change: Callable[[str], None]) -> None:
        self._announcer = announcer
        self._backoff = backoff
        self._on_change = on_change
        self._states: dict[str, VipState] = {}
        self._owners: dict[str, str | None] = {}
        self._tasks = Tasks()

    @property
    def states(self) -> dict[str, VipState]:
        """Every VIP that was claimed and not withdrawn since."""
        return dict(self._states)

    def state(self, vip: str) -> VipState | None:
        """Where a VIP is; None for one that was not claimed, or withdrawn since."""
        return self._states.get(vip)

    @property
    def held(self) -> bool:
        """Whether a VIP is owned, or on its way in or out; one that failed is left to the announcer's end."""
        return any(state not in (VipState.FAILED, VipState.FOREIGN_OWNER) for state in self._states.values())

    def claim(self, action: Claim) -> None:
        """Begin to claim a VIP."""
        self._states[action.vip] = VipState.CLAIMING
        self._tasks.own(self._claim(action), f"claim {action.vip}")

    def withdraw(self, action: Withdraw) -> None:
        """Begin to withdraw a VIP."""
        self._states[action.vip] = VipState.WITHDRAWING
        self._tasks.own(self._withdraw(action), f"withdraw {action.vip}")

    async def close(self) -> None:
        """Give up what is under way."""
        await self._tasks.close()

    def status(self, wanted: tuple[str, ...], interface: str) -> tuple[VipStatus, ...]:
        """Describe every VIP that is wanted or still there."""
        reported = {status.address: status for status in self._announcer.status()}
        everything = dict.fromkeys((*wanted, *self._states))
        return tuple(self._describe(vip, reported.get(vip), interface) for vip in everything)

    def _describe(self, vip: str, reported: VipStatus | None, interface: str) -> VipStatus:
        state = self._states.get(vip, VipState.WAITING)
        if reported is not None and state is VipState.OWNED:
            return reported
        failure = self._backoff.failures.get(Claim(vip))
        reason = failure.reason if failure is not None else ""
        if state is VipState.WAITING and not reason:
            reason = "waiting for the workers and for the first health results of its virtual services"
        return VipStatus(
            address=vip,
            interface=interface,
            state=state,
            reason=reason,
            owner_mac=self._owners.get(vip),
            announcements_total=reported.announcements_total if reported is not None else 0,
        )

    async def _claim(self, action: Claim) -> None:
        vip = action.vip
        try:
            await self._announcer.claim(vip)
        except (AnnounceError, OSError) as error:
            owner = error.owner_mac if isinstance(error, ClaimError) else None
            self._owners[vip] = owner
            self._states[vip] = VipState.FOREIGN_OWNER if owner else VipState.FAILED
            failure = self._backoff.failed(action, str(error), time.monotonic())
            retry_in_s = round(failure.retry_at_s - time.monotonic(), 1)
            log.info("vip_claim_retried_later", vip=vip, failures=failure.count, retry_in_s=retry_in_s)
        else:
            self._owners.pop(vip, None)
            self._states[vip] = VipState.OWNED
            self._backoff.succeeded(action)
        self._on_change(vip)

    async def _withdraw(self, action: Withdraw) -> None:
        try:
            await self._announcer.withdraw(action.vip, action.reason)
        except (AnnounceError, OSError) as error:
            self._states[action.vip] = VipState.FAILED
            self._backoff.failed(action, str(error), time.monotonic())
            log.error("vip_withdraw_failed", vip=action.vip, reason=str(error))
        else:
            self._states.pop(action.vip, None)
            self._backoff.succeeded(action)
            self._backoff.succeeded(Claim(action.vip))  # nobody wants it any more
        self._on_change(action.vip)
