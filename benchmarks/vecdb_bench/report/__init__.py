"""The report: a self-contained HTML page and a Markdown table, both generated from results only.

``plots`` draws curves as inline SVG, ``page`` lays out plots and tables, ``picture`` draws the
README's SVG file, ``filtered`` makes the tables of searches with a filter, ``table`` generates the
Markdown and inserts it between markers of a file.
The page loads no external script, font or image.
"""
