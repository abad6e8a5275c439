"""Rebuild the pictures, the speech and the fonts in ``data/`` from named, versioned and checksummed sources.

    python -m mmscratch.kit.make_data [emoji] [photos] [speech] [fonts] [manifest]     (default: everything)

Readers never need this: the results ship in the repository. The builder needs the extra ``data``, the Debian
packages fonts-noto-color-emoji and espeak-ng, and npm. With the pinned packages its output is the same to the
byte.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmscratch.kit import make_fonts, project, system
from mmscratch.kit.data import GROUPS, STYLES, TILE

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image, ImageFont

DATA = Path(__file__).resolve().parents[2] / "data"

# data/ holds these too, but they are about the files, not files of the book
# benchmarks.json travels with the package and changes with every `make bench`
UNLISTED = ("README.md", "manifest.json", "benchmarks.json", "licences/")

FONT_PACKAGE = "fonts-noto-color-emoji"
FONT_VERSION = "2.042-0+deb12u1"
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SHA256 = "e5899ed38b8ed83e08bd3ac5de09791e9d19d288333a796de1d35ad17396f1ec"

OPENMOJI = "openmoji@17.0.0"
OPENMOJI_SHA512 = "EBnYrNGdcdw+OSXmENeNE1yBNRu6tOraTmoOyUbJkTmvT/+XETp8RZLSJFzD3lrPc5N9CzsyPnRTk0Vp4UaI9w=="

LANGUAGES = ("en", "de", "es", "fr", "it", "pt", "ru", "tr", "id", "ar", "fa", "zh", "ja", "ko")

MARGIN = 2  # empty pixels on each side of a tile, so that lossy coding cannot carry colour into a neighbour
COLUMNS = 44
# alpha is coded apart from colour; losing a little there costs 0.1 dB and saves a fifth of the file
WEBP = {"quality": 85, "alpha_quality": 70, "method": 6}

PHOTO_EDGE = 512
PHOTO_BYTES = 80_000


class BuildError(SystemExit):
    """Ends the build with one line that says what is missing and what to type."""

    def __init__(self, message: str) -> None:
        super().__init__(f"make data: {message}")


# ---------------------------------------------------------------------------------------------- emoji


def build_emoji(font_file: Path = FONT, archive: Path | None = None) -> None:
    """Write ``emoji/noto.webp``, ``emoji/openmoji.webp`` and ``emoji/emoji.json``."""
    _need("emoji", "resvg_py", "fontTools")
    font = Noto(font_file)
    openmoji = OpenMoji(archive)
    qualified, translations = _unicode_names()

    index: dict[str, Any] = {
        "chars": [],
        "codepoints": [],
        "groups": [],
        "subgroups": [],
        "subgroup_names": [],
        "tags": [],
        "names": {language: [] for language in LANGUAGES},
    }
    tiles: dict[str, list[Image.Image]] = {style: [] for style in STYLES}
    slugs = [group.lower().replace(" & ", "-") for group in GROUPS]
    dropped = []
    for entry in openmoji.entries:
        if entry["skintone"] or entry["group"] not in slugs:
            continue
        char = qualified[_bare(entry["emoji"])]
        pictures = {"noto": font.draw(char), "openmoji": openmoji.draw(entry["hexcode"])}
        missing = [style for style, picture in pictures.items() if picture is None]
        if missing:
            dropped.append(f"{entry['annotation']} ({', '.join(missing)})")
            continue
        for style, picture in pictures.items():
            tiles[style].append(picture)
        if entry["subgroups"] not in index["subgroup_names"]:
            index["subgroup_names"].append(entry["subgroups"])
        index["chars"].append(char)
        index["codepoints"].append("-".join(f"{ord(c):04X}" for c in char))
        index["groups"].append(slugs.index(entry["group"]))
        index["subgroups"].append(index["subgroup_names"].index(entry["subgroups"]))
        tags = f"{entry['tags']},{entry['openmoji_tags']}".split(",")
        index["tags"].append(list(dict.fromkeys(tag.strip() for tag in tags if tag.strip())))
        for language in LANGUAGES:
            name = translations[char][language].strip(":").replace("_", " ")
            # the package calls a country's flag by the country's name alone
            flag_of = language == "en" and entry["subgroups"] in ("country-flag", "subdivision-flag")
            index["names"][language].append(f"flag of {name}" if flag_of else name)

    for style in STYLES:
        project.write_bytes(DATA / f"emoji/{style}.webp", _sheet(tiles[style]))
    # one line per column keeps the file small and its diffs readable
    columns = (f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in index.items())
    project.write_bytes(DATA / "emoji/emoji.json", ("{\n" + ",\n".join(columns) + "\n}\n").encode())
    print(f"emoji: {len(index['chars'])} concepts in {len(STYLES)} styles")
    print(f"emoji without a picture in both styles: {'; '.join(dropped)}")


class Noto:
    """Draws emoji from the Noto Color Emoji font."""

    STRIKE = 109  # the font's only bitmap size; its glyphs are 136 x 128 pixels, drawn in the middle 128

    def __init__(self, file: Path = FONT) -> None:
        from fontTools.ttLib import TTFont
        from PIL import ImageFont, features

        if not file.exists():
            raise BuildError(f"{file} is missing; type: apt install {FONT_PACKAGE}")
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != FONT_SHA256:
            raise BuildError(
                f"{file} has sha256 {found}; expected {FONT_SHA256}, as in {FONT_PACKAGE} {FONT_VERSION}"
            )
        if not features.check("raqm"):
            raise BuildError("this Pillow has no Raqm to join sequences to one glyph; use Pillow's own wheel")
        self.font: ImageFont.FreeTypeFont = ImageFont.truetype(
            str(file), self.STRIKE, layout_engine=ImageFont.Layout.RAQM
        )
        with TTFont(file, lazy=True) as tables:
            self.known = set(tables.getBestCmap()) | {0x200D, 0xFE0F}
        self.advance = self.font.getlength("\U0001f600")
        # any two regional indicators without a flag of their own join to one white flag with a question mark
        self.unknown_flag = self._glyph("\U0001f1ff\U0001f1ff").tobytes()

    def draw(self, char: str) -> Image.Image | None:
        """Return the emoji in RGBA, or ``None`` where the font has no single glyph for it."""
        # a sequence that the font does not know falls apart into several glyphs and gets wider
        if not self.known.issuperset(map(ord, char)) or self.font.getlength(char) != self.advance:
            return None
        glyph = self._glyph(char)
        if glyph.getchannel("A").getbbox() is None or glyph.tobytes() == self.unknown_flag:
            return None
        return _fit(glyph.crop((4, 0, 132, 128)))

    def _glyph(self, char: str) -> Image.Image:
        from PIL import Image, ImageDraw

        glyph = Image.new("RGBA", (136, 128), (0, 0, 0, 0))
        ImageDraw.Draw(glyph).text((0, 0), char, font=self.font, embedded_color=True)
        return glyph


class OpenMoji:
    """Draws emoji from OpenMoji's SVG files, and holds its list of emoji."""

    CANVAS = 72
    # Noto fills its tile, OpenMoji leaves air. Showing at least the middle 52 of 72 units makes the faces of
    # both styles about equally large and keeps "small square" smaller than "large square".
    WINDOW = 26.0

    def __init__(self, archive: Path | None = None) -> None:
        if archive is None:
            archive = _npm_pack(OPENMOJI)
        content = archive.read_bytes()
        found = base64.b64encode(hashlib.sha512(content).digest()).decode()
        if found != OPENMOJI_SHA512:
            raise BuildError(f"{archive} has sha512-{found}; expected sha512-{OPENMOJI_SHA512}")
        self.drawings: dict[str, str] = {}
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for member in tar:
                if member.name == "package/data/openmoji.json":
                    self.entries: list[dict[str, Any]] = json.load(tar.extractfile(member))
                elif match := re.fullmatch(r"package/color/svg/([0-9A-F-]+)\.svg", member.name):
                    self.drawings[match[1]] = tar.extractfile(member).read().decode()

    def draw(self, hexcode: str) -> Image.Image | None:
        """Return the emoji in RGBA, or ``None`` where there is no drawing or an empty one."""
        if hexcode not in self.drawings:
            return None
        svg, middle = self.drawings[hexcode], self.CANVAS / 2
        box = _render(svg, 2 * self.CANVAS).getchannel("A").point(lambda a: 255 * (a > 8)).getbbox()
        if box is None:
            return None
        half = max(self.WINDOW, *(abs(edge / 2 - middle) for edge in box))
        view = f'viewBox="{middle - half} {middle - half} {2 * half} {2 * half}"'
        zoomed, count = re.subn(r'viewBox="0 0 72 72"', view, svg, count=1)
        if count != 1:
            raise BuildError(f"OpenMoji {hexcode} has no viewBox of 72 x 72 units")
        return _fit(_render(zoomed, 4 * (TILE - 2 * MARGIN)))


def _render(svg: str, edge: int) -> Image.Image:
    import resvg_py
    from PIL import Image

    png = resvg_py.svg_to_bytes(svg_string=svg, width=edge, height=edge, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def _fit(picture: Image.Image) -> Image.Image:
    from PIL import Image

    edge = TILE - 2 * MARGIN
    return picture.resize((edge, edge), Image.Resampling.LANCZOS)  # Pillow weights colours by alpha


def _sheet(tiles: list[Image.Image]) -> bytes:
    from PIL import Image

    sheet = Image.new("RGBA", (COLUMNS * TILE, -(-len(tiles) // COLUMNS) * TILE), (255, 255, 255, 0))
    for number, tile in enumerate(tiles):
        row, column = divmod(number, COLUMNS)
        sheet.paste(tile, (column * TILE + MARGIN, row * TILE + MARGIN))
    stream = io.BytesIO()
    sheet.save(stream, "WEBP", **WEBP)
    return stream.getvalue()


def _bare(char: str) -> str:
    return char.replace("\ufe0f", "")  # OpenMoji writes some emoji with a selector that Unicode leaves out


def _unicode_names() -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Return fully qualified emoji by their bare form, and their names by language."""
    import emoji

    for language in LANGUAGES:
        emoji.config.load_language(language)
    wanted = emoji.STATUS["fully_qualified"]
    full = {char: names for char, names in emoji.EMOJI_DATA.items() if names["status"] == wanted}
    return {_bare(char): char for char in full}, full


def _npm_pack(package: str) -> Path:
    """Fetch a package's archive once with npm, into the user's cache."""
    import pooch

    folder = Path(pooch.os_cache("mmscratch")) / "sources"
    archive = folder / (package.replace("@", "-").replace("/", "-") + ".tgz")
    if not archive.exists():
        if shutil.which("npm") is None:
            raise BuildError(f"npm is missing, which fetches {package}; type: apt install npm")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            run = subprocess.run(["npm", "pack", package], cwd=scratch, capture_output=True, text=True)
            packed = list(Path(scratch).glob("*.tgz"))
            if run.returncode or len(packed) != 1:
                last = (run.stderr.strip().splitlines() or ["no message"])[-1]
                raise BuildError(f"`npm pack {package}` failed: {last}")
            os.replace(packed[0], archive)
    return archive


# --------------------------------------------------------------------------------------------- photos

PUBLIC_DOMAIN = "LicenseRef-public-domain"
FLICKR = "https://www.flickr.com/photos"

# licences and credits as the packages' own notes give them: the docstrings of skimage.data and
# sklearn/datasets/images/README.txt (which names one author for both pictures but links to two)
PHOTOS: list[dict[str, Any]] = [
    {
        "file": "skimage/data/chelsea.png",
        "sha256": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        "name": "chelsea",
        "title": "Chelsea the cat",
        "alt": "The face of a ginger tabby cat with yellow-green eyes, seen close up, looking past the "
        "camera.",
        "labels": ["cat", "tabby cat"],
        "imagenet": ["tabby", "tiger cat", "Egyptian cat"],
        "licence": "CC0-1.0",
        "credit": "Stéfan van der Walt",
        "source": "https://scikit-image.org/docs/stable/api/skimage.data.html#skimage.data.chelsea",
    },
    {
        "file": "skimage/data/astronaut.png",
        "sha256": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        "name": "astronaut",
        "title": "Astronaut Eileen Collins",
        "alt": "A smiling woman with short hair in an orange space suit, her helmet in front of her; behind "
        "her the flag of the United States and a model of the space shuttle.",
        "labels": ["astronaut", "woman", "space suit"],
        "imagenet": [],
        "licence": PUBLIC_DOMAIN,
        "credit": "NASA",
        "source": "https://flic.kr/p/r9qvLn",
    },
    {
        "file": "skimage/data/coffee.png",
        "sha256": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        "name": "coffee",
        "title": "A cup of espresso",
        "alt": "A red cup of espresso on a red saucer with a small spoon, on a worn wooden table, seen "
        "from above.",
        "labels": ["coffee", "cup of coffee", "espresso"],
        "imagenet": ["espresso", "cup", "coffee mug"],
        "licence": "CC0-1.0",
        "credit": "Rachel Michetti; courtesy of Pikolo Espresso Bar",
        "source": "https://scikit-image.org/docs/stable/api/skimage.data.html#skimage.data.coffee",
    },
    {
        "file": "sklearn/datasets/images/china.jpg",
        "sha256": "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
        "name": "china",
        "title": "A Chinese pavilion above a lake",
        "alt": "A Chinese tower of several storeys with red columns and green and yellow tiled roofs stands "
        "among trees above a wide, hazy lake.",
        "labels": ["pagoda", "temple", "tower"],
        "imagenet": ["palace"],
        "licence": "CC-BY-2.0",
        "credit": "danielbuechele",
        "source": f"{FLICKR}/danielbuechele/6061409035/",
    },
    {
        "file": "sklearn/datasets/images/flower.jpg",
        "sha256": "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
        "name": "flower",
        "title": "A dahlia",
        "alt": "An orange dahlia with many regular rows of petals before dark green, blurred leaves; part of "
        "a second bloom at the lower edge.",
        "labels": ["flower", "dahlia"],
        "imagenet": [],
        "licence": "CC-BY-2.0",
        "credit": "vultilion",
        "source": f"{FLICKR}/vultilion/6056698931/",
    },
    {
        "file": "skimage/data/rocket.jpg",
        "sha256": "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
        "name": "rocket",
        "title": "A Falcon 9 on its launch pad",
        "alt": "A white rocket stands on its launch pad at dusk between lattice towers, with bright lamps "
        "along the ground under a dark blue sky.",
        "labels": ["rocket", "launch pad"],
        "imagenet": ["missile", "projectile"],
        "licence": PUBLIC_DOMAIN,
        "credit": "SpaceX",
        "source": f"{FLICKR}/spacexphotos/16511594820/",
    },
    {
        "file": "skimage/data/camera.png",
        "sha256": "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
        "name": "camera",
        "title": "A man with a camera",
        "alt": "Black-and-white photograph of a man in a dark coat who bends to look through a camera on a "
        "tripod, on a lawn with buildings at the horizon.",
        "labels": ["photographer", "man with a camera", "tripod"],
        "imagenet": ["tripod"],
        "licence": "CC0-1.0",
        "credit": "Lav Varshney",
        "source": "https://scikit-image.org/docs/stable/api/skimage.data.html#skimage.data.camera",
    },
    {
        "file": "skimage/data/hubble_deep_field.jpg",
        "sha256": "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
        "name": "galaxies",
        "title": "The Hubble eXtreme Deep Field",
        "alt": "Hundreds of small galaxies, white, orange and blue, scattered over a black sky.",
        "labels": ["galaxies", "night sky"],
        "imagenet": [],
        "licence": PUBLIC_DOMAIN,
        "credit": "NASA, ESA and the Hubble Space Telescope",
        "source": "http://hubblesite.org/newscenter/archive/releases/2012/37/image/a/",
    },
]

PHOTO_PACKAGES = {"skimage": "scikit-image", "sklearn": "scikit-learn"}


def build_photos() -> None:
    """Write ``photos/*.jpg`` and ``photos/photos.json``."""
    _need("skimage", "sklearn")
    entries = []
    for photo in PHOTOS:
        package, _, inside = photo["file"].partition("/")
        source = Path(find_spec(package).submodule_search_locations[0]) / inside
        content = source.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != photo["sha256"]:
            raise BuildError(f"{source} has sha256 {found}; expected {photo['sha256']}")
        project.write_bytes(DATA / f"photos/{photo['name']}.jpg", _jpeg(content))
        entries.append({key: value for key, value in photo.items() if key not in ("file", "sha256")})
    text = json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
    project.write_bytes(DATA / "photos/photos.json", text.encode())
    print(f"photos: {len(entries)}")


def _jpeg(content: bytes) -> bytes:
    """Shrink to the longest edge allowed, at the best quality that fits the budget."""
    from PIL import Image

    picture = Image.open(io.BytesIO(content))
    picture.thumbnail((PHOTO_EDGE, PHOTO_EDGE), Image.Resampling.LANCZOS, reducing_gap=None)
    for quality in range(92, 60, -2):
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality, optimize=True)
        if stream.tell() <= PHOTO_BYTES:
            return stream.getvalue()
    raise BuildError(f"a photograph does not fit into {PHOTO_BYTES:,} bytes at JPEG quality 62")


# --------------------------------------------------------------------------------------------- speech

ESPEAK_VERSION = "1.51"  # Debian's espeak-ng 1.51+dfsg-10+deb12u2
ESPEAK_RATE = 22_050
SPEECH_RATE = 16_000  # samples a second, what speech models read
SPEECH_PEAK = 0.5  # of full scale; every utterance gets the same, since loudness says nothing about a voice
SPEECH_MARGIN = 0.02  # seconds kept before the first and after the last sample above SPEECH_FLOOR
SPEECH_FLOOR = 0.01  # of the utterance's peak: 40 dB below it


class Voice(NamedTuple):
    """How espeak-ng is asked to speak: `-v name -p pitch -s speed`, speed in words a minute."""

    name: str
    description: str
    split: str
    pitch: int = 50
    speed: int = 180


# the test voices speak with an accent and with vocal tract settings (after the +) that no training voice has
VOICES = (
    Voice("en-us", "American English, male", "train"),
    Voice("en-us+f3", "American English, female", "train"),
    Voice("en+f1", "British English, female", "train"),  # after "en-gb", espeak-ng drops the setting silently
    Voice("en-gb-scotland", "Scottish English, male", "train"),
    Voice("en-029+m3", "Caribbean English, male", "test"),
    Voice("en-gb-x-rp+f2", "British English, received pronunciation, female", "test"),
)
SENTENCES = (
    "a small red circle left of a large blue star",
    "a large green square above a small black cross",
    "a small yellow triangle and a large purple ring",
    "a small red circle moves left",
    "a small orange star",
    "a large cyan circle",
    "a blue square on the left",
    "what colour is the small ring?",
    "what shape is the large object?",
    "how many red objects are there?",
    "is there a purple cross?",
    "is the green star above the orange circle?",
)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


# for lessons that train on speech; no training voice has the accent or the vocal tract of another split
READERS = (
    Voice("en-us", "American English, male", "train", 42, 170),
    Voice("en-us+f3", "American English, female", "train", 55, 185),
    Voice("en-us+m1", "American English, male", "train", 38, 200),
    Voice("en-us+m7", "American English, male", "train", 60, 160),
    Voice("en-us+f4", "American English, female", "train", 50, 215),
    Voice("en-us+Annie", "American English, female", "train", 65, 175),
    Voice("en-us+grandpa", "American English, male", "train", 35, 190),
    Voice("en-us-nyc+m2", "New York English, male", "train", 50, 180),
    Voice("en-us-nyc+f5", "New York English, female", "train", 45, 165),
    Voice("en+f1", "British English, female", "train", 50, 195),
    Voice("en+m4", "British English, male", "train", 58, 175),
    Voice("en+shelby", "British English, female", "train", 45, 205),
    Voice("en-gb-scotland", "Scottish English, male", "train", 48, 180),
    Voice("en-gb-scotland+linda", "Scottish English, female", "train", 60, 190),
    Voice("en-gb-x-gbclan+m5", "Lancashire English, male", "train", 52, 170),
    Voice("en-gb-x-gbclan+steph", "Lancashire English, female", "train", 50, 210),
    Voice("en-gb-x-gbcwmd+m6", "West Midlands English, male", "train", 45, 185),
    Voice("en-gb-x-gbcwmd+aunty", "West Midlands English, female", "train", 55, 200),
    Voice("en-029+m8", "Caribbean English, male", "dev", 50, 180),
    Voice("en-gb-x-rp+klatt2", "British English, received pronunciation, male", "dev", 50, 190),
    Voice("en-029+m3", "Caribbean English, male", "test", 45, 170),
    Voice("en-029+belinda", "Caribbean English, female", "test", 55, 195),
    Voice("en-gb-x-rp+f2", "British English, received pronunciation, female", "test", 55, 180),
    Voice("en-gb-x-rp+victor", "British English, received pronunciation, male", "test", 42, 200),
)
READ_SENTENCES, READ_DIGITS = 24, 8  # of the tiny world, and rows of three to five digits, for each reader
OPUS_LEVEL = 0.98  # of libsndfile's scale from large files to small: about 12 kbit/s


def build_speech() -> None:
    """Write ``speech/``: six voices that say the same in FLAC, readers in Opus, checksums of real digits."""
    build_voices()
    build_readings()


def build_readings() -> None:
    """Write ``speech/readings/*.ogg``, each reader's utterances end to end, and ``readings.json``."""
    _need("soundfile", "scipy")
    check_espeak()
    said, voices, seconds = set(), [], 0.0
    for number, voice in enumerate(READERS):
        texts, kinds = reading_texts(number, said)
        content, ends = speak_all(voice, texts, opus=True)
        file = f"speech/readings/{voice.name.replace('+', '-')}.ogg"
        project.write_bytes(DATA / file, content)
        voices.append({**voice._asdict(), "file": file, "kinds": kinds, "texts": texts, "ends": ends})
        seconds += ends[-1] / SPEECH_RATE
    index = {
        "program": f"espeak-ng {ESPEAK_VERSION}",
        "made_with": f"scipy {version('scipy')}, soundfile {version('soundfile')}",
        "rate": SPEECH_RATE,
        "voices": voices,
    }
    text = json.dumps(index).replace('{"name"', '\n{"name"') + "\n"
    project.write_bytes(DATA / "speech/readings.json", text.encode())
    count = sum(len(voice["texts"]) for voice in voices)
    print(f"readings: {count} utterances by {len(voices)} voices, {seconds:.0f} s")


def reading_texts(number: int, said: set[str]) -> tuple[list[str], dict[str, int]]:
    """What reader `number` reads, and how much of each kind; `said` grows, so that no text is read twice.

    Sentences of the tiny world and rows of digits first; readers of split "train" add every word alone.
    """
    import torch

    from mmscratch.kit import world

    generator = torch.Generator().manual_seed(1000 + number)
    random = world.words.python_random(generator)
    texts: list[str] = []

    def add(text: str) -> None:
        if text not in said and len(text) <= 60:
            said.add(text)
            texts.append(text)

    scenes = world.sample(60, generator=generator)
    asked = world.questions(scenes, generator=generator).text
    told = world.captions(scenes, style="varied", generator=generator)
    for caption, question in zip(told, asked, strict=True):
        if len(texts) < READ_SENTENCES:
            add(caption if random.random() < 0.6 else question)
    while len(texts) < READ_SENTENCES + READ_DIGITS:
        add(" ".join(random.choice(DIGITS) for _ in range(random.randint(3, 5))))
    kinds = {"sentence": READ_SENTENCES, "digits": READ_DIGITS}
    if READERS[number].split == "train":
        words = reading_words()
        texts, kinds = texts + words, kinds | {"word": len(words)}
    return texts, kinds


def reading_words() -> list[str]:
    """Every word that readers may say, each once: the tiny world's and the digits."""
    from mmscratch.kit import world

    return sorted({word for word in world.VOCABULARY if word.isalpha()} | set(DIGITS))


def build_real_digits(folder: Path) -> None:
    """Write ``speech/fsdd.json``, the checksums of the recordings in `folder` that the book may fetch."""
    sums = {
        f"{digit}_{speaker}_{index}": hashlib.sha256(
            (folder / f"{digit}_{speaker}_{index}.wav").read_bytes()
        ).hexdigest()
        for speaker in FSDD_SPEAKERS
        for digit in range(10)
        for index in range(FSDD_KEPT)
    }
    index = {"repository": FSDD_REPOSITORY, "commit": FSDD_COMMIT, "licence": "CC-BY-SA-4.0", "sha256": sums}
    project.write_bytes(DATA / "speech/fsdd.json", (json.dumps(index, indent=0) + "\n").encode())
    print(f"real digits: checksums of {len(sums)} recordings")


FSDD_REPOSITORY = "https://github.com/Jakobovski/free-spoken-digit-dataset"
FSDD_COMMIT = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
FSDD_SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
FSDD_KEPT = 10  # of 50 recordings of each digit by each speaker; 0 to 4 are the official test split


def build_voices() -> None:
    """Write ``speech/*.flac``, a voice each with its utterances end to end, and ``speech/speech.json``."""
    _need("soundfile", "scipy")
    check_espeak()
    texts, voices, seconds = SENTENCES + DIGITS, [], 0.0
    for voice in VOICES:
        content, ends = speak_all(voice, texts)
        file = f"speech/{voice.name.replace('+', '-')}.flac"
        project.write_bytes(DATA / file, content)
        voices.append({**voice._asdict(), "file": file, "ends": ends})
        seconds += ends[-1] / SPEECH_RATE
    index = {
        "program": f"espeak-ng {ESPEAK_VERSION}",
        "made_with": f"scipy {version('scipy')}, soundfile {version('soundfile')}",
        "rate": SPEECH_RATE,
        "texts": texts,
        "voices": voices,
    }
    # the texts and each voice on a line of its own
    columns = (f"{json.dumps(k)}: {json.dumps(v)}" for k, v in index.items())
    text = "{\n" + ",\n".join(columns).replace('}, {"name"', '},\n {"name"') + "\n}\n"
    project.write_bytes(DATA / "speech/speech.json", text.encode())
    print(f"speech: {len(texts)} utterances by {len(voices)} voices, {seconds:.0f} s")


def check_espeak() -> None:
    """Refuse to go on without espeak-ng, or with another version of it, which speaks differently."""
    if system.find("espeak-ng") is None:
        raise BuildError(system.advice("espeak-ng"))
    said = subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True).stdout
    found = re.search(r"\d+(\.\d+)+", said)
    if found is None or found[0] != ESPEAK_VERSION:
        raise BuildError(f"espeak-ng {ESPEAK_VERSION} is needed for the same speech, found: {said.strip()}")


def speak_all(voice: Voice, texts: Sequence[str], *, opus: bool = False) -> tuple[bytes, list[int]]:
    """One voice's FLAC or Opus file, and the sample at which each utterance ends (where the next begins)."""
    import numpy as np
    import soundfile

    spoken = [_speak(voice, text) for text in texts]
    stream = io.BytesIO()
    samples = np.concatenate(spoken)
    how = ("OGG", "OPUS", OPUS_LEVEL) if opus else ("FLAC", "PCM_16", 1.0)
    options = dict(zip(("format", "subtype", "compression_level"), how, strict=True))
    soundfile.write(stream, samples, SPEECH_RATE, **options)
    content = stream.getvalue()
    return _steady(content) if opus else content, np.cumsum([len(each) for each in spoken]).tolist()


def _steady(ogg: bytes) -> bytes:
    """The same Ogg file with stream number 1 in place of a random one, its pages' checksums put right."""
    table = []
    for value in range(256):
        register = value << 24
        for _ in range(8):
            register = (register << 1) ^ (0x04C11DB7 if register & 0x80000000 else 0)
        table.append(register & 0xFFFFFFFF)
    content, start = bytearray(ogg), 0
    while start < len(content):
        if content[start : start + 4] != b"OggS":
            raise BuildError(f"expected an Ogg page at byte {start}")
        segments = content[start + 26]
        end = start + 27 + segments + sum(content[start + 27 : start + 27 + segments])
        content[start + 14 : start + 18] = (1).to_bytes(4, "little")
        content[start + 22 : start + 26] = bytes(4)
        checksum = 0
        for byte in content[start:end]:
            checksum = ((checksum << 8) & 0xFFFFFFFF) ^ table[(checksum >> 24) ^ byte]
        content[start + 22 : start + 26] = checksum.to_bytes(4, "little")
        start = end
    return bytes(content)


def _speak(voice: Voice, text: str) -> np.ndarray:
    """One utterance at SPEECH_RATE: (L,) int16, silence trimmed, its peak at SPEECH_PEAK."""
    import numpy as np
    import soundfile
    from scipy.signal import resample_poly

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "speech.wav"
        options = ["-v", voice.name, "-p", str(voice.pitch), "-s", str(voice.speed), "-w", str(file)]
        run = subprocess.run(["espeak-ng", *options, text], capture_output=True, text=True)
        if run.returncode or not file.exists():
            raise BuildError(
                f"espeak-ng {' '.join(options[:6])} failed: {run.stderr.strip() or 'no message'}"
            )
        samples, rate = soundfile.read(file)
    if rate != ESPEAK_RATE or samples.ndim != 1:
        raise BuildError(
            f"expected one channel at {ESPEAK_RATE} Hz of espeak-ng, got {samples.shape} at {rate}"
        )
    margin = round(SPEECH_MARGIN * SPEECH_RATE)  # espeak-ng starts some vowels at its first sample
    samples = np.pad(resample_poly(samples, SPEECH_RATE // 50, ESPEAK_RATE // 50), margin)
    loud = np.flatnonzero(np.abs(samples) > SPEECH_FLOOR * np.abs(samples).max())
    samples = samples[loud[0] - margin : loud[-1] + 1 + margin]
    return np.round(samples * (SPEECH_PEAK * 2**15 / np.abs(samples).max())).astype(np.int16)


# ---------------------------------------------------------------------------------------------- fonts


def build_fonts() -> None:
    """Write ``fonts/*.ttf``."""
    _need("fontTools")
    try:
        make_fonts.build(project.write_bytes, _npm_pack, DATA / "fonts")
    except ValueError as error:
        raise BuildError(str(error)) from None


# ------------------------------------------------------------------------------------------- manifest


def register(
    file: str | os.PathLike[str], *, licence: str, origin: str, rebuild: str, credit: str = "", **metrics: Any
) -> None:
    """Enter one file of ``data/``, with its present checksum and size, in the manifest.

    Args:
        file: below ``data/``, absolute or relative to it.
        licence: SPDX expression.
        origin: what it was made from, with versions.
        rebuild: the command that makes it again.
        credit: whom to name.
        metrics: numbers that belong to the file, such as a checkpoint's held-out accuracy.
    """
    name = Path(DATA / file).resolve().relative_to(DATA.resolve()).as_posix()
    content = (DATA / name).read_bytes()
    entry = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "licence": licence,
        "origin": origin,
        "credit": credit,
        "rebuild": rebuild,
    } | ({"metrics": metrics} if metrics else {})
    with project.exclusive(DATA):  # two builders may register at once
        _save_manifest(_load_manifest() | {name: entry})


def write_manifest() -> None:
    """Enter the files that this module builds, and drop entries whose file is gone.

    Other files keep the entry that their own builder made with :func:`register`.

    Raises:
        BuildError: data/ holds a file that nobody registered.
    """
    for name, entry in _own_entries().items():
        if (DATA / name).exists():
            register(name, **entry)
    present = {p.relative_to(DATA).as_posix() for p in DATA.rglob("*") if p.is_file()}
    present = {name for name in present if not name.startswith(UNLISTED)}
    files = _load_manifest()
    if unknown := sorted(present - set(files)):
        raise BuildError(f"not registered: data/{', data/'.join(unknown)}; call register() where it is made")
    _save_manifest({name: entry for name, entry in files.items() if name in present})
    print(f"manifest: {len(present)} files, {sum((DATA / name).stat().st_size for name in present):,} bytes")


def _own_entries() -> dict[str, dict[str, str]]:
    command = "python -m mmscratch.kit.make_data"
    rendered = f"Pillow {version('pillow')}"
    entries = {
        "emoji/noto.webp": {
            "licence": "Apache-2.0 AND OFL-1.1",
            "origin": f"Debian package {FONT_PACKAGE} {FONT_VERSION}, sha256 {FONT_SHA256}; {rendered}",
            "credit": "Noto Emoji, copyright 2013-2017 Google Inc.",
        },
        "emoji/openmoji.webp": {
            "licence": "CC-BY-SA-4.0",
            "origin": f"npm package {OPENMOJI}, sha512-{OPENMOJI_SHA512}; "
            f"resvg-py {version('resvg-py')}, {rendered}",
            "credit": "OpenMoji, the open-source emoji and icon project, openmoji.org",
        },
        "emoji/emoji.json": {
            "licence": "CC-BY-SA-4.0 AND BSD-3-Clause AND Unicode-3.0",
            "origin": f"names: Python package emoji {version('emoji')} (from Unicode CLDR); "
            f"groups and tags: npm package {OPENMOJI}",
            "credit": "OpenMoji; Taehoon Kim and Kevin Wurster; Unicode, Inc.",
        },
        "photos/photos.json": {
            "licence": "CC-BY-4.0",
            "origin": "written for this book",
            "credit": "Multimodal from Scratch",
        },
    }
    for name in ("speech.json", "readings.json"):
        if (index := DATA / "speech" / name).exists():  # says itself what it was made with
            speech = json.loads(index.read_text(encoding="utf-8"))
            for file in (f"speech/{name}", *(voice["file"] for voice in speech["voices"])):
                entries[file] = {
                    "licence": "CC-BY-4.0",
                    "origin": f"synthesised by this book with {speech['program']}; {speech['made_with']}",
                    "credit": "Multimodal from Scratch",
                }
    entries["speech/fsdd.json"] = {
        "licence": "CC-BY-4.0",
        "origin": f"checksums of recordings in {FSDD_REPOSITORY} at commit {FSDD_COMMIT}",
        "credit": "the recordings themselves: Zohar Jackson and contributors, CC BY-SA 4.0",
    }
    for photo in PHOTOS:
        package = PHOTO_PACKAGES[photo["file"].partition("/")[0]]
        entries[f"photos/{photo['name']}.jpg"] = {
            "licence": photo["licence"],
            "origin": f"{photo['file']} in Python package {package} {version(package)}, "
            f"sha256 {photo['sha256']}; resized; {rendered}",
            "credit": photo["credit"],
        }
    entries |= make_fonts.entries()
    return {k: v | {"rebuild": f"{command} {k.partition('/')[0]}"} for k, v in entries.items()}


def _load_manifest() -> dict[str, Any]:
    file = DATA / "manifest.json"
    return json.loads(file.read_text(encoding="utf-8")).get("files", {}) if file.exists() else {}


def _save_manifest(files: dict[str, Any]) -> None:
    text = json.dumps({"files": dict(sorted(files.items()))}, indent=1, ensure_ascii=False) + "\n"
    project.write_bytes(DATA / "manifest.json", text.encode())


# -------------------------------------------------------------------------------------------- command


def _need(*modules: str) -> None:
    if missing := [module for module in modules if find_spec(module) is None]:
        raise BuildError(f"Python package {', '.join(missing)} is missing; type: pip install -e '.[data]'")


def main(arguments: list[str] | None = None) -> None:
    summary = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m mmscratch.kit.make_data", description=summary)
    parser.add_argument(
        "what", nargs="*", metavar="emoji | photos | speech | fonts | manifest", help="default: everything"
    )
    parser.add_argument("--font", type=Path, default=FONT, help="where NotoColorEmoji.ttf lies")
    parser.add_argument("--fsdd", type=Path, help="folder with the recordings of the spoken digits")
    parser.add_argument("--openmoji", type=Path, help=f"the archive that `npm pack {OPENMOJI}` gives")
    options = parser.parse_args(arguments)
    if unknown := set(options.what) - {"emoji", "photos", "speech", "fonts", "manifest"}:
        parser.error(f"expected emoji, photos, speech, fonts or manifest, not {', '.join(sorted(unknown))}")
    what = options.what or ["emoji", "photos", "speech", "fonts"]
    if "emoji" in what:
        build_emoji(options.font, options.openmoji)
    if "photos" in what:
        build_photos()
    if "speech" in what:
        build_speech()
        if options.fsdd:
            build_real_digits(options.fsdd)
    if "fonts" in what:
        build_fonts()
    write_manifest()


if __name__ == "__main__":
    sys.exit(main())
