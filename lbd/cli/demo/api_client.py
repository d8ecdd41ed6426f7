"""A small blocking client of the Kubernetes API: what the demo and the tests do with a cluster, as kubectl would."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

APPLY: Final = "application/apply-patch+yaml"
MERGE_PATCH: Final = "application/merge-patch+json"
JSON: Final = "application/json"
AS_TABLE: Final = "application/json;as=Table;v=v1;g=meta.k8s.io"
"""Asks for the columns that kubectl prints."""

_BUSY_PAUSE_S: Final = 0.2
_CLUSTER_WIDE: Final = frozenset({"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Namespace", "Node"})
_IRREGULAR: Final = {"Endpoints": "endpoints"}

Manifest = Mapping[str, Any]
"""An object as it is written in YAML: `apiVersion`, `kind`, `metadata`, …"""


class ApiError(Exception):
    """The API server refused; the message is its own."""

    @property
    def not_found(self) -> bool:
        """Whether there is no such object, or no such kind of objects."""
        return self.status == http.client.NOT_FOUND

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


def collection_path(api_version: str, kind: str, namespace: str | None) -> str:
    """Return the URL path of all objects of a kind; `namespace` None means in every namespace."""
    base = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    plural = _IRREGULAR.get(kind, f"{kind.lower()}s")
    if kind in _CLUSTER_WIDE or namespace is None:
        return f"{base}/{plural}"
    return f"{base}/namespaces/{quote(namespace)}/{plural}"


def object_path(manifest: Manifest) -> str:
    """Return the URL path of one object; without a namespace it lies in `default`."""
    metadata = manifest["metadata"]
    path = collection_path(manifest["apiVersion"], manifest["kind"], metadata.get("namespace", "default"))
    return f"{path}/{quote(metadata['name'])}"


class ApiClient:
    """Talks to one API server as one user. Each thread that uses it has a connection of its own."""

    def __init__(self, url: str, ca_path: Path, token: str = "", *, timeout_s: float = 30.0) -> None:
        """Trust the certificates in `ca_path`; nothing is sent yet."""
        self.url = url
        self.ca_path = ca_path
        self.token = token
        self._timeout_s = timeout_s
        self._context: ssl.SSLContext | None = None
        self._of_thread = threading.local()

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = JSON,
        accept: str = JSON,
        **query: str,
    ) -> dict[str, Any]:
        """Return the answer's object.

        Raises:
            ApiError: the answer is not a success. OSError, http.client.HTTPException: there is none.
        """
        target = f"{path}?{urlencode(query)}" if query else path
        headers = {**self._headers(), "Accept": accept, "Content-Type": content_type}
        content = None if body is None else json.dumps(body).encode()
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            status, raw = self._exchange(method, target, content, headers)
            if status != http.client.TOO_MANY_REQUESTS or time.monotonic() > deadline_s:
                break
            time.sleep(_BUSY_PAUSE_S)  # it has done nothing: a storage that just starts, or too much at once
        if status >= 400:
            raise _refusal(status, raw)
        return _decoded(raw)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def _exchange(self, method: str, target: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        """Send one request; a connection that has been idle may be dead, so a GET or a PATCH is tried on a new one."""
        for fresh in (False, True):
            connection = self._connection(fresh)
            try:
                connection.request(method, target, body, headers)
                response = connection.getresponse()
                return response.status, response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                if fresh or method not in ("GET", "PATCH"):
                    raise
        raise AssertionError("unreachable")

    def _connection(self, fresh: bool) -> http.client.HTTPSConnection:
        connection: http.client.HTTPSConnection | None = getattr(self._of_thread, "connection", None)
        if connection is None or fresh:
            connection = self._of_thread.connection = self._connect()
        return connection

    def _connect(self) -> http.client.HTTPSConnection:
        if self._context is None:
            self._context = ssl.create_default_context(cafile=str(self.ca_path))
        server = urlsplit(self.url)
        assert server.hostname is not None
        return http.client.HTTPSConnection(server.hostname, server.port, timeout=self._timeout_s, context=self._context)

    @contextlib.contextmanager
    def stream(self, path: str, *, accept: str = JSON, **query: str) -> Iterator[Iterator[bytes]]:
        """Yield the lines of an answer that goes on, such as a watch's, over a connection of its own.

        Raises:
            ApiError: it is not a success. OSError, http.client.HTTPException: the connection broke.
        """
        connection = self._connect()
        try:
            connection.request("GET", f"{path}?{urlencode(query)}", headers={**self._headers(), "Accept": accept})
            response = connection.getresponse()
            if response.status >= 400:
                raise _refusal(response.status, response.read())
            yield iter(response.readline, b"")
        finally:
            connection.close()

    # -- objects ---------------------------------------------------------------------------------------------------

    def apply(self, manifest: Manifest, manager: str = "kubectl") -> dict[str, Any]:
        """Create or change an object, as `kubectl apply --server-side` does: what it no longer says is removed."""
        return self.request(
            "PATCH", object_path(manifest), manifest, content_type=APPLY, fieldManager=manager, force="true"
        )

    def create(self, manifest: Manifest) -> dict[str, Any]:
        """Create an object; ApiError 409 if there is one."""
        namespace = manifest["metadata"].get("namespace", "default")
        return self.request("POST", collection_path(manifest["apiVersion"], manifest["kind"], namespace), manifest)

    def patch(self, manifest: Manifest, change: object, subresource: str = "") -> dict[str, Any]:
        """Merge `change` into the object that `manifest` names, or into a subresource of it."""
        path = object_path(manifest) + (f"/{subresource}" if subresource else "")
        return self.request("PATCH", path, change, content_type=MERGE_PATCH)

    def get(self, manifest: Manifest) -> dict[str, Any] | None:
        """Return the object that `manifest` names as it is now, or None."""
        try:
            return self.request("GET", object_path(manifest))
        except ApiError as error:
            if not error.not_found:
                raise
            return None

    def objects(self, api_version: str, kind: str, namespace: str | None = None, **query: str) -> list[dict[str, Any]]:
        """Return every object of a kind."""
        items = self.request("GET", collection_path(api_version, kind, namespace), **query).get("items") or []
        assert isinstance(items, list)
        return items

    def delete(self, manifest: Manifest) -> bool:
        """Begin to delete the object that `manifest` names; False if there is none. Finalizers may keep it a while."""
        try:
            self.request("DELETE", object_path(manifest))
        except ApiError as error:
            if not error.not_found:
                raise
            return False
        return True

    def table(
        self, api_version: str, kind: str, namespace: str, name: str = "", *, wide: bool = False
    ) -> tuple[list[str], list[list[str]]]:
        """Return what `kubectl get` prints (`wide`: -o wide): the headings and the rows, of one object or of all in
        the namespace."""
        path = collection_path(api_version, kind, namespace) + (f"/{quote(name)}" if name else "")
        answer = self.request("GET", path, accept=AS_TABLE)
        shown = [
            index for index, column in enumerate(answer["columnDefinitions"]) if wide or not column.get("priority")
        ]
        headings = [str(answer["columnDefinitions"][index]["name"]).upper() for index in shown]
        return headings, [[str(row["cells"][index]) for index in shown] for row in answer.get("rows") or []]

    def token_of(self, namespace: str, service_account: str, lifetime_s: int = 3600) -> str:
        """Return a new token of a ServiceAccount (TokenRequest); the API server makes it at least 10 minutes long."""
        path = collection_path("v1", "ServiceAccount", namespace) + f"/{quote(service_account)}/token"
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": lifetime_s},
        }
        return str(self.request("POST", path, asked)["status"]["token"])


def _refusal(status: int, raw: bytes) -> ApiError:
    answer = _decoded(raw)
    return ApiError(
        status, str(answer.get("reason", "")), str(answer.get("message", raw[:300].decode(errors="replace")))
    )


def _decoded(raw: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(raw)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
