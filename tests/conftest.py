"""Fixtures that several test files share."""

from pathlib import Path

import pytest
from built_site import address, browser, site, visit  # noqa: F401  (fixtures)
from notebook_tree import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """An empty repository of notebooks."""
    return Tree(tmp_path)
