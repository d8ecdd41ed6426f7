"""What a configuration means, written as its file would have it."""

from __future__ import annotations

from lbd.model.desired import (
    Algorithm,
    DesiredState,
    HashKey,
    HealthMonitor,
    Keepalive,
    Limits,
    MonitorType,
    OnLimit,
    Persistence,
    Pool,
    Protocol,
    StatusRange,
    Timeouts,
    UdpOptions,
    VirtualService,
)
from lbd.model.kubernetes import (
    SYSTEM_PROFILES,
    AddressPool,
    AnalyticsProfile,
    ApplicationProfile,
    Kubernetes,
    NetworkProfile,
    NetworkSecurityPolicy,
    PersistenceProfile,
    Profile,
)


def in_units(duration_s: float) -> str:
    """Write a duration in as many units as it has."""
    rest_ms = round(duration_s * 1000)
    text = ""
    for unit, unit_ms in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        if rest_ms >= unit_ms:
            text += f"{rest_ms // unit_ms}{unit}"
            rest_ms %= unit_ms
    return text or "0s"


MONITOR_KEYS_IN_FILE = {
    MonitorType.PING: (),
    MonitorType.TCP: ("port", "send", "expect"),
    MonitorType.HTTP: ("port", "path", "method", "expect_status", "expect_text"),
    MonitorType.HTTPS: ("port", "path", "method", "expect_status", "expect_text", "verify_tls"),
    MonitorType.UDP: ("port", "send", "expect"),
    MonitorType.DNS: ("port", "query_name", "query_type", "expect_rcode", "expect_answer"),
}


def monitor_in_file(monitor: HealthMonitor) -> dict[str, object]:
    written: dict[str, object] = {
        "type": str(monitor.type),
        "interval": in_units(monitor.interval_s),
        "timeout": in_units(monitor.timeout_s),
        "rise": monitor.rise,
        "fall": monitor.fall,
        "jitter": f"{round(monitor.jitter * 100)}%",
    }
    for key in MONITOR_KEYS_IN_FILE[monitor.type]:
        value = getattr(monitor, key)
        if isinstance(value, bytes):
            written[key] = value.decode()
        elif isinstance(value, tuple):
            written[key] = [
                one.first if isinstance(one, StatusRange) and one.first == one.last else str(one) for one in value
            ]
        elif value is not None:
            written[key] = value
    return written


def without(written: dict[str, object], *absent: object) -> dict[str, object]:
    """Leave out keys whose value can't be written, and means that the key is absent."""
    return {key: value for key, value in written.items() if value not in absent}


def in_percent(percent: float) -> str:
    return f"{percent:.3f}".rstrip("0").rstrip(".") + "%"


def persistence_in_file(persistence: Persistence) -> dict[str, object]:
    return {
        "type": "client_ip",
        "timeout": in_units(persistence.timeout_s),
        "ipv4_prefix": persistence.ipv4_prefix,
        "ipv6_prefix": persistence.ipv6_prefix,
        "max_entries": persistence.max_entries,
        "on_member_down": str(persistence.on_member_down),
    }


def pool_in_file(pool: Pool) -> dict[str, object]:
    persistence, outliers = pool.persistence, pool.outlier_detection
    hashed = pool.algorithm is Algorithm.CONSISTENT_HASH
    written: dict[str, object] = {
        "algorithm": str(pool.algorithm),
        "hash": str(pool.hash_key) if hashed else None,
        "max_load": in_percent(pool.max_load_percent) if pool.max_load_percent else None,
        "slow_start": in_units(pool.slow_start_s),
        "on_all_down": str(pool.on_all_down),
        "min_members_up": pool.min_members_up,
        "panic_threshold": in_percent(pool.panic_threshold_percent),
        "drain_timeout": None if pool.drain_timeout_s is None else in_units(pool.drain_timeout_s),
        "health_monitors": [one.name for one in pool.health_monitors],
        "members": [
            without(
                {
                    "address": member.endpoint.address,
                    "port": member.endpoint.port,
                    "weight": member.weight,
                    "admin_state": str(member.admin_state),
                    "backup": member.backup,
                    "max_connections": member.max_connections or None,
                },
                None,
            )
            for member in pool.members
        ],
        "persistence": persistence and persistence_in_file(persistence),
        "outlier_detection": outliers
        and {
            "consecutive_failures": outliers.consecutive_failures,
            "base_ejection_time": in_units(outliers.base_ejection_s),
            "max_ejection_time": in_units(outliers.max_ejection_s),
            "max_ejected": in_percent(outliers.max_ejected_percent),
        },
    }
    if hashed and pool.hash_key is HashKey.SOURCE_IP_PORT:
        del written["algorithm"]  # a hash says enough
    return without(written, None)


def limits_in_file(limits: Limits) -> dict[str, object]:
    is_queue = limits.on_limit is OnLimit.QUEUE
    written = {
        "max_connections": limits.max_connections or None,
        "on_limit": str(limits.on_limit),
        "queue_length": limits.queue_length if is_queue else None,
        "queue_timeout": in_units(limits.queue_timeout_s) if is_queue else None,
        "max_connections_per_client": limits.max_connections_per_client or None,
        "connection_rate": f"{limits.connection_rate:.0f}/s" if limits.connection_rate else None,
        "connection_rate_per_client": (
            f"{limits.connection_rate_per_client * 60:.0f}/m" if limits.connection_rate_per_client else None
        ),
        "max_throughput": f"{limits.max_throughput_bps}bps" if limits.max_throughput_bps else None,
    }
    return without(written, None)


def keepalive_in_file(keepalive: Keepalive | None) -> dict[str, object] | None:
    return keepalive and {
        "idle": in_units(keepalive.idle_s),
        "interval": in_units(keepalive.interval_s),
        "probes": keepalive.probes,
    }


def service_in_file(service: VirtualService) -> dict[str, object]:
    timeouts = service.timeouts
    written: dict[str, object] = {
        "name": service.name,
        "vip": service.vip,
        "port": service.port,
        "protocol": str(service.protocol),
        "admin_state": str(service.admin_state),
        "source": str(service.source),
        "proxy_protocol": service.proxy_protocol and str(service.proxy_protocol),
        "source_ranges": list(service.source_ranges) or None,
        "limits": limits_in_file(service.limits),
        "pool": pool_in_file(service.pool),
        "client_logs": service.client_logs
        and without(
            {
                "throttle": service.client_logs.throttle_per_s,
                "duration": in_units(service.client_logs.duration_s),
            },
            None,
        ),
    }
    if service.protocol is Protocol.UDP:
        udp = service.udp
        written["timeouts"] = {"idle": in_units(timeouts.idle_s)}
        written["udp"] = udp_in_file(udp)
        return without(written, None)
    written["keepalive"] = keepalives_in_file(service.client_keepalive, service.member_keepalive)
    written["accept_proxy_protocol"] = list(service.accept_proxy_protocol) or None
    written["timeouts"] = timeouts_in_file(timeouts)
    written["bulk"] = service.bulk.value
    return without(written, None)


def keepalives_in_file(client: Keepalive | None, member: Keepalive | None) -> dict[str, object] | None:
    return without({"client": keepalive_in_file(client), "member": keepalive_in_file(member)}, None) or None


def timeouts_in_file(timeouts: Timeouts) -> dict[str, object]:
    written = {
        "connect": in_units(timeouts.connect_s),
        "idle": in_units(timeouts.idle_s),
        "client_half_closed": in_units(timeouts.client_half_closed_s),
        "member_half_closed": in_units(timeouts.member_half_closed_s),
        "client_user": in_units(timeouts.client_user_s),
        "member_user": in_units(timeouts.member_user_s),
        "lifetime": in_units(timeouts.lifetime_s),
        "lifetime_jitter": f"{round(timeouts.lifetime_jitter * 100)}%" if timeouts.lifetime_s else None,
    }
    return without(written, None)


def udp_in_file(udp: UdpOptions) -> dict[str, object]:
    return {"responses": udp.responses, "max_flows": udp.max_flows, "per_packet": udp.per_packet}


def profile_in_file(profile: Profile) -> dict[str, object]:
    match profile:
        case PersistenceProfile(_name, persistence):
            return {"type": "persistence", "persistence": persistence_in_file(persistence)}
        case ApplicationProfile():
            written: dict[str, object] = {
                "type": "application",
                "source": str(profile.source),
                "proxy_protocol": profile.proxy_protocol and str(profile.proxy_protocol),
                "accept_proxy_protocol": list(profile.accept_proxy_protocol) or None,
                **limits_in_file(
                    Limits(
                        max_connections_per_client=profile.max_connections_per_client,
                        connection_rate=profile.connection_rate,
                        connection_rate_per_client=profile.connection_rate_per_client,
                    )
                ),
            }
            del written["on_limit"]
            return without(written, None)
        case NetworkProfile():
            written = {
                "type": "network",
                "timeouts": timeouts_in_file(profile.timeouts),
                "udp_idle": in_units(profile.udp_idle_s),
                "keepalive": keepalives_in_file(profile.client_keepalive, profile.member_keepalive),
                "udp": udp_in_file(profile.udp),
                "bulk": profile.bulk.value,
            }
            return without(written, None)
        case AnalyticsProfile(_name, slow_connect_s):
            return {"type": "analytics", "slow_connect": in_units(slow_connect_s)}
        case NetworkSecurityPolicy(_name, source_ranges):
            return {"type": "network_security", "source_ranges": list(source_ranges)}


def address_pool_in_file(pool: AddressPool) -> dict[str, object]:
    written: dict[str, object] = {
        "ranges": list(map(str, pool.ranges)),
        "auto_assign": pool.auto_assign,
        "namespaces": list(pool.namespaces) or None,
        "service_selector": dict(pool.service_labels) or None,
        "priority": pool.priority,
    }
    return without(written, None)


def cluster_in_file(cluster: Kubernetes) -> dict[str, object]:
    lease = cluster.lease
    written: dict[str, object] = {
        "kubeconfig": cluster.kubeconfig,
        "in_cluster": None if cluster.kubeconfig else True,
        "context": cluster.context,
        "load_balancer_class": cluster.load_balancer_class,
        "default_class": cluster.default_class,
        "namespaces": list(cluster.namespaces) or None,
        "pod_cidrs": list(cluster.pod_cidrs) or None,
        "pod_routes": cluster.pod_routes,
        "backend_interface": cluster.backend_interface or None,
        "resync": in_units(cluster.resync_s),
        "request_timeout": in_units(cluster.request_timeout_s),
        "watch_timeout": in_units(cluster.watch_timeout_s),
        "lease": {
            "namespace": lease.namespace,
            "name": lease.name,
            "duration": in_units(lease.duration_s),
            "renew_deadline": in_units(lease.renew_deadline_s),
            "retry": in_units(lease.retry_s),
        },
    }
    return without(written, None)


def in_file(state: DesiredState, defined: list[HealthMonitor]) -> dict[str, object]:
    engine, cluster = state.service_engine, state.kubernetes
    of_cluster = cluster and {
        "kubernetes": cluster_in_file(cluster),
        "address_pools": {pool.name: address_pool_in_file(pool) for pool in cluster.address_pools},
        "profiles": {one.name: profile_in_file(one) for one in cluster.profiles[len(SYSTEM_PROFILES) :]},
    }
    return {
        "service_engine": {
            "name": engine.name,
            "workers": engine.workers,
            "frontend_interface": engine.frontend_interface,
            "drain_timeout": in_units(engine.drain_timeout_s),
        },
        "metrics": {"listen": str(state.metrics_listen) if state.metrics_listen else "off"},
        "admin": {"socket": state.admin_socket},
        "health_monitors": {monitor.name: monitor_in_file(monitor) for monitor in defined},
        "virtual_services": [service_in_file(service) for service in state.virtual_services],
        **(of_cluster or {}),
    }
