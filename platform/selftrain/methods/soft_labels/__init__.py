"""Methods that soften the granted labels: SEAL and the self-distillation baselines."""
