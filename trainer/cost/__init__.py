"""What training and inference cost: work, memory traffic, energy and time, on shapes alone."""
