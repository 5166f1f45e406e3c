"""Python's cycle collector, told what kind of program it is in."""

from __future__ import annotations

import gc


def calm_the_collector() -> None:
    """Have the cycle collector look at what changes, and seldom. For a program that has loaded what stays.

    A node, a scheduler and the API keep objects by the hundred thousand and make next to no cycles: a look
    at all of them is time taken from offers, and a pause in the middle of an answer.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
