"""Messages for FAISS indexes that can't be imported, by fourcc: the reason and an alternative.

If the index stores complete vectors, they can be loaded from an .npy file. If it stores codes, the
original vectors are lost, and the user decides whether approximations are good enough.
"""

from __future__ import annotations

from typing import Final

__all__ = ["METRICS", "explain", "explain_transform"]

_CODES: Final = (
    "{what} can't be recovered exactly; load the original vectors from an .npy file, or the result "
    "of index.reconstruct_n(0, index.ntotal) if approximations are good enough"
)
_WHOLE: Final = (
    "{what} are complete, but in another order and without a usable graph; save "
    "index.reconstruct_n(0, index.ntotal) as an .npy file and load that"
)
_IVF: Final = (
    "{what} are complete, but in lists without a graph; call index.make_direct_map(), save "
    "index.reconstruct_n(0, index.ntotal) as an .npy file and load that"
)
_BITS: Final = "{what} are bits, and a collection holds floats; there is no metric for them"
_GRAPH: Final = (
    "{what} are complete, but the graph is not an HNSW graph; save "
    "index.reconstruct_n(0, index.ntotal) as an .npy file and load that"
)

_KINDS: Final[dict[bytes, tuple[str, str]]] = {
    b"IxPq": ("product-quantised vectors", _CODES),
    b"IxPo": ("product-quantised vectors", _CODES),
    b"IxPp": ("product-quantised vectors", _CODES),
    b"IxSQ": ("scalar-quantised vectors", _CODES),
    b"IxRQ": ("residual-quantised vectors", _CODES),
    b"IxRq": ("residual-quantised vectors", _CODES),
    b"IxLS": ("additive-quantised vectors", _CODES),
    b"IxLs": ("additive-quantised vectors", _CODES),
    b"IPfs": ("product-quantised vectors", _CODES),
    b"IPf2": ("product-quantised vectors", _CODES),
    b"IHNs": ("scalar-quantised vectors of an HNSW graph", _CODES),
    b"IHNp": ("product-quantised vectors of an HNSW graph", _CODES),
    b"IHN2": ("two-level codes of an HNSW graph", _CODES),
    b"Ix2L": ("two-level codes", _CODES),
    b"IxHe": ("locality-sensitive hashes", _CODES),
    b"IxHE": ("locality-sensitive hashes", _CODES),
    b"IxLa": ("lattice codes", _CODES),
    b"IwPQ": ("product-quantised vectors", _CODES),
    b"IvPQ": ("product-quantised vectors", _CODES),
    b"IwQR": ("product-quantised vectors", _CODES),
    b"IvQR": ("product-quantised vectors", _CODES),
    b"IwPf": ("product-quantised vectors", _CODES),
    b"IwSq": ("scalar-quantised vectors", _CODES),
    b"IwSQ": ("scalar-quantised vectors", _CODES),
    b"IvSQ": ("scalar-quantised vectors", _CODES),
    b"IwSh": ("spectral hashes", _CODES),
    b"IwRQ": ("residual-quantised vectors", _CODES),
    b"IwRq": ("residual-quantised vectors", _CODES),
    b"IwRf": ("residual-quantised vectors", _CODES),
    b"IwLS": ("additive-quantised vectors", _CODES),
    b"Imiq": ("codes of a multi-index", _CODES),
    b"ImiQ": ("codes of a multi-index", _CODES),
    b"IwFl": ("vectors of an inverted file", _IVF),
    b"IvFl": ("vectors of an inverted file", _IVF),
    b"IvFL": ("vectors of an inverted file", _IVF),
    b"IwFd": ("vectors of an inverted file", _IVF),
    b"IwPn": ("vectors of an inverted file", _IVF),
    b"IxF1": ("numbers of an IndexFlat1D", _WHOLE),
    b"IxRF": ("vectors of an IndexRefineFlat", _WHOLE),
    b"IxRP": ("vectors of an IndexRefinePanorama", _WHOLE),
    b"ISpl": ("vectors of a split index", _WHOLE),
    b"INSf": ("vectors of an NSG graph", _GRAPH),
    b"INSp": ("product-quantised vectors of an NSG graph", _CODES),
    b"INSs": ("scalar-quantised vectors of an NSG graph", _CODES),
    b"INNf": ("vectors of an NN-descent graph", _GRAPH),
    b"IHNc": ("vectors of a CAGRA graph", _GRAPH),
    b"IHc2": ("vectors of a CAGRA graph", _GRAPH),
    b"IHfP": ("vectors of an HNSW graph in panorama order", _GRAPH),
    b"null": (
        "vectors",
        "{what} were omitted from the file (IO_FLAG_SKIP_STORAGE); write the complete index",
    ),
}

_TRANSFORMS: Final = {
    b"rrot": "randomly rotated vectors",
    b"Pcam": "vectors of a principal component analysis",
    b"PcAm": "vectors of a principal component analysis",
    b"LTra": "linearly transformed vectors",
    b"RmDT": "vectors with reordered components",
    b"Viqt": "vectors of an ITQ transform",
    b"VCnt": "centred vectors",
    b"VHad": "vectors of a Hadamard rotation",
}

METRICS: Final = {
    2: "L1",
    3: "Linf",
    4: "Lp",
    20: "Canberra",
    21: "BrayCurtis",
    22: "JensenShannon",
    23: "Jaccard",
    24: "NaNEuclidean",
    25: "GOWER",
}
"""FAISS's metrics other than inner product and L2."""

_SUPPORTED: Final = "supported: IndexFlat, IndexHNSWFlat, IndexIDMap, IndexIDMap2, normalisation"


def explain(fourcc: bytes) -> str:
    """Return the message for an unsupported index."""
    name = _name(fourcc)
    if fourcc in _KINDS:
        what, sentence = _KINDS[fourcc]
        return f"{name}: {sentence.format(what=what)}"
    if fourcc[:2] == b"IB":
        return f"{name}: {_BITS.format(what='vectors of a binary index')}"
    return f"{name} is not a known type of FAISS index; {_SUPPORTED}"


def explain_transform(fourcc: bytes) -> str:
    """Return the message for an unsupported transform."""
    what = _TRANSFORMS.get(fourcc, "transformed vectors")
    return (
        f"{_name(fourcc)}: {what} differ from those that were added to the index; load the "
        "original vectors from an .npy file, or the result of index.reconstruct_n(0, index.ntotal)"
    )


def _name(fourcc: bytes) -> str:
    """Return the fourcc as printable text."""
    return fourcc.decode("ascii") if fourcc.isalnum() else repr(fourcc)
