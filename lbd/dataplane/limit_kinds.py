"""The limits that the supervisor deals to workers in shares, by the names that messages call them."""

from __future__ import annotations

CONNECTIONS = "connections"
"""Connections of a virtual service; the slot is the service's."""
MEMBER = "member"
"""Connections to a member; the slot is the member's."""
RATE = "rate"
"""New connections of a virtual service, in millionths of a connection a second."""
THROUGHPUT = "throughput"
"""Bytes of a virtual service a second, both directions together."""
