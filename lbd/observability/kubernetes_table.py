"""A Kubernetes cluster as tables for a person: the API, who writes, pools, rules, and what is wrong with Services."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from lbd.model.kubernetes_status import KubernetesStatus, ObjectProblem, RuleInForce, WatchStatus
from lbd.observability.columns import Row, align
from lbd.observability.words import duration_text, visible

_GOOD, _BAD, _UNSURE, _DIM = "green", "bold red", "yellow", "dim"
_WATCH_COLUMNS = ("watch", "objects", "age", "relists", "errors", "why")
_POOL_COLUMNS = ("pool", "family", "used", "size", "why")
_RULE_COLUMNS = ("rule", "state", "generation", "in force", "services", "why")
_RIGHT = frozenset(("objects", "age", "relists", "errors", "used", "size", "generation", "services"))


def render_kubernetes(kubernetes: KubernetesStatus, width: int) -> Iterator[Text]:
    """Yield the lines below the heading KUBERNETES."""
    yield _api(kubernetes)
    yield _writer(kubernetes)
    yield Text(f"  {kubernetes.assigned} of {kubernetes.services} Services have their addresses")
    routes = kubernetes.pod_routes
    if routes is not None:
        yield Text(f"  {routes.wanted} routes to Pods' networks")
        if routes.problem:
            yield Text(f"    {visible(routes.problem)}", style=_BAD)
    yield from align(_WATCH_COLUMNS, [_watch_row(watch) for watch in kubernetes.watches], _RIGHT, width, indent=2)
    if kubernetes.pools:
        rows: list[Row] = [
            ([Text(pool.name), Text(f"ipv{pool.family}"), Text(str(pool.used)), Text(_size(pool.size))], Text())
            for pool in kubernetes.pools
        ]
        yield from align(_POOL_COLUMNS, rows, _RIGHT, width, indent=2)
    if kubernetes.rules:
        yield from align(_RULE_COLUMNS, [_rule_row(rule) for rule in kubernetes.rules], _RIGHT, width, indent=2)
    yield from (_problem(problem) for problem in kubernetes.object_problems)


def _api(kubernetes: KubernetesStatus) -> Text:
    line = Text(f"  {visible(kubernetes.server)}  ")
    if kubernetes.reachable:
        line.append("reachable", style=_GOOD)
    else:
        line.append(f"unreachable for {duration_text(kubernetes.unreachable_for_s)}", style=_BAD)
        line.append(f": {visible(kubernetes.api_error)}; the last good state stays")
    if not kubernetes.synced:
        line.append("  not synced yet", style=_UNSURE)
    return line


def _writer(kubernetes: KubernetesStatus) -> Text:
    leader = kubernetes.leader
    line = Text("  writer: ")
    if leader.leading:
        return line.append(f"this service engine ({visible(leader.identity)})", style=_GOOD)
    if leader.holder:
        return line.append(f"{visible(leader.holder)} (this one is {visible(leader.identity)})")
    return line.append("nobody is known: no address is assigned meanwhile", style=_UNSURE)


def _watch_row(watch: WatchStatus) -> Row:
    name = visible(watch.resource) + (f" of {visible(watch.namespace)}" if watch.namespace else "")
    age = duration_text(watch.age_s)
    counts = [str(watch.objects), age, str(watch.relists_total), str(watch.errors_total)]
    why = watch.last_error or ("" if watch.synced else "not listed yet")
    return [Text(name), *map(Text, counts)], Text(visible(why), style=_UNSURE)


def _rule_row(rule: RuleInForce) -> Row:
    state = Text("Accepted", style=_GOOD) if rule.accepted else Text("Rejected", style=_BAD)
    in_force = str(rule.generation_in_force) if rule.generation_in_force else "none"
    cells = [Text(visible(rule.name)), state, Text(str(rule.generation)), Text(in_force), Text(str(rule.services))]
    return cells, Text(visible(rule.error), style=_BAD)


def _problem(problem: ObjectProblem) -> Text:
    line = Text(f"  {problem.kind} {visible(problem.name)}: ", style=_UNSURE)
    return line.append(f"{problem.reason}: {visible(problem.message)}")


def _size(size: int) -> str:
    """Return a number of addresses; those of IPv6 as a power of two where it is one."""
    return f"2^{size.bit_length() - 1}" if size >= 1 << 20 else str(size)
