"""Work on streams of inputs in memory of bounded size."""
