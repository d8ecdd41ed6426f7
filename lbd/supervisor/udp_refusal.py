"""How a UDP service refuses: its workers serve only the flows that there are, and when the last one has ended its
sockets are closed, so that clients get ICMP port unreachable. Pure.

All at once: with one socket less the others would get datagrams of each other's flows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from lbd.dataplane.channel import Message

Worker = TypeVar("Worker")


class UdpRefusal(Generic[Worker]):
    """What workers have said about the flows of one service since it was last told to refuse.

    `is_vacating`: the workers are letting go of the sockets, to be closed or bound anew then.
    """

    def __init__(self) -> None:
        self._turn = 0
        self._left: dict[Worker, int] = {}
        self.is_vacating = False

    def begin(self, slot: int) -> Message:
        """Forget what was said before, and return what workers are to be told."""
        self._turn += 1
        self._left.clear()
        return self.message(slot)

    def message(self, slot: int) -> Message:
        """Return the same for a worker that has only just come."""
        return {"type": "refuse", "slot": slot, "turn": self._turn}

    def heard(self, worker: Worker, message: Message) -> None:
        """A worker has said how many flows it has left, now or about an earlier refusal."""
        if message["turn"] == self._turn:
            self._left[worker] = message["left"]

    def is_known(self, workers: Iterable[Worker]) -> bool:
        """Whether all of these serve nobody new."""
        return all(worker in self._left for worker in workers)

    def is_vacant(self, workers: Iterable[Worker]) -> bool:
        """Whether none of these has a flow left."""
        return all(self._left.get(worker) == 0 for worker in workers)
