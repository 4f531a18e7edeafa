"""The bundle that a trained classifier is handed over in, and the classifier that reads it."""
