"""The card: front matter, and its sections in order.

print(card(read_facts(Path("runs/a"), None, None), licence="mit", intended_use=None))
"""

from typing import Optional

from metaseq_plugin.evaluate.card.facts import Facts
from metaseq_plugin.evaluate.card.front import front_matter
from metaseq_plugin.evaluate.card.markdown import plain_text
from metaseq_plugin.evaluate.card.measured import abilities, harms, limits, sources
from metaseq_plugin.evaluate.card.model import loading, sizes, summary, versions
from metaseq_plugin.evaluate.card.training import data, energy, training

UNSTATED = "Unknown: whoever wrote this card did not state it."


def card(facts: Facts, licence: Optional[str], intended_use: Optional[str]) -> str:
    """The card's Markdown.

    Args:
        licence: under which the model is given; None: unknown.
        intended_use: Markdown; None: unknown.
    """
    sections = {
        "Model": sizes(facts),
        "Intended use": [UNSTATED if intended_use is None else intended_use.strip()],
        "Training data": data(facts.account),
        "Training": training(facts.account),
        "Energy and carbon": energy(facts.account),
        "Evaluation": abilities(facts),
        "Harms": harms(facts),
        "Results": sources(facts),
        "Limits": limits(facts),
        "Licence": [UNSTATED if licence is None else plain_text(licence)],
        "Versions": versions(facts),
        "How to load it": loading(facts),
    }
    lines = [*front_matter(facts, licence), "", f"# {plain_text(facts.name)}", "", summary(facts)]
    for title, body in sections.items():
        lines += ["", f"## {title}", "", *body]
        while not lines[-1]:
            lines.pop()
    return "\n".join(lines) + "\n"
