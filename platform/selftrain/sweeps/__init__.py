"""Sweeps: the same experiment over settings, data sets and seeds, as a table like the papers'. space.py is what is asked, sweep.py the story of a sweep."""
