"""What `mmscratch.flow` promises beyond equality with the libraries, which tests/test_parity.py checks."""

from __future__ import annotations

import math

import pytest
import refusals
import torch
from torch import Tensor

from mmscratch import flow
from mmscratch.flow import Mixture, Path


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def ring(kind: str = "linear", scale: float = 0.4, number: int = 5) -> Mixture:
    angles = torch.arange(number, dtype=torch.float64) * 2 * math.pi / number
    return Mixture(2 * torch.stack([angles.cos(), angles.sin()], 1) + 0.3, scale=scale, path=Path(kind))


# -- paths


@pytest.mark.parametrize("kind", flow.PATHS)
def test_a_path_leads_from_data_to_noise(kind):
    x0, noise = normal(2, 4, 3, 2)
    path = Path(kind)
    torch.testing.assert_close(path.mix(x0, noise, torch.tensor(0.0)), x0)
    at_end = path.mix(x0, noise, torch.ones(4))
    atol = 0.03 if kind == "vp" else 1e-12  # a diffusion keeps .7 % of the data
    torch.testing.assert_close(at_end, noise, atol=atol, rtol=0)


@pytest.mark.parametrize("kind", flow.PATHS)
def test_the_velocity_is_the_derivative_of_the_path_to_the_last_digits(kind):
    x0, noise = normal(2, 9, 3)
    t = torch.rand(9, generator=seeded(), dtype=torch.float64) * 0.98 + 0.01
    path, h = Path(kind), 1e-5
    by_difference = (path.mix(x0, noise, t + h) - path.mix(x0, noise, t - h)) / (2 * h)
    torch.testing.assert_close(path.velocity(x0, noise, t), by_difference, atol=1e-6, rtol=0)
    _, slope = torch.autograd.functional.jvp(lambda t: path.mix(x0, noise, t), t, torch.ones_like(t))
    torch.testing.assert_close(path.velocity(x0, noise, t), slope, atol=1e-11, rtol=0)


@pytest.mark.parametrize("kind", flow.PATHS)
def test_velocity_and_place_give_back_data_and_noise(kind):
    x0, noise = normal(2, 7, 2, 3, 2)
    t = torch.rand(7, generator=seeded(), dtype=torch.float64) * 0.9 + 0.05
    path = Path(kind)
    found = path.split(path.velocity(x0, noise, t), path.mix(x0, noise, t), t)
    torch.testing.assert_close(found, (x0, noise), atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", flow.PATHS)
@pytest.mark.parametrize("prediction", ["velocity", "data", "noise"])
def test_every_prediction_means_the_same_velocity(kind, prediction):
    x0, noise = normal(2, 7, 3)
    t = torch.rand(7, generator=seeded(), dtype=torch.float64) * 0.9 + 0.05
    path = Path(kind)
    x, v = path.mix(x0, noise, t), path.velocity(x0, noise, t)
    output = {"velocity": v, "data": x0, "noise": noise}[prediction]
    found = flow.as_velocity(output, x, t, prediction=prediction, path=path)
    torch.testing.assert_close(found, v, atol=1e-10, rtol=0)


@pytest.mark.parametrize("prediction", ["data", "noise"])
def test_predictions_stay_finite_at_both_ends(prediction):
    x = normal(3, 2)
    for t in (0.0, 1.0):
        assert flow.as_velocity(x, x + 1, torch.tensor(t), prediction=prediction).isfinite().all()


# -- data whose flow is known


@pytest.mark.parametrize("kind", flow.PATHS)
def test_the_exact_velocity_is_the_mean_over_lines(kind):
    toy, path = ring(kind), Path(kind)
    t, x = 0.6, torch.tensor([[0.5, -0.4]], dtype=torch.float64)
    x0 = toy.sample(400_000, generator=seeded())
    a, b, *_ = path.coefficients(torch.tensor(t, dtype=torch.float64))
    noise = (x - a * x0) / b  # the noise that would have led to x
    chance = (-noise.square().sum(1) / 2).softmax(0)
    mean = (chance[:, None] * path.velocity(x0, noise, torch.tensor(t))).sum(0)
    found = toy.velocity(x, torch.tensor([t], dtype=torch.float64))[0]
    torch.testing.assert_close(found, mean, atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", flow.PATHS)
def test_the_exact_velocity_moves_the_density(kind):
    toy = ring(kind)
    x, t = normal(20, 2).requires_grad_(), torch.full((20,), 0.4, dtype=torch.float64).requires_grad_()
    by_x, by_t = torch.autograd.grad(toy.log_prob(x, t).sum(), (x, t))
    v, div = flow.divergence(toy.velocity, x, t.detach())
    torch.testing.assert_close(by_t + (by_x * v).sum(1), -div, atol=1e-10, rtol=0)


def test_densities_integrate_to_one():
    axis = torch.linspace(-7, 7, 281, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    for t in (0.0, 0.5, 1.0):
        total = ring().log_prob(grid, t).exp().sum() * (axis[1] - axis[0]) ** 2
        assert total.item() == pytest.approx(1, abs=1e-6)


def test_components_may_differ_in_width():
    toy = Mixture(torch.tensor([[-4.0], [4.0]]), scale=torch.tensor([0.1, 1.0]))
    x = toy.sample(20_000, generator=seeded())
    assert x[x < 0].std().item() == pytest.approx(0.1, rel=0.05)
    assert x[x > 0].std().item() == pytest.approx(1.0, rel=0.05)


# -- the loss


def test_no_velocity_has_a_lower_loss_than_the_exact_one():
    toy, g = ring(), seeded()
    x0, noise = toy.sample(20_000, generator=g), normal(20_000, 2)
    t = flow.sample_times(20_000, generator=g).double()
    least = flow.flow_loss(toy.velocity, x0, noise, t)
    assert least > 0.5
    for change in (lambda v, x: 1.03 * v, lambda v, x: v + 0.05, lambda v, x: v + 0.05 * x):
        assert flow.flow_loss(lambda x, t, c=change: c(toy.velocity(x, t), x), x0, noise, t) > least


def test_the_loss_is_a_plain_mean_of_squares():
    x0, noise, t = normal(5, 3), normal(5, 3, seed=2), torch.rand(5, generator=seeded(), dtype=torch.float64)
    for kind in flow.PATHS:
        path = Path(kind)
        found = flow.flow_loss(lambda x, t: 2 * x, x0, noise, t, path=path)
        wanted = (2 * path.mix(x0, noise, t) - path.velocity(x0, noise, t)).pow(2).mean()
        torch.testing.assert_close(found, wanted)


def test_distillation_sees_only_the_start():
    x0, noise = normal(6, 2), normal(6, 2, seed=2)
    seen = []
    loss = flow.one_step_loss(lambda x, t: seen.append((x, t)) or noise - x0, x0, noise)
    assert loss.item() == 0
    torch.testing.assert_close(seen[0], (noise, torch.ones(6)))


# -- times


def test_times_are_drawn_as_the_library_draws_them():
    from diffusers.training_utils import compute_density_for_timestep_sampling as theirs

    ours = flow.sample_times(500, "logit-normal", mean=0.3, std=1.4, generator=seeded(7))
    found = theirs("logit_normal", 500, logit_mean=0.3, logit_std=1.4, generator=seeded(7))
    torch.testing.assert_close(ours, found)
    torch.testing.assert_close(
        flow.sample_times(500, generator=seeded(7)), theirs("uniform", 500, generator=seeded(7))
    )


def test_a_shift_moves_times_to_the_noise_and_its_inverse_back():
    t = torch.linspace(0, 1, 50)
    moved = flow.shift_times(t, 3.0)
    assert (moved[1:-1] > t[1:-1]).all() and moved[0] == 0 and moved[-1] == 1
    torch.testing.assert_close(flow.shift_times(moved, 1 / 3), t)
    torch.testing.assert_close(flow.shift_times(flow.shift_times(t, 2.0), 1.5), moved)  # shifts multiply
    shifted = flow.sample_times(9, shift=3.0, generator=seeded())
    torch.testing.assert_close(shifted, flow.shift_times(flow.sample_times(9, generator=seeded()), 3.0))


def test_the_shift_for_a_resolution_is_that_of_flux():
    pipelines = pytest.importorskip("diffusers.pipelines.flux.pipeline_flux")
    for tokens in (64, 256, 1000, 4096, 9000):
        assert flow.resolution_shift(tokens) == pytest.approx(pipelines.calculate_shift(tokens), abs=1e-12)
    own = dict(base_tokens=100, max_tokens=900, base_shift=0.2, max_shift=2.0)
    theirs = pipelines.calculate_shift(300, 100, 900, 0.2, 2.0)
    assert flow.resolution_shift(300, **own) == pytest.approx(theirs, abs=1e-12)


# -- solvers


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
@pytest.mark.parametrize("ends", [(1.0, 0.0), (0.0, 1.0)])
def test_solvers_have_their_order(method, order, ends):
    toy, x = ring(), normal(32, 2)
    truth = flow.solve_adaptive(toy.velocity, x, *ends, rtol=1e-11, atol=1e-11).x

    def error(steps):
        times = torch.linspace(*ends, steps + 1, dtype=torch.float64)
        return (flow.solve(toy.velocity, x, times, method=method) - truth).square().mean().sqrt()

    assert math.log2(error(128) / error(256)) == pytest.approx(order, abs=0.1)


def test_one_step_of_dormand_and_prince_has_order_five_and_knows_its_error():
    def velocity(x, t):
        return (3 * x.roll(1, 1) * (1 + t[:, None])).sin()

    x = normal(16, 2)
    errors, estimates = [], []
    for h in (-0.02, -0.01):
        v = velocity(x, torch.ones(16, dtype=torch.float64))
        ahead, last, estimate = flow.dormand_prince_step(velocity, x, v, 1.0, h)
        truth = flow.solve_adaptive(velocity, x, 1.0, 1 + h, rtol=1e-13, atol=1e-13).x
        errors.append((ahead - truth).norm().item())
        estimates.append(estimate.norm().item())
        torch.testing.assert_close(last, velocity(ahead, x.new_full((16,), 1 + h)))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(6, abs=0.5)  # of one step: order + 1
    assert math.log2(estimates[0] / estimates[1]) == pytest.approx(5, abs=0.5)
    assert errors[1] < estimates[1]


def test_the_table_of_dormand_and_prince_adds_up():
    for node, row in zip(flow.NODES, flow.STAGES, strict=True):
        assert sum(row) == pytest.approx(node, abs=1e-14)
    assert sum(flow.FOURTH) == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("ends", [(1.0, 0.0), (0.0, 1.0), (0.7, 0.2)])
def test_the_adaptive_solver_takes_scipys_steps(ends):
    integrate = pytest.importorskip("scipy.integrate")
    toy, x = ring(), normal(11, 2)

    def velocity(t, flat):
        places = torch.from_numpy(flat).view(-1, 2)
        return toy.velocity(places, places.new_full((11,), t)).numpy().ravel()

    for rtol, atol in ((1e-3, 1e-6), (1e-8, 1e-10), (1e-5, 1e-1)):
        theirs = integrate.solve_ivp(velocity, ends, x.numpy().ravel(), rtol=rtol, atol=atol)
        ours = flow.solve_adaptive(toy.velocity, x, *ends, rtol=rtol, atol=atol, every=True)
        assert ours.evaluations == theirs.nfev and len(ours.times) == len(theirs.t)
        # a step's length follows from a small difference of large numbers: rounding moves it a little
        torch.testing.assert_close(ours.times, torch.from_numpy(theirs.t), atol=1e-7, rtol=0)
        states = torch.from_numpy(theirs.y.T.copy()).view(-1, 11, 2)
        torch.testing.assert_close(ours.states, states, atol=1e-6, rtol=0)
        torch.testing.assert_close(ours.x, states[-1], atol=1e-11, rtol=0)
        assert ours.evaluations == 2 + 6 * (len(ours.times) - 1 + ours.rejected)


def test_a_still_point_needs_no_small_steps():
    found = flow.solve_adaptive(lambda x, t: 0 * x, normal(3, 2), 1.0, 0.0)
    torch.testing.assert_close(found.x, normal(3, 2))
    assert len(found.times) < 12 and found.rejected == 0


def test_states_come_from_first_to_last_and_carry_gradients():
    x = normal(4, 2).requires_grad_()
    times = torch.tensor([1.0, 0.6, 0.5, 0.0])
    states = flow.solve(lambda x, t: t[:, None] * x, x, times, every=True)
    assert states.shape == (4, 4, 2)
    torch.testing.assert_close(states[0], x)
    torch.testing.assert_close(states[1], 0.6 * x)
    states[-1].sum().backward()
    assert x.grad.abs().min() > 0
    smooth = flow.solve_adaptive(lambda x, t: x, normal(4, 2).requires_grad_(), 0.0, 1.0, rtol=1e-8)
    assert smooth.x.requires_grad


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_a_step_from_half_precision_is_computed_in_single_and_rounded_once(method, monkeypatch):
    x = torch.full((1, 4), 200.0, dtype=torch.bfloat16)

    def step():  # 200 + 3.5, a tie that goes to 204; in bfloat16 the step has become 3.484, and 203 comes out
        return flow.solve(lambda x, t: torch.full_like(x, 100), x, [0.0, 0.035], method=method)

    assert step().dtype == torch.bfloat16 and (step() == 204).all()
    monkeypatch.setattr(flow, "widen", lambda x: x)
    assert (step() == 203).all()


# -- likelihood


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_likelihoods_equal_the_closed_form(kind):
    toy = ring(kind)
    x = toy.sample(50, generator=seeded())
    found = flow.log_likelihood(toy.velocity, x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found, toy.log_prob(x), atol=1e-6, rtol=0)


def test_likelihoods_of_pictures_count_every_pixel():
    x = normal(3, 2, 2, 2)
    still = flow.log_likelihood(lambda x, t: 0 * x, x)
    torch.testing.assert_close(still, torch.distributions.Normal(0, 1).log_prob(x).flatten(1).sum(1))
    # dx/dt = x: x_1 = e x_0, so the density gains one nat for each of the eight numbers
    grown = flow.log_likelihood(lambda x, t: x, x, rtol=1e-9, atol=1e-9)
    wanted = torch.distributions.Normal(0, 1).log_prob(math.e * x).flatten(1).sum(1) + 8
    torch.testing.assert_close(grown, wanted, atol=1e-6, rtol=0)


def test_the_divergence_is_the_trace_of_the_jacobian_and_a_probe_its_unbiased_guess():
    mixing, x, t = normal(6, 6), normal(2, 3, 2), torch.full((2,), 0.5, dtype=torch.float64)

    def velocity(x, t):
        return (x.flatten(1) @ mixing).sin().view(x.shape) * t.view(-1, 1, 1)

    v, div = flow.divergence(velocity, x, t)
    torch.testing.assert_close(v, velocity(x, t))
    for i in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda y: velocity(y[None], t[:1])[0].flatten(), x[i])
        torch.testing.assert_close(div[i], jacobian.view(6, 6).trace())
    signs = torch.randint(2, (3000, *x.shape), generator=seeded()) * 2.0 - 1
    guesses = torch.stack([flow.divergence(velocity, x, t, probe.double())[1] for probe in signs[:800]])
    error = guesses.std(0) / 800**0.5
    assert ((guesses.mean(0) - div).abs() < 4 * error).all()


# -- straighter roads


@pytest.mark.parametrize(("groups", "n"), [(5, 32), (1, 100), (3, 7), (2, 1)])
def test_transport_is_as_cheap_as_scipys_assignment(groups, n):
    optimize = pytest.importorskip("scipy.optimize")
    x0, noise = ring().sample(groups * n, generator=seeded()).view(groups, n, 2), normal(groups, n, 2)
    order = flow.transport(x0, noise, tolerance=1e-3)
    assert torch.equal(order.sort(1).values, torch.arange(n).expand(groups, -1))
    cost = torch.cdist(x0, noise).square()
    ours = cost.gather(2, order[..., None]).mean((1, 2))
    for k in range(groups):
        least = cost[k].numpy()[optimize.linear_sum_assignment(cost[k].numpy())].mean()
        assert least - 1e-9 <= ours[k].item() <= least + 1e-3 * cost[k].mean().item()


def test_transport_on_a_line_is_sorting():
    x0, noise = normal(2, 20, 1), normal(2, 20, 1, seed=2)
    order = flow.transport(x0, noise, tolerance=1e-6)
    paired = noise.gather(1, order[..., None])
    by_place = x0.argsort(1)
    assert (paired.gather(1, by_place).diff(dim=1) > 0).all()


def test_transport_of_pictures_and_of_equal_points():
    pictures = normal(2, 6, 3, 4, 4)
    shuffled = torch.stack(
        [group[torch.randperm(6, generator=seeded(k))] for k, group in enumerate(pictures)]
    )
    order = flow.transport(pictures, shuffled)
    found = torch.stack([group[rows] for group, rows in zip(shuffled, order, strict=True)])
    torch.testing.assert_close(found, pictures)
    same = torch.zeros(1, 9, 2)
    assert flow.transport(same, same)[0].sort().values.tolist() == list(range(9))


def test_straight_roads_have_no_bend_and_reflow_joins_their_ends():
    centre = torch.tensor([3.0, -1.0], dtype=torch.float64)
    noise, times = normal(50, 2), torch.linspace(1, 0, 9)
    straight = flow.straightness(lambda x, t: centre.expand_as(x), noise, times)
    assert straight.item() < 1e-20
    bent = flow.straightness(ring().velocity, noise, torch.linspace(1, 0, 65))
    assert bent > 0.1
    backwards = flow.straightness(lambda x, t: x, noise, torch.linspace(0, 1, 200), method="heun")
    wanted = ((math.e - 1 - torch.linspace(0, 1, 2001).exp()) ** 2).mean() * noise.square().sum(1).mean()
    assert backwards.item() == pytest.approx(wanted.item(), rel=0.02)
    x0, back = flow.reflow_pairs(lambda x, t: centre.expand_as(x), noise.requires_grad_(), times)
    torch.testing.assert_close(x0, noise.detach() - centre)
    assert back is noise and not x0.requires_grad


def test_rows_do_not_touch_one_another_with_fixed_steps():
    x, times = normal(6, 2), torch.linspace(1, 0, 7)
    for method in flow.STEPS:
        together = flow.solve(ring().velocity, x, times, method=method)
        alone = torch.cat([flow.solve(ring().velocity, row[None], times, method=method) for row in x])
        torch.testing.assert_close(together, alone)


# -- noise levels


def test_schedules_by_hand_and_from_the_library_agree():
    diffusers = pytest.importorskip("diffusers")
    for shift in (1.0, 3.0):
        for kind, solver in (("Euler", "euler"), ("Heun", "heun")):
            theirs = getattr(diffusers, f"FlowMatch{kind}DiscreteScheduler")(shift=shift)
            ours = flow.from_diffusers(theirs)
            assert ours.solver == solver
            for steps in (1, 2, 10, 50):
                theirs.set_timesteps(steps)
                levels = ours.sigmas(steps)
                assert levels.shape == (steps + 1,) and levels.dtype == torch.float32 and levels[-1] == 0
                torch.testing.assert_close(levels, theirs.sigmas.unique_consecutive(), atol=1e-7, rtol=0)
    once = flow.Schedule(shift=3.0).sigmas(5)[-2].item()
    twice = flow.from_diffusers(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)).sigmas(5)[-2].item()
    assert once == pytest.approx(0.0029940, rel=1e-4) and twice == pytest.approx(0.0089286, rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"shift": 3.0}, {"shift": 0.6, "num_train_timesteps": 50}])
@pytest.mark.parametrize("kind", ["Euler", "Heun"])
def test_schedulers_agree_in_double_precision_and_single_stays_near_it(kind, options):
    """The library's own code in float64, with its levels. In float32 its Heun step loses digits, ours not."""
    import diffusers
    from parity.flow import field, noise_and_weights, their_states
    from test_diffusion import precision

    name = f"FlowMatch{kind}DiscreteScheduler"
    inputs = noise_and_weights()()
    noise, weight = (v.double() for v in inputs)
    for steps in (1, 2, 7, 25):
        with precision(name, torch.float64):
            library = getattr(diffusers, name)(**options)
            theirs = their_states(steps, library, noise, weight)
        levels = library.sigmas
        if kind == "Heun":  # which names every level but the first and the last twice
            levels = torch.cat([levels[:1], levels[1:-1:2], levels[-1:]])
        ours = flow.from_diffusers(library)
        assert theirs.dtype == levels.dtype == torch.float64
        torch.testing.assert_close(ours.sigmas(steps).double(), levels, atol=6e-8, rtol=0)
        states = flow.solve(field(weight), noise, levels, method=ours.solver, every=True)
        torch.testing.assert_close(states, theirs, atol=1e-10, rtol=0)
        single = ours.sample(field(inputs[1]), inputs[0], steps, every=True)
        torch.testing.assert_close(single.double(), theirs, atol=3e-6, rtol=0)


def test_a_shift_set_later_is_read_too():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_shift(1.5)
    ours = flow.from_diffusers(theirs)
    theirs.set_timesteps(6)
    torch.testing.assert_close(ours.sigmas(6), theirs.sigmas)


def test_the_beta_quantile_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    for p in (0.0, 1e-4, 0.1, 0.5, 0.77, 1.0):
        for a in (0.6, 1.0, 2.5):
            assert flow.beta_quantile(p, a) == pytest.approx(stats.beta.ppf(p, a, a), abs=1e-12)


def test_fresh_noise_comes_from_the_generator():
    schedule, x = flow.Schedule(stochastic=True), normal(3, 2)
    one, two = (schedule.sample(lambda x, t: -x, x, 4, generator=seeded(4)) for _ in range(2))
    other = schedule.sample(lambda x, t: -x, x, 4, generator=seeded(5), every=True)
    torch.testing.assert_close(one, two)
    assert other.shape == (5, 3, 2) and not torch.equal(other[1], schedule.sample(lambda x, t: -x, x, 1))


# -- bad input, each exported name from a fresh interpreter

SETUP = """
import json, sys
from mmscratch.flow import *
foreign = {"transformers", "diffusers", "scipy", "matplotlib", "mmscratch.kit"} & sys.modules.keys()
assert not foreign, f"importing mmscratch.flow also loads {foreign}"
import torch
from torch import nn, zeros, ones, tensor, randn
x = randn(4, 2)
still = lambda x, t: 0 * x
lost = lambda x, t: x / 0
down = torch.linspace(1, 0, 5)
"""
CASES = {  # exported name: {wrong use: error and message, ".*" for anything between}
    "Path": {
        "Path('straight')": "ValueError: expected a path among linear, cosine, vp, got 'straight'",
        "Path().mix(x, x[:3], ones(4))": "ValueError: one shape, got (4, 2) .*and (3, 2)",
        "Path().velocity(x, x, tensor([0.5, 1.5, 0, 0]))": "ValueError: times in [0, 1], got 0 to 1.5",
        "Path().mix(x.long(), x, ones(4))": "ValueError: two floating batches",
    },
    "check_times": {
        "check_times(tensor(3), x)": "ValueError: floats, got torch.int64: a step's number is no time",
        "check_times(ones(3), x)": "ValueError: expected one time or 4, .*got shape (3,)",
        "check_times(ones(4, 1), x)": "ValueError: got shape (4, 1)",
        "check_times(tensor(float('nan')), x)": "ValueError: times in [0, 1], got nan",
        "check_times(tensor(-0.1), x)": "ValueError: times in [0, 1], got -0.1",
        "check_times(tensor(500.0), x)": "ValueError: times in [0, 1], got 500",
    },
    "check_pair": {"check_pair(zeros(()), zeros(()))": "ValueError: two floating batches of one shape"},
    "Mixture": {
        "Mixture(zeros(3))": "ValueError: means (K, D) and scale > 0, got (3,)",
        "Mixture(zeros(3, 2), scale=0.0)": "ValueError: scale > 0, .*got (3, 2) and 0.0",
        "Mixture(zeros(3, 2)).velocity(x, tensor(2.0))": "ValueError: times in [0, 1]",
    },
    "flow_loss": {
        "flow_loss(still, x, x[:2], ones(4))": "ValueError: two floating batches",
        "flow_loss(still, x, x, torch.full((4,), 999))": "ValueError: a step's number is no time",
    },
    "as_velocity": {
        "as_velocity(x, x, ones(4), prediction='score')": "ValueError: velocity, data or noise, got 'score'",
        "as_velocity(x[:, :1], x, ones(4))": "ValueError: one shape, got (4, 1)",
    },
    "sample_times": {
        "sample_times(4, 'cosine')": "ValueError: uniform or logit-normal times, got 'cosine'",
        "sample_times(4, shift=0.0)": "ValueError: expected a shift > 0, got 0.0",
    },
    "shift_times": {"shift_times(down, -1.0)": "ValueError: expected a shift > 0, got -1.0"},
    "resolution_shift": {"resolution_shift(0)": "ValueError: tokens >= 1 .*got 0"},
    "solve": {
        "solve(still, x, down, method='rk4')": "ValueError: a method among euler, heun, got 'rk4'",
        "solve(lost, x, down)": "ValueError: expected finite samples, got 8 of 8 numbers that are not",
        "solve(still, x, [5, 4, 3])": "ValueError: two times as floats, got torch.int64",
    },
    "check_grid": {
        "check_grid(tensor([1.0]), x)": "ValueError: at least two times as floats, got torch.float32 (1,)",
        "check_grid([1.0, 0.5, 0.5], x)": "ValueError: rise or fall all the way",
        "check_grid([0.0, 0.5, 0.4], x)": "ValueError: rise or fall all the way",
        "check_grid([1000.0, 0.0], x)": "ValueError: times in [0, 1], got 0 to 1000",
        "check_grid([1.0, float('nan')], x)": "ValueError: rise or fall",
    },
    "check_finite": {"check_finite(x / 0)": "ValueError: finite samples, got 8 of 8"},
    "solve_adaptive": {
        "solve_adaptive(still, x, 1.0, 1.0)": "ValueError: two different times in [0, 1], got 1.0 and 1.0",
        "solve_adaptive(still, x, 1000.0, 0.0)": "ValueError: got 1000.0 and 0.0",
        "solve_adaptive(still, x, 1.0, 0.0, rtol=0.0)": "ValueError: rtol >= 2.2e-14 and atol >= 0, got 0.0",
        "solve_adaptive(still, x, 1.0, 0.0, atol=-1.0)": "ValueError: got 0.001 and -1.0",
        "solve_adaptive(still, tensor(1.0), 1.0, 0.0)": "ValueError: floating batch, got torch.float32 ()",
        "solve_adaptive(lost, x, 1.0, 0.0)": "ValueError: expected finite velocities, got .*",
        "solve_adaptive(lambda x, t: 9 * x, x, 0.0, 1.0, max_steps=2)": "RuntimeError: no end in sight",
        "solve_adaptive(lambda x, t: x**2, 9 + x.abs(), 0.0, 1.0)": "RuntimeError: no end in sight at t = ",
    },
    "check_tolerances": {
        "check_tolerances(x.long(), 1.0, 0.0, 1e-3, 0.0)": "ValueError: floating batch, got torch.int64",
        "check_tolerances(x, 1.0, 0.0, float('nan'), 0.0)": "ValueError: rtol >= 2.2e-14",
    },
    "divergence": {
        "divergence(lambda x, t: x, x, ones(4), ones(3, 2))": "ValueError: one shape, got (3, 2)",
    },
    "log_likelihood": {
        "log_likelihood(lambda x, t: x, x, start=1.0)": "ValueError: two different times",
        "log_likelihood(lambda x, t: x, x, probe=ones(4, 3))": "ValueError: one shape, got (4, 3)",
    },
    "transport": {
        "transport(x, x)": "ValueError: groups (G, n, ...), n >= 1, .*got (4, 2)",
        "transport(zeros(2, 0, 3), zeros(2, 0, 3))": "ValueError: groups (G, n, ...)",
        "transport(zeros(2, 4, 3), zeros(2, 5, 3))": "ValueError: one shape",
        "transport(zeros(2, 4, 3), ones(2, 4, 3) / 0)": "ValueError: finite samples",
        "transport(zeros(2, 4, 3), ones(2, 4, 3), tolerance=0.0)": "ValueError: tolerance < 1, got .*0.0",
    },
    "reflow_pairs": {"reflow_pairs(lost, x, down)": "ValueError: finite samples"},
    "one_step_loss": {"one_step_loss(still, x, x[:, :1])": "ValueError: one shape"},
    "straightness": {"straightness(still, x, [1.0])": "ValueError: at least two times"},
    "Schedule": {
        "Schedule().sigmas(0)": "ValueError: a whole number of steps >= 1, got 0",
        "Schedule().sigmas(2.5)": "ValueError: a whole number of steps >= 1, got 2.5",
        "Schedule().sigmas()": "ValueError: a whole number of steps >= 1, got None",
        "Schedule(shift=0.0).sigmas(3)": "ValueError: expected a shift > 0, got 0.0",
        "Schedule(spacing='cubic').sigmas(3)": "ValueError: linear, karras, exponential, beta, got 'cubic'",
        "Schedule(solver='rk4').sigmas(3)": "ValueError: one of euler, heun, got 'rk4'",
        "Schedule(dynamic='cubic').sigmas(3, mu=1.0)": "ValueError: exponential, linear or None, got 'cubic'",
        "Schedule(dynamic='linear').sigmas(3)": "ValueError: mu if and only if the shift is dynamic (linear)",
        "Schedule().sigmas(3, mu=1.0)": "ValueError: mu if and only if the shift is dynamic (None), got 1.0",
        "Schedule().sigmas(levels=[0.1, 0.5])": "ValueError: falling levels in (0, 1], got [0.1",
        "Schedule(terminal=0.1).sigmas(1)": "ValueError: two steps or more with a terminal level, got 1",
        "Schedule().sigmas(levels=[])": "ValueError: falling levels in (0, 1], got []",
        "Schedule().sigmas(levels=[1.0, 0.0])": "ValueError: falling levels in (0, 1]",
        "Schedule().sigmas(3, levels=[1.0, 0.5])": "ValueError: expected 3 levels, got 2",
        "Schedule().sample(lost, x, 3)": "ValueError: finite samples",
        "Schedule(stochastic=True).sample(lost, x, 3)": "ValueError: finite samples",
    },
    "check_steps": {"check_steps(Schedule(), True, None, None)": "ValueError: steps >= 1, got True"},
    "from_diffusers": {
        "from_diffusers(nn.Linear(2, 2))": "TypeError: expected FlowMatchEulerDiscreteScheduler or "
        "FlowMatchHeunDiscreteScheduler, got Linear",
    },
}
WITHOUT_CASE = {
    "FOURTH": "a table",
    "NODES": "a table",
    "PATHS": "a table",
    "SPACINGS": "a table",
    "STAGES": "a table",
    "STEPS": "a table",
    "Solution": "what solve_adaptive returns",
    "Velocity": "a type",
    "add_up": "called by dormand_prince_step",
    "auction": "called by transport, which checks",
    "beta": "called by Schedule, which checks",
    "beta_quantile": "called by beta, with probabilities",
    "dormand_prince_step": "called by solve_adaptive, which checks",
    "euler_step": "called by solve, which checks",
    "exponential": "called by Schedule, which checks",
    "first_step": "called by solve_adaptive, which checks",
    "heun_step": "called by solve, which checks",
    "karras": "called by Schedule, which checks",
    "next_size": "called by solve_adaptive, which checks",
    "norm": "takes any tensor of numbers",
    "widen": "takes any tensor of numbers",
}

test_bad_input_is_refused, test_every_name_is_given_bad_input = refusals.tests(
    flow, SETUP, CASES, WITHOUT_CASE
)
