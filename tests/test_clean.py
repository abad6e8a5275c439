import copy
from pathlib import Path

import pytest
from nbformat.v4 import new_notebook, new_output
from notebook_tree import code, text

from mmscratch.kit import clean, colab, project
from mmscratch.kit.project import Refused

NAME = Path("04_vit.ipynb")


def dirty():
    """A notebook as JupyterLab may leave it after a run."""
    cell = code("x = object()\nx", "export", mystnb={"image": {"alt": "a"}}, jupyter={"source_hidden": True})
    cell.metadata.update(execution={"iopub.execute_input": "2026-01-01"}, collapsed=False, scrolled=True)
    cell.execution_count = 41
    cell.outputs = [
        new_output("stream", name="stdout", text="a\n"),
        new_output("stream", name="stderr", text="\r  0%|   | 0/9\r100%|###| 9/9 [00:01<00:00, 7.1it/s]\n"),
        new_output("stream", name="stdout", text="step 1\rstep 2\n"),
        new_output(
            "display_data",
            {"text/plain": "<Figure>", "image/png": "iVBO"},
            metadata={"needs_background": "l"},
        ),
        new_output("stream", name="stdout", text="after\n"),
        new_output("execute_result", {"text/plain": "<object at 0x7f00beef>"}, execution_count=41),
    ]
    failing = code("1 / 0", "raises-exception")
    failing.execution_count = 57
    failing.outputs = [
        new_output("error", ename="E", evalue="at /tmp/ipykernel_77/12.py", traceback=["\x1b[31mE"])
    ]
    cells = [text("# T\n\nP.  \nkept"), cell, code("  \n"), failing, text("end\n\n", landmark="summary")]
    metadata = {
        "lesson": {"number": "04"},
        "widgets": {"state": 1},
        "kernelspec": {"name": "my-env", "display_name": "Mine"},
    }
    return new_notebook(cells=cells, metadata=metadata)


def test_the_stored_form_has_one_clean_run_and_nothing_of_this_machine():
    cleaned = clean.clean(NAME, dirty())
    title, setup, cell, failing, end = cleaned.cells
    assert [c.id for c in cleaned.cells] == ["04-001", "04-002", "04-003", "04-004", "04-005"]
    assert setup.source == colab.first_cell() and setup.metadata.tags == ["colab", "remove-cell"]
    assert cell.metadata == {
        "tags": ["export"], "mystnb": {"image": {"alt": "a"}}, "jupyter": {"source_hidden": True}
    }  # fmt: skip
    assert (cell.execution_count, failing.execution_count) == (1, 2)
    assert [o.get("text") for o in cell.outputs] == ["a\nstep 2\n", None, "after\n", None]
    assert cell.outputs[1].metadata == {} and cell.outputs[1].data["image/png"] == "iVBO"
    assert cell.outputs[3].data["text/plain"] == "<object>" and cell.outputs[3].execution_count == 1
    assert failing.outputs[0].traceback == ["E: at <cell>"]
    assert title.source == "# T\n\nP.  \nkept" and end.source == "end"  # two blanks break a line in Markdown
    assert end.metadata == {"landmark": "summary"}
    assert cleaned.metadata.keys() == {"lesson", "kernelspec", "language_info"}
    assert cleaned.metadata.kernelspec.name == "python3"


def test_cleaning_twice_changes_nothing_and_leaves_its_input_alone():
    notebook = dirty()
    before = copy.deepcopy(notebook)
    once = clean.clean(NAME, notebook)
    assert notebook == before
    assert clean.to_text(clean.clean(NAME, once)) == clean.to_text(once)
    assert clean.to_text(once).endswith("}\n") and not clean.to_text(once).endswith("\n\n")


def test_cells_that_never_ran_stay_without_a_number():
    notebook = dirty()
    notebook.cells.insert(2, code("y = 1"))
    counts = [cell.execution_count for cell in clean.clean(NAME, notebook).cells if cell.cell_type == "code"]
    assert counts == [None, 1, None, 2]


def test_paths_of_this_machine_are_neutral():
    root, home = project.require_root(), Path.home()
    assert clean._neutral(f"in {root}/notebooks, {root}x") == f"in ./notebooks, {root}x"
    assert clean._neutral(f"{home}/.cache") == "~/.cache"
    assert clean._neutral("File /tmp/ipykernel_1/2.py:3") == "File <cell>:3"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            new_output("stream", name="stderr", text="UserWarning: slow\n"),
            "wrote to stderr: UserWarning: slow",
        ),
        (new_output("error", ename="ValueError", evalue="no", traceback=[]), "failed: ValueError: no"),
    ],
)
def test_noise_and_failures_are_refused_with_notebook_and_cell(output, message):
    notebook = dirty()
    notebook.cells[1].outputs.append(output)
    with pytest.raises(Refused, match=rf"04_vit\.ipynb, cell \[2\] `x = object\(\)` {message}"):
        clean.clean(NAME, notebook)


def test_check_names_what_is_not_clean_and_writes_nothing(tree, capsys):
    good, bad = tree.notebook("02_good"), tree.notebook("04_bad", tidy=False)
    before = bad.read_bytes()
    assert clean.main(["--check", str(good)]) == 0
    assert clean.main(["--check", str(good), str(bad)]) == 1
    assert "04_bad.ipynb" in capsys.readouterr().out and bad.read_bytes() == before
    assert clean.main([str(bad)]) == 0 and clean.main(["--check", str(bad)]) == 0


def test_nothing_is_written_if_one_notebook_is_refused(tree):
    cell = code("1 / 0")
    cell.outputs = [new_output("error", ename="E", evalue="e", traceback=[])]
    bad, untidy = tree.notebook("02_bad", [cell], tidy=False), tree.notebook("04_untidy", tidy=False)
    before = untidy.read_bytes()
    with pytest.raises(Refused, match="02_bad.ipynb, cell"):
        clean.clean_files([bad, untidy])
    assert untidy.read_bytes() == before
