"""What `mmscratch.qformer` promises beside equality with its references (`tests/parity/qformer.py`)."""

from __future__ import annotations

import math

import pytest
import refusals
import torch
import torch.nn.functional as F
from torch import Tensor

from mmscratch import qformer
from mmscratch.qformer import (
    Blip2,
    ImageTextQFormer,
    QFormer,
    attention_mask,
    cross_attention,
    hard_negatives,
    itc_loss,
    itg_loss,
    itm_loss,
    pretraining_losses,
    read_text,
    similarity,
    write,
)
from mmscratch.transformer import Transformer, generate

SIZES = dict(depth=3, num_heads=3, context_dim=10, mlp_dim=20, vocab_size=30, max_positions=9)
Q, N, T, CLS, DEC, EOS = 4, 6, 7, 1, 2, 3


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def body(**options) -> QFormer:
    return QFormer(12, **SIZES | options).eval()


def model(**options) -> ImageTextQFormer:
    return ImageTextQFormer(body(), **dict(num_queries=Q, embed_dim=5) | options).eval()


def inputs(batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Context (B, N, C), ids (B, T) that begin with [CLS], and which of them are there."""
    lengths = torch.tensor([T, T - 3, T - 1, 2, T, T][:batch])
    ids = torch.randint(4, 30, (batch, T))
    ids[:, 0] = CLS
    return torch.randn(batch, N, 10), ids, torch.arange(T) < lengths[:, None]


def other_word(ids: Tensor, place: int) -> Tensor:
    changed = ids.clone()
    changed[:, place] = (ids[:, place] - 4 + 1) % 26 + 4
    return changed


# -- masks


def slow_mask(kind: str, num_queries: int, real: list[bool]) -> list[list[bool]]:
    """The three rules, cell by cell."""

    def may(row: int, col: int) -> bool:
        row_is_query, col_is_query = row < num_queries, col < num_queries
        if not col_is_query and not real[col - num_queries]:
            return False
        if kind == "itm" or row_is_query and col_is_query:
            return True
        if row_is_query:
            return False
        if col_is_query:
            return kind == "itg"
        return kind == "itc" or col <= row

    S = num_queries + len(real)
    return [[may(row, col) for col in range(S)] for row in range(S)]


@pytest.mark.parametrize("kind", ["itc", "itm", "itg"])
@pytest.mark.parametrize(("num_queries", "tokens"), [(1, 1), (3, 5), (5, 2)])
def test_each_mask_follows_its_rule_cell_by_cell(kind, num_queries, tokens):
    real = torch.rand(4, tokens) < 0.6
    real[:, 0] = True
    found = attention_mask(kind, num_queries, real)
    assert found.dtype == torch.bool
    assert found.tolist() == [slow_mask(kind, num_queries, row) for row in real.tolist()]


def test_padding_on_the_left_hides_in_every_mask_and_no_row_is_empty():
    real = torch.tensor([[False, False, True, True]])
    for kind in ("itc", "itm", "itg"):
        found = attention_mask(kind, 2, real)
        assert not found[..., 2:4].any()
        looks = found.any(dim=-1)[0]
        assert looks[:2].all() and looks[4:].all()


@pytest.mark.parametrize("place", range(T))
def test_a_changed_word_reaches_the_queries_only_under_the_full_mask(place):
    net = model()
    context, ids, _ = inputs()
    real = torch.ones_like(ids, dtype=torch.bool)
    for kind in ("itc", "itg", "itm"):
        before, _ = net.together(kind, context, ids, real)
        after, _ = net.together(kind, context, other_word(ids, place), real)
        if kind == "itm":
            assert ((before - after).abs().amax(dim=(1, 2)) > 1e-4).all()
        else:
            assert torch.equal(before, after)


@pytest.mark.parametrize("place", range(1, T))
def test_a_changed_word_reaches_only_later_words_where_text_is_written(place):
    net = model()
    context, ids, _ = inputs()
    real = torch.ones_like(ids, dtype=torch.bool)
    before, after = net.decode(context, ids, real), net.decode(context, other_word(ids, place), real)
    assert torch.equal(before[:, :place], after[:, :place])
    assert ((before - after).abs().amax(dim=2)[:, place:] > 1e-5).all()


def test_pictures_reach_text_only_where_the_mask_lets_queries_through():
    net = model()
    context, ids, real = inputs()
    for kind, changes in (("itc", False), ("itg", True), ("itm", True)):
        before = net.together(kind, context, ids, real)[1][real]
        after = net.together(kind, context + 1, ids, real)[1][real]
        assert torch.equal(before, after) is not changes


def test_nobody_reads_padding():
    net = model()
    context, ids, real = inputs()
    changed = torch.where(real, ids, 29)
    for kind in ("itc", "itm", "itg"):
        before, after = net.together(kind, context, ids, real), net.together(kind, context, changed, real)
        assert torch.equal(before[0], after[0]) and torch.equal(before[1][real], after[1][real])
        short = int(real[1].sum())
        alone = net.together(kind, context[1:2], ids[1:2, :short], real[1:2, :short])
        torch.testing.assert_close(alone[0], before[0][1:2])
        torch.testing.assert_close(alone[1], before[1][1:2, :short])


def test_one_pass_under_the_contrastive_mask_is_two_passes_apart():
    net = model()
    context, ids, real = inputs()
    queries, text = net.together("itc", context, ids, real)
    torch.testing.assert_close(queries, net.body(net.queries, context))
    torch.testing.assert_close(text[real], net.body.encode_text(ids, mask=real)[real])


# -- the body


@pytest.mark.parametrize("patches", [1, 5, 64])
def test_the_number_of_states_is_the_number_of_queries_whatever_the_picture(patches):
    net = body()
    assert net(torch.randn(1, 4, 12), torch.randn(3, patches, 10)).shape == (3, 4, 12)
    queries, text = net(torch.randn(3, 2, 12), torch.randn(3, patches, 10), torch.ones(3, 9).long())
    assert queries.shape == (3, 2, 12) and text.shape == (3, 9, 12)


def test_order_of_patches_does_not_matter_and_order_of_queries_moves_the_states():
    net, queries, context = body(), torch.randn(1, 4, 12), torch.randn(3, 6, 10)
    states, order = net(queries, context), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(net(queries, context[:, torch.randperm(6)]), states)
    torch.testing.assert_close(net(queries[:, order], context), states[:, order])


def test_equal_queries_stay_equal():
    states = body()(torch.zeros(1, 4, 12), torch.randn(3, 6, 10))
    torch.testing.assert_close(states, states[:, :1].expand_as(states))


@pytest.mark.parametrize(
    ("frequency", "expected"), [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (3, [0, 3]), (9, [0])]
)
def test_cross_attention_stands_in_every_nth_block_from_the_first(frequency, expected):
    net = body(depth=5, cross_attention_frequency=frequency)
    assert [i for i, block in enumerate(net.blocks) if block.cross is not None] == expected


def test_missing_patches_are_not_read():
    net, queries, context = body(), torch.randn(1, 4, 12), torch.randn(3, 6, 10)
    there = torch.tensor([[True] * 4 + [False] * 2]).expand(3, 6)
    other = torch.where(there[..., None], context, 5.0)
    states = net(queries, context, context_mask=there)
    assert torch.equal(net(queries, other, context_mask=there), states)
    torch.testing.assert_close(net(queries, context[:, :4]), states)


def test_words_and_their_embeddings_give_the_same_states():
    net, (context, ids, _) = body(), inputs()
    queries = torch.randn(1, 4, 12)
    for a, b in zip(
        net(queries, context, ids), net(queries, context, embeddings=read_text(net, ids, None)), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_a_row_of_real_tokens_is_the_full_mask():
    net, (context, ids, real) = body(), inputs()
    queries = torch.randn(1, Q, 12)
    flat = F.pad(real, (Q, 0), value=True)
    a = net(queries, context, ids, mask=flat)
    b = net(queries, context, ids, mask=attention_mask("itm", Q, real))
    torch.testing.assert_close(a[0], b[0])
    torch.testing.assert_close(a[1][real], b[1][real])


def test_looks_sum_to_one_and_leave_no_hook_behind():
    net, (context, ids, _) = body(), inputs()
    queries = torch.randn(1, 4, 12)
    looks = cross_attention(net, queries, context)
    assert looks.shape == (3, 2, 3, 4, N)  # blocks 0 and 2 of 3
    torch.testing.assert_close(looks.sum(-1), torch.ones(3, 2, 3, 4))
    there = torch.tensor([[True] * 4 + [False] * 2]).expand(3, 6)
    assert not cross_attention(net, queries, context, ids, context_mask=there)[..., 4:].any()
    assert not any(block.cross._forward_pre_hooks for block in net.blocks if block.cross is not None)
    with pytest.raises(ValueError, match="width|expected"):
        cross_attention(net, queries, context[..., :3])
    assert not any(block.cross._forward_pre_hooks for block in net.blocks if block.cross is not None)


def test_dropout_acts_in_training_only():
    net = QFormer(12, **SIZES, dropout=0.3)
    queries, context = torch.randn(1, 4, 12), torch.randn(3, 6, 10)
    assert not torch.equal(net(queries, context), net(queries, context))
    net.eval()
    assert torch.equal(net(queries, context), net(queries, context))


# -- heads and losses


def test_features_have_length_one_and_the_match_is_a_mean_over_queries():
    net, (context, ids, real) = model(), inputs()
    image, text = net.encode_image(context), net.encode_text(ids, real)
    assert image.shape == (3, Q, 5) and text.shape == (3, 5)
    torch.testing.assert_close(image.norm(dim=-1), torch.ones(3, Q))
    torch.testing.assert_close(text.norm(dim=-1), torch.ones(3))
    states, _ = net.together("itm", context, ids, real)
    torch.testing.assert_close(net.match(context, ids, real), net.match_head(states.mean(dim=1)))


def test_similarity_takes_the_best_query_of_each_picture_for_each_text():
    image, text = F.normalize(torch.randn(3, 4, 5), dim=-1), F.normalize(torch.randn(6, 5), dim=-1)
    expected = [[max(float(q @ t) for q in picture) for t in text] for picture in image]
    torch.testing.assert_close(similarity(image, text), torch.tensor(expected))


def test_the_contrastive_loss_is_two_cross_entropies_of_the_best_query():
    image, text = F.normalize(torch.randn(6, 4, 5), dim=-1), F.normalize(torch.randn(6, 5), dim=-1)
    logits, match = 9.0 * torch.einsum("bqe,te->btq", image, text).amax(-1), torch.arange(6)
    expected = (F.cross_entropy(logits, match) + F.cross_entropy(logits.T, match)) / 2
    torch.testing.assert_close(itc_loss(image, text, 9.0), expected)
    order = torch.randperm(6)
    torch.testing.assert_close(itc_loss(image[order], text[order], torch.tensor(9.0)), expected)
    torch.testing.assert_close(itc_loss(image[:, torch.randperm(4)], text, 9.0), expected)


def test_with_one_query_contrast_is_clips():
    from mmscratch.clip import clip_loss

    image, text = F.normalize(torch.randn(6, 5), dim=-1), F.normalize(torch.randn(6, 5), dim=-1)
    torch.testing.assert_close(itc_loss(image[:, None], text, 9.0), clip_loss(image, text, 9.0))
    same = torch.eye(6, dtype=torch.bool)
    same[1, 4] = same[4, 1] = True
    torch.testing.assert_close(
        itc_loss(image[:, None], text, 9.0, same=same), clip_loss(image, text, 9.0, same=same)
    )


def test_only_the_best_query_learns_from_a_pair():
    image = F.normalize(torch.randn(2, 4, 5), dim=-1).requires_grad_()
    text = F.normalize(torch.randn(2, 5), dim=-1)
    similarity(image, text)[0, 0].backward()
    assert (image.grad.abs().amax(dim=-1) > 0).sum() == 1


def test_hard_negatives_are_never_the_own_pair_nor_one_that_also_matches():
    same = torch.zeros(6, 6, dtype=torch.bool)
    same[0, 3] = same[3, 0] = True
    own = torch.arange(6)
    for draw in range(200):
        g = torch.Generator().manual_seed(draw)
        texts, images = hard_negatives(torch.randn(6, 6, generator=g), same=same, generator=g)
        assert (texts != own).all() and (images != own).all()
        assert not same[own, texts].any() and not same[images, own].any()


def test_hard_negatives_follow_the_scores_of_their_own_direction():
    scores = torch.full((3, 3), -50.0)
    scores[0, 2] = scores[1, 0] = scores[2, 1] = 50.0
    texts, images = hard_negatives(scores)
    assert texts.tolist() == [2, 0, 1] and images.tolist() == [1, 2, 0]
    draws = torch.stack(
        [hard_negatives(torch.tensor([[0.0, 1.0, 0.0], [0, 0, 0], [0, 0, 0]]))[0] for _ in range(3000)]
    )
    share = (draws[:, 0] == 1).float().mean().item()
    assert share == pytest.approx(math.e / (math.e + 1), abs=0.04)


def test_the_matching_loss_costs_log_two_for_no_opinion():
    assert itm_loss(torch.zeros(4, 2), torch.tensor([True, False, True, False])).item() == pytest.approx(
        math.log(2)
    )
    sure = torch.tensor([[-20.0, 20.0], [20.0, -20.0]])
    assert (
        itm_loss(sure, torch.tensor([True, False])).item()
        < 1e-6
        < itm_loss(sure, torch.tensor([False, True]))
    )


def test_the_writing_loss_reads_neither_padding_nor_the_first_token():
    logits, ids = torch.randn(2, 5, 9), torch.randint(0, 9, (2, 5))
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    each = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    expected = each[mask[:, 1:]].mean()
    torch.testing.assert_close(itg_loss(logits, ids, mask), expected)
    torch.testing.assert_close(itg_loss(logits, torch.where(mask, ids, 0), mask), expected)


def test_each_task_gives_its_loss_and_trains_what_it_uses():
    net, (context, ids, real) = model(), inputs(6)
    losses = pretraining_losses(net, context, ids, real, dec_id=DEC)
    assert list(losses) == ["itc", "itm", "itg"]
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    for task, unused in (("itc", ("match", "word")), ("itg", ("match", "text_head", "image_head"))):
        net = model()
        found = pretraining_losses(net, context, ids, real, dec_id=DEC, tasks=[task])
        assert list(found) == [task]
        found[task].backward()
        assert all(p.grad is None for name, p in net.named_parameters() if name.startswith(unused))


def test_writing_replaces_the_first_token_by_its_own():
    net, (context, ids, real) = model(), inputs()
    found = pretraining_losses(net, context, ids, real, dec_id=DEC, tasks=["itg"])["itg"]
    other = ids.clone()
    other[:, 0] = DEC
    torch.testing.assert_close(found, itg_loss(net.decode(context, other, real), other, real))
    assert (ids[:, 0] == CLS).all()


def test_captions_are_the_likeliest_word_by_word_and_stop_at_their_end():
    net, (context, _, _) = model(), inputs()
    ids = write(net, context, 5, dec_id=DEC, eos_id=EOS)
    assert ids.shape[1] <= 6 and (ids[:, 0] == DEC).all()
    for row in range(3):
        alone = write(net, context[row : row + 1], 5, dec_id=DEC, eos_id=EOS)[0]
        assert torch.equal(ids[row, : len(alone)], alone) and (ids[row, len(alone) :] == EOS).all()
    with torch.no_grad():
        net.word_head.bias[EOS] = 100.0
    assert write(net, context, 5, dec_id=DEC, eos_id=EOS).tolist() == [[DEC, EOS]] * 3


# -- stage 2


def blip2() -> Blip2:
    language = Transformer(30, dim=8, depth=2, num_heads=2, max_positions=20, dropout=0.2)
    return Blip2(body(), torch.randn(1, Q, 12), language)


def test_a_step_changes_the_bridge_and_not_the_language_model():
    net, (context, ids, _) = blip2().train(), inputs()
    assert not net.language.training and net.body.training
    before = {name: p.clone() for name, p in net.named_parameters()}
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.01)
    F.cross_entropy(net(context, ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    optimiser.step()
    changed = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert not any(name.startswith("language.") for name in changed)
    text = ("body.embed", "body.positions", "body.blocks")  # text has no part in stage 2 without instructions
    assert {"queries", "project.weight"} <= changed
    assert all(
        name in changed or name.startswith(text) for name in before if not name.startswith("language.")
    )


def test_the_prefix_stands_before_the_words_and_generation_reads_it():
    net, (context, ids, _) = blip2().eval(), inputs()
    with torch.no_grad():
        prefix = net.prefix(context)
        assert prefix.shape == (3, Q, 8)
        whole = net.language(embeddings=torch.cat([prefix, net.language.embed(ids)], dim=1))
        torch.testing.assert_close(net(context, ids), whole[:, Q:])
        start = torch.cat([prefix, net.language.embed(ids[:, :1])], dim=1)
        stand_ins = torch.cat([torch.zeros(3, Q, dtype=torch.long), ids[:, :1]], dim=1)
        said = generate(net.language, stand_ins, 1, embeddings=start)[:, -1]
    assert torch.equal(said, net(context, ids[:, :1])[:, -1].argmax(-1))


def test_an_instruction_changes_what_the_queries_bring_and_padding_does_not():
    net, (context, ids, real) = blip2().eval(), inputs()
    plain, told = net.prefix(context), net.prefix(context, ids, real)
    assert told.shape == plain.shape and not torch.allclose(told, plain)
    padded = torch.where(real, ids, 29)
    assert torch.equal(net.prefix(context, padded, real), told)
    torch.testing.assert_close(net.prefix(context, ids), net.prefix(context, ids, torch.ones_like(real)))


def test_the_queries_of_stage_1_are_copied_not_shared():
    first, net = model(), blip2()
    second = Blip2(first.body, first.queries, net.language)
    with torch.no_grad():
        second.queries.add_(1.0)
    assert not torch.equal(first.queries, second.queries) and second.body is first.body


# -- loading


def test_a_checkpoint_in_the_hubs_format_loads_and_answers_the_same(tmp_path):
    from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

    from mmscratch.kit import reference

    config = InstructBlipQFormerConfig(
        vocab_size=30, hidden_size=12, num_hidden_layers=3, num_attention_heads=3, intermediate_size=20,
        encoder_hidden_size=10, max_position_embeddings=9,
    )  # fmt: skip
    reference.randomise(InstructBlipQFormerModel(config)).save_pretrained(tmp_path)
    theirs = reference.pretrained(tmp_path, cls="InstructBlipQFormerModel")
    ours = qformer.from_transformers(theirs)
    context, ids, real = inputs()
    queries, flat = torch.randn(3, Q, 12), F.pad(real, (Q, 0), value=True)
    with torch.no_grad():
        found = torch.cat(ours(queries, context, ids, mask=flat), dim=1)
        expected = theirs(
            input_ids=ids, query_embeds=queries, attention_mask=flat.long(), encoder_hidden_states=context
        ).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_loading_follows_the_mode_and_precision_of_the_reference():
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

    config = Blip2QFormerConfig(
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        encoder_hidden_size=10,
    )
    theirs = Blip2QFormerModel(config)
    assert qformer.from_transformers(theirs.train()).training
    ours = qformer.from_transformers(theirs.eval().double())
    assert not ours.training and next(ours.parameters()).dtype == torch.float64
    assert ours.embed is None and ours.blocks[0].mlp_text is None


# -- wrong use

SETUP = """
import json, sys, torch
from torch import nn, ones, randn, zeros, tensor
from mmscratch.qformer import *
from mmscratch.transformer import Transformer
SIZES = dict(depth=2, num_heads=3, context_dim=10, mlp_dim=20, vocab_size=30, max_positions=9)
body, bare = QFormer(12, **SIZES), QFormer(12, **SIZES | dict(vocab_size=None))
mute = QFormer(12, **SIZES | dict(vocab_size=None, text=False))
q, x = randn(1, 4, 12), randn(3, 6, 10)
ids, real = ones(3, 7).long(), ones(3, 7).bool()
model = ImageTextQFormer(body, num_queries=4, embed_dim=5)
silent = ImageTextQFormer(body, num_queries=4, embed_dim=5, writes=False)
none = real.clone()
none[1] = False
language = Transformer(30, dim=8, depth=1, num_heads=2)
blip = Blip2(body, q, language)
def tiny(name, **options):
    import transformers
    sizes = dict(hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=8)
    return getattr(transformers, name + "Model")(getattr(transformers, name + "Config")(**sizes | options))
"""
CASES = {
    "attention_mask": {
        "attention_mask('itx', 4, real)": "ValueError: kind .*itc, itm, itg, got 'itx'",
        "attention_mask('itc', 0, real)": "ValueError: expected num_queries >= 1, got 0",
        "attention_mask('itc', 4, none)": "ValueError: at least one token in every text, row 1 has none",
        "attention_mask('itg', 4, real[:, :0])": "ValueError: at least one token in every text, row 0",
        "attention_mask('itm', 4, real.long())": "ValueError: boolean text_mask (B, T), got torch.int64",
        "attention_mask('itm', 4, real[0])": "ValueError: boolean text_mask (B, T), got torch.bool (7,)",
    },
    "check_text": {"check_text(none)": "ValueError: row 1 has none"},
    "check_queries": {
        "check_queries(q, x[0], 12)": "ValueError: expected context (B, N, C), got (6, 10)",
        "check_queries(q[:, :0], x, 12)": "ValueError: at least one query, got (1, 0, 12)",
    },
    "QFormerConfig": {
        "QFormerConfig(dim=12, depth=1, num_heads=3, context_dim=4, cross_attention_frequency=0)": (
            "ValueError: expected cross_attention_frequency >= 1, got 0"
        ),
        "QFormerConfig(dim=12, depth=1, num_heads=3, context_dim=4, text=False, vocab_size=9)": (
            "ValueError: text=True with a vocab_size"
        ),
    },
    "QFormer": {
        "QFormer(12, **SIZES | dict(num_heads=5))": "ValueError: dim 12 is not a multiple of num_heads 5",
        "QFormer(12, **SIZES | dict(act='mish'))": "ValueError: act .*got 'mish'",
        "body(q[:, :0], x)": "ValueError: at least one query, got (1, 0, 12)",
        "body(q[..., :5], x)": "ValueError: expected queries (3 or 1, Q, 12), got (1, 4, 5)",
        "body(q.expand(2, -1, -1), x)": "ValueError: expected queries (3 or 1, Q, 12), got (2, 4, 12)",
        "body(q, x[..., :7])": "ValueError: expected context of shape (B, S, 10), got (3, 6, 7)",
        "body(q, x, ids[:, :0])": "ValueError: with T >= 1, got (3, 0)",
        "body(q, x, ones(3, 10).long())": "ValueError: at most max_positions 9 tokens, got 10",
        "body(q, x, ids[:2])": "ValueError: a text for each of 3 pictures, got 2",
        "body(q, x, ids, embeddings=randn(3, 7, 12))": "ValueError: expected either ids or embeddings",
        "body(q, x, embeddings=randn(3, 7, 11))": "ValueError: embeddings (B, T, 12), got (3, 7, 11)",
        "body(q, x, ids, mask=real)": "ValueError: boolean mask (3, 11) or (3, 11, 11), got",
        "body(q, x, context_mask=ones(3, 5).bool())": "ValueError: a boolean mask (3, 6), got .*(3, 5)",
        "body.encode_text()": "ValueError: expected either ids or embeddings",
        "bare(q, x, ids)": "ValueError: expected embeddings, without a vocabulary, got text",
        "mute(q, x, embeddings=randn(3, 7, 12))": "ValueError: expected no text, got text",
    },
    "small_qformer": {
        "small_qformer(9, num_queries=0)": "ValueError: expected num_queries >= 1, got 0",
    },
    "ImageTextQFormer": {
        "ImageTextQFormer(body, num_queries=0, embed_dim=5)": "ValueError: expected num_queries >= 1, got 0",
        "ImageTextQFormer(bare, num_queries=2, embed_dim=5)": "ValueError: with a vocab_size, got None",
        "model.encode_text(ids, none)": "ValueError: row 1 has none",
        "model.match(x, ids, none)": "ValueError: row 1 has none",
        "model.match(x, ids, real[:, :5])": "ValueError: boolean mask (3, 11) or (3, 11, 11)",
        "silent.decode(x, ids, real)": "ValueError: expected writes=True",
    },
    "similarity": {
        "similarity(randn(3, 5), randn(3, 5))": "ValueError: image (B, Q, E) and text (B', E), got (3, 5)",
        "similarity(randn(3, 2, 4), randn(3, 5))": "ValueError: got (3, 2, 4) and (3, 5)",
    },
    "itc_loss": {
        "itc_loss(randn(3, 2, 5), randn(4, 5), 1.0)": "ValueError: as many images as texts, got 3 and 4",
        "itc_loss(randn(3, 2, 5), randn(3, 5), 1.0, same=ones(3, 3))": "ValueError: boolean same (3, 3), got",
    },
    "check_same": {
        "check_same(ones(2, 3).bool(), randn(3, 3))": "ValueError: boolean same (3, 3), got .*(2, 3)"
    },
    "hard_negatives": {
        "hard_negatives(randn(3, 4))": "ValueError: expected scores (B, B), got (3, 4)",
        "hard_negatives(randn(1, 1))": "ValueError: a wrong partner for every pair",
        "hard_negatives(randn(3, 3), same=ones(3, 3).bool())": "ValueError: a wrong partner for every pair",
    },
    "itm_loss": {
        "itm_loss(randn(3, 4, 2), ones(3).bool())": "ValueError: logits (B, 2) and matches (B,), got",
        "itm_loss(randn(3, 2), ones(4).bool())": "ValueError: got (3, 2) and (4,)",
    },
    "itg_loss": {"itg_loss(randn(3, 6, 30), ids, real)": "ValueError: logits (B, T, V) and labels (B, T)"},
    "pretraining_losses": {
        "pretraining_losses(model, x, ids, none, dec_id=2)": "ValueError: row 1 has none",
        "pretraining_losses(model, x, ids, real, dec_id=2, tasks=['itx'])": (
            "ValueError: tasks .*itc, itm, itg, got 'itx'"
        ),
        "pretraining_losses(model, x[:1], ids[:1], real[:1], dec_id=2)": "ValueError: a wrong partner",
    },
    "write": {
        "write(silent, x, 3, dec_id=2, eos_id=3)": "ValueError: expected writes=True",
        "write(model, x, 0, dec_id=2, eos_id=3)": "ValueError: expected 1 <= max_new_tokens <= 9, got 0",
        "write(model, x, 10, dec_id=2, eos_id=3)": "ValueError: expected 1 <= max_new_tokens <= 9, got 10",
    },
    "Blip2": {
        "Blip2(body, q[..., :5], language)": "ValueError: expected queries (1, Q, 12), got (1, 4, 5)",
        "blip.prefix(x, ids, none)": "ValueError: row 1 has none",
        "blip.prefix(x, ones(3, 10).long())": "ValueError: at most max_positions 9 tokens, got 10",
        "blip(x, ids[:, :0])": "ValueError: expected ids (B, T) with T >= 1, got (3, 0)",
    },
    "cross_attention": {"cross_attention(body, q[:, :0], x)": "ValueError: at least one query"},
    "from_transformers": {
        "from_transformers(nn.Linear(2, 2))": "TypeError: Blip2QFormerModel or .*, got Linear",
        "from_transformers(tiny('Blip2QFormer', hidden_act='mish'))": "ValueError: act .*got 'mish'",
    },
}
WITHOUT_CASE = {
    "FROM_RETRIEVAL": "a table",
    "FROM_TRANSFORMERS": "a table",
    "QFormerBlock": "called by QFormer, which checks",
    "read_text": "called by QFormer: see its cases",
    "join_projections": "changes the weights it finds",
}

test_bad_input_is_refused, test_every_name_is_given_bad_input = refusals.tests(
    qformer, SETUP, CASES, WITHOUT_CASE
)
