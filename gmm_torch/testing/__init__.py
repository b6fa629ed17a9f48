"""Tests of hypotheses about failures, and the intervals and curves beside them."""
