"""The level tables of a FAISS graph file equal those of FAISS, for every M and height."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from vecdb.engine.interchange.faiss.layout import level_tables


@pytest.mark.parametrize("M", [*range(2, 65), 100, 256])
def test_level_tables_equal_those_of_faiss(M: int) -> None:
    index = faiss.IndexHNSWFlat(4, M)  # The index owns its graph.
    graph = index.hnsw
    tables = level_tables(M, -1)
    np.testing.assert_array_equal(tables.assign_probas, faiss.vector_to_array(graph.assign_probas))
    np.testing.assert_array_equal(
        tables.cum_neighbors, faiss.vector_to_array(graph.cum_nneighbor_per_level)
    )


def test_level_tables_cover_a_taller_graph() -> None:
    usual, taller = level_tables(16, -1), level_tables(16, 20)
    assert len(taller.assign_probas) == 21 and len(taller.cum_neighbors) == 22
    np.testing.assert_array_equal(
        taller.cum_neighbors[: len(usual.cum_neighbors)], usual.cum_neighbors
    )
    assert (np.diff(taller.cum_neighbors)[1:] == 16).all()
