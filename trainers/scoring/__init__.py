"""Engines: where the images of `task=score` are decoded and judged."""
