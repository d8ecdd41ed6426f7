"""Tells users about Services and L4Rules by Events, sparingly."""

from __future__ import annotations

from collections.abc import Callable

from lbd.kubernetes.elector import Requests
from lbd.kubernetes.objects import L4Rule, Service


class Recorder:
    """Writes Events (core/v1) while this one leads. The same again raises an Event's count, now and then."""

    written_total: int
    dropped_total: int

    def __init__(self, client: Requests, is_leading: Callable[[], bool], instance: str) -> None:
        raise NotImplementedError

    def normal(self, about: Service | L4Rule, reason: str, message: str) -> None:
        """Say something that is as it should be. Returns at once."""
        raise NotImplementedError

    def warning(self, about: Service | L4Rule, reason: str, message: str) -> None:
        """Say something that somebody has to do something about. Returns at once."""
        raise NotImplementedError

    async def run(self) -> None:
        """Write until cancelled."""
        raise NotImplementedError
