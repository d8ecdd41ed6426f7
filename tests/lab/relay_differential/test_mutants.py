"""The comparison has teeth: a relay with one of its precautions taken out is found out.

Each mutant is a copy of the sources with one change, run in the interpreted form. A change whose place is no longer
found fails the test: then the relay was rewritten there, and the mutant has to follow.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lbd.cli.demo.namespace import Namespace, ip_batch

from .lanes import Lanes, answer_every_stray_reset
from .relays import SOURCES, WorkerRelay, loopback_places
from .script import CLIENT, SERVER, Do, Kind, Script, Step
from .test_relay_differential import LANES, converse

RELAY = tuple(f"lbd/dataplane/hot/{name}.py" for name in ("pair", "stream_socket", "connection", "splicing"))
BATCHES = 6
"""The first that fails is the last: a mutant that is found out early costs little."""
HANG_LIMIT_S = 2.0
SMALL_TALK = Script(
    Kind.SERVER_CLOSE,
    (
        Step(CLIENT, Do.SEND, 1),
        Step(SERVER, Do.AWAIT_BYTES, 1),
        Step(SERVER, Do.SEND, 1),
        Step(CLIENT, Do.AWAIT_BYTES, 1),
        Step(SERVER, Do.CLOSE),
        Step(CLIENT, Do.AWAIT_EOF),
    ),
)
"""A request and an answer: every mutant gets these bytes across, else it tells nothing."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A change of the source: `old`, which stands there exactly once, becomes `new`."""

    name: str
    old: str
    new: str

    def make(self, folder: Path) -> None:
        """Copy the sources into `folder` with the change."""
        shutil.copytree(SOURCES / "lbd", folder / "lbd", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        sources = {folder / name: (folder / name).read_text() for name in RELAY}
        places = [file for file, source in sources.items() for _ in range(source.count(self.old))]
        assert len(places) == 1, f"{self.old!r} stands {len(places)} times in {RELAY}"
        places[0].write_text(sources[places[0]].replace(self.old, self.new))


MUTANTS = [
    Mutant(
        "no_rdhup_check",  # the FIN that came with the last bytes is never read
        "if received < size and not self.fin_seen and not self.broken:",
        "if received < size and not self.broken:",
    ),
    Mutant(
        "no_check_for_an_error_behind_the_last_bytes",  # a reset that came with them passes for a FIN
        "self.ends_cleanly = events & (EPOLLRDHUP | EPOLLPRI | EPOLLERR) == EPOLLRDHUP",
        "self.ends_cleanly = True",
    ),
    Mutant(
        "no_pending_buffer",  # what a full peer did not take is lost
        "                peer.hold(VIEW[sent:received])\n",
        "",
    ),
    Mutant(
        "leftovers_stay_in_the_pipe",  # the next bulk begins with them
        "        if left:\n            taken",
        "        if False:\n            taken",
    ),
    Mutant(
        "no_pending_buffer_behind_the_pipe",
        "            peer.hold(VIEW[more:left])\n            return -1\n",
        "            return -1\n",
    ),
    Mutant(
        "dry_side_passes_for_one_at_its_end",
        "        except BlockingIOError:\n            self.readable = False\n            return -1\n",
        "        except BlockingIOError:\n            self.on_eof()\n            return -1\n",
    ),
    Mutant(
        "reset_told_to_a_splice_passes_for_fin",  # it eats the error, and the read that follows sees an end
        "        except OSError:\n            self.failed()\n            return -1\n        if received == 0",
        "        except OSError:\n            return 0\n        if received == 0",
    ),
    Mutant(
        "reader_not_resumed_after_a_full_pipe",
        "            peer.hold(VIEW[more:left])\n            return -1\n",
        "            peer.hold(VIEW[more:left])\n            self.readable = False\n            return -1\n",
    ),
    Mutant(
        "reset_becomes_fin",
        "        if reset:\n            client.sock.setsockopt(1, 13, LINGER_RESET)\n",
        "",
    ),
    Mutant(
        "reset_overtakes_bytes",  # SO_LINGER(1, 0) throws away what the slow side has not acknowledged
        "        if unacknowledged_bytes(survivor.descriptor):\n            return False\n",
        "",
    ),
    Mutant(
        "eaten_error_passes_for_fin",
        "        if self.broken:\n            self.pair.drained(self)\n            return\n        self.read_eof",
        "        self.read_eof",
    ),
    Mutant(
        "half_close_closes_both",
        "        if peer.read_eof:\n"
        "            if not finished.full:\n"
        "                self.close(False)\n"
        "            return\n",
        "        self.close(False)\n        return\n",
    ),
    Mutant(
        "reader_not_resumed_after_flush",
        "        elif peer.readable:\n            peer.pump()\n",
        "",
    ),
    Mutant(
        "reset_of_half_closed_idle_connection_unseen",
        "            if events & EPOLLERR and (self.read_eof or pair.state != RELAYING):\n"
        "                self.failed()  # no read will ever tell\n            elif",
        "            if",
    ),
]


@pytest.fixture
def loopback(sandboxed: None, worker_id: str) -> Iterator[Namespace]:
    """A namespace whose loopback has the MTU of an Ethernet: with 64 KiB segments a small receive buffer crawls."""
    namespace = Namespace(f"{worker_id}-loopback")
    ip_batch(["ip", "-batch", "-"], [f"netns add {namespace.name}"])
    namespace.ip("link set lo up mtu 1500")
    answer_every_stray_reset(namespace)
    yield namespace
    namespace.close()
    ip_batch(["ip", "-batch", "-"], [f"netns del {namespace.name}"])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_relay_without_a_precaution_is_found_out(loopback: Namespace, tmp_path: Path, mutant: Mutant) -> None:
    """A few batches are enough to see that something is missing."""
    mutant.make(tmp_path)
    with (
        Lanes(LANES, loopback_places(loopback)) as lanes,
        WorkerRelay(loopback, lanes, "interpreted", tmp_path) as relay,
    ):
        talked = lanes.lanes[0].judge(SMALL_TALK, HANG_LIMIT_S).relayed
        assert (talked.client.received_bytes, talked.server.received_bytes) == (1, 1), "it does not even relay a byte"
        verdicts = converse(lanes, BATCHES, HANG_LIMIT_S, same_every_time=True)
        failed = [verdict for verdict in verdicts if verdict.relay_faults]
        assert failed or relay.leftovers(), f"{len(verdicts)} scripts saw nothing wrong"


UNCHANGED = Mutant("unchanged", "RESET_DEADLINE_MS: Final", "RESET_DEADLINE_MS: Final")
WITHOUT_SPLICE = Mutant("without_splice", 'getattr(os, "splice", None)', "None")
WITH_A_SMALL_PIPE = Mutant("with_a_small_pipe", "PIPE_BYTES: Final = 1 << 20", "PIPE_BYTES: Final = 65536")
ALWAYS_SPLICED = Mutant("always_spliced", "\nBULK_BYTES: Final = 65536", "\nBULK_BYTES: Final = 1")
"""And so seldom for long: what is small ends it again."""


@pytest.mark.parametrize(
    "copy", [UNCHANGED, WITHOUT_SPLICE, WITH_A_SMALL_PIPE, ALWAYS_SPLICED], ids=lambda one: one.name
)
def test_harmless_copy_passes(loopback: Namespace, tmp_path: Path, copy: Mutant) -> None:
    """What the mutants are compared with: the same copy without a change, the same scripts; and what other kernels and
    loads make of it."""
    copy.make(tmp_path)
    with (
        Lanes(LANES, loopback_places(loopback)) as lanes,
        WorkerRelay(loopback, lanes, "interpreted", tmp_path) as relay,
    ):
        verdicts = converse(lanes, BATCHES, same_every_time=True)
        assert not [str(verdict) for verdict in verdicts if verdict.relay_faults]
        assert not relay.leftovers()
