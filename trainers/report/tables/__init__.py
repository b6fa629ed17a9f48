"""Tables in words and figures, for the terminal and for Markdown; one file = one table."""
