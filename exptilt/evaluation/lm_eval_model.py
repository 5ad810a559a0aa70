"""exptilt as a model of lm-evaluation-harness: any sampler, reward and select as model arguments.

    python -m exptilt.evaluation.lm_eval_model run --model exptilt --tasks gsm8k --model_args \\
        model=hf:HuggingFaceTB/SmolLM2-135M-Instruct,sampler=ets,candidates=4,rollouts=2,block=32,reward=agreement,beta=0.1,select=vote

is the harness's own command (`lm-eval run`) with the model known to it: the harness has no entry points for models, so
something must be imported first. In Python, importing this module is enough for `lm_eval.simple_evaluate(model="exptilt")`.

Model arguments are the flags of `exptilt sample`, written with underscores. The law is fixed by them, not by the task: a
task's temperature is not used, because a greedy law has nothing to choose from; its stop strings are, and its token cap
where `max_tokens` is not given. Requests that are repeated (a task's `repeats`) get random streams of their own.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance  # type: ignore[import-not-found]
from lm_eval.api.model import LM  # type: ignore[import-not-found]
from lm_eval.api.registry import register_model  # type: ignore[import-not-found]

from exptilt import __version__
from exptilt.cli.flags import parse
from exptilt.cli.parts import make_sampler, make_select, make_target
from exptilt.core import Sampler, Target
from exptilt.describe import describe
from exptilt.errors import ExptiltError
from exptilt.evaluation.evaluate import all_results
from exptilt.evaluation.tasks.harness import response_law
from exptilt.keys import digest
from exptilt.running.lines import encode
from exptilt.running.run import Select, run

_IGNORED = {"batch_size", "max_batch_size", "device"}  # the harness always gives them; the engine batches and places itself


class ExptiltLM(LM):
    """Answers `generate_until` requests by a sampler and a select. Requests that rate given texts are refused.

    model: what `exptilt.load` takes. concurrency: requests under way at once. store: a folder with results files to resume
    from. arguments: flags of `exptilt sample`, such as reward="agreement", beta=0.1, sampler="ets", candidates=4.
    """

    def __init__(self, model: str, concurrency: int = 32, store: str | None = None, **arguments: Any) -> None:
        LM.__init__(self)
        given = {name: value for name, value in arguments.items() if name not in _IGNORED}
        flags = [word for name, value in given.items() for word in _flag(name, value)]
        args = parse(["sample", model, "-", *flags], __version__)
        self._capped = args.max_tokens is not None
        self._target: Target = make_target(args)
        self._sampler: Sampler = make_sampler(args)
        self._select: Select = make_select(args)
        self._seed, self._concurrency, self._store = args.seed, concurrency, store
        self._reward_timeout = args.reward_timeout

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One answer to each request, in their order. Raises ExptiltError where one has none."""
        asked: list[Any] = [request.args for request in requests]  # pairs of a context and a law
        places = defaultdict(list)
        for place, (_, law) in enumerate(asked):
            places[response_law(law)].append(place)
        texts = [""] * len(requests)
        for (cap, stop), rows in places.items():
            law = {"stop": stop} if self._capped else {"stop": stop, "max_tokens": cap}
            answers = self._answers(law, [asked[row][0] for row in rows])
            for row, text in zip(rows, answers, strict=True):
                texts[row] = text
        return texts

    def _answers(self, law: dict[str, Any], prompts: list[str]) -> list[str]:
        """The answers to prompts that share cap and stop strings."""
        proposal = self._target.proposal
        target = Target(
            self._target.engine.with_sampling(**law),
            self._target.reward,
            self._target.beta,
            proposal and proposal.with_sampling(**law),
        )
        store = None if self._store is None else Path(self._store) / f"{digest(encode(describe(law), sort=True))}.jsonl"
        outcomes = run(
            target,
            prompts,
            self._sampler,
            select=self._select,
            seed=self._seed,
            concurrency=self._concurrency,
            store=store,
            retry=True,
            reward_timeout=self._reward_timeout,
        )
        return [result.text for result in all_results(outcomes)]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise _refusal()

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise _refusal()

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes into its results file about the model."""
        return {"exptilt": {"version": __version__, "sampler": describe(self._sampler), "beta": self._target.beta}}


def _flag(name: str, value: Any) -> list[str]:
    """A model argument as words of the command line; the harness has turned numbers and booleans into values."""
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag.removeprefix('--')}"]
    return [flag, value.lower() if name == "sampler" else str(value)]


def _refusal() -> ExptiltError:
    return ExptiltError(
        "this task rates given texts, and samplers draw new ones: choose a generating variant, such as "
        "gpqa_diamond_cot_zeroshot, mmlu_redux_generative or truthfulqa_gen"
    )


register_model("exptilt")(ExptiltLM)

if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate  # type: ignore[import-not-found]

    cli_evaluate()
