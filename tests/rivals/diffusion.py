"""Lesson 22's diffusion transformer against diffusers'.

diffusers embeds time and label in every block, by weights of the block's own, and knows labels only. The
lesson's recipe has one embedding for all blocks, of the mean of a caption's words: theirs gets the same.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from mmscratch.kit.rivals import Adapted, Rival, start_as


def as_diffusers(painter: nn.Module) -> nn.Module:
    """diffusers' `DiTTransformer2DModel` of the shape of our `DiT`, with its weights."""
    import diffusers

    from mmscratch.diffusion import from_diffusers

    c, words = painter.config, painter.conditioning[0].condition
    theirs = diffusers.DiTTransformer2DModel(
        num_attention_heads=c.num_heads,
        attention_head_dim=c.dim // c.num_heads,
        in_channels=c.in_channels,
        num_layers=c.depth,
        sample_size=c.image_size,
        patch_size=c.patch_size,
        attention_bias=c.qkv_bias,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=words.num_embeddings - 1,  # and one for "no label"
        norm_elementwise_affine=c.norm_affine,
        norm_eps=c.norm_eps,
    )
    steer = theirs.transformer_blocks[0].norm1.emb
    for block in theirs.transformer_blocks:
        block.norm1.emb = steer
    start_as(painter, theirs, from_diffusers)
    steer.class_embedder = copy.deepcopy(words)
    steer.time_proj.downscale_freq_shift = c.frequency_shift

    def call(model: nn.Module, x: torch.Tensor, t, y: torch.Tensor) -> torch.Tensor:
        times = torch.as_tensor(t, device=x.device).expand(len(x))
        return model(x, timestep=times, class_labels=y).sample

    return Adapted(theirs, call)


RIVALS = [
    Rival(
        lesson="22",
        figure="apprentice colour",
        better="higher",
        ours="diffusion.DiT",
        references=("diffusers DiTTransformer2DModel",),
        training="apprentice",
        exchange={"apprentice": as_diffusers},
    )
]
