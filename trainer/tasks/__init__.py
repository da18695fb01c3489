"""What models are trained for: inputs, loss and metrics, one task a file."""
