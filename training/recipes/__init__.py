"""Built-in recipes: one TOML file each, and the functions that they name."""

MODELS = {
    "albert": "training.recipes.albert:make_model",
    "charlm": "training.recipes.charlm:make_model",
    "digits": "training.recipes.digits:make_model",
    "swav": "training.recipes.swav:make_model",
    "swav-tiny": "training.recipes.swav:make_tiny_model",
}
"""Built-in names that a recipe may give as its model."""

DATA = {
    "albert": "training.recipes.albert:load_data",
    "albert-tiny": "training.recipes.albert:load_tiny_data",
    "charlm": "training.recipes.charlm:load_data",
    "digits": "training.recipes.digits:load_data",
    "swav": "training.recipes.swav:load_data",
    "swav-tiny": "training.recipes.swav:load_tiny_data",
}
"""Built-in names that a recipe may give as its data."""
