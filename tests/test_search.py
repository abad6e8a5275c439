"""What `mmscratch.search` promises beyond equality with FAISS, which tests/test_parity.py checks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
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
    lancedb = pytest.importorskip("lancedb")
    return search.LanceIndex(lancedb.connect(folder), DIM)


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
        (lambda i: i.add(torch.zeros(2, DIM + 1)), r"vectors of shape \(N, 12\), got \(2, 13\)"),
        (lambda i: i.add(torch.zeros(DIM)), r"got \(12,\)"),
        (lambda i: i.add(torch.full((2, DIM), torch.nan)), "2 rows"),
        (lambda i: i.add(torch.zeros(2, DIM), [1]), "2 ids, one a vector, got 1"),
        (lambda i: i.add(torch.zeros(2, DIM), [8, 8]), "repeat"),
        (lambda i: i.add(torch.zeros(1, DIM), [0]), "in the index already"),
        (lambda i: i.add(torch.zeros(1, DIM), [-3]), "whole numbers from 0"),
        (lambda i: i.add(torch.zeros(1, DIM), [0.5]), "whole numbers from 0"),
        (lambda i: i.remove(torch.zeros(2, 2, dtype=torch.long)), "row of whole numbers"),
        (lambda i: i.search(torch.zeros(1, 3)), r"queries of shape \(N, 12\), got \(1, 3\)"),
        (lambda i: i.search(torch.zeros(1, DIM), 0), "k must be at least 1, got 0"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(index, call, message):
    index.add(vectors(150)[:5])
    with pytest.raises(ValueError, match=message):
        call(index)
    assert sorted(index.ids.tolist()) == [0, 1, 2, 3, 4]


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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: search.ExactIndex(0), "dim must be at least 1, got 0"),
        (lambda: search.PQIndex(10, num_parts=3), "dim 10 is not a multiple of num_parts 3"),
        (lambda: search.PQIndex(10, num_parts=5, num_codes=257), "2 to 256, got 257"),
        (lambda: search.IVFIndex(10, num_lists=0), "num_lists must be at least 1, got 0"),
        (lambda: search.IVFIndex(10, num_lists=3, nprobe=0), "nprobe must be at least 1, got 0"),
        (lambda: search.IVFIndex(4, num_lists=3).add(torch.zeros(1, 4)), "call train"),
        (lambda: search.PQIndex(4, num_parts=2).add(torch.zeros(1, 4)), "codebooks.*call train"),
        (lambda: search.IVFIndex(4, num_lists=9).train(torch.zeros(3, 4)), "3 points for 9"),
    ],
)
def test_impossible_indices_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


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
    assert os.listdir(tmp_path) == ["index"]
    assert len(search.Index.load(tmp_path / "index")) == 7


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
    with pytest.raises(ValueError, match="ExactIndex, IVFIndex, PQIndex, got 'Elsewhere'"):
        search.Index.load(tmp_path / "other")
    torch.save([1, 2], tmp_path / "list")
    with pytest.raises(ValueError, match="no index"):
        search.Index.load(tmp_path / "list")
    with pytest.raises(FileNotFoundError, match="no index at"):
        search.Index.load(tmp_path / "missing")


def test_a_table_is_there_again_when_its_folder_is_opened_again(tmp_path):
    lancedb = pytest.importorskip("lancedb")
    table(tmp_path).add(vectors(9))
    again = search.LanceIndex(lancedb.connect(tmp_path), DIM)
    assert len(again) == 9 and again.search(vectors(9)[[4]], 1)[1].item() == 4


# -- the program


def encode_images(images: torch.Tensor) -> torch.Tensor:
    """Mean colour as a direction, which red, green and blue pictures differ in."""
    return F.normalize(images.mean((2, 3)) - 0.4, dim=1)


def encode_texts(texts: list[str]) -> torch.Tensor:
    colours = {"red": (0.6, -0.4, -0.4), "green": (-0.4, 0.6, -0.4), "blue": (-0.4, -0.4, 0.6)}
    return F.normalize(torch.tensor([colours[text.split()[-1]] for text in texts]), dim=1)


def engine() -> search.PictureSearch:
    return search.PictureSearch(
        search.ExactIndex(3),
        encode_images=encode_images,
        encode_texts=encode_texts,
        read=lambda file: data.picture(file, 8),
    )


@pytest.fixture
def album(tmp_path) -> Path:
    folder = tmp_path / "album"
    (folder / "deeper").mkdir(parents=True)
    for name, colour in (("1.png", "#ff0000"), ("2.jpg", "#00ff00"), ("deeper/3.PNG", "#0000ff")):
        Image.new("RGB", (9, 7), colour).save(folder / name)
    (folder / "notes.txt").write_text("no picture and not named like one")
    (folder / "broken.png").write_bytes((folder / "1.png").read_bytes()[:40])
    (folder / "empty.jpg").touch()
    return folder


def names(found) -> list[str]:
    return [Path(file).name for file, _ in found]


def test_a_folder_is_indexed_and_what_cannot_be_read_is_reported(album):
    found = engine()
    report = found.add_folder(album)
    assert [Path(file).name for file in report.added] == ["1.png", "2.jpg", "3.PNG"]
    assert {Path(file).name for file in report.skipped} == {"broken.png", "empty.jpg"}
    assert all("ValueError: not a picture" in reason for reason in report.skipped.values())
    assert "3 pictures added, 2 skipped" in repr(report) and "broken.png" in repr(report)
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


def test_pictures_go_through_the_encoder_in_batches(album):
    sizes = []

    def counting(images):
        sizes.append(len(images))
        return encode_images(images)

    files = [str(album / "1.png")] * 5 + [str(album / "broken.png")] + [str(album / "2.jpg")]
    kept, features, skipped = search.encode_files(files, engine().read, counting, batch=3)
    assert sizes == [3, 2, 1] and len(kept) == len(features) == 6 and len(skipped) == 1


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
