"""The stages, named like the commands; each reads what earlier ones wrote and writes its own folder."""
