"""`mmscratch.modalities` against torch: strided convolutions, `Unfold` and `stft`, over awkward sizes.

No two sizes are equal where it can be helped, so that an exchanged axis shows. Each mutant breaks our side in
one way that keeps every shape; the comparison must notice.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import nn

from mmscratch.kit.reference import Case, mutants


def noise(*shape):
    return lambda: torch.randn(*shape, generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------------------------------------------------
# Tubelets and patches


def from_convolution(conv):
    from mmscratch import modalities

    return modalities.tubelets_from_convolution(conv)


def kernel(net, change):
    """Apply `change` to the weights seen as a kernel (D, C, t, p, q)."""
    weight = net.linear.weight
    weight.copy_(change(weight.view(len(weight), -1, *net.size)).reshape(weight.shape))


def time_before_colour(net):
    kernel(net, lambda w: w.transpose(1, 2))


def rows_and_columns_exchanged(net):
    kernel(net, lambda w: w.transpose(3, 4))


def backwards_in_time(net):
    kernel(net, lambda w: w.flip(2))


def channels_reversed(net):
    kernel(net, lambda w: w.flip(1))


def no_bias(net):
    net.linear.bias.zero_()


def tokens_shifted(net):
    net.register_forward_hook(lambda module, inputs, tokens: tokens.roll(1, dims=1))


def as_tokens(conv, x):
    """The convolution's output as (B, N, D); films come as (B, T, C, H, W)."""
    x = x.transpose(1, 2) if x.ndim == 5 else x
    return conv(x).flatten(2).transpose(1, 2)


def embedding(name, cls, kernel_size, inputs, *changes, channels=3, dim=10, bias=True, **fields):
    return Case(
        name,
        lambda: cls(channels, dim, kernel_size, stride=kernel_size, bias=bias),
        from_convolution,
        inputs,
        call_reference=as_tokens,
        wrong=mutants(from_convolution, *changes),
        primitive="modalities.TubeletEmbedding",
        library=f"torch {cls.__name__}",
        **fields,
    )


film = functools.partial(embedding, cls=nn.Conv3d)
picture = functools.partial(embedding, cls=nn.Conv2d)

EMBEDDINGS = [
    film(
        "tubelets 2 x 6 x 4",
        kernel_size=(2, 6, 4),
        inputs=noise(2, 6, 3, 18, 20),
    ),
    embedding(
        "tubelets 3 x 4 x 4",
        nn.Conv3d,
        (3, 4, 4),
        noise(2, 6, 3, 8, 20),
        time_before_colour,
        rows_and_columns_exchanged,
        backwards_in_time,
        channels_reversed,
        no_bias,
        tokens_shifted,
    ),
    film("one frame deep", kernel_size=(1, 5, 3), inputs=noise(3, 4, 3, 10, 9)),
    film("one tubelet", kernel_size=(4, 6, 2), inputs=noise(5, 4, 3, 6, 2)),
    film("one number each", kernel_size=(1, 1, 1), inputs=noise(2, 3, 5, 4, 7), channels=5, bias=False),
    film("one channel, no bias", kernel_size=(2, 3, 7), inputs=noise(2, 4, 1, 9, 14), channels=1, bias=False),
    film(
        "ViViT tubelets, 8 frames of 224 px",
        kernel_size=(2, 16, 16),
        inputs=noise(2, 8, 3, 224, 224),
        dim=192,
        bench="realistic",
    ),
    embedding(
        "patches 6 x 6",
        nn.Conv2d,
        (6, 6),
        noise(2, 3, 12, 30),
        rows_and_columns_exchanged,
        channels_reversed,
        no_bias,
        tokens_shifted,
    ),
    picture("patches 4 x 7, five channels", kernel_size=(4, 7), inputs=noise(3, 5, 12, 21), channels=5),
    picture("one patch", kernel_size=(9, 4), inputs=noise(2, 3, 9, 4), bias=False),
    picture(
        "ViT patches, 224 px", kernel_size=(16, 16), inputs=noise(4, 3, 224, 224), dim=192, bench="realistic"
    ),
]

# ---------------------------------------------------------------------------------------------------------
# Cutting alone


def unfolded(patch_size, images):
    return F.unfold(images, patch_size, stride=patch_size).transpose(1, 2)


def cut(patch_size, change=None):
    def ours(reference):
        from mmscratch import modalities

        run = functools.partial(modalities.cut_patches, patch_size=patch_size)
        return run if change is None else lambda images: change(run, images)

    return ours


def without_permute(run, images):
    return images.reshape(run(images).shape)


def by_column(run, images):
    """Pictures laid on their side: right for square ones with square patches up to order."""
    return run(images.transpose(2, 3)).reshape(run(images).shape)


def cutting(name, patch_size, inputs, **fields):
    wrong = {
        change.__name__.replace("_", " "): cut(patch_size, change) for change in (without_permute, by_column)
    }
    return Case(
        name,
        lambda: functools.partial(unfolded, patch_size),
        cut(patch_size),
        inputs,
        wrong=wrong if fields.pop("with_wrong", True) else {},
        primitive="modalities.cut_patches",
        library="torch Unfold",
        **fields,
    )


CUTS = [
    cutting("patches 4 x 7", (4, 7), noise(2, 5, 12, 28), with_wrong=False),
    cutting("patches 3 x 3", (3, 3), noise(2, 2, 9, 15)),
    cutting("one patch", (6, 5), noise(3, 2, 6, 5), with_wrong=False),
    cutting("16 px of 224", (16, 16), noise(4, 3, 224, 224), bench="realistic"),
]

# ---------------------------------------------------------------------------------------------------------
# Spectra


def stft(size, hop, center, waveform, *, window=torch.hann_window, floor=1e-10):
    X = torch.stft(waveform, size, hop, window=window(size), center=center, return_complex=True)
    return X.abs().square().clamp(min=floor).log10().transpose(1, 2)


def spectrum(size, hop, center):
    def ours(reference):
        from mmscratch import modalities

        return functools.partial(modalities.log_spectrum, size=size, hop=hop, center=center)

    return ours


def symmetric_hann(size):
    """The window whose two ends are both zero, which filter design uses and `stft` does not."""
    return torch.hann_window(size, periodic=False)


def wrong_spectra(size, hop, center):
    run = functools.partial(stft, size, hop, center)
    return {
        "no window": lambda reference: functools.partial(run, window=torch.ones),
        "Hamming": lambda reference: functools.partial(run, window=torch.hamming_window),
        "symmetric window": lambda reference: functools.partial(run, window=symmetric_hann),
        "amplitude": lambda reference: lambda x: run(x) / 2,
        "natural logarithm": lambda reference: lambda x: run(x) * 2.302585,
        "shifted by a sample": lambda reference: lambda x: run(x.roll(1, dims=1)),
    }


def sound(name, size, hop, center, inputs, *, with_wrong=False, **fields):
    return Case(
        name,
        lambda: functools.partial(stft, size, hop, center),
        spectrum(size, hop, center),
        inputs,
        wrong=wrong_spectra(size, hop, center) if with_wrong else {},
        primitive="modalities.log_spectrum",
        library="torch stft",
        **fields,
    )


SPECTRA = [
    sound("400 samples, hop 160, last frame not full", 400, 160, False, noise(3, 3_001), with_wrong=True),
    sound("400 samples, hop 160, centred", 400, 160, True, noise(3, 3_001), with_wrong=True),
    sound("odd size", 7, 3, True, noise(2, 50)),
    sound("odd size, not centred", 9, 4, False, noise(2, 50)),
    sound("one frame", 64, 10, False, noise(5, 64)),
    sound("hop longer than the frame", 16, 25, False, noise(2, 200)),
    sound("hop of one", 12, 1, False, noise(2, 40)),
    sound("four samples", 4, 2, True, noise(3, 21)),
    sound("ten seconds at 16 kHz", 400, 160, True, noise(4, 160_000), bench="realistic"),
]

CASES = [*EMBEDDINGS, *CUTS, *SPECTRA]
