"""Every primitive equals its reference on shared weights, and the comparison would notice if it did not.

The configurations live in `tests/parity`, one file for each module.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from mmscratch.kit.reference import Case, cases

CASES = cases(Path(__file__).parent / "parity")


def name(case: Case) -> str:
    return f"{case.library}: {case.name}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_outputs_and_gradients_equal_the_reference(case: Case):
    case.run(wrong=False).check()


@pytest.mark.parametrize(
    ("case", "variant"),
    [pytest.param(case, variant, id=f"{name(case)}: {variant}") for case in CASES for variant in case.wrong],
)
def test_a_deliberate_error_exceeds_the_bound(case: Case, variant: str):
    found = dataclasses.replace(case, wrong={variant: case.wrong[variant]}).run().wrong[variant]
    assert 2 * case.bound < found < float("inf")


@pytest.mark.parametrize("library", sorted({case.library for case in CASES}))
def test_each_library_is_timed_and_has_deliberate_errors(library: str):
    found = [case for case in CASES if case.library == library]
    assert any(case.bench for case in found)
    assert any(case.wrong for case in found)


def torchvision_model(**options):
    from torchvision.models import VisionTransformer

    shape = dict(image_size=16, patch_size=8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8)
    return VisionTransformer(**shape | options)


def transformers_model(name: str, **options):
    import transformers

    shape = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8)
    config = getattr(transformers, name.replace("Model", "Config"))
    return getattr(transformers, name)(config(**shape | options))


def test_vit_refuses_what_it_cannot_hold():
    from mmscratch import vit

    with pytest.raises(ValueError, match="LayerNorm"):
        vit.from_torchvision(torchvision_model(norm_layer=torch.nn.RMSNorm))
    with pytest.raises(ValueError, match="mish"):
        vit.from_transformers(transformers_model("ViTModel", hidden_act="mish"))
    with pytest.raises(ValueError, match="16x8"):
        vit.from_transformers(transformers_model("Dinov2Model", image_size=(16, 8)))


def test_vit_refuses_models_of_another_kind():
    from mmscratch import vit

    with pytest.raises(TypeError, match="Linear"):
        vit.from_torchvision(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="VisionTransformer"):
        vit.from_transformers(torchvision_model())
