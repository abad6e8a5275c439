"""Lesson 07's CLIP against open_clip's, with its loss, on the towers of timm and transformers."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from mmscratch.kit.reference import load
from mmscratch.kit.rivals import Rival

towers = load(Path(__file__).with_name("_towers.py"))


def as_open_clip(ours: nn.Module) -> nn.Module:
    """open_clip's `CustomTextCLIP` around the two towers, with the weights of our `CLIP`."""
    import open_clip

    class AsTheLessonCalls(open_clip.CustomTextCLIP):
        """open_clip normalises in `forward` alone unless told; its training script clamps the scale."""

        def encode_image(self, image, normalize: bool = True):
            return super().encode_image(image, normalize=normalize)

        def encode_text(self, text, normalize: bool = True):
            return super().encode_text(text, normalize=normalize)

        @torch.no_grad()
        def clamp_logit_scale(self) -> None:
            self.logit_scale.clamp_(0, math.log(100))

    vision = dict(image_size=8, patch_size=8, width=8, layers=1, head_width=8)  # replaced below, like text
    theirs = AsTheLessonCalls(ours.visual.embed_dim, vision, dict(width=8, layers=1, heads=1))
    theirs.visual, theirs.text = towers.image_tower(ours.visual), towers.text_tower(ours.text)
    theirs.logit_scale.data.copy_(ours.logit_scale.data)
    return theirs


def as_open_clips_loss(clip_loss):
    from open_clip.loss import ClipLoss

    return ClipLoss()


RIVALS = [
    Rival(
        lesson="07",
        figure="CLIP, half a minute: R@1 of 1,000 captions",
        better="higher",
        ours="clip.CLIP",
        references=(
            "open_clip CustomTextCLIP",
            "open_clip ClipLoss",
            "timm VisionTransformer",
            "transformers CLIPTextModelWithProjection",
        ),
        training="live",
        exchange={"model": as_open_clip, "clip_loss": as_open_clips_loss},
        uses=("_towers.py", "vit.py"),
    )
]
