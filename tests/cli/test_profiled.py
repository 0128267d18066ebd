import pstats
import subprocess
import sys

from agent_node.cli.bench.profiled import profiled_here

PROGRAM = """
import sys, threading

def in_main(): pass
def in_thread(): pass

in_main()
thread = threading.Thread(target=in_thread)
thread.start()
thread.join()
sys.exit(int(sys.argv[1]))
"""


def functions(file):
    return {name for _, _, name in pstats.Stats(str(file)).stats}


def test_a_module_is_profiled_in_all_its_threads(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "agent_node.cli.bench.profiled", str(tmp_path / "out"), "program", "7"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 7, done.stderr
    assert {"in_main", "in_thread"} <= functions(tmp_path / "out")


def test_a_part_of_this_program_is_profiled(tmp_path):
    def a_part():
        pass

    with profiled_here(tmp_path / "out"):
        a_part()
    assert "a_part" in functions(tmp_path / "out")


def test_no_file_is_no_profile():
    with profiled_here(None):
        assert sys.getprofile() is None
