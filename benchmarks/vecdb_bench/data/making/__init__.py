"""Scripts that compute vectors; each runs in an environment of its own and knows nothing of us."""
