"""Scorers: models that give an image, or an image and its caption, a number; a module for each."""
