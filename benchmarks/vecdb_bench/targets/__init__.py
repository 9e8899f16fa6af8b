"""Targets: what is measured, ours and others, each driven in the same way by one small file.

How it works. The suite starts a *worker* for each target: ``python -m vecdb_bench.targets.worker
NAME``, in the interpreter at hand if it has the target's library, otherwise in an environment of
its own, made on demand (``environments``). Suite and worker speak in lines of JSON over pipes
(``process`` is the suite's side, ``worker`` the other); vectors, answers and latencies pass through
.npy files. Loops and clocks are in the worker (``timing``), so that no pipe is measured and all
targets are measured by the same lines of code.

    → {"do": "open", "folder": …, "dim": 50, "metric": "cosine", "settings": {…}}
    ← {"ok": {…}}          or  {"error": "RuntimeError: …", "trace": "…"}

How to add one: write ``targets/<name>.py`` with a class ``Adapter(Target)`` (``base.Target`` says
what each method must do; numpy, the standard library and the target's own client, nothing else,
since we are not installed there), and add it to ``registry.TARGETS`` with what pip must install,
its kind and a sentence on what an acknowledged write of it survives. A method that a target can't
support raises NotImplementedError with the reason, which the report shows; a failure is reported as
failed, with its error, and not left out.
"""
