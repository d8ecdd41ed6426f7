"""How many connections each client has, and how fast they come.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MAX_CLIENTS: Final = 100_000
"""Of one lane: about 25 MB. When all of them have connections, new ones get none."""
_STALE_AT_ONCE: Final = 4

# What `ClientLimits.enter` answers.
CLIENT_ADMITTED: Final = 0
TOO_MANY: Final = 1
TOO_FAST: Final = 2


class Client:
    """One client: `active` connections, `tokens` for more of them at `at_ms`."""

    __slots__ = ("active", "at_ms", "tokens")

    def __init__(self, tokens: float, now_ms: int) -> None:
        self.active: int = 0
        self.tokens: float = tokens
        self.at_ms: int = now_ms


class ClientLimits:
    """The clients of one lane. `most` is how many connections each may have, `rate` how many new ones a second (0: no
    limit); a second's worth may come at once, at least one.

    A client without connections is forgotten as soon as it might have come a whole burst again. When MAX_CLIENTS are
    known, the one that has been without longest is forgotten earlier.
    """

    __slots__ = ("_active", "_burst", "_fill_ms", "_idle", "_max_clients", "most", "rate")

    def __init__(self, most: int, rate: float, max_clients: int = MAX_CLIENTS) -> None:
        self._active: dict[str, Client] = {}
        self._idle: OrderedDict[str, Client] = OrderedDict()
        self._max_clients: int = max_clients
        self.most: int = 0
        self.rate: float = 0.0
        self._burst: float = 1.0
        self._fill_ms: int = 0
        self.set_limits(most, rate)

    def __len__(self) -> int:
        return len(self._active) + len(self._idle)

    def set_limits(self, most: int, rate: float) -> None:
        """Change the limits; who has more connections than that keeps them."""
        self.most = most
        self.rate = rate
        self._burst = max(1.0, rate)
        self._fill_ms = int(self._burst / rate * 1000) + 1 if rate else 0

    def enter(self, address: str, now_ms: int) -> int:
        """Count a new connection of a client: CLIENT_ADMITTED, or why it gets none."""
        client = self._active.get(address)
        if client is None:
            client = self._awake(address, now_ms)
            if client is None:
                return TOO_MANY if self.most else TOO_FAST
        elif self.most and client.active >= self.most:
            return TOO_MANY
        if self.rate:
            self._fill(client, now_ms)
            if client.tokens < 1.0:
                self._rest(address, client)
                return TOO_FAST
            client.tokens -= 1.0
        client.active += 1
        return CLIENT_ADMITTED

    def adopt(self, address: str, now_ms: int) -> None:
        """Count a connection that was there before the limits were."""
        client = self._active.get(address)
        if client is None:
            client = self._active[address] = Client(self._burst, now_ms)
        client.active += 1

    def leave(self, address: str, now_ms: int) -> None:
        """A connection of a client has ended."""
        client = self._active.get(address)
        if client is not None:
            client.active -= 1
            self._fill(client, now_ms)
            self._rest(address, client)

    def undo(self, address: str, now_ms: int) -> None:
        """A connection that was counted gets no place for another reason."""
        client = self._active.get(address)
        if client is not None:
            client.tokens += 1.0
        self.leave(address, now_ms)

    def _fill(self, client: Client, now_ms: int) -> None:
        passed_ms = now_ms - client.at_ms
        if passed_ms > 0:
            client.at_ms = now_ms
            client.tokens = min(client.tokens + self.rate * passed_ms / 1000.0, self._burst)

    def _awake(self, address: str, now_ms: int) -> Client | None:
        """Return a client without connections, a new one if it is not known; None if there is no room for one."""
        self._forget_stale(now_ms)
        client = self._idle.pop(address, None)
        if client is None:
            if len(self) >= self._max_clients:
                if not self._idle:
                    return None
                self._idle.popitem(last=False)
            client = Client(self._burst, now_ms)
        self._active[address] = client
        return client

    def _rest(self, address: str, client: Client) -> None:
        """Keep a client that has no connection only while its bucket is not full."""
        if client.active == 0:
            del self._active[address]
            if self.rate and client.tokens < self._burst:
                self._idle[address] = client

    def _forget_stale(self, now_ms: int) -> None:
        for _ in range(_STALE_AT_ONCE):
            if not self._idle:
                return
            address = next(iter(self._idle))
            if now_ms - self._idle[address].at_ms < self._fill_ms:
                return
            del self._idle[address]
