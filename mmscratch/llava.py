"""LLaVA.

Collected from notebooks/14_llava.ipynb by `make export`: edit the notebook, not this file.
"""

import copy
import random
from collections.abc import Sequence
from itertools import count, repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmscratch.clip import FROM_TRANSFORMERS as FROM_CLIP
from mmscratch.clip import ImageTower, shape_tokens, transformers_block
from mmscratch.transformer import (
    ACTIVATIONS,
    Transformer,
    check_type,
    generate,
    load_mapped,
    next_token_loss,
    pick,
    small_reader,
)
from mmscratch.transformer import from_transformers as language_from_transformers
from mmscratch.vit import pair

__all__ = [
    "AXES",
    "Batch",
    "FrozenInEval",
    "IGNORE",
    "LLaVA",
    "PROMPTS",
    "Projector",
    "check_text",
    "collate",
    "describe",
    "detail",
    "expand",
    "from_transformers",
    "hidden_states",
    "language_from",
    "locations",
    "loss",
    "place",
    "reasoning",
    "set_stage",
    "small_llava",
    "splice",
    "vision_from",
]


class Projector(nn.Module):
    """Carries each patch into the width of the language model, by itself: (B, N, C) -> (B, N, D).

    depth 1: one matrix (Liu et al. 2023a, eq. 1). depth 2: two with GELU between (Liu et al. 2023b). `norm`
    puts a LayerNorm before them, as InternVL does (Chen et al. 2024).
    """

    def __init__(
        self, in_dim: int, *, dim: int, depth: int = 2, act: str = "gelu", bias: bool = True,
        norm: bool = False,
    ):  # fmt: skip
        super().__init__()
        if depth not in (1, 2):
            raise ValueError(f"expected depth 1 or 2, got {depth}")
        self.norm = nn.LayerNorm(in_dim) if norm else nn.Identity()
        self.fc1 = nn.Linear(in_dim, dim, bias=bias)
        self.act = ACTIVATIONS[pick("act", act, ACTIVATIONS)]
        self.fc2 = nn.Linear(dim, dim, bias=bias) if depth == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.fc1.in_features:
            raise ValueError(f"expected features (B, N, {self.fc1.in_features}), got {tuple(x.shape)}")
        x = self.fc1(self.norm(x))
        return x if self.fc2 is None else self.fc2(self.act(x))


def hidden_states(
    vision: nn.Module, images: Tensor, layer: int | Sequence[int] = -2, *, keep_prefix: bool = False
) -> Tensor:
    """Patch features inside a vision tower, (B, C, H, W) -> (B, N, D); of K layers side by side, (B, N, K D).

    layer counts what stands between the blocks: 0 goes into the first, -1 leaves the last, -2 leaves the last
    but one (Liu et al. 2023a, sec. 4.1). The class token is left out unless `keep_prefix`.
    """
    vit, layers = vision.vit, (layer,) if isinstance(layer, int) else tuple(layer)
    places = len(vit.blocks) + 1
    if not layers or not all(-places <= k < places for k in layers):
        raise ValueError(f"expected layers in {-places}..{places - 1}, got {layer}")
    states, rope = [vit.pre_norm(vit.tokens(images))], vit.rope(images)
    for block in vit.blocks[: max(k % places for k in layers)]:  # later blocks are never run
        states.append(block(states[-1], rope))
    x = (
        torch.cat([states[k % places] for k in layers], dim=-1)
        if len(layers) > 1
        else states[layers[0] % places]
    )
    return x if keep_prefix else x[:, vit.num_prefix :]


def splice(embeddings: Tensor, input_ids: Tensor, features: Tensor, image_token_id: int) -> Tensor:
    """Picture tokens where the text says <image>: (B, T, D), ids (B, T), features (M, N, D) -> (B, T, D).

    Every picture takes N places in a row of text, row by row, left to right. ValueError where the number of
    places in a row is no multiple of N, or all of them are not M N.
    """
    M, N = features.shape[:2]
    places = input_ids == image_token_id  # (B, T)
    counts = places.sum(dim=1)
    if (counts % N).any():
        row = (counts % N).ne(0).int().argmax().item()
        raise ValueError(f"expected a multiple of {N} image tokens in each row, row {row} has {counts[row]}")
    if counts.sum() != M * N:
        raise ValueError(f"expected {M * N} image tokens for {M} pictures of {N}, got {counts.sum()}")
    if features.shape[2:] != embeddings.shape[2:]:
        raise ValueError(f"expected features (M, N, {embeddings.shape[2]}), got {tuple(features.shape)}")
    return embeddings.masked_scatter(places[..., None], features.to(embeddings.dtype))


def place(mask: Tensor | None, *, causal: bool = True) -> tuple[Tensor | None, Tensor | None]:
    """Mask and positions that a language model needs for texts padded as `mask` (B, T) says; True: real.

    Positions count real tokens only, so the side of the padding changes nothing. Where all padding stands
    on the right, a causal model needs neither: no real token sees it.
    """
    if mask is None or mask.all() or (causal and (mask[:, 1:] <= mask[:, :-1]).all() and mask[:, 0].all()):
        return None, None
    if not mask.any(dim=1).all():
        raise ValueError(f"expected a real token in every row, row {mask.any(dim=1).int().argmin()} has none")
    return mask, (mask.cumsum(dim=1) - 1).clamp(min=0)


class FrozenInEval(nn.Module):
    """A module whose frozen parts stay in eval mode: their running statistics are weights too."""

    def train(self, mode: bool = True) -> "FrozenInEval":
        super().train(mode)
        for part in self.children():
            part.train(mode and any(p.requires_grad for p in part.parameters()))
        return self


def check_text(
    input_ids: Tensor, mask: Tensor | None, images: Tensor | None, features: Tensor | None, image_id: int
) -> None:  # fmt: skip
    """ValueError unless ids are (B, T), a mask (B, T) fits, and pictures come where the text says so."""
    if input_ids.ndim != 2 or input_ids.shape[1] < 1:
        raise ValueError(f"expected input_ids (B, T) with T >= 1, got {tuple(input_ids.shape)}")
    if images is not None and features is not None:
        raise ValueError("expected pixel_values or features, got both")
    if images is None and features is None and (found := (input_ids == image_id).sum()) > 0:
        raise ValueError(f"expected pictures for {found} image tokens, got none")
    if mask is not None and mask.ndim == 2 and mask.shape != input_ids.shape:
        raise ValueError(f"expected attention_mask {tuple(input_ids.shape)}, got {tuple(mask.shape)}")


class LLaVA(FrozenInEval):
    """A language model that reads pictures as tokens among words (Liu et al. 2023a, fig. 1).

    vision: a `clip.ImageTower`; projector: any (M, N, C) -> (M, N', D); language: a causal
    `transformer.Transformer`. `layer` and `keep_prefix`: which features, as in `hidden_states`.
    """

    def __init__(
        self, vision: nn.Module, projector: nn.Module, language: nn.Module, *, image_token_id: int,
        layer: int | Sequence[int] = -2, keep_prefix: bool = False,
    ):  # fmt: skip
        super().__init__()
        size = language.config.vocab_size
        if not size or not 0 <= image_token_id < size:
            raise ValueError(f"expected image_token_id in a vocabulary of {size}, got {image_token_id}")
        self.vision, self.projector, self.language = vision, projector, language
        self.image_token_id, self.layer, self.keep_prefix = image_token_id, layer, keep_prefix

    def see(self, pixel_values: Tensor) -> Tensor:
        """Features before the projector, (M, C, H, W) -> (M, N, C'); a frozen tower can compute them once."""
        return hidden_states(self.vision, pixel_values, self.layer, keep_prefix=self.keep_prefix)

    def embed(
        self, input_ids: Tensor, pixel_values: Tensor | None = None, features: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Words and pictures as one sequence of vectors, (B, T, D)."""
        check_text(input_ids, mask, pixel_values, features, self.image_token_id)
        x = self.language.embed(input_ids)
        features = features if pixel_values is None else self.see(pixel_values)
        return x if features is None else splice(x, input_ids, self.projector(features), self.image_token_id)

    def forward(
        self, input_ids: Tensor, pixel_values: Tensor | None = None, attention_mask: Tensor | None = None,
        *, features: Tensor | None = None, position_ids: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Logits (B, T, vocab_size) for input_ids (B, T) and pixel_values (M, C, H, W).

        attention_mask (B, T): 0 marks padding, on either side; logits there mean nothing. Or (B, T, T), in
        place of the causal rule, with position_ids (B, T). `features`: what `see` gave.
        """
        mask = None if attention_mask is None else attention_mask.bool()
        x = self.embed(input_ids, pixel_values, features, mask)
        if mask is not None and mask.ndim == 2:
            mask, counted = place(mask, causal=self.language.config.causal)
            position_ids = counted if position_ids is None else position_ids
        return self.language(embeddings=x, mask=mask, positions=position_ids)

    @torch.no_grad()
    def generate(
        self, input_ids: Tensor, max_new_tokens: int, *, pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None, features: Tensor | None = None, **options: Any,
    ) -> Tensor:  # fmt: skip
        """Prompt and continuation, (B, T) -> (B, T + n); prompts padded on the left.

        The pictures are looked at once. Options as in `transformer.generate`: eos_id, use_cache, temperature.
        """
        mask = None if attention_mask is None or attention_mask.all() else attention_mask.bool()
        options |= dict(embeddings=self.embed(input_ids, pixel_values, features, mask), mask=mask)
        return generate(self.language, input_ids, max_new_tokens, **options)


IGNORE = -100


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the next tokens that are labelled, in nats: logits (B, T, V), labels (B, T).

    Labels of -100 do not count (Liu et al. 2023a, sec. 4.2): pictures, questions, padding.
    """
    if not (labels[:, 1:] != IGNORE).any():
        raise ValueError(f"expected a label other than {IGNORE} after the first token, got none")
    return next_token_loss(logits, labels, ignore_index=IGNORE)


class Batch(NamedTuple):
    """What a step of training reads, in the order of `LLaVA.forward` but for the labels.

    input_ids (B, T), labels (B, T), attention_mask (B, T) or (B, T, T) bool, position_ids (B, T).
    """

    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor
    position_ids: Tensor


def expand(ids: Sequence[int], image_token_id: int, num_tokens: int) -> list[int]:
    """One <image> in a text becomes as many as a picture has tokens, as the library's processor does."""
    if num_tokens < 1:
        raise ValueError(f"expected num_tokens >= 1, got {num_tokens}")
    return [i for i in ids for _ in range(num_tokens if i == image_token_id else 1)]


def collate(
    dialogues: Sequence[Sequence[tuple[Sequence[int], Sequence[int]]]], *, prefix: Sequence[int], pad_id: int,
    side: str = "right", apart: bool = False, label_prompts: bool = False,
) -> Batch:  # fmt: skip
    """Dialogues about a picture each, as one batch: `prefix`, prompt, answer, prompt, answer, ..., padding.

    A dialogue is a list of turns, a turn a prompt and its answer, as ids. prefix: <bos> and the expanded
    <image>. Only answers are labelled, unless `label_prompts`. `apart`: each turn sees the prefix and itself,
    and is placed right after the prefix, so that one picture serves several questions that do not overhear.
    """
    side, rows = pick("side", side, ("left", "right")), []
    if not dialogues:
        raise ValueError("expected at least one dialogue, got none")
    for i, turns in enumerate(dialogues):
        row = [(id_, IGNORE, 0, at) for at, id_ in enumerate(prefix)]  # id, label, turn, position
        for k, (prompt, answer) in enumerate(turns, 1):
            if not (prompt and answer):
                raise ValueError(f"expected words in prompt and answer, turn {k} of dialogue {i} has none")
            start = len(prefix) if apart else len(row)
            labels = [*(prompt if label_prompts else [IGNORE] * len(prompt)), *answer]
            row += zip([*prompt, *answer], labels, repeat(k), count(start))
        rows.append(row)
        if not turns:
            raise ValueError(f"expected a turn in every dialogue, dialogue {i} has none")
    longest = max(map(len, rows))
    empty = (pad_id, IGNORE, -1, 0)
    rows = [
        [empty] * (longest - len(r)) + r if side == "left" else r + [empty] * (longest - len(r)) for r in rows
    ]
    ids, labels, turn, places = torch.tensor(rows).unbind(-1)  # (B, T) each
    if not apart:
        return Batch(ids, labels, turn >= 0, places)
    visible = (turn[:, :, None] == turn[:, None]) | (turn[:, None] == 0)  # (B, T, T)
    return Batch(ids, labels, visible.tril(), places)


def set_stage(model: LLaVA, stage: int) -> LLaVA:
    """Freezes what a stage does not tune (Liu et al. 2023a, sec. 4.2); the vision tower always.

    1: the projector alone. 2: projector and language model.
    """
    if stage not in (1, 2):
        raise ValueError(f"expected stage 1 or 2, got {stage}")
    model.requires_grad_(False)
    for part in (model.projector, model.language)[:stage]:
        part.requires_grad_(True)
    return model.train()


def language_from(model: nn.Module) -> Transformer:
    """The language model inside a `LlavaForConditionalGeneration`, with its head."""
    inner = model.model.language_model
    kind = check_type(inner, "LlamaModel", "Qwen2Model").replace("Model", "ForCausalLM")
    whole = type(kind, (nn.Module,), {})()  # the parts of a causal model, as `from_transformers` reads them
    whole.model, whole.lm_head, whole.config = inner, model.lm_head, copy.copy(inner.config)
    whole.config.tie_word_embeddings = model.lm_head.weight is inner.embed_tokens.weight
    return language_from_transformers(whole.train(model.training))


def vision_from(tower: nn.Module) -> ImageTower:
    """Our image tower with the weights of transformers' `CLIPVisionModel`, without a projection."""
    check_type(tower, "CLIPVisionModel")
    c = tower.config
    ours = ImageTower(
        pair(c.image_size), patch_size=pair(c.patch_size), embed_dim=None, in_channels=c.num_channels,
        **transformers_block(c),
    )  # fmt: skip
    parts = nn.ModuleDict({"vision_model": tower}), nn.ModuleDict({"visual": ours})
    load_mapped(parts[0].train(tower.training), parts[1], FROM_CLIP, shape_tokens)
    return ours


def from_transformers(model: nn.Module) -> LLaVA:
    """Our model with the shape and weights of transformers' `LlavaForConditionalGeneration`.

    CLIP sees, Llama or Qwen2 reads. Any feature layer, or several; class token dropped ("default") or kept
    ("full"). TypeError and ValueError for what ours does not do.
    """
    check_type(model, "LlavaForConditionalGeneration")
    c = model.config
    layer = c.vision_feature_layer
    select = pick("vision_feature_select_strategy", c.vision_feature_select_strategy, ("default", "full"))
    vision, language = vision_from(model.model.vision_tower), language_from(model)
    width = vision.embed_dim * (1 if isinstance(layer, int) else len(layer))
    projector = Projector(
        width, dim=language.config.dim, act=c.projector_hidden_act, bias=c.multimodal_projector_bias
    )
    load_mapped(model.model.multi_modal_projector, projector, {r"^linear_": "fc"})
    which = dict(image_token_id=c.image_token_id, layer=layer, keep_prefix=select == "full")
    return LLaVA(vision, projector, language, **which).train(model.training)


def small_llava(
    vision: ImageTower, vocab_size: int, *, image_token_id: int, projector_depth: int = 2
) -> LLaVA:
    """The model this book trains: 16 patches of the tower, three blocks of language model, 128 wide."""
    language = small_reader(vocab_size, max_positions=256)
    projector = Projector(vision.vit.config.dim, dim=language.config.dim, depth=projector_depth, norm=True)
    return LLaVA(vision, projector, language, image_token_id=image_token_id)


PROMPTS = ("what is in the picture?", "what is there in the picture?", "what objects are there?")
AXES = (("x", "left", "right", "left of", "right of"), ("y", "top", "bottom", "above", "below"))


def describe(thing: Any) -> str:
    """An object of a scene graph, with its article: anything that has size, colour and shape."""
    return f"a {thing.size} {thing.colour} {thing.shape}"


def detail(caption: str, rng: random.Random) -> tuple[str, str]:
    """A request for everything, and the caption that answers it (Liu et al. 2023a, sec. 3)."""
    return rng.choice(PROMPTS), caption


def reasoning(things: Sequence[Any], rng: random.Random, *, margin: float = 0.1) -> list[tuple[str, str]]:
    """Questions that need two steps, with the steps in the answer: who stands there, then the result.

    things: objects with shape, colour, size and centre x, y in picture sides, x to the right, y down. Asked
    only where every other object is clear of the one asked about by `margin`.
    """
    asked = []
    for thing in things:
        others = [t for t in things if t is not thing]
        for axis, _, _, less, more in AXES:
            gaps = [getattr(t, axis) - getattr(thing, axis) for t in others]
            if not gaps or min(map(abs, gaps)) < margin:
                continue
            relation, sign = rng.choice(((less, -1), (more, 1)))
            there = [t for t, gap in zip(others, gaps, strict=True) if sign * gap > 0]
            named = " and ".join(describe(t) for t in there)
            number = ("zero", "one", "two", "three")[len(there)]
            question = f"how many objects are {relation} the {thing.colour} {thing.shape}?"
            asked.append((question, f"{named}, {number}" if there else number))
    return asked


def locations(things: Sequence[Any], rng: random.Random, *, margin: float = 0.04) -> list[tuple[str, str]]:
    """Which half holds an object, asked only where some other object lies in the opposite half.

    There the answer cannot be read off the picture as a whole: the object must be found.
    """
    asked = []
    for thing in things:
        for axis, low, high, _, _ in AXES:
            at = getattr(thing, axis) - 0.5
            others = [getattr(t, axis) - 0.5 for t in things if t is not thing]
            if abs(at) > margin and any(at * other < 0 and abs(other) > margin for other in others):
                yes = rng.random() < 0.5
                half = high if (at > 0) == yes else low
                question = f"is the {thing.colour} {thing.shape} in the {half} half?"
                asked.append((question, "yes" if yes else "no"))
    return asked
