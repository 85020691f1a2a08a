"""Results as one HTML file, like the tables of OPT's paper: ``metaseq eval … --page FILE.html``.

``file.py`` puts the style and ``document.py``'s body, made of the tables of ``evaluate/tables.py``, into ``index.html``.
The page runs nothing and asks no host for anything.
"""
