"""Datasets, their splits, and the data module that hands them out."""
