"""Q-Formers of any shape, with and without text.

Widths begin at four: a LayerNorm of one or two numbers answers with signs, which have no gradient.
"""

from hypothesis import strategies as st


def shape(draw):
    heads, read = draw(st.integers(1, 4)), 2 * draw(st.integers(2, 15))
    return dict(
        hidden_size=heads * draw(st.integers(4, 8)), num_attention_heads=heads,
        num_hidden_layers=draw(st.integers(1, 4)), intermediate_size=draw(st.integers(1, 60)),
        encoder_hidden_size=read, cross_attention_frequency=draw(st.integers(1, 3)),
        hidden_act=draw(st.sampled_from(["gelu", "relu"])),
    )  # fmt: skip


def sizes(draw):
    """Batch, queries, patches, words."""
    return [draw(st.integers(1, most)) for most in (4, 8, 14, 9)]


def plain(draw, parity):
    options, (B, Q, N, _), masked = shape(draw), sizes(draw), draw(st.booleans())
    widths = dict(dim=options["hidden_size"], context_dim=options["encoder_hidden_size"])
    inputs = parity.seen(B, Q, N, masked=masked, **widths)
    return parity.plain_case(f"{B} x {Q} x {N}, masked {masked}, {options}", parity.body(**options), inputs)


def with_text(draw, parity):
    options, (B, Q, N, T) = shape(draw), sizes(draw)
    kind = draw(st.sampled_from(["itc", "itm", "itg"]))
    widths = dict(dim=options["hidden_size"], context_dim=options["encoder_hidden_size"])
    inputs = parity.with_text(B, Q, N, T, kind=kind, **widths)
    model = parity.body(**options, **parity.TEXTUAL)
    return parity.text_case(f"{kind}, {B} x {Q} x {N} x {T}, {options}", model, inputs)


def instructed(draw, parity):
    options, (B, Q, N, T) = shape(draw), sizes(draw)
    widths = dict(dim=options["hidden_size"], context_dim=options["encoder_hidden_size"])
    inputs = parity.instructed(B, Q, N, T, masked=draw(st.booleans()), **widths)
    return parity.instruct_case(f"{B} x {Q} x {N} x {T}, {options}", parity.instruct_body(**options), inputs)


def retrieval(draw, parity):
    options, (B, Q, N, T) = shape(draw), sizes(draw)
    shared = draw(st.integers(2, 20))
    inputs = parity.pairs(B, N, T, context_dim=options["encoder_hidden_size"])
    name = f"{B} x {Q} x {N} x {T}, shared {shared}, {options}"
    return parity.head_case(name, parity.retrieval(Q, shared, **options), inputs)


SWEEPS = [plain, with_text, instructed, retrieval]
