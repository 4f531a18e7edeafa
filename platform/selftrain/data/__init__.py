"""From a source to documents, classes and splits."""
