"""Reading text in pictures.

Collected from notebooks/39_ocr.ipynb by `make export`: edit the notebook, not this file.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby, takewhile
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmscratch.transformer import Transformer, check_type, generate, load_mapped, pick, sinusoidal
from mmscratch.whisper import edit_distance

__all__ = [
    "Alphabet",
    "CRNN",
    "CTCLoss",
    "Columns",
    "Detector",
    "FROM_TROCR",
    "NGram",
    "Reader",
    "Reading",
    "SHRINK",
    "TextEntry",
    "add_logs",
    "advance",
    "bands",
    "beam_search",
    "check_ctc",
    "collapse",
    "components",
    "conv_unit",
    "ctc_loss",
    "detect",
    "dilated_unit",
    "draw_cores",
    "error_rate",
    "extend",
    "find_ink",
    "flatten_ink",
    "from_transformers",
    "fuse_context",
    "greedy",
    "grown",
    "matches",
    "nearest",
    "otsu",
    "read_page",
    "read_words",
    "reading_lines",
    "shrunk",
    "snap",
    "spans",
    "stack_strips",
    "to_grey",
    "turn_around",
    "words_by_components",
    "words_by_profile",
]


def extend(targets: Tensor, target_lengths: Tensor, blank: int) -> Tensor:
    """Targets with blanks around every label: (B, S), or all in a row (sum of lengths,) -> (B, 2S + 1)."""
    B, S = len(target_lengths), int(target_lengths.max())
    real = torch.arange(S, device=targets.device) < target_lengths[:, None]  # (B, S)
    states = torch.full((B, 2 * S + 1), blank, dtype=torch.long, device=targets.device)
    labels = states[:, 1::2]  # a view
    labels[real] = targets.long() if targets.ndim == 1 else targets[:, :S].long()[real]
    return states


def advance(emitted: Tensor, states: Tensor, blank: int) -> Tensor:
    """Log probability of every beginning: the forward variable alpha (Graves et al. 2006, eq. 6-8).

    emitted (T, B, L): log probability of state s at frame t; states (B, L) from `extend` -> (T, B, L).
    """
    T, B, L = emitted.shape
    emitted = emitted.transpose(1, 2).contiguous()  # (T, L, B): a shift along the states is one block
    skip = torch.full_like(emitted[0], -math.inf)  # 0 where a path may jump over a blank
    jumps = (states[:, 2:] != blank) & (states[:, 2:] != states[:, :-2])
    skip[2:][jumps.T] = 0.0
    alpha = emitted.new_full((T, L + 2, B), -math.inf)  # two states that are never reached, before all
    alpha[0, 2:4] = emitted[0, :2]
    two = torch.empty_like(skip)
    for t in range(1, T):
        a, new = alpha[t - 1], alpha[t, 2:]
        torch.logaddexp(a[2:], a[1:-1], out=new)  # stay, or one state on
        torch.logaddexp(new, torch.add(a[:-2], skip, out=two), out=new)  # or two
        new += emitted[t]
    return alpha[:, 2:].transpose(1, 2)


def turn_around(x: Tensor, lengths: Tensor, dim: int) -> Tensor:
    """Reverse the first `lengths` entries of each row of x (T, B, L) along dim 0 or 2; the rest is junk."""
    positions = torch.arange(x.shape[dim], device=x.device)
    positions = (lengths[:, None] - 1 - positions).clamp(min=0)  # (B, T) or (B, L)
    index = positions.T[:, :, None] if dim == 0 else positions[None]
    return x.gather(dim, index.expand_as(x))


class CTCLoss(torch.autograd.Function):
    """Forward-backward over all alignments: log_probs (T, B, C) -> (B,) in nats, gradient in closed form.

    The backward variable is the forward variable of the text and the picture read from their ends, so both
    run through one loop, as a batch of 2B.
    """

    @staticmethod
    def forward(
        ctx, log_probs: Tensor, states: Tensor, frames: Tensor, lengths: Tensor, blank: int
    ) -> Tensor:
        T, B, _ = log_probs.shape
        emitted = log_probs.gather(2, states.expand(T, -1, -1))  # (T, B, L)
        ends = 2 * lengths + 1  # states in use
        if ctx.needs_input_grad[0]:
            mirrored = turn_around(turn_around(emitted, frames, 0), ends, 2)
            backwards = turn_around(states[None], ends, 2)[0]
            both = advance(torch.cat([emitted, mirrored], 1), torch.cat([states, backwards]), blank)
            alpha, beta = both[:, :B], both[:, B:]
        else:
            alpha = advance(emitted, states, blank)
        last = alpha[(frames - 1).clamp(min=0), torch.arange(B, device=alpha.device)]  # (B, L)
        final = last.gather(1, torch.stack([ends - 1, (ends - 2).clamp(min=0)], 1))  # ends in a blank or not
        total = torch.where(lengths > 0, final.logsumexp(1), final[:, 0])
        total = torch.where(frames > 0, total, torch.where(lengths > 0, -math.inf, 0.0))
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(log_probs, states, frames, lengths, emitted, alpha, beta, total)
        return -total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        log_probs, states, frames, lengths, emitted, alpha, beta, total = ctx.saved_tensors
        beta = turn_around(turn_around(beta, 2 * lengths + 1, 2), frames, 0)
        share = (alpha + beta - emitted - total[:, None]).exp()  # of the paths through a state, (T, B, L)
        unused = torch.arange(states.shape[1], device=states.device) > 2 * lengths[:, None]
        share.masked_fill_(unused | (emitted == -math.inf), 0.0)
        slope = log_probs.exp().scatter_add_(2, states.expand_as(share), -share)  # (T, B, C)
        hopeless = total == -math.inf  # no alignment fits: no slope, and not a number where one is asked for
        slope[:, hopeless] = torch.where(grad[hopeless] == 0, 0.0, math.nan)[:, None].to(slope)
        late = torch.arange(len(slope), device=slope.device)[:, None] >= frames
        return slope.mul_(grad[:, None]).masked_fill_(late[..., None], 0.0), None, None, None, None


def check_ctc(
    log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank: int
) -> None:
    """ValueError unless the arguments of `ctc_loss`, already as tensors, fit one another."""
    if log_probs.ndim != 3 or not log_probs.is_floating_point():
        raise ValueError(
            f"expected floating log_probs (T, B, C), got {log_probs.dtype} {tuple(log_probs.shape)}"
        )
    T, B, C = log_probs.shape
    if not 0 <= blank < C:
        raise ValueError(f"expected a blank in 0..{C - 1}, got {blank}")
    if input_lengths.shape != (B,) or target_lengths.shape != (B,):
        shapes = f"{tuple(input_lengths.shape)} and {tuple(target_lengths.shape)}"
        raise ValueError(f"expected {B} input lengths and {B} target lengths, got {shapes}")
    if input_lengths.min() < 0 or input_lengths.max() > T or target_lengths.min() < 0:
        raise ValueError(
            f"expected input lengths in 0..{T} and target lengths >= 0, "
            f"got {input_lengths.tolist()} and {target_lengths.tolist()}"
        )
    if targets.ndim == 1:
        if len(targets) != target_lengths.sum():
            raise ValueError(f"expected {int(target_lengths.sum())} targets in a row, got {len(targets)}")
    elif targets.ndim != 2 or targets.shape[0] != B or targets.shape[1] < target_lengths.max():
        raise ValueError(
            f"expected targets ({B}, >= {int(target_lengths.max())}), got {tuple(targets.shape)}"
        )
    used = targets
    if targets.ndim == 2:
        used = targets[torch.arange(targets.shape[1], device=targets.device) < target_lengths[:, None]]
    if (odd := used[(used < 0) | (used >= C) | (used == blank)]).numel():
        raise ValueError(f"expected targets among 0..{C - 1} and not the blank {blank}, got {odd[0]}")


def ctc_loss(
    log_probs: Tensor, targets: Tensor, input_lengths: Tensor | Sequence[int],
    target_lengths: Tensor | Sequence[int], blank: int = 0, reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:  # fmt: skip
    """-log p(targets | log_probs), summed over all alignments (Graves et al. 2006), in nats.

    Arguments and result as those of `F.ctc_loss`. log_probs (T, B, C) from log_softmax, or (T, C) for one
    text; targets (B, S), or all in a row (sum of target_lengths,). "mean" divides each loss by its target's
    length, then averages. A text that needs more frames than there are costs infinity, or nothing where
    `zero_infinity`. The gradient is, as the library's, the one that `log_softmax` in front makes true.
    """
    pick("reduction", reduction, ("none", "mean", "sum"))
    alone = log_probs.ndim == 2
    if alone:
        log_probs, targets = log_probs[:, None], targets.reshape(1, -1)
    where = log_probs.device
    frames = torch.as_tensor(input_lengths, device=where).reshape(-1).long()
    lengths = torch.as_tensor(target_lengths, device=where).reshape(-1).long()
    check_ctc(log_probs, targets, frames, lengths, blank)
    loss = CTCLoss.apply(log_probs, extend(targets, lengths, blank), frames, lengths, blank)  # (B,)
    if zero_infinity:
        loss = torch.where(loss == math.inf, 0.0, loss)
    if reduction == "mean":
        return (loss / lengths.clamp(min=1)).mean()
    if reduction == "sum":
        return loss.sum()
    return loss[0] if alone else loss


def collapse(path: Iterable[int], blank: int = 0) -> list[int]:
    """What an alignment spells: repeats merged, then blanks dropped (Graves et al. 2006, sec. 3.1)."""
    return [label for label, _ in groupby(path) if label != blank]


def greedy(log_probs: Tensor, frames: Tensor | None = None, blank: int = 0) -> list[list[int]]:
    """The likeliest alignment of each row, collapsed. log_probs (T, B, C), frames (B,) -> B lists of ids."""
    if log_probs.ndim != 3:
        raise ValueError(f"expected log_probs (T, B, C), got {tuple(log_probs.shape)}")
    paths = log_probs.argmax(-1).T.tolist()
    ends = [len(log_probs)] * len(paths) if frames is None else frames.tolist()
    return [collapse(path[:end], blank) for path, end in zip(paths, ends, strict=True)]


def add_logs(a: float, b: float) -> float:
    """log(exp a + exp b)."""
    if a == -math.inf or b == -math.inf:
        return max(a, b)
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


class NGram:
    """Which id follows which: counts of the last `order` - 1 ids, smoothed as Witten and Bell (1991) do.

    `sequences` are lists of ids above 0; 0 stands for the end. Unseen contexts fall back to shorter ones and
    at last to a uniform choice among `num_ids`.
    """

    def __init__(self, sequences: Iterable[Sequence[int]], *, num_ids: int, order: int = 5):
        if order < 1 or num_ids < 2:
            raise ValueError(f"expected order >= 1 and num_ids >= 2, got {order} and {num_ids}")
        self.order, self.num_ids = order, num_ids
        self.counts: dict[tuple, Counter] = defaultdict(Counter)
        for sequence in sequences:
            ids = (*sequence, 0)
            for i, symbol in enumerate(ids):
                for n in range(min(order, i + 1)):
                    self.counts[ids[i - n : i]][symbol] += 1
        self.totals = {context: counter.total() for context, counter in self.counts.items()}

    def log_prob(self, prefix: Sequence[int], symbol: int) -> float:
        """log p(symbol | the ids before it), in nats."""
        p = 1 / self.num_ids
        for n in range(min(self.order - 1, len(prefix)) + 1):
            context = tuple(prefix[len(prefix) - n :])
            if context not in self.counts:
                break
            seen = self.counts[context]
            p = (seen[symbol] + len(seen) * p) / (self.totals[context] + len(seen))
        return math.log(p)


def beam_search(
    log_probs: Tensor, *, width: int = 8, lm: NGram | None = None, weight: float = 0.3, bonus: float = 0.0,
    least: float = -8.0, blank: int = 0,
) -> list[tuple[tuple[int, ...], float]]:  # fmt: skip
    """Likeliest texts, all alignments of each added up (prefix search; Hannun et al. 2014, algorithm 1).

    log_probs (T, C) of one text -> at most `width` pairs (ids, score), best first. With a language model the
    score is log p_ctc + weight * log p_lm + bonus * length. Labels below `least` at a frame are not tried.
    """
    if log_probs.ndim != 2 or width < 1:
        raise ValueError(
            f"expected log_probs (T, C) and width >= 1, got {tuple(log_probs.shape)} and {width}"
        )
    beams = {(): (0.0, -math.inf, 0.0)}  # prefix: log p ending in a blank, in its last label; of the model

    def total(item):
        prefix, (quiet, loud, told) = item
        return add_logs(quiet, loud) + weight * told + bonus * len(prefix)

    for frame in log_probs.tolist():
        tried = [c for c, p in enumerate(frame) if p > least and c != blank]
        grown: dict[tuple, list] = {}
        for prefix, (quiet, loud, told) in beams.items():
            both = add_logs(quiet, loud)
            here = grown.setdefault(prefix, [-math.inf, -math.inf, told])
            here[0] = add_logs(here[0], both + frame[blank])
            if prefix:
                here[1] = add_logs(here[1], loud + frame[prefix[-1]])  # the same label goes on
            for c in tried:
                longer, repeated = (*prefix, c), prefix[-1:] == (c,)
                if longer not in grown:
                    known = beams[longer][2] if longer in beams else None
                    known = told + (lm.log_prob(prefix, c) if lm else 0.0) if known is None else known
                    grown[longer] = [-math.inf, -math.inf, known]
                before = quiet if repeated else both  # a second "l" needs a blank between
                grown[longer][1] = add_logs(grown[longer][1], before + frame[c])
        possible = (item for item in grown.items() if total(item) > -math.inf)
        beams = {p: tuple(v) for p, v in sorted(possible, key=total, reverse=True)[:width]}
    if lm is not None:
        beams = {p: (q, n, told + lm.log_prob(p, 0)) for p, (q, n, told) in beams.items()}
    return sorted(((p, total((p, v))) for p, v in beams.items()), key=lambda found: -found[1])


def error_rate(references: Sequence[str], hypotheses: Sequence[str], *, unit: str = "character") -> float:
    """Edits over length, added up over all pairs: CER, or WER where unit is "word". May exceed 1.

    Space around a text does not count, as in jiwer. ValueError where the references are empty.
    """
    by = {"character": lambda text: list(text.strip()), "word": str.split}
    split = by[pick("unit", unit, by)]
    if len(references) != len(hypotheses):
        raise ValueError(f"expected one hypothesis a reference, got {len(references)} and {len(hypotheses)}")
    pairs = [(split(a), split(b)) for a, b in zip(references, hypotheses, strict=True)]
    length = sum(len(a) for a, _ in pairs)
    if not length:
        raise ValueError(f"expected at least one {unit} in the references, got none")
    return sum(edit_distance(a, b) for a, b in pairs) / length


def flatten_ink(image: Tensor, height: int = 32, widest: int = 640) -> Tensor:
    """One grey picture (H, W) -> (height, W'): ground 0, ink positive, W' a multiple of 4, shape kept.

    The ground is the median of the picture's edge; light ink on dark ground is turned over.
    """
    if image.ndim != 2 or min(image.shape) < 2:
        raise ValueError(f"expected a grey picture (H, W), each at least 2, got {tuple(image.shape)}")
    x = image.float()
    ground = torch.cat([x[0], x[-1], x[:, 0], x[:, -1]]).median()
    x = x - ground
    x = -x if x.sum() < 0 else x
    width = min(widest, max(8, round(x.shape[1] * height / x.shape[0])))
    x = F.interpolate(x[None, None], (height, width), mode="bilinear", antialias=True)[0, 0]
    x = x / x.abs().max().clamp(min=1e-3)
    return F.pad(x, (0, -width % 4))


def stack_strips(images: Sequence[Tensor], height: int = 32) -> tuple[Tensor, Tensor]:
    """Grey pictures of any size -> one batch (B, 1, height, W) padded with ground, and widths (B,)."""
    if not len(images):
        raise ValueError("expected at least one picture, got none")
    strips = [flatten_ink(image, height) for image in images]
    widths = torch.tensor([strip.shape[1] for strip in strips])
    batch = torch.stack([F.pad(s, (0, int(widths.max()) - s.shape[1])) for s in strips])
    return batch[:, None], widths


class Alphabet:
    """Characters and their ids. 0 is the blank of CTC, or the start and end of a decoder's text."""

    def __init__(self, characters: str):
        if len(set(characters)) != len(characters) or not characters:
            raise ValueError(f"expected different characters, got {characters!r}")
        self.characters = characters
        self.ids = {c: i for i, c in enumerate(characters, 1)}

    def __len__(self) -> int:
        return len(self.characters) + 1

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids padded with 0 (B, S), and lengths (B,). ValueError for a character that is not in here."""
        if odd := sorted(set("".join(texts)) - set(self.ids)):
            raise ValueError(f"expected characters among {self.characters!r}, got {''.join(odd)!r}")
        lengths = torch.tensor([len(text) for text in texts])
        ids = torch.zeros(len(texts), max(map(len, texts), default=0), dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = torch.tensor([self.ids[c] for c in text], dtype=torch.long)
        return ids, lengths

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; zeros are left out."""
        return "".join(self.characters[i - 1] for i in ids if i)


def conv_unit(
    inputs: int, outputs: int, kernel: int | tuple = 3, stride: int = 1, padding: int = 1
) -> nn.Module:
    """Convolution, batch norm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Columns(nn.Module):
    """A strip of text to a sequence of columns: (B, 1, 32, W), widths (B,) -> (B, W / 4, D), frames (B,).

    Convolutions shrink the height to one row and the width to a quarter (Shi et al. 2015, table 1, slimmer).
    After each stage the padding is set back to zero, so that a word reads the same in every batch.
    """

    def __init__(self, dim: int = 128, *, width: int = 24):
        super().__init__()
        w = width
        self.stages = nn.ModuleList([
            conv_unit(1, w, 5, 2, 2),
            nn.Sequential(conv_unit(w, 2 * w), nn.MaxPool2d(2)),
            nn.Sequential(conv_unit(2 * w, 4 * w), nn.MaxPool2d((2, 1))),
            nn.Sequential(conv_unit(4 * w, 4 * w), nn.MaxPool2d((2, 1))),
            conv_unit(4 * w, dim, (2, 1), 1, 0),
        ])  # fmt: skip

    def forward(self, strips: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
        if strips.ndim != 4 or strips.shape[1:3] != (1, 32) or strips.shape[3] % 4:
            raise ValueError(f"expected strips (B, 1, 32, a multiple of 4), got {tuple(strips.shape)}")
        x, full = strips, strips.shape[3]
        if widths.shape != (len(x),) or (widths % 4).any() or widths.min() < 4 or widths.max() > full:
            raise ValueError(
                f"expected {len(x)} widths, multiples of 4 from 4 to {full}, got {widths.tolist()}"
            )
        for stage in self.stages:
            x = stage(x)
            shrunk = full // x.shape[3]
            real = torch.arange(x.shape[3], device=x.device) < widths[:, None].to(x.device) // shrunk
            x = x * real[:, None, None]
        return x.squeeze(2).transpose(1, 2), widths // 4  # (B, T, D)


class CRNN(nn.Module):
    """Convolutions, a bidirectional LSTM and a softmax a column (Shi et al. 2015), to be trained with CTC.

    strips (B, 1, 32, W), widths (B,) -> log probabilities (T, B, C) with T = W / 4, and frames (B,).
    """

    def __init__(self, num_classes: int, *, dim: int = 128, hidden: int = 128, width: int = 24):
        super().__init__()
        self.columns = Columns(dim, width=width)
        self.lstm = nn.LSTM(dim, hidden, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden, num_classes)

    def forward(self, strips: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
        x, frames = self.columns(strips, widths)
        packed = nn.utils.rnn.pack_padded_sequence(x, frames.cpu(), batch_first=True, enforce_sorted=False)
        x, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.head(x).log_softmax(-1).transpose(0, 1), frames


class Reader(nn.Module):
    """The same columns, read by a causal transformer that looks back at them (TrOCR; Li et al. 2021).

    strips (B, 1, 32, W), widths (B,), ids (B, S) with 0 in front -> logits (B, S, C) of each next id.
    """

    def __init__(
        self, num_classes: int, *, dim: int = 128, depth: int = 2, max_length: int = 32, width: int = 24
    ):
        super().__init__()
        self.columns, self.max_length = Columns(dim, width=width), max_length
        self.decoder = Transformer(
            num_classes, dim=dim, depth=depth, num_heads=4, mlp_dim=2 * dim, max_positions=max_length,
            cross=True, position="learned",
        )  # fmt: skip

    def look(self, strips: Tensor, widths: Tensor) -> dict[str, Tensor]:
        """What the decoder reads: the columns with their places, and which of them are picture."""
        x, frames = self.columns(strips, widths)  # (B, T, D)
        places = torch.arange(x.shape[1], device=x.device)
        real = places < frames[:, None].to(x.device)
        return {"context": x + sinusoidal(places, x.shape[2]), "context_mask": real}

    def forward(self, strips: Tensor, widths: Tensor, ids: Tensor) -> Tensor:
        return self.decoder(ids, **self.look(strips, widths))

    def read(self, strips: Tensor, widths: Tensor) -> list[list[int]]:
        """The likeliest next id, again and again, until 0: B lists of ids."""
        start = torch.zeros(len(strips), 1, dtype=torch.long, device=strips.device)
        options = {"eos_id": 0, **self.look(strips, widths)}
        said = generate(self.decoder, start, self.max_length - 1, **options)[:, 1:]
        return [list(takewhile(bool, row)) for row in said.tolist()]


def to_grey(image: Tensor) -> Tensor:
    """Brightness of a picture (3, H, W) or (1, H, W) or (H, W), as floats (H, W)."""
    if image.ndim == 2:
        return image.float()
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"expected a picture (3, H, W), (1, H, W) or (H, W), got {tuple(image.shape)}")
    return image.float().mean(0)


def otsu(values: Tensor) -> float:
    """The threshold that separates whole numbers 0..255 into two groups best (Otsu 1979)."""
    counts = torch.bincount(values.flatten().round().clamp(0, 255).long(), minlength=256).double()
    below = counts.cumsum(0)
    total, mean = below[-1], (counts * torch.arange(256)).cumsum(0)
    between = (mean[-1] * below / total - mean) ** 2 / (below * (total - below)).clamp(min=1e-9)
    return between.argmax().item() + 0.5


def find_ink(image: Tensor) -> Tensor:
    """Where a picture differs from its ground, dark on light or light on dark: boolean (H, W)."""
    grey = to_grey(image)
    if not grey.numel():
        raise ValueError(f"expected a picture with at least one pixel, got {tuple(image.shape)}")
    away = (grey - grey.median()).abs()
    return away > max(otsu(away), 24.0)  # 24 of 255: an empty page has no ink


def components(mask: Tensor) -> Tensor:
    """Boxes of the connected parts of a boolean mask (H, W), eight neighbours, as (N, 4).

    A box is left, top, right, bottom. Runs of ink are joined with those that they touch in the row above
    (Rosenfeld and Pfaltz 1966).
    """
    if mask.ndim != 2 or mask.dtype != torch.bool:
        raise ValueError(f"expected a boolean mask (H, W), got {mask.dtype} {tuple(mask.shape)}")
    edges = F.pad(mask, (1, 1)).int().diff(dim=1)  # (H, W + 1)
    starts, ends = (edges == 1).nonzero().tolist(), (edges == -1).nonzero().tolist()
    parent: list[int] = []

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    above: list[tuple[int, int, int]] = []
    for row, run in groupby(zip(starts, ends, strict=True), key=lambda pair: pair[0][0]):
        here, k = [], 0
        touching = above if above and above[0][3] == row - 1 else []
        for (_, left), (_, right) in run:
            number = len(parent)
            parent.append(number)
            here.append((left, right, number, row))
            while k < len(touching) and touching[k][1] < left:
                k += 1
            j = k
            while j < len(touching) and touching[j][0] <= right:
                parent[root(touching[j][2])] = root(number)
                j += 1
        above = here
    if not parent:
        return torch.zeros(0, 4, dtype=torch.long)
    _, label = torch.tensor([root(i) for i in range(len(parent))]).unique(return_inverse=True)
    tops, lefts = torch.tensor(starts).T
    rights = torch.tensor(ends)[:, 1]
    n = int(label.max()) + 1

    def extreme(values: Tensor, how: str) -> Tensor:
        return values.new_zeros(n).scatter_reduce(0, label, values, how, include_self=False)

    edges = extreme(lefts, "amin"), extreme(tops, "amin"), extreme(rights, "amax"), extreme(tops + 1, "amax")
    return torch.stack(edges, 1)


def spans(profile: Tensor, gap: int = 1) -> list[tuple[int, int]]:
    """Where a profile (L,) is above zero: (start, end) pairs, joined over fewer than `gap` zeros."""
    edges = F.pad((profile > 0).int(), (1, 1)).diff()
    found: list[tuple[int, int]] = []
    starts, ends = ((edges == sign).nonzero().flatten().tolist() for sign in (1, -1))
    for start, end in zip(starts, ends, strict=True):
        if found and start - found[-1][1] < gap:
            start = found.pop()[0]
        found.append((start, end))
    return found


def words_by_profile(mask: Tensor) -> Tensor:
    """Lines from the sums of rows, words from the sums of columns: boxes (N, 4). For one straight column."""
    found = []
    for top, bottom in spans(mask.sum(1)):
        columns = mask[top:bottom].sum(0)
        for left, right in spans(columns, gap=max(2, round(0.22 * (bottom - top)))):
            rows = mask[top:bottom, left:right].sum(1).nonzero().flatten()
            found.append((left, top + int(rows[0]), right, top + int(rows[-1]) + 1))
    return torch.tensor(found, dtype=torch.long).view(-1, 4)


def words_by_components(mask: Tensor) -> Tensor:
    """Ink smeared sideways by a fifth of a letter's height, then connected parts: boxes (N, 4)."""
    letters = components(mask)
    if not len(letters):
        return letters
    height = int((letters[:, 3] - letters[:, 1]).float().quantile(0.6))
    reach = max(1, round(0.2 * height))  # from both sides
    smeared = F.max_pool2d(mask[None].float(), (3, 2 * reach + 1), 1, (1, reach))[0] > 0
    boxes = components(smeared) + torch.tensor([reach, 1, -reach, -1])
    return boxes[(boxes[:, 3] - boxes[:, 1] > 2) & (boxes[:, 2] - boxes[:, 0] > 1)]


def matches(found: Tensor, truth: Tensor, *, overlap: float = 0.5) -> list[tuple[int, int]]:
    """Pairs (found, truth) of boxes (N, 4) and (M, 4), each used once, the best overlap (IoU) first."""
    if not len(found) or not len(truth):
        return []
    low = torch.maximum(found[:, None, :2], truth[None, :, :2])
    high = torch.minimum(found[:, None, 2:], truth[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)  # (N, M)
    areas = [(b[:, 2:] - b[:, :2]).prod(-1) for b in (found, truth)]
    iou = shared / (areas[0][:, None] + areas[1] - shared)
    pairs, used = [], (set(), set())
    for flat in iou.flatten().argsort(descending=True).tolist():
        i, j = divmod(flat, len(truth))
        if iou[i, j] < overlap:
            break
        if i not in used[0] and j not in used[1]:
            pairs.append((i, j))
            used[0].add(i), used[1].add(j)
    return pairs


SHRINK = 0.6


def shrunk(boxes: Tensor, ratio: float = SHRINK) -> Tensor:
    """Cores of boxes (N, 4): edges moved in by area * (1 - ratio^2) / perimeter (Liao et al. 2020, eq. 6)."""
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    inset = wide * high * (1 - ratio**2) / (2 * (wide + high))
    return boxes + inset[:, None] * torch.tensor([1.0, 1.0, -1.0, -1.0])


def grown(cores: Tensor, ratio: float = SHRINK) -> Tensor:
    """The boxes whose cores these are: `shrunk` undone, exactly. (N, 4) -> (N, 4).

    The inset d of a core w x h solves 2 d (w + h + 4 d) = (1 - ratio^2) (w + 2 d)(h + 2 d).
    """
    wide, high = (cores[:, 2] - cores[:, 0]).double(), (cores[:, 3] - cores[:, 1]).double()
    k = 1 - ratio**2
    a, b, c = 8 - 4 * k, 2 * (1 - k) * (wide + high), -k * wide * high
    inset = ((b * b - 4 * a * c).sqrt() - b) / (2 * a)
    return cores + inset[:, None].to(cores.dtype) * torch.tensor([-1.0, -1.0, 1.0, 1.0])


def draw_cores(boxes: Tensor, height: int, width: int, scale: int = 2) -> Tensor:
    """What the detector learns: 1 inside the core of a word, 0 elsewhere; (height / scale, width / scale)."""
    target = torch.zeros(height // scale, width // scale)
    for left, top, right, bottom in (shrunk(boxes.float()) / scale).round().int().tolist():
        target[max(0, top) : max(top + 1, bottom), max(0, left) : max(left + 1, right)] = 1
    return target


class Detector(nn.Module):
    """Where are the cores of words? images (B, 3, H, W) in [0, 1] -> logits (B, H / 2, W / 2).

    A small segmentation network in the manner of DB (Liao et al. 2020): down to a quarter, dilated
    convolutions to see a word at once, up to a half with what was seen there before.
    """

    def __init__(self, width: int = 16):
        super().__init__()
        w = width
        self.fine = conv_unit(3, w, 5, 2, 2)
        context = [dilated_unit(2 * w, step) for step in (2, 4, 1)]
        self.coarse = nn.Sequential(conv_unit(w, 2 * w, 3, 2, 1), *context)
        self.join = nn.Sequential(conv_unit(3 * w, w), nn.Conv2d(w, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % 4 or images.shape[3] % 4:
            raise ValueError(f"expected images (B, 3, H, W), multiples of 4, got {tuple(images.shape)}")
        fine = self.fine(images)  # (B, w, H / 2, W / 2)
        coarse = F.interpolate(self.coarse(fine), scale_factor=2.0)
        return self.join(torch.cat([fine, coarse], 1))[:, 0]


def dilated_unit(width: int, step: int) -> nn.Module:
    """A 3 x 3 convolution whose taps lie `step` apart, batch norm, ReLU."""
    conv = nn.Conv2d(width, width, 3, padding=step, dilation=step, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


@torch.no_grad()
def detect(model: nn.Module, image: Tensor, *, threshold: float = 0.5, least: float = 3.0) -> Tensor:
    """Boxes of words on a page (3, H, W), uint8: map, threshold, connected parts, growth. (N, 4) long.

    Boxes less than `least` pixels high or wide are dropped. ValueError for a picture without a pixel.
    """
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise ValueError(f"expected a picture (3, H, W) with pixels, got {tuple(image.shape)}")
    height, width = image.shape[1:]
    x = F.pad(image[None] / 255, (0, -width % 4, 0, -height % 4), mode="replicate")
    cores = components(model.eval()(x)[0].sigmoid() > threshold)
    boxes = grown(2.0 * cores).round().long()
    limits = torch.tensor([width, height, width, height])
    boxes = boxes.clamp(min=0).minimum(limits)
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return boxes[(wide >= least) & (high >= least)]


def nearest(empty: Tensor, at: int, reach: int) -> int:
    """The True entry of `empty` (L,) nearest to `at` and at most `reach` away; `at` where there is none."""
    near = empty[max(0, at - reach) : at + reach + 1].nonzero().flatten() + max(0, at - reach)
    return int(near[(near - at).abs().argmin()]) if len(near) else at


def snap(boxes: Tensor, ink: Tensor) -> Tensor:
    """Boxes (N, 4) moved to the ink (H, W): sides to the nearest empty column, then all edges to the word.

    A map of half the resolution knows edges to two pixels, and words stand three or four apart. A box
    without ink stays as it is.
    """
    found = []
    for left, top, right, bottom in boxes.tolist():
        reach, few = max(2, (bottom - top) // 4), (bottom - top) // 20  # few: a speck of noise is no ink
        empty = ink[top:bottom].sum(0) <= few
        start, end = nearest(empty, left, reach), nearest(empty, right - 1, reach) + 1
        columns = (~empty[start:end]).nonzero().flatten()
        if len(columns):
            start, end = start + int(columns[0]), start + int(columns[-1]) + 1
        above = max(0, top - 2)
        rows = ink[above : bottom + 2, start:end].any(1).nonzero().flatten()
        whole = len(columns) and len(rows) > 2
        box = (start, above + int(rows[0]), end, above + int(rows[-1]) + 1) if whole else ()
        found.append(box or (left, top, right, bottom))
    return torch.tensor(found, dtype=torch.long).view(-1, 4)


def bands(boxes: Tensor, axis: int, gap: float = 0.0) -> list[Tensor]:
    """Rows of boxes (N, 4) apart by empty bands wider than `gap`, along x (axis 0) or y (axis 1)."""
    order = boxes[:, axis].argsort(stable=True)
    reach = boxes[order, axis + 2].cummax(0).values
    ends = ((boxes[order[1:], axis] - reach[:-1]) > gap).nonzero().flatten() + 1
    return list(order.tensor_split(ends))


def reading_lines(boxes: Tensor, *, column_gap: float = 1.2) -> list[list[int]]:
    """Boxes (N, 4) in reading order: lines from top to bottom, each a list of rows of `boxes`.

    Cuts through empty bands (XY cut; Nagy and Seth 1984). A stretch of lines is two columns where an empty
    band wider than `column_gap` heights of a word runs through it, with lines of several words on each
    side; the longest such stretch is read column by column. Boxes that no band separates are one line.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"expected boxes (N, 4), got {tuple(boxes.shape)}")
    if not len(boxes):
        return []
    least = column_gap * float((boxes[:, 3] - boxes[:, 1]).float().median())

    def columns(stretch: list[Tensor]) -> list[Tensor]:
        """The columns of running text in these lines; none where one is a list of single words."""
        rows = torch.cat(stretch)
        parts = [rows[part] for part in bands(boxes[rows], 0, least)]
        words = [len(part) / len(bands(boxes[part], 1)) for part in parts]
        # a table below the columns often keeps to the same gap; its lines have one word in some column
        for line in (stretch[0], stretch[-1]):
            inside = [int(torch.isin(line, part).sum()) for part in parts]
            if max(inside) < len(line) and 1 in inside:
                return []
        return parts if len(parts) > 1 and min(words) >= 1.6 else []

    def cut(rows: Tensor) -> list[list[int]]:
        lines = [rows[part] for part in bands(boxes[rows], 1)]
        for left_out in range(len(lines) // 2 + 1):  # above and below the columns: a heading, a table
            for top in range(left_out + 1):
                end = len(lines) - left_out + top
                if parts := columns(lines[top:end]):
                    above, below = lines[:top], lines[end:]
                    outside = [cut(torch.cat(some)) if some else [] for some in (above, below)]
                    return [*outside[0], *(line for part in parts for line in cut(part)), *outside[1]]
        return [line[boxes[line, 0].argsort()].tolist() for line in lines]

    return cut(torch.arange(len(boxes)))


class Reading(NamedTuple):
    """A word that was read: its text, box (left, top, right, bottom), line, and how sure the reader is."""

    text: str
    box: tuple[int, int, int, int]
    line: int
    confidence: float


@torch.no_grad()
def read_words(
    model: CRNN, alphabet: Alphabet, images: Sequence[Tensor], *, batch_size: int = 64
) -> list[tuple[str, float]]:
    """Text and confidence of each grey picture (H, W), read by greedy CTC in batches of similar width.

    Confidence: the probability of that text, all of its alignments added up.
    """
    model.eval()
    order = sorted(range(len(images)), key=lambda i: images[i].shape[1] / images[i].shape[0])
    found: list[tuple[str, float]] = [("", 0.0)] * len(images)
    for at in range(0, len(order), batch_size):
        rows = order[at : at + batch_size]
        log_probs, frames = model(*stack_strips([images[i] for i in rows]))
        texts = [alphabet.decode(ids) for ids in greedy(log_probs, frames)]
        ids, lengths = alphabet.encode(texts)
        sure = ctc_loss(log_probs, ids, frames, lengths, reduction="none").neg().exp().clamp(max=1)
        for i, text, p in zip(rows, texts, sure.tolist(), strict=True):
            found[i] = text, p
    return found


def read_page(
    detector: nn.Module, model: CRNN, alphabet: Alphabet, page: Tensor, *, margin: int = 1,
    threshold: float = 0.7,
) -> list[Reading]:  # fmt: skip
    """Words of a page (3, H, W), uint8, in reading order: detect, order, cut out, recognise."""
    boxes = snap(detect(detector, page, threshold=threshold), find_ink(page))
    lines = reading_lines(boxes)
    grey = to_grey(page)
    rows = [i for line in lines for i in line]
    cuts = []
    for left, top, right, bottom in boxes[rows].tolist():
        cuts.append(grey[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin])
    texts = read_words(model, alphabet, cuts)
    numbers = [n for n, line in enumerate(lines) for _ in line]
    return [
        Reading(text, tuple(boxes[i].tolist()), n, sure)
        for i, n, (text, sure) in zip(rows, numbers, texts, strict=True)
        if text
    ]


class TextEntry(nn.Module):
    """What TrOCR does to word embeddings before its first block: scale, add positions, normalise.

    x (B, T, D), positions (T,) or (B, T) -> x, None, as `transformer.Positions` hands them on. Learned
    positions start at row 2 of their table; the sinusoidal ones, at `pad_id` + 1, have all sines first.
    """

    def __init__(self, dim: int, *, max_positions: int, learned: bool, scale: float, norm: bool, pad_id: int):
        super().__init__()
        self.scale, self.pad_id = scale, pad_id
        self.table = nn.Parameter(torch.randn(max_positions + 2, dim) * 0.02) if learned else None
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, None]:
        if self.table is not None:
            return self.norm(x * self.scale + self.table[positions + 2]), None
        half = x.shape[-1] // 2
        rates = torch.exp(torch.arange(half, device=x.device) * (-math.log(10_000) / (half - 1)))
        angles = (positions + self.pad_id + 1)[..., None] * rates  # (..., D / 2)
        waves = F.pad(torch.cat([angles.sin(), angles.cos()], -1), (0, x.shape[-1] % 2))
        return self.norm(x * self.scale + waves), None


FROM_TROCR = {
    r"^model\.decoder\.": "",
    r"^embed_tokens": "embed",
    r"^embed_positions\.weight": "positions.table",
    r"^layernorm_embedding\.": "positions.norm.",
    r"^layers\.": "blocks.",
    r"\.self_attn_layer_norm\.": ".norm1.",
    r"\.encoder_attn_layer_norm\.": ".norm_cross.",
    r"\.final_layer_norm\.": ".norm2.",
    r"\.self_attn\.out_proj\.": ".attention.out.",
    r"\.self_attn\.": ".attention.",
    r"\.encoder_attn\.q_proj\.": ".cross.q.",
    r"\.encoder_attn\.out_proj\.": ".cross.out.",
    r"\.encoder_attn\.": ".cross.",
    r"\.(fc[12])\.": r".mlp.\1.",
    r"^output_projection": "head",
}


def fuse_context(state: dict[str, Tensor]) -> None:
    """Keys and values of the cross-attention in one matrix."""
    for name in [name for name in state if ".cross.k_proj." in name]:
        parts = [state.pop(name.replace("k_proj", part)) for part in ("k_proj", "v_proj")]
        state[name.replace("k_proj", "kv")] = torch.cat(parts)


def from_transformers(model: nn.Module) -> Transformer:
    """Our decoder with the shape and weights of `TrOCRForCausalLM`: ids (B, T), context (B, S, C) -> logits.

    ValueError for what ours does not do: dropout inside the feed-forward network, dropping whole layers.
    """
    check_type(model, "TrOCRForCausalLM")
    c = model.config
    if c.activation_dropout or c.decoder_layerdrop:
        raise ValueError(
            f"expected no activation_dropout and no decoder_layerdrop, "
            f"got {c.activation_dropout} and {c.decoder_layerdrop}"
        )
    ours = Transformer(
        c.vocab_size, dim=c.d_model, depth=c.decoder_layers, num_heads=c.decoder_attention_heads,
        mlp_dim=c.decoder_ffn_dim, norm="layer", post_norm=True, final_norm=False, position="none",
        max_positions=c.max_position_embeddings, act=c.activation_function, gated=False, qkv_bias=True,
        out_bias=True, mlp_bias=True, cross=True, context_dim=c.cross_attention_hidden_size,
        dropout=c.dropout, attention_dropout=c.attention_dropout, tie_embeddings=c.tie_word_embeddings,
    )  # fmt: skip
    ours.embed.padding_idx = c.pad_token_id  # it gets no gradient
    ours.positions = TextEntry(
        c.d_model, max_positions=c.max_position_embeddings, learned=c.use_learned_position_embeddings,
        scale=math.sqrt(c.d_model) if c.scale_embedding else 1.0, norm=c.layernorm_embedding,
        pad_id=c.pad_token_id,
    )  # fmt: skip
    return load_mapped(model, ours, FROM_TROCR, fuse_context)
