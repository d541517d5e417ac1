"""Metrics, the ladder of references, evaluation runs, intervals, tables, peers."""
