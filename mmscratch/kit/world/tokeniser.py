"""The vocabulary of the tiny world, and words to numbers and back."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from .questions import ANSWERS
from .words import PLURALS

SPECIALS = ("<pad>", "<bos>", "<eos>", "<image>", "<unk>")
# Every word that this world speaks and is asked; append only, so that numbers in checkpoints stay valid.
VOCABULARY = tuple(
    dict.fromkeys(
        [
            *SPECIALS, *ANSWERS, *PLURALS.values(),
            *"object colour shape size top bottom half".split(),
            *"a an the and of is are there what where how many in on at picture relative to".split(),
            *"larger smaller than same".split(), "?", ",",
            *"moves stays still up down".split(), ".",
        ]
    )
)  # fmt: skip
_WORD = re.compile(r"<\w+>|\w+|[^\w\s]")


class Tokeniser:
    """Words to numbers and back. A sibling of the world passes `VOCABULARY + its_words`."""

    def __init__(self, words: Sequence[str] = VOCABULARY) -> None:
        if tuple(words[: len(SPECIALS)]) != SPECIALS:
            raise ValueError(f"expected words to start with {SPECIALS}, got {tuple(words[: len(SPECIALS)])}")
        if len(set(words)) != len(words):
            twice = sorted({word for word in words if list(words).count(word) > 1})
            raise ValueError(f"expected every word once, got {twice} more than once")
        self.words = tuple(words)
        self.ids = {word: i for i, word in enumerate(self.words)}
        self.pad, self.bos, self.eos, self.image, self.unk = range(len(SPECIALS))

    def __len__(self) -> int:
        return len(self.words)

    def encode(
        self, texts: Sequence[str], length: int | None = None, *, bos: bool = False, eos: bool = False
    ) -> Tensor:
        """(B, T) long, padded on the right with `pad` to `length`, or to the longest text if not given.

        Words outside the vocabulary become <unk>. A text that does not fit is an error, never cut in silence.
        """
        if isinstance(texts, str):
            raise TypeError(f"expected a list of texts, got one string {texts!r}")
        head, tail = [self.bos] * bos, [self.eos] * eos
        get, unk = self.ids.get, self.unk
        rows = [head + [get(word, unk) for word in _WORD.findall(text)] + tail for text in texts]
        longest = max(map(len, rows), default=0)
        length = longest if length is None else length
        if longest > length:
            text = texts[max(range(len(rows)), key=lambda i: len(rows[i]))]
            raise ValueError(f"expected at most {length} tokens, got {longest} for {text!r}")
        rows = [row + [self.pad] * (length - len(row)) for row in rows]
        return torch.tensor(rows, dtype=torch.long).view(len(rows), length)

    def decode(self, ids: Tensor | Sequence[Sequence[int]], *, specials: bool = False) -> list[str]:
        """The texts of (B, T) numbers, up to the first <eos>; special tokens but <unk> are left out.

        specials: show every token instead.
        """
        texts = []
        for row in ids.tolist() if isinstance(ids, Tensor) else ids:
            if not specials and self.eos in row:
                row = row[: row.index(self.eos)]
            bad = [i for i in row if not 0 <= i < len(self)]
            if bad:
                raise ValueError(f"expected numbers from 0 to {len(self) - 1}, got {bad[0]}")
            words = [self.words[i] for i in row if specials or i >= len(SPECIALS) or i == self.unk]
            texts.append(re.sub(r" ([?,.])", r"\1", " ".join(words)))
        return texts
