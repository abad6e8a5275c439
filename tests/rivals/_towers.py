"""The two towers of lessons 07 and 08, of timm and transformers.

No library has the lesson's image tower in a CLIP of its own: it begins with a stem of convolutions (torch's,
on both sides) and takes the mean of the patches. timm's vision transformer can, and open_clip accepts it.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from mmscratch.kit.reference import load
from mmscratch.kit.rivals import Adapted, load_renamed, start_as

vit = load(Path(__file__).with_name("vit.py"))


def image_tower(ours: nn.Module) -> nn.Module:
    """timm's `VisionTransformer` with the weights and the stem of our `ImageTower`."""
    theirs = vit.timm_vit(ours.vit.config, num_classes=0)
    theirs.patch_embed, theirs.head = copy.deepcopy(ours.vit.tokens.embed), copy.deepcopy(ours.vit.head)
    return load_renamed(ours.vit, theirs, vit.TO_TIMM)


def text_tower(ours: nn.Module) -> nn.Module:
    """transformers' `CLIPTextModelWithProjection` with the weights of our `TextTower`.

    There an end-of-text token of 2, which the lesson has, means the largest id. So theirs counts from one.
    """
    import transformers

    from mmscratch.clip import FROM_TRANSFORMERS, TextTower
    from mmscratch.transformer import load_mapped

    c = ours.transformer.config
    shape = dict(dim=c.dim, depth=c.depth, num_heads=c.num_heads, max_positions=c.max_positions)

    def mapping(theirs: nn.Module) -> nn.Module:
        tower = TextTower(c.vocab_size + 1, embed_dim=ours.embed_dim, **shape)
        return load_mapped(theirs, tower, FROM_TRANSFORMERS | {r"^text\.": ""})

    config = transformers.CLIPTextConfig(
        vocab_size=c.vocab_size + 1,
        hidden_size=c.dim,
        intermediate_size=c.mlp_dim or 4 * c.dim,
        projection_dim=ours.embed_dim,
        num_hidden_layers=c.depth,
        num_attention_heads=c.num_heads,
        max_position_embeddings=c.max_positions,
        hidden_act=c.act,
        layer_norm_eps=c.norm_eps,
        bos_token_id=None,
        eos_token_id=ours.eot_id + 1,
    )
    longer = copy.deepcopy(ours)
    words = longer.transformer.embed.weight
    longer.transformer.embed.weight = nn.Parameter(torch.cat([torch.zeros_like(words[:1]), words.detach()]))
    theirs = start_as(longer, transformers.CLIPTextModelWithProjection(config), mapping)
    return Adapted(theirs, lambda model, ids: model(input_ids=ids + 1).text_embeds)
