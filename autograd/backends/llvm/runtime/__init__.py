"""What executes a plan: memory, layouts, threads, recordings."""
