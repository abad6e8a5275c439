"""Photo search.

Collected from notebooks/10_photo_search.ipynb by `make export`: edit the notebook, not this file.
"""

import contextlib
import importlib
import importlib.util
import json
import operator
import os
import random
import secrets
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "ExactIndex",
    "IVFIndex",
    "Index",
    "LanceIndex",
    "PQIndex",
    "PictureSearch",
    "Report",
    "as_ids",
    "as_vectors",
    "from_faiss",
    "kmeans",
    "knn_recall",
    "nearest",
    "read_pictures",
    "read_state",
    "stamp",
    "top_k",
    "top_k_of_blocks",
    "write_atomically",
]


def write_atomically(path: str | Path, write: Callable[[BinaryIO], None]) -> None:
    """Let `write(file)` fill a file that replaces `path` whole, or not at all.

    The bytes go to a neighbour, are forced to the disk, and only then is the neighbour renamed over `path`:
    whoever reads sees the old file or the new one. Of two writers at once, the later rename stays, whole.
    A process that is killed leaves its neighbour `.NAME.*.part` behind, which nobody reads.
    """
    path = Path(path).resolve()  # a link stays a link, to the new file
    neighbour = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with neighbour.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(neighbour, path)
    finally:
        neighbour.unlink(missing_ok=True)
    if os.name == "posix":  # the rename itself reaches the disk with the folder's entry
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def as_vectors(vectors: Tensor, dim: int, what: str = "vectors") -> Tensor:
    """float32 (N, dim); ValueError for another shape, or for a vector whose length is not a finite number."""
    vectors = torch.as_tensor(vectors).detach().float()
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ValueError(f"expected {what} of shape (N, {dim}), got {tuple(vectors.shape)}")
    if bad := int((~vectors.square().sum(1).isfinite()).sum()):  # then every inner product is finite too
        raise ValueError(f"expected {what} of finite length, below 1.8e19, got others in {bad} rows")
    return vectors


def as_ids(ids: Iterable[int] | Tensor) -> Tensor:
    """int64 (N,); ValueError for anything but a row of whole numbers from 0."""
    ids = torch.as_tensor(ids if isinstance(ids, Tensor) else list(ids))
    ids = ids.long() if ids.numel() == 0 else ids
    if ids.ndim != 1 or ids.is_floating_point() or (ids < 0).any():
        raise ValueError(f"expected ids as a row of whole numbers from 0, got {ids.dtype} {tuple(ids.shape)}")
    return ids.long()


def read_state(path: str | Path) -> dict:
    """What `torch.save` wrote, running no code from it; ValueError for a damaged or foreign file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no index at {path}")
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is no index, or is damaged: {type(error).__name__}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} is no index: it holds a {type(state).__name__}")
    return state


class Index:
    """Vectors with ids, found again by inner product. A subclass says how rows are stored and searched.

    columns: name -> one row a vector; learned: name -> what `train` found; labels: id -> text, for those that
    have one. These and the options are all that is saved.
    """

    learns: dict[str, tuple[int, ...]] = {}  # what `train` has to find before vectors come: name -> shape
    texts: tuple[str, ...] = ()  # options that are no numbers
    visits = 1  # lists that a query looks into

    def __init__(self, dim: int, **options: int | str | None):
        self.options, self.dim = options, dim
        for name, value in options.items():
            setattr(self, name, value)
        self.learned: dict[str, Tensor] = {}
        self.columns = {"ids": torch.empty(0, dtype=torch.long)}
        self.labels: dict[int, str] = {}

    def __setattr__(self, name: str, value: object) -> None:  # a knob that is turned later is checked as well
        number = name == "dim" or (name in self.__dict__.get("options", ()) and name not in self.texts)
        if number and value is not None and operator.index(value) < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
        super().__setattr__(name, value)

    def __len__(self) -> int:
        return len(self.columns["ids"])

    @property
    def ids(self) -> Tensor:
        """The ids that are in, (N,), in the order of storage; a copy."""
        return self.columns["ids"].clone()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that a search touches."""
        return sum(t.numel() * t.element_size() for t in [*self.columns.values(), *self.learned.values()])

    def labels_of(self, ids: Iterable[int] | None = None) -> dict[int, str]:
        """Id -> label, of these ids or of all; vectors without a label are left out."""
        wanted = self.labels if ids is None else ids
        return {number: self.labels[number] for number in wanted if number in self.labels}

    def check_trained(self) -> None:
        """ValueError where `train` is still to be called."""
        if missing := [name for name in self.learns if name not in self.learned]:
            raise ValueError(f"{type(self).__name__} has no {missing[0]} yet: call train(vectors) first")

    def train(self, vectors: Tensor, *, generator: torch.Generator | None = None) -> "Index":
        """Learn from a sample what must be known before vectors come; the exact index needs nothing."""
        return self

    def _sample(self, vectors: Tensor) -> Tensor:
        if len(self):  # their codes and lists would mean something else afterwards
            raise ValueError(f"train before adding: {len(self)} vectors are in already")
        return as_vectors(vectors, self.dim)

    def add(
        self,
        vectors: Tensor,
        ids: Iterable[int] | Tensor | None = None,
        labels: list[str] | None = None,
    ) -> Tensor:
        """Add vectors (N, dim) under `ids` (default: the next free numbers); returns the ids, (N,).

        labels: a text for each, kept with it. Costs a copy of the index, so add in batches. ValueError for an
        id that is there already.
        """
        self.check_trained()
        vectors, ids, labels = self._rows(vectors, ids, labels)
        new = {"ids": ids} | self.encode(vectors)
        self._keep({name: torch.cat([self.columns.get(name, rows[:0]), rows]) for name, rows in new.items()})
        self.labels |= {i: label for i, label in zip(ids.tolist(), labels, strict=True) if label}
        return ids

    def _rows(self, vectors, ids, labels) -> tuple[Tensor, Tensor, list[str]]:
        vectors, known = as_vectors(vectors, self.dim), self.ids
        first = int(known.max()) + 1 if len(known) else 0
        ids = torch.arange(first, first + len(vectors)) if ids is None else as_ids(ids)
        labels = [""] * len(vectors) if labels is None else list(labels)
        for what, given in (("ids", ids), ("labels", labels)):
            if len(given) != len(vectors):
                raise ValueError(f"expected {len(vectors)} {what}, one a vector, got {len(given)}")
        if len(taken := ids[torch.isin(ids, known)]) or len(ids.unique()) < len(ids):
            raise ValueError(f"id {int(taken[0])} is in the index already" if len(taken) else "ids repeat")
        return vectors, ids, labels

    def remove(self, ids: Iterable[int] | Tensor) -> int:
        """Forget these ids; returns how many were there. Costs a copy of the index."""
        ids = as_ids(ids)
        stays = ~torch.isin(self.columns["ids"], ids)
        self._keep({name: rows[stays] for name, rows in self.columns.items()})
        for number in ids.tolist():
            self.labels.pop(number, None)
        return int((~stays).sum())

    def search(self, queries: Tensor, k: int = 10) -> tuple[Tensor, Tensor]:
        """The k best inner products of each query and their ids: (Q, dim) -> (Q, k), (Q, k), best first.

        Where fewer are found, the score is -inf and the id -1, as in FAISS.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        queries = as_vectors(queries, self.dim, "queries")
        few = min(k, len(self))
        if not few or not len(queries):
            return queries.new_full((len(queries), k), -torch.inf), torch.full((len(queries), k), -1)
        step = max(1, 2**22 // (few * self.visits))  # queries at a time, so that memory is bounded
        found = [self.hits(part, few) for part in queries.split(step)]
        scores, ids = (torch.cat(part) for part in zip(*found, strict=True))
        missing = (0, k - scores.shape[1])
        return F.pad(scores, missing, value=-torch.inf), F.pad(ids, missing, value=-1)

    def hits(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Scores and ids of the best, (Q, up to k) each."""
        scores, rows = self.scan(queries, k)
        return scores, self.columns["ids"][rows].masked_fill(scores == -torch.inf, -1)

    def encode(self, vectors: Tensor) -> dict[str, Tensor]:
        """The columns stored for vectors (N, dim)."""
        raise NotImplementedError

    def scan(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Scores and rows of the best, (Q, up to k) each."""
        raise NotImplementedError

    def _keep(self, columns: dict[str, Tensor]) -> None:
        self.columns = columns

    def state(self) -> dict:
        """Everything `from_state` needs, as tensors and plain values; the knobs as they stand now."""
        options = {name: getattr(self, name) for name in self.options}
        made = {"kind": type(self).__name__, "dim": self.dim, "options": options}
        return made | {"columns": self.columns, "learned": self.learned, "labels": self.labels}

    def restore(self, state: dict) -> None:
        """Take over columns, learned and labels of a state; ValueError where they do not fit together."""
        columns, self.learned, self.labels = state["columns"], state["learned"], state["labels"]
        for name in self.learned:
            if self.learned[name].shape != self.learns[name]:
                got = tuple(self.learned[name].shape)
                raise ValueError(f"expected {name} of shape {self.learns[name]}, got {got}")
        if len(columns["ids"]):
            self.check_trained()
            like = {"ids": self.ids} | self.encode(torch.empty(0, self.dim))
            for name, empty in like.items():
                wanted, rows = (len(columns["ids"]), *empty.shape[1:]), columns[name]
                if rows.shape != wanted or rows.dtype != empty.dtype:
                    got = f"{rows.dtype} {tuple(rows.shape)}"
                    raise ValueError(f"expected {name} as {empty.dtype} {wanted}, got {got}")
            self._keep(columns)

    @staticmethod
    def from_state(state: dict) -> "Index":
        """The index that `state` describes; ValueError for an unknown kind or a state with parts missing."""
        kinds = {kind.__name__: kind for kind in Index.__subclasses__()}
        kind = str(state.get("kind"))
        if kind not in kinds:
            raise ValueError(f"expected one of {', '.join(kinds)}, got {kind!r}")
        try:
            index = kinds[kind](state["dim"], **state["options"])
            index.restore(state)
        except (AttributeError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"expected the state of a whole {kind}: {type(error).__name__}: {error}"
            ) from error
        return index

    def save(self, path: str | Path) -> None:
        """Write the index to one file, which an interruption cannot damage."""
        write_atomically(path, lambda file: torch.save(self.state(), file))

    @staticmethod
    def load(path: str | Path) -> "Index":
        """The index that `save` wrote."""
        return Index.from_state(read_state(path))


def top_k(scores: Tensor, k: int, width: int = 32) -> tuple[Tensor, Tensor]:
    """The k largest of each row and where they are, best first: scores (Q, N) -> (Q, k), (Q, k).

    Columns are grouped `width` at a time: the k best of a row lie in the k groups with the largest maxima.
    """
    groups = scores.shape[1] // width
    if groups < 4 * k:
        return scores.topk(min(k, scores.shape[1]), dim=1)
    body = scores[:, : groups * width].unflatten(1, (width, groups))  # group g: columns g, g + groups, ...
    chosen = body.amax(1).topk(k, dim=1).indices  # (Q, k)
    columns = (chosen[:, None] + groups * torch.arange(width)[:, None]).flatten(1)  # (Q, width * k)
    tail = torch.arange(groups * width, scores.shape[1]).expand(len(scores), -1)
    columns = torch.cat([columns, tail], dim=1)
    best, place = scores.gather(1, columns).topk(k, dim=1)
    return best, columns.gather(1, place)


def top_k_of_blocks(score: Callable[[slice], Tensor], total: int, k: int, step: int) -> tuple[Tensor, Tensor]:
    """`top_k` of scores (Q, total) that are computed `step` columns at a time: score(rows) -> (Q, step)."""
    found = []
    for start in range(0, total, step):
        best, rows = top_k(score(slice(start, start + step)), k)
        found.append((best, rows + start))
    if len(found) == 1:
        return found[0]
    best, rows = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
    best, place = top_k(best, k)
    return best, rows.gather(1, place)


class ExactIndex(Index):
    """Compares every query with every vector: one matrix product, in blocks that bound the memory."""

    block = 2**21  # scores in memory at a time

    def __init__(self, dim: int):
        super().__init__(dim)

    def encode(self, vectors: Tensor) -> dict[str, Tensor]:
        return {"vectors": vectors}

    def scan(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        vectors, step = self.columns["vectors"], max(1, self.block // len(queries))
        return top_k_of_blocks(lambda rows: queries @ vectors[rows].T, len(self), k, step)


def kmeans(
    x: Tensor,
    k: int,
    *,
    iterations: int = 10,
    spherical: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Lloyd's algorithm on G sets of points at once: x (G, n, d) -> centroids (G, k, d).

    `spherical` keeps the centroids at length 1, for comparison by angle. A centroid that no point is nearest
    to moves to a random point. ValueError when there are fewer points than centroids.
    """
    G, n, d = x.shape
    if n < k:
        raise ValueError(f"k-means needs at least as many points as centroids, got {n} points for {k}")
    start = torch.rand(G, n, generator=generator).topk(k, dim=1).indices  # k different points, (G, k)
    centroids = x.gather(1, start[..., None].expand(-1, -1, d))
    for _ in range(iterations):
        cell = nearest(x, centroids) + k * torch.arange(G)[:, None]  # (G, n), numbered through all sets
        sums = x.new_zeros(G * k, d).index_add_(0, cell.flatten(), x.flatten(0, 1)).view(G, k, d)
        counts = torch.bincount(cell.flatten(), minlength=G * k).view(G, k, 1)
        spare = x.gather(1, torch.randint(n, (G, k, 1), generator=generator).expand(-1, -1, d))
        centroids = torch.where(counts > 0, sums / counts.clamp(min=1), spare)
        centroids = F.normalize(centroids, dim=-1) if spherical else centroids
    return centroids


def nearest(x: Tensor, centroids: Tensor, block: int = 2**23) -> Tensor:
    """Number of the centroid at the least Euclidean distance: x (G, n, d), centroids (G, k, d) -> (G, n)."""
    half = centroids.square().sum(-1)[:, None] / 2  # |x - c|^2 = |x|^2 - 2 (x.c - |c|^2 / 2)
    step = max(1, block // half.numel())
    parts = [torch.baddbmm(half, part, centroids.mT, beta=-1).argmax(-1) for part in x.split(step, dim=1)]
    return torch.cat(parts, dim=1)


class IVFIndex(Index):
    """Inverted file: vectors lie in the list of their nearest centroid, and a query visits `nprobe` lists.

    Sivic and Zisserman 2003; Jegou et al. 2011, sec. IV. Rows are stored list by list, so a list is a slice.
    """

    def __init__(self, dim: int, *, num_lists: int, nprobe: int = 8):
        super().__init__(dim, num_lists=num_lists, nprobe=nprobe)  # kept as attributes, and checked
        self.learns = {"centroids": (num_lists, dim)}
        self.starts = torch.zeros(num_lists + 1, dtype=torch.long)

    @property
    def visits(self) -> int:
        return min(self.nprobe, self.num_lists)

    def train(self, vectors: Tensor, *, generator: torch.Generator | None = None) -> "IVFIndex":
        vectors = self._sample(vectors)
        centroids = kmeans(vectors[None], self.num_lists, spherical=True, generator=generator)
        self.learned = {"centroids": centroids[0]}
        return self

    def encode(self, vectors: Tensor) -> dict[str, Tensor]:
        blocks = vectors.split(2**14)
        nearest_list = [(block @ self.learned["centroids"].T).argmax(1) for block in blocks]
        return {"vectors": vectors, "lists": torch.cat(nearest_list)}

    def _keep(self, columns: dict[str, Tensor]) -> None:
        lists = columns.get("lists", columns["ids"])  # both empty before the first vector
        order = lists.argsort(stable=True)
        self.columns = {name: rows[order] for name, rows in columns.items()}
        sizes = torch.bincount(lists, minlength=self.num_lists)
        if len(sizes) > self.num_lists:
            raise ValueError(f"expected numbers of {self.num_lists} lists, got list {len(sizes) - 1}")
        self.starts = F.pad(sizes.cumsum(0), (1, 0))

    def scan(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        Q, P = len(queries), self.visits
        probes = (queries @ self.learned["centroids"].T).topk(P, dim=1).indices.flatten()  # (Q * P)
        best = queries.new_full((Q * P, k), -torch.inf)
        rows = torch.zeros(Q * P, k, dtype=torch.long)
        visits = probes.argsort(stable=True)  # one product for all the queries that visit a list
        lists, counts = probes[visits].unique_consecutive(return_counts=True)
        spans = zip(self.starts[lists].tolist(), self.starts[lists + 1].tolist(), strict=True)
        for visit, (start, end) in zip(visits.split(counts.tolist()), spans, strict=True):
            scores = queries[visit // P] @ self.columns["vectors"][start:end].T
            found, place = scores.topk(min(k, end - start), dim=1)
            best[visit, : found.shape[1]], rows[visit, : found.shape[1]] = found, place + start
        best, place = best.view(Q, P * k).topk(k, dim=1)
        return best, rows.view(Q, P * k).gather(1, place)


def knn_recall(found: Tensor, true: Tensor) -> float:
    """Share of the true neighbours that were found: ids (Q, k) each, in any order; -1 is no neighbour."""
    if found.ndim != 2 or true.ndim != 2 or len(found) != len(true):
        raise ValueError(f"expected ids (Q, k) and (Q, k), got {tuple(found.shape)} and {tuple(true.shape)}")
    hits = (true[:, :, None] == found[:, None]).any(-1) & (true >= 0)
    return (hits.sum() / (true >= 0).sum().clamp(min=1)).item()


class PQIndex(Index):
    """Product quantisation (Jegou et al. 2011): each of `num_parts` pieces of a vector becomes one byte.

    The query stays exact. A score is the sum of `num_parts` numbers looked up in a table of the query.
    """

    def __init__(self, dim: int, *, num_parts: int, num_codes: int = 256):
        super().__init__(dim, num_parts=num_parts, num_codes=num_codes)
        if dim % num_parts:
            raise ValueError(f"dim {dim} is not a multiple of num_parts {num_parts}")
        if not 2 <= num_codes <= 256:
            raise ValueError(f"num_codes must fit into a byte, 2 to 256, got {num_codes}")
        self.learns = {"codebooks": (num_parts, num_codes, dim // num_parts)}

    def parts(self, vectors: Tensor) -> Tensor:
        """(N, dim) -> (num_parts, N, dim / num_parts)."""
        return vectors.unflatten(1, (self.num_parts, -1)).transpose(0, 1)

    def train(self, vectors: Tensor, *, generator: torch.Generator | None = None) -> "PQIndex":
        pieces = self.parts(self._sample(vectors)).contiguous()
        self.learned = {"codebooks": kmeans(pieces, self.num_codes, generator=generator)}
        return self

    def encode(self, vectors: Tensor) -> dict[str, Tensor]:
        codes = nearest(self.parts(vectors), self.learned["codebooks"])  # (num_parts, N)
        return {"codes": codes.T.to(torch.uint8)}

    def _keep(self, columns: dict[str, Tensor]) -> None:  # (N, num_parts), in memory a piece after the other
        self.columns = {
            name: rows.mT.contiguous().mT if rows.ndim == 2 else rows for name, rows in columns.items()
        }

    def decode(self, codes: Tensor) -> Tensor:
        """The vectors that codes (N, num_parts) stand for, (N, dim)."""
        rows = codes.int() + self.num_codes * torch.arange(self.num_parts, dtype=torch.int32)
        return self.learned["codebooks"].flatten(0, 1)[rows].flatten(1)

    def by_table(self, queries: Tensor, codes: Tensor) -> Tensor:
        """Scores (Q, N): inner products of each piece with each code, once, then a sum of look-ups."""
        table = torch.einsum("mqd,mkd->mqk", self.parts(queries), self.learned["codebooks"])
        pieces = zip(table, codes.T, strict=True)
        return sum(part.index_select(1, code.int()) for part, code in pieces)

    def scan(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        codes, few = self.columns["codes"], len(queries) < 16

        def score(rows: slice) -> Tensor:  # many queries: rebuild a block of vectors once, for all of them
            return self.by_table(queries, codes[rows]) if few else queries @ self.decode(codes[rows]).T

        step = max(1, 2**23 // max(len(queries), self.dim))
        return top_k_of_blocks(score, len(self), k, step)


class LanceIndex(Index):
    """The same calls on a table of LanceDB, an embedded vector database. A change is on disk at once.

    folder: of the database, which several processes may read and write. nprobes and refine_factor: LanceDB's
    own knobs, for a table with an index. `save` keeps where the table is, since the rows are there already.
    """

    texts = ("folder", "name")

    def __init__(
        self,
        dim: int,
        *,
        folder: str | Path,
        name: str = "vectors",
        nprobes: int = 20,
        refine_factor: int | None = None,
    ):
        lancedb, pyarrow = map(importlib.import_module, ("lancedb", "pyarrow"))  # nothing else needs them
        folder = str(Path(folder).resolve())
        super().__init__(dim, folder=folder, name=name, nprobes=nprobes, refine_factor=refine_factor)
        text, vector = pyarrow.string(), pyarrow.list_(pyarrow.float32(), dim)
        schema = {"id": pyarrow.int64(), "vector": vector, "label": text, "writer": text}
        database = lancedb.connect(folder, read_consistency_interval=timedelta(0))  # see others' changes
        for patience in range(8):  # another process may be creating it, too, and be half done
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                self.table = database.open_table(name)
                break
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                database.create_table(name, schema=pyarrow.schema(list(schema.items())))
            time.sleep(0.01 * 2**patience)
        else:
            self.table = database.open_table(name)  # to say what is wrong
        found = self.table.schema.field("vector").type
        if found != vector:
            raise ValueError(f"{folder}: expected vectors of {dim} numbers in table {name}, found {found}")

    def __len__(self) -> int:
        return self.table.count_rows()

    def _column(self, name: str, where: str | None = None) -> tuple[Tensor, list]:
        asked = self.table.search().select(list({"id", name})).limit(max(1, len(self)))
        found = (asked.where(where) if where else asked).to_arrow()
        return torch.from_numpy(found["id"].to_numpy().copy()), found[name]

    @property
    def ids(self) -> Tensor:
        """The ids that are in, (N,)."""
        return self._column("id")[0]

    @property
    def nbytes(self) -> int:
        """Bytes on disk, of all versions that are kept."""
        files = Path(self.folder, f"{self.name}.lance").rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())

    def labels_of(self, ids: Iterable[int] | None = None) -> dict[int, str]:
        """As `Index.labels_of`."""
        if ids is not None and not (ids := [number for number in ids if number >= 0]):
            return {}
        found, texts = self._column("label", None if ids is None else _among(ids))
        return {i: text for i, text in zip(found.tolist(), texts.to_pylist(), strict=True) if text}

    def add(
        self,
        vectors: Tensor,
        ids: Iterable[int] | Tensor | None = None,
        labels: list[str] | None = None,
    ) -> Tensor:
        """As `Index.add`. Of two writers that take one id at once, at least one withdraws and tries again."""
        wanted = ids if ids is None else as_ids(ids)
        for patience in range(10):
            rows, ids, texts = self._rows(vectors, wanted, labels)
            if not len(ids):
                return ids
            writer = secrets.token_hex(8)
            pyarrow = importlib.import_module("pyarrow")
            flat = pyarrow.FixedSizeListArray.from_arrays(rows.numpy().ravel(), self.dim)
            columns = {"id": ids.numpy(), "vector": flat, "label": texts, "writer": [writer] * len(ids)}
            self.table.add(pyarrow.table(columns, schema=self.table.schema))
            if int(torch.isin(self.ids, ids).sum()) == len(ids):
                return ids
            self.table.delete(f"writer = '{writer}'")
            time.sleep(random.random() * 0.05 * 2**patience)
        raise RuntimeError(f"{self.folder}: other writers took the same ids ten times in a row")

    def remove(self, ids: Iterable[int] | Tensor) -> int:
        """As `Index.remove`."""
        ids = as_ids(ids).tolist()
        return self.table.delete(_among(ids)).num_deleted_rows if ids else 0

    def hits(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Scores and ids of the best, (Q, k) each."""
        asked = self.table.search(queries.numpy()).distance_type("dot").nprobes(self.nprobes).limit(k)
        asked = asked.refine_factor(self.refine_factor) if self.refine_factor else asked
        scores, ids = queries.new_full((len(queries), k), -torch.inf), torch.full((len(queries), k), -1)
        ranks = [0] * len(queries)
        for hit in asked.select(["id", "_distance"]).to_arrow().sort_by("_distance").to_pylist():
            row = hit.get("query_index", 0)
            scores[row, ranks[row]], ids[row, ranks[row]] = 1 - hit["_distance"], hit["id"]
            ranks[row] += 1
        return scores, ids

    def state(self) -> dict:
        """Where the table is and how many rows it has; the rows stay there."""
        return super().state() | {"rows": len(self)}

    def restore(self, state: dict) -> None:
        """The table is where it was; ValueError where its rows are gone."""
        if state["rows"] and not len(self):
            raise ValueError(
                f"expected {state['rows']} rows in table {self.name} of {self.folder}, found none"
            )


def _among(ids: Iterable[int]) -> str:
    return f"id in ({', '.join(map(str, ids))})"


def read_pictures(
    files: Iterable[str | Path], read: Callable[[Path], Tensor]
) -> tuple[list[str], list[Tensor], dict[str, str]]:
    """Names and pictures (3, H, W) of the files that can be read, and name -> reason for the others."""
    names, pictures, skipped = [], [], {}
    for file in map(str, files):
        try:
            pictures.append(read(Path(file)))
            names.append(file)
        except (OSError, ValueError) as error:
            skipped[file] = f"{type(error).__name__}: {error}"
    return names, pictures, skipped


@dataclass(frozen=True)
class Report:
    """What indexing did: names added, name -> reason for those skipped, number of files that are none."""

    added: list[str]
    skipped: dict[str, str]
    others: int = 0

    def __repr__(self) -> str:
        first = f"{len(self.added)} pictures added, {len(self.skipped)} skipped, {self.others} other files"
        return "\n".join([first, *(f"  {name}: {why}" for name, why in self.skipped.items())])


def stamp(file: str | Path) -> list:
    """[whole path, time of the last change in ns, bytes]; both numbers are 0 where there is no file."""
    file = Path(file).resolve()
    try:
        found = file.stat()
    except OSError:
        return [str(file), 0, 0]
    return [str(file), found.st_mtime_ns, found.st_size]


class PictureSearch:
    """Pictures in files, found by a description or by another picture.

    encoder: its name and version, kept with every vector: vectors of two encoders cannot be compared.
    encode_images: (B, 3, H, W) -> (B, D); encode_texts: B strings -> (B, D), both of length 1.
    read: path -> (3, H, W), raising OSError or ValueError for what is no picture.
    """

    suffixes = tuple(
        ".png .jpg .jpeg .jfif .webp .gif .bmp .tif .tiff .avif .heic .heif .jp2 .jxl .dng .nef".split()
    )
    batch = 256

    def __init__(
        self,
        index: Index,
        *,
        encoder: str,
        encode_images: Callable[[Tensor], Tensor],
        encode_texts: Callable[[list[str]], Tensor],
        read: Callable[[Path], Tensor],
    ):
        self.encoder, self.read = encoder, read
        self.encode_images, self.encode_texts = encode_images, encode_texts
        self.index = self._checked(index)

    def _checked(self, index: Index) -> Index:
        labels = index.labels_of()
        if len(labels) < len(index):
            raise ValueError(f"expected file names with all vectors, {len(index) - len(labels)} have none")
        if others := {json.loads(label)[0] for label in labels.values()} - {self.encoder}:
            raise ValueError(f"the index holds vectors of encoder {min(others)!r}, expected {self.encoder!r}")
        return index

    def __len__(self) -> int:
        return len(self.index)

    @property
    def names(self) -> dict[int, str]:
        """Id -> file."""
        return {number: json.loads(label)[1] for number, label in self.index.labels_of().items()}

    def add(self, files: Iterable[str | Path]) -> Report:
        """Index these files. One that is in and has not changed is skipped, so is one that cannot be read.

        One that changed is encoded again, or forgotten if it cannot be read any more.
        """
        self.index.check_trained()
        inside = {json.loads(label)[1]: (i, label) for i, label in self.index.labels_of().items()}
        labels = {(now := stamp(file))[0]: json.dumps([self.encoder, *now]) for file in files}
        same = [file for file, label in labels.items() if inside.get(file, (0, ""))[1] == label]
        added, skipped = [], dict.fromkeys(same, "is indexed already")
        fresh = [file for file in labels if file not in skipped]
        for start in range(0, len(fresh), self.batch):
            part = fresh[start : start + self.batch]
            names, pictures, unread = read_pictures(part, self.read)
            features = self._features(pictures)
            sound = features.isfinite().all(1).tolist()
            unread |= {
                n: "the encoder gave no finite vector" for n, ok in zip(names, sound, strict=True) if not ok
            }
            kept = [name for name in names if name not in unread]
            self.index.remove([inside[file][0] for file in part if file in inside])
            self.index.add(features[torch.tensor(sound, dtype=torch.bool)], labels=[labels[n] for n in kept])
            added, skipped = added + kept, skipped | unread
        return Report(added, skipped)

    def _features(self, pictures: list[Tensor]) -> Tensor:
        if not pictures:
            return torch.empty(0, self.index.dim)
        features = self.encode_images(torch.stack(pictures)).detach().float()
        lengths = features.norm(dim=1)
        if (lengths - 1).abs().gt(0.01).logical_and(lengths.isfinite()).any():
            low, high = lengths[lengths.isfinite()].aminmax()
            raise ValueError(f"expected features of length 1, got lengths from {low:.2g} to {high:.2g}")
        return features

    def add_folder(self, folder: str | Path) -> Report:
        """Index the pictures in a folder and below it. ValueError where there is not one file to look at."""
        files = sorted(file for file in Path(folder).rglob("*") if not file.is_dir())
        pictures = [file for file in files if file.suffix.lower() in self.suffixes]
        if not pictures:
            raise ValueError(f"no pictures in {folder}: expected files ending in {', '.join(self.suffixes)}")
        return replace(self.add(pictures), others=len(files) - len(pictures))

    def remove(self, files: Iterable[str | Path]) -> int:
        """Forget these files; returns how many were indexed."""
        gone = {stamp(file)[0] for file in files}
        return self.index.remove([number for number, name in self.names.items() if name in gone])

    def find(
        self, query: str | Path | Tensor, k: int = 8, *, without: str = "", weight: float = 0.25
    ) -> list[tuple[str, float]]:
        """The k best (file, score): for a description, for a picture file (Path), or for a feature (D,).

        without: what should not be seen; `weight` of its vector is subtracted from the query.
        """
        if isinstance(query, Tensor):
            feature = query[None]
        elif isinstance(query, Path):
            feature = self.encode_images(self.read(query)[None])
        else:
            feature = self._texts([query])
        if without:
            feature = feature - weight * self._texts([without])
        scores, ids = (found[0].tolist() for found in self.index.search(feature, k))
        labels = self.index.labels_of(ids)
        return [(json.loads(labels[i])[1], s) for i, s in zip(ids, scores, strict=True) if i in labels]

    def _texts(self, phrases: list[str]) -> Tensor:
        if not phrases or not all(phrase.strip() for phrase in phrases):
            raise ValueError("expected a description, got an empty one")
        return self.encode_texts(phrases)

    def describe(self, picture: Path, phrases: list[str], k: int = 3) -> list[tuple[str, float]]:
        """The k phrases nearest to a picture, best first."""
        scores = self._texts(phrases) @ self.encode_images(self.read(Path(picture))[None])[0]
        best, place = scores.topk(min(k, len(phrases)))
        return [(phrases[i], score) for i, score in zip(place.tolist(), best.tolist(), strict=True)]

    def save(self, path: str | Path) -> None:
        """Vectors, file names and the encoder's name in one file; interrupted, the old one stays."""
        state = {"encoder": self.encoder, "index": self.index.state()}
        write_atomically(path, lambda file: torch.save(state, file))

    def load(self, path: str | Path) -> "PictureSearch":
        """Take over what `save` wrote, in place of what is in; returns self. The encoders are not saved."""
        state = read_state(path)
        if not {"index", "encoder"} <= state.keys() or not isinstance(state["index"], dict):
            raise ValueError(f"{path} is no picture index: it holds {', '.join(map(str, state))}")
        if state["encoder"] != self.encoder:
            raise ValueError(f"{path} is an index of encoder {state['encoder']!r}, expected {self.encoder!r}")
        index = self._checked(Index.from_state(state["index"]))
        if index.dim != self.index.dim:
            raise ValueError(f"{path} holds vectors of {index.dim} numbers, expected {self.index.dim}")
        self.index = index
        return self


def from_faiss(index) -> Index:
    """Our index with what a FAISS index holds: IndexFlatIP, IndexIVFFlat or IndexPQ, by inner product.

    TypeError for another class; ValueError for another metric or for codes that are not bytes.
    """
    kind, library = type(index).__name__, sys.modules.get(type(index).__module__.split(".")[0])
    if kind not in ("IndexFlat", "IndexFlatIP", "IndexFlatL2", "IndexIVFFlat", "IndexPQ"):
        raise TypeError(f"expected IndexFlatIP, IndexIVFFlat or IndexPQ of faiss, got {kind}")
    if index.metric_type != library.METRIC_INNER_PRODUCT:
        raise ValueError(f"expected a faiss index by inner product, got metric {index.metric_type}")
    if kind == "IndexIVFFlat":
        return _from_ivf(index, library)
    if kind == "IndexPQ":
        if index.pq.nbits != 8:
            raise ValueError(f"expected codes of 8 bits, got {index.pq.nbits}")
        ours = PQIndex(index.d, num_parts=index.pq.M)
        books = torch.from_numpy(library.vector_to_array(index.pq.centroids))
        ours.learned = {"codebooks": books.view(index.pq.M, 256, -1)}
        codes = torch.from_numpy(library.vector_to_array(index.codes)).view(-1, index.pq.M)
        ours._keep({"ids": torch.arange(len(codes)), "codes": codes})
        return ours
    ours = ExactIndex(index.d)
    ours.add(torch.from_numpy(index.reconstruct_n(0, index.ntotal)))
    return ours


def _from_ivf(index, library) -> IVFIndex:
    ours = IVFIndex(index.d, num_lists=index.nlist, nprobe=index.nprobe)
    ours.learned = {"centroids": torch.from_numpy(index.quantizer.reconstruct_n(0, index.nlist))}
    lists, ids, vectors = [], [torch.empty(0, dtype=torch.long)], [torch.empty(0, index.d)]
    for number in range(index.nlist):
        size = index.invlists.list_size(number)
        lists.append(torch.full((size,), number))
        if size:
            raw = library.rev_swig_ptr(index.invlists.get_codes(number), size * index.code_size)
            vectors.append(torch.from_numpy(raw.copy()).view(torch.float32).view(size, -1))
            ids.append(torch.from_numpy(library.rev_swig_ptr(index.invlists.get_ids(number), size).copy()))
    ours._keep({"ids": torch.cat(ids), "vectors": torch.cat(vectors), "lists": torch.cat(lists)})
    return ours
