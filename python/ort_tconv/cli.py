"""The command ``ort-tconv``.

Exit status: 0 if all is well, 1 if outputs differ (``validate``, ``convert --check``) or something
is missing (``info``), 2 for wrong usage and input that cannot be used.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

OK, FAILED, BAD_INPUT = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; wrong usage raises SystemExit(2)."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except Exception as error:
        # onnxruntime's exceptions have no base of their own.
        expected = isinstance(error, OSError | ValueError | ImportError)
        if not expected and not type(error).__module__.startswith("onnxruntime"):
            raise
        print(f"ort-tconv: error: {error}", file=sys.stderr)
        return BAD_INPUT


# ---- arguments ---------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ort-tconv", description="Fast transposed convolution for ONNX Runtime."
    )
    parser.add_argument("--version", action="version", version=_version("ort-tconv") or "unknown")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    convert = verbs.add_parser("convert", help="rewrite a model to use the operator")
    convert.set_defaults(run=_convert)
    convert.add_argument("model", metavar="IN", help="ONNX model")
    convert.add_argument("output", metavar="OUT", help="where to write the converted model")
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
        "--check", action="store_true", help="validate the result; exit with 1 if it differs"
    )
    convert.add_argument(
        "--tune",
        action="store_true",
        help="time stock's and the rewritten form of each site here; keep stock where it wins",
    )
    convert.add_argument(
        "--threads",
        type=int,
        default=0,
        help="threads of the sessions that --tune times (onnxruntime's default)",
    )
    _add_run_options(convert.add_argument_group("running the models (--check, --shape for --tune)"))

    validate = verbs.add_parser("validate", help="compare a converted model with stock onnxruntime")
    validate.set_defaults(run=_validate)
    validate.add_argument("original", metavar="ORIGINAL", help="ONNX model as it was")
    validate.add_argument(
        "converted",
        metavar="CONVERTED",
        nargs="?",
        help="as converted; by default ORIGINAL is converted",
    )
    _add_run_options(validate)

    info = verbs.add_parser("info", help="show versions, processor, library and providers")
    info.set_defaults(run=_info)
    return parser


def _add_run_options(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--shape",
        metavar="NAME:DIMS",
        action="append",
        default=[],
        type=_shape,
        help="shape of an input, as in image:1,3,224,224; may be repeated",
    )
    group.add_argument("--inputs", metavar="NPZ", help="arrays by input name; others are generated")
    group.add_argument("--seed", type=int, default=0, help="of the generated inputs (%(default)s)")
    group.add_argument("--runs", type=int, default=1, help="number of runs (%(default)s)")
    group.add_argument(
        "--provider",
        metavar="NAME",
        action="append",
        help="execution provider of the converted model; may be repeated, in order of priority",
    )
    group.add_argument(
        "--rtol",
        type=float,
        help="error allowed, relative to an output's largest magnitude (derived from the model)",
    )
    group.add_argument(
        "--atol", type=float, default=0.0, help="absolute error allowed in addition (%(default)s)"
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
    from rich.console import Console

    from .converters import convert_with_report

    result = convert_with_report(
        options.model,
        options.output,
        include=options.include,
        exclude=options.exclude,
        disable=options.disable,
        algorithm=options.algorithm,
        tune=options.tune,
        shapes=dict(options.shape),
        threads=options.threads,
        load_external_data=False,
    )
    console = Console()
    console.print(result.report)
    if result.tuning is not None:
        console.print(result.tuning)
    console.print(
        f"{len(result.changes)} rewritten, {len(result.skips)} left alone: {options.output}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return _compare(options.model, options.output, options) if options.check else OK


def _validate(options: argparse.Namespace) -> int:
    return _compare(options.original, options.converted, options)


def _compare(original: str, converted: str | None, options: argparse.Namespace) -> int:
    from rich.console import Console

    from .validation import validate

    report = validate(
        original,
        converted,
        _load_arrays(options.inputs),
        shapes=dict(options.shape),
        seed=options.seed,
        runs=options.runs,
        providers=options.provider,
        rtol=options.rtol,
        atol=options.atol,
    )
    console = Console()
    console.print(report)
    console.print("[green]outputs agree[/]" if report.ok else "[red]outputs differ[/]")
    return OK if report.ok else FAILED


def _load_arrays(path: str | None):
    import numpy as np

    if path is None:
        return None
    try:
        content = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"--inputs {path}: not an .npz file ({error})") from None
    if not isinstance(content, np.lib.npyio.NpzFile):
        raise ValueError(f"--inputs {path}: a single array; an .npz file with named ones is needed")
    with content as arrays:
        return dict(arrays)


def _info(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.markup import escape

    rows, missing = _facts()
    console = Console()
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        console.print(f"[bold]{name:<{width}}[/]  {escape(value)}", highlight=False, soft_wrap=True)
    for line in missing:
        console.print(f"[yellow]missing:[/] {escape(line)}", highlight=False, soft_wrap=True)
    return FAILED if missing else OK


def _facts() -> tuple[list[tuple[str, str]], list[str]]:
    """What there is, and what is missing."""
    from ._library import get_library_path, import_onnxruntime

    rows = [("ort-tconv", _version("ort-tconv") or "unknown"), ("python", sys.version.split()[0])]
    for name in ("onnx", "onnx-ir", "numpy"):
        rows.append((name, _version(name) or "none"))
    missing = []

    try:
        onnxruntime = import_onnxruntime()
    except ImportError as error:
        rows.append(("onnxruntime", "none"))
        missing.append(str(error))
    else:
        rows.append(("onnxruntime", onnxruntime.__version__))
        rows.append(("its providers", ", ".join(onnxruntime.get_available_providers())))
    rows.append(("extensions", _version("onnxruntime-extensions") or "none"))

    rows.append(("machine", f"{platform.system()} {platform.machine()}"))
    processor, features = _processor()
    rows.append(("processor", processor))
    rows.append(("features", " ".join(features) or "unknown"))
    try:
        from . import _core

        rows.append(("library", get_library_path()))
        rows.append(("instruction set", f"{_core.isa()} of {', '.join(_core.supported_isas())}"))
        rows.append(("CUDA kernels", "built in" if _core.built_with_cuda else "not built in"))
        if not missing:
            from .session import available_providers

            rows.append(("usable providers", ", ".join(available_providers())))
    except (ImportError, ValueError) as error:  # ValueError: a wrong ORT_TCONV_ISA
        rows.append(("library", "none"))
        missing.append(str(error))
    return rows, missing


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> tuple[str, list[str]]:
    """Name of the processor, and those of its features that decide which kernels run."""
    facts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    features = (facts.get("flags") or facts.get("Features") or "").split()
    telling = ("sse4", "avx", "fma", "f16c", "amx", "asimd", "fphp", "bf16", "sve")
    shown = sorted({feature for feature in features if feature.startswith(telling)})
    return facts.get("model name") or platform.processor() or "unknown", shown
