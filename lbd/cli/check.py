"""`lbd check`: judge configuration files without running anything."""

from __future__ import annotations

from pathlib import Path

import click

from lbd.cli.main import EXIT_CONFIG
from lbd.config import ConfigErrors, default_paths, load
from lbd.model.desired import DesiredState


@click.command(name="check")
@click.option(
    "-c",
    "--config",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A file to check; may be repeated. Default: /etc/lbd/lbd.yaml and /etc/lbd/conf.d/*.yaml.",
)
def command(files: tuple[Path, ...]) -> None:
    """Check configuration files; exit with 78 if something is wrong.

    Every error goes to standard error, one a line, as FILE:LINE:COLUMN: PATH: MESSAGE.
    """
    try:
        paths = list(files) or default_paths()
        desired = load(paths, generation=1)
    except ConfigErrors as errors:
        for error in errors.errors:
            click.echo(str(error), err=True)
        raise SystemExit(EXIT_CONFIG) from None
    click.echo(summary(len(paths), desired))


def summary(files: int, desired: DesiredState) -> str:
    """Return what was found, as one line."""
    members = sum(len(service.pool.members) for service in desired.virtual_services)
    counted = [
        _count(files, "file"),
        _count(len(desired.virtual_services), "virtual service"),
        _count(members, "member"),
        _count(len(desired.vips), "VIP"),
    ]
    if desired.kubernetes is not None:
        counted.append(_count(len(desired.kubernetes.address_pools), "address pool"))
    return f"ok: {', '.join(counted)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
