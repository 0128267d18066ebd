"""The project's own files."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_NOT_OURS = {".git", ".venv", "node_modules", "__pycache__", "build", "dist", "var"}


def own_files(*suffixes: str) -> list[Path]:
    """Files of the project as git sees them: tracked or about to be, generated stubs left out; all of them without suffixes.

    Outside a git clone (an unpacked source archive) the folder is walked instead.
    """
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
        paths = [ROOT / name for name in names if name]
    except (OSError, subprocess.CalledProcessError):
        paths = [path for path in ROOT.rglob("*") if not _NOT_OURS.intersection(path.relative_to(ROOT).parts)]
    return sorted(path for path in paths if path.is_file() and "_pb2" not in path.name and (not suffixes or path.suffix in suffixes))
