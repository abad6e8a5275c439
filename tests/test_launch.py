"""Several real processes, what they send and what memory they take."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mmscratch.kit import memory
from mmscratch.kit.launch import LaunchFailed, command, launch

TARGETS = """
import os
import pathlib
import time

import torch
import torch.distributed as dist

def exchange(x, times=1, group=None):
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    gathered = x.new_empty(world * len(x))
    for _ in range(times):
        dist.all_gather_into_tensor(gathered, x + rank, group=group)
    part = torch.empty_like(x)
    dist.reduce_scatter_tensor(part, gathered, group=group)
    dist.all_reduce(part, group=group)
    if world > 1:
        ops = [dist.P2POp(dist.isend, x, (rank + 1) % world, group=group)]
        ops.append(dist.P2POp(dist.irecv, part, (rank - 1) % world, group=group))
        for work in dist.batch_isend_irecv(ops):
            work.wait()
    return {"rank": rank, "world": world, "gathered": gathered}

def wait_for_ever(folder, group=None):
    (pathlib.Path(folder) / f"{os.getpid()}.pid").touch()
    if dist.get_rank(group) == 1:
        dist.recv(torch.empty(3), src=0, group=group)
    time.sleep(600)

def refuse(x, group=None):
    if dist.get_rank(group) == 1:
        raise ValueError(f"expected a polite number, got {x}")
    dist.barrier(group)
"""


@pytest.fixture
def targets(tmp_path, monkeypatch):
    """A module that only this test knows, where the processes find it too."""
    (tmp_path / "some_targets.py").write_text(TARGETS)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_every_world_is_called_with_its_group_and_reports_rank_by_rank(targets):
    x = torch.arange(6.0)
    found = launch(
        "some_targets:exchange", worlds=(1, 3), calls={"once": {"x": x}, "twice": {"x": x, "times": 2}}
    )
    assert {key: len(reports) for key, reports in found.items()} == {
        ("once", 1): 1, ("once", 3): 3, ("twice", 1): 1, ("twice", 3): 3,
    }  # fmt: skip
    for (name, world), reports in found.items():
        for rank, report in enumerate(reports):
            assert (report.result["rank"], report.result["world"]) == (rank, world)
            torch.testing.assert_close(report.result["gathered"], torch.cat([x + r for r in range(world)]))
            times = 2 if name == "twice" else 1
            send = 24 * (world > 1)
            assert report.sent == (world - 1) * 24 * (times + 1) + 2 * (world - 1) * 24 // world + send
            assert world * 24 <= report.peak < world * 24 + 200


def test_what_a_process_said_reaches_the_caller(targets):
    with pytest.raises(LaunchFailed, match="expected a polite number, got 3"):
        launch("some_targets:refuse", worlds=(2,), calls={"it": {"x": 3}})


def test_a_launch_that_takes_too_long_is_given_up(targets):
    with pytest.raises(LaunchFailed, match=r"wait_for_ever on 2 ranks ran longer than 0.5 s"):
        launch("some_targets:wait_for_ever", worlds=(2,), calls={"it": {"folder": os.devnull}}, timeout=0.5)


def test_workers_that_wait_for_each_other_end_with_the_launch(targets, tmp_path):
    program = (
        "import signal\n"
        "from mmscratch.kit.launch import launch\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        f"launch('some_targets:wait_for_ever', worlds=(2,), calls={{'it': {{'folder': {str(tmp_path)!r}}}}})"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    caller = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path})
    try:
        found: list[Path] = []
        while len(found) < 2 and caller.poll() is None:
            time.sleep(0.2)
            found = list(tmp_path.glob("*.pid"))
        assert len(found) == 2 and all(running(int(path.stem)) for path in found)
    finally:
        caller.send_signal(signal.SIGINT)  # the same way out as that of a timeout
        caller.wait(100)
    assert not any(running(int(path.stem)) for path in found)


def running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_nonsense_is_refused_before_anything_starts():
    with pytest.raises(ValueError, match=r"at least one rank, got \(\)"):
        launch("a:b", worlds=(), calls={"it": {}})
    with pytest.raises(ValueError, match="at least one rank"):
        launch("a:b", worlds=(2, 0), calls={"it": {}})
    with pytest.raises(ValueError, match="module:function"):
        launch("a.b", worlds=(1,), calls={"it": {}})
    with pytest.raises(ValueError, match="module:function"):
        launch("a:b", worlds=(1,), calls={})


def test_the_command_is_torchrun():
    line = command(2, "x")
    assert line[:3] == [sys.executable, "-m", "torch.distributed.run"] and "--nproc-per-node=2" in line


def test_the_peak_counts_what_lives_at_one_time_and_not_what_was_there_before():
    before = torch.zeros(1_000_000)

    def work():
        a = before[:250_000] + 1  # 1 MB
        b = a * 2  # 2 MB
        del a
        return b + 3  # still 2 MB

    result, most = memory.peak(work)
    assert result[0] == 5.0 and 2_000_000 <= most < 2_001_000
    assert memory.peak_bytes(work) == most


def test_the_peak_counts_the_backward_pass():
    x = torch.ones(250_000, requires_grad=True)
    forward = memory.peak_bytes(lambda: x.exp())
    both = memory.peak_bytes(lambda: x.exp().sum().backward())
    assert 1_000_000 <= forward < 1_001_000 and both >= 2_000_000


def test_measuring_says_nothing_on_stderr_and_hands_it_back():
    program = (
        "import torch, os\nfrom mmscratch.kit.memory import peak_bytes\n"
        "peak_bytes(lambda: torch.ones(9))\nos.write(2, b'still here')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert done.stderr == "still here"
