"""`lbd drain`, `lbd disable` and `lbd enable`: what the operator wants of a member or service, at run time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from lbd.cli.admin_client import AdminClient, AdminError, fail, socket_option
from lbd.cli.main import EXIT_FAILURE
from lbd.config.quantities import duration
from lbd.model.admin_state import MAX_DEADLINE_S, AdminStateChange
from lbd.model.desired import AdminState

_read_deadline = duration("0s", f"{MAX_DEADLINE_S:.0f}s")


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Read a duration as the configuration has them."""
    try:
        return None if value is None else _read_deadline(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from error


def _target(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.argument("member", metavar="[ADDRESS:PORT]", required=False)(command)
    return click.argument("service", metavar="SERVICE")(socket_option(command))


def _deadline(command: Callable[..., Any]) -> Callable[..., Any]:
    text = "Reset what is still open after this time, 0s at once. Default: the pool's drain_timeout, or never."
    return click.option("--deadline", "deadline_s", callback=_seconds, metavar="DURATION", help=text)(command)


@click.command("drain")
@_target
@_deadline
def drain(service: str, member: str | None, socket_path: str, deadline_s: float | None) -> None:
    """Give a virtual service, or one member of it, no new connections. It is checked on.

    A restart of lbd forgets that, a reload does not.
    """
    _set(socket_path, AdminStateChange(service, AdminState.DRAINING, member, deadline_s))


@click.command("disable")
@_target
@_deadline
def disable(service: str, member: str | None, socket_path: str, deadline_s: float | None) -> None:
    """Give a virtual service, or one member of it, no new connections, and check it no longer.

    A restart of lbd forgets that, a reload does not.
    """
    _set(socket_path, AdminStateChange(service, AdminState.DISABLED, member, deadline_s))


@click.command("enable")
@_target
def enable(service: str, member: str | None, socket_path: str) -> None:
    """Give a virtual service, or one member of it, connections again.

    A restart of lbd forgets that, a reload does not.
    """
    _set(socket_path, AdminStateChange(service, AdminState.ENABLED, member))


def _set(socket_path: str, change: AdminStateChange) -> None:
    try:
        result = AdminClient(socket_path).set_admin_state(change)
    except AdminError as error:
        fail(str(error), EXIT_FAILURE)
    if not result.success:
        fail(result.error, EXIT_FAILURE)
    words = f"{change.service}/{change.member}" if change.member else change.service
    words += f" is {change.admin_state}"
    if change.admin_state is not AdminState.ENABLED:
        open_now = result.active_connections
        words += f", {open_now} {'connection is' if open_now == 1 else 'connections are'} open"
        if change.deadline_s is not None:
            words += f", reset in {change.deadline_s:g} s at the latest"
    click.echo(words)
    if result.configured != change.admin_state:
        click.echo(f"the configuration says {result.configured}: it counts again after a restart of lbd")
