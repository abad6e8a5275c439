"""Whisper.

Collected from notebooks/32_whisper.ipynb by `make export`: edit the notebook, not this file.
"""

import functools
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmscratch.transformer import (
    KVCache,
    Transformer,
    check_type,
    generate,
    initialise_weights,
    load_mapped,
    pick,
)

__all__ = [
    "Encoder",
    "FROM_WHISPER",
    "HOP",
    "LocalBlock",
    "MEL_SCALES",
    "N_FFT",
    "NoKeyBias",
    "Recogniser",
    "SAMPLE_RATE",
    "Segment",
    "TemplateMatcher",
    "Tokens",
    "Whisper",
    "WhisperConfig",
    "beam_search",
    "character_error_rate",
    "check_waveform",
    "ctc_collapse",
    "ctc_loss",
    "drop_key_bias",
    "dtw",
    "edit_distance",
    "error_interval",
    "fft",
    "from_mel",
    "from_transformers",
    "join_keys_and_values",
    "log_mel",
    "log_mels",
    "mel_filters",
    "normalise",
    "output_rules",
    "rate_of",
    "resample",
    "shift_right",
    "silence",
    "sinc_filters",
    "sinusoids",
    "split_segments",
    "timestamp_rules",
    "to_mel",
    "tokens_of",
    "transcribe",
    "transcribe_features",
    "transcript_loss",
    "word_error_rate",
    "word_errors",
    "write",
]

SAMPLE_RATE, N_FFT, HOP = 16_000, 400, 160  # a second; 25 ms of sound, every 10 ms


def fft(x: Tensor) -> Tensor:
    """Discrete Fourier transform of x (..., N), N a power of two, by halves (Cooley & Tukey 1965)."""
    n = x.shape[-1]
    if n < 1 or n & (n - 1):
        raise ValueError(f"expected a power of two as length, got {n}")
    x = x.to(torch.promote_types(x.dtype, torch.complex64))
    if n == 1:
        return x
    even, odd = fft(x[..., ::2]), fft(x[..., 1::2])  # each (..., N / 2)
    angle = -2 * math.pi / n * torch.arange(n // 2, dtype=x.real.dtype, device=x.device)
    odd = odd * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([even + odd, even - odd], dim=-1)


MEL_SCALES = ("slaney", "htk")


def to_mel(hertz: Tensor, scale: str = "slaney") -> Tensor:
    """Pitch in mel. Slaney (1998): 3 mel for 200 Hz up to 1 kHz, then a logarithm. HTK: one logarithm."""
    if pick("scale", scale, MEL_SCALES) == "htk":
        return 2595 * (1 + hertz / 700).log10()
    return torch.where(hertz < 1000, 3 * hertz / 200, 15 + 27 * (hertz / 1000).log() / math.log(6.4))


def from_mel(mel: Tensor, scale: str = "slaney") -> Tensor:
    """The inverse of `to_mel`."""
    if pick("scale", scale, MEL_SCALES) == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return torch.where(mel < 15, 200 * mel / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))


@functools.cache
def mel_filters(n_mels: int = 80, scale: str = "slaney") -> Tensor:
    """Triangles of equal area over the frequencies of a frame's spectrum, (n_mels, N_FFT / 2 + 1).

    Corners are evenly spaced in mel from 0 to 8 kHz. One tensor for all callers: do not write into it.
    """
    if n_mels < 1:
        raise ValueError(f"expected n_mels >= 1, got {n_mels}")
    hertz = torch.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1, dtype=torch.float64)
    ends = to_mel(torch.tensor([0, SAMPLE_RATE / 2], dtype=torch.float64), scale)
    corners = from_mel(torch.linspace(*ends.tolist(), n_mels + 2, dtype=torch.float64), scale)[:, None]
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (hertz - left) / (middle - left), (right - hertz) / (right - middle)
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (right - left)).float()


def check_waveform(waveform: Tensor, rate: int = SAMPLE_RATE) -> Tensor:
    """One channel of finite floating samples (L,) at 16 kHz, as float32; else a ValueError that says why."""
    waveform = torch.as_tensor(waveform)
    if waveform.ndim != 1:
        shape = tuple(waveform.shape)
        raise ValueError(f"expected one channel (L,), got {shape}: average the channels of stereo first")
    if not waveform.is_floating_point():
        raise ValueError(
            f"expected floating samples in [-1, 1], got {waveform.dtype}: divide int16 by 32768 first"
        )
    if rate != SAMPLE_RATE:
        raise ValueError(
            f"expected {SAMPLE_RATE} samples a second, got {rate}: resample(waveform, {rate}) first"
        )
    if not len(waveform):
        raise ValueError("expected at least one sample, got an empty waveform")
    if not waveform.sum().isfinite() and (bad := int((~waveform.isfinite()).sum())):
        raise ValueError(f"expected finite samples, got {bad} that are nan or infinite")
    return waveform.float()


def log_mels(waveforms: Tensor, n_mels: int = 80) -> Tensor:
    """Log-mel spectrograms of sound of one length: (B, L) -> (B, n_mels, L // 160), as `log_mel`."""
    if waveforms.ndim != 2 or waveforms.shape[1] <= N_FFT // 2:
        expected = f"more than {N_FFT // 2} samples, which are mirrored at the ends"
        raise ValueError(f"expected waveforms (B, L) of {expected}, got {tuple(waveforms.shape)}")
    window = torch.hann_window(N_FFT, device=waveforms.device)
    z = torch.stft(waveforms, N_FFT, HOP, window=window, return_complex=True)
    power = torch.addcmul(z.real.square(), z.imag, z.imag)[..., :-1]  # |z|^2, (B, 201, L // 160)
    x = (mel_filters(n_mels).to(power.device) @ power).clamp_(min=1e-10).log10_()
    return (torch.maximum(x, x.amax(dim=(1, 2), keepdim=True) - 8) + 4) / 4


def log_mel(
    waveform: Tensor, n_mels: int = 80, *, rate: int = SAMPLE_RATE, pad_to: int | None = None
) -> Tensor:
    """Whisper's spectrogram (Radford et al. 2023, sec. 2.2): (L,) at 16 kHz -> (n_mels, L // 160).

    Values span at most 2, for 80 dB. `pad_to` samples: silence is put behind the sound first (480,000 for
    Whisper's window of 30 s). ValueError for what is not one channel of finite floating samples at 16 kHz,
    or is longer than `pad_to`.
    """
    waveform = check_waveform(waveform, rate)
    if pad_to is not None:
        if len(waveform) > pad_to:
            raise ValueError(
                f"expected at most {pad_to} samples, got {len(waveform)}: transcribe() moves a window"
            )
        waveform = F.pad(waveform, (0, pad_to - len(waveform)))
    return log_mels(waveform[None], n_mels)[0]


@functools.cache
def sinc_filters(up: int, down: int) -> tuple[Tensor, int]:
    """The low-pass of `resample`, cut into `up` phases: (up, 1, taps), and how many taps look back."""
    slow = max(up, down)
    half = 10 * slow
    times = torch.arange(-half, half + 1, dtype=torch.float64)
    filt = torch.sinc(times / slow) * torch.kaiser_window(2 * half + 1, False, 5.0, dtype=torch.float64)
    filt = filt * up / filt.sum()
    before, after = half // up, (half + (up - 1) * down) // up
    phase, tap = torch.arange(up)[:, None], torch.arange(-before, after + 1)
    at = half + phase * down - tap * up  # where each tap lies in the long filter
    inside = (at >= 0) & (at <= 2 * half)
    return (filt[at.clamp(0, 2 * half)] * inside)[:, None], before


def resample(waveform: Tensor, rate: int, new_rate: int = SAMPLE_RATE) -> Tensor:
    """Sound at another rate: (..., L) -> (..., ceil(L new_rate / rate)), by a windowed sinc (Kaiser, beta 5).

    The filter spans 10 samples of the slower rate on either side and stops what the slower cannot hold.
    """
    if rate < 1 or new_rate < 1 or not waveform.is_floating_point() or not waveform.shape[-1]:
        found = f"rates {rate} and {new_rate}, {waveform.dtype} {tuple(waveform.shape)}"
        raise ValueError(f"expected rates >= 1 and floating waveforms (..., L), got {found}")
    common = math.gcd(rate, new_rate)
    up, down = new_rate // common, rate // common
    if up == down:
        return waveform
    kernel, before = sinc_filters(up, down)
    length, lead = waveform.shape[-1], waveform.shape[:-1]
    count = -(-length * up // down)  # samples wanted
    behind = -(-count // up) * down + kernel.shape[-1] - before - length
    x = F.pad(waveform.reshape(-1, 1, length), (before, max(behind, 0)))
    y = F.conv1d(x, kernel.to(x), stride=down)  # (B, up, ...): one output channel for each phase
    return y.transpose(1, 2).flatten(1)[:, :count].reshape(*lead, count)


class NoKeyBias(nn.Module):
    """Queries, keys and values (or keys and values) in one matrix, with a bias for all but the keys.

    (..., dim) -> (..., parts * inner). The softmax is blind to a bias on keys: it adds the same to every
    score of a query. Stands in for `Attention.qkv` and `CrossAttention.kv`.
    """

    def __init__(self, dim: int, inner: int, *, queries: bool = True):
        super().__init__()
        self.in_features = dim
        self.weight = nn.Parameter(torch.empty((3 if queries else 2) * inner, dim))
        self.q_bias = nn.Parameter(torch.zeros(inner)) if queries else None
        self.v_bias = nn.Parameter(torch.zeros(inner))

    def forward(self, x: Tensor) -> Tensor:
        none = torch.zeros_like(self.v_bias)
        bias = [none, self.v_bias] if self.q_bias is None else [self.q_bias, none, self.v_bias]
        return F.linear(x, self.weight, torch.cat(bias))


def sinusoids(length: int, dim: int) -> Tensor:
    """Whisper's positions (length, dim): all sines, then all cosines, wavelengths 2 pi to 20,000 pi."""
    if dim % 2 or dim < 4:
        raise ValueError(f"expected an even dim >= 4, got {dim}")
    omega = torch.exp(-math.log(10_000) * torch.arange(dim // 2) / (dim // 2 - 1))
    angles = torch.arange(length)[:, None] * omega  # (length, dim / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


@dataclass(kw_only=True)
class WhisperConfig:
    """Every knob of `Whisper`; the defaults are whisper-tiny's."""

    vocab_size: int
    n_mels: int = 80
    dim: int = 384
    depth: int = 4
    num_heads: int = 6
    mlp_dim: int | None = None  # default: 4 * dim
    decoder_depth: int | None = None  # default: as the encoder
    decoder_heads: int | None = None
    decoder_mlp_dim: int | None = None
    audio_positions: int = 1500  # states of the encoder, two frames each: 30 s
    text_positions: int = 448
    local_blocks: int = 0  # convolutions before attention: Whisper has none, small data wants some
    act: str = "gelu"
    tie_embeddings: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0

    def stack(self, *, decoder: bool) -> dict:
        """Options of lesson 02's transformer for one of the two stacks."""
        heads = (self.decoder_heads or self.num_heads) if decoder else self.num_heads
        hidden = (self.decoder_mlp_dim or self.mlp_dim) if decoder else self.mlp_dim
        return dict(
            dim=self.dim, num_heads=heads, mlp_dim=hidden, norm="layer", act=self.act, gated=False,
            depth=self.decoder_depth or self.depth if decoder else self.depth, dropout=self.dropout,
            attention_dropout=self.attention_dropout, qkv_bias=True, out_bias=True, mlp_bias=True,
        )  # fmt: skip


class LocalBlock(nn.Module):
    """Every channel looks at `kernel` states around it, then channels mix: (B, dim, S) -> same shape.

    The convolution of a Conformer (Gulati et al. 2020, sec. 2.2), without its gate.
    """

    def __init__(self, dim: int, kernel: int = 11):
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"expected an odd kernel >= 1, got {kernel}")
        self.near = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=False)
        self.norm, self.mix = nn.BatchNorm1d(dim), nn.Conv1d(dim, dim, 1)
        nn.init.normal_(self.mix.weight, std=dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.gelu(self.norm(self.near(x))))


def drop_key_bias(stack: Transformer) -> None:
    """Give every attention of a new stack projections without a bias on keys, and fresh weights."""
    for block in stack.blocks:
        c, a = stack.config, block.attention
        a.qkv = NoKeyBias(c.dim, a.num_heads * a.head_dim)
        if block.cross is not None:
            block.cross.kv = NoKeyBias(c.dim, a.num_heads * a.head_dim, queries=False)
    initialise_weights(stack, stack.config.depth)


class Encoder(nn.Module):
    """Log-mel frames to states: two convolutions, the second with stride 2, then pre-norm blocks.

    (B, n_mels, L) -> (B, ceil(L / 2), dim), L at most twice `audio_positions`. `local_blocks` stand between
    the two, and their convolutions are normalised over the batch; Whisper has neither.
    """

    def __init__(self, c: WhisperConfig):
        super().__init__()
        self.conv1 = nn.Conv1d(c.n_mels, c.dim, 3, padding=1)
        self.conv2 = nn.Conv1d(c.dim, c.dim, 3, stride=2, padding=1)
        for conv in (
            self.conv1,
            self.conv2,
        ):  # torch's default makes the sound 20 times fainter than positions
            nn.init.normal_(conv.weight, std=3 * conv.weight[0].numel() ** -0.5)
            nn.init.zeros_(conv.bias)
        norm = nn.BatchNorm1d if c.local_blocks else nn.Identity
        self.norm1, self.norm2 = norm(c.dim), norm(c.dim)
        self.local = nn.Sequential(*(LocalBlock(c.dim) for _ in range(c.local_blocks)))
        self.register_buffer("positions", sinusoids(c.audio_positions, c.dim))
        self.stack = Transformer(None, causal=False, position="none", **c.stack(decoder=False))
        drop_key_bias(self.stack)

    def forward(self, features: Tensor) -> Tensor:
        limit = 2 * len(self.positions)
        if features.ndim != 3 or features.shape[1] != self.conv1.in_channels or not features.shape[2]:
            expected = f"(B, {self.conv1.in_channels}, L)"
            raise ValueError(f"expected features {expected}, got {tuple(features.shape)}")
        if features.shape[2] > limit:
            raise ValueError(
                f"expected at most {limit} frames ({limit * HOP / SAMPLE_RATE:g} s), got "
                f"{features.shape[2]}: transcribe() moves a window"
            )
        x = F.gelu(self.norm1(self.conv1(features)))
        x = F.gelu(self.norm2(self.conv2(x)))
        x = self.local(x).transpose(1, 2).contiguous()  # (B, S, D), as every block reads it
        return self.stack.encode(embeddings=x + self.positions[: x.shape[1]])


class Whisper(nn.Module):
    """Speech to text (Radford et al. 2023): an encoder of sound, a decoder that writes what it hears.

    features (B, n_mels, L) and ids (B, T) -> logits (B, T, vocab_size) of each next token. L may be shorter
    than the window of 2 * `audio_positions` frames. Options: the fields of `WhisperConfig`.
    """

    def __init__(self, vocab_size: int, **options):
        super().__init__()
        c = self.config = WhisperConfig(vocab_size=vocab_size, **options)
        self.encoder = Encoder(c)
        self.decoder = Transformer(
            vocab_size, causal=True, cross=True, position="learned", max_positions=c.text_positions,
            tie_embeddings=c.tie_embeddings, **c.stack(decoder=True),
        )  # fmt: skip
        drop_key_bias(self.decoder)

    def encode(self, features: Tensor) -> Tensor:
        """States (B, ceil(L / 2), D): one for every 20 ms."""
        return self.encoder(features)

    def decode(self, ids: Tensor, states: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits (B, T, vocab_size) of ids (B, T) that follow what the cache holds."""
        return self.decoder(ids, context=states, cache=cache)

    def forward(self, features: Tensor, ids: Tensor) -> Tensor:
        return self.decode(ids, self.encode(features))


def shift_right(labels: Tensor, start: int, pad: int) -> Tensor:
    """What the decoder reads while it learns to say `labels` (B, T): start first, -100 replaced by pad."""
    if labels.ndim != 2 or not labels.shape[1]:
        raise ValueError(f"expected labels (B, T), T >= 1, got {tuple(labels.shape)}")
    return F.pad(labels[:, :-1].masked_fill(labels[:, :-1] == -100, pad), (1, 0), value=start)


def transcript_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats of labels (B, T) under logits (B, T, V); -100 does not count."""
    if logits.ndim != 3 or logits.shape[:2] != labels.shape:
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"expected logits (B, T, V) and labels (B, T), got {shapes}")
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Which ids mean what. Text comes first, then `end` and the other marks, timestamps last.

    The ids after `no_timestamps` are times: 0 s, then steps of `precision` seconds. `text` turns ids below
    `end` into words.
    """

    start: int
    end: int
    languages: Mapping[str, int]  # {"en": 50259, ...}; empty for a model of one language
    tasks: Mapping[str, int]  # {"transcribe": 50359, "translate": 50358}
    no_timestamps: int
    no_speech: int | None = None
    precision: float = 0.02
    latest_first: int | None = 50  # the first timestamp is at most this many steps
    suppress: tuple[int, ...] = ()  # never said
    suppress_first: tuple[int, ...] = ()  # not said as the first token
    text: Callable[[list[int]], str] = str

    def prompt(self, language: str = "en", task: str = "transcribe", *, timestamps: bool = True) -> list[int]:
        """What the decoder is given: <start> <language> <task>, and <no timestamps> where none are wanted."""
        ids = [self.start]
        if self.languages:
            ids.append(self.languages[pick("language", language, self.languages)])
        if self.tasks:
            ids.append(self.tasks[pick("task", task, self.tasks)])
        return ids if timestamps else [*ids, self.no_timestamps]

    def seconds(self, token: int) -> float:
        """The time that a timestamp stands for."""
        if token <= self.no_timestamps:
            raise ValueError(f"expected a timestamp, an id above {self.no_timestamps}, got {token}")
        return (token - self.no_timestamps - 1) * self.precision


def timestamp_rules(logits: Tensor, said: Tensor, tokens: Tokens) -> Tensor:
    """Forbid what breaks the grammar of timestamps: logits (B, V) after said (B, n) -> (B, V).

    Times come in pairs around text and never run backwards; the first token is a time; and a time is said
    where times together are likelier than any one word (openai/whisper, ApplyTimestampRules).
    """
    n, first = said.shape[-1], tokens.no_timestamps + 1
    if logits.ndim != 2 or said.ndim != 2 or len(said) != len(logits) or logits.shape[1] <= first:
        shapes = f"{tuple(logits.shape)} and {tuple(said.shape)}"
        raise ValueError(f"expected logits (B, V > {first}) and what was said (B, n), got {shapes}")
    ids = torch.arange(logits.shape[1], device=logits.device)
    times, text = ids >= first, ids < tokens.end
    was = F.pad(said >= first, (2, 0), value=True)  # so that nothing said counts as after a pair
    last, before = was[:, -1:] & (n > 0), was[:, -2:-1]  # (B, 1)
    blocked = (last & before & times) | (last & ~before & text)
    places = (was[:, 2:] * torch.arange(1, n + 1, device=ids.device)).amax(dim=1, keepdim=True) if n else None
    if n:
        latest = said.gather(1, (places - 1).clamp(min=0))  # (B, 1): the newest time, if any
        lowest = torch.where(places > 0, latest + 1 - (last & ~before).long(), first)
        blocked |= times & (ids < lowest)
    else:
        blocked |= ~times
        if tokens.latest_first is not None:
            blocked |= ids > first + tokens.latest_first
    blocked[:, tokens.no_timestamps] = True
    logits = logits.masked_fill(blocked, -math.inf)
    chances = logits.float().log_softmax(dim=-1)
    likelier = chances[:, first:].logsumexp(-1, True) > chances[:, :first].amax(-1, True)
    return logits.masked_fill(likelier & (ids < first), -math.inf)


def output_rules(tokens: Tokens, prompt: int, timestamps: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """(ids, logits) -> logits for `generate` and `beam_search`: what may follow a prompt of that length."""

    def adjust(ids: Tensor, logits: Tensor) -> Tensor:
        said = ids[:, prompt:]
        banned = [*tokens.suppress, *(() if said.shape[1] else tokens.suppress_first)]
        if banned:
            logits = logits.index_fill(1, torch.tensor(banned, device=logits.device), -math.inf)
        return timestamp_rules(logits, said, tokens) if timestamps else logits

    return adjust


@torch.no_grad()
def beam_search(
    model: nn.Module, states: Tensor, prompt: list[int], *, end: int, beams: int = 5,
    max_new_tokens: int = 100, adjust: Callable[[Tensor, Tensor], Tensor] | None = None,
    length_penalty: float = 1.0,
) -> list[list[int]]:  # fmt: skip
    """The likeliest continuations found with `beams` hypotheses: states (B, S, D) -> B lists without `end`.

    Sums of log-probabilities, of finished hypotheses divided by length ** length_penalty. A row is done when
    `beams` of them are finished and the best open one, at its present length, scores no better.
    """
    if beams < 1 or max_new_tokens < 1:
        raise ValueError(f"expected beams >= 1 and max_new_tokens >= 1, got {beams} and {max_new_tokens}")
    B, K, n = len(states), beams, len(prompt)
    ids = torch.tensor([prompt] * (B * K), device=states.device)
    cache = KVCache(model.decoder, B * K, n + max_new_tokens - 1)
    states = states.repeat_interleave(K, dim=0)
    scores = states.new_full((B, K), -1e9)
    scores[:, 0] = 0  # all hypotheses are the same at first: keep one
    rows = torch.arange(B, device=states.device)[:, None] * K
    done: list[list[tuple[float, list[int]]]] = [[] for _ in range(B)]
    closed = [False] * B
    for step in range(1, max_new_tokens + 1):
        logits = model.decode(ids[:, cache.length :], states, cache)[:, -1]
        chances = logits.float().log_softmax(dim=-1)
        chances = chances if adjust is None else adjust(ids, chances)
        total = scores[:, :, None] + chances.view(B, K, -1)  # (B, K, V)
        best, flat = total.flatten(1).topk(2 * K)  # enough to go on with where half of them end
        source, token = flat // chances.shape[1] + rows, flat % chances.shape[1]
        over = (token == end) | (step == max_new_tokens)
        for b in range(B):
            for score, s, t in zip(
                best[b, :K][over[b, :K]], source[b, :K][over[b, :K]], token[b, :K][over[b, :K]], strict=True
            ):
                if not closed[b]:
                    done[b].append((score.item() / step**length_penalty, [*ids[s, n:].tolist(), int(t)]))
            done[b] = sorted(done[b], key=lambda one: -one[0])[:K]
        scores, keep = (best - 1e9 * over).topk(K)
        source, token = source.gather(1, keep).flatten(), token.gather(1, keep).flatten()
        ids = torch.cat([ids[source], token[:, None]], dim=1)
        cache.select(source)
        for b in range(B):
            hopeless = len(done[b]) == K and scores[b, 0].item() / step**length_penalty <= done[b][-1][0]
            closed[b] = closed[b] or hopeless
        if all(closed):
            break
    best = [row[0][1] for row in done]
    return [ids[:-1] if ids[-1] == end else ids for ids in best]


@torch.no_grad()
def write(
    model: nn.Module, features: Tensor, tokens: Tokens, *, language: str = "en", task: str = "transcribe",
    timestamps: bool = True, beams: int = 1, max_new_tokens: int | None = None, length_penalty: float = 1.0,
) -> list[list[int]]:  # fmt: skip
    """What the model says about features (B, n_mels, L) of one window each: B lists of ids.

    Prompt and end are left out. beams 1: the likeliest token each time. `timestamps`: say them, by the rules.
    """
    prompt = tokens.prompt(language, task, timestamps=timestamps)
    room = model.config.text_positions - len(prompt)
    count = room if max_new_tokens is None else min(max_new_tokens, room)
    adjust, states = output_rules(tokens, len(prompt), timestamps), model.encode(features)
    if beams > 1:
        return beam_search(
            model, states, prompt, end=tokens.end, beams=beams, max_new_tokens=count, adjust=adjust,
            length_penalty=length_penalty,
        )  # fmt: skip
    ids = torch.tensor([prompt] * len(features), device=features.device)
    ids = generate(model.decoder, ids, count, eos_id=tokens.end, context=states, adjust=adjust)
    said = [row[len(prompt) :] for row in ids.tolist()]
    return [row[: row.index(tokens.end)] if tokens.end in row else row for row in said]


@dataclass(frozen=True)
class Segment:
    """A stretch of speech: when, in seconds, and the ids that were said, timestamps included."""

    start: float
    end: float
    ids: tuple[int, ...]
    text: str


def split_segments(
    ids: list[int], tokens: Tokens, seconds: float, offset: float = 0.0
) -> tuple[list[Segment], float]:
    """Segments of one window's ids, cut between pairs of times, and how far to move the window, in seconds.

    After text without a closing time the window moves to the last one: that speech was cut off and is read
    again. Without a pair, or with one closing time at the end, everything was heard: move by `seconds`.
    """
    first = tokens.no_timestamps + 1
    is_time = [i >= first for i in ids]
    cuts = [i + 1 for i in range(len(ids) - 1) if is_time[i] and is_time[i + 1]]
    ends_once = is_time[-2:] == [False, True]
    move = seconds
    if not cuts:
        times = [i for i in ids if i >= first]
        until = tokens.seconds(times[-1]) if times and times[-1] != first else seconds
        pieces = [(0.0, until, ids)]
    else:
        cuts = [*cuts, len(ids)] if ends_once else cuts
        pieces = []
        for a, b in zip([0, *cuts], cuts, strict=False):
            last = tokens.seconds(ids[b - 1]) if is_time[b - 1] else seconds
            pieces.append((tokens.seconds(ids[a]) if is_time[a] else 0.0, last, ids[a:b]))
        if not ends_once:  # the last piece shows both times of its pair: it did not end the window
            pieces[-1] = (*pieces[-1][:2], [*pieces[-1][2], ids[cuts[-1]]])
            move = pieces[-1][1]
    words = [tokens.text([i for i in piece if i < tokens.end]) for *_, piece in pieces]
    return [
        Segment(offset + start, offset + end, tuple(piece), text)
        for (start, end, piece), text in zip(pieces, words, strict=True)
    ], move


@torch.no_grad()
def silence(model: nn.Module, features: Tensor, tokens: Tokens) -> float:
    """How likely <no speech> is as the first thing said about one window (1, n_mels, L)."""
    if tokens.no_speech is None:
        return 0.0
    ids = torch.tensor([[tokens.start]], device=features.device)
    return model(features, ids)[0, 0].softmax(dim=-1)[tokens.no_speech].item()


@torch.no_grad()
def transcribe_features(
    model: nn.Module, features: Tensor, tokens: Tokens, *, no_speech: float | None = 0.6,
    timestamps: bool = True, fill: float | None = None, **options,
) -> list[Segment]:  # fmt: skip
    """As `transcribe`, from one log-mel spectrogram (n_mels, L) of any length."""
    frames, length = 2 * model.config.audio_positions, features.shape[-1]
    if features.ndim != 2 or not length or (not timestamps and length > frames):
        expected = "(F, L)" if timestamps else f"(F, L), L <= {frames}, as only timestamps move the window"
        raise ValueError(f"expected features {expected}, got {tuple(features.shape)}")
    fill = features.min().item() if fill is None else fill
    found, seek = [], 0
    while seek < length:
        piece = features[:, seek : seek + frames]
        window = F.pad(piece, (0, frames - piece.shape[1]), value=fill)[None]
        seconds, offset = (n * HOP / SAMPLE_RATE for n in (piece.shape[1], seek))
        if no_speech is not None and silence(model, window, tokens) > no_speech:
            seek += piece.shape[1]
            continue
        (ids,) = write(model, window, tokens, timestamps=timestamps, **options)
        segments, move = split_segments(ids, tokens, seconds, offset)
        found += segments
        seek += max(1, round(move * SAMPLE_RATE / HOP))
    return found


def transcribe(
    model: nn.Module, waveform: Tensor, tokens: Tokens, *, rate: int = SAMPLE_RATE, **options
) -> list[Segment]:
    """Speech of any length (L,) at 16 kHz to timed text (Radford et al. 2023, secs. 3.8 and 4.5).

    A window moves over the sound, each time to the last timestamp that closed a segment. A window in which
    the model gives <no speech> more than `no_speech` is passed over; None: never. Behind the sound stands
    `fill`, by default its quietest value (the library: 0.0). Options: those of `write`. ValueError for bad
    sound, and for more than a window of it with `timestamps=False`: only they can move it.
    """
    return transcribe_features(model, log_mel(waveform, model.config.n_mels, rate=rate), tokens, **options)


def ctc_loss(log_probs: Tensor, labels: Tensor, frames: Tensor, lengths: Tensor, blank: int = 0) -> Tensor:
    """-log P(labels) over all alignments with blanks (Graves et al. 2006, sec. 4.1), in nats, (B,).

    log_probs (B, S, V), labels (B, T), of which `frames` (B,) and `lengths` (B,) count in each row.
    """
    if log_probs.ndim != 3 or labels.ndim != 2 or len(labels) != len(log_probs):
        shapes = f"{tuple(log_probs.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"expected log_probs (B, S, V) and labels (B, T), got {shapes}")
    (B, T), S = labels.shape, log_probs.shape[1]
    path = torch.full((B, 2 * T + 1), blank, device=labels.device)
    path[:, 1::2] = labels  # blanks around every label: (B, 2T + 1)
    skip = F.pad(path[:, 2:] != path[:, :-2], (2, 0)) & (path != blank)  # may jump over a blank
    said = log_probs.gather(2, path[:, None].expand(B, S, -1))  # (B, S, 2T + 1)
    alpha = said[:, 0].masked_fill(torch.arange(2 * T + 1, device=path.device) > 1, -math.inf)
    rows = [alpha]
    for s in range(1, S):
        one, two = (F.pad(alpha, (k, 0), value=-math.inf)[:, : 2 * T + 1] for k in (1, 2))
        ways = torch.stack([alpha, one, two.masked_fill(~skip, -math.inf)])
        top = ways.amax(dim=0).clamp(min=-1e30)  # a logsumexp whose gradient survives "impossible"
        alpha = top + (ways - top).exp().sum(dim=0).clamp(min=1e-38).log() + said[:, s]
        rows.append(alpha)
    last = torch.stack(rows, dim=1)[torch.arange(B), frames - 1]  # (B, 2T + 1)
    ends = torch.stack([2 * lengths, (2 * lengths - 1).clamp(min=0)], dim=1)
    found = last.gather(1, ends)
    found = torch.where(lengths[:, None] > 0, found, found.new_tensor([0.0, -math.inf]) + found[:, :1])
    return -found.logsumexp(dim=1)


def ctc_collapse(ids: list[int], blank: int = 0) -> list[int]:
    """The text of one alignment: repeats joined, then blanks left out."""
    return [i for i, before in zip(ids, [None, *ids], strict=False) if i not in (before, blank)]


class Recogniser(nn.Module):
    """A Whisper with a CTC head on its encoder: two routes to text that share their ears.

    features (B, n_mels, L), ids (B, T) -> logits (B, T, V), and CTC log-probabilities (B, S, ctc_size).
    Class 0 of the head is the blank. Kim et al. (2017) train both together.
    """

    def __init__(self, whisper: Whisper, ctc_size: int):
        super().__init__()
        self.whisper, self.head = whisper, nn.Linear(whisper.config.dim, ctc_size)
        nn.init.normal_(self.head.weight, std=0.01)
        self.head.bias.data = 4.0 * (torch.arange(ctc_size) == 0)  # most states say nothing: begin there

    def forward(self, features: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        states = self.whisper.encode(features)
        return self.whisper.decode(ids, states), self.head(states).log_softmax(dim=-1)

    @torch.no_grad()
    def spell(self, features: Tensor) -> list[list[int]]:
        """The best path of the CTC head for features (B, n_mels, L), collapsed: no decoder, no loop."""
        best = self.head(self.whisper.encode(features)).argmax(dim=-1)  # (B, S)
        return [ctc_collapse(row) for row in best.tolist()]


def edit_distance(a: Sequence, b: Sequence) -> int:
    """Fewest insertions, deletions and substitutions that turn a into b (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[tuple[int, int]]:
    """(edits, words of the reference) of each pair of texts, split at white space."""
    if isinstance(references, str) or isinstance(hypotheses, str) or len(references) != len(hypotheses):
        raise ValueError("expected two lists of texts of one length")
    pairs = [(r.split(), h.split()) for r, h in zip(references, hypotheses, strict=True)]
    return [(edit_distance(r, h), len(r)) for r, h in pairs]


def rate_of(errors: Sequence[tuple[int, int]]) -> float:
    edits, words = map(sum, zip(*errors, strict=True))
    if not words:
        raise ValueError("expected at least one word in the references, got none")
    return edits / words


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Edits over words of the references, all texts together. Above 1 where much is inserted."""
    return rate_of(word_errors(references, hypotheses))


def character_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """As `word_error_rate`, with characters for words, blanks among them, those at the ends left out."""
    if isinstance(references, str) or isinstance(hypotheses, str) or len(references) != len(hypotheses):
        raise ValueError("expected two lists of texts of one length")
    pairs = [(r.strip(), h.strip()) for r, h in zip(references, hypotheses, strict=True)]
    return rate_of([(edit_distance(r, h), len(r)) for r, h in pairs])


def error_interval(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Word error rate with the ends of its bootstrap interval over utterances (Bisani & Ney 2004)."""
    counts = torch.tensor(word_errors(references, hypotheses), dtype=torch.float64)
    g = torch.Generator().manual_seed(seed)
    drawn = counts[torch.randint(len(counts), (draws, len(counts)), generator=g)].sum(dim=1)  # (draws, 2)
    rates = drawn[:, 0] / drawn[:, 1]
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=rates.dtype)
    return rate_of(counts.tolist()), *rates.quantile(ends).tolist()


def normalise(text: str, spellings: Mapping[str, str] | None = None) -> str:
    """Text as it is scored: lower case, no [notes] or (asides), no punctuation, single blanks.

    Whisper's BasicTextNormalizer, blanks at the ends left out; then `spellings`, word by word, such as
    {"colour": "color"}.
    """
    text = re.sub(r"[<\[][^>\]]*[>\]]", "", text.lower())
    text = unicodedata.normalize("NFKC", re.sub(r"\(([^)]+?)\)", "", text))
    text = "".join(" " if unicodedata.category(c)[0] in "MSP" else c for c in text).lower()
    return " ".join((spellings or {}).get(word, word) for word in text.split())


def dtw(cost: Tensor) -> tuple[float, list[tuple[int, int]]]:
    """Cheapest way through cost (N, M) from corner to corner, by steps (1, 1), (1, 0) and (0, 1).

    Returns its sum and its cells (Sakoe & Chiba 1978).
    """
    if cost.ndim != 2 or not cost.numel() or not cost.isfinite().all():
        raise ValueError(f"expected finite costs (N, M), got {tuple(cost.shape)}")
    rows = cost.double().tolist()
    N, M = cost.shape
    total = [[math.inf] * (M + 1) for _ in range(N + 1)]
    total[0][0] = 0.0
    for i, row in enumerate(rows, 1):
        above, here = total[i - 1], total[i]
        for j, c in enumerate(row, 1):
            here[j] = c + min(above[j - 1], above[j], here[j - 1])
    i, j, path = N, M, []
    while i and j:
        path.append((i - 1, j - 1))
        steps = (
            (total[i - 1][j - 1], i - 1, j - 1),
            (total[i - 1][j], i - 1, j),
            (total[i][j - 1], i, j - 1),
        )
        _, i, j = min(steps, key=lambda step: step[0])
    return total[N][M], path[::-1]


class TemplateMatcher:
    """Words found by time warping against recorded ones, as in the connected-word recognisers of Ney (1984).

    templates: (word, features (L, F)) pairs. `recognise` explains features (T, F) as a row of templates, each
    stretched in time, at the least total distance plus `penalty` for every word.
    """

    def __init__(self, templates: Sequence[tuple[str, Tensor]]):
        if not templates:
            raise ValueError("expected at least one template, got none")
        self.words = [word for word, _ in templates]
        lengths = torch.tensor([len(t) for _, t in templates])
        self.frames = torch.cat([t for _, t in templates])  # (J, F)
        self.last = lengths.cumsum(0) - 1
        self.first = self.last - lengths + 1

    def recognise(self, features: Tensor, penalty: float = 0.0) -> list[str]:
        """features (T, F) -> words."""
        if features.ndim != 2 or not len(features) or features.shape[1] != self.frames.shape[1]:
            expected = f"(T, {self.frames.shape[1]}), T >= 1"
            raise ValueError(f"expected features {expected}, got {tuple(features.shape)}")
        local = torch.cdist(features, self.frames)  # (T, J)
        entry = torch.zeros(local.shape[1], dtype=torch.bool)
        entry[self.first] = True
        total, begun = torch.full(entry.shape, math.inf), torch.zeros(entry.shape, dtype=torch.long)
        exit_cost, ends = 0.0, []  # of the best row of whole words so far; (word, where it began) by frame
        for t, here in enumerate(local):
            one = torch.where(entry, exit_cost + penalty, total.roll(1))
            two = torch.where(entry | entry.roll(1), math.inf, total.roll(2))  # skips a frame: faster speech
            ways, step = torch.stack([total, one, two]).min(dim=0)
            since = torch.stack([begun, torch.where(entry, t, begun.roll(1)), begun.roll(2)])
            total, begun = here + ways, since.gather(0, step[None])[0]
            best = total[self.last].argmin()
            exit_cost = total[self.last[best]].item()
            ends.append((int(best), int(begun[self.last[best]])))
        said, t = [], len(local) - 1
        while t >= 0:
            word, began = ends[t]
            said.append(self.words[word])
            t = began - 1
        return said[::-1]


FROM_WHISPER = {
    r"^model\.": "",
    r"^encoder\.embed_positions\.weight": "encoder.positions",
    r"^decoder\.embed_positions\.weight": "decoder.positions.table",
    r"^decoder\.embed_tokens": "decoder.embed",
    r"^proj_out": "decoder.head",
    r"^encoder\.layers\.": "encoder.stack.blocks.",
    r"^decoder\.layers\.": "decoder.blocks.",
    r"^encoder\.layer_norm": "encoder.stack.norm",
    r"^decoder\.layer_norm": "decoder.norm",
    r"\.self_attn_layer_norm\.": ".norm1.",
    r"\.encoder_attn_layer_norm\.": ".norm_cross.",
    r"\.final_layer_norm\.": ".norm2.",
    r"\.self_attn\.([qv])_proj\.bias": r".attention.qkv.\1_bias",
    r"\.encoder_attn\.v_proj\.bias": ".cross.kv.v_bias",
    r"\.encoder_attn\.([qkv])_proj\.": r".cross.\1.",
    r"\.(self|encoder)_attn\.out_proj\.": r".\1_attn.out.",
    r"\.encoder_attn\.": ".cross.",
    r"\.self_attn\.": ".attention.",
    r"\.fc([12])\.": r".mlp.fc\1.",
}


def join_keys_and_values(state: dict[str, Tensor]) -> None:
    """Cross-attention keeps queries apart: the weights of k and v become one."""
    for name in [name for name in state if name.endswith(".cross.k.weight")]:
        value = state.pop(name.replace(".k.", ".v."))
        state[name.replace(".k.", ".kv.")] = torch.cat([state.pop(name), value])


def from_transformers(model: nn.Module) -> Whisper:
    """Our model with the shape and weights of transformers' WhisperForConditionalGeneration.

    ValueError where the configuration asks for what ours does not do.
    """
    check_type(model, "WhisperForConditionalGeneration")
    c = model.config
    if c.scale_embedding or c.activation_dropout:
        raise ValueError("expected scale_embedding False and activation_dropout 0")
    ours = Whisper(
        c.vocab_size, n_mels=c.num_mel_bins, dim=c.d_model, depth=c.encoder_layers,
        num_heads=c.encoder_attention_heads, mlp_dim=c.encoder_ffn_dim, decoder_depth=c.decoder_layers,
        decoder_heads=c.decoder_attention_heads, decoder_mlp_dim=c.decoder_ffn_dim,
        audio_positions=c.max_source_positions, text_positions=c.max_target_positions,
        act=c.activation_function, tie_embeddings=c.tie_word_embeddings, dropout=c.dropout,
        attention_dropout=c.attention_dropout,
    )  # fmt: skip
    return load_mapped(model, ours, FROM_WHISPER, join_keys_and_values)


def tokens_of(model: nn.Module, text: Callable[[list[int]], str] = str) -> Tokens:
    """The special ids of a transformers Whisper, from its generation configuration. text: ids to words."""
    g = model.generation_config
    return Tokens(
        start=g.decoder_start_token_id, end=g.eos_token_id, no_timestamps=g.no_timestamps_token_id,
        languages={name.strip("<|>"): i for name, i in (getattr(g, "lang_to_id", None) or {}).items()},
        tasks=dict(getattr(g, "task_to_id", None) or {}), no_speech=g.no_timestamps_token_id - 1,
        latest_first=getattr(g, "max_initial_timestamp_index", None), suppress=tuple(g.suppress_tokens or ()),
        suppress_first=tuple(g.begin_suppress_tokens or ()), text=text,
    )  # fmt: skip
