"""Sphinx extension that turns plain notebooks into the pages of the book.

A notebook holds Markdown and Python and nothing else, so that it reads well in JupyterLab and on Colab. What
a page has beyond that is added here, at build time:

- `source`: the header of a lesson, citations, links to the glossary, folded solutions, numbered live figures;
- `outputs`: live figures and quizzes, from the JSON that the notebook stores;
- `mathematics`: formulas, set at build time;
- `directives`: the grid of lessons;
- `proof`: the parity ledger, speed, seconds, seeds and licences;
- `landing`: learning paths, the reader's progress, a living figure, measured times;
- `concepts`: entries of the glossary with the lesson that builds them;
- `sharing`: cards, structured data and the feed of changes;
- `assets`: what a page loads, which is little and all from the site itself.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from sphinx.application import Sphinx
from sphinx.config import Config

from mmscratch.kit import project

from . import assets, concepts, directives, landing, mathematics, outputs, proof, sharing, source


def use_project_addresses(app: Sphinx, config: Config) -> None:
    """Take the addresses of repository and site from pyproject.toml, the one place that has them."""
    site = project.site_url()
    config.html_theme_options["repository_url"] = project.repository_url()
    config.html_baseurl = site
    config.ogp_site_url = site
    config.ogp_image = f"{site}_static/card.png"
    config.notfound_urls_prefix = urlsplit(site).path


def setup(app: Sphinx) -> dict[str, Any]:
    # before the extensions that read these settings at the same event
    app.connect("config-inited", use_project_addresses, priority=100)
    mathematics.setup(app)
    source.setup(app)
    outputs.setup(app)
    directives.setup(app)
    proof.setup(app)
    landing.setup(app)
    concepts.setup(app)
    sharing.setup(app)
    assets.setup(app)
    return {"version": project.package_version(), "parallel_read_safe": True, "parallel_write_safe": True}
