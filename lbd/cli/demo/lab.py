"""The two-arm lab: a client, a service engine and Pods, each a network namespace.

             172.16.101.0/24, fd00:101::/64           10.10.52.0/24, fd00:52::/64
    client ─────────────────────────────── se ──(bridge `back`)──┬── pod1
      .2                             .1  `front`        .1       ├── pod2    .11 .12 .13 …
                                                                 └── pod3

There is no route between the two networks, and the SE forwards nothing: whatever a client gets from a Pod went
through a load balancer on the SE.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from lbd.cli.demo.namespace import Namespace, ip_batch

FRONT_PREFIX: Final = {4: "172.16.101.", 6: "fd00:101::"}
BACK_PREFIX: Final = {4: "10.10.52.", 6: "fd00:52::"}
PREFIX_LENGTH: Final = {4: 24, 6: 64}
NOBODYS_MAC: Final = "02:00:00:00:00:fe"
"""A hardware address that nothing in the lab has: frames to it vanish."""

_SYSCTLS: Final = {
    "net/ipv4/ip_forward": 0,  # a new namespace inherits it from the machine; see the module's docstring
    "net/ipv4/ip_local_port_range": "1024 65535",
    "net/ipv4/tcp_tw_reuse": 1,
    "net/ipv4/tcp_migrate_req": 1,
    "net/ipv4/tcp_max_syn_backlog": 65535,
    "net/ipv4/conf/all/arp_ignore": 1,
    "net/ipv4/conf/all/arp_announce": 2,
    "net/ipv6/conf/all/forwarding": 0,
    "net/ipv6/conf/all/accept_dad": 0,  # or each address stays tentative for a second
    "net/ipv6/conf/default/accept_dad": 0,
    "net/ipv6/conf/default/accept_ra": 0,
    "net/core/somaxconn": 65535,
}
_MAY_BE_ABSENT: Final = frozenset({"net/core/somaxconn", "net/ipv4/tcp_migrate_req"})
"""Older kernels show these to the machine's own namespace alone, or have them not at all."""


class Pod(Namespace):
    """A Pod's namespace: interface `eth0` with one address of each family on the backend network."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name)
        self.number = number
        self.mac = f"02:00:00:00:52:{number:02x}"
        self.address = {family: f"{prefix}{number}" for family, prefix in BACK_PREFIX.items()}


class Lab:
    """The lab as a context manager: built on entry, gone on exit with every process that still runs in it.

    Needs a sandbox (or root): `ip netns` must work. Several labs can live in one sandbox under different prefixes.
    `client` and `se` are its namespaces, `pods` the Pods' in order; addresses are dictionaries by family, 4 or 6.
    """

    def __init__(self, pods: int = 3, prefix: str = "") -> None:
        """Describe a lab of `pods` Pods (1 to 200) whose namespaces' names begin with `prefix`; builds nothing yet."""
        self.client = Namespace(f"{prefix}client")
        self.se = Namespace(f"{prefix}se")
        self.pods = [Pod(f"{prefix}pod{number}", 10 + number) for number in range(1, pods + 1)]
        self.client_address = {family: f"{front}2" for family, front in FRONT_PREFIX.items()}
        self.se_front_address = {family: f"{front}1" for family, front in FRONT_PREFIX.items()}
        self.se_back_address = {family: f"{back}1" for family, back in BACK_PREFIX.items()}
        self.vip = {family: f"{front}150" for family, front in FRONT_PREFIX.items()}
        self.client_mac = "02:00:00:01:01:02"
        self.front_mac = "02:00:00:01:01:01"
        self.back_mac = "02:00:00:00:52:01"

    @property
    def namespaces(self) -> list[Namespace]:
        """Every namespace of the lab."""
        return [self.client, self.se, *self.pods]

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _build(self) -> None:
        ip_batch(["ip", "-batch", "-"], [f"netns add {namespace.name}" for namespace in self.namespaces])
        for namespace in self.namespaces:
            namespace.call(_write_sysctls)
        ip_batch(["ip", "-batch", "-"], self._cables())
        self.client.ip("link set lo up", "link set eth0 up", *_addresses("eth0", self.client_address))
        for pod in self.pods:
            pod.ip("link set lo up", "link set eth0 up", *_addresses("eth0", pod.address))
        self.se.ip(
            "link set lo up",
            "link set front up",
            *_addresses("front", self.se_front_address),
            f"link add back address {self.back_mac} type bridge mcast_snooping 0",
            *(f"link set {cable(pod)} master back" for pod in self.pods),
            *(f"link set {cable(pod)} up" for pod in self.pods),
            "link set back up",
            *_addresses("back", self.se_back_address),
        )

    def _cables(self) -> list[str]:
        """Return the `ip` commands that make the virtual cables, each end already where it belongs."""
        return [
            f"link add eth0 netns {self.client.name} address {self.client_mac} type veth "
            f"peer name front netns {self.se.name} address {self.front_mac}",
            *(
                f"link add eth0 netns {pod.name} address {pod.mac} type veth "
                f"peer name {cable(pod)} netns {self.se.name}"
                for pod in self.pods
            ),
        ]

    def black_hole(self, pod: Pod) -> None:
        """Let everything that the SE sends to the Pod vanish without an answer."""
        self.se.ip(
            *(
                f"neigh replace {address} lladdr {NOBODYS_MAC} dev back nud permanent"
                for address in pod.address.values()
            )
        )

    def end_black_hole(self, pod: Pod) -> None:
        """Let the SE reach the Pod again."""
        self.se.ip(*(f"neigh del {address} dev back" for address in pod.address.values()))

    def unplug_client(self) -> None:
        """Take the link of the frontend network down (both ends lose their carrier)."""
        self.client.ip("link set eth0 down")

    def plug_client(self) -> None:
        """Bring the link of the frontend network up again, with the client's IPv6 address, which went with the link."""
        self.client.ip("link set eth0 up", *_addresses("eth0", {6: self.client_address[6]}, verb="replace"))

    def processes(self) -> list[int]:
        """Return the numbers of the processes, other than this one, that run in one of the lab's namespaces."""
        ours = set()
        for namespace in self.namespaces:
            with contextlib.suppress(FileNotFoundError):
                ours.add(namespace.path.stat().st_ino)
        return [pid for pid, inode in _network_namespaces() if inode in ours and pid != os.getpid()]

    def close(self) -> None:
        """End every process in the lab and remove its namespaces. Can be called again."""
        deadline_s = time.monotonic() + 5.0
        while (left := self.processes()) and time.monotonic() < deadline_s:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        names = [namespace.name for namespace in self.namespaces if namespace.path.exists()]
        for namespace in self.namespaces:
            namespace.close()
        if names:
            subprocess.run(
                ["ip", "-force", "-batch", "-"],
                input="\n".join(f"netns del {name}" for name in names),
                text=True,
                check=True,
            )


def cable(pod: Pod) -> str:
    """Return the name of the SE's end of the cable to a Pod."""
    return f"pod{pod.number - 10}"


def _addresses(interface: str, by_family: dict[int, str], verb: str = "add") -> list[str]:
    return [
        f"address {verb} {address}/{PREFIX_LENGTH[family]} dev {interface}" + (" nodad" if family == 6 else "")
        for family, address in by_family.items()
    ]


def _write_sysctls() -> None:
    for key, value in _SYSCTLS.items():
        path = Path("/proc/sys") / key
        if key not in _MAY_BE_ABSENT or path.exists():
            path.write_text(str(value))


def _network_namespaces() -> Iterator[tuple[int, int]]:
    """Yield each living process's number and the inode of its network namespace."""
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError):  # it ended meanwhile, or is a zombie
                yield int(entry), os.stat(f"/proc/{entry}/ns/net").st_ino
