"""Lesson 39's primitives: what they compute, and what they refuse."""

from __future__ import annotations

import itertools
import math

import pytest
import refusals
import torch
import torch.nn.functional as F

from mmscratch import ocr
from mmscratch.kit import typeset
from mmscratch.whisper import edit_distance


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def scores(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


# -- the loss


@pytest.mark.parametrize("target", [[], [1], [1, 2], [2, 2], [1, 1, 2], [1, 2, 1, 2]])
def test_the_loss_is_the_sum_over_all_paths(target):
    log_probs = scores(4, 3).log_softmax(-1)
    total = sum(
        math.exp(sum(log_probs[t, k].item() for t, k in enumerate(path)))
        for path in itertools.product(range(3), repeat=4)
        if ocr.collapse(path) == target
    )
    loss = ocr.ctc_loss(log_probs, torch.tensor(target).long(), [4], [len(target)], reduction="sum")
    assert loss.item() == pytest.approx(-math.log(total) if total else math.inf)


def test_the_gradient_is_true_once_a_softmax_stands_before_it():
    x = scores(6, 3, 4).requires_grad_()
    targets, frames, lengths = torch.tensor([[1, 1], [3, 2], [0, 0]]), [6, 4, 5], [2, 2, 0]

    def loss(x):
        return ocr.ctc_loss(x.log_softmax(-1), targets, frames, lengths, reduction="none")

    assert torch.autograd.gradcheck(loss, x)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_the_gradient_on_log_probabilities_is_the_librarys(reduction, normalised):
    targets = torch.tensor([[1, 1, 2], [3, 2, 0], [0, 0, 0]])
    frames, lengths = torch.tensor([7, 4, 5]), torch.tensor([3, 2, 0])
    raw = scores(7, 3, 4).log_softmax(-1) if normalised else scores(7, 3, 4)
    slopes = []
    for loss_of in (ocr.ctc_loss, F.ctc_loss):
        leaf = raw.clone().requires_grad_()
        loss = loss_of(leaf, targets, frames, lengths, reduction=reduction)
        slopes.append(torch.autograd.grad(loss.sum(), leaf)[0])
    torch.testing.assert_close(*slopes)
    if normalised and reduction == "sum":  # p - share, both of which add up to one in each column
        assert slopes[0][:4].sum(-1).abs().max() < 1e-9


def test_columns_after_the_last_change_nothing_and_get_no_gradient():
    x = scores(9, 2, 5).requires_grad_()
    targets = torch.tensor([[1, 2, 2], [4, 0, 0]])
    short = ocr.ctc_loss(x[:6].log_softmax(-1), targets, [6, 4], [3, 1], reduction="none")
    long = ocr.ctc_loss(x.log_softmax(-1), targets, [6, 4], [3, 1], reduction="none")
    torch.testing.assert_close(long, short)
    (slope,) = torch.autograd.grad(long.sum(), x)
    assert not slope[6:].any() and not slope[4:, 1].any() and slope[:4].any()


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("zero_infinity", [False, True])
def test_impossible_texts_cost_what_the_library_says(reduction, zero_infinity):
    targets, frames, lengths = torch.tensor([[1, 1], [2, 3], [1, 0]]), [2, 5, 0], [2, 2, 1]
    found = []
    for loss_of in (ocr.ctc_loss, F.ctc_loss):
        x = scores(5, 3, 4).requires_grad_()
        loss = loss_of(
            x.log_softmax(-1),
            targets,
            torch.tensor(frames),
            torch.tensor(lengths),
            0,
            reduction,
            zero_infinity,
        )
        found.append((loss.detach(), torch.autograd.grad(loss.sum(), x)[0]))
    torch.testing.assert_close(found[0], found[1], equal_nan=True)


def test_very_unlikely_paths_do_not_vanish():
    x = torch.full((300, 1, 3), -120.0)  # a product of these is far below what a float can hold
    loss = ocr.ctc_loss(x, torch.tensor([[1, 2]]), [300], [2], reduction="sum")
    assert loss.item() == pytest.approx(300 * 120 - math.log(math.comb(302, 4)), rel=1e-6)
    certain = torch.full((4, 1, 3), -math.inf)
    certain[torch.arange(4), 0, torch.tensor([1, 1, 0, 2])] = 0.0
    assert ocr.ctc_loss(certain, torch.tensor([[1, 2]]), [4], [2]).item() == 0
    assert ocr.ctc_loss(certain, torch.tensor([[2, 1]]), [4], [2]).item() == math.inf


def test_padding_of_targets_is_never_read():
    log_probs = scores(7, 2, 5).log_softmax(-1)
    losses = [
        ocr.ctc_loss(log_probs, torch.tensor([[1, 2, pad], [3, pad, pad]]), [7, 7], [2, 1])
        for pad in (0, -1, 4, 99)
    ]
    assert len({loss.item() for loss in losses}) == 1


def test_targets_and_lengths_may_come_as_other_integers_and_lists():
    log_probs = scores(7, 2, 5).log_softmax(-1)
    wanted = ocr.ctc_loss(
        log_probs, torch.tensor([[1, 2], [3, 3]]), torch.tensor([7, 6]), torch.tensor([2, 2])
    )
    found = ocr.ctc_loss(log_probs, torch.tensor([1, 2, 3, 3], dtype=torch.int32), (7, 6), [2, 2])
    assert found.item() == wanted.item()


# -- reading out


def test_collapse_merges_before_it_drops():
    assert ocr.collapse([1, 1, 0, 1, 2, 2, 0]) == [1, 1, 2]
    assert ocr.collapse([]) == [] and ocr.collapse([0, 0]) == []
    assert ocr.collapse([3, 3, 1], blank=3) == [1]


def test_greedy_reads_only_the_columns_there_are():
    log_probs = torch.eye(4)[torch.tensor([[1, 2], [0, 2], [1, 0], [3, 3]])].log()
    assert ocr.greedy(log_probs) == [[1, 1, 3], [2, 3]]
    assert ocr.greedy(log_probs, torch.tensor([3, 2])) == [[1, 1], [2]]


def test_prefix_search_gives_every_text_its_probability():
    log_probs = scores(5, 4).log_softmax(-1)
    found = ocr.beam_search(log_probs, width=5000, least=-math.inf)
    assert len({ids for ids, _ in found}) == len(found)
    for ids, score in found:
        target = torch.tensor(ids, dtype=torch.long)
        loss = ocr.ctc_loss(log_probs, target, [5], [len(ids)], reduction="sum")
        assert score == pytest.approx(-loss.item(), abs=1e-9)
    assert sum(math.exp(score) for _, score in found) == pytest.approx(1)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_a_narrow_beam_is_bounded_by_a_wide_one():
    for seed in range(5):
        log_probs = (3 * scores(12, 6, seed=seed)).log_softmax(-1)
        best = ocr.beam_search(log_probs, width=500, least=-math.inf)[0]
        for width in (1, 3, 10):
            found = ocr.beam_search(log_probs, width=width)
            assert len(found) <= width and found[0][1] <= best[1] + 1e-9


def test_a_language_model_decides_between_look_alikes():
    lm = ocr.NGram([[1, 2, 3]] * 20 + [[2, 1]], num_ids=4, order=3)
    log_probs = torch.full((5, 4), -6.0)
    for t, ids in enumerate(([1], [0], [2], [0], [1, 3])):  # at the end, 1 a little more than 3
        for k in ids:
            log_probs[t, k] = -0.1
    log_probs[4, 1] += 0.05
    log_probs = log_probs.log_softmax(-1)
    assert ocr.beam_search(log_probs)[0][0] == (1, 2, 1)
    assert ocr.beam_search(log_probs, lm=lm, weight=1.0)[0][0] == (1, 2, 3)
    longer = ocr.beam_search(log_probs, bonus=20.0)[0][0]
    assert len(longer) > 3


def test_an_n_gram_model_is_a_distribution_and_prefers_what_it_saw():
    lm = ocr.NGram([[1, 2, 3], [1, 2, 4], [2, 2]], num_ids=6)
    for prefix in ([], [1], [1, 2], [5, 5, 5], [1, 2, 3], [4, 1, 2]):
        assert sum(math.exp(lm.log_prob(prefix, k)) for k in range(6)) == pytest.approx(1)
    assert lm.log_prob([1], 2) > lm.log_prob([1], 3) and lm.log_prob([1, 2, 3], 0) > lm.log_prob([1, 2, 3], 1)
    seen = {1: 2, 2: 4, 3: 1, 4: 1, 0: 3}  # what came first or later, without regard to context
    assert lm.counts[()] == seen
    assert math.exp(lm.log_prob([], 5)) == pytest.approx((5 / 6) / (11 + 5))


# -- error rates


def test_error_rates_are_jiwers():
    jiwer = pytest.importorskip("jiwer")
    draw = typeset.dice(seeded(3))
    truths = [" ".join(typeset.text(draw, "test") for _ in range(draw.randint(1, 5))) for _ in range(100)]
    guesses = ["".join(draw.choice(["", c, c, c + "x", "q"]) for c in text) for text in truths]
    assert ocr.error_rate(truths, guesses) == pytest.approx(jiwer.cer(truths, guesses), abs=1e-12)
    assert ocr.error_rate(truths, guesses, unit="word") == pytest.approx(
        jiwer.wer(truths, guesses), abs=1e-12
    )


def test_errors_are_added_up_before_they_are_divided():
    assert ocr.error_rate(["a", "bcde"], ["x", "bcde"]) == pytest.approx(1 / 5)
    assert ocr.error_rate(["ab"], ["abcdef"]) == 2.0
    assert ocr.error_rate(["", "ab"], ["", ""]) == 1.0


# -- recognisers

TEXT = ocr.Alphabet(typeset.CHARACTERS)


def printed(n=7, split="train", **options):
    return typeset.words(n, generator=seeded(4), split=split, **options)


def test_an_alphabet_writes_and_reads():
    ids, lengths = TEXT.encode(["a1", "", "xyz"])
    assert ids.shape == (3, 3) and lengths.tolist() == [2, 0, 3]
    assert [TEXT.decode(row.tolist()) for row in ids] == ["a1", "", "xyz"]
    assert len(TEXT) == len(typeset.CHARACTERS) + 1 and TEXT.encode([])[0].shape == (0, 0)


def test_strips_lose_size_contrast_and_polarity():
    word = printed(1)[0].image
    for other in (255 - word, (word.float() * 0.4 + 80).round().to(torch.uint8)):
        torch.testing.assert_close(ocr.flatten_ink(word), ocr.flatten_ink(other), atol=0.03, rtol=0)
    large = F.interpolate(word[None, None].float(), scale_factor=2, mode="nearest")[0, 0]
    assert abs(ocr.flatten_ink(large).shape[1] - ocr.flatten_ink(word).shape[1]) <= 4
    strips, widths = ocr.stack_strips([w.image for w in printed()])
    assert strips.shape[:3] == (7, 1, 32) and strips.shape[3] == widths.max() and not (widths % 4).any()
    for strip, width in zip(strips, widths, strict=True):
        assert not strip[..., width:].any() and strip.abs().max() == 1


def test_a_blank_picture_is_a_strip_of_zeros_and_reads_as_nothing_certain():
    strip = ocr.flatten_ink(torch.full((20, 50), 180, dtype=torch.uint8))
    assert strip.shape == (32, 80) and not strip.any()


@pytest.mark.parametrize("kind", [ocr.CRNN, ocr.Reader])
def test_a_word_reads_the_same_alone_and_in_a_batch(kind):
    torch.manual_seed(0)
    model, images = kind(len(TEXT)).eval(), [w.image for w in printed()]
    strips, widths = ocr.stack_strips(images)
    with torch.no_grad():
        if kind is ocr.CRNN:
            together, frames = model(strips, widths)
            assert together.shape == (int(widths.max()) // 4, 7, len(TEXT))
            torch.testing.assert_close(together.exp().sum(-1), torch.ones(together.shape[:2]))
            for i, image in enumerate(images):
                alone, _ = model(*ocr.stack_strips([image]))
                torch.testing.assert_close(together[: frames[i], i], alone[:, 0], atol=1e-5, rtol=0)
        else:
            ids = torch.randint(1, len(TEXT), (7, 5), generator=seeded())
            together = model(strips, widths, ids)
            for i, image in enumerate(images):
                alone = model(*ocr.stack_strips([image]), ids[i : i + 1])
                torch.testing.assert_close(together[i], alone[0], atol=1e-5, rtol=0)


def test_the_reader_says_what_its_logits_say():
    torch.manual_seed(1)
    model = ocr.Reader(len(TEXT), max_length=9).eval()
    strips, widths = ocr.stack_strips([w.image for w in printed(3)])
    said = model.read(strips, widths)
    with torch.no_grad():
        for i, ids in enumerate(said):
            prefix = [0]
            while len(prefix) < 9:
                logits = model(strips[i : i + 1], widths[i : i + 1], torch.tensor([prefix]))
                prefix.append(int(logits[0, -1].argmax()))
                if prefix[-1] == 0:
                    break
            assert ids == list(itertools.takewhile(bool, prefix[1:]))


def test_a_few_steps_of_training_fit_four_words():
    torch.manual_seed(0)
    model, words = (
        ocr.CRNN(len(TEXT), dim=64, hidden=64, width=8),
        printed(4, texts=["cat", "42", "fill", "Ohm"]),
    )
    picture, (ids, lengths) = ocr.stack_strips([w.image for w in words]), TEXT.encode([w.text for w in words])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(220):
        log_probs, frames = model(*picture)
        loss = ocr.ctc_loss(log_probs, ids, frames, lengths)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3
    found = ocr.read_words(model, TEXT, [w.image for w in words], batch_size=4)
    with torch.no_grad():
        model.train()
        assert [TEXT.decode(ids) for ids in ocr.greedy(*model(*picture))] == [w.text for w in words]
    assert len(found) == 4 and all(0 <= sure <= 1 for _, sure in found)
    with torch.no_grad():
        log_probs, frames = model.eval()(*ocr.stack_strips([words[2].image]))
        text, sure = ocr.read_words(model, TEXT, [words[2].image])[0]
        ids, lengths = TEXT.encode([text])
        wanted = ocr.ctc_loss(log_probs, ids, frames, lengths, reduction="sum").neg().exp()
    assert sure == pytest.approx(wanted.item(), abs=1e-6)


def test_trocr_generates_the_same_with_and_without_a_cache():
    transformers = pytest.importorskip("transformers")
    from mmscratch.transformer import generate

    config = transformers.TrOCRConfig(
        vocab_size=31, d_model=24, decoder_layers=2, decoder_attention_heads=3, decoder_ffn_dim=20,
        max_position_embeddings=16, cross_attention_hidden_size=10,
    )  # fmt: skip
    torch.manual_seed(0)
    reference = transformers.TrOCRForCausalLM(config).eval()
    for p in reference.parameters():
        torch.nn.init.normal_(p, std=0.5)
    ours, context = ocr.from_transformers(reference), torch.randn(2, 5, 10)
    assert not ours.training
    start = torch.full((2, 1), 2)
    found = [generate(ours, start, 8, context=context, use_cache=use) for use in (True, False)]
    assert torch.equal(*found)
    ids = start
    with torch.no_grad():
        for _ in range(8):
            logits = reference(input_ids=ids, encoder_hidden_states=context, use_cache=False).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(found[0], ids)


# -- finding words


def test_components_are_those_of_scikit_image():
    measure = pytest.importorskip("skimage.measure")
    for density in (0.05, 0.3, 0.5, 0.7):
        mask = torch.rand(43, 57, generator=seeded(int(100 * density))) < density
        regions = measure.regionprops(measure.label(mask.numpy(), connectivity=2))
        wanted = sorted((r.bbox[1], r.bbox[0], r.bbox[3], r.bbox[2]) for r in regions)
        assert sorted(map(tuple, ocr.components(mask).tolist())) == wanted
    assert ocr.components(torch.zeros(3, 4, dtype=torch.bool)).shape == (0, 4)
    assert ocr.components(torch.ones(3, 4, dtype=torch.bool)).tolist() == [[0, 0, 4, 3]]


def test_otsu_separates_two_groups():
    filters = pytest.importorskip("skimage.filters")
    values = torch.cat([40 + 10 * scores(500), 190 + 20 * scores(200, seed=1)]).round().clamp(0, 255)
    assert 60 < ocr.otsu(values) < 150
    assert abs(ocr.otsu(values) - filters.threshold_otsu(values.numpy().astype("uint8"))) <= 1


def test_ink_is_found_in_either_polarity_and_an_empty_page_has_none():
    page = typeset.page(generator=seeded(1), split="test", columns=1, height=400).image
    ink = ocr.find_ink(page)
    assert torch.equal(ink, ocr.find_ink(255 - page)) and 0.005 < ink.float().mean() < 0.3
    empty = torch.full((3, 50, 60), 240, dtype=torch.uint8)
    assert not ocr.find_ink(empty).any()
    assert (
        len(ocr.words_by_components(ocr.find_ink(empty)))
        == len(ocr.words_by_profile(ocr.find_ink(empty)))
        == 0
    )


@pytest.mark.parametrize("seed", range(3))
def test_words_are_found_by_hand_on_clean_pages(seed):
    page = typeset.page(generator=seeded(seed), split="test", columns=1)
    truth, ink = torch.tensor([word.box for word in page.words]), ocr.find_ink(page.image)
    found = [
        len(ocr.matches(boxes, truth)) for boxes in (ocr.words_by_profile(ink), ocr.words_by_components(ink))
    ]
    assert max(found) > 0.9 * len(truth) and min(found) > 0.6 * len(truth)


def test_growth_undoes_shrinkage():
    corners = 100 * torch.rand(200, 2, generator=seeded())
    boxes = torch.cat([corners, corners + 1 + 150 * torch.rand(200, 2, generator=seeded(1))], 1)
    for ratio in (0.3, 0.6, 0.9):
        cores = ocr.shrunk(boxes, ratio)
        torch.testing.assert_close(ocr.grown(cores, ratio), boxes, atol=2e-3, rtol=0)
        assert (cores[:, :2] > boxes[:, :2]).all() and (cores[:, 2:] < boxes[:, 2:]).all()
    wide, high = 60.0, 14.0
    inset = wide * high * (1 - 0.6**2) / (2 * (wide + high))
    wanted = torch.tensor([[inset, inset, wide - inset, high - inset]])
    torch.testing.assert_close(ocr.shrunk(torch.tensor([[0.0, 0, wide, high]])), wanted)


def test_rough_boxes_snap_to_the_ink_of_their_word():
    page = typeset.page(generator=seeded(2), split="test", columns=1)
    truth, ink = torch.tensor([word.box for word in page.words]), ocr.find_ink(page.image)
    rough = truth + torch.randint(-2, 3, truth.shape, generator=seeded())
    before, after = (len(ocr.matches(boxes, truth, overlap=0.85)) for boxes in (rough, ocr.snap(rough, ink)))
    assert after > 0.7 * len(truth) and before < 0.3 * len(truth)
    empty = torch.tensor([[600, 5, 620, 15]])
    assert torch.equal(ocr.snap(empty, ink), empty) and ocr.snap(truth[:0], ink).shape == (0, 4)


class Oracle(torch.nn.Module):
    """A detector that knows the cores."""

    def __init__(self, cores):
        super().__init__()
        self.cores = cores

    def forward(self, images):
        height, width = images.shape[2] // 2, images.shape[3] // 2
        cores = F.pad(self.cores, (0, width - self.cores.shape[1], 0, height - self.cores.shape[0]))
        return (20 * cores - 10)[None]


def test_perfect_cores_give_the_boxes_back():
    page = typeset.page(generator=seeded(2), split="test", columns=2, width=642, height=826)
    truth = torch.tensor([word.box for word in page.words])
    found = ocr.detect(Oracle(ocr.draw_cores(truth, 826, 642)), page.image)
    assert len(ocr.matches(found, truth, overlap=0.6)) > 0.97 * len(truth) and len(found) <= 1.02 * len(truth)


def test_the_detector_keeps_its_shape_and_an_untrained_one_finds_boxes_inside_the_page():
    torch.manual_seed(0)
    model = ocr.Detector()
    assert model(torch.rand(2, 3, 24, 44)).shape == (2, 12, 22)
    boxes = ocr.detect(
        model, torch.randint(0, 256, (3, 51, 70), generator=seeded(), dtype=torch.uint8), threshold=0.4
    )
    assert (
        boxes.shape[1] == 4 and (boxes >= 0).all() and (boxes[:, 2] <= 70).all() and (boxes[:, 3] <= 51).all()
    )


def test_each_box_is_matched_once_and_the_best_overlap_first():
    found = torch.tensor([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]])
    truth = torch.tensor([[1, 0, 11, 10], [0, 30, 5, 35]])
    assert ocr.matches(found, truth) == [(1, 0)]
    assert ocr.matches(found[:0], truth) == [] and ocr.matches(found, truth[:0]) == []


# -- order


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_true_boxes_in_any_order_are_read_in_the_printed_order(columns, seed):
    page = typeset.page(generator=seeded(20 + seed), split="test", columns=columns)
    shuffle = torch.randperm(len(page.words), generator=seeded(seed))
    boxes = torch.tensor([word.box for word in page.words])[shuffle]
    lines = ocr.reading_lines(boxes)
    assert sorted(i for line in lines for i in line) == list(range(len(boxes)))
    texts = [page.words[shuffle[i]].text for line in lines for i in line]
    assert edit_distance(page.text.split(), texts) <= 0.05 * len(texts)


def test_a_table_is_read_across_and_columns_of_text_down():
    table = torch.tensor([[x, y, x + 40, y + 10] for y in (0, 20, 40) for x in (0, 200)])
    assert ocr.reading_lines(table) == [[0, 1], [2, 3], [4, 5]]
    prose = torch.tensor([[x, y, x + 40, y + 10] for y in (0, 20, 40) for x in (0, 45, 200, 245)])
    assert ocr.reading_lines(prose) == [[0, 1], [4, 5], [8, 9], [2, 3], [6, 7], [10, 11]]
    assert ocr.reading_lines(torch.zeros(0, 4)) == []


def test_a_page_is_read_end_to_end():
    page = typeset.page(generator=seeded(3), split="test", columns=1, height=300)
    truth = torch.tensor([word.box for word in page.words])

    class Known(ocr.CRNN):  # says the width of what it sees, so that we can tell the words apart
        def forward(self, strips, widths):
            frames = widths // 4
            out = torch.full((int(frames.max()), len(strips), len(TEXT)), -9.0)
            out[..., 0] = -0.1
            out[0, :, TEXT.ids["x"]] = 0.0
            return out.log_softmax(-1), frames

    readings = ocr.read_page(
        Oracle(ocr.draw_cores(truth, *page.image.shape[1:])), Known(len(TEXT)), TEXT, page.image
    )
    assert len(readings) == len(page.words) and {r.text for r in readings} == {"x"}
    assert [r.line for r in readings] == sorted(r.line for r in readings)
    assert all(0 < r.confidence <= 1 for r in readings)
    empty = torch.full((3, 40, 40), 255, dtype=torch.uint8)
    assert ocr.read_page(Oracle(torch.zeros(20, 20)), Known(len(TEXT)), TEXT, empty) == []


# -- bad input, each exported name from a fresh interpreter

SETUP = """
import json, sys
from mmscratch.ocr import *
foreign = {"transformers", "pytesseract", "jiwer", "matplotlib", "mmscratch.kit"} & sys.modules.keys()
assert not foreign, f"importing mmscratch.ocr also loads {foreign}"
import torch
from torch import nn, zeros, ones, tensor, full
lp = zeros(6, 2, 4).log_softmax(-1)
ids = tensor([[1, 2], [3, 3]])
abc = Alphabet("abc")
strips = zeros(2, 1, 32, 40)
"""
CASES = {  # exported name: {wrong use: error and message, ".*" for anything between}
    "Alphabet": {
        "Alphabet('abca')": "ValueError: expected different characters, got 'abca'",
        "Alphabet('')": "ValueError: expected different characters, got ''",
        "abc.encode(['bad'])": "ValueError: expected characters among 'abc', got 'd'",
    },
    "ctc_loss": {
        "ctc_loss(lp, ids, [6, 6], [2, 2], reduction='max')": "ValueError: one of none, mean, sum, got 'max'",
        "ctc_loss(lp.long(), ids, [6, 6], [2, 2])": "ValueError: floating log_probs .*got torch.int64",
        "ctc_loss(lp[0, 0], ids, [6, 6], [2, 2])": "ValueError: log_probs (T, B, C), got torch.float32 (4,)",
    },
    "check_ctc": {
        "ctc_loss(lp, ids, [6, 6], [2, 2], blank=4)": "ValueError: a blank in 0..3, got 4",
        "ctc_loss(lp, ids, [6, 6, 6], [2, 2])": "ValueError: 2 input lengths .*got (3,) and (2,)",
        "ctc_loss(lp, ids, [7, 6], [2, 2])": "ValueError: input lengths in 0..6 .*got [7, 6] and [2, 2]",
        "ctc_loss(lp, ids, [6, 6], [2, -1])": "ValueError: target lengths >= 0, got [6, 6] and [2, -1]",
        "ctc_loss(lp, ids, [6, 6], [2, 3])": "ValueError: targets (2, >= 3), got (2, 2)",
        "ctc_loss(lp, ids.flatten(), [6, 6], [2, 1])": "ValueError: expected 3 targets in a row, got 4",
        "ctc_loss(lp, ids + 1, [6, 6], [2, 2])": "ValueError: targets among 0..3 and not the blank 0, got 4",
        "ctc_loss(lp, ids - 1, [6, 6], [2, 2])": "ValueError: targets among 0..3 and not the blank 0, got 0",
    },
    "greedy": {"greedy(lp[:, 0])": "ValueError: expected log_probs (T, B, C), got (6, 4)"},
    "beam_search": {
        "beam_search(lp)": "ValueError: expected log_probs (T, C) and width >= 1, got (6, 2, 4) and 8",
        "beam_search(lp[:, 0], width=0)": "ValueError: width >= 1, got (6, 4) and 0",
    },
    "NGram": {
        "NGram([[1]], num_ids=4, order=0)": "ValueError: expected order >= 1 and num_ids >= 2, got 0 and 4",
        "NGram([[1]], num_ids=1)": "ValueError: num_ids >= 2, got 5 and 1",
    },
    "error_rate": {
        "error_rate(['a'], [])": "ValueError: expected one hypothesis a reference, got 1 and 0",
        "error_rate(['', ''], ['a', ''])": "ValueError: at least one character in the references, got none",
        "error_rate([' '], ['a'], unit='word')": "ValueError: at least one word in the references, got none",
        "error_rate(['a'], ['a'], unit='line')": "ValueError: unit to be one of character, word, got 'line'",
    },
    "flatten_ink": {
        "flatten_ink(zeros(3, 5, 5))": "ValueError: grey picture (H, W), each at least 2, got (3, 5, 5)",
        "flatten_ink(zeros(0, 9))": "ValueError: each at least 2, got (0, 9)",
        "flatten_ink(zeros(1, 9))": "ValueError: each at least 2, got (1, 9)",
    },
    "stack_strips": {"stack_strips([])": "ValueError: expected at least one picture, got none"},
    "Columns": {
        "Columns()(zeros(2, 1, 30, 40), tensor([40, 40]))": "ValueError: a multiple of 4), got (2, 1, 30",
        "Columns()(zeros(2, 1, 32, 42), tensor([40, 40]))": "ValueError: got (2, 1, 32, 42)",
        "Columns()(strips, tensor([40, 38]))": "ValueError: from 4 to 40, got [40, 38]",
        "Columns()(strips, tensor([40, 44]))": "ValueError: from 4 to 40, got [40, 44]",
        "Columns()(strips, tensor([40, 0]))": "ValueError: from 4 to 40, got [40, 0]",
        "Columns()(strips, tensor([40]))": "ValueError: from 4 to 40, got [40]",
    },
    "CRNN": {"CRNN(5)(zeros(2, 3, 32, 40), tensor([40, 40]))": "ValueError: strips (B, 1, 32"},
    "Reader": {
        "Reader(5)(zeros(2, 3, 32, 40), tensor([40, 40]), ids)": "ValueError: strips (B, 1, 32",
        "Reader(5, max_length=1)(strips, tensor([40, 40]), ids)": "ValueError: max_positions 1",
    },
    "from_transformers": {
        "from_transformers(nn.Linear(2, 2))": "TypeError: expected TrOCRForCausalLM, got Linear",
    },
    "to_grey": {
        "to_grey(zeros(2, 5, 5))": "ValueError: picture (3, H, W), (1, H, W) or (H, W), got (2, 5, 5)"
    },
    "find_ink": {"find_ink(zeros(3, 0, 5))": "ValueError: a picture with at least one pixel, got (3, 0, 5)"},
    "components": {
        "components(zeros(4, 4))": "ValueError: expected a boolean mask (H, W), got torch.float32 (4, 4)"
    },
    "Detector": {
        "Detector()(zeros(1, 3, 30, 40))": "ValueError: images (B, 3, H, W), multiples of 4, got (1, 3, 30"
    },
    "detect": {
        "detect(Detector(), zeros(3, 0, 40))": "ValueError: a picture (3, H, W) with pixels, got (3, 0, 40)",
        "detect(Detector(), zeros(40, 40))": "ValueError: a picture (3, H, W) with pixels, got (40, 40)",
    },
    "reading_lines": {"reading_lines(zeros(3, 5))": "ValueError: expected boxes (N, 4), got (3, 5)"},
    "read_words": {"read_words(CRNN(4), abc, [zeros(3, 8, 8)])": "ValueError: grey picture (H, W)"},
    "read_page": {
        "read_page(Detector(), CRNN(4), abc, zeros(3, 0, 4))": "ValueError: picture (3, H, W) with pixels"
    },
}
WITHOUT_CASE = {
    "CTCLoss": "called by ctc_loss, which checks",
    "FROM_TROCR": "a table",
    "Reading": "what read_page returns",
    "SHRINK": "a number",
    "TextEntry": "built by from_transformers, from a configuration that transformers checked",
    "add_logs": "takes any two numbers",
    "advance": "called by CTCLoss, with arguments that ctc_loss checked",
    "bands": "called by reading_lines, which checks",
    "collapse": "takes any sequence",
    "conv_unit": "a convolution, which checks",
    "dilated_unit": "a convolution, which checks",
    "draw_cores": "takes any boxes",
    "extend": "called by ctc_loss, which checks",
    "fuse_context": "called by from_transformers",
    "grown": "takes any boxes",
    "matches": "takes any boxes",
    "nearest": "called by snap",
    "otsu": "takes any numbers",
    "shrunk": "takes any boxes",
    "snap": "takes boxes and ink of one page",
    "spans": "takes any profile",
    "turn_around": "called by CTCLoss",
    "words_by_components": "takes a mask, which components checks",
    "words_by_profile": "takes a mask",
}

test_bad_input_is_refused, test_every_name_is_given_bad_input = refusals.tests(
    ocr, SETUP, CASES, WITHOUT_CASE
)


@pytest.mark.parametrize(
    ("option", "message"),
    [({"activation_dropout": 0.1}, "got 0.1 and 0.0"), ({"decoder_layerdrop": 0.2}, "got 0.0 and 0.2")],
)
def test_a_trocr_that_ours_cannot_be_is_refused(option, message):
    transformers = pytest.importorskip("transformers")
    config = transformers.TrOCRConfig(
        vocab_size=9, d_model=8, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=8, **option
    )
    with pytest.raises(ValueError, match=f"no activation_dropout and no decoder_layerdrop, {message}"):
        ocr.from_transformers(transformers.TrOCRForCausalLM(config))
