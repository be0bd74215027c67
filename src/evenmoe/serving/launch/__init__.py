"""`evenmoe serve`: one command that prepares a model, starts an engine with evenmoe set up, and watches over it."""
