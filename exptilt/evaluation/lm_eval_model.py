"""exptilt as a model of lm-evaluation-harness: any sampler, reward and select as model arguments.

    python -m exptilt.evaluation.lm_eval_model run --model exptilt --tasks gsm8k --model_args \\
        model=hf:HuggingFaceTB/SmolLM2-135M-Instruct,sampler=ets,candidates=4,rollouts=2,block=32,reward=agreement,beta=0.1,select=vote

is the harness's own command (`lm-eval run`) with this model registered: the harness has no entry points for models, so this
module must be imported first. In Python, importing it is enough for `lm_eval.simple_evaluate(model="exptilt")`.

Model arguments have the names of the flags of `exptilt sample`, with underscores. They fix the distribution, and the task does
not: a task's temperature is not used, because greedy decoding leaves nothing to choose from. A task's stop strings are used,
and so is its token cap where `max_tokens` is not given. Requests that are repeated (a task's `repeats`) get random streams of
their own.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance  # type: ignore[import-not-found]
from lm_eval.api.model import LM  # type: ignore[import-not-found]
from lm_eval.api.registry import register_model  # type: ignore[import-not-found]

from exptilt import __version__, names
from exptilt.core import Target
from exptilt.describe import describe
from exptilt.engines.sampling import LATER
from exptilt.errors import ExptiltError, UsageError
from exptilt.evaluation.evaluate import all_results
from exptilt.evaluation.tasks.harness import response_ends
from exptilt.keys import digest
from exptilt.running.lines import encode
from exptilt.running.run import run

_TARGET = ("reward", "beta", "proposal", "temperature", "top_p", "top_k", "max_tokens", "stop", "system", "dtype", *LATER)
_IGNORED = {
    "batch_size",
    "max_batch_size",
    "device",
}  # the harness always gives them; the engine decides itself


class ExptiltLM(LM):
    """Answers `generate_until` requests by a sampler and a select. Requests that rate given texts are refused.

    model: what `exptilt.load` takes.
    sampler: a name of `exptilt.names`, such as "ets"; `inner` names the one that it is made of.
    seed: the same seed gives the same answers.
    concurrency: requests under way at once.
    store: a folder with results files to resume from.
    reward_timeout: seconds that one call of the reward may take.
    until: a stop rule as on the command line, such as sure:number:0.95.
    arguments: reward, beta and proposal of the target; select, answer and utility; sampling parameters and a system message;
        the others are settings of the sampler, such as candidates=4.
    """

    def __init__(
        self,
        model: str,
        sampler: str = "ets",
        *,
        seed: int = 0,
        concurrency: int = 32,
        store: str | None = None,
        reward_timeout: float | None = None,
        until: str | None = None,
        **arguments: Any,
    ) -> None:
        LM.__init__(self)
        given = {name: value for name, value in arguments.items() if name not in _IGNORED}
        chosen = names.choose_sampler(sampler.lower(), given.pop("inner", None))
        answer, utility = str(given.pop("answer", "number")), str(given.pop("utility", "rouge1"))
        self._select = names.select(str(given.pop("select", chosen.alias.select)), answer, utility)
        asked = {name: given.pop(name) for name in _TARGET if name in given}
        self._sampler = chosen.make(given)
        self._capped = "max_tokens" in asked
        self._target = _target(model, chosen.alias.reward, answer, asked)
        self._seed, self._concurrency, self._store = int(seed), int(concurrency), store
        self._reward_timeout = reward_timeout
        self._until = None if until is None else names.stop_rule(until)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One answer to each request, in their order. Raises ExptiltError where one has none."""
        asked: list[Any] = [request.args for request in requests]  # pairs of a context and generation arguments
        alike = defaultdict(list)
        for row, (_, arguments) in enumerate(asked):
            alike[response_ends(arguments)].append(row)
        texts = [""] * len(requests)
        for (cap, stop), rows in alike.items():
            sampling = {"stop": stop} if self._capped else {"stop": stop, "max_tokens": cap}
            answers = self._answers(sampling, [asked[row][0] for row in rows])
            for row, text in zip(rows, answers, strict=True):
                texts[row] = text
        return texts

    def _answers(self, sampling: dict[str, Any], prompts: list[str]) -> list[str]:
        """The answers to prompts that share cap and stop strings."""
        proposal = self._target.proposal
        target = Target(
            self._target.engine.with_sampling(**sampling),
            self._target.reward,
            self._target.beta,
            proposal and proposal.with_sampling(**sampling),
        )
        store = None if self._store is None else Path(self._store) / f"{digest(encode(describe(sampling), sort=True))}.jsonl"
        outcomes = run(
            target,
            prompts,
            self._sampler,
            select=self._select,
            until=self._until,
            seed=self._seed,
            concurrency=self._concurrency,
            store=store,
            retry=True,
            progress=False,
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


def _target(model: str, reward: str | None, answer: str, asked: dict[str, Any]) -> Target:
    """The target of the model arguments; the harness has made numbers of what looks like one, even where a word was meant."""
    reward = asked.pop("reward", reward)
    if reward is None or (reward != "none" and "beta" not in asked):
        raise UsageError("the model arguments lack reward or beta: give them, such as reward=agreement,beta=0.1")
    stop = {"stop": (str(asked.pop("stop")),)} if "stop" in asked else {}
    return names.target(model, str(reward), float(asked.pop("beta", 1.0)), answer=answer, **stop, **asked)


def _refusal() -> ExptiltError:
    return ExptiltError(
        "this task rates given texts, and samplers draw new ones: choose a generating variant, such as "
        "gpqa_diamond_cot_zeroshot, mmlu_redux_generative or truthfulqa_gen"
    )


register_model("exptilt")(ExptiltLM)

if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate  # type: ignore[import-not-found]

    cli_evaluate()
