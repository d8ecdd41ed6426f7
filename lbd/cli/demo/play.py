"""The demo itself, inside its sandbox: traffic, a Pod that dies, a Pod that comes back, and what it proved.

`python -m lbd.cli.demo.play [--keep] [--plain]` is what `lbd demo` runs in the sandbox.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from lbd.cli.demo import sandbox
from lbd.cli.demo.demo_daemon import LOG_PATH, METRICS, StageError
from lbd.cli.demo.guarded import guarded
from lbd.cli.demo.lab import Pod
from lbd.cli.demo.ledger import Ledger, Verdict, judge
from lbd.cli.demo.stage import PORT, VIP, Stage, member_of
from lbd.cli.demo.staying import stay
from lbd.cli.demo.traffic import RATE_PER_S, Traffic
from lbd.cli.demo.view import PodLine, Scene, View
from lbd.model.status import Health

_FRAME_S: Final = 0.1
_BALANCE_S: Final = 4.0
_WITHOUT_S: Final = 3.0
_AGAIN_S: Final = 3.0
_PATIENCE_S: Final = 10.0
"""How long lbd may take to see a Pod die or come back."""


@dataclass(frozen=True, slots=True)
class Times:
    """When it happened, in monotonic seconds."""

    struck_s: float
    killed_s: float
    """The Pod's process died between these two."""
    seen_down_s: float
    revived_s: float
    served_again_s: float


class Play:
    """The acts, one after another, on a stage whose traffic goes into `ledger`."""

    def __init__(self, stage: Stage, ledger: Ledger, view: View) -> None:
        self._stage = stage
        self._ledger = ledger
        self._view = view
        self._title = ""

    def perform(self) -> Times:
        """Balance, kill, revive; return when each happened.

        Raises:
            StageError: lbd did not see what happened to the Pod within 10 s, or ended.
        """
        victim = self._stage.lab.pods[1]
        self._title = f"One VIP, three Pods: {RATE_PER_S} requests/s to http://{VIP}/, each on a new connection"
        self._view.event(f"`lbd run` owns {VIP}; requests begin, {RATE_PER_S} a second")
        self._until(lambda: None, _BALANCE_S)

        number = self._stage.pod_pid(victim)
        struck_s, killed_s = self._stage.kill_pod(victim)
        self._title = f"{victim.name} was killed: the other two answer"
        self._view.event(f"killed {victim.name} (kill -9 {number}); its namespace stays and refuses", "bold red")
        seen_down_s = self._until(lambda: self._since(victim, Health.DOWN), _PATIENCE_S, f"{victim.name} down")
        member = member_of(self._stage.status(), victim)
        reason = f" ({member.health_reason})" if member and member.health_reason else ""
        self._view.event(
            f"lbd sees {victim.name} down after {max(0.0, seen_down_s - killed_s):.2f} s{reason}", "yellow"
        )
        self._until(lambda: None, _WITHOUT_S)
        requests, failed = self._ledger.count(killed_s), len(self._ledger.failures(killed_s))
        self._view.event(
            f"{requests} requests since the kill, {failed} failed", "bold green" if failed == 0 else "bold red"
        )

        self._stage.start_pod(victim)
        revived_s = time.monotonic()
        self._title = f"{victim.name} is back"
        self._view.event(f"revived {victim.name}", "bold")
        served_again_s = self._until(
            lambda: self._ledger.first_answer_s(victim.name, revived_s), _PATIENCE_S, f"{victim.name} answering again"
        )
        self._view.event(f"{victim.name} answers again after {served_again_s - revived_s:.2f} s", "bold green")
        self._until(lambda: None, _AGAIN_S)
        return Times(struck_s, killed_s, seen_down_s, revived_s, served_again_s)

    def _since(self, pod: Pod, health: Health) -> float | None:
        """Return since when lbd says that the Pod has this health, or None if it says another."""
        member = member_of(self._stage.status(), pod)
        return time.monotonic() - member.health_for_s if member is not None and member.health is health else None

    def _until(self, moment: Callable[[], float | None], timeout_s: float, awaited: str = "") -> float:
        """Show the scene until `moment` gives a time, and return that; or until the time is up.

        Raises:
            StageError: the time is up and something was awaited, or the daemon has ended.
        """
        deadline_s = time.monotonic() + timeout_s
        while (found_s := moment()) is None:
            self._stage.check_daemon()
            now_s = time.monotonic()
            if now_s >= deadline_s:
                if awaited:
                    raise StageError(f"lbd did not show {awaited} within {timeout_s:.0f} s; see `lbd status`")
                return now_s
            self._view.show(self._scene(now_s))
            time.sleep(_FRAME_S)
        return found_s

    def _scene(self, now_s: float) -> Scene:
        status, answered, lately = self._stage.status(), self._ledger.by_pod(), self._ledger.lately(now_s)
        pods = []
        for pod in self._stage.lab.pods:
            member = member_of(status, pod)
            process = "running" if self._stage.pod_alive(pod) else "killed"
            health = str(member.health) if member is not None else "unknown"
            pods.append(PodLine(pod.name, pod.address[4], process, health, answered[pod.name], lately[pod.name]))
        return Scene(self._title, pods, self._ledger.total, len(self._ledger.failures()))


def summary(ledger: Ledger, pods: list[str], times: Times, verdict: Verdict) -> Table:
    """Return the table that stays when the demo has ended."""
    table = Table(title="What happened", title_justify="left", title_style="bold", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    answered = ledger.by_pod()
    for pod in pods:
        table.add_row(f"answered by {pod}", str(answered[pod]))
    table.add_row("requests", str(ledger.total))
    table.add_row("failed that started after the kill", str(len(ledger.failures(times.killed_s))))
    table.add_row("cut off at the moment of the kill", str(len(verdict.cut_off)))
    table.add_row("worst latency before the kill", _ms(ledger.worst_latency_s(until_s=times.killed_s)))
    table.add_row("worst latency from the kill on", _ms(ledger.worst_latency_s(times.killed_s)))
    table.add_row("time until lbd saw the Pod down", _ms(max(0.0, times.seen_down_s - times.killed_s)))
    table.add_row("time until the revived Pod answered", _ms(times.served_again_s - times.revived_s))
    return table


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def ways_in(enter: str, program: Path) -> list[tuple[str, str]]:
    """Return what a user can try from another terminal while the demo stays, as (what it does, command line).

    `enter` is the command that enters the sandbox, `program` the installed `lbd`.
    """
    curl = "curl -s" if shutil.which("curl") else f"{sys.executable} -c '{_CURL}'"
    return [
        ("ask the VIP as the client, again and again", f"{enter} ip netns exec client {curl} http://{VIP}:{PORT}/"),
        ("what lbd says", f"{enter} {program} status"),
        ("its metrics", f"{enter} ip netns exec se {curl} http://{METRICS}/metrics"),
        ("its log", f"{enter} tail -f {LOG_PATH}"),
        ("take a Pod's network away", f"{enter} ip -n pod1 link set eth0 down"),
        ("and bring it back", f"{enter} ip -n pod1 link set eth0 up"),
    ]


_CURL: Final = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"


def _keep(console: Console) -> None:
    """Print the ways in and wait for Ctrl-C."""
    ways = ways_in(os.environ[sandbox.VARIABLE], Path(sys.executable).parent / "lbd")
    stay(console, ways)


def run(console: Console, *, keep: bool, plain: bool) -> int:
    """Perform the demo and return its exit status: 0, or 1 if a request failed that must not."""
    ledger = Ledger()
    console.print(
        "building a client, a service engine and three Pods, each in a network namespace of its own", soft_wrap=True
    )
    with Stage() as stage:
        with View(console, plain) as view, Traffic(stage.lab.client, VIP, PORT, ledger) as traffic:
            times = Play(stage, ledger, view).perform()
            traffic.stop()
        verdict = judge(ledger, times.struck_s, times.killed_s)
        console.print(summary(ledger, [pod.name for pod in stage.lab.pods], times, verdict))
        for request in verdict.unexcused[:5]:
            console.print(
                f"failed {request.started_s - times.killed_s:+.3f} s from the kill: {request.error}", style="red"
            )
        if verdict.passed:
            console.print("[bold green]No request failed from the kill on.[/]")
        else:
            console.print(f"[bold red]{len(verdict.unexcused)} requests failed.[/]")
        if keep:
            _keep(console)
    return 0 if verdict.passed else 1


def main(arguments: list[str]) -> int:
    """Run the demo with `--keep` and `--plain` if they are among the arguments; return the exit status."""
    console = Console()
    plain = "--plain" in arguments or not console.is_terminal
    return guarded(console, lambda: run(console, keep="--keep" in arguments, plain=plain))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
