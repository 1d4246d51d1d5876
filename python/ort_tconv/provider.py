"""Unmodified models: the library as an execution provider of onnxruntime 1.23 and newer."""

from __future__ import annotations

import json
import tempfile
import threading
import weakref
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._library import get_library_path, import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime
    from rich.console import Console, ConsoleOptions, RenderResult

    from .converters import Model

#: Its name in onnxruntime.
PROVIDER = "TConvExecutionProvider"
OLDEST_ONNXRUNTIME = (1, 23)
# Session option: onnxruntime records which provider runs which nodes, where its sessions tell.
_RECORD = "session.record_ep_graph_assignment_info"
# Session option, and dynamic option, that names the file to which the report goes.
_REPORT = f"ep.{PROVIDER.lower()}.report"

_lock = threading.Lock()  # of what follows, and of onnxruntime's list of providers
_added: weakref.WeakKeyDictionary[onnxruntime.SessionOptions, dict[str, str]]
_added = weakref.WeakKeyDictionary()


def unavailable() -> str | None:
    """Why there is no provider in this process, with what to do instead; None if there is one."""
    from . import _core

    version = import_onnxruntime().__version__
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_ONNXRUNTIME:
        oldest = ".".join(map(str, OLDEST_ONNXRUNTIME))
        return (
            f"the execution provider needs onnxruntime {oldest} or newer, and this is {version}: "
            "upgrade it, or convert the model with ort_tconv.convert()"
        )
    if not _core.built_with_provider:
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
        algorithm: One of ``"auto"``, ``"direct"``, ``"narrow"`` and ``"winograd"``, for all nodes;
            by default the plan decides.
        exclude: Shell-style patterns of names of nodes that are left to others.  A node without a
            name goes by the name of its first output.
        strict: Make it an error to create a session for a model in which the provider takes no
            node.
        weights: ``"float16"`` or ``"bfloat16"`` keeps constant float32 weights in 16 bits, half
            the memory and traffic, rounded once; the rest stays float32.

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


# ---- what it took, and what not ----------------------------------------------------------------


@dataclass(frozen=True)
class ProviderSite:
    """A place in a model that concerns the provider."""

    node: str  #: the node's name, or that of its first output if it has none
    op_type: str  #: of the first of its nodes
    where: str  #: ``"graph"`` or ``"subgraph <name>"``
    pattern: str  #: ``conv_transpose``, ``upsample_conv``, ``subpixel_conv``, ``zero_insertion``,
    #: ``quantized``, ``quantized_weights``, or ``epilogue`` of what could not be fused
    nodes: tuple[str, ...]  #: all that became one node of the provider's
    claimed: bool
    reason: str  #: why not, if it is not
    #: who runs it by onnxruntime's own record; empty if the session keeps none, or does not have it
    provider: str = ""
    kernel: str = ""  #: the node that stands for it, as onnxruntime's profiles call it


@dataclass
class ProviderReport:
    """What the provider runs in a session, and what it left to others.

    Nodes go by the names they have after onnxruntime's basic optimisations, which come first.
    ``errors`` are the provider's own, after which onnxruntime runs a graph without it.  What it
    claims is compared with onnxruntime's record of who runs what, where there is one (1.24).
    """

    sites: list[ProviderSite]
    errors: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return asdict(self)

    def __str__(self) -> str:
        claimed = [site for site in self.sites if site.claimed]
        left = [site for site in self.sites if not site.claimed]
        lines = [f"{len(claimed)} claimed, {len(left)} left"]
        lines += [f"  {s.node} ({s.where}): {', '.join(s.nodes)} ({s.pattern})" for s in claimed]
        lines += [f"  {s.node} ({s.where}): {s.op_type} left: {s.reason}" for s in left]
        lines += [f"  error: {error}" for error in self.errors]
        return "\n".join(lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.markup import escape
        from rich.table import Table

        table = Table("node", "result", title="what the provider runs", title_justify="left")
        for site in self.sites:
            nodes = escape(", ".join(site.nodes))
            result = f"[green]claimed[/] ({site.pattern}): {nodes}"
            if not site.claimed:
                reason = escape(site.reason)
                result = f"[yellow]{site.op_type} left[/] ({site.pattern}):\n{reason}"
            where = "" if site.where == "graph" else f"\n[dim]{escape(site.where)}[/]"
            table.add_row(escape(site.node) + where, result)
        yield table if self.sites else "the model has none of the operators that concern it"
        for error in self.errors:
            yield f"[red]error:[/] {escape(error)}"


def provider_report(session: onnxruntime.InferenceSession) -> ProviderReport:
    """What the provider runs in ``session``, and why not the rest of what concerns it.

    Raises:
        RuntimeError: The session does not have the provider, or onnxruntime's sessions take no
            dynamic options yet; ``ort-tconv inspect --session MODEL`` needs none.
    """
    if PROVIDER not in session.get_providers():
        raise RuntimeError(
            "the session does not have the provider: create it with ort_tconv.add_provider()"
        )
    if not hasattr(session, "set_ep_dynamic_options"):
        version = import_onnxruntime().__version__
        raise RuntimeError(
            f"sessions of onnxruntime {version} cannot be asked; `ort-tconv inspect --session` "
            "reports on a model"
        )
    with tempfile.TemporaryDirectory(prefix="ort_tconv-") as folder:
        path = Path(folder) / "report.json"
        session.set_ep_dynamic_options({_REPORT: str(path)})
        return _checked(_read(path), session)


def open_with_report(
    model: Model, session_options: onnxruntime.SessionOptions
) -> tuple[onnxruntime.InferenceSession, ProviderReport]:
    """A session of a model, with options made for it alone that have the provider."""
    from .session import open_session

    with tempfile.TemporaryDirectory(prefix="ort_tconv-") as folder:
        path = Path(folder) / "report.json"
        session_options.add_session_config_entry(_REPORT, str(path))
        session = open_session(model, session_options, None)
        return session, _checked(_read(path), session)


def _read(path: Path) -> ProviderReport:
    if not path.is_file():  # a model without a node has nothing to ask for
        return ProviderReport([], [])
    content = json.loads(path.read_text())
    sites = [ProviderSite(**{**site, "nodes": tuple(site["nodes"])}) for site in content["sites"]]
    return ProviderReport(sites, content["errors"])


def _checked(report: ProviderReport, session: onnxruntime.InferenceSession) -> ProviderReport:
    """The report, each site with the provider that onnxruntime's record names."""
    record = _record(session)
    if record is None:
        return report
    ours = [names for provider, names in record if provider == PROVIDER]
    owner = {name: provider for provider, names in record for name in names if name}
    sites = []
    for site in report.sites:
        provider = next((owner[name] for name in site.nodes if name in owner), "")
        if site.claimed:
            # Nodes without a name have none in the record.
            found = next((names for names in ours if _stands_for(names, site)), None)
            if found is None:
                whose = f"{provider} has it" if provider else "it is not there"
                reason = f"by onnxruntime's record of providers {whose}"
                site = replace(site, claimed=False, reason=reason)
            else:
                ours.remove(found)
                provider = PROVIDER
        sites.append(replace(site, provider=provider))
    unknown = [f"onnxruntime's record has {names}, which is no site" for names in ours]
    return ProviderReport(sites, [*report.errors, *unknown])


def _stands_for(names: list[str], site: ProviderSite) -> bool:
    return len(names) == len(site.nodes) and {name for name in names if name} <= set(site.nodes)


def _record(session: onnxruntime.InferenceSession) -> list[tuple[str, list[str]]] | None:
    """Providers, and the names of the nodes that they have in a group; None without a record."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    try:
        groups = session.get_provider_graph_assignment_info()
    except Exception:  # onnxruntime's types vary; the session was created without the option
        return None
    return [(group.ep_name, [node.name for node in group.get_nodes()]) for group in groups]
