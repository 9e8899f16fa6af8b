"""The program ``vecdb``: says in a line what to install if the server's parts are missing.

Errors of vecdb become one line on stderr and status 1, wrong usage status 2, Ctrl-C 130, never a
traceback.
"""

from __future__ import annotations

import importlib.util
import sys

__all__ = ["main"]

_NEEDED = ("typer", "rich", "lmdb", "hnswlib", "numba", "grpc_health")
_INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def main() -> int:
    """Run the command line; its exit status."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(
            "the command vecdb needs more than the bare client: "
            f"pip install 'vecdb-grpc[server]' (missing: {', '.join(missing)})\n"
        )
        return 2
    try:
        from vecdb_cli.command_line import run

        return run()
    except KeyboardInterrupt:  # While it was being imported; commands see to it themselves.
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
