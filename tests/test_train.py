"""The training loop that lessons share."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmscratch.kit import train

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("MMSCRATCH_PROGRESS", "off")


def batches(seed: int = 0, size: int = 32):
    """Points in the plane, labelled by the quadrant they lie in; a linear map cannot tell all four apart."""
    g = torch.Generator().manual_seed(seed)
    while True:
        x = torch.randn(size, 2, generator=g)
        yield x, (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 4))


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def fit(model, *, steps=100, source=None, **options):
    return train.fit(model, source or batches(), loss, **dict(steps=steps, lr=0.02, where=CPU) | options)


# -- fit


def test_fit_learns_and_says_so_in_one_line(capfd):
    model = network()
    x, labels = next(batches(seed=1, size=500))

    def evaluate(net):
        assert not net.training and not torch.is_grad_enabled()
        return train.accuracy(net(x), labels)

    before = train.accuracy(train.predict(model, x), labels)
    history = fit(model, evaluate=evaluate, every=40, label="quadrants", metric="held out")
    assert before < 0.6 and history.metrics[-1] > 0.9
    assert history.metric_steps == [40, 80, 100] and len(history.losses) == 100
    assert sum(history.losses[-10:]) < sum(history.losses[:10]) / 2
    assert not model.training and history.seconds > 0
    out, err = capfd.readouterr()
    tail, metric = sum(history.losses[-20:]) / 20, history.metrics[-1]
    assert out == f"quadrants: 100 steps, loss {tail:.2f}, held out {metric:.2f}\n"
    assert err == ""


def test_the_model_trains_in_training_mode_again_after_each_evaluation():
    modes = []

    def watched(model, batch):
        modes.append(model.training)
        return loss(model, batch)

    train.fit(network(), batches(), watched, steps=6, evaluate=lambda net: 0.0, every=2, where=CPU)
    assert modes == [True] * 6


def test_fit_follows_the_seed_to_the_last_bit():
    def run(seed):
        model = network(seed)
        return fit(model, steps=20).losses, model.state_dict()

    (losses, weights), (again, same), (other, _) = run(0), run(0), run(1)
    assert losses == again and all(torch.equal(weights[name], same[name]) for name in weights)
    assert losses != other


def test_progress_shows_on_a_terminal_only_where_it_is_wanted(monkeypatch, capfd):
    monkeypatch.delenv("MMSCRATCH_PROGRESS")
    fit(network(), steps=3, label="with a bar")
    assert "with a bar" in capfd.readouterr().err


def test_batches_that_run_out_are_an_error_with_both_numbers():
    with pytest.raises(ValueError, match="expected 5 batches, got 3"):
        fit(network(), steps=5, source=itertools.islice(batches(), 3))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_before_it_reaches_the_weights(bad):
    model, count = network(), itertools.count()
    stored = {}

    def spoiled(model, batch):
        stored.update({name: value.clone() for name, value in model.state_dict().items()})
        return loss(model, batch) * (bad if next(count) == 2 else 1)

    with pytest.raises(ValueError, match=rf"loss became {bad} at step 2; lower lr \(now 0.5\)"):
        train.fit(model, batches(), spoiled, steps=5, lr=0.5, where=CPU)
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())


def test_gradients_are_clipped_to_the_given_norm():
    def first_step(clip):
        model = nn.Linear(2, 1, bias=False)
        norms = []
        model.weight.register_post_accumulate_grad_hook(lambda p: norms.append(p))
        train.fit(model, batches(), lambda m, b: 1e4 * m(b[0]).mean(), steps=1, clip=clip, where=CPU)
        return norms[0].grad.norm().item()

    assert first_step(0.5) == pytest.approx(0.5, rel=1e-3)
    assert first_step(1e9) > 100


def test_frozen_parameters_stay_as_they_are():
    model = network()
    model[0].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, steps=5)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"3.weight", "3.bias"}


# -- its parts


def test_the_schedule_rises_in_a_line_and_falls_in_half_a_cosine():
    factor = train.cosine_with_warmup(100, 0.1)
    assert [factor(step) for step in range(10)] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factor(10) == 1 and factor(55) == pytest.approx(0.5) and 0 < factor(99) < 0.001
    falls = [factor(step) for step in range(10, 100)]
    assert falls == sorted(falls, reverse=True)
    assert train.cosine_with_warmup(1, 0.0)(0) == 1  # one step is a full step


def test_only_matrices_and_kernels_decay():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.conv, self.norm = nn.Linear(3, 2), nn.Conv2d(3, 2, 3), nn.LayerNorm(2)
            self.cls, self.frozen = nn.Parameter(torch.zeros(1, 1, 2)), nn.Linear(2, 2).requires_grad_(False)

    model = Model()
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, spared = train.parameter_groups(model, 0.3)
    assert decayed["weight_decay"] == 0.3 and spared["weight_decay"] == 0
    assert {names[id(p)] for p in decayed["params"]} == {"linear.weight", "conv.weight"}
    rest = {"linear.bias", "conv.bias", "norm.weight", "norm.bias", "cls"}
    assert {names[id(p)] for p in spared["params"]} == rest


def test_batches_keep_their_form_when_they_move():
    class Pair(NamedTuple):
        x: torch.Tensor
        label: str

    batch = {"pair": Pair(torch.ones(2), "a"), "list": [torch.zeros(1), (torch.ones(1), 3)], "none": None}
    moved = train.to_device(batch, torch.device("meta"))
    assert isinstance(moved["pair"], Pair) and moved["pair"].x.is_meta and moved["pair"].label == "a"
    assert moved["list"][0].is_meta and isinstance(moved["list"][1], tuple) and moved["list"][1][1] == 3
    assert moved["none"] is None


@pytest.mark.parametrize(
    ("wish", "expected"), [("cpu", {"steps": 1, "width": 8}), ("gpu", {"steps": 100, "width": 8})]
)
def test_the_environment_chooses_the_preset(monkeypatch, wish, expected):
    monkeypatch.setenv("MMSCRATCH_PRESET", wish)
    assert train.preset(cpu=dict(steps=1, width=8), gpu=dict(steps=100)) == expected


def test_the_preset_follows_the_machine_and_refuses_other_names(monkeypatch):
    monkeypatch.delenv("MMSCRATCH_PRESET", raising=False)
    for present in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda present=present: present)
        assert train.preset(cpu=dict(steps=1), gpu=dict(steps=100)) == {"steps": 100 if present else 1}
        assert train.device().type == ("cuda" if present else "cpu")
    monkeypatch.setenv("MMSCRATCH_PRESET", "tpu")
    with pytest.raises(ValueError, match="cpu or gpu, got 'tpu'"):
        train.preset(cpu={}, gpu={})


def test_predictions_come_in_order_in_eval_mode_and_without_gradients():
    model, x = network().train(), next(batches(size=23))[0]
    found = train.predict(model, x, batch_size=5)
    assert not found.requires_grad and torch.equal(found, train.predict(model, x, batch_size=5))
    torch.testing.assert_close(found, model.eval()(x), atol=1e-6, rtol=0)
    assert torch.equal(train.predict(lambda chunk: chunk * 2, x, batch_size=4), x * 2)


def test_accuracy_is_the_share_of_right_answers_and_refuses_labels_of_another_shape():
    logits = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    assert train.accuracy(logits, torch.tensor([1, 0, 0, 0])) == 0.75
    with pytest.raises(ValueError, match=r"got \(4, 2\) and \(4, 1\)"):
        train.accuracy(logits, torch.tensor([[1], [0], [0], [0]]))
