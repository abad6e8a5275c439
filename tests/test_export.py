import subprocess
import sys

import pytest
from notebook_tree import code, text

from mmscratch.kit import export, project
from mmscratch.kit.project import Refused

LESSON = [
    code("import math\nimport matplotlib.pyplot as plt\n\nimport torch\nfrom torch import nn"),
    code(
        "from torch import Tensor\n\n__SCALE = 2\nLIMIT=math.pi\n\n"
        "def spin( x: Tensor ) -> Tensor:\n    '''Turn.'''\n    # why\n    return x.roll(1) * __SCALE",
        "export",
    ),
    code("plt.plot([1]); answer = 42"),
    code("from torch import Generator, Tensor\n\nclass Head(nn.Module):\n    out: Tensor = None", "export"),
]

MODULE = '''"""Title of 04_vit.

Collected from notebooks/04_vit.ipynb by `make export`: edit the notebook, not this file.
"""

import math

from torch import Tensor, nn

__all__ = ["Head", "LIMIT", "spin"]

__SCALE = 2
LIMIT = math.pi


def spin(x: Tensor) -> Tensor:
    """Turn."""
    # why
    return x.roll(1) * __SCALE


class Head(nn.Module):
    out: Tensor = None
'''


def test_exported_cells_become_a_formatted_module_with_only_the_imports_they_use(tree):
    tree.notebook("04_vit", LESSON)
    assert export.export(tree=tree.path).keys() == {"vit"}
    assert tree.module("vit").read_text() == MODULE
    assert export.export(tree=tree.path) == {}  # the second time there is nothing to do


def test_a_module_imports_modules_of_earlier_lessons_only(tree):
    use = code("from mmscratch.vit import spin\n\ndef twice(x):\n    return spin(spin(x))", "export")
    tree.notebook("04_vit", LESSON)
    tree.notebook("07_clip", [use])
    assert "from mmscratch.vit import spin" in export.modules(tree.path)["clip"]
    tree.notebook("02_early", [use])
    with pytest.raises(
        Refused, match=r"02_early.ipynb, cell \[2\] `from mmscratch.vit.*imports mmscratch.vit"
    ):
        export.export(tree=tree.path)


def test_check_shows_a_stale_module_and_writes_nothing(tree):
    tree.notebook("04_vit", LESSON)
    export.export(tree=tree.path)
    stale = MODULE.replace("roll(1)", "roll(2)")
    tree.module("vit").write_text(stale)
    difference = export.export(check=True, tree=tree.path)["vit"]
    assert "-    return x.roll(2)" in difference and "+    return x.roll(1)" in difference
    assert tree.module("vit").read_text() == stale


def test_a_module_whose_notebook_is_gone_is_reported_and_deleted(tree):
    path = tree.notebook("04_vit", LESSON)
    export.export(tree=tree.path)
    tree.module("by_hand").write_text('"""Not collected."""\n')
    path.unlink()
    assert "no notebook names it" in export.export(check=True, tree=tree.path)["vit"]
    assert tree.module("vit").exists()
    export.export(tree=tree.path)
    assert not tree.module("vit").exists() and tree.module("by_hand").exists()


def test_the_command_fails_on_a_difference_and_on_a_refusal(tree, monkeypatch, capsys):
    monkeypatch.setattr(project, "require_root", lambda: tree.path)
    tree.notebook("04_vit", LESSON)
    assert export.main(["--check"]) == 1 and "+def spin" in capsys.readouterr().out
    assert export.main([]) == 0 and export.main(["--check"]) == 0
    tree.notebook("04_vit", [code("print(1)", "export")])
    assert export.main(["--check"]) == 1 and "04_vit.ipynb, cell [2] `print(1)`" in capsys.readouterr().err


REFUSALS = {
    "a second definition": (
        [code("def f(): return 1", "export"), text("then"), code("def f(): return 2", "export")],
        r"cell \[3\] `def f\(\): return 2` defines `f` a second time, after .*cell \[2\]",
    ),
    "a call": (
        [code("import torch\ntorch.manual_seed(0)", "export")],
        r"`torch.manual_seed\(0\)` has an effect",
    ),
    "a tensor made at import": ([code("import torch\nX = torch.ones(2)", "export")], "`X = torch.ones"),
    "a condition": ([code("if True:\n    X = 1", "export")], "`if True:` has an effect"),
    "an effect in a class": ([code("class A:\n    print('made')", "export")], "has an effect"),
    "an effect in a default": ([code("def f(x=open('/')): ...", "export")], "default arguments of f"),
    "a patch in an exported cell": ([code("class A: ...\nA.x = 1", "export")], "`A.x = 1` has an effect"),
    "a notebook global": (
        [code("width = 8"), code("def f():\n    return [width for _ in 'ab']", "export")],
        r"cell \[3\] .*uses `width`, which comes from .*cell \[2\] `width = 8`, which is not exported",
    ),
    "an undefined name": (
        [code("def f() -> Tensor: ...", "export")],
        "uses `Tensor`, which is defined nowhere",
    ),
    "a foreign import": (
        [code("def f():\n    import numpy", "export")],
        "imports numpy; a primitive imports",
    ),
    "a foreign import, used from another cell": (
        [code("import numpy as np"), code("def f():\n    return np.e", "export")],
        r"cell \[3\].* imports numpy",
    ),
    "the kit": ([code("from mmscratch.kit import world", "export")], "imports mmscratch.kit"),
    "a star": ([code("from math import *", "export")], r"imports `\*`"),
    "a magic": ([code("%time\nx = 1", "export")], "has a magic"),
    "no Python": ([code("def f(:", "export")], "is not Python"),
    "a name imported as two things": (
        [
            code("from math import e"),
            code("from cmath import nan as e"),
            code("def f():\n    return e", "export"),
        ],
        "imported as from cmath import nan as e and as from math import e",
    ),
    "a later patch of a method": (
        [code("class A: ...", "export"), code("A.forward = None")],
        r"cell \[3\] `A.forward = None` changes `A`, which .*cell \[2\] `class A: ...` exports",
    ),
    "a later redefinition": ([code("def f(): ...", "export"), code("def f(): return 1")], "changes `f`"),
    "an import beside other code": (
        [code("import math; X = math.pi", "export")],
        "something else on one line",
    ),
}


@pytest.mark.parametrize("cells, message", REFUSALS.values(), ids=REFUSALS.keys())
def test_refused_with_notebook_and_cell_named_and_nothing_written(tree, cells, message):
    tree.notebook("02_good", [code("X = 1", "export")])
    tree.notebook("04_vit", cells)
    with pytest.raises(Refused, match=rf"04_vit\.ipynb, .*{message}"):
        export.export(tree=tree.path)
    assert not list((tree.path / "mmscratch").iterdir())


ALLOWED = {
    "a pattern": "import re\n\nWORD = re.compile('a' + 'b')",
    "a record": "from dataclasses import dataclass, field\n\n@dataclass(frozen=True)\nclass C:\n"
    "    dim: int = 8\n    names: list = field(default_factory=list)\n\nBASE = C(dim=16)",
    "arithmetic": "import math\n\nA, B = 1, math.sqrt(2) * 3\nNAMES = tuple(f'{i}' for i in range(3))",
    "a decorated function": "import torch\n\n@torch.no_grad()\ndef f(x, *, eps=1e-6, g=lambda: print()): ...",
    "a recursive class": "class A:\n    def f(self) -> 'A':\n        return super().__new__(__class__)",
    "a docstring after a constant": 'X = 1\n"""What X is."""',
}


@pytest.mark.parametrize("source", ALLOWED.values(), ids=ALLOWED.keys())
def test_definitions_and_constants_are_accepted(tree, source):
    tree.notebook("04_vit", [code(source, "export")])
    compile(export.modules(tree.path)["vit"], "vit.py", "exec")


def test_two_notebooks_naming_one_module_are_refused(tree):
    tree.notebook("04_vit", LESSON)
    tree.notebook("05_other", LESSON, module="vit")
    with pytest.raises(Refused, match="05_other.ipynb and 04_vit.ipynb both name the module 'vit'"):
        export.export(tree=tree.path)


def test_a_module_written_by_hand_is_never_overwritten(tree):
    tree.module("vit").write_text("x = 1\n")
    tree.notebook("04_vit", LESSON)
    with pytest.raises(Refused, match="mmscratch|vit.py is written by hand"):
        export.export(tree=tree.path)
    assert tree.module("vit").read_text() == "x = 1\n"


def test_a_broken_notebook_does_not_stop_the_export_of_another(tree):
    tree.notebook("02_broken", [code("print()", "export")])
    path = tree.notebook("04_vit", LESSON)
    assert export.export([path], tree=tree.path).keys() == {"vit"}


def test_every_notebook_of_the_book_is_collected_as_its_module_stands():
    differences = export.export(check=True)
    assert not differences, "run `make export`:\n" + "\n".join(differences.values())


@pytest.mark.parametrize(
    "module",
    sorted(p.stem for p in (project.require_root() / "mmscratch").glob("*.py") if p.stem != "__init__"),
)
def test_a_primitive_imports_in_a_fresh_interpreter_without_the_kit_or_a_reference(module):
    program = (
        f"import sys, mmscratch.{module} as m; assert all(hasattr(m, name) for name in m.__all__)\n"
        "foreign = {'transformers', 'open_clip', 'torchvision', 'matplotlib', 'mmscratch.kit'}\n"
        "assert not foreign & sys.modules.keys(), foreign & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
