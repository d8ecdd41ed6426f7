"""From what the API server says to lbd's values. Everything in it is hostile: bounded, checked, complained about. Pure.

An object that can't be used at all gives `Unusable` with the reason; of the others, what can't be used is left out and
named in `complaints`. The bounds are those of the API where it has some, and generous where it has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from lbd.kubernetes.objects import fields
from lbd.kubernetes.objects.fields import Complaints, UnusableError, shown
from lbd.kubernetes.objects.kinds import (
    EndpointSlice,
    KubernetesObject,
    L4Rule,
    Node,
    ObjectKey,
    RuleStatus,
    Service,
    SliceEndpoint,
)
from lbd.kubernetes.objects.parse_services import read_service

SERVICE_NAME_LABEL = "kubernetes.io/service-name"

MAX_SLICE_PORTS = 100
MAX_ENDPOINTS = 1000
MAX_ADDRESSES = 100
"""Of the EndpointSlice API."""
MAX_RULE_ERROR = 32768
MAX_SPEC_VALUES = 10_000
MAX_SPEC_DEPTH = 20

T = TypeVar("T", bound=KubernetesObject)


@dataclass(frozen=True, slots=True)
class Unusable:
    """An object that can't be used, and why; `key` None: it doesn't even say which one it is."""

    key: ObjectKey | None
    reason: str


def parse_service(raw: object) -> Service | Unusable:
    """Read a Service.

    `load_balancer_ip` is canonical if it is an address, and else what was written, so that nobody gets another one
    instead; `source_ranges` is NOBODY if none of the ranges that are there can be read.
    """
    return _parse(raw, read_service)


def parse_slice(raw: object) -> EndpointSlice | Unusable:
    """Read an EndpointSlice; one of addressType FQDN, or of no Service, is unusable."""
    return _parse(raw, _slice)


def parse_node(raw: object) -> Node | Unusable:
    """Read a Node."""
    return _parse(raw, _node, namespaced=False)


def parse_rule(raw: object) -> L4Rule | Unusable:
    """Read an L4Rule. Its `spec` is bounded in size and depth and otherwise as it was written."""
    return _parse(raw, _rule)


def _parse(
    raw: object, read: Callable[[ObjectKey, Mapping[str, Any], Mapping[str, Any]], T], *, namespaced: bool = True
) -> T | Unusable:
    key: ObjectKey | None = None
    try:
        if not isinstance(raw, dict):
            raise UnusableError(f"it is {shown(raw)}, not an object")
        metadata = fields.mapping(raw.get("metadata"), "metadata")
        key = fields.key_of(metadata, namespaced=namespaced)
        return read(key, metadata, raw)
    except UnusableError as error:
        return Unusable(key, str(error))


# EndpointSlices.


def _slice(key: ObjectKey, metadata: Mapping[str, Any], raw: Mapping[str, Any]) -> EndpointSlice:
    service = fields.mapping(metadata.get("labels"), "metadata.labels").get(SERVICE_NAME_LABEL)
    if not fields.is_text(service, 63) or not service:
        raise UnusableError(f"label {SERVICE_NAME_LABEL} is {shown(service)}: it belongs to no Service")
    kind = raw.get("addressType")
    family = fields.FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise UnusableError(f"addressType is {shown(kind)}: only IPv4 and IPv6 have members")
    complaints = Complaints()
    ports = []
    for where, entry in fields.objects(raw.get("ports"), "ports", MAX_SLICE_PORTS, complaints):
        port = fields.port_of(entry, where, complaints)
        if port is not None:
            ports.append(port)
    endpoints = []
    for where, entry in fields.objects(raw.get("endpoints"), "endpoints", MAX_ENDPOINTS, complaints):
        endpoint = _endpoint(entry, where, family, complaints)
        if endpoint is not None:
            endpoints.append(endpoint)
    return EndpointSlice(key, service, family, tuple(ports), tuple(endpoints), complaints.all())


def _endpoint(entry: Mapping[str, Any], where: str, family: int, complaints: Complaints) -> SliceEndpoint | None:
    """Return an endpoint; None with a complaint if its address is not of the family, or it says odd things of itself.

    Of several addresses the first one counts, as for kube-proxy: the API gives the others no meaning, and a slice has
    room for 100,000.
    """
    addresses = fields.items(entry.get("addresses"), f"{where}.addresses", MAX_ADDRESSES, complaints)
    if not addresses:
        return None
    parsed = fields.address(addresses[0])
    if parsed is None or parsed[1] != family:
        complaints.add(f"{where}.addresses has {shown(addresses[0])}, which is no IPv{family} address")
        return None
    said = fields.section(entry.get("conditions"), f"{where}.conditions", complaints)
    flags = said.get("ready"), said.get("serving"), said.get("terminating")
    for flag in flags:
        if flag is not None and not isinstance(flag, bool):
            complaints.add(f"{where}.conditions has {shown(flag)}, neither true nor false: it is left out")
            return None
    ready, serving, terminating = flags
    target = fields.section(entry.get("targetRef"), f"{where}.targetRef", complaints)
    return SliceEndpoint(
        addresses=(parsed[0],),
        ready=ready is not False,
        serving=serving is not False,
        terminating=terminating is True,
        node=_short(entry.get("nodeName")),
        pod=_short(target.get("name")) if target.get("kind") == "Pod" else "",
    )


def _short(raw: object) -> str:
    """A name that is only for people: what is no name is none."""
    return raw if fields.is_text(raw, 253) else ""


# Nodes.


def _node(key: ObjectKey, metadata: Mapping[str, Any], raw: Mapping[str, Any]) -> Node:
    complaints = Complaints()
    spec = fields.section(raw.get("spec"), "spec", complaints)
    status = fields.section(raw.get("status"), "status", complaints)
    internal: dict[str, None] = {}
    for where, entry in fields.objects(status.get("addresses"), "status.addresses", MAX_ADDRESSES, complaints):
        if entry.get("type") != "InternalIP":
            continue
        parsed = fields.address(entry.get("address"))
        if parsed is None:
            complaints.add(f"{where}.address is {shown(entry.get('address'))}, not an IP address")
        else:
            internal[parsed[0]] = None
    cidrs: dict[str, None] = {}
    single = spec.get("podCIDR")
    written = spec.get("podCIDRs") or ([] if single in (None, "") else [single])
    for entry in fields.items(written, "spec.podCIDRs", MAX_ADDRESSES, complaints):
        network = fields.network(entry)
        if network is None:
            complaints.add(f"spec.podCIDRs has {shown(entry)}, which is not a network")
        else:
            cidrs[network] = None
    return Node(key, tuple(internal), tuple(cidrs), complaints.all())


# L4Rules.


def _rule(key: ObjectKey, metadata: Mapping[str, Any], raw: Mapping[str, Any]) -> L4Rule:
    spec = fields.mapping(raw.get("spec"), "spec")
    _check_size(spec, "spec")
    return L4Rule(
        key=key,
        uid=fields.text(metadata.get("uid"), "metadata.uid", 128),
        resource_version=fields.text(metadata.get("resourceVersion"), "metadata.resourceVersion", 128),
        generation=fields.generation(metadata.get("generation")),
        spec=spec,
        status=_rule_status(raw.get("status")),
    )


def _rule_status(raw: object) -> RuleStatus:
    """What of a status can't be read counts as not written: whoever judges the rule then writes it again."""
    status = raw if isinstance(raw, dict) else {}
    accepted = status.get("acceptedSpec")
    try:
        _check_size(accepted, "status.acceptedSpec")
    except UnusableError:
        accepted = None
    known = isinstance(accepted, dict)
    said, error = status.get("status"), status.get("error")
    return RuleStatus(
        status=said if isinstance(said, str) and said in ("Accepted", "Rejected") else "",
        error=error if fields.is_text(error, MAX_RULE_ERROR) else "",
        observed_generation=fields.generation(status.get("observedGeneration")),
        accepted_generation=fields.generation(status.get("acceptedGeneration")) if known else 0,
        accepted_spec=accepted if known else None,
    )


def _check_size(raw: object, where: str) -> None:
    """Raises UnusableError if there are too many values in it, or too deep ones; without recursion."""
    level, count = [raw], 0
    for _depth in range(MAX_SPEC_DEPTH):
        count += len(level)
        if count > MAX_SPEC_VALUES:
            raise UnusableError(f"{where} has more than {MAX_SPEC_VALUES} values")
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise UnusableError(f"{where} is nested more than {MAX_SPEC_DEPTH} deep")
