"""The parts of ``benchmarks/speed.py``: hone beside its peers, each measurement in a process of its own."""
