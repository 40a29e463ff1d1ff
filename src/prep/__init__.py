"""Public image-text datasets, all the way to what a multimodal trainer loads."""

__version__ = "0.1.0"
