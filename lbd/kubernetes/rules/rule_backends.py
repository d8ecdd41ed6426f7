"""The `backendProperties` of an L4Rule: pools by port and protocol. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from lbd.config import scalars
from lbd.config.errors import show
from lbd.kubernetes.rules.rule_policy import BackendPolicy
from lbd.kubernetes.rules.rule_profiles import Catalog
from lbd.kubernetes.rules.rule_reading import Section, reference
from lbd.model.desired import Algorithm, HashKey, HealthMonitor, Persistence, Protocol
from lbd.model.kubernetes import NetworkProfile, PersistenceProfile

_LAYER_7 = "and lbd balances at layer 4"
_NO_SSL = "lbd passes bytes on as they are and does not encrypt toward members"

ALGORITHM_PREFIX = "LB_ALGORITHM_"
_CONSISTENT_HASH = f"{ALGORITHM_PREFIX}CONSISTENT_HASH"
HASH_PREFIX = f"{_CONSISTENT_HASH}_"
ALGORITHMS = {
    f"{ALGORITHM_PREFIX}{algorithm.name}": algorithm
    for algorithm in (
        Algorithm.LEAST_CONNECTIONS,
        Algorithm.ROUND_ROBIN,
        Algorithm.FASTEST_RESPONSE,
        Algorithm.CONSISTENT_HASH,
        Algorithm.RANDOM,
    )
}
_GLOBAL = "is for balancing between sites, which lbd does not do"
ALGORITHMS_NOT_HERE = {
    f"{ALGORITHM_PREFIX}LEAST_LOAD": "goes by the load that servers report, and lbd does not ask them for it",
    f"{ALGORITHM_PREFIX}FEWEST_SERVERS": "fills one server after the other, which lbd does not do",
    f"{ALGORITHM_PREFIX}FEWEST_TASKS": "goes by the tasks that servers report, and lbd does not ask them for it",
    f"{ALGORITHM_PREFIX}CORE_AFFINITY": "ties servers to CPU cores, which lbd does not do",
    f"{ALGORITHM_PREFIX}NEAREST_SERVER": _GLOBAL,
    f"{ALGORITHM_PREFIX}TOPOLOGY": _GLOBAL,
}
HASHES = {
    f"{HASH_PREFIX}SOURCE_IP_ADDRESS": HashKey.SOURCE_IP,
    f"{HASH_PREFIX}SOURCE_IP_ADDRESS_AND_PORT": HashKey.SOURCE_IP_PORT,
}
HASHES_NOT_HERE = {
    f"{HASH_PREFIX}URI": f"hashes what an HTTP request asks for, {_LAYER_7}",
    f"{HASH_PREFIX}CUSTOM_HEADER": f"hashes a header of HTTP requests, {_LAYER_7}",
    f"{HASH_PREFIX}CUSTOM_STRING": f"hashes a text of a script, {_LAYER_7}",
    f"{HASH_PREFIX}CALLID": f"hashes a header of SIP requests, {_LAYER_7}",
}

FIELDS = (
    "port",
    "protocol",
    "enabled",
    "applicationPersistenceProfileRef",
    "healthMonitorRefs",
    "lbAlgorithm",
    "lbAlgorithmHash",
    "lbAlgorithmConsistentHashHdr",
    "minServersUp",
    "analyticsPolicy",
    "healthMonitorCrdRefs",
    "sslProfileRef",
    "sslKeyAndCertificateRef",
    "pkiProfileRef",
)
MAX_MONITORS = 16
"""Of one pool: each is a check of every member, again and again."""
_REFUSED = {
    "lbAlgorithmConsistentHashHdr": f"names a header of HTTP requests, {_LAYER_7}",
    "healthMonitorCrdRefs": "names objects of another controller: name health monitors of lbd in healthMonitorRefs",
    "sslProfileRef": _NO_SSL,
    "sslKeyAndCertificateRef": _NO_SSL,
    "pkiProfileRef": _NO_SSL,
}

_min_servers_up = scalars.whole_number(0, 65535, "a number of servers")


def read_backends(spec: Section, catalog: Catalog, network: NetworkProfile) -> Iterator[BackendPolicy]:
    """Return what can be used of `backendProperties`; what is wrong is noted in the section."""
    first: set[tuple[int, Protocol]] = set()
    for section in spec.sections("backendProperties", FIELDS):
        port, protocol = section.require("port", scalars.port), section.require("protocol", transport)
        backend = _backend(section, port or 1, protocol or Protocol.TCP, catalog, network)
        if port is None or protocol is None:
            continue
        if (port, protocol) in first:
            section.wrong("port", f"{port} with protocol {protocol.upper()} is already in this list")
        first.add((port, protocol))
        yield backend


def transport(value: object) -> Protocol:
    """Return the protocol that a rule calls TCP or UDP.

    Raises:
        ValueError: it is another one.
    """
    written = scalars.text(value)
    if written == "SCTP":
        raise ValueError('"SCTP" is not supported: lbd balances TCP and UDP')
    if written not in ("TCP", "UDP"):
        raise ValueError(f"{show(written)} is not TCP or UDP{scalars.did_you_mean(written, ('TCP', 'UDP'))}")
    return Protocol(written.lower())


def _backend(
    section: Section, port: int, protocol: Protocol, catalog: Catalog, network: NetworkProfile
) -> BackendPolicy:
    algorithm, hash_key = _algorithm(section, protocol)
    for key, why in _REFUSED.items():
        section.refuse(key, why)
    analytics = section.section("analyticsPolicy", ("enableRealtimeMetrics",))
    if analytics is not None:
        analytics.take("enableRealtimeMetrics", scalars.flag, True)  # metrics of lbd are never anything else
    return BackendPolicy(
        port=port,
        protocol=protocol,
        enabled=section.take("enabled", scalars.flag, True),
        algorithm=algorithm,
        hash_key=hash_key,
        persistence=_persistence(section, protocol, catalog, network),
        health_monitors=_monitors(section, catalog),
        min_members_up=max(1, section.take("minServersUp", _min_servers_up, 1)),
    )


def _algorithm(section: Section, protocol: Protocol) -> tuple[Algorithm, HashKey]:
    """Return algorithm and hash key. A hash alone means CONSISTENT_HASH: nobody writes one for anything else."""
    hashes = section.has("lbAlgorithmHash")
    hash_key = section.take("lbAlgorithmHash", _hash, HashKey.SOURCE_IP)
    if not section.has("lbAlgorithm"):
        return (Algorithm.CONSISTENT_HASH if hashes else Algorithm.LEAST_CONNECTIONS), hash_key
    algorithm = section.take("lbAlgorithm", _balances, None)
    if algorithm is None:
        return Algorithm.LEAST_CONNECTIONS, hash_key
    if algorithm is Algorithm.CONSISTENT_HASH and not hashes:
        section.wrong("lbAlgorithm", f"{_CONSISTENT_HASH} needs lbAlgorithmHash, which says what is hashed")
    if algorithm is not Algorithm.CONSISTENT_HASH and hashes:
        written = f"{ALGORITHM_PREFIX}{algorithm.name}"
        section.wrong("lbAlgorithmHash", f"belongs to {_CONSISTENT_HASH}, and lbAlgorithm is {written}")
    if algorithm is Algorithm.FASTEST_RESPONSE and protocol is Protocol.UDP:
        what = "measures how fast members take connections, and UDP has none"
        section.wrong("lbAlgorithm", f"{ALGORITHM_PREFIX}FASTEST_RESPONSE {what}")
    return algorithm, hash_key


def _balances(value: object) -> Algorithm | None:
    written = scalars.text(value)
    if written in ALGORITHMS_NOT_HERE:
        raise ValueError(f"{written} {ALGORITHMS_NOT_HERE[written]}; supported are {', '.join(ALGORITHMS)}")
    if written not in ALGORITHMS:
        raise ValueError(f"{show(written)} is not an algorithm{scalars.did_you_mean(written, list(ALGORITHMS))}")
    return ALGORITHMS[written]


def _hash(value: object) -> HashKey:
    written = scalars.text(value)
    if written in HASHES_NOT_HERE:
        raise ValueError(f"{written} {HASHES_NOT_HERE[written]}; supported are {', '.join(HASHES)}")
    if written not in HASHES:
        raise ValueError(f"{show(written)} is not a hash{scalars.did_you_mean(written, list(HASHES))}")
    return HASHES[written]


def _persistence(section: Section, protocol: Protocol, catalog: Catalog, network: NetworkProfile) -> Persistence | None:
    key = "applicationPersistenceProfileRef"
    profile = section.reference(key, lambda name: catalog.profile(PersistenceProfile, name), None)
    if profile is not None and protocol is Protocol.UDP and network.udp.per_packet:
        why = f"can't be had with the network profile {show(network.name)}: each datagram picks its own member"
        section.wrong(key, why)
    return profile.persistence if profile is not None else None


def _monitors(section: Section, catalog: Catalog) -> tuple[HealthMonitor, ...]:
    found: dict[str, HealthMonitor] = {}

    def read(item: object, _location: object) -> None:
        monitor = catalog.monitor(reference(item))
        if monitor.name in found:
            raise ValueError(f"{show(item)} is already in this list")
        if len(found) == MAX_MONITORS:
            raise ValueError(f"{show(item)} is one more than the {MAX_MONITORS} health monitors that a pool can have")
        found[monitor.name] = monitor

    for _ in section.items("healthMonitorRefs", read):
        pass
    return tuple(found.values())
