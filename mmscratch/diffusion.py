"""Diffusion.

Collected from notebooks/22_diffusion.ipynb by `make export`: edit the notebook, not this file.
"""

import copy
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmscratch.transformer import Attention, FeedForward, check_type, initialise_weights, load_mapped, pick
from mmscratch.vit import PatchEmbedding, Size, pair, patch_grid, sincos_2d, unpatchify

__all__ = [
    "AttributeJudge",
    "Conditioning",
    "DIT_ACTIVATIONS",
    "DPM_REFUSED",
    "DiT",
    "DiTBlock",
    "DiTConfig",
    "Diffusion",
    "EMA",
    "FROM_DIT",
    "ForwardProcess",
    "METHODS",
    "PREDICTIONS",
    "ReverseSteps",
    "SCHEDULES",
    "SPACINGS",
    "SamplerConfig",
    "VARIANCES",
    "Walk",
    "bound",
    "check_alphas",
    "check_config",
    "check_finite",
    "check_timesteps",
    "ddim_update",
    "ddpm_update",
    "deviation",
    "dit_from_diffusers",
    "dpm_options",
    "dpm_update",
    "draw",
    "estimate",
    "frechet_distance",
    "from_diffusers",
    "grid_positions",
    "guide",
    "log_snr",
    "make_alphas",
    "min_snr_weights",
    "modulate",
    "rescale_zero_snr",
    "small_painter",
    "split_variance",
    "spread_timesteps",
    "timestep_embedding",
    "with_guidance",
]

SCHEDULES = dict(linear="linear", scaled_linear="scaled_linear", cosine="cosine", squaredcos_cap_v2="cosine")
PREDICTIONS = {"epsilon": "epsilon", "x0": "x0", "v": "v", "sample": "x0", "v_prediction": "v"}
VARIANCES = ("small", "large", "learned", "learned_range")
SPACINGS = ("leading", "trailing", "linspace")
METHODS = ("ddpm", "ddim", "dpm")


def check_alphas(alphas: Tensor, timesteps: int, zero_snr: bool) -> Tensor:
    """Alpha-bar as it came; ValueError unless it is (T,), in (0, 1] and falls. The last may be 0 if asked."""
    if alphas.shape != (timesteps,) or not alphas.is_floating_point():
        raise ValueError(f"expected alpha-bar ({timesteps},), got {alphas.dtype} {tuple(alphas.shape)}")
    inside = (alphas > 0) & (alphas <= 1)
    inside[-1] |= zero_snr and bool(alphas[-1] == 0)
    if not inside.all():
        worst = int((~inside).nonzero()[0])
        raise ValueError(f"expected alpha-bar in (0, 1], got {alphas[worst].item()} at timestep {worst}")
    rises = alphas.diff() > 1e-7  # diffusers lifts an alpha-bar of zero by 2^-24
    if rises.any():
        worst = int(rises.nonzero()[0])
        raise ValueError(f"expected alpha-bar to fall, but it rises from timestep {worst} to {worst + 1}")
    return alphas


def check_timesteps(t: Tensor | int, timesteps: int, lowest: int = 0) -> None:
    """ValueError unless t is whole and from `lowest` to T - 1."""
    if isinstance(t, Tensor) and (t.is_floating_point() or t.ndim > 1):
        raise ValueError(f"expected whole timesteps (B,), got {t.dtype} {tuple(t.shape)}")
    many = isinstance(t, Tensor) and t.ndim
    low, high = (int(t.min()), int(t.max())) if many else (int(t), int(t))
    if low < lowest or high >= timesteps:
        wrong = low if low < lowest else high
        raise ValueError(f"expected timesteps from {lowest} to {timesteps - 1}, got {wrong}")


def check_finite(x: Tensor, t: int, what: str = "samples") -> Tensor:
    """x as it came; ValueError when a number in it is NaN or infinite."""
    if (
        not math.isfinite(x.detach().sum()) and not torch.isfinite(x).all()
    ):  # a sum is quick, but may overflow
        raise ValueError(f"expected finite {what}, got nan or infinity at timestep {t}")
    return x


def make_alphas(name: str, timesteps: int, *, start: float = 1e-4, end: float = 0.02) -> Tensor:
    """Alpha-bar of each timestep, (T,) in float64: the factor on the variance of the picture.

    "linear": betas from `start` to `end` (Ho et al. 2020, sec. 4). "scaled_linear": their square roots
    (Rombach et al. 2022). "cosine": alpha-bar itself, no beta over 0.999 (Nichol & Dhariwal 2021, eq. 17).
    """
    if timesteps < 1 or not 0 < start <= end < 1:
        raise ValueError(f"expected timesteps >= 1 and 0 < start <= end < 1, got {timesteps}, {start}, {end}")
    if SCHEDULES[pick("schedule", name, SCHEDULES)] == "cosine":
        u = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
        curve = ((u + 0.008) / 1.008 * math.pi / 2).cos() ** 2
        betas = (1 - curve[1:] / curve[:-1]).clamp(max=0.999)
    else:
        root = 2 if name == "scaled_linear" else 1
        betas = torch.linspace(start ** (1 / root), end ** (1 / root), timesteps, dtype=torch.float64) ** root
    return (1 - betas).cumprod(0)


def rescale_zero_snr(alphas_cumprod: Tensor) -> Tensor:
    """Shift and stretch sqrt(alpha-bar), (T,), so that the last is zero (Lin et al. 2024, alg. 1)."""
    roots = alphas_cumprod.sqrt()
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2


def estimate(
    output: Tensor, x: Tensor, signal: Tensor, sigma: Tensor, prediction: str
) -> tuple[Tensor, Tensor]:
    """What the network's output says about x0 and epsilon, where x = signal x0 + sigma epsilon.

    output and x (B, ...); signal and sigma, the roots of alpha-bar and of 1 - alpha-bar, spread over them.
    """
    if prediction == "epsilon":
        return (x - sigma * output) / signal, output
    if prediction == "x0":
        return output, (x - signal * output) / sigma
    return signal * x - sigma * output, signal * output + sigma * x  # v


@dataclass(kw_only=True)
class SamplerConfig:
    """The knobs of `Diffusion` beside schedule and prediction."""

    start: float = 1e-4  # betas of a schedule that goes by name
    end: float = 0.02
    zero_snr: bool = False  # nothing is left of the picture at the last timestep
    clip: float | None = None  # bound on estimates of x0
    threshold: tuple[float, float] | None = None  # (quantile, bound): a bound for each picture
    variance: str = "small"  # of the DDPM step
    method: str = "ddim"  # that `sample` uses unless told
    spacing: str = "leading"  # of the timesteps in `path`
    offset: int = 0  # added to them, where they are "leading"
    stride: bool = False  # DDIM: previous is t - T // steps, even where `path` goes elsewhere
    final: float = 1.0  # alpha-bar after the last step
    order: int = 2  # of the DPM-Solver: 1 or 2
    heun: bool = False  # its second-order form: Heun's in place of the midpoint's
    euler_below: int = 15  # with fewer steps the last one is of order 1
    log_snr_min: float = -math.inf  # it starts where log(signal / sigma) is at least this


def check_config(c: SamplerConfig) -> SamplerConfig:
    """The options as they came; ValueError for what no step can do."""
    pick("variance", c.variance, VARIANCES)
    pick("method", c.method, METHODS)
    pick("spacing", c.spacing, SPACINGS)
    if not 0 < c.final <= 1 or c.order not in (1, 2) or c.offset < 0:
        got = f"{c.final}, {c.order}, {c.offset}"
        raise ValueError(f"expected final in (0, 1], order 1 or 2 and offset >= 0, got {got}")
    if (c.clip is not None and c.clip <= 0) or (
        c.threshold and not 0 < c.threshold[0] <= 1 <= c.threshold[1]
    ):
        raise ValueError(
            f"expected clip > 0 and threshold (quantile, bound >= 1), got {c.clip}, {c.threshold}"
        )
    return c


class ForwardProcess:
    """x_t = sqrt(alpha-bar) x0 + sqrt(1 - alpha-bar) epsilon, and what a network may predict of it.

    timesteps: how many levels of noise, T. schedule: a name for `make_alphas`, or alpha-bar (T,) itself.
    prediction: "epsilon", "x0" or "v". Options: the fields of `SamplerConfig`.
    """

    def __init__(
        self, timesteps: int = 1000, schedule: str | Tensor = "linear", prediction: str = "epsilon", **options
    ):  # fmt: skip
        self.timesteps, self.config = timesteps, SamplerConfig(**options)
        self.prediction = PREDICTIONS[pick("prediction", prediction, PREDICTIONS)]
        c = check_config(self.config)
        if isinstance(schedule, str):
            schedule = make_alphas(schedule, timesteps, start=c.start, end=c.end)
            schedule = rescale_zero_snr(schedule) if c.zero_snr else schedule
        self.alphas_cumprod = check_alphas(schedule, timesteps, c.zero_snr)  # (T,)

    def level(self, t: Tensor | int, x: Tensor) -> Tensor:
        """Alpha-bar at t: one number for one t (-1: after the last step), (B, 1, ...) for t (B,)."""
        check_timesteps(t, self.timesteps, lowest=-1)
        if isinstance(t, Tensor) and t.ndim:
            table = self.alphas_cumprod.to(x.device, torch.promote_types(self.alphas_cumprod.dtype, x.dtype))
            return table[t].view(-1, *[1] * (x.ndim - 1))
        return self.alphas_cumprod[int(t)] if t >= 0 else self.alphas_cumprod.new_tensor(self.config.final)

    def roots(self, t: Tensor | int, x: Tensor) -> tuple[Tensor, Tensor]:
        """How much of x_t is picture and how much is noise: the factors in `add_noise`, in the type of x."""
        a = self.level(t, x)
        return a.sqrt().to(x.dtype), (1 - a).sqrt().to(x.dtype)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor | int) -> Tensor:
        """x_t from x0 and noise (B, ...), at t (B,) or one t for all."""
        check_timesteps(t, self.timesteps)
        if x0.shape != noise.shape:
            raise ValueError(f"expected noise {tuple(x0.shape)}, got {tuple(noise.shape)}")
        signal, sigma = self.roots(t, x0)
        return signal * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor | int) -> Tensor:
        """What the network should say about `add_noise(x0, noise, t)`: epsilon, x0 or v."""
        signal, sigma = self.roots(t, x0)
        return {"epsilon": noise, "x0": x0}.get(self.prediction, signal * noise - sigma * x0)


def min_snr_weights(alphas_cumprod: Tensor, prediction: str, gamma: float = 5.0) -> Tensor:
    """Weights of an error on `prediction` that equal min(SNR, gamma) on x0 (Hang et al. 2023, sec. 3.4).

    alphas_cumprod: alpha-bar at the drawn timesteps, of any shape.
    """
    if gamma <= 0:
        raise ValueError(f"expected gamma > 0, got {gamma}")
    snr = alphas_cumprod / (1 - alphas_cumprod)
    name = PREDICTIONS[pick("prediction", prediction, PREDICTIONS)]
    return {"x0": snr.clamp(max=gamma), "epsilon": (gamma / snr).clamp(max=1)}.get(
        name, snr.clamp(max=gamma) / (snr + 1)
    )


def bound(x0: Tensor, clip: float | None = None, threshold: tuple[float, float] | None = None) -> Tensor:
    """Keep an estimate of x0 (B, ...) in the range of pictures, -1 to 1 or `clip`.

    threshold (quantile, most): each picture's own bound, the quantile of its absolute values, from 1 to
    `most`; then divide by it (Saharia et al. 2022, sec. 2.3).
    """
    if threshold is not None:
        s = torch.quantile(x0.abs().flatten(1), threshold[0], dim=1).clamp(1, threshold[1])
        s = s.view(-1, *[1] * (x0.ndim - 1))
        return x0.clamp(-s, s) / s
    return x0 if clip is None else x0.clamp(-clip, clip)


def draw(x: Tensor, generator: torch.Generator | None, noise: Tensor | None = None) -> Tensor:
    """Noise in the shape and type of x: the given one, or from the generator, which may live elsewhere."""
    if noise is None:
        where = x.device if generator is None else generator.device
        noise = torch.randn(x.shape, generator=generator, device=where, dtype=x.dtype)
    if noise.shape != x.shape:
        raise ValueError(f"expected noise {tuple(x.shape)}, got {tuple(noise.shape)}")
    return noise.to(x)


def split_variance(output: Tensor, x: Tensor, variance: str) -> tuple[Tensor, Tensor | None]:
    """Prediction and, where the variance is learned, the other half of the channels: (B, 2C, ...)."""
    if not variance.startswith("learned"):
        return output, None
    if output.shape[1] != 2 * x.shape[1]:
        raise ValueError(f"expected {2 * x.shape[1]} channels, half of them variances, got {output.shape[1]}")
    return output.chunk(2, dim=1)


def deviation(variance: str, small: Tensor, large: Tensor, extra: Tensor | None) -> Tensor:
    """Standard deviation of a DDPM step, from its two bounds `small` and `large`, or learned (`extra`)."""
    if variance == "learned":
        return extra.sqrt()
    if variance == "learned_range":  # between the bounds, on a log scale (Nichol & Dhariwal 2021, eq. 15)
        share = (extra + 1) / 2
        return (0.5 * (share * large.log() + (1 - share) * small.log())).exp()
    return (small if variance == "small" else large).sqrt()


def ddpm_update(
    x0: Tensor, x: Tensor, a: Tensor, a_prev: Tensor, variance: str = "small", extra: Tensor | None = None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Mean and standard deviation of the posterior at alpha-bar a_prev, from a (Ho et al. 2020, eq. 7)."""
    beta = 1 - a / a_prev
    mean = a_prev.sqrt() * beta / (1 - a) * x0 + (a / a_prev).sqrt() * (1 - a_prev) / (1 - a) * x
    small = ((1 - a_prev) / (1 - a) * beta).clamp(min=1e-20)
    return mean, deviation(variance, small, beta, extra)


def ddim_update(
    x0: Tensor, epsilon: Tensor, a: Tensor, a_prev: Tensor, eta: float = 0.0, noise: Tensor | None = None
) -> Tensor:  # fmt: skip
    """From alpha-bar a to a_prev along the estimates (Song et al. 2021, eq. 12 and 16).

    eta 0: no new noise. eta 1: as much as the posterior has.
    """
    sigma = eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)).sqrt()
    x = a_prev.sqrt() * x0 + (1 - a_prev - sigma**2).sqrt() * epsilon
    return x + sigma * noise if eta else x


def log_snr(a: Tensor) -> Tensor:
    """Half the log of the signal-to-noise ratio, log(signal / sigma), from alpha-bar."""
    return (a.log() - (1 - a).log()) / 2


def dpm_update(
    x0: Tensor, x: Tensor, a: Tensor, a_prev: Tensor, before: tuple[Tensor, Tensor] | None = None,
    heun: bool = False,
) -> Tensor:  # fmt: skip
    """DPM-Solver++ from alpha-bar a to a_prev: order 1, or 2M (Lu et al. 2022b, algorithm 2).

    before: the last alpha-bar and its estimate of x0; the line through both estimates replaces x0.
    """
    h = log_snr(a_prev) - log_snr(a)
    shrink = torch.expm1(-h)
    y = (1 - a_prev).sqrt() / (1 - a).sqrt() * x - a_prev.sqrt() * shrink * x0
    if before is None:
        return y
    slope = (x0 - before[1]) * (h / (log_snr(a) - log_snr(before[0])))
    return y + a_prev.sqrt() * (shrink / h + 1 if heun else -0.5 * shrink) * slope


class ReverseSteps(ForwardProcess):
    """One step back, from x at t to x at prev_t, given the network's output: DDPM, DDIM, DPM-Solver++ 2M.

    output and x (B, ...); t and prev_t numbers, prev_t -1 at the end. ValueError for timesteps out of range
    and for numbers that are not finite.
    """

    def read(self, output: Tensor, t: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates of x0, bounded as configured, and of epsilon."""
        check_timesteps(t, self.timesteps)
        if output.shape != x.shape:
            raise ValueError(f"expected an output {tuple(x.shape)}, got {tuple(output.shape)}")
        check_finite(output, t, "predictions"), check_finite(x, t)
        signal, sigma = self.roots(t, x)
        x0, epsilon = estimate(output, x, signal, sigma, self.prediction)
        x0 = bound(x0, self.config.clip, self.config.threshold)
        if self.prediction == "epsilon" and signal == 0 and not torch.isfinite(x0).all():
            raise ValueError(
                f"at timestep {t} alpha-bar is 0: epsilon says nothing about x0; predict x0 or v"
            )
        return x0, epsilon

    def ddpm_step(
        self, output: Tensor, t: int, x: Tensor, generator: torch.Generator | None = None, *,
        prev_t: int | None = None, noise: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Draw from `ddpm_update`; at t 0 its mean. prev_t: default t - 1."""
        variance, prev_t = self.config.variance, t - 1 if prev_t is None else prev_t
        output, extra = split_variance(output, x, variance)
        x0, _ = self.read(output, t, x)
        mean, std = ddpm_update(x0, x, self.level(t, x), self.level(prev_t, x), variance, extra)
        return mean if t == 0 else mean + std * draw(x, generator, noise)

    def ddim_step(
        self, output: Tensor, t: int, x: Tensor, prev_t: int, eta: float = 0.0,
        generator: torch.Generator | None = None, *, noise: Tensor | None = None, consistent: bool = False,
    ) -> Tensor:  # fmt: skip
        """`ddim_update` from t to prev_t. consistent: take epsilon from the bounded x0, not the output."""
        if not 0 <= eta <= 1:
            raise ValueError(f"expected eta from 0 to 1, got {eta}")
        x0, epsilon = self.read(output, t, x)
        if consistent:
            epsilon = estimate(x0, x, *self.roots(t, x), "x0")[1]
        noise = draw(x, generator, noise) if eta else None
        return ddim_update(x0, epsilon, self.level(t, x), self.level(prev_t, x), eta, noise)

    def dpm_step(
        self, output: Tensor, t: int, x: Tensor, prev_t: int, before: tuple[int, Tensor] | None = None
    ) -> Tensor:
        """`dpm_update` from t to prev_t. before: the last t and its estimate of x0, for the second order.

        The step to alpha-bar 1 is of the first order, whatever came before.
        """
        return self.dpm_move(self.read(output, t, x)[0], t, x, prev_t, before)

    def dpm_move(
        self, x0: Tensor, t: int, x: Tensor, prev_t: int, before: tuple[int, Tensor] | None = None
    ) -> Tensor:
        """`dpm_step` for an estimate of x0 that `read` gave."""
        a_prev = self.level(prev_t, x)
        if before is not None:
            before = None if a_prev == 1 else (self.level(before[0], x), before[1])
        return dpm_update(x0, x, self.level(t, x), a_prev, before, self.config.heun)


def spread_timesteps(timesteps: int, steps: int, spacing: str, usable: int, skip_last: bool) -> list[int]:
    """`steps` of the timesteps 0 to `usable` - 1, falling (Lin et al. 2024, table 2).

    "leading": whole strides from 0. "trailing": from the last one down. "linspace": both ends. skip_last:
    take one more of the first and third, and leave the lowest out, as the DPM-Solver does.
    """
    count = steps + skip_last
    if spacing == "trailing":
        stride = timesteps / steps
        stride = usable - (usable - stride)  # rounded as np.arange rounds it
        return [round(usable - i * stride) - 1 for i in range(math.ceil(usable / stride - 1e-9))]
    if spacing == "leading":
        found = [i * (usable // count) for i in range(count)]
    else:
        stride = (usable - 1) / max(count - 1, 1)
        found = [round(i * stride) for i in range(count)]
    return found[::-1][:steps]


class Walk(ReverseSteps):
    """Which timesteps a sampler visits."""

    def path(self, steps: int, method: str | None = None) -> list[tuple[int, int]]:
        """Pairs (t, prev_t) of a sampler that takes `steps` steps; the last goes to -1."""
        c, dpm = self.config, pick("method", method or self.config.method, METHODS) == "dpm"
        usable = self.timesteps
        if dpm and c.log_snr_min > -math.inf:
            usable = int((log_snr(self.alphas_cumprod) >= c.log_snr_min).sum())
        if not 1 <= steps <= usable - dpm:
            raise ValueError(f"expected 1 to {usable - dpm} steps, got {steps}")
        found = spread_timesteps(self.timesteps, steps, c.spacing, usable, dpm)
        found = [t + c.offset for t in found] if c.spacing == "leading" else found
        check_timesteps(found[0], self.timesteps)
        follow = [*found[1:], -1]
        if c.stride and (method or c.method) == "ddim":
            follow = [max(t - self.timesteps // steps, -1) for t in found]
        return list(zip(found, follow, strict=True))


def with_guidance(
    model: Callable, condition: Any = None, null: Any = None, scale: float = 1.0, rescale: float = 0.0
) -> Callable[[Tensor, Tensor], Tensor]:
    """(x, t) -> the model's output for the condition, guided away from that for the null condition.

    At scale 1 there is nothing to guide and the model is asked once. ValueError for another scale without a
    condition or without a null condition.
    """
    if not 0 <= rescale <= 1:
        raise ValueError(f"expected rescale from 0 to 1, got {rescale}")
    if scale == 1.0:
        return model if condition is None else lambda x, t: model(x, t, condition)
    if condition is None or null is None:
        missing = "a condition" if condition is None else "a null condition"
        raise ValueError(f"guidance {scale} needs {missing}, got none")
    return lambda x, t: guide(model(x, t, condition), model(x, t, null), scale, rescale)


class Diffusion(Walk):
    """Gaussian diffusion: noise goes on by `add_noise`, comes off by steps, and `sample` does them all.

    Options: those of `ForwardProcess`, the fields of `SamplerConfig`.
    """

    @torch.no_grad()
    def sample(
        self, model: Callable, noise: Tensor, *, steps: int = 50, method: str | None = None,
        eta: float = 0.0, condition: Any = None, null: Any = None, guidance: float = 1.0,
        rescale: float = 0.0, generator: torch.Generator | None = None, trajectory: bool = False,
    ) -> Tensor:  # fmt: skip
        """From noise (B, ...) to x0 in `steps` steps of "ddpm", "ddim" or "dpm".

        With `trajectory`, all x on the way: (steps + 1, B, ...). The model is called as model(x, t, y) with
        t (B,) and the condition y, or as model(x, t). Guidance as in `with_guidance`. generator: of the
        noise that DDPM, and DDIM with eta > 0, add.
        """
        predict = with_guidance(model, condition, null, guidance, rescale)
        method = method or self.config.method
        pairs, x, before, kept = self.path(steps, method), noise, None, [noise]
        for i, (t, prev_t) in enumerate(pairs):
            output = predict(x, torch.full((len(x),), t, device=x.device))
            if method == "ddpm":
                x = self.ddpm_step(output, t, x, generator, prev_t=prev_t)
            elif method == "ddim":
                x = self.ddim_step(output, t, x, prev_t, eta, generator)
            else:
                euler = self.config.order == 1 or (
                    i == len(pairs) - 1 and len(pairs) < self.config.euler_below
                )
                x0, _ = self.read(output, t, x)
                x, before = self.dpm_move(x0, t, x, prev_t, None if euler else before), (t, x0)
            kept.append(check_finite(x, t))
        return torch.stack(kept) if trajectory else x


def guide(cond: Tensor, null: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """null + scale (cond - null): classifier-free guidance (Ho & Salimans 2022, eq. 6, with w + 1 = scale).

    Both (B, ...). rescale: how far to bring each picture's spread back to that of `cond` (Lin et al. 2024,
    eq. 15 and 16).
    """
    guided = null + scale * (cond - null)
    if not rescale:
        return guided
    axes = tuple(range(1, cond.ndim))
    same_spread = guided * (cond.std(axes, keepdim=True) / guided.std(axes, keepdim=True))
    return rescale * same_spread + (1 - rescale) * guided


@dataclass(kw_only=True)
class DiTConfig:
    """Every knob of a diffusion transformer, with the defaults of Peebles & Xie (2023)."""

    image_size: Size
    patch_size: Size
    dim: int
    depth: int
    num_heads: int
    in_channels: int = 3
    out_channels: int | None = None  # default: in_channels; twice as many to predict variances too
    mlp_dim: int | None = None  # default: 4 D
    act: str = "gelu_pytorch_tanh"
    gated: bool = False
    qkv_bias: bool = True
    norm_affine: bool = False  # weight and bias in the norm before the MLP
    norm_eps: float = 1e-6  # of that norm
    frequencies: int = 256
    frequency_shift: float = 0.0
    shared: bool = True  # one embedding of time and condition for all blocks, as in the paper


def grid_positions(grid: tuple[int, int], base: tuple[int, int], dim: int) -> Tensor:
    """Sine-cosine positions of a grid of patches, stretched over that of training: (rows * cols, D).

    On the grid of training it is `vit.sincos_2d`; another one spreads its patches over the same range.
    """
    if grid == base:
        return sincos_2d(grid, dim)
    omega = 10_000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    axes = (torch.arange(n, dtype=torch.float64) * b / n for n, b in zip(grid, base, strict=True))
    rows, cols = torch.meshgrid(*axes, indexing="ij")
    angles = [axis.reshape(-1, 1) * omega for axis in (cols, rows)]  # each (N, D/4)
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()


def timestep_embedding(t: Tensor, dim: int, *, shift: float = 0.0, max_period: float = 10_000.0) -> Tensor:
    """Cosines, then sines, of t at dim / 2 falling frequencies (Ho et al. 2020, sec. B): (B,) -> (B, dim).

    The lowest turns one radian in about `max_period` timesteps; `shift` 1 makes it exactly that.
    """
    if t.ndim != 1 or dim % 2 or dim < 4:
        raise ValueError(f"expected t (B,) and an even dim >= 4, got {tuple(t.shape)} and {dim}")
    exponent = -math.log(max_period) * torch.arange(dim // 2, device=t.device) / (dim // 2 - shift)
    angles = t[:, None].float() * exponent.exp()  # (B, dim / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Conditioning(nn.Module):
    """Time and condition to the one vector that steers every block: t (B,), y -> (B, D).

    `condition` is any module that turns y into (B, D): an embedding of labels, a mean of words.
    """

    def __init__(self, c: DiTConfig, condition: nn.Module | None = None):
        super().__init__()
        self.frequencies, self.shift = c.frequencies, c.frequency_shift
        self.fc1, self.fc2 = nn.Linear(c.frequencies, c.dim), nn.Linear(c.dim, c.dim)
        self.condition = condition

    def forward(self, t: Tensor, y: Tensor | None = None) -> Tensor:
        waves = timestep_embedding(t, self.frequencies, shift=self.shift).to(self.fc1.weight.dtype)
        c = self.fc2(F.silu(self.fc1(waves)))
        if (y is None) != (self.condition is None):
            expected = "no condition" if self.condition is None else "a condition"
            raise ValueError(f"expected {expected}, got {'none' if y is None else tuple(y.shape)}")
        return c if y is None else c + self.condition(y)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(1 + scale) x + shift for every token (Peebles & Xie 2023, sec. 3.2). x (B, N, D), others (B, D)."""
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


class DiTBlock(nn.Module):
    """A transformer block whose norms and gates are set by the condition: adaLN-Zero.

    x (B, N, D), c (B, D) -> (B, N, D) (Peebles & Xie 2023, fig. 3). Gates start at zero: the block does
    nothing until it is trained.
    """

    def __init__(self, c: DiTConfig):
        super().__init__()
        self.modulation = nn.Linear(c.dim, 6 * c.dim)
        self.norm1 = nn.LayerNorm(c.dim, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(c.dim, num_heads=c.num_heads, qkv_bias=c.qkv_bias)
        self.norm2 = nn.LayerNorm(c.dim, eps=c.norm_eps, elementwise_affine=c.norm_affine)
        self.mlp = FeedForward(c.dim, hidden=c.mlp_dim or 4 * c.dim, act=c.act, gated=c.gated)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(c)).chunk(6, dim=1)
        h = self.attention(modulate(self.norm1(x), shift1, scale1))
        x = torch.addcmul(x, gate1[:, None], h)
        h = self.mlp(modulate(self.norm2(x), shift2, scale2))
        return torch.addcmul(x, gate2[:, None], h)


class DiT(nn.Module):
    """Diffusion transformer (Peebles & Xie 2023): a noisy picture, the time and a condition to a prediction.

    x (B, C, H, W), t (B,) or a number, y as the `condition` module wants it -> (B, out_channels, H, W).
    Options: the fields of `DiTConfig`. Without `condition` the model takes no y.
    """

    def __init__(self, image_size: Size, *, condition: nn.Module | None = None, **options):
        super().__init__()
        c = self.config = DiTConfig(image_size=image_size, **options)
        self.grid = patch_grid(*pair(c.image_size), c.patch_size)
        self.embed = PatchEmbedding(c.patch_size, dim=c.dim, in_channels=c.in_channels)
        self.register_buffer("positions", sincos_2d(self.grid, c.dim), persistent=False)
        self.conditioning = nn.ModuleList(Conditioning(c) for _ in range(1 if c.shared else c.depth))
        self.blocks = nn.ModuleList(DiTBlock(c) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.dim, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(c.dim, 2 * c.dim)
        area = math.prod(pair(c.patch_size))
        self.head = nn.Linear(c.dim, area * (c.in_channels if c.out_channels is None else c.out_channels))
        initialise_weights(self, c.depth)
        for layer in (*(block.modulation for block in self.blocks), self.modulation, self.head):
            nn.init.zeros_(layer.weight)  # every gate shut, the first prediction zero
        for part in self.conditioning:
            part.condition = condition if c.shared else copy.deepcopy(condition)

    def forward(self, x: Tensor, t: Tensor | float, y: Tensor | None = None) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.config.in_channels:
            raise ValueError(f"expected x (B, {self.config.in_channels}, H, W), got {tuple(x.shape)}")
        t = torch.as_tensor(t, device=x.device)
        t = t.expand(len(x)) if t.ndim == 0 else t
        grid = patch_grid(x.shape[2], x.shape[3], self.config.patch_size)
        own = grid == self.grid
        places = self.positions if own else grid_positions(grid, self.grid, self.config.dim).to(x)
        x = self.embed(x) + places  # (B, N, D)
        steer = [part(t, y) for part in self.conditioning]  # each (B, D)
        for i, block in enumerate(self.blocks):
            x = block(x, steer[i % len(steer)])
        x = modulate(self.norm(x), *self.modulation(F.silu(steer[0])).chunk(2, dim=1))
        return unpatchify(self.head(x), self.config.patch_size, grid)


class EMA:
    """A running mean of a model's weights: `average` is the model to sample from (Polyak & Juditsky 1992).

    `update(model)` after each step of the optimiser. The decay rises from 0.1 to `decay`, so that the first
    weights are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ValueError(f"expected decay in [0, 1), got {decay}")
        self.average, self.decay, self.steps = copy.deepcopy(model).eval().requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, self.steps / (9 + self.steps))
        for mean, now in zip(self.average.state_dict().values(), model.state_dict().values(), strict=True):
            mean.lerp_(now.to(mean), 1 - decay) if mean.is_floating_point() else mean.copy_(now)


FROM_DIT = {
    r"^pos_embed\.proj\.": "embed.linear.",
    r"^transformer_blocks\.(\d+)\.norm1\.emb\.": r"conditioning.\1.",
    r"\.timestep_embedder\.linear_": ".fc",
    r"\.class_embedder\.embedding_table\.": ".condition.",
    r"^transformer_blocks\.": "blocks.",
    r"\.norm1\.linear\.": ".modulation.",
    r"\.attn1\.to_([qkv])\.": r".attention.\1_proj.",
    r"\.attn1\.to_out\.0\.": ".attention.out.",
    r"\.norm3\.": ".norm2.",
    r"\.ff\.net\.0\.proj\.": ".mlp.fc1.",
    r"\.ff\.net\.2\.": ".mlp.fc2.",
    r"^proj_out_1\.": "modulation.",
    r"^proj_out_2\.": "head.",
}
DIT_ACTIVATIONS = {  # of diffusers: ours, gated
    "gelu": ("gelu", False), "gelu-approximate": ("gelu_pytorch_tanh", False), "linear-silu": ("silu", False),
    "geglu": ("gelu", True), "swiglu": ("silu", True), "geglu-approximate": ("quick_gelu", False),
}  # fmt: skip


def dit_from_diffusers(model: nn.Module) -> DiT:
    """Our DiT with the shape and weights of diffusers' `DiTTransformer2DModel`.

    There every block owns an embedding of time and label. Where all hold the same numbers, ours has one.
    """
    check_type(model, "DiTTransformer2DModel")
    c = model.config
    if c.dropout:
        raise ValueError(f"expected dropout 0, got {c.dropout}")
    act, gated = DIT_ACTIVATIONS[pick("activation_fn", c.activation_fn, DIT_ACTIVATIONS)]
    first, *others = ([*b.norm1.emb.state_dict().values()] for b in model.transformer_blocks)
    shared = all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
    dim = c.num_attention_heads * c.attention_head_dim
    channels = c.in_channels if c.out_channels is None else c.out_channels
    ours = DiT(
        c.sample_size, patch_size=c.patch_size, dim=dim, depth=c.num_layers, num_heads=c.num_attention_heads,
        in_channels=c.in_channels, out_channels=channels, act=act, gated=gated, qkv_bias=c.attention_bias,
        norm_affine=c.norm_elementwise_affine, norm_eps=c.norm_eps, frequency_shift=1.0, shared=shared,
        condition=nn.Embedding(c.num_embeds_ada_norm + 1, dim),
    )  # fmt: skip

    def edit(state: dict[str, Tensor]) -> None:
        for name in [name for name in state if shared and re.match(r"conditioning\.[1-9]", name)]:
            del state[name]
        for name in ("head.weight", "head.bias"):  # their patches are channel last
            rows = state[name].unflatten(0, (c.patch_size**2, channels))
            state[name] = rows.transpose(0, 1).flatten(0, 1)
        for name in [name for name in state if gated and ".mlp.fc1." in name]:  # theirs: value, gate
            state[name] = torch.cat(state[name].chunk(2)[::-1])
        state["embed.linear.weight"] = state["embed.linear.weight"].flatten(1)

    return load_mapped(model, ours, FROM_DIT, edit)


DPM_REFUSED = (
    "karras_sigmas",
    "exponential_sigmas",
    "beta_sigmas",
    "lu_lambdas",
    "flow_sigmas",
    "dynamic_shifting",
)


def dpm_options(c: Any, first: float) -> dict[str, Any]:
    """Options of `Diffusion` from a DPMSolverMultistepScheduler's configuration; ValueError out of scope."""
    fixed = dict(algorithm_type="dpmsolver++", variance_type=None)
    fixed |= dict.fromkeys((f"use_{kind}" for kind in DPM_REFUSED), False)
    for name, value in fixed.items():
        if getattr(c, name) != value:
            raise ValueError(f"expected {name} {value}, got {getattr(c, name)}")
    below = c.num_train_timesteps + 1 if c.euler_at_final else 15 if c.lower_order_final else 0
    return dict(
        order=c.solver_order, heun=c.solver_type == "heun", euler_below=below,
        final=first if c.final_sigmas_type == "sigma_min" else 1.0, log_snr_min=c.lambda_min_clipped,
    )  # fmt: skip


def from_diffusers(reference: Any) -> "Diffusion | DiT":
    """Ours in place of diffusers': a `Diffusion` for a scheduler, a `DiT` for a `DiTTransformer2DModel`.

    DDPMScheduler, DDIMScheduler and DPMSolverMultistepScheduler (DPM-Solver++ of order 1 or 2), with their
    alpha-bar as it is. ValueError for what ours does not do.
    """
    kinds = {"DDPMScheduler": "ddpm", "DDIMScheduler": "ddim", "DPMSolverMultistepScheduler": "dpm"}
    kind = check_type(reference, *kinds, "DiTTransformer2DModel")
    if kind == "DiTTransformer2DModel":
        return dit_from_diffusers(reference)
    c, method = reference.config, kinds[kind]
    options: dict[str, Any] = dict(
        method=method, spacing=c.timestep_spacing, offset=c.steps_offset, zero_snr=c.rescale_betas_zero_snr
    )
    if c.thresholding:
        options["threshold"] = (c.dynamic_thresholding_ratio, c.sample_max_value)
    elif method != "dpm" and c.clip_sample:
        options["clip"] = c.clip_sample_range
    if method == "ddpm":
        options["variance"] = c.variance_type.removeprefix("fixed_").removesuffix("_log")
        if c.variance_type == "fixed_large_log":  # there the root of a negative number is taken
            raise ValueError("expected a variance_type other than fixed_large_log")
    elif method == "ddim":
        options |= dict(stride=True, final=reference.final_alpha_cumprod.item())
    else:
        options |= dpm_options(c, reference.alphas_cumprod[0].item())
    return Diffusion(c.num_train_timesteps, reference.alphas_cumprod.cpu(), c.prediction_type, **options)


class AttributeJudge(nn.Module):
    """Reads colour, shape and size off a picture of one object: (B, 3, H, W) -> logits (B, sum of classes).

    classes: how many there are of each. `body` gives the features (B, 2 width) that a Frechet distance uses.
    """

    def __init__(self, classes: tuple[int, ...] = (8, 6, 2), *, width: int = 48):
        super().__init__()
        self.classes, widths, layers = tuple(classes), (3, width, width, 2 * width, 2 * width), []
        for i, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            layers += [nn.Conv2d(before, after, 3, stride=1 + i % 2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.head = nn.Linear(2 * width, sum(self.classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """The likeliest class of each attribute, (B, len(classes))."""
        return torch.stack([part.argmax(1) for part in self(images).split(self.classes, dim=1)], dim=1)

    def shares(self, images: Tensor, asked: Tensor) -> dict[str, float]:
        """Share of images (B, 3, H, W) read as `asked` (B, 3) says: in colour, in shape, in both."""
        right = self.read(images) == asked
        parts = {"colour": right[:, 0], "shape": right[:, 1], "both": right[:, :2].all(1)}
        return {name: part.float().mean().item() for name, part in parts.items()}


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Between two sets of features (n, D) and (m, D), taken as Gaussians (Heusel et al. 2017, eq. 6).

    |mean difference|^2 + tr(A + B - 2 (A^(1/2) B A^(1/2))^(1/2)) of the covariances A and B. Few pictures
    make it larger: compare only sets of one size.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"expected features (n, D) and (m, D), n, m >= 2, got {tuple(a.shape)}, {tuple(b.shape)}"
        )
    a, b = a.double(), b.double()
    A, B = a.T.cov(), b.T.cov()
    values, vectors = torch.linalg.eigh(A)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ B @ root).clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + A.trace() + B.trace() - 2 * cross).item()


def small_painter(vocab_size: int, *, padding_idx: int) -> DiT:
    """The painter of this book: 16 pixels, 16 patch tokens 128 wide, four blocks.

    Its condition is the mean of a caption's word vectors, y (B, T); `padding_idx` alone is no condition.
    """
    words = nn.EmbeddingBag(vocab_size, 128, mode="mean", padding_idx=padding_idx)
    return DiT(16, patch_size=4, dim=128, depth=4, num_heads=4, condition=words)
