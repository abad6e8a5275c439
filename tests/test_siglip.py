"""What `mmscratch.siglip` promises beyond equality with the libraries, which tests/test_parity.py checks."""

from __future__ import annotations

import re

import pytest
import refusals
import torch
import torch.nn.functional as F
from torch import Tensor

from mmscratch import clip, siglip
from mmscratch.kit import memory
from mmscratch.kit.launch import LaunchFailed, launch
from mmscratch.siglip import SigLIP, siglip_loss


def unit(*shape: int, seed: int = 1, dtype=torch.float64) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(shape, generator=g, dtype=dtype), dim=-1)


def value_and_gradients(loss, *inputs: Tensor) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    value = loss(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def agree(ours: list[Tensor], theirs: list[Tensor], atol: float = 1e-12) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=0)


# -- the loss


def by_loops(image: Tensor, text: Tensor, t: float, b: float, match) -> float:
    total = 0.0
    for i in range(len(image)):
        for j in range(len(text)):
            z = 1.0 if match(i, j) else -1.0
            total += torch.log1p(torch.exp(-z * (t * image[i].dot(text[j]) + b))).item()
    return total / len(image)


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 100])
def test_the_loss_is_a_sum_over_pairs_divided_by_the_pictures(chunk_size):
    image, text = unit(2, 7, 5)
    found = siglip_loss(image, text, 4.0, -2.0, chunk_size)
    assert found.item() == pytest.approx(by_loops(image, text, 4.0, -2.0, lambda i, j: i == j), abs=1e-12)


@pytest.mark.parametrize("chunk_size", [None, 1, 4])
def test_ids_say_which_pairs_match_also_where_there_are_more_captions_than_pictures(chunk_size):
    image, text = unit(5, 6), unit(9, 6, seed=2)
    image_ids, text_ids = torch.tensor([3, 0, 7, 3, 9]), torch.tensor([0, 3, 3, 5, 7, 0, 1, 9, 9])
    found = siglip_loss(image, text, 4.0, -2.0, chunk_size, image_ids=image_ids, text_ids=text_ids)
    wanted = by_loops(image, text, 4.0, -2.0, lambda i, j: image_ids[i] == text_ids[j])
    assert found.item() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("chunk_size", [1, 8, 10, 69, 70, 71])
def test_chunks_change_neither_value_nor_gradients(chunk_size):
    inputs = *unit(2, 70, 9), number(12.0), number(-6.0)
    agree(
        value_and_gradients(lambda *x: siglip_loss(*x, chunk_size), *inputs),
        value_and_gradients(siglip_loss, *inputs),
    )


def test_chunks_keep_the_gradients_of_hard_and_of_finished_pairs():
    image = unit(6, 8)
    inputs = image, image.flip(0), number(100.0), number(0.0)  # confident and wrong, logits near +-100
    agree(
        value_and_gradients(lambda *x: siglip_loss(*x, 4), *inputs),
        value_and_gradients(siglip_loss, *inputs),
    )
    done = image.float(), image.float(), torch.tensor(60.0), torch.tensor(-30.0)  # all but solved
    whole, chunks = (value_and_gradients(lambda *x, c=c: siglip_loss(*x, c), *done) for c in (None, 4))
    for a, b in zip(chunks, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=0)


def test_gradcheck_of_the_chunked_form():
    inputs = [x.requires_grad_() for x in (*unit(2, 5, 4), number(3.0), number(-1.0))]
    check = dict(eps=1e-6, atol=1e-7)
    # moved along the sphere only as far as the check of lengths allows
    assert torch.autograd.gradcheck(lambda *x: siglip_loss(*x, 2), inputs, **check)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_scale_and_bias_may_be_numbers_scalars_or_tensors_of_one(chunk_size):
    image, text = unit(2, 5, 4)
    plain = siglip_loss(image, text, 3.0, -1.0, chunk_size)
    for shape in ((), (1,)):
        t, b = (torch.full(shape, v, dtype=torch.float64, requires_grad=True) for v in (3.0, -1.0))
        found = siglip_loss(image, text, t, b, chunk_size)
        found.backward()
        assert found.shape == () and torch.equal(found, plain)
        assert t.grad.shape == shape and b.grad.shape == shape and t.grad.any() and b.grad.any()


def test_a_joint_permutation_changes_nothing_and_another_caption_changes_one_column():
    image, text = unit(2, 8, 6)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(siglip_loss(image[order], text[order], 5, -3), siglip_loss(image, text, 5, -3))
    other = text.clone()
    other[3] = unit(6, seed=9)
    rows = [
        value_and_gradients(lambda x, y=y: siglip_loss(image, x, 5.0, -3.0) + 0 * y.sum(), y)[1]
        for y in (text, other)
    ]
    unchanged = torch.arange(8) != 3
    assert torch.equal(rows[0][unchanged], rows[1][unchanged])


def test_the_chunked_form_without_gradients_says_the_same_and_keeps_nothing():
    image, text = unit(2, 12, 6)
    image.requires_grad_()
    with torch.no_grad():
        found = siglip_loss(image, text, 5.0, -3.0, 5)
    assert not found.requires_grad
    torch.testing.assert_close(found, siglip_loss(image, text, 5.0, -3.0).detach())


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_the_loss_can_be_scaled_and_frozen_towers_get_no_gradient(chunk_size):
    image, text = unit(2, 6, 5)
    text.requires_grad_()
    (7 * siglip_loss(image, text, 5.0, -3.0, chunk_size)).backward()
    whole = value_and_gradients(lambda y: 7 * siglip_loss(image, y, 5.0, -3.0), text.detach())
    torch.testing.assert_close(text.grad, whole[1], atol=1e-12, rtol=0)
    assert image.grad is None


def half(seed: int = 3) -> list[Tensor]:
    """256 pairs in bfloat16 of which a good part match, float32 scale and bias."""
    image, text = unit(2, 256, 32, seed=seed, dtype=torch.float32)
    text = F.normalize(image + 0.3 * text, dim=-1)
    return [image.bfloat16(), text.bfloat16(), torch.tensor(11.3), torch.tensor(-7.7)]


def near(ours: list[Tensor], theirs: list[Tensor], share: float) -> None:
    """Of one size but for a share of it, by norm: for numbers of three digits."""
    for a, b in zip(ours, theirs, strict=True):
        assert ((a.double() - b).norm() / b.norm()).item() < share


@pytest.mark.parametrize("chunk_size", [1, 8, 300])
def test_chunks_of_half_precision_add_up_in_float32(chunk_size):
    inputs = half()
    wide = value_and_gradients(siglip_loss, *(v.double() for v in inputs))
    found = value_and_gradients(lambda *x: siglip_loss(*x, chunk_size), *inputs)
    assert [v.dtype for v in found] == [torch.float32, torch.bfloat16, torch.bfloat16] + 2 * [torch.float32]
    near([found[0], *found[3:]], [wide[0], *wide[3:]], 1e-5)
    near(found[1:3], wide[1:3], 5e-3)  # rounded once, when handed back


@pytest.mark.parametrize("chunk_size", [1, 8, 300])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
def test_the_chunked_form_works_under_autocast_and_keeps_the_kinds_of_its_inputs(kind, chunk_size):
    inputs = [half()[0].to(kind), half()[1].to(kind), *half()[2:]]
    wide = value_and_gradients(siglip_loss, *(v.double() for v in inputs))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value_and_gradients(lambda *x: siglip_loss(*x, chunk_size), *inputs)
        whole = value_and_gradients(siglip_loss, *inputs)
    assert [v.dtype for v in found] == [torch.float32, kind, kind] + 2 * [torch.float32]
    near(found, wide, 5e-3 if kind is torch.bfloat16 else 1e-5)
    near(whole, wide, 5e-2)  # the plain formula computes its logits in half precision there


def test_memory_of_chunks_grows_with_the_batch_and_of_the_whole_with_its_square():
    def peak(n: int, chunk_size: int | None) -> int:
        leaves = [unit(n, 32, dtype=torch.float32).requires_grad_() for _ in range(2)]
        return memory.peak_bytes(lambda: siglip_loss(*leaves, 10.0, -10.0, chunk_size).backward())

    assert peak(2048, None) > 3.8 * peak(1024, None)
    assert peak(2048, 32) < 2.1 * peak(1024, 32)
    assert peak(2048, 32) < peak(2048, None) / 20


def test_labels_of_a_block_are_those_of_the_whole():
    ids = torch.tensor([0, 1, 1, 2, 0, 3])
    for image_ids, text_ids in ((None, None), (ids, ids.flip(0))):
        whole = siglip.pair_labels(torch.empty(6, 6), 0, image_ids, text_ids)
        block = siglip.pair_labels(torch.empty(2, 6), 3, image_ids, text_ids)
        assert torch.equal(block, whole[3:5]) and set(whole.unique().tolist()) == {-1.0, 1.0}


# -- several processes


@pytest.fixture(scope="module")
def ranks():
    """Both losses in worlds of 1, 2 and 4 real processes, 6 pairs a rank, in float64."""
    image, text = unit(2, 24, 10)
    inputs = dict(image_features=image, text_features=text, logit_scale=7.0, logit_bias=-4.0, per_rank=6)
    calls = {
        "gather": {"kind": "gather", **inputs},
        "ring": {"kind": "ring", **inputs},
        "ring in chunks": {"kind": "ring", "chunk_size": 4, **inputs},
        "gather captions": {"kind": "gather captions", **inputs},
        "gather captions in chunks": {"kind": "gather captions", "chunk_size": 4, **inputs},
    }
    return image, text, launch("mmscratch.siglip:rank_share", worlds=(1, 2, 4), calls=calls)


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize(
    "name", ["gather", "ring", "ring in chunks", "gather captions", "gather captions in chunks"]
)
def test_loss_and_gradients_over_ranks_are_those_of_one_process(ranks, name, world):
    image, text, reports = ranks
    found = [report.result for report in reports[name, world]]
    inputs = image[: 6 * world], text[: 6 * world], number(7.0), number(-4.0)
    alone = siglip_loss if name != "gather" else lambda x, y, t, b: clip.clip_loss(x, y, t) + 0 * b
    loss, d_image, d_text, d_scale, d_bias = value_and_gradients(alone, *inputs)
    mean = {key: torch.stack([r[key] for r in found]).mean(0) for key in ("loss", "scale")}
    agree([mean["loss"], mean["scale"]], [loss, d_scale])
    agree([torch.cat([r[key] for r in found]) / world for key in ("image", "text")], [d_image, d_text])
    if name != "gather":
        agree([torch.stack([r["bias"] for r in found]).mean(0)], [d_bias])


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_ring_sends_captions_and_gradients_and_gathering_sends_more(ranks, world):
    block, ids, check = 6 * 10 * 8, 6 * 8, (world - 1) * 6 * 8
    hops = world - 1
    ring = hops * (block + ids) + (world * block if world > 1 else 0) + check
    for rank in range(world):
        assert ranks[2]["ring", world][rank].sent == ring
        assert ranks[2]["gather", world][rank].sent == 4 * hops * block + check
        assert ranks[2]["gather captions", world][rank].sent == 2 * hops * block


TARGETS = '''
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from mmscratch import siglip

class Towers(nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.visual, self.text = (nn.Parameter(w.clone()) for w in weights)
        self.t, self.b = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.tensor(-3.0))

    def forward(self, x, y):
        return F.normalize(x @ self.visual, dim=-1), F.normalize(y @ self.text, dim=-1), self.t.exp(), self.b

def towers(x, y, weights, ids, kind, group=None):
    """Gradients of the parameters, as DistributedDataParallel averages them."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    model = DistributedDataParallel(Towers(weights), process_group=group)
    x, y, ids = (v.chunk(world)[rank] for v in (x, y, ids))
    image, text, t, b = model(x, y)
    if kind == "ring":
        loss = siglip.ring_siglip_loss(image, text, t, b, 4, image_ids=ids, text_ids=ids, group=group)
    elif kind == "gather":
        loss = siglip.gathered_clip_loss(image, text, t, group=group) + 0 * b
    else:
        from open_clip.loss import ClipLoss, SigLipLoss

        if kind == "open_clip sigmoid":
            loss = SigLipLoss(rank=rank, world_size=world)(image, text, t, b)
        else:
            full = kind == "open_clip, with gradients"
            theirs = ClipLoss(rank=rank, world_size=world, gather_with_grad=full, local_loss=full)
            loss = theirs(image, text, t) + 0 * b
    loss.backward()
    return {name: p.grad for name, p in model.module.named_parameters()}

def without_grad(x, group=None):
    apart = x.T.contiguous().T  # the same numbers, not contiguous
    with torch.no_grad():
        return siglip.ring_siglip_loss(apart, apart, 5.0, -2.0, group=group)

def uneven(x, kind, group=None):
    rank = dist.get_rank(group)
    mine = x[: len(x) - rank]
    if kind == "gather":
        siglip.gathered_clip_loss(mine, mine, 5.0, group=group)
    ids = dict(image_ids=torch.arange(len(mine)), text_ids=torch.arange(len(x)))
    if kind == "pictures":
        siglip.ring_siglip_loss(mine, x, 5.0, -2.0, group=group, **ids)
    if kind == "captions":
        ids = dict(image_ids=ids["text_ids"], text_ids=ids["image_ids"])
        siglip.ring_siglip_loss(x, mine, 5.0, -2.0, group=group, **ids)
    if kind == "dtypes":
        y = x.float() if rank else x
        siglip.ring_siglip_loss(y, y, 5.0, -2.0, group=group)
    siglip.ring_siglip_loss(mine, mine, 5.0, -2.0, group=group)

def half(x, y, t, b, autocast, group=None):
    """A rank's share and gradients, in the ring and gathered in chunks, of what may be in half precision."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    leaves = [v.clone().requires_grad_() for v in (x.chunk(world)[rank], y.chunk(world)[rank], t, b)]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = siglip.ring_siglip_loss(*leaves, 8, group=group)
    loss.backward()
    return [loss.detach(), *(v.grad for v in leaves)]

def more_captions(x, y, x_ids, y_ids, group=None):
    """Ids of 32 bits on one rank and 64 on the other; two captions a picture."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    x, y, x_ids, y_ids = (v.chunk(world)[rank] for v in (x, y, x_ids, y_ids))
    ids = dict(image_ids=x_ids.int(), text_ids=y_ids.int()) if rank else dict(image_ids=x_ids, text_ids=y_ids)
    leaves = [v.clone().requires_grad_() for v in (x, y)]
    loss = siglip.ring_siglip_loss(*leaves, 5.0, -2.0, 3, group=group, **ids)
    loss.backward()
    return [loss.detach(), *(v.grad for v in leaves)]
'''


@pytest.fixture
def targets(tmp_path, monkeypatch):
    (tmp_path / "siglip_targets.py").write_text(TARGETS)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_parameters_under_data_parallelism_learn_as_in_one_process_and_as_in_open_clip(targets):
    g = torch.Generator().manual_seed(5)
    x, y = torch.randn(2, 12, 7, generator=g)
    weights = torch.randn(2, 7, 5, generator=g)
    distinct, equal = torch.arange(12), torch.arange(12) % 5  # matches on other ranks, too
    shared = dict(x=x, y=y, weights=weights, ids=distinct)
    kinds = ("ring", "gather", "open_clip sigmoid", "open_clip, with gradients", "open_clip as it comes")
    calls = {kind: {"kind": kind, **shared} for kind in kinds}
    calls["ring with ids"] = {"kind": "ring", **shared, "ids": equal}
    reports = launch("siglip_targets:towers", worlds=(2,), calls=calls)

    def alone(kind: str) -> dict[str, Tensor]:
        leaves = [v.clone().requires_grad_() for v in (*weights, torch.tensor(1.5), torch.tensor(-3.0))]
        visual, text, t, b = leaves
        image, text = F.normalize(x @ visual, dim=-1), F.normalize(y @ text, dim=-1)
        if "sigmoid" in kind or "ring" in kind:
            ids = equal if "ids" in kind else distinct
            loss = siglip_loss(image, text, t.exp(), b, image_ids=ids, text_ids=ids)
        else:
            loss = clip.clip_loss(image, text, t.exp()) + 0 * b
        return dict(zip(("visual", "text", "t", "b"), torch.autograd.grad(loss, leaves), strict=True))

    for (kind, _), found in reports.items():
        wanted = alone(kind)
        for name, gradient in wanted.items():
            if kind == "open_clip as it comes" and name in ("visual", "text"):
                gradient = gradient / 2  # what the lesson says about gathering without gradients
            for report in found:
                torch.testing.assert_close(
                    report.result[name], gradient, atol=1e-5, rtol=1e-4, msg=f"{kind}, {name}"
                )


def test_without_gradients_the_ring_sends_captions_only(targets):
    x = unit(4, 10)
    found = launch("siglip_targets:without_grad", worlds=(2,), calls={"it": {"x": x}})["it", 2]
    assert [report.sent for report in found] == [4 * 10 * 8 + 4 * 8 + 6 * 8] * 2
    both = torch.cat([x, x])
    shares = torch.stack([report.result for report in found]).mean(0)
    torch.testing.assert_close(shares, siglip_loss(both, both, 5.0, -2.0))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("ring", "images (6, 10) torch.float64 and texts (6, 10) torch.float64, images (5, 10) "),
        ("gather", "images (6, 10) torch.float64 and texts (6, 10) torch.float64, images (5, 10) "),
        ("pictures", "and texts (6, 10) torch.float64, images (5, 10) torch.float64 and texts (6, 10) "),
        ("captions", "images (6, 10) torch.float64 and texts (5, 10) "),
        ("dtypes", "torch.float64, images (6, 10) torch.float32 and texts (6, 10) torch.float32"),
    ],
)
def test_ranks_with_different_numbers_or_kinds_of_features_are_refused(targets, kind, told):
    with pytest.raises(LaunchFailed, match="one shape and dtype on all ranks, got .*" + re.escape(told)):
        launch("siglip_targets:uneven", worlds=(2,), calls={"it": {"x": unit(6, 10), "kind": kind}})


def test_the_ring_works_in_half_precision_and_under_autocast(targets):
    image, text, t, b = half()
    kinds = {"bfloat16": (torch.bfloat16, False), "autocast": (torch.float32, True)}
    kinds["both"] = (torch.bfloat16, True)
    shared = dict(t=t, b=b)
    calls = {
        name: dict(x=image.to(kind), y=text.to(kind), autocast=autocast, **shared)
        for name, (kind, autocast) in kinds.items()
    }
    reports = launch("siglip_targets:half", worlds=(2,), calls=calls)
    for name, (kind, _) in kinds.items():
        x, y = image.to(kind), text.to(kind)
        wide = value_and_gradients(siglip_loss, *(v.double() for v in (x, y, t, b)))
        found = [report.result for report in reports[name, 2]]
        for share in found:
            assert [v.dtype for v in share] == [torch.float32, kind, kind] + 2 * [torch.float32]
        loss, d_x, d_y, d_t, d_b = zip(*found, strict=True)
        means = [torch.stack(v).mean(0) for v in (loss, d_t, d_b)]
        near(means, [wide[0], *wide[3:]], 1e-5)
        features = [torch.cat(v).double() / 2 for v in (d_x, d_y)]
        near(features, wide[1:3], 5e-3 if kind is torch.bfloat16 else 1e-5)


def test_the_ring_takes_more_captions_than_pictures_and_ids_of_any_width(targets):
    x, y = unit(6, 10), unit(12, 10, seed=2)
    x_ids, y_ids = torch.arange(6), torch.arange(12) % 6  # matches on the other rank, too
    calls = {"it": dict(x=x, y=y, x_ids=x_ids, y_ids=y_ids)}
    found = [r.result for r in launch("siglip_targets:more_captions", worlds=(2,), calls=calls)["it", 2]]
    alone = value_and_gradients(lambda *v: siglip_loss(*v, 5.0, -2.0, image_ids=x_ids, text_ids=y_ids), x, y)
    loss, d_x, d_y = zip(*found, strict=True)
    agree([torch.stack(loss).mean(0), torch.cat(d_x) / 2, torch.cat(d_y) / 2], alone)


# -- the model


def small(**options) -> SigLIP:
    torch.manual_seed(0)
    visual = clip.ImageTower(
        16, patch_size=8, dim=12, depth=1, num_heads=2, embed_dim=None, pooling="map", pre_norm=False
    )
    text = clip.TextTower(
        20, embed_dim=12, dim=8, depth=1, num_heads=2, max_positions=6, pooling="last", causal=False
    )
    return SigLIP(visual, text=text, **options).eval()


def test_the_model_is_called_and_answers_as_clip_does_and_has_a_bias():
    model = small()
    images, ids = unit(3, 3, 16, 16, dtype=torch.float32), torch.randint(20, (3, 6))
    image, text, scale = model(images, ids)
    assert isinstance(model, clip.CLIP) and image.shape == text.shape == (3, 12)
    assert scale.item() == pytest.approx(10.0) and model.logit_bias.item() == -10.0
    torch.testing.assert_close(image, model.encode_image(images))
    torch.testing.assert_close(text, model.encode_text(ids))
    torch.testing.assert_close(image.norm(dim=-1), torch.ones(3))
    loss = siglip_loss(image, text, scale, model.logit_bias, 2)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_probabilities_are_each_pair_for_itself():
    model = small(logit_scale=4.0, logit_bias=-1.0)
    images, ids = unit(3, 3, 16, 16, dtype=torch.float32), torch.randint(20, (5, 6))
    found = model.probability(images, ids)
    assert found.shape == (3, 5) and (found > 0).all() and (found < 1).all()
    torch.testing.assert_close(model.probability(images[1:2], ids[3:4])[0, 0], found[1, 3])
    wanted = (4 * model.encode_image(images) @ model.encode_text(ids).T - 1).sigmoid()
    torch.testing.assert_close(found, wanted)


def test_the_scale_may_grow_past_the_hundred_of_clip_unless_told():
    model = small(logit_scale=500.0)
    model.clamp_logit_scale()
    assert model(unit(1, 3, 16, 16, dtype=torch.float32), torch.zeros(1, 6).long())[
        2
    ].item() == pytest.approx(500)
    with pytest.raises(ValueError, match="max_logit_scale 100"):
        small(logit_scale=500.0, max_logit_scale=100.0)


def test_every_parameter_of_a_loaded_model_learns():
    from transformers import SiglipConfig, SiglipModel

    shape = dict(hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2)
    reference = SiglipModel(
        SiglipConfig(
            vision_config=dict(**shape, image_size=16, patch_size=8),
            text_config=dict(**shape, vocab_size=30, max_position_embeddings=5),
        )
    )
    ours = siglip.from_transformers(reference)
    assert ours.logit_scale.shape == ours.logit_bias.shape == (1,)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in reference.parameters())
    image, text, scale = ours(unit(3, 3, 16, 16, dtype=torch.float32), torch.randint(30, (3, 5)))
    siglip_loss(image, text, scale, ours.logit_bias).backward()
    assert not [name for name, p in ours.named_parameters() if p.grad is None]


def test_models_that_ours_cannot_hold_are_refused():
    from transformers import SiglipConfig, SiglipModel, SiglipVisionConfig, SiglipVisionModel

    shape = dict(hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2)
    eyes, words = dict(**shape, image_size=16, patch_size=8), dict(**shape, vocab_size=30)
    with pytest.raises(ValueError, match="vision_use_head True, got False"):
        headless = SiglipConfig(vision_config=eyes | {"vision_use_head": False}, text_config=words)
        siglip.from_transformers(SiglipModel(headless))
    with pytest.raises(TypeError, match="expected SiglipModel, got SiglipVisionModel"):
        siglip.from_transformers(SiglipVisionModel(SiglipVisionConfig(**eyes)))
    with pytest.raises(ValueError, match="one embed_dim, got 8 and 6"):
        narrow = SiglipConfig(vision_config=eyes, text_config=words | {"projection_size": 6})
        siglip.from_transformers(SiglipModel(narrow))
    with pytest.raises(ValueError, match="mish"):
        siglip.from_transformers(
            SiglipModel(SiglipConfig(vision_config=eyes | {"hidden_act": "mish"}, text_config=words))
        )


# -- bad input, each exported name from a fresh interpreter

SETUP = """
import json, sys
from mmscratch.siglip import *
foreign = {"transformers", "open_clip", "matplotlib", "mmscratch.kit"} & sys.modules.keys()
assert not foreign, f"importing mmscratch.siglip also loads {foreign}"
import torch
from torch import nn, zeros, ones, eye, arange
x = eye(4, 6)
def tower(**options):
    from mmscratch.clip import ImageTower
    shape = dict(image_size=16, patch_size=8, dim=8, depth=1, num_heads=2, embed_dim=None, pooling="map")
    return ImageTower(**shape | options)
def words(**options):
    from mmscratch.clip import TextTower
    shape = dict(vocab_size=9, dim=8, depth=1, num_heads=2, embed_dim=8, max_positions=5, pooling="last")
    return TextTower(**shape | options)
"""

CASES = {  # exported name: {wrong use: error and message, ".*" for anything between}
    "siglip_loss": {
        "siglip_loss(x[:0], x[:0], 10.0, -10.0)": "ValueError: expected at least one pair, got .*(0, 6)",
        "siglip_loss(x[:0], x[:0], 10.0, -10.0, 4)": "ValueError: expected at least one pair",
        "siglip_loss(2 * x, x, 10.0, -10.0)": "ValueError: image features of length 1, got .*length 2",
        "siglip_loss(x, x / 3, 10.0, -10.0, 2)": "ValueError: text features of length 1, got .*0.333",
        "siglip_loss(x * float('nan'), x, 10.0, -10.0)": "ValueError: image features of length 1",
        "siglip_loss(x, x[:3], 10.0, -10.0)": "ValueError: one shape (B, E), got (4, 6) and (3, 6)",
        "siglip_loss(x[0], x[0], 10.0, -10.0)": "ValueError: (B, E), got (6,)",
        "siglip_loss(x, x, 10.0, -10.0, 0)": "ValueError: expected chunk_size .*>= 1, got 0",
        "siglip_loss(x, x, 10.0, -10.0, -8)": "ValueError: expected chunk_size .*>= 1, got -8",
        "siglip_loss(x, x, 10.0, -10.0, 2.0)": "ValueError: expected chunk_size .*whole number .*got 2.0",
        "siglip_loss(x, x, ones(2), -10.0, 2)": "RuntimeError: shape '[]' is invalid",
    },
    "check_pairs": {
        "check_pairs(x, x, arange(4), None)": "ValueError: expected text_ids (4,), .*got None",
        "check_pairs(x, x, arange(3), arange(4))": "ValueError: expected image_ids (4,), .*got (3,)",
        "check_pairs(x, eye(4, 5), arange(4), arange(4))": "ValueError: one width, got 6 and 5",
        "check_pairs(x[:0], x, arange(0), arange(4))": "ValueError: at least one pair",
        "check_pairs(x, 2 * x, arange(4), arange(4))": "ValueError: length 1",
    },
    "check_chunk": {
        "check_chunk(True)": "ValueError: got True",
        "check_chunk('8')": "ValueError: got '8'",
    },
    "gathered_clip_loss": {
        "gathered_clip_loss(x, x, 10.0)": "RuntimeError: expected a process group, got none: .*torchrun",
        "gathered_clip_loss(x[:0], x[:0], 10.0)": "ValueError: at least one pair",
        "gathered_clip_loss(x, 2 * x, 10.0)": "ValueError: length 1",
    },
    "ring_siglip_loss": {
        "ring_siglip_loss(x, x, 10.0, -10.0)": "RuntimeError: expected a process group, got none: .*torchrun",
        "ring_siglip_loss(x[:0], x[:0], 10.0, -10.0)": "ValueError: at least one pair",
        "ring_siglip_loss(x, x, 10.0, -10.0, image_ids=arange(4))": "ValueError: expected text_ids (4,)",
    },
    "check_group": {"check_group(x, x, None)": "RuntimeError: torch.distributed.init_process_group()"},
    "rank_share": {
        "rank_share('tree', x, x, 10.0, -10.0, 2)": "ValueError: kind .*gather captions or ring, got 'tree'",
        "rank_share('ring', x, x, 10.0, -10.0, 2)": "ValueError: Default process group",
    },
    "SigLIP": {
        "SigLIP(tower(), text=words(), logit_scale=0.0)": "ValueError: expected 0 < logit_scale .*got 0",
        "SigLIP(tower(), text=words(embed_dim=6))": "ValueError: one embed_dim, got 8 and 6",
    },
    "from_transformers": {
        "from_transformers(nn.Linear(2, 2))": "TypeError: expected SiglipModel, got Linear",
    },
}
WITHOUT_CASE = {
    "ChunkedSigmoid": "called by siglip_loss, which checks",
    "FROM_TRANSFORMERS": "a table",
    "Gather": "called by gathered_clip_loss, which checks",
    "RingSigmoid": "called by ring_siglip_loss, which checks",
    "add_block": "called by the chunked and the ring form, which check",
    "add_rows": "called by the chunked and the ring form, which check",
    "pair_labels": "called by siglip_loss, which checks",
    "reshape_weights": "changes the weights it finds",
    "scalars": "torch refuses what is no number",
    "shift": "called by the ring form, which checks",
    "widen": "takes any tensor of numbers",
}

test_bad_input_is_refused, test_every_name_is_given_bad_input = refusals.tests(
    siglip, SETUP, CASES, WITHOUT_CASE
)
