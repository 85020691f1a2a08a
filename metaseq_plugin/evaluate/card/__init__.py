"""The model card: ``metaseq card P``, Markdown with the front matter that Hugging Face's cards have.

``facts.py`` gathers what is known of the model, its run and its results; ``model.py``, ``training.py`` and
``measured.py`` write the sections, each what is known and "unknown" for the rest, in ``document.py``'s order;
``front.py`` writes the front matter, ``markdown.py`` tables and texts.
"""
