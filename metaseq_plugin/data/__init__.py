"""From text to token ids on disk: tokenizers, and the ``metaseq prepare`` command."""
