"""Trees of any depth over any number of rows, features and classes, grown as scikit-learn offers."""

import dataclasses

from hypothesis import strategies as st


def tree(draw, parity):
    rows, features, classes = draw(st.integers(2, 90)), draw(st.integers(1, 12)), draw(st.integers(2, 5))
    depth = draw(st.sampled_from([None, 1, 2, 3, 5, 9]))
    options = dict(
        criterion=draw(st.sampled_from(["gini", "entropy", "log_loss"])),
        splitter=draw(st.sampled_from(["best", "random"])),
        min_samples_leaf=draw(st.integers(1, 9)),
        binary=draw(st.booleans()),
    )
    asked = draw(st.integers(1, 90))
    name = f"{rows} rows of {features} features, {classes} classes, depth {depth}, {asked} asked, {options}"
    case = parity.case(name, parity.fitted(rows, features, classes, depth, **options), asked, features)
    return dataclasses.replace(case, wrong={})


SWEEPS = [tree]
