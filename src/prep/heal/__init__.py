"""Heal: every image that a LLaVA-format JSON names, joined with what is on disk, and mended where that is safe."""
