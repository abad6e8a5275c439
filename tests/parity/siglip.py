"""`mmscratch.siglip` against open_clip's loss and transformers' model, over awkward configurations.

Batch, tokens, heads and widths differ from one another, so that a swapped axis shows. Each mutant maps the
weights correctly and then breaks our model in one way, or is a wrong loss; the comparison must notice.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import nn

from mmscratch.kit.reference import Case, mutants

# ---------------------------------------------------------------------------------------------------------
# The loss


def their_loss():
    from open_clip.loss import SigLipLoss

    return SigLipLoss()


def loss(**options):
    """Our loss in the place of a mapped model."""

    def ours(reference):
        from mmscratch import siglip

        return functools.partial(siglip.siglip_loss, **options)

    return ours


def features(batch, width, *, scale=10.0, bias=-10.0, alike=0.0):
    """Unit features (B, D) of both sides, `alike` of them shared, and scale and bias."""

    def build():
        g = torch.Generator().manual_seed(1)
        image, text, common = torch.randn(3, batch, width, generator=g)
        image, text = (F.normalize(x + alike * common, dim=-1) for x in (image, text))
        return image, text, torch.tensor(scale), torch.tensor(bias)

    return build


def wrong_losses():
    def broken(change):
        def ours(reference):
            from mmscratch.siglip import siglip_loss

            return lambda image, text, t, b: change(siglip_loss, image, text, t, b)

        return ours

    changes = {
        "mean over all pairs": lambda f, x, y, t, b: f(x, y, t, b) / len(x),
        "no bias": lambda f, x, y, t, b: f(x, y, t, 0 * b),
        "bias inside the scale": lambda f, x, y, t, b: f(x, y, t, t * b),
        "bias of the other sign": lambda f, x, y, t, b: f(x, y, t, -b),
        "scale as a logarithm": lambda f, x, y, t, b: f(x, y, t.log(), b),
        "captions shifted by one": lambda f, x, y, t, b: f(x, y.roll(1, 0), t, b),
        "no positives": lambda f, x, y, t, b: f(
            x, y, t, b, image_ids=torch.arange(len(x)), text_ids=-1 - torch.arange(len(y))
        ),
        "neighbours match too": lambda f, x, y, t, b: f(
            x, y, t, b, image_ids=torch.arange(len(x)) // 2, text_ids=torch.arange(len(y)) // 2
        ),
        "last rows dropped": lambda f, x, y, t, b: f(x[:-2], y[:-2], t, b),
    }
    return {name: broken(change) for name, change in changes.items()}


def loss_case(name, inputs, ours=None, **options):
    options = {"wrong": wrong_losses()} | options
    return Case(
        name, their_loss, ours or loss(), inputs, primitive="siglip.siglip_loss",
        library="open_clip SigLipLoss", **options,
    )  # fmt: skip


LOSSES = [
    loss_case("batch 70, width 33", features(70, 33)),
    loss_case(
        "batch 70, chunks of 8, the last of 6", features(70, 33, scale=12.0, bias=-6.0), loss(chunk_size=8)
    ),
    loss_case(
        "batch 7, wider than long", features(7, 40, scale=3.0, bias=1.5, alike=1.0), loss(chunk_size=3)
    ),
    loss_case("trained: matches alike, scale 100", features(31, 20, scale=100.0, bias=-16.0, alike=3.0)),
    loss_case(
        "trained, chunks of one", features(31, 20, scale=100.0, bias=-16.0, alike=3.0), loss(chunk_size=1)
    ),
    loss_case("one chunk larger than the batch", features(5, 16, bias=-4.0), loss(chunk_size=9)),
    loss_case("one pair", features(1, 8, scale=2.0, bias=0.5), wrong={}),
    loss_case("batch 1024, width 512", features(1024, 512), bench=True, wrong={}),
    loss_case(
        "batch 4096, width 512, ours in chunks of 1024",
        features(4096, 512),
        loss(chunk_size=1024),
        bench="realistic",
        wrong={},
    ),
]


# ---------------------------------------------------------------------------------------------------------
# The model


def from_transformers(model):
    from mmscratch import siglip

    return siglip.from_transformers(model)


def siglip_model(vision=None, text=None):
    def build():
        from transformers import SiglipConfig, SiglipModel
        from transformers.utils import logging

        logging.set_verbosity_error()  # its defaults for special tokens lie outside a small vocabulary
        eyes = dict(
            hidden_size=48, intermediate_size=72, num_hidden_layers=3, num_attention_heads=6, image_size=40,
            patch_size=8,
        )  # fmt: skip
        words = dict(
            vocab_size=99, hidden_size=48, intermediate_size=100, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=11,
        )  # fmt: skip
        return SiglipModel(
            SiglipConfig(vision_config=eyes | (vision or {}), text_config=words | (text or {}))
        )

    return build


def pictures_and_words(batch, size, tokens, *, vocab=99, channels=3):
    def build():
        g = torch.Generator().manual_seed(1)
        height, width = size if isinstance(size, tuple) else (size, size)
        images = torch.randn(batch, channels, height, width, generator=g)
        return images, torch.randint(vocab, (batch, tokens), generator=g)

    return build


def call_ours(model, images, ids):
    from mmscratch import siglip

    image, text, scale = model(images, ids)
    logits = scale * image @ text.T + model.logit_bias
    return image, text, logits, siglip.siglip_loss(image, text, scale, model.logit_bias)


def call_theirs(model, images, ids):
    size = model.config.vision_config.image_size
    found = model(
        input_ids=ids,
        pixel_values=images,
        return_loss=True,
        interpolate_pos_encoding=tuple(images.shape[2:]) != (size, size),
    )
    return found.image_embeds, found.text_embeds, found.logits_per_image, found.loss


def each_attention(blocks, change):
    for block in blocks:
        attention = block.attention
        for parameter in (attention.qkv.weight, attention.qkv.bias):
            rows = parameter.view(3, attention.num_heads, attention.head_dim, -1)
            parameter.copy_(change(rows).reshape(parameter.shape))


def seeing(model):
    return model.visual.vit.blocks


def reading(model):
    return model.text.transformer.blocks


def image_scores_by_width(model):
    each_attention(
        seeing(model), lambda rows: rows * torch.tensor([rows.shape[1] ** -0.5, 1, 1]).view(3, 1, 1, 1)
    )


def text_queries_are_keys(model):
    each_attention(reading(model), lambda rows: rows[[1, 0, 2]])


def erf_gelu(model):
    for block in [*seeing(model), *reading(model)]:
        block.mlp.act = F.gelu


def erf_gelu_in_the_head(model):
    model.visual.vit.pool.attention.mlp.act = F.gelu


def larger_eps(model):
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-3


def mean_of_the_patches(model):
    model.visual.vit.pool.kind = "mean"


def no_residual_in_the_head(model):
    pool = model.visual.vit.pool.attention
    pool.forward = lambda x: pool.mlp(pool.norm(pool.cross(pool.probe.expand(len(x), -1, -1), x)[:, 0]))


def probe_at_zero(model):
    model.visual.vit.pool.attention.probe.zero_()


def keys_and_values_of_the_head_swapped(model):
    for parameter in model.visual.vit.pool.attention.cross.kv.parameters():
        parameter.copy_(parameter.roll(len(parameter) // 2, 0))


def no_final_norm(model):
    model.visual.vit.norm = nn.Identity()


def causal_text(model):
    model.text.transformer.config.causal = True


def first_position_read(model):
    model.text.pooling = "first"


def no_bias_in_the_projection(model):
    model.text.transformer.head.bias.zero_()


def positions_shifted(model):
    table = model.visual.vit.tokens.positions
    table.copy_(table.roll(1, 1))


def patch_transposed(model):
    p, q = model.visual.vit.tokens.patch_size
    weight = model.visual.vit.tokens.embed.linear.weight
    weight.copy_(weight.view(len(weight), -1, p, q).transpose(2, 3).flatten(1))


def scale_not_exponentiated(model):
    model.logit_scale.copy_(model.logit_scale.abs().log())


def no_logit_bias(model):
    model.logit_bias.zero_()


ALL = mutants(
    from_transformers,
    image_scores_by_width,
    text_queries_are_keys,
    erf_gelu,
    erf_gelu_in_the_head,
    larger_eps,
    mean_of_the_patches,
    no_residual_in_the_head,
    probe_at_zero,
    keys_and_values_of_the_head_swapped,
    no_final_norm,
    causal_text,
    first_position_read,
    no_bias_in_the_projection,
    positions_shifted,
    patch_transposed,
    scale_not_exponentiated,
    no_logit_bias,
)
BASE = dict(hidden_size=192, intermediate_size=768, num_hidden_layers=6, num_attention_heads=3)


def model_case(name, reference, inputs, **options):
    return Case(
        name, reference, from_transformers, inputs, primitive="siglip.SigLIP",
        library="transformers SiglipModel", call_ours=call_ours, call_reference=call_theirs, **options,
    )  # fmt: skip


MODELS = [
    model_case("three pictures of 40 px", siglip_model(), pictures_and_words(3, 40, 11), wrong=ALL),
    model_case(
        "five grey pictures, another text width",
        siglip_model(dict(num_channels=1), dict(hidden_size=36, num_attention_heads=3, projection_size=48)),
        pictures_and_words(5, 40, 11, channels=1),
        wrong=mutants(from_transformers, first_position_read, mean_of_the_patches),
    ),
    model_case(
        "exact GELU",
        siglip_model(dict(hidden_act="gelu"), dict(hidden_act="gelu")),
        pictures_and_words(2, 40, 11),
    ),
    model_case(
        "other norms and depths",
        siglip_model(dict(num_hidden_layers=1, layer_norm_eps=1e-3), dict(num_hidden_layers=3)),
        pictures_and_words(2, 40, 11),
    ),
    model_case("resized to 24 x 56", siglip_model(), pictures_and_words(2, (24, 56), 11)),
    model_case("one pair, one patch", siglip_model(dict(patch_size=40)), pictures_and_words(1, 40, 11)),
    model_case(
        "192 wide, 6 blocks, 64 px",
        siglip_model(BASE | dict(image_size=64), BASE | dict(vocab_size=1000, max_position_embeddings=64)),
        pictures_and_words(16, 64, 64, vocab=1000),
        bench="realistic",
    ),
]

CASES = [*LOSSES, *MODELS]
