"""Other people's evaluations, run on models of ours.

``lm_eval_model.py`` is a model of EleutherAI's lm-evaluation-harness, made of the hub's ``OPT``.
"""
