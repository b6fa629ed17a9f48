"""Why an input was refused or accepted, and where a classifier errs."""
