"""What is told of files that are not what they must be: the file, the line, what is wrong, where to get it."""

import json
from pathlib import Path
from typing import Any

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.bias import (
    bbq,
    crows_pairs,
    holistic_bias,
    stereoset,
    winobias,
    winogender,
)
from metaseq_plugin.evaluate.task import DataFile, Task
from tests.evaluate.bias.measuring import OPTIONS, Folder, lines
from tests.evaluate.bias.test_bbq import ROWS
from tests.evaluate.bias.test_stereoset import CLUSTERS

CROWS = "sent_more,sent_less,stereo_antistereo,bias_type\nThe a,The b,stereo,age\n"


def stereoset_with(**changed: Any) -> str:
    return lines([CLUSTERS[0], {**CLUSTERS[1], **changed}])


def bbq_with(**changed: Any) -> str:
    return lines([ROWS[0], {**ROWS[1], **changed}])


def without(row: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != field}


BAD: list[tuple[Task, DataFile, str, str]] = [
    (crows_pairs.CrowsPairs(), crows_pairs.FILE, CROWS.replace("bias_type", "kind"), "line 1 is not: it has no column bias_type"),
    (crows_pairs.CrowsPairs(), crows_pairs.FILE, CROWS + "The a,The b,stereo,height\n", "line 3 is not: bias_type is not one of gender"),
    (crows_pairs.CrowsPairs(), crows_pairs.FILE, CROWS + "The a,The b,maybe,age\n", "line 3 is not: stereo_antistereo is not one of stereo, antistereo but 'maybe'"),
    (crows_pairs.CrowsPairs(), crows_pairs.FILE, CROWS + "The a, ,stereo,age\n", "line 3 is not: sent_less is empty"),
    (crows_pairs.CrowsPairs(), crows_pairs.FILE, CROWS + "The a,The b\n", "line 3 is not: bias_type is not one of"),
    (stereoset.StereoSet(), stereoset.FILE, lines([CLUSTERS[0]]) + '{"type": "intra\n', "line 2 is not: it is not JSON"),
    (stereoset.StereoSet(), stereoset.FILE, lines([CLUSTERS[0], without(CLUSTERS[1], "unrelated")]), "line 2 is not: it has no unrelated"),
    (stereoset.StereoSet(), stereoset.FILE, stereoset_with(bias_type="age"), "line 2 is not: bias_type is not one of profession, gender, religion, race but 'age'"),
    (stereoset.StereoSet(), stereoset.FILE, stereoset_with(type="sentence"), "line 2 is not: type is not one of intrasentence, intersentence"),
    (stereoset.StereoSet(), stereoset.FILE, stereoset_with(stereotype=""), "line 2 is not: stereotype is empty"),
    (stereoset.StereoSet(), stereoset.FILE, stereoset_with(target=3), "line 2 is not: target is not a text but 3"),
    (stereoset.StereoSet(), stereoset.FILE, "\n", "line 1 is not: there is nothing in it"),
    (bbq.BBQ(), bbq.FILES[0], bbq_with(label=3), "line 2 is not: label is not one of 0, 1, 2 but 3"),
    (bbq.BBQ(), bbq.FILES[0], bbq_with(question_polarity="pos"), "line 2 is not: question_polarity is not one of neg, nonneg"),
    (bbq.BBQ(), bbq.FILES[0], bbq_with(answer_info={"ans0": []}), "line 2 is not: answer_info or stereotyped_groups name no groups"),
    (bbq.BBQ(), bbq.FILES[0], bbq_with(additional_metadata={"stereotyped_groups": ["Sikh"]}), "line 2 is not: not one answer each"),
    (bbq.BBQ(), bbq.FILES[0], lines([without(ROWS[0], "ans2")]), "line 1 is not: it has no ans2"),
    (winogender.Winogender(), winogender.FILE, "sentid\tsentence\nnurse.male.txt\tHe ran.\n", "line 2 is not: sentid names no"),
    (winogender.Winogender(), winogender.FILE, "sentid\tsentence\na.b.0.male.txt\tNobody ran.\n", "line 2 is not: its sentence has no pronoun"),
    (winobias.WinoBias(), winobias.FILES["pro", "1"], "1 The guard left because [he] could.\n", "line 1 is not: it is not numbered and marked so"),
    (winobias.WinoBias(), winobias.FILES["pro", "1"], "1 [The guard] left because [he] could.\n", "line 1 is not: it names 0 occupations beside guard"),
    (holistic_bias.HolisticBias(), holistic_bias.TEMPLATES, '{"I am {him}.": {}}', "a sentence is I am {him}."),
    (holistic_bias.HolisticBias(), holistic_bias.TEMPLATES, '{"I am {noun_phrase.": {}}', "a sentence is I am {noun_phrase."),
    (holistic_bias.HolisticBias(), holistic_bias.DESCRIPTORS, '{"age": ["old"]}', "but is not: AttributeError"),
    (holistic_bias.HolisticBias(), holistic_bias.NOUNS, '{"male": ["men"]}', "but is not: ValueError"),
    (holistic_bias.HolisticBias(), holistic_bias.NOUNS, "{", "but is not: Expecting"),
    (holistic_bias.HolisticBias(), holistic_bias.PHRASES, "[]", "but is not: it is no object with entries"),
]  # fmt: skip

# what the other files of a task hold, where they are not as bad as the one that is meant
WHOLE: dict[DataFile, str] = {
    bbq.FILES[0]: lines(ROWS),
    bbq.FILES[1]: lines(ROWS),
    holistic_bias.DESCRIPTORS: json.dumps({"age": {"old": ["old"]}}),
    holistic_bias.NOUNS: json.dumps({"male": [["man", "men"]]}),
    holistic_bias.TEMPLATES: json.dumps({"I'm {noun_phrase}.": {}}),
    holistic_bias.PHRASES: json.dumps({"age": ["a youth"]}),
}


@pytest.mark.parametrize(("task", "file", "content", "told"), BAD)
def test_a_bad_file_is_told(
    tmp_path: Path, task: Task, file: DataFile, content: str, told: str
) -> None:
    folder = Folder(tmp_path)
    for needed in task.files:
        folder.write(needed, WHOLE.get(needed, content))
    path = folder.write(file, content)
    with pytest.raises(UserError) as caught:
        task.items(folder, OPTIONS)
    message = str(caught.value)
    assert message.startswith(f"{path} must be ")
    assert told in message
    assert message.endswith(f"Get it again from {file.source}.")
