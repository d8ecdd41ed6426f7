"""The network over which service engines of the lab reach the API server: a bridge in this process's namespace."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from lbd.cli.demo.namespace import Namespace, ip_batch

_HOSTS = range(2, 250)
_IP = ["ip", "-batch", "-"]


class ManagementNetwork:
    """A bridge with `address`, as a context manager; needs a sandbox. `number` (0 to 99) keeps several apart."""

    def __init__(self, number: int = 0) -> None:
        """Describe the network 192.168.(100 + number).0/24; builds nothing yet."""
        self._number = number
        self._prefix = f"192.168.{100 + number}."
        self._connected = 0
        self.bridge = f"mgmt{number}"
        self.address = f"{self._prefix}1"

    def __enter__(self) -> Self:
        ip_batch(
            _IP,
            [
                f"link add {self.bridge} type bridge mcast_snooping 0",
                f"address add {self.address}/24 dev {self.bridge}",
                f"link set {self.bridge} up",
            ],
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ip_batch(_IP, [f"link del {self.bridge}"])

    def connect(self, namespace: Namespace) -> str:
        """Give the namespace an interface `mgmt` on this network, which goes with it, and return its address."""
        number = self._connected
        self._connected += 1
        address = f"{self._prefix}{_HOSTS[number % len(_HOSTS)]}"
        port = f"m{self._number}-{number}"
        ip_batch(
            _IP,
            [
                f"link add {port} type veth peer name mgmt netns {namespace.name}",
                f"link set {port} master {self.bridge}",
                f"link set {port} up",
            ],
        )
        namespace.ip(f"address add {address}/24 dev mgmt", "link set mgmt up")
        return address
