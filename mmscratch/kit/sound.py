"""What happens to speech between a mouth and a recogniser: noise, a room, a telephone. Added on the fly.

Every function takes waveforms (..., L), floating, and returns the same shape; rates are in samples a second.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def noise(*shape: int, slope: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
    """Noise (..., L) of mean square 1; power falls as frequency ** -slope: 0 white, 1 pink, 2 brown."""
    if not shape or shape[-1] < 2:
        raise ValueError(f"expected noise of at least two samples, got shape {shape}")
    spectrum = torch.fft.rfft(torch.randn(shape, generator=generator))
    steps = torch.arange(spectrum.shape[-1]).clamp(min=1)
    made = torch.fft.irfft(spectrum * steps ** (-slope / 2), n=shape[-1])
    return made / power(made).sqrt()


def power(waveform: Tensor) -> Tensor:
    """Mean square over time, (..., L) -> (..., 1)."""
    return waveform.square().mean(dim=-1, keepdim=True)


def add_noise(
    waveform: Tensor,
    snr: float | Tensor,
    *,
    slope: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Speech plus noise at a signal-to-noise ratio in decibels, one for all or one each (...).

    The speech's power is measured over its whole length, pauses among it. A silent waveform stays silent.
    """
    _check(waveform)
    snr = torch.as_tensor(snr, dtype=waveform.dtype, device=waveform.device)
    if snr.shape not in ((), waveform.shape[:-1]) or not snr.isfinite().all():
        raise ValueError(f"expected one finite snr or {tuple(waveform.shape[:-1])} of them, got {snr}")
    made = noise(*waveform.shape, slope=slope, generator=generator).to(waveform)
    return waveform + made * (power(waveform) * 10 ** (-snr[..., None] / 10)).sqrt()


def add_room(
    waveform: Tensor,
    *,
    decay: float = 0.3,
    distance: float = 1.0,
    rate: int = 16_000,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Speech as heard in a room: convolved with noise that dies away (Polack 1988), each row in its own room.

    decay: seconds until the echo has lost 60 dB. distance: energy of the echo over that of the direct sound.
    The power stays what it was.
    """
    _check(waveform)
    if decay <= 0 or distance < 0:
        raise ValueError(f"expected decay > 0 and distance >= 0, got {decay} and {distance}")
    length = max(2, round(decay * rate))
    times = torch.arange(length) / length
    tail = torch.randn(*waveform.shape[:-1], length, generator=generator) * 10 ** (-3 * times)
    tail[..., 0] = 0
    tail = tail * (distance / tail.square().sum(dim=-1, keepdim=True)).sqrt()
    tail[..., 0] = 1  # the direct sound
    size = 2 ** math.ceil(math.log2(waveform.shape[-1] + length))
    wet = torch.fft.irfft(torch.fft.rfft(waveform, size) * torch.fft.rfft(tail.to(waveform), size), size)
    wet = wet[..., : waveform.shape[-1]]
    return wet * (power(waveform) / power(wet).clamp(min=1e-12)).sqrt()


def band_limit(waveform: Tensor, high: float, *, low: float = 0.0, rate: int = 16_000) -> Tensor:
    """Speech without what lies outside `low` to `high` Hz: a telephone keeps 300 to 3,400."""
    _check(waveform)
    if not 0 <= low < high <= rate / 2:
        raise ValueError(f"expected 0 <= low < high <= {rate / 2:g} Hz, got {low} and {high}")
    length = waveform.shape[-1]
    frequency = torch.fft.rfftfreq(length, 1 / rate)
    kept = (frequency >= low) & (frequency <= high)
    return torch.fft.irfft(torch.fft.rfft(waveform) * kept.to(waveform), n=length)


def _check(waveform: Tensor) -> None:
    if waveform.ndim < 1 or waveform.shape[-1] < 2 or not waveform.is_floating_point():
        raise ValueError(
            f"expected floating waveforms (..., L), L >= 2, got {waveform.dtype} {tuple(waveform.shape)}"
        )
