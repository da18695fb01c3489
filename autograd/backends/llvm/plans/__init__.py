"""What a primitive becomes for given shapes: which kernel, which tile, which memory."""
