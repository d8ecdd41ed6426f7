"""`lbd demo`: a throw-away lab here that balances real traffic, loses a Pod, and shows that nobody noticed."""

from __future__ import annotations

import sys

import click

from lbd.cli.demo import sandbox
from lbd.cli.main import EXIT_FAILURE


@click.command("demo")
@click.option("--keep", is_flag=True, help="Stay until Ctrl-C, and print how to try it from another terminal.")
@click.option("--plain", is_flag=True, help="Plain lines, as when the output is not a terminal.")
def command(keep: bool, plain: bool) -> None:
    """Balance real traffic over three Pods in network namespaces, kill one, and revive it.

    Takes under 30 seconds, as root or as an ordinary user, and leaves nothing behind. Exits with 1 if a request failed
    that started after the Pod was killed.
    """
    flags = [flag for flag, wanted in (("--keep", keep), ("--plain", plain)) if wanted]
    try:
        status = sandbox.run([sys.executable, "-m", "lbd.cli.demo.play", *flags])
    except sandbox.SandboxError as error:
        click.echo(f"lbd: {error}", err=True)
        raise SystemExit(EXIT_FAILURE) from None
    raise SystemExit(status)
