"""What `mmscratch.transformer` promises beyond equality with the libraries (tests/test_parity.py)."""

from __future__ import annotations

import itertools
import math

import pytest
import refusals
import torch
import torch.nn.functional as F
from torch import nn

from mmscratch import transformer
from mmscratch.transformer import KVCache, Transformer, generate

# no two sizes are equal, so that an exchanged axis shows
SMALL = dict(dim=24, depth=2, num_heads=4, num_kv_heads=2, mlp_dim=20)
WORDS = 13


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode with every learned number redrawn: no bias hides at zero."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.3)
    return model.eval()


def small(vocab_size: int | None = WORDS, **options) -> Transformer:
    return lively(Transformer(vocab_size, **SMALL | options))


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def words(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(WORDS, shape, generator=torch.Generator().manual_seed(seed))


def coins(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.6


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(ours: torch.Tensor, theirs: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


KINDS = {  # every position scheme and every part, so that what holds for all is tried on all
    "llama": {},
    "gpt-2": dict(
        position="learned", max_positions=16, norm="layer", act="gelu", gated=False, num_kv_heads=None,
        qkv_bias=True, out_bias=True, mlp_bias=True, tie_embeddings=True,
    ),
    "2017": dict(
        position="sinusoidal", norm="layer", act="relu", gated=False, post_norm=True, final_norm=False,
    ),
    "wide heads, layer scale": dict(head_dim=10, layer_scale=0.5, num_kv_heads=1),
    "without positions": dict(position="none"),
}  # fmt: skip
kinds = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)

# -- attention


def allowed(mask: torch.Tensor | None, causal: bool, T: int, S: int) -> torch.Tensor:
    """Who may look where, pair by pair: the last query stands at the last key."""
    pairs = torch.ones(3, 1, T, S, dtype=torch.bool) if mask is None else mask.expand(3, -1, T, S).clone()
    for t, s in itertools.product(range(T), range(S)):
        if causal and s - (S - T) > t:
            pairs[:, :, t, s] = False
    return pairs


MASKS = {
    "none": None,
    "of keys": coins(3, 1, 1, 7) | (torch.arange(7) == 0),
    "of pairs, for all heads": coins(3, 1, 5, 7),
    "of pairs, for each head": coins(3, 4, 5, 7),
    "of pairs, for the whole batch": coins(1, 1, 5, 7),
}


@pytest.mark.parametrize("heads_of_keys", [4, 2, 1])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_attention_is_a_softmax_over_the_keys_that_a_query_may_see(heads_of_keys, causal, mask):
    q, k, v = noise(3, 4, 5, 6), noise(3, heads_of_keys, 7, 6, seed=2), noise(3, heads_of_keys, 7, 6, seed=3)
    found = transformer.attend(q, k, v, mask, causal=causal)
    weights = transformer.attention_weights(q, k, mask, causal=causal)
    may = allowed(mask, causal, 5, 7).expand(3, 4, 5, 7)
    for b, h, t in itertools.product(range(3), range(4), range(5)):
        group = h // (4 // heads_of_keys)
        seen = may[b, h, t].nonzero()[:, 0]
        scores = (
            torch.stack([q[b, h, t] @ k[b, group, s] / math.sqrt(6) for s in seen]) if len(seen) else None
        )
        share = (
            torch.zeros(7)
            if scores is None
            else torch.zeros(7).index_put((seen,), scores.exp() / scores.exp().sum())
        )
        close(weights[b, h, t], share)
        close(found[b, h, t], share @ v[b, group])


@pytest.mark.parametrize(("T", "S"), [(1, 1), (1, 6), (2, 6), (6, 6), (6, 4)])
def test_the_last_query_stands_at_the_last_key(T, S):
    q, k, v = noise(2, 3, T, 4), noise(2, 3, S, 4, seed=2), noise(2, 3, S, 4, seed=3)
    weights = transformer.attention_weights(q, k, causal=True)
    assert torch.equal(weights > 0, torch.ones(T, S).tril(S - T).bool().expand(2, 3, T, S))
    close(transformer.attend(q, k, v, causal=True), weights @ v)


def test_rows_of_weights_sum_to_one_or_are_zero_and_give_finite_gradients():
    q, k, v = (noise(2, 3, 5, 4, seed=seed).requires_grad_() for seed in range(3))
    mask = coins(2, 1, 5, 5)
    mask[0, 0, 1] = False
    weights = transformer.attention_weights(q, k, mask)
    expected = torch.ones(2, 3, 5)
    expected[0, :, 1] = 0
    close(weights.sum(-1), expected)
    found = transformer.attend(q, k, v, mask)
    assert not found[0, :, 1].any()
    gradients = torch.autograd.grad((found * noise(2, 3, 5, 4)).sum(), (q, k, v))
    assert all(g.isfinite().all() and g.any() for g in gradients)


def test_an_attention_module_is_its_weights_times_the_values():
    attention = lively(transformer.Attention(24, num_heads=4, num_kv_heads=2, head_dim=10))
    x, angles, mask = noise(3, 5, 24), transformer.rope(torch.arange(5), 10), coins(3, 1, 5, 5)
    weights = attention.weights(x, angles, mask, causal=True)
    values = attention.project(x, angles)[2].repeat_interleave(2, dim=1)
    expected = attention.out((weights @ values).transpose(1, 2).flatten(2))
    close(attention(x, angles, mask, causal=True), expected)

    cross = lively(transformer.CrossAttention(24, num_heads=4, context_dim=9))
    context, mask = noise(3, 7, 9), coins(3, 1, 1, 7)
    values = cross.project(x, context)[2]
    expected = cross.out((cross.weights(x, context, mask) @ values).transpose(1, 2).flatten(2))
    close(cross(x, context, mask), expected)


def test_attention_dropout_acts_in_training_only():
    for options in (dict(attention_dropout=0.5), dict(dropout=0.5)):
        model, ids = small(**options), words(2, 7)
        assert torch.equal(model(ids), model(ids))
        model.train()
        assert not torch.equal(model(ids), model(ids))


# -- positions


def test_rotary_scores_depend_on_the_offset_alone_and_turning_keeps_norms():
    q, k = noise(1, 8), noise(1, 8, seed=2)
    angles = transformer.rope(torch.arange(12), 8)
    turned = transformer.rotate(q.expand(12, 8), angles), transformer.rotate(k.expand(12, 8), angles)
    close(turned[0].norm(dim=-1), q.norm().expand(12))
    scores = turned[0] @ turned[1].T
    offsets = [scores.diagonal(offset) for offset in range(-11, 12)]
    assert max((same.max() - same.min()).item() for same in offsets) < 1e-5
    assert torch.stack([same[0] for same in offsets]).unique().numel() == 23
    close(transformer.rotate(q, angles[:, :1]), q)  # position 0 stays


def test_rotary_angles_turn_pairs_half_a_head_apart():
    positions, theta = torch.tensor([[0.0, 1.0, 5.0], [2.0, 3.0, 100.0]]), 50.0
    x = noise(2, 3, 6)
    angles = transformer.rope(positions, 6, theta=theta)
    assert angles.shape == (2, 2, 3, 6)
    found = transformer.rotate(x, angles)
    for i in range(3):
        turn = torch.polar(torch.ones(2, 3), positions * theta ** (-2 * i / 6))
        turned = torch.complex(x[..., i], x[..., i + 3]) * turn
        close(found[..., i], turned.real)
        close(found[..., i + 3], turned.imag)


def test_sinusoidal_codes_follow_the_formula():
    positions = torch.tensor([[0, 3], [7, 50]])
    codes = transformer.sinusoidal(positions, 10, theta=300.0)
    assert codes.shape == (2, 2, 10)
    for b, t, i in itertools.product(range(2), range(2), range(5)):
        angle = positions[b, t].item() / 300.0 ** (2 * i / 10)
        close(codes[b, t, 2 * i : 2 * i + 2], torch.tensor([math.sin(angle), math.cos(angle)]))


@pytest.mark.parametrize("position", ["learned", "sinusoidal"])
def test_positions_are_added_to_the_embeddings_and_default_to_the_order(position):
    model, ids = small(position=position, max_positions=9, depth=1), words(3, 5)
    plain = model(ids)
    assert torch.equal(model(ids, positions=torch.arange(5)), plain)
    assert torch.equal(model(ids, positions=torch.arange(5).expand(3, 5)), plain)
    where = torch.tensor([4, 0, 8, 8, 1])
    codes = model.positions.table[where] if position == "learned" else transformer.sinusoidal(where, 24)
    nowhere = lively(Transformer(WORDS, **SMALL | dict(depth=1, position="none")))
    nowhere.load_state_dict(model.state_dict(), strict=False)
    close(model(ids, positions=where), nowhere(embeddings=model.embed(ids) + codes))


def test_rotary_models_see_offsets_and_others_see_places():
    ids, later = words(2, 6), torch.arange(3, 9)
    rotary = small()
    close(rotary(ids, positions=later), rotary(ids))
    assert (rotary(ids, positions=2 * later) - rotary(ids)).abs().max() > 0.01
    for position in ("learned", "sinusoidal"):
        model = small(position=position, max_positions=9)
        assert (model(ids, positions=later) - model(ids)).abs().max() > 0.01


# -- causality and masks


@kinds
def test_no_token_sees_a_later_one_and_each_sees_all_before(options):
    model, ids = small(**options), words(2, 7)
    embeddings = model.embed(ids).detach().requires_grad_()
    logits = model(embeddings=embeddings)
    for t in range(7):
        (g,) = torch.autograd.grad((logits[:, t] * noise(2, WORDS)).sum(), embeddings, retain_graph=True)
        assert (g[:, : t + 1].abs().amax(-1) > 0).all() and not g[:, t + 1 :].any()


def test_an_encoder_sees_everything_and_without_positions_knows_no_order():
    model, ids = small(causal=False, position="none"), words(2, 7)
    embeddings = model.embed(ids).detach().requires_grad_()
    (g,) = torch.autograd.grad((model(embeddings=embeddings)[:, 0] * noise(2, WORDS)).sum(), embeddings)
    assert (g.abs().amax(-1) > 0).all()
    order = torch.randperm(7, generator=dice())
    close(model(ids[:, order]), model(ids)[:, order])
    for position in ("rope", "sinusoidal"):
        model = small(causal=False, position=position)
        assert (model(ids[:, order]) - model(ids)[:, order]).abs().max() > 0.01


@kinds
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@pytest.mark.parametrize("causal", [True, False], ids=["decoder", "encoder"])
def test_padding_changes_no_real_token(options, left, causal):
    model, texts = small(**options, causal=causal), [words(1, n, seed=n) for n in (5, 3, 8)]
    for filler in (0, 7):
        pad = [(8 - text.shape[1], 0) if left else (0, 8 - text.shape[1]) for text in texts]
        ids = torch.cat([F.pad(text, p, value=filler) for text, p in zip(texts, pad, strict=True)])
        mask = torch.cat([F.pad(torch.ones_like(text), p) for text, p in zip(texts, pad, strict=True)]).bool()
        logits = model(ids, mask=mask, positions=(mask.cumsum(1) - 1).clamp(min=0))
        assert logits.isfinite().all()
        for row, real, text in zip(logits, mask, texts, strict=True):
            close(row[real], model(text)[0])


def test_a_mask_of_pairs_takes_the_place_of_the_causal_rule():
    model, encoder, ids = small(), small(causal=False), words(3, 6)
    everyone = torch.ones(3, 6, 6, dtype=torch.bool)
    close(model(ids, mask=everyone), encoder(ids))
    close(model(ids, mask=everyone.tril()), model(ids))
    close(encoder(ids, mask=everyone.tril()), model(ids))
    prefix = everyone.tril() | (torch.arange(6) < 3)  # a picture's tokens see one another
    embeddings = model.embed(ids).detach().requires_grad_()
    (g,) = torch.autograd.grad(
        (model(embeddings=embeddings, mask=prefix)[:, 0] * noise(3, WORDS)).sum(), embeddings
    )
    assert (g[:, :3].abs().amax(-1) > 0).all() and not g[:, 3:].any()


# -- norms, feed-forward


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7), (2, 5, 3, 64), (1, 1), (4, 129)])
@pytest.mark.parametrize("eps", [1e-6, 0.1])
def test_the_fused_norm_equals_torch_in_value_and_gradient(shape, eps):
    for x in (noise(*shape), 3 + 5 * noise(*shape), noise(*shape[::-1]).permute(*range(len(shape))[::-1])):
        weight, g = 1 + noise(shape[-1], seed=2), noise(*shape, seed=3)
        leaves = [x.clone(memory_format=torch.preserve_format).requires_grad_(), weight.requires_grad_()]
        assert leaves[0].stride() == x.stride()
        ours = transformer.FusedRMSNorm.apply(*leaves, eps)
        theirs = F.rms_norm(leaves[0], weight.shape, leaves[1], eps)
        close(ours, theirs)
        for mine, expected in zip(
            torch.autograd.grad(ours, leaves, g), torch.autograd.grad(theirs, leaves, g), strict=True
        ):
            close(mine, expected, atol=1e-5 * max(1.0, expected.abs().max().item()))


def test_the_norm_is_the_same_with_and_without_gradients_and_in_double_precision():
    norm, x = transformer.RMSNorm(10, eps=0.01), noise(3, 5, 10)
    with torch.no_grad():
        norm.weight.copy_(noise(10, seed=2))
        close(norm(x), x / (x.square().mean(-1, keepdim=True) + 0.01).sqrt() * norm.weight)
        without = norm(x)
    assert norm(x).requires_grad
    close(norm(x), without)
    close(norm.double()(x.double()).float(), without)
    assert torch.autograd.gradcheck(norm, x.double().requires_grad_())


def test_the_gated_feed_forward_multiplies_two_branches():
    mlp, x = lively(transformer.FeedForward(6, hidden=10, act="silu", gated=True)), noise(2, 3, 6)
    gate, value = mlp.fc1(x)[..., :10], mlp.fc1(x)[..., 10:]
    close(mlp(x), mlp.fc2(gate * gate.sigmoid() * value))
    plain = lively(transformer.FeedForward(6, hidden=10, act="relu"))
    close(plain(x), plain.fc2(plain.fc1(x).clamp(min=0)))


def test_activations_are_what_their_names_say():
    x, act = torch.linspace(-4, 4, 81), transformer.ACTIVATIONS
    cubic = (2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)
    close(act["gelu"](x), 0.5 * x * (1 + torch.erf(x / 2**0.5)))
    close(act["gelu_new"](x), 0.5 * x * (1 + cubic.tanh()))
    close(act["gelu_pytorch_tanh"](x), act["gelu_new"](x))
    close(act["quick_gelu"](x), x / (1 + (-1.702 * x).exp()))
    close(act["silu"](x), x / (1 + (-x).exp()))
    close(act["relu"](x), x.clamp(min=0))
    close(act["tanh"](x), x.tanh())


def test_layer_scale_at_zero_turns_a_block_off():
    def block(**options):
        return lively(transformer.Block(transformer.BlockConfig(dim=24, num_heads=4, **options)))

    x, scaled = noise(2, 5, 24), block(layer_scale=0.1)
    assert (scaled(x) - x).abs().max() > 0.01
    with torch.no_grad():
        scaled.scale1.zero_()
        close(scaled(x), x + scaled.scale2 * scaled.mlp(scaled.norm2(x)))
        scaled.scale2.zero_()
    assert torch.equal(scaled(x), x)


# -- the whole model


@kinds
def test_every_parameter_learns(options):
    model = small(**options)
    transformer.next_token_loss(model(words(2, 16)), words(2, 16)).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@kinds
def test_double_precision_gives_the_same_answers(options):
    model, ids = small(**options), words(2, 7)
    single = model(ids)
    double = model.double()(ids)
    assert double.dtype == torch.float64
    close(double.float(), single, atol=1e-4)


def parameters(c: transformer.TransformerConfig) -> int:
    """Counted by hand, from the shapes."""
    head = c.head_dim or c.dim // c.num_heads
    q, kv = c.num_heads * head, (c.num_kv_heads or c.num_heads) * head
    hidden = c.mlp_dim or 4 * c.dim
    norm = c.dim * (2 if c.norm == "layer" else 1)
    block = 2 * norm + c.dim * (q + 2 * kv) + q * c.dim + (3 if c.gated else 2) * c.dim * hidden
    block += c.qkv_bias * (q + 2 * kv) + c.out_bias * c.dim
    block += c.mlp_bias * ((2 if c.gated else 1) * hidden + c.dim)
    block += 2 * c.dim * (c.layer_scale is not None)
    if c.cross:
        context = c.context_dim or c.dim
        block += norm + 2 * q * c.dim + 2 * context * q + c.qkv_bias * 3 * q + c.out_bias * c.dim
    total = c.depth * block + norm * c.final_norm
    total += c.max_positions * c.dim if c.position == "learned" else 0
    return total + (1 if c.tie_embeddings else 2) * (c.vocab_size or 0) * c.dim


@pytest.mark.parametrize("vocab_size", [WORDS, None])
@pytest.mark.parametrize(
    "options",
    [
        *KINDS.values(),
        dict(cross=True),
        dict(cross=True, context_dim=9, qkv_bias=True, out_bias=True, norm="layer", head_dim=2),
        dict(gated=True, mlp_bias=True, depth=3),
        dict(mlp_dim=None, num_kv_heads=None),
    ],
    ids=str,
)
def test_parameters_are_counted_by_hand(options, vocab_size):
    if vocab_size is None and options.get("tie_embeddings"):
        options = options | dict(tie_embeddings=False)
    with torch.device("meta"):
        model = Transformer(vocab_size, **SMALL | options)
    assert parameters(model.config) == sum(p.numel() for p in model.parameters())


def test_tied_embeddings_are_one_tensor():
    tied, apart = small(tie_embeddings=True), small()
    assert tied.head.weight is tied.embed.weight and apart.head.weight is not apart.embed.weight
    ids = words(2, 5)
    close(tied(ids), tied.encode(ids) @ tied.embed.weight.T)
    copied = Transformer(WORDS, **SMALL, tie_embeddings=True)
    copied.load_state_dict(tied.state_dict())
    assert copied.head.weight is copied.embed.weight and torch.equal(copied(ids), tied(ids))


@kinds
def test_weights_survive_a_file(options, tmp_path):
    from safetensors.torch import load_model, save_model

    model, ids = small(**options), words(2, 7)
    other = Transformer(WORDS, **SMALL | options).eval()
    assert not torch.equal(other(ids), model(ids))
    save_model(model, tmp_path / "model.safetensors")
    load_model(other, tmp_path / "model.safetensors")
    assert torch.equal(other(ids), model(ids))


def test_initial_weights_follow_the_seed_and_keep_the_stream_in_bounds():
    def build(seed: int, depth: int = 2) -> Transformer:
        torch.manual_seed(seed)
        return Transformer(WORDS, dim=64, depth=depth, num_heads=4, qkv_bias=True)

    first, again, other = (build(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embed.weight"], other["embed.weight"])
    deep = build(0, depth=24)
    states = deep.encode(embeddings=noise(4, 16, 64))
    logits = deep.head(states)
    assert 0.5 < logits.std() < 2
    joins = deep.blocks[3].mlp.fc2
    assert joins.weight.std().item() == pytest.approx((joins.in_features * 48) ** -0.5, rel=0.05)
    assert not deep.blocks[0].attention.qkv.bias.any()


def test_the_loss_is_that_of_the_next_token_and_skips_ignored_labels():
    logits, labels = noise(2, 6, WORDS), words(2, 6)
    labels[0, :3] = labels[1, 5] = -100
    surprise = [
        -logits[b, t].log_softmax(-1)[labels[b, t + 1]]
        for b, t in itertools.product(range(2), range(5))
        if labels[b, t + 1] != -100
    ]
    assert len(surprise) == 3 + 4
    close(transformer.next_token_loss(logits, labels), torch.stack(surprise).mean())
    zeros = labels.masked_fill(labels == -100, 0)
    skipped = transformer.next_token_loss(logits, zeros, ignore_index=0)
    close(skipped, transformer.next_token_loss(logits, zeros.masked_fill(zeros == 0, -100)))


def encoder_decoder() -> tuple[Transformer, Transformer]:
    encoder = small(None, causal=False, num_heads=2)
    return encoder, small(cross=True, dim=16, context_dim=24, num_kv_heads=None)


def test_a_decoder_reads_what_an_encoder_made_of_vectors():
    encoder, decoder = encoder_decoder()
    source, ids, mask = noise(3, 7, 24), words(3, 5), torch.arange(7) < torch.tensor([[7], [2], [4]])
    context = encoder(embeddings=source, mask=mask)
    assert context.shape == (3, 7, 24)
    logits = decoder(ids, context=context, context_mask=mask)
    transformer.next_token_loss(logits, ids).backward()
    learned = [*encoder.parameters(), *decoder.parameters()]
    assert all(p.grad is not None and p.grad.any() for p in learned)
    for row, n in enumerate((7, 2, 4)):  # padding of the source changes nothing
        alone = decoder(ids[row : row + 1], context=encoder(embeddings=source[row : row + 1, :n]))
        close(logits[row], alone[0])
    other = decoder(ids, context=context.flip(0), context_mask=mask.flip(0))
    assert (other - logits).abs().max() > 0.01


# -- the cache


@kinds
@pytest.mark.parametrize("pieces", [(3, 1, 2), (1,) * 6, (6,), (5, 1)], ids=str)
def test_reading_in_pieces_with_a_cache_equals_reading_at_once(options, pieces):
    model, ids = small(**options), words(3, 6)
    cache, parts = KVCache(model, 3, 8), []
    with torch.no_grad():
        for piece in ids.split(pieces, dim=1):
            parts.append(model(piece, cache=cache))
    assert cache.length == 6
    close(torch.cat(parts, dim=1), model(ids))


def test_a_cache_serves_prompts_padded_on_the_left():
    model, ids = small(), words(2, 6)
    mask = torch.tensor([[False, False, True, True, True, True], [True] * 6])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache, parts = KVCache(model, 2, 6), []
    with torch.no_grad():
        for start, end in ((0, 3), (3, 4), (4, 6)):
            parts.append(
                model(ids[:, start:end], mask=mask[:, :end], positions=positions[:, start:end], cache=cache)
            )
    close(torch.cat(parts, dim=1)[mask], model(ids, mask=mask, positions=positions)[mask])


def test_the_context_is_projected_once():
    _, decoder = encoder_decoder()
    ids, context, calls = words(3, 6), noise(3, 7, 24), []
    for block in decoder.blocks:
        block.cross.kv.register_forward_hook(lambda *call: calls.append(call))
    mask = torch.arange(7) < torch.tensor([[7], [2], [4]])
    expected = decoder(ids, context=context, context_mask=mask)
    assert len(calls) == 2
    cache, parts = KVCache(decoder, 3, 6), []
    with torch.no_grad():
        for piece in ids.split((3, 1, 2), dim=1):
            parts.append(decoder(piece, context=context, context_mask=mask, cache=cache))
    assert len(calls) == 4
    close(torch.cat(parts, dim=1), expected)


def test_a_cache_gives_up_rows_and_repeats_others():
    _, decoder = encoder_decoder()
    ids, context, rows = words(3, 4), noise(3, 7, 24), torch.tensor([2, 0, 2, 1])
    cache, more = KVCache(decoder, 3, 6), words(4, 2, seed=5)
    with torch.no_grad():
        decoder(ids, context=context, cache=cache)
        cache.select(rows)
        found = decoder(more, context=context[rows], cache=cache)
    expected = decoder(torch.cat([ids[rows], more], dim=1), context=context[rows])
    close(found, expected[:, 4:])


# -- choosing


def drawn(logits: torch.Tensor, count: int, **options) -> torch.Tensor:
    """How often each token of one row of logits is drawn."""
    tokens = transformer.choose(logits.expand(count, -1), generator=dice(), **options)
    assert tokens.shape == (count,) and tokens.dtype == torch.long
    return tokens.bincount(minlength=logits.shape[-1])


def test_temperature_zero_takes_the_largest():
    logits = noise(50, 11)
    assert torch.equal(transformer.choose(logits), logits.argmax(-1))
    assert torch.equal(transformer.choose(logits, top_k=3, top_p=0.5), logits.argmax(-1))
    assert torch.equal(transformer.choose(logits, temperature=0.7, top_k=1), logits.argmax(-1))
    assert torch.equal(transformer.choose(logits, temperature=0.7, top_p=1e-6), logits.argmax(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_tiny_temperature_takes_the_largest(dtype):
    logits = torch.tensor([[1.0, 9.0, 3.0], [7.0, -2.0, 6.0]], dtype=dtype)
    assert transformer.choose(logits, temperature=1e-38).tolist() == [1, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_their_probability_says(temperature):
    logits, count = noise(9), 40_000
    expected = (logits / temperature).softmax(-1) * count
    chi_square = ((drawn(logits, count, temperature=temperature) - expected) ** 2 / expected).sum()
    assert chi_square < 27  # eight degrees of freedom: one in a thousand exceeds 26.1
    wrong = (logits / (1.2 * temperature)).softmax(-1) * count
    assert ((drawn(logits, count, temperature=temperature) - wrong) ** 2 / wrong).sum() > 27


@pytest.mark.parametrize("temperature", [0.6, 1.5])
@pytest.mark.parametrize(
    "limits",
    [dict(top_k=1), dict(top_k=4), dict(top_k=99), dict(top_p=0.3), dict(top_p=0.9), dict(top_p=1.0),
     dict(top_k=5, top_p=0.7)],
    ids=str,
)  # fmt: skip
def test_what_may_be_drawn_is_what_transformers_lets_pass(temperature, limits):
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    for seed in range(5):
        logits = 1.5 * noise(1, 12, seed=seed)
        kept = TemperatureLogitsWarper(temperature)(None, logits)
        if "top_k" in limits:
            kept = TopKLogitsWarper(limits["top_k"])(None, kept)
        if "top_p" in limits:
            kept = TopPLogitsWarper(limits["top_p"])(None, kept)
        probabilities, count = kept.softmax(-1)[0], 20_000
        found = drawn(logits[0], count, temperature=temperature, **limits)
        assert not found[probabilities == 0].any()
        assert found[probabilities > 1e-3].all()
        margin = 5 * (probabilities * (1 - probabilities) / count).sqrt()
        assert ((found / count - probabilities).abs() <= margin).all()


def test_choices_follow_the_generator():
    logits = noise(20, 11)
    first, again, other = (
        transformer.choose(logits, temperature=1.0, generator=dice(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


# -- generating


@kinds
def test_texts_are_the_same_with_and_without_a_cache(options):
    model, ids = small(**options), words(3, 4)
    mask = torch.tensor([[False, True, True, True], [True] * 4, [False, False, False, True]])
    for sampling in ({}, dict(temperature=1.0), dict(temperature=1.3, top_k=5, top_p=0.9)):
        for m in (None, mask):
            texts = [
                generate(model, ids, 9, mask=m, use_cache=cached, generator=dice(3), **sampling)
                for cached in (True, False)
            ]
            assert texts[0].shape == (3, 13) and torch.equal(*texts)
            assert torch.equal(texts[0][:, :4], ids)


def test_a_greedy_text_takes_the_likeliest_token_at_every_step():
    model, ids = small(), words(3, 4)
    text = generate(model, ids, 7)
    assert torch.equal(text[:, 4:], model(text)[:, 3:-1].argmax(-1))
    assert not text.requires_grad


def test_a_text_is_continued_alike_alone_and_padded_in_a_batch():
    model, texts = small(), [words(1, n, seed=n) for n in (2, 5, 3)]
    ids = torch.cat([F.pad(text, (5 - text.shape[1], 0)) for text in texts])
    mask = torch.cat([F.pad(torch.ones_like(text), (5 - text.shape[1], 0)) for text in texts]).bool()
    together = generate(model, ids, 8, mask=mask)
    for row, text in zip(together, texts, strict=True):
        assert torch.equal(row[5:], generate(model, text, 8)[0, text.shape[1] :])


@pytest.mark.parametrize("cached", [True, False])
def test_a_text_that_has_ended_says_nothing_else_and_the_last_end_stops_all(cached):
    model, ids, lengths = small(), words(3, 3, seed=3), []
    free = generate(model, ids, 12)[:, 3:]
    for end in free.unique().tolist():
        found = generate(model, ids, 12, eos_id=end, use_cache=cached)[:, 3:]
        ends = [row.index(end) if end in row else 12 for row in free.tolist()]
        assert found.shape[1] == min(12, max(ends) + 1)
        for row, before, n in zip(found.tolist(), free.tolist(), ends, strict=True):
            assert row == (before[:n] + [end] * 12)[: len(row)]
        lengths.append(ends)
    # both happened: all texts ended, one by one; and some ended while another went on to the limit
    assert any(min(ends) < max(ends) < 11 for ends in lengths)
    assert any(min(ends) < 11 and max(ends) == 12 for ends in lengths)


def test_embeddings_stand_in_for_the_prompt():
    model, ids = small(), words(2, 4)
    other = words(2, 4, seed=7)
    assert not torch.equal(generate(model, ids, 9)[:, 4:], generate(model, other, 9)[:, 4:])
    found = generate(model, ids, 9, embeddings=model.embed(other))
    assert torch.equal(found[:, :4], ids)
    assert torch.equal(found[:, 4:], generate(model, other, 9)[:, 4:])
    again = generate(model, ids, 9, embeddings=model.embed(other), use_cache=False)
    assert torch.equal(again, found)


def test_the_hook_sees_every_text_so_far_and_changes_the_choice():
    model, ids, seen = small(), words(2, 3), []

    def never_repeat(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        seen.append(ids)
        return logits.scatter(1, ids, -math.inf)

    text = generate(model, ids, 9, adjust=never_repeat)
    for row, prompt in zip(text.tolist(), ids.tolist(), strict=True):
        assert len(set(row)) == len(set(prompt)) + 9
    assert [t.shape[1] for t in seen] == list(range(3, 12))
    assert all(torch.equal(t, text[:, : t.shape[1]]) for t in seen)
    assert not torch.equal(text, generate(model, ids, 9))


def test_texts_follow_the_generator():
    model, ids = small(), words(2, 3)
    first, again, other = (
        generate(model, ids, 20, temperature=1.0, generator=dice(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_decoder_writes_about_its_context():
    _, decoder = encoder_decoder()
    ids, context, mask = words(3, 2), noise(3, 7, 24), torch.arange(7) < torch.tensor([[7], [2], [4]])
    text = generate(decoder, ids, 9, context=context, context_mask=mask)
    assert torch.equal(text, generate(decoder, ids, 9, context=context, context_mask=mask, use_cache=False))
    logits = decoder(text, context=context, context_mask=mask)
    assert torch.equal(text[:, 2:], logits[:, 1:-1].argmax(-1))
    assert not torch.equal(text, generate(decoder, ids, 9, context=-context, context_mask=mask))


def test_a_text_fills_the_positions_to_the_last():
    model, ids = small(position="learned", max_positions=8), words(2, 3)
    text = generate(model, ids, 6)  # the last token is said, not read
    assert text.shape == (2, 9) and torch.equal(text, generate(model, ids, 6, use_cache=False))
    for cached in (True, False):
        with pytest.raises(ValueError, match="max_positions.* 8"):
            generate(model, ids, 7, use_cache=cached)


# -- other people's weights

TINY = dict(
    vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
    bos_token_id=None, eos_token_id=None,
)  # fmt: skip


def language_model(cls: str, **options) -> nn.Module:
    import transformers

    gpt = dict(vocab_size=11, n_embd=8, n_layer=2, n_head=2, n_positions=16)
    shape = gpt if cls.startswith("GPT2") else TINY
    return getattr(transformers, cls)(getattr(transformers, cls).config_class(**shape | options))


LOADERS = {
    "Llama": lambda: language_model("LlamaForCausalLM", num_key_value_heads=1),
    "Llama, tied": lambda: language_model("LlamaForCausalLM", tie_word_embeddings=True),
    "Qwen2": lambda: language_model("Qwen2ForCausalLM", num_key_value_heads=1),
    "GPT-2": lambda: language_model("GPT2LMHeadModel"),
    "attention": lambda: nn.MultiheadAttention(8, 2),
    "encoder layer": lambda: nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1),
    "decoder layer": lambda: nn.TransformerDecoderLayer(8, 2, 12),
}


def load(name: str, theirs: nn.Module) -> nn.Module:
    language = name in ("Llama", "Llama, tied", "Qwen2", "GPT-2")
    return (transformer.from_transformers if language else transformer.from_torch)(theirs)


@pytest.mark.parametrize("name", LOADERS)
def test_a_loaded_model_follows_the_reference_in_precision_device_and_mode(name):
    theirs = LOADERS[name]()
    for training, dtype in ((True, torch.float64), (False, torch.bfloat16)):
        ours = load(name, theirs.to(dtype).train(training))
        assert {p.dtype for p in ours.parameters()} == {dtype}
        assert all(module.training is training for module in ours.modules())
    ours = load(name, theirs.to("meta"))
    assert {p.device.type for p in ours.parameters()} == {"meta"}


@pytest.mark.parametrize("name", LOADERS)
def test_a_loaded_model_owns_its_weights(name):
    theirs = LOADERS[name]()
    before = {key: value.clone() for key, value in theirs.state_dict().items()}
    with torch.no_grad():
        for p in load(name, theirs).parameters():
            p.fill_(7.0)
    assert all(torch.equal(value, before[key]) for key, value in theirs.state_dict().items())


def test_a_loaded_model_keeps_ties_and_limits():
    tied = transformer.from_transformers(LOADERS["Llama, tied"]())
    assert tied.head.weight is tied.embed.weight
    apart = transformer.from_transformers(LOADERS["Llama"]())
    assert apart.head.weight is not apart.embed.weight
    assert transformer.from_transformers(LOADERS["GPT-2"]()).config.max_positions == 16


SCALED = dict(rope_theta=10_000.0, factor=2.0)
LLAMA_3 = SCALED | dict(low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
WINDOW = dict(use_sliding_window=True, sliding_window=4, max_window_layers=1)


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        ("LlamaForCausalLM", dict(rope_parameters=SCALED | dict(rope_type="linear")), "rope_type .*linear"),
        ("LlamaForCausalLM", dict(rope_parameters=LLAMA_3 | dict(rope_type="llama3")), "rope_type .*llama3"),
        ("Qwen2ForCausalLM", dict(rope_parameters=SCALED | dict(rope_type="dynamic")), "rope_type .*dynamic"),
        ("Qwen2ForCausalLM", WINDOW, "full attention in every layer.*sliding_attention"),
        ("LlamaForCausalLM", dict(hidden_act="mish"), "act to be one of .*mish"),
        ("GPT2LMHeadModel", dict(scale_attn_by_inverse_layer_idx=True), r"sqrt\(d\)"),
        ("GPT2LMHeadModel", dict(scale_attn_weights=False), r"sqrt\(d\)"),
        ("GPT2LMHeadModel", dict(add_cross_attention=True), "no cross-attention"),
        ("GPT2LMHeadModel", dict(resid_pdrop=0.3), "one dropout, got 0.1 and 0.3"),
        ("GPT2LMHeadModel", dict(activation_function="mish"), "act to be one of .*mish"),
    ],
    ids=str,
)  # fmt: skip
def test_language_models_with_more_than_ours_does_are_refused(cls, options, message):
    with pytest.raises(ValueError, match=message):
        transformer.from_transformers(language_model(cls, **options))


@pytest.mark.parametrize("cls", ["LlamaModel", "Qwen2Model", "GPT2Model", "GPT2ForSequenceClassification"])
def test_models_of_another_kind_are_refused(cls):
    theirs = language_model(cls)
    with pytest.raises(TypeError, match=f"LlamaForCausalLM or .*GPT2LMHeadModel, got {cls}"):
        transformer.from_transformers(theirs)
    with pytest.raises(TypeError, match=f"MultiheadAttention or .*, got {cls}"):
        transformer.from_torch(theirs)


# -- bad input


SETUP = """
import json, sys
from mmscratch.transformer import *
foreign = {"torchvision", "transformers", "open_clip", "matplotlib", "mmscratch.kit"} & sys.modules.keys()
assert not foreign, f"importing mmscratch.transformer also loads {foreign}"
import torch
from torch import nn, ones, tensor, zeros
TINY = dict(dim=8, depth=1, num_heads=2)
def config(**options):
    return TransformerConfig(**dict(vocab_size=11) | TINY | options)
def model(vocab_size=11, **options):
    return Transformer(vocab_size, **TINY | options)
def ids(*shape):
    return zeros(shape, dtype=torch.long)
def yes(*shape):
    return ones(shape, dtype=torch.bool)
def block(**options):
    return Block(BlockConfig(**dict(dim=8, num_heads=2) | options))
def room(heads=2, length=3):
    return LayerCache(zeros(1, heads, length, 4), zeros(1, heads, length, 4))
def calm(model, *args, **options):
    with torch.no_grad():
        return model(*args, **options)
def decoder(**options):
    return model(cross=True, context_dim=5, **options)
q = zeros(2, 4, 3, 6)
"""

CASES = {  # exported name: {wrong use: error and message, ".*" for anything between}
    "rope": {
        "rope(torch.arange(3), 5)": "ValueError: even head_dim, got 5",
    },
    "rotate": {
        "rotate(zeros(1, 1, 5, 8), rope(torch.arange(6), 8))": "RuntimeError: (5) must match .*(6)",
        "rotate(zeros(1, 1, 5, 8), rope(torch.arange(5), 6))": "RuntimeError: (8) must match .*(6)",
    },
    "sinusoidal": {
        "sinusoidal(torch.arange(3), 5)": "ValueError: even dim, got 5",
    },
    "attend": {
        "attend(q, q, q, ones(3, 3))": "ValueError: boolean mask .*(2, 4, 3, 3), got torch.float32 (3, 3)",
        "attend(q, q, q, yes(2, 4, 3, 5))": "ValueError: (2, 4, 3, 3), got torch.bool (2, 4, 3, 5)",
        "attend(q, q, q, yes(2, 3, 3))": "ValueError: (2, 4, 3, 3), got torch.bool (2, 3, 3)",
        "attend(q, q, q, yes(3, 1, 3, 3), causal=True)": "ValueError: (2, 4, 3, 3), got .*(3, 1, 3, 3)",
        "attend(q, q[:, :3], q[:, :3])": "ValueError: 4 heads of queries .*multiple of 3 heads of keys",
        "attend(q, q[..., :4], q)": "RuntimeError: Expected size",
        "attend(q, q, q, dropout=2.0)": "RuntimeError: between 0 and 1, but got 2",
    },
    "attention_weights": {
        "attention_weights(q, q, ones(2, 4, 3, 3))": "ValueError: boolean mask .*got torch.float32",
        "attention_weights(q, q[..., :4])": "RuntimeError: Expected size",
        "attention_weights(q, q[:, :3])": "ValueError: 4 heads of queries .*multiple of 3 heads of keys",
    },
    "check_mask": {
        "check_mask(None, q, q[:, :3])": "ValueError: 4 heads of queries .*multiple of 3 heads of keys",
        "check_mask(yes(2, 4, 1, 4), q, q)": "ValueError: (2, 4, 3, 3), got torch.bool (2, 4, 1, 4)",
    },
    "head_width": {
        "head_width(8, 0)": "ValueError: dim 8 is not a multiple of num_heads 0",
        "head_width(10, 3)": "ValueError: dim 10 is not a multiple of num_heads 3",
        "head_width(8, -2)": "ValueError: num_heads -2",
        "head_width(8, 0, 4)": "ValueError: num_heads 0",
        "head_width(8, 2, 0)": "ValueError: head_dim >= 1, got 0",
    },
    "Attention": {
        "Attention(10, num_heads=3)": "ValueError: dim 10 is not a multiple of num_heads 3",
        "Attention(12, num_heads=4, num_kv_heads=3)": "ValueError: num_heads 4 .* num_kv_heads 3",
        "Attention(12, num_heads=4, num_kv_heads=0)": "ValueError: num_heads 4 .* num_kv_heads 0",
        "Attention(12, num_heads=4, num_kv_heads=-1)": "ValueError: num_heads 4 .* num_kv_heads -1",
        "Attention(8, num_heads=2)(zeros(1, 3, 6))": "RuntimeError: 3x6 and 8x24",
        "Attention(8, num_heads=2)(zeros(1, 3, 8), mask=yes(1, 3))": "ValueError: (1, 2, 3, 3), got .*(1, 3)",
    },
    "CrossAttention": {
        "CrossAttention(10, num_heads=3)": "ValueError: dim 10 is not a multiple of num_heads 3",
        "CrossAttention(8, num_heads=2, context_dim=5)(zeros(1, 3, 8), zeros(1, 4, 8))": (
            "ValueError: context of shape (B, S, 5), got (1, 4, 8)"
        ),
        "CrossAttention(8, num_heads=2)(zeros(1, 3, 8), zeros(4, 8))": "ValueError: (B, S, 8), got (4, 8)",
        "CrossAttention(8, num_heads=2)(zeros(1, 3, 8), zeros(1, 4, 8), yes(1, 4))": (
            "ValueError: (1, 2, 3, 4), got torch.bool (1, 4)"
        ),
    },
    "pick": {
        "pick('act', 'mish', ('a', 'b'))": "ValueError: expected act to be one of a, b, got 'mish'",
    },
    "gelu_tanh": {
        "gelu_tanh([1.0])": "TypeError: must be Tensor, not list",
    },
    "quick_gelu": {
        "quick_gelu(1)": "TypeError: must be Tensor, not float",
    },
    "FeedForward": {
        "FeedForward(8, hidden=4, act='mish')": "ValueError: act to be one of gelu, .*got 'mish'",
        "FeedForward(8, hidden=4)(zeros(2, 6))": "RuntimeError: 2x6 and 8x4",
    },
    "RMSNorm": {
        "RMSNorm(8)(zeros(2, 7))": "ValueError: expected (..., 8), got (2, 7)",
        "RMSNorm(8)(zeros(2, 1))": "ValueError: expected (..., 8), got (2, 1)",
    },
    "FusedRMSNorm": {
        "FusedRMSNorm.apply(zeros(2, 7), ones(8), 1e-5)": "RuntimeError: (7) must match .*(8)",
    },
    "make_norm": {
        "make_norm('batch', 8, 1e-5)": "ValueError: norm to be one of layer, rms, got 'batch'",
    },
    "make_scale": {
        "make_scale(-1, 0.1)": "RuntimeError: negative dimension -1",
    },
    "BlockConfig": {
        "BlockConfig(dim=8)": "TypeError: missing .*'num_heads'",
        "BlockConfig(dim=8, num_heads=2, heads=2)": "TypeError: unexpected .*'heads'",
    },
    "Block": {
        "block(num_heads=3)": "ValueError: dim 8 is not a multiple of num_heads 3",
        "block(act='mish')": "ValueError: got 'mish'",
        "block(norm='batch')": "ValueError: layer, rms, got 'batch'",
        "block(cross=True)(zeros(1, 3, 8))": "ValueError: expected a context (B, S, C) .*got None",
    },
    "LayerCache": {
        "room().extend(zeros(1, 2, 4, 4), zeros(1, 2, 4, 4))": "ValueError: room for 3 tokens, got 4",
        "room().extend(zeros(2, 2, 1, 4), zeros(2, 2, 1, 4))": "ValueError: made for a batch of 1, got 2",
    },
    "KVCache": {
        "KVCache(model(max_positions=4), 1, 5)": "ValueError: max_tokens <= max_positions 4, got 5",
        "model()(ids(3, 2), cache=KVCache(model(), 2, 5))": "ValueError: made for a batch of 2, got 3",
        "model()(ids(2, 6), cache=KVCache(model(), 2, 5))": "ValueError: room for 5 tokens, got 6",
        "calm(model(depth=2), ids(2, 3), cache=KVCache(model(), 2, 5))": "ValueError: zip() argument 2",
        "KVCache(model(), 2, 3).select(tensor([5]))": "IndexError: index 5 is out of bounds .*size 2",
    },
    "TransformerConfig": {
        "config(position='polar')": "ValueError: none, learned, sinusoidal, rope, got 'polar'",
        "config(position='learned')": "ValueError: learned positions need max_positions, got None",
        "config(vocab_size=None, tie_embeddings=True)": "ValueError: need a vocab_size, got None",
        "TransformerConfig(dim=8, depth=1, num_heads=2)": "TypeError: missing .*'vocab_size'",
        "config(heads=2)": "TypeError: unexpected .*'heads'",
    },
    "Positions": {
        "Positions(config(dim=10, num_heads=3))": "ValueError: dim 10 is not a multiple of num_heads 3",
        "Positions(config(dim=10))(zeros(1, 3, 10), torch.arange(3))": "ValueError: even head_dim, got 5",
    },
    "spread": {
        "spread(zeros(2, 3, 8), None, torch.arange(4), 3, None)": "ValueError: (3,) or (2, 3), got (4,)",
        "spread(zeros(2, 3, 8), None, torch.arange(3), 5, 4)": "ValueError: max_positions 4 tokens, got 5",
        "spread(zeros(2, 3, 8), yes(2, 3), torch.arange(3), 5, None)": (
            "ValueError: boolean mask (2, 5) or (2, 3, 5), got torch.bool (2, 3)"
        ),
        "spread(zeros(2, 3, 8), ones(2, 3), torch.arange(3), 3, None)": "ValueError: got torch.float32",
    },
    "spread_context": {
        "spread_context(None, yes(2, 3))": "ValueError: expected a context, got a mask .*(2, 3)",
        "spread_context(zeros(2, 4, 8), yes(2, 3))": "ValueError: (2, 4), got a mask torch.bool (2, 3)",
        "spread_context(zeros(2, 4, 8), ones(2, 4))": "ValueError: got a mask torch.float32 (2, 4)",
    },
    "embed_input": {
        "embed_input(model(), None, None, None)": "ValueError: either ids or embeddings",
        "embed_input(model(), ids(2, 3), zeros(2, 3, 8), None)": "ValueError: either ids or embeddings",
        "embed_input(model(), ids(3), None, None)": "ValueError: ids (B, T), got ids (3,)",
        "embed_input(model(None), ids(2, 3), None, None)": "ValueError: embeddings, .*got ids (2, 3)",
        "embed_input(model(), None, zeros(2, 3, 7), None)": "ValueError: (B, T, 8), got (2, 3, 7)",
        "embed_input(model(), None, zeros(3, 8), None)": "ValueError: (B, T, 8), got (3, 8)",
        "embed_input(model(), ids(2, 3), None, zeros(2, 4, 8))": "ValueError: expected no context",
    },
    "Transformer": {
        "model(dim=10, num_heads=3)": "ValueError: dim 10 is not a multiple of num_heads 3",
        "model(heads=3)": "TypeError: unexpected .*'heads'",
        "model(dropout=2.0)": "ValueError: between 0 and 1, but got 2.0",
        "model(position='learned')": "ValueError: learned positions need max_positions",
        "model(None, tie_embeddings=True)": "ValueError: need a vocab_size, got None",
        "model()()": "ValueError: either ids or embeddings",
        "model(None)(ids(2, 3))": "ValueError: embeddings, without a vocabulary, got ids (2, 3)",
        "model()(ids(3))": "ValueError: ids (B, T), got ids (3,)",
        "model()(zeros(2, 3))": "RuntimeError: Long, Int; but got torch.FloatTensor",
        "model()(ids(2, 3) + 11)": "IndexError: index out of range",
        "model()(embeddings=zeros(2, 3, 7))": "ValueError: embeddings (B, T, 8), got (2, 3, 7)",
        "model()(ids(2, 3), mask=ones(2, 3))": "ValueError: boolean mask (2, 3) or (2, 3, 3), got .*float32",
        "model()(ids(2, 3), mask=yes(2, 4))": "ValueError: (2, 3) or (2, 3, 3), got torch.bool (2, 4)",
        "model()(ids(2, 3), positions=torch.arange(4))": "ValueError: (3,) or (2, 3), got (4,)",
        "model(max_positions=4)(ids(2, 5))": "ValueError: at most max_positions 4 tokens, got 5",
        "model(max_positions=4, position='learned')(ids(2, 5))": "ValueError: max_positions 4 .*got 5",
        "model()(ids(2, 3), context=zeros(2, 4, 8))": "ValueError: no context: .*without cross-attention",
        "decoder()(ids(2, 3))": "ValueError: expected a context (B, S, C) .*got None",
        "decoder()(ids(2, 3), context=zeros(2, 4, 8))": "ValueError: (B, S, 5), got (2, 4, 8)",
        "decoder()(ids(2, 3), context=zeros(2, 4, 5), context_mask=yes(2, 3))": (
            "ValueError: boolean mask (2, 4), got a mask torch.bool (2, 3)"
        ),
    },
    "next_token_loss": {
        "next_token_loss(zeros(2, 3, 11), ids(2, 4))": "ValueError: got (2, 3, 11) and (2, 4)",
        "next_token_loss(zeros(2, 3), ids(2, 3))": "ValueError: (B, T, V) .*got (2, 3) and (2, 3)",
        "next_token_loss(zeros(2, 3, 11), ids(2, 3) + 11)": "IndexError: Target 11 is out of bounds",
    },
    "choose": {
        "choose(zeros(2, 5), temperature=-1)": "ValueError: temperature >= 0, .*got -1, None, None",
        "choose(zeros(2, 5), top_k=0)": "ValueError: top_k >= 1, .*got 0.0, 0, None",
        "choose(zeros(2, 5), top_p=0.0)": "ValueError: 0 < top_p <= 1, got 0.0, None, 0.0",
        "choose(zeros(2, 5), top_p=1.1)": "ValueError: 0 < top_p <= 1, got 0.0, None, 1.1",
        "choose(zeros(5))": "ValueError: logits (B, V), got (5,)",
        "choose(zeros(2, 3, 5), temperature=1)": "ValueError: logits (B, V), got (2, 3, 5)",
        "choose(zeros(2, 5) / 0, temperature=1)": "ValueError: numbers for logits, got nan",
        "choose(zeros(2, 5) / 0)": "ValueError: numbers for logits, got nan",
    },
    "generate": {
        "generate(model(causal=False), ids(2, 3), 2)": "ValueError: a causal model .*got causal=False",
        "generate(model(), ids(2, 3), 0)": "ValueError: max_new_tokens >= 1, got 0",
        "generate(model(), ids(3), 2)": "ValueError: ids (B, T) with T >= 1, got (3,)",
        "generate(model(), ids(2, 0), 2)": "ValueError: ids (B, T) with T >= 1, got (2, 0)",
        "generate(model(None), ids(2, 3), 2)": "ValueError: embeddings, without a vocabulary",
        "generate(model(), ids(2, 3), 2, temperature=-1)": "ValueError: temperature >= 0",
        "generate(model(), ids(2, 3), 2, mask=yes(2, 4))": "ValueError: mask (2, 3) .*left, got (2, 4)",
        "generate(model(), ids(2, 3), 2, mask=yes(2, 3) & tensor([True, True, False]))": (
            "ValueError: padded on the left"
        ),
        "generate(model(), ids(2, 3), 2, mask=ones(2, 3))": "ValueError: boolean mask .*got torch.float32",
        "generate(model(), ids(2, 3), 2, embeddings=zeros(2, 4, 8))": "ValueError: 3, 'D'), got (2, 4, 8)",
        "generate(model(), ids(2, 3), 2, embeddings=zeros(2, 3, 7))": "ValueError: (B, T, 8), got (2, 3, 7)",
        "generate(model(max_positions=4), ids(2, 3), 3)": "ValueError: max_positions 4, got 5",
        "generate(decoder(), ids(2, 3), 3)": "ValueError: expected a context (B, S, C) .*got None",
        "generate(model(), ids(2, 3), 3, context=zeros(2, 4, 8))": "ValueError: expected no context",
    },
    "check_type": {
        "check_type(nn.Linear(2, 2), 'A', 'B')": "TypeError: expected A or B, got Linear",
    },
    "load_mapped": {
        "load_mapped(nn.Linear(2, 2), nn.Linear(2, 2), {'weight': 'w'})": "RuntimeError: Missing .*weight",
        "load_mapped(nn.Linear(2, 2), nn.Linear(3, 2), {})": "RuntimeError: size mismatch for weight",
    },
    "from_transformers": {
        "from_transformers('gpt2')": "TypeError: LlamaForCausalLM .*GPT2LMHeadModel, got str",
        "from_transformers(model())": "TypeError: LlamaForCausalLM .*GPT2LMHeadModel, got Transformer",
    },
    "from_torch": {
        "from_torch(nn.Linear(2, 2))": "TypeError: MultiheadAttention or .*DecoderLayer, got Linear",
        "from_torch(nn.MultiheadAttention(8, 2, kdim=5, vdim=5))": "ValueError: cross=True for kdim 5 .* 8",
        "from_torch(nn.MultiheadAttention(8, 2, kdim=5, vdim=6), cross=True)": "ValueError: equal to vdim",
        "from_torch(nn.MultiheadAttention(8, 2, add_bias_kv=True))": "ValueError: no add_bias_kv",
        "from_torch(nn.MultiheadAttention(8, 2, add_zero_attn=True))": "ValueError: no .*add_zero_attn",
        "from_torch(nn.TransformerEncoderLayer(8, 2, activation=torch.tanh))": "ValueError: gelu or silu",
        "from_torch(nn.TransformerDecoderLayer(8, 2, bias=False))": "ValueError: relu, gelu .*and biases",
    },
}
WITHOUT_CASE = {
    "ACTIVATIONS": "a table; a wrong name is refused by FeedForward",
    "FROM_GPT2": "a table",
    "FROM_LLAMA": "a table",
    "FROM_TORCH": "a table",
    "FUSED": "a table",
    "NORMS": "a table; a wrong name is refused by make_norm",
    "initialise_weights": "draws the parameters it finds, in any module",
    "small_reader": "passes its options on to Transformer",
    "split_queries": "edits weights; what it leaves is loaded strictly by load_mapped",
    "torch_layer_options": "asked through from_torch",
    "transpose_linear": "edits weights; what it leaves is loaded strictly by load_mapped",
}

test_bad_input_is_refused, test_every_name_is_given_bad_input = refusals.tests(
    transformer, SETUP, CASES, WITHOUT_CASE
)
