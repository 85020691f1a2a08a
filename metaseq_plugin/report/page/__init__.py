"""The report as one HTML file: ``metaseq report RUN --html FILE``.

The steps: ``document.py`` makes plain JSON of the runs' accounts (with ``what.py``, ``chronicle.py`` and
``marks.py``), ``plots.py`` and ``norms.py`` say which curves are drawn, ``file.py`` puts JSON, style and scripts into
``index.html``, with the style of ``pages/`` and its own. The scripts run as one, in the order of ``file.py:SCRIPTS``: ``dom.js``, elements; ``numbers.js`` and
``scale.js``, axes; ``curves.js``, ``marks.js``, ``cursor.js``, ``values.js`` and ``plot.js``, one plot;
``sections.js``, all that is no plot; ``app.js``, the page.
"""
