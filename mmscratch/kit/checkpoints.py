"""Weights that a lesson needs and cannot train in a minute: loaded from data/, or trained anew.

A lesson calls `load_or_train(name, model, recipe, metrics)`. It loads `data/checkpoints/<name>.safetensors`;
under `python -m mmscratch.kit.checkpoints` (`make checkpoints`) the same cell runs the recipe and stores
the result, with its metrics in the manifest. So the recipe stands in the notebook, where readers see it.
A later lesson that stands on those weights calls `load(name, model)`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

import torch
from torch import nn

LIMIT = 4_000_000  # bytes
_SWITCH = "MMSCRATCH_CHECKPOINTS"


def load_or_train(
    name: str,
    model: nn.Module,
    recipe: Callable[[nn.Module], object],
    metrics: Callable[[nn.Module], dict[str, float]],
) -> nn.Module:
    """`model` with the stored weights, in eval mode; `make checkpoints` trains and stores them first."""
    if os.environ.get(_SWITCH) == "train":
        recipe(model)
        save(name, model, metrics)
    return _filled(name, model)


def load(name: str, model: nn.Module) -> nn.Module:
    """`model` with the stored weights of an earlier lesson, in eval mode and frozen."""
    return _filled(name, model).requires_grad_(False)


def _filled(name: str, model: nn.Module) -> nn.Module:
    from mmscratch.kit import data

    tensors, _ = data.checkpoint(name)
    model.load_state_dict(tensors)  # converts to the model's precision, refuses any other set of names
    return model.eval()


def save(name: str, model: nn.Module, metrics: Callable[[nn.Module], dict[str, float]]) -> None:
    """Store half-precision weights, measure the stored model, and register it with what was measured.

    Raises ValueError when the file would pass 4 MB.
    """
    from safetensors.torch import save as serialise

    from mmscratch.kit import make_data, project

    tensors = {
        key: value.detach().cpu().contiguous().half() if value.is_floating_point() else value.cpu()
        for key, value in model.state_dict().items()
    }
    raw = serialise(tensors, metadata={"name": name})
    if len(raw) > LIMIT:
        raise ValueError(f"checkpoint {name} has {len(raw):,} bytes, allowed {LIMIT:,}")
    model.load_state_dict(tensors)  # rounded as stored
    model.eval()
    with torch.no_grad():
        figures = {key: round(float(value), 4) for key, value in metrics(model).items()}
    target = project.require_root() / "data" / "checkpoints" / f"{name}.safetensors"
    project.write_bytes(target, raw)
    make_data.register(
        target,
        licence="CC-BY-4.0",
        origin="trained by this book",
        rebuild="make checkpoints",
        **figures,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Retrain what ships in data/checkpoints.")
    parser.add_argument("lessons", nargs="*", help="numbers such as 04 (default: all that have a checkpoint)")
    options = parser.parse_args()
    from mmscratch.kit import lesson, project

    for path in project.notebooks():
        if options.lessons and path.name[:2] not in options.lessons:
            continue
        if "load_or_train(" in path.read_text(encoding="utf-8"):
            print(f"training the checkpoints of {path.name} ...", flush=True)
            lesson.execute(path, env={_SWITCH: "train"}, threads=os.cpu_count() or 1, timeout=3600)


if __name__ == "__main__":
    main()
