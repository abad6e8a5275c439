"""What `mmscratch.chart_strategies` promises beside equality with scikit-learn (`tests/parity`)."""

from __future__ import annotations

import base64
import copy
import http.server
import io
import json
import random
import threading

import numpy as np
import pytest
import refusals
import torch
import torch.nn.functional as F

from mmscratch import chart_strategies
from mmscratch.chart_strategies import (
    LONGEST,
    STRATEGIES,
    WORDS,
    Endpoint,
    Item,
    Slots,
    Vocabulary,
    answers,
    best_split,
    bootstrap,
    calculate,
    context,
    cost,
    data_url,
    fit_tree,
    gini,
    one_letter_apart,
    pack,
    palette_maps,
    question_features,
    small_chart_reader,
    start_copying,
    tile_tokens,
)
from mmscratch.kit import charts, project, typeset

V = Vocabulary(charts.shared_words())
PALETTE = torch.tensor(list(charts.COLOURS.values())) / 127.5 - 1
SAID = [0, *(V.ids[name] for name in charts.COLOURS)]


def look(image):
    return palette_maps([image], PALETTE)[0]


def slots(seed: int = 0) -> Slots:
    return Slots(V, random.Random(seed))


# -- words


@pytest.mark.parametrize("value", [0, 0.1, 0.3, 1, 7, 37.5, 1204, 5000])
def test_numbers_come_back_within_one_step_in_a_hundred(value):
    assert abs(V.value(V.number(value)) - value) <= 0.0101 * value


def test_number_ids_keep_the_order():
    ids = [V.number(v) for v in (0, 0.1, 0.5, 3, 41, 400, 9999)]
    assert ids == sorted(set(ids)) and ids[-1] < len(V)


def test_every_word_of_a_template_has_an_id():
    for split in ("train", "test"):
        for chart in charts.sample(20, generator=torch.Generator().manual_seed(1), split=split):
            known = {w.casefold() for w in (*chart.categories, *chart.series, *chart.title.split())}
            for question in charts.all_questions(chart):
                new = slots()
                new.encode(question.text)
                if question.kind != "category":
                    assert set(new.known) <= known


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_answer_survives_the_way_there_and_back(split):
    for chart in charts.sample(40, generator=torch.Generator().manual_seed(2), split=split):
        s = slots(3)
        s.encode(chart.table())
        for question in charts.all_questions(chart):
            assert question.correct(s.decode(s.encode(question.answer))), question


def test_a_slot_is_the_same_word_and_another_chart_another_draw():
    one, other = slots(1), slots(2)
    first = one.encode("Bricks bricks, (Bricks) Clouds")
    assert len(set(first)) == 2 and first[0] == first[1] == first[2]
    assert other.encode("Bricks Clouds") != [first[0], first[3]]


def test_words_beyond_the_slots_are_left_out():
    s = Slots(Vocabulary([], slots=3), random.Random(0))
    assert len(s.encode("Alpha Beta Gamma Delta Alpha")) == 4


@pytest.mark.parametrize(
    ("a", "b", "near"),
    [
        ("bricks", "brlcks", True),
        ("bricks", "brick", True),
        ("bricks", "bricks", True),
        ("bricks", "brlckz", False),
        ("cat", "cut", False),
        ("abcde", "abcdeffg", False),
        ("aabaa", "aaaa", False),
    ],
)
def test_one_letter_apart(a, b, near):
    assert one_letter_apart(a, b) is near and one_letter_apart(b, a) is near


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("41 + 37", "78"),
        ("1,204 - 41", "1163"),
        ("3.5 + 1.25", "4.75"),
        ("5% + 6%", "11"),
        ("41", "41"),
        ("a + b", "a + b"),
    ],
)
def test_calculate(text, result):
    assert calculate(text) == result


# -- prompts


def test_contexts_hold_what_their_names_say():
    options = dict(text="Tea 31", table="Tea 31", num_tokens=7)
    seen = {s: context(slots(), s, **options) for s in (*STRATEGIES, "nothing")}
    image = V.ids["<image>"]
    assert seen["nothing"] == [] and seen["image"] == [image] * 7
    assert image not in seen["text"] and seen["both"] == seen["image"] + seen["text"]
    assert seen["table"][0] == V.ids["<table>"] and seen["table"][1:] == seen["text"][1:]


def test_long_text_is_cut_and_no_text_is_a_sign_alone():
    assert len(context(slots(), "text", text="31 " * 500)) == LONGEST
    assert context(slots(), "text", text="") == [V.ids["<ocr>"]]


def test_packed_questions_do_not_see_one_another():
    torch.manual_seed(0)
    model = small_chart_reader(V, SAID).eval()
    seen = [context(slots(), "text", text="Tea 31\nMilk 54"), context(slots(), "text", text="Tea 7")]
    turn = [([5, 30, 31], [40, 1]), ([5, 32], [41, 1]), ([5, 33, 34, 35], [42, 1])]
    together = pack(seen, [turn, turn[:1]])
    for row, asked in ((0, turn), (1, turn[:1])):
        at = len(seen[row])
        for question in asked:
            length = len(question[0]) + len(question[1])
            alone = pack([seen[row]], [[question]])
            with torch.no_grad():
                a = model(
                    together.input_ids, None, together.attention_mask, position_ids=together.position_ids
                )
                b = model(alone.input_ids, None, alone.attention_mask, position_ids=alone.position_ids)
            torch.testing.assert_close(a[row, at : at + length], b[0, len(seen[row]) :], atol=2e-5, rtol=0)
            at += length


def test_only_answers_are_labelled():
    packed = pack([[7, 8]], [[([5, 30], [40, 1])]])
    assert packed.labels.tolist() == [[-100, -100, -100, -100, 40, 1]]


def test_the_start_looks_up():
    torch.manual_seed(0)
    model = small_chart_reader(V, SAID).eval()
    start_copying(model.language, V)
    ids = torch.randperm(64)[:20] + V.first_slot
    with torch.no_grad():
        said = model.language(torch.cat([ids, ids])[None])[0]
    before = torch.arange(20, 39)
    follows = torch.cat([ids, ids])[before + 1]
    rank = (said[before] > said[before, follows][:, None]).sum(1).float().median()
    assert rank < 250  # of 836, while what follows was random before


@pytest.mark.parametrize("strategy", [*STRATEGIES, "nothing"])
def test_answers_do_not_depend_on_the_batch(strategy):
    torch.manual_seed(1)
    model = small_chart_reader(V, SAID).eval()
    some = charts.sample(3, generator=torch.Generator().manual_seed(3), split="test")
    items = [
        Item(look(c.image), c.title, [q.text for q in charts.all_questions(c)[:4]], c.table()) for c in some
    ]
    together = answers(model, V, items, strategy)
    assert together == answers(model, V, items, strategy, batch_size=1)
    assert [len(said) for said in together] == [4, 4, 4]


def test_a_picture_without_words_is_answered():
    from mmscratch.ocr import CRNN, Alphabet, Detector, read_page

    blank = torch.full((3, 240, 320), 255, dtype=torch.uint8)
    torch.manual_seed(0)
    detector = Detector().eval()
    with torch.no_grad():
        detector.join[-1].bias.fill_(-30.0)
    text = typeset.as_text(read_page(detector, CRNN(3).eval(), Alphabet("ab"), blank))
    assert text == ""
    model = small_chart_reader(V, SAID).eval()
    assert len(answers(model, V, [Item(look(blank), text, ["what is the title?"])], "both")[0]) == 1


def test_maps_know_the_colours_they_were_given():
    blue = list(charts.COLOURS).index("blue")
    image = torch.full((3, 240, 320), 255, dtype=torch.uint8)
    image[:, :, 160:] = torch.tensor(charts.COLOURS["blue"], dtype=torch.uint8)[:, None, None]
    maps = palette_maps([image, image], PALETTE)
    assert maps.shape == (2, 9, 32, 40) and torch.equal(maps[0], maps[1])
    torch.testing.assert_close(maps[0, blue, :30, 20:], torch.ones(30, 20))
    others = [k for k in range(8) if k != blue]
    assert maps[0, others, :30, 20:].max() < 0.5 and maps[0, :8, :30, :20].max() < 0.1
    torch.testing.assert_close(maps[0, 8, :30, :20], torch.ones(30, 20))  # white is as light as can be
    assert maps[0, 8, 30:].abs().max() == 0  # the rows below are grey


def test_a_picture_speaks_in_words_of_the_language_model():
    torch.manual_seed(0)
    model = small_chart_reader(V, SAID).eval()
    maps = torch.rand(2, 9, 32, 40)
    with torch.no_grad():
        patches = model.see(maps)
        shares = model.projector.scores(patches).softmax(-1)
        tokens = model.projector(patches)
    assert patches.shape == (2, 80, 128) and shares.shape == (2, 24, len(SAID))
    torch.testing.assert_close(tokens, shares @ model.language.embed.weight[SAID])
    model.projector.head.weight.data.zero_()
    model.projector.head.bias.data.copy_(torch.arange(len(SAID)) * 100.0)  # all say the last word
    torch.testing.assert_close(model.projector(patches)[1, 7], model.language.embed.weight[SAID[-1]])


def test_the_words_of_a_copied_model_are_its_own():
    model = copy.deepcopy(small_chart_reader(V, SAID).eval())
    before = model.projector(torch.ones(1, 80, 128))
    model.language.embed.weight.data *= 2
    torch.testing.assert_close(model.projector(torch.ones(1, 80, 128)), 2 * before)
    stored = model.projector.state_dict().values()
    assert all(len(V) not in value.shape for value in stored)  # the table is the language model's alone


# -- deciding


def test_bootstrap_covers_and_is_paired():
    g = torch.Generator().manual_seed(0)
    inside = 0
    for trial in range(60):
        hard = torch.rand(80, generator=g)  # of each chart
        right = (torch.rand(80, 4, generator=g) < hard[:, None]).float().view(-1, 1)
        mean, low, high = bootstrap(right, torch.arange(80).repeat_interleave(4), draws=400, seed=trial)
        inside += bool(low <= 0.5 <= high)
        assert low <= mean <= high
    assert inside >= 50
    one = torch.randint(0, 2, (90, 1), generator=g).float()
    mean, low, high = bootstrap(torch.cat([one, one, one - one], 1), torch.arange(90))
    assert torch.equal(low[0], low[1]) and low[2] == high[2] == 0


def test_gini_of_pure_even_and_weighted_nodes():
    found = gini(torch.tensor([[4.0, 0, 0], [2, 2, 0], [0.5, 0.5, 0], [0, 0, 0]]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.5, 0.5, 1.0]))


def test_best_split_is_the_best_of_all_by_loop():
    g = torch.Generator().manual_seed(4)
    x, y = torch.randint(0, 6, (41, 3), generator=g).double(), torch.rand(41, 4, generator=g).double()
    found = []
    for feature in range(3):
        for t in (x[:, feature].unique()[1:] + x[:, feature].unique()[:-1]) / 2:
            sides = [y[x[:, feature] <= t].sum(0), y[x[:, feature] > t].sum(0)]
            found.append((sum(float(gini(s) * s.sum()) for s in sides), feature, float(t)))
    best = best_split(x, y)
    assert best[1:] == min(found)[1:] and abs(best[0] - min(found)[0]) < 1e-9


def test_trees_grow_as_deep_and_as_wide_as_allowed():
    g = torch.Generator().manual_seed(5)
    x, y = torch.randn(120, 4, generator=g), F.one_hot(torch.randint(0, 3, (120,), generator=g))
    assert len(fit_tree(x, y, depth=0).feature) == 1
    assert len(fit_tree(x, y, depth=2).feature) <= 7
    leaves = fit_tree(x, y, depth=9, least=20)(x)
    assert leaves.unique(dim=0, return_counts=True)[1].min() >= 20
    assert (fit_tree(x, y, depth=50)(x).argmax(1) == y.argmax(1)).all()
    assert best_split(torch.ones(5, 2), F.one_hot(torch.tensor([0, 1, 0, 1, 0]))) is None


def test_a_rule_says_what_the_tree_does():
    x = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 0]])
    tree = fit_tree(x, F.one_hot(torch.tensor([0, 0, 1, 1])), depth=3)
    said = tree.rule(["colour", "title"], ["image", "text"])
    assert said == "colour?\n  yes:\n    send image\n  no:\n    send text"


def test_features_are_words_of_the_question():
    found = question_features(["What colour is Blank?", "do the lines cross?", ""])
    assert found.shape == (3, len(WORDS)) and found[2].sum() == 0
    assert [w for w, v in zip(WORDS, found[1], strict=True) if v] == ["lines", "cross"]
    assert question_features([]).shape == (0, len(WORDS))


def test_costs_and_tiles():
    assert cost(1_000, 100, price_in=2.5, price_out=10) == pytest.approx(3.5)
    # the examples of OpenAI's guide
    assert tile_tokens(1024, 1024) == 765 and tile_tokens(2048, 4096) == tile_tokens(4096, 2048) == 1105
    assert tile_tokens(240, 320) == 255


# -- pictures and endpoints


def test_a_data_url_holds_the_picture():
    from PIL import Image

    picture = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    kind, coded = data_url(picture).split(",")
    assert kind == "data:image/png;base64"
    opened = np.array(Image.open(io.BytesIO(base64.b64decode(coded))))
    assert torch.equal(torch.from_numpy(opened).permute(2, 0, 1), picture)


@pytest.fixture
def server():
    """An address that answers as an OpenAI-compatible server does; `.got` holds what came."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.got.append((self.path, self.headers.get("Authorization"), json.loads(body)))
            reply = self.server.reply
            self.send_response(self.server.status)
            self.end_headers()
            self.wfile.write(reply if isinstance(reply, bytes) else json.dumps(reply).encode())

        def log_message(self, *_):
            pass

    found = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    found.got, found.status = [], 200
    found.reply = {
        "choices": [{"message": {"content": " 54\n"}}],
        "usage": {"prompt_tokens": 300, "completion_tokens": 2},
    }
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def address(server) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1/"


def test_an_endpoint_gets_picture_text_and_key_and_keeps_none(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    endpoint = Endpoint(address(server), "some-model")
    reply = endpoint.ask("how many?", picture=torch.zeros(3, 4, 6, dtype=torch.uint8), text="Tea 31")
    assert (reply.text, reply.tokens_in, reply.tokens_out) == ("54", 300, 2) and reply.seconds > 0
    path, key, body = server.got[0]
    assert path == "/v1/chat/completions" and key == "Bearer sk-secret" and body["model"] == "some-model"
    text, picture = body["messages"][0]["content"]
    assert "Tea 31" in text["text"] and "how many?" in text["text"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")
    assert "sk-secret" not in repr(endpoint) + repr(reply) + str(vars(endpoint))


@pytest.mark.parametrize("text", ["Tea 31", ""])
def test_the_lesson_sends_a_chart_of_the_reader_three_ways(server, monkeypatch, capsys, text):
    monkeypatch.setenv("MMSCRATCH_OPENAI_BASE_URL", address(server))
    monkeypatch.setenv("MMSCRATCH_OPENAI_MODEL", "some-model")
    picture = torch.zeros(3, 240, 320, dtype=torch.uint8)
    notebook = project.read_notebook(project.find_notebook("40"))
    cell = next(
        c for c in notebook.cells if "Endpoint.from_environment()" in c.source and "def " not in c.source
    )
    mine = Item(look(picture), text, ["how many?"])
    exec(
        cell.source, {"Endpoint": Endpoint, "MY_QUESTIONS": mine.questions, "picture": picture, "mine": mine}
    )
    kinds = [{part["type"] for part in body["messages"][0]["content"]} for _, _, body in server.got]
    assert kinds == [{"text", "image_url"}, {"text"}, {"text", "image_url"}]
    words = [body["messages"][0]["content"][0]["text"] for _, _, body in server.got]
    assert ["Text of the chart" in each for each in words] == [False, True, True]
    printed = capsys.readouterr().out
    assert all(f"how many? {way} Reply(text='54'" in printed for way in ("image", "text", "both"))


def test_without_a_key_none_is_sent(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server.reply["usage"] = None
    reply = Endpoint(address(server), "m").ask("how many?", text="Tea 31")
    assert server.got[0][1] is None and reply.tokens_in == 0


@pytest.mark.parametrize(
    ("status", "reply", "message"),
    [
        (401, {}, "answered 401"),
        (500, b"broken", "answered 500"),
        (200, b"<html>", "cannot be reached or read"),
        (200, {"error": 1}, "without choices"),
        (200, {"choices": []}, "without choices"),
        (200, [1], "without choices"),
    ],
)
def test_what_an_endpoint_does_wrong_is_one_line_without_the_key(server, monkeypatch, status, reply, message):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.status, server.reply = status, reply
    with pytest.raises(ConnectionError, match=message) as caught:
        Endpoint(address(server), "m").ask("how many?", text="Tea")
    assert "sk-secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_endpoints_are_off_until_named(monkeypatch):
    for name in ("BASE_URL", "MODEL"):
        monkeypatch.delenv(f"MMSCRATCH_OPENAI_{name}", raising=False)
    assert Endpoint.from_environment() is None
    monkeypatch.setenv("MMSCRATCH_OPENAI_BASE_URL", "http://localhost:1/v1")
    assert Endpoint.from_environment() is None
    monkeypatch.setenv("MMSCRATCH_OPENAI_MODEL", "m")
    assert Endpoint.from_environment() == Endpoint("http://localhost:1/v1", "m")


# -- refusals

SETUP = """
import json, random, sys, torch
from mmscratch.chart_strategies import *
V = Vocabulary(["what", "is"])
S = Slots(V, random.Random(0))
M = small_chart_reader(V, [0, 1])
maps = torch.zeros(9, 32, 40)
grey = torch.zeros(3, 240, 320, dtype=torch.uint8)
"""

CASES = {
    "Vocabulary": {
        "Vocabulary([], slots=0)": "ValueError: expected slots >= 1 and bins >= 2, got 0",
        "V.number(-1.0)": "ValueError: expected a number from 0 up, got -1.0",
        "V.value(3)": "ValueError: expected the id of a number, .*got 3",
    },
    "context": {"context(S, 'guess')": "ValueError: expected strategy to be one of image, .*'guess'"},
    "prompt": {"prompt(S, ' ?')": "ValueError: expected a question, got an empty text"},
    "pack": {
        "pack([[1]], [])": "ValueError: expected a context and at least one question",
        "pack([[1]], [[]])": "ValueError: expected a context and at least one question",
    },
    "palette_maps": {
        "palette_maps([], torch.zeros(8, 3))": "ValueError: expected pictures (3, 240, 320), got none",
        "palette_maps([grey[:, :9]], torch.zeros(8, 3))": "ValueError: (3, 240, 320), got [(3, 9, 320)]",
        "palette_maps([grey], torch.zeros(8))": "ValueError: expected a palette (K, 3), got (8,)",
    },
    "small_chart_reader": {
        "small_chart_reader(V, [])": "ValueError: expected ids of words from 0 to .*got []",
        "small_chart_reader(V, [9999])": "ValueError: expected ids of words from 0 to .*got [9999]",
    },
    "answers": {
        "answers(M, V, [Item(maps[:1], '', ['a'])], 'image')": "ValueError: expected images (B, 9, H, W)",
        "answers(M, V, [Item(maps, '', [''])], 'text')": "ValueError: expected a question",
        "answers(M, V, [Item(maps, '', ['a'])], 'ocr')": "ValueError: expected strategy",
    },
    "bootstrap": {
        "bootstrap(torch.ones(4), torch.arange(4))": "ValueError: expected right (N, K)",
        "bootstrap(torch.ones(4, 2), torch.arange(3))": "ValueError: expected right (N, K)",
        "bootstrap(torch.ones(0, 2), torch.arange(0))": "ValueError: expected right (N, K)",
        "bootstrap(torch.ones(4, 2), torch.arange(4), level=95)": "ValueError: between 0 and 1, got 95",
    },
    "fit_tree": {
        "fit_tree(torch.ones(4, 2), torch.ones(3, 2), depth=1)": "ValueError: expected x (N, F)",
        "fit_tree(torch.ones(0, 2), torch.ones(0, 2), depth=1)": "ValueError: expected x (N, F)",
        "fit_tree(torch.ones(4, 2), -torch.ones(4, 2), depth=1)": "ValueError: no negative worth",
        "fit_tree(torch.ones(4, 2), torch.ones(4, 2), depth=-1)": "ValueError: expected depth >= 0",
    },
    "from_sklearn": {"from_sklearn(torch.nn.Linear(2, 2))": "TypeError: DecisionTreeClassifier"},
    "question_features": {"question_features('what?')": "ValueError: got one text"},
    "cost": {"cost(-1, 0, price_in=1, price_out=1)": "ValueError: expected tokens and prices from 0 up"},
    "tile_tokens": {"tile_tokens(0, 5)": "ValueError: expected a picture with pixels, got 0 x 5"},
    "Endpoint": {
        "Endpoint('http://127.0.0.1:9/v1', 'm', 2).ask('a?', text='b')": "ConnectionError: cannot be reached",
        "Endpoint('nonsense', 'm', 2).ask('a?', text='b')": "ConnectionError: nonsense cannot be reached",
        "Endpoint('http://127.0.0.1:9/v1', 'm').ask('a?')": "ValueError: a picture or a text",
        "Endpoint('http://127.0.0.1:9/v1', 'm').ask(' ', text='b')": "ValueError: expected a question",
    },
    "data_url": {
        "data_url(grey.float())": "ValueError: expected a picture (3, H, W), uint8",
        "data_url(grey[:, :0])": "ValueError: expected a picture (3, H, W), uint8",
    },
}  # fmt: skip

WITHOUT_CASE = {
    "Item": "a record",
    "LONGEST": "a number",
    "NUMBER": "a pattern",
    "Reply": "what Endpoint.ask returns",
    "SPECIAL": "a table",
    "STRATEGIES": "a table",
    "Slots": "takes any text",
    "Tree": "built by fit_tree and from_sklearn, which check",
    "WORDS": "a table",
    "best_split": "called by fit_tree, which checks",
    "calculate": "takes any text",
    "gini": "takes any counts",
    "one_letter_apart": "takes any two texts",
    "SoftWords": "built by small_chart_reader, which checks",
    "start_copying": "takes the language model of small_chart_reader",
}

test_bad_input_is_refused, test_every_name_is_given_bad_input = refusals.tests(
    chart_strategies, SETUP, CASES, WITHOUT_CASE
)
