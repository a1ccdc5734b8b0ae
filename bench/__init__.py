"""Benchmarks: each prints a table and, with --json, writes the figures and the machine."""
