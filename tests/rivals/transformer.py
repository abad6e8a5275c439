"""Lesson 02's language model against transformers' Llama."""

from __future__ import annotations

from torch import nn

from mmscratch.kit.rivals import Adapted, Rival, start_as


def as_llama(reader: nn.Module) -> nn.Module:
    """transformers' `LlamaForCausalLM` of the shape of our `Transformer`, with its weights."""
    import transformers

    from mmscratch.transformer import from_transformers

    c = reader.config
    config = transformers.LlamaConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.dim,
        intermediate_size=c.mlp_dim,
        num_hidden_layers=c.depth,
        num_attention_heads=c.num_heads,
        max_position_embeddings=c.max_positions,
        rms_norm_eps=c.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        tie_word_embeddings=c.tie_embeddings,
        use_cache=False,
    )
    theirs = start_as(reader, transformers.LlamaForCausalLM(config), from_transformers)
    return Adapted(theirs, lambda model, ids: model(input_ids=ids).logits)


RIVALS = [
    Rival(
        lesson="02",
        figure="perplexity, transformer",
        better="lower",
        ours="transformer.Transformer",
        references=("transformers LlamaForCausalLM",),
        training="language model",
        exchange={"reader": as_llama},
    )
]
