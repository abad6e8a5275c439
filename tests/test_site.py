"""The built site as files, and what the extension makes of a notebook."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import statistics
import xml.etree.ElementTree as xml
from collections import Counter
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from built_site import BY_THEME, LESSON_PAGES, LESSONS, PAGES, ROOT, Html, article, html_files, page

from mmscratch.kit import figures, ledger, licences, margins, project, rivals
from mmscratch.kit import runs as seeds
from mmscratch.kit.quiz import QUIZ_MIME

# the pages as files


def test_every_page_of_the_contents_is_built_and_not_empty(site):
    for name in PAGES:
        words = " ".join(Html(article(site, name)).text).split()
        assert len(words) > 40, f"{name}: {len(words)} words"


def test_contents_list_every_written_lesson_in_order():
    assert [name for name in PAGES if name.startswith("notebooks/")] == LESSON_PAGES


def test_every_internal_link_and_anchor_resolves(site):
    base = urlsplit(project.site_url()).path
    broken = []
    for file in html_files(site):
        for tag, attributes in page(file).elements:
            target = attributes.get("href") or attributes.get("src")
            if not target or tag == "base" or attributes.get("rel") == "canonical":
                continue
            address, anchor = urldefrag(target)
            if urlsplit(address).scheme:
                continue
            if address.startswith(base):  # the page for missing pages has absolute addresses
                found = site / unquote(urlsplit(address).path.removeprefix(base))
            else:
                found = (file.parent / unquote(urlsplit(address).path)) if address else file
            if found.is_dir():
                found /= "index.html"
            if not found.is_file():
                broken.append(f"{file.relative_to(site)}: {target}")
            elif anchor and found.suffix == ".html" and unquote(anchor) not in page(found).ids:
                broken.append(f"{file.relative_to(site)}: no anchor {target}")
    assert not broken, "\n".join(broken)


def test_no_anchor_is_given_twice(site):
    for file in html_files(site):
        assert not [name for name, count in page(file).ids.items() if count > 1], file


def test_nothing_is_loaded_from_another_site(site):
    """Links may lead elsewhere; scripts, styles, pictures and fonts come from here."""
    foreign = []
    for file in html_files(site):
        for tag, attributes in page(file).elements:
            if tag in ("script", "img", "link", "iframe", "source", "video", "audio"):
                if attributes.get("rel") in ("canonical", "author", "index", "search", "next", "prev"):
                    continue
                for key in ("src", "href", "srcset"):
                    if urlsplit(attributes.get(key, "")).netloc:
                        foreign.append(f"{file.relative_to(site)}: {tag} {attributes[key]}")
    for file in site.rglob("*.css"):
        text = file.read_text(encoding="utf-8", errors="replace")
        foreign += [
            f"{file.name}: {url}"
            for url in re.findall(r"(?:url\(|@import )['\"]?((?:https?:)?//[^'\")]+)", text)
        ]
    assert not foreign, "\n".join(foreign)


def everything(site) -> list:
    """Every page, those of the theme too."""
    return [site / f"{name}.html" for name in [*PAGES, *BY_THEME]]


def test_every_page_loads_one_style_sheet_and_one_script(site):
    for file in everything(site):
        styles = [link["href"] for link in page(file).all("link") if link.get("rel") == "stylesheet"]
        scripts = [script["src"] for script in page(file).all("script", having="src")]
        assert len(styles) == 1 and "/book.css?v=" in styles[0].replace("_static", "/"), (file, styles)
        search = ["searchtools.js", "language_data.js", "searchindex.js"] if file.stem == "search" else []
        assert [re.sub(r"\?.*", "", src.split("/")[-1]) for src in scripts] == ["book.js", *search], file


def test_parts_of_the_theme_that_are_left_out_are_not_needed(site):
    for file in everything(site):
        text = file.read_text(encoding="utf-8").replace("sphinx-thebe 0", "")  # in a list of packages
        for mark in ('class="toggle', 'class="sd-', " sd-", "thebe", "MathJax"):
            assert mark not in text, f"{file.name} uses {mark!r}, which book.css and book.js do not hold"


def test_every_icon_that_a_page_shows_is_in_the_style_sheet(site):
    style = (site / "_static" / "book.css").read_text(encoding="utf-8")
    text = "".join(file.read_text(encoding="utf-8") for file in everything(site))
    text += (site / "_static" / "book.js").read_text(encoding="utf-8")
    shown = set(re.findall(r"\bfa-(?!solid|regular|brands|lg|sm|fw)([a-z-]+)\b", text))
    assert len(shown) > 5
    assert not [icon for icon in shown if f".fa-{icon}:before" not in style]


def test_a_page_names_what_it_may_run_and_has_nothing_else_inline(site):
    for file in everything(site):
        text = file.read_text(encoding="utf-8")
        (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]+)"', text)
        assert text.index(policy) < text.index("<script"), "a policy counts from where it stands"
        rules = dict(rule.strip().split(" ", 1) for rule in html.unescape(policy).split(";"))
        assert rules["default-src"] == "'none'" and "unsafe" not in rules["script-src"]
        inline = re.findall(
            r"<script(?![^>]*(?:src|application/(?:ld\+)?json))[^>]*>(.*?)</script>", text, re.S
        )
        digests = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in inline]
        assert rules["script-src"].split() == ["'self'", *(f"'sha256-{digest}'" for digest in digests)]
        for tag, attributes in page(file).elements:
            assert not [key for key in attributes if key.startswith("on")], f"{file.name}: {tag} {attributes}"
            assert not attributes.get("href", "").startswith("javascript:"), f"{file.name}: {attributes}"
            if attributes.get("target") == "_blank":
                assert "noopener" in attributes.get("rel", ""), f"{file.name}: {attributes}"


def test_formulas_are_set_when_the_book_is_built(site):
    formulas = 0
    for name in LESSON_PAGES:
        body = article(site, name)
        formulas += body.count("<math")
        text = re.sub(r"<(pre|code|script)\b.*?</\1>", "", body, flags=re.S)
        assert not re.search(r"\\[(\[]|\$[^$\n]*\\[a-z]+[^$\n]*\$", text), (
            f"{name} shows the source of a formula"
        )
    assert formulas > 100


def test_lesson_can_be_opened_in_colab_and_downloaded_as_it_is(site):
    repository = project.repository_url().removeprefix("https://github.com/")
    for lesson in LESSONS:
        file = site / f"{lesson.notebook.removesuffix('.ipynb')}.html"
        links = [link["href"] for link in page(file).all("a", having="href")]
        colab = f"https://colab.research.google.com/github/{repository}/blob/main/{lesson.notebook}"
        assert links.count(colab) == 1
        downloads = [link["href"] for link in page(file).all("a", having="download")]
        assert downloads
        for address in downloads:
            assert (file.parent / address).read_bytes() == (ROOT / lesson.notebook).read_bytes()


def test_lesson_page_says_what_the_metadata_says(site):
    for lesson in LESSONS:
        text = " ".join(" ".join(page(site / f"{lesson.notebook.removesuffix('.ipynb')}.html").text).split())
        assert f"{lesson.number} · {lesson.title}" in text
        assert f"{lesson.minutes} minutes" in text
        assert f"mmscratch.{lesson.module}" in text
        for reference in lesson.reference:
            assert reference in text


def test_every_picture_has_an_alternative(site):
    for file in html_files(site):
        for image in page(file).all("img"):
            assert image.get("alt", "").strip() or image.get("role") == "presentation", f"{file}: {image}"


def test_pictures_of_lessons_have_a_size_so_that_text_does_not_jump(site):
    for name in LESSON_PAGES:
        for image in Html(article(site, name)).all("img"):
            assert image.get("width") and image.get("height") and image.get("loading") == "lazy", image


def test_figures_are_numbered_by_lesson_and_have_captions(site):
    for lesson in LESSONS:
        body = article(site, lesson.notebook.removesuffix(".ipynb"))
        numbers = re.findall(r'<span class="caption-number">Fig\. ([\d.]+) </span>', body)
        assert numbers == [f"{int(lesson.number)}.{n}" for n in range(1, len(numbers) + 1)]
        # a sound has no number: it says itself what it is
        pictures = re.findall(r'<figure\b(?! class="sound")', body)
        assert len(numbers) == len(pictures), "a figure without caption"


def test_exported_cells_say_where_they_go(site):
    for lesson in LESSONS:
        notebook = json.loads((ROOT / lesson.notebook).read_text(encoding="utf-8"))
        exported = sum("export" in cell["metadata"].get("tags", ()) for cell in notebook["cells"])
        body = article(site, lesson.notebook.removesuffix(".ipynb"))
        assert len(re.findall(rf'data-module="{lesson.module}" class="cell tag_export', body)) == exported > 0


def test_grid_shows_all_lessons_and_links_only_what_is_written(site):
    cards = re.findall(
        r'<li class="lesson-card (is-\w+)" data-lesson="(\d+)">(.*?)</li>', article(site, "index")
    )
    assert [number for _, number, _ in cards] == [f"{n:02d}" for n in range(1, 47)]
    written = {lesson.number: lesson for lesson in LESSONS}
    for state, number, card in cards:
        assert ("<a " in card) == (state == "is-written") == (number in written), number
        assert ("planned" in card) == (number not in written)
        if lesson := written.get(number):
            assert (
                f"{lesson.minutes} min" in card
                and f'href="{lesson.notebook.removesuffix(".ipynb")}.html"' in card
            )


def table_rows(text: str) -> int:
    return len(re.findall(r'<th scope="row">', text))


def stored(path: str):
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def test_ledger_has_a_row_for_every_reference_and_every_deliberate_error(site):
    body, rows = article(site, "book/parity"), stored("book/_data/parity.json")["rows"]
    mutants = sum(len(row["mutants"]) for row in rows)
    unseen = [row for row in rows if row["unseen"]]
    shown = [ledger.recorded(project.read_notebook(ROOT / lesson.notebook)) for lesson in LESSONS]
    assert table_rows(body) == len(rows) + len(unseen) + mutants + sum(map(len, shown))
    for row in rows:
        assert f"<small>{row['package']} {row['version']}</small>" in body  # and what was compared
        assert f"<td>{row['written']} + {row['drawn']}</td>" in body
        assert f"<td>{len(row['mutants'])} of {len(row['mutants'])}</td>" in body
        assert all(f"<code>{name}</code>" in body for name in row["unseen"])
    for lesson in LESSONS:
        if lesson.reference:
            assert f'href="../{lesson.notebook.removesuffix(".ipynb")}.html"' in body


def test_page_of_speed_shows_every_timing_and_the_means(site):
    body, rows = article(site, "book/speed"), stored("data/benchmarks.json")["rows"]
    devices = {row["device"] for row in rows}
    assert table_rows(body) == len(rows) + 2 * len(devices)
    by_machine = Counter(row["machine"]["cpu"] for row in rows)
    for cpu in by_machine:
        named = body[: body.index(f"on {html.escape(cpu)}")].rpartition("Measured on")[2]
        others = {row["primitive"] for row in rows if row["machine"]["cpu"] == cpu}
        rest = cpu != by_machine.most_common(1)[0][0]
        assert not rest or all(f"<code>{name}</code>" in named for name in others)
    for row in rows:
        assert f"{row['forward_ratio']:.2f}" in body and (
            not row["parameters"] or f"{row['parameters']:,}" in body
        )
    shares = [r["forward_of_matmul"] for r in rows if (r.get("forward_of_matmul") or 0) >= 0.01]
    assert shares and all(f"<td>{share:.0%}".replace("%", " %") in body for share in shares)
    for size in ("lesson", "realistic"):
        found = [r["forward_ratio"] for r in rows if r["size"] == size and r["device"] == "cpu"]
        assert f"<strong>{math.prod(found) ** (1 / len(found)):.2f}</strong>" in body


def test_page_of_seconds_and_seeds_holds_every_lesson_and_figure(site):
    body, runs = article(site, "book/results"), stored("book/_data/lesson_runs.json")
    swept = {lesson.number: stored(f"data/runs/{lesson.number}.json") for lesson in LESSONS}
    figures = {number: found["figures"] for number, found in swept.items()}
    claims, elsewhere = 0, {}
    for lesson in LESSONS:
        sweep = swept[lesson.number]
        notebook, measured = project.read_notebook(ROOT / lesson.notebook), seeds.claims(sweep)
        found = margins.margins(notebook, sweep["figures"], measured, elsewhere="claims" not in sweep)
        for margin in found:
            row = f"<code>{html.escape(margin.claim)}</code></th><td>"
            shown = f"{margin.least:.2f}</td>" if margin.least >= 0.01 else ""
            assert row + shown in body
        assert found or not measured
        claims += len(found)
        if "again" in sweep:
            elsewhere.setdefault(sweep["again"]["machine"]["cpu"], []).append(lesson.number)
            name, values = next(iter(sweep["again"]["figures"].items()))
            row = re.search(rf"<th scope=.row.>{re.escape(html.escape(name))}</th>(.*?)</tr>", body)
            assert row.group(1).endswith(f"<td>{statistics.mean(values):.2f}</td>")
    assert claims >= 15
    for machine, numbers in elsewhere.items():
        ran = f"Lessons {', '.join(numbers)} ran under the same seeds again on another machine"
        assert f"{ran} ({html.escape(machine)})" in body
    trained = stored("book/_data/rivals.json")["rows"]
    assert table_rows(body) == len(LESSONS) + len(trained) + claims + sum(map(len, figures.values()))
    late = [number for number, found in swept.items() if not seeds.claims(found)]
    assert not late or f"<p>Of lessons {', '.join(late)}, whose seeds" in body
    for lesson in LESSONS:
        facts = runs[lesson.number]
        times = (
            facts["seconds"],
            facts.get("cpu", "–"),
            facts["threads"],
            facts.get("again", {}).get("cpu", "–"),
        )
        assert "".join(f"<td>{each}</td>" for each in times) in body
    for row in trained:
        assert html.escape(row["machine"]["cpu"]) in body
        assert all(f"{html.escape(each['class'])} <small>" in body for each in row["references"])
        for side in rivals.SIDES:
            reached, seconds = row[side]["figure"], row[side]["seconds"]
            shown = (
                f"{statistics.mean(reached):.3f}<br><small>{min(reached):.3f} to {max(reached):.3f}</small>"
            )
            assert shown in body and f"<td>{statistics.median(seconds):.1f}</td>" in body


def test_every_direct_dependency_and_every_data_file_has_a_licence(site):
    body, manifest = article(site, "book/supply_chain"), stored("data/manifest.json")["files"]
    for found in licences.direct(ROOT).values():
        for package in found:
            assert f'<th scope="row">{package.name}</th><td>{package.version}</td>' in body
    assert {html.escape(entry["licence"]) for entry in manifest.values()} <= set(
        re.findall(r"<td>(.*?)</td>", body)
    )


def test_a_ledger_that_does_not_hold_fails_the_build(tmp_path, monkeypatch):
    from lessons import proof

    rows = stored("book/_data/parity.json")
    for spoil, message in (
        (lambda: rows["rows"][0].update(of_bound=3.0), "3 times its bound"),
        (lambda: rows["rows"].clear(), "no row"),
    ):
        spoil()
        directive = proof.ParityLedger.__new__(proof.ParityLedger)
        monkeypatch.setattr(directive, "stored", lambda: rows)
        monkeypatch.setattr(directive, "tree", lambda: ROOT)
        monkeypatch.setattr(directive, "error", AssertionError)
        with pytest.raises(AssertionError, match=message):
            directive.rows()


def test_a_rival_that_did_better_than_ours_fails_the_build(monkeypatch):
    from lessons import proof

    rows = stored("book/_data/rivals.json")
    rows["rows"][0]["ours"]["figure"] = [9.9] * len(rows["rows"][0]["ours"]["figure"])  # a perplexity
    directive = proof.LessonRivals.__new__(proof.LessonRivals)
    monkeypatch.setattr(directive, "stored", lambda: rows)
    monkeypatch.setattr(directive, "error", AssertionError)
    with pytest.raises(
        AssertionError, match="make rivals.*lesson 02, perplexity, transformer: ours is worse by"
    ):
        directive.run()


def test_pages_have_addresses_and_a_card_for_those_who_share_them(site):
    for name in PAGES:
        html = page(site / f"{name}.html")
        assert [link["href"] for link in html.all("link") if link.get("rel") == "canonical"] == [
            f"{project.site_url()}{name}.html"
        ]
        meta = {each.get("property"): each.get("content") for each in html.all("meta")}
        number = name.removeprefix("notebooks/")[:2]
        card = f"_static/cards/{number}.png" if name in LESSON_PAGES else "_static/card.png"
        assert meta["og:image"] == f"{project.site_url()}{card}" and len(meta["og:image:alt"]) > 40
        size = (site / card).read_bytes()[16:24]
        assert size == (1200).to_bytes(4, "big") + (630).to_bytes(4, "big")
        assert len(meta["og:description"]) > 40
    locations = re.findall(r"<loc>(.*?)</loc>", (site / "sitemap.xml").read_text(encoding="utf-8"))
    assert {f"{project.site_url()}{name}.html" for name in PAGES} <= set(locations)


def data(file) -> dict:
    found = re.findall(
        r'<script type="application/ld\+json">(.*?)</script>', file.read_text(encoding="utf-8")
    )
    assert len(found) == 1
    return json.loads(found[0])


def test_machines_read_the_book_as_a_course_and_its_lessons_as_parts(site):
    course = data(site / "index.html")
    assert course["@type"] == "Course" and len(course["hasPart"]) == len(LESSONS)
    for lesson, part in zip(LESSONS, course["hasPart"], strict=True):
        own = data(site / lesson.notebook.replace(".ipynb", ".html"))
        assert own["isPartOf"]["@id"] == course["@id"] and own["name"] == part["name"]
        assert part["timeRequired"] == f"PT{lesson.minutes}M" and len(part["teaches"]) == len(
            lesson.objectives
        )


def test_the_feed_lists_the_changes_newest_first_and_its_links_lead_to_them(site):
    channel = xml.fromstring((site / "feed.xml").read_text(encoding="utf-8")).find("channel")
    items = channel.findall("item")
    source = (ROOT / "book" / "changes.md").read_text(encoding="utf-8")
    days = re.findall(r"^## (\S+) · ", source, re.M)
    assert len(items) == len(days) == source.count("\n## ") and days == sorted(days, reverse=True)
    for item in items:
        address, anchor = item.find("link").text.split("#")
        assert address == f"{project.site_url()}book/changes.html"
        assert anchor in page(site / "book" / "changes.html").ids
    for file in everything(site):
        feeds = [link["href"] for link in page(file).all("link") if link.get("type") == "application/rss+xml"]
        assert len(feeds) == 1 and feeds[0].endswith("feed.xml")


def test_paths_hold_their_lessons_in_order_with_the_minutes_of_those_written(site):
    from lessons.landing import duration

    body = article(site, "index")
    shown = re.findall(r'<li class="path.*?</li>(?=<li class="path|</ul>)', body, re.S)
    assert len(shown) == len(project.paths()) >= 6
    for path, text in zip(project.paths(), shown, strict=True):
        assert html.escape(path.title) in text
        assert duration(sum(each.minutes for each in path.lessons if each.written)) in text
        if not path.whole:
            assert re.findall(r"<li>(?:<a [^>]*>)?(\d\d) ", text) == [each.number for each in path.lessons]
            assert text.count("planned") == 2 * sum(not each.written for each in path.lessons)
    assert duration(440) == "7 h 20 min" and duration(60) == "1 h" and duration(0) == "0 min"


FIELD = """CLIP, SigLIP, vision transformer, image encoder, vision-language model, visual question answering,
optical character recognition, audio embedding, Whisper, diffusion model, flow matching, text-to-image,
multimodal RAG"""


def test_concepts_are_entries_of_the_glossary_in_three_sentences_with_their_lesson(site):
    from lessons.source import glossary_entries, term_slug

    listed = re.findall(r"^(.+): (\d\d)$", (ROOT / "book/concepts.md").read_text(encoding="utf-8"), re.M)
    entries = glossary_entries(ROOT / "book")
    for term, _ in listed:
        definition = re.sub(r"\{term\}`([^`<]+?)(?: <[^>]+>)?`", r"\1", entries[term_slug(term)][1])
        assert len(re.findall(r"[.?!](?=\s+[A-Z]|$)", definition)) == 3, f"{term}: {definition}"
    assert {term.strip() for term in FIELD.replace("\n", " ").split(",")} <= {term for term, _ in listed}
    numbers = [number for _, number in listed]
    assert numbers == sorted(numbers)
    # a lesson that only applies what others build has no word of its own
    assert len({lesson.number for lesson in project.lessons()} - set(numbers)) <= 2
    shown = page(site / "book" / "concepts.html")
    assert {f"concept-{term_slug(term)}" for term, _ in listed} <= set(shown.ids)
    assert article(site, "book/concepts").count("Built in lesson <a ") == sum(
        number in {lesson.number for lesson in LESSONS} for number in numbers
    )


def test_measured_times_stand_in_one_table(site):
    body = article(site, "book/how_to_read")
    rows = dict(re.findall(r'<th scope="row"><a [^>]*>(\d\d) [^<]*</a></th><td>(\d+)</td>', body))
    assert rows == {lesson.number: str(lesson.seconds) for lesson in LESSONS if lesson.seconds}


def test_the_place_of_an_answer_cannot_be_guessed():
    places = Counter()
    for lesson in LESSONS:
        for cell in project.read_notebook(ROOT / lesson.notebook).cells:
            for output in cell.get("outputs", ()):
                for question in output.get("data", {}).get(QUIZ_MIME, {}).get("questions", ()):
                    places[question["answer"]] += 1
    assert places.total() >= 4 * len(LESSONS)
    assert max(places.values()) < 0.5 * places.total(), places


def test_style_sheet_and_figures_share_the_accent():
    style = (ROOT / "book" / "_static" / "course.css").read_text(encoding="utf-8")
    assert re.search(r"--accent: (#\w+);\s*/\* figures.ACCENT", style)[1].upper() == figures.ACCENT.upper()
    assert re.search(r"--accent: (#\w+);\s*/\* figures.SKY", style)[1].upper() == figures.SKY.upper()


# what the extension makes of a notebook


def transformed(*sources: str, code: tuple[dict, ...] = ()) -> list[dict]:
    from lessons.source import Page

    cells = [{"cell_type": "markdown", "metadata": {}, "source": text} for text in sources]
    cells += [{"cell_type": "code", "metadata": {}, "source": "", "outputs": [], **each} for each in code]
    Page({"cells": cells}, project.lessons(ROOT), "99_none", ROOT / "book").transform()
    return cells


VIT = "https://arxiv.org/abs/2010.11929"
MAE = "https://arxiv.org/abs/2111.06377"


def test_link_to_a_paper_becomes_a_citation_and_the_page_ends_with_its_reference():
    cells = transformed(f"As [Dosovitskiy et al. (2021)]({VIT}) say.")
    assert cells[0]["source"] == "As Dosovitskiy et al. (2021){footcite:p}`dosovitskiy2021image` say."
    assert "footbibliography" in cells[-1]["source"]


def test_code_and_links_elsewhere_stay_as_they_are():
    text = (
        f"`[a]({VIT})` and ``[b]({VIT})``\n\n```python\n[c]({VIT})\n```\n[d](https://example.org) ![e]({VIT})"
    )
    cells = transformed(text)
    assert cells[0]["source"] == text
    assert len(cells) == 1, "nothing is cited, so there is no bibliography"


def test_link_to_the_glossary_becomes_a_term_and_a_missing_one_is_kept_for_sphinx_to_report():
    source = transformed(
        "[the token](../book/glossary.md#term-cls-token) [x](../book/glossary.md#term-nonsense)",
        "[y](../book/glossary.md#term-frechet-distance)",
    )
    assert source[0]["source"] == "{term}`the token <CLS token>` {term}`x <nonsense>`"
    assert source[1]["source"] == "{term}`y <Fréchet distance>`"


def test_section_of_references_is_printed_once():
    cells = transformed(
        f"[ViT]({VIT})",
        f"## References\n\nFirst papers first.\n\n- [ViT]({VIT})\n- [MAE]({MAE}), section 3\n",
    )
    source = cells[1]["source"]
    assert "First papers first." in source and "[ViT]" not in source
    assert source.count("{footcite:p}") == 1 and "he2022masked" in source
    assert source.count("footbibliography") == len(cells) - 1 == 1


def test_solution_is_folded_with_its_output():
    solution = transformed(code=({"metadata": {"tags": ["solution", "hide-input"]}},))[0]["metadata"]
    assert solution["tags"] == ["solution", "hide-cell"]
    assert solution["mystnb"]["code_prompt_show"] == "Show the solution"


def test_live_figure_gets_the_number_and_caption_of_a_figure():
    output = figures.live({"mark": "point"}, alt="Dots.", caption="Look.", name="fig-99-dots")
    cell = transformed(code=({"outputs": [{"output_type": "display_data", "data": output}]},))[0]
    assert cell["metadata"]["mystnb"]["figure"] == {
        "name": "fig-99-dots",
        "caption": "Look.",
        "classes": "live",
    }


def test_quiz_shows_markup_instead_of_running_it():
    from lessons.outputs import quiz_html

    question = {
        "prompt": "<img src=x onerror=alert(1)> `a<b` $x^2$",
        "options": ["<b>", "c"],
        "answer": 1,
        "why": "&",
    }
    text = quiz_html([question], "q")
    assert "<img" not in text and "<b>" not in text
    assert "<code>a&lt;b</code>" in text and "<msup><mi>x</mi><mn>2</mn></msup>" in text


def test_small_differences_are_written_for_readers():
    from lessons.proof import scientific

    assert scientific(0) == "0"
    assert scientific(1e-5) == "10<sup>−5</sup>"
    assert scientific(4.8e-7) == "4.8 × 10<sup>−7</sup>"


def test_glossary_is_in_order_and_bibliography_has_no_double():
    from lessons.source import citation_keys, glossary_terms

    terms = list(glossary_terms(ROOT / "book").values())
    assert terms == sorted(terms, key=str.lower) and len(terms) > 20
    entries = re.findall(r"^@\w+\{(\w+),", (ROOT / "book/references.bib").read_text(encoding="utf-8"), re.M)
    assert sorted(citation_keys(ROOT / "book").values()) == sorted(set(entries)) == sorted(entries)
