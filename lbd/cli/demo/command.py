"""`lbd demo`: a throw-away lab here that balances real traffic, loses a Pod, and shows that nobody noticed; or, with
--kubernetes, publishes a Service."""

from __future__ import annotations

import os
import sys

import click

from lbd.cli.demo import sandbox
from lbd.cli.demo.apiserver_binary import ApiServerMissingError, find
from lbd.cli.main import EXIT_FAILURE


@click.command("demo")
@click.option(
    "--kubernetes",
    is_flag=True,
    help="Publish a Service of a real Kubernetes API server, and change its rule; needs kube-apiserver and etcd.",
)
@click.option("--keep", is_flag=True, help="Stay until Ctrl-C, and print how to try it from another terminal.")
@click.option("--plain", is_flag=True, help="Plain lines, as when the output is not a terminal.")
def command(kubernetes: bool, keep: bool, plain: bool) -> None:
    """Balance real traffic over three Pods in network namespaces, kill one, and revive it.

    Takes under 30 seconds, as root or as an ordinary user, and leaves nothing behind. Exits with 1 if a request failed
    that started after the Pod was killed; with --kubernetes, if anything that was announced did not happen.
    """
    play = "kubernetes_play" if kubernetes else "play"
    if kubernetes:
        _require_apiserver()
    flags = [flag for flag, wanted in (("--keep", keep), ("--plain", plain)) if wanted]
    try:
        status = sandbox.run([sys.executable, "-m", f"lbd.cli.demo.{play}", *flags])
    except sandbox.SandboxError as error:
        click.echo(f"lbd: {error}", err=True)
        raise SystemExit(EXIT_FAILURE) from None
    raise SystemExit(status)


def _require_apiserver() -> None:
    """End with a sentence that says how to get a kube-apiserver where there is none."""
    try:
        find(os.environ)
    except ApiServerMissingError as error:
        click.echo(f"lbd: {error}", err=True)
        raise SystemExit(EXIT_FAILURE) from None
