"""What the book stands on, and under which licences: `python -m mmscratch.kit.licences [sbom.cdx.json]`.

Licences are what each installed package states in its own metadata. With a file name it writes a bill of
materials (CycloneDX 1.6, JSON): every package of requirements.lock that is installed, with version, licence
and the hashes that pip checks, and every file of data/.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmscratch.kit import project

UNSTATED = "not stated"
USES = {
    "": "The package itself",
    "reference": "What our primitives are held against",
    "book": "What makes the site",
    "test": "What tests it",
    "data": "What rebuilds the data",
    "ocr": "Reading text in pictures",
}
# what metadata says in words, as the licence is called in the list of SPDX
NAMES = {
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache software license 2.0": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache": "Apache-2.0",
    "bsd license": "BSD",
    "bsd": "BSD",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd 3-clause license": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd-2-clause license": "BSD-2-Clause",
    "mit license": "MIT",
    "the mit license (mit)": "MIT",
    "isc license (iscl)": "ISC",
    "isc license": "ISC",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
    "public domain": "public domain",
    "historical permission notice and disclaimer (hpnd)": "HPND",
    "zope public license": "ZPL-2.1",
}


@dataclass(frozen=True)
class Package:
    """An installed package and the licence that it states."""

    name: str
    version: str
    licence: str


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(metadata: Any) -> str:
    """The licence in a package's metadata, as SPDX calls it where that is plain; else `UNSTATED`."""
    if expression := metadata.get("License-Expression"):
        return expression
    prefix = "License :: "
    classifiers = [
        c.rsplit(" :: ", 1)[-1] for c in metadata.get_all("Classifier") or () if c.startswith(prefix)
    ]
    stated = [c for c in classifiers if c != "OSI Approved"]
    text = (metadata.get("License") or "").strip()
    if text and len(text) < 60 and "\n" not in text and text.upper() != "UNKNOWN":
        found = NAMES.get(text.lower(), text)
        if not (found == "BSD" and stated):
            return found
    if stated:
        return " OR ".join(sorted({NAMES.get(each.lower(), each) for each in stated}))
    for line in text.splitlines():  # some put the whole text there
        if name := NAMES.get(line.strip().lower()):
            return name
    return UNSTATED


def installed(name: str) -> Package | None:
    """The package as it is installed; None where it is not."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    return Package(normal(name), found.version, licence(found.metadata))


def _named(requirement: str) -> str:
    return normal(re.match(r"[A-Za-z0-9._-]+", requirement)[0])


def direct(tree: Path) -> dict[str, list[Package]]:
    """Use -> the packages that pyproject.toml names for it and that are installed."""
    project_table = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {"": project_table["dependencies"], **project_table["optional-dependencies"]}
    packages = {
        USES.get(use, use): [found for name in names if (found := installed(_named(name)))]
        for use, names in named.items()
    }
    return {use: found for use, found in packages.items() if found}


def hashes(tree: Path) -> dict[str, list[str]]:
    """Package -> the sha256 sums in requirements.lock."""
    text = (tree / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "==" in line:
            found.setdefault(_named(line), []).extend(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
    return found


def locked(tree: Path) -> list[Package]:
    """Every package of requirements.lock that is installed here: some are for other systems."""
    return [found for name in hashes(tree) if (found := installed(name))]


def bill_of_materials(tree: Path) -> dict[str, Any]:
    """CycloneDX 1.6 as a dictionary. The same checkout and the same packages give the same bill."""
    sums = hashes(tree)
    libraries = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{found.name}@{found.version}",
            "name": found.name,
            "version": found.version,
            "purl": f"pkg:pypi/{found.name}@{found.version}",
            "licenses": [{"license": {"name": found.licence}}],
            # of the files that pip may choose from
            "hashes": [{"alg": "SHA-256", "content": each} for each in sums[found.name]],
        }
        for found in locked(tree)
    ]
    manifest = json.loads((tree / "data" / "manifest.json").read_text(encoding="utf-8"))["files"]
    files = [
        {
            "type": "data" if not name.endswith(".safetensors") else "machine-learning-model",
            "bom-ref": f"data/{name}",
            "name": f"data/{name}",
            "licenses": [{"license": {"name": entry["licence"]}}],
            "hashes": [{"alg": "SHA-256", "content": entry["sha256"]}],
        }
        for name, entry in manifest.items()
    ]
    name = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
    root = {"type": "application", "bom-ref": name, "name": name, "version": project.package_version()}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": root},
        "components": libraries + files,
        "dependencies": [{"ref": name, "dependsOn": [each["bom-ref"] for each in libraries + files]}],
    }


def main() -> None:
    tree = project.require_root()
    if sys.argv[1:]:
        target = Path(sys.argv[1])
        bill = bill_of_materials(tree)
        project.write_text(target, json.dumps(bill, indent=1, ensure_ascii=False) + "\n")
        print(f"{len(bill['components'])} components in {target}")
        return
    for found in locked(tree):
        print(f"{found.name} {found.version}: {found.licence}")


if __name__ == "__main__":
    main()
