"""What a demo does that was asked to stay: it says how to try it, and waits."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from rich.console import Console


def stay(console: Console, ways: Iterable[tuple[str, str]]) -> None:
    """Print the ways in, as (what it does, command line), and wait for Ctrl-C."""
    console.print("\n[bold]It stays until Ctrl-C.[/] From another terminal:")
    for what, command in ways:
        console.print(f"\n# {what}", style="dim", markup=False)
        console.print(command, soft_wrap=True, markup=False, highlight=False)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        console.print("\nremoving it")
