"""What a service engine is and has beside the cluster: addresses that no Service and no member may have. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`taken` are addresses with who has them: VIPs of the files, and this machine's own. `networks` are those that no
    route to Pods may lead into, with what each of them is ("the frontend network")."""

    taken: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
