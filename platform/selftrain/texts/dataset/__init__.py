"""Whole labeled data sets by a language model, for class names alone (`selftrain generate`)."""
