"""A reward of your own for the command line: one sentence about the sea that is a question.

    exptilt sample MODEL "Write one sentence about the sea that ends with a question mark." \\
        --reward examples/question.py:sea_question --beta 0.1
"""

import re


def sea_question(text: str) -> float:
    """0.6 for ending with a question mark, 0.2 for being a single sentence, 0.2 for mentioning the sea."""
    text = text.strip().rstrip('"”')
    ends = text.endswith("?")
    single = len(re.findall(r"[.!?]+", text)) == 1
    sea = bool(re.search(r"\b(sea|ocean|wave|tide|shore|sail)", text, re.IGNORECASE))
    return 0.6 * ends + 0.2 * single + 0.2 * sea
