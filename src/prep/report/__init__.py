"""A workspace in sight: one page of what is in it, for `prep report` and `prep stats`."""
