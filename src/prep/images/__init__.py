"""Image bytes: out of archives or from addresses, probed, and stored."""
