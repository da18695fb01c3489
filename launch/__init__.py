"""Start ranks with mpirun, and end them together. Imports the standard library only."""
