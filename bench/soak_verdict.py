"""Judges a soak: is memory flat, are descriptors and counters back, did clients see no error? Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

WARM_UP_SHARE, WARM_UP_S = 1 / 3, 60.0
"""Of the loaded time, and at least so long: memory may grow until buffers and tables have their size."""
FEWEST_SAMPLES = 10
GROWTH_SHARE, GROWTH_BYTES = 0.05, 1 << 20
"""How much memory may seem to grow from the warm-up to the end, whichever is more: an allocator's noise."""
_MOST_SLOPES = 400
"""Samples that a slope is made of at most: pairs grow with the square."""


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """A process at one moment: private memory and open descriptors."""

    memory_bytes: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class SoakSample:
    """lbd at one moment. Processes are by role: `supervisor`, `worker 0`, …; counters are sums over all services.

    `active` connections and flows are open or wait for a place, `members_active` are open to a member.
    """

    at_s: float
    processes: Mapping[str, ProcessSample]
    active: int
    members_active: int
    connections_total: int
    rejected_total: int
    restarts_total: int


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the median of the slopes between all pairs of points (Theil and Sen): a few spikes don't move it."""
    step = max(len(points) // _MOST_SLOPES, 1)
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points[::step], 2) if b[0] != a[0]]
    return statistics.median(slopes) if slopes else 0.0


def after_warm_up(loaded: Sequence[SoakSample]) -> list[SoakSample]:
    """Return the samples by which memory is judged."""
    if not loaded:
        return []
    from_s = loaded[0].at_s + max((loaded[-1].at_s - loaded[0].at_s) * WARM_UP_SHARE, WARM_UP_S)
    return [one for one in loaded if one.at_s >= from_s]


def growth_bytes(role: str, warm: Sequence[SoakSample]) -> float:
    """Return by how much a process's memory grew over these samples, by its slope."""
    points = [(one.at_s, float(one.processes[role].memory_bytes)) for one in warm if role in one.processes]
    return slope(points) * (points[-1][0] - points[0][0]) if points else 0.0


def memory_problems(loaded: Sequence[SoakSample]) -> list[str]:
    """Say which processes' memory grows under load."""
    warm = after_warm_up(loaded)
    if len(warm) < FEWEST_SAMPLES:
        return [f"only {len(warm)} samples after the warm-up: too few to say whether memory is flat"]
    problems = []
    for role in warm[-1].processes:
        held = statistics.median(one.processes[role].memory_bytes for one in warm if role in one.processes)
        grew = growth_bytes(role, warm)
        if grew > max(GROWTH_SHARE * held, GROWTH_BYTES):
            problems.append(f"{role}: memory, some {held / 1e6:.1f} MB, grew by {grew / 1e6:.2f} MB after the warm-up")
    return problems


def judge_soak(
    start: SoakSample, loaded: Sequence[SoakSample], end: SoakSample, errors: Mapping[str, int], faults: Sequence[str]
) -> list[str]:
    """Return a sentence for each thing that is not as it must be; an empty list is success.

    `start` is before the load and `end` after it, when all is quiet. `errors` are those that clients saw, by load;
    `faults` are sentences about what went wrong otherwise.
    """
    problems = memory_problems(loaded)
    for role, before in start.processes.items():
        after = end.processes.get(role)
        if after is None:
            problems.append(f"{role} is gone")
        elif after.descriptors > before.descriptors:
            problems.append(f"{role}: {after.descriptors} descriptors at the end, {before.descriptors} at the start")
    if end.active or end.members_active:
        problems.append(f"still counted as open: {end.active} connections or flows, {end.members_active} to members")
    if end.restarts_total:
        problems.append(f"workers were restarted {end.restarts_total} times")
    if end.rejected_total > start.rejected_total:
        problems.append(f"{end.rejected_total - start.rejected_total} clients were rejected, below every limit")
    if end.connections_total == start.connections_total:
        problems.append("no connection was made: nothing was measured")
    problems += [f"{load}: clients saw {count} errors" for load, count in errors.items() if count]
    return [*problems, *faults]
