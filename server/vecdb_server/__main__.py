"""``python -m vecdb_server``: the same program as ``vecdb``."""

from __future__ import annotations

import sys


def _main() -> int:
    from vecdb_cli.__main__ import main

    return main()


if __name__ == "__main__":
    sys.exit(_main())
