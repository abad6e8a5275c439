"""Photo search.

Collected from notebooks/10_photo_search.ipynb by `make export`: edit the notebook, not this file.
"""

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
    "encode_files",
    "from_faiss",
    "kmeans",
    "knn_recall",
    "nearest",
    "read_state",
    "top_k",
    "top_k_of_blocks",
    "write_atomically",
]


def write_atomically(path: str | Path, write: Callable[[BinaryIO], None]) -> None:
    """Let `write(file)` fill a file that replaces `path` whole, or not at all.

    The bytes go to a neighbour, are forced to the disk, and only then is the neighbour renamed over `path`:
    whoever reads sees the old file or the new one. One writer at a time.
    """
    path = Path(path)
    neighbour = path.with_name(f".{path.name}.part")
    try:
        with neighbour.open("wb") as file:
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
    """float32 (N, dim); ValueError for another shape or a number that is not finite."""
    vectors = torch.as_tensor(vectors).detach().float()
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ValueError(f"expected {what} of shape (N, {dim}), got {tuple(vectors.shape)}")
    if not vectors.isfinite().all():
        rows = int((~vectors.isfinite()).any(1).sum())
        raise ValueError(f"expected finite {what}, got a number that is not in {rows} rows")
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

    columns: name -> one row a vector; learned: name -> what `train` found. Both are all that is saved.
    """

    learns: tuple[str, ...] = ()

    def __init__(self, dim: int, **options: int):
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.dim, self.options = dim, options
        self.learned: dict[str, Tensor] = {}
        self.columns = {"ids": torch.empty(0, dtype=torch.long)}

    def __len__(self) -> int:
        return len(self.columns["ids"])

    @property
    def ids(self) -> Tensor:
        """The ids that are in, (N,), in the order of storage."""
        return self.columns["ids"]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that a search touches."""
        return sum(t.numel() * t.element_size() for t in [*self.columns.values(), *self.learned.values()])

    def train(self, vectors: Tensor, *, generator: torch.Generator | None = None) -> "Index":
        """Learn from a sample what must be known before vectors come; the exact index needs nothing."""
        return self

    def _sample(self, vectors: Tensor) -> Tensor:
        if len(self):  # their codes and lists would mean something else afterwards
            raise ValueError(f"train before adding: {len(self)} vectors are in already")
        return as_vectors(vectors, self.dim)

    def add(self, vectors: Tensor, ids: Iterable[int] | Tensor | None = None) -> Tensor:
        """Add vectors (N, dim) under `ids` (default: the next free numbers); returns the ids, (N,).

        Costs a copy of the index, so add in batches. ValueError for an id that is there already.
        """
        if missing := [name for name in self.learns if name not in self.learned]:
            raise ValueError(f"{type(self).__name__} has no {missing[0]} yet: call train(vectors) first")
        vectors = as_vectors(vectors, self.dim)
        first = int(self.ids.max()) + 1 if len(self) else 0
        ids = torch.arange(first, first + len(vectors)) if ids is None else as_ids(ids)
        if len(ids) != len(vectors):
            raise ValueError(f"expected {len(vectors)} ids, one a vector, got {len(ids)}")
        if len(taken := ids[torch.isin(ids, self.ids)]) or len(ids.unique()) < len(ids):
            raise ValueError(f"id {int(taken[0])} is in the index already" if len(taken) else "ids repeat")
        new = {"ids": ids} | self.encode(vectors)
        self._keep({name: torch.cat([self.columns.get(name, rows[:0]), rows]) for name, rows in new.items()})
        return ids

    def remove(self, ids: Iterable[int] | Tensor) -> int:
        """Forget these ids; returns how many were there. Costs a copy of the index."""
        stays = ~torch.isin(self.ids, as_ids(ids))
        self._keep({name: rows[stays] for name, rows in self.columns.items()})
        return int((~stays).sum())

    def search(self, queries: Tensor, k: int = 10) -> tuple[Tensor, Tensor]:
        """The k best inner products of each query and their ids: (Q, dim) -> (Q, k), (Q, k), best first.

        Where fewer are found, the score is -inf and the id -1, as in FAISS.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        queries = as_vectors(queries, self.dim, "queries")
        if not len(self) or not len(queries):
            return queries.new_full((len(queries), k), -torch.inf), torch.full((len(queries), k), -1)
        scores, rows = self.scan(queries, k)  # (Q, up to k)
        ids = self.ids[rows].masked_fill(scores == -torch.inf, -1)
        missing = (0, k - scores.shape[1])
        return F.pad(scores, missing, value=-torch.inf), F.pad(ids, missing, value=-1)

    def encode(self, vectors: Tensor) -> dict[str, Tensor]:
        """The columns stored for vectors (N, dim)."""
        raise NotImplementedError

    def scan(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Scores and rows of the best, (Q, up to k) each."""
        raise NotImplementedError

    def _keep(self, columns: dict[str, Tensor]) -> None:
        self.columns = columns

    def state(self) -> dict:
        """Everything `from_state` needs, as tensors and plain values."""
        made = {"kind": type(self).__name__, "dim": self.dim, "options": self.options}
        return made | {"columns": self.columns, "learned": self.learned}

    @staticmethod
    def from_state(state: dict) -> "Index":
        """The index that `state` describes; ValueError for a kind that is not known."""
        kinds = {kind.__name__: kind for kind in Index.__subclasses__()}
        if state.get("kind") not in kinds:
            raise ValueError(f"expected one of {', '.join(kinds)}, got {state.get('kind')!r}")
        index = kinds[state["kind"]](state["dim"], **state["options"])
        index.learned = state["learned"]
        index._keep(state["columns"])
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

    block = 2**23  # scores in memory at a time

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

    learns = ("centroids",)

    def __init__(self, dim: int, *, num_lists: int, nprobe: int = 8):
        super().__init__(dim, num_lists=num_lists, nprobe=nprobe)
        for name, value in self.options.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.num_lists, self.nprobe = num_lists, nprobe
        self.starts = torch.zeros(num_lists + 1, dtype=torch.long)

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
        self.starts = F.pad(sizes.cumsum(0), (1, 0))

    def scan(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        Q, P = len(queries), min(self.nprobe, self.num_lists)
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

    learns = ("codebooks",)

    def __init__(self, dim: int, *, num_parts: int, num_codes: int = 256):
        if dim % num_parts:
            raise ValueError(f"dim {dim} is not a multiple of num_parts {num_parts}")
        if not 2 <= num_codes <= 256:
            raise ValueError(f"num_codes must fit into a byte, 2 to 256, got {num_codes}")
        super().__init__(dim, num_parts=num_parts, num_codes=num_codes)
        self.num_parts, self.num_codes = num_parts, num_codes

    def parts(self, vectors: Tensor) -> Tensor:
        """(N, dim) -> (num_parts, N, dim / num_parts)."""
        return vectors.unflatten(1, (self.num_parts, -1)).transpose(0, 1)

    def train(self, vectors: Tensor, *, generator: torch.Generator | None = None) -> "PQIndex":
        pieces = self.parts(self._sample(vectors)).contiguous()
        self.learned = {"codebooks": kmeans(pieces, self.num_codes, generator=generator)}
        return self

    def encode(self, vectors: Tensor) -> dict[str, Tensor]:
        codes = nearest(self.parts(vectors), self.learned["codebooks"])  # (num_parts, N)
        return {"codes": codes.T.to(torch.uint8).contiguous()}

    def decode(self, codes: Tensor) -> Tensor:
        """The vectors that codes (N, num_parts) stand for, (N, dim)."""
        rows = codes.int() + self.num_codes * torch.arange(self.num_parts, dtype=torch.int32)
        return self.learned["codebooks"].flatten(0, 1)[rows].flatten(1)

    def by_table(self, queries: Tensor, codes: Tensor) -> Tensor:
        """Scores (Q, N): inner products of each piece with each code, once, then a sum of look-ups."""
        table = torch.einsum("mqd,mkd->mqk", self.parts(queries), self.learned["codebooks"])
        pieces = zip(table, codes.T.contiguous().int(), strict=True)
        return sum(part.index_select(1, code) for part, code in pieces)

    def scan(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        codes, few = self.columns["codes"], len(queries) < 16

        def score(rows: slice) -> Tensor:  # many queries: rebuild a block of vectors once, for all of them
            return self.by_table(queries, codes[rows]) if few else queries @ self.decode(codes[rows]).T

        step = max(1, 2**23 // max(len(queries), self.dim))
        return top_k_of_blocks(score, len(self), k, step)


class LanceIndex:
    """The same calls on a table of LanceDB, an embedded vector database; a change is on disk at once.

    connection: `lancedb.connect(folder)`.
    """

    def __init__(self, connection, dim: int, *, name: str = "vectors"):
        self.connection, self.dim, self.name = connection, dim, name
        self.table = connection.open_table(name) if name in connection.list_tables().tables else None

    def __len__(self) -> int:
        return self.table.count_rows() if self.table else 0

    @property
    def ids(self) -> Tensor:
        """The ids that are in, (N,)."""
        if not len(self):
            return torch.empty(0, dtype=torch.long)
        found = self.table.search().select(["id"]).limit(len(self)).to_arrow()
        return torch.from_numpy(found["id"].to_numpy().copy())

    def train(self, vectors: Tensor, *, generator: torch.Generator | None = None) -> "LanceIndex":
        """Nothing to learn: LanceDB trains its own index over the rows that are in."""
        return self

    def add(self, vectors: Tensor, ids: Iterable[int] | Tensor | None = None) -> Tensor:
        """As `Index.add`."""
        vectors, known = as_vectors(vectors, self.dim), self.ids
        first = int(known.max()) + 1 if len(known) else 0
        ids = torch.arange(first, first + len(vectors)) if ids is None else as_ids(ids)
        if len(ids) != len(vectors):
            raise ValueError(f"expected {len(vectors)} ids, one a vector, got {len(ids)}")
        if torch.isin(ids, known).any() or len(ids.unique()) < len(ids):
            raise ValueError("an id repeats or is in the index already")
        rows = [{"id": i, "vector": v} for i, v in zip(ids.tolist(), vectors.tolist(), strict=True)]
        if rows and self.table is None:
            self.table = self.connection.create_table(self.name, data=rows)
        elif rows:
            self.table.add(rows)
        return ids

    def remove(self, ids: Iterable[int] | Tensor) -> int:
        """As `Index.remove`."""
        ids = as_ids(ids).tolist()
        if not len(self) or not ids:
            return 0
        return self.table.delete(f"id in ({', '.join(map(str, ids))})").num_deleted_rows

    def search(self, queries: Tensor, k: int = 10) -> tuple[Tensor, Tensor]:
        """As `Index.search`."""
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        queries = as_vectors(queries, self.dim, "queries")
        scores = torch.full((len(queries), k), -torch.inf)
        ids = torch.full((len(queries), k), -1)
        for row, query in enumerate(queries.tolist() if len(self) else []):
            asked = self.table.search(query).distance_type("dot").select(["id", "_distance"]).limit(k)
            for rank, hit in enumerate(asked.to_list()):
                scores[row, rank], ids[row, rank] = 1 - hit["_distance"], hit["id"]
        return scores, ids


@dataclass(frozen=True)
class Report:
    """What indexing did: names added, and name -> reason for each file that was skipped."""

    added: list[str]
    skipped: dict[str, str]

    def __repr__(self) -> str:
        lines = [f"{len(self.added)} pictures added, {len(self.skipped)} skipped"]
        return "\n".join([*lines, *(f"  {name}: {why}" for name, why in self.skipped.items())])


def encode_files(
    files: list[str],
    read: Callable[[Path], Tensor],
    encode: Callable[[Tensor], Tensor],
    batch: int = 256,
) -> tuple[list[str], Tensor, dict[str, str]]:
    """Names and features (N, D) of the files that can be read, and name -> reason for the others."""
    names, features, skipped = [], [], {}
    for start in range(0, len(files), batch):
        pictures = []
        for file in files[start : start + batch]:
            try:
                pictures.append(read(Path(file)))
                names.append(file)
            except (OSError, ValueError) as error:
                skipped[file] = f"{type(error).__name__}: {error}"
        if pictures:
            features.append(encode(torch.stack(pictures)))
    return names, torch.cat(features) if features else torch.empty(0), skipped


class PictureSearch:
    """Pictures in files, found by a description or by another picture.

    encode_images: (B, 3, H, W) -> (B, D); encode_texts: B strings -> (B, D), both of length 1.
    read: path -> (3, H, W), raising OSError or ValueError for what is no picture.
    """

    suffixes = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")

    def __init__(
        self,
        index: Index,
        *,
        encode_images: Callable[[Tensor], Tensor],
        encode_texts: Callable[[list[str]], Tensor],
        read: Callable[[Path], Tensor],
    ):
        self.index, self.read = index, read
        self.encode_images, self.encode_texts = encode_images, encode_texts
        self.names: dict[int, str] = {}  # id -> file

    def __len__(self) -> int:
        return len(self.index)

    def add(self, files: Iterable[str | Path]) -> Report:
        """Index these files; one that is in already is skipped, and so is one that cannot be read."""
        files = list(dict.fromkeys(map(str, files)))
        known = set(self.names.values())
        names, features, skipped = encode_files(
            [file for file in files if file not in known], self.read, self.encode_images
        )
        if names:
            ids = self.index.add(features)
            self.names |= dict(zip(ids.tolist(), names, strict=True))
        return Report(names, skipped | {file: "is indexed already" for file in files if file in known})

    def add_folder(self, folder: str | Path) -> Report:
        """Index the pictures in a folder and below it. ValueError where there is not one file to look at."""
        files = sorted(f for f in Path(folder).rglob("*") if f.suffix.lower() in self.suffixes)
        if not files:
            raise ValueError(f"no pictures in {folder}: expected files ending in {', '.join(self.suffixes)}")
        return self.add(files)

    def remove(self, files: Iterable[str | Path]) -> int:
        """Forget these files; returns how many were indexed."""
        gone = {str(file) for file in files}
        ids = [number for number, name in self.names.items() if name in gone]
        self.names = {number: name for number, name in self.names.items() if name not in gone}
        return self.index.remove(ids)

    def find(self, query: str | Path | Tensor, k: int = 8) -> list[tuple[str, float]]:
        """The k best (file, score): for a description, for a picture file (Path), or for a feature (D,)."""
        if isinstance(query, Tensor):
            feature = query[None]
        elif isinstance(query, Path):
            feature = self.encode_images(self.read(query)[None])
        else:
            feature = self.encode_texts([query])
        scores, ids = self.index.search(feature, k)
        found = zip(ids[0].tolist(), scores[0].tolist(), strict=True)
        return [(self.names[number], score) for number, score in found if number >= 0]

    def describe(self, picture: Path, phrases: list[str], k: int = 3) -> list[tuple[str, float]]:
        """The k phrases nearest to a picture, best first."""
        scores = self.encode_texts(phrases) @ self.encode_images(self.read(picture)[None])[0]
        best, place = scores.topk(min(k, len(phrases)))
        return [(phrases[i], score) for i, score in zip(place.tolist(), best.tolist(), strict=True)]

    def save(self, path: str | Path) -> None:
        """Index and file names in one file, so that they cannot disagree; interrupted, the old one stays."""
        state = {"index": self.index.state(), "names": self.names}
        write_atomically(path, lambda file: torch.save(state, file))

    def load(self, path: str | Path) -> "PictureSearch":
        """Take over what `save` wrote (the encoders are not saved); returns self."""
        state = read_state(path)
        if not {"index", "names"} <= state.keys():
            raise ValueError(f"{path} is no picture index: it holds {', '.join(map(str, state))}")
        self.index, self.names = Index.from_state(state["index"]), state["names"]
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
