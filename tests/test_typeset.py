"""Printed text: the boxes hold the ink, the splits share nothing, the same generator prints the same."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from PIL import Image, ImageDraw

from mmscratch.kit import make_fonts, typeset


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def every_box_holds_exactly_its_ink(monkeypatch):
    """From now on each line that a sheet writes changes the picture where its words' boxes say."""
    write, seen = typeset.Sheet.write, []

    def checked(sheet, x, y, content, **options):
        before, known = torch.as_tensor(typeset.to_tensor(sheet.picture)).clone(), len(sheet.words)
        box = write(sheet, x, y, content, **options)
        changed = (typeset.to_tensor(sheet.picture) != before).any(0)
        rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
        left, top, right, bottom = box
        found = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        assert max(abs(a - b) for a, b in zip(found, box, strict=True)) <= 2, (
            content,
            found,
            box,
        )  # faint edges
        covered = torch.zeros_like(changed)
        for word in sheet.words[known:]:
            left, top, right, bottom = word.box
            covered[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = True
            assert changed[top:bottom, left:right].any(), word
        assert not (changed & ~covered).any()
        assert [word.text for word in sheet.words[known:]] == content.split()
        seen.append(content)
        return box

    monkeypatch.setattr(typeset.Sheet, "write", checked)
    return seen


@pytest.mark.parametrize("split", typeset.SPLITS)
@pytest.mark.parametrize("columns", [1, 2])
def test_boxes_of_a_page_hold_the_ink(every_box_holds_exactly_its_ink, split, columns):
    page = typeset.page(generator=seeded(3), split=split, columns=columns)
    assert page.image.shape == (3, 820, 640) and page.image.dtype == torch.uint8
    assert len(page.words) > 60 and every_box_holds_exactly_its_ink


@pytest.mark.parametrize("angle", [0, 30, 45, 90, 180, 270])
@pytest.mark.parametrize("align", ["left", "middle", "right"])
def test_turned_words_keep_their_boxes(every_box_holds_exactly_its_ink, angle, align):
    sheet = typeset.Sheet(400, 300)
    sheet.write(200, 120, "Two words", face="arimo-400-normal", size=17, angle=angle, align=align)
    assert every_box_holds_exactly_its_ink == ["Two words"]


def test_reading_order_is_kept_in_lines():
    page = typeset.page(generator=seeded(5), split="test", columns=2)
    lines = [word.line for word in page.words]
    assert lines == sorted(lines)
    assert page.text.split() == [word.text for word in page.words]
    last = page.text.splitlines()[-1].split()
    assert last[-1].startswith("$") and last[0].isalpha()  # item and amount are one line


def test_damage_and_seeds():
    one, two = (typeset.page(generator=seeded(7), split="train", damaged=True) for _ in range(2))
    assert torch.equal(one.image, two.image) and one.words == two.words
    clean = typeset.page(generator=seeded(7), split="train")
    assert clean.words == one.words and not torch.equal(clean.image, one.image)
    other = typeset.page(generator=seeded(8), split="train")
    assert other.words != one.words


def test_the_splits_share_no_family_and_no_word():
    families = {split: {make_fonts.family(face) for face in typeset.FONTS[split]} for split in typeset.SPLITS}
    assert not families["train"] & families["test"]
    assert families["train"] | families["test"] == set(make_fonts.PACKAGES)
    assert len(typeset.FONTS["train"]) + len(typeset.FONTS["test"]) == len(make_fonts.FACES)
    train, test = (set(typeset.lexicon(split)) for split in typeset.SPLITS)
    assert not train & test and len(train) > 3000 and len(test) > 700


def test_words_are_what_their_pictures_show():
    printed = typeset.words(200, generator=seeded(1), split="test", damaged=0.5)
    assert {word.face for word in printed} <= set(typeset.FONTS["test"])
    for word in printed:
        assert word.image.ndim == 2 and word.image.dtype == torch.uint8 and min(word.image.shape) >= 3
        assert set(word.text) <= set(typeset.CHARACTERS)
        ink = word.image.float()
        assert ink.max() - ink.min() >= 60
    again = typeset.words(200, generator=seeded(1), split="test", damaged=0.5)
    assert all(
        torch.equal(a.image, b.image) and a.text == b.text for a, b in zip(printed, again, strict=True)
    )
    given = typeset.words(3, generator=seeded(), split="train", texts=["l1I", "O0o", "rn"])
    assert [word.text for word in given] == ["l1I", "O0o", "rn"]


def test_a_warped_word_keeps_all_of_its_ink_and_its_letters_apart():
    plain = typeset.words(60, generator=seeded(1), split="train")
    ratios = []
    for word, face in ((word, word.face) for word in plain):
        rng, kind = typeset.dice(seeded(5)), typeset.font(face, 30)
        left, top, right, bottom = kind.getbbox(word.text)
        mask = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(mask).text((-left, -top), word.text, font=kind, fill=255)
        for _ in range(4):
            bent = typeset.warp(mask, rng)
            assert abs(bent.height - mask.height) <= 2
            ink = [float(typeset.to_tensor(each).float().sum()) for each in (mask, bent)]
            ratios.append(ink[1] / ink[0])
    assert 0.6 < min(ratios) and max(ratios) < 3.2
    assert min(ratios) < 0.85 and max(ratios) > 1.2


def test_every_face_draws_every_character_differently_from_a_missing_one():
    for face in make_fonts.FACES:
        kind = typeset.font(face, 40)
        missing = bytes(kind.getmask("\u00e9"))
        for character in typeset.CHARACTERS:
            assert kind.getmask(character).getbbox() is not None, (face, character)
            assert bytes(kind.getmask(character)) != missing


def test_a_turned_page_takes_its_boxes_along():
    page = typeset.page(generator=seeded(2), split="test")
    turned = typeset.turned(page, 4.0)
    assert [word.text for word in turned.words] == [word.text for word in page.words]
    ground = page.image[:, 0, 0].float()
    for word in turned.words:
        left, top, right, bottom = word.box
        patch = turned.image[:, max(0, top) : bottom, max(0, left) : right].float()
        assert (patch - ground[:, None, None]).abs().max() > 60, word


def test_sheets_and_damage_refuse_what_they_cannot_do():
    sheet, arimo = typeset.Sheet(100, 40), {"face": "arimo-400-normal", "size": 20}
    with pytest.raises(ValueError, match="leaves the .100, 40. sheet"):
        sheet.write(60, 5, "too long a word", **arimo)
    with pytest.raises(ValueError, match="at least one character, got '  '"):
        sheet.write(0, 0, "  ", **arimo)
    with pytest.raises(ValueError, match="expected one of 27 faces such as .*got 'Helvetica'"):
        typeset.font("Helvetica", 20)
    with pytest.raises(ValueError, match="at least 5 pixels, got 3"):
        typeset.font("arimo-400-normal", 3)
    with pytest.raises(ValueError, match="strength in .0, 2., got 3"):
        typeset.damage(Image.new("L", (5, 5)), typeset.dice(seeded()), strength=3)
    with pytest.raises(ValueError, match="split to be one of train, test, got 'dev'"):
        typeset.words(2, generator=seeded(), split="dev")
    with pytest.raises(ValueError, match="expected 2 texts of known characters, got 2 and 'é'"):
        typeset.words(2, generator=seeded(), split="test", texts=["é", "a"])
    with pytest.raises(ValueError, match="at least 320 x 240 and 1 or 2 columns, got 100 x 820"):
        typeset.page(generator=seeded(), split="test", width=100)


def test_a_font_archive_that_changed_is_refused(tmp_path):
    (tmp_path / "a.tgz").write_bytes(b"another font")
    with pytest.raises(ValueError, match="expected sha512-nhxZ2sTV"):
        make_fonts.cut("arimo-400-normal", tmp_path / "a.tgz")


def test_words_are_joined_by_line_whatever_they_are():
    words = [SimpleNamespace(text=text, line=line) for text, line in (("a", 0), ("b", 2), ("c", 0))]
    assert typeset.as_text(words) == "a c\nb"
    assert typeset.as_text(iter([])) == ""
