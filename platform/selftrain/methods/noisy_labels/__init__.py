"""Methods for labels that are wrong in part: SunGen and its baselines."""
