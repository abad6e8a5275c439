"""Language models, attentions and layers of any shape.

Widths begin at four: a LayerNorm of one or two numbers answers with signs, which have no gradient.
"""

from hypothesis import strategies as st


def rotary(draw):
    groups = draw(st.integers(1, 3))
    heads, head_dim = groups * draw(st.integers(1, 3)), 2 * draw(st.integers(2, 6))
    return dict(
        vocab_size=draw(st.integers(2, 60)), hidden_size=heads * head_dim, num_attention_heads=heads,
        num_key_value_heads=groups, num_hidden_layers=draw(st.integers(1, 3)),
        intermediate_size=draw(st.integers(1, 70)), max_position_embeddings=64,
        tie_word_embeddings=draw(st.booleans()), rms_norm_eps=draw(st.sampled_from([1e-6, 1e-5, 1e-3])),
        hidden_act=draw(st.sampled_from(["silu", "gelu", "gelu_pytorch_tanh"])),
    )  # fmt: skip


def ask(draw, parity, family, options):
    """Logits, the loss or a greedy text."""
    B, T, vocab = draw(st.integers(1, 4)), draw(st.integers(2, 20)), options["vocab_size"]
    kind = draw(st.sampled_from(["logits", "loss", "text"]))
    name = f"{kind} of {B} x {T}, {options}"
    ids = parity.tokens(B, T, vocab=vocab)
    if kind == "logits":
        return family(name, options, lambda: ids)
    if kind == "loss":
        return family(name, options, lambda: (ids, ids), ours=parity.our_loss, theirs=parity.loss)
    return family(name, options, lambda: ids, ours=parity.our_greedy(8), theirs=parity.greedy(8))


def llama(draw, parity):
    options = rotary(draw)
    options |= dict(attention_bias=draw(st.booleans()), mlp_bias=draw(st.booleans()))
    return ask(draw, parity, parity.llama, options)


def qwen2(draw, parity):
    return ask(draw, parity, parity.qwen, rotary(draw))


def gpt2(draw, parity):
    heads = draw(st.integers(1, 5))
    options = dict(
        vocab_size=draw(st.integers(2, 60)), n_embd=heads * draw(st.integers(4, 9)), n_head=heads,
        n_layer=draw(st.integers(1, 3)), n_positions=64, n_inner=draw(st.none() | st.integers(1, 70)),
        tie_word_embeddings=draw(st.booleans()),
        activation_function=draw(st.sampled_from(["gelu", "gelu_new", "relu", "silu", "tanh"])),
    )  # fmt: skip
    return ask(draw, parity, parity.gpt, options)


def widths(draw):
    heads = draw(st.integers(1, 5))
    return heads, heads * draw(st.integers(4, 9))


def lengths(draw):
    return draw(st.integers(1, 4)), draw(st.integers(1, 12)), draw(st.integers(1, 12))


def attention(draw, parity):
    (heads, width), (B, T, _) = widths(draw), lengths(draw)
    options, causal = dict(embed_dim=width, num_heads=heads, bias=draw(st.booleans())), draw(st.booleans())
    calls = dict(ours=parity.our_look_back, theirs=parity.look_back) if causal else {}
    name = f"{B} x {T}, causal {causal}, {options}"
    return parity.attention_case(name, options, lambda: parity.noise(B, T, width), **calls)


def cross_attention(draw, parity):
    (heads, width), (B, T, S), other = widths(draw), lengths(draw), draw(st.integers(1, 30))
    options = dict(embed_dim=width, num_heads=heads, kdim=other, vdim=other, bias=draw(st.booleans()))
    inputs = (parity.noise(B, T, width), parity.noise(B, S, other).flip(2))
    return parity.reading(f"{B} x {T} reading {S}, {options}", options, lambda: inputs)


def layer(draw):
    heads, width = widths(draw)
    return width, dict(
        d_model=width, nhead=heads, dim_feedforward=draw(st.integers(1, 70)),
        activation=draw(st.sampled_from(["relu", "gelu"])), norm_first=draw(st.booleans()),
    )  # fmt: skip


def encoder_layer(draw, parity):
    (width, options), (B, T, _), causal = layer(draw), lengths(draw), draw(st.booleans())
    calls = dict(ours=parity.our_encode_back, theirs=parity.encode_back) if causal else {}
    name = f"{B} x {T}, causal {causal}, {options}"
    return parity.encoder(name, options, lambda: parity.noise(B, T, width), **calls)


def decoder_layer(draw, parity):
    (width, options), (B, T, S) = layer(draw), lengths(draw)
    inputs = (parity.noise(B, T, width), parity.noise(B, S, width).flip(2))
    return parity.decoder(f"{B} x {T} reading {S}, {options}", options, lambda: inputs)


SWEEPS = [llama, qwen2, gpt2, attention, cross_attention, encoder_layer, decoder_layer]
