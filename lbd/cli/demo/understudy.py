"""Plays what a cluster has and the demo's has not: the Deployment and EndpointSlice controllers, and the kubelets."""

from __future__ import annotations

import subprocess
from typing import Any, Final

from lbd.cli.demo.api_client import ApiClient, Manifest
from lbd.cli.demo.lab import Lab, Pod
from lbd.cli.demo.stage import start_pod_server

_SUFFIXES: Final = ("x2k9p", "q7m4c", "h5t8w", "d6r3z")
_TEMPLATE_HASH: Final = "6d4cf56db6"
_TRUE: Final = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


class Understudy:
    """Makes Pods of a Deployment, real servers in the lab's namespaces, and the EndpointSlice of a Service."""

    def __init__(self, client: ApiClient, lab: Lab) -> None:
        self._client = client
        self._lab = lab
        self._running: list[tuple[str, Pod, subprocess.Popen[bytes]]] = []

    @property
    def pod_names(self) -> list[str]:
        """The names that the running Pods answer with."""
        return [name for name, _, _ in self._running]

    def run_deployment(self, deployment: Manifest) -> None:
        """Start as many Pods as the Deployment wants (at most as the lab has) and say so in its status."""
        count = min(deployment["spec"].get("replicas", 1), len(self._lab.pods), len(_SUFFIXES))
        for pod, suffix in zip(self._lab.pods[:count], _SUFFIXES, strict=False):
            name = f"{deployment['metadata']['name']}-{_TEMPLATE_HASH}-{suffix}"
            self._running.append((name, pod, start_pod_server(self._lab, pod, name)))
            self._create_pod(deployment, name, pod)
        counts = dict.fromkeys(("replicas", "readyReplicas", "availableReplicas", "updatedReplicas"), count)
        self._client.patch(deployment, {"status": counts}, "status")

    def _create_pod(self, deployment: Manifest, name: str, pod: Pod) -> None:
        template = deployment["spec"]["template"]
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": template["metadata"]["labels"]},
            "spec": {**template["spec"], "nodeName": "node-1"},
        }
        self._client.create(manifest)
        containers = [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": True,
                "started": True,
                "restartCount": 0,
                "state": {"running": {}},
            }
            for container in template["spec"]["containers"]
        ]
        status = {
            "phase": "Running",
            "podIP": pod.address[4],
            "podIPs": [{"ip": pod.address[4]}, {"ip": pod.address[6]}],
            "conditions": [{"type": kind, "status": "True"} for kind in _TRUE],
            "containerStatuses": containers,
        }
        self._client.patch(manifest, {"status": status}, "status")

    def write_slice(self, service: Manifest) -> None:
        """Write the EndpointSlice of a Service whose Pods these are."""
        manifest: dict[str, Any] = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{service['metadata']['name']}-k2xvr",
                "labels": {"kubernetes.io/service-name": service["metadata"]["name"]},
            },
            "addressType": "IPv4",
            "endpoints": [
                {
                    "addresses": [pod.address[4]],
                    "conditions": {"ready": True, "serving": True, "terminating": False},
                    "nodeName": "node-1",
                    "targetRef": {"kind": "Pod", "name": name, "namespace": "default"},
                }
                for name, pod, _ in self._running
            ],
            "ports": [
                {
                    "name": port.get("name", ""),
                    "port": port["targetPort"] if isinstance(port.get("targetPort"), int) else port["port"],
                    "protocol": port.get("protocol", "TCP"),
                }
                for port in service["spec"]["ports"]
            ],
        }
        self._client.apply(manifest)
