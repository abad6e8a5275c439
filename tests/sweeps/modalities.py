"""Tubelets, patches and spectra of any size."""

from hypothesis import strategies as st
from torch import nn


def films(draw, parity):
    kernel = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    T, H, W = (size * draw(st.integers(1, 3)) for size in kernel)
    B, C, dim, bias = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 5)),
        draw(st.integers(1, 12)),
        draw(st.booleans()),
    )
    inputs = parity.noise(B, T, C, H, W)
    name = f"{(B, T, C, H, W)} by {kernel} to {dim}, bias {bias}"
    return parity.embedding(name, nn.Conv3d, kernel, inputs, channels=C, dim=dim, bias=bias)


def pictures(draw, parity):
    kernel = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    H, W = (size * draw(st.integers(1, 4)) for size in kernel)
    B, C, dim, bias = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 5)),
        draw(st.integers(1, 12)),
        draw(st.booleans()),
    )
    name = f"{(B, C, H, W)} by {kernel} to {dim}, bias {bias}"
    inputs = parity.noise(B, C, H, W)
    return parity.embedding(name, nn.Conv2d, kernel, inputs, channels=C, dim=dim, bias=bias)


def cuts(draw, parity):
    patch = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    H, W = (size * draw(st.integers(1, 4)) for size in patch)
    B, C = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    return parity.cutting(f"{(B, C, H, W)} by {patch}", patch, parity.noise(B, C, H, W), with_wrong=False)


def spectra(draw, parity):
    size, hop, center = draw(st.integers(3, 64)), draw(st.integers(1, 40)), draw(st.booleans())
    B, length = draw(st.integers(1, 3)), size + 2 * draw(st.integers(0, 99))
    name = f"{B} x {length}, size {size}, hop {hop}, centred {center}"
    return parity.sound(name, size, hop, center, parity.noise(B, length))


SWEEPS = [films, pictures, cuts, spectra]
