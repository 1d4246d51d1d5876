"""Asks the execution provider what it took of a model, and what not."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..base.library import import_onnxruntime
from ..converters.model_io import Model
from .provider import PROVIDER
from .results import ProviderData, ProviderSite
from .session import open_session
from .table import tables

if TYPE_CHECKING:
    import onnxruntime
    from rich.console import Console, ConsoleOptions, RenderResult

# Session option, and dynamic option, that names the file to which the report goes.
_REPORT = f"ep.{PROVIDER.lower()}.report"


class ProviderReport(ProviderData):
    """What the provider runs in a session, and what it left to others.

    Nodes go by the names they have after onnxruntime's basic optimisations, which come first.
    ``errors`` are the provider's own, after which onnxruntime runs a graph without it.  What it
    claims is compared with onnxruntime's record of who runs what, where there is one (1.24).
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return tables(self)


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
