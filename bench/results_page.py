"""Writes bench/RESULTS.md from the files in bench/results: `python bench/results_page.py`.

Every part of `make bench` leaves one file there. What has not been measured is left out, with a line that says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
Found = dict[str, Any]


def spread(values: list[float], form: str = ".1f") -> str:
    """A median with its range; one value stands alone."""
    middle = format(float(np.median(values)), form)
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} to {max(values):{form}})"


def counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' if number > 1 else ''}"


def stamp(found: Found) -> str:
    return f"{found['date'][:10]}, {found['machine']}."


def guidance(found: Found) -> str:
    settings, rounds = found["settings"], found["rounds"]
    runs = [each["run"] for each in rounds]
    shots = f", {settings['shots']} examples before each question" if settings["shots"] else ""
    at_rows = [100 * run["static_seconds"] / run["seconds"] for run in runs]
    lines = [
        f"{stamp(found)} `{settings['model']}`, {settings['task']}{shots}; M = {settings['candidates']}, "
        f"K = {settings['rollouts']}, block {settings['block']}, cap {settings['cap']}, {settings['flight']} of "
        f"{settings['questions']} questions in flight; the straightforward version answers {settings['plain_questions']} "
        f"of them. {counted(found['threads'], 'thread')}, {counted(len(rounds), 'round')}, median and range.",
        "",
        "| | |",
        "|---|---:|",
        f"| exptilt, seconds per question | {spread([run['seconds'] / run['questions'] for run in runs], '.3g')} |",
        f"| tokens per second | {spread([run['generated'] / run['seconds'] for run in runs], '.0f')} |",
        f"| rows in a step, on average | {spread([run['mean_rows'] for run in runs], '.0f')} |",
        f"| of the static-batch peak, % | {spread([100 * run['ceiling_seconds'] / run['seconds'] for run in runs], '.0f')} |",
        f"| of static batches of as many rows, % | {spread(at_rows, '.0f')} |",
        f"| prefilled tokens over the fewest possible | {spread([run['prefilled'] / run['fewest'] for run in runs], '.3f')} |",
    ]
    if found["ratios"]:
        plain = [second for each in rounds for second in each["plain"]]
        lines.append(f"| straightforward, seconds per question | {spread(plain, '.3g')} |")
        lines.append(f"| **ratio** | **{spread(found['ratios'])}** |")
    if "without" in found:
        lines += ["", "Without one part, a question takes as long, times:", ""]
        lines += [f"- {name}: {times:.2f}" for name, times in found["without"].items()]
    return "\n".join(lines)


def engines(found: Found) -> str:
    rows = sorted({each["rows"] for each in found["speeds"]})
    table = {(each["engine"], each["rows"]): each["tokens per second"] for each in found["speeds"]}
    names = list(dict.fromkeys(each["engine"] for each in found["speeds"]))
    lines = [f"{stamp(found)} `{found['model']}`, tokens per second by rows.", "", "| |" + "".join(f" {n} |" for n in rows)]
    lines.append("|---|" + "---:|" * len(rows))
    lines += [f"| {name} |" + "".join(f" {spread(table[name, n], '.0f')} |" for n in rows) for name in names]
    return "\n".join(lines)


def overhead(found: Found) -> str:
    lines = [
        f"{stamp(found)} The tiny model, processor seconds per 1,000 rows; the scheduler's part is in the overhead.",
        "",
        "| sampler | engine | overhead | scheduler | share |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, each in found["per 1,000 rows"].items():
        share = f"{each['share']:.1%} ({each['from']:.1%} to {each['to']:.1%})"
        lines.append(f"| {name} | {each['engine']:.3f} | {each['overhead']:.3f} | {each['scheduler']:.4f} | {share} |")
    return "\n".join(lines)


def memory(found: Found) -> str:
    lines = [
        f"{stamp(found)} `{found['model']}`, ETS, MiB. Rows are reckoned at their full length and without what they share; "
        "what lies in memory has padding and free columns.",
        "",
        "| cap of rows | rows held | most rows | cap of prefixes | prefixes held | seconds |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for run in found["runs"]:
        sizes = [run[name] / 2**20 for name in ("rows_cap", "rows_bytes", "prefixes_cap", "prefixes_bytes")]
        lines.append(
            f"| {sizes[0]:.0f} | {sizes[1]:.1f} | {run['rows']} | {sizes[2]:.0f} | {sizes[3]:.1f} | {run['seconds']:.1f} |"
        )
    return "\n".join(lines)


def soak(found: Found) -> str:
    used, resident = found["MiB in use"], found["MiB resident"]
    failures = ", ".join(f"{count} {kind}" for kind, count in found["failures"].items())
    return (
        f"{stamp(found)} {found['seconds'] / 60:.0f} minutes, {found['in flight']} prompts in flight, the tiny model: "
        f"{found['jobs']:,} calls, of which {found['failed']} failed on purpose (failures: {failures}) and "
        f"{found['abandoned']} were given up. Every check held: {all(found['checks'].values())}. Memory in use "
        f"{used['first']:.0f} to {used['last']:.0f} MiB ({used['per minute']:+.2f} ± {used['error']:.2f} a minute), resident "
        f"{resident['first']:.0f} to {resident['last']:.0f} ({resident['per minute']:+.1f} ± {resident['error']:.1f} a minute). "
        f"{found['texts that differ']} of {found['repeated']} texts differ when answered again without failures."
    )


def serve_load(found: Found) -> str:
    health, shares = found["healthz_ms"], [100 * share for share in found["throughput_of_run"]]
    return "\n".join(
        [
            f"{stamp(found)} {found['requests']} word problems from {found['clients']} clients over the loopback, which ran "
            f"on the same machine; load average {found['load_average']:.0f}, median and range of {len(shares)} rounds.",
            "",
            "| | |",
            "|---|---:|",
            f"| `exptilt.run`, seconds | {spread(found['run_seconds'])} |",
            f"| `exptilt serve`, seconds | {spread(found['served_seconds'])} |",
            f"| throughput of a run, % | {spread(shares, '.0f')} |",
            f"| errors, answers that differ from the run's | {found['errors']}, {found['different_texts']} |",
            f"| /healthz meanwhile, ms: median, 99th percentile, longest | {health['p50']}, {health['p99']}, {health['p100']} |",
        ]
    )


def serve_chaos(found: Found) -> str:
    memory, statuses = found["resident_mib"], found["statuses"]
    answered = sum(number for name, number in statuses.items() if name.endswith(" 200"))
    refused = sum(number for name, number in statuses.items() if name.endswith(" 400"))
    left = sum(number for name, number in statuses.items() if name.endswith(" left"))
    idle, gone = found["idle_after_seconds"], found["idle_after_vanished_seconds"]
    return (
        f"{stamp(found)} {found['requests']:,} requests in {found['seconds']:.0f} s, 64 at a time: {answered:,} answered, "
        f"{refused:,} malformed or of the wrong type and refused, {left:,} abandoned, {found['vanished_clients']:,} of them in "
        f"long answers. {found['server_errors']} with the status 500, {found['streams_cut']} streams without an end. Nothing was "
        f"under way {idle:.2f} s after the last request, and {gone:.2f} s after the last client had vanished. Memory: "
        f"{memory['after_a_fifth']:.0f} MiB after a fifth of the requests, {memory['at_the_end']:.0f} MiB after all, "
        f"{memory['after_vanished']:.0f} MiB at the end."
    )


PARTS: list[tuple[str, str, Callable[[Found], str]]] = [
    ("(a) to (c) ETS against the straightforward version: the tiny model", "guidance-tiny", guidance),
    ("(a) to (c) the tiny model, blocks of 64", "guidance-tiny-256", guidance),
    ("(a) to (c) SmolLM2-135M, zero-shot", "guidance-smollm2", guidance),
    ("(a) to (c) SmolLM2-135M, eight examples", "guidance-smollm2-8shot", guidance),
    ("(a) to (c) Qwen2.5-Coder-0.5B, zero-shot", "guidance-qwen", guidance),
    ("(b) 32 prompts in flight, the tiny model", "guidance-tiny-32", guidance),
    ("(d) transformers against llama.cpp", "engines", engines),
    ("(e) Sampler, session and scheduler", "overhead", overhead),
    ("(f) Memory against the caps", "memory", memory),
    ("Soak", "soak", soak),
    ("The server against a run", "serve_load", serve_load),
    ("Clients that misbehave", "serve_chaos", serve_chaos),
]


def main() -> None:
    sections = ["# Speed\n\nWritten by `bench/results_page.py` from `bench/results/`; `make bench` measures again.\n"]
    for title, name, write in PARTS:
        file = HERE / "results" / f"{name}.json"
        text = write(json.loads(file.read_text())) if file.exists() else f"Not measured yet: {name}.json is missing."
        sections.append(f"## {title}\n\n{text}\n")
    (HERE / "RESULTS.md").write_text("\n".join(sections))
    print("bench/RESULTS.md written")


if __name__ == "__main__":
    main()
