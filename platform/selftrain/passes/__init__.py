"""Passes over large data: Ray Data over many files, by as many processes as there is room for."""
