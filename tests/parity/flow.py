"""`mmscratch.flow` against diffusers' flow matching schedulers and scipy's RK45, over whole trajectories.

A small random network plays the velocity on both sides, so nothing here is linear and every state depends
on all noise levels before it. Every state is compared, and its gradient by the noise and by the network's
weights. Each mutant is a schedule or a solver that is wrong in one way.
"""

from __future__ import annotations

import dataclasses
import functools
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from mmscratch.kit.reference import Case

# ---------------------------------------------------------------------------------------------------------
# The schedulers


def field(weight: Tensor):
    """A velocity (B, C, H, W) that depends on place and time in no simple way. weight (C, C)."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        mixed = torch.einsum("cd,bdhw->bchw", weight, x)
        return (mixed + 3 * t.view(-1, 1, 1, 1)).sin() - x * (1 - t.view(-1, 1, 1, 1))

    return velocity


def noise_and_weights(batch=3, channels=2, height=5, width=4):
    def build():
        g = torch.Generator().manual_seed(1)
        noise = torch.randn(batch, channels, height, width, generator=g)
        return noise, torch.randn(channels, channels, generator=g)

    return build


def scheduler(name, **options):
    def build():
        import diffusers

        return getattr(diffusers, f"FlowMatch{name}DiscreteScheduler")(**options)

    return build


def their_states(steps, model, noise, weight, **call):
    """All states of the library's loop, one each for a whole step of ours."""
    name = {"levels": "sigmas"}
    model.set_timesteps(steps, **{name.get(key, key): value for key, value in call.items()})
    velocity, x, states = field(weight), noise, [noise]
    generator = torch.Generator().manual_seed(5)
    for t in model.timesteps:
        level = (t / model.config.num_train_timesteps).expand(len(x))
        x = model.step(velocity(x, level), t, x, generator=generator, return_dict=False)[0]
        if getattr(model, "dt", None) is None:  # Heun's scheduler: both halves of the step are done
            states.append(x)
    if getattr(model, "dt", None) is not None:  # and its last step is Euler's
        states.append(x)
    return torch.stack(states)


def our_states(steps, model, noise, weight, *, around=lambda velocity: velocity, **call):
    generator = torch.Generator().manual_seed(5)
    return model.sample(around(field(weight)), noise, steps, every=True, generator=generator, **call)


def from_diffusers(reference):
    from mmscratch import flow

    return flow.from_diffusers(reference)


class Wrong:
    """A schedule whose noise levels, or whose velocity, are wrong."""

    def __init__(self, schedule, sigmas=lambda s: s, around=lambda velocity: velocity):
        self.schedule, self.change, self.around = schedule, sigmas, around

    def sample(self, velocity, noise, steps, *, every, generator, **call):
        from mmscratch import flow

        sigmas = self.change(self.schedule.sigmas(steps, **call))
        return flow.solve(self.around(velocity), noise, sigmas, method=self.schedule.solver, every=every)


def wrong(**changes):
    """Name -> mapping: a change of our schedule (a dictionary of fields), or what `Wrong` takes."""

    def broken(change, reference):
        ours = from_diffusers(reference)
        if callable(change):
            return change(ours)
        return dataclasses.replace(ours, **change)

    return {name.replace("_", " "): functools.partial(broken, change) for name, change in changes.items()}


ALL = wrong(
    velocity_of_the_other_sign=lambda s: Wrong(s, around=lambda v: lambda x, t: -v(x, t)),
    time_reversed=lambda s: Wrong(s, around=lambda v: lambda x, t: v(x, 1 - t)),
    from_data_to_noise=lambda s: Wrong(s, sigmas=lambda sigmas: sigmas.flip(0)),
    one_level_late=lambda s: Wrong(s, around=lambda v: lambda x, t: v(x, (t - 0.01).clamp(min=0))),
    evenly_spaced_to_zero=lambda s: Wrong(s, sigmas=lambda sigmas: torch.linspace(1, 0, len(sigmas))),
    times_in_thousands=lambda s: Wrong(s, around=lambda v: lambda x, t: v(x, 1000 * t)),
)


def shift_wrong(shift):
    return wrong(
        shift_inverted={"shift": 1 / shift},
        no_shift={"shift": 1.0},
        ends_shifted_once={"ends": (1.0, 1e-3)},
    )


def schedule_case(name, reference, inputs=None, *, steps=7, library="Euler", call=None, **options):
    call = call or {}
    return Case(
        name, reference, from_diffusers, inputs or noise_and_weights(), primitive="flow.Schedule",
        compared="trajectory",
        library=f"diffusers FlowMatch{library}DiscreteScheduler",
        call_ours=functools.partial(our_states, steps, **call),
        call_reference=functools.partial(their_states, steps, **call), **options,
    )  # fmt: skip


LEVELS = [0.95, 0.7, 0.55, 0.3, 0.2, 0.1, 0.05]
EULER = [
    schedule_case("7 steps", scheduler("Euler"), wrong=ALL),
    schedule_case("shift 3", scheduler("Euler", shift=3.0), wrong=ALL | shift_wrong(3.0)),
    schedule_case(
        "shift .6 of 50 levels",
        scheduler("Euler", shift=0.6, num_train_timesteps=50),
        steps=11,
        wrong=shift_wrong(0.6) | wrong(of_1000_levels={"ends": (1.0, 0.001)}),
    ),
    schedule_case("one step", scheduler("Euler"), steps=1),
    schedule_case(
        "dynamic shift",
        scheduler("Euler", use_dynamic_shifting=True),
        call={"mu": 0.9},
        wrong=wrong(linear={"dynamic": "linear"}),
    ),
    schedule_case(
        "dynamic shift, linear",
        scheduler("Euler", use_dynamic_shifting=True, time_shift_type="linear"),
        call={"mu": 1.8},
        wrong=wrong(exponential={"dynamic": "exponential"}),
    ),
    schedule_case(
        "own levels, shift 3",
        scheduler("Euler", shift=3.0),
        call={"levels": LEVELS},
        wrong=wrong(no_shift={"shift": 1.0}),
    ),
    schedule_case(
        "own levels, dynamic shift, last at .02",
        scheduler("Euler", use_dynamic_shifting=True, shift_terminal=0.02),
        call={"levels": LEVELS, "mu": 0.4},
        wrong=wrong(not_stretched={"terminal": None}),
    ),
    schedule_case(
        "last level at .1",
        scheduler("Euler", shift_terminal=0.1),
        wrong=wrong(not_stretched={"terminal": None}),
    ),
    *(
        schedule_case(
            f"{spacing} spacing",
            scheduler("Euler", shift=1.5, **{f"use_{spacing}_sigmas": True}),
            wrong=wrong(evenly_spaced={"spacing": "linear"}),
        )
        for spacing in ("karras", "exponential", "beta")
    ),
    schedule_case(
        "inverted", scheduler("Euler", invert_sigmas=True), wrong=wrong(not_inverted={"inverted": False})
    ),
    schedule_case(
        "stochastic",
        scheduler("Euler", stochastic_sampling=True, shift=2.0),
        wrong=wrong(no_fresh_noise={"stochastic": False}),
    ),
    schedule_case(
        "50 steps, 16 pictures of 32 px",
        scheduler("Euler", shift=3.0),
        noise_and_weights(16, 3, 32, 32),
        steps=50,
        bench=True,
    ),
]
# The library's Heun subtracts sigma v from x and divides what is missing by sigma again. At the last level,
# .001, that multiplies float32's rounding by 1000, and few steps are long: 1.5e-5 with seven. The error is
# the library's: in double precision both agree to 1e-10, and ours in single stays within 3e-6 of that
# (tests/test_flow.py).
HEUN = [
    schedule_case(
        "7 steps",
        scheduler("Heun"),
        library="Heun",
        bound=2e-5,
        wrong=ALL | wrong(euler={"solver": "euler"}),
    ),
    schedule_case("shift 3", scheduler("Heun", shift=3.0), library="Heun", wrong=shift_wrong(3.0)),
    schedule_case("one step", scheduler("Heun"), library="Heun", steps=1),
    schedule_case(
        "25 steps, 16 pictures of 32 px",
        scheduler("Heun"),
        noise_and_weights(16, 3, 32, 32),
        library="Heun",
        steps=25,
        bench=True,
    ),
]

# ---------------------------------------------------------------------------------------------------------
# Guidance on the way


def network(x, t, condition):
    """Any model of x (B, C, H, W), t (B,) and a condition (B, C)."""
    return (x * condition[:, :, None, None] + 2 * t.view(-1, 1, 1, 1)).sin()


def guided(wrap=lambda condition, null, scale: (condition, null, scale)):
    """Our sampler with lesson 22's guidance, in the place of a mapped schedule."""

    def mapping(reference):
        from mmscratch.diffusion import with_guidance

        schedule = from_diffusers(reference)

        def states(noise, condition, null):
            velocity = with_guidance(network, *wrap(condition, null.expand_as(condition), 4.5))
            return schedule.sample(velocity, noise, 6, every=True)

        return states

    return mapping


def their_guided_states(model, noise, condition, null):
    from diffusers.guiders import ClassifierFreeGuidance

    guider, states = ClassifierFreeGuidance(guidance_scale=4.5), [noise]
    model.set_timesteps(6)
    for step, t in enumerate(model.timesteps):
        guider.set_state(step=step, num_inference_steps=6, timestep=t)
        x, level = states[-1], (t / 1000).expand(len(noise))
        both = network(x, level, condition), network(x, level, null.expand_as(condition))
        states.append(model.step(guider.forward(*both).pred, t, x, return_dict=False)[0])
    return torch.stack(states)


def noise_and_conditions():
    g = torch.Generator().manual_seed(2)
    shapes = (3, 2, 5, 4), (3, 2), (1, 2)
    return tuple(torch.randn(shape, generator=g) for shape in shapes)


GUIDANCE = [
    Case(
        "guided by 4.5, shift 3", scheduler("Euler", shift=3.0), guided(), noise_and_conditions,
        {
            "guidance on the wrong side": guided(lambda c, n, w: (n, c, w)),
            "guidance counted from the condition": guided(lambda c, n, w: (c, n, w + 1)),
            "guidance the other way": guided(lambda c, n, w: (c, n, -w)),
            "no guidance": guided(lambda c, n, w: (c, n, 1.0)),
        },
        call_reference=their_guided_states, primitive="flow.Schedule", compared="trajectory",
        library="diffusers FlowMatchEulerDiscreteScheduler",
    )
]  # fmt: skip

# ---------------------------------------------------------------------------------------------------------
# The adaptive solver


class Problem(NamedTuple):
    """What to solve: start, end and tolerances. The dimension of the points is in the inputs."""

    start: float = 1.0
    end: float = 0.0
    rtol: float = 1e-3
    atol: float = 1e-6


def vortex(x: Tensor, t: Tensor) -> Tensor:
    """Points (B, 2) pulled to a ring and turned, faster as t falls; nothing about it is linear."""
    radius = x.square().sum(1, keepdim=True)
    turned = torch.stack([-x[:, 1], x[:, 0]], 1)
    return 3 * (radius - 1).tanh() * x * t[:, None] + (4 / (0.3 + t[:, None])) * turned


def their_solution(problem, x):
    import scipy.integrate

    def velocity(t, flat):
        points = torch.from_numpy(flat).view(x.shape)
        return vortex(points, points.new_full((len(points),), t)).numpy().ravel()

    with torch.no_grad():
        found = scipy.integrate.solve_ivp(
            velocity, (problem.start, problem.end), x.ravel(), rtol=problem.rtol, atol=problem.atol
        )
    states = torch.from_numpy(found.y.T.copy()).view(-1, *x.shape)
    return torch.from_numpy(found.t), states, torch.tensor(found.nfev)


def our_solution(problem, x):
    from mmscratch import flow

    points, tolerances = torch.from_numpy(x), {"rtol": problem.rtol, "atol": problem.atol}
    with torch.no_grad():
        found = flow.solve_adaptive(vortex, points, problem.start, problem.end, every=True, **tolerances)
    return found.times, found.states, torch.tensor(found.evaluations)


def points(number):
    """float64, as a NumPy array: scipy gives no gradients, so none are compared."""
    return lambda: (torch.randn(number, 2, generator=torch.Generator().manual_seed(3)).double().numpy(),)


def our_problem(problem):
    return functools.partial(our_solution, problem)


def through_the_same_times(step):
    """A mapping: step(x, v, t, h) -> x in the place of ours, at the times at which ours stopped."""

    def wrong(problem):
        def solve(x):
            times, states, evaluations = our_solution(problem, x)
            path = [states[0]]
            for t, s in pairwise(times.tolist()):
                v = vortex(path[-1], path[-1].new_full((len(x),), t))
                path.append(step(path[-1], v, t, s - t))
            return times, torch.stack(path), evaluations

        return solve

    return wrong


def heun(x, v, t, h):
    return x + h / 2 * (v + vortex(x + h * v, x.new_full((len(x),), t + h)))


def order_four(x, v, t, h):
    from mmscratch import flow

    ahead, _, error = flow.dormand_prince_step(vortex, x, v, t, h)
    return ahead - error


def solver_case(name, problem, inputs, **options):
    return Case(
        name, lambda: problem, our_problem, inputs, call_reference=their_solution, bound=1e-8,
        library="scipy solve_ivp RK45", primitive="flow.solve_adaptive", compared="trajectory", **options,
    )  # fmt: skip


WRONG_SOLVER = {
    "Heun's step": through_the_same_times(heun),
    "the step of order 4": through_the_same_times(order_four),
    "the other way": through_the_same_times(lambda x, v, t, h: x - h * v),
}
SOLVER = [
    solver_case("noise to data", Problem(), points(23), wrong=WRONG_SOLVER),
    solver_case("data to noise, rtol 1e-7", Problem(0.0, 1.0, 1e-7, 1e-9), points(5), wrong=WRONG_SOLVER),
    solver_case("one point, a short way", Problem(0.4, 0.35), points(1)),
    solver_case("16,384 points, rtol 1e-5", Problem(rtol=1e-5), points(16_384), bench="realistic"),
]

CASES = [*EULER, *HEUN, *GUIDANCE, *SOLVER]
