"""`lbd lint`: judge L4Rules and Services offline, before anybody applies them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from lbd.cli.main import EXIT_CONFIG, EXIT_FAILURE
from lbd.config import ConfigErrors, load
from lbd.config.errors import ConfigError
from lbd.config.files import read_text
from lbd.kubernetes.lint import Finding, Verdict, lint
from lbd.kubernetes.objects.manifests import Manifest, read_manifests
from lbd.model.kubernetes import Kubernetes

_STANDARD_INPUT = Path("/dev/stdin")


@click.command(name="lint")
@click.argument(
    "manifests",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE...",
)
@click.option(
    "-c",
    "--config",
    "configs",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration of lbd, whose profiles, health monitors and address pools count; may be repeated.",
)
def command(manifests: tuple[Path, ...], configs: tuple[Path, ...]) -> None:
    """Judge L4Rules and Services in manifests, with the code and words of the daemon.

    Each object gives one line, FILE: KIND NAMESPACE/NAME: Accepted, Rejected or Ignored, and why. Objects of other
    kinds are passed over; - is standard input. Without -c only the built-in profiles and health monitors are known.

    The exit code is 1 if anything is rejected, and 78 if the configuration of lbd is wrong.
    """
    kubernetes = _configured(configs) if configs else None
    found, errors = _read(manifests)
    findings = lint(found, kubernetes or Kubernetes(), with_addresses=kubernetes is not None)
    for finding in findings:
        click.echo(str(finding))
    for error in errors:
        click.echo(str(error), err=True)
    for hint in _hints(findings, errors, is_configured=kubernetes is not None):
        click.echo(f"hint: {hint}", err=True)
    if errors or any(finding.verdict is Verdict.REJECTED for finding in findings):
        raise SystemExit(EXIT_FAILURE)


def _configured(configs: Sequence[Path]) -> Kubernetes:
    try:
        kubernetes = load(configs, generation=1).kubernetes
    except ConfigErrors as errors:
        for error in errors.errors:
            click.echo(str(error), err=True)
        raise SystemExit(EXIT_CONFIG) from None
    if kubernetes is None:
        click.echo(f"{configs[0]}: has no kubernetes section: Services and L4Rules would not be looked at", err=True)
        raise SystemExit(EXIT_CONFIG)
    return kubernetes


def _read(paths: Sequence[Path]) -> tuple[list[Manifest], list[ConfigError]]:
    found: list[Manifest] = []
    errors: list[ConfigError] = []
    for path in paths:
        text = read_text(_STANDARD_INPUT if str(path) == "-" else path)
        if isinstance(text, ConfigError):
            errors.append(text)
            continue
        of_file, wrong = read_manifests(text, str(path))
        found += of_file
        errors += wrong
    return found, errors


def _hints(findings: Sequence[Finding], errors: Sequence[ConfigError], *, is_configured: bool) -> list[str]:
    hints: list[str] = []
    if not findings and not errors:
        hints.append("there is neither an L4Rule nor a Service in it")
    if not is_configured and any(finding.misses_reference for finding in findings):
        hints.append("only what is built in is known: name the configuration of lbd with -c FILE")
    return hints
