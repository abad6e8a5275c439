"""Flow matching.

Collected from notebooks/23_flow_matching.ipynb by `make export`: edit the notebook, not this file.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from mmscratch.transformer import check_type

__all__ = [
    "FOURTH",
    "Mixture",
    "NODES",
    "PATHS",
    "Path",
    "SPACINGS",
    "STAGES",
    "STEPS",
    "Schedule",
    "Solution",
    "Velocity",
    "add_up",
    "as_velocity",
    "auction",
    "beta",
    "beta_quantile",
    "check_finite",
    "check_grid",
    "check_pair",
    "check_steps",
    "check_times",
    "check_tolerances",
    "divergence",
    "dormand_prince_step",
    "euler_step",
    "exponential",
    "first_step",
    "flow_loss",
    "from_diffusers",
    "heun_step",
    "karras",
    "log_likelihood",
    "next_size",
    "norm",
    "one_step_loss",
    "reflow_pairs",
    "resolution_shift",
    "sample_times",
    "shift_times",
    "solve",
    "solve_adaptive",
    "straightness",
    "transport",
    "widen",
]

Velocity = Callable[[Tensor, Tensor], Tensor]  # x (B, ...), t (B,) -> dx / dt (B, ...)

PATHS = ("linear", "cosine", "vp")


def check_times(t: Tensor, x: Tensor) -> Tensor:
    """t as floats, one for each of x (B, ...) or one for all; ValueError unless it lies in [0, 1]."""
    t = torch.as_tensor(t, device=x.device)
    if t.ndim > 1 or t.numel() not in (1, len(x)):
        raise ValueError(f"expected one time or {len(x)}, one a row, got shape {tuple(t.shape)}")
    if not t.is_floating_point():
        raise ValueError(f"expected times in [0, 1] as floats, got {t.dtype}: a step's number is no time")
    if not ((t >= 0) & (t <= 1)).all():
        raise ValueError(f"expected times in [0, 1], got {t.min().item():g} to {t.max().item():g}")
    return t.to(x.dtype)


def check_pair(x: Tensor, y: Tensor) -> Tensor:
    """x, if both are floating batches of one shape; else ValueError."""
    if x.shape != y.shape or x.ndim < 1 or not (x.is_floating_point() and y.is_floating_point()):
        raise ValueError(
            f"expected two floating batches of one shape, got {tuple(x.shape)} {x.dtype} "
            f"and {tuple(y.shape)} {y.dtype}"
        )
    return x


@dataclass(frozen=True)
class Path:
    """x_t = a(t) x0 + b(t) e, from data at t = 0 to noise at t = 1.

    "linear": a = 1 - t, b = t (Liu et al. 2023). "cosine": a = cos(pi t / 2), b = sin(pi t / 2) (Albergo and
    Vanden-Eijnden 2023). "vp": the diffusion of Song et al. 2021 (sec. 3.4), b = sqrt(1 - a^2) and
    a = exp(-beta_min t / 2 - (beta_max - beta_min) t^2 / 4): b' is infinite at t = 0, and a(1) = .007, not 0.
    """

    kind: str = "linear"
    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self):
        if self.kind not in PATHS:
            raise ValueError(f"expected a path among {', '.join(PATHS)}, got {self.kind!r}")

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """a, b and their derivatives by t, each of the shape of t."""
        if self.kind == "linear":
            return 1 - t, t, -torch.ones_like(t), torch.ones_like(t)
        if self.kind == "cosine":
            turn = math.pi / 2
            a, b = (turn * t).cos(), (turn * t).sin()
            return a, b, -turn * b, turn * a
        rate = self.beta_min + (self.beta_max - self.beta_min) * t
        log_a = -t / 4 * (self.beta_min + rate)
        a, b = log_a.exp(), (-torch.expm1(2 * log_a)).sqrt()
        return a, b, -rate / 2 * a, rate / 2 * a**2 / b

    def at(self, t: Tensor, x: Tensor) -> list[Tensor]:
        """The four coefficients for a batch x (B, ...), t (B,) or a number, ready to be multiplied."""
        return [c.view(-1, *[1] * (x.ndim - 1)) for c in self.coefficients(check_times(t, x))]

    def mix(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t. x0, noise (B, ...), t (B,) -> (B, ...)."""
        a, b, *_ = self.at(t, check_pair(x0, noise))
        return a * x0 + b * noise

    def velocity(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """dx_t / dt for one x0 and one noise, what a flow is trained on. (B, ...) -> (B, ...)."""
        *_, da, db = self.at(t, check_pair(x0, noise))
        return da * x0 + db * noise

    def split(self, velocity: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The x0 and the noise behind a velocity at x_t: two equations, two unknowns."""
        a, b, da, db = self.at(t, check_pair(velocity, x))
        det = a * db - da * b
        return (db * x - b * velocity) / det, (a * velocity - da * x) / det


def flow_loss(
    velocity: Velocity, x0: Tensor, noise: Tensor, t: Tensor, *, path: Path | None = None
) -> Tensor:
    """Conditional flow matching (Lipman et al. 2023, eq. 23): |v(x_t, t) - dx_t / dt|^2, mean over all.

    x0, noise (B, ...), t (B,). Minimised by the mean of dx_t / dt over all pairs through x_t. A scalar.
    """
    path = path or Path()
    target = path.velocity(x0, noise, t)
    found = velocity(path.mix(x0, noise, t), t)
    return (found - target).square().mean()


def as_velocity(
    output: Tensor, x: Tensor, t: Tensor, *, prediction: str = "velocity", path: Path | None = None,
    least: float = 1e-3,
) -> Tensor:  # fmt: skip
    """The velocity at x_t (B, ...) that a network's output means; t (B,).

    prediction "data": the output is an estimate of x0; "noise": of the noise. The division by b or a is
    kept from exploding by taking them as at least `least`.
    """
    a, b, da, db = (path or Path()).at(t, check_pair(output, x))
    if prediction == "velocity":
        return output
    if prediction == "data":
        return da * output + db * (x - a * output) / b.clamp(min=least)
    if prediction == "noise":
        return da * (x - b * output) / a.clamp(min=least) + db * output
    raise ValueError(f"expected a prediction of velocity, data or noise, got {prediction!r}")


class Mixture:
    """Gaussians in D dimensions, as data whose flow is known exactly. means (K, D), scale (K,) or a number.

    All methods take a time: at t the data have become `path.mix` of themselves and noise.
    """

    def __init__(self, means: Tensor, *, scale: Tensor | float = 0.1, path: Path | None = None):
        if means.ndim != 2 or not (torch.as_tensor(scale) > 0).all():
            raise ValueError(f"expected means (K, D) and scale > 0, got {tuple(means.shape)} and {scale}")
        self.means, self.path = means, path or Path()
        self.scale = torch.as_tensor(scale, dtype=means.dtype).expand(len(means))

    def sample(self, n: int, *, generator: torch.Generator) -> Tensor:
        """n points of the data. (n, D)."""
        k = torch.randint(len(self.means), (n,), generator=generator)
        spread = torch.randn(n, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return self.means[k] + self.scale[k, None] * spread

    def parts(self, x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        """log of each component's share of the density (B, K), offsets (B, K, D), variances (B, K)."""
        a, b, *_ = (c[:, None] for c in self.path.coefficients(check_times(t, x).expand(len(x))))
        offset = x[:, None] - a[..., None] * self.means  # (B, K, D)
        variance = (a * self.scale) ** 2 + b**2
        squares = offset.square().sum(-1) / variance + x.shape[1] * (2 * math.pi * variance).log()
        return -squares / 2 - math.log(len(self.means)), offset, variance

    def log_prob(self, x: Tensor, t: Tensor | float = 0.0) -> Tensor:
        """log p_t(x), in nats. (B, D) -> (B,)."""
        return self.parts(x, t)[0].logsumexp(-1)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """E[dx_t / dt | x_t = x], the mean over all lines through x, in closed form. (B, D) -> (B, D)."""
        a, b, da, db = self.path.at(t, x)
        log_share, offset, variance = self.parts(x, t)
        inner = (offset / variance[..., None]).mT  # (B, D, K)
        share = log_share.softmax(-1)[..., None]  # (B, K, 1)
        x0 = share.mT @ (self.means + (a * self.scale**2)[..., None] * inner.mT)  # (B, 1, D)
        return da * x0[:, 0] + db * b * (inner @ share)[..., 0]


def sample_times(
    n: int, kind: str = "uniform", *, mean: float = 0.0, std: float = 1.0, shift: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Times to train at, in (0, 1). (n,).

    "uniform", or "logit-normal": the sigmoid of a Gaussian, which prefers the middle (Esser et al. 2024,
    sec. 3.1). `shift` as in `shift_times`.
    """
    if kind == "uniform":
        t = torch.rand(n, generator=generator)
    elif kind == "logit-normal":
        t = (mean + std * torch.randn(n, generator=generator)).sigmoid()
    else:
        raise ValueError(f"expected uniform or logit-normal times, got {kind!r}")
    return shift_times(t, shift)


def shift_times(t: Tensor, shift: float) -> Tensor:
    """s t / (1 + (s - 1) t): more time near noise for s > 1 (Esser et al. 2024, eq. 23). Any shape."""
    if not 0 < shift < math.inf:
        raise ValueError(f"expected a shift > 0, got {shift}")
    return shift * t / (1 + (shift - 1) * t)


def resolution_shift(
    tokens: int, *, base_tokens: int = 256, max_tokens: int = 4096, base_shift: float = 0.5,
    max_shift: float = 1.15,
) -> float:  # fmt: skip
    """mu for a picture of that many tokens, linear between two sizes, as FLUX's pipeline has it.

    The shift is exp(mu). The rule of Esser et al. 2024 (sec. 5.3.2) is sqrt(tokens / base_tokens).
    """
    if tokens < 1 or base_tokens == max_tokens:
        raise ValueError(f"expected tokens >= 1 and two sizes, got {tokens}, {base_tokens} and {max_tokens}")
    return base_shift + (max_shift - base_shift) * (tokens - base_tokens) / (max_tokens - base_tokens)


def widen(x: Tensor) -> Tensor:
    """Half precision as float32, in which each step is computed; the state is rounded back after it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def check_grid(times: Tensor | Sequence[float], x: Tensor) -> Tensor:
    """Times (S + 1,) on the device of x; ValueError unless they rise or fall, within [0, 1]."""
    times = torch.as_tensor(times, device=x.device)
    if not times.is_floating_point() or times.ndim != 1 or len(times) < 2:
        raise ValueError(f"expected at least two times as floats, got {times.dtype} {tuple(times.shape)}")
    steps = times.diff()
    if not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(f"expected times that rise or fall all the way, got {times.tolist()}")
    if not (times.min() >= 0 and times.max() <= 1):
        raise ValueError(f"expected times in [0, 1], got {times.min():g} to {times.max():g}")
    return times


def check_finite(x: Tensor) -> Tensor:
    """x, if all of it is finite; else ValueError."""
    if not x.isfinite().all():
        bad = (~x.isfinite()).sum().item()
        raise ValueError(f"expected finite samples, got {bad} of {x.numel()} numbers that are not")
    return x


def euler_step(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """From time t to time s along the velocity at t; times are numbers in tensors. (B, ...) -> (B, ...)."""
    v = velocity(x, t.to(x.dtype).expand(len(x)))
    return (widen(x) + (s - t) * widen(v)).to(x.dtype)


def heun_step(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """From t to s along the mean of the velocities here and at the end of Euler's step.

    At s = 0 it is Euler's step: there a network never learned (Karras et al. 2022, alg. 1).
    """
    v = velocity(x, t.to(x.dtype).expand(len(x)))
    ahead = (widen(x) + (s - t) * widen(v)).to(x.dtype)
    if s == 0:
        return ahead
    w = velocity(ahead, s.to(x.dtype).expand(len(x)))
    return (widen(x) + (s - t) / 2 * (widen(v) + widen(w))).to(x.dtype)


def solve(
    velocity: Velocity, x: Tensor, times: Tensor | Sequence[float], *, method: str = "euler",
    every: bool = False,
) -> Tensor:  # fmt: skip
    """x (B, ...) carried along dx / dt = velocity(x, t) through times (S + 1,), up or down. (B, ...).

    method: "euler" or "heun". `every`: all S + 1 states instead, (S + 1, B, ...).
    """
    step = STEPS.get(method)
    if step is None:
        raise ValueError(f"expected a method among {', '.join(STEPS)}, got {method!r}")
    times = check_grid(times, x)
    states = [x]
    for t, s in pairwise(times):
        x = step(velocity, x, t, s)
        states.append(x)
    return torch.stack(states) if every else check_finite(x)


STEPS = {"euler": euler_step, "heun": heun_step}


NODES = (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),  # the step of order 5
)
FOURTH = (5179 / 57600, 0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)  # and of order 4


def add_up(x: Tensor, row: Sequence[float], ks: Sequence[Tensor], h: float) -> Tensor:
    """x + h (w_1 k_1 + w_2 k_2 + ...) with the weights of a row."""
    for w, k in zip(row, ks, strict=True):
        x = x.add(k, alpha=h * w) if w else x
    return x


def dormand_prince_step(
    velocity: Velocity, x: Tensor, v: Tensor, t: float, h: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of length h from x, where the velocity is v: the new x, its velocity, and the error.

    Six new velocities; the last is the first of the next step (Dormand and Prince 1980).
    """
    ks = [v]
    for node, row in zip(NODES[1:], STAGES[1:], strict=True):
        ahead = add_up(x, row, ks, h)
        ks.append(velocity(ahead, x.new_full((len(x),), t + node * h)))
    gap = [w - u for w, u in zip((*STAGES[-1], 0), FOURTH, strict=True)]  # order 5 less order 4
    return ahead, ks[-1], add_up(torch.zeros_like(x), gap, ks, h)


@dataclass(frozen=True)
class Solution:
    """Where an adaptive solve ended, x (B, ...), the times it stopped at, and what it cost."""

    x: Tensor
    times: Tensor  # (S + 1,)
    states: Tensor | None  # (S + 1, B, ...), where asked for
    evaluations: int
    rejected: int


def norm(x: Tensor) -> float:
    """Root mean square over everything."""
    return x.detach().double().square().mean().sqrt().item()


def first_step(
    velocity: Velocity, x: Tensor, v: Tensor, start: float, end: float, rtol: float, atol: float
) -> float:
    """A first step for `solve_adaptive`, from the size of x, of v and of the change of v."""
    scale, length = atol + rtol * x.abs(), abs(end - start)
    d0, d1 = norm(x / scale), norm(v / scale)
    if not math.isfinite(d1):
        raise ValueError(
            f"expected finite velocities, got {v.flatten()[~v.isfinite().flatten()][:3].tolist()}"
        )
    h = min(1e-6 if min(d0, d1) < 1e-5 else 0.01 * d0 / d1, length)
    t = start + math.copysign(h, end - start)
    d2 = norm((velocity(x + (t - start) * v, x.new_full((len(x),), t)) - v) / scale) / h
    g = max(1e-6, 1e-3 * h) if max(d1, d2) <= 1e-15 else (0.01 / max(d1, d2)) ** (1 / 5)
    return min(100 * h, g, length)


def next_size(
    error: Tensor, x: Tensor, ahead: Tensor, size: float, rtol: float, atol: float, shrink: bool
) -> tuple[float, bool]:
    """The next step's length, and whether this step is accepted. `shrink`: it was tried before."""
    found = norm(error / (atol + rtol * torch.maximum(x.abs(), ahead.abs())))
    if math.isnan(found):
        raise ValueError("expected finite velocities, got nan")
    factor = 0.9 * found**-0.2 if found else math.inf
    if found < 1:
        return size * min(1 if shrink else 10, factor), True
    return size * max(0.2, factor), False


def check_tolerances(x: Tensor, start: float, end: float, rtol: float, atol: float) -> None:
    """ValueError unless x is a floating batch, start differs from end and the tolerances are sensible."""
    if x.ndim < 1 or not x.is_floating_point():
        raise ValueError(f"expected a floating batch, got {x.dtype} {tuple(x.shape)}")
    if not (0 <= start <= 1 and 0 <= end <= 1 and start != end):
        raise ValueError(f"expected two different times in [0, 1], got {start} and {end}")
    least = 100 * torch.finfo(torch.float64).eps
    if not (rtol >= least and atol >= 0):
        raise ValueError(f"expected rtol >= {least:.1e} and atol >= 0, got {rtol} and {atol}")


def solve_adaptive(
    velocity: Velocity, x: Tensor, start: float, end: float, *, rtol: float = 1e-3, atol: float = 1e-6,
    every: bool = False, max_steps: int = 10_000,
) -> Solution:  # fmt: skip
    """dx / dt = velocity(x, t) from start to end, the step chosen so that its error stays below
    atol + rtol |x|, root mean square over the whole batch (Hairer, Norsett and Wanner, sec. II.4).

    x (B, ...). RuntimeError where the step becomes too small for the precision, or steps run out.
    """
    check_tolerances(x, start, end, rtol, atol)
    direction, t, rejected = math.copysign(1.0, end - start), start, 0
    v = velocity(x, x.new_full((len(x),), t))
    size = first_step(velocity, x, v, start, end, rtol, atol)
    times, states = [t], [x]
    while t != end:
        least, again = 10 * abs(math.nextafter(t, direction * math.inf) - t), False
        size, accepted = max(size, least), False
        while not accepted:
            if size < least or len(times) + rejected > max_steps:
                raise RuntimeError(
                    f"no end in sight at t = {t:g}: {len(times) - 1} steps, the next {size:.1g}"
                )
            s = end if direction * (t + direction * size - end) > 0 else t + direction * size
            ahead, w, error = dormand_prince_step(velocity, x, v, t, s - t)
            size, accepted = next_size(error, x, ahead, abs(s - t), rtol, atol, again)
            rejected, again = rejected + (not accepted), True
        t, x, v = s, ahead, w
        times.append(t)
        states = [*states, x] if every else states
    evaluations = 2 + 6 * (len(times) - 1 + rejected)
    stack = torch.stack(states) if every else None
    return Solution(check_finite(x), torch.tensor(times, dtype=torch.float64), stack, evaluations, rejected)


def divergence(
    velocity: Velocity, x: Tensor, t: Tensor, probe: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The velocity (B, ...) and its divergence, the trace of dv / dx, (B,). t (B,).

    Exact, by one backward pass for each of the D numbers of an example; or, with a `probe` e of the shape
    of x that has mean 0 and covariance 1, Hutchinson's estimate e^T (dv / dx) e by a single one.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        v = velocity(x, t)
        if probe is not None:
            (back,) = torch.autograd.grad(v, x, check_pair(probe, x))
            return v.detach(), (back * probe).flatten(1).sum(1)
        total = 0
        for i, part in enumerate(v.flatten(1).unbind(1)):
            (back,) = torch.autograd.grad(part.sum(), x, retain_graph=True)
            total = total + back.flatten(1)[:, i]
    return v.detach(), total


def log_likelihood(
    velocity: Velocity, x: Tensor, *, rtol: float = 1e-5, atol: float = 1e-5, start: float = 0.0,
    probe: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """log p(x) of data x (B, ...) under a flow to standard Gaussian noise, in nats. (B,).

    log p_0(x_0) = log N(x_1) + integral of the divergence from 0 to 1 (Chen et al. 2018, theorem 1), both
    integrated at once. `probe`: one for the whole way, as FFJORD has it (Grathwohl et al. 2019). `start`: a
    little above 0 for paths that are singular there.
    """

    def both(state: Tensor, t: Tensor) -> Tensor:
        v, div = divergence(velocity, state[:, :-1].reshape(x.shape), t, probe)
        return torch.cat([v.flatten(1), div[:, None]], 1)

    state = torch.cat([x.flatten(1), x.new_zeros(len(x), 1)], 1)  # (B, D + 1)
    end = solve_adaptive(both, state, start, 1.0, rtol=rtol, atol=atol).x
    noise, gained = end[:, :-1], end[:, -1]
    return gained - (noise.square() + math.log(2 * math.pi)).sum(1) / 2


def transport(x0: Tensor, noise: Tensor, *, tolerance: float = 1e-3) -> Tensor:
    """Which noise goes with which x0 so that the squared distances are least. (G, n, ...) -> (G, n) numbers.

    G groups of n at once, by auction (Bertsekas 1988): data bid for noise, and prices rise. The mean squared
    distance is within `tolerance` times the mean over all n^2 pairs of the least.
    """
    if x0.ndim < 3 or check_pair(x0, noise).shape[1] < 1 or not 0 < tolerance < 1:
        got = f"{tuple(x0.shape)} and {tolerance}"
        raise ValueError(f"expected groups (G, n, ...), n >= 1, and 0 < tolerance < 1, got {got}")
    value = -torch.cdist(x0.flatten(2).double(), noise.flatten(2).double()).square()  # (G, n, n)
    value = check_finite(value) / value.mean((1, 2), keepdim=True).abs().clamp(min=1e-300)
    price, step = torch.zeros_like(value[:, 0]), 0.1
    while step > tolerance:  # coarse auctions first: their prices save the last one most of its rounds
        auction(value, price, step)
        step /= 5
    return auction(value, price, tolerance).argsort(1)


def auction(value: Tensor, price: Tensor, step: float) -> Tensor:
    """The owner of each thing. value (G, n, n) to bidder and of thing; price (G, n), raised in place. (G, n).

    Whoever has nothing bids for the thing of most profit, up to where the second best is as good, and `step`
    on top. The highest bid takes the thing, also from its owner, who bids again.
    """
    groups, n, _ = value.shape
    owner = torch.full((groups, n), n, device=value.device)  # n: nobody
    while (owner == n).any():
        holds = torch.zeros(groups, n + 1, dtype=torch.bool, device=value.device).scatter_(1, owner, True)
        g, i = (~holds[:, :n]).nonzero(as_tuple=True)
        best, thing = (value[g, i] - price[g]).topk(min(2, n))
        thing = thing[:, 0]
        bid = price[g, thing] + best[:, 0] - best[:, -1] + step
        highest = price.new_full((groups * n,), -math.inf).scatter_reduce(0, g * n + thing, bid, "amax")
        won = bid == highest[g * n + thing]
        owner[g[won], thing[won]] = i[won]
        price[g[won], thing[won]] = bid[won]
    return owner


def reflow_pairs(
    velocity: Velocity, noise: Tensor, times: Tensor | Sequence[float], *, method: str = "heun"
) -> tuple[Tensor, Tensor]:
    """Pairs (x0, noise) joined by a flow, to train the next one on (Liu et al. 2023, sec. 2.2)."""
    with torch.no_grad():
        return solve(velocity, noise, times, method=method), noise


def one_step_loss(student: Velocity, x0: Tensor, noise: Tensor) -> Tensor:
    """Distillation into one step: the flow matching loss at t = 1 alone, on a teacher's pairs. A scalar."""
    return flow_loss(student, x0, noise, torch.ones(len(x0), device=x0.device))


@torch.no_grad()
def straightness(
    velocity: Velocity, noise: Tensor, times: Tensor | Sequence[float], *, method: str = "heun"
) -> Tensor:
    """How far a flow is from straight lines: the mean of |(x_1 - x_0) - v(x_t, t)|^2 over t and noise.

    Zero for straight lines at constant speed (Liu et al. 2023, sec. 2.2). A scalar; times (S + 1,).
    """
    states = solve(velocity, noise, times, method=method, every=True)
    times = check_grid(times, noise)
    line = (states[-1] - states[0]) / (times[-1] - times[0])
    squares = [
        (line - velocity(x, t.to(x.dtype).expand(len(x)))).flatten(1).square().sum(1).mean()
        for t, x in zip(times, states, strict=True)
    ]
    return torch.trapezoid(torch.stack(squares), times) / (times[-1] - times[0])


@dataclass(frozen=True)
class Schedule:
    """The noise levels at which a flow is evaluated when it samples, and the solver between them.

    shift: of every level. dynamic: "exponential" or "linear", then the shift comes from `mu`, for the size of
    the picture. terminal: the last level before 0. spacing: "karras", "exponential" or "beta" between the
    first and the last. inverted: 1 - sigma. stochastic: fresh noise at every step. `ends`: the first and the
    last level, before they are shifted.
    """

    steps_in_training: int = 1000
    solver: str = "euler"
    shift: float = 1.0
    dynamic: str | None = None
    terminal: float | None = None
    spacing: str = "linear"
    inverted: bool = False
    stochastic: bool = False
    ends: tuple[float, float] = (1.0, 1e-3)

    def sigmas(
        self, steps: int | None = None, *, mu: float | None = None, levels: Sequence[float] | None = None
    ) -> Tensor:
        """The steps + 1 noise levels, the last one 0. `levels`: all but that one, before the shift."""
        steps = check_steps(self, steps, mu, levels)
        if levels is None:
            first, last = (self.steps_in_training * end for end in self.ends)
            sigmas = torch.linspace(first, last, steps, dtype=torch.float64) / self.steps_in_training
        else:
            sigmas = torch.tensor([float(level) for level in levels], dtype=torch.float32)
        if self.dynamic is None:
            sigmas = shift_times(sigmas, self.shift)
        else:
            sigmas = shift_times(sigmas, math.exp(mu) if self.dynamic == "exponential" else mu)
        if self.terminal:
            sigmas = 1 - (1 - sigmas) * (1 - self.terminal) / (1 - sigmas[-1])
        sigmas = SPACINGS[self.spacing](sigmas).float()
        if self.inverted:
            sigmas = 1 - sigmas
        return torch.cat([sigmas, torch.tensor([1.0 if self.inverted else 0.0])])

    def sample(
        self, velocity: Velocity, noise: Tensor, steps: int | None = None, *, mu: float | None = None,
        levels: Sequence[float] | None = None, generator: torch.Generator | None = None, every: bool = False,
    ) -> Tensor:  # fmt: skip
        """Noise (B, ...) to data along velocity(x, t). `every`: all states, (S + 1, B, ...)."""
        sigmas = self.sigmas(steps, mu=mu, levels=levels).to(noise.device)
        if not self.stochastic:
            return solve(velocity, noise, sigmas, method=self.solver, every=every)
        states = [noise]
        for t, s in pairwise(sigmas):
            x = states[-1]
            x0 = x - t * velocity(x, t.to(x.dtype).expand(len(x)))
            fresh = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            states = [*states, (1 - s) * x0 + s * fresh] if every else [(1 - s) * x0 + s * fresh]
        return torch.stack(states) if every else check_finite(states[-1])


def karras(sigmas: Tensor, rho: float = 7.0) -> Tensor:
    """As many levels between the same ends, dense near the last (Karras et al. 2022, eq. 5). (S,)."""
    first, last = sigmas[0].item() ** (1 / rho), sigmas[-1].item() ** (1 / rho)
    return (first + torch.linspace(0, 1, len(sigmas), dtype=torch.float64) * (last - first)) ** rho


def exponential(sigmas: Tensor) -> Tensor:
    """As many levels between the same ends, each the same multiple of the one before. (S,)."""
    ends = (math.log(sigmas[i].item()) for i in (0, -1))
    return torch.linspace(*ends, len(sigmas), dtype=torch.float64).exp()


def beta(sigmas: Tensor) -> Tensor:
    """As many levels between the same ends, at quantiles of Beta(.6, .6): dense at both (Lee et al. 2024)."""
    first, last = sigmas[0].item(), sigmas[-1].item()
    ramp = torch.linspace(0, 1, len(sigmas), dtype=torch.float64)
    spread = [beta_quantile(1 - p, 0.6) for p in ramp.tolist()]
    return last + torch.tensor(spread, dtype=torch.float64) * (first - last)


def beta_quantile(p: float, a: float) -> float:
    """The number below which Beta(a, a) falls with probability p, by bisection of its series."""
    if p > 0.5:
        return 1 - beta_quantile(1 - p, a)
    scale = math.gamma(2 * a) / math.gamma(a) ** 2

    def below(x: float) -> float:  # integral of u^(a-1) (1 - u)^(a-1), the second factor as a power series
        total, term = 0.0, 1.0
        for k in range(60):  # x is at most 1/2
            total += term / (a + k)
            term *= x * (k + 1 - a) / (k + 1)
        return scale * x**a * total

    low, high = 0.0, 0.5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < p else (low, middle)
    return (low + high) / 2


SPACINGS = {"linear": torch.clone, "karras": karras, "exponential": exponential, "beta": beta}


def check_steps(
    schedule: Schedule, steps: int | None, mu: float | None, levels: Sequence[float] | None
) -> int:
    """The number of steps; ValueError unless it, mu and levels agree with one another and the schedule."""
    for value, allowed in ((schedule.solver, STEPS), (schedule.spacing, SPACINGS)):
        if value not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}, got {value!r}")
    if schedule.dynamic not in (None, "exponential", "linear"):
        raise ValueError(f"expected dynamic exponential, linear or None, got {schedule.dynamic!r}")
    if (mu is None) != (schedule.dynamic is None):
        raise ValueError(f"expected mu if and only if the shift is dynamic ({schedule.dynamic}), got {mu}")
    if levels is not None:
        found = torch.tensor([float(level) for level in levels])
        if not len(found) or not ((found > 0) & (found <= 1)).all() or not (found.diff() < 0).all():
            raise ValueError(f"expected falling levels in (0, 1], got {found.tolist()}")
        if steps not in (None, len(found)):
            raise ValueError(f"expected {steps} levels, got {len(found)}")
        steps = len(found)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"expected a whole number of steps >= 1, got {steps!r}")
    if schedule.terminal and steps == 1:
        raise ValueError("expected two steps or more with a terminal level, got 1")
    return steps


def from_diffusers(scheduler) -> Schedule:
    """Our schedule for a `FlowMatchEulerDiscreteScheduler` or `FlowMatchHeunDiscreteScheduler`.

    The ends are read off it: its constructor has shifted them once, and `sigmas` will shift them again, as
    the library does. The library's networks are called with 1000 t.
    """
    check_type(scheduler, "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
    config, ends = scheduler.config, (scheduler.sigma_max, scheduler.sigma_min)
    if type(scheduler).__name__ == "FlowMatchHeunDiscreteScheduler":
        return Schedule(config.num_train_timesteps, "heun", config.shift, ends=ends)
    spacing = [name for name in SPACINGS if config.get(f"use_{name}_sigmas")]
    return Schedule(
        config.num_train_timesteps,
        shift=scheduler.shift,
        dynamic=config.time_shift_type if config.use_dynamic_shifting else None,
        terminal=config.shift_terminal,
        spacing=spacing[0] if spacing else "linear",
        inverted=config.invert_sigmas,
        stochastic=config.stochastic_sampling,
        ends=ends,
    )
