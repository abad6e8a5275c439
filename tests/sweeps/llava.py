"""LLaVA with encoders, projectors and language models of any shape.

Widths begin at four: a LayerNorm of one or two numbers answers with signs, which have no gradient.
"""

from hypothesis import strategies as st


def transformers(draw, parity):
    heads, groups = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    patch, side = draw(st.integers(2, 8)), draw(st.integers(1, 3))
    layers = draw(st.integers(1, 3))
    vision = dict(
        hidden_size=heads * draw(st.integers(4, 9)), intermediate_size=draw(st.integers(1, 60)),
        num_hidden_layers=layers, num_attention_heads=heads, image_size=side * patch, patch_size=patch,
    )  # fmt: skip
    read_heads = groups * draw(st.integers(1, 2))
    language = dict(
        hidden_size=read_heads * 2 * draw(st.integers(2, 6)), intermediate_size=draw(st.integers(1, 60)),
        num_hidden_layers=draw(st.integers(1, 2)), num_attention_heads=read_heads,
        num_key_value_heads=groups, tie_word_embeddings=draw(st.booleans()),
    )  # fmt: skip
    more = dict(
        family=draw(st.sampled_from(["llama", "qwen2"])),
        vision_feature_layer=draw(st.integers(-layers, -1)),
        vision_feature_select_strategy=draw(st.sampled_from(["default", "full"])),
        projector_hidden_act=draw(st.sampled_from(["gelu", "relu"])),
        multimodal_projector_bias=draw(st.booleans()),
    )
    patches = side**2 + (more["vision_feature_select_strategy"] == "full")
    before, after, batch = draw(st.integers(0, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 3))
    inputs = parity.talk(before, patches, after, batch=batch, size=side * patch)
    name = f"{batch} x {before} + {patches} + {after}, {vision}, {language}, {more}"
    return parity.case(name, parity.reference(vision, language, **more), inputs)


SWEEPS = [transformers]
