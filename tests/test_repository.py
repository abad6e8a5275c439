"""Facts about the repository as a whole."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.util import resolve_name
from pathlib import Path

import pytest
import yaml

from mmscratch.kit import project

ROOT = project.require_root()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def tracked() -> list[Path]:
    """Files of the repository, as git lists them; where git cannot, everything that is not built."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
        if run.returncode == 0:
            return sorted(path for name in run.stdout.split("\0") if name and (path := ROOT / name).is_file())
    built = {".git", ".venv", "_build", "__pycache__", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints"}
    found = [path for path in ROOT.rglob("*") if not built & set(path.relative_to(ROOT).parts)]
    return sorted(path for path in found if path.is_file())


FILES = tracked()


def texts() -> dict[str, str]:
    """Path in the repository -> content, for every tracked file that is text."""
    contents = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in FILES}
    return {name: raw.decode("utf-8", "replace") for name, raw in contents.items() if b"\0" not in raw[:8000]}


# -- files


def test_the_repository_stays_small():
    sizes = {path: path.stat().st_size for path in FILES}
    large = [f"{path.relative_to(ROOT)}: {size:,} bytes" for path, size in sizes.items() if size > 5e6]
    assert not large
    assert sum(sizes.values()) < 80e6
    assert len(sizes) > 50  # the listing worked


def test_no_file_names_a_package_registry():
    hosts = ["pypi" + ".org", "python" + "hosted.org", "npm" + "js.", "yarn" + "pkg.com", "anaconda" + ".org"]
    hosts += ["conda" + ".anaconda", "download." + "pytorch", "deb." + "debian", "archive." + "ubuntu"]
    named = [(name, host) for name, text in texts().items() for host in hosts if host in text]
    assert not named


def test_the_address_of_the_repository_has_one_home():
    places = {name for name, text in texts().items() if project.repository_url() in text}
    assert "pyproject.toml" in places
    # the cell that installs the package on Colab cannot look anything up yet; it is stamped from pyproject
    assert all(re.fullmatch(r"notebooks/\d\d_\w+\.ipynb", name) for name in places - {"pyproject.toml"})


def test_the_address_of_the_site_has_one_home():
    host = project.site_url().split("/")[2]
    assert [name for name, text in texts().items() if host in text] == ["pyproject.toml"]


# -- code

UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def python_sources() -> dict[str, ast.Module]:
    """Every tracked module, and every code cell of a notebook, parsed."""
    found = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in FILES
        if path.suffix == ".py"
    }
    for path in project.notebooks():
        for index, cell in enumerate(project.read_notebook(path).cells):
            if cell.cell_type == "code":
                found[f"{path.name}, cell {index}"] = cell.source
    return {name: ast.parse(source) for name, source in found.items()}


SOURCES = python_sources()


def imported(tree: ast.AST, package: str = "somewhere") -> set[str]:
    """Dotted names of everything that a module of `package` imports, in functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def unsafe(tree: ast.AST) -> set[str]:
    """What in a piece of code could run somebody else's code while it loads data."""
    found = {name.split(".")[0] for name in imported(tree)} & UNSAFE_MODULES
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        options = {keyword.arg: keyword.value for keyword in call.keywords}
        true = {
            key for key, value in options.items() if not (isinstance(value, ast.Constant) and not value.value)
        }
        found |= true & {"trust_remote_code", "allow_pickle"}
        if (
            ast.unparse(call.func) == "torch.load"
            and ast.unparse(options.get("weights_only", call)) != "True"
        ):
            found.add("torch.load")
    return found


def test_no_code_unpickles_or_trusts_code_from_elsewhere():
    assert {name: found for name, tree in SOURCES.items() if (found := unsafe(tree))} == {}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f():\n    import pickle", {"pickle"}),
        ("from joblib.numpy_pickle import load", {"joblib"}),
        ("torch.load(path)", {"torch.load"}),
        ("torch.load(path, weights_only=False)", {"torch.load"}),
        ("torch.load(path, weights_only=True)", set()),
        ("AutoModel.from_pretrained(name, trust_remote_code=True)", {"trust_remote_code"}),
        ("np.load(path, allow_pickle=wanted)", {"allow_pickle"}),
        ("np.load(path, allow_pickle=False)", set()),
    ],
)
def test_the_search_for_unsafe_loading_finds_it(source, expected):
    assert unsafe(ast.parse(source)) == expected


PRIMITIVES = {lesson.module: lesson.number for lesson in project.lessons() if lesson.module}


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "mmscratch" / "kit").rglob("*.py")),
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_the_kit_never_imports_a_primitive(path):
    package = ".".join(path.parent.relative_to(ROOT).parts)
    names = imported(ast.parse(path.read_text(encoding="utf-8")), package)
    lessons = {f"mmscratch.{module}" for module in PRIMITIVES}
    assert not {name for name in names if any(name == one or name.startswith(f"{one}.") for one in lessons)}


@pytest.mark.parametrize("module", PRIMITIVES)
def test_a_primitive_imports_only_torch_the_standard_library_and_earlier_primitives(module):
    tree = ast.parse((ROOT / "mmscratch" / f"{module}.py").read_text(encoding="utf-8"))
    earlier = {other for other, number in PRIMITIVES.items() if number < PRIMITIVES[module]}
    for name in imported(tree):
        top, *rest = name.split(".")
        assert (
            top == "torch"
            or top in sys.stdlib_module_names
            or (top == "mmscratch" and {*rest[:1]} <= earlier)
        )


# -- requirements


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, list[str]]:
    """Package -> lines of its pins in requirements.lock, each with its hashes."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    pins: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==[^\s;]+", line)
            assert match, f"not a pin: {line[:80]}"
            pins.setdefault(normal(match[1]), []).append(line)
    return pins


def test_every_pin_has_hashes():
    pins = [line for lines in locked().values() for line in lines]
    assert len(pins) > 100
    bare = [line[:60] for line in pins if not re.search(r"--hash=sha256:[0-9a-f]{64}(\s|$)", line)]
    assert not bare


def test_the_lock_covers_every_dependency():
    named = PYPROJECT["project"]["dependencies"] + PYPROJECT["build-system"]["requires"]
    for extra in PYPROJECT["project"]["optional-dependencies"].values():
        named += extra
    missing = {normal(re.match(r"[A-Za-z0-9._-]+", name)[0]) for name in named} - locked().keys()
    assert not missing


def test_every_pin_is_a_version_that_pyproject_allows():
    from packaging.requirements import Requirement

    named = PYPROJECT["project"]["dependencies"] + PYPROJECT["build-system"]["requires"]
    for extra in PYPROJECT["project"]["optional-dependencies"].values():
        named += extra
    for requirement in map(Requirement, named):
        for line in locked()[normal(requirement.name)]:
            assert requirement.specifier.contains(re.search(r"==([^\s;]+)", line)[1], prereleases=True), line


def test_every_installation_checks_the_hashes_of_the_lock():
    """CI installs by `make setup` alone, and that through the lock."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = [line for line in makefile.splitlines() if "pip install" in line]
    assert all("--require-hashes -r requirements.lock" in line or "--no-deps" in line for line in installs)
    for path in WORKFLOWS:
        text = path.read_text(encoding="utf-8")
        assert "pip install" not in text and "uv pip" not in text, path.name


def test_conda_users_get_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == PYPROJECT["project"]["name"]
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == ["-r requirements.lock"]
    pinned = [entry for entry in plain if re.search(r"[=<>~!]", entry)]
    least, below = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PYPROJECT["project"]["requires-python"]).groups()
    assert all(re.fullmatch(r"python=3\.\d+", entry) for entry in pinned)
    assert all(int(least) <= int(entry.rsplit(".")[-1]) < int(below) for entry in pinned)


# -- commands


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.search(r"^\.PHONY:(.*)$", makefile, re.M)[1].split())
    rules = set(re.findall(r"^([a-z][\w-]*):(?!=)", makefile, re.M))
    run = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    listed = {line.split()[0] for line in run.stdout.splitlines()}
    assert phony == rules == listed
    assert {
        "book",
        "test",
        "serve",
        "lab",
        "lesson",
        "export",
        "data",
        "checkpoints",
        "bench",
        "clean",
    } <= listed
    assert all(len(line.split()) > 2 for line in run.stdout.splitlines())  # each says what it does


def test_make_targets_named_in_texts_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):(?!=)", makefile, re.M))
    named = {
        (name, target)
        for name, text in texts().items()
        if name.endswith((".md", ".yml", ".py")) or name == ".ci/run"
        for target in re.findall(r"(?:`|run: |^)make ([a-z]+)", text, re.M)
    }
    assert len(named) > 10
    assert not {(name, target) for name, target in named if target not in targets}


# -- workflows


def jobs():
    for path in WORKFLOWS:
        for name, job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].items():
            yield pytest.param(job, id=f"{path.stem}: {name}")


def test_there_are_workflows_for_tests_the_book_newest_dependencies_seeds_and_a_gpu():
    assert {"tests", "book", "newest", "seeds", "gpu"} <= {path.stem for path in WORKFLOWS}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_reads_the_repository_and_holds_no_secret(path):
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in text and "pull_request_target" not in text
    # what comes from outside never becomes part of a command line
    assert not re.search(r"\$\{\{\s*github\.(event|head_ref)", text)


@pytest.mark.parametrize("job", list(jobs()))
def test_a_job_ends_in_time_and_runs_pinned_actions_only(job):
    assert 0 < job["timeout-minutes"] <= 120
    assert job.get("permissions", {}).keys() <= {"contents", "pages", "id-token"}
    for step in job["steps"]:
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w./-]+@[0-9a-f]{40}", step["uses"])
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
