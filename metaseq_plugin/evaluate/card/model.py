"""The sections on the model itself: its sizes, its versions, and how to load it."""

from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any, Mapping

from metaseq_plugin.evaluate.card.facts import Facts
from metaseq_plugin.evaluate.card.markdown import UNKNOWN, code, plain_text, table
from metaseq_plugin.evaluate.figures import parameters
from metaseq_plugin.formats.model import HF, METASEQ
from metaseq_plugin.sizes import ARCH, arch_of, size_of

FORMATS = {
    HF: "Hugging Face's files",
    METASEQ: "metaseq's files",
}
OURS = "a checkpoint of fairseq's"


def settings_of(facts: Facts) -> Mapping[str, Any]:
    return {str(name): value for name, value in facts.model.cfg.items()}


def size_name(facts: Facts) -> str:
    """``OPT-125M`` of a size that is published; empty of another."""
    arch = arch_of(settings_of(facts))
    return "" if arch == ARCH else f"OPT-{arch.removeprefix(f'{ARCH}_').upper()}"


def summary(facts: Facts) -> str:
    """The card's first sentence."""
    size = size_name(facts)
    shape = f"the dimensions of {size}" if size else "dimensions of its own"
    return (
        f"A language model of {facts.num_parameters:,} parameters, of the OPT architecture "
        f"([Zhang et al. 2022](https://arxiv.org/abs/2205.01068)) with {shape}. It continues text."
    )


def sizes(facts: Facts) -> list[str]:
    settings, model = settings_of(facts), facts.model
    size = size_of(settings)
    rows = {
        "parameters": f"{facts.num_parameters:,} ({parameters(facts.num_parameters)})",
        "dimensions of": size_name(facts) or "no published OPT",
        "layers": f"{size.layers:,}",
        "embedding": f"{size.embed_dim:,}",
        "word embedding": f"{size.word_embed_dim or size.embed_dim:,}",
        "attention heads": f"{size.heads:,}",
        "feed-forward": f"{size.ffn_embed_dim:,}",
        "normalisation": "behind each block" if size.post_norm else "before each block",
        "reads at most": f"{settings['decoder_max_positions']:,} tokens",
        "vocabulary": f"{model.vocab_size:,} entries",
        "data type of the weights": facts.dtypes,
        "read from": f"{code(Path(model.label).name)}, {FORMATS.get(model.format, OURS)}",
    }
    return table(["", ""], rows.items())


def versions(facts: Facts) -> list[str]:
    """What trained it, what measured it, and what wrote the card."""
    said = facts.account.what if facts.account else {}
    trained = said.get("versions")
    rows = {"trained with": versions_text(trained if isinstance(trained, Mapping) else {})}
    for file, results in facts.results.items():
        rows[f"measured with ({plain_text(file)})"] = versions_text(results.versions)
    git = said.get("git")
    if isinstance(git, Mapping) and git.get("commit"):
        changed = ", with changes that are not committed" if git.get("is_dirty") else ""
        rows["code of the run"] = f"{code(str(git['commit']))}{changed}"
    rows["card written by"] = f"metaseq-plugin {version('metaseq-plugin')}"
    return table(["", ""], rows.items())


def versions_text(found: Mapping[str, Any]) -> str:
    known = (f"{name} {number}" for name, number in found.items() if number is not None)
    return plain_text(", ".join(known)) or UNKNOWN


def loading(facts: Facts) -> list[str]:
    """Commands and Python; with transformers too, where it reads the files."""
    path = facts.path.resolve().name  # those who read the card have it elsewhere
    lines = [
        "With metaseq-plugin:",
        "",
        "```sh",
        f'metaseq generate {quote(path)} "Once upon a time"',
        "```",
        "",
        "```python",
        "from metaseq_plugin.hub import OPT",
        "",
        f"opt = OPT.from_pretrained({path!r})",
        'print(opt.generate(["Once upon a time"], max_new_tokens=40, top_p=0.9)[0][0].text)',
        "```",
        "",
    ]
    if facts.model.format != HF:
        return [
            *lines,
            f"For transformers: `metaseq convert {quote(path)} {quote(facts.name + '-hf')} --to hf`, then",
            "`AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` of that folder.",
        ]
    return [
        *lines,
        "With transformers: `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` of the folder.",
    ]
