"""SigLIP's towers and loss, of any shape.

Widths begin at four: a LayerNorm of one or two numbers answers with signs, which have no gradient.
"""

from hypothesis import strategies as st


def tower(draw, heads, width):
    return dict(
        hidden_size=width, num_attention_heads=heads, num_hidden_layers=draw(st.integers(1, 3)),
        intermediate_size=draw(st.integers(1, 70)),
        hidden_act=draw(st.sampled_from(["gelu_pytorch_tanh", "gelu", "relu"])),
    )  # fmt: skip


def transformers(draw, parity):
    heads, read_heads = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    width = heads * draw(st.integers(6, 9))
    patch = draw(st.integers(2, 9))
    size, batch, tokens = patch * draw(st.integers(1, 4)), draw(st.integers(2, 5)), draw(st.integers(1, 11))
    vision = tower(draw, heads, width) | dict(image_size=size, patch_size=patch)
    read_width = read_heads * draw(st.integers(6, 9))
    text = tower(draw, read_heads, read_width)
    text |= dict(projection_size=width, max_position_embeddings=tokens)
    name = f"{batch} pairs, {vision}, {text}"
    inputs = parity.pictures_and_words(batch, size, tokens)
    return parity.model_case(name, parity.siglip_model(vision, text), inputs)


def loss(draw, parity):
    batch, width, chunk = draw(st.integers(1, 24)), draw(st.integers(1, 40)), draw(st.integers(1, 30))
    options = dict(
        scale=draw(st.integers(1, 16)) / 2,
        bias=-draw(st.integers(-2, 16)) / 2,
        alike=draw(st.integers(0, 6)) / 2,
    )
    name = f"{batch} x {width} in chunks of {chunk}, {options}"
    return parity.loss_case(
        name, parity.features(batch, width, **options), parity.loss(chunk_size=chunk), wrong={}
    )


SWEEPS = [transformers, loss]
