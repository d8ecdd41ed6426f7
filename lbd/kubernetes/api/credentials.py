"""Where the API server is and how lbd shows who it is, as the files say it now."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lbd.model.kubernetes import Kubernetes

if TYPE_CHECKING:  # 0.5 s and 63 MB: only where a cluster is configured, and not in the event loop
    from kubernetes_asyncio.client import Configuration

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_MAX_KUBECONFIG = 4 << 20
_MAX_TOKEN = 64 << 10
_PLUGIN_TIMEOUT_S = 30.0

Stamp = tuple[int, int, int] | None
"""What changes when a file does, also behind a symbolic link; None while there is none."""


class CredentialsError(Exception):
    """The files can't be used; the text names one and says why."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Everything that a request needs. Two with the same `way` can share connections."""

    server: str
    """URL without a slash at its end."""
    authorization: str = field(repr=False)
    """The header's value; empty without."""
    tls: ssl.SSLContext | None
    server_hostname: str | None
    proxy: str | None
    way: str
    files: tuple[tuple[str, Stamp], ...]
    """What was read, as it was just before."""
    renewable: bool = False
    """A program makes the token: it may make another one though no file has changed."""


def stamp(path: str) -> Stamp:
    """Return what tells whether a file has changed. Blocks."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def load(kubernetes: Kubernetes, service_account: Path = SERVICE_ACCOUNT) -> Credentials:
    """Read the kubeconfig, or the service account of the Pod that this is. Blocks; not for an event loop's thread.

    Raises:
        CredentialsError: it is not there, or can't be used.
    """
    where = kubernetes.kubeconfig or f"service account ({service_account})"
    try:
        if kubernetes.kubeconfig is None:
            return _in_cluster(service_account)
        return _from_kubeconfig(Path(kubernetes.kubeconfig), kubernetes.context)
    except CredentialsError as error:
        raise CredentialsError(f"{where}: {error}") from error
    except TimeoutError as error:
        raise CredentialsError(f"{where}: its program gave no token in {_PLUGIN_TIMEOUT_S:g} s") from error
    # The library has its own ConfigException, and whatever it stumbles over in a file that is not as it expects.
    except Exception as error:
        raise CredentialsError(f"{where}: {str(error) or type(error).__name__}") from error


def _in_cluster(folder: Path) -> Credentials:
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.config.incluster_config import InClusterConfigLoader

    token, authority = str(folder / "token"), str(folder / "ca.crt")
    files = tuple((path, stamp(path)) for path in (token, authority))
    configuration = Configuration()
    InClusterConfigLoader(token, authority, try_refresh_token=False).load_and_set(configuration)
    return _credentials(configuration, _bearer(_read_token(token)), files)


def _from_kubeconfig(path: Path, context: str | None) -> Credentials:
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.config import kube_config

    path = path.expanduser().absolute()
    files = {str(path): stamp(str(path))}
    config = _read_yaml(path)
    user = _user(config, context)
    if not user and str(_cluster(config, context).get("server")).startswith("https://"):
        raise CredentialsError("the context names no user that the file has")
    token_file = user.get("tokenFile")
    made = "exec" in user or "auth-provider" in user
    named = [user.get(key) for key in ("tokenFile", "client-certificate", "client-key")]
    for name in (*named, _cluster(config, context).get("certificate-authority")):
        if isinstance(name, str) and name:
            files[str(path.parent / name)] = stamp(str(path.parent / name))
    configuration = Configuration()
    with tempfile.TemporaryDirectory(prefix="lbd-kubeconfig-") as folder:
        try:
            loader = kube_config.KubeConfigLoader(
                config, active_context=context, config_base_path=str(path.parent), temp_file_path=folder
            )
            asyncio.run(asyncio.wait_for(loader.load_and_set(configuration), _PLUGIN_TIMEOUT_S))
            authorization = str(configuration.api_key.get("BearerToken", "")).strip()
            if isinstance(token_file, str) and token_file and not made:
                # The library adds the file's line end to the header, and prefers `token`, which kubectl doesn't.
                authorization = _bearer(_read_token(str(path.parent / token_file)))
            return _credentials(configuration, authorization, tuple(files.items()), renewable=made)
        finally:
            # It writes keys and certificates that stand in the kubeconfig to files, and would trust in these for ever.
            kube_config._cleanup_temp_files()


def _read_yaml(path: Path) -> dict[str, Any]:
    with path.open("rb") as opened:
        written = opened.read(_MAX_KUBECONFIG + 1)
    if len(written) > _MAX_KUBECONFIG:
        raise CredentialsError(f"is larger than {_MAX_KUBECONFIG} bytes")
    config = yaml.load(written, Loader=yaml.CSafeLoader)
    if not isinstance(config, dict):
        raise CredentialsError("is no kubeconfig")
    for kind in ("clusters", "contexts", "users"):
        if not isinstance(config.get(kind, []), list):
            raise CredentialsError(f"{kind} is no list")
    return config


def _named(config: Mapping[str, Any], kind: str, name: object) -> Mapping[str, Any]:
    """Return what an entry of a kubeconfig's list `clusters`, `contexts` or `users` says; nothing if it isn't there."""
    entries = config.get(f"{kind}s")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("name") == name:
            said = entry.get(kind)
            return said if isinstance(said, dict) else {}
    return {}


def _context(config: Mapping[str, Any], context: str | None) -> Mapping[str, Any]:
    return _named(config, "context", context or config.get("current-context"))


def _user(config: Mapping[str, Any], context: str | None) -> Mapping[str, Any]:
    return _named(config, "user", _context(config, context).get("user"))


def _cluster(config: Mapping[str, Any], context: str | None) -> Mapping[str, Any]:
    return _named(config, "cluster", _context(config, context).get("cluster"))


def _read_token(path: str) -> str:
    with open(path, encoding="utf-8") as opened:
        token = opened.read(_MAX_TOKEN + 1).strip()
    if not token:
        raise CredentialsError(f"{path} is empty")
    if len(token) > _MAX_TOKEN:
        raise CredentialsError(f"{path} is larger than {_MAX_TOKEN} bytes")
    return token


def _bearer(token: str) -> str:
    return f"Bearer {token}"


def _credentials(
    configuration: Configuration,
    authorization: str,
    files: tuple[tuple[str, Stamp], ...],
    *,
    renewable: bool = False,
) -> Credentials:
    server = str(configuration.host).rstrip("/")
    if not server.startswith(("https://", "http://")):
        raise CredentialsError(f"server {server!r} is no http or https URL")
    if not (authorization.isascii() and authorization.isprintable()):
        raise CredentialsError("the token has characters that no HTTP header has")
    secure = server.startswith("https://")
    return Credentials(
        server=server,
        authorization=authorization,
        tls=_tls(configuration) if secure else None,
        server_hostname=configuration.tls_server_name if secure else None,
        proxy=configuration.proxy or None,
        way=_way(configuration, server),
        files=files,
        renewable=renewable,
    )


def _tls(configuration: Configuration) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        # Without a password of ours OpenSSL would ask for that of an encrypted key on the terminal.
        context.load_cert_chain(configuration.cert_file, configuration.key_file, password="")
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _way(configuration: Configuration, server: str) -> str:
    """Return a digest of what decides over a connection; the token doesn't, it goes with each request."""
    digest = hashlib.sha256()
    for name in ("ssl_ca_cert", "cert_file", "key_file"):
        path = getattr(configuration, name)
        digest.update(Path(path).read_bytes() if path else b"")
        digest.update(b"\0")
    for said in (server, configuration.tls_server_name, configuration.proxy, configuration.verify_ssl):
        digest.update(repr(said).encode())
    return digest.hexdigest()
