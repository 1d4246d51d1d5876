# PYTHON_ARGCOMPLETE_OK
"""The command ``ort-tconv``.

Exit status: 0 if all is well, 1 if outputs differ (``validate``, ``convert --check``, ``bench``) or
something that is needed is missing (``info``), 2 for wrong usage and input that cannot be used, 130
after an interrupt (ctrl-C), 141 if who reads the output went away.
"""

from __future__ import annotations

import argparse
import codecs
import difflib
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .base.text import ALIKE, encodable, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

OK, FAILED, BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141

_STATUS = """exit status: 0 if all is well, 1 if outputs differ or something is missing, 2 for wrong
usage and input that cannot be used, 130 after an interrupt"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; wrong usage raises SystemExit(2)."""
    _degrade()
    options = _parse(sys.argv[1:] if arguments is None else list(arguments))
    for name in ("model", "original"):
        if getattr(options, name, None) == "-":
            setattr(options, name, "/dev/stdin")
    try:
        status = options.run(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("ort-tconv: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python would try to flush standard output again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        # onnxruntime's exceptions have no base of their own.
        expected = isinstance(error, OSError | ValueError | ImportError)
        if not expected and not type(error).__module__.startswith("onnxruntime"):
            raise
        print(f"ort-tconv: error: {printable(_in_words(error))}", file=sys.stderr)
        return BAD_INPUT


def _in_words(error: Exception) -> str:
    """The error without its number, which is the system's name for it."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    what = error.strerror[:1].lower() + error.strerror[1:]
    return what if error.filename is None else f"{error.filename}: {what}"


def _degrade() -> None:
    """Let streams that cannot encode a character write one like it instead of failing."""

    def alike(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        found = error.object[error.start : error.end]
        return "".join(ALIKE.get(character, "?") for character in found), error.end

    codecs.register_error("ort_tconv.alike", alike)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="ort_tconv.alike")


# ---- arguments ---------------------------------------------------------------------------------


class _UsageError(Exception):
    def __init__(self, parser: argparse.ArgumentParser, message: str) -> None:
        self.parser = parser
        super().__init__(message)


class _Parser(argparse.ArgumentParser):
    """Takes no abbreviations, and says of an unknown option what its own verb takes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        namespace, rest = super().parse_known_args(args, namespace)
        if rest:
            near = difflib.get_close_matches(rest[0], self._option_string_actions, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            self.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
        return namespace, rest

    def error(self, message: str) -> NoReturn:
        raise _UsageError(self, message)


def _parse(arguments: list[str]) -> argparse.Namespace:
    """The options; ``--json`` may stand before a file or before another argument.

    argparse gives an option with an optional value the next word, before it knows which words the
    positional arguments need, also with ``parse_intermixed_args``: ``inspect --json MODEL`` would
    lack its model.  So the command line is read in both ways, and the first one counts that makes
    sense of all arguments.
    """
    parser = _parser()
    _complete(parser)
    failure: _UsageError | None = None
    for reading in _json_readings(arguments):
        try:
            return parser.parse_args(reading)
        except _UsageError as error:
            failure = failure or error
    assert failure is not None
    failure.parser.print_usage(sys.stderr)
    failure.parser.exit(2, f"{failure.parser.prog}: error: {printable(str(failure))}\n")


def _json_readings(arguments: list[str]) -> list[list[str]]:
    """The arguments with the value of ``--json`` written as part of it, the likelier way first."""
    at = next((i for i, word in enumerate(arguments) if word == "--json"), None)
    if at is None:
        return [arguments]
    before, rest = arguments[:at], arguments[at + 1 :]
    alone = [*before, "--json=-", *rest]
    if not rest or rest[0].startswith("-"):
        return [alone]
    file = [*before, f"--json={rest[0]}", *rest[1:]]
    is_model = Path(rest[0]).suffix in (".onnx", ".ort", ".pb")
    return [alone, file] if is_model else [file, alone]


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks for completions, if argcomplete is installed."""
    if "_ARGCOMPLETE" in os.environ:
        with suppress(ImportError):
            import argcomplete

            argcomplete.autocomplete(parser)


def _parser() -> argparse.ArgumentParser:
    from .base import machine
    from .conversion import triton_verb

    parser = _Parser(
        prog="ort-tconv",
        description="Fast transposed convolution for ONNX Runtime.",
        epilog=_STATUS,
    )
    parser.add_argument(
        "--version", action="version", version=machine.version("ort-tconv") or "unknown"
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    convert = verbs.add_parser(
        "convert", help="rewrite a model to use the operator", epilog=_STATUS
    )
    convert.set_defaults(run=_convert)
    convert.add_argument("model", metavar="IN", help="ONNX model; - reads it from a pipe")
    convert.add_argument("output", metavar="OUT", help="where to write the converted model")
    convert.add_argument(
        "--force",
        action="store_true",
        help="replace OUT although ort-tconv did not write it, or although it is IN",
    )
    for name, purpose in (
        ("include", "rewrite only nodes whose name matches; may be repeated"),
        ("exclude", "leave alone nodes whose name matches; may be repeated"),
    ):
        convert.add_argument(
            f"--{name}", metavar="PATTERN", action="append", default=[], help=purpose
        )
    convert.add_argument(
        "--disable", metavar="PASS", action="append", default=[], help="switch a pass off"
    )
    convert.add_argument(
        "--algorithm",
        metavar="NAME",
        help="store how rewritten nodes are to run: direct turns Winograd off",
    )
    convert.add_argument(
        "--weights",
        metavar="TYPE",
        help="keep constant weights as float16, bfloat16 or int8: half or a quarter of the memory "
        "and traffic, rounded once; everything else stays float32",
    )
    convert.add_argument(
        "--check", action="store_true", help="validate the result; exit with 1 if it differs"
    )
    _add_json(convert)
    convert.add_argument(
        "--tune",
        action="store_true",
        help="time stock's and the rewritten form of each site here, and of plain Convs of stride "
        "1, which are tried only then; keep stock where it wins",
    )
    convert.add_argument(
        "--threads",
        type=int,
        default=0,
        help="threads of the sessions that --tune times (onnxruntime's default)",
    )
    convert.add_argument(
        "--one-file",
        action="store_true",
        help="leave large weights in the model; in OUTPUT.data, sessions can drop them from memory",
    )
    _add_run_options(convert.add_argument_group("running the models (--check, --shape for --tune)"))

    validate = verbs.add_parser(
        "validate", help="compare a converted model with stock onnxruntime", epilog=_STATUS
    )
    validate.set_defaults(run=_validate)
    _add_models(validate)
    _add_run_options(validate, _AS_IT_IS)
    _add_json(validate)

    inspect = verbs.add_parser(
        "inspect", help="show what there is to gain: shapes, arithmetic, memory, plans"
    )
    inspect.set_defaults(run=_inspect)
    inspect.add_argument("model", metavar="MODEL", help="ONNX model, converted or not")
    inspect.add_argument(
        "--session",
        action="store_true",
        help="create a session with the execution provider, and show what it takes and what not",
    )
    _add_shape(inspect)
    inspect.add_argument(
        "--isa", metavar="NAME", help="instruction set to plan for (the best of this processor)"
    )
    inspect.add_argument(
        "--threads", type=int, metavar="N", help="threads to plan for (the cores of this machine)"
    )
    _add_json(inspect)
    inspect.add_argument(
        "--html", metavar="FILE", help="also write a page that needs no other file"
    )

    bench = verbs.add_parser(
        "bench", help="time a converted model against stock onnxruntime", epilog=_STATUS
    )
    bench.set_defaults(run=_bench)
    _add_models(bench)
    _add_inputs(bench)
    bench.add_argument(
        "--threads", type=int, metavar="N", help="of each session (the cores of this machine)"
    )
    for name, kind, default, purpose in (
        ("warm-up", int, 3, "rounds that are not timed"),
        ("repeat", int, 15, "rounds at least that are timed"),
        ("seconds", float, 2.0, "seconds at least that the timed rounds take in all"),
    ):
        bench.add_argument(
            f"--{name}", type=kind, metavar="N", default=default, help=f"{purpose} (%(default)s)"
        )
    _add_provider(bench, "both models", _AS_IT_IS)
    bench.add_argument("--no-nodes", action="store_true", help="do not time node by node")
    bench.add_argument("--no-memory", action="store_true", help="do not measure memory")
    _add_json(bench)
    bench.add_argument(
        "--plot", metavar="FILE", help="also draw bars for each node, as .png, .svg or .pdf"
    )

    triton_verb.add_parser(verbs, _STATUS)

    info = verbs.add_parser(
        "info", help="show versions, processor, library and providers", epilog=_STATUS
    )
    info.set_defaults(run=_info)
    _add_json(info)
    for verb in verbs.choices.values():
        verb.add_argument(
            "-q", "--quiet", action="store_true", help="print nothing but errors and differences"
        )
    return parser


_Group = argparse._ActionsContainer


def _add_models(group: _Group) -> None:
    group.add_argument("original", metavar="ORIGINAL", help="ONNX model as it was")
    group.add_argument(
        "converted",
        metavar="CONVERTED",
        nargs="?",
        help="as converted; by default ORIGINAL is converted",
    )


def _add_run_options(group: _Group, provider_note: str = "") -> None:
    _add_inputs(group)
    group.add_argument(
        "--runs", type=int, default=1, help="number of runs with each set of inputs (%(default)s)"
    )
    _add_provider(group, "the converted model", provider_note)
    group.add_argument(
        "--rtol",
        type=float,
        help="error allowed, relative to an output's largest magnitude (derived from the model)",
    )
    group.add_argument(
        "--atol", type=float, default=0.0, help="absolute error allowed in addition (%(default)s)"
    )


def _add_inputs(group: _Group) -> None:
    _add_shape(group)
    group.add_argument(
        "--inputs",
        metavar="PATH",
        help=".npz file with arrays by input name, or a folder of ONNX test data (test_data_set_*, "
        "or input_*.pb); inputs that it lacks are generated",
    )
    group.add_argument("--seed", type=int, default=0, help="of the generated inputs (%(default)s)")
    group.add_argument(
        "--distribution",
        metavar="NAME",
        default="normal",
        help="of generated floats: normal, uniform or integers, or with parameters, as in "
        "uniform:-1,1 (%(default)s)",
    )


def _add_shape(group: _Group) -> None:
    group.add_argument(
        "--shape",
        metavar="NAME:DIMS",
        action="append",
        default=[],
        type=_shape,
        help="shape of an input, as in image:1,3,224,224; may be repeated",
    )


_AS_IT_IS = "; TConvExecutionProvider runs the model as it is, in the converted one's place"


def _add_provider(group: _Group, whose: str, note: str) -> None:
    group.add_argument(
        "--provider",
        metavar="NAME",
        action="append",
        help=f"execution provider of {whose}; may be repeated, in order of priority{note}",
    )


def _providers(options: argparse.Namespace) -> dict[str, Any]:
    from .sessions.provider import PROVIDER

    return {"provider": True} if options.provider == [PROVIDER] else {"providers": options.provider}


def _add_json(group: _Group) -> None:
    group.add_argument(
        "--json",
        metavar="FILE",
        nargs="?",
        const="-",
        help="print JSON instead of tables, or write it to a file besides",
    )


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, colon, dims = text.rpartition(":")
    try:
        if not colon or not name:
            raise ValueError
        return name, tuple(int(dim) for dim in dims.split(",") if dims)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not NAME:DIMS, as in image:1,3,224,224"
        ) from None


# ---- verbs -------------------------------------------------------------------------------------


def _convert(options: argparse.Namespace) -> int:
    from .conversion.convert import convert_with_report

    if options.json and options.check:
        raise ValueError("--json holds one report: use it with convert or with validate")
    result = convert_with_report(
        options.model,
        options.output,
        include=options.include,
        exclude=options.exclude,
        disable=options.disable,
        algorithm=options.algorithm,
        weights=options.weights,
        tune=options.tune,
        shapes=dict(options.shape),
        threads=options.threads,
        progress=not options.quiet,
        load_external_data=False,
        force=options.force,
        one_file=options.one_file,
    )
    if options.json != "-":
        _console(options.quiet).print(
            f"{result.report.summary}: {options.output}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    _show(result, options)
    return _compare(options.model, options.output, options) if options.check else OK


def _validate(options: argparse.Namespace) -> int:
    return _compare(options.original, options.converted, options)


def _compare(original: str, converted: str | None, options: argparse.Namespace) -> int:
    from .validation.validate import validate

    report = validate(
        original,
        converted,
        options.inputs,
        shapes=dict(options.shape),
        seed=options.seed,
        distribution=options.distribution,
        runs=options.runs,
        **_providers(options),
        rtol=options.rtol,
        atol=options.atol,
    )
    verdict = "[green]outputs agree[/]" if report.ok else "[red]outputs differ[/]"
    _show(report, options, verdict)
    if options.quiet and not report.ok:
        print(f"ort-tconv: {printable(str(report))}", file=sys.stderr)
    return OK if report.ok else FAILED


def _inspect(options: argparse.Namespace) -> int:
    if options.session:
        return _inspect_session(options)
    from .inspection.inspect import inspect

    inspection = inspect(
        options.model, shapes=dict(options.shape), isa=options.isa, threads=options.threads
    )
    if options.html:
        _write(options.html, inspection.to_html(), options)
    _show(inspection, options)
    return OK


def _inspect_session(options: argparse.Namespace) -> int:
    from .base.library import import_onnxruntime
    from .converters.model_io import read_model
    from .sessions.provider import add_provider
    from .sessions.provider_report import open_with_report

    session_options = import_onnxruntime().SessionOptions()
    session_options.log_severity_level = 3
    _, report = open_with_report(read_model(options.model), add_provider(session_options))
    _show(report, options)
    return OK


def _bench(options: argparse.Namespace) -> int:
    from .benchmarking.benchmark import benchmark
    from .benchmarking.plot import check

    if options.plot:  # what would fail, fails before the work
        check(options.plot)
        _check_folder(options.plot)
    result = benchmark(
        options.original,
        options.converted,
        options.inputs,
        shapes=dict(options.shape),
        seed=options.seed,
        distribution=options.distribution,
        threads=options.threads,
        warm_up=options.warm_up,
        repeat=options.repeat,
        seconds=options.seconds,
        **_providers(options),
        per_node=not options.no_nodes,
        memory=not options.no_memory,
        progress=not options.quiet,
    )
    if options.plot:
        _write(options.plot, result.plot, options)
    _show(result, options)
    return OK if result.validation.ok else FAILED


def _info(options: argparse.Namespace) -> int:
    from .installation.environment import environment

    found = environment()
    _show(found, options, wrap=False)  # a path that is cut is of no use
    return OK if found.ok else FAILED


# ---- output ------------------------------------------------------------------------------------


def _show(
    report: Any, options: argparse.Namespace, verdict: str | None = None, *, wrap: bool = True
) -> None:
    """Print a report as tables, or as JSON; a file of JSON comes besides the tables."""
    if options.json:
        from .base import machine

        content = {"version": machine.version("ort-tconv"), **report.to_dict()}
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        if options.json == "-":
            sys.stdout.write(text)
            return
        _write(options.json, text, options)
    console = _console(options.quiet)
    console.print(report, highlight=False, soft_wrap=not wrap)
    if verdict:
        console.print(verdict)


def _console(quiet: bool) -> Console:
    """A console that leaves it to :func:`main` what is to happen when its reader goes away, and
    passes on no commands to the terminal that names in a model may hold."""
    from rich.console import Console

    class Ours(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

        def render_str(self, text: str, **options: Any) -> Text:
            # Before tables are laid out: what stands for a character may be wider.
            return super().render_str(encodable(printable(text), self.encoding), **options)

    return Ours(quiet=quiet)


def _write(path: str, content: str | Callable[[Path], None], options: argparse.Namespace) -> None:
    """Write a report's file: ``content`` is its text, or writes it to the path it is given."""
    from .converters.output import written_whole

    _check_folder(path)
    for name in ("model", "output", "original", "converted"):
        model = getattr(options, name, None)
        if (
            model
            and Path(path).exists()
            and os.path.exists(model)
            and os.path.samefile(path, model)
        ):
            raise FileExistsError(f"{path} is a model; write the report to another file")
    with written_whole(Path(path)) as part:
        if isinstance(content, str):
            part.write_text(content, encoding="utf-8")
        else:
            content(part)


def _check_folder(path: str) -> None:
    folder = Path(path).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder to write {Path(path).name} to")
