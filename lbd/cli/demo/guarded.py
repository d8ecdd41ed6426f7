"""Runs a demo's play so that a signal ends it in order, and what stops it is said in one sentence."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import NoReturn

from rich.console import Console

from lbd.cli.demo.apiserver import ApiServerError
from lbd.cli.demo.apiserver_binary import ApiServerMissingError
from lbd.cli.demo.demo_daemon import StageError

_EXIT_FAILURE = 1
_EXIT_INTERRUPTED = 130


def guarded(console: Console, play: Callable[[], int]) -> int:
    """Return the play's exit status; 1 if it could not go on, 130 if SIGINT, SIGTERM or SIGHUP ended it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return play()
    except (StageError, ApiServerError, ApiServerMissingError) as error:
        Console(stderr=True).print(f"lbd: {error}", style="red", markup=False, soft_wrap=True)
        return _EXIT_FAILURE
    except KeyboardInterrupt:
        console.print("interrupted; everything is removed")
        return _EXIT_INTERRUPTED


def _interrupt(number: int, frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # the first one ends the demo; the way out is not to be interrupted
    raise KeyboardInterrupt
