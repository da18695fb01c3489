"""What a primitive becomes for given shapes."""
