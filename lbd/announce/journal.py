"""Remembers which addresses are ours on kernels that can't (IFA_PROTO came with Linux 5.18).

One small file per network namespace. It is void after a reboot, when the kernel has forgotten the addresses too, so it
needs no fsync: what a killed process wrote is in the page cache. Not thread-safe: one thread uses it.

Where a method raises OSError, the file could not be written (or, once, read), and what was noted is known all the same
until the process ends.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from lbd.announce.inventory import InterfaceAddress

_VERSION = 1
_BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = pathlib.Path("/proc/thread-self/ns/net")
_Key = tuple[int, str]


class Journal:
    """The addresses that this network namespace has from us, in `directory`.

    An entry without a creation stamp was written just before the address was added; `confirm` gives it the stamp, after
    which an address that someone removed and made again by hand is no longer taken for ours.
    """

    def __init__(self, directory: pathlib.Path, boot_id: str | None = None) -> None:
        self._boot_id = boot_id
        self._directory = directory
        self._entries: dict[_Key, int | None] | None = None

    @property
    def path(self) -> pathlib.Path:
        """The file. Namespaces that share the directory have a file each."""
        return self._directory / f"addresses-{os.stat(_NAMESPACE).st_ino}.json"

    def owns(self, entry: InterfaceAddress) -> bool:
        """Tell whether an address on an interface is one that we added."""
        entries = self._load()
        key = (entry.index, entry.address)
        return entry.is_host and key in entries and entries[key] in (None, entry.created_cs)

    def note(self, index: int, address: str) -> None:
        """Write down an address that is about to be added.

        Raises:
            OSError: it can't be written.
        """
        self._load()[index, address] = None
        self._save()

    def forget(self, index: int, address: str) -> None:
        """Strike out an address that is gone, or that the kernel's tag marks well enough.

        Raises:
            OSError: it can't be written.
        """
        entries = self._load()
        if (index, address) in entries:
            del entries[index, address]
            self._save()

    def confirm(self, addresses: Iterable[InterfaceAddress]) -> None:
        """Give the entries written ahead the creation stamps that the kernel shows.

        Raises:
            OSError: it can't be written.
        """
        entries = self._load()
        stamped = {
            (entry.index, entry.address): entry.created_cs
            for entry in addresses
            if entry.is_host and entries.get((entry.index, entry.address), 0) is None
        }
        if stamped:
            entries.update(stamped)
            self._save()

    def _boot(self) -> str:
        if self._boot_id is None:
            self._boot_id = _BOOT_ID.read_text().strip()
        return self._boot_id

    def _load(self) -> dict[_Key, int | None]:
        """Read the file once; one of another boot, or that is not ours to understand, counts as empty."""
        if self._entries is None:
            self._entries = {}
            try:
                self._entries = self._decode(self.path.read_bytes())
            except FileNotFoundError:
                pass  # the first start of this boot
        return self._entries

    def _decode(self, text: bytes) -> dict[_Key, int | None]:
        try:
            document: Any = json.loads(text)
            if document["version"] != _VERSION or document["boot_id"] != self._boot():
                return {}
            return {
                (int(row["index"]), str(row["address"])): None if row["created_cs"] is None else int(row["created_cs"])
                for row in document["addresses"]
            }
        except (ValueError, KeyError, TypeError):
            return {}

    def _save(self) -> None:
        if not self._entries:
            self.path.unlink(missing_ok=True)
            return
        rows = [
            {"index": index, "address": address, "created_cs": created_cs}
            for (index, address), created_cs in self._entries.items()
        ]
        document = {"version": _VERSION, "boot_id": self._boot(), "addresses": rows}
        self._directory.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_suffix(".tmp")
        scratch.write_text(json.dumps(document))
        scratch.replace(self.path)
