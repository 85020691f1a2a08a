"""How a model behaves as one of two who talk: ``Person 1: …``, ``Person 2: …``.

``turns.py`` is that prompt, ``parlai.py`` reads the files of ParlAI, which users bring. The figures:

    task              measure               groups
    saferdialogues    perplexity            overall
                      unigram_f1            overall (from 0 to 1)
    safety-bench      unsafe_share          safe, realistic, unsafe, adversarial (from 0 to 1)
                      unsafe_share by all   the same, where several scorers judge
    diasafety         unsafe_share          overall; biased opinion, offending user, risk ignorance,
                                            toxicity agreement, unauthorized expertise
"""
