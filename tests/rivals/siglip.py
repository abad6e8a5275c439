"""Lesson 08's pairwise sigmoid loss against open_clip's, on the towers of lesson 07.

open_clip's loss takes only the diagonal for matches. The lesson's recipe also takes equal captions, so theirs
is told so, in the method that it keeps for the labels.
"""

from __future__ import annotations

from pathlib import Path

import torch

from mmscratch.kit.reference import load
from mmscratch.kit.rivals import Rival

theirs = load(Path(__file__).with_name("_towers.py"))


def as_libraries(towers):
    """The lesson's `towers(seed)`, made of theirs."""

    def built(seed: int):
        visual, text = towers(seed)
        with torch.random.fork_rng(devices=[]):
            return theirs.image_tower(visual), theirs.text_tower(text)

    return built


def as_open_clip(siglip_loss):
    from open_clip.loss import SigLipLoss

    class Labelled(SigLipLoss):
        def __init__(self, match):
            super().__init__()
            self.match = match

        def get_ground_truth(self, device, dtype, num_logits, negative_only=False):
            return 2 * self.match.to(device, dtype) - 1

    def loss(x, y, t, b, *, image_ids, text_ids):
        return Labelled(image_ids[:, None] == text_ids)(x, y, t, b)

    return loss


RIVALS = [
    Rival(
        lesson="08",
        figure="sigmoid: recall at 1",
        better="higher",
        ours="siglip.siglip_loss",
        references=(
            "open_clip SigLipLoss",
            "timm VisionTransformer",
            "transformers CLIPTextModelWithProjection",
        ),
        training="sigmoid, batch 64",
        exchange={"towers": as_libraries, "siglip_loss": as_open_clip},
        uses=("_towers.py", "vit.py"),
    )
]
