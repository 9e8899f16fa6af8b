"""Variants of a search: queries by example, a bound of the distance, and hits in groups.

``check_variant`` validates the arguments of ``search`` that select one; engine and client use it
alike. docs/searching.md defines what each of them means.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from vecdb import checks, limits
from vecdb.errors import InvalidArgumentError
from vecdb.filters import Path, path_text, split_path
from vecdb.reasons import Reason
from vecdb.row_names import shown
from vecdb.types import Hits, Metric

__all__ = ["PLAIN", "Variant", "check_group_count", "check_variant"]


class Variant(NamedTuple):
    """How a search differs from "the k nearest rows of given vectors".

    Attributes:
        near, away: ids of the rows that the query is derived from; empty if vectors are given.
        max_distance: no hit is farther; None for no bound.
        group_by: path of the field by whose values hits are grouped; None for no groups.
        group_size: most hits of a group.
    """

    near: tuple[str, ...] = ()
    away: tuple[str, ...] = ()
    max_distance: float | None = None
    group_by: Path | None = None
    group_size: int = 1

    @property
    def is_bound_only(self) -> bool:
        """Whether it leaves hits out and changes nothing else."""
        return self._replace(max_distance=None) == PLAIN

    def cut(self, hits: Hits) -> Hits:
        """Return the hits of a plain search that are within ``max_distance``."""
        if self.max_distance is None or not len(hits):
            return hits
        count = int((hits.distances.astype(np.float64) <= self.max_distance).sum())
        raw = None if hits.raw_metadata is None else hits.raw_metadata[:count]
        vectors = None if hits.vectors is None else hits.vectors[:count]
        return Hits(hits.ids[:count], hits.distances[:count], raw, vectors, hits.info)


PLAIN: Final = Variant()


def check_variant(
    query: object,
    k: object,
    metric: Metric,
    *,
    near: object = None,
    away: object = None,
    max_distance: object = None,
    group_by: object = None,
    group_size: object = None,
) -> Variant:
    """Return the variant that the arguments of a search select.

    Args:
        query: as given; only whether it is None counts.
        k: as given; only whether it is None counts.
        group_by: a dotted path, or a tuple of keys.

    Raises:
        InvalidArgumentError: BAD_QUERY: the arguments contradict each other, or the query is
            missing. NOT_FINITE, OUT_OF_RANGE: a bound that no distance can have. BAD_ID,
            NOT_A_LIST: invalid examples. BAD_GROUP_BY: no path.
    """
    if near is None and away is not None:
        raise _bad_query("away needs near: without it there is nothing to search for")
    if (query is None) == (near is None):
        given = "both" if near is not None else "neither"
        raise _bad_query(f"give a query or near (ids of stored rows), got {given}")
    if k is None and max_distance is None:
        raise _bad_query("k may be None only with max_distance")
    examples: list[tuple[str, ...]] = []
    for ids in (near, away):
        examples.append(() if ids is None else tuple(checks.check_ids(ids, unique=False)))
    if near is not None:
        if not examples[0]:
            raise _bad_query("near must have at least one id, got none")
        checks.check_limit(limits.EXAMPLES, len(examples[0]) + len(examples[1]))
    if group_by is None and group_size is not None:
        raise _bad_query("group_size needs group_by")
    if group_by is not None and k is None:
        raise _bad_query("with group_by, k must be the number of groups, got None")
    return Variant(
        examples[0],
        examples[1],
        _check_distance(max_distance, metric),
        None if group_by is None else _check_path(group_by),
        1 if group_size is None else checks.check_limit(limits.GROUP_SIZE, group_size),
    )


def check_group_count(k: int | None, variant: Variant, query_count: int) -> None:
    """Check that the hits of all groups of a call are not too many.

    Raises:
        InvalidArgumentError: TOO_MANY_RESULTS.
    """
    hits = (k or 0) * variant.group_size
    if variant.group_by is not None and (
        hits > limits.K.maximum or hits * query_count > limits.RESULTS_PER_CALL_MAX
    ):
        raise InvalidArgumentError(
            f"k times group_size must be at most {limits.K.maximum}, and times the queries "
            f"{limits.RESULTS_PER_CALL_MAX}, got {k} x {variant.group_size} = {hits}, for "
            f"{query_count} queries",
            Reason.TOO_MANY_RESULTS,
        )


def _check_path(group_by: object) -> Path:
    if isinstance(group_by, tuple) and group_by and all(isinstance(key, str) for key in group_by):
        group_by = path_text(group_by)
    if not isinstance(group_by, str):
        raise InvalidArgumentError(
            f"group_by must be the path of a field, such as 'author.name', got {shown(group_by)}",
            Reason.BAD_GROUP_BY,
        )
    try:
        group_by.encode()
        return split_path(group_by, "group_by")
    except UnicodeEncodeError as error:
        why = f"group_by: {shown(group_by)} is not valid Unicode: {error.reason}"
    except InvalidArgumentError as error:
        why = error.message
    raise InvalidArgumentError(why, Reason.BAD_GROUP_BY)


def _check_distance(distance: object, metric: Metric) -> float | None:
    if distance is None:
        return None
    numbers = int | float | np.integer | np.floating
    if isinstance(distance, bool) or not isinstance(distance, numbers):
        raise InvalidArgumentError(
            f"max_distance must be a number, got {shown(distance)}", Reason.OUT_OF_RANGE
        )
    try:
        number = float(distance)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidArgumentError(
            f"max_distance must be finite, got {shown(distance)}", Reason.NOT_FINITE
        )
    if number < 0 and metric is not Metric.DOT:
        raise InvalidArgumentError(
            f"max_distance must be at least 0, as {metric} distances are, got {number}; only "
            "under dot they may be negative",
            Reason.OUT_OF_RANGE,
        )
    return number


def _bad_query(why: str) -> InvalidArgumentError:
    return InvalidArgumentError(why, Reason.BAD_QUERY)
