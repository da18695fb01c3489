"""Train and evaluate models on MPI ranks, and count what it costs."""
