"""The quiz that closes a lesson. Right answers can be numbers that the notebook has computed.

A quiz is one output with two forms: JSON, which the site turns into a form that works with mouse, keyboard
and screen reader, and HTML without any script, which JupyterLab and Colab show.
"""

from __future__ import annotations

import hashlib
import html
import numbers
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

QUIZ_MIME = "application/vnd.mmscratch.quiz+json"
MIN_OPTIONS = 3


@dataclass(frozen=True)
class Question:
    """One question with its answer and the reason for it.

    Args:
        prompt: the question; `code` and $mathematics$ are rendered.
        answer: the right option: a text, or a number (also a NumPy or torch scalar).
        options: at least three different options, the answer among them, in any order: they are shuffled,
            always the same way. May be left out for a whole number, which then stands beside likely miscounts
            of it.
        why: why the answer is right, and best also what the tempting wrong one overlooks.

    Raises ValueError for fewer than three options, for two that read the same, for an answer that is not
    among them, and for an empty prompt or reason.
    """

    prompt: str
    answer: Any
    options: Sequence[Any] | None = None
    why: str = ""

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError("a question needs a prompt, got an empty one")
        where = f"question {self.prompt!r}"
        if not self.why.strip():
            raise ValueError(f"{where} needs a `why`: a reader who was wrong learns from it")
        texts = self.texts
        if len(texts) < MIN_OPTIONS:
            raise ValueError(f"{where} needs at least {MIN_OPTIONS} options, got {len(texts)}: {texts}")
        if len(set(texts)) != len(texts):
            raise ValueError(f"{where} has options that read the same: {texts}")
        if written(self.answer) not in texts:
            raise ValueError(f"{where}: the answer {written(self.answer)!r} is not among the options {texts}")

    @property
    def texts(self) -> list[str]:
        """The options as the reader sees them, in the order the reader sees them."""
        options = _miscounts(self.answer) if self.options is None else self.options
        return sorted((written(option) for option in options), key=self._place)

    def _place(self, text: str) -> str:
        # a hash shuffles, yet a second run of the notebook gives the same file
        return hashlib.sha256(f"{self.prompt}\n{text}".encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """What the site needs: the texts, and the position of the right one."""
        texts = self.texts
        return {
            "prompt": self.prompt,
            "options": texts,
            "answer": texts.index(written(self.answer)),
            "why": self.why,
        }


def written(value: Any) -> str:
    """`value` as a reader should see it: 85,798,656 and 0.3333, not 85798656 and 0.3333333333333333.

    Whole numbers get separators of thousands, other numbers four significant digits; texts stay as they are.
    """
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()  # NumPy and torch scalars
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}"
    if isinstance(value, numbers.Real):
        return f"{float(value):,.4g}" if abs(value) < 1e4 else f"{float(value):,.0f}"
    return str(value).strip()


def bundle(*questions: Question) -> dict[str, Any]:
    """The output of a quiz, as a MIME bundle. Raises ValueError for no questions or the same one twice."""
    if not questions:
        raise ValueError("a quiz needs at least one question, got none")
    prompts = [question.prompt for question in questions]
    if len(set(prompts)) != len(prompts):
        raise ValueError(f"a quiz asks every question once, got {prompts}")
    data = [question.as_json() for question in questions]
    return {
        QUIZ_MIME: {"version": 1, "questions": data},
        "text/html": _fallback(data),
        "text/plain": f"Quiz: {len(data)} questions",
    }


def quiz(*questions: Question) -> None:
    """Show a quiz. Arguments and errors are those of `bundle`."""
    from IPython.display import display

    display(bundle(*questions), raw=True)


def _miscounts(answer: Any) -> list[Any]:
    """A whole number beside what one gets by forgetting one, a factor of two, or a square."""
    value = answer.item() if hasattr(answer, "item") else answer
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"options may be left out only for a whole number of at least 1, got {answer!r}")
    candidates = [value, value + 1, 2 * value, value // 2 if value % 2 == 0 and value > 2 else 4 * value]
    return sorted(set(candidates))


def _fallback(questions: Sequence[dict[str, Any]]) -> str:
    """The quiz without a script: options as a list, the answer in a fold."""
    parts = []
    for question in questions:
        options = "".join(f"<li>{_inline(option)}</li>" for option in question["options"])
        answer = _inline(question["options"][question["answer"]])
        parts.append(
            f"<li><p>{_inline(question['prompt'])}</p><ul>{options}</ul>"
            f"<details><summary>Answer</summary><p><strong>{answer}</strong>. {_inline(question['why'])}</p>"
            "</details></li>"
        )
    return f"<ol>{''.join(parts)}</ol>"


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
