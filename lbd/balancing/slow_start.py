"""Slow start: a member that came up gets its share little by little, so that cold caches are not flooded."""

from __future__ import annotations

SCALE = 100
"""What one unit of configured weight is in effective weights. All weights of a pool are scaled by it, so that even a
member of weight 1 has a hundred steps."""


def effective_weight(weight: int, up_for_s: float, slow_start_s: float) -> int:
    """Return the weight, scaled by `SCALE`, of a member that has been up for `up_for_s` seconds.

    It grows linearly over `slow_start_s` (0: no slow start) and is at least 1, for a member without any connection
    would never get warm; a member of weight 0 stays at 0.
    """
    if weight <= 0:
        return 0
    if up_for_s >= slow_start_s:
        return weight * SCALE
    return max(1, int(weight * SCALE * max(0.0, up_for_s) / slow_start_s))
