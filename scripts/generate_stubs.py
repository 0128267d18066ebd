"""Generates the Python stubs beside the protos; with --check, says whether the checked-in ones are up to date."""

import filecmp
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"


def generate(out: Path) -> None:
    """Writes the stubs of every proto under `out`, in the package's layout. Raises SystemExit when protoc fails."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    well_known = Path(protoc.__file__).parent / "_proto"
    flags = [f"--{kind}_out={out}" for kind in ("python", "grpc_python")] + [f"--{kind}_out=quiet:{out}" for kind in ("mypy", "mypy_grpc")]
    if protoc.main(["protoc", f"-I{PROTOS}", f"-I{well_known}", *flags, *sources]) != 0:
        raise SystemExit("protoc failed: see above")


def main() -> None:
    """Command line: no argument writes, --check compares and exits 1 on a difference."""
    if "--check" not in sys.argv[1:]:
        generate(PROTOS)
        return
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = {path.relative_to(scratch) for path in Path(scratch).rglob("*.py*")}
        kept = {path.relative_to(PROTOS) for path in PROTOS.rglob("*_pb2*.py*") if "__pycache__" not in path.parts}
        stale = sorted(
            str(path)
            for path in fresh | kept
            if path not in fresh or path not in kept or not filecmp.cmp(Path(scratch) / path, PROTOS / path, shallow=False)
        )
    if stale:
        raise SystemExit(f"stubs are out of date, run scripts/generate_stubs.py: {', '.join(stale)}")


if __name__ == "__main__":
    main()
