"""What goes wrong on other people's machines: no network, no home, a full disk, another locale, two at once.

Faults of one module stand with its tests; here are those that need a process of their own.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from mmscratch.kit import ledger, project
from mmscratch.kit.reference import BOUND, cases

ROOT = project.require_root()
posix = pytest.mark.skipif(os.name != "posix", reason="uses what POSIX systems have")


def run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a program with an environment that is ours but for what is given; "" removes a variable."""
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "MMSCRATCH_PROGRESS": "off", **environment}
    settings = {name: value for name, value in settings.items() if value}
    command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    return subprocess.run(
        command, env=settings, capture_output=True, text=True, encoding="utf-8", timeout=300
    )


# -- one reader, on several machines

READER = """
    import importlib, os, sys
    if os.environ.get("NO_NETWORK"):
        import socket
        def blocked(*arguments, **options):
            raise OSError("the network is blocked")
        socket.socket.connect = socket.create_connection = socket.getaddrinfo = blocked
    import torch
    from mmscratch.kit import checkpoints, data, export, figures, hub, project, runs, world
    lessons = [lesson for lesson in project.lessons() if lesson.written]
    for lesson in lessons:
        importlib.import_module(f"mmscratch.{lesson.module}")
        project.read_notebook(project.require_root() / lesson.notebook)
        runs.table(lesson.number)
    assert hub.pretrained("some-org/some-model") is None
    from mmscratch.clip import clip_loss
    scenes = world.sample(40, split="test", generator=torch.Generator().manual_seed(1))
    tensors, _ = data.checkpoint("07_clip")
    torch.manual_seed(0)
    image, text = torch.nn.functional.normalize(torch.randn(2, 700, 64), dim=-1)
    emoji = data.emoji("noto")
    print(len(lessons), len(emoji.names), emoji.chars[5], sum(map(len, world.captions(scenes))))
    print(f"{world.render(scenes).double().mean():.9f} {sum(t.double().sum() for t in tensors.values()):.6f}")
    print(f"{clip_loss(image, text, torch.tensor(14.3)).item():.4f}")
    assert export.main(["--check"]) in (0, None)
"""
MACHINES = {
    "this one": {},
    "no network": {"NO_NETWORK": "1"},
    "a home that cannot be written": {
        "HOME": "/proc/nowhere", "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": "", "HF_HOME": "",
        "MPLCONFIGDIR": "",
    },
    "an ASCII locale, half a day ahead": {
        "LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": "Pacific/Kiritimati",
        "PYTHONIOENCODING": "utf-8",
    },
    "eight threads": {"OMP_NUM_THREADS": "8", "MKL_NUM_THREADS": "8"},
}  # fmt: skip


@pytest.fixture(scope="module")
def at_home() -> str:
    done = run(READER)
    assert done.returncode == 0, done.stderr
    return done.stdout


@posix
@pytest.mark.parametrize("machine", [name for name in MACHINES if name != "this one"])
def test_data_weights_and_modules_are_the_same_on(machine, at_home):
    done = run(READER, **MACHINES[machine])
    assert done.returncode == 0, done.stderr
    assert done.stdout == at_home


@pytest.mark.parametrize("threads", [1, 8])
def test_parity_does_not_depend_on_the_number_of_threads(threads):
    groups = ledger.grouped(case for case in cases(ROOT / "tests" / "parity") if not case.bench)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for found in groups.values():
            assert found[0].run(wrong=False).check().threads == threads
    finally:
        torch.set_num_threads(before)


def test_a_lower_precision_of_products_is_put_aside_while_comparing_and_comes_back():
    case = next(c for c in cases(ROOT / "tests" / "parity", ["vit"]) if c.name == "32/8, two blocks")
    seen, before = [], torch.get_float32_matmul_precision()

    def watched(model, *inputs):
        seen.append(torch.get_float32_matmul_precision())
        return model(*inputs)

    torch.set_float32_matmul_precision("medium")
    try:
        found = dataclasses.replace(case, call_ours=watched).run(wrong=False).check()
        assert set(seen) == {"highest"} and torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert found.output.absolute <= BOUND


# -- a full disk

FULL = """
    import resource, sys
    from pathlib import Path
    import torch
    from mmscratch import search
    from mmscratch.kit import checkpoints, make_data, project
    folder = Path(sys.argv[1])
    make_data.DATA = folder / "data"
    project.root = lambda: folder
    index = search.ExactIndex(32)
    index.add(torch.randn(2000, 32))
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))  # no file grows beyond
    for write in (
        lambda: checkpoints.save("04_tiny", torch.nn.Linear(200, 200), lambda model: {"accuracy": 1.0}),
        lambda: index.save(folder / "data" / "index"),
        lambda: project.write_text(folder / "data" / "runs" / "04.json", "x" * 50_000),
    ):
        try:
            write()
        except (OSError, RuntimeError) as error:  # torch.save closes its file with an error of its own
            print("refused", (error if isinstance(error, OSError) else error.__context__).errno)
        else:
            print("written")
"""


@posix
def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    (tmp_path / "data").mkdir()
    done = run(FULL, str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines == [f"refused {errno.EFBIG}"] * 3
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# -- two at once

REGISTER = """
    import sys
    from pathlib import Path
    from mmscratch.kit import make_data
    make_data.DATA = Path(sys.argv[1])
    for i in range(25):
        file = make_data.DATA / f"{sys.argv[2]}{i}.txt"
        file.write_text("x", encoding="utf-8")
        make_data.register(file, licence="CC0-1.0", origin="this test", rebuild="make it")
"""


@posix
def test_two_processes_that_register_at_once_lose_no_entry(tmp_path):
    (tmp_path / "manifest.json").write_text('{"files": {}}', encoding="utf-8")
    program, settings = textwrap.dedent(REGISTER), {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name], env=settings) for name in "ab"
    ]
    assert [child.wait(120) for child in both] == [0, 0]
    files = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["files"]
    assert len(files) == 50
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


BUILDER = """
    import subprocess, sys, time
    from pathlib import Path
    from mmscratch.kit import pages, project
    root = Path(sys.argv[1])

    class Done:
        returncode = 0

    def book(command, **options):  # in the place of jupyter-book
        page = root / "_build" / "html" / "index.html"
        page.parent.mkdir(parents=True)
        with open(root / "log", "a") as log:
            log.write("begun\\n")
            log.flush()
            time.sleep(float(sys.argv[2]))
            log.write("ended\\n")
        page.write_text("<article>" + "word " * 50 + "</article>", encoding="utf-8")
        return Done

    pages.subprocess.run = book
    pages.build(root)
    print("built")
"""


def builder(root: Path, seconds: float) -> subprocess.Popen:
    (root / "_toc.yml").write_text("root: index\n", encoding="utf-8")
    command = [sys.executable, "-c", textwrap.dedent(BUILDER), str(root), str(seconds)]
    return subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )


def begun(root: Path, count: int = 1) -> None:
    end = time.monotonic() + 60
    while not (root / "log").exists() or (root / "log").read_text().count("begun") < count:
        assert time.monotonic() < end
        time.sleep(0.02)


@posix
def test_of_two_builds_at_once_one_waits_and_neither_disturbs_the_other(tmp_path):
    first = builder(tmp_path, 3)
    begun(tmp_path)
    second = builder(tmp_path, 0)
    assert first.communicate(timeout=60)[0] == second.communicate(timeout=60)[0] == "built\n"
    log = (tmp_path / "log").read_text().split()
    assert log in (["begun", "ended"], ["begun", "ended"] * 2)  # the second may find nothing left to do
    assert (tmp_path / "_build" / "html" / ".complete").exists()


@posix
def test_a_build_that_was_interrupted_is_begun_again(tmp_path):
    first = builder(tmp_path, 60)
    begun(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    assert not (tmp_path / "_build" / "html" / ".complete").exists()  # so make builds
    assert builder(tmp_path, 0).communicate(timeout=60)[0] == "built\n"
    assert (tmp_path / "log").read_text().split() == ["begun", "begun", "ended"]
    assert (tmp_path / "_build" / "html" / ".complete").exists()


def test_a_build_that_fails_or_lacks_a_page_is_not_complete(tmp_path, monkeypatch):
    from mmscratch.kit import pages

    (tmp_path / "_toc.yml").write_text("root: index\n", encoding="utf-8")
    for status, message in ((2, "2"), (0, "missing page")):
        monkeypatch.setattr(
            pages.subprocess, "run", lambda *a, s=status, **k: subprocess.CompletedProcess(a, s)
        )
        with pytest.raises(SystemExit, match=message):
            pages.build(tmp_path)
        assert not (tmp_path / "_build" / "html" / ".complete").exists()
