"""What the demo's audience sees: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from rich.bar import Bar
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

_PLAIN_EVERY_S: Final = 1.0
_SHOWN_EVENTS: Final = 14
_HEALTH_STYLE: Final = {"up": "green", "down": "bold red", "unknown": "yellow"}


@dataclass(frozen=True, slots=True)
class PodLine:
    """One Pod, as it is shown."""

    name: str
    address: str
    process: str
    """`running` or `killed`: what is true."""
    health: str
    """`up`, `down` or `unknown`: what lbd says."""
    answered: int
    lately: int


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that is shown at one moment."""

    title: str
    pods: Sequence[PodLine]
    requests: int
    failed: int


class View:
    """Shows scenes and events from the beginning to the end of a `with` block; prints what stays afterwards."""

    def __init__(self, console: Console, plain: bool) -> None:
        self.console = console
        self._begun_s = time.monotonic()
        self._events: list[Text] = []
        self._live = None if plain else Live(console=console, refresh_per_second=10, transient=True)
        self._last_plain_s = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            for event in self._events:
                self.console.print(event)

    def event(self, text: str, style: str = "") -> None:
        """Say that something has happened."""
        line = Text().append(f"{time.monotonic() - self._begun_s:6.1f} s  ", style="dim").append(text, style=style)
        self._events.append(line)
        if self._live is None:
            self.console.print(line, soft_wrap=True)

    def show(self, scene: Scene) -> None:
        """Show how things stand; without a terminal once a second, as a line."""
        if self._live is not None:
            self._live.update(Group(_table(scene), Text(), *self._events[-_SHOWN_EVENTS:]))
        elif time.monotonic() - self._last_plain_s >= _PLAIN_EVERY_S:
            self._last_plain_s = time.monotonic()
            pods = "   ".join(f"{pod.name} {pod.health:<7} {pod.answered:5d}" for pod in scene.pods)
            self.console.print(f"          {pods}   requests {scene.requests}, failed {scene.failed}", soft_wrap=True)


def _table(scene: Scene) -> Table:
    busiest = max([pod.answered for pod in scene.pods] + [1])
    table = Table(title=scene.title, title_justify="left", caption_justify="left", title_style="bold", expand=False)
    table.caption = f"{scene.requests} requests, {scene.failed} failed"
    for heading in ("Pod", "address", "process", "lbd says"):
        table.add_column(heading)
    table.add_column("answered", justify="right")
    table.add_column("", width=30)
    table.add_column("last second", justify="right")
    for pod in scene.pods:
        table.add_row(
            pod.name,
            pod.address,
            Text(pod.process, style="green" if pod.process == "running" else "bold red"),
            Text(pod.health, style=_HEALTH_STYLE.get(pod.health, "")),
            str(pod.answered),
            Bar(busiest, 0, pod.answered, color="cyan"),
            str(pod.lately),
        )
    return table
