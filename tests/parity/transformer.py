"""`mmscratch.transformer` against the language models of transformers and the layers of torch.

Batch, tokens, heads and widths differ from one another, so that a swapped axis shows. Each mutant maps the
weights correctly and then breaks our module in one way; the comparison must notice. Greedy texts are compared
token by token.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import nn

from mmscratch.kit.reference import Case, mutants

# ---------------------------------------------------------------------------------------------------------
# Both sides


def from_transformers(model):
    from mmscratch import transformer

    return transformer.from_transformers(model)


def from_torch(module):
    from mmscratch import transformer

    return transformer.from_torch(module)


def cross_from_torch(module):
    from mmscratch import transformer

    return transformer.from_torch(module, cross=True)


def seeded():
    return torch.Generator().manual_seed(1)


def tokens(batch, length, *, vocab=37):
    """Seeded ids (batch, length)."""
    return torch.randint(vocab, (batch, length), generator=seeded())


def noise(*shape, scale=1.0):
    return scale * torch.randn(shape, generator=seeded())


def real(lengths, total, *, left=False):
    """Boolean mask (B, total) of sequences of these lengths, padded on the right or on the left."""
    mask = torch.arange(total) < torch.tensor(lengths)[:, None]
    return mask.flip(1) if left else mask


def language_model(cls, **options):
    def build():
        import transformers

        special = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None)
        config = getattr(transformers, cls).config_class(**special | options)
        return getattr(transformers, cls)(config)

    return build


# ---------------------------------------------------------------------------------------------------------
# Mutants: model -> None, breaks it in place


def attentions(model):
    """Every self-attention of a model, a block or an attention by itself."""
    from mmscratch.transformer import Attention

    return [module for module in model.modules() if isinstance(module, Attention)]


def blocks(model):
    from mmscratch.transformer import Block

    return [module for module in model.modules() if isinstance(module, Block)]


def norms(model):
    from mmscratch.transformer import RMSNorm

    return [module for module in model.modules() if isinstance(module, (RMSNorm, nn.LayerNorm))]


def rows(attention):
    """The fused projection, weight and bias, as queries (h, d, ...), keys and values (h_kv, d, ...)."""
    h, g = attention.num_heads, attention.num_kv_heads
    for parameter in (attention.qkv.weight, attention.qkv.bias):
        if parameter is not None:
            yield parameter.view(h + 2 * g, attention.head_dim, -1).split([h, g, g])


def scale_by_width(model):
    """Scores divided by the square root of the model's width instead of the head's."""
    for attention in attentions(model):
        for q, _, _ in rows(attention):
            q.mul_((attention.head_dim / attention.qkv.in_features) ** 0.5)


def query_is_key(model):
    for attention in attentions(model):
        for q, k, _ in rows(attention):
            wanted = k.repeat_interleave(len(q) // len(k), dim=0)
            k.copy_(q[:: len(q) // len(k)].clone())
            q.copy_(wanted)


def heads_interleaved(model):
    """Channels of a head not side by side."""
    for attention in attentions(model):
        for parts in rows(attention):
            for part in parts:
                part.copy_(part.transpose(0, 1).reshape(part.shape))


def groups_interleaved(model):
    """Query head i reads key head i % h_kv instead of i // (h / h_kv)."""
    for attention in attentions(model):
        order = torch.arange(attention.num_heads).view(-1, attention.num_kv_heads).T.flatten()
        for q, _, _ in rows(attention):
            q.copy_(q[order].clone())
        out = attention.out.weight
        out.copy_(out.unflatten(1, (attention.num_heads, -1))[:, order].flatten(1))


def no_value_bias(model):
    for attention in attentions(model):
        _, (_, _, v) = rows(attention)
        v.zero_()


def no_query_bias(model):
    for attention in attentions(model):
        _, (q, _, _) = rows(attention)
        q.zero_()


def no_output_bias(model):
    for attention in attentions(model):
        attention.out.bias.zero_()


def rotated(change):
    """A mutant of rotary positions: change(rotate, q, k, v, rope) -> q, k, v."""

    @functools.wraps(change)
    def apply(model):
        from mmscratch.transformer import rotate

        for attention in attentions(model):
            plain = attention.project
            attention.project = lambda x, rope, plain=plain: change(rotate, *plain(x), rope)

    return apply


@rotated
def rope_forgotten_on_keys(rotate, q, k, v, rope):
    return rotate(q, rope), k, v


@rotated
def rope_backwards(rotate, q, k, v, rope):
    """Keys turned the other way: scores depend on the sum of positions, not on the offset."""
    cos, sin = rope
    return rotate(q, rope), rotate(k, torch.stack([cos, -sin])), v


@rotated
def rope_on_values_too(rotate, q, k, v, rope):
    return rotate(q, rope), rotate(k, rope), rotate(v, rope)


@rotated
def rope_one_late_on_keys(rotate, q, k, v, rope):
    """Keys at the position before their own, the first at the last's."""
    return rotate(q, rope), rotate(k, rope.roll(1, dims=-2)), v


@rotated
def rope_pairs_interleaved(rotate, q, k, v, rope):
    """Channel 2i paired with 2i + 1, as in the paper, not i with i + d/2, as the weights expect."""
    d = q.shape[-1]
    order = torch.cat([torch.arange(0, d, 2), torch.arange(1, d, 2)])
    q, k = (rotate(x[..., order], rope)[..., order.argsort()] for x in (q, k))
    return q, k, v


def rope_theta(theta):
    def apply(model):
        model.positions.theta = theta

    return apply


def each_encode(change):
    """A mutant that edits the keywords of every call of `encode`: change(all of them) -> new ones."""

    @functools.wraps(change)
    def apply(model):
        plain = model.encode

        def encode(ids=None, **options):
            return plain(ids, **options | change(dict(mask=None) | options | dict(ids=ids)))

        model.encode = encode

    return apply


def extent(given):
    """(B, T) of what `encode` was given."""
    return (given["embeddings"] if given["ids"] is None else given["ids"]).shape[:2]


def not_causal(model):
    model.config.causal = False


@each_encode
def causal_mask_one_ahead(given):
    """Every token sees the next one."""
    B, T = extent(given)
    allowed = torch.ones(B, T, T, dtype=torch.bool).tril(1)
    return dict(mask=allowed if given["mask"] is None else allowed & given["mask"][:, None])


@each_encode
def causal_mask_one_behind(given):
    """No token but the first sees itself."""
    B, T = extent(given)
    allowed = torch.ones(B, T, T, dtype=torch.bool).tril(-1)
    allowed[:, 0, 0] = True
    return dict(mask=allowed if given["mask"] is None else allowed & given["mask"][:, None])


@each_encode
def padding_seen(given):
    return dict(mask=None)


@each_encode
def padding_mask_one_off(given):
    return dict(mask=given["mask"].roll(1, dims=1))


@each_encode
def padding_counted(given):
    """Positions count padding as if it were text."""
    return dict(positions=None)


@each_encode
def positions_restart(given):
    """Every chunk that is read with a cache starts at position 0 again."""
    return dict(positions=torch.arange(extent(given)[1]))


@each_encode
def positions_skip_one(given):
    """Positions after the prompt are one too large."""
    start = given["cache"].length
    return dict(positions=torch.arange(start, start + extent(given)[1]) + (start > 0))


def never_says(token):
    """A mutant that reaches the end of no text, which proves that the right one does."""

    def apply(model):
        model.head.register_forward_hook(
            lambda head, inputs, logits: logits.index_fill(-1, torch.tensor([token]), -1e9)
        )

    return apply


@each_encode
def prompt_forgotten(given):
    """New tokens do not see the first two of the prompt."""
    B, T = extent(given)
    mask = torch.ones(B, given["cache"].length + T, dtype=torch.bool)
    mask[:, :2] = given["cache"].length == 0
    return dict(mask=mask)


def positions_shifted(model):
    model.positions.table.copy_(model.positions.table.roll(1, dims=0))


def layer_norm_for_rms(model):
    for norm in norms(model):
        norm.forward = lambda x, norm=norm: F.layer_norm(x, norm.weight.shape, norm.weight, None, norm.eps)


def norm_eps(eps):
    def apply(model):
        for norm in norms(model):
            norm.eps = eps

    return apply


def norms_exchanged(model):
    for block in blocks(model):
        block.norm1, block.norm2 = block.norm2, block.norm1


def other_norm_order(model):
    """Pre-norm where post-norm was meant, or the reverse."""
    for block in blocks(model):
        block.post_norm = not block.post_norm


def no_final_norm(model):
    model.norm = nn.Identity()


def gate_and_value_swapped(model):
    for block in blocks(model):
        for parameter in (block.mlp.fc1.weight, block.mlp.fc1.bias):
            if parameter is not None:
                parameter.copy_(torch.cat(parameter.chunk(2)[::-1]))


def no_feed_forward_bias(model):
    for block in blocks(model):
        block.mlp.fc1.bias.zero_()
        block.mlp.fc2.bias.zero_()


def activation(name, function):
    def apply(model):
        for block in blocks(model):
            block.mlp.act = function

    apply.__name__ = name
    return apply


erf_gelu = activation("erf_gelu", F.gelu)
tanh_gelu = activation("tanh_gelu", functools.partial(F.gelu, approximate="tanh"))
silu = activation("silu", F.silu)


def head_not_tied(model):
    """A head of its own where the reference's is the embedding."""
    model.head = nn.Linear(model.config.dim, model.config.vocab_size, bias=False)
    model.head.weight.copy_(model.embed.weight.roll(1, dims=0))


def embedding_scaled(model):
    """Embeddings times sqrt(D), as in 2017."""
    model.embed.weight = nn.Parameter(model.embed.weight * model.config.dim**0.5)


def blocks_reversed(model):
    model.blocks = nn.ModuleList(reversed(model.blocks))


CAUSAL = (not_causal, causal_mask_one_ahead, causal_mask_one_behind)
GENERAL = (scale_by_width, query_is_key, heads_interleaved, other_norm_order, norms_exchanged)
MODEL = (no_final_norm, blocks_reversed, embedding_scaled)
ROPE = (
    rope_forgotten_on_keys,
    rope_backwards,
    rope_on_values_too,
    rope_one_late_on_keys,
    rope_pairs_interleaved,
)

# ---------------------------------------------------------------------------------------------------------
# Language models


def logits(model, ids):
    return model(input_ids=ids, use_cache=False).logits


def real_logits(model, ids, mask):
    return model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits[mask]


def our_real_logits(model, ids, mask):
    return model(ids, mask=mask)[mask]


def placed_logits(model, ids, mask, positions):
    found = model(input_ids=ids, attention_mask=mask.long(), position_ids=positions, use_cache=False)
    return found.logits[mask]


def our_placed_logits(model, ids, mask, positions):
    return model(ids, mask=mask, positions=positions)[mask]


def from_embeddings(model, embeddings):
    return model(inputs_embeds=embeddings, use_cache=False).logits


def our_from_embeddings(model, embeddings):
    return model(embeddings=embeddings)


def states(model, ids):
    return model.base_model(input_ids=ids, use_cache=False).last_hidden_state


def loss(model, ids, labels):
    return model(input_ids=ids, labels=labels, use_cache=False).loss


def our_loss(model, ids, labels):
    from mmscratch.transformer import next_token_loss

    return next_token_loss(model(ids), labels)


def filled(ids, length):
    """Texts that ended early, with -1 up to the full length."""
    return F.pad(ids, (0, length - ids.shape[1]), value=-1)


def greedy(count, **options):
    def call(model, ids, mask=None):
        mask = torch.ones_like(ids) if mask is None else mask.long()
        found = model.generate(ids, attention_mask=mask, max_new_tokens=count, do_sample=False, **options)
        return filled(found, ids.shape[1] + count)

    return call


def our_greedy(count, **options):
    def call(model, ids, mask=None):
        from mmscratch.transformer import generate

        return filled(generate(model, ids, count, mask=mask, **options), ids.shape[1] + count)

    return call


def labels_with_holes(ids):
    """Labels equal to the ids but for stretches, such as a prompt, that are not to be learned."""
    labels = ids.clone()
    labels[0, :4] = labels[2, 5:] = -100
    return labels


def case(cls, name, shape, inputs, *changes, ours=None, theirs=logits, bench=False, **named):
    return Case(
        name,
        language_model(cls, **shape),
        from_transformers,
        inputs,
        wrong=mutants(from_transformers, *changes, **named),
        call_ours=ours,
        call_reference=theirs,
        bench=bench,
        primitive="transformer.Transformer",
        library=f"transformers {cls}",
    )


def usual(family, shape, changes, misplaced, ends):
    """What every family is asked besides logits. misplaced: mutants of positions beside padding on the left;
    ends: ids that some of three texts say, or all."""
    ids, right, left = tokens(3, 11), real([11, 4, 7], 11), real([11, 4, 7], 11, left=True)
    positions = (left.cumsum(1) - 1).clamp(min=0)
    return [
        family(
            "padded on the right",
            shape,
            lambda: (ids, right),
            *CAUSAL,
            padding_mask_one_off,
            ours=our_real_logits,
            theirs=real_logits,
        ),
        family(
            "padded on the left",
            shape,
            lambda: (ids, left, positions),
            *CAUSAL,
            *misplaced,
            padding_seen,
            padding_mask_one_off,
            ours=our_placed_logits,
            theirs=placed_logits,
        ),
        family(
            "embeddings in place of ids",
            shape,
            lambda: noise(3, 11, 24, scale=0.3),
            *changes,
            ours=our_from_embeddings,
            theirs=from_embeddings,
        ),
        family(
            "states after the last norm",
            shape,
            lambda: ids,
            *MODEL,
            ours="encode",
            theirs=states,
        ),
        family(
            "loss with labels left out",
            shape,
            lambda: (ids, labels_with_holes(ids)),
            *changes,
            *MODEL,
            ours=our_loss,
            theirs=loss,
        ),
        family(
            "greedy text",
            shape,
            lambda: tokens(3, 5),
            positions_restart,
            positions_skip_one,
            prompt_forgotten,
            ours=our_greedy(23),
            theirs=greedy(23),
        ),
        family(
            "greedy text without a cache",
            shape,
            lambda: tokens(2, 6),
            *changes,
            ours=our_greedy(11, use_cache=False),
            theirs=greedy(11),
        ),
        family(
            "greedy texts of prompts padded on the left",
            shape,
            lambda: (tokens(3, 7), real([7, 2, 4], 7, left=True)),
            *misplaced,
            padding_seen,
            ours=our_greedy(19),
            theirs=greedy(19),
        ),
        *(
            family(
                f"greedy texts, the end is {end}",
                shape,
                lambda: (tokens(3, 7), real([7, 2, 4], 7, left=True)),
                padding_seen,
                never_ends=never_says(end),
                ours=our_greedy(19, eos_id=end),
                theirs=greedy(19, eos_token_id=end, pad_token_id=end),
            )
            for end in ends
        ),
    ]


# ---------------------------------------------------------------------------------------------------------
# Llama and Qwen2

ROTARY = dict(
    vocab_size=37,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=52,
    max_position_embeddings=64,
    tie_word_embeddings=False,
)
SMALL = dict(
    vocab_size=100,
    hidden_size=128,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    intermediate_size=344,
    max_position_embeddings=128,
)
LARGE = SMALL | dict(
    vocab_size=1000,
    hidden_size=768,
    num_hidden_layers=2,
    num_attention_heads=12,
    num_key_value_heads=12,
    intermediate_size=2048,
)


def theta(value):
    return dict(rope_parameters=dict(rope_type="default", rope_theta=value))


llama = functools.partial(case, "LlamaForCausalLM")
qwen = functools.partial(case, "Qwen2ForCausalLM")


def batch(*size, vocab=37):
    return lambda: tokens(*size, vocab=vocab)


LLAMA = [
    llama(
        "four heads, two of keys",
        ROTARY,
        batch(3, 11),
        *CAUSAL,
        *GENERAL,
        *MODEL,
        *ROPE,
        groups_interleaved,
        layer_norm_for_rms,
        gate_and_value_swapped,
        erf_gelu,
        rope_theta_20000=rope_theta(20_000.0),
    ),
    llama(
        "six heads, one of keys",
        ROTARY | dict(num_attention_heads=6, num_key_value_heads=1),
        batch(2, 7),
        *CAUSAL,
        *GENERAL,
        *ROPE,
    ),
    llama(
        "as many heads of keys as of queries",
        ROTARY | dict(num_key_value_heads=4),
        batch(3, 9),
        *CAUSAL,
        *GENERAL,
        *ROPE,
    ),
    llama(
        "six heads, two of keys",
        ROTARY | dict(num_attention_heads=6, num_key_value_heads=2),
        batch(2, 5),
        groups_interleaved,
    ),
    llama("tied embeddings", ROTARY | dict(tie_word_embeddings=True), batch(3, 11), head_not_tied, *MODEL),
    llama(
        "biases in attention",
        ROTARY | dict(attention_bias=True),
        batch(3, 11),
        no_query_bias,
        no_value_bias,
        no_output_bias,
        *GENERAL,
    ),
    llama(
        "biases in the feed-forward layers",
        ROTARY | dict(mlp_bias=True),
        batch(3, 11),
        no_feed_forward_bias,
        gate_and_value_swapped,
    ),
    llama(
        "heads wider than their share",
        ROTARY | dict(head_dim=10),
        batch(3, 11),
        scale_by_width,
        heads_interleaved,
        groups_interleaved,
        rope_pairs_interleaved,
    ),
    llama(
        "heads narrower than their share, all biases",
        ROTARY | dict(head_dim=2, attention_bias=True, mlp_bias=True),
        batch(3, 11),
        scale_by_width,
        groups_interleaved,
        no_value_bias,
    ),
    llama(
        "rope theta 500000",
        ROTARY | theta(500_000.0),
        batch(2, 61),
        rope_theta_10000=rope_theta(10_000.0),
    ),
    llama("GELU", ROTARY | dict(hidden_act="gelu"), batch(3, 11), tanh_gelu, silu),
    llama("tanh GELU", ROTARY | dict(hidden_act="gelu_pytorch_tanh"), batch(3, 11), erf_gelu),
    llama(
        "RMSNorm eps 1e-2",
        ROTARY | dict(rms_norm_eps=1e-2),
        batch(3, 11),
        layer_norm_for_rms,
        norm_eps_1e5=norm_eps(1e-5),
    ),
    llama("one token", ROTARY, batch(3, 1), no_final_norm, gate_and_value_swapped),
    llama(
        "one head, one block",
        ROTARY | dict(num_attention_heads=1, num_key_value_heads=1, num_hidden_layers=1),
        batch(1, 64),
        *ROPE,
    ),
    llama("with dropout, in eval mode", ROTARY | dict(attention_dropout=0.3), batch(3, 11)),
    *usual(llama, ROTARY, (*GENERAL, *ROPE), (), (5, 30)),
    llama("128 wide, three blocks", SMALL, batch(32, 40, vocab=100), bench=True),
    llama("768 wide, two blocks", LARGE, batch(4, 128, vocab=1000), bench="realistic"),
    llama("64 new tokens", SMALL, batch(2, 9, vocab=100), ours=our_greedy(64), theirs=greedy(64), bench=True),
]

QWEN = [
    qwen(
        "four heads, two of keys",
        ROTARY,
        batch(3, 11),
        *CAUSAL,
        *GENERAL,
        *MODEL,
        *ROPE,
        groups_interleaved,
        no_query_bias,
        no_value_bias,
        layer_norm_for_rms,
        rope_theta_20000=rope_theta(20_000.0),
    ),
    qwen(
        "six heads, one of keys, tied",
        ROTARY | dict(num_attention_heads=6, num_key_value_heads=1, tie_word_embeddings=True),
        batch(2, 7),
        head_not_tied,
        no_value_bias,
        *CAUSAL,
    ),
    qwen(
        "rope theta 1000000, eps 1e-2",
        ROTARY | theta(1_000_000.0) | dict(rms_norm_eps=1e-2),
        batch(2, 61),
        rope_theta_10000=rope_theta(10_000.0),
        norm_eps_1e5=norm_eps(1e-5),
    ),
    qwen("GELU", ROTARY | dict(hidden_act="gelu"), batch(3, 11), tanh_gelu),
    *usual(qwen, ROTARY, (*GENERAL, *ROPE, no_value_bias), (), (3, 26)),
    qwen(
        "128 wide, three blocks, two heads of keys",
        SMALL | dict(num_key_value_heads=2),
        batch(32, 40, vocab=100),
        bench=True,
    ),
    qwen(
        "768 wide, two blocks, four heads of keys",
        LARGE | dict(num_key_value_heads=4),
        batch(4, 128, vocab=1000),
        bench="realistic",
    ),
    qwen(
        "64 new tokens",
        SMALL | dict(num_key_value_heads=2),
        batch(2, 9, vocab=100),
        ours=our_greedy(64),
        theirs=greedy(64),
        bench=True,
    ),
]

# ---------------------------------------------------------------------------------------------------------
# GPT-2

GPT = dict(vocab_size=37, n_embd=24, n_layer=2, n_head=4, n_positions=64)
GPT_SMALL = dict(vocab_size=100, n_embd=128, n_layer=3, n_head=4, n_positions=128)
# not tied: rounding in logits as large as those of a tied head would exceed an absolute bound
GPT_LARGE = dict(
    vocab_size=1000, n_embd=768, n_layer=2, n_head=12, n_positions=128, tie_word_embeddings=False
)
gpt = functools.partial(case, "GPT2LMHeadModel")

GPT2 = [
    gpt(
        "tied, tanh GELU",
        GPT,
        batch(3, 11),
        *CAUSAL,
        *GENERAL,
        *MODEL,
        positions_shifted,
        no_query_bias,
        no_value_bias,
        no_output_bias,
        no_feed_forward_bias,
        erf_gelu,
        head_not_tied,
    ),
    gpt("not tied", GPT | dict(tie_word_embeddings=False), batch(3, 11), *MODEL, positions_shifted),
    gpt("feed-forward 52 wide", GPT | dict(n_inner=52), batch(3, 11), no_feed_forward_bias, erf_gelu),
    gpt("GELU", GPT | dict(activation_function="gelu"), batch(3, 11), tanh_gelu),
    gpt("ReLU", GPT | dict(activation_function="relu"), batch(3, 11), erf_gelu),
    gpt("quick GELU", GPT | dict(activation_function="quick_gelu"), batch(3, 11), tanh_gelu),
    gpt("SiLU", GPT | dict(activation_function="silu"), batch(3, 11), tanh_gelu),
    gpt("tanh", GPT | dict(activation_function="tanh"), batch(3, 11), tanh_gelu),
    gpt(
        "LayerNorm eps 1e-2",
        GPT | dict(layer_norm_epsilon=1e-2),
        batch(3, 11),
        norm_eps_1e5=norm_eps(1e-5),
    ),
    gpt("three heads", GPT | dict(n_head=3), batch(2, 7), *GENERAL, *CAUSAL),
    gpt("all positions filled", GPT, batch(2, 64), positions_shifted),
    gpt("one token", GPT, batch(3, 1), positions_shifted),
    gpt(
        "with dropout, in eval mode",
        GPT | dict(attn_pdrop=0.3, resid_pdrop=0.2, embd_pdrop=0.2),
        batch(3, 11),
    ),
    *usual(gpt, GPT, (*GENERAL, positions_shifted, no_value_bias), (padding_counted,), (9, 10)),
    gpt("128 wide, three blocks", GPT_SMALL, batch(32, 40, vocab=100), bench=True),
    gpt("768 wide, two blocks", GPT_LARGE, batch(4, 128, vocab=1000), bench="realistic"),
    gpt(
        "64 new tokens", GPT_SMALL, batch(2, 9, vocab=100), ours=our_greedy(64), theirs=greedy(64), bench=True
    ),
]

# ---------------------------------------------------------------------------------------------------------
# torch: attention

ATTENTION = dict(embed_dim=24, num_heads=4)


def torch_layer(cls, *sizes, **options):
    return lambda: getattr(nn, cls)(*sizes, **dict(batch_first=True) | options)


def look(module, x):
    return module(x, x, x, need_weights=False)[0]


def look_masked(module, x, mask):
    hidden = ~mask.repeat_interleave(module.num_heads, 0)  # (B h, T, S), True: may not look
    return module(x, x, x, attn_mask=hidden, need_weights=False)[0]


def our_look_masked(module, x, mask):
    return module(x, mask=mask[:, None])


def look_back(module, x):
    future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
    return module(x, x, x, attn_mask=future, is_causal=True, need_weights=False)[0]


def our_look_back(module, x):
    return module(x, causal=True)


def weights(module, x):
    return module(x, x, x, average_attn_weights=False)[1]


def read(module, x, context):
    return module(x, context, context, need_weights=False)[0]


def read_masked(module, x, context, mask):
    return module(x, context, context, key_padding_mask=~mask, need_weights=False)[0]


def our_read_masked(module, x, context, mask):
    return module(x, context, mask[:, None, None])


def read_weights(module, x, context):
    return module(x, context, context, average_attn_weights=False)[1]


def sparse(*shape):
    """A boolean mask that leaves every query somewhere to look."""
    mask = torch.rand(shape, generator=seeded()) < 0.5
    mask[..., 2] = True
    return mask


def each_call(change):
    """A mutant that edits the arguments of the call: change(x, ...) -> new ones."""

    @functools.wraps(change)
    def apply(module):
        plain = module.forward
        module.forward = lambda *args, **options: plain(*change(*args), **options)

    return apply


@each_call
def mask_reversed_in_sense(x, *rest):
    return *(x, *rest[:-1]), ~rest[-1]


@each_call
def context_backwards(x, context, mask):
    return x, context.flip(1), mask


@each_call
def context_ignored(x, context):
    return x, x


def forget(name):
    """A mutant that calls without this argument."""

    def apply(module):
        plain = module.forward
        module.forward = lambda *args, **options: plain(*args, **options | {name: None})

    apply.__name__ = f"{name}_forgotten"
    return apply


def leaking(module):
    plain = module.forward
    module.forward = lambda *args, causal=False, **options: plain(*args, **options)


def crosses(module):
    from mmscratch.transformer import CrossAttention

    return [part for part in module.modules() if isinstance(part, CrossAttention)]


def cross_scaled_by_width(module):
    for cross in crosses(module):
        for parameter in cross.q.parameters():
            parameter.mul_((cross.head_dim / cross.q.in_features) ** 0.5)


def cross_key_is_value(module):
    for cross in crosses(module):
        for parameter in cross.kv.parameters():
            parameter.copy_(torch.cat(parameter.chunk(2)[::-1]))


def cross_heads_interleaved(module):
    for cross in crosses(module):
        weight = cross.q.weight
        weight.copy_(weight.unflatten(0, (cross.num_heads, -1)).transpose(0, 1).flatten(0, 1))


def cross_reads_x(module):
    """Cross-attention that looks at its own sequence."""
    for cross in crosses(module):
        plain = cross.forward
        cross.forward = lambda x, context, mask=None, plain=plain, **options: plain(x, x, **options)


def attention_case(name, sizes, inputs, *changes, ours=None, theirs=look, cross=False, bench=False, **fields):
    mapping = cross_from_torch if cross else from_torch
    return Case(
        name,
        torch_layer("MultiheadAttention", **sizes),
        mapping,
        inputs,
        wrong=mutants(mapping, *changes),
        call_ours=ours,
        call_reference=theirs,
        bench=bench,
        primitive="transformer.CrossAttention" if cross else "transformer.Attention",
        library="torch MultiheadAttention",
        **fields,
    )


reading = functools.partial(attention_case, cross=True, theirs=read)
SELF = (scale_by_width, query_is_key, heads_interleaved)
CROSS = (cross_scaled_by_width, cross_key_is_value, cross_heads_interleaved)
TWO = dict(embed_dim=24, num_heads=4, kdim=15, vdim=15)

ATTENTIONS = [
    attention_case(
        "self", ATTENTION, lambda: noise(3, 7, 24), *SELF, no_query_bias, no_value_bias, no_output_bias
    ),
    attention_case("self, no bias", ATTENTION | dict(bias=False), lambda: noise(3, 7, 24), *SELF),
    attention_case("self, one head", dict(embed_dim=10, num_heads=1), lambda: noise(2, 5, 10), query_is_key),
    attention_case(
        "self, five heads of width 7, no batch first",
        dict(embed_dim=35, num_heads=5, batch_first=False),
        lambda: noise(2, 3, 35),
        *SELF,
        theirs=lambda module, x: look(module, x.transpose(0, 1)).transpose(0, 1),
    ),
    attention_case(
        "self, masked",
        ATTENTION,
        lambda: (noise(3, 7, 24), sparse(3, 7, 7)),
        *SELF,
        forget("mask"),
        ours=our_look_masked,
        theirs=look_masked,
    ),
    attention_case(
        "self, causal",
        ATTENTION,
        lambda: noise(3, 7, 24),
        *SELF,
        leaking,
        ours=our_look_back,
        theirs=look_back,
    ),
    attention_case(
        "self, weights",
        ATTENTION,
        lambda: noise(3, 7, 24),
        scale_by_width,
        heads_interleaved,
        ours="weights",
        theirs=weights,
    ),
    reading(
        "cross, context of another width",
        TWO,
        lambda: (noise(3, 7, 24), noise(3, 5, 15)),
        *CROSS,
    ),
    reading(
        "cross, context of the same width",
        ATTENTION,
        lambda: (noise(3, 7, 24), noise(3, 5, 24).flip(2)),
        *CROSS,
        context_ignored,
    ),
    reading(
        "cross, no bias",
        TWO | dict(bias=False),
        lambda: (noise(3, 7, 24), noise(3, 5, 15)),
        *CROSS,
    ),
    reading(
        "cross, context of the same width, no bias",
        ATTENTION | dict(bias=False),
        lambda: (noise(3, 1, 24), noise(3, 5, 24)),
        *CROSS,
    ),
    reading(
        "cross, masked",
        TWO,
        lambda: (noise(3, 7, 24), noise(3, 5, 15), real([5, 1, 3], 5)),
        *CROSS,
        mask_reversed_in_sense,
        context_backwards,
        ours=our_read_masked,
        theirs=read_masked,
    ),
    reading(
        "cross, weights",
        TWO,
        lambda: (noise(3, 7, 24), noise(3, 5, 15)),
        cross_scaled_by_width,
        cross_heads_interleaved,
        ours="weights",
        theirs=read_weights,
        options=dict(
            same_parameters=False
        ),  # values, unused here, share a matrix with the keys in ours alone
    ),
    attention_case("128 wide", dict(embed_dim=128, num_heads=4), lambda: noise(32, 40, 128), bench=True),
    attention_case(
        "768 wide, causal",
        dict(embed_dim=768, num_heads=12),
        lambda: noise(4, 128, 768),
        ours=our_look_back,
        theirs=look_back,
        bench="realistic",
    ),
    reading(
        "128 wide, cross",
        dict(embed_dim=128, num_heads=4, kdim=96, vdim=96),
        lambda: (noise(32, 40, 128), noise(32, 50, 96)),
        bench=True,
    ),
]

# ---------------------------------------------------------------------------------------------------------
# torch: layers

LAYER = dict(d_model=24, nhead=4, dim_feedforward=52)


def encode_padded(layer, x, mask):
    return layer(x, src_key_padding_mask=~mask)[mask]


def our_encode_padded(block, x, mask):
    return block(x, mask=mask[:, None, None])[mask]


def encode_back(layer, x):
    future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
    return layer(x, src_mask=future, is_causal=True)


def our_encode_back(block, x):
    return block(x, causal=True)


def decode(layer, x, context):
    future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
    return layer(x, context, tgt_mask=future, tgt_is_causal=True)


def our_decode(block, x, context):
    return block(x, causal=True, context=context)


def decode_masked(layer, x, context, mask):
    future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
    return layer(x, context, tgt_mask=future, tgt_is_causal=True, memory_key_padding_mask=~mask)


def our_decode_masked(block, x, context, mask):
    return block(x, causal=True, context=context, context_mask=mask[:, None, None])


def cross_norm_exchanged(block):
    block.norm_cross, block.norm2 = block.norm2, block.norm_cross


def layer_case(cls, name, options, inputs, *changes, ours=None, theirs=None, bench=False, **named):
    return Case(
        name,
        torch_layer(cls, **LAYER | options),
        from_torch,
        inputs,
        wrong=mutants(from_torch, *changes, **named),
        call_ours=ours,
        call_reference=theirs,
        bench=bench,
        primitive="transformer.Block",
        library=f"torch {cls}",
    )


def stream():
    return noise(3, 7, 24)


def both():
    return noise(3, 7, 24), noise(3, 5, 24).flip(2)


encoder = functools.partial(layer_case, "TransformerEncoderLayer")
decoder = functools.partial(layer_case, "TransformerDecoderLayer", ours=our_decode, theirs=decode)
DECODER = (*CROSS, cross_reads_x, cross_norm_exchanged, leaking)

LAYERS = [
    encoder(
        "post-norm, ReLU", {}, stream, *GENERAL, no_value_bias, no_output_bias, no_feed_forward_bias, erf_gelu
    ),
    encoder("pre-norm, ReLU", dict(norm_first=True), stream, *GENERAL, no_value_bias),
    encoder("post-norm, GELU", dict(activation="gelu"), stream, *GENERAL, tanh_gelu),
    encoder("pre-norm, GELU", dict(activation=F.gelu, norm_first=True), stream, *GENERAL, tanh_gelu),
    encoder("SiLU", dict(activation=F.silu), stream, erf_gelu),
    encoder(
        "LayerNorm eps 1e-2", dict(layer_norm_eps=1e-2, norm_first=True), stream, norm_eps_1e5=norm_eps(1e-5)
    ),
    encoder(
        "padded",
        dict(norm_first=True),
        lambda: (noise(3, 7, 24), real([7, 1, 4], 7)),
        forget("mask"),
        ours=our_encode_padded,
        theirs=encode_padded,
    ),
    encoder("causal", dict(norm_first=True), stream, leaking, ours=our_encode_back, theirs=encode_back),
    encoder("with dropout, in eval mode", dict(dropout=0.3), stream),
    decoder("post-norm, ReLU", {}, both, *GENERAL, *DECODER),
    decoder("pre-norm, ReLU", dict(norm_first=True), both, *GENERAL, *DECODER),
    decoder("post-norm, GELU", dict(activation="gelu"), both, tanh_gelu, *DECODER),
    decoder("pre-norm, GELU", dict(activation="gelu", norm_first=True), both, tanh_gelu, *DECODER),
    decoder(
        "context padded",
        dict(norm_first=True),
        lambda: (*both(), real([5, 1, 3], 5)),
        forget("context_mask"),
        *DECODER,
        ours=our_decode_masked,
        theirs=decode_masked,
    ),
    decoder(
        "one token, one of context", {}, lambda: (noise(2, 1, 24), noise(2, 1, 24).flip(2)), cross_reads_x
    ),
    encoder(
        "128 wide",
        dict(d_model=128, dim_feedforward=512, norm_first=True, activation="gelu"),
        lambda: noise(32, 40, 128),
        bench=True,
    ),
    encoder(
        "768 wide, causal",
        dict(d_model=768, nhead=12, dim_feedforward=3072, norm_first=True, activation="gelu"),
        lambda: noise(4, 128, 768),
        ours=our_encode_back,
        theirs=encode_back,
        bench="realistic",
    ),
    decoder(
        "128 wide",
        dict(d_model=128, dim_feedforward=512, norm_first=True),
        lambda: (noise(32, 40, 128), noise(32, 50, 128)),
        bench=True,
    ),
    decoder(
        "768 wide",
        dict(d_model=768, nhead=12, dim_feedforward=3072, norm_first=True),
        lambda: (noise(4, 128, 768), noise(4, 100, 768)),
        bench="realistic",
    ),
]

CASES = [*LLAMA, *QWEN, *GPT2, *ATTENTIONS, *LAYERS]
