"""Which generation of the desired state each revision in the data path stands for. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

KEPT: Final = 8192
"""Revisions that are remembered: a worker that hangs is killed after 10 s, and there are hundreds a second at most."""


class Revisions:
    """Revisions grow by one with each change that the workers are told of, generations with each desired state: of many
    states that come one behind the other only the last may ever be carried out."""

    def __init__(self) -> None:
        self.newest = 0
        """The last revision that was sent; 0 before the first."""
        self._generations: deque[int] = deque(maxlen=KEPT)

    @property
    def next(self) -> int:
        """The revision that is being made."""
        return self.newest + 1

    def finish(self, generation: int) -> int:
        """The next revision is complete, and stands for `generation`; return it."""
        self.newest += 1
        self._generations.append(generation)
        return self.newest

    def generation_of(self, revision: int) -> int:
        """Return the generation that is in force with a revision; 0 before the first, and for one of long ago."""
        back = self.newest - revision
        if back < 0:
            return self._generations[-1] if self._generations else 0
        return self._generations[-1 - back] if back < len(self._generations) else 0
