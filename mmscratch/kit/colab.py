"""Lessons on Google Colab: the cell that makes them run there, and the address that opens them there."""

from __future__ import annotations

from mmscratch.kit.project import repository_url

BRANCH = "main"

# Self-contained, because on Colab it runs before the package is there.
_CELL = """\
# On Google Colab this installs the book's package; anywhere else it does nothing.
import importlib.util
import subprocess
import sys

if "google.colab" in sys.modules and importlib.util.find_spec("mmscratch") is None:
    package = "mmscratch[reference] @ git+{repository}"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)
    importlib.invalidate_caches()\
"""


def first_cell() -> str:
    """Source of the first code cell of every lesson; `kit.clean` stamps it."""
    return _CELL.format(repository=repository_url())


def launch_url(notebook: str) -> str:
    """Address that opens a notebook, given by its path in the repository, on Colab.

    Raises ValueError unless the repository is on GitHub, the only host that Colab opens by address.
    """
    host = "https://github.com/"
    if not repository_url().startswith(host):
        raise ValueError(f"Colab opens notebooks from {host}, but the repository is {repository_url()}")
    return f"https://colab.research.google.com/github/{repository_url().removeprefix(host)}/blob/{BRANCH}/{notebook}"
