"""The comparison itself: what it must find, what it must leave alone, and what it shows."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import socket
import threading
import time
import types
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmscratch.kit import bench, hub
from mmscratch.kit.reference import (
    Case,
    Comparison,
    Difference,
    Table,
    Timing,
    at_least,
    at_most,
    cases,
    compare,
    matmul_rate,
    operations,
    pretrained,
    randomise,
    require,
    table,
    time_pairs,
)

X = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0))


class Theirs(nn.Module):
    """One attention head as a library writes it: three projections, dropout, a head that starts at zero."""

    def __init__(self, dim: int = 6, classes: int = 4):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(dim, classes)
        self.unused = nn.Parameter(torch.zeros(7))
        nn.init.zeros_(self.head.weight), nn.init.zeros_(self.head.bias)

    def forward(self, x):
        x = F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
        return {"tokens": x, "logits": self.head(self.drop(x))}


class Ours(nn.Module):
    """The same with one fused projection."""

    def __init__(self, dim: int, classes: int):
        super().__init__()
        self.qkv, self.head = nn.Linear(dim, 3 * dim), nn.Linear(dim, classes)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.head(F.scaled_dot_product_attention(q, k, v))


def mapping(theirs: Theirs, kind: type[Ours] = Ours) -> Ours:
    ours = kind(theirs.q.in_features, theirs.head.out_features)
    with torch.no_grad():
        ours.qkv.weight.copy_(torch.cat([part.weight for part in (theirs.q, theirs.k, theirs.v)]))
        ours.qkv.bias.copy_(torch.cat([part.bias for part in (theirs.q, theirs.k, theirs.v)]))
    ours.head.load_state_dict(theirs.head.state_dict())
    return ours


def logits(result):
    return result["logits"]


def run(ours=mapping, reference=None, inputs=X, **options) -> Comparison:
    return compare("one head", ours, reference or Theirs(), inputs, **{"output": logits} | options)


# ---------------------------------------------------------------------------------------------------------
# randomise


def test_no_parameter_stays_zero_or_as_it_was():
    model = Theirs()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name, parameter in randomise(model).named_parameters():
        assert (parameter != 0).all() and (parameter != before[name]).all(), name


def test_random_weights_depend_on_name_and_seed_only():
    class Reordered(Theirs):
        def __init__(self):
            super().__init__()
            self._modules["q"] = self._modules.pop("q")  # now the last

    one, two = randomise(Theirs()), randomise(Reordered())
    assert list(one.state_dict()) != list(two.state_dict())
    torch.testing.assert_close(dict(one.state_dict()), dict(two.state_dict()), rtol=0, atol=0)
    assert not torch.equal(one.q.weight, one.k.weight)
    assert not torch.equal(one.q.weight, randomise(Theirs(), seed=1).q.weight)


def test_random_weights_keep_numbers_of_order_one():
    model = randomise(
        nn.Sequential(nn.Conv2d(3, 64, 7), nn.BatchNorm2d(64), nn.Flatten(), nn.Linear(64, 300))
    )
    out = model.eval()(torch.randn(50, 3, 7, 7, generator=torch.Generator().manual_seed(0)))
    assert 0.3 < out.std() < 3
    assert (model[1].running_var > 0.4).all() and (model[1].running_mean != 0).all()
    assert (model[1].weight - 1).abs().max() <= 0.5


def test_stored_buffers_are_drawn_and_computed_tables_stay():
    model = nn.Module()
    model.register_buffer("codebook", torch.zeros(8, 4))
    model.register_buffer("table", torch.zeros(8, 4), persistent=False)
    model.register_buffer("steps", torch.zeros(1, dtype=torch.long))
    randomise(model)
    assert (model.codebook != 0).all() and not model.table.any() and not model.steps.any()


def test_kept_tensors_are_left_alone():
    model = randomise(Theirs(), keep=("head.bias",))
    assert not model.head.bias.any() and model.head.weight.all()


# ---------------------------------------------------------------------------------------------------------
# compare: what it accepts


def test_a_right_mapping_passes():
    found = run().check()
    assert found.output.absolute < 1e-6 and found.gradient < 1e-6
    assert (
        found.parameters == found.reference_parameters == 3 * 42 + 28
    )  # what the output does not use is not counted


def test_outputs_can_be_picked_on_both_sides():
    found = run(
        output=lambda result: (result["tokens"], result["logits"]),
        call_ours=lambda ours, x: (F.scaled_dot_product_attention(*ours.qkv(x).chunk(3, -1)), ours(x)),
    )
    found.check()
    run(
        call_reference=lambda theirs, x: types.SimpleNamespace(scores=theirs(x)["logits"]), output="scores"
    ).check()
    run(call_ours="forward").check()


@pytest.mark.parametrize(
    "inputs", [(torch.tensor([[1, 2]]), X[:1, :2]), {"ids": torch.tensor([[1, 2]]), "x": X[:1, :2]}]
)
def test_integers_pass_through_and_floats_are_differentiated(inputs):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(4, 6)

        def forward(self, ids, x):
            return self.table(ids) * x

    def same(theirs):
        ours = Words()
        ours.load_state_dict(theirs.state_dict())
        return ours

    found = run(same, Words(), inputs, output=None).check()
    assert found.input_gradient.absolute == 0.0


def test_functions_without_weights_can_be_compared():
    found = run(lambda _: lambda x: x.exp(), torch.exp, output=None).check()
    assert found.parameters == 0 and found.parameter_gradient is None and found.input_gradient.absolute == 0


def test_the_reference_runs_in_eval_mode_and_keeps_its_weights():
    theirs = randomise(Theirs()).train()
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    run(reference=theirs, random_weights=False).check()
    assert not theirs.training
    torch.testing.assert_close(dict(theirs.state_dict()), before, rtol=0, atol=0)
    assert all(p.grad is None for p in theirs.parameters())


# ---------------------------------------------------------------------------------------------------------
# compare: what it must find


def test_an_unmapped_head_is_found_although_it_starts_at_zero():
    def forgetful(theirs):
        ours = mapping(theirs)
        nn.init.zeros_(ours.head.weight), nn.init.zeros_(ours.head.bias)
        return ours

    run(forgetful, random_weights=False)  # at initialisation both are zero
    with pytest.raises(AssertionError, match="outputs differ by"):
        run(forgetful).check()


def test_a_gradient_cut_off_from_the_input_is_found():
    class Detached(Ours):
        def forward(self, x):
            return super().forward(x) + (x.detach() - x).sum()

    with pytest.raises(AssertionError, match="^one head: gradients of inputs differ") as error:
        run(partial(mapping, kind=Detached)).check()
    assert "gradients of parameters" not in str(error.value)


def test_a_gradient_cut_off_from_a_weight_is_found():
    class Detached(Ours):
        def forward(self, x):
            tokens = F.scaled_dot_product_attention(*self.qkv(x).chunk(3, dim=-1))
            return F.linear(tokens, self.head.weight.detach() + 0 * self.head.weight, self.head.bias)

    with pytest.raises(AssertionError, match="^one head: gradients of parameters differ"):
        run(partial(mapping, kind=Detached)).check()


def test_a_lost_bias_on_the_keys_is_found_although_no_output_depends_on_it():
    def forgetful(theirs):
        ours = mapping(theirs)
        ours.qkv.bias.data[6:12] = 0
        return ours

    found = run(forgetful)
    assert found.output.absolute < 1e-5 and found.gradient < 1e-5
    with pytest.raises(AssertionError, match="left out or altered"):
        found.check()
    run(forgetful, same_parameters=False).check()


def test_a_harmless_wrong_variant_is_reported():
    found = run(wrong={"no mistake at all": mapping})
    with pytest.raises(AssertionError, match="wrong variant 'no mistake at all' passes"):
        found.check()


def test_a_wrong_variant_of_another_shape_counts_as_noticed():
    found = run(wrong={"transposed": lambda theirs: lambda x: mapping(theirs)(x).mT}).check()
    assert found.wrong == {"transposed": float("inf")}


def test_not_a_number_is_a_difference():
    found = run(lambda theirs: lambda x: mapping(theirs)(x) * float("nan"), same_parameters=False)
    with pytest.raises(AssertionError, match="outputs differ by inf"):
        found.check()


def test_a_comparison_of_zeros_is_refused():
    found = run(lambda _: lambda x: 0 * x, lambda x: 0 * x, output=None)
    with pytest.raises(AssertionError, match="outputs are all zero: nothing was compared"):
        found.check()


def test_outputs_of_another_shape_are_an_error_that_names_both():
    message = re.escape("outputs differ in shape: ours [(3, 5)], reference [(3, 5, 4)]")
    with pytest.raises(ValueError, match=message):
        run(lambda theirs: lambda x: mapping(theirs)(x)[..., 0])


def test_a_frozen_reference_is_an_error():
    with pytest.raises(ValueError, match="every parameter of the reference is frozen"):
        run(reference=Theirs().requires_grad_(False))


def test_the_attention_implementation_is_pinned():
    theirs = Theirs()
    theirs.config = types.SimpleNamespace(_attn_implementation="eager")
    run(reference=theirs)
    assert theirs.config._attn_implementation == "sdpa"


# ---------------------------------------------------------------------------------------------------------
# time


def test_more_work_takes_more_time():
    a = torch.randn(160, 160)

    def work(times):
        for _ in range(times):
            a @ a

    timing = time_pairs(partial(work, 60), partial(work, 10), pairs=7)
    assert timing.ratio > 2 and timing.ours > timing.reference > 0


def test_forward_and_backward_are_timed():
    found = run(timing=3)
    assert found.forward.ratio > 0 and found.backward.ratio > 0 and found.threads == torch.get_num_threads()
    assert 0 < found.forward.operations < found.backward.operations and found.matmul_rate > 0
    assert run().matmul_rate is None


def test_operations_are_those_of_products_convolutions_and_attention():
    linear, x = nn.Linear(10, 20), torch.randn(7, 5, 10)
    with torch.no_grad():
        assert operations(lambda: linear(x)) == 2 * 35 * 10 * 20
        assert operations(lambda: x.softmax(-1).sort()) == 0
        image = torch.randn(2, 3, 9, 9)
        assert operations(lambda: F.conv2d(image, torch.randn(4, 3, 5, 5))) == 2 * 2 * 25 * 4 * 3 * 25
    # the input needs no gradient: backward is one product, of the same size
    assert operations(lambda: linear(x).sum().backward()) == 2 * 2 * 35 * 10 * 20

    q = torch.randn(2, 4, 50, 16)
    attend = partial(F.scaled_dot_product_attention, q, q, q)
    for mask in (None, torch.zeros(50, 50)):
        with torch.no_grad():
            assert operations(partial(attend, mask)) == 2 * 2 * (2 * 4) * 50 * 50 * 16  # q k^T, then times v


def test_operations_are_those_that_torch_counts_and_a_parameter_may_be_an_input():
    class Queries(nn.Module):
        def __init__(self):
            super().__init__()
            self.queries = nn.Parameter(torch.randn(1, 3, 8))
            self.layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x):
            return self.layer(self.queries.expand(len(x), -1, -1), x)

    model, x = Queries(), torch.randn(2, 5, 8)
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    assert operations(lambda: model(x).sum().backward()) == counter.get_total_flops() > 0
    with torch.no_grad():
        assert 0 < operations(lambda: model.layer(model.queries, x[:1])) < counter.get_total_flops()


def test_the_fraction_of_the_matmul_rate_is_that_of_operations_per_second():
    assert Timing(20.0, 30.0, 0.67, operations=10**9).fraction(2e11) == pytest.approx(0.25)
    assert Timing(20.0, 30.0, 0.67).fraction(2e11) is None
    slow, fast = (matmul_rate(size=size, runs=3) for size in (4, 256))
    assert 0 < slow < fast  # four by four is all overhead


# ---------------------------------------------------------------------------------------------------------
# display


@pytest.mark.parametrize(
    ("value", "above", "below"),
    [
        (0.0, "0", "0"),
        (3e-7, "≤ 1e-6", "≥ 1e-7"),
        (1e-6, "≤ 1e-6", "≥ 1e-6"),
        (2.5, "≤ 1e1", "≥ 1e0"),
        (float("inf"), "∞", "∞"),
    ],
)
def test_differences_are_shown_as_powers_of_ten(value, above, below):
    assert (at_most(value), at_least(value)) == (above, below)


def found_with(output: float, ratio: float) -> Comparison:
    return Comparison(
        "their <head>",
        1e-5,
        1234,
        1234,
        True,
        Difference(output, output),
        Difference(output, output),
        Difference(0.0, 0.0),
        wrong={"scale": 40 * output},
        forward=Timing(1.0, 2.0, ratio),
    )


def test_what_is_shown_does_not_follow_the_jitter():
    one, two = found_with(3.1e-7, 0.91), found_with(4.7e-7, 0.97)
    assert repr(one) == repr(two) and one._repr_html_() == two._repr_html_()
    assert repr(table(one, one)) == repr(table(two, two))
    assert repr(one) == (
        "compared with            their <head>\n"
        "parameters               1,234\n"
        "outputs differ by        ≤ 1e-6\n"
        "gradients of inputs      ≤ 1e-6\n"
        "gradients of parameters  0\n"
        "wrong on purpose: scale  ≥ 1e-5"
    )


def test_tables_escape_what_they_show_and_mark_headers():
    text = Table(("a", "b<"), [("<i>", "&")], caption="c<")._repr_html_()
    assert '<th scope="col">b&lt;</th>' in text and '<th scope="row">&lt;i&gt;</th><td>&amp;</td>' in text
    assert "<caption>c&lt;</caption>" in text


# ---------------------------------------------------------------------------------------------------------
# cases, benchmarks

CASE = Case("tiny", Theirs, mapping, lambda: X, output=logits, bench=True, primitive="p.P", library="lib L")


def test_cases_are_read_from_files_and_unknown_files_refused(tmp_path):
    (tmp_path / "one.py").write_text("CASES = []")
    (tmp_path / "_helpers.py").write_text("raise SystemExit")
    assert cases(tmp_path) == []
    with pytest.raises(ValueError, match="no parity cases for two; there are one"):
        cases(tmp_path, ["two"])


def test_two_cases_of_one_name_are_refused(tmp_path):
    (tmp_path / "one.py").write_text(
        "from mmscratch.kit.reference import Case\nCASES = 2 * [Case('a', None, None, None)]"
    )
    with pytest.raises(ValueError, match="named twice"):
        cases(tmp_path)


def test_a_missing_library_is_named_with_the_command_that_installs_it():
    with pytest.raises(ImportError, match='no_such_library is not installed: pip install "no_such_library"'):
        require("no_such_library")


def test_benchmarks_are_merged_by_case(tmp_path):
    path = tmp_path / "benchmarks.json"
    row = bench.row(CASE, CASE.run(timing=1))
    assert 0 < row["forward_operations"] < row["backward_operations"] and row["matmul_gflops"] > 0
    seconds = row["forward_operations"] / (row["forward_of_matmul"] * row["matmul_gflops"] * 1e9)
    assert seconds * 1e3 == pytest.approx(row["forward_ms"][0], abs=0.01)
    assert bench.machine(1).keys() == {"cpu", "threads", "torch"}
    one, here = ({"cpu": cpu, "threads": 1, "torch": "2"} for cpu in ("one", "here"))
    bench.save(path, [row | {"forward_ratio": 0.5}, row | {"case": "other"}], one)
    bench.save(path, [row | {"forward_ratio": 0.8}], here)
    stored = bench.stored("p.P", path=path)
    assert [(r["case"], r["forward_ratio"]) for r in stored.figures][1] == ("tiny", 0.8)
    assert "lib L, tiny" in repr(stored) and "0.80" in repr(stored) and "threads: 1" in repr(stored)
    assert "one, torch 2; here, torch 2; threads: 1" in repr(stored)


def test_absent_benchmarks_name_the_command_that_measures_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m mmscratch.kit.bench vit"):
        bench.stored("vit.VisionTransformer", path=tmp_path / "benchmarks.json")
    bench.save(tmp_path / "benchmarks.json", [], bench.machine(1))
    with pytest.raises(ValueError, match="no benchmarks of vit.VisionTransformer"):
        bench.stored("vit.VisionTransformer", path=tmp_path / "benchmarks.json")


def slower(theirs):
    class Slow(Ours):
        def forward(self, x):
            for _ in range(200):
                super().forward(x)
            return super().forward(x)

    return mapping(theirs, Slow)


def broken(theirs):
    return mapping(theirs).apply(lambda m: nn.init.ones_(m.weight) if isinstance(m, nn.Linear) else None)


class Lazy(Theirs):
    """A reference that is easily outrun."""

    def forward(self, x):
        for _ in range(20):
            super().forward(x)
        return super().forward(x)


@pytest.mark.parametrize(
    ("reference", "ours", "code", "message"),
    [
        (Lazy, mapping, 0, ""),
        (Theirs, slower, 1, "of the reference's time"),
        (Lazy, broken, 1, "outputs differ by"),
    ],
)
def test_the_benchmark_fails_on_slowness_and_on_broken_parity(
    reference, ours, code, message, tmp_path, monkeypatch, capsys
):
    case = Case(
        "tiny", reference, ours, lambda: X, output=logits, bench=True, primitive="p.P", library="lib L"
    )
    threads = torch.get_num_threads()
    monkeypatch.setattr(bench, "cases", lambda folder, only: [case])
    assert bench.main(["--pairs", "3", "--output", str(tmp_path / "b.json")]) == code
    torch.set_num_threads(threads)
    assert message in capsys.readouterr().err
    assert len(json.loads((tmp_path / "b.json").read_text())["rows"]) == 1


# ---------------------------------------------------------------------------------------------------------
# real weights

HUB_NAME = "some-org/tiny-vit"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A tiny checkpoint as the hub stores it, in bfloat16, and the model it came from."""
    import transformers

    shape = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12)
    config = transformers.ViTConfig(**shape, image_size=16, patch_size=8, num_labels=3)
    model = randomise(transformers.ViTForImageClassification(config)).to(torch.bfloat16)
    folder = tmp_path_factory.mktemp("published")
    model.save_pretrained(folder)
    return folder, model.float().eval()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache, and no environment that says offline."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for variable in ("TRANSFORMERS_OFFLINE", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "hub"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("sockets are blocked in this test")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def into_cache(folder, cache):
    """Lay `folder` out as the hub's cache does: snapshots by commit, and what `main` points to."""
    root = cache / "models--some-org--tiny-vit"
    shutil.copytree(folder, root / "snapshots" / COMMIT)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    return root / "snapshots" / COMMIT


def load(name=HUB_NAME, **options):
    return pretrained(name, **{"cls": "ViTForImageClassification"} | options)


def assert_same(model, published):
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}
    with torch.no_grad():
        torch.testing.assert_close(model(PIXELS).logits, published[1](PIXELS).logits, rtol=0, atol=0)


def test_weights_load_from_a_folder(published, no_network, capfd):
    assert_same(load(str(published[0])), published)
    assert capfd.readouterr() == ("", "")


def test_weights_load_from_the_hubs_cache_without_a_network(published, cache, no_network, capfd):
    into_cache(published[0], cache)
    assert_same(load(), published)
    assert capfd.readouterr() == ("", "")


def test_loaded_weights_go_through_the_same_mapping(published):
    from mmscratch import vit

    model = load(published[0])
    found = compare("tiny", vit.from_transformers, model, PIXELS, output="logits", random_weights=False)
    assert_same(model, published)
    found.check()


def test_another_librarys_loader_gets_the_folder(published, cache):
    def loader(path):
        assert (path / "config.json").is_file()
        return Theirs().half()

    into_cache(published[0], cache)
    model = pretrained(HUB_NAME, loader=loader)
    assert model.head.weight.dtype == torch.float32 and not model.training


def test_without_a_network_there_is_one_line_and_no_model(cache, no_network, capfd):
    assert load() is None
    assert capfd.readouterr() == (
        "some-org/tiny-vit: the hub is out of reach, so no published weights this time.\n",
        "",
    )


def test_offline_mode_asks_nobody(cache, monkeypatch, capfd):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_unreachable", lambda url: pytest.fail("asked the network"))
    assert load() is None
    assert capfd.readouterr() == (
        "some-org/tiny-vit: working offline, so no published weights this time.\n",
        "",
    )


def test_a_network_that_never_answers_does_not_hold_up_the_lesson(cache, monkeypatch, capfd):
    done = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: done.wait(30))
    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    start = time.perf_counter()
    assert load() is None
    assert time.perf_counter() - start < 3
    done.set()
    assert capfd.readouterr().out.count("\n") == 1


@pytest.fixture
def server(published, cache, monkeypatch):
    """A hub on this machine that serves the published folder as `some-org/tiny-vit`."""
    import huggingface_hub

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self, body=True):
            file = published[0] / self.path.rsplit("/", 1)[1]
            known = self.path.startswith(f"/{HUB_NAME}/resolve/") and file.is_file()
            content = file.read_bytes() if known else b""
            self.send_response(200 if known else 404)
            self.send_header("ETag", f'"{len(content)}-{file.name}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if body else b"")

        def do_HEAD(self):
            self.do_GET(body=False)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as running:
        address = f"http://127.0.0.1:{running.server_port}"
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("MMSCRATCH_PROGRESS", "off")
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield
        running.shutdown()


def test_weights_are_downloaded_once_and_then_come_from_the_cache(server, published, cache, monkeypatch):
    assert_same(load(), published)
    monkeypatch.setattr(hub, "_unreachable", lambda url: pytest.fail("asked the network again"))
    assert_same(load(), published)


def test_a_model_the_hub_does_not_have_is_one_line(server, capfd):
    assert load("some-org/no-such-model") is None
    assert capfd.readouterr().out == (
        "some-org/no-such-model: the hub refuses it (HTTP 404), so no published weights this time.\n"
    )


def test_a_truncated_checkpoint_raises(published, cache):
    weights = into_cache(published[0], cache) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(Exception, match="(?i)safetensors|header|incomplete"):
        load()


def test_a_file_that_the_hub_hands_out_damaged_raises(server, published, cache):
    weights = published[0] / "model.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(Exception, match="(?i)safetensors|header|incomplete"):
            load()
    finally:
        weights.write_bytes(whole)


def test_a_broken_configuration_raises(published, cache):
    (into_cache(published[0], cache) / "config.json").write_text('{"model_type": ')
    with pytest.raises(OSError, match="config"):
        load()


def test_weights_that_the_checkpoint_lacks_raise_unless_allowed(published):
    with pytest.raises(ValueError, match="lacks 2 tensors of ViTModel, first pooler"):
        load(str(published[0]), cls="ViTModel")
    assert load(str(published[0]), cls="ViTModel", allow_missing=("pooler.",)) is not None


def test_pickled_weights_are_not_read(published, tmp_path):
    shutil.copy(published[0] / "config.json", tmp_path)
    torch.save(published[1].state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load(str(tmp_path))


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        load(str(tmp_path / "absent"))
