"""The lanes of a service: which client goes to which listening socket, and the memory of what is known of it there."""

from __future__ import annotations

from collections.abc import Sequence

from lbd.dataplane.persistence_memory import PersistenceMemory
from lbd.model.desired import Persistence, VirtualService
from lbd.supervisor.listeners import ListeningSocket, quiet
from lbd.supervisor.steering import Group, Steering, program, steering_of


class Lanes:
    """One lane for each listening socket, in their order. `seed` is the same for all services of this process."""

    def __init__(self, sockets: Sequence[ListeningSocket], group: Group, seed: int) -> None:
        self._sockets = sockets
        self.group = group
        self._seed = seed
        self._steering: Steering | None = None
        self._memory: PersistenceMemory | None = None
        self._memory_is_for: tuple[object, ...] = ()
        """What a change of makes new memory necessary."""

    def listen(self) -> None:
        """Let the kernel queue new connections, each in the lane of its client.

        Raises:
            OSError: EADDRINUSE, when another process listens there meanwhile.
        """
        if all(sock.listening for sock in self._sockets):
            return
        if self._steering is None:
            for sock in self._sockets:
                sock.listen()
            self._attach()  # nothing: a former service of this address may have been steered
            return
        with quiet(self._sockets):
            for sock in self._sockets:
                sock.listen()
            self._attach()

    def steer(self, service: VirtualService) -> None:
        """Follow a change of the service.

        Raises:
            OSError: the kernel refuses the program.
        """
        steering = steering_of(service, len(self._sockets))
        if steering != self._steering:
            self._steering = steering
            self.restore()

    def restore(self) -> None:
        """Put the program right, after somebody has left the group or this service is to be steered otherwise.

        Raises:
            OSError: the kernel refuses the program.
        """
        if self.group.places(self._identities) is None:
            return  # `listen` does it
        with quiet(self._sockets):
            self._attach()

    def remember(self, service: VirtualService) -> bool:
        """Have the memory that the service wants for its clients' members; return whether it is another one now.

        Raises:
            OSError: there is no memory or no descriptor for it.
        """
        wanted = self._memory_wanted(service.pool.persistence)
        if wanted == self._memory_is_for:
            return False
        memory = None
        if service.pool.persistence is not None:
            capacity = service.pool.persistence.max_entries
            count = len(self._sockets)
            if self._steering is None or self._steering.lane_of_all is None:
                capacity = -(-capacity // count)
            memory = PersistenceMemory(count, capacity, count)
        self._close_memory()
        self._memory = memory
        self._memory_is_for = wanted
        return True

    def _memory_wanted(self, persistence: Persistence | None) -> tuple[object, ...]:
        if persistence is None:
            return ()
        return (self._steering, persistence.max_entries, persistence.ipv4_prefix, persistence.ipv6_prefix)

    def memory(self, lane: int) -> tuple[int, int] | None:
        """Return the descriptor of the memory and where a lane's part begins, or None without persistence."""
        return None if self._memory is None else (self._memory.descriptor, self._memory.offset(lane))

    @property
    def entries(self) -> int:
        """How many clients' members are remembered."""
        return 0 if self._memory is None else self._memory.entries

    def bury(self, worker: int) -> None:
        """The worker in this place has died."""
        if self._memory is not None:
            self._memory.bury(worker)

    def close(self) -> None:
        """Let go of the memory."""
        self._close_memory()
        self._memory_is_for = ()

    def _close_memory(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def _attach(self) -> None:
        places = self.group.places(self._identities)
        if self._steering is None or places is None:
            self._sockets[0].steer(None)
        else:
            self._sockets[0].steer(program(self._steering, places, self._seed))

    @property
    def _identities(self) -> list[int]:
        return [sock.identity for sock in self._sockets]
