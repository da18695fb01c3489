"""Typed reports: tables, pages, metrics and CSV read their fields, `to_json` is what `--json`
prints."""
