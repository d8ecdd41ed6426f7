"""The spec of an L4Rule, field by field → its policy, or every sentence about what is wrong with it. Pure.

Every field either works or is refused in words: none is taken and then does nothing.
"""

from __future__ import annotations

from lbd.config import scalars
from lbd.config.errors import show
from lbd.kubernetes.rules.rule_backends import read_backends, transport
from lbd.kubernetes.rules.rule_policy import DEFAULT_APPLICATION, DEFAULT_NETWORK, RulePolicy
from lbd.kubernetes.rules.rule_profiles import Catalog
from lbd.kubernetes.rules.rule_reading import Section, sentence, why_too_big
from lbd.model.desired import ClientLogs, Protocol
from lbd.model.kubernetes import AnalyticsProfile, ApplicationProfile, NetworkProfile, NetworkSecurityPolicy

FIELDS = (
    "analyticsProfileRef",
    "analyticsPolicy",
    "applicationProfileRef",
    "networkProfileRef",
    "networkSecurityPolicyRef",
    "loadBalancerIP",
    "performanceLimits",
    "listenerProperties",
    "backendProperties",
    "securityPolicyRef",
    "vsDatascriptRefs",
    "sslProfileRef",
    "sslKeyAndCertificateRefs",
    "revokeVipRoute",
)
_NO_SSL = "lbd passes bytes on as they are and does not end TLS"
_REFUSED = {
    "securityPolicyRef": "is not supported: networkSecurityPolicyRef says whose connections are taken",
    "vsDatascriptRefs": "is not supported: lbd runs no scripts",
    "sslProfileRef": _NO_SSL,
    "sslKeyAndCertificateRefs": _NO_SSL,
}
_DEFAULT_ANALYTICS = AnalyticsProfile("System-Analytics-Profile")
_BITS_OF_A_MEGABIT = 1_000_000

_connections = scalars.whole_number(0, 65535, "a number of connections")
_megabits = scalars.whole_number(0, 65535, "a throughput in Mbit/s")
_minutes = scalars.whole_number(0, 65535, "a number of minutes")
_lines = scalars.whole_number(0, 65535, "a number of lines a second")


def read_spec(spec: object, catalog: Catalog) -> tuple[RulePolicy, list[str]]:
    """Return what the spec of a rule means, and all that is wrong with it: with a sentence there, it means nothing."""
    too_big = why_too_big(spec)
    if too_big:
        return RulePolicy(), [sentence((), too_big)]
    errors: list[str] = []
    try:
        section = Section(spec, (), FIELDS, errors)
    except ValueError as error:
        return RulePolicy(), [sentence((), str(error))]
    return _policy(section, catalog), errors


def _policy(section: Section, catalog: Catalog) -> RulePolicy:
    _refuse(section)
    _listeners(section)
    network = section.reference(
        "networkProfileRef", lambda name: catalog.profile(NetworkProfile, name), DEFAULT_NETWORK
    )
    connections, throughput_bps = _performance_limits(section)
    return RulePolicy(
        max_connections=connections,
        max_throughput_bps=throughput_bps,
        client_logs=_client_logs(section, catalog),
        application=section.reference(
            "applicationProfileRef", lambda name: catalog.profile(ApplicationProfile, name), DEFAULT_APPLICATION
        ),
        network=network,
        network_security=section.reference(
            "networkSecurityPolicyRef", lambda name: catalog.profile(NetworkSecurityPolicy, name), None
        ),
        load_balancer_ip=section.reference("loadBalancerIP", scalars.address, ""),
        backends=tuple(read_backends(section, catalog, network)),
    )


def _refuse(section: Section) -> None:
    for key, why in _REFUSED.items():
        section.refuse(key, why)
    if section.take("revokeVipRoute", scalars.flag, False):
        section.wrong("revokeVipRoute", "true is not supported: lbd announces VIPs on layer 2, without routes")


def _listeners(spec: Section) -> None:
    """Judge `listenerProperties`: a port without TLS is what every port is, so there is nothing to be taken from it."""
    first: set[int] = set()
    for section in spec.sections("listenerProperties", ("port", "protocol", "enableSsl")):
        port = section.require("port", scalars.port)
        section.require("protocol", _tcp)
        if section.take("enableSsl", scalars.flag, False):
            section.wrong("enableSsl", f"true is not supported: {_NO_SSL}")
        if port is not None and port in first:
            section.wrong("port", f"{port} is already in this list")
        first |= {port} if port is not None else set()


def _tcp(value: object) -> Protocol:
    protocol = transport(value)
    if protocol is not Protocol.TCP:
        raise ValueError(f"{show(value)} is not TCP, the only protocol of listeners")
    return protocol


def _performance_limits(spec: Section) -> tuple[int, int]:
    section = spec.section("performanceLimits", ("maxConcurrentConnections", "maxThroughput"))
    if section is None:
        return 0, 0
    connections = section.take("maxConcurrentConnections", _connections, 0)
    return connections, section.take("maxThroughput", _megabits, 0) * _BITS_OF_A_MEGABIT


def _client_logs(spec: Section, catalog: Catalog) -> ClientLogs | None:
    analytics = spec.reference(
        "analyticsProfileRef", lambda name: catalog.profile(AnalyticsProfile, name), _DEFAULT_ANALYTICS
    )
    policy = spec.section("analyticsPolicy", ("fullClientLogs",))
    logs = policy.section("fullClientLogs", ("enabled", "duration", "throttle")) if policy is not None else None
    if logs is None:
        return None
    enabled = logs.require("enabled", scalars.flag)
    duration_minutes = logs.take("duration", _minutes, 30)
    throttle = logs.take("throttle", _lines, 10)
    if not enabled:
        return None
    return ClientLogs(throttle, duration_minutes * 60.0, analytics.slow_connect_s)
