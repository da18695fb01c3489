"""The timeline of a training: what each rank and thread did when, as a trace for chrome://tracing
and Perfetto, and a table of stragglers."""
