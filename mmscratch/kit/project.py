"""Facts about the project, each read from its one home.

Addresses come from `pyproject.toml`, the order of the lessons from `book/lessons.yml`, what a lesson says
about itself from its notebook, and how long it ran from `book/_data/lesson_runs.json`. Imports nothing heavy,
so that the Sphinx extension, the tests and the notebooks can all use it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

KINDS = ("Learn", "Build", "Lab", "Project")
NOTEBOOK_NAME = re.compile(r"(\d\d)_[a-z0-9_]+")
_METADATA = {  # notebook metadata `lesson`: key -> type of its value, or of the items of its list
    "number": str,
    "module": str,
    "kind": str,
    "minutes": int,
    "prerequisites": [str],
    "reference": [str],
    "builds": str,
    "objectives": [str],
}


@dataclass(frozen=True)
class Lesson:
    """One lesson. `part` counts from 1; a planned lesson has no module and no seconds."""

    number: str
    name: str
    title: str
    kind: str
    part: int
    builds: str
    written: bool
    minutes: int | None = None
    seconds: int | None = None
    module: str | None = None
    prerequisites: tuple[str, ...] = ()
    reference: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()

    @property
    def notebook(self) -> str:
        """Path of the notebook in the repository, whether it is written or not."""
        return f"notebooks/{self.name}.ipynb"


@dataclass(frozen=True)
class Part:
    """A part of the book and its lessons in order. `page` is its opening page in the repository, or None."""

    number: int
    title: str
    tagline: str
    page: str | None
    lessons: tuple[Lesson, ...]


@dataclass(frozen=True)
class LearningPath:
    """An order in which to read some lessons for a purpose. `whole`: it is the book itself."""

    title: str
    promise: str
    lessons: tuple[Lesson, ...]
    whole: bool


@functools.cache
def root() -> Path | None:
    """The checkout this package was imported from, or None where only the package is installed."""
    candidate = Path(__file__).resolve().parents[2]
    return candidate if (candidate / "pyproject.toml").is_file() and (candidate / "data").is_dir() else None


def require_root() -> Path:
    """As `root`, for tools that work on the repository. Raises FileNotFoundError outside a checkout."""
    if (found := root()) is None:
        raise FileNotFoundError(
            "this needs a checkout of the repository, but mmscratch was installed without one; "
            f"clone {repository_url()} and install it with `make`"
        )
    return found


@functools.cache
def _project() -> dict[str, Any]:
    if (checkout := root()) is not None:
        with open(checkout / "pyproject.toml", "rb") as file:
            project = tomllib.load(file)["project"]
        return {"version": project["version"], "urls": project["urls"]}
    installed = metadata.metadata("mmscratch")
    urls = dict(entry.split(", ", 1) for entry in installed.get_all("Project-URL") or ())
    return {"version": installed["Version"], "urls": urls}


def repository_url() -> str:
    """Where the code lives, without a trailing slash."""
    return _project()["urls"]["Repository"].rstrip("/")


def site_url() -> str:
    """Where the book is read, with a trailing slash."""
    return _project()["urls"]["Homepage"].rstrip("/") + "/"


def package_version() -> str:
    """Version of mmscratch."""
    return _project()["version"]


def notebooks(tree: Path | None = None) -> list[Path]:
    """All lessons' notebooks in `tree` (default: this checkout), in order of their numbers."""
    return sorted(((tree or require_root()) / "notebooks").glob("*.ipynb"))


def find_notebook(number: str, tree: Path | None = None) -> Path:
    """The notebook of lesson "04". Raises FileNotFoundError if there is none, ValueError if there are two."""
    found = [path for path in notebooks(tree) if path.name.startswith(f"{number}_")]
    if not found:
        known = ", ".join(path.stem for path in notebooks(tree)) or "none"
        raise FileNotFoundError(f"no notebook for lesson {number!r} in notebooks/; there are: {known}")
    if len(found) > 1:
        raise ValueError(f"lesson {number} has two notebooks: {', '.join(path.name for path in found)}")
    return found[0]


def lesson_metadata(path: Path, notebook: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the notebook at `path` says about itself (`metadata.lesson`), checked, with its H1 as "title".

    Raises ValueError that names the notebook for a missing or unknown key, a wrong type, an unknown kind, a
    number that differs from the file's name, or a first cell that is no title.
    """
    if notebook is None:
        try:
            notebook = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path.name}: not a notebook ({error})") from None
    where = f"{path.name}: metadata.lesson"
    if not (match := NOTEBOOK_NAME.fullmatch(path.stem)):
        raise ValueError(f"{path.name}: a lesson's file is named NN_name.ipynb, lower case with underscores")
    facts = notebook.get("metadata", {}).get("lesson")
    if not isinstance(facts, dict):
        raise ValueError(f"{where} is missing; it holds {', '.join(_METADATA)}")
    if facts.keys() != _METADATA.keys():
        missing, unknown = sorted(_METADATA.keys() - facts.keys()), sorted(facts.keys() - _METADATA.keys())
        raise ValueError(f"{where}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
    for key, kind in _METADATA.items():
        value = facts[key]
        items, wanted = (value, kind[0]) if isinstance(kind, list) else ([value], kind)
        if not isinstance(items, list) or any(type(item) is not wanted or not item for item in items):
            expected = f"a list of {wanted.__name__}" if isinstance(kind, list) else wanted.__name__
            raise ValueError(f"{where}.{key} must be {expected}, not empty, got {value!r}")
    if facts["number"] != match[1]:
        raise ValueError(f"{where}.number is {facts['number']!r}, the file's name says {match[1]!r}")
    if facts["kind"] not in KINDS:
        raise ValueError(f"{where}.kind must be one of {', '.join(KINDS)}, got {facts['kind']!r}")
    if not facts["module"].isidentifier() or facts["module"] == "kit" or facts["module"].startswith("_"):
        raise ValueError(f"{where}.module must be a module name (and not 'kit'), got {facts['module']!r}")
    if facts["minutes"] < 1:
        raise ValueError(f"{where}.minutes must be positive, got {facts['minutes']}")
    for number in facts["prerequisites"]:
        if not re.fullmatch(r"\d\d", number) or number >= facts["number"]:
            raise ValueError(
                f"{where}.prerequisites must be numbers of earlier lessons such as '01', got {number!r}"
            )
    first = next(iter(notebook.get("cells", ())), {})
    lines = "".join(first.get("source", "")).splitlines()
    if first.get("cell_type") != "markdown" or not lines or not lines[0].startswith("# "):
        raise ValueError(
            f"{path.name}: the first cell must be Markdown that starts with the title, `# Title`"
        )
    return {**facts, "title": lines[0][2:].strip()}


def parts(tree: Path | None = None) -> list[Part]:
    """The parts of the book with their lessons, written and planned, in `tree` (default: this checkout).

    Raises ValueError naming the file for anything missing or contradictory: a planned lesson without title,
    kind or one line of what it builds, a written lesson that still has them, a notebook that is not listed.
    """
    import yaml

    tree = tree or require_root()
    index = tree / "book" / "lessons.yml"
    listed = yaml.safe_load(index.read_text(encoding="utf-8"))["parts"]
    runs_file = tree / "book" / "_data" / "lesson_runs.json"
    runs = json.loads(runs_file.read_text(encoding="utf-8")) if runs_file.is_file() else {}
    written = {path.stem: path for path in notebooks(tree)}
    result: list[Part] = []
    numbers: dict[str, str] = {}
    for part_number, part in enumerate(listed, start=1):
        lessons_of_part = []
        for entry in part["lessons"]:
            name = entry.get("name", "")
            if not (match := NOTEBOOK_NAME.fullmatch(name)):
                raise ValueError(f"{index.name}: a lesson's name looks like 07_clip, got {name!r}")
            number = match[1]
            if number in numbers:
                raise ValueError(f"{index.name}: number {number} is used by {numbers[number]} and {name}")
            numbers[number] = name
            planned = {key: value for key, value in entry.items() if key != "name"}
            if name in written:
                if planned:
                    raise ValueError(
                        f"{index.name}: {name} has a notebook for {', '.join(planned)}; keep its name"
                    )
                facts = lesson_metadata(written[name])
                for key in ("prerequisites", "reference", "objectives"):
                    facts[key] = tuple(facts[key])
                seconds = runs.get(number, {}).get("seconds")
                lessons_of_part.append(
                    Lesson(name=name, part=part_number, seconds=seconds, written=True, **facts)
                )
            else:
                if planned.keys() != {"title", "kind", "builds"} or not all(
                    isinstance(value, str) and value for value in planned.values()
                ):
                    raise ValueError(
                        f"{index.name}: {name} is planned and needs title, kind and builds (text), "
                        f"got {planned or 'none'}"
                    )
                if planned["kind"] not in KINDS:
                    raise ValueError(
                        f"{index.name}: {name}: kind {planned['kind']!r} is not one of {', '.join(KINDS)}"
                    )
                lessons_of_part.append(
                    Lesson(number=number, name=name, part=part_number, written=False, **planned)
                )
        result.append(
            Part(part_number, part["title"], part["tagline"], part.get("page"), tuple(lessons_of_part))
        )
    if unlisted := sorted(written.keys() - set(numbers.values())):
        raise ValueError(f"{index.name} does not list the notebook {', '.join(unlisted)}")
    modules: dict[str, str] = {}
    for lesson in (lesson for part in result for lesson in part.lessons):
        if lesson.module and lesson.module in modules:
            raise ValueError(
                f"{modules[lesson.module]} and {lesson.name} both name the module {lesson.module!r}"
            )
        modules[lesson.module or ""] = lesson.name
        if unknown := [number for number in lesson.prerequisites if number not in numbers]:
            raise ValueError(f"{lesson.name}: prerequisites {unknown} are not in {index.name}")
    return result


def lessons(tree: Path | None = None) -> list[Lesson]:
    """All lessons of the book in order, written and planned. Raises as `parts` does."""
    return [lesson for part in parts(tree) for lesson in part.lessons]


def paths(tree: Path | None = None) -> list[LearningPath]:
    """The learning paths of `book/lessons.yml`. Raises ValueError for one without title, promise or lessons,
    for a lesson that is not in the book, and for lessons that do not stand in order."""
    import yaml

    tree = tree or require_root()
    index = tree / "book" / "lessons.yml"
    by_number = {lesson.number: lesson for lesson in lessons(tree)}
    result = []
    for entry in yaml.safe_load(index.read_text(encoding="utf-8")).get("paths", ()):
        if entry.keys() != {"title", "promise", "lessons"}:
            raise ValueError(f"{index.name}: a path has title, promise and lessons, got {sorted(entry)}")
        whole = entry["lessons"] == "all"
        numbers = list(by_number) if whole else entry["lessons"]
        if unknown := [number for number in numbers if number not in by_number]:
            raise ValueError(f"{index.name}: path {entry['title']!r}: no lesson {unknown}")
        if numbers != sorted(set(numbers)) or not numbers:
            raise ValueError(f"{index.name}: path {entry['title']!r}: lessons out of order: {numbers}")
        chosen = tuple(by_number[number] for number in numbers)
        result.append(LearningPath(entry["title"], entry["promise"], chosen, whole))
    return result


class Refused(ValueError):
    """A notebook that a tool will not work on. The message names the notebook and, where it can, the cell."""


def read_notebook(path: Path) -> Any:
    """The notebook at `path` as an nbformat node (version 4). Raises Refused where it is none."""
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, nbformat.ValidationError) as error:
        raise Refused(f"{path.name}: not a notebook ({str(error).splitlines()[0]})") from None


def tags(cell: Any) -> frozenset[str]:
    """The tags of a cell."""
    return frozenset(cell.get("metadata", {}).get("tags", ()))


def cell_name(notebook: Any, index: int) -> str:
    """How messages call cell `index`: by the number a run gives it (code only) and its first line."""
    cell = notebook["cells"][index]
    first = next((line for line in cell["source"].splitlines() if line.strip()), "").strip()
    if cell["cell_type"] != "code":
        return f"text cell `{first[:60]}`"
    number = sum(
        other["cell_type"] == "code" and bool(other["source"].strip())
        for other in notebook["cells"][: index + 1]
    )
    return f"cell [{number}] `{first[:60]}`"


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as a whole or not at all: a reader never sees half a file."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` as a whole or not at all. An error, such as a full disk, leaves nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Inside, no other process is that asked for the same folder; others wait. A process that dies lets go.

    For what is read, changed and written back, and for the build of the site. Not to be nested. Where the
    system has no such locks (Windows) nobody waits.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    with open(Path(tempfile.gettempdir(), f"mmscratch-{os.getuid()}-{name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
