"""CLIP's towers and loss, of any shape.

Widths begin at four: a LayerNorm of one or two numbers answers with signs, which have no gradient.
"""

from hypothesis import strategies as st


def tower(draw):
    heads = draw(st.integers(1, 4))
    return heads, heads * draw(st.integers(4, 9)), draw(st.integers(1, 3))


def pictures(draw):
    patch = draw(st.integers(2, 9))
    return patch, patch * draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(2, 13))


def open_clip(draw, parity, cls="CLIP"):
    (heads, width, layers), (read_heads, read_width, read_layers) = tower(draw), tower(draw)
    patch, size, batch, tokens = pictures(draw)
    vision = dict(
        layers=layers, width=width, head_width=width // heads, patch_size=patch, image_size=size,
        mlp_ratio=draw(st.sampled_from([1.0, 2.0, 4.0])), pool_type=draw(st.sampled_from(["tok", "avg"])),
    )  # fmt: skip
    text = dict(
        context_length=tokens, vocab_size=99, width=read_width, heads=read_heads, layers=read_layers,
        mlp_ratio=draw(st.sampled_from([1.0, 2.0, 4.0])), no_causal_mask=draw(st.booleans()),
    )  # fmt: skip
    more = dict(embed_dim=draw(st.integers(2, 40)), quick_gelu=draw(st.booleans()), cls=cls)
    model = parity.open_clip_model(vision, text, **more)
    name = f"{batch} pairs, {vision}, {text}, {more}"
    return parity.open_clip_case(name, model, parity.pairs(batch, size, tokens), cls=cls)


def open_clip_with_a_text_tower_apart(draw, parity):
    return open_clip(draw, parity, cls="CustomTextCLIP")


def transformers(draw, parity):
    (heads, width, layers), (read_heads, read_width, read_layers) = tower(draw), tower(draw)
    patch, size, batch, tokens = pictures(draw)
    act = st.sampled_from(["quick_gelu", "gelu", "relu"])
    vision = dict(
        hidden_size=width, intermediate_size=draw(st.integers(1, 70)), num_hidden_layers=layers,
        num_attention_heads=heads, image_size=size, patch_size=patch, hidden_act=draw(act),
    )  # fmt: skip
    text = dict(
        hidden_size=read_width, intermediate_size=draw(st.integers(1, 70)), num_hidden_layers=read_layers,
        num_attention_heads=read_heads, max_position_embeddings=tokens, hidden_act=draw(act),
    )  # fmt: skip
    shared = draw(st.integers(2, 40))
    model = parity.transformers_model(vision, text, projection_dim=shared)
    name = f"{batch} pairs, shared {shared}, {vision}, {text}"
    return parity.transformers_case(name, model, parity.pairs(batch, size, tokens))


def loss(draw, parity):
    batch, dim, scale = draw(st.integers(2, 80)), draw(st.integers(2, 40)), draw(st.integers(1, 60)) / 2
    name = f"{batch} pairs, {dim} wide, scale {scale:.3g}"
    return parity.loss_case(name, parity.features(batch, dim, scale))


SWEEPS = [open_clip, open_clip_with_a_text_tower_apart, transformers, loss]
