"""``python -m build_engine build|inspect|publish|promote|rollback|list``. The last line of ``build`` on stdout is the
manifest as JSON."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from build_engine.errors import BuildError, RecipeError
from build_engine.inspect import as_text, find_versions, inspect
from build_engine.pipeline import build
from build_engine.recipe import (
    HARDWARE_COMPATIBILITY,
    PRECISIONS,
    RTX_CAPABILITIES,
    RTX_DEFAULT,
    TARGETS,
    Recipe,
)
from build_engine.rollout_command import add_commands

OF_THE_COMMAND = ("command", "run", "task", "force", "quiet")
FLAGS = {"preferred_batch_sizes": "--preferred-batch-size", "compute_capabilities": "--compute-capability"}
"""Of fields that are named otherwise."""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status (:mod:`build_engine.errors`)."""
    options = _parser().parse_args(argv)
    try:
        status: int = options.run(options)
        return status
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _build(options: argparse.Namespace) -> int:
    if options.task == "text-classification":
        try:
            line = importlib.import_module("build_engine.classifier_pipeline")
        except ImportError as error:
            raise RecipeError(f"--task text-classification needs pip install 'tidegate[onnx]': {error}") from None
        manifest = line.build_classifier(_recipe(line.ClassifierRecipe, options), force=options.force)
    else:
        manifest = build(_recipe(Recipe, options), force=options.force, quiet=options.quiet)
    print(json.dumps(manifest))
    return 0


def _recipe(kind: Any, options: argparse.Namespace) -> Any:
    """The recipe, of the dataclass ``kind``, of what was given; the rest is as it has it. Raises
    :class:`RecipeError` naming a flag that the task does not have."""
    asked = {name: value for name, value in vars(options).items() if name not in OF_THE_COMMAND}
    for name in sorted(asked.keys() - {field.name for field in fields(kind)}):
        flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
        raise RecipeError(f"{flag} means nothing to --task {options.task}; leave it out")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in asked.items()})


def _inspect(options: argparse.Namespace) -> int:
    reports = [inspect(version) for version in find_versions(options.path)]
    for report in reports:
        print(json.dumps(report) if options.json else as_text(report))
    return 1 if any(report["problems"] for report in reports) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m build_engine", description="From a model to a Triton repository.")
    commands = parser.add_subparsers(dest="command", required=True)
    # What is not given is not there: a default stands in the recipe, and a flag of another task is noticed.
    make = commands.add_parser("build", help="build and publish a version", argument_default=argparse.SUPPRESS)
    make.add_argument("--task", choices=("text-generation", "text-classification"), default="text-generation")
    make.add_argument("--source", type=Path, required=True, help="Hugging Face directory or GGUF file")
    make.add_argument("--adapter", type=Path, metavar="DIR", help="a PEFT LoRA adapter to merge into the source")
    make.add_argument("--adapter-base", metavar="NAME", help="the source's name as the adapter's configuration has it")
    make.add_argument("--name", required=True, help="the model's name in Triton")
    make.add_argument("--repository", type=Path, required=True)
    make.add_argument("--target", choices=TARGETS, help="openvino if not given; onnxruntime for a classifier")
    make.add_argument("--precision", choices=PRECISIONS, help="int8 if not given; int8-weight-only for a classifier")
    make.add_argument("--work-dir", type=Path, default=Path(".build"), help="where stages are resumed from")
    make.add_argument(
        "--context-length",
        "--sequence-length",
        type=int,
        help="tokens of one sequence; the model's own if not given, at most 2048 in a slot",
    )
    make.add_argument(
        "--slots", type=int, help="sequences of a static cache; what --kv-cache-tokens pays for if not given"
    )
    make.add_argument("--kv-cache-tokens", type=int, help="tokens of all sequences together")
    make.add_argument("--step-tokens", type=int, help="tokens of one engine step while text streams")
    make.add_argument("--max-sequences", type=int)
    make.add_argument("--threads", type=int, help="engine threads; 0, if not given: one a core")
    make.add_argument(
        "--priority-levels",
        type=int,
        metavar="N",
        help="levels of Triton's queue, for tenants whose class has a priority; makes this Triton slower to start the "
        "next request (docs/quotas.md). 0: first come, first served",
    )
    make.add_argument("--calibration", type=Path, help="JSON lines of your own text: what int8 is fitted to")
    make.add_argument("--held-out", type=Path, help="other JSON lines: what the engine is judged by")
    make.add_argument("--strict", action="store_true", help="refuse rather than fall back to another precision")
    _add_tensorrt(make)
    _add_classifier(make)
    make.add_argument(
        "--goldens", type=Path, metavar="FILE", help="JSON lines to ask the finished engine; promote asks them again"
    )
    make.add_argument("--force", action="store_true", default=False, help="publish a version even if nothing changed")
    make.add_argument("--quiet", action="store_true", default=False, help="no progress bars")
    make.set_defaults(run=_build)
    look = commands.add_parser("inspect", help="show what a version is and check its files")
    look.add_argument("path", type=Path, help="a version, a model or a repository")
    look.add_argument("--json", action="store_true")
    look.set_defaults(run=_inspect)
    add_commands(commands)
    return parser


def _add_classifier(make: argparse.ArgumentParser) -> None:
    group = make.add_argument_group("text classification")
    group.add_argument("--max-tokens", type=int, help="longer texts are cut")
    group.add_argument("--max-batch-size", type=int)
    group.add_argument(
        "--preferred-batch-size",
        dest="preferred_batch_sizes",
        type=int,
        action="append",
        metavar="N",
        help="a batch that Triton likes to make; repeatable; 8 and 16 if not given",
    )
    group.add_argument("--queue-delay-microseconds", type=int, help="how long a text waits for company")


def _add_tensorrt(make: argparse.ArgumentParser) -> None:
    group = make.add_argument_group("TensorRT")
    group.add_argument("--workspace-mib", type=int, help="scratch memory of a layer; TensorRT's own limit if not given")
    group.add_argument(
        "--compute-capability",
        dest="compute_capabilities",
        action="append",
        metavar="X.Y",
        help=f"tensorrt-rtx: a GPU to build for, of {', '.join(RTX_CAPABILITIES)}; repeatable; "
        f"{', '.join(RTX_DEFAULT)} if not given",
    )
    group.add_argument("--version-compatible", action="store_true", help="tensorrt: also loads in later versions")
    group.add_argument(
        "--hardware-compatibility",
        choices=HARDWARE_COMPATIBILITY,
        help="tensorrt: also loads on other GPUs; costs speed",
    )


if __name__ == "__main__":
    sys.exit(main())
