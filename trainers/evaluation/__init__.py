"""The numbers of a run: what was judged, and how well."""
