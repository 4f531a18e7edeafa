"""Methods for candidate sets: a label among others."""
