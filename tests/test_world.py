"""The tiny world: scenes, pictures, captions, questions and words agree with each other."""

import itertools
import re
import time
from collections import Counter, defaultdict

import pytest
import torch

from mmscratch.kit import world


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(n: int, seed: int = 0, **options) -> world.Scenes:
    return world.sample(n, generator=generator(seed), **options)


def thing(shape="circle", colour="red", size="large", x=0.5, y=0.5, radius=0.2) -> world.Thing:
    return world.Thing(shape, colour, size, x, y, radius)


def columns(scenes: world.Scenes) -> list[torch.Tensor]:
    return [scenes.shape, scenes.colour, scenes.size, scenes.x, scenes.y, scenes.radius, scenes.background]


def equal(a: world.Scenes, b: world.Scenes) -> bool:
    return all(torch.equal(x, y) for x, y in zip(columns(a), columns(b), strict=True))


# ---------------------------------------------------------------------------------------------- scenes
@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_every_attribute_is_about_equally_frequent(split):
    scenes = sample(10_000, split=split, max_objects=3)
    for values, names in (
        (scenes.shape, world.SHAPES),
        (scenes.colour, world.COLOUR_NAMES),
        (scenes.size, world.SIZES),
    ):
        share = (
            torch.bincount(values[scenes.present], minlength=len(names)) * len(names) / scenes.present.sum()
        )
        # two colours lose no combination to the withheld ones, six lose one of six
        assert 0.83 < share.min() and share.max() < 1.17, (names, share)
    numbers = torch.bincount(scenes.count, minlength=4)[1:] / len(scenes)
    torch.testing.assert_close(numbers, torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    centres = torch.stack((scenes.x, scenes.y))[:, scenes.present]
    assert ((centres.mean(1) - 0.5).abs() < 0.01).all() and (centres.std(1) > 0.19).all()


@pytest.mark.parametrize(("least", "most"), [(1, 1), (1, 2), (3, 3), (1, 4), (4, 4)])
def test_objects_are_inside_the_picture_and_apart(least, most):
    scenes = sample(1500, min_objects=least, max_objects=most)
    assert scenes.shape.shape == (1500, most)
    assert set(scenes.count.tolist()) == set(range(least, most + 1))
    for row in scenes.things():
        for t in row:
            assert t.radius < t.x < 1 - t.radius and t.radius < t.y < 1 - t.radius
        for a, b in itertools.combinations(row, 2):
            assert max(abs(a.x - b.x), abs(a.y - b.y)) > a.radius + b.radius + 0.019
            assert (a.colour, a.shape) != (b.colour, b.shape)


def test_sizes_never_meet():
    scenes = sample(5000)
    radius = {size: scenes.radius[scenes.size == i] for i, size in enumerate(world.SIZES)}
    assert radius["small"].max() + 0.03 < radius["large"].min()


def test_radii_choose_which_sizes_appear():
    scenes = sample(500, max_objects=1, radii={"large": world.BIG_RADII["large"]})
    assert (scenes.size == world.SIZES.index("large")).all()
    assert scenes.radius.min() >= 0.33 and scenes.radius.max() <= 0.37


@pytest.mark.parametrize("split", ["train", "test"])
def test_held_out_combinations_never_appear_in_training_or_test(split):
    scenes = sample(20_000, split=split, max_objects=3)
    assert not scenes.held_out.any()
    pairs = {(t.colour, t.shape) for row in scenes.things() for t in row}
    assert len(pairs) == 42 and pairs.isdisjoint(world.HELD_OUT)


def test_every_held_out_scene_holds_a_withheld_combination():
    scenes = sample(9000, split="heldout", max_objects=3)
    assert scenes.held_out.any(1).all()
    counts = Counter((t.colour, t.shape) for row in scenes.things() for t in row)
    assert len(counts) == 48
    withheld = [counts[pair] for pair in world.HELD_OUT]
    assert max(withheld) < 1.2 * min(withheld)
    # the withheld object must not be recognisable by its place in the list
    three = scenes[scenes.count == 3].held_out.float().mean(0)
    assert three.max() - three.min() < 0.06


def test_one_colour_is_withheld_from_each_shape():
    assert sorted(shape for _, shape in world.HELD_OUT) == sorted(world.SHAPES)
    assert len({colour for colour, _ in world.HELD_OUT}) == 6


def fingerprints(scenes: world.Scenes) -> set[tuple]:
    rows = torch.cat([c.double() for c in columns(scenes)[:-1]], 1)
    return set(map(tuple, rows.tolist()))


def test_no_scene_is_in_training_and_in_test_even_with_the_same_seed():
    seen = {split: sample(20_000, split=split, max_objects=1) for split in world.SPLITS}
    sets = {split: fingerprints(scenes) for split, scenes in seen.items()}
    assert all(len(s) > 19_900 for s in sets.values())
    for a, b in itertools.combinations(world.SPLITS, 2):
        assert sets[a].isdisjoint(sets[b]), (a, b)
    # and not by luck: the two lie on different steps
    for split, odd in (("train", 0), ("all", 0), ("test", 1), ("heldout", 1)):
        steps = seen[split].x.double() * 2**20
        assert torch.equal(steps % 2, torch.full_like(steps, odd)), split


def test_the_same_seed_does_not_give_near_twins_across_splits():
    train, test = sample(2000, split="train"), sample(2000, split="test")
    assert ((train.x - test.x).abs() < 1e-3).float().mean() < 0.4  # absent places agree, objects do not
    both = train.present & test.present
    assert (train.shape == test.shape)[both].float().mean() < 0.25


def test_scenes_follow_from_the_generator_alone():
    assert equal(sample(300, seed=3, max_objects=4), sample(300, seed=3, max_objects=4))
    assert not equal(sample(300, seed=3), sample(300, seed=4))
    g = generator(3)
    first, second = world.sample(300, generator=g), world.sample(300, generator=g)
    assert not equal(first, second)


def test_the_first_scenes_of_seed_0_are_the_same_on_every_machine():
    assert world.captions(sample(3, max_objects=4)) == [
        "a large blue circle left of a large yellow star left of a large green ring",
        "a small orange cross left of a small green square left of a large blue star",
        "a small cyan triangle",
    ]


def test_scenes_can_be_picked_joined_moved_and_written_by_hand():
    scenes = sample(40, max_objects=3)
    assert len(scenes) == 40 and len(scenes[7]) == 1 and len(scenes[5:9]) == 4
    index = torch.tensor([5, 0, 5])
    assert torch.equal(scenes[index].x, scenes.x[index])
    assert torch.equal(scenes[scenes.count == 2].count.unique(), torch.tensor([2]))
    assert equal(world.Scenes.cat([scenes[:11], scenes[11:]]), scenes)
    assert equal(scenes.to("cpu"), scenes)
    assert sum(1 for _ in scenes[:3]) == 3

    joined = world.Scenes.cat([sample(3, max_objects=1), sample(4, max_objects=4)])
    assert joined.shape.shape == (7, 4) and (joined.count[:3] == 1).all()

    again = world.Scenes.of(scenes.things())
    again.background = scenes.background
    assert equal(again, scenes)
    assert world.Scenes.of([[], [thing()]]).count.tolist() == [0, 1]


# --------------------------------------------------------------------------------------------- pictures
def one_of_each(radius: float = 0.2) -> world.Scenes:
    return world.Scenes.of([[thing(shape, radius=radius, x=0.47, y=0.53)] for shape in world.SHAPES])


def test_edges_are_anti_aliased_and_insides_are_flat():
    images = world.render(one_of_each(), 32)
    ground, red = torch.full((3,), 0.96), torch.tensor([0xBC, 0x0C, 0x27]) / 255
    for image in images:
        pixels = image.flatten(1).T
        at_ground = (pixels - ground).abs().amax(1) < 1e-6
        at_red = (pixels - red).abs().amax(1) < 1e-6
        between = ~at_ground & ~at_red
        assert at_ground.sum() > 700 and at_red.sum() > 20 and 10 < between.sum() < 100
        assert (pixels[between] <= ground + 1e-6).all() and (pixels[between] >= red - 1e-6).all()


def test_each_shape_covers_its_area():
    r = 20.0  # pixels
    area = {
        "circle": torch.pi * 0.95**2,
        "square": 1.68**2,
        "triangle": 3**0.5,
        "cross": 2 * 1.9 * 0.66 - 0.66**2,
        "star": 5 * 1.05 * 0.525 * 0.58779,
        "ring": torch.pi * (0.95**2 - 0.45**2),
    }
    covered = world.masks(one_of_each(0.2), 100).sum((1, 2, 3)) / r**2
    expected = torch.tensor([area[shape] for shape in world.SHAPES])
    torch.testing.assert_close(covered, expected, rtol=0.01, atol=0)


def test_a_large_picture_made_small_is_the_small_picture():
    scenes = sample(200, max_objects=4)
    small, large = world.render(scenes, 32), world.render(scenes, 64)
    shrunk = torch.nn.functional.avg_pool2d(large, 2)
    assert (shrunk - small).abs().mean() < 0.003
    assert (shrunk - small).abs().amax() < 0.35  # sharp tips only


@pytest.mark.parametrize("image_size", [16, 33])
def test_pictures_do_not_depend_on_the_chunk(image_size):
    scenes = sample(530, max_objects=4)
    whole = world.render(scenes, image_size, chunk=5000, noise=0.05, generator=generator(1))
    assert whole.shape == (530, 3, image_size, image_size) and whole.min() >= 0 and whole.max() <= 1
    for chunk in (3, 97, 512):
        part = world.render(scenes, image_size, chunk=chunk, noise=0.05, generator=generator(1))
        assert torch.equal(part, whole), chunk


def test_scenes_and_pictures_do_not_depend_on_the_number_of_threads():
    def draw():
        scenes = sample(40, max_objects=4)
        return [*columns(scenes), world.render(scenes, noise=0.05, generator=generator(1))]

    expected, threads = draw(), torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        assert all(torch.equal(a, b) for a, b in zip(draw(), expected, strict=True))
    finally:
        torch.set_num_threads(threads)


def test_noise_has_the_strength_that_was_asked_for():
    scenes = sample(200)
    scenes.background.fill_(0.5)
    clean = world.render(scenes)
    noisy = world.render(scenes, noise=0.1, generator=generator())
    free = world.masks(scenes).sum(1, keepdim=True).expand_as(clean) == 0
    assert abs(float((noisy - clean)[free].std()) - 0.1) < 0.002


def test_boxes_enclose_masks_tightly():
    scenes = sample(150, max_objects=4)
    size, margin = 200, 1.6  # pixels
    cover = world.masks(scenes, size)
    boxes = world.boxes(scenes) * size
    assert cover[~scenes.present].sum() == 0 and boxes[~scenes.present].abs().sum() == 0
    for mask, box in zip(cover[scenes.present], boxes[scenes.present], strict=True):
        y, x = (mask > 0.15).nonzero().T
        found = torch.stack((x.min(), y.min(), x.max() + 1, y.max() + 1)).float()
        assert ((found - box).abs() < margin).all(), (found, box)


def test_masks_and_colours_rebuild_the_picture_where_objects_cover_each_other():
    colours = ("red", "cyan", "black")
    scenes = world.Scenes.of(
        [
            [thing("square", colours[0], x=0.4), thing("ring", colours[1]), thing("star", colours[2], y=0.6)],
            [thing("cross", colours[0]), thing("circle", colours[1], x=0.6)],
        ]
    )
    cover = world.masks(scenes, 40)
    total = cover.sum(1, keepdim=True)
    assert total.max() <= 1 + 1e-5
    palette = torch.tensor([[int(world.COLOURS[c][i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])
    expected = 0.96 * (1 - total) + torch.einsum("bmhw,mc->bchw", cover, palette)
    torch.testing.assert_close(world.render(scenes, 40), expected, atol=1e-5, rtol=0)


def test_pictures_are_drawn_faster_than_a_lesson_can_use_them():
    scenes = sample(2000)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        world.render(scenes)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 2000 / 5000


def simulated_lab(matrix) -> torch.Tensor:
    """CIELAB of all colours and the ground as a person with this colour vision sees them."""
    hexes = [*world.COLOURS.values(), "#f5f5f5"]
    srgb = torch.tensor([[int(h[i : i + 2], 16) / 255 for i in (1, 3, 5)] for h in hexes])
    linear = torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = torch.tensor([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = (linear @ torch.tensor(matrix).T).clamp(0, 1) @ to_xyz.T / torch.tensor([0.9505, 1.0, 1.089])
    f = torch.where(xyz > 0.008856, xyz ** (1 / 3), 7.787 * xyz + 16 / 116)
    return torch.stack((116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])), 1)


# Machado, Oliveira and Fernandes 2009, severity 1.0
VISION = {
    "full": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


@pytest.mark.parametrize("vision", VISION)
def test_colours_stay_apart_for_every_reader(vision):
    lab = simulated_lab(VISION[vision])
    distance = torch.cdist(lab, lab) + 1e3 * torch.eye(len(lab))
    assert distance.min() > 20


# ---------------------------------------------------------------------------------- an independent reader
# Judges sentences from boxes and names only; shares no code with the module that writes them.
class Reader:
    def __init__(self, scenes: world.Scenes) -> None:
        box = world.boxes(scenes)
        centre = (box[..., :2] + box[..., 2:]) / 2
        self.rows = [
            [
                {
                    "shape": world.SHAPES[s], "colour": world.COLOUR_NAMES[c], "size": world.SIZES[z],
                    "x": x, "y": y,
                }
                for s, c, z, (x, y) in zip(*row, strict=True)
                if s >= 0
            ]
            for row in zip(
                *(v.tolist() for v in (scenes.shape, scenes.colour, scenes.size, centre)), strict=True
            )
        ]  # fmt: skip

    def find(self, row: int, phrase: str) -> list[dict]:
        words = re.sub(r"^(a|an|the) ", "", phrase).split()
        return [t for t in self.rows[row] if all(w in ("object", *map(str, t.values())) for w in words)]

    def one(self, row: int, phrase: str) -> dict:
        found = self.find(row, phrase)
        assert len(found) == 1, (phrase, self.rows[row])
        return found[0]

    @staticmethod
    def step(a: dict, relation: str, b: dict) -> float:
        """How far a is in the named direction from b."""
        axis, sign = {"left": ("x", 1), "right": ("x", -1), "above": ("y", 1), "below": ("y", -1)}[
            relation.split()[0]
        ]
        return sign * (b[axis] - a[axis])

    def answer(self, row: int, text: str) -> str:
        def yes(condition: bool) -> str:
            return "yes" if condition else "no"

        text = text.removesuffix("?")
        if m := re.fullmatch(r"what (colour|shape|size) is the (.+)", text):
            target = self.one(row, m[2])
            assert target[m[1]] not in m[2].split()
            return target[m[1]]
        if m := re.fullmatch(r"how many (.+) are there", text):
            words = [re.sub(r"(ss)es$|s$", r"\1", word) for word in m[1].split()]
            return "zero one two three four".split()[len(self.find(row, " ".join(words)))]
        if m := re.fullmatch(r"is there an? (.+)", text):
            assert text.startswith("is there an ") == (m[1][0] in "aeiou")
            return yes(bool(self.find(row, m[1])))
        if m := re.fullmatch(r"is (the .+) in the (left|right|top|bottom) half", text):
            relation = {"top": "above", "bottom": "below"}.get(m[2], m[2])
            step = self.step(self.one(row, m[1]), relation, {"x": 0.5, "y": 0.5})
            assert abs(step) > 0.0499
            return yes(step > 0)
        if m := re.fullmatch(r"is (the .+) (left of|right of|above|below) (the .+)", text):
            step = self.step(self.one(row, m[1]), m[2], self.one(row, m[3]))
            assert abs(step) > 0.0999
            return yes(step > 0)
        if m := re.fullmatch(r"where is (the .+) relative to (the .+)", text):
            a, b = self.one(row, m[1]), self.one(row, m[2])
            steps = {name: self.step(a, name, b) for name in ("left", "right", "above", "below")}
            best, second = sorted(steps, key=steps.get)[:1:-1]
            assert steps[best] - steps[second] > 0.0999
            return best
        if m := re.fullmatch(r"is (the .+) (larger|smaller) than (the .+)", text):
            order = (self.one(row, m[1])["size"], self.one(row, m[3])["size"])
            return yes(order == (("large", "small") if m[2] == "larger" else ("small", "large")))
        if m := re.fullmatch(r"are (the .+) and (the .+) the same (colour|shape|size)", text):
            a, b = self.one(row, m[1]), self.one(row, m[2])
            assert a is not b
            return yes(a[m[3]] == b[m[3]])
        raise AssertionError(f"not a question of this world: {text}")

    def check_caption(self, row: int, text: str) -> int:
        """Assert that the sentence is true; return how many objects it names."""
        text = re.sub(r"^(there is|a picture of) (?=an? )", "", text)
        if m := re.fullmatch(r"(.+) (?:on|at) the (left|right|top|bottom)", text):
            text, half = m[1], {"top": "above", "bottom": "below"}.get(m[2], m[2])
            assert self.step(self.one(row, text), half, {"x": 0.5, "y": 0.5}) > 0.0799
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text)
        parts = re.split(r" (left of|right of|above|below|and) |(,) ", text)
        phrases, links = parts[::3], [a or b for a, b in zip(parts[1::3], parts[2::3], strict=True)]
        found = [self.one(row, phrase) for phrase in phrases]
        for a, link, b in zip(found, links, found[1:], strict=False):
            if link not in (",", "and"):
                assert self.step(a, link, b) > 0.0799, text
        assert len({id(t) for t in found}) == len(found)
        return len(found)


# --------------------------------------------------------------------------------------------- captions
@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize("style", ["canonical", "varied"])
def test_captions_are_true_and_name_every_object(style, split):
    scenes = sample(2500, split=split, max_objects=4)
    reader = Reader(scenes)
    texts = world.captions(scenes, style=style, generator=generator())
    named = [reader.check_caption(row, text) for row, text in enumerate(texts)]
    assert named == scenes.count.tolist()


def test_canonical_captions_go_from_left_to_right_then_from_top_to_bottom():
    left, low = thing("ring", "orange", "small", x=0.2, y=0.8), thing("star", "blue", x=0.25, y=0.3)
    right = thing("cross", "green", "small", x=0.7)
    scenes = world.Scenes.of([[right, left, low], [right], [left, right]])
    assert world.captions(scenes) == [
        "a large blue star above a small orange ring left of a small green cross",
        "a small green cross",
        "a small orange ring left of a small green cross",
    ]


def test_canonical_captions_do_not_depend_on_the_order_of_the_places():
    scenes = sample(500, max_objects=4)
    turned = world.Scenes.of(row[::-1] for row in scenes.things())
    assert world.captions(turned) == world.captions(scenes)


def test_varied_captions_vary():
    texts = world.captions(sample(1)[[0] * 50], style="varied", generator=generator())
    assert len(set(texts)) > 5


# -------------------------------------------------------------------------------------------- questions
@pytest.mark.parametrize(("split", "most"), [("train", 2), ("train", 4), ("heldout", 3)])
def test_an_independent_reader_agrees_with_every_answer(split, most):
    scenes = sample(3000, split=split, max_objects=most)
    reader = Reader(scenes)
    asked = world.questions(scenes, n=12_000, generator=generator())
    assert len(asked) == 12_000
    for text, answer, _, row in asked:
        assert reader.answer(row, text) == answer, (text, answer, reader.rows[row])


def form(text: str) -> str:
    """The question with the names of things blanked out."""
    names = "|".join([*world.COLOUR_NAMES, *world.SHAPES, *world.SIZES, "object"])
    return re.sub(rf"\b({names})(e?s)?\b", "_", text.replace(" an ", " a "))


@pytest.mark.parametrize("kind", ["existence", "relation", "comparison", "position"])
def test_yes_and_no_are_balanced_in_every_form(kind):
    asked = world.questions(sample(4000, max_objects=3), (kind,), n=8000, generator=generator())
    forms = defaultdict(list)
    for text, answer, *_ in asked:
        forms[form(text)].append(answer == "yes")
    common = {f: yes for f, yes in forms.items() if len(yes) >= 400}
    assert sum(map(len, common.values())) > 6500
    for name, yes in common.items():
        assert abs(sum(yes) / len(yes) - 0.5) < 2.6 / len(yes) ** 0.5 / 1.4, (name, len(yes))


@pytest.mark.parametrize(
    ("kind", "bound"),
    [("existence", 0.56), ("relation", 0.56), ("comparison", 0.57), ("position", 0.55), ("where", 0.35),
     ("colour", 0.25), ("shape", 0.28), ("size", 0.58), ("count", 0.55)],
)  # fmt: skip
def test_the_words_of_a_question_do_not_give_its_answer_away(kind, bound):
    """Who remembers the most frequent answer to each question of training is near chance in the test."""
    votes = defaultdict(Counter)
    asked = world.questions(sample(4000), (kind,), n=8000, generator=generator())
    for text, answer, *_ in asked:
        votes[text][answer] += 1
        votes[form(text)][answer] += 1
    test = world.questions(sample(3000, split="test"), (kind,), n=3000, generator=generator())
    right = 0
    for text, answer, *_ in test:
        known = votes[text] or votes[form(text)]
        right += bool(known) and known.most_common(1)[0][0] == answer
    assert right / 3000 < bound


def test_counts_of_an_attribute_are_zero_one_and_more_equally_often():
    asked = world.questions(sample(3000, max_objects=3), ("count",), n=6000, generator=generator())
    counts = Counter(
        "more" if answer in ("two", "three") else answer
        for text, answer, *_ in asked
        if text != "how many objects are there?"
    )
    total = sum(counts.values())
    assert all(abs(counts[a] / total - 1 / 3) < 0.03 for a in ("zero", "one", "more")), counts


def test_training_questions_never_name_a_withheld_combination():
    asked = world.questions(sample(3000, max_objects=4), n=15_000, generator=generator())
    withheld = [f"{colour} {shape}" for colour, shape in world.HELD_OUT]
    assert not [text for text in asked.text if any(pair in text for pair in withheld)]
    heldout = sample(2000, split="heldout")
    texts = world.questions(heldout, ("existence",), n=4000, generator=generator())
    answers = Counter(a for text, a, *_ in texts if any(pair in text for pair in withheld))
    assert answers.total() > 1500 and abs(answers["yes"] / answers.total() - 0.5) < 0.05


def test_kinds_come_as_often_as_asked_and_scenes_in_turn():
    scenes = sample(1000)
    asked = world.questions(scenes, {"relation": 3, "position": 1}, n=4000, generator=generator())
    share = Counter(asked.kind)["relation"] / 4000
    assert set(asked.kind) == {"relation", "position"} and abs(share - 0.75) < 0.03
    assert (scenes.count[asked.scene[torch.tensor([k == "relation" for k in asked.kind])]] == 2).all()

    one_each = world.questions(scenes, ("size",), generator=generator())
    assert len(one_each) == 1000 and len(one_each.scene.unique()) > 900
    assert set(world.questions(scenes, generator=generator()).kind) == set(world.KINDS)


def test_questions_can_be_picked_and_repeated():
    scenes = sample(200)
    asked = world.questions(scenes, generator=generator(5))
    assert list(asked) == list(world.questions(scenes, generator=generator(5)))
    assert list(asked) != list(world.questions(scenes, generator=generator(6)))
    some = asked[torch.tensor([3, 1])]
    assert list(some) == [list(asked)[3], list(asked)[1]]
    assert list(asked[-1]) == list(asked)[-1:] and len(asked[10:20]) == 10


def test_a_tiny_set_still_gets_its_questions():
    scenes = world.Scenes.of([[thing(x=0.25), thing("star", "blue", "small", x=0.75)]])
    asked = world.questions(scenes, n=300, generator=generator())
    reader = Reader(scenes)
    assert all(reader.answer(row, text) == answer for text, answer, _, row in asked)
    assert set(asked.kind) == set(world.KINDS)


# -------------------------------------------------------------------------------------------- tokeniser
def test_every_sentence_survives_the_round_trip_without_unknown_words():
    scenes = world.Scenes.cat([sample(1500, split=split, max_objects=4) for split in ("train", "heldout")])
    asked = world.questions(scenes, n=6000, generator=generator())
    varied = world.captions(scenes, style="varied", generator=generator())
    films = world.film(300, generator=generator(), frames=2, image_size=4, max_objects=2).captions()
    read = [f"{caption}. {question}" for caption, question in zip(varied, asked.text, strict=False)]
    texts = [*world.captions(scenes), *varied, *asked.text, *asked.answer, *films, *read]
    tokeniser = world.Tokeniser()
    ids = tokeniser.encode(texts, bos=True, eos=True)
    assert not (ids == tokeniser.unk).any()
    assert tokeniser.decode(ids) == texts
    # and no word is there in vain
    used = set(ids.unique().tolist())
    unused = {word for i, word in enumerate(tokeniser.words) if i not in used}
    assert unused == {"<image>", "<unk>"}, unused


def test_answers_are_single_words_that_all_occur():
    asked = world.questions(sample(3000, split="all", max_objects=4), n=15_000, generator=generator())
    assert set(asked.answer) == set(world.ANSWERS)
    assert world.Tokeniser().encode(world.ANSWERS).shape == (len(world.ANSWERS), 1)


def test_encoding_pads_marks_and_knows_special_tokens():
    t = world.Tokeniser()
    ids = t.encode(["is there a <image>?", "a star"], length=8, bos=True, eos=True)
    assert ids.dtype == torch.long and ids.shape == (2, 8)
    assert ids[0, 0] == t.bos and ids[0, 4] == t.image and ids[0, 6] == t.eos and ids[0, 7] == t.pad == 0
    assert ids[1].tolist()[3:] == [t.eos, t.pad, t.pad, t.pad, t.pad]
    assert t.encode(["a purple elephant"])[0, -1] == t.unk
    assert t.decode(ids) == ["is there a?", "a star"]
    assert t.decode(ids[1:], specials=True) == ["<bos> a star <eos>" + " <pad>" * 4]
    assert t.encode([]).shape == (0, 0)


def test_a_sibling_adds_words_without_moving_the_old_ones():
    base, more = world.Tokeniser(), world.Tokeniser((*world.VOCABULARY, "drives", "fast"))
    assert len(more) == len(base) + 2
    assert torch.equal(more.encode(["a star"]), base.encode(["a star"]))
    assert more.decode(more.encode(["a star drives fast"])) == ["a star drives fast"]


# -------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample(3, split="dev"), "split: expected one of train, test, heldout, all, got 'dev'"),
        (lambda: sample(3, min_objects=3), "min_objects <= max_objects <= 4, got 3 and 2"),
        (lambda: sample(3, max_objects=5), "got 1 and 5"),
        (lambda: sample(-1), "got -1"),
        (lambda: sample(3, radii={}), "expected at least one of small, large, got none"),
        (lambda: sample(3, radii={"huge": (0.1, 0.2)}), "got 'huge'"),
        (lambda: sample(3, radii={"large": (0.2, 0.6)}), "got 0.2, 0.6"),
        (lambda: sample(3, min_objects=2, radii=world.BIG_RADII | {"small": (0.3, 0.3)}), "side by side"),
        (lambda: world.sample(3, generator=0), "expected a torch.Generator on the CPU .*, got 0"),
        (lambda: world.render(sample(3), 0), "at least 1 pixel, got 0"),
        (lambda: world.render(sample(3), chunk=0), "at least 1 scene, got 0"),
        (lambda: world.render(sample(3), noise=-0.1), "noise >= 0, got -0.1"),
        (lambda: world.render(sample(3), noise=0.1), "generator for noise 0.1, got None"),
        (lambda: world.masks(sample(3), -1), "at least 1 pixel, got -1"),
        (lambda: world.captions(sample(3), style="long"), "style: expected one of canonical, varied"),
        (lambda: world.captions(sample(3), style="varied"), "expected a torch.Generator, got None"),
        (lambda: world.questions(sample(3), ("why",), generator=generator()), "got 'why'"),
        (lambda: world.questions(sample(3), {"size": -1}, generator=generator()), "got -1"),
        (lambda: world.questions(sample(3), {"size": 0}, generator=generator()), "weight above 0"),
        (
            lambda: world.questions(sample(3, max_objects=1), ("where",), generator=generator()),
            "expected scenes that allow a question about where, got none in 3",
        ),
        (lambda: world.Scenes.cat([]), "at least one batch of scenes, got none"),
        (lambda: world.Scenes.of([[thing("cube")]]), "got 'cube'"),
        (
            lambda: world.Scenes(*columns(sample(3))[:-1], torch.ones(3)),
            r"expected shape \(3, 3\), got \(3,\)",
        ),
        (lambda: world.Tokeniser(("a", "b")), "start with"),
        (lambda: world.Tokeniser((*world.VOCABULARY, "star")), r"\['star'\] more than once"),
        (lambda: world.Tokeniser().encode(["a small red star"], length=3), "at most 3 tokens, got 4"),
        (lambda: world.Tokeniser().decode([[9999]]), "got 9999"),
    ],
)
def test_bad_input_is_refused_with_what_was_expected_and_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_string_is_not_a_list_of_texts():
    with pytest.raises(TypeError, match="got one string 'a star'"):
        world.Tokeniser().encode("a star")


def test_a_scene_beyond_the_end_is_refused():
    with pytest.raises(IndexError, match="below 3, got 3"):
        sample(3)[3]
