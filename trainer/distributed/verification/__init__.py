"""Steps that are done twice, and ranks that are compared: hardware that computes wrongly is seen."""
