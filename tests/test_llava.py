"""What `mmscratch.llava` promises beside equality with the library (`tests/parity/llava.py`)."""

from __future__ import annotations

import random

import pytest
import refusals
import torch
import torch.nn.functional as F
from torch import Tensor

from mmscratch import llava
from mmscratch.clip import ImageTower, small_clip
from mmscratch.kit import world
from mmscratch.llava import IGNORE, LLaVA, Projector, collate, expand, hidden_states, set_stage, splice
from mmscratch.transformer import Transformer

IMAGE, N = 3, 6


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def model(*, position: str = "rope", layer=-2, **options) -> LLaVA:
    vision = ImageTower((16, 24), patch_size=8, embed_dim=None, dim=20, depth=3, num_heads=5)
    language = Transformer(40, dim=24, depth=2, num_heads=3, position=position, max_positions=64, **options)
    return LLaVA(vision, Projector(20, dim=24), language, image_token_id=IMAGE, layer=layer).eval()


def pictures(count: int) -> Tensor:
    return torch.randn(count, 3, 16, 24)


def asked(batch: int = 3, *, before: int = 2, after: int = 5) -> Tensor:
    ids = torch.randint(4, 40, (batch, before + N + after))
    ids[:, before : before + N] = IMAGE
    return ids


def ragged(lengths: list[int], side: str) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Padded ids and mask, and the rows without padding."""
    rows = [asked(1, before=1, after=length - N - 1)[0] for length in lengths]
    total = max(lengths) + 2
    ids, mask = torch.zeros(len(rows), total, dtype=torch.long), torch.zeros(len(rows), total)
    for i, row in enumerate(rows):
        where = slice(total - len(row), total) if side == "left" else slice(0, len(row))
        ids[i, where], mask[i, where] = row, 1
    return ids, mask.long(), rows


# -- splicing


def test_a_picture_stands_where_the_text_says_so_and_nowhere_else():
    ids, words, features = asked(3), torch.randn(3, 2 + N + 5, 4), torch.randn(3, N, 4)
    expected = words.clone()
    for row in range(3):
        k = 0
        for t in range(ids.shape[1]):
            if ids[row, t] == IMAGE:
                expected[row, t] = features[row, k]
                k += 1
    torch.testing.assert_close(splice(words, ids, features, IMAGE), expected, atol=0, rtol=0)


def test_pictures_fill_rows_in_order_however_many_a_row_holds():
    ids = torch.full((2, 2 * N + 3), 9)
    ids[0, 1 : 1 + N] = ids[0, 2 + N : 2 + 2 * N] = IMAGE  # two pictures, then one
    ids[1, 3 : 3 + N] = IMAGE
    features = torch.randn(3, N, 4)
    found = splice(torch.zeros(2, 2 * N + 3, 4), ids, features, IMAGE)
    torch.testing.assert_close(found[0, 1 : 1 + N], features[0])
    torch.testing.assert_close(found[0, 2 + N : 2 + 2 * N], features[1])
    torch.testing.assert_close(found[1, 3 : 3 + N], features[2])


def test_counts_that_agree_in_all_and_not_in_each_row_are_refused():
    """The library compares totals, so it lets this batch pass with a patch of picture 0 in row 1."""
    ids = torch.full((2, N + 4), 9)
    ids[0, : N - 1] = ids[1, : N + 1] = IMAGE
    with pytest.raises(ValueError, match=f"a multiple of {N} image tokens in each row, row 0 has {N - 1}"):
        splice(torch.zeros(2, N + 4, 4), ids, torch.randn(2, N, 4), IMAGE)


def test_gradients_reach_features_and_words_but_not_the_placeholder():
    net, ids = model(), asked()
    features = torch.randn(3, N, 20, requires_grad=True)
    net(ids, features=features).square().sum().backward()
    assert features.grad.abs().amax(dim=-1).gt(0).all()  # every patch of every picture
    assert net.language.embed.weight.grad[IMAGE].abs().max() == 0
    assert net.language.embed.weight.grad[ids[0, 0]].abs().max() > 0


# -- features


def test_hidden_states_are_what_stands_between_the_blocks():
    tower, images = model().vision, pictures(2)
    seen = []
    for block in tower.vit.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    tower(images)
    states = [seen[0][0], *(output for _, output in seen)]
    for layer in range(-4, 4):
        torch.testing.assert_close(hidden_states(tower, images, layer), states[layer][:, 1:])
        torch.testing.assert_close(hidden_states(tower, images, layer, keep_prefix=True), states[layer])
    both = hidden_states(tower, images, [-1, 0])
    torch.testing.assert_close(both, torch.cat([states[3], states[0]], dim=-1)[:, 1:])
    for layer in (-3, -2, -1):
        torch.testing.assert_close(hidden_states(tower, images, layer), tower.encode(images, layer=layer))


def test_blocks_behind_the_layer_are_not_run():
    tower = model().vision
    tower.vit.blocks[2].forward = lambda *args: pytest.fail("the last block was run")
    hidden_states(tower, pictures(1), -2)


def test_features_computed_once_give_the_same_as_pictures():
    net, ids, images = model(), asked(), pictures(3)
    torch.testing.assert_close(net(ids, features=net.see(images)), net(ids, images))
    said = net.generate(ids, 4, pixel_values=images)
    assert torch.equal(net.generate(ids, 4, features=net.see(images)), said)


# -- reading


def test_words_before_the_picture_do_not_see_it_and_words_after_do():
    net, ids = model(), asked(2, before=3)
    one, other = net(ids, pictures(2)), net(ids, pictures(2))
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert ((one - other)[:, 3:].abs().amax(dim=-1) > 1e-4).all()


def test_a_picture_changes_its_own_row_only():
    net, ids, images = model(), asked(), pictures(3)
    changed = images.clone()
    changed[1] += 1
    difference = (net(ids, images) - net(ids, changed)).abs().amax(dim=(1, 2))
    assert difference[1] > 1e-3 and difference[[0, 2]].max() < 1e-5


@pytest.mark.parametrize("position", ["rope", "learned", "sinusoidal"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_on_either_side(side, position):
    net, images = model(position=position), pictures(3)
    ids, mask, rows = ragged([9, 13, 7], side)
    found = net(ids, images, mask)
    for i, row in enumerate(rows):
        alone = net(row[None], images[i : i + 1])[0]
        torch.testing.assert_close(found[i][mask[i].bool()], alone, atol=1e-5, rtol=1e-5)


def test_positions_that_count_padding_are_wrong_where_positions_are_absolute():
    """With rotary positions nobody would notice: only distances count there."""
    ids, mask, rows = ragged([9, 13, 7], "left")
    images, counted = pictures(3), torch.arange(15).expand(3, -1)
    for position, wrong in (("learned", True), ("rope", False)):
        net = model(position=position)
        found = net(ids, images, mask, position_ids=counted)[2][mask[2].bool()]
        alone = net(rows[2][None], images[2:])[0]
        assert ((found - alone).abs().max() > 1e-3) == wrong


def test_a_mask_of_ones_is_no_mask():
    net, ids, images = model(), asked(), pictures(3)
    torch.testing.assert_close(net(ids, images, torch.ones_like(ids)), net(ids, images))


# -- generation


@pytest.mark.parametrize("position", ["rope", "learned"])
def test_cached_and_uncached_texts_are_equal_for_ragged_prompts(position):
    net, images = model(position=position), pictures(3)
    ids, mask, rows = ragged([9, 13, 7], "left")
    said = net.generate(ids, 20, pixel_values=images, attention_mask=mask)
    again = net.generate(ids, 20, pixel_values=images, attention_mask=mask, use_cache=False)
    assert torch.equal(said, again)
    for i, row in enumerate(rows):
        alone = net.generate(row[None], 20, pixel_values=images[i : i + 1])[0, len(row) :]
        assert torch.equal(said[i, ids.shape[1] :], alone)


def test_generation_without_a_picture_is_the_language_models_own():
    from mmscratch.transformer import generate

    net, ids = model(), torch.randint(4, 40, (2, 5))
    assert torch.equal(net.generate(ids, 7), generate(net.language, ids, 7))
    torch.testing.assert_close(net(ids), net.language(ids))


def test_a_text_ends_where_it_says_so():
    net, ids, images = model(), asked(2), pictures(2)
    free = net.generate(ids, 12, pixel_values=images)[:, ids.shape[1] :]
    end = free[0, 3].item()
    said = net.generate(ids, 12, pixel_values=images, eos_id=end)[:, ids.shape[1] :]
    stop = (said[0] == end).int().argmax()
    assert stop <= 3 and (said[0, stop:] == end).all()


# -- the loss


def test_only_labelled_answers_count():
    logits, labels = torch.randn(2, 7, 11, requires_grad=True), torch.full((2, 7), IGNORE)
    labels[0, 4:6] = torch.tensor([3, 8])
    labels[1, 6] = 2
    expected = -sum(
        logits[i, t - 1].log_softmax(-1)[labels[i, t]] for i, t in ((0, 4), (0, 5), (1, 6))
    )  # each token is guessed one place before it stands
    found = llava.loss(logits, labels)
    torch.testing.assert_close(found, expected / 3)
    found.backward()
    touched = logits.grad.abs().amax(dim=-1) > 0
    assert touched.nonzero().tolist() == [[0, 3], [0, 4], [1, 5]]


# -- batches


def test_collate_labels_answers_and_counts_positions():
    dialogues = [[([10, 11], [20]), ([12], [21, 2])], [([13], [22])]]
    for side in ("right", "left"):
        batch = collate(dialogues, prefix=[1, 3, 3], pad_id=0, side=side)
        real = batch.attention_mask[1]
        assert batch.input_ids[0].tolist() == [1, 3, 3, 10, 11, 20, 12, 21, 2]
        assert batch.labels[0].tolist() == [IGNORE] * 5 + [20, IGNORE, 21, 2]
        assert batch.input_ids[1][real].tolist() == [1, 3, 3, 13, 22]
        assert batch.labels[1][real].tolist() == [IGNORE] * 4 + [22]
        assert batch.labels[1][~real].tolist() == [IGNORE] * 4
        assert batch.position_ids[1][real].tolist() == list(range(5))
        assert real.tolist() == [i < 5 if side == "right" else i >= 4 for i in range(9)]
    everything = collate(dialogues, prefix=[1, 3, 3], pad_id=0, label_prompts=True).labels
    assert everything[0].tolist() == [IGNORE] * 3 + [10, 11, 20, 12, 21, 2]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("position", ["rope", "learned"])
def test_turns_apart_are_as_if_each_were_asked_alone(side, position):
    net, images = model(position=position), pictures(2)
    prefix = expand([1, IMAGE], IMAGE, N)
    dialogues = [
        [([10, 11, 12], [20]), ([13, 14], [21, 2]), ([15], [22, 23, 2])],
        [([16, 17], [24, 2])],
    ]
    batch = collate(dialogues, prefix=prefix, pad_id=0, side=side, apart=True)
    logits = net(batch.input_ids, images, batch.attention_mask, position_ids=batch.position_ids)
    losses = []
    for row, turns in enumerate(dialogues):
        real, at = batch.input_ids[row] != 0, len(prefix)
        found = logits[row][real]
        for prompt, answer in turns:
            alone = net(torch.tensor([prefix + prompt + answer]), images[row : row + 1])[0]
            length = len(prompt) + len(answer)
            torch.testing.assert_close(found[at : at + length], alone[len(prefix) :], atol=1e-5, rtol=1e-5)
            guesses = alone[len(prefix) + len(prompt) - 1 : -1]
            losses += F.cross_entropy(guesses, torch.tensor(answer), reduction="none")
            at += length
    torch.testing.assert_close(llava.loss(logits, batch.labels), torch.stack(losses).mean())


def test_expand_leaves_words_alone():
    assert expand([1, 3, 5, 3, 2], 3, 4) == [1, 3, 3, 3, 3, 5, 3, 3, 3, 3, 2]
    assert expand([1, 2], 3, 4) == [1, 2]


# -- stages


def small() -> LLaVA:
    clip = small_clip(40, eot_id=2)
    language = Transformer(40, dim=24, depth=2, num_heads=3, max_positions=64)
    return LLaVA(clip.visual, Projector(128, dim=24), language, image_token_id=IMAGE)


@pytest.mark.parametrize(("stage", "tuned"), [(1, {"projector"}), (2, {"projector", "language"})])
def test_a_stage_moves_its_parts_only_and_leaves_running_statistics(stage, tuned):
    net = set_stage(small(), stage)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    prefix = expand([1, IMAGE], IMAGE, 16)
    batch = collate([[([9, 8], [7, 2])], [([6], [5, 2])]], prefix=prefix, pad_id=0)
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    llava.loss(net(batch.input_ids, torch.randn(2, 3, 32, 32), batch.attention_mask), batch.labels).backward()
    optimiser.step()
    moved = {name.split(".")[0] for name, value in net.state_dict().items() if not value.equal(before[name])}
    assert moved == tuned
    assert net.training and not net.vision.training and net.projector.training
    assert net.language.training == (stage == 2)


def test_the_mode_follows_what_is_frozen():
    net = small().train()
    assert net.vision.training
    net.vision.requires_grad_(False)
    assert not net.train().vision.training and not net.eval().training


def test_a_linear_projector_is_one_matrix():
    linear = Projector(5, dim=7, depth=1)
    x = torch.randn(2, 3, 5)
    torch.testing.assert_close(linear(x), x @ linear.fc1.weight.T + linear.fc1.bias)
    assert sum(p.numel() for p in linear.parameters()) == 5 * 7 + 7
    normed = Projector(5, dim=7, norm=True)
    torch.testing.assert_close(normed(3 * x + 1), normed(x), atol=1e-4, rtol=0)
    with torch.device("meta"):
        both = [Projector(1024, dim=dim) for dim in (4096, 5120)]
    assert [sum(p.numel() for p in x.parameters()) for x in both] == [20_979_712, 31_467_520]


# -- instructions


def scenes(n: int = 300, split: str = "train"):
    g = torch.Generator().manual_seed(4)
    return world.sample(n, generator=g, split=split, max_objects=4)


def test_every_word_of_every_instruction_is_known():
    tokeniser, rng = world.Tokeniser(), random.Random(0)
    drawn = scenes()
    texts = []
    for things, caption in zip(drawn.things(), world.captions(drawn), strict=True):
        turns = [llava.detail(caption, rng), *llava.reasoning(things, rng), *llava.locations(things, rng)]
        texts += [text for turn in turns for text in turn]
    assert not (tokeniser.encode(texts) == tokeniser.unk).any()


def test_the_same_seed_gives_the_same_instructions():
    first, second, other = (
        [llava.reasoning(t, rng) + llava.locations(t, rng) for t in scenes().things()]
        for rng in map(random.Random, (1, 1, 2))
    )
    assert first == second != other


def test_reasoning_counts_what_stands_there_and_names_it_first():
    sides = {"left of": ("x", -1), "right of": ("x", 1), "above": ("y", -1), "below": ("y", 1)}
    asked = 0
    for things in scenes().things():
        for question, answer in llava.reasoning(things, random.Random(len(things))):
            asked += 1
            relation = next(words for words in sides if f" {words} the " in question)
            axis, sign = sides[relation]
            target = next(t for t in things if question.endswith(f"the {t.colour} {t.shape}?"))
            there = [t for t in things if sign * (getattr(t, axis) - getattr(target, axis)) > 0]
            steps = answer.split(", ")
            assert steps[-1] == ("zero", "one", "two", "three")[len(there)]
            assert steps[:-1] == ([" and ".join(llava.describe(t) for t in there)] if there else [])
    assert asked > 300


def test_locations_are_asked_only_where_another_object_would_give_the_other_answer():
    halves = {"left": ("x", -1), "right": ("x", 1), "top": ("y", -1), "bottom": ("y", 1)}
    said = {"yes": 0, "no": 0}
    rng = random.Random(0)
    for things in scenes(2_000).things():
        for question, answer in llava.locations(things, rng):
            axis, sign = halves[question.split()[-2]]
            target = next(t for t in things if f"the {t.colour} {t.shape} in" in question)
            there = {t: sign * (getattr(t, axis) - 0.5) > 0 for t in things}
            assert answer == ("yes" if there[target] else "no")
            assert any(there[t] != there[target] for t in things if t is not target)
            said[answer] += 1
    assert 0.47 < said["yes"] / sum(said.values()) < 0.53 and sum(said.values()) > 2_000


def test_one_object_has_no_neighbours_to_ask_about():
    things = world.sample(5, generator=torch.Generator().manual_seed(0), max_objects=1).things()
    for scene in things:
        assert llava.reasoning(scene, random.Random(0)) == llava.locations(scene, random.Random(0)) == []


def test_the_small_model_holds_the_readers_weights():
    net = llava.small_llava(small_clip(40, eot_id=2).visual, 40, image_token_id=IMAGE)
    ids = torch.full((2, 20), 5)
    ids[:, 1:17] = IMAGE
    assert net(ids, torch.randn(2, 3, 32, 32)).shape == (2, 20, 40)
    linear = llava.small_llava(net.vision, 40, image_token_id=IMAGE, projector_depth=1)
    assert linear.projector.fc2 is None


# -- references that ours cannot hold


def reference(vision=None, **text):
    import transformers

    vision = vision or dict(
        model_type="clip_vision_model",
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    words = dict(
        model_type="llama",
        vocab_size=30,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    config = transformers.LlavaConfig(vision_config=vision, text_config=words | text, image_token_index=3)
    return transformers.LlavaForConditionalGeneration(config)


def test_from_transformers_refuses_what_it_cannot_hold():
    siglip = dict(
        model_type="siglip_vision_model",
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    with pytest.raises(TypeError, match="expected CLIPVisionModel, got SiglipVisionModel"):
        llava.from_transformers(reference(siglip))
    with pytest.raises(TypeError, match="expected LlamaModel or Qwen2Model, got MistralModel"):
        llava.from_transformers(reference(model_type="mistral", num_key_value_heads=2))
    with pytest.raises(TypeError, match="expected LlavaForConditionalGeneration, got Linear"):
        llava.from_transformers(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("training", [True, False])
def test_the_map_leaves_the_reference_as_it_was(training):
    theirs = reference().train(training)
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    ours = llava.from_transformers(theirs)
    assert ours.training == training == theirs.training
    assert all(value.equal(before[name]) for name, value in theirs.state_dict().items())
    assert ours.language.config.tie_embeddings is False


# -- bad input

SETUP = """
import json, sys, torch
from torch import nn
from mmscratch.llava import *
from mmscratch.llava import loss
from mmscratch.clip import ImageTower
from mmscratch.transformer import Transformer
vision = ImageTower((16, 24), patch_size=8, embed_dim=None, dim=20, depth=3, num_heads=5)
words = dict(dim=24, depth=2, num_heads=3)
def model(image_token_id=3, **options):
    language = Transformer(40, **words | options)
    return LLaVA(vision, Projector(20, dim=24), language, image_token_id=image_token_id)
net = model(max_positions=20)
def ids(*counts, total=9):
    rows = [[3] * n + [7] * (total - n) for n in counts]
    return torch.tensor(rows)
def images(n):
    return torch.randn(n, 3, 16, 24)
"""
CASES = {
    "Projector": {
        "Projector(4, dim=5, depth=3)": "ValueError: expected depth 1 or 2, got 3",
        "Projector(4, dim=5, act='mish')": "ValueError: expected act to be one of gelu.*got 'mish'",
        "Projector(4, dim=5)(torch.ones(2, 3, 6))": "ValueError: expected features (B, N, 4), got (2, 3, 6)",
    },
    "hidden_states": {
        "hidden_states(vision, images(1), 4)": "ValueError: expected layers in -4..3, got 4",
        "hidden_states(vision, images(1), -5)": "ValueError: expected layers in -4..3, got -5",
        "hidden_states(vision, images(1), [])": "ValueError: expected layers in -4..3, got []",
        "hidden_states(vision, torch.ones(1, 3, 15, 24))": "ValueError: image height 15 is not a multiple",
    },
    "splice": {
        "splice(torch.ones(1, 9, 4), ids(5), torch.ones(1, 6, 4), 3)": (
            "ValueError: expected a multiple of 6 image tokens in each row, row 0 has 5"
        ),
        "splice(torch.ones(2, 9, 4), ids(6, 7), torch.ones(2, 6, 4), 3)": (
            "ValueError: multiple of 6.*row 1 has 7"
        ),
        "splice(torch.ones(2, 9, 4), ids(6, 0), torch.ones(2, 6, 4), 3)": (
            "ValueError: expected 12 image tokens for 2 pictures of 6, got 6"
        ),
        "splice(torch.ones(1, 9, 4), ids(0), torch.ones(1, 6, 4), 3)": (
            "ValueError: expected 6 image tokens.*got 0"
        ),
        "splice(torch.ones(1, 9, 4), ids(6), torch.ones(1, 6, 5), 3)": (
            "ValueError: expected features (M, N, 4), got (1, 6, 5)"
        ),
    },
    "place": {
        "place(torch.tensor([[False, True], [False, False]]))": (
            "ValueError: expected a real token in every row, row 1 has none"
        ),
    },
    "LLaVA": {
        "model(40)": "ValueError: expected image_token_id in a vocabulary of 40, got 40",
        "model(-1)": "ValueError: expected image_token_id in a vocabulary of 40, got -1",
        "LLaVA(vision, nn.Identity(), Transformer(None, **words), image_token_id=3)": (
            "ValueError: image_token_id"
        ),
        "net(ids(6), images(2))": "ValueError: expected 12 image tokens for 2 pictures of 6, got 6",
        "net(ids(6))": "ValueError: expected pictures for 6 image tokens, got none",
        "net(ids(6), images(1), features=torch.ones(1, 6, 20))": (
            "ValueError: pixel_values or features, got both"
        ),
        "net(torch.empty(1, 0, dtype=torch.long))": "ValueError: input_ids (B, T) with T >= 1, got (1, 0)",
        "net(torch.ones(5, dtype=torch.long))": "ValueError: input_ids (B, T) with T >= 1, got (5,)",
        "net(ids(6, total=21), images(1))": "ValueError: expected at most max_positions 20 tokens, got 21",
        "net(ids(6), images(1), torch.ones(1, 8))": "ValueError: expected attention_mask (1, 9), got (1, 8)",
        "net(ids(6), images(1), torch.zeros(1, 9))": "ValueError: a real token in every row, row 0 has none",
        "net.generate(ids(6), 13, pixel_values=images(1))": (
            "ValueError: max_tokens <= max_positions 20, got 21"
        ),
        "net.generate(ids(6), 0, pixel_values=images(1))": "ValueError: expected max_new_tokens >= 1, got 0",
        "net.generate(ids(6), 2)": "ValueError: expected pictures for 6 image tokens, got none",
        "net.generate(ids(6, 6), 2, pixel_values=images(2), attention_mask=ids(9, 7) == 3)": (
            "ValueError: expected a mask (2, 9) of prompts padded on the left"
        ),
    },
    "loss": {
        "loss(torch.ones(1, 3, 5), torch.tensor([[2, -100, -100]]))": (
            "ValueError: expected a label other than -100 after the first token, got none"
        ),
        "loss(torch.ones(1, 3, 5), torch.tensor([[2, 1]]))": (
            "ValueError: expected logits (B, T, V) and labels"
        ),
    },
    "expand": {"expand([3, 4], 3, 0)": "ValueError: expected num_tokens >= 1, got 0"},
    "collate": {
        "collate([[([5], [6])], []], prefix=[1], pad_id=0)": (
            "ValueError: expected a turn in every dialogue, dialogue 1 has none"
        ),
        "collate([[([5], [6]), ([], [6])]], prefix=[1], pad_id=0)": (
            "ValueError: expected words in prompt and answer, turn 2 of dialogue 0 has none"
        ),
        "collate([[([5], [])]], prefix=[1], pad_id=0)": "ValueError: turn 1 of dialogue 0 has none",
        "collate([], prefix=[1], pad_id=0)": "ValueError: expected at least one dialogue, got none",
        "collate([[([5], [6])]], prefix=[1], pad_id=0, side='top')": (
            "ValueError: one of left, right, got 'top'"
        ),
    },
    "set_stage": {"set_stage(net, 3)": "ValueError: expected stage 1 or 2, got 3"},
    "from_transformers": {
        "from_transformers('llava')": "TypeError: expected LlavaForConditionalGeneration, got str",
        "from_transformers(net)": "TypeError: expected LlavaForConditionalGeneration, got LLaVA",
    },
    "vision_from": {"vision_from(vision)": "TypeError: expected CLIPVisionModel, got ImageTower"},
}
WITHOUT_CASE = {
    "AXES": "a table",
    "Batch": "a record",
    "FrozenInEval": "takes no options",
    "IGNORE": "a number",
    "PROMPTS": "a table",
    "check_text": "asked through LLaVA",
    "describe": "reads three attributes",
    "detail": "passes on the caption it is given",
    "language_from": "a part of from_transformers, whose refusals are tested above",
    "locations": "asks about what it is given, or nothing",
    "reasoning": "asks about what it is given, or nothing",
    "small_llava": "fixes every option",
}

test_bad_input_is_refused, test_every_name_is_given_bad_input = refusals.tests(
    llava, SETUP, CASES, WITHOUT_CASE
)
