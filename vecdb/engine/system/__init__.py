"""What does vecdb need from the operating system?

atomic_folder   a folder that appears complete or not at all
back_off        when operations that failed are retried
call_memory     the memory budget of concurrent calls
child_process   starting a module of vecdb as a child process
child_task      one job in a child process, with lines of JSON for answers
deadline        the deadline and the cancellation of a call
failpoints      places where tests kill the process or make an operation fail
files           durable writes, checksums, file locks
folder_use      the lock on the use of a data folder
garbage         settings of Python's garbage collector
mapped_pages    how pages of mapped files are read
modes           permissions of files and folders
named_locks     locks by name, for threads
place           detection of files that were moved or truncated while open
priority        the priority of background work, which rises while the work starves
weighted_lru    which entries of a cache to evict
write_back      writing a large file to the disk while it is produced

**The locks of the engine.** A thread that needs several acquires them in this order; a lock further
down is never held while one further up is awaited. ``D`` is the data folder, ``C`` the folder of a
collection. A file is locked between processes with flock: it is never removed, and the system
releases the lock when the process ends. The other locks are between threads.

    Runtime._open_lock          the runtimes of this process, by folder; held while a folder is
                                opened or closed
    D/use.lock                  shared: a process uses the folder; exclusive: it compacts the folder
                                (folder_use)
    Runtime._collection_locks   opening and dropping one collection
    D/catalog.lock              the catalogue: create, rename, drop, and its copy in a backup
                                (runtime/catalog)
    Runtime._lock               the tables of open collections and façades
    C/graph.lock                graph work, one job at a time: of the indexer, an export, an import
                                or a repair (indexing/indexer)
    C/seal.lock                 flat segments: one flush or rewrite at a time (segments/flushing)
    VerifiedSegments            one comparison with checksums at a time in a collection
    SnapshotManager             the creation or the update of a collection's snapshot
    Purger, renewing a lease    one purge step, one renewal at a time
    ChangedRows                 one reading of the log for changed metadata at a time in a store
    Environment._confirming     the first commit after an I/O error
    Environment._handle_lock    LMDB's handle: shared during a transaction, exclusive to close,
                                reopen or resize it (kv/reader_writer_lock)
    LMDB's write lock           one write transaction at a time in a store, between processes
                                (kv/write_lock)

A thread holds the write lock of one store at most. Some locks are independent of this order, since
no other one is acquired while they are held: ``partial.lock`` in a folder that is being built
(atomic_folder), and while kernels are loaded or compiled, a lock in kernels/loading and then
``kernels.lock`` in the user's cache folder (kernels/cache).

The threads with a queue (``Writer``, ``Upkeep``, ``Metering``, ``Supervisor``, ``Verifier``) wait
on a condition, which they release before they work. ``Columns`` computes a checksum under a lock,
once. All other locks protect a counter or a table for a few instructions, and come last.
"""

from __future__ import annotations

__all__ = [
    "atomic_folder",
    "back_off",
    "call_memory",
    "child_process",
    "child_task",
    "deadline",
    "failpoints",
    "files",
    "folder_use",
    "garbage",
    "mapped_pages",
    "modes",
    "named_locks",
    "place",
    "priority",
    "weighted_lru",
]
