"""What the recipe raises when it cannot go on."""


class RecipeError(Exception):
    """The recipe met something it cannot work with; the message names it and says what is allowed."""
