"""Wrong use of a module, asked from one fresh interpreter, and what it should answer."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping

import pytest

ASK = """
found = {}
for source in json.load(sys.stdin):
    try:
        found[source] = f"no error but {eval(source)!r}"
    except Exception as error:
        found[source] = " ".join(f"{type(error).__name__}: {error}".split())
print(json.dumps(found))
"""


def ask(setup: str, cases: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Expression -> type and message of its error. `setup` imports json, sys and the names they use."""
    done = subprocess.run(
        [sys.executable, "-c", f"{setup}\n{ASK}"],
        input=json.dumps([source for group in cases.values() for source in group]),
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def parameters(cases: Mapping[str, Mapping[str, str]]) -> list:
    """(expression, expected) for `pytest.mark.parametrize`, named by the expression."""
    return [pytest.param(*case, id=case[0]) for group in cases.values() for case in group.items()]


def check(said: str, expected: str) -> None:
    """`expected` is "Type: words", where anything may stand before the words and ".*" between them."""
    pattern = expected.replace(": ", ": .*", 1).split(".*")
    assert re.match(".*".join(map(re.escape, pattern)), said), said


def check_every_name(exported: Iterable[str], cases: Mapping, excused: Mapping) -> None:
    """Every exported name is given bad input, or excused with a reason, and not both."""
    assert cases.keys() | excused.keys() == set(exported)
    assert not cases.keys() & excused.keys()
