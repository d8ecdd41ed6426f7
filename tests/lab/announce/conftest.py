"""The segment's fixture."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from announce.segment import Namespace, Segment


@pytest.fixture
def segment(sandboxed: None) -> Iterator[Segment]:
    """A segment for this test; the test itself runs in the announcer's namespace."""
    here, peer = Namespace(), Namespace()
    try:
        with here.entered():
            yield Segment(here, peer)
    finally:
        os.close(here.fd)
        os.close(peer.fd)
