"""The page at ``/``: HTML, style and scripts that a browser runs as they are, without a build step.

``index.html`` and ``style.css`` (behind ``pages/base.css``), what is seen; ``app.js``, what starts and stops a request;
``settings.js``, the form and its place in the address; ``api.js`` and ``events.js``, the server's
answers; ``sample.js``, one continuation and its tokens; ``alternatives.js``, the tooltip of a token;
``snippets.js``, the same request as curl and Python. ``page_files`` beside this folder serves them.
"""
