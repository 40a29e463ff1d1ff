"""prep.lock: what is in a workspace, so that two can be compared and one can be made again."""
