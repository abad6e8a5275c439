"""One training loop for every lesson that does not teach the loop itself."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


def device() -> torch.device:
    """CUDA when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def preset(*, cpu: dict, gpu: dict) -> dict:
    """The settings for this machine: `cpu` (what CI runs), or `cpu` updated with `gpu` where CUDA is.

    The environment variable MMSCRATCH_PRESET=cpu or gpu overrides the choice.
    """
    wish = os.environ.get("MMSCRATCH_PRESET", "gpu" if torch.cuda.is_available() else "cpu")
    if wish not in ("cpu", "gpu"):
        raise ValueError(f"expected MMSCRATCH_PRESET to be cpu or gpu, got {wish!r}")
    return {**cpu, **gpu} if wish == "gpu" else dict(cpu)


def to_device(batch, where: torch.device):
    """Move every tensor in a (nested) tuple, list or dict."""
    if isinstance(batch, Tensor):
        return batch.to(where)
    if isinstance(batch, dict):
        return {key: to_device(value, where) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        moved = [to_device(value, where) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)  # a named tuple
    return batch


@dataclass
class History:
    """What a run left behind: the loss of every step, the metric wherever it was measured."""

    label: str
    losses: list[float] = field(default_factory=list)
    metric_steps: list[int] = field(default_factory=list)
    metrics: list[float] = field(default_factory=list)
    metric_name: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        tail = self.losses[-20:]
        line = f"{self.label}: {len(self.losses)} steps, loss {sum(tail) / max(len(tail), 1):.2f}"
        return line + (f", {self.metric_name} {self.metrics[-1]:.2f}" if self.metrics else "")


def cosine_with_warmup(steps: int, warmup: float) -> Callable[[int], float]:
    """Factor on the learning rate: a linear rise over the first `warmup` share, then half a cosine."""
    rise = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return factor


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Decay the weights of linear maps and convolutions; leave biases, norms and learned tokens alone."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, kinds)}
    params = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in params if id(p) in matrices], "weight_decay": weight_decay},
        {"params": [p for p in params if id(p) not in matrices], "weight_decay": 0.0},
    ]


def fit(
    model: nn.Module,
    batches: Iterable,
    loss: Callable[[nn.Module, object], Tensor],
    *,
    steps: int,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    warmup: float = 0.1,
    clip: float = 1.0,
    evaluate: Callable[[nn.Module], float] | None = None,
    every: int | None = None,
    metric: str = "accuracy",
    label: str = "training",
    where: torch.device | None = None,
) -> History:
    """Train with AdamW, warm-up and cosine decay; return the history.

    batches: iterable of at least `steps` batches; `loss(model, batch)` gives a scalar. `evaluate(model)` is
    called every `every` steps and at the end, with the model in eval mode and without gradients.
    The model trains on `where` (default: `device()`) and is handed back on the device it came from.
    Raises ValueError when the batches run out early or the loss stops being finite.
    """
    where = where or device()
    home = next(model.parameters()).device
    model.to(where).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay), lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine_with_warmup(steps, warmup))
    history, source, start = History(label, metric_name=metric), iter(batches), time.perf_counter()
    for step in _progress(steps, label):
        try:
            batch = to_device(next(source), where)
        except StopIteration:
            raise ValueError(f"expected {steps} batches, got {step}") from None
        value = loss(model, batch)
        history.losses.append(value.item())
        if not math.isfinite(history.losses[-1]):
            raise ValueError(f"loss became {history.losses[-1]} at step {step}; lower lr (now {lr})")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        schedule.step()
        last = step == steps - 1
        if evaluate is not None and (last or (every and (step + 1) % every == 0)):
            model.eval()
            with torch.no_grad():
                history.metrics.append(float(evaluate(model)))
            history.metric_steps.append(step + 1)
            model.train()
    model.to(home).eval()
    history.seconds = time.perf_counter() - start
    print(history)
    return history


def _progress(steps: int, label: str):
    """A bar that disappears when done; silent where outputs are stored (MMSCRATCH_PROGRESS=off)."""
    if os.environ.get("MMSCRATCH_PROGRESS") == "off":
        return range(steps)
    from tqdm import tqdm

    return tqdm(range(steps), desc=label, leave=False, file=sys.stderr, disable=False)


@torch.no_grad()
def predict(model: Callable[[Tensor], Tensor], inputs: Tensor, *, batch_size: int = 500) -> Tensor:
    """Outputs for many inputs, a batch at a time, in eval mode, on the CPU."""
    if isinstance(model, nn.Module):
        model.eval()
        where = next((p.device for p in model.parameters()), torch.device("cpu"))
    else:
        where = inputs.device
    return torch.cat([model(chunk.to(where)).cpu() for chunk in inputs.split(batch_size)])


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of rows whose largest logit is the label. logits (B, K), labels (B,)."""
    if logits.shape[:-1] != labels.shape:
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"expected logits (B, K) and labels (B,), got {shapes}")
    return (logits.argmax(dim=-1) == labels).float().mean().item()
