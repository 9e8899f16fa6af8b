"""SIFT descriptors of photographs: ``sift.py OUT PHOTO|PHOTO|...`` writes vectors.npy.

float32, shape (n, 128). Duplicate descriptors are removed, so that no held-out query is in the
base.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np


def main() -> None:
    """Compute the descriptors of all photographs and write them."""
    out, photos = Path(sys.argv[1]), sys.argv[2].split("|")
    sift = cv2.SIFT_create()
    found = []
    for photo in photos:
        picture = cv2.imread(photo, cv2.IMREAD_GRAYSCALE)
        if picture is None:
            raise SystemExit(f"{photo}: not a readable image")
        _, descriptors = sift.detectAndCompute(picture, None)
        if descriptors is not None:
            found.append(np.asarray(descriptors, np.float32))
    vectors = np.unique(np.concatenate(found), axis=0)
    np.save(out / "vectors.npy", vectors[np.any(vectors != 0, axis=1)])


if __name__ == "__main__":
    main()
