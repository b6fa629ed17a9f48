"""Tables; `format.py` writes each for the terminal, for Markdown and for pages."""
