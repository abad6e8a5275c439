"""What `mmscratch.search` promises beyond equality with FAISS, which tests/test_parity.py checks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import refusals
import torch
import torch.nn.functional as F
from PIL import Image

from mmscratch import search
from mmscratch.kit import data

DIM = 12


def vectors(number: int, dim: int = DIM, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(number, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def exact(folder: Path):
    return search.ExactIndex(DIM)


def all_lists(folder: Path):  # visits every list, so it must find what the exact index finds
    return search.IVFIndex(DIM, num_lists=7, nprobe=7).train(vectors(200), generator=seeded())


def fine_codes(folder: Path):  # one code for each vector of the sample: nothing is lost
    return search.PQIndex(DIM, num_parts=1, num_codes=150).train(vectors(150), generator=seeded())


def table(folder: Path):
    pytest.importorskip("lancedb")
    return search.LanceIndex(DIM, folder=folder / "database")


KINDS = [exact, all_lists, fine_codes, table]
OWN = KINDS[:3]


@pytest.fixture(params=KINDS, ids=lambda make: make.__name__)
def index(request, tmp_path):
    return request.param(tmp_path)


@pytest.fixture(params=OWN, ids=lambda make: make.__name__)
def own(request, tmp_path):
    return request.param(tmp_path)


# -- one interface


def test_every_index_finds_what_a_full_comparison_finds(index):
    x, q = vectors(150), vectors(5, seed=1)
    assert index.add(x).tolist() == list(range(150)) and len(index) == 150
    scores, ids = index.search(q, 6)
    best, place = (q @ x.T).topk(6, dim=1)
    assert torch.equal(ids, place)
    torch.testing.assert_close(scores, best, atol=1e-5, rtol=0)


def test_ids_are_those_given_and_the_next_free_ones_otherwise(index):
    x = vectors(150)
    assert index.add(x[:3], [70, 5, 40]).tolist() == [70, 5, 40]
    assert index.add(x[3:5]).tolist() == [71, 72]
    assert sorted(index.ids.tolist()) == [5, 40, 70, 71, 72]
    assert index.search(x[:5], 1)[1].flatten().tolist() == [70, 5, 40, 71, 72]


def test_what_is_removed_is_not_found_and_may_come_back_under_its_id(index):
    x = vectors(150)
    index.add(x)
    assert index.remove([3, 140, 999]) == 2 and len(index) == 148
    assert index.search(x[[3]], 1)[1].item() != 3
    assert index.remove([3]) == 0
    index.add(x[[3]], [3])
    assert index.search(x[[3]], 1)[1].item() == 3


def test_fewer_hits_than_asked_are_marked(index):
    index.add(vectors(150)[:2])
    scores, ids = index.search(vectors(3, seed=1), 4)
    assert (ids[:, 2:] == -1).all() and (scores[:, 2:] == -torch.inf).all()
    assert (ids[:, :2] >= 0).all() and scores[:, :2].isfinite().all()


def test_an_empty_index_finds_nothing_and_an_empty_batch_is_no_query(index):
    scores, ids = index.search(vectors(2), 3)
    assert ids.tolist() == [[-1] * 3] * 2 and (scores == -torch.inf).all()
    assert index.remove([1]) == 0
    assert len(index.add(torch.empty(0, DIM))) == 0
    index.add(vectors(150)[:4])
    assert index.search(torch.empty(0, DIM), 3)[1].shape == (0, 3)


def test_removing_everything_leaves_a_usable_index(index):
    x = vectors(150)
    index.add(x[:9])
    assert index.remove(range(9)) == 9 and len(index) == 0
    index.add(x[:2], [4, 5])
    assert index.search(x[:2], 1)[1].flatten().tolist() == [4, 5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i: i.add(torch.zeros(2, DIM), [8, 8]), "repeat"),
        (lambda i: i.add(torch.zeros(1, DIM), [0]), "id 0 is in the index already"),
        (lambda i: i.add(torch.zeros(2, DIM), labels=["one"]), "2 labels, one a vector, got 1"),
        (lambda i: i.add(torch.full((2, DIM), torch.nan)), "2 rows"),
        (lambda i: i.add(torch.full((1, DIM), 3e38)), "below 1.8e19"),
        (lambda i: i.search(torch.full((1, DIM), -torch.inf)), "queries of finite length"),
        (lambda i: i.search(torch.zeros(1, 3)), r"queries of shape \(N, 12\), got \(1, 3\)"),
        (lambda i: i.search(torch.zeros(1, DIM), 0), "k must be at least 1, got 0"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(index, call, message):
    index.add(vectors(150)[:5])
    with pytest.raises(ValueError, match=message):
        call(index)
    assert sorted(index.ids.tolist()) == [0, 1, 2, 3, 4]


def test_labels_stay_with_their_vectors(index, tmp_path):
    index.add(vectors(150)[:3], [4, 9, 2], labels=["four", "nine", ""])
    assert index.labels_of() == {4: "four", 9: "nine"}
    assert index.labels_of([9, 2, 77, -1]) == {9: "nine"}
    index.remove([4])
    index.save(tmp_path / "index")
    assert search.Index.load(tmp_path / "index").labels_of() == {9: "nine"}


def test_the_ids_handed_out_are_a_copy(index):
    index.add(vectors(150)[:3])
    index.ids.zero_()
    assert sorted(index.ids.tolist()) == [0, 1, 2]


def test_numpy_half_precision_and_gradients_are_taken_as_they_come(own):
    x = vectors(150)
    own.add(x.numpy())
    for q in (x[:2].half(), x[:2].clone().requires_grad_()):
        scores, ids = own.search(q, 1)
        assert ids.flatten().tolist() == [0, 1] and not scores.requires_grad


def test_the_index_keeps_its_own_copy(own):
    x = vectors(150)
    own.add(x)
    before = own.search(x[:3], 2)[0]
    x.zero_()
    torch.testing.assert_close(own.search(vectors(150)[:3], 2)[0], before)


# -- the parts


@pytest.mark.parametrize(
    ("rows", "columns", "k"), [(3, 1, 1), (4, 40, 50), (5, 997, 3), (2, 4096, 10), (1, 129, 1)]
)
def test_top_k_by_groups_is_top_k(rows, columns, k):
    scores = torch.randn(rows, columns, generator=seeded())
    best, place = search.top_k(scores, k)
    expected = scores.topk(min(k, columns), dim=1)
    assert torch.equal(best, expected.values) and torch.equal(place, expected.indices)


def test_blocks_of_any_size_give_the_same_hits(monkeypatch):
    index, q = search.ExactIndex(DIM), vectors(4, seed=1)
    index.add(vectors(701))
    whole = index.search(q, 9)
    for block in (4, 44, 1000):
        monkeypatch.setattr(search.ExactIndex, "block", block)
        scores, ids = index.search(q, 9)
        assert torch.equal(ids, whole[1])
        torch.testing.assert_close(scores, whole[0])


def test_k_means_recovers_separate_clouds_and_uses_every_centroid():
    centres = 10 * torch.randn(2, 5, 3, generator=seeded())
    points = centres.repeat_interleave(40, dim=1) + 0.1 * torch.randn(2, 200, 3, generator=seeded())
    found = search.kmeans(points, 9, iterations=20, generator=seeded())
    error = (points - found.gather(1, search.nearest(points, found)[..., None].expand(-1, -1, 3))).norm(
        dim=-1
    )
    assert found.shape == (2, 9, 3) and error.mean() < 3


def test_k_means_lowers_its_error_with_every_iteration():
    x, errors = vectors(500)[None], []
    for iterations in (0, 1, 3, 10):
        centroids = search.kmeans(x, 8, iterations=iterations, generator=seeded())
        errors.append(torch.cdist(x, centroids).amin(-1).square().mean().item())
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]


def test_k_means_refuses_too_few_points_and_keeps_to_the_sphere_when_told():
    with pytest.raises(ValueError, match="3 points for 4"):
        search.kmeans(vectors(3)[None], 4)
    centroids = search.kmeans(vectors(90)[None], 6, spherical=True, generator=seeded())
    torch.testing.assert_close(centroids.norm(dim=-1), torch.ones(1, 6))


def test_nearest_does_not_depend_on_the_block():
    x, c = torch.randn(2, 50, 4, generator=seeded()), torch.randn(2, 7, 4, generator=seeded())
    expected = torch.cdist(x, c).argmin(-1)
    assert torch.equal(search.nearest(x, c), expected)
    assert torch.equal(search.nearest(x, c, block=20), expected)


def test_recall_grows_with_the_lists_visited_and_ends_at_one():
    x, q = vectors(3000), vectors(50, seed=1)
    true = search.ExactIndex(DIM)
    true.add(x)
    index = search.IVFIndex(DIM, num_lists=40).train(x, generator=seeded())
    index.add(x)
    found = []
    for index.nprobe in (1, 4, 16, 40):
        found.append(search.knn_recall(index.search(q, 10)[1], true.search(q, 10)[1]))
    assert found == sorted(found) and found[0] < 0.7 and found[-1] == 1


def test_queries_go_in_portions_when_everything_is_asked_for(monkeypatch):
    x, q, sizes = vectors(3000), vectors(90, seed=1), []
    index, true = (
        search.IVFIndex(DIM, num_lists=20, nprobe=20).train(x, generator=seeded()),
        search.ExactIndex(DIM),
    )
    index.add(x)
    true.add(x)
    scan = index.scan
    monkeypatch.setattr(index, "scan", lambda part, k: sizes.append(len(part) * k * 20) or scan(part, k))
    scores, ids = index.search(q, 4000)
    assert len(sizes) > 1 and max(sizes) <= 2**22 and ids.shape == (90, 4000)
    torch.testing.assert_close(scores, true.search(q, 4000)[0])
    assert (ids[:, 3000:] == -1).all() and (ids[:, :3000] >= 0).all()


def test_recall_counts_what_it_should():
    true = torch.tensor([[1, 2], [3, -1]])
    assert search.knn_recall(torch.tensor([[2, 1], [3, 9]]), true) == 1
    assert search.knn_recall(torch.tensor([[2, 7], [-1, -1]]), true) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="ids"):
        search.knn_recall(torch.tensor([1]), true)


def test_the_two_ways_to_score_codes_agree_and_more_bytes_lose_less():
    x, errors = vectors(600), []
    for parts in (2, 4, 12):
        index = search.PQIndex(DIM, num_parts=parts, num_codes=32).train(x, generator=seeded())
        index.add(x)
        codes = index.columns["codes"]
        assert codes.dtype == torch.uint8 and codes.shape == (600, parts)
        torch.testing.assert_close(index.by_table(x[:3], codes), x[:3] @ index.decode(codes).T)
        errors.append((index.decode(codes) - x).norm().item())
    assert errors == sorted(errors, reverse=True)


def test_memory_is_counted():
    index = search.PQIndex(DIM, num_parts=4, num_codes=16).train(vectors(50))
    index.add(vectors(50))
    assert index.nbytes == 50 * (8 + 4) + 4 * 16 * 3 * 4
    flat = search.ExactIndex(DIM)
    flat.add(vectors(50))
    assert flat.nbytes == 50 * (8 + 4 * DIM)


def test_training_again_with_vectors_inside_is_refused(own):
    if isinstance(own, search.ExactIndex):
        return
    own.add(vectors(150))
    with pytest.raises(ValueError, match="150 vectors"):
        own.train(vectors(150))


# -- FAISS


def test_from_faiss_refuses_what_it_cannot_hold():
    faiss = pytest.importorskip("faiss")
    with pytest.raises(TypeError, match="IndexHNSWFlat"):
        search.from_faiss(faiss.IndexHNSWFlat(4, 8))
    with pytest.raises(ValueError, match="inner product"):
        search.from_faiss(faiss.IndexFlatL2(4))
    with pytest.raises(ValueError, match="8 bits, got 4"):
        search.from_faiss(faiss.IndexPQ(8, 2, 4, faiss.METRIC_INNER_PRODUCT))
    with pytest.raises(TypeError, match="Linear"):
        search.from_faiss(torch.nn.Linear(2, 2))


def test_an_empty_index_of_faiss_comes_over():
    faiss = pytest.importorskip("faiss")
    ours = search.from_faiss(faiss.IndexFlatIP(5))
    assert len(ours) == 0 and ours.dim == 5


def test_what_comes_from_faiss_can_be_added_to_saved_and_removed_from(tmp_path):
    faiss = pytest.importorskip("faiss")
    theirs = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIM), DIM, 4, faiss.METRIC_INNER_PRODUCT)
    theirs.train(vectors(200).numpy())
    theirs.add(vectors(200).numpy())
    ours = search.from_faiss(theirs)
    assert ours.add(vectors(1, seed=5)).tolist() == [200] and ours.remove([0, 1]) == 2
    ours.save(tmp_path / "index")
    assert len(search.Index.load(tmp_path / "index")) == 199


# -- files


def test_a_saved_index_answers_as_before(own, tmp_path):
    own.add(vectors(150), range(500, 650))
    own.remove([501])
    own.save(tmp_path / "index")
    again = search.Index.load(tmp_path / "index")
    assert type(again) is type(own) and again.nbytes == own.nbytes
    for ours, theirs in zip(
        own.search(vectors(4, seed=1), 5), again.search(vectors(4, seed=1), 5), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert again.add(vectors(1, seed=9)).tolist() == [650]


def test_an_empty_index_can_be_saved(own, tmp_path):
    own.save(tmp_path / "index")
    assert len(search.Index.load(tmp_path / "index")) == 0


def test_an_error_while_saving_leaves_the_old_file_and_no_other(tmp_path):
    index = search.ExactIndex(DIM)
    index.add(vectors(5))
    index.save(tmp_path / "index")
    before = (tmp_path / "index").read_bytes()

    def half(file):
        file.write(b"half of it")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        search.write_atomically(tmp_path / "index", half)
    assert (tmp_path / "index").read_bytes() == before
    assert os.listdir(tmp_path) == ["index"]


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_process_killed_while_it_saves_leaves_the_old_index(tmp_path):
    index = search.ExactIndex(DIM)
    index.add(vectors(5))
    index.save(tmp_path / "index")
    program = """
        import sys, time
        from mmscratch import search

        def slow(file):
            file.write(b"x" * 100_000)
            file.flush()
            print("writing", flush=True)
            time.sleep(60)

        search.write_atomically(sys.argv[1], slow)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "index")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "writing\n"
        child.send_signal(signal.SIGKILL)
    assert len(search.Index.load(tmp_path / "index")) == 5
    index.add(vectors(2, seed=3))
    index.save(tmp_path / "index")  # what the dead process left is in nobody's way
    assert all(name == "index" or name.startswith(".index.") for name in os.listdir(tmp_path))
    assert len(search.Index.load(tmp_path / "index")) == 7


@pytest.mark.parametrize("knob", ["nprobe", "nprobes", "refine_factor"])
def test_a_knob_that_was_turned_is_saved_as_it_stands(tmp_path, knob):
    index = all_lists(tmp_path) if knob == "nprobe" else table(tmp_path)
    setattr(index, knob, 2)
    index.save(tmp_path / "index")
    assert getattr(search.Index.load(tmp_path / "index"), knob) == 2
    with pytest.raises(ValueError, match=f"{knob} must be at least 1, got 0"):
        setattr(index, knob, 0)
    assert getattr(index, knob) == 2


def damaged(state: dict, **changes) -> dict:
    return {name: value for name, value in (state | changes).items() if value is not None}


@pytest.mark.parametrize("part", ["dim", "options", "columns", "learned", "labels"])
def test_a_state_with_a_part_missing_is_refused(own, part):
    own.add(vectors(150))
    with pytest.raises(ValueError, match="the state of a whole"):
        search.Index.from_state(damaged(own.state(), **{part: None}))


def test_a_state_whose_parts_do_not_fit_together_is_refused(own):
    own.add(vectors(150))
    state = own.state()
    short = {name: rows[:70] if name == "ids" else rows for name, rows in state["columns"].items()}
    bent = {name: value[..., :1] for name, value in state["learned"].items()}
    bad = [damaged(state, columns=short), damaged(state, options={"bogus": 1}), damaged(state, kind=["x"])]
    for changed in bad + ([damaged(state, learned=bent), damaged(state, learned={})] if bent else []):
        with pytest.raises(ValueError, match="expected|train"):
            search.Index.from_state(changed)
    lists = state["columns"].get("lists")
    if lists is not None:
        with pytest.raises(ValueError, match="7 lists, got list 8"):
            search.Index.from_state(damaged(state, columns=state["columns"] | {"lists": lists + 2}))


def test_a_link_to_an_index_stays_a_link(tmp_path):
    index = search.ExactIndex(DIM)
    index.save(tmp_path / "index")
    (tmp_path / "link").symlink_to(tmp_path / "index")
    index.add(vectors(3))
    index.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and len(search.Index.load(tmp_path / "index")) == 3


def test_two_writers_at_once_leave_one_whole_file(tmp_path):
    def outer(file):
        file.write(b"first")
        search.write_atomically(tmp_path / "file", lambda inner: inner.write(b"second, longer"))
        file.write(b" whole")

    search.write_atomically(tmp_path / "file", outer)
    assert (tmp_path / "file").read_bytes() == b"first whole" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("content", [b"", b"not an index", None])
def test_a_damaged_file_says_so(tmp_path, content):
    index = search.ExactIndex(DIM)
    index.add(vectors(50))
    index.save(tmp_path / "index")
    whole = (tmp_path / "index").read_bytes()
    (tmp_path / "index").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match="is no index, or is damaged"):
        search.Index.load(tmp_path / "index")


def test_a_file_of_another_kind_and_a_missing_one_are_told_apart(tmp_path):
    torch.save({"kind": "Elsewhere"}, tmp_path / "other")
    with pytest.raises(ValueError, match="ExactIndex, IVFIndex, PQIndex, LanceIndex, got 'Elsewhere'"):
        search.Index.load(tmp_path / "other")
    torch.save([1, 2], tmp_path / "list")
    with pytest.raises(ValueError, match="no index"):
        search.Index.load(tmp_path / "list")
    with pytest.raises(FileNotFoundError, match="no index at"):
        search.Index.load(tmp_path / "missing")


# -- the database


def test_a_table_is_there_again_when_its_folder_is_opened_again(tmp_path):
    table(tmp_path).add(vectors(9))
    again = table(tmp_path)
    assert len(again) == 9 and again.search(vectors(9)[[4]], 1)[1].item() == 4
    with pytest.raises(ValueError, match="expected vectors of 5 numbers"):
        search.LanceIndex(5, folder=tmp_path / "database")


def test_a_table_that_another_process_has_only_begun_is_no_obstacle(tmp_path):
    (tmp_path / "database" / "vectors.lance").mkdir(parents=True)  # listed, and not to be opened
    assert table(tmp_path).add(vectors(3)).tolist() == [0, 1, 2]


def test_two_handles_see_each_other_and_never_share_an_id(tmp_path):
    one, other = table(tmp_path), table(tmp_path)
    assert one.add(vectors(3)).tolist() == [0, 1, 2] and len(other) == 3
    assert other.add(vectors(3)).tolist() == [3, 4, 5] and len(one) == 6
    with pytest.raises(ValueError, match="id 4 is in the index already"):
        one.add(vectors(1), [4])
    assert other.remove([0]) == 1 and sorted(one.ids.tolist()) == [1, 2, 3, 4, 5]


def add_ten_times(folder, gate, seed):
    index = table(folder)
    gate.wait()
    for _ in range(10):
        index.add(vectors(2, seed=seed))


def test_two_processes_that_add_at_once_lose_nothing_and_share_no_id(tmp_path):
    pytest.importorskip("lancedb")
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(2)
    writers = [context.Process(target=add_ten_times, args=(tmp_path, gate, seed)) for seed in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(180)
    assert [writer.exitcode for writer in writers] == [0, 0]
    ids = table(tmp_path).ids.tolist()
    assert len(ids) == len(set(ids)) == 40


def test_a_writer_whose_number_was_taken_meanwhile_withdraws_and_tries_again(tmp_path, monkeypatch):
    one, other = table(tmp_path), table(tmp_path)
    rows, calls = search.Index._rows, []

    def late(self, *arguments):
        found = rows(self, *arguments)
        if self is one and not calls:
            calls.append(other.add(vectors(2, seed=7)))  # between the look and the write
        return found

    monkeypatch.setattr(search.Index, "_rows", late)
    assert one.add(vectors(2)).tolist() == [2, 3]
    assert sorted(one.ids.tolist()) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="already"):
        one.add(vectors(1), [3])


def test_a_saved_table_says_when_its_rows_are_gone(tmp_path):
    index = table(tmp_path)
    index.add(vectors(3))
    index.save(tmp_path / "index")
    index.remove(range(3))
    with pytest.raises(ValueError, match="expected 3 rows in table vectors"):
        search.Index.load(tmp_path / "index")


# -- the program


def encode_images(images: torch.Tensor) -> torch.Tensor:
    """Mean colour as a direction, which red, green and blue pictures differ in."""
    return F.normalize(images.mean((2, 3)) - 0.4, dim=1)


def encode_texts(texts: list[str]) -> torch.Tensor:
    colours = {"red": (0.6, -0.4, -0.4), "green": (-0.4, 0.6, -0.4), "blue": (-0.4, -0.4, 0.6)}
    return F.normalize(torch.tensor([colours[text.split()[-1]] for text in texts]), dim=1)


def engine(index=None, encoder="mean colour", **changes) -> search.PictureSearch:
    given = dict(
        encode_images=encode_images,
        encode_texts=encode_texts,
        read=lambda file: data.picture(file, 8),
    )
    index = search.ExactIndex(3) if index is None else index
    return search.PictureSearch(index, encoder=encoder, **given | changes)


def colour_lists(folder: Path):
    return search.IVFIndex(3, num_lists=2, nprobe=2).train(vectors(30, 3), generator=seeded())


def colour_codes(folder: Path):
    return search.PQIndex(3, num_parts=3, num_codes=64).train(vectors(300, 3), generator=seeded())


def colour_table(folder: Path):
    pytest.importorskip("lancedb")
    return search.LanceIndex(3, folder=folder / "database")


@pytest.fixture
def album(tmp_path) -> Path:
    folder = tmp_path / "album"
    (folder / "deeper").mkdir(parents=True)
    for name, colour in (("1.png", "#ff0000"), ("2.jpg", "#00ff00"), ("deeper/3.PNG", "#0000ff")):
        Image.new("RGB", (9, 7), colour).save(folder / name)
    (folder / "notes.txt").write_text("no picture and not named like one")
    (folder / "broken.png").write_bytes((folder / "1.png").read_bytes()[:40])
    (folder / "empty.jpg").touch()
    (folder / "IMG_1.HEIC").write_bytes(b"a format that is not read here")
    return folder.resolve()


def names(found) -> list[str]:
    return [Path(file).name for file, _ in found]


def test_a_folder_is_indexed_and_what_cannot_be_read_is_reported(album):
    found = engine()
    report = found.add_folder(album)
    assert [Path(file).name for file in report.added] == ["1.png", "2.jpg", "3.PNG"]
    assert {Path(file).name for file in report.skipped} == {"broken.png", "empty.jpg", "IMG_1.HEIC"}
    assert report.others == 1  # notes.txt
    assert all("ValueError: not a picture" in reason for reason in report.skipped.values())
    assert "3 pictures added, 3 skipped, 1 other files" in repr(report) and "broken.png" in repr(report)
    assert len(found) == 3


def test_texts_find_pictures_pictures_find_pictures_and_pictures_find_texts(album):
    found = engine()
    found.add_folder(album)
    assert names(found.find("something green", 1)) == ["2.jpg"]
    assert names(found.find(album / "1.png", 1)) == ["1.png"]
    assert names(found.find(encode_texts(["blue"])[0], 1)) == ["3.PNG"]
    assert found.describe(album / "deeper" / "3.PNG", ["red", "blue"], 5)[0][0] == "blue"
    scores = [score for _, score in found.find("red", 9)]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)


def test_a_second_pass_adds_only_what_is_new(album):
    found = engine()
    found.add_folder(album)
    Image.new("RGB", (8, 8), "red").save(album / "4.png")
    report = found.add_folder(album)
    assert [Path(file).name for file in report.added] == ["4.png"]
    assert sum(reason == "is indexed already" for reason in report.skipped.values()) == 3
    assert len(found.add([album / "4.png", album / "4.png"]).added) == 0 and len(found) == 4


def test_removed_pictures_are_not_found_and_can_come_back(album):
    found = engine()
    found.add_folder(album)
    assert found.remove([album / "1.png", "never seen"]) == 1
    assert names(found.find("red", 9)) != [] and "1.png" not in names(found.find("red", 9))
    assert len(found.add([album / "1.png"]).added) == 1
    assert names(found.find("red", 1)) == ["1.png"]


def test_the_program_starts_again_from_its_file(album, tmp_path):
    found = engine()
    found.add_folder(album)
    found.save(tmp_path / "index")
    again = engine().load(tmp_path / "index")
    assert again.find("green", 3) == found.find("green", 3)
    assert len(again.add_folder(album).added) == 0


def test_an_empty_folder_a_missing_one_and_a_damaged_index_say_so(tmp_path):
    with pytest.raises(ValueError, match="no pictures in"):
        engine().add_folder(tmp_path)
    with pytest.raises(ValueError, match="no pictures in"):
        engine().add_folder(tmp_path / "missing")
    (tmp_path / "index").write_bytes(b"junk")
    with pytest.raises(ValueError, match="damaged"):
        engine().load(tmp_path / "index")
    search.ExactIndex(3).save(tmp_path / "plain")
    with pytest.raises(ValueError, match="no picture index"):
        engine().load(tmp_path / "plain")


def test_a_folder_with_nothing_readable_is_a_report_not_a_crash(tmp_path):
    (tmp_path / "a.png").write_bytes(b"junk")
    found = engine()
    report = found.add_folder(tmp_path)
    assert not report.added and len(report.skipped) == 1
    assert found.find("red", 3) == []


def test_pictures_go_through_the_encoder_in_batches_and_each_is_kept(album, monkeypatch):
    sizes = []

    def counting(images):
        sizes.append(len(images))
        return encode_images(images)

    monkeypatch.setattr(search.PictureSearch, "batch", 2)
    for number in range(4):
        Image.new("RGB", (9, 9), "green").save(album / f"x{number}.png")
    found = engine(encode_images=counting)
    assert len(found.add_folder(album).added) == 7 and sum(sizes) == 7 and max(sizes) == 2


@pytest.mark.parametrize(
    "make", [lambda _: search.ExactIndex(3), colour_lists, colour_codes, colour_table],
    ids=["exact", "lists", "codes", "table"],
)  # fmt: skip
def test_the_program_works_the_same_over_every_index(album, tmp_path, make):
    found = engine(make(tmp_path))
    assert len(found.add_folder(album).added) == 3
    found.save(tmp_path / "index")
    again = engine().load(tmp_path / "index")
    assert type(again.index) is type(found.index) and len(again) == 3
    assert names(again.find("green", 1)) == ["2.jpg"]
    assert len(again.add_folder(album).added) == 0
    assert again.remove([album / "2.jpg"]) == 1 and "2.jpg" not in names(again.find("green", 3))
    assert len(again.add_folder(album).added) == 1


def test_two_programs_on_one_database_see_each_others_pictures(album, tmp_path):
    one, other = engine(colour_table(tmp_path)), engine(colour_table(tmp_path))
    one.add([album / "1.png"])
    assert names(other.find("red", 1)) == ["1.png"]
    assert list(other.add_folder(album).skipped.values()).count("is indexed already") == 1


@pytest.mark.parametrize("make", [lambda _: search.ExactIndex(3), colour_table], ids=["file", "table"])
def test_vectors_of_another_encoder_are_refused(album, tmp_path, make):
    found = engine(make(tmp_path))
    found.add_folder(album)
    found.save(tmp_path / "index")
    message = "encoder 'mean colour', expected 'another'"
    with pytest.raises(ValueError, match=message):
        engine(encoder="another").load(tmp_path / "index")
    with pytest.raises(ValueError, match=message):
        engine(found.index, encoder="another")


def test_another_width_and_vectors_without_names_are_refused(album, tmp_path):
    found = engine()
    found.add_folder(album)
    found.save(tmp_path / "index")
    with pytest.raises(ValueError, match="vectors of 3 numbers, expected 4"):
        engine(search.ExactIndex(4)).load(tmp_path / "index")
    found.index.add(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="file names with all vectors, 2 have none"):
        engine(found.index)


def test_a_file_has_one_entry_however_it_is_named(album, monkeypatch):
    found = engine()
    monkeypatch.chdir(album)
    assert len(found.add(["1.png", album / "1.png", album / "deeper" / ".." / "1.png"]).added) == 1
    assert found.remove(["1.png"]) == 1 and len(found) == 0


def test_a_file_that_changed_is_encoded_again_and_forgotten_when_it_broke(album):
    found = engine()
    found.add_folder(album)
    Image.new("RGB", (10, 7), "#0000ff").save(album / "1.png")
    assert [Path(file).name for file in found.add_folder(album).added] == ["1.png"]
    assert len(found) == 3 and set(names(found.find("blue", 2))) == {"1.png", "3.PNG"}
    (album / "1.png").write_bytes(b"junk")
    assert "1.png" in {Path(file).name for file in found.add_folder(album).skipped}
    assert len(found) == 2


def test_one_picture_without_a_finite_vector_costs_only_itself(album):
    def broken(images):
        features = encode_images(images)
        features[images.mean((2, 3))[:, 1] > 0.9] = torch.nan  # the green one
        return features

    report = engine(encode_images=broken).add_folder(album)
    assert [Path(file).name for file in report.added] == ["1.png", "3.PNG"]
    assert report.skipped[str(album / "2.jpg")] == "the encoder gave no finite vector"


def test_features_that_are_not_normalised_are_refused(album):
    with pytest.raises(ValueError, match="features of length 1, got lengths from"):
        engine(encode_images=lambda images: 3 * encode_images(images)).add_folder(album)


def test_an_untrained_index_is_refused_before_anything_is_read(album):
    found = engine(search.IVFIndex(3, num_lists=2), read=lambda file: pytest.fail("read"))
    with pytest.raises(ValueError, match=r"no centroids yet: call train"):
        found.add_folder(album)


def test_what_is_not_wanted_is_pushed_away(album):
    found = engine()
    Image.new("RGB", (9, 7), "#ff00ff").save(album / "pink.png")  # red and blue
    found.add_folder(album)
    feature = encode_texts(["red"])[0] + encode_texts(["blue"])[0]
    assert names(found.find(feature, 1)) == ["pink.png"]
    assert names(found.find(feature, 1, without="blue", weight=1.0)) == ["1.png"]
    assert found.find("red", 4, without="blue", weight=0.0) == found.find("red", 4)


def test_an_empty_question_says_so(album):
    found = engine()
    found.add_folder(album)
    for ask in (lambda: found.find("  "), lambda: found.describe(album / "1.png", [])):
        with pytest.raises(ValueError, match="expected a description"):
            ask()


def test_importing_the_module_needs_neither_faiss_nor_lancedb():
    program = (
        "import sys; import mmscratch.search; print(sorted({'faiss', 'lancedb', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_hundred_thousand_vectors_are_searched_in_a_moment():
    index = search.ExactIndex(32)
    index.add(torch.randn(100_000, 32, generator=seeded()))
    start = time.perf_counter()
    index.search(torch.randn(1, 32, generator=seeded()), 10)
    assert time.perf_counter() - start < 1


# -- bad input


SETUP = """
import json, sys, types
import torch
from mmscratch.search import *
from mmscratch import search

exact = ExactIndex(4)
exact.add(torch.ones(2, 4))
"""
CASES = {
    "as_vectors": {
        "as_vectors(torch.zeros(2, 5), 4)": "ValueError: vectors of shape (N, 4), got (2, 5)",
        "as_vectors(torch.zeros(4), 4)": "ValueError: got (4,)",
        "as_vectors(torch.tensor([[1.0, torch.nan]]), 2)": "ValueError: finite length.*1 rows",
    },
    "as_ids": {
        "as_ids([0.5])": "ValueError: whole numbers from 0",
        "as_ids([-3])": "ValueError: whole numbers from 0",
        "as_ids(torch.zeros(2, 2, dtype=torch.long))": "ValueError: row of whole numbers",
    },
    "kmeans": {"kmeans(torch.zeros(1, 3, 2), 4)": "ValueError: got 3 points for 4"},
    "knn_recall": {"knn_recall(torch.zeros(2), torch.zeros(2))": "ValueError: ids (Q, k)"},
    "ExactIndex": {
        "ExactIndex(0)": "ValueError: dim must be at least 1, got 0",
        "ExactIndex(8, bogus=1)": "TypeError: bogus",
        "exact.add(torch.zeros(2, 4), [1])": "ValueError: 2 ids, one a vector, got 1",
        "exact.search(torch.zeros(1, 3))": "ValueError: queries of shape (N, 4), got (1, 3)",
    },
    "IVFIndex": {
        "IVFIndex(10, num_lists=0)": "ValueError: num_lists must be at least 1, got 0",
        "IVFIndex(10, num_lists=3, nprobe=0)": "ValueError: nprobe must be at least 1, got 0",
        "IVFIndex(10, num_lists=3, nprobe=1.5)": "TypeError: integer",
        "IVFIndex(4, num_lists=3).add(torch.zeros(1, 4))": "ValueError: no centroids yet: call train",
        "IVFIndex(4, num_lists=9).train(torch.zeros(3, 4))": "ValueError: 3 points for 9",
    },
    "PQIndex": {
        "PQIndex(10, num_parts=3)": "ValueError: dim 10 is not a multiple of num_parts 3",
        "PQIndex(8, num_parts=0)": "ValueError: num_parts must be at least 1, got 0",
        "PQIndex(8, num_parts=-2)": "ValueError: num_parts must be at least 1, got -2",
        "PQIndex(10, num_parts=5, num_codes=257)": "ValueError: 2 to 256, got 257",
        "PQIndex(4, num_parts=2).add(torch.zeros(1, 4))": "ValueError: no codebooks yet: call train",
    },
    "Index": {
        "Index.from_state({'kind': 'Other'})": "ValueError: expected one of ExactIndex.*got 'Other'",
        "Index.from_state({'kind': ['x']})": "ValueError: expected one of",
        "Index.from_state({'kind': 'ExactIndex'})": "ValueError: the state of a whole ExactIndex: KeyError",
        "Index.load('/nowhere/index')": "FileNotFoundError: no index at /nowhere/index",
    },
    "read_state": {"read_state('/nowhere')": "FileNotFoundError: no index at /nowhere"},
    "from_faiss": {"from_faiss(torch.nn.Linear(2, 2))": "TypeError: expected IndexFlatIP.*got Linear"},
    "PictureSearch": {
        "PictureSearch(exact, encoder='x', encode_images=None, encode_texts=None, read=None)":
            "ValueError: file names with all vectors, 2 have none",
    },
}  # fmt: skip
WITHOUT_CASE = {
    "LanceIndex": "needs the library; asked above with the others",
    "Report": "holds what it is given",
    "read_pictures": "reports, and refuses nothing",
    "stamp": "answers for a missing file, too",
    "write_atomically": "what `write` raises goes through; tested above",
    "nearest": "internal to k-means and the codes; shapes are torch's",
    "top_k": "gives what there is",
    "top_k_of_blocks": "gives what there is",
}

test_bad_input_is_refused, test_every_name_is_given_bad_input = refusals.tests(
    search, SETUP, CASES, WITHOUT_CASE
)
