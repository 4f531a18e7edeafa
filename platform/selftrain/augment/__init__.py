"""Texts by a large language model: prompts, cache, filter, and the vLLM engine under Ray Serve."""
