"""File formats of data sets; their contents are not trusted."""
