"""The table: everything that is asked in two ways."""

from tests.equivalence import detector, metrics, mixture, p_values

ROWS = [row for theme in (mixture, detector, p_values, metrics) for row in theme.table()]
