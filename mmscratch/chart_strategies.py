"""One chart, three ways.

Collected from notebooks/40_chart_three_ways.ipynb by `make export`: edit the notebook, not this file.
"""

import base64
import json
import math
import os
import random
import re
import struct
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count, repeat, takewhile
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmscratch.clip import ImageTower
from mmscratch.llava import IGNORE, Batch, LLaVA
from mmscratch.qformer import QFormer
from mmscratch.transformer import Transformer, check_type, pick, rope, rotate, sinusoidal, small_reader

__all__ = [
    "Endpoint",
    "Item",
    "LONGEST",
    "NUMBER",
    "Reply",
    "SPECIAL",
    "STRATEGIES",
    "Slots",
    "SoftWords",
    "Tree",
    "Vocabulary",
    "WORDS",
    "answers",
    "best_split",
    "bootstrap",
    "calculate",
    "context",
    "cost",
    "data_url",
    "fit_tree",
    "from_sklearn",
    "gini",
    "one_letter_apart",
    "pack",
    "palette_maps",
    "prompt",
    "question_features",
    "small_chart_reader",
    "start_copying",
    "tile_tokens",
]

SPECIAL = ("<pad>", "<eos>", "<image>", "<ocr>", "<table>", "<ask>", "\n", "+", "-")
NUMBER = re.compile(r"\d[\d,]*\.?\d*%?")


class Vocabulary:
    """What has an id of its own: `words` that charts share, slots for all other words, and numbers.

    A number is one token on a scale of `bins` steps of 2 % from 0.1 up; zero has a token of its own.
    """

    def __init__(
        self,
        words: Iterable[str],
        *,
        slots: int = 64,
        bins: int = 600,
        least: float = 0.1,
        step: float = 1.02,
    ):
        if slots < 1 or bins < 2:
            raise ValueError(f"expected slots >= 1 and bins >= 2, got {slots} and {bins}")
        self.words = list(dict.fromkeys([*SPECIAL, *words]))
        self.ids = {word: i for i, word in enumerate(self.words)}
        self.slots, self.bins, self.least, self.step = slots, bins, least, step
        self.first_slot = len(self.words)
        self.zero = self.first_slot + slots
        self.first_number = self.zero + 1

    def __len__(self) -> int:
        return self.first_number + self.bins

    def number(self, value: float) -> int:
        """The id of a number, the nearest on the scale. ValueError below zero."""
        if not value >= 0:
            raise ValueError(f"expected a number from 0 up, got {value}")
        at = round(math.log(value / self.least) / math.log(self.step)) if value else -1
        return self.zero if value == 0 else self.first_number + min(max(at, 0), self.bins - 1)

    def value(self, id_: int) -> float:
        """The number that an id stands for."""
        if not self.zero <= id_ < len(self):
            raise ValueError(f"expected the id of a number, {self.zero} to {len(self) - 1}, got {id_}")
        return 0.0 if id_ == self.zero else self.least * self.step ** (id_ - self.first_number)


def one_letter_apart(a: str, b: str) -> bool:
    """Whether one letter changed, added or left out makes a into b; words of five letters or more."""
    if min(len(a), len(b)) < 5 or abs(len(a) - len(b)) > 1:
        return False
    same = [x == y for x, y in zip(a, b, strict=False)]
    back = [x == y for x, y in zip(reversed(a), reversed(b), strict=False)]
    head, tail = [*same, False].index(False), [*back, False].index(False)
    return head + tail >= max(len(a), len(b)) - 1


class Slots:
    """The words of one chart: each that the vocabulary lacks gets a slot, drawn at random, for this chart.

    As entities were made anonymous by Hermann et al. 2015: nothing can be known about a slot but where else
    it stands. A word one letter from a known one gets the same slot, since a reader may have misread it.
    """

    def __init__(self, vocabulary: Vocabulary, rng: random.Random):
        self.vocabulary = vocabulary
        self.free = rng.sample(range(vocabulary.slots), vocabulary.slots)
        self.known: dict[str, int] = {}
        self.written: dict[int, str] = {}  # id -> how it is written on this chart

    def encode(self, text: str) -> list[int]:
        """Ids of the words of a text; a new line has an id, other punctuation is dropped."""
        lines = [line.replace("|", " ").replace("?", " ").split() for line in text.split("\n")]
        ids = [[i for word in line if (i := self.word(word)) is not None] for line in lines]
        return [i for line in ids for i in (*line, self.vocabulary.ids["\n"])][:-1]

    def word(self, word: str) -> int | None:
        """The id of a word, None where every slot is taken."""
        word = word.strip("()[],.:;'\"!") or word
        key, v = word.casefold(), self.vocabulary
        if key in v.ids:
            return v.ids[key]
        if NUMBER.fullmatch(word):
            id_ = v.number(float(word.replace(",", "").rstrip("%.") or 0))
            self.written.setdefault(id_, word)
            return id_
        if key not in self.known:
            near = next((k for k in self.known if one_letter_apart(k, key)), None)
            if near is None and not self.free:
                return None
            self.known[key] = v.first_slot + self.free.pop() if near is None else self.known[near]
            self.written.setdefault(self.known[key], word)
        return self.known[key]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of an answer up to <eos>; "a + b" and "a - b" are worked out, as a calculator would."""
        v, words = self.vocabulary, []
        for i in takewhile(lambda i: i != v.ids["<eos>"], ids):
            if i in self.written:
                words.append(self.written[i])
            elif i >= v.zero:
                words.append(f"{v.value(i):.3g}" if v.value(i) < 100 else f"{v.value(i):.0f}")
            else:
                words.append(v.words[i] if i < v.first_slot else "?")
        return calculate(" ".join(words))


def calculate(text: str) -> str:
    """The result of "a + b" or "a - b"; any other text as it is."""
    number = r"(\d[\d,]*\.?\d*)%?"
    if not (parts := re.fullmatch(f"{number} ([+-]) {number}", text)):
        return text
    a, b = (float(parts[i].replace(",", "")) for i in (1, 3))
    return f"{a + b if parts[2] == '+' else a - b:.6g}"


STRATEGIES = ("image", "text", "both", "table")
LONGEST = 90  # tokens of OCR text that a prompt keeps


def context(
    slots: Slots, strategy: str, *, text: str = "", table: str = "", num_tokens: int = 24
) -> list[int]:
    """What the model sees of a chart before the question, as ids. `strategy` "nothing": not a thing.

    text: what OCR read, a line a line, cut after `LONGEST` tokens; num_tokens: of the picture.
    """
    pick("strategy", strategy, (*STRATEGIES, "nothing"))
    ids, known = [], slots.vocabulary.ids
    if strategy in ("image", "both"):
        ids += [known["<image>"]] * num_tokens
    if strategy in ("text", "both"):
        ids += [known["<ocr>"], *slots.encode(text)][:LONGEST]
    if strategy == "table":
        ids += [known["<table>"], *slots.encode(table)]
    return ids


def prompt(slots: Slots, question: str) -> list[int]:
    """A question as ids. ValueError for one without a word."""
    if not question.strip(" ?"):
        raise ValueError("expected a question, got an empty text")
    return [slots.vocabulary.ids["<ask>"], *slots.encode(question)]


def pack(
    contexts: Sequence[Sequence[int]], turns: Sequence[Sequence[tuple[Sequence[int], Sequence[int]]]]
) -> Batch:
    """Contexts of any length, each with several questions and answers that do not see one another.

    One look at a chart serves all its questions. As `llava.collate` with `apart`, a context for each row.
    """
    if len(contexts) != len(turns) or not all(turns):
        raise ValueError("expected a context and at least one question and answer for every row")
    rows = []
    for seen, asked in zip(contexts, turns, strict=True):
        row = [(id_, IGNORE, 0, at) for at, id_ in enumerate(seen)]  # id, label, turn, position
        for k, (question, answer) in enumerate(asked, 1):
            labels = [*[IGNORE] * len(question), *answer]
            row += zip([*question, *answer], labels, repeat(k), count(len(seen)))
        rows.append(row)
    longest = max(map(len, rows))
    rows = [row + [(0, IGNORE, -1, 0)] * (longest - len(row)) for row in rows]
    ids, labels, turn, places = torch.tensor(rows).unbind(-1)  # (B, T) each
    visible = (turn[:, :, None] == turn[:, None]) | (turn[:, None] == 0)  # (B, T, T)
    return Batch(ids, labels, visible.tril(), places)


def palette_maps(images: Sequence[Tensor], palette: Tensor) -> Tensor:
    """How near to each colour and how light a chart is, place by place: (3, 240, 320) uint8 each, K colours
    -> (B, K + 1, 32, 40).

    palette (K, 3): colours from -1 to 1. A place is 8 x 8 pixels; two grey rows of places fill the bottom.
    """
    if not len(images) or any(image.shape != (3, 240, 320) for image in images):
        shapes = sorted({tuple(image.shape) for image in images})
        raise ValueError(f"expected pictures (3, 240, 320), got {shapes or 'none'}")
    if palette.ndim != 2 or palette.shape[1] != 3:
        raise ValueError(f"expected a palette (K, 3), got {tuple(palette.shape)}")
    x = F.pad(torch.stack(list(images)).float() / 127.5 - 1, (0, 0, 0, 16))  # (B, 3, 256, 320)
    crossed = torch.einsum("bchw,kc->bkhw", x, palette)
    own, named = x.square().sum(1, keepdim=True), palette.square().sum(1)[:, None, None]
    near = ((2 * crossed - own - named) / 0.15).exp()  # (B, K, 256, 320), 1 where the colours are equal
    return F.avg_pool2d(torch.cat([near, x.mean(1, keepdim=True)], dim=1), 8)


class SoftWords(nn.Module):
    """Queries read a picture, and each says a word, as a blend of words: (M, N, C) -> (M, Q, D).

    body: a Q-Former without text (Li et al. 2023, sec. 3.1); words: ids of all that may be said; language:
    whose embeddings are blended, by the weights that a softmax over `words` gives.
    """

    def __init__(self, body: QFormer, num_queries: int, words: Sequence[int], language: Transformer):
        super().__init__()
        self.body = body
        self.queries = nn.Parameter(torch.randn(1, num_queries, body.config.dim) * 0.5)
        self.head = nn.Linear(body.config.dim, len(words))
        self.register_buffer("words", torch.tensor(words))
        self.look_up = language.embed.forward  # the table stays the language model's

    def scores(self, features: Tensor) -> Tensor:
        """What each query says: logits over the words, (M, Q, W)."""
        return self.head(self.body(self.queries, features))

    def forward(self, features: Tensor) -> Tensor:
        return self.scores(features).softmax(-1) @ self.look_up(self.words)


def small_chart_reader(vocabulary: Vocabulary, words: Sequence[int], *, num_maps: int = 9) -> LLaVA:
    """Lesson 14's model for charts: 80 patches of 32 x 32 pixels, 24 picture tokens, three blocks of text.

    words: ids that a picture token may blend; num_maps: of `palette_maps`.
    """
    if not words or not all(0 <= word < len(vocabulary) for word in words):
        raise ValueError(f"expected ids of words from 0 to {len(vocabulary) - 1}, got {list(words)}")
    shape = dict(patch_size=4, in_channels=num_maps, dim=128, depth=2, num_heads=4, mlp_dim=336)
    kind = dict(class_token=False, patch_bias=True, pooling="mean")
    tower = ImageTower((32, 40), embed_dim=None, **shape, **kind)
    language = small_reader(len(vocabulary), max_positions=320, qkv_bias=True)
    reads = dict(context_dim=128, cross_attention_frequency=1, text=False)
    body = QFormer(128, depth=2, num_heads=4, mlp_dim=336, **reads)
    projector = SoftWords(body, 24, words, language)
    return LLaVA(tower, projector, language, image_token_id=vocabulary.ids["<image>"], layer=-1)


@torch.no_grad()
def start_copying(language: Transformer, vocabulary: Vocabulary, *, seed: int = 0) -> None:
    """Give a new language model two induction heads and numbers in order, as a trained one has them.

    Induction (Olsson et al. 2022): two heads of block 1 look at the token before and pass its identity on;
    two heads of block 2 find a place whose predecessor is the present token, and say what stands there. All
    other branches start quiet, so that embeddings are heard. Numbers get sinusoidal codes of their order.
    """
    g = torch.Generator().manual_seed(seed)
    for block in language.blocks:
        block.attention.out.weight *= 0.1
        block.mlp.fc2.weight *= 0.1
    first, second = language.blocks[0].attention, language.blocks[1].attention
    h, d = first.num_heads, first.head_dim
    D, spread = h * d, language.embed.weight.std()
    numbers = language.embed.weight[vocabulary.first_number :]
    numbers.copy_(sinusoidal(torch.arange(len(numbers)) * 0.5, D) * spread * 2**0.5)
    key = (torch.arange(d) < 4).float()  # the pairs of channels that turn fast tell neighbours apart
    query = rotate(key[None], rope(torch.tensor([-1.0]), d))[0]
    turns = 10_000 ** (-torch.arange(d // 2) / (d // 2))
    slow = (turns < 0.006).nonzero().flatten()  # the slow ones hardly turn: there identity can be compared
    slow = torch.cat([slow, slow + d // 2])
    identity, passed, said = (torch.linalg.qr(torch.randn(D, D, generator=g))[0] for _ in range(3))
    q, k, v = first.qkv.weight.view(3, h, d, D)
    q_bias, k_bias, _ = first.qkv.bias.view(3, h, d)
    q2, k2, v2 = second.qkv.weight.view(3, h, d, D)
    for i in range(2):
        rows = slice(i * len(slow), (i + 1) * len(slow))
        q[i] *= 0.1
        k[i] *= 0.1
        q_bias[i], k_bias[i] = 8 * query, 8 * key
        v[i] = 0
        v[i, slow] = identity[rows]
        first.out.weight.view(D, h, d)[:, i] = 0
        first.out.weight.view(D, h, d)[:, i, slow] = 1.5 * spread * passed[rows].T
        q2[i] *= 0.05
        k2[i] *= 0.05
        q2[i, slow], k2[i, slow] = 2.5 * identity[rows], 2.5 * passed[rows]
        v2[i] = said[i * d : (i + 1) * d]
        second.out.weight.view(D, h, d)[:, i] = 3 * spread * v2[i].T


class Item(NamedTuple):
    """A chart to be asked about: its `palette_maps` (K + 1, 32, 40), what OCR read, the data where known."""

    maps: Tensor
    text: str
    questions: list[str]
    table: str = ""


@torch.no_grad()
def answers(
    model: LLaVA, vocabulary: Vocabulary, items: Sequence[Item], strategy: str, *,
    seed: int = 0, batch_size: int = 64,
) -> list[list[str]]:  # fmt: skip
    """What the model says to each question about each chart, by one strategy or with "nothing"."""
    rng, rows, eos = random.Random(seed), [], vocabulary.ids["<eos>"]
    model.eval()
    for i, item in enumerate(items):
        for question in item.questions:
            slots = Slots(vocabulary, rng)
            seen = context(slots, strategy, text=item.text, table=item.table)
            rows.append((i, slots, [*seen, *prompt(slots, question)]))
    looked: list[Tensor] = []
    if strategy in ("image", "both"):
        parts = [items[at : at + batch_size] for at in range(0, len(items), batch_size)]
        looked = [
            row for part in parts for row in model.see(torch.stack([item.maps for item in part]).float())
        ]
    said: list[list[str]] = [[] for _ in items]
    results: dict[int, str] = {}
    order = sorted(range(len(rows)), key=lambda r: len(rows[r][2]))  # little padding
    for at in range(0, len(order), batch_size):
        part = order[at : at + batch_size]
        longest = max(len(rows[r][2]) for r in part)
        ids = torch.tensor([[0] * (longest - len(rows[r][2])) + rows[r][2] for r in part])
        real = torch.tensor([[k >= longest - len(rows[r][2]) for k in range(longest)] for r in part])
        features = torch.stack([looked[rows[r][0]] for r in part]) if looked else None
        given = model.generate(ids, 8, attention_mask=real, features=features, eos_id=eos)
        for r, row in zip(part, given[:, longest:].tolist(), strict=True):
            results[r] = rows[r][1].decode(row)
    for r, (i, _, _) in enumerate(rows):
        said[i].append(results[r])
    return said


def gini(counts: Tensor) -> Tensor:
    """Impurity of nodes with these counts or weights of each class, (..., K) -> (...): 1 - sum of p^2."""
    share = counts / counts.sum(-1, keepdim=True).clamp(min=1e-12)
    return 1 - share.square().sum(-1)


def best_split(x: Tensor, classes: Tensor, least: int = 1) -> tuple[float, int, float] | None:
    """The split "feature <= threshold" of the lowest impurity: (impurity, feature, threshold), or None.

    x (N, F); classes (N, K), one-hot or weighted; at least `least` rows on either side.
    """
    found = None
    for feature in range(x.shape[1]):
        values, order = x[:, feature].sort(stable=True)
        below = classes[order].cumsum(0)[:-1]  # (N - 1, K): classes at or below each row
        above = classes.sum(0) - below
        total = gini(below) * below.sum(1) + gini(above) * above.sum(1)
        size = torch.arange(1, len(x))
        total[(values[1:] == values[:-1]) | (size < least) | (len(x) - size < least)] = math.inf
        if len(total) and total.min() < (math.inf if found is None else found[0] - 1e-9):
            at = int(total.argmin())
            found = float(total[at]), feature, float((values[at] + values[at + 1]) / 2)
    return found


class Tree(nn.Module):
    """A decision tree (CART; Breiman et al. 1984): x (N, F) -> shares of the classes in each row's leaf.

    feature, left, right (nodes,) and threshold (nodes,); a leaf has feature -1. value (nodes, K).
    """

    def __init__(self, feature, threshold, left, right, value):
        super().__init__()
        tables = dict(feature=feature, left=left, right=right, threshold=threshold, value=value)
        for name, table in tables.items():
            kind = torch.long if name in ("feature", "left", "right") else torch.float64
            self.register_buffer(name, torch.as_tensor(table).to(kind))
        self.depth, level = 0, torch.zeros(1, dtype=torch.long)
        while len(level := level[self.feature[level] >= 0]):
            level = torch.cat([self.left[level], self.right[level]])
            self.depth += 1

    def forward(self, x: Tensor) -> Tensor:
        leaf, here = self.feature < 0, torch.arange(len(self.feature))
        sides = [torch.where(leaf, here, side) for side in (self.left, self.right)]  # a leaf leads to itself
        children = torch.stack(sides, dim=1).flatten().int()  # left of node i at 2 i, right behind it
        feature, values = self.feature.clamp(min=0).int(), x.flatten()
        start = torch.arange(0, len(values), x.shape[1], dtype=torch.int32)  # where rows begin
        at = torch.zeros(len(x), dtype=torch.int32)
        for _ in range(self.depth):  # all rows go down one level
            asked = values.index_select(0, feature.index_select(0, at) + start)
            right = asked > self.threshold.index_select(0, at)
            at = children.index_select(0, 2 * at + right)
        return self.value.index_select(0, at)

    def rule(self, features: Sequence[str], classes: Sequence[str], node: int = 0, depth: int = 0) -> str:
        """The tree as text that a person can follow; features are words that are there or not."""
        indent, feature = "    " * depth, int(self.feature[node])
        if feature < 0:
            return f"{indent}send {classes[int(self.value[node].argmax())]}"
        no, yes = (self.rule(features, classes, int(t[node]), depth + 1) for t in (self.left, self.right))
        if no.strip() == yes.strip():
            return indent + no.strip()
        return f"{indent}{features[feature]}?\n{indent}  yes:\n{yes}\n{indent}  no:\n{no}"


def fit_tree(x: Tensor, classes: Tensor, *, depth: int, least: int = 1) -> Tree:
    """Grow a tree of at most `depth` questions, each the best split of its rows.

    x (N, F); classes (N, K): one-hot, or what each class is worth for a row, none of it negative.
    """
    if x.ndim != 2 or classes.ndim != 2 or len(x) != len(classes) or not len(x):
        raise ValueError(f"expected x (N, F) and classes (N, K), got {x.shape} and {classes.shape}")
    if depth < 0 or (classes < 0).any():
        raise ValueError(f"expected depth >= 0 and no negative worth, got {depth}")
    nodes: list[list] = []

    def grow(rows: Tensor, depth: int) -> int:
        totals = classes[rows].double().sum(0)
        here, share = len(nodes), totals / totals.sum().clamp(min=1e-12)
        nodes.append([-1, -2.0, -1, -1, share])
        mixed = depth > 0 and float(gini(totals)) > 1e-9
        split = best_split(x[rows].double(), classes[rows].double(), least) if mixed else None
        if split:
            _, feature, threshold = split
            down = x[rows, feature] <= threshold
            left, right = grow(rows[down], depth - 1), grow(rows[~down], depth - 1)
            nodes[here][:4] = feature, threshold, left, right
        return here

    grow(torch.arange(len(x)), depth)
    *numbers, value = zip(*nodes, strict=True)
    return Tree(*map(list, numbers), torch.stack(value))


def bootstrap(
    right: Tensor, groups: Tensor, *, draws: int = 2_000, level: float = 0.95, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of each column of right (N, K) with an interval that redraws whole groups (N,): 3 times (K,).

    Questions about one chart share its mistakes, so charts are drawn, not questions (Efron 1979). One
    set of draws serves all columns: pass a difference of two columns for a paired comparison.
    """
    if right.ndim != 2 or groups.shape != right.shape[:1] or not len(right):
        raise ValueError(f"expected right (N, K) and groups (N,), got {right.shape} and {groups.shape}")
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level}")
    which = groups.unique(return_inverse=True)[1]
    number = int(which.max()) + 1
    sums = torch.zeros(number, right.shape[1]).index_add(0, which, right.float())
    sizes = torch.bincount(which, minlength=number).float()
    drawn = torch.randint(number, (draws, number), generator=torch.Generator().manual_seed(seed))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1, keepdim=True)  # (draws, K)
    low, high = means.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2]), dim=0)
    return right.float().mean(0), low, high


def from_sklearn(model) -> Tree:
    """Our tree with the nodes of scikit-learn's fitted `DecisionTreeClassifier`."""
    check_type(model, "DecisionTreeClassifier")
    t = model.tree_
    tables = t.feature, t.threshold, t.children_left, t.children_right, t.value[:, 0]
    feature, *rest = (torch.from_numpy(table.copy()) for table in tables)
    return Tree(feature.clamp(min=-1), *rest)


def cost(
    tokens_in: float, tokens_out: float, *, price_in: float, price_out: float, questions: int = 1_000
) -> float:
    """Dollars for `questions` questions; prices in dollars per million tokens."""
    if min(tokens_in, tokens_out, price_in, price_out) < 0:
        raise ValueError("expected tokens and prices from 0 up, got a negative one")
    return questions * (tokens_in * price_in + tokens_out * price_out) / 1e6


def tile_tokens(height: int, width: int, *, base: int = 85, each: int = 170) -> int:
    """Tokens of a picture for a hosted model that bills tiles of 512 pixels (OpenAI's rule for GPT-4o).

    Shrunk to fit 2,048 x 2,048, then to 768 on its shorter side; then `base` and `each` for every tile.
    """
    if min(height, width) < 1:
        raise ValueError(f"expected a picture with pixels, got {height} x {width}")
    scale = min(1, 2048 / max(height, width))
    scale *= min(1, 768 / (scale * min(height, width)))
    return base + each * math.ceil(height * scale / 512) * math.ceil(width * scale / 512)


WORDS = (
    "title", "unit", "called", "row", "heads", "column", "furthest", "directly", "listed", "legend", "which",
    "tallest", "shortest", "highest", "lowest", "largest", "smallest", "colour", "line", "lines", "cross",
    "value", "values", "sum", "differ", "above", "slice", "cell", "bar", "point", "taller", "ends",
)  # fmt: skip


def question_features(questions: Sequence[str]) -> Tensor:
    """Which of `WORDS` a question has, all that a router may look at: N texts -> (N, W), 0 or 1."""
    if isinstance(questions, str):
        raise ValueError("expected a list of questions, got one text")
    split = [set(re.findall(r"[a-z]+", question.casefold())) for question in questions]
    return torch.tensor([[float(word in words) for word in WORDS] for words in split]).view(-1, len(WORDS))


@dataclass(frozen=True)
class Endpoint:
    """A model behind an OpenAI-compatible address. The key is read when asked, from OPENAI_API_KEY alone."""

    url: str
    model: str
    seconds: float = 60.0

    @classmethod
    def from_environment(cls) -> "Endpoint | None":
        """What MMSCRATCH_OPENAI_BASE_URL and MMSCRATCH_OPENAI_MODEL name; None where they are not set."""
        url, model = (os.environ.get(f"MMSCRATCH_OPENAI_{name}", "") for name in ("BASE_URL", "MODEL"))
        return cls(url, model) if url and model else None

    def ask(self, question: str, *, picture: Tensor | None = None, text: str = "") -> "Reply":
        """One question with a picture (3, H, W) uint8, a text, or both; ConnectionError says what failed."""
        if not question.strip() or (picture is None and not text):
            raise ValueError("expected a question and a picture or a text")
        told = f"Text of the chart:\n{text}\n\n" if text else ""
        words = f"{told}{question}\nAnswer with a word or a number alone."
        content: list[dict] = [{"type": "text", "text": words}]
        if picture is not None:
            content.append({"type": "image_url", "image_url": {"url": data_url(picture)}})
        body = dict(model=self.model, messages=[dict(role="user", content=content)], temperature=0)
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        start = time.perf_counter()
        try:
            address = self.url.rstrip("/") + "/chat/completions"
            request = urllib.request.Request(address, json.dumps(body).encode(), headers)
            with urllib.request.urlopen(request, timeout=self.seconds) as answer:
                told = json.load(answer)
            said, used = told["choices"][0]["message"]["content"], told.get("usage") or {}
        except urllib.error.HTTPError as error:
            raise ConnectionError(f"{self.url} answered {error.code} {error.reason}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ConnectionError(f"{self.url} cannot be reached or read: {reason}") from None
        except (LookupError, TypeError):
            raise ConnectionError(f"{self.url} answered without choices, as no chat model does") from None
        tokens = (used.get("prompt_tokens", 0), used.get("completion_tokens", 0))
        return Reply(str(said).strip(), *tokens, time.perf_counter() - start)

    def ask_ways(self, question: str, *, picture: Tensor, text: str) -> dict[str, "Reply"]:
        """One question by way "image", "text" and "both"; a text without words is sent as "(none)"."""
        sent = {"image": dict(picture=picture), "text": dict(text=text or "(none)")}
        sent["both"] = sent["image"] | sent["text"]
        return {way: self.ask(question, **content) for way, content in sent.items()}


class Reply(NamedTuple):
    """What an endpoint said, the tokens it counted, and the seconds it took."""

    text: str
    tokens_in: int
    tokens_out: int
    seconds: float


def data_url(picture: Tensor) -> str:
    """A picture (3, H, W) uint8 as a PNG inside an address."""
    if picture.ndim != 3 or picture.shape[0] != 3 or picture.dtype != torch.uint8 or not picture.numel():
        raise ValueError(f"expected a picture (3, H, W), uint8, got {tuple(picture.shape)}, {picture.dtype}")
    rows = picture.permute(1, 2, 0).flatten(1)  # (H, 3 W)
    lines = F.pad(rows, (1, 0)).contiguous()  # a filter of 0 before each line
    size = struct.pack(">II5B", *picture.shape[1:][::-1], 8, 2, 0, 0, 0)
    parts = (b"IHDR", size), (b"IDAT", zlib.compress(lines.numpy().tobytes())), (b"IEND", b"")
    chunks = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    ]
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()
