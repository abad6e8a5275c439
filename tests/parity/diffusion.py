"""`mmscratch.diffusion` against diffusers: the picture network, and whole trajectories of three schedulers.

Sizes are odd on purpose. A trajectory runs both sides with the same network and the same noise; its mutants
break the schedule, the posterior, a target or the guidance in one place.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from mmscratch.kit.reference import Case, mutants

# ---------------------------------------------------------------------------------------------------------
# The network

DIT = dict(
    num_attention_heads=3,
    attention_head_dim=8,
    in_channels=5,
    num_layers=2,
    sample_size=12,
    patch_size=2,
    norm_num_groups=1,
    num_embeds_ada_norm=7,
)


def from_diffusers(reference):
    from mmscratch import diffusion

    return diffusion.from_diffusers(reference)


def their_dit(tied: bool = False, **options):
    def build():
        from diffusers import DiTTransformer2DModel
        from diffusers.utils import logging

        logging.set_verbosity_error()  # it comments on every .to()
        model = DiTTransformer2DModel(**DIT | options)
        for block in model.transformer_blocks[1:] if tied else ():
            block.norm1.emb = model.transformer_blocks[0].norm1.emb
        return model

    return build


def noisy(batch: int = 3, channels: int = 5, size: int = 12, labels: int = 7):
    def build():
        g = torch.Generator().manual_seed(1)
        x = torch.randn(batch, channels, size, size, generator=g)
        return x, torch.randint(1000, (batch,), generator=g), torch.randint(labels + 1, (batch,), generator=g)

    return build


def swap_rows(layer: nn.Linear, parts: int, i: int, j: int) -> None:
    for p in (layer.weight, layer.bias):
        chunks = list(p.chunk(parts))
        chunks[i], chunks[j] = chunks[j].clone(), chunks[i].clone()
        p.copy_(torch.cat(chunks))


def shift_and_scale_swapped(ours):
    swap_rows(ours.blocks[0].modulation, 6, 0, 1)


def gates_swapped(ours):
    swap_rows(ours.blocks[0].modulation, 6, 2, 5)


def scale_without_one(ours):
    for p in (ours.modulation.bias,):
        p[len(p) // 2 :] -= 1


def paper_frequencies(ours):
    for part in ours.conditioning:
        part.shift = 0.0


def sines_first(ours):
    for part in ours.conditioning:
        part.fc1.weight.copy_(part.fc1.weight.roll(part.frequencies // 2, 1))


def positions_by_column(ours):
    rows, cols = ours.grid
    ours.positions = ours.positions.view(rows, cols, -1).transpose(0, 1).flatten(0, 1)


def positions_not_stretched(ours):
    from mmscratch.vit import sincos_2d

    ours.grid, ours.positions = (8, 8), sincos_2d((8, 8), ours.config.dim)


def norm_eps_1e2(ours):
    for block in ours.blocks:
        block.norm2.eps = 1e-2


def head_channel_last(ours):
    channels = ours.head.out_features // 4
    for p in (ours.head.weight, ours.head.bias):
        p.copy_(p.unflatten(0, (channels, 4)).transpose(0, 1).flatten(0, 1))


def dit(name, inputs=None, wrong=(), bench=False, tied=False, **options):
    return Case(
        name,
        their_dit(tied, **options),
        from_diffusers,
        inputs or noisy(),
        wrong=mutants(from_diffusers, *wrong),
        output="sample",
        call_reference=lambda model, x, t, y: model(x, timestep=t, class_labels=y),
        primitive="diffusion.DiT",
        library="diffusers DiTTransformer2DModel",
        bench=bench,
    )


DITS = [
    dit(
        "12/2, an embedding in every block",
        wrong=(
            shift_and_scale_swapped,
            gates_swapped,
            scale_without_one,
            paper_frequencies,
            sines_first,
            positions_by_column,
            norm_eps_1e2,
            head_channel_last,
        ),
    ),
    dit("12/2, one embedding for all", wrong=(paper_frequencies,), tied=True, num_layers=3),
    dit("one block", wrong=(gates_swapped,), num_layers=1),
    dit("twice the channels out", out_channels=10),
    dit("no bias on q, k, v", attention_bias=False),
    dit("a norm with weights before the MLP", norm_elementwise_affine=True),
    dit("LayerNorm eps 1e-3", norm_eps=1e-3),
    *(dit(act, activation_fn=act) for act in ("gelu", "geglu", "swiglu", "linear-silu", "geglu-approximate")),
    dit("patch 3", patch_size=3),
    dit("one patch", patch_size=12),
    dit("one channel, 20 px", noisy(2, 1, 20), in_channels=1, sample_size=20, patch_size=4),
    dit("another size than its own", noisy(2, 5, 16), wrong=(positions_not_stretched,)),
    dit(
        "S/2, four blocks, 32 x 32 x 4",
        noisy(4, 4, 32, 1000),
        bench="realistic",
        tied=True,
        num_attention_heads=6,
        attention_head_dim=64,
        in_channels=4,
        num_layers=4,
        sample_size=32,
        num_embeds_ada_norm=1000,
    ),
    dit(
        "16 px, patch 4, width 128, four blocks",
        noisy(64, 3, 16, 9),
        bench=True,
        tied=True,
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=3,
        num_layers=4,
        sample_size=16,
        patch_size=4,
        num_embeds_ada_norm=9,
    ),
]

# ---------------------------------------------------------------------------------------------------------
# Trajectories


def network(x: Tensor, t: int, channels: int) -> Tensor:
    """A fixed smooth function of the picture and the time, no better than chance at predicting anything."""
    mixed = x.roll(1, -1) - 0.7 * x.roll(2, 1) + 0.3 * x.flip(2)
    out = torch.tanh(mixed + t / 500 - 1) + 0.2 * x
    return out if channels == x.shape[1] else torch.cat([out, 0.6 * torch.tanh(x + 0.5) + 0.39], dim=1)


class Their:
    """A scheduler of diffusers that goes all the way: noise (B, C, H, W) -> every x, (S + 1, B, C, H, W)."""

    def __init__(self, kind: str, steps: int = 7, *, seed: int = 3, call=None, **config):
        import diffusers

        self.scheduler = getattr(diffusers, kind)(**config)
        self.steps, self.seed, self.call = steps, seed, call or {}
        self.wide = str(config.get("variance_type")).startswith("learned")

    def __call__(self, x: Tensor) -> Tensor:
        g, kept = torch.Generator().manual_seed(self.seed), [x]
        self.scheduler.set_timesteps(self.steps)
        for t in self.scheduler.timesteps:
            output = network(kept[-1], int(t), x.shape[1] * (2 if self.wide else 1))
            options = dict(self.call, generator=g)
            kept.append(self.scheduler.step(output, t, kept[-1], **options).prev_sample)
        return torch.stack(kept)


class Our:
    """The same with our steps. `change(diffusion)` makes a mutant."""

    def __init__(self, their: Their, change=None):
        self.their, self.diffusion = their, from_diffusers(their.scheduler)
        if change is not None:
            self.diffusion = change(self.diffusion) or self.diffusion

    def __call__(self, x: Tensor) -> Tensor:
        d, g, before, kept = self.diffusion, torch.Generator().manual_seed(self.their.seed), None, [x]
        eta, consistent = (self.their.call.get(k, 0) for k in ("eta", "use_clipped_model_output"))
        pairs = d.path(self.their.steps)
        for i, (t, prev_t) in enumerate(pairs):
            x = kept[-1]
            output = network(x, t, x.shape[1] * (2 if self.their.wide else 1))
            if d.config.method == "ddpm":
                x = d.ddpm_step(output, t, x, g, prev_t=prev_t)
            elif d.config.method == "ddim":
                x = d.ddim_step(output, t, x, prev_t, eta, g, consistent=bool(consistent))
            else:
                last = i == len(pairs) - 1 and len(pairs) < d.config.euler_below
                memory = None if last or d.config.order == 1 else before
                x0, _ = d.read(output, t, x)
                x, before = d.dpm_move(x0, t, x, prev_t, memory), (t, x0)
            kept.append(x)
        return torch.stack(kept)


def late(diffusion):
    """Alpha-bar off by one timestep."""
    table = diffusion.alphas_cumprod
    diffusion.alphas_cumprod = torch.cat([table[:1], table[:-1]])


def other_variance(diffusion):
    diffusion.config.variance = "large" if diffusion.config.variance == "small" else "small"


def sign_of_v(diffusion):
    class Wrong(type(diffusion)):
        def read(self, output, t, x):
            return super().read(-output, t, x)

    diffusion.__class__ = Wrong


def midpoint_for_heun(diffusion):
    diffusion.config.heun = not diffusion.config.heun


def first_order(diffusion):
    diffusion.config.order = 1


def no_clipping(diffusion):
    diffusion.config.clip = diffusion.config.threshold = None


def trailing(diffusion):
    diffusion.config.spacing = "trailing" if diffusion.config.spacing == "leading" else "leading"


def end_at_one(diffusion):
    diffusion.config.final = 1.0 if diffusion.config.final < 1 else 0.9999


def start() -> Tensor:
    return torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(2))


def trajectory(kind, name, *wrong, bench=False, inputs=start, **options):
    def mutant(change):
        return lambda their: Our(their, change)

    return Case(
        name,
        functools.partial(Their, kind, **options),
        Our,
        inputs,
        wrong={change.__name__.replace("_", " "): mutant(change) for change in wrong},
        compared="trajectory",
        primitive="diffusion.Diffusion",
        library=f"diffusers {kind}",
        bench=bench,
    )


ddpm = functools.partial(trajectory, "DDPMScheduler")
ddim = functools.partial(trajectory, "DDIMScheduler")
dpm = functools.partial(trajectory, "DPMSolverMultistepScheduler")
V = dict(prediction_type="v_prediction")


def pictures() -> Tensor:
    return torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(2))


TRAJECTORIES = [
    ddpm("as it comes", late, other_variance, no_clipping, trailing),
    ddpm("every timestep", late, other_variance, num_train_timesteps=40, steps=40, beta_end=0.2),
    ddpm("v, trailing, zero terminal SNR", late, sign_of_v, trailing, **V, rescale_betas_zero_snr=True,
         timestep_spacing="trailing"),
    ddpm("learned range", late, variance_type="learned_range"),
    ddpm("50 steps on 16 pictures", bench=True, steps=50, inputs=pictures),
    ddim("as it comes", late, no_clipping, trailing),
    ddim("eta 0.6, cosine, x0", late, call=dict(eta=0.6), beta_schedule="squaredcos_cap_v2",
         prediction_type="sample"),
    ddim("v, alpha-bar does not end at one", late, sign_of_v, end_at_one, **V, set_alpha_to_one=False,
         steps_offset=1, beta_schedule="scaled_linear"),
    ddim("50 steps on 16 pictures", bench=True, steps=50, inputs=pictures),
    dpm("v, 2M", late, sign_of_v, first_order, midpoint_for_heun, **V),
    dpm("x0, cosine, trailing", late, first_order, prediction_type="sample",
        beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing"),
    dpm("ends at the first sigma", late, end_at_one, **V, final_sigmas_type="sigma_min", steps=16),
    dpm("epsilon, thresholded", late, no_clipping, thresholding=True, sample_max_value=2.0),
    dpm("20 steps on 16 pictures", bench=True, steps=20, inputs=pictures, **V),
]  # fmt: skip


CASES = [*DITS, *TRAJECTORIES]
