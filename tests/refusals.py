"""Wrong use of a module, asked from one fresh interpreter, and what it should answer."""

import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from types import ModuleType

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


def check(said: str, expected: str) -> None:
    """`expected` is "Type: words", where anything may stand before the words and ".*" between them."""
    pattern = expected.replace(": ", ": .*", 1).split(".*")
    assert re.match(".*".join(map(re.escape, pattern)), said), said


def tests(
    module: ModuleType, setup: str, cases: Mapping[str, Mapping[str, str]], excused: Mapping[str, str]
) -> tuple[Callable, Callable]:
    """Two tests: each case is refused as it says, and each exported name has a case or an excuse.

    cases: exported name -> expression -> "Type: words". excused: exported name -> why it has no case.
    """
    answers = functools.cache(lambda: ask(setup, cases))

    @pytest.mark.parametrize(
        ("source", "expected"),
        [pytest.param(*case, id=case[0]) for group in cases.values() for case in group.items()],
    )
    def bad_input_is_refused_with_what_was_expected_and_what_came(source, expected):
        check(answers()[source], expected)

    def every_exported_name_is_given_bad_input_or_excused_and_not_both():
        assert cases.keys() | excused.keys() == set(module.__all__)
        assert not cases.keys() & excused.keys()

    return (
        bad_input_is_refused_with_what_was_expected_and_what_came,
        every_exported_name_is_given_bad_input_or_excused_and_not_both,
    )
