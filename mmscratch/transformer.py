"""The transformer.

Collected from notebooks/02_transformer.ipynb by `make export`: edit the notebook, not this file.
"""

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "ACTIVATIONS",
    "Attention",
    "Block",
    "BlockConfig",
    "CrossAttention",
    "FROM_GPT2",
    "FROM_LLAMA",
    "FROM_TORCH",
    "FUSED",
    "FeedForward",
    "FusedRMSNorm",
    "KVCache",
    "LayerCache",
    "NORMS",
    "Positions",
    "RMSNorm",
    "Transformer",
    "TransformerConfig",
    "attend",
    "attention_weights",
    "check_mask",
    "check_type",
    "choose",
    "embed_input",
    "from_torch",
    "from_transformers",
    "gelu_tanh",
    "generate",
    "head_width",
    "initialise_weights",
    "load_mapped",
    "make_norm",
    "make_scale",
    "next_token_loss",
    "pick",
    "quick_gelu",
    "rope",
    "rotate",
    "sinusoidal",
    "small_reader",
    "split_queries",
    "spread",
    "spread_context",
    "torch_layer_options",
    "transpose_linear",
]


def check_mask(mask: Tensor | None, q: Tensor, k: Tensor) -> None:
    """ValueError unless heads divide and mask is boolean and spreads over the scores (B, h, T, S)."""
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} heads of queries are not a multiple of {k.shape[1]} heads of keys")
    if mask is None:
        return
    scores = (*q.shape[:3], k.shape[2])
    fits = mask.ndim == 4 and all(m in (1, s) for m, s in zip(mask.shape, scores, strict=True))
    if mask.dtype != torch.bool or not fits:
        raise ValueError(
            f"expected a boolean mask that spreads over scores {scores}, got {mask.dtype} {tuple(mask.shape)}"
        )


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, causal: bool = False, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017, eq. 1), fused.

    q (B, h, T, d), k and v (B, h_kv, S, d) -> (B, h, T, d). mask (B | 1, h | 1, T | 1, S): True where a
    query may look. causal: the last query stands at the last key and none sees a later one.
    """
    T, S = q.shape[2], k.shape[2]
    check_mask(mask, q, k)
    causal = causal and T > 1  # one query at the end sees everything
    if causal and (mask is not None or T != S):
        past = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
        mask, causal = past if mask is None else past & mask, False
    return F.scaled_dot_product_attention(
        q, k, v, mask, dropout, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
    )


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None, *, causal: bool = False) -> Tensor:
    """The weights behind `attend`, to look at: q (B, h, T, d), k (B, h_kv, S, d) -> (B, h, T, S).

    A row that may look nowhere is zero; every other row sums to one.
    """
    check_mask(mask, q, k)
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, h, T, S)
    if causal:
        past = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
        mask = past if mask is None else past & mask
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(dim=-1).nan_to_num(0.0)


def head_width(dim: int, num_heads: int, head_dim: int | None = None) -> int:
    """Width of one head: `head_dim`, or dim / num_heads; ValueError where that is not whole."""
    if num_heads < 1 or (head_dim is None and dim % num_heads):
        raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}")
    if head_dim is not None and head_dim < 1:
        raise ValueError(f"expected head_dim >= 1, got {head_dim}")
    return dim // num_heads if head_dim is None else head_dim


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, sec. 3.2), all projections in one matrix.

    x (B, T, D) -> (B, T, D). `num_kv_heads` fewer than `num_heads`: groups of queries share keys and values
    (Ainslie et al. 2023). `rope` (2, T, d) turns queries and keys, `mask` and `causal` as in `attend`,
    `cache` keeps keys and values of earlier calls.
    """

    def __init__(
        self, dim: int, *, num_heads: int, head_dim: int | None = None, num_kv_heads: int | None = None,
        qkv_bias: bool = True, out_bias: bool = True, dropout: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_width(dim, num_heads, head_dim)
        self.num_kv_heads, self.dropout = num_heads if num_kv_heads is None else num_kv_heads, dropout
        if self.num_kv_heads < 1 or num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {num_heads} is not a multiple of num_kv_heads {num_kv_heads}")
        self.qkv = nn.Linear(dim, (num_heads + 2 * self.num_kv_heads) * self.head_dim, bias=qkv_bias)
        self.out = nn.Linear(num_heads * self.head_dim, dim, bias=out_bias)

    def project(self, x: Tensor, rope: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, h, T, d), keys and values (B, h_kv, T, d)."""
        h, g = self.num_heads, self.num_kv_heads
        x = self.qkv(x).unflatten(-1, (h + 2 * g, self.head_dim)).transpose(1, 2)  # (B, h + 2g, T, d)
        if rope is None:
            return x.split([h, g, g], dim=1)
        qk, v = x.split([h + g, g], dim=1)
        return *rotate(qk, rope).split([h, g], dim=1), v

    def forward(
        self, x: Tensor, rope: Tensor | None = None, mask: Tensor | None = None, *, causal: bool = False,
        cache: "LayerCache | None" = None,
    ) -> Tensor:  # fmt: skip
        q, k, v = self.project(x, rope)
        if cache is not None:
            k, v = cache.extend(k, v)
        x = attend(q, k, v, mask, causal=causal, dropout=self.dropout if self.training else 0.0)
        return self.out(x.transpose(1, 2).flatten(2))  # (B, T, D)

    def weights(
        self, x: Tensor, rope: Tensor | None = None, mask: Tensor | None = None, *, causal: bool = False
    ) -> Tensor:
        """softmax(q k^T / sqrt(d)) written out, to look at: (B, h, T, T), as `attention_weights`."""
        q, k, _ = self.project(x, rope)
        return attention_weights(q, k, mask, causal=causal)


def rope(positions: Tensor, head_dim: int, *, theta: float = 10_000.0) -> Tensor:
    """Cosines and sines for rotary positions (Su et al. 2021, sec. 3.2): (...,) -> (2, ..., d).

    Channel i is paired with channel i + d/2; the pair turns by position * theta ** (-2i/d) radians.
    """
    if head_dim % 2:
        raise ValueError(f"rotary positions need an even head_dim, got {head_dim}")
    omega = theta ** -(torch.arange(0, head_dim, 2, device=positions.device) / head_dim)
    angles = (positions[..., None].float() * omega).repeat((1,) * positions.ndim + (2,))  # (..., d)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Turn channel pairs (i, i + d/2) of x (..., T, d) by the angles behind rope (2, T, d)."""
    half = x.shape[-1] // 2
    cos, sin = rope.to(x.dtype)
    signed = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
    return torch.addcmul(x * cos, x.roll(half, dims=-1), signed)


def sinusoidal(positions: Tensor, dim: int, *, theta: float = 10_000.0) -> Tensor:
    """Fixed codes (Vaswani et al. 2017, sec. 3.5): (...,) -> (..., D), sines and cosines in turn."""
    if dim % 2:
        raise ValueError(f"sinusoidal positions need an even dim, got {dim}")
    omega = theta ** -(torch.arange(0, dim, 2, device=positions.device) / dim)
    angles = positions[..., None].float() * omega  # (..., D/2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class CrossAttention(nn.Module):
    """Queries from one sequence, keys and values from another (Vaswani et al. 2017, sec. 3.2.3).

    x (B, T, D), context (B, S, C) -> (B, T, D); mask as in `attend`, cache as in `Attention`: the context is
    projected once.
    """

    def __init__(
        self, dim: int, *, num_heads: int, head_dim: int | None = None, context_dim: int | None = None,
        qkv_bias: bool = True, out_bias: bool = True, dropout: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_width(dim, num_heads, head_dim)
        self.dropout, inner = dropout, num_heads * self.head_dim
        self.q = nn.Linear(dim, inner, bias=qkv_bias)
        self.kv = nn.Linear(context_dim or dim, 2 * inner, bias=qkv_bias)
        self.out = nn.Linear(inner, dim, bias=out_bias)

    def project(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, h, T, d), keys and values (B, h, S, d)."""
        if context.ndim != 3 or context.shape[2] != self.kv.in_features:
            expected = f"(B, S, {self.kv.in_features})"
            raise ValueError(f"expected context of shape {expected}, got {tuple(context.shape)}")
        kv = self.kv(context).unflatten(-1, (2 * self.num_heads, self.head_dim)).transpose(1, 2)
        return self.queries(x), *kv.chunk(2, dim=1)

    def queries(self, x: Tensor) -> Tensor:
        return self.q(x).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def forward(
        self, x: Tensor, context: Tensor, mask: Tensor | None = None, *, cache: "LayerCache | None" = None
    ) -> Tensor:
        if cache is not None and cache.context is not None:
            q, (k, v) = self.queries(x), cache.context
        else:
            q, k, v = self.project(x, context)
            if cache is not None:
                cache.context = (k, v)
        x = attend(q, k, v, mask, dropout=self.dropout if self.training else 0.0)
        return self.out(x.transpose(1, 2).flatten(2))  # (B, T, D)

    def weights(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Where each query looks in the context, (B, h, T, S)."""
        q, k, _ = self.project(x, context)
        return attention_weights(q, k, mask)


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), a cheaper stand-in for GELU (Hendrycks & Gimpel 2016, sec. 2)."""
    return x * torch.sigmoid(1.702 * x)


gelu_tanh = partial(F.gelu, approximate="tanh")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu, "gelu_new": gelu_tanh, "gelu_pytorch_tanh": gelu_tanh, "quick_gelu": quick_gelu,
    "relu": F.relu, "silu": F.silu, "tanh": torch.tanh,
}  # fmt: skip


def pick(what: str, name: str, choices: Collection[str]) -> str:
    """`name` if it is one of `choices`, else a ValueError that lists them."""
    if name not in choices:
        raise ValueError(f"expected {what} to be one of {', '.join(choices)}, got {name!r}")
    return name


class FeedForward(nn.Module):
    """Two linear maps with an activation between, the same for every token: (B, T, D) -> (B, T, D).

    `gated` multiplies two branches, W2 (act(W1 x) * W3 x): SwiGLU where act is "silu" (Shazeer 2020).
    """

    def __init__(self, dim: int, *, hidden: int, act: str = "gelu", gated: bool = False, bias: bool = True):
        super().__init__()
        self.gated, self.act = gated, ACTIVATIONS[pick("act", act, ACTIVATIONS)]
        self.fc1 = nn.Linear(dim, 2 * hidden if gated else hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        if self.gated:
            gate, value = h.chunk(2, dim=-1)
            return self.fc2(self.act(gate) * value)
        return self.fc2(self.act(h))


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * w over the last axis (Zhang & Sennrich 2019, eq. 4)."""

    def __init__(self, dim: int, *, eps: float = 1e-5):
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1:] != self.weight.shape:
            raise ValueError(f"expected (..., {len(self.weight)}), got {tuple(x.shape)}")
        if x.device.type == "cpu" and x.dtype == torch.float32:
            return FusedRMSNorm.apply(x, self.weight, self.eps)
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class FusedRMSNorm(torch.autograd.Function):
    """RMSNorm whose gradient on the CPU is LayerNorm's fused kernel, with mean zero, put right afterwards."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = (torch.linalg.vecdot(x, x)[..., None] / x.shape[-1] + eps).rsqrt()  # 1 / rms, (..., 1)
        ctx.save_for_backward(x, scale, weight)
        return (x * scale).mul_(weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor, None]:
        x, scale, weight = ctx.saved_tensors
        dx, dw, _ = torch.ops.aten.native_layer_norm_backward(
            g.contiguous(), x, weight.shape, torch.zeros_like(scale), scale, weight, None, [True, True, False]
        )
        mean = (g @ weight)[..., None]  # that kernel also takes a mean away, which RMSNorm does not
        return torch.addcmul(dx, scale, mean, value=1 / x.shape[-1]), dw, None


NORMS = {"layer": nn.LayerNorm, "rms": RMSNorm}


def make_norm(kind: str, dim: int, eps: float) -> nn.Module:
    """LayerNorm (Ba et al. 2016) or RMSNorm over the last axis."""
    return NORMS[pick("norm", kind, NORMS)](dim, eps=eps)


@dataclass(kw_only=True)
class BlockConfig:
    """Every knob of a transformer block. Encoders, decoders and vision transformers turn different ones."""

    dim: int
    num_heads: int
    head_dim: int | None = None  # default: dim / num_heads
    num_kv_heads: int | None = None  # fewer than num_heads: grouped queries
    mlp_dim: int | None = None  # default: 4 * dim
    norm: str = "layer"  # layer, rms
    norm_eps: float = 1e-5
    post_norm: bool = False  # normalise after each addition, as in 2017, not before each branch
    act: str = "gelu"
    gated: bool = False  # SwiGLU and its relatives
    qkv_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    cross: bool = False  # a second attention, to a context
    context_dim: int | None = None  # default: dim
    layer_scale: float | None = None  # start value of a learned factor on each branch
    dropout: float = 0.0
    attention_dropout: float = 0.0


def make_scale(dim: int, start: float | None) -> nn.Parameter | None:
    """A learned factor for each channel (Touvron et al. 2021), or None."""
    return None if start is None else nn.Parameter(torch.full((dim,), float(start)))


class Block(nn.Module):
    """x + Attention(norm x), then x + CrossAttention(norm x, context) if `cross`, then x + MLP(norm x).

    x (B, T, D) -> (B, T, D). Pre-norm (Xiong et al. 2020) unless `post_norm` (Vaswani et al. 2017); layer
    scale multiplies each branch by a learned vector (Touvron et al. 2021).
    """

    def __init__(self, c: BlockConfig):
        super().__init__()
        shared = dict(num_heads=c.num_heads, head_dim=c.head_dim, dropout=c.attention_dropout)
        shared |= dict(qkv_bias=c.qkv_bias, out_bias=c.out_bias)
        self.post_norm = c.post_norm
        self.norm1 = make_norm(c.norm, c.dim, c.norm_eps)
        self.attention = Attention(c.dim, num_kv_heads=c.num_kv_heads, **shared)
        self.norm_cross = make_norm(c.norm, c.dim, c.norm_eps) if c.cross else None
        self.cross = CrossAttention(c.dim, context_dim=c.context_dim, **shared) if c.cross else None
        self.norm2 = make_norm(c.norm, c.dim, c.norm_eps)
        self.mlp = FeedForward(
            c.dim,
            hidden=4 * c.dim if c.mlp_dim is None else c.mlp_dim,
            act=c.act,
            gated=c.gated,
            bias=c.mlp_bias,
        )
        self.dropout = nn.Dropout(c.dropout)
        self.scale1, self.scale2 = make_scale(c.dim, c.layer_scale), make_scale(c.dim, c.layer_scale)

    def add(self, x: Tensor, norm: nn.Module, branch: Callable, scale: Tensor | None = None) -> Tensor:
        """One residual step: the stream plus what the branch makes of it."""
        h = self.dropout(branch(x if self.post_norm else norm(x)))
        x = x + h if scale is None else torch.addcmul(x, h, scale)
        return norm(x) if self.post_norm else x

    def forward(
        self, x: Tensor, rope: Tensor | None = None, mask: Tensor | None = None, *, causal: bool = False,
        context: Tensor | None = None, context_mask: Tensor | None = None, cache: "LayerCache | None" = None,
    ) -> Tensor:  # fmt: skip
        look = partial(self.attention, rope=rope, mask=mask, causal=causal, cache=cache)
        x = self.add(x, self.norm1, look, self.scale1)
        if self.cross is not None:
            if context is None:
                raise ValueError("expected a context (B, S, C) for cross-attention, got None")
            read = partial(self.cross, context=context, mask=context_mask, cache=cache)
            x = self.add(x, self.norm_cross, read)
        return self.add(x, self.norm2, self.mlp, self.scale2)


@dataclass(kw_only=True)
class TransformerConfig(BlockConfig):
    """A stack of blocks over tokens. The defaults are Llama's parts (Touvron et al. 2023); mlp_dim is 4 D."""

    vocab_size: int | None  # None: no embedding and no head, for sequences of vectors
    depth: int
    causal: bool = True
    position: str = "rope"  # none, learned, sinusoidal, rope
    max_positions: int | None = None  # needed by learned; a limit for the others
    rope_theta: float = 10_000.0
    tie_embeddings: bool = False  # the head is the transposed embedding (Press & Wolf 2017)
    final_norm: bool = True
    norm: str = "rms"
    act: str = "silu"
    gated: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False

    def __post_init__(self):
        pick("position", self.position, ("none", "learned", "sinusoidal", "rope"))
        if self.position == "learned" and self.max_positions is None:
            raise ValueError("learned positions need max_positions, got None")
        if self.tie_embeddings and not self.vocab_size:
            raise ValueError("tied embeddings need a vocab_size, got None")


class Positions(nn.Module):
    """Tells a model where its tokens stand: adds learned or sinusoidal codes, or hands out rotary angles.

    x (B, T, D), positions (T,) or (B, T) -> x, and angles (2, T, d) or (2, B, 1, T, d), or None.
    """

    def __init__(self, c: TransformerConfig):
        super().__init__()
        self.kind, self.theta = c.position, c.rope_theta
        self.head_dim = head_width(c.dim, c.num_heads, c.head_dim)
        self.table = nn.Parameter(torch.empty(c.max_positions, c.dim)) if c.position == "learned" else None

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.kind == "learned":
            return x + self.table[positions], None
        if self.kind == "sinusoidal":
            return x + sinusoidal(positions, x.shape[-1], theta=self.theta).to(x.dtype), None
        if self.kind == "rope":
            angles = rope(positions, self.head_dim, theta=self.theta)
            return x, angles if positions.ndim == 1 else angles[:, :, None]
        return x, None


def spread(x: Tensor, mask: Tensor | None, positions: Tensor, S: int, limit: int | None) -> Tensor | None:
    """The mask of x (B, T, D) as scores want it: (B, S) -> (B, 1, 1, S), (B, T, S) -> (B, 1, T, S).

    ValueError where shapes do not fit, or S tokens are more than `limit`.
    """
    B, T, _ = x.shape
    if positions.shape not in ((T,), (B, T)):
        raise ValueError(f"expected positions {(T,)} or {(B, T)}, got {tuple(positions.shape)}")
    if limit is not None and S > limit:
        raise ValueError(f"expected at most max_positions {limit} tokens, got {S}")
    if mask is None:
        return None
    if mask.dtype != torch.bool or mask.shape not in ((B, S), (B, T, S)):
        raise ValueError(
            f"expected a boolean mask {(B, S)} or {(B, T, S)}, got {mask.dtype} {tuple(mask.shape)}"
        )
    return mask[:, None] if mask.ndim == 3 else mask[:, None, None]


def embed_input(
    model: nn.Module, ids: Tensor | None, embeddings: Tensor | None, context: Tensor | None
) -> Tensor:
    """Embeddings (B, T, D) of the ids, or those given; ValueError for what the model cannot read."""
    if (ids is None) == (embeddings is None):
        raise ValueError("expected either ids or embeddings")
    if embeddings is None and (model.embed is None or ids.ndim != 2):
        expected = "embeddings, without a vocabulary" if model.embed is None else "ids (B, T)"
        raise ValueError(f"expected {expected}, got ids {tuple(ids.shape)}")
    x = model.embed(ids) if embeddings is None else embeddings
    if x.ndim != 3 or x.shape[2] != model.config.dim:
        raise ValueError(f"expected embeddings (B, T, {model.config.dim}), got {tuple(x.shape)}")
    if context is not None and not model.config.cross:
        raise ValueError("expected no context: this model was built without cross-attention")
    return x


def spread_context(context: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """The mask of a context (B, S, C) as scores want it: (B, S) -> (B, 1, 1, S)."""
    if mask is None:
        return None
    if context is None or mask.dtype != torch.bool or mask.shape != context.shape[:2]:
        expected = "a context" if context is None else f"a boolean mask {tuple(context.shape[:2])}"
        raise ValueError(f"expected {expected}, got a mask {mask.dtype} {tuple(mask.shape)}")
    return mask[:, None, None]


def initialise_weights(model: nn.Module, depth: int) -> None:
    """Weights 1 / sqrt(fan-in), less where branches join the stream (Radford et al. 2019); biases zero."""
    for name, p in model.named_parameters():
        if p.ndim > 1:
            joins = name.endswith((".out.weight", ".fc2.weight"))
            nn.init.normal_(p, std=(p.shape[-1] * (2 * depth if joins else 1)) ** -0.5)
        elif name.endswith("bias"):
            nn.init.zeros_(p)


class Transformer(nn.Module):
    """Tokens to logits, or vectors to vectors (Vaswani et al. 2017), with what later models changed.

    ids (B, T) -> logits (B, T, vocab_size); without vocab_size, embeddings (B, T, D) -> states (B, T, D).
    A decoder by default; `causal=False` makes an encoder, `cross=True` a decoder that reads a context.
    Options: the fields of `TransformerConfig`.
    """

    def __init__(self, vocab_size: int | None, **options):
        super().__init__()
        c = self.config = TransformerConfig(vocab_size=vocab_size, **options)
        self.embed = nn.Embedding(vocab_size, c.dim) if vocab_size else None
        self.positions = Positions(c)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.depth))
        self.norm = make_norm(c.norm, c.dim, c.norm_eps) if c.final_norm else nn.Identity()
        self.head = nn.Linear(c.dim, vocab_size, bias=False) if vocab_size else nn.Identity()
        if c.tie_embeddings:
            self.head.weight = self.embed.weight
        initialise_weights(self, c.depth)

    def encode(
        self, ids: Tensor | None = None, *, embeddings: Tensor | None = None, mask: Tensor | None = None,
        positions: Tensor | None = None, context: Tensor | None = None, context_mask: Tensor | None = None,
        cache: "KVCache | None" = None,
    ) -> Tensor:  # fmt: skip
        """States (B, T, D) after the last norm, from ids (B, T) or embeddings (B, T, D).

        mask (B, S): True for real tokens, False for padding; or (B, T, S): who may look at whom, in place of
        the causal rule. positions (T,) or (B, T): default 0, 1, 2 ..., after what the cache holds.
        """
        x = embed_input(self, ids, embeddings, context)  # (B, T, D)
        start = cache.length if cache else 0
        end = start + x.shape[1]
        positions = torch.arange(start, end, device=x.device) if positions is None else positions
        causal = self.config.causal and (mask is None or mask.ndim == 2)
        mask = spread(x, mask, positions, end, self.config.max_positions)
        reads = {"context": context, "context_mask": spread_context(context, context_mask)}
        x, angles = self.positions(x, positions)
        x = self.dropout(x)
        for block, slot in zip(
            self.blocks, cache.layers if cache else [None] * len(self.blocks), strict=True
        ):
            x = block(x, angles, mask, causal=causal, cache=slot, **reads)
        return self.norm(x)

    def forward(self, ids: Tensor | None = None, **options) -> Tensor:
        """Logits (B, T, vocab_size), or states where there is no vocabulary. Options as in `encode`."""
        return self.head(self.encode(ids, **options))


class LayerCache:
    """Keys and values that one layer has seen, (B, h_kv, S, d) with room for S tokens, and its context."""

    def __init__(self, keys: Tensor, values: Tensor):
        self.keys, self.values, self.length = keys, values, 0
        self.context: tuple[Tensor, Tensor] | None = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (B, h_kv, T, d) behind what is there; return everything so far."""
        start, end = self.length, self.length + k.shape[2]
        if end > self.keys.shape[2]:
            raise ValueError(f"the cache has room for {self.keys.shape[2]} tokens, got {end}")
        if k.shape[0] != self.keys.shape[0]:
            raise ValueError(f"the cache was made for a batch of {self.keys.shape[0]}, got {k.shape[0]}")
        if torch.is_grad_enabled() and k.requires_grad:
            raise ValueError("expected torch.no_grad(): a cache keeps no gradients")
        self.keys[:, :, start:end], self.values[:, :, start:end] = k, v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class KVCache:
    """Room for the keys and values of `max_tokens` tokens in every layer of a `Transformer`.

    For generation, without gradients. ValueError where the model has fewer positions.
    """

    def __init__(self, model: "Transformer", batch_size: int, max_tokens: int):
        c, weight = model.config, next(model.parameters())
        if c.max_positions is not None and max_tokens > c.max_positions:
            raise ValueError(f"expected max_tokens <= max_positions {c.max_positions}, got {max_tokens}")
        attention = model.blocks[0].attention
        shape = (2, batch_size, attention.num_kv_heads, max_tokens, attention.head_dim)
        self.layers = [LayerCache(*weight.new_empty(shape)) for _ in range(c.depth)]

    @property
    def length(self) -> int:
        """Tokens stored so far."""
        return self.layers[0].length

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order, as beam search needs. rows (B',) long."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
            if layer.context is not None:
                layer.context = tuple(t[rows] for t in layer.context)


def choose(
    logits: Tensor, *, temperature: float = 0.0, top_k: int | None = None, top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Pick a token for each row of logits (B, V) -> (B,). Temperature 0 takes the largest.

    Otherwise draw from softmax(logits / temperature), among the `top_k` likeliest (Fan et al. 2018), and
    among the fewest whose probabilities reach `top_p` (Holtzman et al. 2020).
    """
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(
            f"expected temperature >= 0, top_k >= 1, 0 < top_p <= 1, got {temperature}, {top_k}, {top_p}"
        )
    if logits.ndim != 2:
        raise ValueError(f"expected logits (B, V), got {tuple(logits.shape)}")
    if logits.isnan().any():
        raise ValueError("expected numbers for logits, got nan")
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float() - logits.float().amax(dim=-1, keepdim=True)  # <= 0: a tiny temperature is no inf
    probabilities, tokens = (logits / temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    if top_k is not None:
        probabilities = probabilities[:, :top_k] / probabilities[:, :top_k].sum(dim=-1, keepdim=True)
    if top_p is not None:  # a token stays while those before it have not reached top_p
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0.0)
    drawn = torch.multinomial(probabilities, 1, generator=generator)
    return tokens.gather(1, drawn)[:, 0]


@torch.no_grad()
def generate(
    model: nn.Module, ids: Tensor, max_new_tokens: int, *, temperature: float = 0.0, top_k: int | None = None,
    top_p: float | None = None, eos_id: int | None = None, mask: Tensor | None = None,
    embeddings: Tensor | None = None, context: Tensor | None = None, context_mask: Tensor | None = None,
    use_cache: bool = True, adjust: Callable[[Tensor, Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Prompt and continuation, (B, T) -> (B, T + n) with n <= max_new_tokens.

    Sampling as in `choose`. A row that has said `eos_id` goes on saying it; all rows done, generation ends.
    mask (B, T) marks the real tokens of prompts padded on the left. `embeddings` (B, T, D) stand in for the
    prompt's own, `adjust(ids, logits)` may change the logits (B, V) before the choice. Without the cache
    every step reads the whole sequence again, with the same result; call `model.eval()` first.
    """
    if ids.ndim != 2 or ids.shape[1] < 1:
        raise ValueError(f"expected ids (B, T) with T >= 1, got {tuple(ids.shape)}")
    if max_new_tokens < 1:
        raise ValueError(f"expected max_new_tokens >= 1, got {max_new_tokens}")
    if embeddings is not None and embeddings.shape[:2] != ids.shape:
        raise ValueError(f"expected embeddings {(*ids.shape, 'D')}, got {tuple(embeddings.shape)}")
    B, T = ids.shape
    if mask is not None and (mask.shape != ids.shape or not mask[:, -1].all()):
        raise ValueError(f"expected a mask {(B, T)} of prompts padded on the left, got {tuple(mask.shape)}")
    if use_cache and not model.config.causal:
        raise ValueError("expected a causal model for a cache, got causal=False")
    cache = KVCache(model, B, T + max_new_tokens - 1) if use_cache else None
    done = torch.zeros(B, dtype=torch.bool, device=ids.device)
    source = embed_input(model, ids if embeddings is None else None, embeddings, context)  # (B, T, D)
    read = 0  # how much of the source the cache holds
    for _ in range(max_new_tokens):
        positions = None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)[:, read:]
        states = model.encode(
            embeddings=source[:, read:], mask=mask, positions=positions, context=context,
            context_mask=context_mask, cache=cache,
        )  # fmt: skip
        logits = model.head(states[:, -1])  # (B, V)
        logits = logits if adjust is None else adjust(ids, logits)
        new = choose(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        if eos_id is not None:
            new = torch.where(done, eos_id, new)
            done = done | (new == eos_id)
        ids = torch.cat([ids, new[:, None]], dim=1)
        if done.all():
            break
        read = source.shape[1] if use_cache else 0
        source = torch.cat([source, model.embed(new[:, None])], dim=1)
        mask = None if mask is None else F.pad(mask, (0, 1), value=True)
    return ids


FUSED = (
    (".q_proj.", (".k_proj.", ".v_proj."), ".qkv."),
    (".gate_proj.", (".up_proj.",), ".fc1."),
)


def load_mapped(
    reference: nn.Module, model: nn.Module, rules: dict[str, str],
    edit: Callable[[dict[str, Tensor]], None] | None = None,
) -> nn.Module:  # fmt: skip
    """Rename the reference's weights by `rules`, fuse what we fuse, and load them strictly into `model`.

    Names that a rule empties are left out; `edit(state)` may change the rest. Device, dtype and train/eval
    mode follow the reference.
    """
    state = {}
    for name, value in reference.state_dict().items():
        for pattern, replacement in rules.items():
            name = re.sub(pattern, replacement, name)
        if name and value.numel():
            state[name] = value.detach().clone()
    for first, rest, joined in FUSED:
        for name in [name for name in state if first in name]:
            parts = [state.pop(name.replace(first, part)) for part in (first, *rest)]
            state[name.replace(first, joined)] = torch.cat(parts)
    if edit is not None:
        edit(state)
    model.to(next(reference.parameters())).load_state_dict(state, strict=True)
    return model.train(reference.training)


def check_type(model: nn.Module, *names: str) -> str:
    """The first of `names` that is the model's class or a base of it; else TypeError. Imports no library."""
    for name in names:
        if any(cls.__name__ == name for cls in type(model).__mro__):
            return name
    raise TypeError(f"expected {' or '.join(names)}, got {type(model).__name__}")


FROM_LLAMA = {
    r"^model\.": "",
    r"^embed_tokens": "embed",
    r"^layers\.": "blocks.",
    r"\.self_attn\.": ".attention.",
    r"\.o_proj\.": ".out.",
    r"\.input_layernorm\.": ".norm1.",
    r"\.post_attention_layernorm\.": ".norm2.",
    r"\.down_proj\.": ".fc2.",
    r"^lm_head": "head",
}
FROM_GPT2 = {
    r"^transformer\.": "",
    r"^wte\.": "embed.",
    r"^wpe\.weight": "positions.table",
    r"^h\.": "blocks.",
    r"\.ln_([12])\.": r".norm\1.",
    r"\.attn\.c_attn\.": ".attention.qkv.",
    r"\.attn\.c_proj\.": ".attention.out.",
    r"\.mlp\.c_fc\.": ".mlp.fc1.",
    r"\.mlp\.c_proj\.": ".mlp.fc2.",
    r"^ln_f\.": "norm.",
    r"^lm_head": "head",
}


def transpose_linear(state: dict[str, Tensor]) -> None:
    """GPT-2 stores its linear maps as (in, out)."""
    for name in [name for name in state if re.search(r"(attention|mlp)\..*weight$", name)]:
        state[name] = state[name].T


def from_transformers(model: nn.Module) -> Transformer:
    """Our model with the shape and weights of a transformers language model.

    LlamaForCausalLM, Qwen2ForCausalLM or GPT2LMHeadModel. ValueError where the configuration asks for
    something that this model does not do (scaled rotary positions, sliding windows).
    """
    kind = check_type(model, "LlamaForCausalLM", "Qwen2ForCausalLM", "GPT2LMHeadModel")
    c = model.config
    if kind == "GPT2LMHeadModel":
        if c.scale_attn_by_inverse_layer_idx or not c.scale_attn_weights or c.add_cross_attention:
            raise ValueError("expected GPT-2 with scores divided by sqrt(d) and no cross-attention")
        if c.embd_pdrop != c.resid_pdrop:
            raise ValueError(f"expected one dropout, got {c.embd_pdrop} and {c.resid_pdrop}")
        options = dict(
            dim=c.n_embd, depth=c.n_layer, num_heads=c.n_head, mlp_dim=c.n_inner, norm="layer", gated=False,
            norm_eps=c.layer_norm_epsilon, act=c.activation_function, position="learned",
            max_positions=c.n_positions, qkv_bias=True, out_bias=True, mlp_bias=True, dropout=c.resid_pdrop,
            attention_dropout=c.attn_pdrop, tie_embeddings=c.tie_word_embeddings,
        )  # fmt: skip
        return load_mapped(model, Transformer(c.vocab_size, **options), FROM_GPT2, transpose_linear)
    if c.rope_parameters.get("rope_type", "default") != "default":
        raise ValueError(f"expected rope_type default, got {c.rope_parameters['rope_type']}")
    if any(layer != "full_attention" for layer in getattr(c, "layer_types", None) or ()):
        raise ValueError(f"expected full attention in every layer, got {c.layer_types}")
    llama = kind == "LlamaForCausalLM"
    options = dict(
        dim=c.hidden_size, depth=c.num_hidden_layers, num_heads=c.num_attention_heads,
        head_dim=getattr(c, "head_dim", None), num_kv_heads=c.num_key_value_heads,
        mlp_dim=c.intermediate_size,
        norm_eps=c.rms_norm_eps, act=c.hidden_act, max_positions=c.max_position_embeddings,
        rope_theta=c.rope_parameters["rope_theta"], qkv_bias=c.attention_bias if llama else True,
        out_bias=c.attention_bias if llama else False, mlp_bias=c.mlp_bias if llama else False,
        attention_dropout=c.attention_dropout, tie_embeddings=c.tie_word_embeddings,
    )  # fmt: skip
    return load_mapped(model, Transformer(c.vocab_size, **options), FROM_LLAMA)


FROM_TORCH = {
    r"\b(q|k|v)_proj_weight": r"\1_proj.weight",
    r"\bself_attn\.": "attention.",
    r"\bmultihead_attn\.": "cross.",
    r"\bout_proj\b": "out",
    r"\bin_proj_": "qkv.",
    r"^linear([12])\.": r"mlp.fc\1.",
}


def split_queries(state: dict[str, Tensor]) -> None:
    """Cross-attention keeps queries apart: rows (q, k, v) -> q and kv. Fused or not, kdim given or not."""
    for name in [name for name in state if re.search(r"(^|cross\.)qkv\.", name)]:
        q, k, v = state.pop(name).chunk(3)
        state[name.replace("qkv", "q")], state[name.replace("qkv", "kv")] = q, torch.cat([k, v])
    if "q_proj.weight" in state:
        q, k, v = (state.pop(f"{part}_proj.weight") for part in "qkv")
        state |= {"q.weight": q, "kv.weight": torch.cat([k, v])}


def torch_layer_options(layer: nn.Module) -> dict:
    """Our options for torch's Transformer(En|De)coderLayer. ValueError for what ours does not do."""
    act = next((name for name in ("relu", "gelu", "silu") if ACTIVATIONS[name] is layer.activation), None)
    if act is None or layer.linear1.bias is None:
        raise ValueError(f"expected relu, gelu or silu, and biases, got {layer.activation}")
    attention = layer.self_attn
    return dict(
        dim=attention.embed_dim, num_heads=attention.num_heads, mlp_dim=layer.linear1.out_features,
        norm_eps=layer.norm1.eps, post_norm=not layer.norm_first, act=act, dropout=layer.dropout1.p,
        attention_dropout=attention.dropout,
    )  # fmt: skip


def from_torch(module: nn.Module, *, cross: bool = False) -> Attention | CrossAttention | Block:
    """Our module with the weights of `nn.MultiheadAttention` or a Transformer(En|De)coderLayer of torch.

    The first becomes `Attention`, or `CrossAttention` where `cross` is asked for; a layer becomes a `Block`.
    Ours is always batch first, and drops out after each branch but not inside the feed-forward network.
    ValueError for what ours does not do.
    """
    kind = check_type(module, "MultiheadAttention", "TransformerEncoderLayer", "TransformerDecoderLayer")
    if kind == "MultiheadAttention":
        if module.bias_k is not None or module.add_zero_attn or module.kdim != module.vdim:
            raise ValueError("expected no add_bias_kv, no add_zero_attn and kdim equal to vdim")
        if not cross and module.kdim != module.embed_dim:
            raise ValueError(f"expected cross=True for kdim {module.kdim} and embed_dim {module.embed_dim}")
        bias = module.in_proj_bias is not None
        options = dict(num_heads=module.num_heads, qkv_bias=bias, out_bias=bias, dropout=module.dropout)
        if not cross:
            return load_mapped(module, Attention(module.embed_dim, **options), FROM_TORCH)
        ours = CrossAttention(module.embed_dim, context_dim=module.kdim, **options)
        return load_mapped(module, ours, FROM_TORCH, split_queries)
    decoder = kind == "TransformerDecoderLayer"
    block = Block(BlockConfig(**torch_layer_options(module), cross=decoder))
    norms = {r"^norm2\.": "norm_cross.", r"^norm3\.": "norm2."} if decoder else {}
    return load_mapped(module, block, norms | FROM_TORCH, split_queries if decoder else None)


def next_token_loss(logits: Tensor, labels: Tensor, *, ignore_index: int = -100) -> Tensor:
    """Mean cross-entropy of each next token, in nats. logits (B, T, V), labels (B, T): the ids themselves.

    Labels equal to `ignore_index` do not count.
    """
    if logits.ndim != 3 or logits.shape[:2] != labels.shape:
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"expected logits (B, T, V) and labels (B, T), got {shapes}")
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=ignore_index)


def small_reader(vocab_size: int, *, depth: int = 3, max_positions: int = 96, **options) -> Transformer:
    """The language model this book trains, 128 wide: it reads descriptions and answers questions."""
    shape = dict(dim=128, num_heads=4, mlp_dim=336, tie_embeddings=True) | options
    return Transformer(vocab_size, depth=depth, max_positions=max_positions, **shape)
