"""Torture: processes are killed, stopped and given errors, and nothing acknowledged may be lost.

history.py      what was said of batches, and so what a collection may hold
workload.py     a fixed sequence of work that tells what it does as it goes
cutting.py      runs the workload under strace, cut short or failing at the Nth system call
trace.py        rules of durability, read from a trace of system calls
planted.py      defects put into the workload on purpose, to check the checkers
ledger.py       many processes on one folder, and who kills and stops them
__main__.py     python -m tests.torture: everything, for as long as asked
"""
