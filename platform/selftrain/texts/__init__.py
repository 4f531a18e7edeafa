"""Texts by a language model: prompts, filter, cache, the service that answers requests, and whole data sets written for class names."""
