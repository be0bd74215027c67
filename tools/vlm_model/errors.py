"""What stops the recipe."""


class RecipeError(Exception):
    """Something the recipe needs is missing or not what it should be."""
