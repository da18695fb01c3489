"""Row-stationary machines such as Eyeriss: mappings, traffic, energy."""
