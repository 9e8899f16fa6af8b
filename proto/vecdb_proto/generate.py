"""Generate the wire code from the contract: ``python -m vecdb_proto.generate [folder]``.

It needs the compiler of proto/generator.txt, which ``make proto`` installs into an environment of
its own. The generated code is committed, so that users need no compiler; a test generates it into a
temporary folder and compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["generate"]

GENERATED = ("vecdb_pb2.py", "vecdb_pb2.pyi", "vecdb_pb2_grpc.py")
_ROOT = Path(__file__).resolve().parent.parent


def generate(target: Path = _ROOT) -> None:
    """Write the generated files below ``target`` / vecdb_proto.

    Raises:
        RuntimeError: protoc refused the contract; it says why on stderr.
    """
    import grpc_tools
    from grpc_tools import protoc

    well_known = Path(grpc_tools.__file__).parent / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={_ROOT}",
            f"--proto_path={well_known}",
            f"--python_out={target}",
            f"--pyi_out={target}",
            f"--grpc_python_out={target}",
            "vecdb_proto/vecdb.proto",
        ]
    )
    if status != 0:
        raise RuntimeError(f"protoc ended with {status}")


if __name__ == "__main__":
    generate(*map(Path, sys.argv[1:]))
    sys.stdout.write("written: " + ", ".join(GENERATED) + "\n")
