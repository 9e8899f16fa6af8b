"""What is a segment, and how does it live?

segment          arrays on disk that all processes map
lifecycle        claim, publish, retire, garbage-collect
flushing         rows of the store become a flat segment
flush_failures   when a failed flush is tried again
verifying        compares mapped segments with their checksums
"""

from __future__ import annotations

__all__ = ["flush_failures", "flushing", "lifecycle", "segment", "verifying"]
