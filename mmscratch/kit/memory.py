"""How much memory a computation takes at its worst, counted by the allocator itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def peak_bytes(function: Callable[[], Any]) -> int:
    """Most bytes that tensors held at one time while `function()` ran, beyond what was held before.

    Every allocation counts, those inside operators and in the backward pass too. On a machine with CUDA only
    the GPU's memory is counted, and only where the function used it.
    """
    return peak(function)[1]


def peak(function: Callable[[], Any]) -> tuple[Any, int]:
    """What `function()` returns, and its `peak_bytes`. The function runs once."""
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with _mute(), torch.profiler.profile(activities=cpu, profile_memory=True) as seen:
        result = function()
    if gpu:
        torch.cuda.synchronize()
        if most := torch.cuda.max_memory_allocated() - before:
            return result, most
    changes = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return result, most


@contextmanager
def _mute() -> Iterator[None]:
    """The profiler's C++ library talks on stderr, past Python; inside the block nobody hears it."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
