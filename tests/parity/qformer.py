"""`mmscratch.qformer` against transformers: body, text, instructions and the heads of stage 1.

Along each tensor the sizes differ (batch, queries, patches, tokens, widths), so that a swapped axis shows; a
batch may be as large as the number of heads. Each mutant maps the weights correctly and then breaks our model
in one way; the comparison must notice.
"""

from __future__ import annotations

import functools
import types

import torch
import torch.nn.functional as F
from torch import nn

from mmscratch.kit.reference import Case, mutants

# ---------------------------------------------------------------------------------------------------------
# Both sides


def from_transformers(model):
    from mmscratch import qformer

    return qformer.from_transformers(model)


def mask_of(kind, num_queries, text_mask):
    from mmscratch import qformer

    return qformer.attention_mask(kind, num_queries, text_mask)


SMALL = dict(
    hidden_size=24, num_hidden_layers=5, num_attention_heads=3, intermediate_size=52, encoder_hidden_size=20,
    vocab_size=41, max_position_embeddings=11,
)  # fmt: skip


def body(name="Blip2QFormer", **options):
    def build():
        import transformers

        config = getattr(transformers, f"{name}Config")(**SMALL | options)
        return getattr(transformers, f"{name}Model")(config)

    return build


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def ragged(batch, length, seed=5):
    """True for tokens that are there, (B, S): the first row in full, each other a little shorter."""
    lengths = torch.tensor([max(1, length - 2 * row) for row in range(batch)])
    return torch.arange(length) < lengths[:, None]


def seen(batch, num_queries, patches, *, dim=24, context_dim=20, masked=False, one=False):
    """Queries (B or 1, Q, D), context (B, N, C) and which patches are there."""

    def build():
        queries = torch.randn(1 if one else batch, num_queries, dim, generator=seeded(1))
        context = torch.randn(batch, patches, context_dim, generator=seeded(2))
        return queries, context, ragged(batch, patches) if masked else None

    return build


def with_text(batch, num_queries, patches, tokens, *, dim=24, context_dim=20, kind="itm", padded=True):
    """The same, then text as embeddings (B, T, D) and who looks at whom, (B, Q + T, Q + T)."""

    def build():
        queries, context, _ = seen(batch, num_queries, patches, dim=dim, context_dim=context_dim)()
        text = torch.randn(batch, tokens, dim, generator=seeded(3))
        mask = ragged(batch, tokens) if padded else torch.ones(batch, tokens, dtype=torch.bool)
        return queries, context, text, mask_of(kind, num_queries, mask)

    return build


def ours_seen(model, queries, context, context_mask):
    return model(queries, context, context_mask=context_mask)


def theirs_seen(model, queries, context, context_mask):
    return model(
        query_embeds=queries.expand(len(context), -1, -1),
        encoder_hidden_states=context,
        encoder_attention_mask=None if context_mask is None else context_mask.long(),
    ).last_hidden_state


def ours_with_text(model, queries, context, text, mask):
    return model(queries, context, embeddings=text, mask=mask)


def theirs_with_text(model, queries, context, text, mask):
    Q = queries.shape[1]
    states = model(
        query_embeds=torch.cat([queries, text], dim=1),
        query_length=Q,
        attention_mask=mask[:, None] if mask.ndim == 3 else mask.long(),
        encoder_hidden_states=context,
    ).last_hidden_state
    return states[:, :Q], states[:, Q:]


# ---------------------------------------------------------------------------------------------------------
# Mutants: model -> None, breaks it in place


def body_of(model):
    return getattr(model, "body", model)


def each_attention(name, change, part="attention"):
    def apply(model):
        for block in body_of(model).blocks:
            attention = getattr(block, part)
            if attention is None:
                continue
            joined = attention.qkv if part == "attention" else attention.q
            for parameter in (joined.weight, joined.bias):
                rows = parameter.view(-1, attention.num_heads, attention.head_dim, *parameter.shape[1:])
                parameter.copy_(change(rows).reshape(parameter.shape))

    apply.__name__ = name
    return apply


def by_width(rows):
    """Scores divided by the root of the model's width instead of the head's."""
    factors = torch.ones(len(rows))
    factors[0] = rows.shape[1] ** -0.5
    return rows * factors.view(-1, *(1,) * (rows.ndim - 1))


scale_by_width = each_attention("self_attention_scaled_by_width", by_width)
cross_scale_by_width = each_attention("cross_attention_scaled_by_width", by_width, "cross")
query_is_key = each_attention("query_is_key", lambda rows: rows[[1, 0, 2]])
heads_exchanged = each_attention("heads_of_cross_attention_exchanged", lambda rows: rows.flip(1), "cross")


def cross_keys_are_values(model):
    for block in body_of(model).blocks:
        if block.cross is not None:
            for parameter in (block.cross.kv.weight, block.cross.kv.bias):
                parameter.copy_(torch.cat(parameter.chunk(2)[::-1]))


def pre_norm(model):
    """Norms before each branch, as in GPT-2, not after each addition."""

    def forward(block, x, num_queries, mask=None, context=None, context_mask=None):
        x = x + block.attention(block.norm1(x), mask=mask)
        queries, text = x[:, :num_queries], x[:, num_queries:]
        if num_queries and block.cross is not None:
            queries = queries + block.cross(block.norm_cross(queries), context, context_mask)
        queries = queries + block.mlp_query(block.norm_query(queries))
        if text.shape[1]:
            text = text + block.mlp_text(block.norm_text(text))
        return torch.cat([queries, text], dim=1)

    for block in body_of(model).blocks:
        block.forward = types.MethodType(forward, block)


def cross_attention_one_block_late(model):
    blocks = body_of(model).blocks
    parts = [(block.cross, block.norm_cross) for block in blocks]
    for block, (cross, norm) in zip(blocks, parts[-1:] + parts[:-1], strict=True):
        block.cross, block.norm_cross = cross, norm


def cross_attention_only_in_the_first_block(model):
    for block in body_of(model).blocks[1:]:
        block.cross = None


def cross_attention_after_the_feed_forward_network(model):
    def forward(block, x, num_queries, mask=None, context=None, context_mask=None):
        x = block.norm1(x + block.attention(x, mask=mask))
        queries, text = x[:, :num_queries], x[:, num_queries:]
        queries = block.norm_query(queries + block.mlp_query(queries))
        if num_queries and block.cross is not None:
            queries = block.norm_cross(queries + block.cross(queries, context, context_mask))
        if text.shape[1]:
            text = block.norm_text(text + block.mlp_text(text))
        return torch.cat([queries, text], dim=1)

    for block in body_of(model).blocks:
        block.forward = types.MethodType(forward, block)


def text_reads_the_picture_too(model):
    def forward(block, x, num_queries, mask=None, context=None, context_mask=None):
        x = block.norm1(x + block.attention(x, mask=mask))
        if block.cross is not None and context is not None:
            x = block.norm_cross(x + block.cross(x, context, context_mask))
        queries, text = x[:, :num_queries], x[:, num_queries:]
        queries = block.norm_query(queries + block.mlp_query(queries))
        return torch.cat([queries, block.norm_text(text + block.mlp_text(text))], dim=1)

    for block in body_of(model).blocks:
        block.forward = types.MethodType(forward, block)


def one_feed_forward_network_for_both(model):
    for block in body_of(model).blocks:
        block.mlp_text, block.norm_text = block.mlp_query, block.norm_query


def feed_forward_networks_exchanged(model):
    for block in body_of(model).blocks:
        block.mlp_text, block.mlp_query = block.mlp_query, block.mlp_text


def everyone_sees_everyone(model):
    run = body_of(model).run
    body_of(model).run = lambda x, num_queries, mask, **reads: run(x, num_queries, None, **reads)


def changed_mask(name, change):
    def apply(model):
        run = body_of(model).run

        def leaky(x, num_queries, mask, **reads):
            return run(x, num_queries, change(mask.clone(), num_queries), **reads)

        body_of(model).run = leaky

    apply.__name__ = name
    return apply


def queries_see_text(mask, Q):
    mask[:, :Q, Q:] = mask[:, -1:, Q:]
    return mask


def text_sees_the_future(mask, Q):
    mask[:, Q:, Q:] = mask[:, -1:, Q:]
    return mask


def text_sees_queries(mask, Q):
    mask[:, Q:, :Q] = True
    return mask


def rows_for_columns(mask, Q):
    return mask.transpose(1, 2) | torch.eye(mask.shape[1], dtype=torch.bool)


leak_to_queries = changed_mask("text_leaks_into_the_queries", queries_see_text)
leak_from_future = changed_mask("text_leaks_from_the_future", text_sees_the_future)
leak_to_text = changed_mask("queries_leak_into_the_text", text_sees_queries)
transposed = changed_mask("mask_transposed", rows_for_columns)


def no_context_mask(model):
    run = body_of(model).run
    body_of(model).run = lambda x, Q, mask, context, context_mask: run(
        x, Q, mask, context=context, context_mask=None
    )


def no_norm_of_embeddings(model):
    body_of(model).norm = nn.Identity()


def no_positions(model):
    body_of(model).positions.weight.zero_()


def text_begins_at_position_one(model):
    table = body_of(model).positions.weight
    table.copy_(table.roll(-1, dims=0))


def norm_eps(eps):
    def apply(model):
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = eps

    return apply


def act(function):
    def apply(model):
        for block in body_of(model).blocks:
            for mlp in (block.mlp_query, block.mlp_text):
                if mlp is not None:
                    mlp.act = function

    return apply


tanh_gelu = dict(tanh_GELU=act(functools.partial(F.gelu, approximate="tanh")))
BODY = (
    scale_by_width,
    cross_scale_by_width,
    query_is_key,
    heads_exchanged,
    cross_keys_are_values,
    pre_norm,
    cross_attention_one_block_late,
    cross_attention_only_in_the_first_block,
    cross_attention_after_the_feed_forward_network,
    no_norm_of_embeddings,
)
TEXT = (
    text_reads_the_picture_too,
    one_feed_forward_network_for_both,
    feed_forward_networks_exchanged,
)

# ---------------------------------------------------------------------------------------------------------
# Blip2QFormerModel


def plain_case(name, reference, inputs, *changes, named=None, **fields):
    return Case(
        name,
        reference,
        from_transformers,
        inputs,
        wrong=mutants(from_transformers, *changes, **(named or {})),
        call_ours=ours_seen,
        call_reference=theirs_seen,
        primitive="qformer.QFormer",
        library="transformers Blip2QFormerModel",
        **fields,
    )


def text_case(name, reference, inputs, *changes, named=None, **fields):
    return Case(
        name,
        reference,
        from_transformers,
        inputs,
        wrong=mutants(from_transformers, *changes, **(named or {})),
        call_ours=fields.pop("ours", ours_with_text),
        call_reference=fields.pop("theirs", theirs_with_text),
        primitive="qformer.QFormer",
        library="transformers Blip2QFormerModel, with text",
        **fields,
    )


def ours_text_alone(model, text, mask):
    return model.encode_text(embeddings=text, mask=mask)


def theirs_text_alone(model, text, mask):
    return model(query_embeds=text, query_length=0, attention_mask=mask.long()).last_hidden_state


def text_alone():
    return torch.randn(3, 7, 24, generator=seeded(3)), ragged(3, 7)


TEXTUAL = dict(use_qformer_text_input=True)
BASE = dict(hidden_size=768, num_hidden_layers=4, num_attention_heads=12, intermediate_size=3072)
WORLD = dict(
    hidden_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=512,
    encoder_hidden_size=128,
)

PLAIN = [
    plain_case("seven queries, thirteen patches", body(), seen(3, 7, 13), *BODY, named=tanh_gelu),
    plain_case("some patches missing", body(), seen(4, 5, 11, masked=True), no_context_mask, *BODY),
    plain_case("one query for a batch of six", body(), seen(6, 1, 9, one=True), cross_keys_are_values),
    plain_case("one set of queries for all", body(), seen(5, 3, 9, one=True), *BODY),
    plain_case("more queries than patches", body(), seen(2, 17, 3), *BODY),
    plain_case("a single patch", body(), seen(2, 4, 1), cross_attention_one_block_late),
    plain_case(
        "cross-attention in every block",
        body(cross_attention_frequency=1),
        seen(3, 7, 13),
        cross_attention_only_in_the_first_block,
        pre_norm,
    ),
    plain_case(
        "cross-attention in every third block", body(cross_attention_frequency=3), seen(3, 7, 13), *BODY
    ),
    plain_case(
        "cross-attention in the first block of five",
        body(cross_attention_frequency=9),
        seen(3, 7, 13),
        cross_attention_one_block_late,
    ),
    plain_case("one block", body(num_hidden_layers=1), seen(3, 7, 13), pre_norm, no_norm_of_embeddings),
    plain_case("eight heads of three", body(num_attention_heads=8), seen(3, 7, 13), *BODY),
    plain_case("one head", body(num_attention_heads=1), seen(3, 7, 13), query_is_key, pre_norm),
    plain_case("a narrow feed-forward network", body(intermediate_size=5), seen(3, 7, 13), pre_norm),
    plain_case(
        "encoder as wide as the body", body(encoder_hidden_size=24), seen(3, 7, 13, context_dim=24), *BODY
    ),
    plain_case(
        "ReLU, eps 1e-2",
        body(hidden_act="relu", layer_norm_eps=1e-2),
        seen(3, 7, 13),
        named=dict(GELU=act(F.gelu), eps_1e12=norm_eps(1e-12)),
    ),
    plain_case(
        "with dropout, in eval mode",
        body(hidden_dropout_prob=0.4, attention_probs_dropout_prob=0.3),
        seen(3, 7, 13),
    ),
    plain_case(
        "128 wide, 32 queries, 16 patches",
        body(**WORLD),
        seen(64, 32, 16, dim=128, context_dim=128, one=True),
        bench=True,
    ),
    plain_case(
        "four blocks of BLIP-2, 32 queries, 257 patches",
        body(**BASE, encoder_hidden_size=1408),
        seen(2, 32, 257, dim=768, context_dim=1408, one=True),
        bench="realistic",
    ),
]

WITH_TEXT = [
    text_case(
        "full mask, for matching",
        body(**TEXTUAL),
        with_text(3, 5, 13, 7),
        *BODY,
        *TEXT,
        everyone_sees_everyone,
        named=tanh_gelu,
    ),
    text_case(
        "two blocks, for contrast",
        body(**TEXTUAL),
        with_text(3, 5, 13, 7, kind="itc"),
        *BODY,
        *TEXT,
        everyone_sees_everyone,
        leak_to_queries,
        leak_to_text,
    ),
    text_case(
        "causal text, for generation",
        body(**TEXTUAL),
        with_text(3, 5, 13, 7, kind="itg"),
        *BODY,
        *TEXT,
        everyone_sees_everyone,
        leak_to_queries,
        leak_from_future,
        transposed,
    ),
    text_case("no padding", body(**TEXTUAL), with_text(2, 3, 9, 6, padded=False), *TEXT),
    text_case("one word", body(**TEXTUAL), with_text(2, 3, 9, 1, kind="itg"), *TEXT),
    text_case(
        "longer than the queries",
        body(**TEXTUAL),
        with_text(2, 1, 4, 19, kind="itg"),
        *TEXT,
        leak_from_future,
    ),
    text_case(
        "cross-attention in every third block",
        body(**TEXTUAL, cross_attention_frequency=3),
        with_text(3, 5, 13, 7),
        *BODY,
        *TEXT,
    ),
    text_case(
        "three blocks, eight heads",
        body(**TEXTUAL, num_hidden_layers=3, num_attention_heads=8),
        with_text(3, 5, 13, 7, kind="itc"),
        *TEXT,
    ),
    text_case(
        "text alone",
        body(**TEXTUAL),
        text_alone,
        scale_by_width,
        one_feed_forward_network_for_both,
        everyone_sees_everyone,
        no_norm_of_embeddings,
        ours=ours_text_alone,
        theirs=theirs_text_alone,
    ),
    text_case(
        "128 wide, 16 queries, 14 words, for generation",
        body(**WORLD, **TEXTUAL),
        with_text(64, 16, 16, 14, dim=128, context_dim=128, kind="itg"),
        bench=True,
    ),
    text_case(
        "four blocks of BLIP-2, 32 queries, 32 words, for matching",
        body(**BASE, **TEXTUAL, encoder_hidden_size=1408),
        with_text(2, 32, 257, 32, dim=768, context_dim=1408),
        bench="realistic",
    ),
]

# ---------------------------------------------------------------------------------------------------------
# InstructBlipQFormerModel


# Words begin at 1: transformers gives its padding token, 0, no gradient.


def instructed(batch, num_queries, patches, tokens, *, dim=24, context_dim=20, vocab=41, masked=False):
    def build():
        queries, context, there = seen(
            batch, num_queries, patches, dim=dim, context_dim=context_dim, masked=masked
        )()
        ids = torch.randint(1, vocab, (batch, tokens), generator=seeded(4))
        mask = F.pad(ragged(batch, tokens), (num_queries, 0), value=True)
        return queries, context, ids, mask, there

    return build


def ours_instructed(model, queries, context, ids, mask, there):
    return model(queries, context, ids, mask=mask, context_mask=there)


def theirs_instructed(model, queries, context, ids, mask, there):
    states = model(
        input_ids=ids,
        attention_mask=mask.long(),
        query_embeds=queries,
        encoder_hidden_states=context,
        encoder_attention_mask=None if there is None else there.long(),
    ).last_hidden_state
    return states[:, : queries.shape[1]], states[:, queries.shape[1] :]


def instruct_case(name, reference, inputs, *changes, named=None, **fields):
    return Case(
        name,
        reference,
        from_transformers,
        inputs,
        wrong=mutants(from_transformers, *changes, **(named or {})),
        call_ours=ours_instructed,
        call_reference=theirs_instructed,
        primitive="qformer.QFormer",
        library="transformers InstructBlipQFormerModel",
        **fields,
    )


def instruct_body(**options):
    return body("InstructBlipQFormer", **options)


INSTRUCT = [
    instruct_case(
        "seven words",
        instruct_body(),
        instructed(3, 5, 13, 7),
        *BODY,
        *TEXT,
        everyone_sees_everyone,
        no_positions,
        text_begins_at_position_one,
        named=tanh_gelu,
    ),
    instruct_case(
        "as many words as positions", instruct_body(), instructed(2, 3, 9, 11), *TEXT, no_positions
    ),
    instruct_case("one word, one query", instruct_body(), instructed(4, 1, 6, 1), *TEXT),
    instruct_case(
        "some patches missing", instruct_body(), instructed(3, 5, 13, 7, masked=True), no_context_mask
    ),
    instruct_case(
        "cross-attention in every third block",
        instruct_body(cross_attention_frequency=3),
        instructed(3, 5, 13, 7),
        *BODY,
        *TEXT,
    ),
    instruct_case(
        "128 wide, 16 queries, 14 words",
        instruct_body(**WORLD, max_position_embeddings=24),
        instructed(64, 16, 16, 14, dim=128, context_dim=128),
        bench=True,
    ),
]

# ---------------------------------------------------------------------------------------------------------
# Blip2ForImageTextRetrieval: queries, words and the heads for contrast and matching. Its image encoder is
# replaced by one that hands its input through, since ours begins at the encoder's states.


class HandsThrough(nn.Module):
    def forward(self, pixel_values, **options):
        return (pixel_values,)


def retrieval(num_queries=5, embed_dim=10, **options):
    def build():
        from transformers import Blip2Config, Blip2ForImageTextRetrieval

        read = SMALL | TEXTUAL | options
        wide = read["encoder_hidden_size"]
        sizes = dict(intermediate_size=12, num_hidden_layers=1, num_attention_heads=2)
        model = Blip2ForImageTextRetrieval(
            Blip2Config(
                vision_config=sizes | dict(hidden_size=wide, image_size=8, patch_size=8),
                qformer_config=read,
                text_config=dict(
                    model_type="opt", vocab_size=41, hidden_size=8, ffn_dim=12, num_hidden_layers=1,
                    num_attention_heads=2, word_embed_proj_dim=8,
                ),
                num_query_tokens=num_queries, image_text_hidden_size=embed_dim, image_token_index=None,
            )
        )  # fmt: skip
        model.vision_model = HandsThrough()
        return model

    return build


def pairs(batch, patches, tokens, *, context_dim=20, vocab=41):
    def build():
        context = torch.randn(batch, patches, context_dim, generator=seeded(2))
        ids = torch.randint(1, vocab, (batch, tokens), generator=seeded(4))
        return context, ids, ragged(batch, tokens)

    return build


def our_heads(model, context, ids, mask):
    from mmscratch import qformer

    image, text = model.encode_image(context), model.encode_text(ids, mask)
    score = getattr(model, "score", qformer.similarity)
    return image, text, score(image, text), model.match(context, ids, mask)


def their_heads(model, context, ids, mask):
    both = [
        model(
            pixel_values=context,
            input_ids=ids,
            attention_mask=mask.long(),
            use_image_text_matching_head=matching,
            return_dict=True,
        )
        for matching in (False, True)
    ]
    itc, itm = both
    return itc.image_embeds, itc.text_embeds, itc.logits_per_image, itm.logits_per_image


def features_not_normalised(model):
    model.encode_text = lambda ids, mask: model.text_head(model.body.encode_text(ids, mask=mask)[:, 0])


def text_read_at_its_last_token(model):
    model.encode_text = lambda ids, mask: F.normalize(
        model.text_head(model.body.encode_text(ids, mask=mask)[:, -1]), dim=-1
    )


def match_said_by_the_first_query(model):
    model.match = lambda context, ids, mask: model.match_head(
        model.together("itm", context, ids, mask)[0][:, 0]
    )


def match_said_by_the_text(model):
    model.match = lambda context, ids, mask: model.match_head(
        model.together("itm", context, ids, mask)[1][:, 0]
    )


def match_by_the_likeliest_query(model):
    model.match = lambda context, ids, mask: model.match_head(
        model.together("itm", context, ids, mask)[0]
    ).amax(dim=1)


def match_under_the_mask_of_contrast(model):
    together = model.together
    model.together = lambda kind, *inputs: together("itc", *inputs)


def heads_of_image_and_text_exchanged(model):
    model.image_head, model.text_head = model.text_head, model.image_head


def queries_in_reverse(model):
    model.queries.copy_(model.queries.flip(1))


def one_query_for_all(model):
    model.queries.copy_(model.queries[:, :1].expand_as(model.queries))


def no_maximum(model):
    """The mean over the queries in place of the best of them, in the score alone."""
    model.score = lambda image, text: (image @ text.T).mean(dim=1)


def head_case(name, reference, inputs, *changes, **fields):
    return Case(
        name,
        reference,
        from_transformers,
        inputs,
        wrong=mutants(from_transformers, *changes),
        call_ours=our_heads,
        call_reference=their_heads,
        primitive="qformer.ImageTextQFormer",
        library="transformers Blip2ForImageTextRetrieval",
        **fields,
    )


HEADS = (
    features_not_normalised,
    text_read_at_its_last_token,
    match_said_by_the_first_query,
    match_said_by_the_text,
    match_by_the_likeliest_query,
    match_under_the_mask_of_contrast,
    heads_of_image_and_text_exchanged,
    queries_in_reverse,
    one_query_for_all,
    no_maximum,
)
RETRIEVAL = [
    head_case(
        "five queries",
        retrieval(),
        pairs(3, 13, 7),
        *HEADS,
        *BODY,
        *TEXT,
        everyone_sees_everyone,
        no_positions,
        text_begins_at_position_one,
    ),
    head_case(
        "one query",
        retrieval(num_queries=1),
        pairs(4, 6, 9),
        text_read_at_its_last_token,
        match_said_by_the_text,
    ),
    head_case("one pair", retrieval(), pairs(1, 13, 7), no_maximum),
    head_case(
        "cross-attention in every third block",
        retrieval(cross_attention_frequency=3),
        pairs(3, 13, 7),
        *BODY,
        *TEXT,
    ),
    head_case(
        "128 wide, 16 queries, 14 words",
        retrieval(16, 64, **WORLD, max_position_embeddings=24),
        pairs(64, 16, 14, context_dim=128),
        bench=True,
    ),
]

CASES = [*PLAIN, *WITH_TEXT, *INSTRUCT, *RETRIEVAL]
