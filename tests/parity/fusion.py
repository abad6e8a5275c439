"""`mmscratch.fusion` against torch's own encoder, encoder-decoder and pair of encoders, and against ViLT.

Batch, patches, words, heads and widths differ from one another, both sides are padded, and towers have
different depths. Each mutant maps the weights correctly and then breaks our model in one way.
"""

from __future__ import annotations

import torch
from torch import nn

from mmscratch.kit.reference import Case, mutants

# ---------------------------------------------------------------------------------------------------------
# Both sides


def from_torch(model):
    from mmscratch import fusion

    return fusion.from_torch(model)


def from_transformers(model):
    from mmscratch import fusion

    return fusion.from_transformers(model)


def encoder(depth=3, *, dim=24, heads=3, mlp=40, act="gelu", norm_first=True):
    layer = nn.TransformerEncoderLayer(dim, heads, mlp, 0.0, act, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, depth, nn.LayerNorm(dim), enable_nested_tensor=False)


def early(**options):
    return lambda: encoder(**options)


def late(see=2, read=3, **options):
    return lambda: nn.ModuleList([encoder(see, **options), encoder(read, **options)])


def joint(see=2, read=3, *, dim=24, heads=3, mlp=40, act="gelu", norm_first=True):
    def build():
        shape = dict(dim=dim, heads=heads, mlp=mlp, act=act, norm_first=norm_first)
        return nn.Transformer(
            dim,
            heads,
            see,
            read,
            mlp,
            0.0,
            act,
            encoder(see, **shape),
            batch_first=True,
            norm_first=norm_first,
        )

    return build


def vilt(**options):
    def build():
        from transformers import ViltConfig, ViltModel

        shape = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40)
        return ViltModel(ViltConfig(image_size=32, patch_size=8, vocab_size=30, **shape | options))

    return build


def some(batch, length, seed):
    """True for what is there, (B, S): row 0 in full, the others shorter and shorter, never empty."""
    lengths = torch.tensor([max(1, length - seed * row) for row in range(batch)])
    return torch.arange(length) < lengths[:, None]


def both_sides(batch, patches, words, *, dim=24, padded=True):
    def build():
        g = torch.Generator().manual_seed(0)
        image, text = (torch.randn(batch, n, dim, generator=g) for n in (patches, words))
        if not padded:
            return image, text, None, None
        return image, text, some(batch, patches, 3), some(batch, words, 2)

    return build


def hidden(mask):
    return None if mask is None else ~mask


def together(seen, said):
    return None if seen is None else torch.cat([seen, said], dim=1)


def they_early(model, image, text, seen, said):
    mask = hidden(together(seen, said))
    states = model(torch.cat([image, text], dim=1), src_key_padding_mask=mask)
    return states.split([image.shape[1], text.shape[1]], dim=1)


def they_late(model, image, text, seen, said):
    return model[0](image, src_key_padding_mask=hidden(seen)), model[1](
        text, src_key_padding_mask=hidden(said)
    )


def they_joint(model, image, text, seen, said):
    memory = model.encoder(image, src_key_padding_mask=hidden(seen))
    masks = dict(tgt_key_padding_mask=hidden(said), memory_key_padding_mask=hidden(seen))
    return memory, model.decoder(text, memory, **masks)


def they_vilt(model, image, text, seen, said):
    """ViLT puts the text first; its mask is added to the scores."""
    mask = None
    if seen is not None:
        mask = torch.zeros(1).masked_fill(~together(said, seen), float("-inf"))[:, None, None]
    states = model.encoder(torch.cat([text, image], dim=1), attention_mask=mask).last_hidden_state
    text, image = model.layernorm(states).split([text.shape[1], image.shape[1]], dim=1)
    return image, text


# ---------------------------------------------------------------------------------------------------------
# Mutants: model -> None, breaks it in place


def blocks(model):
    return [block for stack in model.children() for block in stack.blocks]


def scale_by_width(model):
    """Scores divided by the root of the model's width instead of the head's."""
    for block in blocks(model):
        attention = block.attention
        queries = attention.num_heads * attention.head_dim
        for parameter in (attention.qkv.weight, attention.qkv.bias):
            parameter[:queries] *= attention.num_heads**-0.5


def post_norm(model):
    for block in blocks(model):
        block.post_norm = not block.post_norm


def no_final_norm(model):
    for stack in model.children():
        stack.norm = nn.Identity()


def one_block_less(model):
    stack = list(model.children())[-1]
    stack.blocks = stack.blocks[:-1]


def sides_exchanged(model):
    forward = model.forward

    def turned(image, text, seen=None, said=None):
        return forward(text, image, said, seen)[::-1]

    model.forward = turned


def towers_exchanged(model):
    model.image, model.text = model.text, model.image


def masks_forgotten(model):
    forward = model.forward
    model.forward = lambda image, text, seen, said: forward(image, text)


def picture_mask_forgotten(model):
    forward = model.forward
    model.forward = lambda image, text, seen, said: forward(image, text, None, said)


def word_mask_forgotten(model):
    forward = model.forward
    model.forward = lambda image, text, seen, said: forward(image, text, seen, None)


def sides_kept_apart(model):
    """Late fusion with early fusion's weights: each side sees itself only."""
    run = model.both.encode

    def apart(image, text, seen=None, said=None):
        return run(embeddings=image, mask=seen), run(embeddings=text, mask=said)

    model.forward = apart


def text_reads_no_picture(model):
    for block in model.text.blocks:
        block.cross = None


def text_reads_the_picture_in_the_last_block_only(model):
    for block in model.text.blocks[:-1]:
        block.cross = None


def text_reads_raw_patches(model):
    """Patches as they come, past the picture tower."""
    model.forward = lambda image, text, seen, said: (
        model.see(image, seen),
        model.meet(image, text, seen, said)[1],
    )


def cross_keys_are_values(model):
    for block in model.text.blocks:
        for parameter in (block.cross.kv.weight, block.cross.kv.bias):
            parameter.copy_(torch.cat(parameter.chunk(2)[::-1]))


def norms_of_both_attentions_exchanged(model):
    for block in model.text.blocks:
        block.norm1, block.norm_cross = block.norm_cross, block.norm1


def epsilon(model):
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-2


COMMON = (scale_by_width, post_norm, no_final_norm, one_block_less, masks_forgotten, epsilon)
JOINT = (
    sides_exchanged,
    text_reads_no_picture,
    text_reads_the_picture_in_the_last_block_only,
    text_reads_raw_patches,
    cross_keys_are_values,
    norms_of_both_attentions_exchanged,
    picture_mask_forgotten,
    word_mask_forgotten,
)
LATE = (sides_exchanged, picture_mask_forgotten, word_mask_forgotten)
EARLY = (sides_kept_apart, picture_mask_forgotten, word_mask_forgotten)


def case(name, kind, reference, inputs, *changes, ours=from_torch, **fields):
    library = {
        "early": "torch.nn.TransformerEncoder",
        "joint": "torch.nn.Transformer",
        "late": "torch.nn.TransformerEncoder, two",
        "vilt": "transformers ViltModel",
    }[kind]
    theirs = {"early": they_early, "joint": they_joint, "late": they_late, "vilt": they_vilt}[kind]
    return Case(
        name,
        reference,
        ours,
        inputs,
        wrong=mutants(ours, *changes),
        call_reference=theirs,
        primitive="fusion.Fuse",
        library=library,
        options=dict(attention=None),  # ViLT has no choice of implementations, torch no name for them
        **fields,
    )


BIG = dict(dim=128, heads=4, mlp=512)
CASES = [
    case("padded", "early", early(), both_sides(5, 11, 7), *COMMON, *EARLY),
    case("one word", "early", early(depth=1), both_sides(2, 9, 1, padded=False)),
    case("post-norm, ReLU", "early", early(act="relu", norm_first=False), both_sides(4, 6, 13)),
    case("SiLU", "early", early(act=nn.functional.silu), both_sides(4, 6, 13)),
    case("128 wide", "early", early(**BIG), both_sides(32, 17, 12, dim=128, padded=False), bench=True),
    case("padded", "joint", joint(), both_sides(5, 11, 7), *COMMON, *JOINT),
    case("towers of equal depth", "joint", joint(2, 2), both_sides(3, 5, 8), text_reads_raw_patches),
    case("one block each", "joint", joint(1, 1), both_sides(2, 9, 4, padded=False)),
    case("post-norm, ReLU", "joint", joint(act="relu", norm_first=False), both_sides(4, 6, 13)),
    case("128 wide", "joint", joint(**BIG), both_sides(32, 17, 12, dim=128, padded=False), bench=True),
    case("padded", "late", late(), both_sides(5, 11, 7), *COMMON, *LATE),
    case("towers of equal depth", "late", late(2, 2), both_sides(3, 5, 8), towers_exchanged),
    case("deeper eyes", "late", late(4, 1), both_sides(2, 9, 4, padded=False)),
    case("128 wide", "late", late(3, 3, **BIG), both_sides(32, 17, 12, dim=128, padded=False), bench=True),
    case("padded", "vilt", vilt(), both_sides(5, 11, 7), *COMMON, *EARLY, ours=from_transformers),
    case("no biases on queries", "vilt", vilt(qkv_bias=False), both_sides(3, 5, 9), ours=from_transformers),
    case(
        "192 wide, 12 heads",
        "vilt",
        vilt(hidden_size=192, num_attention_heads=12, intermediate_size=768),
        both_sides(8, 49, 20, dim=192),
        ours=from_transformers,
        bench=True,
    ),
]
