"""Mixtures of features: the transforms before them, the projection, the range where they are valid."""
