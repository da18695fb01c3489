"""The commands of `tallygrad`, one module each: read what the options name, call, print."""
