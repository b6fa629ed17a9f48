"""The report of a run: one self-contained HTML page that opens offline."""
