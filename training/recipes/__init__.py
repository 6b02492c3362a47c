"""Built-in recipes: one TOML file each, and the functions that they name."""

MODELS = {"digits": "training.recipes.digits:make_model"}
"""Built-in names that a recipe may give as its model."""

DATA = {"digits": "training.recipes.digits:load_data"}
"""Built-in names that a recipe may give as its data."""
