"""`mmscratch.chart_strategies.Tree` against scikit-learn's decision tree: the same nodes, the same leaves.

Rows, features and classes differ in number. A tree differentiates nothing, so no gradient is compared.
"""

from __future__ import annotations

import torch

from mmscratch.kit.reference import Case, mutants


def rows(number, features, seed):
    return torch.randn(number, features, generator=torch.Generator().manual_seed(seed))


def fitted(number, features, classes, depth, *, binary=False, **options):
    def build():
        from sklearn.tree import DecisionTreeClassifier

        x = rows(number, features, seed=1)
        y = torch.randint(0, classes, (number,), generator=torch.Generator().manual_seed(2))
        x = (x > 0).float() if binary else x
        return DecisionTreeClassifier(max_depth=depth, random_state=0, **options).fit(x.numpy(), y.numpy())

    return build


def ours(model):
    from mmscratch import chart_strategies

    return chart_strategies.from_sklearn(model)


def call_ours(tree, x):
    return tree(torch.from_numpy(x))


def call_sklearn(model, x):
    return torch.from_numpy(model.predict_proba(x))


def sides_exchanged(tree):
    tree.left, tree.right = tree.right, tree.left


def thresholds_moved(tree):
    tree.threshold += 0.5


def one_feature_on(tree):
    tree.feature[tree.feature >= 0] = (tree.feature[tree.feature >= 0] + 1) % 3


def first_question_alone(tree):
    tree.feature[1:] = -1


def case(name, build, number, features, *changes, **fields):
    return Case(
        name,
        reference=build,
        ours=ours,
        inputs=lambda: (rows(number, features, seed=3).numpy(),),
        wrong=mutants(ours, *changes),
        call_ours=call_ours,
        call_reference=call_sklearn,
        library="sklearn DecisionTreeClassifier",
        primitive="chart_strategies.Tree",
        options={"random_weights": False},
        **fields,
    )


CASES = [
    case("depth 3, 3 classes", fitted(211, 5, 3, 3), 37, 5, sides_exchanged, thresholds_moved),
    case("depth 9, 4 classes", fitted(301, 7, 4, 9), 53, 7, one_feature_on, first_question_alone),
    case("whole, 2 classes", fitted(97, 3, 2, None), 41, 3, sides_exchanged, one_feature_on),
    case("entropy, 3 classes", fitted(150, 4, 3, 4, criterion="entropy"), 29, 4, sides_exchanged),
    case("one leaf", fitted(20, 3, 2, 3, min_samples_split=50), 11, 3),
    case("10,000 rows, depth 6", fitted(800, 30, 3, 6), 10_000, 30, sides_exchanged, bench=True),
    case("300 rows, depth 3", fitted(400, 30, 3, 3), 300, 30, thresholds_moved, bench=True),
]
