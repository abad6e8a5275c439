"""`mmscratch.vit` against torchvision and transformers, over a grid of awkward configurations.

Sizes are chosen to differ from one another (batch, tokens, heads, width), so that a swapped axis shows. Each
mutant maps the weights correctly and then breaks our module in one way; the comparison must notice.
"""

from __future__ import annotations

import functools
from unittest import mock

import torch
import torch.nn.functional as F

from mmscratch.kit.reference import Case, mutants

PRIMITIVE = "vit.VisionTransformer"


# ---------------------------------------------------------------------------------------------------------
# Both sides


def from_torchvision(model):
    from mmscratch import vit

    return vit.from_torchvision(model)


def from_transformers(model):
    from mmscratch import vit

    return vit.from_transformers(model)


def images(batch, *size, scale=1.0):
    """Seeded pictures (batch, *size), size (C, H, W) or (H, W)."""
    size = size if len(size) == 3 else (3, *size)
    return lambda: scale * torch.randn(batch, *size, generator=torch.Generator().manual_seed(1))


def torchvision_vit(**options):
    def build():
        from torchvision.models import VisionTransformer

        return VisionTransformer(**options)

    return build


def transformers_model(name, *, config, extra=None, **options):
    def build():
        import transformers

        return getattr(transformers, name)(getattr(transformers, config)(**options), **(extra or {}))

    return build


# ---------------------------------------------------------------------------------------------------------
# Mutants: model -> None, breaks it in place


def each_attention(name, change):
    def apply(model):
        for block in model.blocks:
            attention = block.attention
            # rows of the fused projection are (q, k, v) x heads x head width
            shape = (3, attention.num_heads, attention.head_dim)
            for parameter in (attention.qkv.weight, attention.qkv.bias):
                if parameter is not None:
                    parameter.copy_(change(parameter.view(*shape, -1)).reshape(parameter.shape))

    apply.__name__ = name
    return apply


def scale_by_width(model):
    """Attention divided by the square root of the model's width instead of the head's."""
    factors = torch.tensor([model.config.num_heads**-0.5, 1, 1]).view(3, 1, 1, 1)
    each_attention("", lambda rows: rows * factors)(model)


query_is_key = each_attention("query_is_key", lambda rows: rows[[1, 0, 2]])
heads_interleaved = each_attention("heads_interleaved", lambda rows: rows.transpose(1, 2).contiguous())


def no_qkv_bias(model):
    for block in model.blocks:
        block.attention.qkv.bias.zero_()


def no_value_bias(model):
    for block in model.blocks:
        block.attention.qkv.bias.view(3, -1)[2].zero_()


def tanh_gelu(model):
    for block in model.blocks:
        block.mlp.act = functools.partial(F.gelu, approximate="tanh")


def erf_gelu(model):
    for block in model.blocks:
        block.mlp.act = F.gelu


def gate_and_value_swapped(model):
    for block in model.blocks:
        for parameter in (block.mlp.fc1.weight, block.mlp.fc1.bias):
            parameter.copy_(torch.cat(parameter.chunk(2)[::-1]))


def norm_eps(eps):
    def apply(model):
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = eps

    return apply


def post_norm(model):
    for block in model.blocks:
        block.post_norm = True


def no_final_norm(model):
    model.norm = torch.nn.Identity()


def patch_transposed(model):
    """Rows and columns of pixels inside a patch exchanged."""
    p, q = model.tokens.embed.patch_size
    weight = model.tokens.embed.linear.weight
    weight.copy_(weight.view(len(weight), -1, p, q).transpose(2, 3).flatten(1))


def patches_by_column(model):
    """Positions read down the columns of the grid instead of along its rows."""
    rows, cols = model.tokens.grid
    table = model.tokens.positions[:, 1:].clone()
    model.tokens.positions[:, 1:] = table.view(1, cols, rows, -1).transpose(1, 2).flatten(1, 2)


def channels_reversed(model):
    """Blue, green, red."""
    p, q = model.tokens.embed.patch_size
    weight = model.tokens.embed.linear.weight
    weight.copy_(weight.view(len(weight), -1, p, q).flip(1).flatten(1))


def positions_shifted(model):
    model.tokens.positions.copy_(model.tokens.positions.roll(1, dims=1))


def class_token_without_position(model):
    model.tokens.positions[:, 0] = 0


def mean_instead_of_class_token(model):
    model.pool.kind = "mean"


def no_hidden_activation(model):
    model.head.act = torch.nn.Identity()


def no_layer_scale(model):
    for block in model.blocks:
        block.scale1 = block.scale2 = None


def layer_scales_exchanged(model):
    for block in model.blocks:
        block.scale1, block.scale2 = block.scale2, block.scale1


def registers_at_zero(model):
    model.tokens.registers.zero_()


def registers_first(model):
    """Registers before the class token instead of after it."""
    count = model.config.num_registers

    def reorder(module, inputs, x):
        return torch.cat([x[:, 1 : 1 + count], x[:, :1], x[:, 1 + count :]], dim=1)

    model.tokens.register_forward_hook(reorder)


def bilinear_positions(model):
    from mmscratch import vit

    def resize(table, old, new, *, antialias=False):
        picture = table.reshape(1, *old, -1).permute(0, 3, 1, 2)
        return F.interpolate(picture, size=new, mode="bilinear", antialias=antialias).flatten(2).mT

    inner = model.tokens.forward

    def forward(pictures):
        with mock.patch.object(vit, "interpolate_positions", resize):
            return inner(pictures)

    model.tokens.forward = forward


def other_antialias(model):
    model.tokens.antialias = not model.tokens.antialias


# what any configuration with several heads, patches and blocks must notice
GENERAL = (
    scale_by_width,
    query_is_key,
    heads_interleaved,
    post_norm,
    no_final_norm,
    patch_transposed,
    channels_reversed,
    positions_shifted,
    class_token_without_position,
)

# ---------------------------------------------------------------------------------------------------------
# torchvision

TINY = dict(image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=48, mlp_dim=100, num_classes=7)


def norm_layer(eps):
    return functools.partial(torch.nn.LayerNorm, eps=eps)


def stem(*channels):
    """Strided convolutions, as `conv_stem_configs` wants them."""
    from torchvision.models.vision_transformer import ConvStemConfig

    return [ConvStemConfig(out_channels=width, kernel_size=3, stride=2) for width in channels]


def with_stem():
    return torchvision_vit(**TINY, conv_stem_configs=stem(10, 14, 18))()


def without_head():
    model = torchvision_vit(**TINY)()
    model.heads.head = torch.nn.Identity()
    return model


def without_heads():
    model = torchvision_vit(**TINY)()
    model.heads = torch.nn.Identity()
    return model


def torchvision_case(name, reference, inputs, wrong=None, **fields):
    return Case(
        name,
        reference,
        from_torchvision,
        inputs,
        wrong=wrong or {},
        primitive=PRIMITIVE,
        library="torchvision VisionTransformer",
        **fields,
    )


TORCHVISION = [
    torchvision_case(
        "32/8, two blocks",
        torchvision_vit(**TINY),
        images(3, 32, 32),
        mutants(
            from_torchvision,
            no_qkv_bias,
            no_value_bias,
            tanh_gelu,
            mean_instead_of_class_token,
            *GENERAL,
        ),
    ),
    torchvision_case(
        "faint tokens",  # the only place where eps is not lost in the variance of the tokens
        torchvision_vit(**TINY),
        images(3, 32, 32, scale=0.02),
        mutants(from_torchvision, norm_eps_1e5=norm_eps(1e-5)),
        options=dict(keep=("pos_embedding", "class_token", "conv_proj")),
    ),
    torchvision_case("one patch", torchvision_vit(**TINY | dict(image_size=8)), images(5, 8, 8)),
    torchvision_case("one head", torchvision_vit(**TINY | dict(num_heads=1)), images(1, 32, 32)),
    torchvision_case("one channel per head", torchvision_vit(**TINY | dict(num_heads=48)), images(2, 32, 32)),
    torchvision_case(
        "48/8, five heads, odd widths",
        torchvision_vit(**TINY | dict(image_size=48, num_heads=5, hidden_dim=35, mlp_dim=51, num_classes=3)),
        images(2, 48, 48),
        mutants(from_torchvision, *GENERAL),
    ),
    torchvision_case(
        "patch 7", torchvision_vit(**TINY | dict(image_size=35, patch_size=7)), images(2, 35, 35)
    ),
    torchvision_case("patch 1", torchvision_vit(**TINY | dict(image_size=5, patch_size=1)), images(2, 5, 5)),
    torchvision_case("seven blocks", torchvision_vit(**TINY | dict(num_layers=7)), images(2, 32, 32)),
    torchvision_case(
        "hidden layer before the head",
        torchvision_vit(**TINY | dict(representation_size=29)),
        images(3, 32, 32),
        mutants(from_torchvision, no_hidden_activation),
    ),
    torchvision_case("one class", torchvision_vit(**TINY | dict(num_classes=1)), images(3, 32, 32)),
    torchvision_case("head replaced by identity", without_head, images(3, 32, 32)),
    torchvision_case("heads replaced by identity", without_heads, images(3, 32, 32)),
    torchvision_case(
        "LayerNorm eps 1e-3",
        torchvision_vit(**TINY | dict(norm_layer=norm_layer(1e-3))),
        images(3, 32, 32),
        mutants(from_torchvision, norm_eps_1e6=norm_eps(1e-6)),
    ),
    torchvision_case(
        "with dropout, in eval mode",
        torchvision_vit(**TINY | dict(dropout=0.3, attention_dropout=0.2)),
        images(3, 32, 32),
    ),
    torchvision_case("convolutional stem", with_stem, images(3, 32, 32)),
    torchvision_case(
        "Ti/16, 224 px",
        torchvision_vit(
            image_size=224, patch_size=16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768
        ),
        images(4, 224, 224),
        bench="realistic",
    ),
    torchvision_case(
        "S/16, four blocks, 224 px",
        torchvision_vit(
            image_size=224, patch_size=16, num_layers=4, num_heads=6, hidden_dim=384, mlp_dim=1536
        ),
        images(4, 224, 224),
        bench="realistic",
    ),
]

# ---------------------------------------------------------------------------------------------------------
# transformers

VIT = dict(
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=100,
    image_size=32,
    patch_size=8,
)
DINO = dict(
    hidden_size=48, num_hidden_layers=2, num_attention_heads=4, mlp_ratio=3, image_size=56, patch_size=14
)
BENCH = dict(hidden_size=192, num_hidden_layers=12, num_attention_heads=3, image_size=224)


def resized(model, pixel_values):
    """The reference at another size than its own: only when asked does it interpolate its positions."""
    return model(pixel_values, interpolate_pos_encoding=True)


def transformers_case(
    cls, name, shape, inputs, wrong=None, *, output="last_hidden_state", extra=None, **fields
):
    config = {"ViTForImageClassification": "ViTConfig"}.get(cls, cls.replace("Model", "Config"))
    if output == "last_hidden_state":
        fields["call_ours"] = "forward_features"
    return Case(
        name,
        transformers_model(cls, config=config, extra=extra, **shape),
        from_transformers,
        inputs,
        wrong=wrong or {},
        output=output,
        primitive=PRIMITIVE,
        library=f"transformers {cls}",
        **fields,
    )


vit = functools.partial(transformers_case, "ViTModel")
classifier = functools.partial(transformers_case, "ViTForImageClassification", output="logits")
dino = functools.partial(transformers_case, "Dinov2Model")
registers = functools.partial(transformers_case, "Dinov2WithRegistersModel")


def wrong(*changes, **named):
    return mutants(from_transformers, *changes, **named)


AS_BUILT = dict(options=dict(keep=("lambda1",)))
NO_POOLER = dict(extra=dict(add_pooling_layer=False))

TRANSFORMERS = [
    vit("32/8, two blocks", VIT, images(3, 32, 32), wrong(no_qkv_bias, tanh_gelu, *GENERAL)),
    vit(
        "LayerNorm eps 1e-6",
        VIT | dict(layer_norm_eps=1e-6),
        images(3, 32, 32),
        wrong(norm_eps_1e5=norm_eps(1e-5)),
        **NO_POOLER,
    ),
    vit("without pooler", VIT, images(3, 32, 32), **NO_POOLER),
    vit("pooler", VIT, images(3, 32, 32), wrong(no_hidden_activation), output="pooler_output"),
    vit(
        "pooler, other width and activation",
        VIT | dict(pooler_output_size=31, pooler_act="relu"),
        images(3, 32, 32),
        wrong(no_hidden_activation),
        output="pooler_output",
    ),
    vit(
        "with a mask token that pictures never meet", VIT, images(3, 32, 32), extra=dict(use_mask_token=True)
    ),
    vit("no bias on q, k, v", VIT | dict(qkv_bias=False), images(3, 32, 32), wrong(*GENERAL)),
    vit("ReLU", VIT | dict(hidden_act="relu"), images(3, 32, 32), wrong(erf_gelu)),
    vit("tanh GELU", VIT | dict(hidden_act="gelu_new"), images(3, 32, 32), wrong(erf_gelu)),
    vit(
        "tanh GELU of PyTorch", VIT | dict(hidden_act="gelu_pytorch_tanh"), images(3, 32, 32), wrong(erf_gelu)
    ),
    vit("quick GELU", VIT | dict(hidden_act="quick_gelu"), images(3, 32, 32), wrong(erf_gelu)),
    vit("one colour channel", VIT | dict(num_channels=1), images(3, 1, 32, 32), wrong(patch_transposed)),
    vit("five colour channels", VIT | dict(num_channels=5), images(2, 5, 32, 32), wrong(channels_reversed)),
    vit(
        "pictures 24 high and 40 wide",
        VIT | dict(image_size=(24, 40)),
        images(2, 24, 40),
        wrong(patches_by_column, patch_transposed),
    ),
    vit(
        "patches 4 high and 16 wide",
        VIT | dict(image_size=(24, 48), patch_size=(4, 16)),
        images(2, 24, 48),
        wrong(patches_by_column),
    ),
    vit("head width set apart", VIT | dict(head_dim=9), images(2, 32, 32), wrong(heads_interleaved)),
    vit(
        "resized to 48 x 24",
        VIT,
        images(2, 48, 24),
        wrong(bilinear_positions, other_antialias),
        call_reference=resized,
    ),
    vit(
        "resized to 16 x 64, as many patches",
        VIT,
        images(2, 16, 64),
        wrong(bilinear_positions),
        call_reference=resized,
    ),
    vit("resized to 8 x 8, one patch", VIT, images(2, 8, 8), call_reference=resized),
    classifier(
        "32/8, seven classes",
        VIT | dict(num_labels=7),
        images(3, 32, 32),
        wrong(no_value_bias, mean_instead_of_class_token, *GENERAL),
    ),
    classifier("one class", VIT | dict(num_labels=1), images(3, 32, 32)),
    classifier("no classes: features", VIT | dict(num_labels=0), images(3, 32, 32)),
    classifier(
        "24 x 40, resized to 40 x 40", VIT | dict(image_size=24), images(2, 40, 40), call_reference=resized
    ),
    dino(
        "56/14, two blocks",
        DINO,
        images(3, 56, 56),
        wrong(
            no_qkv_bias,
            tanh_gelu,
            no_layer_scale,
            layer_scales_exchanged,
            *GENERAL,
            norm_eps_1e5=norm_eps(1e-5),
        ),
    ),
    dino(
        "CLS as features", DINO, images(3, 56, 56), wrong(mean_instead_of_class_token), output="pooler_output"
    ),
    dino("SwiGLU", DINO | dict(use_swiglu_ffn=True), images(3, 56, 56), wrong(gate_and_value_swapped)),
    dino("ReLU", DINO | dict(hidden_act="relu"), images(3, 56, 56), wrong(erf_gelu)),
    dino("no bias on q, k, v", DINO | dict(qkv_bias=False), images(3, 56, 56)),
    dino("without mask token", DINO | dict(use_mask_token=False), images(3, 56, 56)),
    dino(
        "layer scale 0.1 everywhere",
        DINO | dict(layerscale_value=0.1),
        images(3, 56, 56),
        wrong(no_layer_scale),
        **AS_BUILT,
    ),
    dino(
        "one channel, patch 4", DINO | dict(image_size=20, patch_size=4, num_channels=1), images(2, 1, 20, 20)
    ),
    dino("resized to 84 x 42", DINO, images(2, 84, 42), wrong(bilinear_positions, other_antialias)),
    dino("resized to 28 x 112, as many patches", DINO, images(2, 28, 112), wrong(bilinear_positions)),
    dino("resized to 14 x 14, one patch", DINO, images(2, 14, 14)),
    registers(
        "four registers",
        DINO | dict(num_register_tokens=4),
        images(3, 56, 56),
        wrong(registers_at_zero, registers_first, no_layer_scale, *GENERAL),
    ),
    registers("one register", DINO | dict(num_register_tokens=1), images(3, 56, 56), wrong(registers_first)),
    registers("no registers", DINO | dict(num_register_tokens=0), images(3, 56, 56)),
    registers(
        "five registers, resized to 84 x 42",
        DINO | dict(num_register_tokens=5),
        images(2, 84, 42),
        wrong(bilinear_positions, other_antialias, registers_first),
    ),
    registers("resized to 28 x 28", DINO, images(2, 28, 28), wrong(other_antialias)),
    registers("SwiGLU", DINO | dict(use_swiglu_ffn=True), images(2, 56, 56), wrong(gate_and_value_swapped)),
    registers("layer scale 0.1 everywhere", DINO | dict(layerscale_value=0.1), images(3, 56, 56), **AS_BUILT),
    classifier(
        "Ti/16, 224 px",
        BENCH | dict(intermediate_size=768, num_labels=1000),
        images(4, 224, 224),
        bench="realistic",
    ),
    vit(
        "Ti/16, 224 px",
        BENCH | dict(intermediate_size=768),
        images(4, 224, 224),
        bench="realistic",
        **NO_POOLER,
    ),
    dino("Ti/14, 224 px", BENCH | dict(patch_size=14), images(4, 224, 224), bench="realistic"),
    registers(
        "Ti/14, four registers, 224 px", BENCH | dict(patch_size=14), images(4, 224, 224), bench="realistic"
    ),
]

CASES = [*TORCHVISION, *TRANSFORMERS]
