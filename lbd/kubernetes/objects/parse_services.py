"""From a Service as the API server says it to lbd's value; see `parse`. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lbd.kubernetes.objects import fields
from lbd.kubernetes.objects.fields import Complaints, UnusableError, shown
from lbd.kubernetes.objects.kinds import NOBODY, Condition, ObjectKey, Service, ServicePort
from lbd.model.desired import Protocol

SOURCE_RANGES_ANNOTATION = "service.beta.kubernetes.io/load-balancer-source-ranges"
"""The form that `loadBalancerSourceRanges` had as an annotation; Kubernetes still uses it where the field is empty."""

MAX_SERVICE_PORTS = 250
MAX_ADDRESSES = 100
MAX_SOURCE_RANGES = 1000
MAX_ENTRIES = 1000
MAX_CONDITION_MESSAGE = 32768
"""Of metav1.Condition."""
DEFAULT_AFFINITY_S = 10800
"""The API's default of `sessionAffinityConfig.clientIP.timeoutSeconds`."""

_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z", re.ASCII)
_OWN_ANNOTATIONS = ("lbd.io/", "ako.vmware.com/")


def read_service(key: ObjectKey, metadata: Mapping[str, Any], raw: Mapping[str, Any]) -> Service:
    """Read a Service that is called `key`; see `parse.parse_service`.

    Raises:
        UnusableError: what can't be left out is missing or odd.
    """
    complaints = Complaints()
    spec = fields.mapping(raw.get("spec"), "spec")
    status = fields.section(raw.get("status"), "status", complaints)
    annotations = fields.section(metadata.get("annotations"), "metadata.annotations", complaints)
    service_class = spec.get("loadBalancerClass")
    return Service(
        key=key,
        uid=fields.text(metadata.get("uid"), "metadata.uid", 128),
        resource_version=fields.text(metadata.get("resourceVersion"), "metadata.resourceVersion", 128),
        created=_created(metadata, complaints),
        type=fields.text(spec.get("type"), "spec.type", 64) or "ClusterIP",
        load_balancer_class=None if service_class is None else fields.text(service_class, "spec.loadBalancerClass"),
        ports=_service_ports(spec, complaints),
        ip_families=_families(spec, complaints),
        affinity_timeout_s=_affinity(spec, complaints),
        source_ranges=_source_ranges(spec, annotations, complaints),
        load_balancer_ip=_load_balancer_ip(spec, complaints),
        annotations=_strings(annotations, "metadata.annotations", complaints, _OWN_ANNOTATIONS),
        labels=_strings(
            fields.section(metadata.get("labels"), "metadata.labels", complaints), "metadata.labels", complaints
        ),
        finalizers=_finalizers(metadata),
        deleting=metadata.get("deletionTimestamp") is not None,
        ingress=_ingress(status, complaints),
        conditions=_conditions(status, complaints),
        complaints=complaints.all(),
    )


def _created(metadata: Mapping[str, Any], complaints: Complaints) -> str:
    raw = metadata.get("creationTimestamp")
    if raw is None or (isinstance(raw, str) and _TIMESTAMP.fullmatch(raw)):
        return raw or ""
    complaints.add(f"metadata.creationTimestamp is {shown(raw)}, not a time in UTC")
    return ""


def _service_ports(spec: Mapping[str, Any], complaints: Complaints) -> tuple[ServicePort, ...]:
    found: dict[tuple[int, Protocol], ServicePort] = {}
    for where, entry in fields.objects(spec.get("ports"), "spec.ports", MAX_SERVICE_PORTS, complaints):
        named = fields.port_of(entry, where, complaints)
        if named is None:
            continue
        name, port, protocol = named
        if (port, protocol) in found:
            complaints.add(f"{where}: port {port} is there twice for {protocol}")
        else:
            found[port, protocol] = ServicePort(name, port, protocol)
    return tuple(found.values())


def _families(spec: Mapping[str, Any], complaints: Complaints) -> tuple[int, ...]:
    found: dict[int, None] = {}
    for raw in fields.items(spec.get("ipFamilies"), "spec.ipFamilies", 2, complaints):
        family = fields.FAMILIES.get(raw) if isinstance(raw, str) else None
        if family is None:
            complaints.add(f"spec.ipFamilies has {shown(raw)}, which is neither IPv4 nor IPv6")
        else:
            found[family] = None
    return tuple(found) or (4,)


def _affinity(spec: Mapping[str, Any], complaints: Complaints) -> int | None:
    kind = spec.get("sessionAffinity")
    if kind != "ClientIP":
        if kind not in (None, "", "None"):
            complaints.add(f"spec.sessionAffinity is {shown(kind)}, neither ClientIP nor None")
        return None
    where = "spec.sessionAffinityConfig"
    config = fields.section(spec.get("sessionAffinityConfig"), where, complaints)
    raw = fields.section(config.get("clientIP"), f"{where}.clientIP", complaints).get("timeoutSeconds")
    timeout_s = DEFAULT_AFFINITY_S if raw is None else fields.whole(raw, 1, 86400)
    if timeout_s is None:
        complaints.add(f"{where}.clientIP.timeoutSeconds is {shown(raw)}, not 1-86400: {DEFAULT_AFFINITY_S} is used")
    return timeout_s or DEFAULT_AFFINITY_S


def _source_ranges(spec: Mapping[str, Any], annotations: Mapping[str, Any], complaints: Complaints) -> tuple[str, ...]:
    """What can't be read lets nobody in."""
    where, raw = "spec.loadBalancerSourceRanges", spec.get("loadBalancerSourceRanges")
    if raw in (None, []):
        where, raw = f"annotation {SOURCE_RANGES_ANNOTATION}", annotations.get(SOURCE_RANGES_ANNOTATION)
        if raw is None or raw == "":
            return ()
        raw = raw.split(",") if isinstance(raw, str) and len(raw) <= 65536 else raw
    found: dict[str, None] = {}
    for entry in fields.items(raw, where, MAX_SOURCE_RANGES, complaints):
        network = fields.network(entry)
        if network is None:
            complaints.add(f"{where} has {shown(entry)}, which is not a network (a.b.c.d/n)")
        else:
            found[network] = None
    if not found:
        complaints.add(f"{where}: none of it can be read, so no client is let in")
    return tuple(found) or NOBODY


def _load_balancer_ip(spec: Mapping[str, Any], complaints: Complaints) -> str:
    written = fields.text(spec.get("loadBalancerIP"), "spec.loadBalancerIP", 64).strip()
    parsed = fields.address(written)
    if written and parsed is None:
        complaints.add(f"spec.loadBalancerIP is {shown(written)}, not an IP address")
    return parsed[0] if parsed else written


def _strings(
    raw: Mapping[str, Any], where: str, complaints: Complaints, prefixes: tuple[str, ...] = ("",)
) -> tuple[tuple[str, str], ...]:
    """Return labels or annotations whose names have one of the prefixes, sorted."""
    found: list[tuple[str, str]] = []
    for name, value in raw.items():
        if not name.startswith(prefixes):
            continue
        if not fields.is_text(value) or not fields.is_text(name, 317):  # 253, a slash, and 63
            complaints.add(f"{where} has {shown(name)}: {shown(value)}, which is too long, or no text")
        elif len(found) == MAX_ENTRIES:
            complaints.add(f"{where} has {len(raw)} entries: only {MAX_ENTRIES} are used")
            break
        else:
            found.append((name, value))
    return tuple(sorted(found))


def _finalizers(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """All of them or none: who writes the list again must not lose what others have put into it."""
    raw = metadata.get("finalizers")
    if raw is None:
        return ()
    if not isinstance(raw, list) or len(raw) > MAX_ENTRIES:
        raise UnusableError("metadata.finalizers is no list, or too long")
    return tuple(fields.text(one, f"metadata.finalizers[{index}]") for index, one in enumerate(raw))


def _ingress(status: Mapping[str, Any], complaints: Complaints) -> tuple[str, ...]:
    where = "status.loadBalancer"
    balancer = fields.section(status.get("loadBalancer"), where, complaints)
    found: dict[str, None] = {}
    for place, entry in fields.objects(balancer.get("ingress"), f"{where}.ingress", MAX_ADDRESSES, complaints):
        written = entry.get("ip")
        parsed = fields.address(written)
        if parsed is not None:
            found[parsed[0]] = None
        elif written not in (None, ""):  # without: a host name, as other implementations give
            complaints.add(f"{place}.ip is {shown(written)}, not an IP address")
    return tuple(found)


def _conditions(status: Mapping[str, Any], complaints: Complaints) -> tuple[Condition, ...]:
    found = []
    for where, entry in fields.objects(status.get("conditions"), "status.conditions", MAX_ADDRESSES, complaints):
        try:
            found.append(
                Condition(
                    type=fields.text(entry.get("type"), f"{where}.type"),
                    status=fields.text(entry.get("status"), f"{where}.status"),
                    reason=fields.text(entry.get("reason"), f"{where}.reason"),
                    message=fields.text(entry.get("message"), f"{where}.message", MAX_CONDITION_MESSAGE),
                    observed_generation=fields.generation(entry.get("observedGeneration")),
                    last_transition_time=fields.text(entry.get("lastTransitionTime"), f"{where}.lastTransitionTime"),
                )
            )
        except UnusableError as error:
            complaints.add(str(error))
    return tuple(found)
