"""Lesson 04's plain vision transformer against timm's.

torchvision and transformers always read a class token; the lesson's model takes the mean of the patches.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from mmscratch.kit.rivals import Rival, load_renamed

TO_TIMM = {
    r"^tokens\.embed\.linear": "patch_embed.proj",
    r"^tokens\.embed": "patch_embed",
    r"^tokens\.positions": "pos_embed",
    r"^tokens\.cls": "cls_token",
    r"^pre_norm": "norm_pre",
    r"\.attention\.qkv": ".attn.qkv",
    r"\.attention\.out": ".attn.proj",
    r"^head\.linear": "head",
}


def timm_vit(c, *, num_classes: int) -> nn.Module:
    """timm's `VisionTransformer` for a configuration of ours (`ViTConfig`)."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        c.image_size,
        c.patch_size,
        num_classes=num_classes,
        embed_dim=c.dim,
        depth=c.depth,
        num_heads=c.num_heads,
        class_token=c.class_token,
        global_pool={"mean": "avg", "cls": "token"}[c.pooling],
        pre_norm=c.pre_norm,
        fc_norm=False,
        norm_layer=partial(nn.LayerNorm, eps=c.norm_eps),
    )


def as_timm(net: nn.Module) -> nn.Module:
    return load_renamed(net, timm_vit(net.config, num_classes=net.config.num_classes), TO_TIMM)


def plain_one(contestants: dict[str, nn.Module]) -> dict[str, nn.Module]:
    return contestants | {"plain ViT": as_timm(contestants["plain ViT"])}


RIVALS = [
    Rival(
        lesson="04",
        figure="world: shape, plain ViT",
        better="higher",
        ours="vit.VisionTransformer",
        references=("timm VisionTransformer",),
        training="plain ViT",
        exchange={"contestants": plain_one},
    )
]
