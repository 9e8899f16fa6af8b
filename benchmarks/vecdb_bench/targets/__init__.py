"""Targets: the databases and libraries that are measured, each behind one small adapter.

The suite starts a *worker* for each target: ``python -m vecdb_bench.targets.worker NAME``. It runs
in the current interpreter if the target's library is installed there, otherwise in a virtual
environment that is created on demand (``environments``). Suite and worker exchange lines of JSON
over pipes (``process`` is the suite's side, ``worker`` the target's); vectors, answers and
latencies are passed in .npy files. Loops and clocks are in the worker (``timing``), so that pipes
are not part of any measurement and the same code measures all targets.

    → {"do": "open", "folder": …, "dim": 50, "metric": "cosine", "settings": {…}}
    ← {"ok": {…}}          or  {"error": "RuntimeError: …", "trace": "…"}

To add a target, write ``targets/<name>.py`` with a class ``Adapter(Target)``; ``base.Target``
documents each method. The adapter may import numpy, the standard library and the target's client
only, since vecdb is not installed in the target's environment. Then add the target to
``registry.TARGETS`` with its requirements, its kind and the durability of an acknowledged write.

A method that a target does not support raises NotImplementedError with the reason, which the report
shows. Any other failure is reported as failed, with its error.
"""
