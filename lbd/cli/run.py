"""`lbd run`: the daemon."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from lbd.cli.main import EXIT_CONFIG, EXIT_FAILURE
from lbd.config import ConfigErrors, default_paths, load


@click.command(name="run")
@click.option(
    "-c",
    "--config",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A configuration file; may be repeated. Default: /etc/lbd/lbd.yaml and /etc/lbd/conf.d/*.yaml.",
)
def command(files: tuple[Path, ...]) -> None:
    """Run the load balancer until SIGTERM; SIGHUP or `lbd reload` reads the configuration again."""

    def paths_of() -> Sequence[Path]:
        return list(files) or default_paths()

    try:
        desired = load(paths_of(), generation=1)
    except ConfigErrors as errors:
        for error in errors.errors:
            click.echo(str(error), err=True)
        raise SystemExit(EXIT_CONFIG) from None

    # Only now: `lbd run` with a bad file answers at once, without the daemon's imports.
    from lbd.cli import daemon
    from lbd.observability import logs

    logs.configure()
    try:
        daemon.run(desired, paths_of)
    except daemon.StartError as error:
        click.echo(f"lbd: {error}", err=True)
        raise SystemExit(EXIT_FAILURE) from None
    finally:
        logs.close()
