"""The tests of vecdb."""
