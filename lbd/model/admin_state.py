"""A change of what the operator wants of a member or virtual service at run time, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from lbd.model.desired import AdminState

MAX_DEADLINE_S = 86400.0


@dataclass(frozen=True, slots=True)
class AdminStateChange:
    """Set the admin state of a virtual service or, with `member` (ADDRESS:PORT), of one member of its pool.

    `deadline_s` from now what is still open is reset (None: as the pool's drain_timeout says, 0: at once).
    """

    service: str
    admin_state: AdminState
    member: str | None = None
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class AdminStateResult:
    """What came of a change. `error` says who must act, and is empty when `success`.

    `configured` is the state that the files say: it counts again after a restart. `active_connections` were open when
    the change was made.
    """

    success: bool
    error: str = ""
    configured: str = ""
    active_connections: int = 0
