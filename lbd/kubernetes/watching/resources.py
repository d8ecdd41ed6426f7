"""What of the API is watched. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resource:
    """A collection of the API. `namespace` None is all of them."""

    group_path: str
    """"/api/v1", or "/apis/GROUP/VERSION"."""
    plural: str
    namespace: str | None = None
    label_selector: str = ""
    namespaced: bool = True
    """Whether its objects have namespaces."""
    page_limit: int = 500
    """Objects in one answer to a list: a large answer is decoded in one go, and nothing else is done meanwhile."""

    @property
    def path(self) -> str:
        """The path of its URL."""
        within = f"/namespaces/{self.namespace}" if self.namespace else ""
        return f"{self.group_path}{within}/{self.plural}"

    @property
    def custom(self) -> bool:
        """Whether it is there only where somebody has installed its definition."""
        group = self.group_path.removeprefix("/apis/").partition("/")[0]
        return self.group_path.startswith("/apis/") and not group.endswith(".k8s.io")

    @property
    def scope(self) -> str:
        """Where it is looked at, for people."""
        if not self.namespaced:
            return "in the cluster"
        return f"in namespace {self.namespace}" if self.namespace else "in all namespaces"


def services(namespace: str | None = None) -> Resource:
    """All Services: one that is no longer of type LoadBalancer may still have an address of ours."""
    return Resource("/api/v1", "services", namespace)


def endpoint_slices(namespace: str | None = None) -> Resource:
    """The EndpointSlices of Services."""
    label = "kubernetes.io/service-name"
    return Resource("/apis/discovery.k8s.io/v1", "endpointslices", namespace, label, page_limit=200)


def nodes() -> Resource:
    """All Nodes."""
    return Resource("/api/v1", "nodes", namespaced=False)


def l4_rules(namespace: str | None = None) -> Resource:
    """All L4Rules."""
    return Resource("/apis/ako.vmware.com/v1alpha2", "l4rules", namespace)
