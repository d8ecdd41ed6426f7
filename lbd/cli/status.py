"""`lbd status`: what runs, what is wrong, and why a member gets no traffic."""

from __future__ import annotations

import sys
import time

import click
from rich.console import Console
from rich.text import Text

from lbd.cli.admin_client import AdminClient, AdminError, fail, socket_option
from lbd.cli.main import EXIT_FAILURE, EXIT_USAGE
from lbd.observability.table import show

_WATCH_INTERVAL_S = 1.0


@click.command("status")
@socket_option
@click.option("--json", "as_json", is_flag=True, help="Print the daemon's status as JSON, as it sent it.")
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
def command(socket_path: str, as_json: bool, watch: bool) -> None:
    """Show VIPs, virtual services and members, and why a member gets no traffic."""
    if as_json and watch:
        fail("--json and --watch exclude each other", EXIT_USAGE)
    client = AdminClient(socket_path)
    try:
        if as_json:
            sys.stdout.buffer.write(client.status_body())
            sys.stdout.buffer.flush()
        elif watch:
            _watch(client, Console())
        else:
            show(client.status(), Console())
    except AdminError as error:
        fail(str(error), EXIT_FAILURE)


def _watch(client: AdminClient, console: Console) -> None:
    """Show the status every second; a daemon that is away for a moment is said and waited for."""
    try:
        while True:
            try:
                status = client.status()
            except AdminError as error:
                console.clear()
                console.print(Text(str(error), style="bold red"))
            else:
                console.clear()
                show(status, console)
            time.sleep(_WATCH_INTERVAL_S)
    except KeyboardInterrupt:
        return
