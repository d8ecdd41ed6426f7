"""The journal of kernels before 5.18, on real files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lbd.announce.inventory import InterfaceAddress
from lbd.announce.journal import Journal

VIP = InterfaceAddress(2, "10.0.0.1", 32, created_cs=1234)


def test_what_was_noted_is_ours_for_the_next_process(tmp_path: Path) -> None:
    Journal(tmp_path).note(2, "10.0.0.1")
    assert Journal(tmp_path).owns(VIP)


def test_an_address_made_anew_by_hand_is_no_longer_ours(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.note(2, "10.0.0.1")
    journal.confirm([VIP])
    by_hand = InterfaceAddress(2, "10.0.0.1", 32, created_cs=99999)
    assert Journal(tmp_path).owns(VIP)
    assert not Journal(tmp_path).owns(by_hand)


def test_another_interface_or_prefix_length_is_not_ours(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.note(2, "10.0.0.1")
    assert not journal.owns(InterfaceAddress(3, "10.0.0.1", 32))
    assert not journal.owns(InterfaceAddress(2, "10.0.0.1", 24))


def test_after_a_reboot_nothing_is_ours(tmp_path: Path) -> None:
    Journal(tmp_path, boot_id="before").note(2, "10.0.0.1")
    assert not Journal(tmp_path, boot_id="after").owns(VIP)


def test_what_was_forgotten_leaves_no_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.note(2, "10.0.0.1")
    journal.forget(2, "10.0.0.1")
    journal.forget(2, "10.0.0.1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "nonsense", "\udcff", '{"version": 1, "boot_id": "b", "addresses": [{"index": "x"}]}']
)
def test_a_damaged_file_counts_as_empty_and_is_written_anew(tmp_path: Path, text: str) -> None:
    journal = Journal(tmp_path, boot_id="b")
    journal.path.write_bytes(text.encode(errors="surrogateescape"))
    assert not journal.owns(VIP)
    journal.note(2, "10.0.0.1")
    assert json.loads(journal.path.read_text())["addresses"] == [
        {"index": 2, "address": "10.0.0.1", "created_cs": None}
    ]


def test_a_journal_that_cannot_be_written_says_so_and_still_knows_until_the_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    journal = Journal(tmp_path / "file")
    with pytest.raises(OSError, match="file"):
        journal.note(2, "10.0.0.1")
    with pytest.raises(OSError, match="file"):
        journal.note(2, "10.0.0.1")
    assert journal.owns(VIP)
