"""The checks of `tallygrad doctor`. Each is a generator of findings about this host and job."""
