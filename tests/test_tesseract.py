"""Tesseract beside our readers: what is asked of it, what comes back, one clear line where it is missing."""

from __future__ import annotations

import pytest
import torch

from mmscratch.kit import system, tesseract, typeset

here = pytest.mark.skipif(bool(tesseract.obstacle()), reason=tesseract.obstacle())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_without_the_program_one_line_says_what_to_type(monkeypatch):
    monkeypatch.setattr(system, "find", lambda name: None)
    line = (
        "tesseract is missing (the lessons on OCR). On Debian or Ubuntu: sudo apt-get install tesseract-ocr"
    )
    assert tesseract.obstacle() == line
    for call in (lambda: tesseract.words([torch.zeros(5, 5, dtype=torch.uint8)]), tesseract.version):
        with pytest.raises(RuntimeError, match="apt-get install tesseract-ocr"):
            call()


def test_without_the_package_one_line_says_what_to_type(monkeypatch):
    monkeypatch.setattr(system, "find", lambda name: "/usr/bin/tesseract")
    monkeypatch.setattr(tesseract.importlib.util, "find_spec", lambda name: None)
    assert tesseract.obstacle().endswith('pip install "mmscratch[ocr]"')


@here
def test_plain_words_are_read_in_their_order():
    texts = ["Harbour", "lantern", "Winter", "52", "cellar"]
    printed = typeset.words(5, generator=seeded(3), split="train", texts=texts)
    assert tesseract.words([word.image for word in printed]) == texts
    assert tesseract.words([]) == []
    assert tesseract.version()[0].isdigit()


@here
def test_a_page_comes_back_with_boxes_around_its_words():
    page = typeset.page(generator=seeded(1), split="test", columns=1, height=400)
    found = tesseract.page(page.image)
    truth = {word.text: word.box for word in page.words}
    known = [word for word in found.words if word.text in truth]
    assert len(known) > 0.8 * len(page.words) and found.seconds > 0
    near = [max(abs(a - b) for a, b in zip(word.box, truth[word.text], strict=True)) <= 4 for word in known]
    assert sum(near) > 0.9 * len(near)  # a word may stand on the page twice
    assert found.text.split() == [word.text for word in found.words]
    assert all(0 <= word.confidence <= 1 for word in found.words)


@here
def test_nothing_is_read_on_an_empty_page():
    assert tesseract.page(torch.full((3, 60, 80), 255, dtype=torch.uint8)).words == []


def test_a_word_gets_a_border_of_its_ground():
    picture = tesseract.framed(torch.full((10, 30), 200, dtype=torch.uint8), 20, 5)
    assert picture.size == (70, 30) and set(typeset.to_tensor(picture).flatten().tolist()) == {200}


@here
def test_bad_input_is_refused():
    picture = torch.zeros(5, 5, dtype=torch.uint8)
    with pytest.raises(ValueError, match="psm 6, 7, 8, 10 or 13 for pictures of words, got 3"):
        tesseract.words([picture], psm=3)
    with pytest.raises(ValueError, match=r"grey picture \(H, W\), got \(3, 5, 5\)"):
        tesseract.words([torch.zeros(3, 5, 5)])
    with pytest.raises(ValueError, match=r"expected a picture \(3, H, W\) with pixels, got \(3, 0, 5\)"):
        tesseract.page(torch.zeros(3, 0, 5))
