"""Run a function of a module in several real processes, through torchrun, and see what each process did.

    reports = launch("mmscratch.siglip:rank_share", worlds=(1, 2, 4), calls={"ring": {"kind": "ring", ...}})
    reports["ring", 4][0]  # of rank 0 of 4: result, bytes sent, bytes of memory

One torchrun starts as many processes as the largest world has; the first one, the first two ... form the
smaller worlds. The function is called with the group of its world as keyword `group`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist


class LaunchFailed(RuntimeError):
    """A process failed; the message holds what it said."""


@dataclass(frozen=True)
class Report:
    """What one rank did in one call: its result, the bytes it sent, the peak of its memory."""

    result: Any
    sent: int
    peak: int


def command(ranks: int, *arguments: str) -> list[str]:
    """The torchrun command line that runs this module in `ranks` processes on this machine."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    return [*torchrun, f"--nproc-per-node={ranks}", "-m", "mmscratch.kit.launch", *arguments]


def launch(
    target: str,
    *,
    worlds: Sequence[int],
    calls: Mapping[str, Mapping[str, Any]],
    backend: str | None = None,
    timeout: float = 300,
) -> dict[tuple[str, int], list[Report]]:
    """Call `target`, a "module:function", once for each of `calls` in each of `worlds`.

    calls: name -> keyword arguments (tensors, numbers, strings, and lists and dicts of them); results may be
    the same. backend: "nccl" where there is a GPU for each rank, else "gloo". Returns, for name and world, a
    report a rank. Raises ValueError for arguments that make no sense and LaunchFailed with what the failing
    process said, or after `timeout` seconds. No process outlives the call.
    """
    if not worlds or min(worlds) < 1:
        raise ValueError(f"expected worlds of at least one rank, got {worlds!r}")
    if ":" not in target or not calls:
        raise ValueError(f"expected a target 'module:function' and calls, got {target!r} and {calls!r}")
    ranks = max(worlds)
    backend = backend or ("nccl" if torch.cuda.device_count() >= ranks else "gloo")
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    settings = {
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": loopback,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with tempfile.TemporaryDirectory() as folder:
        task = {"target": target, "worlds": list(worlds), "calls": dict(calls), "backend": backend}
        torch.save(task, Path(folder, "task.pt"))
        try:
            code, stderr = _run(command(ranks, folder), {**os.environ, **settings}, timeout)
        except subprocess.TimeoutExpired:
            raise LaunchFailed(f"{target} on {ranks} ranks ran longer than {timeout:g} s") from None
        if code:
            told = sorted(Path(folder).glob("*.error"), key=lambda path: path.stat().st_mtime_ns)
            said = told[0].read_text(encoding="utf-8") if told else stderr[-2000:]
            raise LaunchFailed(f"{target} on {ranks} ranks failed:\n{said}")
        found = [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(ranks)]
    return {
        (name, world): [Report(*found[rank][name, world]) for rank in range(world)]
        for name in calls
        for world in worlds
    }


def _run(line: Sequence[str], env: Mapping[str, str], timeout: float) -> tuple[int, str]:
    """Exit code and stderr of torchrun. When it takes too long or is interrupted, its workers end too."""
    pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with subprocess.Popen(line, env=env, text=True, **pipes) as process:
        try:
            stderr = process.communicate(timeout=timeout)[1]
            return process.returncode, stderr
        except BaseException:
            process.terminate()  # torchrun hands it on; killed, it would leave its workers behind
            try:
                process.communicate(timeout=60)  # it gives them 30 s
            except subprocess.TimeoutExpired:
                process.kill()
            raise


@contextlib.contextmanager
def count_sent() -> Iterator[list[int]]:
    """Inside the block, the bytes that this process hands to others through `torch.distributed`, in [0].

    Sends count as they are. A gather or a reduce-scatter counts (W - 1) times the local part, which is what
    a ring of W processes sends at least; an all-reduce counts twice that for its W-th part. On the wire a
    backend may send more: gloo's reduce-scatter was seen to send twice the least, its gather exactly that.
    Anything else, such as a broadcast, a gather into a list or an `isend` outside a batch, counts as nothing.
    """
    sent = [0]

    def counted(function, of):
        def call(*args, **kwargs):
            sent[0] += of(*args, **kwargs)
            return function(*args, **kwargs)

        return call

    def others(group) -> int:
        return dist.get_world_size(group) - 1

    def size(tensor: torch.Tensor) -> int:
        return tensor.numel() * tensor.element_size()

    rules = {
        "batch_isend_irecv": lambda ops: sum(size(op.tensor) for op in ops if op.op is dist.isend),
        "all_gather_into_tensor": lambda out, x, group=None, **_: others(group) * size(x),
        "reduce_scatter_tensor": lambda out, x, op=None, group=None, **_: others(group) * size(out),
        "all_reduce": lambda x, op=None, group=None, **_: 2 * others(group) * size(x) // (others(group) + 1),
    }
    with contextlib.ExitStack() as stack:
        for name, rule in rules.items():
            stack.enter_context(mock.patch.object(dist, name, counted(getattr(dist, name), rule)))
        yield sent


def _work(folder: Path) -> None:
    """One rank: every call in every world that it belongs to."""
    from mmscratch.kit import memory

    task = torch.load(folder / "task.pt", weights_only=True)
    module, function = task["target"].split(":")
    run = getattr(importlib.import_module(module), function)
    if task["backend"] == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(task["backend"])
    rank, found = dist.get_rank(), {}
    for world in task["worlds"]:
        group = dist.new_group(list(range(world)))
        for name, arguments in task["calls"].items() if rank < world else ():
            if task["backend"] == "nccl":
                arguments = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
            dist.barrier(group)  # also makes the connections, which is not the function's doing
            with count_sent() as sent:
                result, most = memory.peak(lambda call=arguments, group=group: run(**call, group=group))
            found[name, world] = (result, sent[0], most)
    dist.barrier()
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def main(arguments: list[str]) -> None:
    folder = Path(arguments[0])
    try:
        _work(folder)
    except BaseException:
        said = traceback.format_exc()
        (folder / f"{os.environ['RANK']}.error").write_text(said, encoding="utf-8")
        raise


if __name__ == "__main__":
    main(sys.argv[1:])
