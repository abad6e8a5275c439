"""Films of the tiny world: what moves where, measured on the pictures, and told in true sentences."""

import itertools
import re

import pytest
import torch

from mmscratch.kit import world

SMALL = {"small": world.RADII["small"]}  # leaves room for three objects and more
STEPS = {"still": (0, 0), "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def film(n: int, seed: int = 0, **options) -> world.Film:
    return world.film(n, generator=generator(seed), **options)


def centres_of_mass(video: torch.Tensor) -> torch.Tensor:
    """(B, T, 2): where each frame differs from its ground, taken from the corner; x, y in picture sides."""
    differs = (video - video[..., :1, :1]).abs().sum(2)
    pixel = (torch.arange(video.shape[-1]) + 0.5) / video.shape[-1]
    mass = differs.sum((-2, -1))
    return (
        torch.stack(((differs.sum(-2) * pixel).sum(-1), (differs.sum(-1) * pixel).sum(-1)), -1)
        / mass[..., None]
    )


def test_a_film_has_the_shape_and_the_range_of_pictures():
    shot = film(5, frames=7, image_size=24, min_objects=1, max_objects=2)
    assert shot.video.shape == (5, 7, 3, 24, 24) and shot.video.dtype == torch.float32
    assert 0 <= shot.video.min() and shot.video.max() <= 1
    assert shot.motions.shape == (5, 2) and shot.motions.dtype == torch.long
    assert torch.equal(shot.motions >= 0, shot.scenes.present)
    assert len(shot) == len(shot.captions()) == 5


@pytest.mark.parametrize("split", ["train", "test", "heldout"])
def test_the_pictures_move_where_the_labels_say(split):
    shot = film(400, split=split)
    centres = centres_of_mass(shot.video)
    for track, label, velocity in zip(centres, shot.motions[:, 0].tolist(), shot.velocity[:, 0], strict=True):
        way, sign = track[-1] - track[0], torch.tensor(STEPS[world.MOTIONS[label]])
        moved = way.norm() > 0.1
        assert moved == (world.MOTIONS[label] != "still")
        assert torch.equal((way.sign() * (way.abs() > 0.02)).long(), sign.sign())
        torch.testing.assert_close(way, 15 * velocity, atol=0.01, rtol=0)
        steps = track.diff(dim=0)  # constant speed, but for the sampling of pixels
        assert (steps - steps.mean(0)).abs().max() < 0.01


def test_every_motion_is_about_equally_frequent_even_where_objects_must_make_room():
    for shot in (film(6000, image_size=4, frames=2), film(3000, image_size=4, min_objects=2, max_objects=2)):
        share = torch.bincount(shot.motions[shot.scenes.present], minlength=5) / shot.scenes.present.sum()
        torch.testing.assert_close(share, torch.full((5,), 0.2), atol=0.02, rtol=0)
    pairs = torch.bincount(shot.motions[:, 0] * 5 + shot.motions[:, 1], minlength=25) / len(shot)
    torch.testing.assert_close(pairs, torch.full((25,), 0.04), atol=0.015, rtol=0)


@pytest.mark.parametrize(
    ("objects", "options"), [(1, {}), (2, {}), (3, {"radii": SMALL}), (4, {"radii": SMALL, "frames": 5})]
)
def test_in_every_frame_the_objects_are_inside_and_apart(objects, options):
    shot = film(300, min_objects=objects, max_objects=objects, image_size=4, **options)
    for number in range(shot.video.shape[1]):
        for scene in shot.frame(number).things():
            assert len(scene) == objects
            for t in scene:
                assert t.radius < t.x < 1 - t.radius and t.radius < t.y < 1 - t.radius
            for a, b in itertools.combinations(scene, 2):
                assert max(abs(a.x - b.x), abs(a.y - b.y)) > a.radius + b.radius + 0.019


def test_the_frames_are_the_pictures_of_their_scenes():
    shot = film(20, max_objects=2, image_size=16)
    for number in (0, 3, 15):
        torch.testing.assert_close(shot.video[:, number], world.render(shot.frame(number), 16))
    assert torch.equal(shot.frame(0).x, shot.scenes.x)
    assert torch.equal(shot.frame(-1).y, shot.frame(15).y)
    free = shot.motions < 0
    assert (shot.frame(15).x[free] == 0).all() and (shot.frame(15).shape[free] == -1).all()
    with pytest.raises(IndexError, match="a frame below 16, got 16"):
        shot.frame(16)


def test_frames_out_of_order_do_not_tell_left_from_right():
    shot = film(8000, image_size=4, frames=3, radii={"large": (0.2, 0.2)}, speed=(0.3, 0.3))
    motion, middle = shot.motions[:, 0], shot.frame(1)
    for axis, one, other in (("x", "left", "right"), ("y", "up", "down")):
        place = getattr(middle, axis)[:, 0]
        here, there = (place[motion == world.MOTIONS.index(name)] for name in (one, other))
        quantiles = torch.linspace(0.02, 0.98, 13)
        torch.testing.assert_close(here.quantile(quantiles), there.quantile(quantiles), atol=0.015, rtol=0)


def test_captions_say_what_happens():
    shot = film(500, max_objects=2)
    told = re.compile(r"a (small|large) (\w+) (\w+) (?:moves (left|right|up|down)|stays (still))")
    for row, text in enumerate(shot.captions()):
        parts = [told.fullmatch(part).groups() for part in text.split(" and ")]
        things = shot.scenes[row].things()[0]
        expected = {
            (t.size, t.colour, t.shape, world.MOTIONS[m])
            for t, m in zip(things, shot.motions[row].tolist(), strict=False)
        }
        assert {(size, colour, shape, way or still) for size, colour, shape, way, still in parts} == expected
        first = next(t for t in things if (t.colour, t.shape) == parts[0][1:3])
        assert first.x == min(t.x for t in things)


def test_captions_hold_no_unknown_word():
    tokeniser = world.Tokeniser()
    texts = film(500, split="all", max_objects=2, frames=2, image_size=4).captions()
    ids = tokeniser.encode(texts)
    assert not (ids == tokeniser.unk).any() and tokeniser.decode(ids) == texts


def test_new_words_came_after_the_old_ones():
    # numbers in checkpoints of earlier lessons
    assert world.VOCABULARY[-6:] == ("moves", "stays", "still", "up", "down", ".")
    assert world.MOTIONS[:5] == ("still", "left", "right", "up", "down")


def test_a_film_follows_from_its_generator_alone():
    one, two, other = film(30, 3, max_objects=2), film(30, 3, max_objects=2), film(30, 4, max_objects=2)
    assert torch.equal(one.video, two.video) and one.captions() == two.captions()
    assert not torch.equal(one.video, other.video)
    g = generator(3)
    assert not torch.equal(world.film(9, generator=g).video, world.film(9, generator=g).video)


def test_no_film_is_in_training_and_in_test_even_with_the_same_seed():
    shots = {split: film(2000, split=split, image_size=4, frames=2) for split in world.SPLITS}
    for split, odd in (("train", 0), ("all", 0), ("test", 1), ("heldout", 1)):
        steps = shots[split].scenes.x.double() * 2**20
        assert torch.equal(steps % 2, torch.full_like(steps, odd)), split
    assert shots["heldout"].scenes.held_out.any(1).all()
    assert not shots["train"].scenes.held_out.any() and not shots["test"].scenes.held_out.any()
    assert (shots["train"].motions == shots["test"].motions).float().mean() < 0.25  # one in five by chance


def test_some_of_the_films_are_films():
    shot = film(10, max_objects=2)
    some = shot[torch.tensor([4, 2])]
    assert torch.equal(some.video[0], shot.video[4]) and some.captions() == [
        shot.captions()[i] for i in (4, 2)
    ]
    assert len(shot[3]) == 1 and shot[3].captions() == shot.captions()[3:4] and len(shot[2:5]) == 3
    with pytest.raises(IndexError, match="below 10, got 10"):
        shot[10]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 1}, "at least 2 frames, got 1"),
        ({"speed": (0.0, 0.2)}, r"0 < low <= high < 0.58, .* a radius of 0.2 leaves, got 0.0, 0.2"),
        ({"speed": (0.3, 0.2)}, "got 0.3, 0.2"),
        ({"speed": (0.3, 0.6)}, "got 0.3, 0.6"),
        ({"split": "dev"}, "split: expected one of train, test, heldout, all, got 'dev'"),
        ({"max_objects": 5}, "max_objects <= 4, got 1 and 5"),
        ({"radii": {"huge": (0.1, 0.2)}}, "got 'huge'"),
        ({"radii": {}}, "expected at least one of small, large, got none"),
        ({"image_size": 0}, "at least 1 pixel, got 0"),
        ({"min_objects": 4, "max_objects": 4, "radii": {"large": (0.2, 0.2)}}, "let objects pass each other"),
    ],
)
def test_bad_input_is_refused_with_what_was_expected_and_what_came(options, message):
    with pytest.raises(ValueError, match=message):
        film(20, **options)
    with pytest.raises(ValueError, match="expected a torch.Generator on the CPU .*, got 0"):
        world.film(3, generator=0)
