"""One file = one figure: a pure function of arrays to a Matplotlib figure."""
