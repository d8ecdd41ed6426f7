"""The lanes of one service: which client goes to which listening socket, and what is remembered there."""

from __future__ import annotations

from collections.abc import Sequence

from lbd.model.desired import VirtualService
from lbd.supervisor.listeners import ListeningSocket, quiet
from lbd.supervisor.steering import Group, Steering, program, steering_of


class Lanes:
    """One lane for each listening socket, in their order. `seed` is the same for all services of this process."""

    def __init__(self, sockets: Sequence[ListeningSocket], group: Group, seed: int) -> None:
        self._sockets = sockets
        self.group = group
        self._seed = seed
        self._steering: Steering | None = None

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

    def _attach(self) -> None:
        places = self.group.places(self._identities)
        if self._steering is None or places is None:
            self._sockets[0].steer(None)
        else:
            self._sockets[0].steer(program(self._steering, places, self._seed))

    @property
    def _identities(self) -> list[int]:
        return [sock.identity for sock in self._sockets]
