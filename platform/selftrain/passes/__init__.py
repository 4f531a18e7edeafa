"""Passes over large data: Ray Data over documents by reference."""
