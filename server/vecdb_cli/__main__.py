"""The program ``vecdb``: reports missing dependencies in one line, then runs the command line.

Exit status: 1 for errors of vecdb, which are one line on stderr; 2 for wrong usage; 130 after
Ctrl-C. None of them prints a traceback.
"""

from __future__ import annotations

import importlib.util
import sys

__all__ = ["main"]

_NEEDED = ("typer", "rich", "lmdb", "hnswlib", "numba", "grpc_health")
_INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells."""


def main() -> int:
    """Run the command line and return its exit status."""
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
    except KeyboardInterrupt:  # During the imports; the commands handle it themselves.
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
