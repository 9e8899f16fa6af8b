"""How is LMDB spoken to?

environment      an LMDB environment: transactions, growth, recovery, readers
gate             reader-writer lock around reopening
lmdb_errors      LMDB's errors as ours
lmdb_files       its files, copied and compared
lmdb_pages       its meta pages, read without LMDB
named_database   handles of named databases
transaction      the types of transactions, cursors and handles
write_lock       the write lock, waited for with a limit
"""

from __future__ import annotations

__all__ = ["environment", "lmdb_files", "lmdb_pages", "named_database", "transaction", "write_lock"]
