"""Figures: pure functions of arrays to a Matplotlib figure."""
