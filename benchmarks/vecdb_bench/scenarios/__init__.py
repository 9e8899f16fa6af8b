"""Scenarios: the measurements of each target, one file per scenario.

A scenario is a module with a function ``run(context)`` and a title ``TITLE``. It opens workers in a
``context.Bench``, measures points and passes each to ``context.record``. It skips the points for
which ``context.known`` returns a line. Answers are compared with the true neighbours, so that every
speed is reported with its recall.

    search      recall against queries/s over the effort (ef_search, or a target's equivalent)
    latency     percentiles with 1, 4, 16 clients, closed loop and at a fixed rate
    ingest      durable rows/s by size of batch and kind of id; time until indexed
    beside      latency of searches while another client writes
    full_store  durable rows/s into a store that has rows already
    churn       recall, speed, memory, disk while rows are replaced and deleted
    filtered    speed of searches with a condition at one recall, by the share of rows that pass
    recovery    kill -9 during a load: rows lost, time to ready, recall afterwards
    size        growth of costs with the number of rows

Of vecdb alone, beside what it is made of:

    opening     time from opening a folder to the first answer, by number of rows
    walk        the compiled graph search and hnswlib's own, on one graph
    contract    recall asked for, expected and measured, and the time it takes, beside hnswlib
    call        what an embedded call costs outside the kernel; one and four threads
    memory      searches of a collection four times the size of the memory there is
    wire        cost of the transport: encoding, an empty call, a query in process and over gRPC
    exchange    export to and import from a FAISS file, and the time in which FAISS builds it
    metadata    rows with five fields and without; counts, changes and deletes by filter

To add a scenario, write the module, name it in ``SCENARIOS`` and add a section for it to
``report.page``.
"""

from __future__ import annotations

SCENARIOS = (
    "search",
    "latency",
    "ingest",
    "beside",
    "full_store",
    "churn",
    "filtered",
    "recovery",
    "size",
    "opening",
    "walk",
    "contract",
    "call",
    "memory",
    "wire",
    "exchange",
    "metadata",
)
