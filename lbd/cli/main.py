"""The `lbd` command: each subcommand lives in a module of its own, imported only when it is called."""

from __future__ import annotations

import importlib

import click

from lbd import __version__

EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_CONFIG = 0, 1, 2, 78
"""Exit codes; 78 is EX_CONFIG of sysexits.h."""

# The module, and what in it is the command where that is not `command`.
_COMMANDS = {
    "run": "lbd.cli.run",
    "check": "lbd.cli.check",
    "lint": "lbd.cli.lint",
    "status": "lbd.cli.status",
    "reload": "lbd.cli.reload",
    "drain": "lbd.cli.admin_state:drain",
    "disable": "lbd.cli.admin_state:disable",
    "enable": "lbd.cli.admin_state:enable",
    "demo": "lbd.cli.demo.command",
}


class LazyGroup(click.Group):
    """Imports a subcommand's module when it is asked for: `lbd status` does not pay for the daemon's imports."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), name or "command")
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup)
@click.version_option(__version__, prog_name="lbd")
def main() -> None:
    """lbd, a layer-4 load balancer: owns virtual IPs, checks Pods, relays in one hop."""
