"""The data sets, one file per family: their files, contents and mirrors."""
