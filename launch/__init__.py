"""Start ranks with mpirun, and end them together. Imports only the standard library."""
