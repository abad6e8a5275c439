"""Licences of what the book stands on, and the bill of materials."""

from __future__ import annotations

import json
import re
from email.message import Message

import pytest

from mmscratch.kit import licences, project

ROOT = project.require_root()
# what may be combined with the book, word by word of a licence's name
FREE = {
    "0BSD", "Apache-2.0", "Apache 2", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "CNRI-Python", "HPND", "ISC", "LLVM-exception", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "PSFL",
    "Unlicense", "Zlib", "public domain",
}  # fmt: skip
# torch brings these on Linux: libraries of a GPU's maker, which nothing here calls by itself
OF_A_GPU = re.compile(r"nvidia-|cuda-")
# no licence in the metadata; MIT in their repositories
SILENT = {"axe-playwright-python", "resvg-py"}


def metadata(**fields):
    found = Message()
    for name, values in fields.items():
        for value in [values] if isinstance(values, str) else values:
            found[name.replace("_", "-")] = value
    return found


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (dict(License_Expression="MIT AND PSF-2.0", License="x"), "MIT AND PSF-2.0"),
        (dict(License="Apache License 2.0"), "Apache-2.0"),
        (dict(License="BSD", Classifier="License :: OSI Approved :: BSD License"), "BSD"),
        (dict(Classifier=["License :: OSI Approved", "License :: OSI Approved :: MIT License"]), "MIT"),
        (dict(License="MIT License\n\nCopyright (c) somebody ..." + "x" * 90), "MIT"),
        (dict(License="UNKNOWN"), "not stated"),
        ({}, "not stated"),
    ],
)
def test_a_licence_is_read_from_what_a_package_states(fields, expected):
    assert licences.licence(metadata(**fields)) == expected


def test_every_package_of_the_lock_may_be_combined_with_the_book():
    found = licences.locked(ROOT)
    assert len(found) > 150
    doubtful = [
        each
        for each in found
        if not any(set(re.split(r" AND | WITH ", option)) <= FREE for option in each.licence.split(" OR "))
        and not OF_A_GPU.match(each.name)
        and each.name not in SILENT
    ]
    assert not doubtful


def test_direct_dependencies_are_those_of_pyproject():
    found = licences.direct(ROOT)
    assert "torch" in [package.name for package in found["The package itself"]]
    assert "transformers" in [package.name for package in found["What our primitives are held against"]]
    assert licences.installed("no-such-package") is None


def test_the_bill_of_materials_names_every_package_and_file_once_with_hashes(tmp_path, monkeypatch, capsys):
    target = tmp_path / "sbom.cdx.json"
    monkeypatch.setattr("sys.argv", ["licences", str(target)])
    licences.main()
    bill = json.loads(target.read_text(encoding="utf-8"))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    parts = bill["components"]
    references = [part["bom-ref"] for part in parts]
    assert len(set(references)) == len(references) == int(capsys.readouterr().out.split()[0])
    assert bill["dependencies"][0]["dependsOn"] == references
    for part in parts:
        assert part["hashes"] and all(re.fullmatch(r"[0-9a-f]{64}", h["content"]) for h in part["hashes"])
        assert part["licenses"][0]["license"]["name"]
    (torch,) = [part for part in parts if part["name"] == "torch"]
    assert torch["purl"] == f"pkg:pypi/torch@{torch['version']}"
    manifest = json.loads((ROOT / "data" / "manifest.json").read_text(encoding="utf-8"))["files"]
    assert {f"data/{name}" for name in manifest} <= set(references)
