"""Writing with a model and scoring what is written, in the order in which it is read.

``settings``, what is asked for; ``sampling``, one choice from logits; ``shifts``, bias and penalties;
``sampler``, how the rows of a batch choose; ``scoring``, what given tokens score; ``decoding``, models
stepping with their caches; ``finite``, logits that no text follows from; ``batch``, rows that join, take
a token a step and leave; ``text``, the text of new tokens as it comes, up to a stop text
(``stop_finder``), and ``stopping``, rows that end there; ``beam``, beam search; ``generator``, many
prompts in batches; ``engine``, one batch for many callers, whose ``jobs`` wait in a ``fair_queue`` and
are served at a ``pace``; ``fairseq_generator``, fairseq's door to it.
"""
