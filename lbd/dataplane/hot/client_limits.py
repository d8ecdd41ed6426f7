"""How many connections each client has, and how fast they come.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations


class ClientLimits:
    """The clients of one lane."""

    __slots__ = ()
