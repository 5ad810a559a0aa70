"""The methods on a real small model: Qwen2.5-Coder-0.5B-Instruct, quantised, in llama.cpp, on GSM-Symbolic and HumanEval.

    python reproduce/real_small.py MODEL.gguf                 # 30 problems each: some hours on 2 cores
    python reproduce/real_small.py MODEL.gguf --problems 60   # the same problems and 30 more
    python reproduce/real_small.py --tables                   # write docs/real_small.md from the results so far

Needs exptilt[llamacpp,gym,eval]. Every finished problem is kept under runs/, every finished method in
reproduce/results/real_small.json: a run that was stopped goes on where it was.

Every method may spend the tokens of 16 plain samples at temperature 0.7. GSM-Symbolic is answered by programs (Gao et al.,
2211.10435), which a model of code writes better than sums: three worked examples, then a function to be completed; what it
returns is the answer. The reward there is agreement with a pilot of 6 responses, which the methods that use it pay for with
6 of their 16. HumanEval is completed from signature and docstring; the reward is the share of the docstring's own examples
that the program passes, and the hidden tests decide what is right. Problems without such examples are left out.
ETS-IS draws its rollouts from the same model at temperature 0.5, since no smaller model with this vocabulary is at hand.
"""

from __future__ import annotations

import argparse
import doctest
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from bench.record import machine  # noqa: E402
from exptilt.core import Engine, Target  # noqa: E402
from exptilt.evaluation.tasks import Task, load_task  # noqa: E402
from exptilt.sandbox import Task as Trial  # noqa: E402
from exptilt.sandbox import try_program  # noqa: E402
from reproduce.methods import METHODS, Plan, Results, Sizes, guided, table, told, unguided  # noqa: E402

RESULTS = ROOT / "reproduce" / "results" / "real_small.json"
PAGE = ROOT / "docs" / "real_small.md"
SAMPLES = 16  # whose tokens every method may spend
PILOT = 6  # of these, where the reward is agreement
TEMPERATURE, PROPOSAL_TEMPERATURE = 0.7, 0.5
STEPS = 3.3  # guidance steps of a response in the mean: its length over the block, and half a block more
MEASURED = Sizes(SAMPLES, moves=26, particles=6, candidates=5, candidates_is=4)
"""For HumanEval, where what is guided by the examples grows longer than a plain sample: the sizes that came nearest to the tokens
of 16 samples by what each candidate, particle or move cost in the runs tried (ETS 5, 6 and 7, ETS-IS 4 and 5, SMC 6 and 7)."""
SEED = 0

# ---------------------------------------------------------------------------------------------------------- problems

_EXAMPLES = (
    (
        "A baker fills 6 trays with 12 rolls each. He sells 50 rolls. How many rolls are left?",
        ("rolls = 6 * 12", "sold = 50", "return rolls - sold"),
    ),
    (
        "Nina reads 15 pages on each of 4 days, and on the weekend 30% more pages than on those days together. "
        "How many pages does she read?",
        ("days = 4 * 15", "weekend = days + days * 30 / 100", "return days + weekend"),
    ),
    (
        "A train ticket costs $24 and a bus ticket a third of that. What do 2 train tickets and 5 bus tickets cost?",
        ("train = 24", "bus = train / 3", "return 2 * train + 5 * bus"),
    ),
)
_ASK = 'def solution():\n    """{}"""\n'


def gsm_programs(problems: int) -> Task:
    """GSM-Symbolic, answered by the return value of a function whose docstring is the question."""
    task = load_task("gsm-symbolic", problems=problems)
    shots = "".join(_ASK.format(question) + "".join(f"    {line}\n" for line in lines) + "\n\n" for question, lines in _EXAMPLES)
    prompts = tuple(shots + _ASK.format(question) for question in task.prompts)
    return replace(task, prompts=prompts, answer=returned, correct=returns, max_tokens=160, stop=("\n\n", "\ndef"))


@lru_cache(maxsize=100_000)
def returned(text: str) -> str | None:
    """What the function with this body returns, as a number in canonical form; None where it returns none."""
    (outcome,) = try_program(f"def solution():\n{text}\n", [Trial("solution()", wants_value=True)])
    return None if outcome.value is None else xt.answers.number(outcome.value)


def returns(text: str, reference: str) -> bool:
    return returned(text) == xt.answers.number(reference)


def humaneval_with_examples(problems: int) -> Task:
    """HumanEval's problems whose docstring has examples with their results, to be completed."""
    task = load_task("humaneval-completion", problems=None)
    rows = [row for row, prompt in enumerate(task.texts) if examples(prompt)][:problems]
    prompts, references = tuple(task.prompts[row] for row in rows), tuple(task.references[row] for row in rows)
    return replace(task, prompts=prompts, references=references, max_tokens=192)


def examples(prompt: str) -> list[str]:
    """The docstring's examples as tests."""
    try:
        found = doctest.DocTestParser().get_examples(prompt)
    except ValueError:  # examples that are indented in no regular way
        return []
    pairs = [(example.source.strip(), example.want.strip()) for example in found]
    # On lines of their own, since a call may end in a comment.
    return [
        f"assert (\n{call}\n) == (\n{wanted}\n)" for call, wanted in pairs if wanted and _compiles(call) and _compiles(wanted)
    ]


def _compiles(text: str) -> bool:
    try:
        compile(text, "example", "eval")
    except SyntaxError:
        return False
    return True


def whole(text: str) -> str:
    """A response with its prompt is a program as it is."""
    return text


# -------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Bench:
    """A task with its reward. block: tokens per guidance step, a third of a response."""

    task: Task
    reward: object
    beta: float
    sizes: Sizes
    block: int


def benches(problems: int) -> list[Bench]:
    agreed = xt.rewards.Agreement(returned, PILOT, "log")
    passed = xt.rewards.UnitTests(examples, extract=whole, continues=True)
    return [
        Bench(gsm_programs(problems), agreed, 0.5, Sizes.reckoned(SAMPLES - PILOT, STEPS), 16),
        Bench(humaneval_with_examples(problems), passed, 0.1, MEASURED, 18),
    ]


def plans(bench: Bench, engine: Engine) -> list[Plan]:
    target = Target(engine, bench.reward, bench.beta)  # type: ignore[arg-type]
    proposal = engine.with_sampling(temperature=PROPOSAL_TEMPERATURE)
    return [
        *unguided(engine, bench.task, SAMPLES, bench.block),
        *guided(target, bench.task, bench.sizes, bench.block, proposal),
    ]


def measure(model: Path, problems: int, results: Results) -> None:
    """Run every plan that is not finished yet, and say what came out as it does."""
    whole_engine = xt.load(
        f"llamacpp:{model}", temperature=TEMPERATURE, template=False, dtype="float16", memory=2**29, max_rows=64
    )
    for bench in benches(problems):
        engine = whole_engine.with_sampling(max_tokens=bench.task.max_tokens, stop=bench.task.stop)
        for plan in plans(bench, engine):
            progress = told(" / ".join(plan.selects))
            results.measure(
                bench.task.name, plan, bench.task, SEED, concurrency=16, folder=ROOT / "runs" / "real_small", progress=progress
            )


# -------------------------------------------------------------------------------------------------------------- page

_ABOUT = {  # title and reward by the task's name
    "gsm-symbolic": (
        "GSM-Symbolic, answered by programs",
        "Three worked examples, then a function to complete; what it returns in the sandbox is the answer (Gao et al., "
        "2211.10435).\nReward: the log of the smoothed frequency of the answer in a pilot of 6 responses, β = 0.5.",
    ),
    "humaneval-completion": (
        "HumanEval, completed",
        "Reward: the share of the docstring's examples that the program passes, β = 0.1. The hidden tests decide what is right. "
        "Votes count equal texts.",
    ),
}


_PAGE = """\
# The methods on a real small model

This page is written by `reproduce/real_small.py`: Qwen2.5-Coder-0.5B-Instruct in 4 bits (Q4_K_M) in llama.cpp, temperature 0.7,
one seed. **With so few problems, hardly any difference can be told from chance.**

Every method is sized to cost the tokens of 16 plain samples on average, including a reward's pilot. The tables give what each
spent, with its standard error: a few problems take several times the tokens of the others, above all under ETS on HumanEval,
where 5, 6 and 7 candidates cost 569, 970 and 1,083. ETS-IS draws its rollouts from the same model at temperature 0.5.

Intervals are 95 % (Wilson's); differences from the majority vote are paired by problem (bootstrap). {machine}; seconds are for
all problems, 16 at a time, beside other work.
"""


def page(results: Results) -> str:
    lines = [_PAGE.format(machine=machine())]
    for name in results.groups:
        scores = results.scores(name)
        title, reward = _ABOUT[name]
        lines += [f"## {title}: {len(scores['plain sampling'].right)} problems", "", reward, ""]
        found = {method: scores[method] for method in METHODS if method in scores}
        lines += [*table(found, spread=results.spread(name)), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="a GGUF file")
    parser.add_argument("--problems", type=int, default=30, help="of each task")
    parser.add_argument("--tables", action="store_true", help="only write the page from the results so far")
    options = parser.parse_args()
    if options.model is None and not options.tables:
        parser.error("give the GGUF file of the model, or --tables")
    results = Results(RESULTS)
    if options.model is not None:
        measure(options.model, options.problems, results)
    PAGE.write_text(page(results))


if __name__ == "__main__":
    main()
