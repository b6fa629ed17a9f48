"""The table: everything that is asked in two ways."""

from tests.equivalence import application, detector, metrics, mixture, p_values

THEMES = (mixture, detector, p_values, metrics, application)
ROWS = [row for theme in THEMES for row in theme.table()]
