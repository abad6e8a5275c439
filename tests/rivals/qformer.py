"""Lesson 12's Q-Former, first stage, against InstructBLIP's, which reads words as well as queries.

BLIP-2's own training, three heads and their losses, is in no library: it stays the lesson's on both sides.
"""

from __future__ import annotations

import torch
from torch import nn

from mmscratch.kit.rivals import Rival, start_as


class _Body(nn.Module):
    """transformers' `InstructBlipQFormerModel`, called as the lesson calls our `QFormer`."""

    def __init__(self, ours: nn.Module):
        super().__init__()
        import transformers

        from mmscratch.qformer import from_transformers

        c = self.config = ours.config
        config = transformers.InstructBlipQFormerConfig(
            vocab_size=c.vocab_size,
            hidden_size=c.dim,
            num_hidden_layers=c.depth,
            num_attention_heads=c.num_heads,
            intermediate_size=c.mlp_dim or 4 * c.dim,
            hidden_act=c.act,
            hidden_dropout_prob=c.dropout,
            attention_probs_dropout_prob=c.attention_dropout,
            max_position_embeddings=c.max_positions,
            layer_norm_eps=c.norm_eps,
            cross_attention_frequency=c.cross_attention_frequency,
            encoder_hidden_size=c.context_dim,
            pad_token_id=None,
        )
        self.model = start_as(ours, transformers.InstructBlipQFormerModel(config), from_transformers)

    def forward(
        self,
        queries: torch.Tensor,
        context: torch.Tensor,
        ids: torch.Tensor | None = None,
        *,
        mask: torch.Tensor | None = None,
    ):
        Q = queries.shape[1]
        states = self.model(
            input_ids=ids,
            query_embeds=queries.expand(len(context), -1, -1),
            attention_mask=mask[:, None] if mask is not None and mask.ndim == 3 else mask,
            encoder_hidden_states=context,
        ).last_hidden_state
        return states if ids is None else (states[:, :Q], states[:, Q:])

    def encode_text(self, ids: torch.Tensor, *, mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state


def with_their_body(model: nn.Module) -> nn.Module:
    """Our `ImageTextQFormer`, heads and queries as they are, around the library's Q-Former."""
    model.body = _Body(model.body)
    return model


RIVALS = [
    Rival(
        lesson="12",
        figure="live: test R@1",
        better="higher",
        ours="qformer.QFormer",
        references=("transformers InstructBlipQFormerModel",),
        training="stage 1",
        exchange={"model": with_their_body},
    )
]
