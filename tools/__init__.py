"""Recipes that make what ships with the package."""
