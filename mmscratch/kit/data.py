"""What ships with the book: emoji in two drawing styles, photographs, speech, checkpoints.

Every file under ``data/`` is listed in ``data/manifest.json`` with its sha256. :func:`path` hands out a file
only after its checksum was verified; a missing or damaged one is fetched again from the book's repository.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

TILE = 64
"""Edge of one emoji in the sprite sheets, in pixels."""

STYLES = ("noto", "openmoji")

GROUPS = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)
"""The Unicode emoji groups, in Unicode's order; ``EmojiSet.groups`` indexes this tuple."""

BRANCH = "main"  # the branch whose data/ a damaged file is fetched from


class DataError(RuntimeError):
    """A data file is missing or damaged and could not be fetched again."""


# ---------------------------------------------------------------------------------------------- files


def path(name: str, *, root: str | os.PathLike[str] | None = None) -> Path:
    """Return the local path of data file ``name``, its checksum verified.

    Looks in the folder named by ``MMSCRATCH_DATA_DIR``, then in the checkout's ``data/``, then in the user's
    cache. Where none holds an intact copy, the file is fetched into the cache; the checkout is never
    written to.

    Args:
        name: path below ``data/`` as the manifest lists it, such as ``"emoji/noto.webp"``.
        root: look in this folder only; it must hold a ``manifest.json`` of its own.

    Raises:
        ValueError: the manifest does not list ``name``.
        DataError: no intact copy here and none could be fetched.
    """
    entry = _entry(name, root)
    cached = _cache() / name
    places = [Path(root) / name] if root is not None else [*(place / name for place in _folders()), cached]
    seen = []
    for place in places:
        found = _sha256(place)
        if found == entry["sha256"]:
            return place
        seen.append(f"{place}: {'missing' if found is None else 'sha256 ' + found}")
    reason = _fetch(name, entry, cached)
    if reason is None:
        return cached
    raise DataError(
        f"data file {name} is missing or damaged.\n"
        f"  expected: sha256 {entry['sha256']} ({entry['bytes']:,} bytes)\n"
        + "".join(f"  got: {line}\n" for line in seen)
        + f"  fetching it again: {reason}\n"
        f"  what to do: `git checkout -- data/{name}` in a clone, rebuild it with `{entry['rebuild']}`, "
        "or put a good copy into a folder named by MMSCRATCH_DATA_DIR."
    )


def manifest(*, root: str | os.PathLike[str] | None = None) -> dict[str, dict[str, Any]]:
    """Return the manifest: file name to its sha256, bytes, licence, origin, credit, rebuild and metrics."""
    if root is not None:
        return _read_manifest(Path(root) / "manifest.json")
    checkout = _checkout()
    # a wheel carries the manifest beside this module, but none of the files it lists
    file = checkout / "manifest.json" if checkout else Path(__file__).with_name("manifest.json")
    return _read_manifest(file)


def _entry(name: str, root: str | os.PathLike[str] | None) -> dict[str, Any]:
    files = manifest(root=root)
    if name not in files:
        import difflib

        near = difflib.get_close_matches(name, files, n=3, cutoff=0.4) or sorted(files)
        raise ValueError(f"no data file is called {name!r}; the manifest lists {', '.join(near)}")
    return files[name]


def _read_manifest(file: Path) -> dict[str, dict[str, Any]]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        raise DataError(f"the list of data files is missing: expected it at {file}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"the list of data files is damaged: {file}: {error!r}") from None


def _checkout() -> Path | None:
    from mmscratch.kit import project

    root = project.root()
    return None if root is None else Path(root) / "data"


def _folders() -> list[Path]:
    extra = os.environ.get("MMSCRATCH_DATA_DIR")
    checkout = _checkout()
    return ([Path(extra).expanduser()] if extra else []) + ([checkout] if checkout else [])


def _pooch():
    """pooch, without the warning that its progress bars give in a notebook that has no widgets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pooch
    return pooch


def _cache() -> Path:
    return Path(_pooch().os_cache("mmscratch")) / "data"


_hashes: dict[Path, tuple[tuple[int, int], str]] = {}


def _sha256(file: Path) -> str | None:
    """Hash ``file`` once per process, and again only when its time or size changed; ``None`` if absent."""
    try:
        stat = file.stat()
        state = (stat.st_mtime_ns, stat.st_size)
        if _hashes.get(file, (None, ""))[0] != state:
            with file.open("rb") as stream:
                _hashes[file] = (state, hashlib.file_digest(stream, "sha256").hexdigest())
    except OSError:
        return None
    return _hashes[file][1]


def _fetch(name: str, entry: dict[str, Any], destination: Path) -> str | None:
    """Fetch ``name`` to ``destination``; return ``None``, or why it failed."""
    from mmscratch.kit import project

    repository = project.repository_url()
    if not repository:
        return "not possible, no repository address is known"
    url = f"{repository.rstrip('/')}/raw/{BRANCH}/data/{name}"
    print(f"fetching data/{name} ({entry['bytes'] / 1e6:.1f} MB)")
    try:
        _retrieve(url, entry["sha256"], destination)
    except Exception as error:  # every way a download can fail ends in one message for the reader
        return f"{url} failed with {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    found = _sha256(destination)
    return None if found == entry["sha256"] else f"{url} gave sha256 {found}"


def _retrieve(url: str, sha256: str, destination: Path) -> None:
    pooch = _pooch()
    pooch.get_logger().setLevel("WARNING")  # our own line was printed already
    # pooch writes to a temporary file, checks the hash and only then moves it into place
    pooch.retrieve(url, known_hash=f"sha256:{sha256}", fname=destination.name, path=destination.parent)


# ---------------------------------------------------------------------------------------------- emoji


@dataclass(frozen=True, repr=False)
class EmojiSet:
    """Every emoji in one drawing style; index ``i`` is the same concept in every style.

    Attributes:
        images: uint8 ``(N, 3, size, size)``, or ``(N, 4, size, size)`` with straight alpha.
        groups: int64 ``(N,)``, indices into ``GROUPS``.
        subgroups: int64 ``(N,)``, indices into ``subgroup_names``.
        names: English names, such as ``"grinning face"``.
        chars: the emoji themselves, as Unicode strings.
        tags: further English words for each emoji.
    """

    GROUPS: ClassVar[tuple[str, ...]] = GROUPS

    style: str
    images: Tensor
    groups: Tensor
    subgroups: Tensor
    subgroup_names: tuple[str, ...]
    names: list[str]
    chars: list[str]
    tags: list[list[str]]
    translations: dict[str, list[str]]

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"EmojiSet({self.style!r}, images {tuple(self.images.shape)})"

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes that :meth:`names_in` accepts."""
        return tuple(self.translations)

    def names_in(self, language: str) -> list[str]:
        """Return the names in a language given by its code, such as ``"de"``."""
        if language not in self.translations:
            raise ValueError(f"no names in {language!r}; there are {', '.join(self.translations)}")
        return self.translations[language]


def emoji(
    style: str = "noto", *, size: int = TILE, background: str | Sequence[int] | None = "white"
) -> EmojiSet:
    """Load all emoji in one drawing style.

    Args:
        style: ``"noto"`` (shaded) or ``"openmoji"`` (flat colours, black outlines).
        size: edge in pixels, 8 to 64; smaller than 64 is area-averaged.
        background: colour name or ``(r, g, b)`` to lay the emoji on; ``None`` keeps a fourth, alpha channel.
    """
    import numpy as np
    import torch
    from PIL import Image

    if style not in STYLES:
        raise ValueError(f"emoji style must be one of {', '.join(STYLES)}, not {style!r}")
    if isinstance(size, bool) or not isinstance(size, int) or not 8 <= size <= TILE:
        raise ValueError(f"emoji size must be a whole number of pixels from 8 to {TILE}, not {size!r}")
    index = _emoji_index(path("emoji/emoji.json"))
    count = len(index["chars"])
    with Image.open(path(f"emoji/{style}.webp")) as file:
        sheet = file.convert("RGBA")
    if background is not None:
        sheet = _lay_on(sheet, background)
    sheet = _shrink(sheet, size)
    columns, rows = sheet.width // size, sheet.height // size
    if columns * rows < count:
        raise DataError(f"emoji/{style}.webp holds {columns * rows} tiles, emoji.json names {count}")
    tiles = torch.from_numpy(np.array(sheet)).view(rows, size, columns, size, -1)
    images = tiles.permute(0, 2, 4, 1, 3).reshape(rows * columns, -1, size, size)[:count]
    return EmojiSet(
        style=style,
        images=images.contiguous(),
        groups=torch.tensor(index["groups"]),
        subgroups=torch.tensor(index["subgroups"]),
        subgroup_names=tuple(index["subgroup_names"]),
        names=index["names"]["en"],
        chars=index["chars"],
        tags=index["tags"],
        translations=index["names"],
    )


@functools.lru_cache(maxsize=2)
def _emoji_index(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def _lay_on(sheet: Image.Image, background: str | Sequence[int]) -> Image.Image:
    from PIL import Image, ImageColor

    try:
        colour = ImageColor.getrgb(background) if isinstance(background, str) else tuple(background)
        if len(colour) != 3 or not all(isinstance(c, int) and 0 <= c <= 255 for c in colour):
            raise ValueError
    except (ValueError, TypeError):
        raise ValueError(
            f"background must be a colour name, three integers from 0 to 255 or None, not {background!r}"
        ) from None
    ground = Image.new("RGB", sheet.size, colour)
    ground.paste(sheet, mask=sheet.getchannel("A"))
    return ground


def _shrink(sheet: Image.Image, size: int) -> Image.Image:
    from PIL import Image

    if size == TILE:
        return sheet
    if TILE % size == 0:
        return sheet.reduce(TILE // size)  # exact mean over whole blocks; never crosses a tile's border
    if sheet.mode == "RGBA":  # average colours weighted by alpha
        return _shrink(sheet.convert("RGBa"), size).convert("RGBA")
    columns, rows = sheet.width // TILE, sheet.height // TILE
    small = Image.new(sheet.mode, (columns * size, rows * size))
    for row in range(rows):
        for column in range(columns):
            left, top = column * TILE, row * TILE
            box = (left, top, left + TILE, top + TILE)  # the filter does not look outside this box
            tile = sheet.resize((size, size), Image.Resampling.HAMMING, box=box)
            small.paste(tile, (column * size, row * size))
    return small


# --------------------------------------------------------------------------------------------- photos


@dataclass(frozen=True)
class Photo:
    """One photograph with what a page must say about it.

    Attributes:
        labels: plain words for what the picture shows.
        imagenet: ImageNet-1k categories (torchvision's spelling) that fit; empty where none does.
        licence: SPDX identifier.
        source: where the package that carries the picture says it came from.
    """

    name: str
    title: str
    alt: str
    labels: tuple[str, ...]
    imagenet: tuple[str, ...]
    licence: str
    credit: str
    source: str
    path: Path

    @property
    def image(self) -> Image.Image:
        """The picture as an RGB ``PIL.Image``."""
        from PIL import Image

        with Image.open(self.path) as file:
            return file.convert("RGB")

    def tensor(self, size: int | tuple[int, int] | None = None) -> Tensor:
        """Return float32 ``(3, H, W)`` in [0, 1].

        Args:
            size: ``None`` keeps the picture as it is; a number gives a centred square of that edge, and
                ``(height, width)`` a centred crop of that shape, resized with antialiasing.
        """
        import numpy as np
        import torch
        from PIL import Image, ImageOps

        picture = self.image
        if size is not None:
            height, width = (size, size) if isinstance(size, int) else size
            if height < 1 or width < 1:
                raise ValueError(f"photo size must be at least 1 pixel, not {size!r}")
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div(255)


def photos() -> list[Photo]:
    """Return the book's photographs, in a fixed order."""
    entries = json.loads(path("photos/photos.json").read_text(encoding="utf-8"))
    return [
        Photo(
            **{key: entry[key] for key in ("name", "title", "alt", "licence", "credit", "source")},
            labels=tuple(entry["labels"]),
            imagenet=tuple(entry["imagenet"]),
            path=path(f"photos/{entry['name']}.jpg"),
        )
        for entry in entries
    ]


def picture(file: str | os.PathLike[str], size: int) -> Tensor:
    """Read any picture file: float32 ``(3, size, size)`` in [0, 1], turned upright, transparency on white.

    The longer side is cut to a centred square.

    Raises:
        OSError: there is no such file.
        ValueError: it is no picture, or is damaged, cut short or implausibly large.
    """
    import numpy as np
    import torch
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                whole = ImageOps.exif_transpose(opened).convert("RGBA")
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
        unknown = isinstance(error, UnidentifiedImageError)  # its message is the path, which the caller knows
        why = "no known format" if unknown else str(error).splitlines()[0][:80]
        raise ValueError(f"not a picture that can be read: {why}") from None
    ground = Image.new("RGB", whole.size, "white")
    ground.paste(whole, mask=whole.getchannel("A"))
    square = ImageOps.fit(ground, (size, size), Image.Resampling.BOX)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float().div(255)


# --------------------------------------------------------------------------------------------- speech


@dataclass(frozen=True, eq=False)
class Utterance:
    """One spoken sentence or word.

    Attributes:
        text: what is said, as the tiny world writes it: lower case, "?" where it is a question.
        voice: name of the synthetic voice, such as ``"en-us+f3"``, or of the speaker.
        split: ``"train"``, ``"dev"`` or ``"test"``; a voice is in one of them only.
        rate: samples a second.
        waveform: float32 ``(L,)`` in [-1, 1].
        kind: ``"sentence"``, ``"digits"`` (some in a row) or ``"word"``.
    """

    text: str
    voice: str
    split: str
    rate: int
    waveform: Tensor
    kind: str = "sentence"

    def __repr__(self) -> str:
        return f"Utterance({self.text!r}, voice {self.voice!r}, {self.seconds:.2f} s)"

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.waveform) / self.rate


def speech(*, voice: str | None = None, split: str | None = None, text: str | None = None) -> list[Utterance]:
    """Return what the book's synthetic voices say, voice by voice and always in the same order.

    Every voice says the same sentences of the tiny world and the digits from "zero" to "nine".

    Args:
        voice: only this voice, such as ``"en-us"``.
        split: only the voices for ``"train"`` or for ``"test"``.
        text: only this sentence, such as ``"seven"``.

    Raises:
        ValueError: nothing is spoken by that voice, in that split or with that text.
    """
    index = _speech_index(path("speech/speech.json"))
    voices = [entry["name"] for entry in index["voices"]]
    splits = list(dict.fromkeys(entry["split"] for entry in index["voices"]))
    for name, wanted, there in (
        ("voice", voice, voices),
        ("split", split, splits),
        ("text", text, index["texts"]),
    ):
        if wanted is not None and wanted not in there:
            raise ValueError(f"{name} of speech must be one of {', '.join(map(repr, there))}, not {wanted!r}")
    found = []
    for entry in index["voices"]:
        if voice not in (None, entry["name"]) or split not in (None, entry["split"]):
            continue
        waveform, start = _samples(path(entry["file"]), index["rate"]), 0
        for spoken, end in zip(index["texts"], entry["ends"], strict=True):
            if text in (None, spoken):
                part = waveform[start:end].clone()  # the reader's own, to change at will
                found.append(Utterance(spoken, entry["name"], entry["split"], index["rate"], part))
            start = end
    if not found:
        theirs = next(entry["split"] for entry in index["voices"] if entry["name"] == voice)
        raise ValueError(f"voice {voice!r} is in split {theirs!r}, not in {split!r}")
    return found


def readings(
    *, split: str | None = None, kind: str | None = None, voice: str | None = None
) -> list[Utterance]:
    """Return what the book's readers say, for lessons that train on speech: always in the same order.

    24 synthetic voices, each with sentences of the tiny world and rows of digits that no other one reads.
    The voices of split "train" also say every word alone. Stored in Opus at about 12 kbit/s.

    Args:
        split: only the voices for ``"train"``, for ``"dev"`` (choosing settings) or for ``"test"``.
        kind: only ``"sentence"``, ``"digits"`` or ``"word"``.
        voice: only this voice, such as ``"en-us"``.

    Raises:
        ValueError: no reading is in that split, of that kind or by that voice.
    """
    index = _speech_index(path("speech/readings.json"))
    voices = index["voices"]
    for name, wanted, there in (
        ("split", split, dict.fromkeys(entry["split"] for entry in voices)),
        ("kind", kind, dict.fromkeys(k for entry in voices for k in entry["kinds"])),
        ("voice", voice, [entry["name"] for entry in voices]),
    ):
        if wanted is not None and wanted not in there:
            raise ValueError(
                f"{name} of readings must be one of {', '.join(map(repr, there))}, not {wanted!r}"
            )
    found = []
    for entry in voices:
        if voice not in (None, entry["name"]) or split not in (None, entry["split"]):
            continue
        waveform, start = _samples(path(entry["file"]), index["rate"]), 0
        kinds = [k for k, count in entry["kinds"].items() for _ in range(count)]
        for spoken, its_kind, end in zip(entry["texts"], kinds, entry["ends"], strict=True):
            if kind in (None, its_kind):
                part = waveform[start:end].clone()
                found.append(Utterance(spoken, entry["name"], entry["split"], index["rate"], part, its_kind))
            start = end
    if not found:
        raise ValueError(f"no reading is in split {split!r}, of kind {kind!r} and by voice {voice!r}")
    return found


DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def real_digits(split: str = "test", *, speaker: str | None = None) -> list[Utterance]:
    """Return recordings of the Free Spoken Digit Dataset (CC BY-SA 4.0): real people, 8 kHz.

    Six speakers say each digit five times in ``"test"`` (its official test split) and five times in
    ``"train"``. Each file is looked for in ``fsdd/recordings/`` below the folder named by MMSCRATCH_DATA_DIR,
    then in the user's cache, then fetched, and its checksum is verified. Where that fails, an empty list is
    returned and one line printed.

    Raises:
        ValueError: there is no such split or speaker.
    """
    index = _speech_index(path("speech/fsdd.json"))
    speakers = list(dict.fromkeys(name.split("_")[1] for name in index["sha256"]))
    if split not in ("train", "test"):
        raise ValueError(f"split of real digits must be one of 'train', 'test', not {split!r}")
    if speaker is not None and speaker not in speakers:
        raise ValueError(
            f"speaker of real digits must be one of {', '.join(map(repr, speakers))}, not {speaker!r}"
        )
    found = []
    for name, sha256 in index["sha256"].items():
        digit, who, number = name.split("_")
        if speaker in (None, who) and (int(number) < 5) == (split == "test"):
            file = _recording(f"fsdd/recordings/{name}.wav", sha256, index)
            if isinstance(file, str):
                print(f"spoken digits of real people: skipped ({file})")
                return []
            waveform = _samples(file, 8000).clone()
            found.append(Utterance(DIGIT_WORDS[int(digit)], who, split, 8000, waveform, "word"))
    return found


def _recording(name: str, sha256: str, index: dict[str, Any]) -> Path | str:
    """An intact copy of one public recording, or why there is none."""
    extra = os.environ.get("MMSCRATCH_DATA_DIR")
    cached = _cache() / name
    for place in [*([Path(extra).expanduser() / name] if extra else []), cached]:
        if _sha256(place) == sha256:
            return place
    address = index["repository"].replace("https://github.com/", "https://raw.githubusercontent.com/")
    url = f"{address}/{index['commit']}/recordings/{cached.name}"
    try:
        _retrieve(url, sha256, cached)
    except Exception as error:  # no network, a proxy's page in place of the file, a full disk
        return f"{type(error).__name__}; set MMSCRATCH_DATA_DIR to a folder that holds {name}"
    return cached


@functools.lru_cache(maxsize=4)
def _speech_index(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=32)
def _samples(file: Path, rate: int) -> Tensor:
    """Decode one channel of FLAC, Ogg or WAV: float32 ``(L,)``."""
    import soundfile
    import torch

    samples, found = soundfile.read(file, dtype="float32")
    if samples.ndim != 1 or found != rate:
        raise DataError(
            f"{file} holds {samples.shape} samples at {found} Hz; expected one channel at {rate} Hz"
        )
    return torch.from_numpy(samples)


# ---------------------------------------------------------------------------------------- checkpoints


def checkpoint(
    name: str, *, root: str | os.PathLike[str] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Load ``data/checkpoints/<name>.safetensors``: its tensors by name, and its metadata."""
    from safetensors import safe_open

    with safe_open(path(f"checkpoints/{name}.safetensors", root=root), framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})
