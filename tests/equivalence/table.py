"""The table: everything that is asked in two ways."""

from tests.equivalence import application, calculus, detector, metrics, mixture, p_values

THEMES = (mixture, calculus, detector, p_values, metrics, application)
ROWS = [row for theme in THEMES for row in theme.table()]
