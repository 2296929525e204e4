"""Benchmarks: every figure that an issue names, measured by a command that anybody can repeat.

`python -m benchmarks.run NAME` (make bench NAME=...). One module a figure or a family of figures; each drives the shipped
command from outside and prints what it measured. Result files with question, machine, date and caveats lie in `results/`.
A figure that cannot be measured is missing, and a missing one fails the run: nothing is ever estimated.
"""
