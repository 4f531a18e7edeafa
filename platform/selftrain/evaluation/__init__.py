"""Figures, pictures and the report; stands on nothing of ours."""
