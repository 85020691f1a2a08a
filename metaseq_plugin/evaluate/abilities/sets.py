"""The 16 sets of the OPT paper's zero- and few-shot figures, each a task of lm_eval's on local files.

    metaseq eval --path runs/quickstart --data eval-data abilities --shots 0

The paper has GPT-3's prompts for them "where appropriate", which are not published in full; asked here is what
lm_eval's tasks ask, as in the published figures of the smaller OPT.
"""

from functools import partial
from pathlib import Path

from metaseq_plugin.evaluate.abilities.documents import Fields
from metaseq_plugin.evaluate.abilities.lm_eval_task import LmEvalTask, Split
from metaseq_plugin.evaluate.task import DataFile

LLM_FOUNDRY = "github.com/mosaicml/llm-foundry, scripts/eval/local_data"
SUPERGLUE = "SuperGLUE: Wang et al. 2019, arXiv 1905.00537"
AS_STATED = "see its source"


def on_hub(folder: str, split: str, dataset: str, fields: Fields) -> Split:
    """A split of a set on Hugging Face's hub, as JSONL that the user has made of it."""
    file = DataFile(
        f"{folder}/{split}.jsonl",
        None,
        f"Hugging Face, {dataset}, split {split}, as JSONL (datasets' to_json)",
        AS_STATED,
        f"JSONL with {', '.join(fields)}",
    )
    return Split(split, (file,), "fields")


def by_gold(
    folder: str, split: str, sha256: str, place: str, licence: str, form: str, columns: str
) -> Split:
    """A split as llm-foundry has it."""
    file = DataFile(
        f"{folder}/{folder}.jsonl",
        sha256,
        f"{LLM_FOUNDRY}/{place}",
        licence,
        f"JSONL with {columns}, gold",
    )
    return Split(split, (file,), form)


HELLASWAG = {
    "ctx_a": "text",
    "ctx_b": "text",
    "activity_label": "text",
    "endings": "list",
    "label": "text",
}
hellaswag = partial(
    LmEvalTask,
    "hellaswag",
    "HellaSwag",
    "Zellers et al. 2019, arXiv 1905.07830",
    "hellaswag",
    "hellaswag/hellaswag.yaml",
    HELLASWAG,
    on_hub("hellaswag", "validation", "Rowan/hellaswag", HELLASWAG),
    on_hub("hellaswag", "train", "Rowan/hellaswag", HELLASWAG),
)

STORYCLOZE = {
    **{f"input_sentence_{number}": "text" for number in (1, 2, 3, 4)},
    "sentence_quiz1": "text",
    "sentence_quiz2": "text",
    "answer_right_ending": "whole number",
}
storycloze = partial(
    LmEvalTask,
    "storycloze",
    "StoryCloze",
    "Mostafazadeh et al. 2016, arXiv 1604.01696",
    "storycloze_2016",
    "storycloze/storycloze_2016.yaml",
    STORYCLOZE,
    on_hub("storycloze", "test", "LSDSem/story_cloze, 2016", STORYCLOZE),
    on_hub("storycloze", "validation", "LSDSem/story_cloze, 2016", STORYCLOZE),
)

PIQA = {"goal": "text", "sol1": "text", "sol2": "text", "label": "whole number"}
PIQA_SOURCE = "github.com/ybisk/ybisk.github.io, piqa/data"
piqa = partial(
    LmEvalTask,
    "piqa",
    "PIQA",
    "Bisk et al. 2020, arXiv 1911.11641",
    "piqa",
    "piqa/piqa.yaml",
    PIQA,
    Split(
        "validation",
        (
            DataFile(
                "piqa/valid.jsonl",
                "93503cc97c679e459b065c3d13e848282e44b2a25213985bed3e5d458abef72d",
                f"{PIQA_SOURCE}/valid.jsonl",
                "Academic Free License 3.0",
                "JSONL with goal, sol1, sol2",
            ),
            DataFile(
                "piqa/valid-labels.lst",
                "b4192dc3a2a0363d9d60ccf79800cbbe2f32ebb17726efdde6970e0b8131bceb",
                f"{PIQA_SOURCE}/valid-labels.lst",
                "Academic Free License 3.0",
                "0 or 1 for each line of valid.jsonl",
            ),
        ),
        "piqa",
    ),
    on_hub("piqa", "train", "baber/piqa", PIQA),
)

ARC = {"question": "text", "choices": "object", "answerKey": "text"}
ARC_PAPER = "Clark et al. 2018, arXiv 1803.05457"
ARC_LICENCE = "CC BY-SA 4.0"
arc_easy = partial(
    LmEvalTask,
    "arc-easy",
    "ARC Easy",
    ARC_PAPER,
    "arc_easy",
    "arc/arc_easy.yaml",
    ARC,
    by_gold(
        "arc_easy",
        "test",
        "d2d12e59543acf9a5ef6079634a72b30215e36c2fd4236fff3bc855d287b87f5",
        "world_knowledge/arc_easy.jsonl",
        ARC_LICENCE,
        "arc",
        "query, choices",
    ),
    on_hub("arc_easy", "train", "allenai/ai2_arc, ARC-Easy", ARC),
)
arc_challenge = partial(
    LmEvalTask,
    "arc-challenge",
    "ARC Challenge",
    ARC_PAPER,
    "arc_challenge",
    "arc/arc_challenge.yaml",
    ARC,
    by_gold(
        "arc_challenge",
        "test",
        "1ae3aeedf1951d881cbd5c2e3a31e78a1993d251479afbe4cb413b6707244636",
        "world_knowledge/arc_challenge.jsonl",
        ARC_LICENCE,
        "arc",
        "query, choices",
    ),
    on_hub("arc_challenge", "train", "allenai/ai2_arc, ARC-Challenge", ARC),
)

OPENBOOKQA = {"question_stem": "text", "choices": "object", "answerKey": "text"}
openbookqa = partial(
    LmEvalTask,
    "openbookqa",
    "OpenBookQA",
    "Mihaylov et al. 2018, arXiv 1809.02789",
    "openbookqa",
    "openbookqa/openbookqa.yaml",
    OPENBOOKQA,
    on_hub("openbookqa", "test", "allenai/openbookqa, main", OPENBOOKQA),
    on_hub("openbookqa", "train", "allenai/openbookqa, main", OPENBOOKQA),
)

WINOGRAD = {
    "text": "text",
    "pronoun": "text",
    "pronoun_loc": "whole number",
    "options": "list",
    "label": "whole number",
}
winograd = partial(
    LmEvalTask,
    "winograd",
    "Winograd",
    "Levesque et al. 2012, The Winograd Schema Challenge, KR 2012",
    "wsc273",
    "wsc273/default.yaml",
    WINOGRAD,
    by_gold(
        "winograd_wsc",
        "test",
        "746336c27cd2e39a554cb1b8b4869d0f1ae2577ac5bfe799842d26bca5a5bf5e",
        "language_understanding/winograd_wsc.jsonl",
        "CC BY 4.0",
        "winograd",
        "context_options, continuation",
    ),
)

WINOGRANDE = {"sentence": "text", "option1": "text", "option2": "text", "answer": "text"}
winogrande = partial(
    LmEvalTask,
    "winogrande",
    "WinoGrande",
    "Sakaguchi et al. 2020, arXiv 1907.10641",
    "winogrande",
    "winogrande/default.yaml",
    WINOGRANDE,
    by_gold(
        "winogrande",
        "validation",
        "ea1592526f3bfdd0948ed3acb1b4dfa3f83d23698917118688ee1df7f8d4b8d7",
        "language_understanding/winogrande.jsonl",
        "CC BY",
        "winogrande",
        "context_options, continuation",
    ),
    on_hub("winogrande", "train", "allenai/winogrande, winogrande_xl", WINOGRANDE),
)


def superglue(
    name: str, title: str, paper: str, asked: str, fields: Fields, place: str = "default.yaml"
) -> "partial[LmEvalTask]":
    """A task of SuperGLUE's, on its validation split; ``place`` is below lm_eval's folder of it, or absolute."""
    dataset = f"aps/super_glue, {'wsc.fixed' if name == 'wsc' else name}"
    return partial(
        LmEvalTask,
        name,
        title,
        f"{paper}; {SUPERGLUE}",
        asked,
        str(Path("super_glue", name, place)),
        fields,
        on_hub(name, "validation", dataset, fields),
        on_hub(name, "train", dataset, fields),
    )


boolq = superglue(
    "boolq",
    "BoolQ",
    "Clark et al. 2019, arXiv 1905.10044",
    "boolq",
    {"passage": "text", "question": "text", "label": "whole number"},
)
cb = superglue(
    "cb",
    "CommitmentBank",
    "De Marneffe et al. 2019, The CommitmentBank, Sinn und Bedeutung 23",
    "cb",
    {"premise": "text", "hypothesis": "text", "label": "whole number"},
)
copa = superglue(
    "copa",
    "COPA",
    "Roemmele et al. 2011, Choice of Plausible Alternatives, AAAI Spring Symposium",
    "copa",
    {
        "premise": "text",
        "choice1": "text",
        "choice2": "text",
        "question": "text",
        "label": "whole number",
    },
)
wic = superglue(
    "wic",
    "WiC",
    "Pilehvar and Camacho-Collados 2019, arXiv 1808.09121",
    "wic",
    {
        "sentence1": "text",
        "sentence2": "text",
        "start1": "whole number",
        "end1": "whole number",
        "label": "whole number",
    },
)
wsc = superglue(
    "wsc",
    "WSC",
    "Levesque et al. 2012, The Winograd Schema Challenge, KR 2012",
    "wsc",
    {
        "text": "text",
        "span1_text": "text",
        "span2_text": "text",
        "span2_index": "whole number",
        "label": "whole number",
    },
)
multirc = superglue(
    "multirc",
    "MultiRC",
    "Khashabi et al. 2018, Looking Beyond the Surface, NAACL 2018",
    "multirc",
    {"paragraph": "text", "question": "text", "answer": "text", "label": "whole number"},
)
rte = superglue(
    "rte",
    "RTE",
    "Dagan et al. 2006, The PASCAL Recognising Textual Entailment Challenge",
    "sglue_rte",
    {"premise": "text", "hypothesis": "text", "label": "whole number"},
)
record = superglue(
    "record",
    "ReCoRD",
    "Zhang et al. 2018, arXiv 1810.12885",
    "record",
    {"passage": "text", "query": "text", "entities": "list", "answers": "list"},
    str(Path(__file__).with_name("record.yaml")),
)
