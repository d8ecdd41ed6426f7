"""`lbd demo --kubernetes`, inside its sandbox: a Service is published, ruled, misruled and deleted.

`python -m lbd.cli.demo.kubernetes_play [--keep]` is what the command runs in the sandbox.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from rich.console import Console
from rich.text import Text

from lbd.cli.demo import manifests, sandbox
from lbd.cli.demo.demo_daemon import CONFIG_PATH, DIRECTORY, LOG_PATH, StageError
from lbd.cli.demo.guarded import guarded
from lbd.cli.demo.kubectl import Kubectl, columns
from lbd.cli.demo.kubernetes_stage import KubernetesStage, admin_kubeconfig
from lbd.cli.demo.ledger import Ledger
from lbd.cli.demo.long_connection import LongConnection
from lbd.cli.demo.staying import stay
from lbd.cli.demo.traffic import RATE_PER_S, Traffic, ask
from lbd.model.status import Status, VirtualServiceStatus
from lbd.observability.table import render

_POLL_S: Final = 0.05
_ASSIGNED_WITHIN_S: Final = 2.0
_PATIENCE_S: Final = 15.0
_LOOK_S: Final = 2.0
_ASK_TIMEOUT_S: Final = 2.0
_STATUS_WIDTH: Final = 118
RULE_ANNOTATION: Final = "ako.vmware.com/l4rule"
BAD_EDIT: Final = {"spec": {"backendProperties": [{"port": 80, "protocol": "TCP", "healthMonitorRefs": ["No-Such"]}]}}
"""What is tried on the rule: a health monitor that nobody has defined."""

T = TypeVar("T")


class KubernetesPlay:
    """The acts, one after another. `failures` are what did not happen, as sentences."""

    def __init__(self, stage: KubernetesStage, console: Console) -> None:
        self.failures: list[str] = []
        self.ledger = Ledger()
        self._stage = stage
        self._console = console
        self._kubectl = Kubectl(stage.server.admin, self._say)
        self._deployment = example("Deployment")
        self._service = example("Service")
        self._rule = example("L4Rule")
        self._vip = ""
        self._port = int(self._service[1]["spec"]["ports"][0]["port"])

    def perform(self) -> None:
        """Play it all.

        Raises:
            StageError: it can't go on.
        """
        self.install()
        self.publish()
        with LongConnection(self._stage.lab.client, self._vip, self._port) as held, self._traffic() as traffic:
            self.balance()
            self.rule(held)
            self.misrule(held)
            traffic.stop()
            held.stop()
        self._expect(held.error == "" and held.answers > 0, f"the long connection never broke: {held.answers} answers")
        failed = self.ledger.failures()
        self._expect(not failed, f"{self.ledger.total} requests from beginning to end, {len(failed)} failed")
        self.delete()

    def _traffic(self) -> Traffic:
        return Traffic(self._stage.lab.client, self._vip, self._port, self.ledger)

    # -- acts ------------------------------------------------------------------------------------------------------

    def install(self) -> None:
        """What an administrator does once, and the start of lbd."""
        self._heading("An administrator allows lbd what it needs, and starts it on a service engine")
        for path in self._stage.installed_files:
            self._kubectl.apply(path)
        self._kubectl.command("create", "token", "lbd", "-n", "lbd-system")
        self._stage.start_daemon()
        files = [CONFIG_PATH, *self._stage.example_config_files]
        self._say(f"$ lbd run {' '.join(f'-c {path.name}' for path in files)}")

    def publish(self) -> None:
        """A Deployment and a Service are applied; the Service gets an address."""
        self._heading("A user applies a Deployment and a Service of type LoadBalancer")
        self._kubectl.apply(self._deployment[0])
        self._stage.understudy.run_deployment(self._deployment[1])
        self._kubectl.get_all("v1", "Pod", wide=True)
        with self._kubectl.watching(self._service[1]) as changes:
            self._kubectl.apply(self._service[0], without=RULE_ANNOTATION)
            applied_s = time.monotonic()
            self._stage.understudy.write_slice(self._service[1])
            self._kubectl.command("get", "service", self._service[1]["metadata"]["name"], "--watch")
            assigned_s = self._follow(changes)
        took_s = max(0.0, assigned_s - applied_s)
        self._expect(took_s < _ASSIGNED_WITHIN_S, f"EXTERNAL-IP {self._vip} {took_s * 1000:.0f} ms after kubectl apply")
        self._until(self._ask, f"an answer of {self._vip}")
        self._expect(True, f"the first answer to a client {time.monotonic() - applied_s:.2f} s after kubectl apply")

    def _follow(self, changes: Iterator[tuple[float, list[str], list[str]]]) -> float:
        """Print a Service's rows as they come until it has an address; return when it had it."""
        printed = False
        for at_s, headings, cells in changes:
            lines = columns([headings, cells])
            for line in lines[1:] if printed else lines:
                self._say(line)
            printed = True
            external = cells[headings.index("EXTERNAL-IP")]
            if external not in ("<pending>", "<none>"):
                self._vip = external
                return at_s
        raise StageError("the API server ended the watch before the Service had an address")

    def balance(self) -> None:
        """Clients get answers from every Pod."""
        self._heading(
            f"A client reaches the Pods: curl, while {RATE_PER_S} requests a second and one long connection go on"
        )
        self._curl(8)
        since_s = time.monotonic()
        self._until(lambda: len(self.ledger.by_pod(since_s)) > 1, "answers of both Pods", _PATIENCE_S)
        shown = self.ledger.by_pod(since_s)
        self._expect(set(shown) == set(self._stage.understudy.pod_names), "every Pod answers")
        self._until(self._serving, "the service in `lbd status`")
        self._show_status()

    def rule(self, held: LongConnection) -> None:
        """An L4Rule changes the running service."""
        self._heading("An L4Rule changes algorithm, persistence, monitors, limits and logging of the running service")
        self._kubectl.apply(self._rule[0])
        name = self._rule[1]["metadata"]["name"]
        answers = held.answers
        self._kubectl.annotate(self._service[1], RULE_ANNOTATION, name)
        self._until(lambda: self._service_status("consistent_hash"), "consistent_hash in `lbd status`")
        self._until(lambda: self._rule_says("Accepted"), "the rule Accepted")
        self._kubectl.get(self._rule[1])
        changed_s = time.monotonic()
        self._watch_for(_LOOK_S)
        service = self._until(self._monitored, "up by System-Ping and System-TCP in `lbd status`")
        self._curl(8)
        self._show_status()
        monitors = sorted({monitor.name for member in service.members for monitor in member.monitors})
        self._say(
            f"    monitors: {', '.join(monitors)}; persistence: {service.traffic.persistence_entries} client remembered"
        )
        self._expect(service.traffic.persistence_entries > 0, "the client's Pod is remembered")
        self._say(f"$ grep connection_ended {LOG_PATH.name} | tail -n 1")
        self._say(self._until(lambda: last_line("connection_ended", LOG_PATH), "a line for each connection in its log"))
        pods = self.ledger.by_pod(changed_s)
        self._expect(len(pods) == 1, "the hash of its address leads this client to one Pod")
        self._unbroken(held, answers, "the change of rule")

    def misrule(self, held: LongConnection) -> None:
        """The rule is edited into one that can't work, and stays in force as it was."""
        self._heading("An edit that can't work is rejected, and what was accepted last stays in force")
        answers = held.answers
        self._kubectl.patch(self._rule[1], BAD_EDIT)
        error = self._until(lambda: self._rule_says("Rejected"), "the rule Rejected")
        self._kubectl.get(self._rule[1], wide=True)
        self._expect("No-Such" in error, f"the status says: {error}")
        self._watch_for(_LOOK_S / 2)
        service = self._until(self._serving, "the service in `lbd status`")
        self._expect(service.algorithm == "consistent_hash", f"lbd status: {service.name} still {service.algorithm}")
        self._unbroken(held, answers, "the rejected edit")

    def delete(self) -> None:
        """The Service is deleted, and nothing is left of it here."""
        self._heading("The Service is deleted")
        took_s = self._kubectl.delete(self._service[1])
        self._expect(
            took_s is not None, f"its finalizer was taken off after {took_s or 0:.1f} s, the address withdrawn before"
        )
        addresses = self._stage.lab.se.run(["ip", "-brief", "address", "show", "dev", "front"]).stdout
        self._expect(f"{self._vip}/" not in addresses, f"the service engine no longer has {self._vip}")

    # -- looking ---------------------------------------------------------------------------------------------------

    def _status(self) -> Status:
        status = self._stage.daemon.status()
        if status is None:
            self._stage.daemon.check()
            raise StageError("`lbd status` gets no answer")
        return status

    def _service_status(self, algorithm: str = "") -> VirtualServiceStatus | None:
        """Return the virtual service on the VIP, if it is served and every worker runs it; of an algorithm, or any."""
        for service in self._status().virtual_services:
            current = service.generation == service.wanted_generation and service.state == "serving"
            if service.vip == self._vip and current and algorithm in ("", service.algorithm):
                return service
        return None

    def _serving(self) -> VirtualServiceStatus | None:
        return self._service_status()

    def _monitored(self) -> VirtualServiceStatus | None:
        """Return the service once System-Ping and System-TCP have found its members up."""
        service = self._service_status("consistent_hash")
        wanted = {"system-ping", "system-tcp"}
        found = service is not None and all(
            {monitor.name for monitor in member.monitors if monitor.health == "up"} >= wanted
            for member in service.members
        )
        return service if found else None

    def _rule_says(self, word: str) -> str:
        """Return the rule's error (or `ok`) once its status has this word, else nothing."""
        rule = self._stage.server.admin.get(self._rule[1]) or {}
        status = rule.get("status", {})
        return str(status.get("error") or "ok") if status.get("status") == word else ""

    def _until(self, moment: Callable[[], T | None], awaited: str, timeout_s: float = _PATIENCE_S) -> T:
        """Return the first true value of `moment`.

        Raises:
            StageError: there was none within `timeout_s`, or the daemon has ended.
        """
        deadline_s = time.monotonic() + timeout_s
        while not (found := moment()):
            self._stage.daemon.check()
            if time.monotonic() > deadline_s:
                raise StageError(f"lbd did not show {awaited} within {timeout_s:.0f} s; its log is {LOG_PATH}")
            time.sleep(_POLL_S)
        return found

    def _watch_for(self, seconds: float) -> None:
        """Let the traffic go on for a while."""
        deadline_s = time.monotonic() + seconds
        self._until(lambda: time.monotonic() > deadline_s, "nothing", seconds + 1.0)

    # -- saying ----------------------------------------------------------------------------------------------------

    def _say(self, line: str) -> None:
        style = "bold" if line.startswith("$") else ""
        self._console.print(Text(line, style=style), soft_wrap=True)

    def _heading(self, text: str) -> None:
        self._console.print()
        self._console.print(Text(f"# {text}", style="cyan"), soft_wrap=True)

    def _expect(self, happened: bool, sentence: str) -> None:
        mark, style = ("ok", "green") if happened else ("FAILED", "bold red")
        self._console.print(Text(f"  {mark}: {sentence}", style=style), soft_wrap=True)
        if not happened:
            self.failures.append(sentence)

    def _unbroken(self, held: LongConnection, answers: int, change: str) -> None:
        more = held.answers - answers
        self._expect(not held.error and more > 0, f"{change} left the long connection alone: {more} answers meanwhile")
        failed = len(self.ledger.failures())
        self._expect(failed == 0, f"{self.ledger.total} requests so far, {failed} failed")

    def _curl(self, count: int) -> None:
        """Ask as a client that connects anew each time, and show the answers."""
        self._say(f"$ for i in $(seq {count}); do curl http://{self._vip}/; done")
        for _ in range(count):
            self._say(self._until(self._ask, f"an answer of {self._vip}"))

    def _ask(self) -> str:
        """Return who answers a client, or nothing where nobody does."""
        return self._stage.lab.client.call(ask_once, self._vip, self._port)

    def _show_status(self) -> None:
        self._say("$ lbd status   # in part")
        for line in excerpt(self._status()):
            self._console.print(line, soft_wrap=True, highlight=False)


def ask_once(address: str, port: int) -> str:
    """Return who answers on a connection of its own, or nothing; from the namespace of the calling thread."""

    async def asked() -> str:
        async with asyncio.timeout(_ASK_TIMEOUT_S):
            return await ask(address, port)

    try:
        return asyncio.run(asked())
    except (OSError, ValueError):
        return ""


def example(kind: str) -> tuple[Path, dict[str, Any]]:
    """Return the example's object of a kind, and the file that it is in.

    Raises:
        StageError: there is none; lbd was not installed whole.
    """
    folder = manifests.folder() / "example"
    for path in sorted(folder.glob("*.yaml")):
        for manifest in manifests.read(path):
            if manifest["kind"] == kind:
                return path, manifest
    raise StageError(f"there is no {kind} in {folder}")


def excerpt(status: Status) -> Iterator[Text]:
    """Yield the lines of `lbd status` about VIPs, virtual services and rules."""
    section, of_rules = "", False
    for line in render(status, _STATUS_WIDTH):
        if line.plain and line.plain == line.plain.strip().upper():
            section = line.plain
        of_rules = section == "KUBERNETES" and (of_rules or line.plain.startswith("  rule "))
        if line.plain and (section in ("VIPS", "VIRTUAL SERVICES") or of_rules):
            yield line


def last_line(event: str, path: Path) -> str:
    """Return the last line of a log that has this event, or nothing."""
    return next((line for line in reversed(path.read_text(errors="replace").splitlines()) if event in line), "")


def _keep(console: Console, stage: KubernetesStage) -> None:
    """Print the ways in and wait for Ctrl-C."""
    enter, path = os.environ[sandbox.VARIABLE], DIRECTORY / "admin.kubeconfig"
    admin_kubeconfig(stage.server.admin, path)
    ways = [
        ("what lbd says", f"{enter} {Path(sys.executable).parent / 'lbd'} status"),
        ("its log", f"{enter} tail -f {LOG_PATH}"),
        ("the client", f"{enter} ip netns exec client $SHELL"),
    ]
    if kubectl := shutil.which("kubectl"):
        admin = f"{enter} {kubectl} --kubeconfig {path}"
        ways.append(("the cluster", f"{admin} get services,l4rules,events"))
        service = manifests.folder() / "example" / "service.yaml"
        ways.append(("publish the Service again", f"{admin} apply -f {service}"))
        ways.append(("and ask it as the client", f"{enter} ip netns exec client curl -s http://172.16.101.150/"))
    stay(console, ways)


def run(console: Console, *, keep: bool) -> int:
    """Perform the demo and return its exit status: 0, or 1 if something did not happen."""
    console.print(
        "building a network with a client, a service engine and two Pods; starting kube-apiserver and etcd",
        soft_wrap=True,
    )
    with KubernetesStage() as stage:
        play = KubernetesPlay(stage, console)
        play.perform()
        status = conclude(console, play.failures)
        if keep:
            _keep(console, stage)
    return status


def conclude(console: Console, failures: Sequence[str]) -> int:
    """Say how it went; return the exit status: 1 if anything did not happen."""
    console.print()
    for sentence in failures:
        console.print(Text(f"did not happen: {sentence}", style="bold red"), soft_wrap=True)
    if failures:
        return 1
    console.print("[bold green]All of it happened, and no connection was lost.[/]")
    return 0


def main(arguments: list[str]) -> int:
    """Run the demo, with `--keep` if it is among the arguments; return the exit status."""
    console = Console(highlight=False)
    return guarded(console, lambda: run(console, keep="--keep" in arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
