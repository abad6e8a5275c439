"""What pytest says about notebooks, which the conftest at the root arranges."""

import os
import shutil
import subprocess
import sys
import time

from notebook_tree import code

from mmscratch.kit import project


def run_pytest(tree, *options):
    shutil.copy(project.require_root() / "conftest.py", tree.path)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, "notebooks"]
    done = subprocess.run(
        command, cwd=tree.path, capture_output=True, text=True, env={**os.environ, "COLUMNS": "60"}
    )
    return done.returncode, done.stdout


def test_a_failing_cell_names_notebook_cell_and_assertion_in_one_line(tree):
    tree.notebook(
        "04_vit",
        [
            code("accuracy = 0.31"),
            code("assert accuracy >= 0.9, f'accuracy {accuracy} is less than the 0.9 of five seeds'"),
            code("accuracy", "raises-exception"),
            code("1 / 0", "raises-exception"),
        ],
    )
    status, output = run_pytest(tree)
    assert status == 1 and "2 failed, 3 passed" in output.splitlines()[-1], output
    reason = "AssertionError: accuracy 0.31 is less than the 0.9 of five seeds"
    assert f"notebooks/04_vit.ipynb::Cell 3 {reason}" in output.splitlines()
    assert "::Cell 4 tagged raises-exception, but nothing was raised" in output
    assert "\x1b[" not in output


def test_notebooks_spread_over_workers_whole_and_end_in_one_line(tree):
    quiet = "import os\nassert os.environ['MMSCRATCH_PROGRESS'] == 'off'\nx = 1"
    for name in ("04_vit", "05_dino"):
        tree.notebook(name, [code(quiet), code("x += 1"), code("assert x == 2")])
    status, output = run_pytest(tree, "-n", "2")
    assert status == 0 and "8 passed in" in output.splitlines()[-1], output


FALTERING = """
import nbval.kernel
start, calls = nbval.kernel.start_new_kernel, []

def falter(*args, **options):
    calls.append(args)
    if len(calls) == 1:
        raise RuntimeError("Kernel died before replying to kernel_info")
    return start(*args, **options)

nbval.kernel.start_new_kernel = falter
"""


def test_a_kernel_that_dies_at_its_start_is_started_once_more(tree):
    (tree.path / "faltering.py").write_text(FALTERING, encoding="utf-8")
    tree.notebook("04_vit", [code("x = 1"), code("assert x == 1")])
    status, output = run_pytest(tree, "-p", "faltering")
    assert status == 0 and "3 passed in" in output.splitlines()[-1], output


def test_a_kernel_killed_in_mid_cell_is_a_failure_and_no_wait(tree):
    fatal = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    tree.notebook("04_vit", [code("x = 1"), code(fatal), code("x")])
    start = time.monotonic()
    status, output = run_pytest(tree)
    assert time.monotonic() - start < 60  # a cell that is only slow has ten minutes
    assert status == 1 and "2 failed, 2 passed" in output.splitlines()[-1], output
    assert "notebooks/04_vit.ipynb::Cell 3 this cell ended the kernel (out of memory?)" in output.splitlines()
