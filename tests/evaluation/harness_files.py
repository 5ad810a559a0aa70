"""Task files of lm-evaluation-harness on the local disk: GSM8K's format with generated word problems."""

from __future__ import annotations

import json
from pathlib import Path

from exptilt.evaluation.tasks.word_problems import Problem, word_problems

_TASK = r"""
task: local_gsm
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/test.jsonl
output_type: generate_until
test_split: test
fewshot_split: test
doc_to_text: "{asked}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    regexes_to_ignore: [",", "\\$", "(?s).*#### ", "\\.$"]
generation_kwargs:
  until: ["Question:", "\n\n"]
  max_gen_toks: 64
  do_sample: false
  temperature: 0.0
num_fewshot: {shots}
filter_list:
  - name: strict-match
    filter:
      - function: regex
        regex_pattern: "#### (\\-?[0-9\\.\\,]+)"
      - function: take_first
  - name: flexible-extract
    filter:
      - function: regex
        group_select: -1
        regex_pattern: "(-?[$0-9.,]{{2,}})|(-?[0-9]+)"
      - function: take_first
"""
_CHOOSING = r"""
  - name: wants-choices
    filter:
      - function: multi_choice_regex
        regex_pattern: "\\(([A-Z])\\)"
      - function: take_first
"""
_CHOICE = """
task: local_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/test.jsonl
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["A", "B"]
doc_to_target: 0
"""


def write_task(folder: Path, count: int, *, shots: int = 0, asked: str = r"Question: {{question}}\nAnswer:") -> list[Problem]:
    """Write the tasks local_gsm, local_choosing (a further filter) and local_choice with `count` problems into `folder`."""
    problems = word_problems("test", count, seed=5)
    lines = [json.dumps({"question": problem.question, "answer": problem.solution}) for problem in problems]
    (folder / "test.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "local_gsm.yaml").write_text(_TASK.format(folder=folder, asked=asked, shots=shots))
    (folder / "local_choosing.yaml").write_text(
        _TASK.format(folder=folder, asked=asked, shots=shots).replace("local_gsm", "local_choosing") + _CHOOSING.lstrip("\n")
    )
    (folder / "local_choice.yaml").write_text(_CHOICE.format(folder=folder))
    return problems
