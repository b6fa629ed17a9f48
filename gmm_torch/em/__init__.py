"""Expectation-maximisation: one pass = accumulate sufficient statistics, reduce over processes, update."""
