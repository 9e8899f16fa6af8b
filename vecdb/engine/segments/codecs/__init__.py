"""How is a row coded, so that a search reads a few cache lines of it?

basis        the directions in which rows differ most
sketch       4 bits for each of these directions: the order of a graph walk
trial        whether sketches are precise enough, and how many candidates to score again
sketch_part  the part of a segment that holds its sketches
byte_codes   8 bits for each component, with bounds that make scans of them exact
"""

from __future__ import annotations

__all__ = ["byte_codes", "sketch", "sketch_part", "trial"]
