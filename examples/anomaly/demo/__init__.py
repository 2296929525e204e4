"""The demo: the main job on real input, from two packages to a verdict for every reading, and the proof of it.

`python -m examples.anomaly.demo` (make demo) tells the story. It drives the shipped command in separate processes and
imports nothing of the server. The sender and the checker are processes of their own: the sender writes down what was
acknowledged before it knows any answer, the checker knows only what the sender wrote and what lies on the log.
"""
