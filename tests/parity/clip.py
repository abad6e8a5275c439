"""`mmscratch.clip` against open_clip and transformers: towers, logits and loss, over awkward configurations.

Batch, tokens, heads, widths and the shared width all differ from one another, so that a swapped axis shows.
Each mutant maps the weights correctly and then breaks our model in one way; the comparison must notice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mmscratch.kit.reference import Case, mutants

# ---------------------------------------------------------------------------------------------------------
# Both sides


def from_open_clip(model):
    from mmscratch import clip

    return clip.from_open_clip(model)


def from_transformers(model):
    from mmscratch import clip

    return clip.from_transformers(model)


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


def pairs(batch, size, tokens, *, vocab=99, channels=3, ends=None):
    """Pictures (B, C, H, W) and ids (B, T): words, the highest id as end of text, then padding with zeros."""

    def build():
        height, width = size if isinstance(size, tuple) else (size, size)
        images = torch.randn(batch, channels, height, width, generator=seeded(1))
        ids = torch.randint(1, vocab - 1, (batch, tokens), generator=seeded(2))
        places = ends or [(3 * row + 2) % tokens for row in range(batch)]
        for row, place in enumerate(places):
            ids[row, place], ids[row, place + 1 :] = vocab - 1, 0
        return images, ids

    return build


def with_logits(image_features, text_features, scale):
    return image_features, text_features, scale, scale * image_features @ text_features.T


def call_ours(model, images, ids):
    from mmscratch import clip

    features = model(images, ids)
    return *with_logits(*features), clip.clip_loss(*features)


def call_open_clip(model, images, ids):
    from open_clip.loss import ClipLoss

    features = model(images, ids)
    return *with_logits(*features), ClipLoss()(*features)


def call_transformers(model, images, ids, attention_mask=None):
    found = model(
        input_ids=ids,
        pixel_values=images,
        attention_mask=attention_mask,
        return_loss=True,
        interpolate_pos_encoding=tuple(images.shape[2:]) != (model.config.vision_config.image_size,) * 2,
    )
    return (
        found.image_embeds,
        found.text_embeds,
        model.logit_scale.exp(),
        found.logits_per_image,
        found.loss,
    )


def ours_without_mask(model, images, ids, attention_mask):
    return call_ours(model, images, ids)


# ---------------------------------------------------------------------------------------------------------
# Mutants: model -> None, breaks it in place


def each_attention(name, blocks, change):
    def apply(model):
        for block in blocks(model):
            attention = block.attention
            for parameter in (attention.qkv.weight, attention.qkv.bias):
                rows = parameter.view(3, attention.num_heads, attention.head_dim, -1)
                parameter.copy_(change(rows).reshape(parameter.shape))

    apply.__name__ = name
    return apply


def seeing(model):
    return model.visual.vit.blocks


def reading(model):
    return model.text.transformer.blocks


def everywhere(model):
    return [*seeing(model), *reading(model)]


def by_width(rows):
    """Scores divided by the root of the model's width instead of the head's."""
    return rows * torch.tensor([rows.shape[1] ** -0.5, 1, 1]).view(3, 1, 1, 1)


image_scale_by_width = each_attention("image_scale_by_width", seeing, by_width)
text_scale_by_width = each_attention("text_scale_by_width", reading, by_width)
query_is_key = each_attention("query_is_key", everywhere, lambda rows: rows[[1, 0, 2]])


def no_value_bias_anywhere(model):
    for block in everywhere(model):
        block.attention.qkv.bias.view(3, -1)[2].zero_()


def act(function):
    def apply(model):
        for block in everywhere(model):
            block.mlp.act = function

    return apply


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def norm_eps(eps):
    def apply(model):
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = eps

    return apply


def no_norm_before(model):
    model.visual.vit.pre_norm = nn.Identity()


def no_norm_after(model):
    model.visual.vit.norm = nn.Identity()


def no_text_norm(model):
    model.text.transformer.norm = nn.Identity()


def patch_transposed(model):
    embed = model.visual.vit.tokens.embed
    weight = embed.linear.weight
    weight.copy_(weight.view(len(weight), -1, *embed.patch_size).transpose(2, 3).flatten(1))


def channels_reversed(model):
    embed = model.visual.vit.tokens.embed
    weight = embed.linear.weight
    weight.copy_(weight.view(len(weight), -1, *embed.patch_size).flip(1).flatten(1))


def patches_by_column(model):
    tokens = model.visual.vit.tokens
    rows, cols = tokens.grid
    table = tokens.positions[:, 1:].clone()
    tokens.positions[:, 1:] = table.view(1, cols, rows, -1).transpose(1, 2).flatten(1, 2)


def image_positions_shifted(model):
    positions = model.visual.vit.tokens.positions
    positions.copy_(positions.roll(1, dims=1))


def text_positions_shifted(model):
    table = model.text.transformer.positions.table
    table.copy_(table.roll(1, dims=0))


def pool(kind):
    def apply(model):
        model.visual.vit.pool.kind = kind

    apply.__name__ = f"pictures_pooled_by_{kind}"
    return apply


def text_sees_the_future(model):
    model.text.transformer.config.causal = False


def text_sees_the_past_only(model):
    model.text.transformer.config.causal = True


def read_at(place):
    def apply(model):
        model.text.pooling = place

    apply.__name__ = f"text_read_at_the_{place}_token"
    return apply


def read_highest_id(model):
    model.text.eot_id = None


def mean_of_words(model):
    text = model.text
    text.forward = lambda ids: text.transformer.head(text.transformer.encode(ids).mean(dim=1))


def no_projection_bias(model):
    model.text.transformer.head.bias.zero_()


def not_normalised(model):
    model.encode_text, model.encode_image = model.text, model.visual


def temperature_for_scale(model):
    model.logit_scale.neg_()


def no_layer_scale(model):
    for block in everywhere(model):
        block.scale1 = block.scale2 = None


def layer_scales_exchanged(model):
    for block in everywhere(model):
        block.scale1, block.scale2 = block.scale2, block.scale1


TOWERS = (
    image_scale_by_width,
    text_scale_by_width,
    query_is_key,
    no_value_bias_anywhere,
    no_norm_before,
    no_norm_after,
    no_text_norm,
    patch_transposed,
    channels_reversed,
    image_positions_shifted,
    text_positions_shifted,
    pool("mean"),
    text_sees_the_future,
    read_at("last"),
    read_at("first"),
    mean_of_words,
    temperature_for_scale,
)

# ---------------------------------------------------------------------------------------------------------
# open_clip

VISION = dict(layers=2, width=48, head_width=12, mlp_ratio=2.5, patch_size=8, image_size=32)
TEXT = dict(context_length=13, vocab_size=99, width=40, heads=5, layers=3, mlp_ratio=1.5)


def open_clip_model(vision=None, text=None, *, embed_dim=28, cls="CLIP", **options):
    def build():
        import open_clip

        return getattr(open_clip, cls)(embed_dim, VISION | (vision or {}), TEXT | (text or {}), **options)

    return build


def open_clip_case(name, reference, inputs, *changes, cls="CLIP", **fields):
    named = fields.pop("named", {})
    return Case(
        name,
        reference,
        from_open_clip,
        inputs,
        wrong=mutants(from_open_clip, *changes, **named),
        call_ours=fields.pop("ours", call_ours),
        call_reference=fields.pop("theirs", call_open_clip),
        primitive="clip.CLIP",
        library=f"open_clip {cls}",
        **fields,
    )


SMALL = pairs(3, 32, 13)
BASE = dict(layers=2, width=768, head_width=64, patch_size=32, image_size=224)
BASE_TEXT = dict(context_length=77, vocab_size=1000, width=512, heads=8, layers=2, mlp_ratio=4.0)
WORLD = dict(layers=2, width=128, head_width=32, mlp_ratio=4.0)
WORLD_TEXT = dict(context_length=24, width=128, heads=4, layers=2, mlp_ratio=4.0)


OPEN_CLIP = [
    open_clip_case(
        "32/8, two and three blocks",
        open_clip_model(),
        SMALL,
        *TOWERS,
        named=dict(quick_GELU=act(quick_gelu)),
    ),
    open_clip_case("quick GELU", open_clip_model(quick_gelu=True), SMALL, named=dict(exact_GELU=act(F.gelu))),
    open_clip_case(
        "tanh GELU",
        open_clip_model(dict(act_kwargs=dict(approximate="tanh")), dict(act_kwargs=dict(approximate="tanh"))),
        SMALL,
        named=dict(exact_GELU=act(F.gelu)),
    ),
    open_clip_case("one pair", open_clip_model(), pairs(1, 32, 13)),
    open_clip_case("seventeen pairs", open_clip_model(), pairs(17, 32, 13)),
    open_clip_case(
        "pictures 24 high and 40 wide",
        open_clip_model(dict(image_size=(24, 40))),
        pairs(4, (24, 40), 13),
        patches_by_column,
        patch_transposed,
    ),
    open_clip_case(
        "patches 4 high and 16 wide",
        open_clip_model(dict(image_size=(24, 48), patch_size=(4, 16))),
        pairs(2, (24, 48), 13),
        patches_by_column,
    ),
    open_clip_case("pooled by mean", open_clip_model(dict(pool_type="avg")), SMALL, pool("cls")),
    open_clip_case(
        "norm after pooling", open_clip_model(dict(final_ln_after_pool=True)), SMALL, no_norm_after
    ),
    open_clip_case(
        "no norm before", open_clip_model(dict(no_ln_pre=True)), SMALL, image_scale_by_width, no_norm_after
    ),
    open_clip_case(
        "sine-cosine positions",
        open_clip_model(dict(pos_embed_type="sin_cos_2d")),
        SMALL,
        image_positions_shifted,
    ),
    open_clip_case(
        "layer scale",
        open_clip_model(dict(ls_init_value=0.1), dict(ls_init_value=0.1)),
        SMALL,
        no_layer_scale,
        layer_scales_exchanged,
    ),
    open_clip_case(
        "LayerNorm eps 1e-2",
        open_clip_model(dict(norm_kwargs=dict(eps=1e-2)), dict(norm_kwargs=dict(eps=1e-2))),
        SMALL,
        named=dict(norm_eps_1e5=norm_eps(1e-5)),
    ),
    open_clip_case(
        "read at a given end of text",
        open_clip_model(text=dict(pool_type="eos", eos_id=50)),
        lambda: (SMALL()[0], SMALL()[1].clamp(max=50)),
        read_at("last"),
    ),
    open_clip_case(
        "end of text said twice, not the highest id",
        open_clip_model(text=dict(pool_type="eos", eos_id=7)),
        lambda: (SMALL()[0], torch.cat([SMALL()[1][:, :3].clamp(min=8), torch.full((3, 10), 7)], dim=1)),
        read_at("last"),
        read_highest_id,
    ),
    open_clip_case(
        "read at the first token", open_clip_model(text=dict(pool_type="first")), SMALL, read_at("last")
    ),
    open_clip_case(
        "read at the last token", open_clip_model(text=dict(pool_type="last")), SMALL, read_at("first")
    ),
    open_clip_case(
        "text looks both ways",
        open_clip_model(text=dict(no_causal_mask=True)),
        SMALL,
        text_sees_the_past_only,
    ),
    open_clip_case(
        "projection of text with bias", open_clip_model(text=dict(proj_bias=True)), SMALL, no_projection_bias
    ),
    open_clip_case(
        "no projection of text", open_clip_model(text=dict(proj_type="none", width=40), embed_dim=40), SMALL
    ),
    open_clip_case(
        "scale of shape (1,)", open_clip_model(nonscalar_logit_scale=True), SMALL, temperature_for_scale
    ),
    open_clip_case(
        "text tower apart",
        open_clip_model(cls="CustomTextCLIP"),
        SMALL,
        *TOWERS,
        cls="CustomTextCLIP",
    ),
    open_clip_case(
        "32 px, 128 wide, two blocks each", open_clip_model(WORLD, WORLD_TEXT), pairs(64, 32, 24), bench=True
    ),
    open_clip_case(
        "B/32, 224 px, two blocks each",
        open_clip_model(BASE, BASE_TEXT, embed_dim=512, quick_gelu=True),
        pairs(4, 224, 77, vocab=1000),
        bench="realistic",
    ),
    open_clip_case(
        "32 px, 128 wide, text tower apart",
        open_clip_model(WORLD, WORLD_TEXT, cls="CustomTextCLIP"),
        pairs(64, 32, 24),
        cls="CustomTextCLIP",
        bench=True,
    ),
]

# ---------------------------------------------------------------------------------------------------------
# transformers

SEEN = dict(
    hidden_size=48,
    intermediate_size=100,
    num_hidden_layers=2,
    num_attention_heads=4,
    image_size=32,
    patch_size=8,
)
READ = dict(
    vocab_size=99, hidden_size=40, intermediate_size=60, num_hidden_layers=3, num_attention_heads=5,
    max_position_embeddings=13, bos_token_id=97, eos_token_id=98, pad_token_id=0,
)  # fmt: skip


def transformers_model(seen=None, read=None, *, projection_dim=28):
    def build():
        from transformers import CLIPConfig, CLIPModel

        return CLIPModel(
            CLIPConfig(
                vision_config=SEEN | (seen or {}),
                text_config=READ | (read or {}),
                projection_dim=projection_dim,
            )
        )

    return build


def transformers_case(name, reference, inputs, *changes, named=None, **fields):
    return Case(
        name,
        reference,
        from_transformers,
        inputs,
        wrong=mutants(from_transformers, *changes, **(named or {})),
        call_ours=fields.pop("ours", call_ours),
        call_reference=call_transformers,
        primitive="clip.CLIP",
        library="transformers CLIPModel",
        **fields,
    )


def padded(batch, size, tokens):
    def build():
        images, ids = pairs(batch, size, tokens)()
        return images, ids, (ids != 0).long()

    return build


EOT_7 = dict(eos_token_id=7)
SHAPE = dict(
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=2,
    num_attention_heads=4,
    image_size=32,
    patch_size=8,
)
SHAPE_TEXT = dict(
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=24,
)
BIG = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, image_size=224, patch_size=32)
BIG_TEXT = dict(
    vocab_size=1000, hidden_size=512, intermediate_size=2048, num_hidden_layers=2, num_attention_heads=8,
    max_position_embeddings=77, eos_token_id=999,
)  # fmt: skip

TRANSFORMERS = [
    transformers_case(
        "32/8, two and three blocks",
        transformers_model(),
        SMALL,
        *TOWERS,
        named=dict(exact_GELU=act(F.gelu)),
    ),
    transformers_case(
        "GELU",
        transformers_model(dict(hidden_act="gelu"), dict(hidden_act="gelu")),
        SMALL,
        named=dict(quick_GELU=act(quick_gelu)),
    ),
    transformers_case(
        "ReLU and tanh GELU",
        transformers_model(dict(hidden_act="relu"), dict(hidden_act="gelu_new")),
        SMALL,
        named=dict(exact_GELU=act(F.gelu)),
    ),
    transformers_case("one pair", transformers_model(), pairs(1, 32, 13)),
    transformers_case(
        "padding masked there, not here", transformers_model(), padded(3, 32, 13), ours=ours_without_mask
    ),
    transformers_case(
        "fewer tokens than positions", transformers_model(), pairs(5, 32, 6), text_positions_shifted
    ),
    transformers_case(
        "end of text said twice, not the highest id",
        transformers_model(read=EOT_7),
        lambda: (SMALL()[0], torch.cat([SMALL()[1][:, :3].clamp(min=8), torch.full((3, 10), 7)], dim=1)),
        read_at("last"),
        read_highest_id,
    ),
    transformers_case(
        "old configuration, end of text 2: the highest id is read",
        transformers_model(read=dict(eos_token_id=2)),
        SMALL,
        read_at("last"),
    ),
    transformers_case(
        "LayerNorm eps 1e-2",
        transformers_model(dict(layer_norm_eps=1e-2), dict(layer_norm_eps=1e-2)),
        SMALL,
        named=dict(norm_eps_1e5=norm_eps(1e-5)),
    ),
    transformers_case(
        "one colour channel",
        transformers_model(dict(num_channels=1)),
        pairs(3, 32, 13, channels=1),
        patch_transposed,
    ),
    transformers_case(
        "resized to 48 x 24", transformers_model(), pairs(2, (48, 24), 13), image_positions_shifted
    ),
    transformers_case(
        "with dropout, in eval mode",
        transformers_model(dict(attention_dropout=0.3), dict(attention_dropout=0.2)),
        SMALL,
    ),
    transformers_case(
        "32 px, 128 wide, two blocks each", transformers_model(SHAPE, SHAPE_TEXT | dict(num_hidden_layers=2)),
        pairs(64, 32, 24), bench=True,
    ),
    transformers_case(
        "B/32, 224 px, two blocks each", transformers_model(BIG, BIG_TEXT, projection_dim=512),
        pairs(4, 224, 77, vocab=1000), bench="realistic",
    ),
]  # fmt: skip

# ---------------------------------------------------------------------------------------------------------
# The loss


def features(batch, dim, scale=14.3):
    def build():
        image, text = (F.normalize(torch.randn(batch, dim, generator=seeded(s)), dim=-1) for s in (3, 4))
        return image, F.normalize(text + 2 * image, dim=-1), torch.tensor(float(scale))

    return build


def open_clip_loss():
    from open_clip.loss import ClipLoss

    return ClipLoss()


def our_loss(reference):
    from mmscratch import clip

    return clip.clip_loss


def images_only(image, text, scale):
    logits = scale * image @ text.T
    return F.cross_entropy(logits, torch.arange(len(logits)))


def texts_only(image, text, scale):
    return images_only(text, image, scale)


def sum_of_both(image, text, scale):
    return images_only(image, text, scale) + texts_only(image, text, scale)


def divided_by_scale(image, text, scale):
    return (images_only(image, text, 1 / scale) + texts_only(image, text, 1 / scale)) / 2


def off_by_one(image, text, scale):
    return (images_only(image, text.roll(1, 0), scale) + texts_only(image, text.roll(1, 0), scale)) / 2


def own_pair_left_out_of_the_sum(image, text, scale):
    logits = scale * image @ text.T
    rest = logits.masked_fill(torch.eye(len(logits), dtype=torch.bool), float("-inf"))
    return (rest.logsumexp(0) + rest.logsumexp(1)).mean() / 2 - logits.diagonal().mean()


WRONG_LOSSES = (
    images_only,
    texts_only,
    sum_of_both,
    divided_by_scale,
    off_by_one,
    own_pair_left_out_of_the_sum,
)


def loss_case(name, inputs, *wrong, **fields):
    return Case(
        name,
        open_clip_loss,
        our_loss,
        inputs,
        wrong={w.__name__.replace("_", " "): lambda reference, w=w: w for w in wrong},
        primitive="clip.clip_loss",
        library="open_clip ClipLoss",
        **fields,
    )


LOSSES = [
    loss_case("five pairs, seven wide", features(5, 7), *WRONG_LOSSES),
    loss_case("scale 100", features(9, 4, 100.0), *WRONG_LOSSES),
    loss_case("scale 0.5", features(6, 3, 0.5), *WRONG_LOSSES),
    loss_case("two pairs", features(2, 5)),
    loss_case("70 pairs, 33 wide", features(70, 33), *WRONG_LOSSES),
    loss_case("256 pairs, 128 wide", features(256, 128), bench=True),
    loss_case("2,048 pairs, 512 wide", features(2048, 512), bench="realistic"),
]

CASES = [*OPEN_CLIP, *TRANSFORMERS, *LOSSES]
