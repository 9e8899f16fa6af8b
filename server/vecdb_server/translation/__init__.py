"""Messages of the contract to types of the vocabulary and back, so that ``service`` reads like it.

statuses       errors to gRPC statuses: the only table
requests       what all requests share: reserved fields, numbers of enums
descriptions   collections: configuration, description, statistics; limits
writes         options and receipts of writes
records        rows by id, pages of a scroll, facets, fields
searches       variants of a search, and its hits
filters        filters in messages to filters of the vocabulary
transfers      exports, imports and backups
"""

from __future__ import annotations

__all__: list[str] = []
