"""What does the server show of itself to monitoring?

registry       the metrics of a server, in the text format of Prometheus
collections    the metrics of its open collections
endpoint       an HTTP port with /metrics, /healthz and /readyz
"""

from __future__ import annotations

__all__ = ["endpoint", "registry"]
