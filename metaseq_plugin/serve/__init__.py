"""A model in use: on a prompt line, for a file of prompts, and over HTTP.

On the command line: ``prompt``, ``metaseq generate``; ``prompt_options``, its options; ``prompt_lines``, prompts from a
terminal; ``prompt_file``, its ``--file``, and ``results_file``, what is known of its lines already.

Over HTTP, as OpenAI's clients and metaseq's ask for it: ``command``, ``metaseq serve``; ``loading``, the model behind a
server that answers already; ``running``, from the first connection to the last answer; ``app``, the routes put together;
``service``, what they share. A request passes ``keys`` and ``bodies``, is a model of ``protocol``, becomes jobs in
``plan``, whose tokens come back through ``events`` and become text and log-probabilities in ``choices``;
``completions`` and ``metaseq_routes`` answer. ``errors``, every refusal; ``metrics``, what Prometheus reads;
``openapi``, the description of all this.
"""
