"""Requests that are refused before any work: exit status 2, nothing on standard output, one paragraph with the cure."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from exptilt.core import Engine
from exptilt.engines import TableEngine
from exptilt.engines.loading import load as open_model
from exptilt.engines.options import check_options, options_of
from exptilt.engines.sampling import Sampling
from tests.cli.conftest import Program

FILES = {
    "mine.py": "number = 3\n\ndef three(a, b, c):\n    return 0.0\n",
    "syntax.py": "x = 1\ndef f(:\n",
    "exits.py": "import sys\n\nsys.exit(3)\n",
    "imports.py": "import nothing_here\n",
    "prompts.txt": "one\ntwo\n",
    "other.jsonl": '{"a": 1}\n',
    "chat.json": '[{"role": "user"}]',
    "gap.jsonl": '"one"\n\n{"question": "two"}\n',
    "torn.jsonl": '"one"\n{"prompt": "tw',
    "folder/keep": "",
    "broken.toml": "beta = \n",
    "odd.toml": "bta = 1\n",
    "hot.toml": 'beta = "hot"\n',
    "date.toml": "beta = 2026-01-01\n",
    "three.toml": "json = 3\n",
    "cut.parquet": "PA",
    "future.jsonl": '{"exptilt": 99, "settings": {}, "hash": "x", "code": "source"}\n',
    "numbers.json": "[1, 2]",
    "short.csv": "prompt,b\n1\n",
    "twice.csv": "prompt,prompt\n1,2\n",
}
SAMPLE = "sample toy why? --reward heads.py:heads --beta 1"
RUN = "run toy prompts.txt --reward heads.py:heads --beta 1 --out a.jsonl"
EVAL = "eval toy --task word-problems --problems 2 --reward heads.py:heads --beta 1"
DOCTOR = "doctor toy --reward heads.py:heads"

CASES = {
    # commands and flags
    "smaple toy": "there is no command 'smaple': give ask, sample, run, eval, doctor, report, export, train, serve, completion.",
    "sample toy why? --reward heads.py:heads": "the following arguments are required: --beta; see exptilt sample --help.",
    "sample toy why? --rewrd heads.py:heads --beta 1": "there is no option --rewrd here. Did you mean --reward? See",
    "run toy prompts.txt --reward none --output a.jsonl": "there is no option --output here. Did you mean --out? See exptilt run",
    "--verison": "there is no option --verison here. Did you mean --version? See exptilt --help.",
    f"{SAMPLE} --betta 2": "there is no option --betta 2 here. Did you mean --beta? See exptilt sample --help.",
    f"{SAMPLE} --budget-token=5": "there is no option --budget-token=5 here. Did you mean --budget-tokens?",
    f"{SAMPLE} --n 3": "there is no option --n 3 here: it belongs to --sampler independent or plain or bon or majority.",
    f"{SAMPLE} ever": "'ever' is one argument too many: put text with spaces in quotes.",
    f"{SAMPLE} --json=1": "--json: ignored explicit argument '1'",
    f"{SAMPLE} --sampler": "--sampler: expected one argument",
    f"{DOCTOR} why? --sampler ets": "there is no option --sampler ets here.",
    # numbers and words
    f"{SAMPLE} --beta=": "--beta: '' is not a number; see",
    f"{SAMPLE} --beta 1e999": "--beta: 1e999 must be a positive number",
    f"{SAMPLE} --max-tokens 1.5": "--max-tokens: '1.5' is not a whole number; see",
    f"{SAMPLE} --max-tokens 0": "max_tokens=0 must be a whole number of 1 or more; see",
    f"{SAMPLE} --temperature nan": "temperature=nan must be positive and finite",
    f"{SAMPLE} --top-p 2": "top_p=2.0 must be above 0 and at most 1",
    f"{SAMPLE} --stop ''": "stop=('',) must be a string or several, none of them empty",
    f"{SAMPLE} --dtype float31": "--dtype: 'float31' is not one of auto, float32, bfloat16, float16. Did you mean float32? See",
    f"{SAMPLE} --budget-seconds nan": "budget seconds=nan must be positive",
    f"{SAMPLE} --reward-timeout nan": "reward_timeout=nan must be a positive number of seconds",
    # samplers
    f"{SAMPLE} --sampler est": "there is no sampler 'est': give ets, beam, independent,",
    f"{SAMPLE} --returns chains": "--returns: 'chains' is not one of rollouts, chain; see",
    f"{SAMPLE} --step-weights 1,b": "--step-weights: 'b' is not a number, or \"none\"; see",
    f"{SAMPLE} --step-weights 1,-2": "ETS(step_weights=(1.0, -2.0)): give non-negative numbers",
    f"{SAMPLE} --value mine.py:number": "--value: mine.py:number is 3 and cannot be called: give a function; see",
    f"{SAMPLE} --sampler mcmc --burn-in 99": "SuffixMCMC(burn_in=99): leave out between 0 and steps=32 states",
    f"{SAMPLE} --sampler metropolised --inner mcmc": "Metropolised needs",
    f"{SAMPLE} --sampler metropolised --inner nobody": "there is no sampler 'nobody'",
    f"{SAMPLE} --sampler smc --inner ets": "the sampler smc contains no other",
    f"{SAMPLE} --sampler random:Random": "and not the class of a sampler",
    f"{SAMPLE} --sampler mine.py": "there is no sampler 'mine.py': give ets,",
    # selects
    f"{SAMPLE} --select vite": "there is no select 'vite': give draw, best, vote, vote-draws, majority, mbr, or your own",
    f"{SAMPLE} --select mine.py:number": "the select mine.py:number is 3 and cannot be called: give a function (population, key)",
    f"{SAMPLE} --select vote --answer numbr": "there is no answer 'numbr': give number,",
    f"{SAMPLE} --select vote --answer mine.py:number": "the answer mine.py:number is 3 and cannot be called",
    f"{SAMPLE} --select mbr --utility rouge": "there is no utility 'rouge': give rouge1, chrf, exact, or your own",
    f"{SAMPLE} --select mbr --utility mine.py:number": "mbr(3) cannot compare texts: give a utility",
    # rewards
    "sample toy why? --beta 1 --reward arithmetik": "there is no reward 'arithmetik'",
    "sample toy why? --beta 1 --reward mine.py": "Which object of it? Write mine.py:NAME.",
    "sample toy why? --beta 1 --reward mine.py:thre": "mine.py has no 'thre': it has three. Did you mean three?",
    "sample toy why? --beta 1 --reward mine.py:three": "reward three reads the column 'c', and problem 1 ('why?') has none",
    "sample toy why? --beta 1 --reward syntax.py:f": "syntax.py raised SyntaxError: invalid syntax (syntax.py, line 2). Correct",
    "sample toy why? --beta 1 --reward exits.py:f": "exits.py, line 3 raised SystemExit: 3. Correct the file.",
    "sample toy why? --beta 1 --reward imports.py:f": "imports.py, line 1 raised ModuleNotFoundError: No module named",
    "sample toy why? --beta 1 --reward nowhere.mine:f": "nowhere.mine cannot be imported (ModuleNotFoundError",
    "sample toy why? --beta 1 --reward classifier:some/model?votes": "'votes' in 'some/model?votes' is not an option: write",
    "sample toy why? --beta 1 --reward classifier:some/model?devise=cpu": "has no option devise: it has batch_tokens, device,",
    # options of models
    "sample toy?temperature=hot why? --reward none": "has a value of the wrong type, temperature='hot': give a number where",
    "sample tiny?max_rows=abc why? --reward none": "max_rows='abc' must be a whole number of 1 or more; see exptilt sample",
    "sample toy?top_q=1 why? --reward none": "'toy' has no option top_q: it has frequency_penalty, logit_bias, max_tokens,",
    "sample toy?max_tokens why? --reward none": "'max_tokens' in 'toy?max_tokens' is not an option: write MODEL?NAME=VALUE",
    "sample toy why? --beta 1 --reward judge:toy?votess=4": "read, rubric, seed, tries, votes. Did you mean votes?",
    "sample toy why? --beta 1 --reward judge:toy?votes=many": "votes='many': give a whole number of 1 or more",
    # prompts and files
    "sample toy --reward none": "give either PROMPT or --messages FILE; see exptilt sample --help.",
    "sample toy why? --messages chat.json --reward none": "give either PROMPT or --messages FILE",
    "sample toy --messages chat.json --reward none": "chat.json: message 1 of the chat has the content None: give a string",
    "sample toy --messages none.json --reward none": "none.json cannot be read: No such file or directory.",
    "sample toy '' --reward none": "the prompt '' is empty",
    "run toy - --reward none --out a.jsonl": "standard input holds no prompts: give one per line",
    "run toy folder --reward none --out a.jsonl": "folder cannot be read: Is a directory.",
    "run toy gap.jsonl --reward none --out a.jsonl": "line 3 of gap.jsonl has no prompt (its keys are question): give {",
    "run toy torn.jsonl --reward none --out a.jsonl": "line 2 of torn.jsonl is not JSON (",
    f"{RUN} --out folder": "the results file folder cannot be opened: Is a directory.",
    f"{RUN} --out prompts.txt": "prompts.txt is not a results file of exptilt, and was not touched",
    f"{RUN} --concurrency 0": "--concurrency 0 must be at least 1; see exptilt run --help.",
    # tasks, examinations, reports
    f"{EVAL} --task chess": "there is no task 'chess': give word-problems,",
    f"{EVAL} --parameters 1,2,3,4": "--parameters: '1,2,3,4' is not one to three numbers of parameters, such as 5e8,0,1e9",
    f"{EVAL} --out prompts.txt": "the folder prompts.txt cannot be created: File exists. Give another one with --out.",
    f"{DOCTOR} why? --out none/a.json": "--out none/a.json cannot be written: there is no folder none",
    f"{DOCTOR} why? --ess nan": "Goal(ess=nan): give a positive number; see exptilt doctor --help.",
    "report other.jsonl": "other.jsonl is not a results file",
    "report folder": "the results file folder cannot be read: Is a directory.",
    "export future.jsonl": "future.jsonl is not a results file of format 1: give one that exptilt run wrote.",
    "export none.jsonl": "the results file none.jsonl cannot be read: No such file or directory. Give the path",
    # files of flags, completion, output
    f"{SAMPLE} --config broken.toml": "broken.toml is not TOML: Invalid value (at line 1, column 8). Write lines such",
    f"{SAMPLE} --config odd.toml": "odd.toml has 'bta', which is no argument of exptilt sample. Did you mean beta? See",
    f"{SAMPLE} --config hot.toml": "hot.toml: beta: 'hot' is not a number. Correct the file.",
    f"{SAMPLE} --config date.toml": "date.toml: beta = 2026-01-01 is of a type that no argument has: write it in quotes.",
    f"{SAMPLE} --config three.toml": "three.toml: json = 3 is neither true nor false: correct the file.",
    f"{SAMPLE} --config none.toml": "the file none.toml cannot be read: No such file or directory. Give another",
    f"{SAMPLE} --config folder": "the file folder cannot be read: Is a directory. Give another one with --config.",
    f"{SAMPLE} --save-config prompts.txt": "prompts.txt was not written by --save-config, and was not touched: choose another",
    f"{SAMPLE} --save-config none/a.toml": "the file none/a.toml cannot be written: No such file or directory. Choose",
    "completion tcsh": "'tcsh' is not one of bash, zsh, fish; see exptilt completion --help.",
    "completion": "the following arguments are required:",
    f"{SAMPLE} --show 0": "--show 0 must be at least 1; see exptilt sample --help.",
    "-v": "there is no option -v here. See exptilt --help.",
    # budgets, pairs of flags
    f"{SAMPLE} --budget-tokens -3": "budget tokens=-3 must be positive, or None for no limit; see exptilt sample --help.",
    f"{SAMPLE} --until never": "there is no stop rule 'never': give reward:R, sure:ANSWER:P,",
    f"{RUN} --allocate log_z": "--allocate shares out the tokens that --total-tokens gives: give both,",
    f"{RUN} --total-tokens 9": "--allocate shares out the tokens that --total-tokens gives: give both,",
    f"{RUN} --ray-workers 2": "--ray-workers is of a cluster: give its address with --ray, or leave it out.",
    f"{RUN} --dry-run=1": "--dry-run: ignored explicit argument '1'",
    f"{RUN} --out /dev/null": "/dev/null is a device or a pipe, which no run can be resumed from: give the path of a file.",
    f"{RUN} --out future.jsonl": "future.jsonl has format 99 and this version of exptilt writes 1: finish it with the version",
    # more files and models
    "run toy cut.parquet --reward none --out b.jsonl": "cut.parquet is not a Parquet file, as its name says: it may be cut off",
    "run toy numbers.json --reward none --out b.jsonl": 'entry 1 of numbers.json has no prompt: give {"prompt": "..."}',
    "run toy short.csv --reward none --out b.jsonl": "line 2 of short.csv has 1 values and the header 2: quote values",
    "run toy twice.csv --reward none --out b.jsonl": "has the names 'prompt', 'prompt': give each column a name of its own",
    "run toy prompts.txt --prompt-key q --reward none --out b.jsonl": "prompts.txt is text with one prompt per line, which has",
    "sample toy why? --beta 1 --reward judge:": "the reward 'judge:' ends at its colon: write judge:MODEL",
    "sample toy why? --beta 1 --reward matches:": "the reward 'matches:' ends at its colon: write matches:COLUMN",
    "sample toy why? --beta 1 --reward none.py:x": "there is no file none.py: give the path of a Python file before the colon",
    "serve toy --reward none --port 99999999": "port = 99999999 is not a port: give 0 to 65535; 0 takes a free one",
}


@pytest.mark.parametrize("line", CASES)
def test_refused(line: str, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, **options: object) -> Engine:
        if name == "tiny":
            return open_model(name, **options)  # type: ignore[arg-type]
        check_options(name, options, options_of(Sampling))
        sampling = Sampling(**{"max_tokens": 5} | options)  # type: ignore[arg-type]
        return TableEngine(lambda prefix: [0.5, 0.5], sampling.max_tokens, 1, symbols="12", name=name)

    monkeypatch.setattr("exptilt.names.targets.load", load)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"\n")))
    Path("folder").mkdir()
    for name, content in FILES.items():
        Path(name).write_text(content)
    words = [word.replace("''", "") for word in line.split()]
    code, out, err = program(*words)
    assert (code, out) == (2, ""), err
    assert CASES[line] in err
    assert err.startswith("error  ")
    assert err.count("\n") == 1
    assert "inside exptilt" not in err
    assert Path("prompts.txt").read_text() == FILES["prompts.txt"]
