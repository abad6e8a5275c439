"""Q-Former.

Collected from notebooks/12_qformer.ipynb by `make export`: edit the notebook, not this file.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmscratch.transformer import (
    Attention,
    CrossAttention,
    FeedForward,
    Transformer,
    check_type,
    initialise_weights,
    load_mapped,
    next_token_loss,
    pick,
    spread,
    spread_context,
)

__all__ = [
    "Blip2",
    "FROM_RETRIEVAL",
    "FROM_TRANSFORMERS",
    "ImageTextQFormer",
    "QFormer",
    "QFormerBlock",
    "QFormerConfig",
    "attention_mask",
    "check_queries",
    "check_same",
    "check_text",
    "cross_attention",
    "from_transformers",
    "hard_negatives",
    "itc_loss",
    "itg_loss",
    "itm_loss",
    "join_projections",
    "pretraining_losses",
    "read_text",
    "similarity",
    "small_qformer",
    "write",
]


def check_text(text_mask: Tensor) -> None:
    """ValueError unless text_mask is boolean (B, T) with a True in every row."""
    if text_mask.ndim != 2 or text_mask.dtype != torch.bool:
        raise ValueError(
            f"expected a boolean text_mask (B, T), got {text_mask.dtype} {tuple(text_mask.shape)}"
        )
    if not text_mask.any(dim=1).all():
        row = text_mask.any(dim=1).int().argmin().item()
        raise ValueError(f"expected at least one token in every text, row {row} has none")


def check_queries(queries: Tensor, context: Tensor, dim: int) -> None:
    """ValueError unless queries are (B, Q, D) or (1, Q, D), one at least, for a context (B, N, C)."""
    if context.ndim != 3:
        raise ValueError(f"expected context (B, N, C), got {tuple(context.shape)}")
    B = len(context)
    if queries.ndim != 3 or queries.shape[2] != dim or len(queries) not in (1, B):
        raise ValueError(f"expected queries ({B} or 1, Q, {dim}), got {tuple(queries.shape)}")
    if not queries.shape[1]:
        raise ValueError(f"expected at least one query, got {tuple(queries.shape)}")


def read_text(model: "QFormer", ids: Tensor | None, embeddings: Tensor | None) -> Tensor:
    """Text (B, T, D) from ids (B, T), with positions, or as it is given; ValueError for what is no text."""
    c = model.config
    if (ids is None) == (embeddings is None):
        raise ValueError("expected either ids or embeddings")
    if not c.text or (embeddings is None and model.embed is None):
        raise ValueError(f"expected {'embeddings, without a vocabulary' if c.text else 'no text'}, got text")
    shape = tuple((ids if embeddings is None else embeddings).shape)
    if len(shape) != (2 if embeddings is None else 3) or not shape[1]:
        raise ValueError(f"expected ids (B, T) or embeddings (B, T, D) with T >= 1, got {shape}")
    if embeddings is not None:
        if shape[2] != c.dim:
            raise ValueError(f"expected embeddings (B, T, {c.dim}), got {shape}")
        return embeddings
    if shape[1] > c.max_positions:
        raise ValueError(f"expected at most max_positions {c.max_positions} tokens, got {shape[1]}")
    return model.embed(ids) + model.positions.weight[: shape[1]]


def attention_mask(kind: str, num_queries: int, text_mask: Tensor) -> Tensor:
    """Who may look at whom over [queries | text] (Li et al. 2023, fig. 2). Rows look, columns are looked at.

    kind: "itc", "itm" or "itg". text_mask (B, T): True for tokens, False for padding -> boolean
    (B, Q + T, Q + T). ValueError for zero queries and for a text without a token.
    """
    pick("kind", kind, ("itc", "itm", "itg"))
    if num_queries < 1:
        raise ValueError(f"expected num_queries >= 1, got {num_queries}")
    check_text(text_mask)
    Q, S = num_queries, num_queries + text_mask.shape[1]
    look = torch.ones(S, S, dtype=torch.bool, device=text_mask.device)
    if kind != "itm":
        look[:Q, Q:] = False  # a query never looks at text
    if kind == "itc":
        look[Q:, :Q] = False  # nor does text at a query
    if kind == "itg":
        look[Q:, Q:] = look[Q:, Q:].tril()  # text is written from left to right
    return look & F.pad(text_mask, (Q, 0), value=True)[:, None]  # nobody looks at padding


@dataclass(kw_only=True)
class QFormerConfig:
    """The knobs of a `QFormer`. Defaults are BERT's and BLIP-2's (Li et al. 2023, sec. 3.1)."""

    dim: int
    depth: int
    num_heads: int
    context_dim: int  # width of the image encoder's states
    mlp_dim: int | None = None  # default: 4 * dim
    cross_attention_frequency: int = 2  # blocks 0, 2, 4 ... read the picture
    text: bool = True  # a second feed-forward network in each block, for text
    vocab_size: int | None = None  # None: text comes as embeddings
    max_positions: int = 512
    act: str = "gelu"
    norm_eps: float = 1e-12
    dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self):
        if self.cross_attention_frequency < 1:
            raise ValueError(f"expected cross_attention_frequency >= 1, got {self.cross_attention_frequency}")
        if self.vocab_size and not self.text:
            raise ValueError("expected text=True with a vocab_size: words need their feed-forward network")


class QFormerBlock(nn.Module):
    """One block of BERT that reads a picture: shared self-attention, then two ways apart.

    x (B, S, D), the first `num_queries` of them queries -> (B, S, D). Queries go on through cross-attention,
    in blocks that have one, and their feed-forward network; text goes through its own. Norms stand after each
    addition, as in BERT (Devlin et al. 2019).
    """

    def __init__(self, c: QFormerConfig, *, cross: bool):
        super().__init__()
        shared = dict(num_heads=c.num_heads, dropout=c.attention_dropout)
        feed = partial(FeedForward, c.dim, hidden=4 * c.dim if c.mlp_dim is None else c.mlp_dim, act=c.act)
        norm = partial(nn.LayerNorm, c.dim, eps=c.norm_eps)
        self.attention, self.norm1 = Attention(c.dim, **shared), norm()
        self.cross = CrossAttention(c.dim, context_dim=c.context_dim, **shared) if cross else None
        self.norm_cross = norm() if cross else None
        self.mlp_query, self.norm_query = feed(), norm()
        self.mlp_text, self.norm_text = (feed(), norm()) if c.text else (None, None)
        self.dropout = nn.Dropout(c.dropout)

    def forward(
        self, x: Tensor, num_queries: int, mask: Tensor | None = None, context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        x = self.norm1(x + self.dropout(self.attention(x, mask=mask)))  # queries and text together
        queries, text = x.split([num_queries, x.shape[1] - num_queries], dim=1)
        if num_queries and self.cross is not None:
            queries = self.norm_cross(queries + self.dropout(self.cross(queries, context, context_mask)))
        if num_queries:
            queries = self.norm_query(queries + self.dropout(self.mlp_query(queries)))
        if text.shape[1]:
            text = self.norm_text(text + self.dropout(self.mlp_text(text)))
        return torch.cat([queries, text], dim=1)


class QFormer(nn.Module):
    """Learned queries read the states of a frozen image encoder (Li et al. 2023, sec. 3.1).

    queries (B or 1, Q, D), context (B, N, C) -> query states (B, Q, D). With text, as ids (B, T) or
    embeddings (B, T, D), also text states (B, T, D). mask (B, Q + T): True for what is there; or
    (B, Q + T, Q + T): who may look at whom, from `attention_mask`; None: everyone at everyone. context_mask
    (B, N): patches that are there. The queries belong to the caller. Options: `QFormerConfig`.
    """

    def __init__(self, dim: int, **options: Any):
        super().__init__()
        c = self.config = QFormerConfig(dim=dim, **options)
        self.embed = nn.Embedding(c.vocab_size, dim) if c.vocab_size else None
        self.positions = nn.Embedding(c.max_positions, dim) if c.vocab_size else None
        self.norm, self.dropout = nn.LayerNorm(dim, eps=c.norm_eps), nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(
            QFormerBlock(c, cross=i % c.cross_attention_frequency == 0) for i in range(c.depth)
        )
        initialise_weights(self, c.depth)

    def run(self, x: Tensor, num_queries: int, mask: Tensor | None, **reads: Tensor | None) -> Tensor:
        """All blocks over [queries | text]: (B, S, D) -> (B, S, D)."""
        mask = spread(x, mask, torch.arange(x.shape[1]), x.shape[1], None)
        x = self.dropout(self.norm(x))
        for block in self.blocks:
            x = block(x, num_queries, mask, **reads)
        return x

    def encode_text(
        self, ids: Tensor | None = None, *, embeddings: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Text alone, without queries and picture: states (B, T, D)."""
        return self.run(read_text(self, ids, embeddings), 0, mask)

    def forward(
        self, queries: Tensor, context: Tensor, ids: Tensor | None = None, *,
        embeddings: Tensor | None = None, mask: Tensor | None = None, context_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
        check_queries(queries, context, self.config.dim)
        Q, x = queries.shape[1], queries.expand(len(context), -1, -1)
        with_text = ids is not None or embeddings is not None
        if with_text:
            text = read_text(self, ids, embeddings)
            if len(text) != len(x):
                raise ValueError(f"expected a text for each of {len(x)} pictures, got {len(text)}")
            x = torch.cat([x, text], dim=1)  # (B, Q + T, D)
        x = self.run(x, Q, mask, context=context, context_mask=spread_context(context, context_mask))
        return (x[:, :Q], x[:, Q:]) if with_text else x


class ImageTextQFormer(nn.Module):
    """A Q-Former, its queries and the heads of BLIP-2's first stage (Li et al. 2023, sec. 3.1).

    context (B, N, C): states of the frozen image encoder; ids (B, T) start with a token of their own task,
    [CLS] for `encode_text` and `match`, [DEC] for `decode`; mask (B, T): True for tokens.
    """

    def __init__(
        self, body: QFormer, *, num_queries: int, embed_dim: int, writes: bool = True,
        logit_scale: float = 1 / 0.07,
    ):  # fmt: skip
        super().__init__()
        if num_queries < 1:
            raise ValueError(f"expected num_queries >= 1, got {num_queries}")
        if body.embed is None:
            raise ValueError("expected a body with a vocab_size, got None")
        dim, self.body = body.config.dim, body
        self.queries = nn.Parameter(torch.randn(1, num_queries, dim) * 0.02)
        self.image_head, self.text_head = nn.Linear(dim, embed_dim), nn.Linear(dim, embed_dim)
        self.match_head = nn.Linear(dim, 2)  # no, yes
        self.word_head = nn.Linear(dim, body.config.vocab_size) if writes else None
        self.logit_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))

    def together(self, kind: str, context: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Query states (B, Q, D) and text states (B, T, D) under the mask of one task."""
        mask = attention_mask(kind, self.queries.shape[1], mask)
        return self.body(self.queries, context, ids, mask=mask)

    def encode_image(self, context: Tensor) -> Tensor:
        """One vector of length one for each query, (B, Q, E)."""
        return F.normalize(self.image_head(self.body(self.queries, context)), dim=-1)

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The state of the first token, of length one, (B, E)."""
        check_text(mask)
        return F.normalize(self.text_head(self.body.encode_text(ids, mask=mask)[:, 0]), dim=-1)

    def match(self, context: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits of "does not match" and "matches", the mean of what each query says: (B, 2)."""
        queries, _ = self.together("itm", context, ids, mask)
        return self.match_head(queries).mean(dim=1)

    def decode(self, context: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits of the word after each token, (B, T, V)."""
        if self.word_head is None:
            raise ValueError("expected writes=True: this model has no head for words")
        return self.word_head(self.together("itg", context, ids, mask)[1])


def similarity(image: Tensor, text: Tensor) -> Tensor:
    """The best of Q cosines: image (B, Q, E), text (B', E), all of length one -> (B, B')."""
    if image.ndim != 3 or text.ndim != 2 or image.shape[2] != text.shape[1]:
        raise ValueError(
            f"expected image (B, Q, E) and text (B', E), got {tuple(image.shape)} and {tuple(text.shape)}"
        )
    return (image.flatten(0, 1) @ text.T).unflatten(0, image.shape[:2]).amax(dim=1)


def check_same(same: Tensor, scores: Tensor) -> None:
    """ValueError unless same is boolean and of the scores' shape (B, B)."""
    if same.dtype != torch.bool or same.shape != scores.shape:
        raise ValueError(f"expected boolean same {tuple(scores.shape)}, got {same.dtype} {tuple(same.shape)}")


def itc_loss(
    image: Tensor, text: Tensor, logit_scale: Tensor | float, *, same: Tensor | None = None
) -> Tensor:
    """Image-text contrast (Li et al. 2023, sec. 3.1). image (B, Q, E), text (B, E). A scalar, in nats.

    CLIP's loss on `similarity`; pairs marked in `same` (B, B), such as equal captions, are left out.
    """
    logits = logit_scale * similarity(image, text)  # (B, B)
    if logits.shape[0] != logits.shape[1]:
        raise ValueError(f"expected as many images as texts, got {logits.shape[0]} and {logits.shape[1]}")
    match = torch.arange(len(logits), device=logits.device)
    if same is not None:
        check_same(same, logits)
        logits = logits.masked_fill(same & (match[:, None] != match), -math.inf)
    return (F.cross_entropy(logits, match) + F.cross_entropy(logits.T, match)) / 2


@torch.no_grad()
def hard_negatives(
    scores: Tensor, *, same: Tensor | None = None, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """A wrong text for each image and a wrong image for each text, (B,) and (B,) (Li et al. 2021, sec. 3.2).

    scores (B, B): logits of image i with text j. The likelier a wrong pair, the more often it is drawn; own
    pairs and those in `same` (B, B) never are. ValueError where nothing is left to draw.
    """
    B = len(scores)
    if scores.shape != (B, B):
        raise ValueError(f"expected scores (B, B), got {tuple(scores.shape)}")
    own = torch.eye(B, dtype=torch.bool, device=scores.device)
    if same is not None:
        check_same(same, scores)
        own = own | same
    if own.all(dim=1).any() or own.all(dim=0).any():
        raise ValueError("expected a wrong partner for every pair: the batch has one that matches everything")
    draws = [s.masked_fill(m, -math.inf).softmax(dim=1) for s, m in ((scores, own), (scores.T, own.T))]
    texts, images = (torch.multinomial(p, 1, generator=generator)[:, 0] for p in draws)
    return texts, images


def itm_loss(logits: Tensor, matches: Tensor) -> Tensor:
    """Image-text matching: cross-entropy of logits (B, 2) against matches (B,), True for true pairs."""
    if logits.shape != (*matches.shape, 2) or matches.ndim != 1:
        shapes = f"{tuple(logits.shape)} and {tuple(matches.shape)}"
        raise ValueError(f"expected logits (B, 2) and matches (B,), got {shapes}")
    return F.cross_entropy(logits, matches.long())


def itg_loss(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Image-grounded text generation: mean loss of the next token. logits (B, T, V), ids and mask (B, T)."""
    return next_token_loss(logits, ids.masked_fill(~mask, -100))


def pretraining_losses(
    model: ImageTextQFormer, context: Tensor, ids: Tensor, mask: Tensor, *, dec_id: int,
    same: Tensor | None = None, tasks: Sequence[str] = ("itc", "itm", "itg"),
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """The losses of stage 1 on B pairs (Li et al. 2023, sec. 3.1), by task; training adds them up.

    context (B, N, C); ids (B, T) begin with [CLS], whose place `dec_id` takes where text is written; same
    (B, B): pairs that also match. Matching draws its negatives by the model's own contrastive scores.
    """
    for task in tasks:
        pick("tasks", task, ("itc", "itm", "itg"))
    losses, scale = {}, model.logit_scale.exp()
    if {"itc", "itm"} & {*tasks}:
        image, text = model.encode_image(context), model.encode_text(ids, mask)
    if "itc" in tasks:
        losses["itc"] = itc_loss(image, text, scale, same=same)
    if "itm" in tasks:
        texts, images = hard_negatives(scale * similarity(image, text), same=same, generator=generator)
        pairs = torch.cat([context, context, context[images]])
        words, real = torch.cat([ids, ids[texts], ids]), torch.cat([mask, mask[texts], mask])
        matches = torch.arange(len(pairs), device=ids.device) < len(ids)
        losses["itm"] = itm_loss(model.match(pairs, words, real), matches)
    if "itg" in tasks:
        written = torch.cat([torch.full_like(ids[:, :1], dec_id), ids[:, 1:]], dim=1)
        losses["itg"] = itg_loss(model.decode(context, written, mask), written, mask)
    return losses


@torch.no_grad()
def write(
    model: ImageTextQFormer, context: Tensor, max_new_tokens: int, *, dec_id: int, eos_id: int
) -> Tensor:
    """The likeliest caption word by word, from [DEC] to `eos_id`: context (B, N, C) -> ids (B, T)."""
    limit = model.body.config.max_positions
    if not 1 <= max_new_tokens <= limit:
        raise ValueError(f"expected 1 <= max_new_tokens <= {limit}, got {max_new_tokens}")
    ids = torch.full((len(context), 1), dec_id, device=context.device)
    for _ in range(max_new_tokens):
        new = model.decode(context, ids, torch.ones_like(ids, dtype=torch.bool))[:, -1].argmax(dim=-1)
        done = (ids == eos_id).any(dim=1)
        ids = torch.cat([ids, torch.where(done, eos_id, new)[:, None]], dim=1)
        if (ids == eos_id).any(dim=1).all():
            break
    return ids


FROM_RETRIEVAL = {
    r"^qformer\.": "body.",
    r"^embeddings\.": "body.embeddings.",
    r"^vision_model\..*": "",
    r"^query_tokens$": "queries",
    r"^vision_projection\.": "image_head.",
    r"^text_projection\.": "text_head.",
    r"^itm_head\.": "match_head.",
}
FROM_TRANSFORMERS = {
    r"\bembeddings\.word_embeddings\.": "embed.",
    r"\bembeddings\.position_embeddings\.": "positions.",
    r"\b(embeddings\.)?layernorm\.": "norm.",
    r"\bencoder\.layer\.": "blocks.",
    r"\.crossattention\.attention\.query\.": ".cross.q.",
    r"\.crossattention\.attention\.": ".cross.",
    r"\.crossattention\.output\.dense\.": ".cross.out.",
    r"\.crossattention\.output\.LayerNorm\.": ".norm_cross.",
    r"\.attention\.attention\.(query|key|value)\.": r".attention.\1.",
    r"\.attention\.output\.dense\.": ".attention.out.",
    r"\.attention\.output\.LayerNorm\.": ".norm1.",
    r"\.intermediate_query\.dense\.": ".mlp_query.fc1.",
    r"\.output_query\.dense\.": ".mlp_query.fc2.",
    r"\.output_query\.LayerNorm\.": ".norm_query.",
    r"\.intermediate\.dense\.": ".mlp_text.fc1.",
    r"\.output\.dense\.": ".mlp_text.fc2.",
    r"\.output\.LayerNorm\.": ".norm_text.",
}


def join_projections(state: dict[str, Tensor]) -> None:
    """Self-attention keeps queries, keys and values in one matrix, cross-attention keys and values."""
    for name in [name for name in state if ".key." in name]:
        fused = ("query", "key", "value") if ".attention." in name else ("key", "value")
        parts = [state.pop(name.replace(".key.", f".{part}.")) for part in fused]
        state[name.replace(".key.", ".qkv." if len(fused) == 3 else ".kv.")] = torch.cat(parts)


def from_transformers(model: nn.Module) -> QFormer | ImageTextQFormer:
    """Our model with the shape and weights of a Q-Former of transformers.

    Blip2QFormerModel, with and without text, and InstructBlipQFormerModel become a `QFormer`;
    Blip2ForImageTextRetrieval becomes an `ImageTextQFormer` that does not write, without the image encoder.
    """
    kind = check_type(model, "Blip2QFormerModel", "InstructBlipQFormerModel", "Blip2ForImageTextRetrieval")
    whole = kind == "Blip2ForImageTextRetrieval"
    c = model.config.qformer_config if whole else model.config
    words = kind != "Blip2QFormerModel"
    if whole and not c.use_qformer_text_input:
        raise ValueError("expected use_qformer_text_input=True: without it the model cannot read text")
    ours = QFormer(
        c.hidden_size, depth=c.num_hidden_layers, num_heads=c.num_attention_heads,
        context_dim=c.encoder_hidden_size, mlp_dim=c.intermediate_size,
        cross_attention_frequency=c.cross_attention_frequency, text=words or c.use_qformer_text_input,
        vocab_size=c.vocab_size if words else None, max_positions=c.max_position_embeddings,
        act=c.hidden_act, norm_eps=c.layer_norm_eps, dropout=c.hidden_dropout_prob,
        attention_dropout=c.attention_probs_dropout_prob,
    )  # fmt: skip
    if whole:
        count, width = model.query_tokens.shape[1], model.config.image_text_hidden_size
        ours = ImageTextQFormer(ours, num_queries=count, embed_dim=width, writes=False)
        ours.logit_scale = None  # transformers hands out cosines
        return load_mapped(model, ours, FROM_RETRIEVAL | FROM_TRANSFORMERS, join_projections)
    return load_mapped(model, ours, FROM_TRANSFORMERS, join_projections)


def small_qformer(vocab_size: int, *, num_queries: int = 8) -> ImageTextQFormer:
    """The Q-Former this book trains: four blocks, 128 wide, for lesson 07's encoder and short captions."""
    body = QFormer(128, depth=4, num_heads=4, context_dim=128, vocab_size=vocab_size, max_positions=24)
    return ImageTextQFormer(body, num_queries=num_queries, embed_dim=64)


class Blip2(nn.Module):
    """Query states as a soft prefix of a frozen language model (Li et al. 2023, sec. 3.2).

    context (B, N, C), ids (B, T) -> logits (B, T, V) of the word after each token. One linear map carries the
    states into the language model's width. instruction (B, T'): ids that meet the queries in self-attention
    (Dai et al. 2023, sec. 2.3), instruction_mask (B, T') True for tokens.
    """

    def __init__(self, body: QFormer, queries: Tensor, language: Transformer):
        super().__init__()
        if queries.ndim != 3 or len(queries) != 1 or queries.shape[2] != body.config.dim:
            raise ValueError(f"expected queries (1, Q, {body.config.dim}), got {tuple(queries.shape)}")
        self.body, self.queries = body, nn.Parameter(queries.detach().clone())
        self.project = nn.Linear(body.config.dim, language.config.dim)
        self.language = language.requires_grad_(False)
        length = language.embed.weight.norm(dim=1).mean().item()  # the prefix starts as long as words are
        nn.init.normal_(self.project.weight, std=length / math.sqrt(self.project.weight.numel()))

    def train(self, mode: bool = True) -> "Blip2":
        super().train(mode)
        self.language.eval()  # frozen means no dropout either
        return self

    def prefix(
        self, context: Tensor, instruction: Tensor | None = None, instruction_mask: Tensor | None = None
    ) -> Tensor:
        """What the language model is shown, (B, Q, D of the language model)."""
        if instruction is None:
            return self.project(self.body(self.queries, context))
        real = torch.ones_like(instruction).bool() if instruction_mask is None else instruction_mask
        mask = attention_mask("itm", self.queries.shape[1], real)
        return self.project(self.body(self.queries, context, instruction, mask=mask)[0])

    def forward(self, context: Tensor, ids: Tensor, **instruction: Tensor) -> Tensor:
        if ids.ndim != 2 or not ids.shape[1]:
            raise ValueError(f"expected ids (B, T) with T >= 1, got {tuple(ids.shape)}")
        prefix = self.prefix(context, **instruction)
        states = self.language.encode(embeddings=torch.cat([prefix, self.language.embed(ids)], dim=1))
        return self.language.head(states[:, prefix.shape[1] :])


@torch.no_grad()
def cross_attention(model: QFormer, queries: Tensor, context: Tensor, *text: Tensor, **options) -> Tensor:
    """Where each query looks, (B, L, h, Q, N) for L blocks with cross-attention. Arguments as for `model`."""
    found: list[Tensor] = []

    def note(cross: CrossAttention, inputs: tuple) -> None:
        found.append(cross.weights(*inputs))  # (B, h, Q, N)

    layers = [block.cross for block in model.blocks if block.cross is not None]
    hooks = [cross.register_forward_pre_hook(note) for cross in layers]
    try:
        model(queries, context, *text, **options)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(found, dim=1)
