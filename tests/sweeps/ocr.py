"""CTC over any texts and columns, and TrOCR decoders of any shape.

Widths begin at four: a LayerNorm of one or two numbers answers with signs, which have no gradient.
"""

import dataclasses

from hypothesis import strategies as st


def needed(text):
    """Columns that a text takes at least: its letters, and a blank between equal neighbours."""
    return len(text) + sum(a == b for a, b in zip(text, text[1:], strict=False))


def ctc(draw, parity):
    labels = draw(st.integers(2, 9))
    text = st.lists(st.integers(1, labels - 1), max_size=9)
    texts = draw(st.lists(text, min_size=1, max_size=5))
    frames = [max(1, needed(each)) + draw(st.integers(0, 6)) for each in texts]
    reduction, flat = draw(st.sampled_from(["none", "mean", "sum"])), draw(st.booleans())
    inputs = parity.texts(
        *texts, columns=max(frames) + draw(st.integers(0, 3)), frames=frames, labels=labels, flat=flat
    )
    name = f"{texts} in {frames} columns of {labels} labels, {reduction}, flat {flat}"
    return parity.ctc_case(name, inputs, mutants={}, reduction=reduction)


def trocr(draw, parity):
    heads = draw(st.integers(1, 4))
    width = 2 * heads * draw(st.integers(2, 6))
    batch, length, columns = draw(st.integers(1, 4)), draw(st.integers(1, 12)), draw(st.integers(1, 9))
    options = dict(
        d_model=width, decoder_attention_heads=heads, decoder_layers=draw(st.integers(1, 3)),
        decoder_ffn_dim=draw(st.integers(4, 60)), cross_attention_hidden_size=draw(st.integers(4, 40)),
        use_learned_position_embeddings=draw(st.booleans()), scale_embedding=draw(st.booleans()),
        layernorm_embedding=draw(st.booleans()), tie_word_embeddings=draw(st.booleans()),
    )  # fmt: skip
    inputs = parity.ids_and_columns(batch, length, columns, width=options["cross_attention_hidden_size"])
    case = parity.trocr_case(f"{batch} x {length} words, {columns} columns, {options}", inputs, **options)
    return dataclasses.replace(case, wrong={})  # a text of one word hides most deliberate errors


SWEEPS = [ctc, trocr]
