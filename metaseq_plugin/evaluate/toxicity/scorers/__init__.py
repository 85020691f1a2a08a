"""Who judges texts, each behind ``task.Scorer``; ``reading.read_scorer`` makes one of ``--scorer``."""
