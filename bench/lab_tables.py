"""Prints what a comparison has found: medians, spreads, ratios and verdicts, as text of fixed columns."""

from __future__ import annotations

from collections.abc import Sequence

from lab_required import (
    LOSSLESS,
    MOST_IDLE_BYTES,
    SUBJECT,
    Judged,
    Verdict,
    judge,
    judge_idle,
    judge_lost,
    rows_of,
)
from lab_samples import Report

_TITLE = 25
_CELL = 15


def cell(report: Report, name: str, load: str, what: str, form: str) -> str:
    """Return a median with half of the range over the rounds, or a dash."""
    median = report.median(name, load, what)
    return "-" if median is None else f"{median:{form}} ±{report.spread(name, load, what):.0%}"


def table(report: Report, names: Sequence[str], loads: Sequence[str]) -> str:
    """Return the table: one line for each row, a column for each balancer, then ratio, what is required, verdict."""
    lines = [_line("", names, "ratio", "required", "")]
    judged = [judge(report, row) for row in rows_of(loads)]
    for load in loads:
        mine = [one for one in judged if one.row.load == load]
        if not mine:
            continue
        lines.append(load)
        lines += [_judged_line(report, names, one) for one in mine]
        if any(report.lost(name, load) for name in names) or load in LOSSLESS:
            verdict = judge_lost(report, load) if load in LOSSLESS else Verdict.TOLD
            lost = [str(report.lost(name, load)) if report.values(name, load, "lost") else "-" for name in names]
            lines.append(_line("  lost, all rounds", lost, "", "0" if load in LOSSLESS else "", verdict))
    if report.idle_bytes:
        lines.append("idle connection")
        idle = [f"{report.idle_bytes[name]:,.0f}" if name in report.idle_bytes else "-" for name in names]
        lines.append(_line("  bytes of memory", idle, "", f"≤ {MOST_IDLE_BYTES:.0f}", judge_idle(report)))
    lines.append("everything")
    lines.append(
        _line(
            "  errors clients saw",
            [str(report.errors(name)) for name in names],
            "",
            "0",
            Verdict.MISSED if report.errors(SUBJECT) else Verdict.REACHED,
        )
    )
    return "\n".join(lines)


def _judged_line(report: Report, names: Sequence[str], judged: Judged) -> str:
    row = judged.row
    # A row is about some of the rivals; the others have rows of their own.
    shown = [
        cell(report, name, row.load, row.what, row.form) if name == SUBJECT or name in row.rivals else ""
        for name in names
    ]
    shown = [f"*{text}" if name == judged.better else text for name, text in zip(names, shown, strict=True)]
    ratio = "" if judged.ratio is None else f"{judged.ratio:.3f}"
    sign = "≥" if row.more_is_better else "≤"
    required = "" if row.required is None else f"{sign} {row.required}"
    return _line(f"  {row.title}", shown, ratio, required, judged.verdict)


def _line(title: str, cells: Sequence[str], ratio: str, required: str, verdict: str) -> str:
    body = "".join(f"{text:>{_CELL + 2}}" for text in cells)
    return f"{title:{_TITLE}}{body}{ratio:>8}{required:>10}  {verdict}".rstrip()


def plain_table(report: Report, names: Sequence[str], rows: Sequence[tuple[str, str, str, str]]) -> str:
    """Return medians with spreads for `(load, title, field, format)` rows, then as `x 1.02` the ratio to the first."""
    width = max(len(f"{load}, {title}") for load, title, _, _ in rows) + 2
    cells_width = max(_CELL + 10, *(len(name) + 2 for name in names))
    lines = [" " * width + "".join(f"{name:>{cells_width}}" for name in names)]
    for load, title, what, form in rows:
        cells = [cell(report, name, load, what, form) for name in names]
        for number, name in enumerate(names[1:], start=1):
            ratio = report.ratio(name, names[0], load, what)
            cells[number] += "" if ratio is None else f"  x {ratio:.2f}"
        lines.append(f"{f'{load}, {title}':{width}}" + "".join(f"{text:>{cells_width}}" for text in cells))
    return "\n".join(lines)
