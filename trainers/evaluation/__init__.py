"""The numbers of a run: verdicts and metrics."""
