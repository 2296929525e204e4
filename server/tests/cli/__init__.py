"""Tests of the command, its settings and its log lines; the command runs as a process of its own."""
