"""Metrics, plots and the report; imports nothing of ours but the errors.

metrics, calibration, significance, diversity   numbers from arrays
schema, summary                                 metrics.json, and its table
plots, sensitivity, tiers                       plots of a run, a sweep and a distillation, in one style (plot_style)
report, leaderboard, svg, layout                pages that hold everything they show, tables for a terminal
"""
