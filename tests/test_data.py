"""What ships in data/, and how kit.data hands it out."""

import hashlib
import json
import socket
from pathlib import Path

import pytest
import torch
from PIL import Image

from mmscratch.kit import data, make_data, project

DATA = Path(__file__).resolve().parents[1] / "data"
FILE = "photos/photos.json"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A checkout's data folder with one file in it, an empty cache, and no address to fetch from."""
    folder = tmp_path / "checkout" / "data"
    folder.mkdir(parents=True)
    monkeypatch.setattr(make_data, "DATA", folder)
    (folder / "word.txt").write_text("good")
    make_data.register("word.txt", licence="CC0-1.0", origin="this test", rebuild="make word")
    monkeypatch.setattr(project, "root", lambda: folder.parent)
    monkeypatch.setattr(project, "repository_url", lambda: None)
    monkeypatch.setattr(data, "_cache", lambda: tmp_path / "cache")
    monkeypatch.delenv("MMSCRATCH_DATA_DIR", raising=False)
    return folder


@pytest.fixture
def fetched(home, monkeypatch):
    """Let downloads succeed, and list the addresses asked for."""
    asked = []

    def retrieve(url, sha256, destination):
        asked.append(url)
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.write_text("good")

    monkeypatch.setattr(project, "repository_url", lambda: "https://example.org/a/book")
    monkeypatch.setattr(data, "_retrieve", retrieve)
    return asked


# -- manifest


def test_manifest_lists_every_shipped_file_and_no_other():
    present = {p.relative_to(DATA).as_posix() for p in DATA.rglob("*") if p.is_file()}
    present = {name for name in present if not name.startswith(make_data.UNLISTED)}
    assert present == set(data.manifest())


@pytest.mark.parametrize("name", sorted(data.manifest()))
def test_manifest_entry_is_complete_and_matches_its_file(name):
    entry, content = data.manifest()[name], (DATA / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert len(content) == entry["bytes"]
    assert entry["licence"] and entry["origin"] and entry["rebuild"]


def test_every_licence_is_kept_in_words():
    words = (DATA / "README.md").read_text()
    kept = {file.stem for file in (DATA / "licences").iterdir()}
    for name in data.STYLES:
        for licence in data.manifest()[f"emoji/{name}.webp"]["licence"].split(" AND "):
            assert licence in kept
    for photo in data.photos():
        assert f"| `{photo.name}` |" in words and photo.credit.split(",")[0].split(";")[0] in words


def test_pictures_stay_within_their_budget():
    size = {name: entry["bytes"] for name, entry in data.manifest().items()}
    assert sum(n for name, n in size.items() if name.startswith("emoji/")) <= 8_000_000
    assert all(n <= 80_000 for name, n in size.items() if name.endswith(".jpg"))


def test_registering_again_replaces_one_entry_and_keeps_the_others(home):
    (home / "other.txt").write_text("other")
    make_data.register(home / "other.txt", licence="MIT", origin="here", rebuild="make other", accuracy=0.9)
    (home / "word.txt").write_text("new")
    make_data.register("word.txt", licence="CC0-1.0", origin="this test", rebuild="make word")
    entries = data.manifest()
    assert entries["other.txt"]["metrics"] == {"accuracy": 0.9}
    assert entries["word.txt"]["sha256"] == hashlib.sha256(b"new").hexdigest()
    assert sorted(p.name for p in home.iterdir()) == ["manifest.json", "other.txt", "word.txt"]


def test_manifest_refuses_a_file_nobody_registered_and_forgets_one_that_is_gone(home):
    (home / "stray.txt").write_text("?")
    with pytest.raises(make_data.BuildError, match=r"not registered: data/stray.txt"):
        make_data.write_manifest()
    (home / "stray.txt").unlink()
    (home / "word.txt").unlink()
    make_data.write_manifest()
    assert data.manifest() == {}


# -- finding, checking, fetching


def test_an_intact_file_of_the_checkout_is_used_without_the_network(home, fetched):
    assert data.path("word.txt") == home / "word.txt"
    assert fetched == []


@pytest.mark.parametrize("damage", ["changed", "same length", "missing"])
def test_a_damaged_file_is_fetched_into_the_cache_and_the_checkout_left_alone(home, fetched, capsys, damage):
    data.path("word.txt")  # the check must not trust an earlier one
    texts = {"changed": "something else", "same length": "baad"}
    if damage == "missing":
        (home / "word.txt").unlink()
    else:
        (home / "word.txt").write_text(texts[damage])
    found = data.path("word.txt")
    assert found.read_text() == "good" and not found.is_relative_to(home)
    assert fetched == ["https://example.org/a/book/raw/main/data/word.txt"]
    assert capsys.readouterr().out.count("\n") == 1
    if damage != "missing":
        assert (home / "word.txt").read_text() == texts[damage]
    assert data.path("word.txt") == found and len(fetched) == 1  # now from the cache


def test_without_a_network_the_error_names_file_checksums_and_remedy(home, monkeypatch):
    (home / "word.txt").write_text("bad")
    monkeypatch.setattr(project, "repository_url", lambda: "https://example.org/a/book")

    def blocked(*args, **kwargs):
        raise OSError("sockets are blocked")

    monkeypatch.setattr(socket, "socket", blocked)
    monkeypatch.setattr(socket, "getaddrinfo", blocked)
    with pytest.raises(data.DataError) as caught:
        data.path("word.txt")
    message = str(caught.value)
    for part in (
        "word.txt is missing or damaged",
        f"expected: sha256 {hashlib.sha256(b'good').hexdigest()}",
        f"{home / 'word.txt'}: sha256 {hashlib.sha256(b'bad').hexdigest()}",
        "https://example.org/a/book/raw/main/data/word.txt failed with",
        "git checkout -- data/word.txt",
        "make word",
        "MMSCRATCH_DATA_DIR",
    ):
        assert part in message
    assert not (home.parents[1] / "cache" / "word.txt").exists()


def test_a_download_with_the_wrong_checksum_is_refused(home, fetched, monkeypatch):
    (home / "word.txt").unlink()

    def retrieve(url, sha256, destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.write_text("evil")

    monkeypatch.setattr(data, "_retrieve", retrieve)
    with pytest.raises(data.DataError, match=f"gave sha256 {hashlib.sha256(b'evil').hexdigest()}"):
        data.path("word.txt")


def test_the_real_download_checks_the_hash_before_the_file_appears(tmp_path):
    source, target = tmp_path / "source.txt", tmp_path / "cache" / "target.txt"
    source.write_text("good")

    class Server:  # stands in for the network: pooch's own hash check and move run for real
        def __call__(self, url, output_file, pooch):
            Path(output_file).write_text(source.read_text())

    import pooch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pooch.core, "choose_downloader", lambda *args, **kwargs: Server())
        with pytest.raises(ValueError, match="hash"):
            data._retrieve("https://example.org/x", hashlib.sha256(b"other").hexdigest(), target)
        assert not target.exists()
        data._retrieve("https://example.org/x", hashlib.sha256(b"good").hexdigest(), target)
    assert target.read_text() == "good"


def test_the_folder_named_by_the_environment_comes_first_but_must_be_intact(home, tmp_path, monkeypatch):
    extra = tmp_path / "extra"
    extra.mkdir()
    monkeypatch.setenv("MMSCRATCH_DATA_DIR", str(extra))
    assert data.path("word.txt") == home / "word.txt"
    (extra / "word.txt").write_text("bad")
    assert data.path("word.txt") == home / "word.txt"
    (extra / "word.txt").write_text("good")
    assert data.path("word.txt") == extra / "word.txt"


def test_an_unlisted_name_is_refused_with_names_that_come_near(home):
    with pytest.raises(ValueError, match=r"'words.txt'; the manifest lists word.txt"):
        data.path("words.txt")


def test_an_installed_package_without_a_checkout_reads_the_manifest_beside_the_module(
    home, fetched, tmp_path, monkeypatch
):
    module = tmp_path / "site" / "data.py"
    module.parent.mkdir()
    module.with_name("manifest.json").write_bytes((home / "manifest.json").read_bytes())
    monkeypatch.setattr(project, "root", lambda: None)
    monkeypatch.setattr(data, "__file__", str(module))
    assert data.path("word.txt").read_text() == "good" and len(fetched) == 1
    module.with_name("manifest.json").write_text("{")
    with pytest.raises(data.DataError, match="list of data files is damaged"):
        data.path("word.txt")


def test_a_checkpoint_comes_back_with_tensors_and_metadata(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    monkeypatch.setattr(make_data, "DATA", tmp_path)
    (tmp_path / "checkpoints").mkdir()
    weights = {"w": torch.arange(6.0).view(2, 3)}
    save_file(weights, tmp_path / "checkpoints/tiny.safetensors", metadata={"lesson": "04"})
    make_data.register("checkpoints/tiny.safetensors", licence="MIT", origin="this test", rebuild="-")
    tensors, metadata = data.checkpoint("tiny", root=tmp_path)
    assert torch.equal(tensors["w"], weights["w"]) and metadata == {"lesson": "04"}


# -- emoji


@pytest.fixture(scope="module")
def styles():
    return {style: data.emoji(style, background=None) for style in data.STYLES}


def test_both_styles_draw_the_same_concepts_in_the_same_order(styles):
    noto, openmoji = styles["noto"], styles["openmoji"]
    assert len(noto) == len(openmoji) >= 1_890
    assert noto.chars == openmoji.chars and len(set(noto.chars)) == len(noto)
    assert torch.equal(noto.groups, openmoji.groups)
    # pictures of one concept are more alike than neighbours in the list: a slip by one tile would show
    coarse = [255 - data.emoji(style, size=8).images.float().flatten(1) for style in data.STYLES]
    ours, theirs = (pictures - pictures.mean(0) for pictures in coarse)
    alike = torch.nn.functional.cosine_similarity
    for group in range(len(data.GROUPS)):
        a, b = ours[noto.groups == group], theirs[noto.groups == group]
        aligned = alike(a, b).mean()
        for slip in (-1, 1):
            assert aligned > alike(a, b.roll(slip, 0)).mean() + 0.08


@pytest.mark.parametrize("style", data.STYLES)
def test_no_tile_is_blank_and_none_touches_its_neighbour(styles, style):
    images = styles[style].images
    assert images.shape == (len(styles[style]), 4, 64, 64) and images.dtype == torch.uint8
    alpha = images[:, 3]
    assert (alpha > 128).flatten(1).sum(1).min() >= 20
    for edge in (alpha[:, :2], alpha[:, -2:], alpha[:, :, :2], alpha[:, :, -2:]):
        assert edge.max() == 0
    colours = data.emoji(style).images
    assert colours.flatten(1).float().std(1).min() > 5  # and on white one sees something


def test_names_groups_and_tags_describe_the_emoji(styles):
    emoji = styles["noto"]
    at = emoji.chars.index("🐝")
    assert emoji.names[at] == "honeybee" and "insect" in emoji.tags[at]
    assert emoji.GROUPS[emoji.groups[at]] == "Animals & Nature"
    assert emoji.subgroup_names[emoji.subgroups[at]] == "animal-bug"
    assert emoji.names[emoji.chars.index("🇯🇵")] == "flag of Japan"
    assert emoji.names_in("de")[at] == "biene"
    assert torch.bincount(emoji.groups, minlength=9).min() >= 50
    # Unicode lists emoji group by group; a subgroup lies in one group only
    assert torch.equal(emoji.groups, emoji.groups.sort().values)
    pairs = set(zip(emoji.subgroups.tolist(), emoji.groups.tolist(), strict=True))
    assert len(pairs) == len(emoji.subgroup_names)
    for language in emoji.languages:
        assert len(emoji.names_in(language)) == len(emoji) and all(emoji.names_in(language))
    with pytest.raises(ValueError, match="no names in 'xx'; there are en, de"):
        emoji.names_in("xx")


def test_no_skin_tones_and_no_placeholder_flag(styles):
    emoji = styles["noto"]
    assert not any(0x1F3FB <= ord(c) <= 0x1F3FF for char in emoji.chars for c in char)
    assert "🇨🇶" not in emoji.chars  # the font draws a question mark for it


def test_halving_the_size_averages_blocks(styles):
    full, half = data.emoji("noto").images, data.emoji("noto", size=32).images
    mean = torch.nn.functional.avg_pool2d(full[:200].float(), 2)
    assert (mean - half[:200]).abs().max() <= 0.5


@pytest.mark.parametrize("size", [8, 24, 48])
def test_any_size_keeps_the_tiles_apart(size):
    images = data.emoji("openmoji", size=size, background=None).images
    assert images.shape[1:] == (4, size, size)
    if size == 48:  # the two empty pixels at each border leave one empty one
        assert images[:, 3, 0].max() == 0 and images[:, 3, :, -1].max() == 0


def test_the_background_shows_around_the_emoji():
    corner = data.emoji("noto", size=16, background=(10, 20, 30)).images[0, :, 0, 0]
    assert corner.tolist() == [10, 20, 30]
    assert data.emoji("noto", size=16, background="black").images[0, :, 0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"style": "twemoji"}, "one of noto, openmoji, not 'twemoji'"),
        ({"size": 65}, "from 8 to 64, not 65"),
        ({"size": 0}, "from 8 to 64, not 0"),
        ({"size": 32.0}, "from 8 to 64, not 32.0"),
        ({"background": "no such colour"}, "colour name, three integers .* not 'no such colour'"),
        ({"background": (1, 2)}, r"three integers .* not \(1, 2\)"),
        ({"background": (0.5, 0.5, 0.5)}, r"three integers .* not \(0.5"),
        ({"background": 7}, "three integers .* not 7"),
        ({"background": (1, 2, 300)}, r"three integers .* not \(1, 2, 300\)"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.emoji(**arguments)


# -- photos


def test_photos_open_and_say_what_they_show():
    photos = data.photos()
    assert 6 <= len(photos) <= 10 and len({photo.name for photo in photos}) == len(photos)
    for photo in photos:
        assert photo.image.mode == "RGB" and max(photo.image.size) <= 512
        assert photo.image.convert("L").getextrema()[1] > 150
        assert len(photo.alt) > 40 and photo.alt.endswith(".") and photo.title and photo.labels
        entry = data.manifest()[f"photos/{photo.name}.jpg"]
        assert (entry["licence"], entry["credit"]) == (photo.licence, photo.credit)


def test_imagenet_labels_are_categories_that_classifiers_know():
    from torchvision.models import ResNet18_Weights

    known = ResNet18_Weights.DEFAULT.meta["categories"]
    assert {label for photo in data.photos() for label in photo.imagenet} <= set(known)


def test_photo_tensors_are_cropped_not_stretched():
    photo = next(photo for photo in data.photos() if photo.name == "coffee")
    width, height = photo.image.size
    whole, square, wide = photo.tensor(), photo.tensor(64), photo.tensor((32, 48))
    assert whole.shape == (3, height, width) and square.shape == (3, 64, 64) and wide.shape == (3, 32, 48)
    assert whole.dtype == torch.float32 and 0 <= whole.min() and whole.max() <= 1
    middle = whole[:, :, (width - height) // 2 : (width + height) // 2]
    assert torch.allclose(square.mean((1, 2)), middle.mean((1, 2)), atol=0.01)
    with pytest.raises(ValueError, match="at least 1 pixel, not 0"):
        photo.tensor(0)


# -- the builder


def test_builder_refuses_a_missing_or_different_font(tmp_path):
    with pytest.raises(make_data.BuildError, match="apt install fonts-noto-color-emoji"):
        make_data.Noto(tmp_path / "none.ttf")
    (tmp_path / "other.ttf").write_bytes(b"another font")
    with pytest.raises(make_data.BuildError, match="expected e5899ed3"):
        make_data.Noto(tmp_path / "other.ttf")


def test_builder_refuses_a_changed_archive_and_says_when_npm_is_missing(tmp_path, monkeypatch):
    (tmp_path / "openmoji.tgz").write_bytes(b"something else")
    with pytest.raises(make_data.BuildError, match="expected sha512-EBnYrNGd"):
        make_data.OpenMoji(tmp_path / "openmoji.tgz")
    import pooch

    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(make_data.BuildError, match="apt install npm"):
        make_data.OpenMoji()


@pytest.mark.skipif(
    not make_data.FONT.exists(), reason="Debian package fonts-noto-color-emoji is not installed"
)
def test_the_font_drops_what_it_cannot_draw_as_one_glyph(styles):
    if hashlib.sha256(make_data.FONT.read_bytes()).hexdigest() != make_data.FONT_SHA256:
        pytest.skip("another version of the font is installed")
    font = make_data.Noto()
    assert font.draw("\U0001f9d1\u200d\U0001fa70") is None  # ballet dancer, newer than the font: falls in two
    assert font.draw("\U0001f1e8\U0001f1f6") is None  # flag of Sark: a placeholder
    assert font.draw("\U0001fac6") is None  # fingerprint: not in the font
    drawn = font.draw("\U0001f41d")
    shipped = styles["noto"].images[styles["noto"].chars.index("🐝"), 3, 2:-2, 2:-2]
    alpha = torch.frombuffer(bytearray(drawn.getchannel("A").tobytes()), dtype=torch.uint8).view(60, 60)
    assert (alpha.float() - shipped.float()).abs().mean() < 4


def test_a_photograph_is_shrunk_to_its_budget():
    import io

    noise = (torch.rand(600, 900, 3, generator=torch.Generator().manual_seed(0)) * 80).byte().numpy()
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    content = make_data._jpeg(stream.getvalue())
    assert len(content) <= make_data.PHOTO_BYTES
    assert max(Image.open(io.BytesIO(content)).size) == make_data.PHOTO_EDGE


def test_index_and_photo_list_are_plain_json():
    assert list(json.loads((DATA / "emoji/emoji.json").read_text())["names"]) == list(make_data.LANGUAGES)
    assert json.loads((DATA / FILE).read_text())[0]["name"] == "chelsea"


# ------------------------------------------------------------------------------------ any picture file


def test_a_picture_is_cut_square_laid_on_white_and_turned_upright(tmp_path):
    tall = Image.new("RGBA", (4, 8), (255, 0, 0, 0))  # nothing to see but the ground
    tall.save(tmp_path / "clear.png")
    assert torch.equal(data.picture(tmp_path / "clear.png", 4), torch.ones(3, 4, 4))

    wide = Image.new("RGB", (6, 2), "blue")
    wide.paste("red", (0, 0, 2, 2))
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned: the left side belongs on top
    wide.save(tmp_path / "turned.png", exif=exif)
    assert data.picture(tmp_path / "turned.png", 2).shape == (3, 2, 2)
    upright = wide.crop((0, 0, 2, 2))
    upright.save(tmp_path / "upright.png")
    assert torch.equal(data.picture(tmp_path / "upright.png", 2)[0], torch.ones(2, 2))


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_a_file_that_is_no_picture_says_so(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match="not a picture"):
        data.picture(tmp_path / "a.png", 8)


def test_a_picture_cut_short_is_an_error_and_so_is_one_that_is_missing(tmp_path):
    whole = data.photos()[0].path.read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated"):
        data.picture(tmp_path / "cut.jpg", 8)
    with pytest.raises(FileNotFoundError):
        data.picture(tmp_path / "none.jpg", 8)
    with pytest.raises(OSError):
        data.picture(tmp_path, 8)


def test_a_picture_too_large_to_be_true_is_refused(tmp_path, monkeypatch):
    Image.new("1", (40, 40)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="exceeds limit"):
        data.picture(tmp_path / "bomb.png", 8)


def test_an_emoji_written_to_a_file_and_read_back_is_the_emoji(tmp_path):
    tile = data.emoji(size=64).images[7]
    Image.fromarray(tile.permute(1, 2, 0).numpy()).save(tmp_path / "emoji.png")
    smaller = data.emoji(size=32).images[7].float() / 255
    torch.testing.assert_close(data.picture(tmp_path / "emoji.png", 32), smaller, atol=1.01 / 255, rtol=0)
