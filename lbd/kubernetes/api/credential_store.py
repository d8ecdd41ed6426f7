"""Keeps credentials up to date with the files that they come from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from lbd.kubernetes.api.credentials import Credentials, CredentialsError, stamp

log = structlog.get_logger(__name__)

CHECK_INTERVAL_S = 2.0
"""The files are looked at this often at most, and when somebody asks."""
_RENEW_INTERVAL_S = 5.0
"""A program that makes tokens is run this often at most."""


class CredentialStore:
    """Gives out what `load` read last; reads again when a file has changed. What could not be read changes nothing."""

    def __init__(self, load: Callable[[], Credentials], clock: Callable[[], float]) -> None:
        self._load = load
        self._clock = clock
        self._lock = asyncio.Lock()
        self._credentials: Credentials | None = None
        self._looked_s = 0.0
        self._loaded_s = 0.0
        self._problem = ""

    @property
    def newest(self) -> Credentials | None:
        """The last that were read."""
        return self._credentials

    async def current(self) -> Credentials:
        """Return what the files say, as of CHECK_INTERVAL_S ago at most.

        Raises:
            CredentialsError: they can't be used, and never could.
        """
        known = self._credentials
        if known is not None and self._clock() < self._looked_s + CHECK_INTERVAL_S:
            return known
        async with self._lock:
            if self._credentials is not None and self._clock() < self._looked_s + CHECK_INTERVAL_S:
                return self._credentials
            return await self._refresh()

    async def after_refusal(self, used: Credentials) -> Credentials | None:
        """Look at once, because the API server did not accept `used`; return others if there are."""
        async with self._lock:
            known = self._credentials
            if known is used:
                known = await self._refresh(renew=True)
            return known if known is not None and _differ(known, used) else None

    async def _refresh(self, *, renew: bool = False) -> Credentials:
        known = self._credentials
        now_s = self._clock()
        if known is not None:
            self._looked_s = now_s
            renew = renew and known.renewable and now_s >= self._loaded_s + _RENEW_INTERVAL_S
            if not renew and not await asyncio.to_thread(_changed, known):
                return known
        try:
            self._loaded_s = now_s
            fresh = await asyncio.to_thread(self._load)
        except CredentialsError as error:
            if known is None:
                raise
            if self._problem != str(error):
                log.warning("kubernetes_credentials_kept", error=str(error))
            self._problem = str(error)
            return known
        if known is not None and _differ(known, fresh):
            log.info("kubernetes_credentials_read", server=fresh.server)
        self._looked_s, self._credentials, self._problem = self._clock(), fresh, ""
        return fresh


def _changed(credentials: Credentials) -> bool:
    """Whether a file is another one now. Blocks."""
    return any(stamp(path) != then for path, then in credentials.files)


def _differ(one: Credentials, other: Credentials) -> bool:
    return (one.way, one.authorization) != (other.way, other.authorization)
