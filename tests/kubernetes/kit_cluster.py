"""A real cluster's API as the tests use it: objects, what lbd made of them, and who asked for what."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab_wait import eventually
from lbd.cli.demo.api_client import ApiClient, ApiError, Manifest, collection_path
from lbd.cli.demo.apiserver import ApiServer

CONFIG = Path(__file__).resolve().parents[2] / "config" / "kubernetes"
LBD_NAMESPACE, LBD_ACCOUNT, LEASE = "lbd-system", "lbd", "lbd"
LBD_USER = f"system:serviceaccount:{LBD_NAMESPACE}:{LBD_ACCOUNT}"
LOAD_BALANCER_CLASS = "lbd.io/service-engine"
RULE_API = "ako.vmware.com/v1alpha2"
ASSIGNED_WITHIN_S = 2.0
"""A Service gets its address within this time, of an lbd that runs: the issue's own figure."""
PATIENCE_S = 10.0
"""How long is waited where it does not matter how long it takes."""

_NAMESPACED_OF_A_TEST = (
    ("v1", "Service"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    (RULE_API, "L4Rule"),
    ("v1", "Pod"),
)
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "users": [LBD_USER]}, {"level": "None"}],
}
_names = itertools.count(1)

Port = Mapping[str, Any] | int
"""A port of a Service or an EndpointSlice: a number (TCP), or as Kubernetes writes it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of lbd's ServiceAccount, from the API server's audit log."""

    verb: str
    """get, list, watch, create, update, patch, delete."""
    resource: str
    """Such as `services`, `services/status`, `leases`."""
    name: str
    status: int
    at: str
    source: str
    """The address that it came from: tells service engines apart."""


def audit_flags(directory: Path) -> list[str]:
    """Return kube-apiserver's flags that record every request of lbd's ServiceAccount, and of nobody else."""
    directory.mkdir(parents=True, exist_ok=True)
    policy = directory / "audit-policy.json"
    policy.write_text(json.dumps(_AUDIT_POLICY))
    return [f"--audit-policy-file={policy}", f"--audit-log-path={directory / 'audit.log'}"]


def install(admin: ApiClient) -> None:
    """Apply lbd's CRD and RBAC as config/kubernetes has them, and wait until the CRD is served."""
    manifests = [
        manifest
        for path in sorted(CONFIG.glob("*.yaml"))
        for manifest in yaml.safe_load_all(path.read_text())
        if manifest is not None
    ]
    for manifest in sorted(manifests, key=lambda one: one["kind"] != "Namespace"):
        admin.apply(manifest)
    for manifest in manifests:
        if manifest["kind"] == "CustomResourceDefinition":
            eventually(functools.partial(_established, admin, manifest), 10.0, f"{manifest['metadata']['name']} served")


def _established(admin: ApiClient, crd: Manifest) -> bool:
    found = admin.get(crd)
    assert found is not None
    conditions = {one["type"]: one["status"] for one in found.get("status", {}).get("conditions", [])}
    if conditions.get("Established") != "True":
        return False
    try:
        admin.objects(RULE_API, "L4Rule")
    except ApiError as error:
        if not error.not_found and error.status != 429:  # its storage is being set up
            raise
        return False
    return True


class Cluster:
    """One test's view of a cluster: a Kubernetes namespace of its own, in which everything is removed at the end.

    Methods take and return objects as dictionaries, as they are written in YAML.
    """

    def __init__(self, server: ApiServer, directory: Path) -> None:
        """Make the namespace; `directory` is for kubeconfig files."""
        self.server = server
        self.admin = server.admin
        self.namespace = f"test-{next(_names)}"
        self._directory = directory
        self._audit_start = self._audit_log.stat().st_size if self._audit_log.exists() else 0
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        self.forget_lease()

    @property
    def _audit_log(self) -> Path:
        return self.server.directory / "audit.log"

    # -- any object ------------------------------------------------------------------------------------------------

    def placed(self, manifest: Manifest) -> dict[str, Any]:
        """Return the manifest in this test's namespace, if it names no other."""
        return {**manifest, "metadata": {"namespace": self.namespace, **manifest["metadata"]}}

    def apply(self, manifest: Manifest) -> dict[str, Any]:
        """Create or change an object, as `kubectl apply --server-side` does, and return it."""
        return self.admin.apply(self.placed(manifest))

    def create(self, manifest: Manifest) -> dict[str, Any]:
        """Create an object and return it; ApiError 409 if there is one."""
        return self.admin.create(self.placed(manifest))

    def create_many(self, manifests: Sequence[Manifest], threads: int = 4) -> None:
        """Create many objects, several at a time."""
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(self.create, manifests))

    def get(self, manifest: Manifest) -> dict[str, Any] | None:
        """Return the object that `manifest` names as it is now, or None."""
        return self.admin.get(self.placed(manifest))

    def patch(self, manifest: Manifest, change: Mapping[str, Any]) -> dict[str, Any]:
        """Merge `change` into an object (None removes a key) and return it."""
        return self.admin.patch(self.placed(manifest), change)

    def patch_status(self, manifest: Manifest, status: Mapping[str, Any]) -> dict[str, Any]:
        """Merge `status` into an object's status, as a controller would, and return the object."""
        return self.admin.patch(self.placed(manifest), {"status": status}, "status")

    @contextlib.contextmanager
    def watch(self, path: str, since: Manifest) -> Iterator[Iterator[dict[str, Any]]]:
        """Yield the changes below an URL path after `since`, as the watch's events with `type` and `object`."""
        version = str(since["metadata"]["resourceVersion"])
        with self.admin.stream(path, watch="true", resourceVersion=version) as lines:
            yield (json.loads(line) for line in lines)

    def annotate(self, manifest: Manifest, **annotations: str | None) -> dict[str, Any]:
        """Set annotations (None removes one); names are given by `**{"lbd.io/address": …}`."""
        return self.patch(manifest, {"metadata": {"annotations": annotations}})

    def delete(self, manifest: Manifest) -> bool:
        """Begin to delete an object; False if there is none."""
        return self.admin.delete(self.placed(manifest))

    def wait_for(
        self,
        manifest: Manifest,
        predicate: Callable[[dict[str, Any]], object],
        timeout_s: float = 5.0,
        what: str = "",
    ) -> dict[str, Any]:
        """Return the object as it is when `predicate` is first true of it.

        Raises:
            AssertionError: that did not happen within `timeout_s`; shows the object.
        """

        def found() -> dict[str, Any]:
            now = self.get(manifest)
            assert now is not None, "there is no such object"
            assert predicate(now), {key: now.get(key) for key in ("metadata", "spec", "status")}
            return now

        return eventually(found, timeout_s, what or f"{manifest['kind']} {manifest['metadata']['name']}")

    def wait_gone(self, manifest: Manifest, timeout_s: float = 5.0) -> None:
        """Wait until an object is really gone: deleted, and every finalizer taken off."""

        def gone() -> bool:
            now = self.get(manifest)
            assert now is None, now["metadata"]
            return True

        eventually(gone, timeout_s, f"{manifest['kind']} {manifest['metadata']['name']} gone")

    # -- what lbd is about -----------------------------------------------------------------------------------------

    def service(self, name: str, ports: Sequence[Port] = (80,), **options: Any) -> dict[str, Any]:
        """Apply a Service of type LoadBalancer and of lbd's class, and return it.

        `annotations`, `labels` and `selector` are set where they belong; every other option is a key of the spec
        (None leaves out what is set by itself: `loadBalancerClass=None`).
        """
        return self.apply(service_manifest(name, ports, **options))

    def slice(
        self, service: str, addresses: Sequence[str | Mapping[str, Any]], ports: Sequence[Port] = (80,), **options: Any
    ) -> dict[str, Any]:
        """Apply an EndpointSlice of a Service and return it.

        An endpoint is its address (a Pod that is ready), or as Kubernetes writes it. `name` tells several slices of
        one Service apart.
        """
        return self.apply(slice_manifest(service, addresses, ports, **options))

    def wait_ingress(
        self, service: Manifest, count: int = 1, timeout_s: float = PATIENCE_S, *, other_than: str = ""
    ) -> list[str]:
        """Wait until a Service's status has `count` addresses, and return them in its order."""

        def addresses(now: dict[str, Any]) -> bool:
            found = ingress(now)
            return len(found) == count and other_than not in found

        return ingress(self.wait_for(service, addresses, timeout_s, f"{count} addresses"))

    def condition(self, manifest: Manifest, kind: str) -> dict[str, Any]:
        """Return a condition of an object's status; LookupError if it has none of this type."""
        now = self.get(manifest) or {}
        found = [one for one in now.get("status", {}).get("conditions", []) if one["type"] == kind]
        if not found:
            raise LookupError(f"no condition {kind} in {now.get('status')}")
        return dict(found[0])

    def events_of(self, manifest: Manifest, reason: str = "") -> list[dict[str, Any]]:
        """Return the Events about an object, the oldest first, of one reason or of all."""
        found = self.get(manifest)
        uid = (found or manifest)["metadata"]["uid"]
        events = self.admin.objects("v1", "Event", self.namespace, fieldSelector=f"involvedObject.uid={uid}")
        return sorted(
            (event for event in events if reason in ("", event.get("reason"))),
            key=lambda event: str(event["metadata"]["creationTimestamp"]),
        )

    # -- lbd as a user of the API ----------------------------------------------------------------------------------

    def token(self, lifetime_s: int = 3600) -> str:
        """Return a token of lbd's ServiceAccount; the API server makes it at least 10 minutes long."""
        return self.admin.token_of(LBD_NAMESPACE, LBD_ACCOUNT, lifetime_s)

    def kubeconfig(self, name: str = "kubeconfig", *, url: str = "", **user: str) -> Path:
        """Write a kubeconfig and return its path. `user` is as Kubernetes writes it (`tokenFile=…`, `token=…`,
        `client_certificate=…`); without it, a token of lbd's ServiceAccount in a file beside it, `NAME.token`."""
        path = self._directory / name
        if not user:
            token_path = path.with_name(f"{name}.token")
            token_path.write_text(self.token())
            user = {"tokenFile": str(token_path)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "test",
                    "cluster": {"server": url or self.server.url, "certificate-authority": str(self.server.ca_path)},
                }
            ],
            "users": [{"name": "lbd", "user": {key.replace("_", "-"): value for key, value in user.items()}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "lbd"}}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(config))
        path.chmod(0o600)
        return path

    def asked(self, *, since: int | None = None, **wanted: object) -> list[Asked]:
        """Return what lbd's ServiceAccount has asked for since the test began, or since `audit_mark()`.

        `verb="list"`, `resource="services"`, `status=403` and so on pick some.
        """
        return [one for one in self._asked(since) if all(getattr(one, key) == value for key, value in wanted.items())]

    def audit_mark(self) -> int:
        """Return the position of now in the record of requests."""
        return self._audit_log.stat().st_size if self._audit_log.exists() else 0

    def _asked(self, since: int | None) -> Iterator[Asked]:
        if not self._audit_log.exists():
            return
        with self._audit_log.open("rb") as log:
            log.seek(self._audit_start if since is None else since)
            for line in log:
                if not line.endswith(b"\n"):
                    return  # is being written
                event = json.loads(line)
                what = event.get("objectRef", {})
                resource = "/".join(filter(None, [what.get("resource"), what.get("subresource")]))
                status = event.get("responseStatus", {}).get("code", 0)
                at = event["requestReceivedTimestamp"]
                source = str((event.get("sourceIPs") or [""])[0])
                name, resource = what.get("name", ""), resource or event["requestURI"]
                yield Asked(event["verb"], resource, name, status, at, source)

    def forget_lease(self) -> None:
        """Delete the Lease, so that the next lbd need not wait until that of a killed one has expired."""
        lease = {"namespace": LBD_NAMESPACE, "name": LEASE}
        self.admin.delete({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": lease})

    def forgive(self) -> None:
        """Forget what has been asked for so far: what was forbidden no longer fails the test."""
        self._audit_start = self.audit_mark()

    def forget_history(self) -> None:
        """Compact etcd to its present revision and restart kube-apiserver: older resource versions get 410 from now on.

        Only for an own_cluster. (Without the restart kube-apiserver would still serve them from its memory.)
        """
        status = _etcd(self.server, "maintenance/status", {})
        _etcd(self.server, "kv/compaction", {"revision": status["header"]["revision"], "physical": True})
        self.server.kill()
        self.server.start()

    # -- the end ---------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Delete everything in the test's namespace, and finalizers with it: nobody is left who would take them off."""
        for api_version, kind in _NAMESPACED_OF_A_TEST:
            try:
                found = self.admin.objects(api_version, kind, self.namespace)
            except ApiError as error:
                if not error.not_found:
                    raise
                continue  # the CRD is not installed
            for item in found:
                manifest = {"apiVersion": api_version, "kind": kind, **item}
                if item["metadata"].get("finalizers"):
                    self._without_finalizers(manifest)
            if found:
                self.admin.request("DELETE", collection_path(api_version, kind, self.namespace), gracePeriodSeconds="0")

    def _without_finalizers(self, manifest: Manifest) -> None:
        try:
            self.patch(manifest, {"metadata": {"finalizers": None}})
        except ApiError as error:
            if not error.not_found:
                raise


def _etcd(server: ApiServer, call: str, body: Mapping[str, object]) -> dict[str, Any]:
    """Ask etcd over its JSON gateway."""
    asked = urllib.request.Request(f"{server.etcd_url}/v3/{call}", json.dumps(body).encode())
    with urllib.request.urlopen(asked, timeout=10.0) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def service_manifest(name: str, ports: Sequence[Port] = (80,), **options: Any) -> dict[str, Any]:
    """Return a Service; see Cluster.service."""
    metadata: dict[str, Any] = {"name": name}
    for key in ("annotations", "labels"):
        if options.get(key):
            metadata[key] = options.pop(key)
    spec: dict[str, Any] = {
        "type": "LoadBalancer",
        "loadBalancerClass": LOAD_BALANCER_CLASS,
        "allocateLoadBalancerNodePorts": False,
        "ports": [_service_port(port) for port in ports],
        **options,
    }
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {key: value for key, value in spec.items() if value is not None},
    }


def _service_port(port: Port) -> dict[str, Any]:
    return {"port": port, "name": f"p{port}", "protocol": "TCP"} if isinstance(port, int) else dict(port)


def slice_manifest(
    service: str,
    addresses: Sequence[str | Mapping[str, Any]],
    ports: Sequence[Port] = (80,),
    *,
    name: str = "",
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return an EndpointSlice; see Cluster.slice. A port given as a number matches that of `service_manifest`."""
    endpoints = [
        {"addresses": [one], "conditions": {"ready": True, "serving": True, "terminating": False}}
        if isinstance(one, str)
        else dict(one)
        for one in addresses
    ]
    is_ipv6 = any(":" in address for endpoint in endpoints for address in endpoint["addresses"])
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name or f"{service}-{6 if is_ipv6 else 4}",
            "labels": {"kubernetes.io/service-name": service, **(labels or {})},
        },
        "addressType": "IPv6" if is_ipv6 else "IPv4",
        "endpoints": endpoints,
        "ports": [_service_port(port) for port in ports],
    }


def ingress(service: Manifest) -> list[str]:
    """Return the addresses in a Service's status."""
    return [str(one["ip"]) for one in service.get("status", {}).get("loadBalancer", {}).get("ingress") or []]


def elapsed_s(since_s: float) -> float:
    """Return the seconds since a monotonic time."""
    return time.monotonic() - since_s
