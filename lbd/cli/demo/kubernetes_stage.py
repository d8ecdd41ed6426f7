"""What `lbd demo --kubernetes` stands on: the lab, a real API server, and the daemon that watches it."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from lbd.cli.admin_client import DEFAULT_SOCKET
from lbd.cli.demo import manifests
from lbd.cli.demo.api_client import ApiClient
from lbd.cli.demo.apiserver import ApiServer
from lbd.cli.demo.apiserver_binary import find
from lbd.cli.demo.demo_daemon import DIRECTORY, METRICS, DemoDaemon
from lbd.cli.demo.lab import Lab
from lbd.cli.demo.management import ManagementNetwork
from lbd.cli.demo.understudy import Understudy

ACCOUNT: Final = ("lbd-system", "lbd")
KUBECONFIG: Final = DIRECTORY / "kubeconfig"

CONFIG: Final = f"""\
service_engine:
  name: demo-se
  workers: 2
  frontend_interface: front
  drain_timeout: 2s
metrics: {{listen: {METRICS}}}
admin: {{socket: {DEFAULT_SOCKET}}}

kubernetes:
  kubeconfig: {KUBECONFIG}
  pod_cidrs: [10.10.52.0/24]
"""


class KubernetesStage:
    """Everything that runs in the demo, as a context manager: an API server that lbd watches, and nothing in it yet."""

    def __init__(self) -> None:
        self.lab = Lab(pods=2)
        self.daemon = DemoDaemon(self.lab.se)
        self._network = ManagementNetwork()
        self._exits = ExitStack()
        self.server: ApiServer
        self.understudy: Understudy

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            exits.enter_context(self.lab)
            exits.enter_context(self._network)
            self._network.connect(self.lab.se)
            DIRECTORY.mkdir(exist_ok=True)
            server = ApiServer(find(os.environ), DIRECTORY / "apiserver", self._network.address)
            self.server = exits.enter_context(server)
            self.understudy = Understudy(self.server.admin, self.lab)
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    def start_daemon(self) -> None:
        """Start `lbd run` with a token of the ServiceAccount that config/kubernetes/rbac.yaml made.

        Raises:
            StageError: it did not become ready.
        """
        write_kubeconfig(KUBECONFIG, self.server.url, self.server.ca_path, self.server.admin.token_of(*ACCOUNT))
        self._exits.callback(self.daemon.stop)
        self.daemon.start(CONFIG, *self.example_config_files)

    @property
    def example_config_files(self) -> list[Path]:
        """The example's address pool and profiles."""
        return sorted((manifests.folder() / "example" / "conf.d").glob("*.yaml"))

    @property
    def installed_files(self) -> list[Path]:
        """What an administrator applies once: the CRD and RBAC."""
        return sorted(manifests.folder().glob("*.yaml"))


def write_kubeconfig(path: Path, url: str, ca_path: Path, token: str) -> None:
    """Write a kubeconfig of lbd's account, with its token in a file beside it, so that it can be renewed."""
    token_path = path.with_name("token")
    token_path.touch(0o600)
    token_path.write_text(token)
    _write_kubeconfig(path, url, ca_path, {"tokenFile": str(token_path)})


def admin_kubeconfig(client: ApiClient, path: Path) -> None:
    """Write a kubeconfig of the administrator, for whoever wants to look with a kubectl of their own."""
    _write_kubeconfig(path, client.url, client.ca_path, {"token": client.token})


def _write_kubeconfig(path: Path, url: str, ca_path: Path, user: dict[str, str]) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "demo", "cluster": {"server": url, "certificate-authority": str(ca_path)}}],
        "users": [{"name": "demo", "user": user}],
        "contexts": [{"name": "demo", "context": {"cluster": "demo", "user": "demo"}}],
        "current-context": "demo",
    }
    path.touch(0o600)
    path.write_text(json.dumps(config, indent=1))
