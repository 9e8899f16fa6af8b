"""Scenarios: what is measured of each target, one file each.

A scenario is a module with a function ``run(context)`` and a sentence ``TITLE``; it opens workers
by the context (``context.Context``), measures points and hands each to ``context.record``. What is
in the results already it is told by ``context.known`` and leaves out. Answers are checked against
the truth, so that recall is beside every speed.

    search      recall against queries/s over the effort
    latency     percentiles with 1, 4, 16 clients, closed loop and at a fixed rate
    ingest      durable rows/s by size of batch and kind of id; time until indexed
    churn       recall, speed, memory, disk while rows are replaced and deleted
    recovery    kill -9 during a load: rows lost, time to ready, recall after
    size        what grows how with the number of rows
    wire        what the transport costs

To add one, write the file and name it in ``SCENARIOS``; what the report has no plot for it shows as
a table.
"""

from __future__ import annotations

SCENARIOS = ("search", "latency", "ingest", "churn", "recovery", "size", "wire")
