"""Train and evaluate models on ranks of MPI, and tell what it costs."""
