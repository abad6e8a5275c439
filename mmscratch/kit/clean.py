"""Bring notebooks into their one stored form, so that a second run of a lesson changes no byte.

    python -m mmscratch.kit.clean [--check] [notebook ...]

Kept: sources, outputs, attachments, the metadata that the book uses. Gone: everything that differs between
two runs or two machines (times, addresses, paths, ids, progress bars, widget state).
"""

from __future__ import annotations

import argparse
import copy
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmscratch.kit import colab, project
from mmscratch.kit.project import Refused

_NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}
_KEPT_OF_NOTEBOOK = ("lesson", "myst")
_KEPT_OF_CELL = ("tags", "mystnb", "landmark")
_PROGRESS = re.compile(r"\d+%\||\d+/\d+ \[|\d+it \[|it/s\]|s/it\]")  # as tqdm draws it
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_CELL_FILE = re.compile(r"(?:/[\w.+-]+)*/ipykernel_\d+/\d+\.py")


def _neutral(text: str) -> str:
    """`text` without object addresses and without where on this machine it was made."""
    text = _CELL_FILE.sub("<cell>", _ADDRESS.sub("", text))
    for place, name in ((Path(sys.prefix), "<python>"), (project.root(), "."), (Path.home(), "~")):
        if place is not None and len(place.parts) > 1:
            text = re.sub(rf"(?<![\w.-]){re.escape(str(place))}(?![\w.-])", name, text)
    return text


def _drawn(text: str) -> str:
    """What is left on a terminal: a carriage return starts its line again."""
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))


def _clean_outputs(cell: Any, where: str) -> list[Any]:
    outputs: list[Any] = []
    for output in cell["outputs"]:
        kind = output["output_type"]
        if kind == "stream" and output["name"] == "stderr":
            said = [line for line in re.split(r"[\r\n]+", output["text"]) if line.strip()]
            if said := [line for line in said if not _PROGRESS.search(line)]:
                raise Refused(f"{where} wrote to stderr: {said[0].strip()}")
            continue
        if kind == "stream" and outputs and outputs[-1]["output_type"] == "stream":
            outputs[-1]["text"] += output["text"]  # how a stream is cut into pieces depends on timing
            continue
        if kind == "error":
            if "raises-exception" not in project.tags(cell):
                raise Refused(f"{where} failed: {output['ename']}: {output['evalue']}")
            # the frames differ between versions of Python and say nothing that the message does not
            output["evalue"] = _neutral(output["evalue"])
            output["traceback"] = [f"{output['ename']}: {output['evalue']}"]
        elif kind != "stream":
            output["metadata"] = {}
            for mime, data in output["data"].items():
                if isinstance(data, str) and (mime.startswith("text/") or mime == "image/svg+xml"):
                    output["data"][mime] = _neutral(data)
        outputs.append(output)
    for output in outputs:
        if output["output_type"] == "stream":
            output["text"] = _neutral(_drawn(output["text"]))
    return outputs


def clean(path: Path, notebook: Any) -> Any:
    """The notebook in its stored form, as a new node; cleaning it again changes nothing.

    Cells that were never run stay so: the numbers 1..n go to the cells that have one. Raises Refused, naming
    notebook and cell, for an output on stderr that is no progress bar and for an error not tagged
    `raises-exception`.
    """
    import nbformat

    notebook = copy.deepcopy(notebook)
    stamped = [cell for cell in notebook.cells if "colab" in project.tags(cell)]
    cells = [cell for cell in notebook.cells if cell.source.strip() and "colab" not in project.tags(cell)]
    setup = nbformat.v4.new_code_cell(colab.first_cell(), metadata={"tags": ["colab", "remove-cell"]})
    setup.execution_count = stamped[0].execution_count if stamped else None
    notebook.cells = [*cells[:1], setup, *cells[1:]]
    number, count = path.stem.split("_")[0], 0
    for index, cell in enumerate(notebook.cells):
        metadata = {key: cell.metadata[key] for key in _KEPT_OF_CELL if cell.metadata.get(key)}
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            metadata["jupyter"] = {"source_hidden": True}
        cell.source = cell.source.strip("\n").rstrip()
        cell.metadata = nbformat.from_dict(metadata)
        cell.id = f"{number}-{index + 1:03}"
        if cell.cell_type == "code":
            cell.outputs = _clean_outputs(cell, f"{path.name}, {project.cell_name(notebook, index)}")
            if cell.execution_count is not None:
                cell.execution_count = count = count + 1
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = cell.execution_count
    kept = {key: notebook.metadata[key] for key in _KEPT_OF_NOTEBOOK if key in notebook.metadata}
    notebook.metadata = nbformat.from_dict({**copy.deepcopy(_NOTEBOOK_METADATA), **kept})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)
    return notebook


def to_text(notebook: Any) -> str:
    """The bytes that are stored for a notebook, as text: sorted keys, one newline at the end."""
    import nbformat

    return nbformat.writes(notebook, version=nbformat.NO_CONVERT).rstrip("\n") + "\n"


def clean_files(only: Iterable[Path] = (), *, check: bool = False) -> list[Path]:
    """Clean the notebooks in place (`check`: write nothing); nothing is written if any is refused.

    `only`: default all. Returns those that were not clean. Raises Refused.
    """
    refusals, changed = [], {}
    for path in list(only) or project.notebooks():
        try:
            text = to_text(clean(path, project.read_notebook(path)))
        except Refused as error:
            refusals.append(str(error))
            continue
        if text != path.read_text(encoding="utf-8"):
            changed[path] = text
    if refusals:
        raise Refused("\n".join(refusals))
    for path, text in () if check else changed.items():
        project.write_text(path, text)
    return list(changed)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mmscratch.kit.clean", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing, name what is not clean, fail on any"
    )
    parser.add_argument("notebook", nargs="*", type=Path, help="default: all")
    options = parser.parse_args(arguments)
    try:
        changed = clean_files(options.notebook, check=options.check)
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    for path in changed:
        print(
            f"{path.name} is not in its stored form: run `make lesson`"
            if options.check
            else f"{path.name} cleaned"
        )
    return int(options.check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
