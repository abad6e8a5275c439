"""What the book proves, as tables: parity, deliberate errors, speed, seconds, seeds, licences.

Everything is read from files that a command wrote (`make ledger`, `make bench`, `make lesson`, `make rivals`,
`make seeds`) or from what is installed. A ledger that is incomplete, or out of its bounds, fails the build.
"""

from __future__ import annotations

import html
import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from mmscratch.kit import ledger, licences, margins, project, rivals, runs

from .landing import LessonDirective, duration, raw

EMPTY = "–"


def scientific(value: float) -> str:
    """4.8e-07 as a reader writes it; an exact zero as 0, a power of ten as itself."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    if mantissa == "1.0":
        return f"10<sup>{int(exponent):d}</sup>".replace("-", "\N{MINUS SIGN}")
    return f"{mantissa} × 10<sup>{int(exponent):d}</sup>".replace("-", "\N{MINUS SIGN}")


def table(label: str, columns: Sequence[str], groups: Iterable[tuple[str, Sequence[Sequence[str]]]]) -> str:
    """A ledger: groups of rows under a heading each ("" for none), all cells HTML. A column's name may carry
    a hint after a bar; one that begins with a star holds words, and they wrap."""
    wordy = [column.startswith("*") for column in columns]
    names = [column.removeprefix("*").partition("|")[::2] for column in columns]
    hints = [f"<small>{hint}</small>" if hint else "" for _, hint in names]
    head = "".join(
        f'<th scope="col"{" class=is-words" * words}>{name}{hint}</th>'
        for (name, _), hint, words in zip(names, hints, wordy, strict=True)
    )
    bodies = []
    for heading, rows in groups:
        lines = "".join(
            f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
            for row in rows
        )
        if heading:
            span = f'<th scope="rowgroup" colspan="{len(columns)}"><span>{heading}</span></th>'
            lines = f"<tr>{span}</tr>{lines}"
        bodies.append(f"<tbody>{lines}</tbody>")
    return (
        f'<div class="ledger-scroll" role="region" aria-label="{html.escape(label)}" tabindex="0">'
        f'<table class="ledger"><thead><tr>{head}</tr></thead>{"".join(bodies)}</table></div>'
    )


def measured_on(rows: Iterable[dict[str, Any]], label: Callable[[dict[str, Any]], str]) -> str:
    """A line that says which machines measured the rows, nothing without rows. `label` names a row; those of
    the commonest machine stay unnamed."""
    words = {"cpu": "{}", "gpu": "{}", "threads": "threads: {}", "torch": "torch {}"}
    machines: dict[str, list[str]] = {}
    for row in rows:
        facts = row["machine"].items()
        machine = ", ".join(words.get(key, f"{key} {{}}").format(value) for key, value in facts)
        machines.setdefault(machine, []).append(label(row))
    if not machines:
        return ""
    first, *others = sorted(machines, key=lambda machine: -len(machines[machine]))
    said = [html.escape(first)]
    said += [f"{', '.join(dict.fromkeys(machines[each]))} on {html.escape(each)}" for each in others]
    return f'<p class="ledger-machine">Measured on {"; ".join(said)}.</p>'


class Proof(LessonDirective):
    """A table of what was measured; the page is read again when `file` changes."""

    file = ""

    def stored(self) -> Any:
        path = self.tree() / self.file
        self.env.note_dependency(str(path))
        if not path.is_file():
            raise self.error(f"{self.file} is missing")
        return json.loads(path.read_text(encoding="utf-8"))

    def lessons(self) -> list[project.Lesson]:
        return [lesson for lesson in project.lessons(self.tree()) if lesson.written]

    def primitive(self, name: str) -> str:
        """The name of a primitive, leading to its lesson."""
        found = [lesson for lesson in self.lessons() if lesson.module == name.split(".")[0]]
        code = f"<code>{html.escape(name)}</code>"
        if not found:
            return code
        uri = self.uri(found[0].notebook.removesuffix(".ipynb"))
        return f'<a href="{uri}">{code}</a>'


# ---------------------------------------------------------------------------------------------------------
# Parity


class Ledger(Proof):
    file = "book/_data/parity.json"

    def rows(self) -> list[dict[str, Any]]:
        """All rows; an error of the build where one is missing or out of bounds."""
        stored = self.stored()
        timed = json.loads((self.tree() / "data" / "benchmarks.json").read_text(encoding="utf-8"))["rows"]
        problems = ledger.problems(stored, sorted({row["primitive"] for row in timed}))
        modules = {row["primitive"].split(".")[0] for row in stored["rows"]}
        problems += [
            f"lesson {lesson.number} names a reference and has no row"
            for lesson in self.lessons()
            if lesson.reference and lesson.module not in modules
        ]
        if problems:
            raise self.error("the parity ledger does not hold (make ledger): " + "; ".join(problems))
        order = [lesson.module for lesson in self.lessons()]
        return sorted(stored["rows"], key=lambda row: order.index(row["primitive"].split(".")[0]))

    def by_primitive(self, rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault(row["primitive"], []).append(row)
        return groups


class ParityLedger(Ledger):
    """`{parity-ledger}`: one row for each primitive and reference, from `make ledger`."""

    COLUMNS = (
        "Reference",
        "Configurations|chosen + drawn",
        "Outputs|largest difference",
        "Gradients|largest difference",
        "Bound",
        "Noticed|errors tried",
    )

    def run(self) -> list[nodes.Node]:
        groups = [
            (self.primitive(primitive), [self.row(row) for row in rows])
            for primitive, rows in self.by_primitive(self.rows()).items()
        ]
        return raw(table("Parity ledger", self.COLUMNS, groups))

    def row(self, row: dict[str, Any]) -> list[str]:
        def difference(*kinds: str) -> str:
            found = [row[kind] for kind in kinds if row[kind] is not None]
            if not found:
                return EMPTY
            absolute, relative = (scientific(max(each[i] for each in found)) for i in (0, 1))
            return f"{absolute}<br><small>relative {relative}</small>"

        version = html.escape(f"{row['package']} {row['version']}")
        compared = html.escape(
            ", ".join(row["compared"]).replace(", gradients of parameters", " and parameters")
        )
        noticed = sum(mutant["least"] is None or mutant["least"] > row["bound"] for mutant in row["mutants"])
        return [
            f"{html.escape(row['reference'])}<br><small>{version}</small><br><small>{compared}</small>",
            f"{row['written']} + {row['drawn']}",
            difference("output"),
            difference("input_gradient", "parameter_gradient"),
            scientific(row["bound"]),
            f"{noticed} of {len(row['mutants'])}",
        ]


class ParitySummary(Ledger):
    """`{parity-summary}`: the ledger in a sentence."""

    def run(self) -> list[nodes.Node]:
        rows = self.rows()
        configurations = sum(row["written"] + row["drawn"] for row in rows)
        mutants = sum(len(row["mutants"]) for row in rows)
        tried = sum(mutant["tried"] for row in rows for mutant in row["mutants"])
        primitives = len({row["primitive"] for row in rows})
        text = (
            f"{primitives} primitives against {len(rows)} references in {configurations:,} configurations; "
            f"{mutants:,} deliberate errors, tried {tried:,} times and noticed every time."
        )
        return raw(f'<p class="ledger-sum"><strong>{text}</strong></p>')


class ParityUnseen(Ledger):
    """`{parity-unseen}`: tensors of the references that no compared number depends on."""

    def run(self) -> list[nodes.Node]:
        groups = []
        for primitive, rows in self.by_primitive(self.rows()).items():
            lines = [
                [html.escape(row["reference"]), self.names(row["unseen"])] for row in rows if row["unseen"]
            ]
            if lines:
                groups.append((self.primitive(primitive), lines))
        return raw(table("Tensors that outputs do not depend on", ("Reference", "*Tensors"), groups))

    @staticmethod
    def names(tensors: list[str]) -> str:
        codes = "<br>".join(f"<code>{html.escape(name)}</code>" for name in tensors)
        return f'<span class="ledger-words is-wide">{codes}</span>'


class Mutants(Ledger):
    """`{mutants}`: every deliberate error, folded by primitive, with what notices it."""

    COLUMNS = ("Deliberate error", "Tried|configurations", "Least difference|bound 10⁻⁵", "*Least seen in")

    def run(self) -> list[nodes.Node]:
        return raw(
            "\n".join(
                self.folded(primitive, rows) for primitive, rows in self.by_primitive(self.rows()).items()
            )
        )

    def folded(self, primitive: str, rows: list[dict[str, Any]]) -> str:
        count = sum(len(row["mutants"]) for row in rows)
        groups = [
            (html.escape(f"against {row['reference']}"), [self.row(mutant) for mutant in row["mutants"]])
            for row in rows
        ]
        inside = table(f"Deliberate errors in {primitive}", self.COLUMNS, groups)
        summary = f"<summary><code>{html.escape(primitive)}</code>: {count}, all noticed</summary>"
        return f'<details class="ledger-fold">{summary}{inside}</details>'

    def row(self, mutant: dict[str, Any]) -> list[str]:
        least = "another shape" if mutant["least"] is None else scientific(mutant["least"])
        case = f'<span class="ledger-words">{html.escape(mutant["case"])}</span>'
        return [html.escape(mutant["name"]), str(mutant["tried"]), least, case]


class ParityInLessons(Ledger):
    """`{parity-in-lessons}`: the comparisons that the stored notebooks show."""

    COLUMNS = ("Compared with", "Parameters", "Outputs", "Gradients", "Wrong on purpose|least")

    def run(self) -> list[nodes.Node]:
        groups = []
        for lesson in self.lessons():
            found = ledger.recorded(project.read_notebook(self.tree() / lesson.notebook))
            keys = ("name", "parameters", "outputs", "gradients", "wrong")
            rows = [[html.escape(comparison[key]) for key in keys] for comparison in found]
            if lesson.reference and not rows:
                raise self.error(f"lesson {lesson.number} names a reference and shows no comparison")
            if rows:
                groups.append((self.titled(lesson), rows))
        return raw(table("Comparisons shown in the lessons", self.COLUMNS, groups))


# ---------------------------------------------------------------------------------------------------------
# Speed


class Timed(Proof):
    file = "data/benchmarks.json"
    KINDS = (("forward_ratio", "Forward"), ("backward_ratio", "Forward + backward"))
    SIZES = {"lesson": "Lesson size", "realistic": "Realistic size"}

    @staticmethod
    def device(row: dict[str, Any]) -> str:
        return "CPU" if row.get("device", "cpu") == "cpu" else row["device"]


class SpeedSummary(Timed):
    """`{speed-summary}`: geometric means of our time divided by the reference's."""

    def run(self) -> list[nodes.Node]:
        rows = self.stored()["rows"]
        lines = []
        for device in dict.fromkeys(map(self.device, rows)):
            for size, title in self.SIZES.items():
                cells = [f"{title}, {html.escape(device)}"]
                for key, _ in self.KINDS:
                    found = [
                        row[key]
                        for row in rows
                        if row[key] and row["size"] == size and self.device(row) == device
                    ]
                    mean = math.exp(statistics.mean(map(math.log, found))) if found else None
                    slower = sum(ratio > 1 for ratio in found)
                    cells += (
                        [f"<strong>{mean:.2f}</strong>", f"{slower} of {len(found)}"]
                        if found
                        else [EMPTY] * 2
                    )
                lines.append(cells)
        columns = (
            "Our time / theirs",
            *(f"{name}|{hint}" for _, name in self.KINDS for hint in ("geometric mean", "above 1")),
        )
        return raw(table("Geometric means", columns, [("", lines)]))


class Speed(Timed):
    """`{speed}`: every stored timing of `make bench`."""

    COLUMNS = (
        "Case",
        "Forward|our time / theirs",
        "Forward + backward|our time / theirs",
        "Forward|ms, ours and theirs",
        "Forward + backward|ms, ours and theirs",
        "Of matmul rate|ours, forward and with backward",
        "Size",
        "Parameters",
        "On",
    )

    def run(self) -> list[nodes.Node]:
        rows = self.stored()["rows"]
        if not rows:
            return [nodes.paragraph("", "No measurements in this checkout. make bench takes them.")]
        groups: dict[str, list[list[str]]] = {}
        for row in rows:
            heading = f"{self.primitive(row['primitive'])} against {html.escape(row['reference'])}"
            groups.setdefault(heading, []).append(self.row(row))
        machines = measured_on(rows, lambda row: f"<code>{html.escape(row['primitive'])}</code>")
        return raw(table("Speed", self.COLUMNS, groups.items()) + machines)

    def row(self, row: dict[str, Any]) -> list[str]:
        def ratio(kind: str) -> str:
            if row[f"{kind}_ratio"] is None:
                return EMPTY
            spread = row.get(f"{kind}_spread")
            shown = f"<small>{spread[0]:.2f} to {spread[1]:.2f}</small>" if spread else ""
            return f"{row[f'{kind}_ratio']:.2f}{shown and f'<br>{shown}'}"

        def milliseconds(kind: str) -> str:
            return " · ".join(f"{value:.1f}" for value in row[f"{kind}_ms"]) if row[f"{kind}_ms"] else EMPTY

        def fraction(kind: str) -> str:
            found = row.get(f"{kind}_of_matmul")  # nothing where no operation was seen, or none looked for
            return EMPTY if not found else "&lt; 1 %" if found < 0.01 else f"{found:.0%}".replace("%", " %")

        fractions = [fraction(kind) for kind in ("forward", "backward")]
        threads = f"{row['threads']} thread{'s' if row['threads'] != 1 else ''}"
        return [
            html.escape(row["case"]),
            *(ratio(kind) for kind in ("forward", "backward")),
            *(milliseconds(kind) for kind in ("forward", "backward")),
            EMPTY if set(fractions) == {EMPTY} else " · ".join(fractions),
            row["size"],
            f"{row['parameters']:,}" if row["parameters"] else EMPTY,
            threads if row.get("device", "cpu") == "cpu" else html.escape(row["device"]),
        ]


# ---------------------------------------------------------------------------------------------------------
# Seconds and seeds


class Seeded(Proof):
    def swept(self, lesson: project.Lesson) -> dict[str, Any]:
        """What `make seeds` stored: `figures` and, since distances are noted, `claims`; under `again` the
        same from another machine (`kit.runs --again`)."""
        path = self.tree() / "data" / "runs" / f"{lesson.number}.json"
        self.env.note_dependency(str(path))
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"figures": {}}

    def figures(self, lesson: project.Lesson) -> dict[str, list[float]]:
        return self.swept(lesson)["figures"]

    def margins(self, lesson: project.Lesson) -> list[margins.Margin]:
        if not (stored := self.swept(lesson))["figures"]:
            return []
        notebook = project.read_notebook(self.tree() / lesson.notebook)
        elsewhere = "claims" not in stored
        return margins.margins(notebook, stored["figures"], runs.claims(stored), elsewhere=elsewhere)


class LessonResults(Seeded):
    """`{lesson-results}`: seconds of a clean run of each lesson, and a figure that it reached.

    Each line of the content names the figure to show for a lesson, `04: world: shape, plain ViT`. The others
    show the first figure of their last assertion that the stored seeds decide.
    """

    has_content = True
    file = "book/_data/lesson_runs.json"

    def run(self) -> list[nodes.Node]:
        chosen = dict(line.split(": ", 1) for line in self.content if line.strip())
        stored, rows, wall, cpu = self.stored(), [], 0, []
        again: dict[str, list[dict[str, Any]]] = {}
        for lesson in self.lessons():
            if not (facts := stored.get(lesson.number)):
                continue
            wall += facts["seconds"]
            cpu += [facts["cpu"]] if "cpu" in facts else []
            if "cpu" in facts.get("again", {}):
                again.setdefault(facts["again"]["machine"]["cpu"], []).append(facts["again"])
            figures = self.figures(lesson)
            name = chosen.pop(lesson.number, "")
            if name and name not in figures:
                raise self.error(
                    f"lesson {lesson.number} has no stored figure {name!r}: {', '.join(figures)}"
                )
            name = name or next((m.figures[0] for m in reversed(self.margins(lesson)) if m.figures), "")
            reached = (
                f"{runs.summarise(figures[name])}<br><small>{html.escape(name)}</small>" if name else EMPTY
            )
            rows.append(
                [
                    self.titled(lesson),
                    str(facts["seconds"]),
                    str(facts.get("cpu", EMPTY)),
                    str(facts["threads"]),
                    str(facts.get("again", {}).get("cpu", EMPTY)),
                    f'<span class="ledger-words">{reached}</span>',
                ]
            )
        if chosen:
            raise self.error(f"no such lessons: {', '.join(chosen)}")
        total = f"Together {duration(round(wall / 60))}"
        if len(cpu) == len(rows):
            total += f", and {duration(round(sum(cpu) / 60))} of CPU time"
        everything = len(project.lessons(self.tree()))
        minutes = wall / max(1, len(rows)) * everything / 60
        total += (
            f". At this rate the {everything} lessons of the whole book take {round(minutes)} min one after "
            f"the other, and {round(minutes / 2)} min two at a time, as <code>make test</code> runs them."
        )
        for machine, found in again.items():
            spent = sum(each["cpu"] for each in found) / 60
            rate = duration(round(spent / len(found) * everything / 2))
            total += (
                f" Elsewhere, on {html.escape(machine)}, {len(found)} lessons took {duration(round(spent))} "
                f"of CPU time; the whole book would take {rate} on two cores."
            )
        columns = (
            "Lesson",
            "Seconds|wall",
            "Seconds|CPU",
            "Threads",
            "CPU seconds|elsewhere",
            "*Reached|mean ± half the range, five seeds",
        )
        return raw(table("Seconds to a result", columns, [("", rows)]) + f"<p>{total}</p>")


class LessonRivals(Proof):
    """`{lesson-rivals}`: what ours reached, and a library's model by the same recipe, from `make rivals`."""

    COLUMNS = (
        "Lesson",
        "*Figure",
        "Ours|mean, range",
        "Reference|mean, range",
        "Seeds",
        "CPU seconds|ours",
        "CPU seconds|reference",
    )
    file = "book/_data/rivals.json"

    def run(self) -> list[nodes.Node]:
        stored = self.stored()
        if found := rivals.problems(stored):
            raise self.error("ours does not hold against the reference (make rivals): " + "; ".join(found))
        lessons = {lesson.number: lesson for lesson in self.lessons()}
        groups = [
            (self.heading(row), [self.row(row, lessons[row["lesson"]])])
            for row in stored["rows"]
            if row["lesson"] in lessons
        ]
        machines = measured_on(stored["rows"], lambda row: f"lesson {row['lesson']}")
        return raw(table("The same recipe, the library's model", self.COLUMNS, groups) + machines)

    def heading(self, row: dict[str, Any]) -> str:
        named = (
            f"{html.escape(each['class'])} <small>{html.escape(each['package'])} {each['version']}</small>"
            for each in row["references"]
        )
        return f"{self.primitive(row['primitive'])} against {', '.join(named)}"

    def row(self, row: dict[str, Any], lesson: project.Lesson) -> list[str]:
        better = f"<br><small>{row['better']} is better</small>"
        return [
            self.titled(lesson),
            f'<span class="ledger-words">{html.escape(row["figure"])}{better}</span>',
            *(over_seeds(row[side]["figure"]) for side in rivals.SIDES),
            str(len(row["ours"]["figure"])),
            *(f"{statistics.median(row[side]['seconds']):.1f}" for side in rivals.SIDES),
        ]


def over_seeds(values: Sequence[float]) -> str:
    """The mean, and under it the range."""
    lowest, highest = min(values), max(values)
    return f"{statistics.mean(values):.3f}<br><small>{lowest:.3f} to {highest:.3f}</small>"


class Seeds(Seeded):
    """`{seeds}`: assertions of the lessons under their stored seeds, with the distance to failing."""

    COLUMNS = ("What the lesson asserts", "Holds by|least of the seeds", "Holds by|mean")

    def run(self) -> list[nodes.Node]:
        groups, failed, unmeasured, late, again = [], [], [], [], {}
        for lesson in self.lessons():
            found = self.margins(lesson)
            failed += [f"lesson {lesson.number}: {margin.claim}" for margin in found if margin.least < 0]
            stored = self.swept(lesson)
            unmeasured += [] if runs.claims(stored) else [lesson.number]
            if "again" in stored:
                again.setdefault(stored["again"]["machine"]["cpu"], []).append(lesson.number)
                late += [] if "claims" in stored else [lesson.number]
            rows = [
                [
                    f"<code>{html.escape(margin.claim)}</code>",
                    *map(self.distance, (margin.least, statistics.mean(margin.values))),
                ]
                for margin in found
            ]
            if rows:
                groups.append((self.titled(lesson), rows))
        if failed:
            raise self.error("an assertion fails under a stored seed: " + "; ".join(failed))
        note = (
            f"<p>Of lessons {', '.join(unmeasured)}, whose seeds were last run before distances were noted, "
            "the table holds the claims that their stored figures decide.</p>"
        )
        repeated = "".join(
            f"<p>Lessons {', '.join(numbers)} ran under the same seeds again on another machine "
            f"({html.escape(machine)}). Every assertion held there too, and its distances count in the "
            "table.</p>"
            for machine, numbers in again.items()
        )
        if late:
            repeated += (
                f"<p>The first runs of lessons {', '.join(late)} noted no distances: beside what their "
                "stored figures decide, the table holds those of the other machine.</p>"
            )
        found = table("Assertions under five seeds", self.COLUMNS, groups)
        return raw(found + repeated + (note if unmeasured else ""))

    @staticmethod
    def distance(value: float) -> str:
        return f"{value:.2f}" if abs(value) >= 0.01 or value == 0 else scientific(value)


class SeedFigures(Seeded):
    """`{seed-figures}`: every figure that the lessons recorded, folded by lesson."""

    COLUMNS = ("Figure", "Mean", "Lowest", "Highest", "Mean|another machine")

    def run(self) -> list[nodes.Node]:
        folds = []
        for lesson in self.lessons():
            figures = self.figures(lesson)
            again = self.swept(lesson).get("again", {}).get("figures", {})
            rows = [
                [
                    html.escape(name),
                    *(f"{each(values):.2f}" for each in (statistics.mean, min, max)),
                    f"{statistics.mean(again[name]):.2f}" if name in again else EMPTY,
                ]
                for name, values in figures.items()
            ]
            if rows:
                title = html.escape(f"{lesson.number} {lesson.title}")
                seeds = len(next(iter(figures.values())))
                inside = table(f"Figures of lesson {lesson.number}", self.COLUMNS, [("", rows)])
                summary = f"<summary>{title}: {len(rows)} figures, {seeds} seeds</summary>"
                folds.append(f'<details class="ledger-fold">{summary}{inside}</details>')
        return raw("\n".join(folds))


# ---------------------------------------------------------------------------------------------------------
# Supply chain


class Dependencies(Proof):
    """`{dependencies}`: what pyproject.toml names, with the licence that its own metadata states."""

    def run(self) -> list[nodes.Node]:
        groups = []
        for use, names in licences.direct(self.tree()).items():
            rows = [
                [
                    html.escape(found.name),
                    html.escape(found.version),
                    f'<span class="ledger-words">{html.escape(found.licence)}</span>',
                ]
                for found in names
            ]
            groups.append((html.escape(use), rows))
        return raw(table("Direct dependencies", ("Package", "Version", "*Licence"), groups))


class AllDependencies(Proof):
    """`{all-dependencies}`: every package of requirements.lock, folded by licence."""

    def run(self) -> list[nodes.Node]:
        by_licence: dict[str, list[str]] = {}
        for found in licences.locked(self.tree()):
            by_licence.setdefault(found.licence, []).append(f"{found.name} {found.version}")
        folds = []
        for licence, names in sorted(by_licence.items(), key=lambda item: (-len(item[1]), item[0])):
            summary = f"<summary>{html.escape(licence)}: {len(names)}</summary>"
            which = html.escape(", ".join(sorted(names)))
            folds.append(f'<details class="ledger-fold">{summary}<p>{which}</p></details>')
        return raw("\n".join(folds))


class DataLicences(Proof):
    """`{data-licences}`: what ships in data/, by origin and licence, from its manifest."""

    file = "data/manifest.json"

    def run(self) -> list[nodes.Node]:
        groups: dict[tuple[str, str, str], list[int]] = {}
        for name, entry in self.stored()["files"].items():
            folder = name.split("/")[0]
            groups.setdefault((folder, entry["licence"], entry["origin"]), []).append(entry["bytes"])
        rows = [
            [
                f"{html.escape(folder)}",
                html.escape(licence),
                str(len(sizes)),
                f"{sum(sizes) / 1e6:.1f}",
                f'<span class="ledger-words">{html.escape(origin)}</span>',
            ]
            for (folder, licence, origin), sizes in sorted(groups.items())
        ]
        columns = ("Folder of data/", "Licence", "Files", "MB", "*Origin")
        return raw(table("Data by licence", columns, [("", rows)]))


DIRECTIVES = {
    "parity-ledger": ParityLedger,
    "parity-summary": ParitySummary,
    "parity-unseen": ParityUnseen,
    "parity-in-lessons": ParityInLessons,
    "mutants": Mutants,
    "speed-summary": SpeedSummary,
    "speed": Speed,
    "lesson-results": LessonResults,
    "lesson-rivals": LessonRivals,
    "seeds": Seeds,
    "seed-figures": SeedFigures,
    "dependencies": Dependencies,
    "all-dependencies": AllDependencies,
    "data-licences": DataLicences,
}


def setup(app: Sphinx) -> None:
    for name, directive in DIRECTIVES.items():
        app.add_directive(name, directive)
