"""What `mmscratch.diffusion` promises beyond the cases of tests/parity, and every combination of options."""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import warnings
from pathlib import Path

import pytest
import refusals
import torch
from torch import Tensor, nn

from mmscratch import diffusion
from mmscratch.diffusion import EMA, Diffusion, DiT

sys.path.insert(0, str(Path(__file__).parent / "parity"))
SCHEDULES = ("linear", "scaled_linear", "cosine")
PREDICTIONS = ("epsilon", "x0", "v")


def noise(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(ours: Tensor, theirs: Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


# -- the forward process


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_alpha_bar_falls_from_near_one_and_is_the_product_of_its_alphas(schedule, zero_snr):
    d = Diffusion(1000, schedule, "v", zero_snr=zero_snr)
    bar = d.alphas_cumprod
    assert bar.dtype == torch.float64 and bar.shape == (1000,)
    assert 0.99 < bar[0] < 1 and (bar.diff() < 0).all()
    assert (bar[-1] == 0) if zero_snr else (0 < bar[-1] < 0.01)
    alphas = bar / torch.cat([bar.new_ones(1), bar[:-1]])
    close(alphas.cumprod(0), bar)


def test_linear_betas_run_from_start_to_end():
    bar = diffusion.make_alphas("linear", 50, start=0.01, end=0.2)
    betas = 1 - bar / torch.cat([bar.new_ones(1), bar[:-1]])
    close(betas, torch.linspace(0.01, 0.2, 50, dtype=torch.float64))
    squares = diffusion.make_alphas("scaled_linear", 50, start=0.01, end=0.04)
    betas = 1 - squares / torch.cat([bar.new_ones(1), squares[:-1]])
    close(betas.sqrt(), torch.linspace(0.1, 0.2, 50, dtype=torch.float64))


def test_rescaling_keeps_the_first_level_and_empties_the_last():
    before = diffusion.make_alphas("scaled_linear", 1000)
    after = diffusion.rescale_zero_snr(before)
    close(after[0], before[0])
    assert after[-1] == 0 and (after.diff() < 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noise_arrives_with_the_variance_that_alpha_bar_says(schedule):
    d = Diffusion(1000, schedule)
    for t in (0, 300, 999):
        x = d.add_noise(torch.full((40_000, 1), 2.0), noise(40_000, 1, dtype=torch.float32), t)
        bar = d.alphas_cumprod[t].item()
        assert abs(x.mean().item() - 2 * math.sqrt(bar)) < 0.02
        assert abs(x.var().item() - (1 - bar)) < 0.03


def test_a_batch_of_timesteps_is_each_timestep_alone():
    d, x0, e = Diffusion(100, "cosine", "v"), noise(4, 3, 5), noise(4, 3, 5, seed=2)
    t = torch.tensor([0, 99, 41, 7])
    for i in range(4):
        close(d.add_noise(x0, e, t)[i], d.add_noise(x0[i], e[i], int(t[i])))
        close(d.target(x0, e, t)[i], d.target(x0[i], e[i], int(t[i])))


@pytest.mark.parametrize("source", PREDICTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_target_leads_back_to_x0_and_the_noise(schedule, source):
    d, x0, e = Diffusion(1000, schedule, source), noise(6, 3, 4), noise(6, 3, 4, seed=2)
    for t in (0, 1, 250, 500, 900):
        x = d.add_noise(x0, e, t)
        found_x0, found_e = diffusion.estimate(d.target(x0, e, t), x, *d.roots(t, x), d.prediction)
        close(found_x0, x0)
        close(found_e, e)
        for other in PREDICTIONS:  # and round the triangle
            there = Diffusion(1000, schedule, other)
            again = diffusion.estimate(there.target(found_x0, found_e, t), x, *d.roots(t, x), other)
            close(again[0], x0, 1e-9)


def test_dtype_of_the_pictures_is_kept():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        d, x = Diffusion(10, "cosine", "v"), noise(2, 3, 4, dtype=torch.float64).to(dtype)
        t = torch.tensor([3, 8])
        assert d.add_noise(x, x, t).dtype == d.target(x, x, t).dtype == dtype
        assert d.ddpm_step(x, 5, x, torch.Generator().manual_seed(0)).dtype == dtype
        assert d.ddim_step(x, 5, x, 3, 0.5, torch.Generator().manual_seed(0)).dtype == dtype
        assert d.dpm_step(x, 5, x, 3, (8, x)).dtype == dtype


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_min_snr_weights_are_one_weight_on_x0(prediction):
    d, x0, e = Diffusion(1000, "cosine", prediction), noise(5, 8), noise(5, 8, seed=2)
    for t in (20, 400, 950):
        x, bar = d.add_noise(x0, e, t), d.alphas_cumprod[t]
        wrong_x0 = x0 + 0.1 * noise(5, 8, seed=3)
        wrong_e = (x - bar.sqrt() * wrong_x0) / (1 - bar).sqrt()
        said = d.target(wrong_x0, wrong_e, t)
        weight = diffusion.min_snr_weights(bar, prediction)
        weighted = weight * (said - d.target(x0, e, t)).pow(2).mean()
        close(weighted, (bar / (1 - bar)).clamp(max=5) * (wrong_x0 - x0).pow(2).mean(), 1e-9)
    assert diffusion.min_snr_weights(torch.zeros(1), "epsilon") == 1


# -- exact answers


def gaussian(d: Diffusion, mean: float = 0.5, variance: float = 0.3):
    """The perfect network where data are one Gaussian."""

    def model(x: Tensor, t: Tensor) -> Tensor:
        bar = d.alphas_cumprod[t].view(-1, 1).to(x.dtype)
        spread = bar * variance + 1 - bar
        x0 = mean + bar.sqrt() * variance / spread * (x - bar.sqrt() * mean)
        e = (x - bar.sqrt() * x0) / (1 - bar).sqrt()
        return {"epsilon": e, "x0": x0, "v": bar.sqrt() * e - (1 - bar).sqrt() * x0}[d.prediction]

    return model


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("method", "eta"), [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 1.0), ("dpm", 0.0)])
def test_with_a_perfect_network_every_sampler_draws_the_data(method, eta, prediction):
    d = Diffusion(1000, "cosine", prediction, spacing="trailing")
    options = dict(steps=200, method=method, eta=eta, generator=torch.Generator().manual_seed(4))
    x = d.sample(gaussian(d), noise(20_000, 1), **options)
    assert abs(x.mean() - 0.5) < 0.02 and abs(x.var() - 0.3) < 0.02


def test_ddim_with_eta_one_is_the_ddpm_step():
    d, x, out, z = Diffusion(50, "linear", "v"), noise(4, 3), noise(4, 3, seed=2), noise(4, 3, seed=3)
    for t, prev_t in ((49, 48), (30, 11), (3, 0)):
        close(d.ddim_step(out, t, x, prev_t, 1.0, noise=z), d.ddpm_step(out, t, x, prev_t=prev_t, noise=z))


def test_ddpm_and_ddim_without_noise_between_them_follow_the_posterior_mean():
    d, x0, e = Diffusion(100, "cosine", "x0"), noise(3, 4), noise(3, 4, seed=2)
    t, prev_t = 60, 20
    x, a, b = d.add_noise(x0, e, t), d.alphas_cumprod[t], d.alphas_cumprod[prev_t]
    mean = d.ddpm_step(x0, t, x, prev_t=prev_t, noise=torch.zeros_like(x))
    # the posterior of two Gaussians, from precision-weighted means
    precision = 1 / (1 - b) + (a / b) / (1 - a / b)
    close(mean, (b.sqrt() * x0 / (1 - b) + (a / b).sqrt() * x / (1 - a / b)) / precision)
    close(d.ddim_step(x0, t, x, prev_t), d.add_noise(x0, e, prev_t))


@pytest.mark.parametrize(("order", "heun", "least"), [(1, False, 0.9), (2, False, 1.8), (2, True, 1.8)])
def test_the_solver_has_the_order_it_claims(order, heun, least):
    """Against the exact path of the probability flow, which for one Gaussian is a change of scale."""
    d = Diffusion(200_000, "cosine", "x0", heun=heun)
    lam, bars = diffusion.log_snr(d.alphas_cumprod), d.alphas_cumprod
    first, last = 180_000, 20_000
    model, x = gaussian(d, 0.5, 0.3), noise(50, 1)

    def error(steps: int) -> float:
        grid = torch.linspace(lam[first].item(), lam[last].item(), steps + 1, dtype=torch.float64)
        times = (200_000 - torch.searchsorted(lam.flip(0), grid)).clamp(max=first).tolist()
        y, before = x, None
        for t, prev_t in itertools.pairwise(times):
            out = model(y, torch.full((50,), t))
            y, before = d.dpm_step(out, t, y, prev_t, before if order == 2 else None), (t, out)
        (a, b), m, v = bars[[times[0], times[-1]]], 0.5, 0.3
        exact = b.sqrt() * m + ((b * v + 1 - b) / (a * v + 1 - a)).sqrt() * (x - a.sqrt() * m)
        return (y - exact).abs().max().item()

    errors = [error(steps) for steps in (20, 40, 80)]
    rates = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert rates[-1] > least, (errors, rates)


def test_sample_is_its_steps_and_a_trajectory_ends_where_it_ends():
    d = Diffusion(100, "cosine", "v", spacing="trailing")
    model, z = gaussian(d), noise(6, 1)
    x = z
    for t, prev_t in d.path(9, "ddim"):
        x = d.ddim_step(model(x, torch.full((6,), t)), t, x, prev_t)
    way = d.sample(model, z, steps=9, trajectory=True)
    assert way.shape == (10, 6, 1) and torch.equal(way[0], z)
    assert torch.equal(way[-1], x) and torch.equal(d.sample(model, z, steps=9), x)
    again = [
        d.sample(model, z, steps=9, method="ddpm", generator=torch.Generator().manual_seed(s))
        for s in (1, 1, 2)
    ]
    assert torch.equal(again[0], again[1]) and not torch.equal(again[0], again[2])


def test_bounds_clip_or_divide_by_each_pictures_own_quantile():
    x = noise(3, 2, 4, 5) * 3
    close(diffusion.bound(x, 1.5), x.clamp(-1.5, 1.5))
    assert torch.equal(diffusion.bound(x), x)
    found = diffusion.bound(x, None, (0.9, 10.0))
    s = torch.quantile(x.abs().flatten(1), 0.9, dim=1)
    assert (found.abs() <= 1).all()
    close(found[1], x[1].clamp(-s[1], s[1]) / s[1])


# -- guidance and the running mean


def test_guidance_moves_away_from_the_null_answer_and_rescaling_restores_the_spread():
    a, b = noise(3, 2, 8, 8), noise(3, 2, 8, 8, seed=2)
    close(diffusion.guide(a, b, 1.0), a)
    close(diffusion.guide(a, b, 0.0), b)
    close(diffusion.guide(a, b, 3.0) - a, 2 * (a - b))
    assert (diffusion.guide(a, b, 3.0) - diffusion.guide(b, a, 3.0)).abs().max() > 1  # the sides differ
    full = diffusion.guide(a, b, 3.0, rescale=1.0)
    close(full.std((1, 2, 3)), a.std((1, 2, 3)))
    half = diffusion.guide(a, b, 3.0, rescale=0.5)
    close(half, (full + diffusion.guide(a, b, 3.0)) / 2)


def test_guidance_rescaling_is_that_of_diffusers_and_the_wrong_side_is_noticed():
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    a, b = noise(3, 2, 7, 5), noise(3, 2, 7, 5, seed=2)
    for scale, rescale in itertools.product((0.0, 2.5, 7.5), (0.3, 0.7, 1.0)):
        theirs = rescale_noise_cfg(b + scale * (a - b), a, guidance_rescale=rescale)
        close(diffusion.guide(a, b, scale, rescale), theirs)
        assert (diffusion.guide(b, a, scale, rescale) - theirs).abs().max() > 1e-2


def test_without_guidance_the_model_is_asked_once():
    asked = []

    def model(x, t, y):
        asked.append(y)
        return x

    x, t = torch.zeros(2, 1), torch.zeros(2)
    diffusion.with_guidance(model, "red", "nothing")(x, t)
    assert asked == ["red"]
    diffusion.with_guidance(model, "red", "nothing", 2.0)(x, t)
    assert asked[1:] == ["red", "nothing"]


def test_the_running_mean_is_that_of_diffusers():
    from diffusers.training_utils import EMAModel

    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    ours, theirs = EMA(model, 0.9), EMAModel(model.parameters(), decay=0.9)
    for i in range(60):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(noise(*p.shape, seed=i, dtype=torch.float32))
        ours.update(model)
        theirs.step(model.parameters())
    # theirs copies at its first step, with decay 0, and counts from there
    for mine, other in zip(ours.average.parameters(), theirs.shadow_params, strict=True):
        assert (mine - other).abs().max() < 1e-2
    steady = EMA(model, 0.5)
    for _ in range(40):
        steady.update(model)
    assert all(
        torch.allclose(a, b) for a, b in zip(steady.average.parameters(), model.parameters(), strict=True)
    )
    assert not any(p.requires_grad for p in ours.average.parameters())


def test_snr_weights_use_the_snr_of_diffusers():
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    scheduler, t = DDPMScheduler(), torch.tensor([0, 10, 500, 999])
    snr = compute_snr(scheduler, t)
    ours = diffusion.min_snr_weights(scheduler.alphas_cumprod[t], "epsilon", 5.0)
    torch.testing.assert_close(ours, torch.minimum(snr, torch.full_like(snr, 5.0)) / snr)


# -- the network


def dit(**options) -> DiT:
    shape = dict(patch_size=(4, 2), dim=24, depth=2, num_heads=3, in_channels=2)
    return DiT((12, 10), **shape | options)


def lively(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(noise(*p.shape, seed=i, dtype=torch.float32) * 0.2)
    return model.eval()


def test_a_new_network_predicts_zero_and_its_blocks_do_nothing():
    model, x = dit(), noise(3, 2, 12, 10, dtype=torch.float32)
    assert torch.equal(model(x, torch.tensor([1, 2, 3])), torch.zeros(3, 2, 12, 10))
    tokens, steer = noise(3, 15, 24, dtype=torch.float32), noise(3, 24, dtype=torch.float32)
    assert torch.equal(model.blocks[0](tokens, steer), tokens)
    loss = (model(x, torch.tensor([1, 2, 3])) - x).pow(2).mean()
    loss.backward()
    assert model.head.weight.grad.abs().max() > 0  # and yet it learns


def test_the_network_takes_one_time_for_all_pictures_that_are_not_square_and_other_sizes():
    model, x = lively(dit(out_channels=4)), noise(3, 2, 12, 10, dtype=torch.float32)
    out = model(x, 7)
    assert out.shape == (3, 4, 12, 10)
    torch.testing.assert_close(out, model(x, torch.tensor([7, 7, 7])))
    assert (out - model(x, 8)).abs().max() > 1e-4
    assert model(noise(1, 2, 8, 20, dtype=torch.float32), 7).shape == (1, 4, 8, 20)
    torch.testing.assert_close(model(x[1:2], 7), out[1:2])


def test_the_condition_steers_and_may_be_any_module():
    words = nn.EmbeddingBag(9, 24, mode="mean", padding_idx=0)
    model, x = lively(dit(condition=words)), noise(2, 2, 12, 10, dtype=torch.float32)
    a, b = torch.tensor([[1, 2, 0], [1, 2, 0]]), torch.tensor([[1, 2, 0], [3, 0, 0]])
    torch.testing.assert_close(model(x, 5, a)[0], model(x, 5, b)[0])
    assert (model(x, 5, a)[1] - model(x, 5, b)[1]).abs().max() > 1e-4
    torch.testing.assert_close(model(x, 5, a), model(x, 5, a[:, [1, 2, 0]]))  # a bag has no order


def test_positions_on_another_grid_are_stretched():
    own = diffusion.grid_positions((4, 3), (4, 3), 8)
    wide = diffusion.grid_positions((8, 3), (4, 3), 8)
    torch.testing.assert_close(wide.view(8, 3, 8)[::2], own.view(4, 3, 8))


def test_low_frequencies_tell_far_times_apart_and_high_ones_near_times():
    waves = diffusion.timestep_embedding(torch.tensor([0, 1, 999]), 64)
    assert waves.shape == (3, 64)
    assert torch.equal(waves[0], torch.cat([torch.ones(32), torch.zeros(32)]))
    assert (waves[1] - waves[0]).abs().argmax() % 32 == 0
    shifted = diffusion.timestep_embedding(torch.tensor([10_000]), 64, shift=1.0)
    assert abs(shifted[0, 31].item() - math.cos(1.0)) < 1e-4


# -- the judge


def test_the_frechet_distance_is_that_of_the_formula_with_a_matrix_root():
    import scipy.linalg

    a, b = noise(60, 5) @ noise(5, 5, seed=3), noise(90, 5, seed=2) + 0.3
    A, B = a.T.cov(), b.T.cov()
    root = scipy.linalg.sqrtm((A @ B).numpy()).real.trace()
    expected = (a.mean(0) - b.mean(0)).square().sum() + A.trace() + B.trace() - 2 * root
    assert abs(diffusion.frechet_distance(a, b) - expected.item()) < 1e-9
    assert abs(diffusion.frechet_distance(a, a)) < 1e-9
    assert abs(diffusion.frechet_distance(a, a + 2.0) - 4 * 5) < 1e-9  # a shift alone
    few = noise(4, 5)  # fewer pictures than features: the covariance is singular
    assert math.isfinite(diffusion.frechet_distance(few, b))


def test_the_judge_reads_one_class_of_each_attribute():
    judge = diffusion.AttributeJudge((4, 3), width=6).eval()
    x = noise(5, 3, 16, 16, dtype=torch.float32)
    assert judge(x).shape == (5, 7) and judge.body(x).shape == (5, 12)
    read = judge.read(x)
    assert read.shape == (5, 2) and torch.equal(read[:, 1], judge(x)[:, 4:].argmax(1))


def test_the_judge_counts_colour_shape_and_both():
    judge = diffusion.AttributeJudge((2, 2, 2), width=6).eval()
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    asked = judge.read(images)
    asked[0, 0] ^= 1  # another colour
    asked[1, 1] ^= 1  # another shape
    asked[2, 2] ^= 1  # another size, which is not counted
    assert judge.shares(images, asked) == {"colour": 0.75, "shape": 0.75, "both": 0.5}


def test_the_painter_of_the_book_takes_padding_for_no_caption():
    torch.manual_seed(0)
    net = diffusion.small_painter(9, padding_idx=0)
    assert not net.conditioning[0].condition(torch.tensor([[0, 0]])).any()
    assert net(torch.ones(1, 3, 16, 16), 5, torch.tensor([[3, 0]])).shape == (1, 3, 16, 16)


# -- every combination, against diffusers

THEIR_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
THEIR_PREDICTIONS = ("epsilon", "sample", "v_prediction")
CLIPPING = ({"clip_sample": False}, {"clip_sample": True, "clip_sample_range": 0.8}, {"thresholding": True})
VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range")


def grid(**axes) -> list[dict]:
    """Every combination of the axes, an axis of dicts being merged into the rest."""
    found = []
    for values in itertools.product(*axes.values()):
        config = {}
        for name, value in zip(axes, values, strict=True):
            config |= value if isinstance(value, dict) else {name: value}
        found.append(config)
    return found


SHARED = dict(
    beta_schedule=THEIR_SCHEDULES,
    prediction_type=THEIR_PREDICTIONS,
    timestep_spacing=("leading", "trailing", "linspace"),
    rescale_betas_zero_snr=(False, True),
)
COMBINATIONS = {
    "DDPMScheduler": grid(**SHARED, clipping=CLIPPING, variance_type=VARIANCES),
    "DDIMScheduler": grid(
        **SHARED,
        clipping=CLIPPING,
        set_alpha_to_one=(False, True),
        call=[
            {"call": {"eta": eta, "use_clipped_model_output": clipped}}
            for eta, clipped in ((0, False), (0.7, True), (1.0, False))
        ],
    ),
    "DPMSolverMultistepScheduler": grid(
        **SHARED,
        thresholding=(False, True),
        solver=({"solver_order": 1}, {"solver_type": "midpoint"}, {"solver_type": "heun"}),
        final_sigmas_type=("zero", "sigma_min"),
        end=({"lower_order_final": False}, {"lower_order_final": True}, {"euler_at_final": True}),
    ),
}  # fmt: skip


def test_the_combinations_are_as_many_as_lesson_22_says():
    assert sum(map(len, COMBINATIONS.values())) == 3_726


class Double:
    """A module in which float32 means float64, so that the library's own code runs in double precision."""

    def __init__(self, module):
        self.module, self.float32 = module, module.float64

    def __getattr__(self, name):
        return getattr(self.module, name)


@contextlib.contextmanager
def precision(kind: str, dtype: torch.dtype):
    import diffusers

    module = sys.modules[getattr(diffusers, kind).__module__]
    before = module.torch, module.np
    if dtype == torch.float64:
        module.torch, module.np = Double(module.torch), Double(module.np)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        module.torch, module.np = before


def measure(kind: str, config: dict, dtype: torch.dtype, steps: int = 7) -> float | None:
    """Largest difference over the trajectory, relative to its largest number where that is over 1.

    None where the reference gives NaN or infinity and ours refuses.
    """
    from diffusion import Our, Their  # of tests/parity

    x = noise(3, 2, 5, 4, seed=2, dtype=dtype)
    with precision(kind, dtype):
        their = Their(kind, **{"steps": steps, "num_train_timesteps": 1000} | config)
        theirs = their(x)
    if not torch.isfinite(theirs).all():
        with pytest.raises(ValueError, match="alpha-bar is 0|finite"):
            Our(their)(x)
        return None
    ours = Our(their)(x)
    assert ours.dtype == theirs.dtype == dtype
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)).item()


@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["single", "double"]
)
@pytest.mark.parametrize("schedule", THEIR_SCHEDULES)
@pytest.mark.parametrize("kind", COMBINATIONS)
def test_every_combination_follows_the_library_over_whole_trajectories(kind, schedule, dtype, limit):
    found = {
        str(config): measure(kind, config, dtype)
        for config in COMBINATIONS[kind]
        if config["beta_schedule"] == schedule
    }
    compared = {name: value for name, value in found.items() if value is not None}
    assert len(compared) > 0.7 * len(found)
    worst = max(compared, key=compared.get)
    assert compared[worst] <= limit, (worst, compared[worst])


@pytest.mark.parametrize("kind", COMBINATIONS)
def test_any_number_of_steps_visits_the_timesteps_of_the_library(kind):
    import diffusers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for total, spacing, offset in itertools.product(
            (1000, 60), ("leading", "trailing", "linspace"), (0, 1)
        ):
            scheduler = getattr(diffusers, kind)(total, timestep_spacing=spacing, steps_offset=offset)
            ours = diffusion.from_diffusers(scheduler)
            for steps in range(1, 59) if total == 60 else (1, 2, 3, 7, 10, 25, 30, 50, 100, 333, 500):
                scheduler.set_timesteps(steps)
                theirs = [t for t in scheduler.timesteps.tolist() if t >= 0]  # trailing, now and then a -1
                assert [t for t, _ in ours.path(steps)] == theirs, (
                    total,
                    spacing,
                    steps,
                )


@pytest.mark.parametrize("kind", COMBINATIONS)
def test_a_thousand_steps_stay_together(kind):
    from diffusion import V

    steps = dict(DDPMScheduler=1000, DDIMScheduler=1000, DPMSolverMultistepScheduler=100)[kind]
    assert measure(kind, dict(V), torch.float32, steps) <= 1e-5
    assert measure(kind, dict(V), torch.float64, steps) <= 1e-10


def test_the_solver_may_start_late_on_the_cosine_schedule():
    kind, config = (
        "DPMSolverMultistepScheduler",
        dict(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1),
    )
    for spacing in ("leading", "trailing", "linspace"):
        assert measure(kind, config | dict(timestep_spacing=spacing), torch.float32) <= 1e-5


@pytest.mark.parametrize("schedule", ["sigmoid", "laplace"])
def test_a_schedule_that_has_no_name_here_comes_over_as_numbers(schedule):
    assert measure("DDPMScheduler", dict(beta_schedule=schedule), torch.float32) <= 1e-5


def test_our_schedules_are_those_of_the_library():
    import diffusers

    for name, zero_snr in itertools.product(THEIR_SCHEDULES, (False, True)):
        with precision("DDPMScheduler", torch.float64):
            theirs = diffusers.DDPMScheduler(beta_schedule=name, rescale_betas_zero_snr=zero_snr)
        close(Diffusion(1000, name, "v", zero_snr=zero_snr).alphas_cumprod, theirs.alphas_cumprod, 1e-12)
        x, e, t = noise(3, 2, 4), noise(3, 2, 4, seed=2), torch.tensor([0, 500, 999])
        ours = Diffusion(1000, name, "v", zero_snr=zero_snr)
        close(ours.add_noise(x, e, t), theirs.add_noise(x, e, t), 1e-12)
        close(ours.target(x, e, t), theirs.get_velocity(x, e, t), 1e-12)


# -- bad input

SETUP = """
import json, sys
import torch
from torch import nn
from mmscratch.diffusion import *
from mmscratch.diffusion import SamplerConfig
x = torch.ones(2, 3, 4, 4)
bad = torch.full_like(x, float("nan"))
d = Diffusion(10, "cosine", "v")
def net(x, t, y=None): return x
def blow_up(x, t): return x * float("inf")
small = dict(patch_size=2, dim=8, depth=1, num_heads=2)
def scheduler(name, **options):
    import diffusers
    return getattr(diffusers, name)(**options)
def ddpm(**options):
    return scheduler("DDPMScheduler", **options)
def dpm(**options):
    return scheduler("DPMSolverMultistepScheduler", **options)
def transformer(**options):
    import diffusers
    shape = dict(num_attention_heads=2, attention_head_dim=4, num_layers=1, sample_size=4, norm_num_groups=1)
    return diffusers.DiTTransformer2DModel(**shape | options)
"""
CASES = {
    "make_alphas": {
        "make_alphas('square', 10)": "ValueError: expected schedule to be one of linear.*got 'square'",
        "make_alphas('linear', 0)": "ValueError: expected timesteps >= 1.*got 0",
        "make_alphas('linear', 10, start=0.5, end=0.1)": "ValueError: expected .*start <= end.*0.5, 0.1",
    },
    "check_alphas": {
        "Diffusion(3, torch.tensor([0.9, 0.5, 0.0]))": "ValueError: expected .*0.0 at timestep 2",
        "Diffusion(3, torch.tensor([1.5, 0.5, 0.1]))": "ValueError: expected .*1.5 at timestep 0",
        "Diffusion(2, torch.tensor([0.9, float('nan')]))": "ValueError: expected .*in (0, 1], got nan",
        "Diffusion(3, torch.tensor([0.5, 0.9, 0.1]))": "ValueError: .*alpha-bar to fall.*timestep 0 to 1",
        "Diffusion(4, torch.tensor([0.9, 0.5]))": "ValueError: .*alpha-bar (4,), got torch.float32 (2,)",
        "Diffusion(3, torch.tensor([0.9, 0.0, 0.0]), 'v', zero_snr=True)": "ValueError: .*0.0 at timestep 1",
    },
    "check_config": {
        "Diffusion(10, variance='huge')": "ValueError: expected variance .*got 'huge'",
        "Diffusion(10, spacing='wide')": "ValueError: expected spacing .*got 'wide'",
        "Diffusion(10, method='euler')": "ValueError: expected method .*got 'euler'",
        "Diffusion(10, final=0.0)": "ValueError: expected final in (0, 1].*got 0.0",
        "Diffusion(10, order=3)": "ValueError: .*order 1 or 2.*3",
        "Diffusion(10, clip=-1.0)": "ValueError: expected clip > 0.*got -1.0",
    },
    "SamplerConfig": {"Diffusion(10, colour='red')": "TypeError: .*colour"},
    "ForwardProcess": {
        "ForwardProcess(10, 'linear', 'score')": "ValueError: expected prediction .*got 'score'",
        "d.add_noise(x, x[:1], 3)": "ValueError: expected noise (2, 3, 4, 4), got (1, 3, 4, 4)",
    },
    "check_timesteps": {
        "d.add_noise(x, x, torch.tensor([3, 10]))": "ValueError: expected timesteps from 0 to 9, got 10",
        "d.add_noise(x, x, torch.tensor([-1, 5]))": "ValueError: expected timesteps from 0 to 9, got -1",
        "d.target(x, x, 12)": "ValueError: expected timesteps .*got 12",
        "d.add_noise(x, x, torch.tensor([0.5, 0.1]))": "ValueError: expected whole .*got torch.float32",
    },
    "ReverseSteps": {
        "d.ddpm_step(x, 10, x)": "ValueError: expected timesteps from 0 to 9, got 10",
        "d.ddpm_step(x, -1, x)": "ValueError: expected timesteps .*got -",
        "d.ddim_step(x, 5, x, 11)": "ValueError: expected timesteps from -1 to 9, got 11",
        "d.ddim_step(x[:1], 5, x, 4)": "ValueError: expected an output (2, 3, 4, 4), got (1, 3, 4, 4)",
        "d.ddim_step(x, 5, x, 4, eta=1.5)": "ValueError: expected eta from 0 to 1, got 1.5",
        "Diffusion(10, 'cosine', zero_snr=True).ddim_step(x, 9, x, 8)": "ValueError: .*9 alpha-bar is 0",
    },
    "check_finite": {
        "d.ddim_step(x, 5, bad, 4)": "ValueError: expected finite samples, got nan or infinity at timestep 5",
        "d.ddpm_step(bad, 5, x)": "ValueError: expected finite predictions.*timestep 5",
        "d.sample(blow_up, x, steps=2)": "ValueError: expected finite predictions",
    },
    "draw": {"d.ddpm_step(x, 5, x, noise=x[:1])": "ValueError: expected noise .*got (1, 3, 4, 4)"},
    "split_variance": {
        "Diffusion(10, variance='learned').ddpm_step(x, 5, x)": "ValueError: expected 6 channels.*got 3"
    },
    "Diffusion": {
        "d.path(11)": "ValueError: expected 1 to 10 steps, got 11",
        "d.path(0)": "ValueError: expected 1 to 10 steps, got 0",
        "d.path(10, 'dpm')": "ValueError: expected 1 to 9 steps, got 10",
        "d.path(3, 'heun')": "ValueError: expected method .*got 'heun'",
        "Diffusion(10, offset=1).path(10)": "ValueError: expected timesteps from 0 to 9, got 10",
    },
    "with_guidance": {
        "d.sample(net, x, steps=2, condition=x, guidance=3.0)": "ValueError: .*3.0 needs a null condition",
        "d.sample(net, x, steps=2, null=x, guidance=3.0)": "ValueError: guidance 3.0 needs a condition",
        "with_guidance(net, x, x, 2.0, rescale=2.0)": "ValueError: expected rescale from 0 to 1, got 2.0",
    },
    "min_snr_weights": {
        "min_snr_weights(x, 'v', -1.0)": "ValueError: expected gamma > 0, got -1.0",
        "min_snr_weights(x, 'score')": "ValueError: expected prediction .*got 'score'",
    },
    "frechet_distance": {
        "frechet_distance(torch.ones(5, 3), torch.ones(5, 4))": "ValueError: .*(5, 3), (5, 4)",
        "frechet_distance(torch.ones(1, 3), torch.ones(5, 3))": "ValueError: .*(1, 3), (5, 3)",
    },
    "EMA": {"EMA(nn.Linear(2, 2), 1.0)": "ValueError: expected decay in [0, 1), got 1.0"},
    "timestep_embedding": {
        "timestep_embedding(torch.ones(2, 2), 8)": "ValueError: expected t (B,) .*got (2, 2) and 8",
        "timestep_embedding(torch.ones(2), 7)": "ValueError: .*got (2,) and 7",
    },
    "Conditioning": {
        "DiT(4, condition=nn.Embedding(3, 8), **small)(x, 1)": "ValueError: expected a condition, got none",
        "DiT(4, **small)(x, 1, torch.ones(2, 8))": "ValueError: expected no condition, got (2, 8)",
    },
    "DiT": {
        "DiT(5, **small)": "ValueError: image height 5 is not a multiple of patch_size 2",
        "DiT(4, **small)(x[:, :2], 1)": "ValueError: expected x (B, 3, H, W), got (2, 2, 4, 4)",
        "DiT(4, **small | dict(num_heads=3))": "ValueError: dim 8 is not a multiple of num_heads 3",
    },
    "DiTConfig": {"DiT(4, **small, colour='red')": "TypeError: .*colour"},
    "from_diffusers": {
        "from_diffusers(nn.Linear(2, 2))": "TypeError: expected DDPMScheduler or .*got Linear",
        "from_diffusers(ddpm(variance_type='fixed_large_log'))": "ValueError: .*large_log",
    },
    "dpm_options": {
        "from_diffusers(dpm(use_karras_sigmas=True))": "ValueError: .*use_karras_sigmas False",
        "from_diffusers(dpm(algorithm_type='sde-dpmsolver++'))": "ValueError: .*algorithm_type",
        "from_diffusers(dpm(solver_order=3))": "ValueError: .*order 1 or 2.*3",
    },
    "dit_from_diffusers": {
        "dit_from_diffusers(nn.Linear(2, 2))": "TypeError: expected DiTTransformer2DModel, got Linear",
        "from_diffusers(transformer(dropout=0.1))": "ValueError: expected dropout 0, got 0.1",
        "from_diffusers(transformer(in_channels=3)).forward(x, 1)": "ValueError: .*a condition",
    },
}  # fmt: skip
WITHOUT_CASE = {
    "AttributeJudge": "torch refuses what is no batch of pictures",
    "DIT_ACTIVATIONS": "a table",
    "DPM_REFUSED": "a table",
    "DiTBlock": "called by DiT, which checks",
    "FROM_DIT": "a table",
    "METHODS": "a table",
    "PREDICTIONS": "a table",
    "SCHEDULES": "a table",
    "SPACINGS": "a table",
    "VARIANCES": "a table",
    "bound": "takes any tensor of numbers",
    "Walk": "a part of Diffusion, which has cases",
    "ddim_update": "called by ddim_step, which checks",
    "ddpm_update": "called by ddpm_step, which checks",
    "deviation": "called by ddpm_step, which checks",
    "dpm_update": "called by dpm_step, which checks",
    "estimate": "called by the steps, which check",
    "grid_positions": "called by DiT, which checks",
    "guide": "called through with_guidance, which checks",
    "log_snr": "takes any tensor of numbers",
    "modulate": "torch refuses what does not fit",
    "rescale_zero_snr": "called by ForwardProcess, which checks",
    "small_painter": "torch refuses sizes and padding that do not fit",
    "spread_timesteps": "called by path, which checks",
}

test_bad_input_is_refused, test_every_name_is_given_bad_input = refusals.tests(
    diffusion, SETUP, CASES, WITHOUT_CASE
)
