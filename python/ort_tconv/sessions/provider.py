"""Unmodified models: the library as an execution provider of onnxruntime 1.23 and newer."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..base.library import get_library_path, import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime

#: Its name in onnxruntime.
PROVIDER = "TConvExecutionProvider"
OLDEST_ONNXRUNTIME = (1, 23)
# Session option: onnxruntime records which provider runs which nodes, where its sessions tell.
_RECORD = "session.record_ep_graph_assignment_info"
_lock = threading.Lock()  # of what follows, and of onnxruntime's list of providers
_added: weakref.WeakKeyDictionary[onnxruntime.SessionOptions, dict[str, str]]
_added = weakref.WeakKeyDictionary()


def unavailable() -> str | None:
    """Why there is no provider in this process, with what to do instead; None if there is one."""
    from .._core import built_with_provider

    version = import_onnxruntime().__version__
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_ONNXRUNTIME:
        oldest = ".".join(map(str, OLDEST_ONNXRUNTIME))
        return (
            f"the execution provider needs onnxruntime {oldest} or newer, and this is {version}: "
            "upgrade it, or convert the model with ort_tconv.convert()"
        )
    if not built_with_provider:
        return (
            "ort_tconv was built without the execution provider, for want of onnxruntime's headers "
            "of version 1.23 or newer: build it where they are, or convert the model with "
            "ort_tconv.convert()"
        )
    return None


def add_provider(
    session_options: onnxruntime.SessionOptions,
    *,
    algorithm: str | None = None,
    exclude: str | Iterable[str] = (),
    strict: bool = False,
    weights: str | None = None,
) -> onnxruntime.SessionOptions:
    """Add the execution provider to ``session_options`` and return them.

    A session created with them takes any model as it is: the provider runs what it runs faster,
    and onnxruntime's CPU provider, which is added after it, the rest.  Providers for other devices
    are to be added before.  Sessions must be given no ``providers=``, which would replace these.
    Calling it again for the same options and with the same arguments does nothing.

    Args:
        session_options: Options for any number of sessions.
        algorithm: ``"auto"``, ``"direct"``, ``"stacked"``, ``"narrow"`` or ``"winograd"``, for all
            nodes; by default the plan decides.
        exclude: Shell-style patterns of names of nodes that are left to others.  A node without a
            name goes by the name of its first output.
        strict: Make it an error to create a session for a model in which the provider takes no
            node.
        weights: ``"float16"``, ``"bfloat16"`` or ``"int8"`` keeps constant float32 weights in 16 or
            8 bits, half or a quarter of the memory and traffic, rounded once as by
            :func:`ort_tconv.convert`; the rest stays float32.

    Raises:
        ImportError: onnxruntime is not installed.
        RuntimeError: onnxruntime is older than 1.23, or ort_tconv was built without the provider;
            :func:`ort_tconv.convert` is the way then.
        TypeError: ``session_options`` is something else.
        ValueError: They have the provider already, with other arguments; or ``exclude`` has a
            pattern with a semicolon.
    """
    ort = import_onnxruntime()
    if not isinstance(session_options, ort.SessionOptions):
        raise TypeError(
            f"session_options is a {type(session_options).__name__}, not a SessionOptions"
        )
    reason = unavailable()
    if reason is not None:
        raise RuntimeError(reason)
    settings = _settings(algorithm, exclude, strict, weights)
    with _lock:
        known = _added.get(session_options)
        if known is not None and known != settings:
            raise ValueError(f"session_options have the provider already, with options {known}")
        if known is None:
            session_options.add_provider_for_devices(_devices(PROVIDER), settings)
            # Named, so that onnxruntime does not warn of nodes that are left to it.
            cpu = _devices("CPUExecutionProvider")
            if cpu:
                session_options.add_provider_for_devices(cpu, {})
            if hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"):
                session_options.add_session_config_entry(_RECORD, "1")
            _added[session_options] = settings
    return session_options


def _settings(
    algorithm: str | None, exclude: str | Iterable[str], strict: bool, weights: str | None
) -> dict[str, str]:
    patterns = [exclude] if isinstance(exclude, str) else list(exclude)
    for pattern in patterns:
        if ";" in pattern:
            raise ValueError(f"exclude: '{pattern}' has a semicolon, which separates patterns")
    settings = {}
    if algorithm is not None:
        settings["algorithm"] = algorithm
    if patterns:
        settings["exclude"] = ";".join(patterns)
    if strict:
        settings["strict"] = "1"
    if weights is not None:
        settings["weights"] = weights
    return settings


def _devices(name: str) -> list[onnxruntime.OrtEpDevice]:
    """Devices of a provider; ours is registered with onnxruntime when it is first asked for."""
    ort = import_onnxruntime()

    def find() -> list[onnxruntime.OrtEpDevice]:
        return [device for device in ort.get_ep_devices() if device.ep_name == name]

    found = find()
    if not found and name == PROVIDER:
        ort.register_execution_provider_library(PROVIDER, get_library_path())
        found = find()
        if not found:
            raise RuntimeError("onnxruntime knows no CPU device, on which the provider could run")
    return found
