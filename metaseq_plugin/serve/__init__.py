"""A model in use: on a prompt line, for a file of prompts, and over HTTP.

On the command line: ``prompt``, ``metaseq generate``; ``prompt_options``, its options; ``prompt_lines``, prompts from a
``terminal``; ``prompt_file``, its ``--file``, and ``results_file``, what is known of its lines already.

Over HTTP, as OpenAI's clients and metaseq's ask for it: ``command``, ``metaseq serve`` with its ``options``;
``loading``, the model behind a server that answers already; ``running``, from the first connection (``connections``) to
the last answer; ``app``, the routes put together; ``service``, what they share. A request passes ``hosts``, ``keys``
and ``bodies``, is a model of ``protocol`` or ``metaseq_protocol``, becomes jobs in ``plan``, whose tokens come back through
``events`` and become text and log-probabilities in ``choices``; ``completions`` and ``metaseq_routes`` answer. Beside
them ``models_routes``, what is served and how it is, and ``page_files``, the page. ``errors``, every refusal;
``metrics``, what Prometheus reads; ``openapi``, the description of all this.
"""
