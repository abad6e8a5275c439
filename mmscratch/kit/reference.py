"""Hold our modules against the libraries they re-implement: the same weights, then the same numbers.

`compare` runs both sides on the same input and looks at outputs, at gradients of inputs and parameters and,
when asked, at the time. A `Case` is a comparison that tests and benchmarks can run later; `pretrained`
fetches real weights where the hub can be reached. Heavy libraries are imported only by the functions that
need them.
"""

from __future__ import annotations

import functools
import hashlib
import html
import importlib
import importlib.util
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mmscratch.kit.hub import pretrained

BOUND = 1e-5
__all__ = [
    "Case",
    "Comparison",
    "Difference",
    "Table",
    "Timing",
    "at_least",
    "at_most",
    "cases",
    "compare",
    "matmul_rate",
    "mutants",
    "operations",
    "pretrained",
    "randomise",
    "require",
    "table",
    "time_pairs",
]

INSTALL = dict.fromkeys(
    ("diffusers", "faiss", "huggingface_hub", "jiwer", "lancedb", "open_clip", "scipy", "transformers"),
    "mmscratch[reference]",
) | {"jiwer": "mmscratch[ocr]", "pytesseract": "mmscratch[ocr]"}


def require(library: str) -> ModuleType:
    """Import and return a reference library; ImportError with the installing command when it is missing."""
    if importlib.util.find_spec(library) is None:
        wanted = INSTALL.get(library, library)
        raise ImportError(f'{library} is not installed: pip install "{wanted}"')
    with warnings.catch_warnings():  # these libraries ask tqdm for a widget that a plain kernel does not have
        warnings.filterwarnings("ignore", message="IProgress not found")
        if importlib.util.find_spec("tqdm") is not None:
            importlib.import_module("tqdm.auto")
        return importlib.import_module(library)


# ---------------------------------------------------------------------------------------------------------
# Weights


def randomise(model: nn.Module, seed: int = 0, *, keep: Sequence[str] = ()) -> nn.Module:
    """Overwrite every parameter and stored floating buffer of `model` in place; returns the model.

    Default initialisation leaves heads, gates, tokens and codebooks at zero, and a comparison on zeros
    passes with unmapped weights. Each tensor is drawn from a generator seeded with its own name, so the
    order in which modules were built does not matter. Weights have variance 1 / fan-in, norms and scales
    lie in 0.5..1.5, biases, tokens and positions have magnitude 0.1..0.5, variances are positive. Buffers
    that are not stored in the state dict are tables the class computes itself and stay. `keep` names (parts
    of) tensors to leave alone.
    """
    seen: set[int] = set()
    with torch.no_grad():
        for prefix, module in model.named_modules():
            stored = {k: b for k, b in module._buffers.items() if k not in module._non_persistent_buffers_set}
            for name, tensor in (module._parameters | stored).items():
                key = f"{prefix}.{name}" if prefix else name
                if tensor is None or id(tensor) in seen or any(part in key for part in keep):
                    continue
                seen.add(id(tensor))
                if tensor.is_floating_point():
                    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
                    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
                    tensor.copy_(_draw(module, name, tensor.shape, name in stored, generator))
            if hasattr(module, "embed_sum") and hasattr(module, "_embed"):
                module._embed = None  # Mimi's cache of its codebook, stale now
    return model


def _draw(
    module: nn.Module, name: str, shape: torch.Size, buffer: bool, generator: torch.Generator
) -> Tensor:
    uniform = torch.rand(shape, generator=generator)
    positive = 0.5 + uniform
    signed = (0.1 + 0.4 * uniform) * (torch.randint(0, 2, shape, generator=generator) * 2 - 1)
    additive = any(part in name for part in ("bias", "token", "embed", "pos", "quer", "beta", "mean"))
    if buffer and any(part in name for part in ("var", "usage", "cluster_size", "inited")):
        return positive
    if len(shape) <= 1 or name == "original0":  # original0: the magnitudes of a weight-normalised layer
        return signed if additive else positive
    if buffer:
        return torch.randn(shape, generator=generator)  # a codebook
    if isinstance(module, nn.Embedding) or (additive and name != "weight"):
        return signed
    ours = isinstance(module, (nn.Linear, nn.MultiheadAttention)) or len(shape) > 2
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd) or not ours
    fan_in = shape[0] if transposed else math.prod(shape[1:])
    return torch.randn(shape, generator=generator) / math.sqrt(fan_in)


@contextmanager
def _replaced(model: nn.Module, values: Mapping[str, Tensor]):
    """Inside the block the parameters of `model` hold `values`, or zero; afterwards what they held before."""
    before = {name: parameter.data for name, parameter in model.named_parameters()}
    try:
        for name, parameter in model.named_parameters():
            parameter.data = values[name] if name in values else torch.zeros_like(parameter)
        yield model
    finally:
        for name, parameter in model.named_parameters():
            parameter.data = before[name]


def _fingerprint(tensors: Iterable[Tensor]) -> tuple[int, int, int]:
    """Count and two sums over the bit patterns modulo 2**64: the same for the same numbers in any order."""
    count = total = squares = 0
    for tensor in tensors:
        bits = tensor.detach().float().contiguous().view(torch.int32).long()
        count += bits.numel()
        total += int(bits.sum())
        squares += int((bits * bits).sum())
    return count, total % 2**64, squares % 2**64


def _pin(model: Any, attention: str | None) -> None:
    """Fix the attention implementation of a transformers model: in 5.x it can change the mathematics."""
    if attention is None:
        return
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation(attention)
    elif hasattr(getattr(model, "config", None), "_attn_implementation"):
        model.config._attn_implementation = attention


# ---------------------------------------------------------------------------------------------------------
# Display


class Table:
    """A small table that reads the same in a terminal, a notebook and on a phone. Cells are strings."""

    def __init__(self, columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str = ""):
        self.columns, self.rows, self.caption = tuple(columns), [tuple(row) for row in rows], caption

    def __repr__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([*text, self.caption] if self.caption else text)

    def _repr_html_(self) -> str:
        def cells(tag, row):
            return "".join(f"<{tag}>{html.escape(cell)}</{tag.split()[0]}>" for cell in row)

        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        head = cells('th scope="col"', self.columns)
        body = "".join(
            "<tr>" + cells('th scope="row"', row[:1]) + cells("td", row[1:]) + "</tr>" for row in self.rows
        )
        return f'<table class="mm-table">{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def at_most(value: float) -> str:
    """A difference as a power of ten that bounds it from above, so that a stored page does not jitter."""
    if value == 0:
        return "0"
    return f"≤ 1e{math.ceil(math.log10(value))}" if math.isfinite(value) else "∞"


def at_least(value: float) -> str:
    """A difference as a power of ten that bounds it from below."""
    if value == 0:
        return "0"
    return f"≥ 1e{math.floor(math.log10(value))}" if math.isfinite(value) else "∞"


# ---------------------------------------------------------------------------------------------------------
# Comparison


@dataclass(frozen=True)
class Difference:
    """Largest absolute difference, and largest relative to the biggest number of the same tensor."""

    absolute: float
    relative: float


@dataclass(frozen=True)
class Timing:
    """Median milliseconds of both sides, the median of the pairwise ratios ours / reference, the quartiles
    of those ratios, and the floating-point operations of one run of ours, as far as `operations` sees them.
    """

    ours: float
    reference: float
    ratio: float
    spread: tuple[float, float] | None = None
    operations: int = 0

    def fraction(self, rate: float) -> float | None:
        """The part of `rate`, in operations per second, that ours reached; None where none were seen."""
        return self.operations / (self.ours / 1e3 * rate) if self.operations else None


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. `check()` turns it into an assertion; displayed, it is a small table.

    compared: "outputs" (or "loss" for a single number, "tokens" for whole ones) and the gradients taken.
    seen, unseen: the reference's parameters that the outputs depend on, and those that they do not: their
    gradients are zero up to rounding. A third of a joint projection counts by itself, `in_proj_bias[2/3]`.
    matmul_rate: where times were taken, the operations per second of a large matrix product beside them.
    """

    name: str
    bound: float
    parameters: int
    reference_parameters: int
    same_parameters: bool | None
    output: Difference
    input_gradient: Difference | None
    parameter_gradient: Difference | None
    vacuous: tuple[str, ...] = ()
    wrong: Mapping[str, float] = field(default_factory=dict)
    forward: Timing | None = None
    backward: Timing | None = None
    matmul_rate: float | None = None
    threads: int = 1
    compared: tuple[str, ...] = ("outputs",)
    seen: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()

    @property
    def gradient(self) -> float | None:
        """The larger of the two gradient differences; None where nothing was differentiable."""
        found = [d.absolute for d in (self.input_gradient, self.parameter_gradient) if d is not None]
        return max(found) if found else None

    def check(self) -> Comparison:
        """Return self, or raise AssertionError naming everything that is out of bounds."""
        problems = [f"{what} are all zero: nothing was compared" for what in self.vacuous]
        for what, difference in (
            ("outputs", self.output),
            ("gradients of inputs", self.input_gradient),
            ("gradients of parameters", self.parameter_gradient),
        ):
            if difference is not None and not difference.absolute <= self.bound:
                problems.append(f"{what} differ by {difference.absolute:.1e}, allowed {self.bound:.0e}")
        if self.same_parameters is False:
            problems.append(
                f"the {self.parameters:,} numbers in our module are not those of the reference "
                f"({self.reference_parameters:,} that shape its output): a tensor was left out or altered"
            )
        for variant, difference in self.wrong.items():
            if not difference > self.bound:
                problems.append(f"the wrong variant '{variant}' passes: it differs by only {difference:.1e}")
        if problems:
            raise AssertionError(f"{self.name}: " + "; ".join(problems))
        return self

    def _table(self) -> Table:
        count = f"{self.parameters:,}"
        if self.parameters != self.reference_parameters:
            count += f" of {self.reference_parameters:,}"
        rows = [("parameters", count), ("outputs differ by", at_most(self.output.absolute))]
        if self.input_gradient is not None:
            rows.append(("gradients of inputs", at_most(self.input_gradient.absolute)))
        if self.parameter_gradient is not None:
            rows.append(("gradients of parameters", at_most(self.parameter_gradient.absolute)))
        rows += [(f"wrong on purpose: {variant}", at_least(value)) for variant, value in self.wrong.items()]
        return Table(("compared with", self.name), rows)

    def __repr__(self) -> str:
        return repr(self._table())

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()


def table(*comparisons: Comparison) -> Table:
    """Several comparisons in one table, a row each."""
    rows = []
    for c in comparisons:
        wrong = at_least(min(c.wrong.values())) if c.wrong else "–"
        gradient = "–" if c.gradient is None else at_most(c.gradient)
        rows.append((c.name, f"{c.parameters:,}", at_most(c.output.absolute), gradient, wrong))
    return Table(("compared with", "parameters", "outputs", "gradients", "wrong on purpose"), rows)


def compare(
    name: str,
    ours: Callable[[Any], Any],
    reference: Any,
    inputs: Tensor | tuple | dict,
    *,
    output: str | Callable[[Any], Any] | None = None,
    call_ours: str | Callable[..., Any] | None = None,
    call_reference: str | Callable[..., Any] | None = None,
    wrong: Mapping[str, Callable[[Any], Any]] | None = None,
    bound: float = BOUND,
    timing: int = 0,
    seed: int = 0,
    random_weights: bool = True,
    keep: Sequence[str] = (),
    same_parameters: bool = True,
    attention: str | None = "sdpa",
    device: str = "cpu",
) -> Comparison:
    """Run our module and the reference on the same weights and inputs, in float32 and eval mode.

    `ours(reference)` returns our module with the reference's weights (`vit.from_torchvision`). It must only
    copy, reshape, split or join tensors: the reference's *gradients* are then taken through the same
    mapping, which puts them into our layout. `reference` is **overwritten** by `randomise` unless
    `random_weights` is False (real weights), and switched to eval mode and float32.

    - inputs: one tensor, a tuple (positional) or a dict (keywords); floating ones are differentiated.
    - output: attribute, or function, that picks what to compare from the reference's result
      (`"last_hidden_state"`).
    - call_ours, call_reference: method name, or `f(model, *inputs)`, where it is not the call itself
      (`"forward_features"`).
    - wrong: deliberately wrong mappings; each must exceed the bound, else the comparison proves nothing.
    - timing: number of interleaved pairs of runs, forward and forward with backward; 0 for none.
    - same_parameters: also require that our numbers are exactly the reference's, in any layout. Only this
      sees a bias on attention keys, which no output depends on.

    Outputs are judged as they are; gradients after scaling so that the reference's largest is 1 (inputs and
    parameters apart), so that `bound` means the same for each. Raises ValueError when the outputs differ in
    shape.
    """
    arguments = _to_device(inputs, device)
    if isinstance(reference, nn.Module):
        if random_weights:
            randomise(reference, seed, keep=keep)
        reference.to(device=device, dtype=torch.float32).eval()
        if (parameters := list(reference.parameters())) and not any(p.requires_grad for p in parameters):
            raise ValueError(
                f"{name}: every parameter of the reference is frozen: requires_grad_(True) first"
            )
        _pin(reference, attention)
    mapped = _mapped(ours, reference, device)
    run_ours, run_reference = _caller(call_ours, None), _caller(call_reference, output)

    with _full_precision():
        theirs = _Run(run_reference, reference, arguments, seed)
        mine = _Run(run_ours, mapped, arguments, seed)
        _same_shapes(mine.outputs, theirs.outputs)
        wrong_found = {
            variant: _distance(mapper, run_ours, reference, arguments, theirs, device)
            for variant, mapper in (wrong or {}).items()
        }
        parameters = _parameter_gradients(ours, reference, device, mine, theirs)
        used, used_theirs = mine.used_parameters(), theirs.used_parameters()
        comparison = dict(
            name=name,
            bound=bound,
            parameters=sum(p.numel() for p in used),
            reference_parameters=sum(p.numel() for p in used_theirs),
            same_parameters=_fingerprint(used) == _fingerprint(used_theirs) if same_parameters else None,
            output=_difference(mine.outputs, theirs.outputs),
            input_gradient=_scaled_difference(mine.input_gradients, theirs.input_gradients),
            parameter_gradient=_scaled_difference(*parameters),
            vacuous=_vacuous(theirs),
            wrong=wrong_found,
            threads=torch.get_num_threads(),
        )
        comparison["compared"] = _compared(comparison, theirs.outputs)
        comparison["seen"], comparison["unseen"] = _visibility(theirs)
        if timing:
            sides = (run_ours, mapped), (run_reference, reference)
            infer = [_infer(run, model, arguments) for run, model in sides]
            rates = [matmul_rate(device)]
            found = time_pairs(*infer, pairs=timing, device=device)
            counted = operations(_infer(run_ours, mapped, arguments, torch.no_grad))
            comparison["forward"] = replace(found, operations=counted)
            if theirs.differentiable:
                step = [_step(run, model, arguments, theirs.cotangents) for run, model in sides]
                found = time_pairs(*step, pairs=timing, device=device)
                comparison["backward"] = replace(found, operations=operations(step[0]))
            comparison["matmul_rate"] = max(*rates, matmul_rate(device))  # a busy spell may slow one
    return Comparison(**comparison)


class _Run:
    """One forward and backward pass: outputs, gradients of the inputs and of the named parameters."""

    def __init__(self, run: Callable, model: Any, arguments: tuple[tuple, dict], seed: int):
        args, kwargs, leaves = _leaves(arguments)
        named = dict(model.named_parameters()) if isinstance(model, nn.Module) else {}
        named = {name: p for name, p in named.items() if p.requires_grad}
        outputs = _flatten(run(model, *args, **kwargs))
        self.parameters = named
        self.outputs = [o.detach() for o in outputs]
        self.cotangents = _cotangents(outputs, seed)
        scalars = [(o * c).sum() for o, c in zip(outputs, self.cotangents, strict=True) if o.requires_grad]
        wrt = [*leaves, *named.values()]
        self.differentiable = bool(scalars and wrt)
        found = [None] * len(wrt)
        if self.differentiable:
            found = torch.autograd.grad(sum(scalars), wrt, allow_unused=True)
        self.unused = {name for name, g in zip(named, found[len(leaves) :], strict=True) if g is None}
        found = [torch.zeros_like(t) if g is None else g for t, g in zip(wrt, found, strict=True)]
        self.input_gradients = found[: len(leaves)]
        self.parameter_gradients = dict(zip(named, found[len(leaves) :], strict=True))

    def used_parameters(self) -> list[Tensor]:
        return [p for name, p in self.parameters.items() if name not in self.unused]


def _parameter_gradients(
    ours: Callable, reference: Any, device: str, mine: _Run, theirs: _Run
) -> tuple[list, list]:
    """Ours beside the reference's, which the mapping of the weights has carried into our layout."""
    if not (mine.parameters and theirs.parameters):
        return [], []
    with _replaced(reference, theirs.parameter_gradients):
        expected = dict(_mapped(ours, reference, device).named_parameters())
        expected = [expected[name].detach().clone() for name in mine.parameters]
    return list(mine.parameter_gradients.values()), expected


def _distance(
    mapper: Callable, run: Callable, reference: Any, arguments: tuple, theirs: _Run, device: str
) -> float:
    """How far a wrong variant is from the reference; infinite when it breaks or changes the shape."""
    with torch.no_grad():
        outputs = _flatten(run(_mapped(mapper, reference, device), *arguments[0], **arguments[1]))
    if [o.shape for o in outputs] != [o.shape for o in theirs.outputs]:
        return math.inf
    return _difference(outputs, theirs.outputs).absolute


def _mapped(ours: Callable, reference: Any, device: str) -> Any:
    model = ours(reference)
    return model.to(device).eval() if isinstance(model, nn.Module) else model


def _caller(call: str | Callable | None, output: str | Callable | None) -> Callable:
    def run(model, *args, **kwargs):
        if callable(call):
            result = call(model, *args, **kwargs)
        else:
            result = (getattr(model, call) if call else model)(*args, **kwargs)
        if output is None:
            return result
        return output(result) if callable(output) else getattr(result, output)

    return run


def _to_device(inputs: Any, device: str) -> tuple[tuple, dict]:
    def move(value):
        return value.detach().to(device) if isinstance(value, Tensor) else value

    if isinstance(inputs, dict):
        return (), {key: move(value) for key, value in inputs.items()}
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    return tuple(move(value) for value in inputs), {}


def _leaves(arguments: tuple[tuple, dict]) -> tuple[tuple, dict, list[Tensor]]:
    """The arguments with fresh differentiable copies of the floating tensors, and those copies."""
    found = []

    def leaf(value):
        if isinstance(value, Tensor) and value.is_floating_point():
            found.append(value.clone().requires_grad_(True))
            return found[-1]
        return value

    args, kwargs = arguments
    return tuple(leaf(v) for v in args), {k: leaf(v) for k, v in kwargs.items()}, found


def _flatten(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, Mapping):
        result = list(result.values())
    if isinstance(result, (tuple, list)):
        return [tensor for part in result for tensor in _flatten(part)]
    if result is None:
        return []
    raise ValueError(f"a comparison needs tensors, got {type(result).__name__}: pick one with output=...")


def _same_shapes(mine: list[Tensor], theirs: list[Tensor]) -> None:
    ours, reference = [tuple(t.shape) for t in mine], [tuple(t.shape) for t in theirs]
    if ours != reference:
        raise ValueError(f"outputs differ in shape: ours {ours}, reference {reference}")


def _cotangents(outputs: list[Tensor], seed: int) -> list[Tensor]:
    """Seeded weights of the scalar that is differentiated, the same on both sides and on every device."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(o.shape, generator=generator) / math.sqrt(max(o.numel(), 1))).to(o.device)
        for o in outputs
    ]


def _difference(mine: list[Tensor], theirs: list[Tensor], floor: float = 0.0) -> Difference:
    """Largest differences over pairs; NaN counts as infinite, tensors below `floor` only as absolute."""
    absolute = relative = 0.0
    for a, b in zip(mine, theirs, strict=True):
        if b.numel() == 0:
            continue
        found, size = (a.double() - b.double()).abs().max().item(), b.double().abs().max().item()
        found = math.inf if math.isnan(found) else found
        absolute = max(absolute, found)
        if found and size > floor:
            relative = max(relative, found / size)
    return Difference(absolute, relative)


def _scaled_difference(mine: list[Tensor], theirs: list[Tensor]) -> Difference | None:
    largest = max((t.abs().max().item() for t in theirs if t.numel()), default=0.0)
    if largest == 0.0:
        return None if not theirs else _difference(mine, theirs)
    # the gradient of a bias on keys is zero up to rounding: no relative difference can be asked of it
    return _difference([m / largest for m in mine], [t / largest for t in theirs], floor=1e-4)


def _vacuous(theirs: _Run) -> tuple[str, ...]:
    groups = {"outputs": theirs.outputs}
    if theirs.differentiable:
        groups["gradients of inputs"] = theirs.input_gradients
        groups["gradients of parameters"] = list(theirs.parameter_gradients.values())
    return tuple(what for what, tensors in groups.items() if tensors and not any(t.any() for t in tensors))


def _compared(found: Mapping[str, Any], outputs: list[Tensor]) -> tuple[str, ...]:
    numbers = [o for o in outputs if o.is_floating_point()]
    what = "outputs" if any(o.ndim for o in numbers) else "loss" if numbers else "tokens"
    gradients = {"input_gradient": "gradients of inputs", "parameter_gradient": "gradients of parameters"}
    return what, *(text for key, text in gradients.items() if found[key] is not None)


def _visibility(theirs: _Run, rounding: float = 1e-6) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of parameters, and of thirds of joint biases, with a gradient and without one.

    Without means below `rounding` of the largest: no bias on the keys under a softmax has more.
    """
    gradients = theirs.parameter_gradients if theirs.differentiable else {}
    floor = rounding * max((g.abs().max().item() for g in gradients.values() if g.numel()), default=0.0)
    names: dict[bool, list[str]] = {True: [], False: []}
    for name, gradient in gradients.items():
        visible = bool((gradient.abs() > floor).any())
        names[visible].append(name)
        if visible and gradient.ndim == 1 and len(gradient) % 3 == 0:
            for third, part in enumerate(gradient.chunk(3), start=1):
                names[bool((part.abs() > floor).any())].append(f"{name}[{third}/3]")
    return tuple(names[True]), tuple(names[False])


@contextmanager
def _full_precision():
    """Float32 means float32: without this a GPU rounds the operands of a convolution to 10 bits."""
    matmul = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)


# ---------------------------------------------------------------------------------------------------------
# Time


def _infer(
    run: Callable, model: Any, arguments: tuple[tuple, dict], mode: Callable = torch.inference_mode
) -> Callable[[], None]:
    def once():
        with mode():
            run(model, *arguments[0], **arguments[1])

    return once


def _step(run: Callable, model: Any, arguments: tuple[tuple, dict], cotangents: list[Tensor]) -> Callable:
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    parameters = [p for p in parameters if p.requires_grad]

    def once():
        args, kwargs, leaves = (*arguments, []) if parameters else _leaves(arguments)
        outputs = _flatten(run(model, *args, **kwargs))
        scalars = [(o * c).sum() for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
        torch.autograd.grad(sum(scalars), parameters or leaves, allow_unused=True)

    return once


def time_pairs(
    ours: Callable, reference: Callable, *, pairs: int, warmup: int = 2, device: str = "cpu"
) -> Timing:
    """Time two functions in alternation, so that a busy spell meets both, and take medians.

    With one thread on the CPU the clock is the process's own CPU time, which stands still while the machine
    serves somebody else; otherwise it is wall time.
    """
    seconds = functools.partial(_seconds, device=device)
    for _ in range(warmup):
        seconds(ours), seconds(reference)
    a, b = [], []
    for i in range(pairs):
        for function, times in ((ours, a), (reference, b)) if i % 2 else ((reference, b), (ours, a)):
            times.append(seconds(function))
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive") if pairs > 1 else ratios * 3
    return Timing(1e3 * statistics.median(a), 1e3 * statistics.median(b), ratio, (low, high))


def _seconds(function: Callable[[], Any], device: str) -> float:
    one_thread = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if one_thread else time.perf_counter
    start = clock()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def matmul_rate(device: str = "cpu", *, size: int | None = None, runs: int = 7) -> float:
    """Floating-point operations per second of a square float32 matrix product, the best of `runs`.

    What the machine can do at most in its usual work, by the clock and with the threads of `time_pairs`.
    size: of the matrices, by default 1024, and 8192 on a GPU, which a smaller one does not fill.
    """
    size = size or (1024 if device == "cpu" else 8192)
    a, b = torch.rand(2, size, size, device=device)
    with torch.no_grad():
        best = min(_seconds(lambda: a @ b, device) for _ in range(runs + 1))  # the first one warms up
    return 2 * size**3 / best


def operations(run: Callable[[], Any]) -> int:
    """Floating-point operations of `run()` in matrix products, convolutions and attention.

    A multiplication and an addition count as two. Everything else (softmax, sorting, the dynamic programs of
    CTC) is not seen and counts as none; causal attention counts as if nothing were masked. `run` must not use
    `torch.inference_mode`, under which a linear layer arrives here whole; `torch.no_grad` is well.
    """
    with _Operations() as counter:
        run()
    return counter.total


class _Operations(TorchDispatchMode):
    """torch's FlopCounterMode without its hooks on modules, which fail where a parameter is an input."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if formula := flop_registry.get(function.overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=output)
        return output


# ---------------------------------------------------------------------------------------------------------
# Cases


@dataclass(frozen=True)
class Case:
    """A comparison to be run by tests and by `make bench`; everything heavy is behind a factory.

    reference: () -> reference model; inputs: () -> inputs; ours: the mapping; wrong: wrong mappings by
    name; the other fields as in `compare`. `bench` marks the sizes worth timing: True for a lesson's,
    "realistic" for one that people run. `primitive` and `library` name the row. `compared` says what the
    outputs are where that is not plain from them ("trajectory").
    """

    name: str
    reference: Callable[[], Any]
    ours: Callable[[Any], Any]
    inputs: Callable[[], Any]
    wrong: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    output: str | Callable | None = None
    call_ours: str | Callable | None = None
    call_reference: str | Callable | None = None
    bound: float = BOUND
    bench: bool | str = False
    primitive: str = ""
    library: str = ""
    compared: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, *, wrong: bool = True, **options: Any) -> Comparison:
        """Build both sides and compare them; `options` go to `compare` (timing, device, seed)."""
        found = compare(
            self.name,
            self.ours,
            self.reference(),
            self.inputs(),
            output=self.output,
            call_ours=self.call_ours,
            call_reference=self.call_reference,
            wrong=self.wrong if wrong else None,
            bound=self.bound,
            **self.options | options,
        )
        named = (self.compared, *found.compared[1:]) if self.compared else found.compared
        return replace(found, compared=named)


def mutants(mapping: Callable, *changes: Callable, **named: Callable) -> dict[str, Callable]:
    """Wrong mappings for `Case.wrong`, by readable name: map the reference, then break ours in one way.

    changes: functions of our model, without gradients; their names, or the keywords of `named`, are shown.
    """

    def broken(change: Callable, reference: Any) -> Any:
        ours = mapping(reference)
        with torch.no_grad():
            change(ours)
        return ours

    named = {change.__name__: change for change in changes} | named
    return {name.replace("_", " "): functools.partial(broken, change) for name, change in named.items()}


def load(path: Path) -> ModuleType:
    """The Python file at `path` as a module, by its path: the tests are no package."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cases(folder: str | Path, only: Sequence[str] = ()) -> list[Case]:
    """All `CASES` of the Python files in `folder` (`tests/parity`), or of the named ones, by file path.

    Raises ValueError for a name in `only` that has no file, or a case name used twice.
    """
    paths = {path.stem: path for path in sorted(Path(folder).glob("*.py")) if not path.stem.startswith("_")}
    unknown = set(only) - set(paths)
    if unknown:
        raise ValueError(
            f"no parity cases for {', '.join(sorted(unknown))}; there are {', '.join(paths) or 'none'}"
        )
    found: list[Case] = []
    for stem, path in paths.items():
        if only and stem not in only:
            continue
        found += load(path).CASES
    names = [(case.primitive, case.library, case.name) for case in found]
    if len(set(names)) < len(names):
        raise ValueError(f"parity cases named twice: {sorted({n for n in names if names.count(n) > 1})}")
    return found
