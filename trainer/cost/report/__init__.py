"""Reports of costs: figures, tables, metrics and pages."""
