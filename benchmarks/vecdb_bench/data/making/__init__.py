"""Scripts that compute vectors, each in a separate environment; they import nothing of vecdb."""
