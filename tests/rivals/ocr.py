"""Lesson 39's CTC loss against torch's. The reader of strips is ours on both sides: no library has it."""

from __future__ import annotations

import torch.nn.functional as F

from mmscratch.kit.rivals import Rival

RIVALS = [
    Rival(
        lesson="39",
        figure="digits, unseen typefaces, CER",
        better="lower",
        ours="ocr.ctc_loss",
        references=("torch F.ctc_loss",),
        training="digits",
        exchange={"ctc_loss": lambda ours: F.ctc_loss},
    )
]
