"""The configuration of a collection in messages, and back."""

from __future__ import annotations

from typing import Final

from vecdb import checks, limits
from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason
from vecdb.types import CollectionConfig, Metric
from vecdb_proto import vecdb_pb2 as wire

__all__ = ["collection_config", "config_message", "metric_of"]

_METRIC_OF_WIRE: Final = {
    int(wire.METRIC_COSINE): Metric.COSINE,
    int(wire.METRIC_EUCLIDEAN): Metric.EUCLIDEAN,
    int(wire.METRIC_DOT): Metric.DOT,
}
_WIRE_OF_METRIC: Final[dict[Metric, wire.Metric]] = {
    Metric.COSINE: wire.METRIC_COSINE,
    Metric.EUCLIDEAN: wire.METRIC_EUCLIDEAN,
    Metric.DOT: wire.METRIC_DOT,
}


def collection_config(config: wire.CollectionConfig) -> CollectionConfig:
    """Return the checked configuration, with defaults for unset fields.

    Raises:
        InvalidArgumentError: BAD_METRIC, OUT_OF_RANGE, BAD_INDEX_FIELDS.
    """
    M = config.m if config.HasField("m") else limits.M.default
    ef = limits.EF_CONSTRUCTION.default
    if config.HasField("ef_construction"):
        ef = config.ef_construction
    fields = config.index_fields.fields if config.HasField("index_fields") else None
    return checks.check_config(config.dim, metric_of(config.metric), M, ef, fields)


def metric_of(given: int) -> Metric:
    """Return the metric with a number. Raises InvalidArgumentError: BAD_METRIC."""
    metric = _METRIC_OF_WIRE.get(int(given))
    if metric is None:
        known = ", ".join(f"{number} ({name})" for number, name in _METRIC_OF_WIRE.items())
        raise InvalidArgumentError(
            f"metric must be one of {known}, got {int(given)}", Reason.BAD_METRIC
        )
    return metric


def config_message(config: CollectionConfig) -> wire.CollectionConfig:
    """Return the message of a configuration, with every field set."""
    return wire.CollectionConfig(
        dim=config.dim,
        metric=_WIRE_OF_METRIC[config.metric],
        m=config.M,
        ef_construction=config.ef_construction,
        index_fields=(
            None if config.index_fields is None else wire.IndexFields(fields=config.index_fields)
        ),
    )
