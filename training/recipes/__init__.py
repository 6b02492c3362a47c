"""Built-in recipes: one TOML file each, and the functions that they name."""

MODELS = {
    "charlm": "training.recipes.charlm:make_model",
    "digits": "training.recipes.digits:make_model",
}
"""Built-in names that a recipe may give as its model."""

DATA = {
    "charlm": "training.recipes.charlm:load_data",
    "digits": "training.recipes.digits:load_data",
}
"""Built-in names that a recipe may give as its data."""
