"""Early, late and joint fusion.

Collected from notebooks/11_fusion.ipynb by `make export`: edit the notebook, not this file.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmscratch.transformer import (
    FROM_TORCH,
    Transformer,
    check_type,
    initialise_weights,
    load_mapped,
    pick,
    split_queries,
    torch_layer_options,
)

__all__ = [
    "Choice",
    "Cost",
    "FROM_VILT",
    "FUSIONS",
    "Fuse",
    "Fusion",
    "IN_A_TOWER",
    "Side",
    "TOWERS",
    "build_tower",
    "check_batch",
    "check_table",
    "choose",
    "count_cost",
    "drop_rows",
    "from_torch",
    "from_transformers",
    "full",
    "pair_up",
    "stack_shape",
]

FUSIONS = ("early", "joint", "late")


def build_tower(dim: int, **options) -> Transformer:
    """Blocks without a causal mask, over vectors: (B, S, D) -> (B, S, D). `cross`: they read a context."""
    plain = dict(norm="layer", act="gelu", gated=False, qkv_bias=True, out_bias=True, mlp_bias=True)
    return Transformer(None, dim=dim, **plain | dict(causal=False, position="none") | options)


def full(x: Tensor, mask: Tensor | None) -> Tensor:
    """The mask of x (B, S, D), or one where everything is there: (B, S). ValueError for another shape."""
    if mask is None:
        return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    if mask.dtype != torch.bool or mask.shape != x.shape[:2]:
        raise ValueError(
            f"expected a boolean mask {tuple(x.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}"
        )
    return mask


class Fuse(nn.Module):
    """Where two sequences meet: early (one tower over both), late (nowhere), joint (text reads the picture).

    image (B, N, D), text (B, T, D) -> states of both, same shapes. Masks (B, N) and (B, T): True for what is
    there. Joint's picture tower has a block less, unless `image_depth` says otherwise, which pays for its
    cross-attention. `see` and `read` hold all that needs one side only, `meet` what needs both.
    """

    def __init__(self, dim: int, *, kind: str, depth: int, image_depth: int | None = None, **options):
        super().__init__()
        self.kind = pick("kind", kind, FUSIONS)
        image_depth = depth - (kind == "joint") if image_depth is None else image_depth
        if min(depth, image_depth) < 1:
            raise ValueError(f"expected at least one block a tower, got {image_depth} and {depth}")
        if kind == "early":
            self.both = build_tower(dim, depth=depth, **options)
        else:
            self.image = build_tower(dim, depth=image_depth, **options)
            self.text = build_tower(dim, depth=depth, cross=kind == "joint", **options)

    def see(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        return image if self.kind == "early" else self.image.encode(embeddings=image, mask=mask)

    def read(self, text: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.text.encode(embeddings=text, mask=mask) if self.kind == "late" else text

    def meet(
        self, image: Tensor, text: Tensor, image_mask: Tensor | None = None, text_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.kind == "joint":
            context = dict(context=image, context_mask=image_mask)
            text = self.text.encode(embeddings=text, mask=text_mask, **context)
        if self.kind == "early":
            both, mask = torch.cat([image, text], dim=1), None  # (B, N + T, D)
            if image_mask is not None or text_mask is not None:
                mask = torch.cat([full(image, image_mask), full(text, text_mask)], dim=1)
            both = self.both.encode(embeddings=both, mask=mask)
            image, text = both.split([image.shape[1], text.shape[1]], dim=1)
        return image, text

    def forward(
        self, image: Tensor, text: Tensor, image_mask: Tensor | None = None, text_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.meet(self.see(image, image_mask), self.read(text, text_mask), image_mask, text_mask)


class Side(NamedTuple):
    """One side as far as it can be computed alone: states (B, S, D), and which of them are there, (B, S)."""

    states: Tensor
    mask: Tensor


def check_batch(x: Tensor, expected: tuple, *, whole: bool = False) -> None:
    """ValueError unless x has the expected shape; None fits any size, a range what lies in it."""
    fits = x.ndim == len(expected) and all(
        e is None or n in (e if isinstance(e, range) else (e,))
        for n, e in zip(x.shape, expected, strict=True)
    )
    if not fits or x.is_floating_point() == whole:
        said = ", ".join(
            "B" if e is None else f"{e[0]} to {e[-1]}" if isinstance(e, range) else str(e) for e in expected
        )
        raise ValueError(
            f"expected {'whole ' if whole else ''}numbers ({said}), got {tuple(x.shape)} {x.dtype}"
        )


def pair_up(a: Side, b: Side) -> tuple[Side, Side]:
    """Both with a batch of the same size, where one of them may have a batch of one."""
    B = max(len(a.states), len(b.states))
    if {len(a.states), len(b.states)} - {1, B}:
        raise ValueError(
            f"expected as many pictures as questions, or one, got {len(a.states)} and {len(b.states)}"
        )
    return tuple(Side(*(x.expand(B, *x.shape[1:]) for x in side)) for side in (a, b))


class Fusion(nn.Module):
    """Answers a question about a picture, as a choice among `num_answers`.

    features (B, N, C) of a picture encoder and ids (B, T) -> logits (B, num_answers). A summary token stands
    in front of each side and is always there, even where a mask hides all the rest; the head reads both
    summaries and their product. Options: the fields of `Fuse`. ValueError for inputs of another shape.
    """

    def __init__(
        self, vocab_size: int, *, kind: str, num_answers: int, image_dim: int, num_patches: int,
        max_words: int, dim: int = 64, depth: int = 3, num_heads: int = 4, **options,
    ):  # fmt: skip
        super().__init__()
        self.project = nn.Sequential(nn.LayerNorm(image_dim), nn.Linear(image_dim, dim))
        self.embed = nn.Embedding(vocab_size, dim)
        self.patch_places = nn.Parameter(torch.empty(num_patches, dim))
        self.word_places = nn.Parameter(torch.empty(max_words, dim))
        self.summaries = nn.Parameter(torch.empty(2, dim))  # of the picture, of the text
        self.fuse = Fuse(dim, kind=kind, depth=depth, num_heads=num_heads, **options)
        self.head = nn.Sequential(nn.Linear(3 * dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, num_answers))
        initialise_weights(self, depth)

    def alone(self, tower: Callable, summary: Tensor, x: Tensor, mask: Tensor | None) -> Side:
        """A summary token in front of x (B, S, D), then what its tower can do alone."""
        summary = summary.expand(len(x), 1, -1)
        mask = torch.cat([full(summary, None), full(x, mask)], dim=1)  # the summary is always there
        states = tower(torch.cat([summary, x], dim=1), mask)
        kept = 1 if self.fuse.kind == "late" else states.shape[1]  # late is done: its summary is enough
        return Side(states[:, :kept], mask[:, :kept])

    def see(self, features: Tensor, mask: Tensor | None = None) -> Side:
        """All that can be done for pictures before a question is known. features (B, N, C), mask (B, N)."""
        check_batch(features, (None, len(self.patch_places), self.project[1].in_features))
        return self.alone(self.fuse.see, self.summaries[0], self.project(features) + self.patch_places, mask)

    def read(self, ids: Tensor, mask: Tensor | None = None) -> Side:
        """All that can be done for questions before a picture is known. ids (B, T), mask (B, T)."""
        check_batch(ids, (None, range(1, len(self.word_places) + 1)), whole=True)
        return self.alone(
            self.fuse.read, self.summaries[1], self.embed(ids) + self.word_places[: ids.shape[1]], mask
        )

    def meet(self, picture: Side, question: Side) -> Tensor:
        """Logits (B, num_answers). A batch of one on either side is shared by all of the other."""
        (v, v_mask), (t, t_mask) = pair_up(picture, question)
        if self.fuse.kind != "late":
            v, t = self.fuse.meet(v, t, v_mask, t_mask)
        v, t = v[:, 0], t[:, 0]  # (B, D), the two summaries
        return self.head(torch.cat([v, t, v * t], dim=1))

    def forward(
        self, features: Tensor, ids: Tensor, *, image_mask: Tensor | None = None,
        text_mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        return self.meet(self.see(features, image_mask), self.read(ids, text_mask))


@dataclass(frozen=True)
class Cost:
    """What a `Fusion` costs: parameters, and FLOPs of matrix products, two a multiplication and addition.

    see: for a picture, before any question; read: for a question, before any picture; meet: for a pair;
    kept: numbers to store of each picture in between.
    """

    parameters: int
    see: int
    read: int
    meet: int
    kept: int

    def flops(self, *, pictures: float = 1, questions: float = 1) -> float:
        """FLOPs a question that is held against `pictures`, each of which meets `questions` in its life."""
        if pictures < 1 or questions < 1:
            raise ValueError(f"expected at least one picture and question, got {pictures} and {questions}")
        return pictures * (self.see / questions + self.meet) + self.read


def count_cost(model: Fusion, words: int) -> Cost:
    """Count what a question of `words` words costs, by torch's own counter. ValueError for too many words."""
    weight = model.head[0].weight
    features = weight.new_zeros(1, len(model.patch_places), model.project[1].in_features)
    steps = {"see": lambda: model.see(features)}
    steps["read"] = lambda: model.read(torch.zeros(1, words, dtype=torch.long, device=weight.device))
    steps["meet"] = lambda: model.meet(found["see"], found["read"])
    found, flops = {}, {}
    for name, step in steps.items():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            found[name] = step()
        flops[name] = counter.get_total_flops()
    parameters = sum(p.numel() for p in model.parameters())
    return Cost(parameters=parameters, kept=found["see"].states.numel(), **flops)


def stack_shape(stack: nn.Module) -> dict:
    """The options of `Fuse` that a TransformerEncoder or -Decoder asks for."""
    if stack.norm is None:
        raise ValueError("expected a final norm, got None")
    return torch_layer_options(stack.layers[0])


TOWERS = {
    "early": {r"^": "both."},
    "joint": {
        r"^encoder\.": "image.",
        r"^decoder\.": "text.",
        r"^(text\.layers\.\d+)\.norm2\.": r"\1.norm_cross.",
        r"^(text\.layers\.\d+)\.norm3\.": r"\1.norm2.",
    },
    "late": {r"^0\.": "image.", r"^1\.": "text."},
}


IN_A_TOWER = {r"\.layers\.": ".blocks.", r"\.linear([12])\.": r".mlp.fc\1."}


def from_torch(reference: nn.Module) -> Fuse:
    """Our `Fuse` with torch's weights: a TransformerEncoder becomes early fusion, a Transformer joint fusion.

    A ModuleList of two TransformerEncoders, picture and text, becomes late fusion. ValueError for what ours
    does not do: no final norm, layers without biases, other activations, towers of unequal width.
    """
    kinds = {"TransformerEncoder": "early", "Transformer": "joint", "ModuleList": "late"}
    kind = kinds[check_type(reference, *kinds)]
    stacks = [reference] if kind == "early" else list(reference.children())
    if len(stacks) != (1 if kind == "early" else 2):
        raise ValueError(f"expected two encoders, of pictures and of text, got {len(stacks)}")
    shape, *others = [stack_shape(stack) for stack in stacks]
    if any(other != shape for other in others):
        raise ValueError(f"expected towers of one shape, got {shape} and {others[0]}")
    depths = dict(image_depth=len(stacks[0].layers), depth=len(stacks[-1].layers))
    edit = split_queries if kind == "joint" else None
    return load_mapped(
        reference, Fuse(kind=kind, **depths, **shape), TOWERS[kind] | IN_A_TOWER | FROM_TORCH, edit
    )


FROM_VILT = {
    r"^(embeddings|pooler)\..*": "",
    r"^encoder\.layer\.": "both.blocks.",
    r"^layernorm\.": "both.norm.",
    r"\.attention\.attention\.(query|key|value)\.": lambda m: f".attention.{m[1][0]}_proj.",
    r"\.attention\.output\.dense\.": ".attention.out.",
    r"\.intermediate\.dense\.": ".mlp.fc1.",
    r"\.output\.dense\.": ".mlp.fc2.",
    r"\.layernorm_before\.": ".norm1.",
    r"\.layernorm_after\.": ".norm2.",
}


def from_transformers(model: nn.Module) -> Fuse:
    """Early fusion with the blocks and the last norm of `ViltModel` (Kim et al. 2021, sec. 3.1).

    Its embeddings and its pooler stay behind.
    """
    check_type(model, "ViltModel")
    c = model.config
    ours = Fuse(
        c.hidden_size, kind="early", depth=c.num_hidden_layers, num_heads=c.num_attention_heads,
        mlp_dim=c.intermediate_size, norm_eps=c.layer_norm_eps, act=c.hidden_act, qkv_bias=c.qkv_bias,
        dropout=c.hidden_dropout_prob, attention_dropout=c.attention_probs_dropout_prob,
    )  # fmt: skip
    return load_mapped(model, ours, FROM_VILT)


def drop_rows(mask: Tensor, share: float, *, generator: torch.Generator | None = None) -> Tensor:
    """The mask (B, S) with a share of its rows emptied: modality dropout (Neverova et al. 2016)."""
    if mask.ndim != 2 or mask.dtype != torch.bool:
        raise ValueError(f"expected a boolean mask (B, S), got {mask.dtype} {tuple(mask.shape)}")
    if not 0 <= share <= 1:
        raise ValueError(f"expected a share from 0 to 1, got {share}")
    return mask & (torch.rand(len(mask), 1, generator=generator) >= share).to(mask.device)


@dataclass(frozen=True)
class Choice:
    """A recommendation of `choose`.

    kind: which fusion; shortlist: 0, or how many pictures late fusion leaves to it; accuracy: on the worst of
    the asked kinds of question; flops: a question; unanswered: asked kinds on which it does not beat the
    blind; why: the reason, in words.
    """

    kind: str
    shortlist: int
    accuracy: float
    flops: float
    unanswered: tuple[str, ...]
    why: str


def check_table(measured: Mapping, costs: Mapping, asked: Collection[str], blind: Mapping | None) -> None:
    """ValueError unless every fusion has a cost, and an accuracy for every asked kind of question."""
    if not asked or isinstance(asked, str):
        raise ValueError(f"expected a list of kinds of question, got {asked!r}")
    if not measured or measured.keys() != costs.keys() or not measured.keys() <= set(FUSIONS):
        raise ValueError(f"expected the same of {FUSIONS} twice, got {sorted(measured)} and {sorted(costs)}")
    for name, table in {**measured, **({} if blind is None else {"blind": blind})}.items():
        if bad := [kind for kind in asked if not 0 <= table.get(kind, -1) <= 1]:
            raise ValueError(
                f"expected an accuracy from 0 to 1 of {name} for {bad[0]!r}, got {table.get(bad[0])}"
            )


def choose(
    measured: Mapping[str, Mapping[str, float]], costs: Mapping[str, Cost], asked: Collection[str], *,
    pictures: int = 1, questions: float = 1, budget: float = math.inf,
    blind: Mapping[str, float] | None = None, margin: float = 0.03, shortlist: int = 100, kept: float = 1.0,
) -> Choice:  # fmt: skip
    """The fusion to take for `asked` kinds of question, from what you measured and what it costs.

    measured: fusion -> kind of question -> accuracy on unseen pictures; blind: the same without a picture;
    costs: fusion -> `Cost`. pictures, questions: as in `Cost.flops`; budget: FLOPs a question. Within the
    budget the best on its *worst* asked kind wins, and of those within `margin` of it, which is the noise
    of your measurement, the cheapest. With more than `shortlist` pictures a question, late fusion may choose
    that many for another to judge, which is then right at most in the share `kept` of the right pictures.

    ValueError for nothing asked, a kind without a measurement, a budget below the cheapest, kept above 1.
    """
    check_table(measured, costs, asked, blind)
    if not 0 <= kept <= 1:
        raise ValueError(f"expected a share kept from 0 to 1, got {kept}")
    worst = {name: min(table[kind] for kind in asked) for name, table in measured.items()}
    load = dict(pictures=pictures, questions=questions)
    options = [(cost.flops(**load), name, 0, worst[name]) for name, cost in costs.items()]
    if pictures > shortlist and "late" in costs:
        first, few = costs["late"].flops(**load), load | dict(pictures=shortlist)
        options += [
            (first + cost.flops(**few), name, shortlist, kept * worst[name])
            for name, cost in costs.items()
            if name != "late"
        ]
    within = [option for option in options if option[0] <= budget]
    if not within:
        raise ValueError(
            f"expected a budget of at least {min(options)[0]:.3g} FLOPs a question, got {budget:.3g}"
        )
    best = max(accuracy for *_, accuracy in within)
    flops, name, behind, accuracy = min(option for option in within if option[3] >= best - margin)
    floor = {} if blind is None else blind
    unanswered = tuple(kind for kind in asked if measured[name][kind] <= floor.get(kind, 0) + margin)
    weakest = min(asked, key=measured[name].__getitem__)
    why = f"{name} gets {accuracy:.2f} on {weakest}, its worst, for {flops:.3g} FLOPs a question"
    why += f", behind a shortlist of {behind} by late fusion" if behind else ""
    return Choice(name, behind, accuracy, flops, unanswered, why)
