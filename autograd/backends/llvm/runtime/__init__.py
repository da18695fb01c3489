"""What runs a plan: memory, layouts, threads, recordings."""
