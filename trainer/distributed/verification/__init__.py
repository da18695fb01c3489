"""Steps done twice, and ranks compared: what finds hardware that computes wrongly."""
