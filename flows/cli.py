"""The `lorapar` command.

Bad input ends with one line on stderr and exit code 2, a stage that fails with exit code 1. What a
program may read (`--json`, tables) goes to stdout, what a person follows goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from artifacts import Store, StoreError
from artifacts.durable import write_whole
from flows import paper
from flows.ending import ending_in_order
from flows.places import RECIPES, ROOT
from flows.sweeps import SWEEPS, Trial, sweep_named, trials
from lorapar_core.config import Recipe
from lorapar_core.errors import ConfigError, DataError, LoraparError, ModelError
from lorapar_core.recipe import load_recipe, parse_assignments

_RECIPE = "a shipped recipe's name, a .yaml file, or a cell of the paper's tables"
Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    code = 0
    try:
        try:
            code = _carry_out(arguments)
        finally:
            if sys.stdout:
                sys.stdout.flush()  # here, where a reader that went away is told
    except BrokenPipeError:  # `lorapar … | head`
        _write_nowhere()
    return code


def _write_nowhere() -> None:
    """What the interpreter flushes at its end goes to nobody."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _carry_out(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        return command(options)
    except (LoraparError, StoreError) as error:
        print(f"lorapar: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError | DataError | ModelError | StoreError) else 1
    except BrokenPipeError:
        raise
    except PermissionError as error:
        print(f"lorapar: {error}; see to the permissions", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"lorapar: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lorapar: stopped; what is finished is kept", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lorapar", description="LoRA-PAR fine-tuning as a cached pipeline."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, summary in (
        ("run", _run, "carry out a recipe in this process, without Prefect"),
        ("plan", _plan, "show what is cached, what would run, and what it would take"),
    ):
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.add_argument("recipe", help=_RECIPE)
        sub.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="SECTION.FIELD=VALUE",
            help="change one field of the recipe; may be given again",
        )
        sub.add_argument("--store", help="where artifacts are kept (default: $LORAPAR_STORE)")
        sub.add_argument("--json", action="store_true", help="end with one JSON object")
        sub.set_defaults(command=command)
    _add_sweep(commands)
    _add_recipes(commands)
    _add_compare(commands)
    _add_service(commands)
    _add_artifacts(commands)
    return parser


def _add_sweep(commands: Any) -> None:
    summary = "carry out a recipe at the points of a sweep, with several seeds, and compare them"
    sub = commands.add_parser("sweep", help=summary, description=summary)
    sub.add_argument("sweep", help=f"{', '.join(SWEEPS)}")
    sub.add_argument("recipe", help=_RECIPE)
    sub.add_argument(
        "--seeds", action=_Seeds, default=(0, 1, 2), help="such as 0,1,2 (the default)"
    )
    sub.add_argument(
        "--point",
        action="append",
        default=[],
        metavar="LABEL",
        help="only this point of the sweep; may be given again",
    )
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="change one field of the recipe in every trial; may be given again",
    )
    sub.add_argument("--store", help="where artifacts are kept (default: $LORAPAR_STORE)")
    sub.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="write the page's tables and the command there as well",
    )
    sub.add_argument(
        "--plan",
        action="store_true",
        help="carry nothing out; show what is cached, what is left, and what it would take",
    )
    sub.add_argument("--json", action="store_true", help="end with one JSON object")
    sub.set_defaults(command=_sweep)


def _add_recipes(commands: Any) -> None:
    sub = commands.add_parser("recipes", help="list the shipped recipes")
    sub.add_argument("--paper", action="store_true", help="list the cells of the paper's tables")
    sub.set_defaults(command=_recipes)


def _add_compare(commands: Any) -> None:
    summary = "compare two evaluations, problem by problem"
    sub = commands.add_parser("compare", help=summary, description=summary)
    for name in ("first", "second"):
        sub.add_argument(
            name, help="digest of a predictions.parquet or of its record, or its start"
        )
    sub.add_argument("--store", help="where artifacts are kept (default: $LORAPAR_STORE)")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.set_defaults(command=_compare)


class _Seeds(argparse.Action):
    """Different numbers, separated by commas or given again."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        words = [word.strip() for word in values.split(",")]
        before = () if namespace.seeds is self.default else namespace.seeds
        seeds = (*before, *(int(word) for word in words if word.isdecimal()))
        if len(set(seeds)) < len(before) + len(words):
            parser.error(f"{values!r} are no seeds; give different numbers, as 0,1,2")
        namespace.seeds = seeds


def _add_service(commands: Any) -> None:
    for name, summary in (
        ("up", "start a Prefect server and worker, with our deployments"),
        ("down", "stop what `up` started"),
        ("status", "show what runs"),
    ):
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(command=_service, action=name)
        if name == "up":
            sub.add_argument("--port", type=_port, default=4200, help="the server's port")


def _port(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number from 1 to 65535")


def _add_artifacts(commands: Any) -> None:
    sub = commands.add_parser("artifacts", help="look at the store")
    verbs = sub.add_subparsers(required=True, metavar="VERB")
    for name, summary, arguments in (
        ("ls", "list what was computed", ()),
        ("show", "show one artifact or record", ("digest",)),
        ("verify", "read every object and compare its digest", ()),
        ("export", "write an artifact's files into a directory", ("digest", "directory")),
    ):
        verb = verbs.add_parser(name, help=summary, description=summary)
        for argument in arguments:
            verb.add_argument(argument)
        verb.add_argument("--store", help="where artifacts are kept (default: $LORAPAR_STORE)")
        verb.add_argument("--json", action="store_true", help="print JSON")
        verb.set_defaults(command=_artifacts, verb=name)


def _recipe(options: argparse.Namespace) -> Recipe:
    return paper.recipe_of(options.recipe, parse_assignments(options.set))


def _run(options: argparse.Namespace) -> int:
    from flows.command import run_command
    from flows.healing import healing
    from flows.local import LocalRunner, say_on_stderr
    from flows.pipeline import pipeline
    from flows.requirements import check
    from flows.summary import accuracy_tables, stage_table, summarize

    recipe = _recipe(options)
    command = run_command(options.recipe, parse_assignments(options.set))
    check(recipe)
    store = Store.open(options.store)
    started = time.monotonic()
    with ending_in_order(), LocalRunner(recipe, store=store, say=say_on_stderr) as runner:
        summary = healing(
            lambda: summarize(pipeline(recipe, runner), recipe=recipe, store=store, command=command)
        )
    summary["seconds"] = round(time.monotonic() - started, 1)
    store.write_run(f"{recipe.name[:40]}-{int(time.time())}-{os.urandom(2).hex()}", summary)
    if options.json:
        print(json.dumps(summary))
        return 0
    print(stage_table(summary), *accuracy_tables(summary), sep="\n\n")
    _say_the_papers(options)
    print(f"\nreport   {summary['report']}\nadapter  {summary['adapter']}")
    return 0


def _say_the_papers(options: argparse.Namespace) -> None:
    if line := paper.paper_line(options.recipe):
        print(f"\n{line}")


def _sweep(options: argparse.Namespace) -> int:
    from flows.command import sweep_command
    from flows.local import say_on_stderr
    from flows.local_sweep import run_sweep, with_runtime
    from flows.sweep_summary import failed_line
    from flows.sweep_tables import sweep_tables

    if options.plan and options.markdown:
        raise ConfigError("--plan writes nothing; leave --markdown out")
    if options.markdown:
        _require_writable(options.markdown)
    sweep, seeds, only = sweep_named(options.sweep), options.seeds, options.point
    given = parse_assignments(options.set)
    found = trials(sweep, options.recipe, seeds=seeds, overrides=with_runtime(given), only=only)
    if options.plan:
        return _plan_sweep(found, options)
    command = sweep_command(sweep.name, options.recipe, given, seeds=seeds, only=only)
    store = Store.open(options.store)
    started = time.monotonic()
    with ending_in_order():
        summary = run_sweep(sweep, found, store=store, say=say_on_stderr, command=command)
    summary["seconds"] = round(time.monotonic() - started, 1)
    name = f"sweep-{sweep.name}-{summary['recipe'][:40]}"
    store.write_run(f"{name}-{int(time.time())}-{os.urandom(2).hex()}", summary)
    if options.json:
        print(json.dumps(summary))
    else:
        print(f"{sweep_tables(summary['results'])}\n\nreport   {summary['report']}")
    if options.markdown:
        text = f"{Path(summary['markdown']).read_text('utf-8')}\nMade by `{command}`.\n"
        write_whole(options.markdown, text.encode(), tmp=options.markdown.parent)
    if failed := failed_line(summary):
        print(f"lorapar: {failed}; the same command goes on with them", file=sys.stderr)
    return 1 if failed else 0


def _plan_sweep(found: Sequence[Trial], options: argparse.Namespace) -> int:
    from flows.healing import healing
    from flows.plan_text import sweep_plan_text
    from flows.sweep_plan import plan_sweep

    store = _looked_at(options)
    planned = healing(lambda: plan_sweep(found, store=store))
    print(json.dumps(planned) if options.json else sweep_plan_text(planned))
    return 0


def _looked_at(options: argparse.Namespace) -> Store:
    """The store, which nothing is written to; says so if it was named and isn't there."""
    store = Store.open(options.store, create=False)
    if options.store and not store.root.exists():
        print(f"lorapar: there is no store at {store.root} yet", file=sys.stderr)
    return store


def _require_writable(file: Path) -> None:
    """Refuse, before hours of work, what can't be written at their end.

    Raises:
        ConfigError: as said.
    """
    if file.is_dir() or not file.parent.is_dir() or not os.access(file.parent, os.W_OK):
        raise ConfigError(f"--markdown {file} can't be written; give a file in a folder of yours")


def _plan(options: argparse.Namespace) -> int:
    from flows.healing import healing
    from flows.plan import plan
    from flows.plan_text import plan_text

    recipe, store = _recipe(options), _looked_at(options)
    planned = healing(lambda: plan(recipe, store=store))
    if options.json:
        print(json.dumps(planned))
        return 0
    print(plan_text(planned))
    _say_the_papers(options)
    return 0


def _recipes(options: argparse.Namespace) -> int:
    from flows.summary import table

    if options.paper:
        print(table(("cell", "recipe", "on", "the paper's accuracy"), paper.rows()))
        return 0
    recipes = [load_recipe(path.stem, recipes=RECIPES) for path in sorted(RECIPES.glob("*.yaml"))]
    print(table(("recipe", "what it is"), [(r.name, r.description) for r in recipes]))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from flows.compare import compare

    store = _looked_at(options)
    return compare(store, [options.first, options.second], as_json=options.json)


def _service(options: argparse.Namespace) -> int:
    from flows import service

    if options.action == "up":
        url = service.up(port=options.port)
        # In the checkout Prefect takes port 4200 from pyproject.toml.
        usual = url.endswith(f":{service.PORT}") and "PREFECT_API_URL" not in os.environ
        elsewhere = "" if usual else f"PREFECT_API_URL={url}/api "
        prefect = Path(sys.executable).with_name("prefect")
        print(f"next:  cd {ROOT} && {elsewhere}{prefect} deployment run lorapar/demo --watch")
        return 0
    return service.down() if options.action == "down" else service.status()


def _artifacts(options: argparse.Namespace) -> int:
    from flows import inspect_store

    if options.verb == "verify":
        root = Store.open(options.store, create=False).root
        if not (root / "actions").is_dir():
            raise StoreError(f"there is no store at {root}; give an existing one")
        store = Store.open(options.store)  # what is bad is moved to quarantine
    else:
        store = _looked_at(options)
    if options.verb == "ls":
        return inspect_store.ls(store, as_json=options.json)
    if options.verb == "show":
        return inspect_store.show(store, options.digest)
    if options.verb == "verify":
        return inspect_store.verify(store, as_json=options.json)
    return inspect_store.export(store, options.digest, Path(options.directory))


if __name__ == "__main__":
    sys.exit(main())
