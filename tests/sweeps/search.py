"""Indices over any number of vectors."""

from hypothesis import strategies as st


def sizes(draw):
    return (
        draw(st.integers(1, 20)) * draw(st.integers(1, 20)),
        draw(st.integers(1, 40)),
        draw(st.integers(1, 40)),
    )


def exact(draw, parity):
    number, dim, asked = sizes(draw)
    name = f"{number} x {dim}, {asked} queries"
    return parity.exact(name, parity.flat(number, dim), parity.queries(asked, dim))


def ivf(draw, parity):
    number, dim, asked = sizes(draw)
    lists = draw(st.integers(1, max(1, number // 4)))
    visited = draw(st.integers(1, lists))
    name = f"{number} x {dim} in {lists} lists, {visited} visited, {asked} queries"
    return parity.ivf(name, parity.inverted_file(number, dim, lists, visited), parity.queries(asked, dim))


def pq(draw, parity):
    parts, number, asked = draw(st.integers(1, 8)), 256 + draw(st.integers(0, 99)), draw(st.integers(1, 40))
    dim = parts * draw(st.integers(1, 5))
    # what scores the same but for rounding has no order: the scores are compared
    calls = {key: value for key, value in parity.TIMED.items() if key != "bench"}
    name = f"{number} x {dim} in {parts} bytes, {asked} queries"
    return parity.pq(name, parity.quantised(number, dim, parts), parity.queries(asked, dim), **calls)


SWEEPS = [exact, ivf, pq]
