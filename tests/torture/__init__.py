"""Torture: processes are killed, stopped and given I/O errors; no acknowledged write may be lost.

history.py          outcomes of batches, and the contents that a collection may have after them
workload.py         a fixed sequence of operations that reports each step
syscall_faults.py   runs the workload under strace, with a kill or an error at the Nth system call
trace.py            rules of durability, checked against a trace of system calls
planted.py          defects planted into the workload, to check the checkers
clients.py          writers and readers of one folder, each with a log of what it did;
                    controller.py kills and stops them
__main__.py         python -m tests.torture: everything, for a given time
"""
