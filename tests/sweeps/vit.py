"""Vision Transformers of any shape.

Widths begin at four: a LayerNorm of one or two numbers answers with signs, which have no gradient.
"""

from hypothesis import strategies as st


def shape(draw, patch=None):
    """Heads, width, depth, patch, picture in patches, batch: sizes that nobody chose."""
    heads, patch = draw(st.integers(1, 5)), patch or draw(st.integers(1, 9))
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    width = heads * draw(st.integers(4, 9))
    depth, batch = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    return heads, width, depth, patch, (rows * patch, columns * patch), batch


def torchvision(draw, parity):
    heads, width, depth, patch, (size, _), batch = shape(draw)
    options = dict(
        image_size=size, patch_size=patch, num_layers=depth, num_heads=heads, hidden_dim=width,
        mlp_dim=draw(st.integers(1, 70)), num_classes=draw(st.integers(1, 9)),
        representation_size=draw(st.none() | st.integers(1, 20)),
    )  # fmt: skip
    name = f"batch {batch}, {options}"
    return parity.torchvision_case(name, parity.torchvision_vit(**options), parity.images(batch, size, size))


def sized(draw):
    heads, width, depth, patch, size, batch = shape(draw)
    options = dict(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, image_size=size,
        patch_size=patch, num_channels=draw(st.integers(1, 4)), qkv_bias=draw(st.booleans()),
        hidden_act=draw(st.sampled_from(["gelu", "relu", "gelu_new", "quick_gelu"])),
    )  # fmt: skip
    return options, (batch, options["num_channels"], *size)


def transformers_vit(draw, parity):
    options, inputs = sized(draw)
    options |= dict(intermediate_size=draw(st.integers(1, 70)))
    return parity.vit(f"{inputs}, {options}", options, parity.images(inputs[0], *inputs[1:]))


def transformers_classifier(draw, parity):
    options, inputs = sized(draw)
    options |= dict(intermediate_size=draw(st.integers(1, 70)), num_labels=draw(st.integers(1, 9)))
    return parity.classifier(f"{inputs}, {options}", options, parity.images(inputs[0], *inputs[1:]))


def square(draw):
    options, (batch, channels, height, _) = sized(draw)
    options |= dict(image_size=height, mlp_ratio=draw(st.integers(1, 4)))
    options |= dict(use_swiglu_ffn=draw(st.booleans()))
    return options, (batch, channels, height, height)


def dinov2(draw, parity):
    options, inputs = square(draw)
    return parity.dino(f"{inputs}, {options}", options, parity.images(inputs[0], *inputs[1:]))


def dinov2_with_registers(draw, parity):
    options, inputs = square(draw)
    options |= dict(num_register_tokens=draw(st.integers(0, 5)))
    return parity.registers(f"{inputs}, {options}", options, parity.images(inputs[0], *inputs[1:]))


SWEEPS = [torchvision, transformers_vit, transformers_classifier, dinov2, dinov2_with_registers]
