"""Metrics, tests of hypotheses and intervals."""
