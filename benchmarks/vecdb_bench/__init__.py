"""Benchmarks of vecdb, of its parts and of other databases: ``vecdb bench``.

    suite         plans: which scenarios run over which data sets and targets
    scenarios     what is measured, one file per scenario
    targets       what is measured against: adapters, each in a worker process
    data          real vectors with queries and their true neighbours
    results       one line of JSON per measurement, with its provenance
    report        the page, the table and the picture of a file of results
    own           recall and latency of a collection in production

Absolute figures depend on the machine and its load. Quote ratios of interleaved runs instead.
"""
