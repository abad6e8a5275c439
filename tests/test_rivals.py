"""Rivals: the library's model trained by a lesson's own code, and what is stored of it."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import statistics
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from notebook_tree import Tree, code
from torch import nn

from mmscratch.kit import excerpt, project, rivals, train
from mmscratch.kit.reference import load

ROOT = project.require_root()
FOLDER = ROOT / "tests" / "rivals"
ENTRANTS = {rival.key: rival for rival in rivals.rivals(FOLDER)}
STORED = json.loads(rivals.stored_path(ROOT).read_text(encoding="utf-8"))
ROWS = {(row["lesson"], row["figure"]): row for row in STORED["rows"]}
each_rival = pytest.mark.parametrize("key", ENTRANTS, ids=lambda key: key[0])


# -- what is stored


def test_every_rival_is_measured_and_nothing_else_is_stored():
    assert list(ROWS) == list(ENTRANTS), "run make rivals"


@each_rival
def test_a_rival_was_measured_with_the_recipe_that_the_lesson_shows_today(key):
    rival = ENTRANTS[key]
    assert ROWS[key]["digest"] == rivals.digest(rival, rivals.recipe(rival)), f"run make rivals L={key[0]}"


@each_rival
def test_a_rival_was_measured_with_the_libraries_that_are_installed(key):
    found = ROWS[key]["references"]
    assert tuple(each["class"] for each in found) == ENTRANTS[key].references
    for each in found:
        assert each["version"] == importlib.metadata.version(each["package"]), f"run make rivals L={key[0]}"


@each_rival
def test_what_was_measured_of_ours_is_what_the_lesson_reports(key):
    """The same code under the same seeds: only the order of sums on another machine is free."""
    lesson, figure = key
    stored = json.loads((ROOT / "data" / "runs" / f"{lesson}.json").read_text(encoding="utf-8"))
    again = stored.get("again", {})
    same = again.get("machine", {}).get("cpu") == ROWS[key]["machine"]["cpu"]
    reported = (again if same else stored)["figures"]
    measured = ROWS[key]["ours"]["figure"]
    reported = reported[figure][: len(measured)]
    assert statistics.mean(measured) == pytest.approx(statistics.mean(reported), abs=0.03)


def test_ours_is_nowhere_worse_than_the_reference_by_more_than_its_seeds_span():
    assert rivals.problems(STORED) == []


def row(ours=(0.7, 0.8, 0.9), theirs=(0.7, 0.8, 0.9), **changes):
    sides = {
        side: {"figure": list(figures), "seconds": [1.0] * len(figures), "start": [2.0] * len(figures)}
        for side, figures in zip(rivals.SIDES, (ours, theirs), strict=True)
    }
    return {"lesson": "04", "figure": "accuracy", "better": "higher", **sides, **changes}


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        (row(ours=(0.6, 0.7, 0.79)), "lesson 04, accuracy: ours is worse by 0.1033"),
        (row(ours=(0.9, 1.0, 1.1), better="lower"), "worse by 0.2"),
        (row(ours=(0.7, float("nan"), 0.9)), "worse by nan"),
        (row(ours=(0.8, 0.8), theirs=(0.8, 0.8)), "three seeds or more of both, got 2"),
        (row(ours=(0.8, 0.8)), "three seeds or more of both, got 3"),
        (row() | {"reference": {"figure": [0.7, 0.8, 0.9], "start": [2.0, 2.0, 2.1]}}, "the same weights"),
    ],
)
def test_what_is_wrong_with_a_stored_row_is_said(spoiled, message):
    assert any(message in line for line in rivals.problems({"rows": [row(), spoiled]}))


@pytest.mark.parametrize(
    "fine",
    [row(), row(ours=(0.6, 0.7, 0.85)), row(ours=(1.0, 1.0, 1.0)), row(ours=(0, 0, 0), better="lower")],
)
def test_ours_may_be_better_or_worse_within_the_spread(fine):
    assert rivals.problems({"rows": [fine]}) == []


def test_a_new_row_takes_the_place_of_the_old_one_and_of_those_that_are_gone(tmp_path):
    order = [("02", "loss"), ("04", "accuracy")]
    for each in (row(), row(lesson="07"), row(lesson="02", figure="loss"), row(better="lower")):
        stored = rivals.save(tmp_path / "rivals.json", each, order)
    assert [each["lesson"] for each in stored["rows"]] == ["02", "04"]
    assert stored["rows"][1]["better"] == "lower"
    assert json.loads((tmp_path / "rivals.json").read_text(encoding="utf-8")) == stored


def test_a_lesson_without_a_rival_is_refused_by_the_command(monkeypatch):
    monkeypatch.setattr("sys.argv", ["rivals", "99"])
    with pytest.raises(SystemExit, match="no rivals for 99"):
        rivals.main()


# -- a lesson's own code


LESSON = """
import torch
from torch import nn

from mmscratch.kit import runs, train

SEED = runs.seed()
unused = 1 / 0
---
class Ours(nn.Module):
    \"\"\"A line.\"\"\"

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(1, 1)

    def forward(self, x):
        return self.line(x)


def batches():
    g = torch.Generator().manual_seed(SEED)
    while True:
        yield torch.randn(8, 1, generator=g)


def learn(net, label):  # changes net, and gives nothing a name
    loss = lambda net, x: (net(x) - 3 * x).square().mean()
    train.fit(net, batches(), loss, steps=STEPS, lr=0.2, label=label)
---
STEPS = 80
torch.manual_seed(SEED + 1)
nets = {"line": Ours(), "other": Ours()}
for name in nets:
    learn(nets[name], name)
assert 0 > 1
---
for name, net in nets.items():
    with torch.no_grad():
        runs.record(f"slope: {name}", float(net(torch.ones(1, 1)) - net(torch.zeros(1, 1))))
    assert name == "never"
runs.record("elsewhere", 1.0)
"""


@pytest.fixture
def lesson(tmp_path):
    """Writes a small lesson and hands out its notebook."""
    tree = Tree(tmp_path)
    return lambda source=LESSON: tree.notebook(
        "04_line", [code(cell.strip()) for cell in source.split("---")]
    )


class Constant(nn.Module):
    """A library's idea of a line: it starts like ours and cannot learn its slope."""

    def __init__(self, ours: nn.Module):
        super().__init__()
        self.line = copy.deepcopy(ours.line)
        self.line.weight.requires_grad_(False)
        torch.rand(3)  # a library draws weights of its own

    def forward(self, x):
        return self.line(x)


def entrant(exchange=lambda nets: nets | {"line": Constant(nets["line"])}, **changes):
    found = rivals.Rival(
        lesson="04",
        figure="slope: line",
        better="higher",
        ours="vit.Line",
        references=("torch Linear",),
        training="line",
        exchange={"nets": exchange},
    )
    return replace(found, **changes)


def test_the_recipe_is_what_leads_to_the_figure_and_claims_nothing(lesson):
    source = "\n".join(compact(rivals.recipe(entrant(), lesson())))
    assert "torch.manual_seed(SEED + 1)" in source and "learn(nets[name], name)" in source
    assert all(part not in source for part in ("unused", "assert", "elsewhere"))


def compact(statements):
    import ast

    return [ast.unparse(statement.tree) for statement in statements]


def test_both_are_trained_by_it_from_one_start_and_only_the_library_cannot_learn(lesson):
    statements = rivals.recipe(entrant(), lesson())
    ours, theirs = (rivals.run(entrant(), statements, 0, reference=side) for side in (False, True))
    assert ours.figure == pytest.approx(3, abs=0.2) and theirs.figure < 2
    assert ours.start == theirs.start and min(ours.seconds, theirs.seconds) > 0
    again = rivals.run(entrant(lambda nets: nets), statements, 0, reference=True)
    assert (again.figure, again.start) == (ours.figure, ours.start)
    assert rivals.run(entrant(), statements, 1, reference=False).start != ours.start


def test_a_run_leaves_everything_as_it_was(lesson, monkeypatch):
    monkeypatch.setenv("MMSCRATCH_KEEP", "04")
    before = train.fit, torch.get_num_threads()
    rivals.run(entrant(), rivals.recipe(entrant(), lesson()), 0, reference=True)
    assert (train.fit, torch.get_num_threads()) == before
    import os

    assert os.environ["MMSCRATCH_KEEP"] == "04" and "MMSCRATCH_SEED" not in os.environ


def test_what_is_called_for_its_effect_on_the_exchanged_belongs_to_the_recipe(lesson):
    effects = """
def freeze(nets):
    nets["line"].requires_grad_(False)
---
freeze(nets)
freeze(nets=nets)
nets.update({})
nets["line"].line.requires_grad_(True)
print(nets)
STEPS.bit_length()
---
for name in nets:"""
    changed = LESSON.replace("for name in nets:", effects.strip("\n"), 1)
    found = compact(rivals.recipe(entrant(), lesson(changed)))
    effects = {"freeze(nets)", "freeze(nets=nets)", "nets.update({})"}
    assert effects | {"nets['line'].line.requires_grad_(True)"} < set(found)
    assert not {"print(nets)", "STEPS.bit_length()"} & set(found)


def test_a_training_may_have_stages(lesson):
    staged = LESSON.replace(
        "    learn(nets[name], name)", '    learn(nets[name], f"{name}, first")\n    learn(nets[name], name)'
    )
    statements = rivals.recipe(rival := entrant(training=("line, first", "line")), lesson(staged))
    found = rivals.run(rival, statements, 0, reference=False)
    assert list(found.parts) == ["line, first", "line"] and found.seconds == sum(found.parts.values())
    first = rivals.run(entrant(training="line, first"), statements, 0, reference=False)
    assert found.start == first.start


def test_trainings_under_other_labels_are_skipped(lesson):
    trained = []
    statements = rivals.recipe(entrant(), lesson())
    original = train.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            train, "fit", lambda *a, label, **o: trained.append(label) or original(*a, label=label, **o)
        )
        rivals.run(entrant(), statements, 0, reference=False)
    assert trained == ["line"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": "nobody"}, "no training 'nobody' came by"),
        ({"figure": "slope: nobody"}, "no figure 'slope: nobody' came by"),
        ({"figure": "weight"}, "0 statements record 'weight', not one"),
    ],
)
def test_a_rival_that_the_lesson_does_not_know_is_refused(lesson, changes, message):
    rival = entrant(**changes)
    with pytest.raises(ValueError, match=f"lesson 04: {message}"):
        rivals.run(rival, rivals.recipe(rival, lesson()), 0, reference=False)


def test_a_figure_is_found_under_the_name_that_says_most_of_it():
    general, special = excerpt.parse('runs.record(f"{name}: {what}", 1)\nruns.record(f"CLIP: {what}", 2)')
    assert rivals._records(special, "CLIP: recall") > rivals._records(general, "CLIP: recall") > 0
    assert rivals._records(special, "SigLIP: recall") == 0


def test_a_row_is_measured_seed_by_seed_in_turn(lesson, monkeypatch, capsys):
    path = lesson()
    monkeypatch.setattr(project, "find_notebook", lambda number: path)
    found = rivals.row(entrant(), seeds=3)
    lines = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == [f"04, seed {seed}, {side}" for seed in range(3) for side in rivals.SIDES]
    assert found["references"] == [
        {"class": "torch Linear", "package": "torch", "version": importlib.metadata.version("torch")}
    ]
    assert rivals.lead(found) > 1 and rivals.problems({"rows": [found]}) == []
    assert found["machine"]["threads"] == 1 and found["machine"]["cpu"]


# -- a recipe that changed


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("A line.", "Another line.", True),
        ("  # changes net, and gives nothing a name", "", True),
        ("assert 0 > 1", "assert 0 > 2", True),
        ("unused = 1 / 0", "unused = 2 / 0", True),
        ("STEPS = 80", "STEPS = 81", False),
        ("lr=0.2", "lr=0.3", False),
        ("SEED + 1", "SEED + 2", False),
        ("nn.Linear(1, 1)", "nn.Linear(1, 1, bias=False)", False),
    ],
)
def test_the_digest_changes_with_the_recipe_and_with_nothing_else(lesson, before, after, same):
    assert before in LESSON
    first, second = (
        rivals.digest(entrant(), rivals.recipe(entrant(), lesson(source)))
        for source in (LESSON, LESSON.replace(before, after))
    )
    assert (first == second) is same


def test_the_digest_changes_with_the_files_that_make_the_library_s_model(tmp_path):
    statements = excerpt.parse("x = 1")
    for name in ("own.py", "other.py"):
        (tmp_path / name).write_text('"""About."""\nsize = 1\n')
    rival = entrant(file=tmp_path / "own.py", uses=("other.py",))
    found = [rivals.digest(rival, statements)]
    for name, text in (
        ("own.py", '"""Else."""\n\nsize = 1  # one\n'),
        ("own.py", "size = 2"),
        ("other.py", "size = 2"),
    ):
        (tmp_path / name).write_text(text)
        found.append(rivals.digest(rival, statements))
    assert found[0] == found[1] and len(set(found)) == 3


# -- the same start


class Parts(nn.Module):
    """A library's line: two matrices where ours has one, and turned round."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(5, 2)), nn.Parameter(torch.zeros(5, 3))


def joined(theirs):
    ours = nn.Linear(5, 5, bias=False).to(theirs.a.dtype)
    with torch.no_grad():
        ours.weight.copy_(torch.cat([theirs.a.T, theirs.b.T]))
    return ours


def test_the_inverse_of_a_mapping_is_read_off_it():
    ours = nn.Linear(5, 5, bias=False)
    theirs = rivals.start_as(ours, Parts(), joined)
    assert torch.equal(joined(theirs).weight, ours.weight)
    forgetful = nn.Module()
    forgetful.a, forgetful.b = theirs.a, theirs.b
    forgetful.extra = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match="a number of ours for each of extra"):
        rivals.start_as(ours, forgetful, joined)


def test_renamed_weights_may_be_cut_otherwise_but_not_turned():
    conv = rivals.load_renamed(nn.Linear(12, 6), nn.Conv2d(3, 6, 2), {})
    assert conv.weight.shape == (6, 3, 2, 2)
    renamed = rivals.load_renamed(nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 2)), {r"^": "0."})
    assert set(renamed.state_dict()) == {"0.weight", "0.bias"}
    for ours, rules in ((nn.Linear(2, 3, bias=False), {}), (nn.Linear(3, 2, bias=False), {"weight": "w"})):
        with pytest.raises(RuntimeError, match="loading state_dict"):
            rivals.load_renamed(ours, nn.Linear(3, 2, bias=False), rules)


@torch.no_grad()
def differ(ours, theirs, *inputs) -> float:
    ours, theirs = ours.eval()(*inputs), theirs.eval()(*inputs)
    pairs = zip(*((x,) if isinstance(x, torch.Tensor) else x for x in (ours, theirs)), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def texts(n: int, words: int = 50, eos: int = 2) -> torch.Tensor:
    ids = torch.randint(3, words, (n, 9))
    ids[:, 7] = eos
    return ids


def test_the_language_model_starts_as_ours():
    from mmscratch.transformer import small_reader

    reader = small_reader(50, depth=2)
    assert differ(reader, load(FOLDER / "transformer.py").as_llama(reader), texts(4)) < 1e-4


@pytest.mark.parametrize("options", [{"pooling": "mean"}, {"pre_norm": True, "patch_bias": False}])
def test_the_vision_transformer_starts_as_ours(options):
    from mmscratch.vit import VisionTransformer

    net = VisionTransformer(32, patch_size=8, dim=24, depth=2, num_heads=3, num_classes=5, **options)
    assert differ(net, load(FOLDER / "vit.py").as_timm(net), torch.randn(4, 3, 32, 32)) < 1e-5


def test_the_two_towers_start_as_ours():
    from mmscratch.clip import small_clip

    clip, theirs = small_clip(50, eot_id=2), load(FOLDER / "_towers.py")
    pictures, ids = torch.randn(4, 3, 32, 32), texts(4)
    assert differ(clip.visual, theirs.image_tower(clip.visual), pictures) < 1e-5
    assert differ(clip.text, theirs.text_tower(clip.text), ids) < 1e-5


def test_the_contrastive_model_starts_as_ours_and_forgets_its_own_towers():
    from mmscratch.clip import clip_loss, small_clip

    ours, file = small_clip(50, eot_id=2), load(FOLDER / "clip.py")
    ours.logit_scale.data.fill_(3.0)
    theirs, batch = file.as_open_clip(ours), (torch.randn(4, 3, 32, 32), texts(4))
    assert differ(ours, theirs, *batch) < 1e-4
    x, y, scale = ours(*batch)
    torch.testing.assert_close(file.as_open_clips_loss(clip_loss)(x, y, scale), clip_loss(x, y, scale))
    theirs.logit_scale.data.fill_(9.0)
    theirs.clamp_logit_scale()
    assert theirs.logit_scale.exp().item() == pytest.approx(100)
    row_of_zeros = 128  # theirs counts words from one
    sizes = [sum(p.numel() for p in net.parameters()) for net in (theirs, ours)]
    assert sizes[0] - sizes[1] == row_of_zeros


def test_the_q_former_starts_as_ours_in_each_task():
    from mmscratch.qformer import small_qformer

    ours, ids = small_qformer(50), texts(4)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, 6:] = False
    theirs, context = (
        load(FOLDER / "qformer.py").with_their_body(copy.deepcopy(ours)),
        torch.randn(4, 16, 128),
    )
    for net in (ours, theirs):
        net.eval()
    for task, inputs in (
        ("encode_image", (context,)),
        ("encode_text", (ids, mask)),
        ("match", (context, ids, mask)),
        ("decode", (context, ids, mask)),
    ):
        found, expected = (getattr(net, task)(*inputs) for net in (theirs, ours))
        rows = mask if task == "decode" else slice(None)  # what is written behind the text means nothing
        torch.testing.assert_close(found[rows], expected[rows], atol=1e-5, rtol=0)


def test_the_parts_of_a_llava_start_as_ours_and_are_tuned_in_the_same_stages():
    from mmscratch.clip import small_clip
    from mmscratch.llava import collate, set_stage, small_llava

    ours = small_llava(small_clip(60, eot_id=2).visual, 60, image_token_id=5)
    theirs, features = load(FOLDER / "llava.py").of_their_parts(copy.deepcopy(ours)), torch.randn(2, 16, 128)
    dialogues = [[([7, 8], [9]), ([10], [11, 2])], [([7, 8, 12], [9])]]
    talk = collate(dialogues, prefix=[1, *[5] * 16], pad_id=0, apart=True)
    logits = [
        net.eval()(
            talk.input_ids, None, talk.attention_mask, features=features, position_ids=talk.position_ids
        )
        for net in (theirs, ours)
    ]
    real = talk.attention_mask.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(logits[0][real], logits[1][real], atol=1e-4, rtol=0)
    inputs = theirs.embed(talk.input_ids, features=features)  # as the lesson's exam reads them
    answers = [net.language.head(net.language.encode(embeddings=inputs)) for net in (theirs, ours)]
    torch.testing.assert_close(*answers, atol=1e-4, rtol=0)
    for stage in (1, 2):
        tuned = [
            sum(p.numel() for p in set_stage(net, stage).parameters() if p.requires_grad)
            for net in (theirs, ours)
        ]
        assert tuned[0] == tuned[1] > 0


def test_the_sigmoid_loss_is_told_which_captions_are_equal():
    from mmscratch.siglip import siglip_loss

    x, y = F.normalize(torch.randn(2, 6, 8), dim=-1)
    same = dict(image_ids=(ids := torch.tensor([0, 1, 2, 0, 4, 5])), text_ids=ids)
    found = load(FOLDER / "siglip.py").as_open_clip(siglip_loss)(x, y, 9.0, -5.0, **same)
    torch.testing.assert_close(found, siglip_loss(x, y, 9.0, -5.0, **same))
    assert abs(found - siglip_loss(x, y, 9.0, -5.0)) > 0.1


def test_the_diffusion_transformer_starts_as_ours():
    from mmscratch.diffusion import small_painter

    painter = small_painter(50, padding_idx=0)
    with torch.no_grad():
        for p in painter.parameters():
            p += 0.02 * torch.randn_like(p)  # the gates open
    theirs, x = load(FOLDER / "diffusion.py").as_diffusers(painter), torch.randn(3, 3, 16, 16)
    for t in (torch.tensor([3, 500, 999]), 7):
        assert differ(painter, theirs, x, t, texts(3)) < 1e-5
