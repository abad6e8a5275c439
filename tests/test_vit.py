"""What `mmscratch.vit` promises beyond equality with the libraries, which tests/test_parity.py checks."""

from __future__ import annotations

import itertools

import pytest
import refusals
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmscratch import transformer, vit
from mmscratch.transformer import rotate
from mmscratch.vit import MaskedAutoencoder, VisionTransformer, ViTConfig

POSITIONS = ("none", "learned", "sincos", "rope")
# no two sizes are equal, so that an exchanged axis shows: 3 x 4 patches of 8 x 4 pixels, two channels
SMALL = dict(image_size=(24, 16), patch_size=(8, 4), dim=16, depth=2, num_heads=2, in_channels=2)


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode with every learned number redrawn: no gate hides at zero."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.copy_(torch.randn(p.shape, generator=g) * 0.3)
    return model.eval()


def small(**options) -> VisionTransformer:
    return lively(VisionTransformer(**SMALL | options))


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shuffle_patches(images: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    return vit.unpatchify(vit.patchify(images, (8, 4))[:, order], (8, 4), (3, 4))


def close(ours: torch.Tensor, theirs: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


# -- patches


@pytest.mark.parametrize(
    ("channels", "height", "width", "patch"),
    [(3, 16, 16, 8), (1, 12, 20, 4), (5, 24, 16, (8, 4)), (2, 6, 9, (2, 9))],
)
def test_patches_go_row_by_row_channel_first_and_back_again(channels, height, width, patch):
    images, (p, q) = noise(2, channels, height, width), vit.pair(patch)
    patches, (rows, cols) = vit.patchify(images, patch), vit.patch_grid(height, width, patch)
    assert patches.shape == (2, rows * cols, channels * p * q)
    for row, col in itertools.product(range(rows), range(cols)):
        piece = images[:, :, row * p : (row + 1) * p, col * q : (col + 1) * q]
        assert torch.equal(patches[:, row * cols + col], piece.flatten(1))
    assert torch.equal(vit.unpatchify(patches, patch, (rows, cols)), images)


# -- positions


def test_without_positions_shuffled_patches_give_shuffled_outputs_and_the_same_prefix():
    model, images = small(position="none", num_registers=3), noise(2, 2, 24, 16)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    plain, mixed = (model.forward_features(x) for x in (images, shuffle_patches(images, order)))
    close(mixed[:, 4:], plain[:, 4:][:, order])
    close(mixed[:, :4], plain[:, :4])


@pytest.mark.parametrize("position", POSITIONS[1:])
def test_with_positions_shuffled_patches_are_noticed(position):
    model, images = small(position=position), noise(2, 2, 24, 16)
    shuffled = shuffle_patches(images, torch.arange(11, -1, -1))
    assert (model(shuffled) - model(images)).abs().max() > 0.01


def test_rotary_scores_depend_on_the_offset_alone_and_spare_the_prefix():
    rope = vit.rope_2d((4, 5), 8, prefix=2)
    q, k = noise(2, 1, 1, 22, 8, seed=3)
    assert torch.equal(rotate(q, rope)[:, :, :2], q[:, :, :2])
    close(rotate(q, rope).norm(dim=-1), q.norm(dim=-1))
    same_q, same_k = q[:, :, :1].expand(-1, -1, 22, -1), k[:, :, :1].expand(-1, -1, 22, -1)
    scores = rotate(same_q, rope)[0, 0, 2:] @ rotate(same_k, rope)[0, 0, 2:].T
    by_offset: dict[tuple[int, int], list[float]] = {}
    for (i, a), (j, b) in itertools.product(enumerate(itertools.product(range(4), range(5))), repeat=2):
        by_offset.setdefault((b[0] - a[0], b[1] - a[1]), []).append(scores[i, j].item())
    assert max(max(same) - min(same) for same in by_offset.values()) < 1e-4
    means = torch.tensor([same[0] for same in by_offset.values()])
    assert len(means) == 7 * 9 and means.unique().numel() > 60


def test_sincos_codes_have_one_length_and_a_symmetric_similarity():
    codes = vit.sincos_2d((7, 9), 24).view(7, 9, 24)
    close(codes.norm(dim=-1), torch.full((7, 9), 12**0.5))
    for down, right in itertools.product(range(4), range(5)):
        here, there = codes[: 7 - down, : 9 - right], codes[down:, right:]
        similarity = (here * there).sum(-1)
        close(similarity, similarity[:1, :1].expand_as(similarity))  # of the offset only
        mirrored = (codes[down:, : 9 - right] * codes[: 7 - down, right:]).sum(-1)
        close(mirrored, similarity)  # up is like down
    assert torch.equal(codes[:, :, :12], codes[:1, :, :12].expand(7, -1, -1))  # first half: the column
    assert torch.equal(codes[:, :, 12:], codes[:, :1, 12:].expand(-1, 9, -1))  # second half: the row


def test_interpolation_keeps_the_same_grid_constants_and_the_direction_of_axes():
    table = noise(1, 12, 5)
    assert vit.interpolate_positions(table, (3, 4), (3, 4)) is table
    constant = torch.ones(1, 12, 5)
    close(vit.interpolate_positions(constant, (3, 4), (5, 7)), torch.ones(1, 35, 5))
    by_row = torch.arange(3.0).repeat_interleave(4).view(1, 12, 1)
    resized = vit.interpolate_positions(by_row, (3, 4), (6, 5)).view(6, 5)
    close(resized, resized[:, :1].expand(6, 5))
    assert (resized[:, 0].diff() > 0).all()
    smooth, plain = (vit.interpolate_positions(table, (3, 4), (2, 2), antialias=a) for a in (True, False))
    assert (smooth - plain).abs().max() > 0.01


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("size", [(40, 8), (8, 28), (24, 16)])
def test_every_position_scheme_takes_pictures_of_another_size(position, size):
    model, images = small(position=position, num_classes=3, num_registers=1), noise(2, 2, *size)
    features = model.forward_features(images)
    assert features.shape == (2, 2 + size[0] // 8 * size[1] // 4, 16)
    assert features.isfinite().all() and model(images).shape == (2, 3)


# -- tokens, pooling, head


def test_the_sequence_is_class_token_registers_patches_and_registers_have_no_position():
    model = small(num_registers=2)
    tokens, images = model.tokens, noise(3, 2, 24, 16)
    found = tokens(images)
    assert found.shape == (3, 1 + 2 + 12, 16) and model.num_prefix == 3
    close(found[:, :1], (tokens.cls + tokens.positions[:, :1]).expand(3, -1, -1))
    close(found[:, 1:3], tokens.registers.expand(3, -1, -1))
    close(found[:, 3:], tokens.embed(images) + tokens.positions[:, 1:])


@pytest.mark.parametrize(
    ("pooling", "class_token", "prefix"),
    [("cls", None, 1), ("mean", None, 0), ("map", None, 0), ("mean", True, 1), ("map", True, 1)],
)
def test_pooling_reads_its_own_tokens_and_no_others(pooling, class_token, prefix):
    model = small(pooling=pooling, class_token=class_token, num_registers=2, num_classes=0)
    assert model.num_prefix == prefix + 2
    features = model.forward_features(noise(3, 2, 24, 16)).detach().requires_grad_()
    pooled = model.pool(features)
    (pooled * noise(3, 16)).sum().backward()
    read = features.grad.abs().sum((0, 2)) > 0  # (P + N,)
    expected = torch.zeros(prefix + 2 + 12, dtype=torch.bool)
    expected[slice(0, 1) if pooling == "cls" else slice(prefix + 2, None)] = True
    assert torch.equal(read, expected)
    if pooling == "mean":
        close(pooled, features[:, prefix + 2 :].mean(1))


def test_without_classes_the_model_returns_pooled_features():
    images = noise(3, 2, 24, 16)
    model = small(pooling="mean")
    close(model(images), model.forward_features(images).mean(1))
    hidden = small(representation_size=5, representation_act="relu")
    pooled = hidden.forward_features(images)[:, 0]
    close(hidden(images), (pooled @ hidden.head.hidden.weight.T + hidden.head.hidden.bias).relu())


def test_the_last_norm_is_part_of_the_features():
    model, images = VisionTransformer(**SMALL).eval(), noise(2, 2, 24, 16)  # norm still at one and zero
    features = model.forward_features(images)
    close(features.mean(-1), torch.zeros(2, 13))
    close(features.var(-1, unbiased=False), torch.ones(2, 13), atol=1e-3)


def test_a_picture_is_answered_alike_alone_and_in_a_batch():
    model, images = small(num_classes=5, pooling="map", num_registers=1), noise(4, 2, 24, 16)
    close(torch.cat([model(image[None]) for image in images]), model(images))


# -- blocks


def test_the_blocks_are_those_of_lesson_02_and_see_rotary_angles():
    model, images = small(position="rope", num_registers=1), noise(2, 2, 24, 16)
    assert all(type(block) is transformer.Block for block in model.blocks)
    x, rope = model.tokens(images), model.rope(images)
    assert rope.shape == (2, 1 + 1 + 12, 8)
    for block in model.blocks:
        x = block(x, rope)
    close(model.forward_features(images), model.norm(x))


def test_attention_pooling_is_cross_attention_from_one_query_and_a_feed_forward():
    pool, x = lively(vit.AttentionPooling(12, num_heads=3, hidden=20)), noise(2, 7, 12)
    weights = pool.cross.weights(pool.probe.expand(2, -1, -1), x)  # (2, 3, 1, 7)
    values = pool.cross.project(pool.probe, x)[2]
    read = pool.cross.out((weights @ values).transpose(1, 2).flatten(1))
    close(pool(x), read + pool.mlp(pool.norm(read)))


def test_layer_scale_at_zero_turns_the_blocks_off():
    images = noise(2, 2, 24, 16)
    for scale, off in ((0.0, True), (None, False)):
        model = VisionTransformer(**SMALL, layer_scale=scale).eval()
        change = model.forward_features(images) - model.norm(model.tokens(images))
        assert bool(change.abs().max() < 1e-6) is off


def test_knobs_of_lesson_02_reach_the_whole_model():
    model = small(norm="rms", pre_norm=True, num_kv_heads=1, out_bias=False, mlp_bias=False)
    norms = [module for name, module in model.named_modules() if "norm" in name.rsplit(".", 1)[-1]]
    assert len(norms) == 1 + 2 * 2 + 1 and {type(norm) for norm in norms} == {transformer.RMSNorm}
    assert model.blocks[0].attention.qkv.out_features == (2 + 2 * 1) * 8
    assert model.blocks[0].attention.out.bias is None and model.blocks[0].mlp.fc1.bias is None

    plain, post, images = small(), small(post_norm=True), noise(2, 2, 24, 16)  # the same weights
    assert (plain(images) - post(images)).abs().max() > 0.01


def test_an_autoencoder_gives_its_decoder_the_norm_of_the_encoder_and_heads_of_its_own():
    model = autoencoder(norm="rms", num_heads=4, num_kv_heads=4)  # the decoder has two heads
    assert type(model.norm) is type(model.blocks[0].norm1) is transformer.RMSNorm
    assert model.blocks[0].attention.num_kv_heads == 2 and model.encoder.blocks[0].attention.num_kv_heads == 4


def test_dropout_acts_in_training_only():
    images = noise(2, 2, 24, 16)
    for options in ({"dropout": 0.5}, {"attention_dropout": 0.5}):
        model = small(**options)
        assert torch.equal(model(images), model(images))
        model.train()
        assert not torch.equal(model(images), model(images))


def test_a_stem_replaces_the_linear_embedding():
    model = lively(
        VisionTransformer(**SMALL | dict(patch_size=4), stem=vit.conv_stem([6, 9], dim=16, in_channels=2))
    )
    images = noise(2, 2, 24, 16)
    assert model.forward_features(images).shape == (2, 1 + 24, 16)
    by_row = model.tokens.embed.layers(images)[:, :, 1, 2]  # row 1, column 2
    close(model.tokens.embed(images)[:, 1 * 4 + 2], by_row)


# -- the whole model

KINDS = {
    "plain": {},
    "registers, layer scale, swiglu": dict(
        num_registers=2, layer_scale=0.1, gated=True, act="silu", mlp_dim=24
    ),
    "mean of rotated patches": dict(pooling="mean", position="rope", head_dim=4),
    "attention pooling, pre-norm": dict(pooling="map", pre_norm=True, patch_bias=False, qkv_bias=False),
    "hidden layer before the head": dict(representation_size=6, position="sincos"),
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_every_parameter_learns(options):
    model = small(num_classes=3, **options)
    (model(noise(2, 2, 24, 16)) * noise(2, 3)).sum().backward()
    idle = [
        n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert not idle
    fixed = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert fixed == (["tokens.positions"] if options.get("position") == "sincos" else [])


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_double_precision_gives_the_same_answers(options):
    model, images = small(num_classes=3, **options), noise(2, 2, 40, 16)
    single = model(images)
    double = model.double()(images.double())
    assert double.dtype == torch.float64
    close(double.float(), single, atol=1e-4)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_weights_survive_the_round_trip(options):
    model, other = (
        small(num_classes=3, **options),
        VisionTransformer(**SMALL, num_classes=3, **options).eval(),
    )
    images = noise(2, 2, 24, 16)
    assert not torch.equal(other(images), model(images))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images), model(images))


def test_initial_weights_follow_the_seed_and_tokens_start_distinct():
    def build(seed: int) -> VisionTransformer:
        torch.manual_seed(seed)
        return VisionTransformer(**SMALL, num_registers=3)

    first, again, other = (build(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["tokens.embed.linear.weight"], other["tokens.embed.linear.weight"])
    registers = first["tokens.registers"][0]
    assert torch.cdist(registers, registers).fill_diagonal_(1).min() > 0.01
    assert 0 < first["tokens.cls"].abs().max() < 0.2


# -- counting


SIZES = dict(image_size=(32, 48), patch_size=(8, 16), dim=24, depth=3, num_heads=2)


def grid_of_configurations():
    for position, pooling, registers, gated in itertools.product(
        POSITIONS, ("cls", "mean", "map"), (0, 5), (False, True)
    ):
        yield SIZES | dict(position=position, pooling=pooling, num_registers=registers, gated=gated)
    for extra in (
        dict(layer_scale=1e-5),
        dict(pre_norm=True),
        dict(representation_size=10),
        dict(representation_size=10, num_classes=7),
        dict(num_classes=7),
        dict(qkv_bias=False, patch_bias=False),
        dict(head_dim=20, mlp_dim=50),
        dict(in_channels=1),
        dict(pooling="mean", class_token=True),
        dict(pooling="map", mlp_dim=50, class_token=True, num_classes=7),
        dict(depth=1),
        dict(norm="rms", pre_norm=True, pooling="map"),
        dict(num_kv_heads=1, head_dim=20),
        dict(out_bias=False, mlp_bias=False, gated=True),
    ):
        yield SIZES | extra


def name(options):
    return ", ".join(f"{key}={value}" for key, value in options.items() if key not in SIZES)


@pytest.mark.parametrize("options", list(grid_of_configurations()), ids=name)
def test_parameters_are_counted_exactly(options):
    with torch.device("meta"):
        model = VisionTransformer(**options)
    assert vit.count_parameters(model.config) == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "options",
    [
        dict(num_classes=7),
        dict(
            pooling="mean",
            num_registers=3,
            gated=True,
            act="silu",
            mlp_dim=40,
            position="sincos",
            layer_scale=0.1,
        ),
        dict(pooling="mean", position="rope", head_dim=12, class_token=True, qkv_bias=False, num_classes=2),
        dict(pooling="map", num_classes=2),
        dict(representation_size=6, num_classes=2),
        dict(num_kv_heads=1),
    ],
    ids=[
        "class token",
        "registers and swiglu",
        "rope and wide heads",
        "attention pooling",
        "hidden layer",
        "grouped queries",
    ],
)
@pytest.mark.parametrize("size", [(24, 16), (40, 32)])
def test_multiply_adds_are_what_torch_counts(options, size):
    model = small(**options).requires_grad_(False)  # the counter cannot hook into a view of a parameter
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 2, *size))
    assert counter.get_total_flops() == 2 * sum(vit.count_macs(model.config, size).values())


def test_a_configuration_by_itself_knows_its_class_token():
    for pooling in ("cls", "mean", "map"):
        config = ViTConfig(**SMALL, pooling=pooling)
        model = VisionTransformer(**SMALL, pooling=pooling)
        assert config.class_token is (pooling == "cls")
        assert vit.count_parameters(config) == vit.count_parameters(model.config)
        assert vit.count_macs(config) == vit.count_macs(model.config)


# -- masked autoencoder


def autoencoder(normalise: bool = True, mask_ratio: float = 0.75, **options) -> MaskedAutoencoder:
    encoder = VisionTransformer(**SMALL | dict(class_token=True, **options))
    return lively(
        MaskedAutoencoder(encoder, dim=8, depth=1, num_heads=2, mask_ratio=mask_ratio, normalise=normalise)
    )


@pytest.mark.parametrize(("ratio", "hidden"), [(0.75, 9), (0.5, 6), (0.1, 2), (0.95, 12)])
def test_the_same_share_of_every_picture_is_hidden_by_the_largest_noise(ratio, hidden):
    order = torch.rand(5, 12, generator=torch.Generator().manual_seed(0))
    loss, prediction, mask = autoencoder(mask_ratio=ratio)(noise(5, 2, 24, 16), order)
    assert loss.shape == () and prediction.shape == (5, 12, 2 * 8 * 4) and mask.shape == (5, 12)
    assert mask.unique().tolist() in ([0, 1], [1]) and mask.sum(1).tolist() == [hidden] * 5
    largest = torch.zeros(5, 12).scatter(1, order.topk(hidden).indices, 1.0)
    assert torch.equal(mask, largest)


def test_without_given_noise_the_mask_is_random_and_follows_the_seed():
    model, images = autoencoder(), noise(5, 2, 24, 16)
    masks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        masks.append(model(images)[2])
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])
    assert len(masks[0].unique(dim=0)) > 1  # pictures of one batch differ


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_encoder_never_sees_hidden_pixels(pooling):
    model, images, order = autoencoder(pooling=pooling), noise(1, 2, 24, 16), torch.linspace(0, 1, 12)[None]
    seen = []  # what enters the first block of the encoder
    model.encoder.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    loss, prediction, mask = model(images, order)
    hidden, visible = images.clone(), images.clone()
    hidden[:, :, 16:, 8:12] += 1 + noise(8, 4)  # patch 10 of 12: hidden, as its noise is large
    visible[:, :, :8, 4:8] += 1 + noise(8, 4)  # patch 1: visible
    assert mask[0, 10] == 1 and mask[0, 1] == 0 and seen[0].shape == (1, 1 + 3, 16)

    other_loss, other_prediction, _ = model(hidden, order)
    assert torch.equal(seen[1], seen[0]) and torch.equal(other_prediction, prediction)
    assert not torch.equal(other_loss, loss)  # it is judged by them

    assert not torch.equal(model(visible, order)[1], prediction)


@pytest.mark.parametrize("normalise", [False, True])
def test_the_loss_is_the_mean_over_hidden_patches_only(normalise):
    model, images = autoencoder(normalise), noise(3, 2, 24, 16)
    loss, prediction, mask = model(images, torch.rand(3, 12, generator=torch.Generator().manual_seed(0)))
    target = vit.patchify(images, (8, 4))
    if normalise:
        target = (target - target.mean(-1, keepdim=True)) / target.std(-1, keepdim=True)
    hidden = mask.bool()
    close(loss, F.mse_loss(prediction[hidden], target[hidden]), atol=1e-4)
    (moved,) = torch.autograd.grad(loss, prediction)
    assert not moved[~hidden].any() and moved[hidden].any(-1).all()


def test_an_autoencoder_survives_the_round_trip_and_learns_everywhere():
    model, other = (
        autoencoder(),
        MaskedAutoencoder(VisionTransformer(**SMALL, class_token=True), dim=8, depth=1, num_heads=2),
    )
    other.load_state_dict(model.state_dict())
    images, order = noise(2, 2, 24, 16), torch.rand(2, 12, generator=torch.Generator().manual_seed(0))
    loss = other.eval()(images, order)[0]
    assert torch.equal(loss, model(images, order)[0])
    loss.backward()
    idle = [
        n for n, p in other.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert not idle


# -- other people's weights


def torchvision_model() -> nn.Module:
    from torchvision.models import VisionTransformer as Theirs

    return Theirs(
        image_size=16, patch_size=8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=3
    )


def transformers_model() -> nn.Module:
    from transformers import ViTConfig as Theirs
    from transformers import ViTModel

    return ViTModel(
        Theirs(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8)
    )


def mae_model() -> nn.Module:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    tiny = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    decoder = {f"decoder_{key}": value for key, value in tiny.items()}
    return ViTMAEForPreTraining(ViTMAEConfig(**tiny, **decoder, image_size=16, patch_size=8))


def siglip_head() -> nn.Module:
    from transformers import SiglipVisionConfig
    from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

    return SiglipMultiheadAttentionPoolingHead(
        SiglipVisionConfig(hidden_size=8, num_attention_heads=2, intermediate_size=8)
    )


LOADERS = {
    "from_torchvision": torchvision_model,
    "from_transformers": transformers_model,
    "mae_from_transformers": mae_model,
    "pooling_from_transformers": siglip_head,
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_loaded_model_follows_the_reference_in_precision_device_and_mode(name):
    load, theirs = getattr(vit, name), LOADERS[name]()
    for training, dtype in ((True, torch.float64), (False, torch.bfloat16)):
        ours = load(theirs.to(dtype).train(training))
        assert {p.dtype for p in ours.parameters()} == {dtype}
        assert all(module.training is training for module in ours.modules())
    ours = load(theirs.to("meta"))
    assert {p.device.type for p in ours.parameters()} == {"meta"}


@pytest.mark.parametrize("name", LOADERS)
def test_a_loaded_model_owns_its_weights(name):
    theirs = LOADERS[name]()
    before = {key: value.clone() for key, value in theirs.state_dict().items()}
    with torch.no_grad():
        for p in getattr(vit, name)(theirs).parameters():
            p.fill_(7.0)
    assert all(torch.equal(value, before[key]) for key, value in theirs.state_dict().items())


# -- bad input


SETUP = """
import json, sys
from mmscratch.vit import *
foreign = {"torchvision", "transformers", "open_clip", "matplotlib", "mmscratch.kit"} & sys.modules.keys()
assert not foreign, f"importing mmscratch.vit also loads {foreign}"
from torch import nn, zeros
def config(**options):
    return ViTConfig(**dict(image_size=16, patch_size=8, dim=8, depth=1, num_heads=2) | options)
def model(**options):
    return VisionTransformer(**dict(image_size=16, patch_size=8, dim=8, depth=1, num_heads=2) | options)
def autoencoder(encoder, **options):
    return MaskedAutoencoder(encoder, **dict(dim=8, depth=1, num_heads=2) | options)
"""

CASES = {  # exported name: {wrong use: error and message, ".*" for anything between}
    "pair": {
        "pair((1, 2, 3))": "ValueError: expected a positive whole number or (height, width), got (1, 2, 3)",
        "pair(8.0)": "ValueError: got 8.0",
        "pair(0)": "ValueError: got 0",
    },
    "patch_grid": {
        "patch_grid(8, 8, -8)": "ValueError: got -8",
        "patch_grid(30, 32, 8)": "ValueError: image height 30 is not a multiple of patch_size 8",
        "patch_grid(32, 30, (4, 8))": "ValueError: image width 30 is not a multiple of patch_size 8",
        "patch_grid(0, 8, 8)": "ValueError: image height 0 is not a multiple of patch_size 8",
    },
    "random_mask": {
        "random_mask(zeros(16), 0.75)": "ValueError: expected noise of shape (B, N), got (16,)",
    },
    "patchify": {
        "patchify(zeros(3, 16, 16), 8)": "ValueError: expected .*(B, C, H, W), got (3, 16, 16)",
        "patchify(zeros(1, 3, 16, 15), 8)": "ValueError: image width 15",
    },
    "unpatchify": {
        "unpatchify(zeros(1, 4, 192), 8, (2, 3))": "ValueError: expected (B, 6, .*got (1, 4, 192)",
        "unpatchify(zeros(1, 4, 48), 8, (2, 2))": "ValueError: expected (B, 4, C*8*8) .*(1, 4, 48)",
        "unpatchify(zeros(4, 192), 8, (2, 2))": "ValueError: got (4, 192)",
    },
    "PatchEmbedding": {
        "PatchEmbedding(8, dim=4)(zeros(1, 3, 16, 15))": "ValueError: image width 15",
    },
    "sincos_2d": {
        "sincos_2d((2, 2), 6)": "ValueError: multiple of 4, got 6",
    },
    "rope_2d": {
        "rope_2d((2, 2), 6)": "ValueError: multiple of 4, got 6",
    },
    "interpolate_positions": {
        "interpolate_positions(zeros(1, 16, 8), (4, 5), (8, 8))": "ValueError: (1, 20, D), got (1, 16, 8)",
        "interpolate_positions(zeros(1, 16, 8), (4, 8), (8, 8))": "ValueError: (1, 32, D), got (1, 16, 8)",
        "interpolate_positions(zeros(1, 16, 8), (5, 5), (5, 5))": "ValueError: (1, 25, D), got (1, 16, 8)",
    },
    "position_table": {
        "position_table('polar', (2, 2), 8, class_token=True)": "ValueError: expected position .*got 'polar'",
        "position_table('sincos', (2, 2), 6, class_token=True)": "ValueError: got 6",
    },
    "AttentionPooling": {
        "AttentionPooling(10, num_heads=3, hidden=4)": "ValueError: dim 10 is not a multiple of num_heads 3",
        "AttentionPooling(8, num_heads=2, hidden=4, act='mish')": "ValueError: got 'mish'",
        "AttentionPooling(8, num_heads=2, hidden=4)(zeros(1, 2, 6))": "ValueError: (B, S, 8), got (1, 2, 6)",
    },
    "Pooling": {
        "model(pooling='max')": "ValueError: expected pooling to be one of cls, mean, map, got 'max'",
        "model(class_token=False)": "ValueError: pooling 'cls' reads the class token",
    },
    "Head": {
        "Head(config(representation_act='mish'))": "ValueError: representation_act .*got 'mish'",
        "Head(config(num_classes=3))(zeros(2, 6))": "RuntimeError: 2x6 and 8x3",
    },
    "Tokens": {
        "Tokens(config())(zeros(1, 4, 16, 16))": "ValueError: expected .*(B, 3, H, W), got (1, 4, 16, 16)",
        "Tokens(config())(zeros(3, 16, 16))": "ValueError: expected .*(B, 3, H, W), got (3, 16, 16)",
        "Tokens(config())(zeros(1, 3, 15, 16))": "ValueError: image height 15",
        "Tokens(config(image_size=(16, 12)))": "ValueError: image width 12",
    },
    "ViTConfig": {
        "config(pooling='max')": "ValueError: expected pooling to be one of cls, mean, map, got 'max'",
        "config(position='polar')": "ValueError: none, learned, sincos, rope, got 'polar'",
        "ViTConfig(image_size=16)": "TypeError: missing .*'patch_size'",
        "config(patchsize=8)": "TypeError: unexpected .*'patchsize'",
        "config(cross=True)": "ValueError: reads no context, got cross=True",
    },
    "VisionTransformer": {
        "model(position='rope', dim=12)": "ValueError: head_dim to be a multiple of 4, got 6",
        "model(patchsize=8)": "TypeError: unexpected .*'patchsize'",
        "model(position='polar')": "ValueError: none, learned, sincos, rope, got 'polar'",
        "model(position='sincos', dim=6)": "ValueError: multiple of 4, got 6",
        "model()(zeros(2, 1, 16, 16))": "ValueError: expected .*(B, 3, H, W), got (2, 1, 16, 16)",
        "model(dim=10, num_heads=3)": "ValueError: dim 10 is not a multiple of num_heads 3",
        "model(act='mish')": "ValueError: act to be one of gelu, .*got 'mish'",
        "model(norm='batch')": "ValueError: norm to be one of layer, rms, got 'batch'",
        "model(num_kv_heads=3)": "ValueError: num_heads 2 is not a multiple of num_kv_heads 3",
        "model(dropout=2.0)": "ValueError: between 0 and 1, but got 2.0",
    },
    "ConvStem": {
        "model(stem=ConvStem(nn.Conv2d(3, 8, 4, 4)))(zeros(1, 3, 16, 16))": "ValueError: 4 tokens .*got 16",
    },
    "conv_stem": {
        "model(stem=conv_stem([4], dim=8))(zeros(1, 3, 16, 16))": "ValueError: expected 4 tokens .*got 64",
    },
    "count_parameters": {
        "count_parameters(config(image_size=15))": "ValueError: image height 15",
    },
    "projected": {
        "projected(config(dim=10, num_heads=3))": "ValueError: dim 10 is not a multiple of num_heads 3",
    },
    "count_macs": {
        "count_macs(config(), 15)": "ValueError: image height 15",
    },
    "from_torchvision": {
        "from_torchvision('vit_b_16')": "TypeError: expected VisionTransformer, got str",
        "from_torchvision(model())": "TypeError: VisionTransformer of torchvision",
    },
    "from_transformers": {
        "from_transformers(nn.Linear(2, 2))": "TypeError: ViTModel .*Dinov2Model, got Linear",
    },
    "mae_from_transformers": {
        "mae_from_transformers(model())": "TypeError: ViTMAEForPreTraining, got VisionTr",
    },
    "pooling_from_transformers": {
        "pooling_from_transformers(nn.Linear(2, 2))": "TypeError: Siglip.*, got Linear",
    },
    "MaskedAutoencoder": {
        "autoencoder(model(position='none'))": "ValueError: added positions",
        "autoencoder(model())(zeros(1, 3, 32, 32))": "ValueError: expected 4 patches, .*got 16",
        "autoencoder(model())(zeros(1, 3, 16, 16), zeros(1, 3))": "ValueError: noise (1, 4), got (1, 3)",
        "autoencoder(model(), mask_ratio=1.0)": "ValueError: mask_ratio .*between 0 and 1, got 1.0",
        "autoencoder(model(position='rope'))": "ValueError: added positions",
        "autoencoder(model(pooling='mean'))": "ValueError: class token",
        "autoencoder(model(num_registers=2))": "ValueError: no registers",
        "autoencoder(model(), dim=6)": "ValueError: multiple of 4, got 6",
        "autoencoder(model(), num_heads=3)": "ValueError: dim 8 is not a multiple of num_heads 3",
        "autoencoder(model())(zeros(1, 3, 16, 15))": "ValueError: image width 15",
    },
}
WITHOUT_CASE = {
    "FROM_MAE": "a table",
    "FROM_SIGLIP": "a table",
    "FROM_TORCHVISION": "a table",
    "FROM_TRANSFORMERS": "a table",
    "IN_BLOCK": "a table",
    "Size": "a type",
    "flatten_patches": "changes the weights it finds, in any state",
    "initialise": "draws the parameters it finds, in any module",
    "shared_options": "reads a configuration whose model was checked",
}

test_bad_input_is_refused, test_every_name_is_given_bad_input = refusals.tests(
    vit, SETUP, CASES, WITHOUT_CASE
)
