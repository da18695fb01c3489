"""The data sets, one file a family: where their files are, what they hold, how to fetch them."""
