"""What `mmscratch.clip` promises beside equality with its references (`tests/parity/clip.py`)."""

from __future__ import annotations

import math

import pytest
import refusals
import torch
import torch.nn.functional as F
from torch import Tensor

from mmscratch import clip
from mmscratch.clip import (
    CLIP,
    ImageTower,
    TextTower,
    clip_loss,
    ensemble,
    from_open_clip,
    from_transformers,
    recall,
    small_clip,
)

SEEN = dict(patch_size=8, embed_dim=6, dim=20, depth=3, num_heads=5)
READ = dict(embed_dim=6, max_positions=9, dim=12, depth=2, num_heads=3)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def features(batch: int, dim: int) -> tuple[Tensor, Tensor]:
    return tuple(F.normalize(torch.randn(batch, dim), dim=1) for _ in range(2))


def model(**options) -> CLIP:
    return CLIP(ImageTower((16, 24), **SEEN), text=TextTower(40, eot_id=2, **READ), **options).eval()


def pairs(batch: int = 4) -> tuple[Tensor, Tensor]:
    ids = torch.randint(5, 40, (batch, 7))
    ids[:, 5], ids[:, 6] = 2, 0
    return torch.randn(batch, 3, 16, 24), ids


# -- towers


def test_features_have_length_one_and_the_scale_is_the_start_value():
    image_features, text_features, scale = model()(*pairs())
    for found in (image_features, text_features):
        torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    assert scale.shape == () and scale.item() == pytest.approx(1 / 0.07)
    net = model(logit_scale=10.0)
    images, ids = pairs()
    torch.testing.assert_close(net.encode_image(images), net(images, ids)[0])
    torch.testing.assert_close(net.encode_text(ids), net(images, ids)[1])


def test_patch_tokens_leave_the_layer_that_is_asked_for_without_prefix_tokens():
    tower, images = ImageTower((16, 24), num_registers=2, **SEEN).eval(), torch.randn(2, 3, 16, 24)
    seen = []
    for block in tower.vit.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    tower(images)
    outputs = seen.copy()
    for layer in (-3, -2, -1, 0, 1, 2):
        found = tower.encode(images, layer=layer)
        assert found.shape == (2, 6, 20)
        torch.testing.assert_close(found, outputs[layer][:, 3:])
    torch.testing.assert_close(tower.encode(images), outputs[-2][:, 3:])


@pytest.mark.parametrize("position", ["rope", "sincos"])
def test_patch_tokens_know_every_kind_of_position(position):
    tower = ImageTower(16, position=position, **SEEN).eval()
    last = tower.encode(images := torch.randn(2, 3, 16, 16), layer=-1)
    torch.testing.assert_close(tower.vit.norm(last), tower.vit.forward_features(images)[:, 1:])


def test_nothing_after_the_end_of_text_matters_and_everything_before_does():
    tower, (_, ids) = TextTower(40, eot_id=2, **READ).eval(), pairs()
    plain, changed = tower(ids), ids.clone()
    changed[:, 6] = 9
    torch.testing.assert_close(tower(changed), plain)
    torch.testing.assert_close(tower(ids[:, :6]), plain)  # so padding may be cut off
    for place in range(5):
        changed = ids.clone()
        changed[:, place] = (ids[:, place] + 1 - 5) % 35 + 5
        assert ((tower(changed) - plain).abs().amax(dim=1) > 1e-4).all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(eot_id=2), [1, 3]),
        (dict(), [2, 0]),
        (dict(pooling="first"), [0, 0]),
        (dict(pooling="last"), [3, 3]),
    ],
)
def test_each_pooling_reads_its_place(options, expected):
    ids = torch.tensor([[5, 2, 9, 2], [8, 7, 6, 2]])
    assert TextTower(40, **READ, **options).place(ids).tolist() == expected


def test_a_tower_without_projection_hands_out_its_own_width():
    tower = ImageTower(16, **SEEN | dict(embed_dim=None))
    assert tower.embed_dim == 20 and tower(torch.randn(2, 3, 16, 16)).shape == (2, 20)
    text = TextTower(40, **READ | dict(embed_dim=None))
    assert text.embed_dim == 12 and text(torch.ones(2, 3, dtype=torch.long)).shape == (2, 12)


def test_the_clipped_scale_can_come_back():
    net = model()
    net.logit_scale.data.fill_(math.log(500.0))
    net.clamp_logit_scale()
    scale = net(*pairs())[2]
    assert scale.item() == pytest.approx(100.0, rel=1e-5)
    assert torch.autograd.grad(scale, net.logit_scale)[0] > 0
    net.logit_scale.data.fill_(math.log(0.5))
    net.clamp_logit_scale()
    assert net(*pairs())[2].item() == pytest.approx(0.5)


def test_the_small_model_trains_a_step_and_its_towers_stand_alone():
    net = small_clip(30, eot_id=2)
    images, ids = torch.randn(5, 3, 32, 32), torch.randint(5, 30, (5, 8))
    ids[:, 7] = 2
    clip_loss(*net(images, ids)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.visual.encode(images).shape == (5, 16, 128) and net.visual(images).shape == (5, 64)


# -- the loss


def test_the_loss_is_the_mean_of_two_cross_entropies_and_does_not_care_about_order_or_side():
    x, y = features(7, 5)
    match = torch.arange(7)
    expected = (F.cross_entropy(9.0 * x @ y.T, match) + F.cross_entropy(9.0 * y @ x.T, match)) / 2
    order = torch.randperm(7)
    torch.testing.assert_close(clip_loss(x, y, 9.0), expected)
    torch.testing.assert_close(clip_loss(y, x, 9.0), expected)
    torch.testing.assert_close(clip_loss(x[order], y[order], torch.tensor(9.0)), expected)
    assert clip_loss(x[:1], y[:1], 9.0).item() == 0.0


def test_the_loss_is_finite_where_exponentials_are_not():
    x, y = features(9, 3)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        leaves = [t.to(dtype).detach().clone().requires_grad_() for t in (x, -x)]
        loss = clip_loss(*leaves, 100.0)
        loss.backward()
        assert loss.isfinite() and all(leaf.grad.isfinite().all() for leaf in leaves)


def test_pairs_that_also_match_are_left_out_of_the_negatives():
    x, y = features(6, 4)
    y[4] = y[1]
    same = torch.eye(6, dtype=torch.bool)
    same[1, 4] = same[4, 1] = True
    logits = (9.0 * x @ y.T).masked_fill(same & ~torch.eye(6, dtype=torch.bool), -math.inf)
    expected = (F.cross_entropy(logits, torch.arange(6)) + F.cross_entropy(logits.T, torch.arange(6))) / 2
    torch.testing.assert_close(clip_loss(x, y, 9.0, same=same), expected)
    plain = clip_loss(x, y, 9.0)
    torch.testing.assert_close(clip_loss(x, y, 9.0, same=torch.eye(6, dtype=torch.bool)), plain)
    assert clip_loss(x, y, 9.0, same=same) < plain
    everything = torch.ones(6, 6, dtype=torch.bool)
    leaf = x.clone().requires_grad_()
    loss = clip_loss(leaf, y, 9.0, same=everything)  # nothing is left to tell apart
    loss.backward()
    assert loss.item() == 0.0 and leaf.grad.isfinite().all()


# -- retrieval and prompts


def test_recall_counts_the_right_column_among_the_best():
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.7, 0.6, 0.5]])
    assert [recall(similarity, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1.0])
    match = torch.tensor([[True, False, False], [True, True, False], [False, True, True]])
    assert recall(similarity, 1, match=match) == pytest.approx(2 / 3)
    assert recall(similarity[:2], 1, match=match[:2]) == 1.0


def test_a_collapsed_model_recalls_nothing():
    assert recall(torch.ones(5, 5), 1) == 0.0 and recall(torch.ones(5, 5), 5) == 1.0


def test_a_model_that_has_diverged_recalls_nothing():
    assert recall(torch.full((5, 5), math.nan), 1) == 0.0
    assert recall(torch.full((5, 5), math.nan), 4) == 0.0
    similarity = torch.eye(4)
    similarity[1, 1] = math.nan  # the right one
    similarity[2, 0] = math.nan  # a wrong one, which may stand anywhere
    assert recall(similarity, 1) == 0.5 and recall(similarity, 2) == 0.75
    match = torch.eye(4, dtype=torch.bool) | torch.eye(4, dtype=torch.bool).roll(1, 0)
    assert recall(similarity, 1, match=match) == 0.5


def test_an_ensemble_is_the_direction_of_the_mean():
    prompts = F.normalize(torch.randn(3, 4, 5), dim=-1)
    found = ensemble(prompts)
    torch.testing.assert_close(found, F.normalize(prompts.sum(1), dim=-1))
    torch.testing.assert_close(ensemble(prompts[:, :1]), prompts[:, 0])


# -- loading


def test_loading_follows_the_mode_and_precision_of_the_reference():
    import open_clip

    text = dict(context_length=5, vocab_size=20, width=8, heads=2, layers=1)
    theirs = open_clip.CLIP(6, dict(layers=1, width=8, head_width=4, patch_size=8, image_size=16), text)
    assert from_open_clip(theirs).training and not from_open_clip(theirs.eval()).training
    assert next(from_open_clip(theirs.double()).parameters()).dtype == torch.float64


def test_a_checkpoint_in_the_hubs_format_loads_and_answers_the_same(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    from mmscratch.kit import reference

    shared = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    config = CLIPConfig(
        vision_config=shared | dict(image_size=16, patch_size=8),
        text_config=shared | dict(vocab_size=30, max_position_embeddings=7, eos_token_id=29),
        projection_dim=10,
    )
    reference.randomise(CLIPModel(config)).save_pretrained(tmp_path)
    theirs = reference.pretrained(tmp_path, cls="CLIPModel")
    ours = from_transformers(theirs)
    images, ids = torch.randn(3, 3, 16, 16), torch.randint(1, 29, (3, 7))
    ids[:, 5] = 29
    with torch.no_grad():
        image_features, text_features, scale = ours(images, ids)
        expected = theirs(input_ids=ids, pixel_values=images).logits_per_image
    torch.testing.assert_close(scale * image_features @ text_features.T, expected, atol=1e-4, rtol=0)


# -- bad input

SETUP = """
import json, math, sys

import torch
import torch.nn.functional as F
from torch import nn, ones, tensor, zeros

from mmscratch.clip import *

SEEN = dict(patch_size=8, embed_dim=6, dim=20, depth=3, num_heads=5)
READ = dict(embed_dim=6, max_positions=9, dim=12, depth=2, num_heads=3)


def tower(size=16, **options):
    return ImageTower(size, **SEEN | options)


def reader(**options):
    return TextTower(40, eot_id=2, **READ | options)


def model(**options):
    return CLIP(tower(), text=reader(), **options)


def rows(*shape, scale=1.0):
    return scale * F.normalize(ones(shape), dim=-1)


def theirs(vision=(), text=(), **options):
    import open_clip

    vision = dict(layers=1, width=8, head_width=4, patch_size=8, image_size=16) | dict(vision)
    text = dict(context_length=5, vocab_size=20, width=8, heads=2, layers=1) | dict(text)
    return open_clip.CLIP(6, vision, text, **options)
"""
CASES = {
    "ImageTower": {
        "tower(15)": "ValueError: image height 15 is not a multiple of patch_size 8",
        "tower()(zeros(1, 3, 16, 15))": "ValueError: image width 15 is not a multiple of patch_size 8",
        "tower(num_heads=3)": "ValueError: dim 20 is not a multiple of num_heads 3",
        "tower(heads=3)": "TypeError: unexpected .*'heads'",
        "tower().encode(zeros(1, 3, 16, 16), layer=-4)": "ValueError: expected layer in -3..2, got -4",
        "tower().encode(zeros(1, 3, 16, 16), layer=3)": "ValueError: expected layer in -3..2, got 3",
    },
    "TextTower": {
        "reader(pooling='mean')": "ValueError: pooling to be one of eot, first, last, got 'mean'",
        "reader()(zeros(3).long())": "ValueError: expected ids (B, T) with T >= 1, got (3,)",
        "reader()(zeros(3, 0).long())": "ValueError: expected ids (B, T) with T >= 1, got (3, 0)",
        "reader()(tensor([[5, 2], [5, 6]]))": "ValueError: end-of-text 2 in every text, row 1 has none",
        "reader()(ones(1, 10).long())": "ValueError: at most max_positions 9 tokens, got 10",
        "reader()(tensor([[40, 2]]))": "IndexError: index out of range",
    },
    "CLIP": {
        "CLIP(tower(), text=reader(embed_dim=7))": "ValueError: towers of one embed_dim, got 6 and 7",
        "model(logit_scale=0.0)": "ValueError: 0 < logit_scale <= max_logit_scale 100.0, got 0.0",
        "model(logit_scale=-1.0)": "ValueError: 0 < logit_scale <= max_logit_scale 100.0, got -1.0",
        "model(logit_scale=101.0)": "ValueError: 0 < logit_scale <= max_logit_scale 100.0, got 101.0",
        "model(logit_scale=math.nan)": "ValueError: 0 < logit_scale <= max_logit_scale 100.0, got nan",
    },
    "check_features": {
        "check_features(rows(2, 3), rows(3, 3))": "ValueError: (B, E), got (2, 3) and (3, 3)",
    },
    "clip_loss": {
        "clip_loss(zeros(0, 4), zeros(0, 4), 1.0)": "ValueError: at least one pair, got features (0, 4)",
        "clip_loss(rows(3, 4), rows(2, 4), 1.0)": "ValueError: one shape (B, E), got (3, 4) and (2, 4)",
        "clip_loss(rows(3, 4), rows(3, 5), 1.0)": "ValueError: one shape (B, E), got (3, 4) and (3, 5)",
        "clip_loss(rows(3), rows(3), 1.0)": "ValueError: of one shape (B, E), got (3,) and (3,)",
        "clip_loss(rows(3, 4), rows(3, 4, scale=3), 1.0)": "ValueError: text features of length 1, .*th 3",
        "clip_loss(rows(3, 4) / 0, rows(3, 4), 1.0)": "ValueError: image features of length 1, .*length inf",
        "clip_loss(rows(3, 4) * math.nan, rows(3, 4), 1.0)": "ValueError: image .*a row of length nan",
        "clip_loss(rows(4, 3), rows(4, 3), 1.0, same=ones(4, 4))": (
            "ValueError: expected boolean same (4, 4), got torch.float32 (4, 4)"
        ),
        "clip_loss(rows(4, 3), rows(4, 3), 1.0, same=ones(4, 3).bool())": (
            "ValueError: expected boolean same (4, 4), got torch.bool (4, 3)"
        ),
    },
    "recall": {
        "recall(ones(3, 4), 1)": "ValueError: square similarity or match, and 1 <= k <= 4, got (3, 4) and 1",
        "recall(ones(4, 4), 0)": "ValueError: 1 <= k <= 4, got (4, 4) and 0",
        "recall(ones(4, 4), 5)": "ValueError: 1 <= k <= 4, got (4, 4) and 5",
        "recall(ones(3, 4), 1, match=ones(4).bool())": "ValueError: match (3, 4), got torch.bool (4,)",
        "recall(ones(3, 4), 1, match=ones(3, 1).bool())": "ValueError: match (3, 4), got torch.bool (3, 1)",
        "recall(ones(3, 4), 1, match=ones(3, 4))": "ValueError: boolean match (3, 4), got torch.float32",
    },
    "ensemble": {
        "ensemble(ones(4, 5))": "ValueError: features (K, M, E) of M >= 1 prompts, got (4, 5)",
        "ensemble(ones(3, 0, 5))": "ValueError: features (K, M, E) of M >= 1 prompts, got (3, 0, 5)",
    },
    "small_clip": {
        "small_clip(30, eot_id=2)(zeros(1, 3, 32, 32), ones(1, 8).long())": "ValueError: end-of-text 2 in",
        "small_clip(30, eot_id=2).encode_text(ones(1, 25).long())": "ValueError: max_positions 24 .*got 25",
    },
    "from_open_clip": {
        "from_open_clip(nn.Linear(2, 2))": "TypeError: CLIP or CustomTextCLIP, got Linear",
        "from_open_clip(theirs(init_logit_bias=-10.0))": "ValueError: expected no logit_bias",
        "from_open_clip(theirs(dict(attentional_pool=True, attn_pooler_heads=2)))": "ValueError: attentional",
        "from_open_clip(theirs(dict(patch_dropout=0.5)))": "ValueError: no patch dropout",
        "from_open_clip(theirs(dict(pool_type='avg', final_ln_after_pool=True)))": "ValueError: tok, or avg",
        "from_open_clip(theirs(dict(layers=(1, 1, 1, 1), width=16, image_size=32)))": "ValueError: Modified",
        "from_open_clip(theirs(dict(qk_norm=True)))": "ValueError: expected plain blocks",
        "from_open_clip(theirs(text=dict(pool_type='none')))": "ValueError: argmax, eos, first or last",
    },
    "from_transformers": {
        "from_transformers(nn.Linear(2, 2))": "TypeError: expected CLIPModel, got Linear",
        "from_transformers('openai/clip-vit-base-patch32')": "TypeError: expected CLIPModel, got str",
    },
}
WITHOUT_CASE = {
    "FROM_OPEN_CLIP": "a table",
    "FROM_TRANSFORMERS": "a table",
    "open_clip_block": "reads a reference model; what it cannot map is refused in from_open_clip",
    "shape_tokens": "edits weights; what it leaves is loaded strictly by load_mapped",
    "transformers_block": "reads a configuration of transformers",
}

test_bad_input_is_refused, test_every_name_is_given_bad_input = refusals.tests(
    clip, SETUP, CASES, WITHOUT_CASE
)
