"""`mmscratch.search` against FAISS: the same vectors, centroids, lists and codes, then the same hits.

Vectors are not of length one and no two sizes are equal, so that a forgotten axis, length or offset shows.
Queries go in as NumPy arrays: FAISS differentiates nothing, so no gradient is compared.
"""

from __future__ import annotations

import functools

import torch

from mmscratch.kit.reference import Case, mutants

K = 9


def vectors(number, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    # a few directions carry most of the variance, as in features; lengths differ
    scale = torch.linspace(2, 0.2, dim) / dim**0.5
    return torch.randn(number, dim, generator=generator) * scale


def queries(number, dim):
    return lambda: (vectors(number, dim, seed=2).numpy(),)


# ---------------------------------------------------------------------------------------------------------
# Both sides


def flat(number, dim):
    def build():
        import faiss

        index = faiss.IndexFlatIP(dim)
        index.add(vectors(number, dim, seed=1).numpy())
        return index

    return build


def inverted_file(number, dim, lists, nprobe):
    def build():
        import faiss

        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1  # no warning about a small sample
        index.train(vectors(number, dim, seed=1).numpy())
        index.add(vectors(number, dim, seed=1).numpy())
        index.nprobe = nprobe
        return index

    return build


def quantised(number, dim, parts):
    def build():
        import faiss

        index = faiss.IndexPQ(dim, parts, 8, faiss.METRIC_INNER_PRODUCT)
        index.pq.cp.min_points_per_centroid = 1
        index.train(vectors(number, dim, seed=1).numpy())
        index.add(vectors(number, dim, seed=1).numpy())
        return index

    return build


def ours(index):
    from mmscratch import search

    return search.from_faiss(index)


def scores_and_ids(found):
    """Missing hits score -inf with us and the least float with FAISS: one number for both."""
    scores, ids = (torch.as_tensor(part) for part in found)
    return scores.clamp(min=-1e3), ids


def search_ours(index, asked):
    return scores_and_ids(index.search(torch.from_numpy(asked), K))


def search_faiss(index, asked):
    return scores_and_ids(index.search(asked, K))


TIMED = dict(  # among many hits two may score the same but for the last bit: their order means nothing
    bench=True,
    call_ours=lambda index, asked: search_ours(index, asked)[0],
    call_reference=lambda index, asked: search_faiss(index, asked)[0],
)


# ---------------------------------------------------------------------------------------------------------
# Mutants: index -> None, breaks it in place


def unit_vectors(index):
    index.columns["vectors"] = torch.nn.functional.normalize(index.columns["vectors"], dim=1)


def ids_shifted(index):
    index.columns["ids"] = index.columns["ids"].roll(1)


def last_rows_forgotten(index):
    index.columns = {name: column[: len(index) // 2] for name, column in index.columns.items()}


def one_list_fewer(index):
    index.nprobe -= 1


def every_list(index):
    index.nprobe = index.num_lists


def lists_begin_one_late(index):
    index.starts[:-1] += (index.starts[1:] > index.starts[:-1]).long()


def centroids_exchanged(index):
    index.learned["centroids"] = index.learned["centroids"].roll(1, dims=0)


def rows_not_sorted(index):
    index.columns["vectors"] = index.columns["vectors"].roll(1, dims=0)


def parts_exchanged(index):
    index.learned["codebooks"] = index.learned["codebooks"].roll(1, dims=0)


def parts_interleaved(index):
    index.parts = lambda x: x.unflatten(1, (-1, index.num_parts)).permute(2, 0, 1)
    books = index.learned["codebooks"]
    index.decode = lambda codes: (
        books[torch.arange(index.num_parts), codes.long()].transpose(1, 2).flatten(1)  # (N, d, M)
    )


def codes_off_by_one(index):
    index.columns["codes"] = index.columns["codes"] + 1


def query_quantised_too(index):
    scan = index.scan

    def symmetric(asked, k):
        return scan(index.decode(index.encode(asked)["codes"]), k)

    index.scan = symmetric


def case(library, primitive, name, reference, inputs, *changes, **fields):
    return Case(
        name,
        reference=reference,
        ours=ours,
        inputs=inputs,
        wrong=mutants(ours, *changes),
        library=library,
        primitive=primitive,
        compared="scores and ids",
        options={"random_weights": False},
        **{"call_ours": search_ours, "call_reference": search_faiss} | fields,
    )


exact = functools.partial(case, "faiss IndexFlatIP", "search.ExactIndex")
ivf = functools.partial(case, "faiss IndexIVFFlat", "search.IVFIndex")
pq = functools.partial(case, "faiss IndexPQ", "search.PQIndex")

CASES = [
    exact(
        "1,013 x 24, 5 queries",
        flat(1013, 24),
        queries(5, 24),
        unit_vectors,
        ids_shifted,
        last_rows_forgotten,
    ),
    exact("fewer vectors than asked for", flat(7, 5), queries(3, 5), unit_vectors),
    exact("33 x 6, one query", flat(33, 6), queries(1, 6), ids_shifted),
    exact("20,000 x 64, 256 queries", flat(20_000, 64), queries(256, 64), **TIMED),
    exact(
        "20,000 x 512, 256 queries", flat(20_000, 512), queries(256, 512), **TIMED | {"bench": "realistic"}
    ),
    ivf(
        "1,013 x 24 in 31 lists, 4 visited",
        inverted_file(1013, 24, 31, 4),
        queries(19, 24),
        unit_vectors,
        ids_shifted,
        one_list_fewer,
        every_list,
        lists_begin_one_late,
        centroids_exchanged,
        rows_not_sorted,
    ),
    ivf("one list visited, fewer hits than asked", inverted_file(90, 7, 30, 1), queries(11, 7)),
    ivf("all lists visited: exact", inverted_file(301, 10, 12, 12), queries(5, 10), unit_vectors),
    ivf(
        "20,000 x 512 in 128 lists, 16 visited, 256 queries",
        inverted_file(20_000, 512, 128, 16),
        queries(256, 512),
        **TIMED | {"bench": "realistic"},
    ),
    pq(
        "1,013 x 24 in 6 bytes, 5 queries",
        quantised(1013, 24, 6),
        queries(5, 24),
        parts_exchanged,
        parts_interleaved,
        codes_off_by_one,
        query_quantised_too,
        ids_shifted,
    ),
    pq(
        "1,013 x 24 in 6 bytes, 35 queries",
        quantised(1013, 24, 6),
        queries(35, 24),
        parts_exchanged,
        codes_off_by_one,
        query_quantised_too,
    ),
    pq("400 x 15 in 15 bytes", quantised(400, 15, 15), queries(3, 15), codes_off_by_one),
    pq("20,000 x 64 in 8 bytes, 256 queries", quantised(20_000, 64, 8), queries(256, 64), **TIMED),
]
