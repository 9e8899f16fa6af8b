"""How is LMDB used?

environment          an LMDB environment: transactions, growth, recovery, readers
lmdb_errors          translates LMDB's errors to vecdb's
lmdb_files           opening LMDB's files safely
lmdb_pages           LMDB's meta pages, read without mapping the file
reader_writer_lock   the lock that protects LMDB's handle
reading              the context manager of a read transaction
store_back_off       pauses between retries while a store fails
transaction          the types of transactions and cursors; the handles of databases
write_lock           waiting for LMDB's write lock with a limit
"""

from __future__ import annotations

__all__ = ["environment", "lmdb_files", "lmdb_pages", "transaction", "write_lock"]
