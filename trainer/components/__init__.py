"""What changes while a model trains: its state, how it is kept, and how a run goes on from it."""
