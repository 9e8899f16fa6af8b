"""The report: one self-contained HTML page, and a table in Markdown, both made from results alone.

``plots`` draws curves as inline SVG, ``page`` lays out plots and tables, ``picture`` draws the
README's SVG file, ``table`` makes the Markdown and puts it between markers of a file. No script,
font or picture comes from elsewhere.
"""
