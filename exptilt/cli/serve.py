"""`exptilt serve`: an OpenAI-compatible server whose answers are drawn from π."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from exptilt import names
from exptilt.cli import groups
from exptilt.cli.terminal import status
from exptilt.cli.values import real, whole
from exptilt.errors import UsageError, install

ABOUT = """Serve a model behind OpenAI's protocol, with answers that the sampler finds.
Any client of it works with another base URL: http://127.0.0.1:8000/v1."""
KEY = "EXPTILT_API_KEY"
_OF_LIMITS = ("threads", "queue", "deadline", "reward_timeout", "grace")


def add_flags(parser: argparse.ArgumentParser, argv: Sequence[str]) -> groups.Asked:
    groups.add_model(parser)
    asked = groups.add_request(parser, argv, select=False)
    groups.add_select(parser, asked.sampler)
    group = parser.add_argument_group("limits of each answer, which requests may only lower")
    group.add_argument("--budget-tokens", type=whole, metavar="N", help="tokens generated and scored")
    group.add_argument("--budget-seconds", type=real, metavar="X", help="seconds; the answer is then the best so far")
    group.add_argument("--budget-rewards", type=whole, metavar="N", help="calls of the reward")
    group.add_argument("--until", metavar="SPEC", help="a stop rule, as of exptilt sample; requests may give another")
    _add_server(parser)
    return asked


def _add_server(parser: argparse.ArgumentParser) -> None:
    key = f"Clients must send the key in the environment variable {KEY}, where it is set, as a bearer token."
    group = parser.add_argument_group("server", key)
    group.add_argument(
        "--config", metavar="FILE", help="a TOML file: [server], [limits], [rewards] and [models]; flags take precedence"
    )
    group.add_argument("--name", metavar="NAME", help="what clients call the model; default the last part of its own name")
    group.add_argument("--host", metavar="HOST", help="default 127.0.0.1, which serves this machine alone")
    group.add_argument("--port", type=whole, metavar="N", help="default 8000; 0 for a free one")
    group.add_argument("--threads", type=whole, metavar="N", help="answers under way at once; default 32")
    group.add_argument("--queue", type=whole, metavar="N", help="requests that may wait; more get the status 429; default 64")
    group.add_argument("--deadline", type=real, metavar="X", help="seconds from a request to its answer; default 600")
    group.add_argument("--grace", type=real, metavar="X", help="seconds for answers under way on SIGTERM; default 20")
    group.add_argument("--log-prompts", action="store_true", default=None, help="log what clients ask and get")


def execute(args: argparse.Namespace, console: Console) -> int:
    try:
        from exptilt.serve.offers import catalogue
        from exptilt.serve.recipes import Recipe
        from exptilt.serve.server import check_address, serve
    except ModuleNotFoundError as error:
        raise UsageError(f"exptilt serve needs the package {error.name}: {install('serve')}") from None
    config = _config(args)
    check_address(config)
    with groups.checked(args):
        given = {name.removeprefix("sampler."): value for name, value in vars(args).items() if name.startswith("sampler.")}
        answer = args.answer or "number"
        reward = args.reward if args.reward in (*names.REWARDS.names, "none") else "default"
        usual = Recipe(args.chosen, given, args.select, answer, args.utility, reward, args.beta or 1.0, args.until)
        names.select(usual.select, usual.answer, usual.utility)
        usual.sampler  # noqa: B018 - made once, so that its settings are checked before the model is loaded
        if args.until is not None:
            names.stop_rule(args.until)
        build = groups.target_of(args)
        with status(console, f"loading {args.model}"):
            offered = catalogue(build, usual, config)
    serve(offered, config)
    return 0


def _config(args: argparse.Namespace) -> Any:
    """The configuration of the file, with what flags and the environment say besides."""
    from exptilt.serve.config import Config, read_config

    config = Config() if args.config is None else read_config(args.config)
    own = {name: value for name in ("name", "host", "port", "log_prompts") if (value := getattr(args, name)) is not None}
    key = os.environ.get(KEY)
    if key is not None:
        own["api_key"] = key
    limits = {name: getattr(args, name) for name in _OF_LIMITS}
    limits |= {"tokens": args.budget_tokens, "seconds": args.budget_seconds, "reward_calls": args.budget_rewards}
    limits = {name: value for name, value in limits.items() if value is not None}
    return replace(config, **own, limits=replace(config.limits, **limits))


COMMAND = groups.Subcommand(
    "serve",
    "serve answers behind OpenAI's protocol",
    ABOUT,
    "exptilt serve MODEL --reward SPEC --beta X [options]",
    add_flags,
    execute,
)
