"""What all HTML pages share: style, policy, and one file that needs no network; no content.

``base.css``, colours, letters and what every page has; ``document.css``, headings, sections, tables and paper, for pages
that are read; ``html.py``, which puts a page's parts into its template. ``report/page/`` and ``evaluate/page/`` write
files, ``serve/page/`` is served.
"""
