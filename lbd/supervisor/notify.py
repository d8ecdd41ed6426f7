"""Messages to the service manager (sd_notify(3)): READY, RELOADING, STOPPING, WATCHDOG."""

from __future__ import annotations

import os
import socket
import time

import structlog

log = structlog.get_logger(__name__)


class ServiceManager:
    """Speaks to whoever started us with NOTIFY_SOCKET; without one, says nothing."""

    def __init__(self, environment: dict[str, str] | os._Environ[str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        meant_for_us = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "0") if meant_for_us else "0"
        self.watchdog_s = int(microseconds) / 1e6 if microseconds.isdecimal() else 0.0
        """How often a sign of life is due; 0: never."""

    def ready(self, status: str) -> None:
        """Start-up or a reload has ended; `status` is a sentence for `systemctl status`."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """A reload begins. systemd 253 and newer want the time, older ones ignore it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """Shutdown begins."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    def alive(self) -> None:
        """The sign of life for the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            try:
                sock.sendto(message.encode(), address)
            except OSError as error:
                log.warning("service_manager_unreachable", socket=self._address, error=str(error))
