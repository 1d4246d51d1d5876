"""The command ``ort-tconv export-triton``."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(verbs: Any, epilog: str) -> None:
    """Add the verb to the command line's."""
    parser = verbs.add_parser(
        "export-triton",
        help="write a model repository for Triton Inference Server",
        description="Convert a model and write it, with the operator library and a configuration, "
        "as DIR/NAME of a model repository.",
        epilog=epilog,
    )
    parser.set_defaults(run=_run)
    parser.add_argument("model", metavar="MODEL", help="ONNX model, converted or not")
    parser.add_argument("repository", metavar="DIR", help="folder of the model repository")
    parser.add_argument("--name", help="name of the model in Triton (the file's)")
    parser.add_argument(
        "--server-repository",
        metavar="PATH",
        help="where the server sees DIR, such as /models in a container (where DIR is)",
    )
    parser.add_argument(
        "--instances", type=int, metavar="N", default=1, help="sessions side by side (%(default)s)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="of each session, 0 for all cores (0 for one instance, 1 for each of several)",
    )
    parser.add_argument(
        "--provider",
        metavar="NAME",
        default="CPUExecutionProvider",
        help="CPUExecutionProvider or CUDAExecutionProvider (%(default)s)",
    )
    parser.add_argument(
        "--max-batch",
        type=int,
        metavar="N",
        default=0,
        help="largest batch that Triton may gather; 0 for none (%(default)s)",
    )


def _run(options: argparse.Namespace) -> int:
    from .triton import export_triton

    folder = export_triton(
        options.model,
        options.repository,
        name=options.name,
        server_repository=options.server_repository,
        instances=options.instances,
        threads=options.threads,
        provider=options.provider,
        max_batch=options.max_batch,
    )
    if not options.quiet:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            print(path)
    return 0
