"""What the demo's audience reads."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from lbd.cli.demo.ledger import Ledger, Request, judge
from lbd.cli.demo.play import Times, summary, ways_in
from lbd.cli.demo.view import PodLine, Scene, View

PODS = [
    PodLine("pod1", "10.10.52.11", "running", "up", 12, 4),
    PodLine("pod2", "10.10.52.12", "killed", "down", 6, 0),
]


def perform(plain: bool) -> str:
    """Show one scene and one event; return what was written in the end."""
    written = io.StringIO()
    console = Console(file=written, width=120, force_terminal=not plain, color_system=None)
    with View(console, plain) as view:
        view.event("killed pod2")
        view.show(Scene("title", PODS, 18, 0))
        view.show(Scene("title", PODS, 19, 0))
    return written.getvalue()


def test_plain_lines_come_once_a_second_and_without_escape_sequences() -> None:
    shown = perform(plain=True)
    assert "\x1b" not in shown
    assert "killed pod2" in shown
    assert "pod2 down        6" in shown
    assert "requests 18, failed 0" in shown
    assert "requests 19" not in shown


def test_on_a_terminal_the_table_shows_what_is_true_beside_what_lbd_says() -> None:
    shown = perform(plain=False)
    row = next(line for line in shown.splitlines() if "10.10.52.12" in line)
    assert "killed" in row
    assert "down" in row
    assert shown.rstrip().endswith("killed pod2"), "the events stay when the live table goes"


def test_the_summary_counts_from_the_kill_on() -> None:
    books = Ledger()
    for request in (Request(1.0, 1.010, "pod1"), Request(1.99, 2.01, error="reset"), Request(2.5, 2.620, "pod1")):
        books.add(request)
    written = io.StringIO()
    console = Console(file=written, width=120)
    console.print(summary(books, ["pod1", "pod2"], Times(1.995, 2.0, 2.3, 4.0, 4.5), judge(books, 1.995, 2.0)))
    rows = dict(line.strip("│ ").split("│") for line in written.getvalue().splitlines() if line.startswith("│"))
    shown = {key.strip(): value.strip() for key, value in rows.items()}
    assert shown == {
        "answered by pod1": "2",
        "answered by pod2": "0",
        "requests": "3",
        "failed that started after the kill": "0",
        "cut off at the moment of the kill": "1",
        "worst latency before the kill": "10 ms",
        "worst latency from the kill on": "120 ms",
        "time until lbd saw the Pod down": "300 ms",
        "time until the revived Pod answered": "500 ms",
    }


def test_every_way_in_enters_the_sandbox_first() -> None:
    ways = ways_in("nsenter --target 7 --mount --net --pid", Path("/venv/bin/lbd"))
    assert all(command.startswith("nsenter --target 7 --mount --net --pid ") for _, command in ways)
    assert any(command.endswith("/venv/bin/lbd status") for _, command in ways)
