"""Harms and abilities of a model, measured by tasks; and other people's evaluations, run on models of ours.

``metaseq eval`` (``command.py``), from the bottom to the top:
(1) ``requests.py`` is what a model is asked, and ``opening.py`` opens one that answers: ``model.py``, ``endpoint.py``;
(2) ``task.py`` is what a measurement is; ``tasks.py`` lists them, which lie in ``bias/``, ``toxicity/``, ``dialogue/``,
    ``abilities/`` and ``hate_speech.py``, and read files of ``data_folder.py``;
(3) ``running.py`` asks, records each item (``items_file.py``) and makes figures of the records (``results.py``);
(4) ``table.py``, ``page/``, ``plot.py`` and ``card/`` show them, beside the numbers of ``published.py``.

``lm_eval_model.py`` is a model of EleutherAI's lm-evaluation-harness, made of the hub's ``OPT``.
"""
