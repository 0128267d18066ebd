"""Builds the examples in other languages, once for all tests."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tree import ROOT

TYPESCRIPT = ROOT / "examples" / "typescript"
UNREACHABLE = re.compile(r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ERR_SOCKET_TIMEOUT|E403|E50\d")
INSTALL_S = 150


def npm(*arguments: str) -> subprocess.CompletedProcess[str]:
    # buf is where this interpreter is, unless there is another.
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}{os.pathsep}{Path(sys.executable).parent}"}
    return subprocess.run(
        ["npm", *arguments], cwd=TYPESCRIPT, capture_output=True, text=True, timeout=INSTALL_S, check=False, env=environment
    )


def install() -> None:
    """Installs what the lock file names, unless it is there. Skips the test where there is no way to."""
    lock, installed = TYPESCRIPT / "package-lock.json", TYPESCRIPT / "node_modules" / ".package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    try:
        done = npm("ci", "--prefer-offline", "--fetch-retries=1", "--fetch-timeout=20000")
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm ci took longer than {INSTALL_S} s: the npm registry can't be reached well enough")
    if done.returncode != 0 and (reason := UNREACHABLE.search(done.stderr)):
        pytest.skip(f"the npm registry can't be reached: {reason[0]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def example() -> Path:
    """The folder of the built programs."""
    for command in ("node", "npm"):
        if shutil.which(command) is None:
            pytest.skip(f"no {command} on PATH")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").split(".")[0]) < 20:
        pytest.skip(f"node is {version}, and the example needs 20 or later")
    install()
    built = npm("run", "build")
    assert built.returncode == 0, built.stdout + built.stderr
    return TYPESCRIPT / "dist"
