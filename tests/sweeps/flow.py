"""Flow schedules of any setting, and the adaptive solver between any two times."""

from hypothesis import strategies as st


def sizes(draw):
    return [draw(st.integers(1, most)) for most in (3, 3, 6, 6)]


def euler(draw, parity):
    spacing = draw(st.sampled_from(["", "karras", "exponential"]))
    options = dict(shift=draw(st.integers(3, 50)) / 10, num_train_timesteps=10 * draw(st.integers(5, 99)))
    options |= {f"use_{spacing}_sigmas": True} if spacing else {}
    shape, steps = sizes(draw), draw(st.integers(2, 20))
    name = f"{steps} steps of {shape}, {options}"
    reference = parity.scheduler("Euler", **options)
    return parity.schedule_case(name, reference, parity.noise_and_weights(*shape), steps=steps)


def heun(draw, parity):
    shift, shape, steps = draw(st.integers(10, 50)) / 10, sizes(draw), draw(st.integers(15, 30))
    name = f"{steps} steps of {shape}, shift {shift:.3g}"
    reference = parity.scheduler("Heun", shift=shift)
    inputs = parity.noise_and_weights(*shape)
    return parity.schedule_case(name, reference, inputs, steps=steps, library="Heun", bound=2e-5)


def adaptive(draw, parity):
    start, end = draw(st.sampled_from([(1.0, 0.0), (0.0, 1.0), (0.7, 0.2), (0.1, 0.9)]))
    exponent, count = draw(st.integers(3, 7)), draw(st.integers(1, 30))
    problem = parity.Problem(start, end, 10.0**-exponent, 10.0 ** -(exponent + 3))
    return parity.solver_case(f"{count} points, {problem}", problem, parity.points(count))


SWEEPS = [euler, heun, adaptive]
