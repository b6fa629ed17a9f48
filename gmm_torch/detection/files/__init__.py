"""Detectors as files."""
