"""Diffusion transformers of any shape, and schedulers of any setting.

Widths begin at four: a LayerNorm of one or two numbers answers with signs, which have no gradient.
"""

from hypothesis import strategies as st


def dit(draw, parity):
    heads, head_dim = draw(st.integers(1, 4)), 4 * draw(st.integers(1, 3))
    patch = draw(st.integers(1, 4))
    size, channels, labels = patch * draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 9))
    options = dict(
        num_attention_heads=heads, attention_head_dim=head_dim, in_channels=channels, sample_size=size,
        patch_size=patch, num_layers=draw(st.integers(1, 3)), num_embeds_ada_norm=labels,
        attention_bias=draw(st.booleans()), activation_fn=draw(st.sampled_from(["gelu-approximate", "gelu"])),
    )  # fmt: skip
    batch = draw(st.integers(1, 4))
    return parity.dit(f"{batch}, {options}", parity.noisy(batch, channels, size, labels), **options)


def settings(draw):
    steps = draw(st.integers(2, 12))
    kinds = ["linear", "scaled_linear", "squaredcos_cap_v2"]
    return dict(
        steps=steps, seed=draw(st.integers(0, 99)),
        num_train_timesteps=steps * draw(st.integers(3, 40)), beta_schedule=draw(st.sampled_from(kinds)),
        prediction_type=draw(st.sampled_from(["epsilon", "v_prediction", "sample"])),
        timestep_spacing=draw(st.sampled_from(["leading", "trailing"])),
    )  # fmt: skip


def ddpm(draw, parity):
    options = settings(draw)
    return parity.ddpm(str(options), **options)


def ddim(draw, parity):
    options = settings(draw)
    call = dict(eta=draw(st.sampled_from([0.0, 0.3, 1.0])))
    return parity.ddim(f"{options}, {call}", call=call, **options)


def dpm(draw, parity):
    options = settings(draw) | dict(solver_order=draw(st.integers(1, 2)))
    return parity.dpm(str(options), **options)


SWEEPS = [dit, ddpm, ddim, dpm]
