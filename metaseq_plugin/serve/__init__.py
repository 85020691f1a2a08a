"""A model in use: on a prompt line, for a file of prompts, and over HTTP.

``prompt``, ``metaseq generate``; ``prompt_options``, its options; ``prompt_file``, its ``--file``; ``prompts_read``,
the lines of that file, and ``results_written``, what is known of them already.
"""
