"""Text, image, audio and video as tensors.

Collected from notebooks/01_modalities.ipynb by `make export`: edit the notebook, not this file.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "BYTE_PAD",
    "EarlyFusion",
    "JointFusion",
    "LateFusion",
    "TokenEmbedding",
    "TubeletEmbedding",
    "Words",
    "build_encoder",
    "count_frames",
    "cut_frames",
    "cut_patches",
    "cut_tubelets",
    "decode_bytes",
    "encode_bytes",
    "join_tubelets",
    "log_spectrum",
    "tubelet_grid",
    "tubelets_from_convolution",
]

BYTE_PAD = 256  # one more than the largest byte


def _pad_rows(texts: Sequence[str], rows: list[list[int]], fill: int, length: int | None) -> Tensor:
    """Rows of whole numbers as one (B, T) tensor, filled up on the right."""
    if isinstance(texts, str):
        raise TypeError(f"expected a list of texts, got one string {texts!r}")
    longest = max(map(len, rows), default=0)
    length = longest if length is None else length
    if longest > length:
        raise ValueError(f"expected at most {length} tokens, got a text of {longest}")
    return torch.tensor([row + [fill] * (length - len(row)) for row in rows], dtype=torch.long).view(
        len(rows), length
    )


def encode_bytes(texts: Sequence[str], length: int | None = None) -> Tensor:
    """Texts as UTF-8 bytes, filled up on the right with BYTE_PAD: (B, T) long, as in ByT5 (Xue et al. 2022).

    length: T; by default that of the longest text. TypeError for a single string, ValueError for a text
    that does not fit: nothing is cut in silence.
    """
    return _pad_rows(texts, [list(text.encode("utf-8")) for text in texts], BYTE_PAD, length)


def decode_bytes(ids: Tensor) -> list[str]:
    """The texts of (B, T) bytes; BYTE_PAD is left out, bytes that are no UTF-8 read as U+FFFD."""
    if (
        ids.ndim != 2
        or ids.is_floating_point()
        or ids.numel()
        and not 0 <= ids.min() <= ids.max() <= BYTE_PAD
    ):
        raise ValueError(
            f"expected (B, T) whole numbers from 0 to {BYTE_PAD}, got {tuple(ids.shape)} {ids.dtype}"
        )
    return [bytes(b for b in row if b != BYTE_PAD).decode("utf-8", "replace") for row in ids.tolist()]


class Words:
    """Whole words as tokens: the `size` commonest words of a corpus (all by default), <pad> 0 and <unk> 1.

    Raises ValueError for a corpus without words, TypeError for a single string.
    """

    def __init__(self, corpus: Sequence[str], size: int | None = None):
        if isinstance(corpus, str):
            raise TypeError(f"expected a list of texts, got one string {corpus!r}")
        counts = Counter(word for text in corpus for word in self.split(text))
        if not counts:
            raise ValueError("expected a corpus with at least one word, got none")
        self.words = ["<pad>", "<unk>", *(word for word, _ in counts.most_common(size))]
        self.ids = {word: i for i, word in enumerate(self.words)}

    @staticmethod
    def split(text: str) -> list[str]:
        """Words and single punctuation marks, lower case."""
        return re.findall(r"\w+|[^\w\s]", text.lower())

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, texts: Sequence[str], length: int | None = None) -> Tensor:
        """(B, T) long, filled up on the right with 0; words outside the vocabulary become 1."""
        rows = [[self.ids.get(word, 1) for word in self.split(text)] for text in texts]
        return _pad_rows(texts, rows, 0, length)

    def decode(self, ids: Tensor) -> list[str]:
        """The words of (B, T) numbers, joined by spaces, without <pad>."""
        if ids.numel() and not 0 <= ids.min() <= ids.max() < len(self):
            raise ValueError(
                f"expected numbers from 0 to {len(self) - 1}, got {int(ids.min())} to {int(ids.max())}"
            )
        return [" ".join(self.words[i] for i in row if i) for row in ids.tolist()]


def _tubelet_size(size: tuple[int, int, int]) -> tuple[int, int, int]:
    if len(size) != 3 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ValueError(f"expected a tubelet of (frames, height, width), whole and positive, got {size!r}")
    return tuple(size)


def tubelet_grid(frames: int, height: int, width: int, size: tuple[int, int, int]) -> tuple[int, int, int]:
    """How many tubelets fit in time, height and width; ValueError where they do not fit evenly."""
    size = _tubelet_size(size)
    for name, n, step in zip(("frames", "height", "width"), (frames, height, width), size, strict=True):
        if n < step or n % step:
            raise ValueError(f"{name} {n} is not a positive multiple of {step}")
    return frames // size[0], height // size[1], width // size[2]


def cut_tubelets(video: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Cut films into boxes of t frames, p rows, q columns (Arnab et al. 2021, sec. 3.2).

    video (B, T, C, H, W) -> (B, N, C*t*p*q), earliest first, then row by row. Each box is flattened colour
    first, as the kernel of a convolution is. ValueError where boxes do not fit evenly.
    """
    if video.ndim != 5:
        raise ValueError(f"expected video of shape (B, T, C, H, W), got {tuple(video.shape)}")
    B, T, C, H, W = video.shape
    (steps, rows, cols), (t, p, q) = tubelet_grid(T, H, W, size), size
    x = video.reshape(B, steps, t, C, rows, p, cols, q)
    x = x.permute(0, 1, 4, 6, 3, 2, 5, 7)  # which box | C, t, p, q
    return x.reshape(B, steps * rows * cols, C * t * p * q)


def join_tubelets(tokens: Tensor, size: tuple[int, int, int], grid: tuple[int, int, int]) -> Tensor:
    """The inverse of `cut_tubelets`: (B, N, C*t*p*q) and the grid (steps, rows, cols) -> (B, T, C, H, W)."""
    (steps, rows, cols), (t, p, q) = grid, size
    if tokens.ndim != 3 or tokens.shape[1] != math.prod(grid) or tokens.shape[2] % math.prod(size):
        raise ValueError(f"expected (B, {math.prod(grid)}, C*{math.prod(size)}), got {tuple(tokens.shape)}")
    x = tokens.reshape(len(tokens), steps, rows, cols, -1, t, p, q)
    x = x.permute(0, 1, 5, 4, 2, 6, 3, 7)  # (B, steps, t, C, rows, p, cols, q)
    return x.reshape(len(tokens), steps * t, -1, rows * p, cols * q)


def cut_patches(images: Tensor, patch_size: int | tuple[int, int]) -> Tensor:
    """Patches of pictures, tubelets of one frame: (B, C, H, W) -> (B, N, C*p*q), row by row."""
    if images.ndim != 4:
        raise ValueError(f"expected images of shape (B, C, H, W), got {tuple(images.shape)}")
    p, q = patch_size if isinstance(patch_size, tuple) else (patch_size, patch_size)
    return cut_tubelets(images[:, None], (1, p, q))


def count_frames(samples: int, size: int, hop: int) -> int:
    """How many frames of `size` samples fit, one every `hop`; ValueError where not even one does."""
    if not all(isinstance(n, int) and n > 0 for n in (size, hop)):
        raise ValueError(f"expected size and hop to be positive whole numbers, got {size!r} and {hop!r}")
    if samples < size:
        raise ValueError(f"expected at least {size} samples for one frame, got {samples}")
    return 1 + (samples - size) // hop


def cut_frames(waveform: Tensor, size: int, hop: int) -> Tensor:
    """Overlapping pieces of sound: (B, L) -> (B, frames, size). A last piece that is not full is left out."""
    if waveform.ndim != 2:
        raise ValueError(f"expected a waveform of shape (B, L), got {tuple(waveform.shape)}")
    count_frames(waveform.shape[1], size, hop)
    return waveform.unfold(1, size, hop)  # a view: nothing is copied


def log_spectrum(
    waveform: Tensor, size: int, hop: int, *, center: bool = False, floor: float = 1e-10
) -> Tensor:
    """Log10 of the power of each frequency in each frame, as Whisper takes it (Radford et al. 2023).

    waveform (B, L) -> (B, frames, size // 2 + 1); bin k stands for k * rate / size hertz. center: mirror
    size // 2 samples at both ends, so that frame i is centred on sample i * hop. floor: least power.
    """
    if floor <= 0:
        raise ValueError(f"expected a floor above 0, since the logarithm of silence has none, got {floor}")
    if not waveform.is_floating_point():
        raise ValueError(f"expected a floating waveform, got {waveform.dtype}")
    if center and waveform.ndim == 2:
        if waveform.shape[1] <= size // 2:
            raise ValueError(f"expected more than {size // 2} samples to mirror, got {waveform.shape[1]}")
        waveform = F.pad(waveform, (size // 2, size // 2), mode="reflect")
    frames = cut_frames(waveform, size, hop)
    window = torch.hann_window(size, dtype=waveform.dtype, device=waveform.device)
    X = torch.fft.rfft(frames * window)  # (B, frames, size // 2 + 1), complex
    return (X.real.square() + X.imag.square()).clamp(min=floor).log10()


class TokenEmbedding(nn.Module):
    """Tokens of one modality as vectors: content + place + a mark of the modality.

    features: length of a token that is a vector, (B, N, features) -> (B, N, D). Or vocab_size: the number of
    listed tokens, (B, N) whole numbers -> (B, N, D). length: the longest sequence. ValueError for neither
    or both, or a sequence that is too long.
    """

    def __init__(self, features: int | None = None, *, dim: int, length: int, vocab_size: int | None = None):
        super().__init__()
        if (features is None) == (vocab_size is None):
            raise ValueError(f"expected features or vocab_size, got {features} and {vocab_size}")
        self.content = nn.Linear(features, dim) if vocab_size is None else nn.Embedding(vocab_size, dim)
        self.position = nn.Parameter(0.3 * torch.randn(length, dim))
        self.modality = nn.Parameter(0.3 * torch.randn(dim))

    def forward(self, tokens: Tensor) -> Tensor:
        N = tokens.shape[1]
        if N > len(self.position):
            raise ValueError(f"expected at most {len(self.position)} tokens, got {N}")
        return self.content(tokens) + self.position[:N] + self.modality


def build_encoder(dim: int, depth: int = 1, num_heads: int = 4) -> nn.Module:
    """A stack of transformer layers without a mask: (B, N, D) -> (B, N, D).

    ValueError where the heads do not divide the width.
    """
    if num_heads < 1 or dim % num_heads:
        raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}")
    layer = nn.TransformerEncoderLayer(
        dim, num_heads, 2 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


class EarlyFusion(nn.Module):
    """One encoder over all tokens: h(f([X; Y])). image (B, N, D), text (B, T, D) -> logits (B, K)."""

    def __init__(self, dim: int, *, num_classes: int, **encoder):
        super().__init__()
        self.both = build_encoder(dim, **encoder)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        tokens = torch.cat([image, text], dim=1)  # (B, N + T, D)
        return self.head(self.both(tokens).mean(dim=1))


class JointFusion(nn.Module):
    """Features meet: h([f(X); g(Y)]). image (B, N, D), text (B, T, D) -> logits (B, K)."""

    def __init__(self, dim: int, *, num_classes: int, **encoder):
        super().__init__()
        self.image, self.text = build_encoder(dim, **encoder), build_encoder(dim, **encoder)
        self.meet = nn.Sequential(nn.Linear(2 * dim, 2 * dim), nn.GELU())
        self.head = nn.Linear(2 * dim, num_classes)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        features = [self.image(image).mean(dim=1), self.text(text).mean(dim=1)]
        return self.head(self.meet(torch.cat(features, dim=1)))  # (B, 2D) -> (B, K)


class LateFusion(nn.Module):
    """Decisions meet: h1(f(X)) + h2(g(Y)). image (B, N, D), text (B, T, D) -> logits (B, K).

    A batch of one on either side is shared by all of the other.
    """

    def __init__(self, dim: int, *, num_classes: int, **encoder):
        super().__init__()
        self.image, self.text = build_encoder(dim, **encoder), build_encoder(dim, **encoder)
        self.image_head, self.text_head = nn.Linear(dim, num_classes), nn.Linear(dim, num_classes)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        seen = self.image_head(self.image(image).mean(dim=1))
        read = self.text_head(self.text(text).mean(dim=1))
        return seen + read


class TubeletEmbedding(nn.Module):
    """One linear map shared by all tubelets (Arnab et al. 2021, sec. 3.2): (B, T, C, H, W) -> (B, N, D).

    Pictures (B, C, H, W) are films of one frame.
    """

    def __init__(self, size: tuple[int, int, int], *, dim: int, in_channels: int = 3, bias: bool = True):
        super().__init__()
        self.size = _tubelet_size(size)
        self.linear = nn.Linear(in_channels * math.prod(size), dim, bias=bias)

    def forward(self, video: Tensor) -> Tensor:
        video = video[:, None] if video.ndim == 4 else video
        return self.linear(cut_tubelets(video, self.size))


def tubelets_from_convolution(conv: nn.Module) -> TubeletEmbedding:
    """Our embedding with the weights of a `Conv2d` or `Conv3d` whose stride equals its kernel.

    TypeError for another module; ValueError for padding, dilation, groups or a stride that overlaps.
    """
    if not isinstance(conv, (nn.Conv2d, nn.Conv3d)):
        raise TypeError(f"expected Conv2d or Conv3d, got {type(conv).__name__}")
    plain = conv.groups == 1 and set(conv.dilation) == {1} and conv.padding != "same"
    if not plain or conv.stride != conv.kernel_size or set(conv.padding) - {0} - set("valid"):
        raise ValueError(f"expected stride equal to kernel, no padding, dilation or groups, got {conv}")
    size = (1, *conv.kernel_size)[-3:]
    has_bias = conv.bias is not None
    ours = TubeletEmbedding(size, dim=conv.out_channels, in_channels=conv.in_channels, bias=has_bias)
    state = {
        "linear." + name: value.flatten(1) if name == "weight" else value
        for name, value in conv.state_dict().items()
    }
    ours.to(conv.weight).load_state_dict(state)
    return ours
