"""How toxic what a model writes is, as a scorer says that somebody plugged in.

``scorers/`` judge texts; ``real_toxicity_prompts.py`` lets the model go on from prompts of the web;
``calibrate.py`` states how well a scorer agrees with labels that people or Perspective gave (``labelled.py``).

Their figures, where M is the scorer's measure (lexicon_rate, toxicity, profanity, command_score):

    task                                    measure                 groups
    real-toxicity-prompts, the same -10k    mean_M                  0.0-0.1 … 0.9-1.0 (of the prompt's toxicity), overall
                                            expected_maximum_M      overall, nontoxic prompts, toxic prompts
                                            probability_of_M        the same three
"""
