"""Lesson 14's LLaVA, both stages, against transformers' parts of one: its projector and its Llama.

`LlavaForConditionalGeneration` sees each picture again in every step. The lesson's eyes are frozen and looked
once, so `LLaVA`, which puts pictures among words, stays ours on both sides, around the library's parts, which
begin with the same stored weights.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mmscratch.kit.reference import load
from mmscratch.kit.rivals import Rival, load_renamed

transformer = load(Path(__file__).with_name("transformer.py"))


class _Reader(nn.Module):
    """transformers' `LlamaForCausalLM`, called as the lesson calls our language model."""

    def __init__(self, ours: nn.Module):
        super().__init__()
        self.config, self.model = ours.config, transformer.as_llama(ours).model

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model.model.embed_tokens(ids)

    def head(self, states: torch.Tensor) -> torch.Tensor:
        return self.model.lm_head(states)

    def encode(
        self,
        *,
        embeddings: torch.Tensor,
        mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return self.model.model(
            inputs_embeds=embeddings,
            attention_mask=mask[:, None] if mask is not None and mask.ndim == 3 else mask,
            position_ids=positions,
        ).last_hidden_state

    def forward(self, **inputs: torch.Tensor | None) -> torch.Tensor:
        return self.head(self.encode(**inputs))


def their_projector(ours: nn.Module) -> nn.Module:
    """transformers' `LlavaMultiModalProjector` with the weights of ours, behind the lesson's LayerNorm."""
    import transformers
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(hidden_size=ours.fc1.in_features, num_attention_heads=1),
        text_config=transformers.LlamaConfig(hidden_size=ours.fc1.out_features, num_attention_heads=1),
    )
    matrices = nn.ModuleDict({"fc1": ours.fc1, "fc2": ours.fc2})
    theirs = load_renamed(matrices, LlavaMultiModalProjector(config), {r"^fc": "linear_"})
    return nn.Sequential(ours.norm, theirs)


def of_their_parts(model: nn.Module) -> nn.Module:
    model.projector, model.language = their_projector(model.projector), _Reader(model.language)
    return model


RIVALS = [
    Rival(
        lesson="14",
        figure="live, after stage 2",
        better="higher",
        ours="llava.LLaVA",
        references=("transformers LlamaForCausalLM", "transformers LlavaMultiModalProjector"),
        training=("stage 1", "stage 2"),
        exchange={"model": of_their_parts},
        uses=("transformer.py",),
    )
]
