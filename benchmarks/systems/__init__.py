"""The systems of ``python -m benchmarks.peers``: one file each, all of which solve the task of ``task.py``."""
