"""From a prompt to its answer: `sample` and `stream` for one prompt, `run` for many at once, with a results file to resume from.

A request is checked first, so that a request that cannot work costs nothing. Then each prompt gets a session of its own, the
sampler yields its populations, and the select picks the answer from the last of them.

The random stream of a prompt depends on the seed, the prompt, and how often the same prompt came before it in the
list. So an answer does not depend on the other prompts, on their order, on how many run at once, or on which machine,
and `sample(target, prompt, ...)` gives what `run(target, [..., prompt, ...], ...)` gives for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from exptilt.cancelling import Flag, any_of, interruptible
from exptilt.core import Sampler, Target
from exptilt.draft import Prompt
from exptilt.errors import TargetError
from exptilt.keys import digest
from exptilt.populations.select import draw
from exptilt.populations.until import Until
from exptilt.running.allocation import Allocation, Gain, check_allocation
from exptilt.running.cluster import Cluster
from exptilt.running.example import Example, as_example
from exptilt.running.ledger import Outcomes, finish, known_lines, read_back
from exptilt.running.made import made
from exptilt.running.places import Build, Threads, open_place
from exptilt.running.progress import Progress, watched
from exptilt.running.request import Job, Request, Select, number_jobs
from exptilt.running.result import Result
from exptilt.running.results import Results
from exptilt.running.rounds import in_rounds
from exptilt.running.store import Store, new_header
from exptilt.running.stream import Stream
from exptilt.usage import Budget

Messages = Sequence[Mapping[str, Any]]
"""A prompt as a list of messages {"role", "content"}."""

OnError = Literal["record", "stop"]


def sample(
    target: Target,
    prompt: Prompt | Messages | Example,
    sampler: Sampler,
    *,
    select: Select = draw,
    until: Until | None = None,
    seed: int = 0,
    budget: Budget | None = None,
    reward_timeout: float | None = None,
    cancel: Flag | None = None,
) -> Result:
    """Answer one prompt: a draw from π(y|x) ∝ p(y|x)·exp(r(x,y)/β), as exact as the sampler makes it.

    prompt: a string, a `Chat`, or a list of messages {"role", "content"}; a last message of the assistant is continued.
    select: how the answer is picked from the weighted drafts; `draw` picks each with its weight's share.
    until: a stop rule: one of `xt.until`, or any function of the population that returns True or False. It is asked of each
        population that the sampler yields; where it is true the run ends with that one, without log Ẑ, and `stopped="until"`.
    budget: limits for this prompt. The run then stops with its last complete population, and `stopped="budget"`.
    reward_timeout: seconds that one call of the reward may take; None for any. A call that takes longer is left behind in
        a thread that nothing waits for: only `rewards.Isolated` can end it, or survive a crash of the interpreter.
    cancel: a `threading.Event`. Once another thread sets it, the engine call under way ends within a step, and the run with
        it, with `Cancelled`. Ctrl-C ends it in the same way, with KeyboardInterrupt; a second one interrupts at once.

    Raises CapabilityError or TargetError before any work where the parts do not fit, PromptError for an empty or
    overlong prompt, RewardError for a reward that raises, takes too long or returns no proper numbers, AllWeightsZero
    where the reward excludes everything drawn, BudgetSpent where the budget ends before the first population.
    """
    with interruptible() as pressed:
        begun = stream(
            target,
            prompt,
            sampler,
            select=select,
            until=until,
            seed=seed,
            budget=budget,
            reward_timeout=reward_timeout,
            cancel=any_of(None if cancel is None else _checked(cancel), pressed),
        )
        return begun.result()


async def asample(
    target: Target,
    prompt: Prompt | Messages | Example,
    sampler: Sampler,
    *,
    select: Select = draw,
    until: Until | None = None,
    seed: int = 0,
    budget: Budget | None = None,
    reward_timeout: float | None = None,
) -> Result:
    """What `sample` returns, awaited: many prompts of one event loop share the engine's batch.

    Where the task is cancelled, the prompt's rows leave the engine's batch after the step under way.
    """
    begun = stream(target, prompt, sampler, select=select, until=until, seed=seed, budget=budget, reward_timeout=reward_timeout)
    return await begun.aresult()


def stream(
    target: Target,
    prompt: Prompt | Messages | Example,
    sampler: Sampler,
    *,
    select: Select = draw,
    until: Until | None = None,
    seed: int = 0,
    budget: Budget | None = None,
    reward_timeout: float | None = None,
    cancel: Flag | None = None,
    occurrence: int = 0,
) -> Stream:
    """The answer to one prompt as it grows: an iterator over a `Partial` for each population, for `for` and `async for`.

    The parameters are those of `sample`. Each partial result has the population, what was spent so far, and the answer that
    the select picks now (`draft`, `text`), which is computed when it is asked for. `result()` gives what `sample` returns.
    `close()` ends the stream, also from another thread; leaving a `with` block closes it.

    occurrence: how many equal prompts come before this one. The result is the one that `run` gives for it in such a list.
    """
    request = Request(target, sampler, select, seed, budget, reward_timeout, until)
    example = as_example(prompt)
    job = Job(example.prompt, occurrence, id=example.id, columns=example.columns)
    request.check_columns([job])
    return Stream(lambda flag: request.partials(job, flag), None if cancel is None else _checked(cancel))


def _checked(cancel: Flag) -> Flag:
    if not isinstance(cancel, Flag):
        raise TargetError(f"cancel={cancel!r} cannot be set by another thread: give a threading.Event")
    return cancel


def run(
    target: Target | Build,
    prompts: Iterable[Prompt | Messages | Example | Mapping[str, Any]] | Path,
    sampler: Sampler,
    *,
    select: Select = draw,
    until: Until | None = None,
    seed: int = 0,
    store: str | Path | None = None,
    concurrency: int = 32,
    budget: Budget | None = None,
    progress: Progress | bool | None = None,
    retry: bool = False,
    on_error: OnError = "record",
    reward_timeout: float | None = None,
    store_population: bool = True,
    cluster: Cluster | None = None,
    allocate: Gain | None = None,
) -> Results:
    """Answer many prompts, up to `concurrency` at a time: one Result or Failure for each, in their order.

    What goes wrong with one prompt (its text, a server's answer, its reward, its budget) becomes a Failure, and the others
    go on; what concerns them all is raised. So is the error of the first 10 prompts, where a server's answers, the reward
    or the select fail for every one of them. The budget holds for each prompt, reward_timeout for each call of the reward,
    and `until` is asked of each population, as in `sample`.

    target: the target, or a function without arguments that makes it.
    prompts: prompts, `Example`s, rows of a data set (mappings with a "prompt" or "messages", as Hugging Face's `datasets` has
        them), or the Path of a file of them (`exptilt.examples` reads one with other names).
    store: a file that gets one JSON line per prompt as it finishes (`exptilt.running.store`). Where it exists, the prompts in
        it are not run again: it must come from the same settings, but the list of prompts may have grown.
    progress: called for each prompt that finishes, with how many are done, of how many, and the outcome. Where it is not given
        there is a bar on a terminal or in a notebook (`exptilt.running.progress`): False for none; True for one, and lines on
        standard error where there is neither.
    retry: run the prompts again that the file records as failed; otherwise their failures are kept.
    on_error: "record" as above; "stop" ends the run at the first Failure and raises its error. The results file then holds
        that failure and all that was finished by then; without retry, the same run stops there again.
    store_population: whether the file keeps all weighted drafts, so that results read from it are equal to new ones;
        if not, a result that is read back has the chosen draft alone as its population.
    cluster: machines to spread the prompts over, up to `concurrency` at a time on each worker (`exptilt.running.cluster`). The
        target must then be a function, which every worker calls once. Answers and results file are those of one machine.
    allocate: share the tokens of the whole run, `Budget(total_tokens=...)`, out among the prompts, where more runs of the sampler
        are expected to gain the most: "accuracy" of a vote or of `best`, or the error of "log_z" (`exptilt.running.allocation`).
        Results then depend on the other prompts, which must be the same when the run is resumed. The runs that each prompt got
        are kept in a file beside the store, NAME.parts.jsonl.

    Raises, besides what `sample` raises of the whole request, StoreError for a file that cannot be used, ModelError
    for an engine that fails and ClusterError for a cluster that does. On KeyboardInterrupt the calls under way are given
    up, on this machine and on others, and every finished prompt is kept.
    """
    if not isinstance(concurrency, int) or concurrency < 1:
        raise ValueError(
            f"concurrency={concurrency} must be a whole number of 1 or more: it is the number of prompts under way at once"
        )
    if on_error not in get_args(OnError):
        raise ValueError(f'on_error={on_error!r}: give "record" to go on after a failure, or "stop"')
    jobs, stop = number_jobs(prompts), on_error == "stop"
    allocation = None
    if allocate is not None:
        tokens = check_allocation(allocate, budget, select, until, cluster, retry)
        allocation = Allocation(allocate, tokens, digest(" ".join(job.name for job in jobs)))
    request = partial(
        Request, sampler=sampler, select=select, seed=seed, budget=budget, reward_timeout=reward_timeout, until=until,
        allocation=allocation,
    )  # fmt: skip
    with ExitStack() as stack:
        place = stack.enter_context(open_place(target, request, concurrency, cluster))
        place.check(jobs)
        origin = made(place.request.target.engine if isinstance(place, Threads) else None)
        file = None if store is None else stack.enter_context(Store(store, place.settings, origin))
        header = partial(new_header, place.settings, origin) if file is None else file.header
        read = {} if file is None else known_lines(file, jobs, retry)
        known = {job.name: read_back(read[job.name], job, sampler, seed) for job in jobs if job.name in read}
        ledger = Outcomes(known, file, store_population)
        if allocation is not None and len(read) < len(jobs):
            assert isinstance(place, Threads)  # a cluster is refused above
            place = in_rounds(jobs, place, store, stop=stop)
        tell = stack.enter_context(watched(progress, len(jobs), len(known)))
        with closing(finish(jobs, place, ledger, stop=stop)) as finished:
            for count, outcome in finished:
                if tell is not None:
                    tell(count, len(jobs), outcome)
    return Results((ledger.known[job.name] for job in jobs), header, [job.name for job in jobs])
