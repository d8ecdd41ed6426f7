"""The lab's tests. Each gets a fresh lab (40 ms) and starts its own daemons and Pod servers in it."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from lab_fixtures import daemon, family, form, judge_skip, lab, raise_descriptor_limit, sandboxed

__all__ = ["daemon", "family", "form", "lab", "sandboxed"]
HERE = Path(__file__).resolve().parent


def pytest_configure() -> None:
    """Prepare this process for its part."""
    raise_descriptor_limit()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this folder as lab tests."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.lab)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where the lab is required."""
    report = yield
    return judge_skip(report) if HERE in item.path.parents else report
