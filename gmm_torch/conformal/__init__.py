"""Conformal p-values: calibrations, and guarantees for one input, a batch, a stream and accepted predictions."""
