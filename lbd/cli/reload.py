"""`lbd reload`: make the daemon read its configuration again, and say what came of it."""

from __future__ import annotations

import click

from lbd.cli.admin_client import AdminClient, AdminError, fail, socket_option
from lbd.cli.main import EXIT_CONFIG, EXIT_FAILURE


@click.command("reload")
@socket_option
def command(socket_path: str) -> None:
    """Read the configuration again. Exits 78, with every error, when it was refused; then nothing has changed."""
    try:
        result = AdminClient(socket_path).reload()
    except AdminError as error:
        fail(str(error), EXIT_FAILURE)
    if not result.success:
        for line in result.errors:
            click.echo(line, err=True)
        fail(f"the configuration was refused; generation {result.generation} stays", EXIT_CONFIG)
    click.echo(f"generation {result.generation} runs")
