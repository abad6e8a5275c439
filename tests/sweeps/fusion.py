"""Early, late and joint fusion of any shape.

Widths begin at four: a LayerNorm of one or two numbers answers with signs, which have no gradient.
"""

from hypothesis import strategies as st


def drawn(draw, parity, kind):
    heads = draw(st.integers(1, 4))
    width = heads * draw(st.integers(4, 9))
    shape = dict(
        dim=width, heads=heads, mlp=draw(st.integers(1, 60)), act=draw(st.sampled_from(["gelu", "relu"])),
        norm_first=draw(st.booleans()),
    )  # fmt: skip
    depths = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    B, N, T = draw(st.integers(1, 5)), draw(st.integers(1, 12)), draw(st.integers(1, 12))
    padded = draw(st.booleans())
    reference = {
        "early": lambda: parity.early(depth=depths[0], **shape),
        "late": lambda: parity.late(*depths, **shape),
        "joint": lambda: parity.joint(*depths, **shape),
    }[kind]()
    name = f"{B} x {N} and {T}, padded {padded}, depths {depths}, {shape}"
    return parity.case(name, kind, reference, parity.both_sides(B, N, T, dim=width, padded=padded))


def early(draw, parity):
    return drawn(draw, parity, "early")


def late(draw, parity):
    return drawn(draw, parity, "late")


def joint(draw, parity):
    return drawn(draw, parity, "joint")


def vilt(draw, parity):
    heads = draw(st.integers(1, 4))
    options = dict(
        hidden_size=heads * draw(st.integers(4, 9)), num_attention_heads=heads,
        num_hidden_layers=draw(st.integers(1, 3)), intermediate_size=draw(st.integers(1, 60)),
        qkv_bias=draw(st.booleans()),
    )  # fmt: skip
    B, N, T = draw(st.integers(1, 5)), draw(st.integers(1, 12)), draw(st.integers(1, 12))
    inputs = parity.both_sides(B, N, T, dim=options["hidden_size"])
    ours = parity.from_transformers
    return parity.case(f"{B} x {N} and {T}, {options}", "vilt", parity.vilt(**options), inputs, ours=ours)


SWEEPS = [early, late, joint, vilt]
