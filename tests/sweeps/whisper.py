"""Whisper's ears on sounds of any length, its network of any shape, and any two rates.

Widths begin at four: a LayerNorm of one or two numbers answers with signs, which have no gradient.
"""

import dataclasses

from hypothesis import strategies as st


def ears(draw, parity):
    # numbers below a hundred, see kit.ledger: frames of 160 samples, and what is left over
    length = 201 + 160 * draw(st.integers(0, 99)) + draw(st.integers(0, 99))
    n_mels = draw(st.sampled_from([80, 128]))
    padding = draw(st.sampled_from(["do_not_pad", "max_length"]))
    return parity.ears_case(f"{n_mels} bands, {length} samples, {padding}", n_mels, length, padding)


def network(draw, parity):
    listening, writing = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    width = 2 * listening * writing * draw(st.integers(2, 3))
    batch, words, states = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(2, 12))
    bands = draw(st.integers(3, 30))
    options = dict(
        d_model=width, encoder_attention_heads=listening, decoder_attention_heads=writing,
        encoder_layers=draw(st.integers(1, 3)), decoder_layers=draw(st.integers(1, 3)),
        encoder_ffn_dim=draw(st.integers(4, 60)), decoder_ffn_dim=draw(st.integers(4, 60)),
        num_mel_bins=bands, max_source_positions=states,
        activation_function=draw(st.sampled_from(["gelu", "relu"])),
    )  # fmt: skip
    inputs = parity.sound_and_words(batch, words, bands=bands, frames=2 * states)
    return parity.case(f"{batch} sounds, {words} words, {options}", inputs, config=options)


def rates(draw, parity):
    length, rate, new_rate = (
        100 + draw(st.integers(0, 99)),
        100 * draw(st.integers(20, 60)),
        100 * draw(st.integers(20, 60)),
    )
    case = parity.rate_case(f"{length} samples, {rate} to {new_rate} Hz", length, rate, new_rate)
    return dataclasses.replace(case, wrong={})  # between equal rates the nearest sample is right


SWEEPS = [ears, network, rates]
