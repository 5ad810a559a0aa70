"""Reading the final answer out of a response, in a canonical form: equal answers are equal strings.

    number      "42", "42.0" and "$42." are one answer
    quantity    a number with its unit: "1.5 km" and "1,500 meters" are one answer, "1,500 liters" another
    latex       mathematics: "\\frac{\\sqrt{2}}{2}" and "1/\\sqrt{2}" are one answer (needs `exptilt[eval]`)
    choice      the letter of a multiple-choice question
    code        the last fenced block, freed of comments and layout
    exact       the whole text

Each is `(text) -> str | None`, None where the text holds no such answer; so is any function of your own. Votes,
agreement rewards and matching rules take one as their argument. Marks come first: what a response says after "####",
in \\boxed{...} or after "the answer is" goes before anything else in it.
"""

from exptilt.answers.choices import choice
from exptilt.answers.maths import expression, latex
from exptilt.answers.numeric import number
from exptilt.answers.passages import boxed
from exptilt.answers.programs import code
from exptilt.answers.quantities import quantity
from exptilt.answers.references import reference
from exptilt.answers.texts import Answer, exact

__all__ = ["Answer", "boxed", "choice", "code", "exact", "expression", "latex", "number", "quantity", "reference"]
