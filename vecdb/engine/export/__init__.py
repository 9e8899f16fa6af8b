"""Collections as files that other libraries open.

export           makes the bytes on their way
source           finds one graph of one seq
pin              holds that seq
healing          takes dead nodes out of a graph
merge            makes a graph for the occasion, in a process of its own
merge_process    starts that process and takes over what it made
ids              which numbers rows get
"""

from __future__ import annotations

__all__: list[str] = []
