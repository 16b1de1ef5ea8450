"""What `fedmed federation status` shows, as plain JSON. both folders -> HERE -> cli.

Not covered: whether the server or a worker runs at this moment.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedmed.network.approvals import pending
from fedmed.network.authority import Certificate, certificate_warnings, read_certificate
from fedmed.network.federation_folder import FederationFolder
from fedmed.network.policy import SitePolicy
from fedmed.network.site import Site


def is_site(path: Path) -> bool:
    """Whether a folder is a hospital's, not a coordinator's."""
    return (path / "site.json").is_file()


def coordinator_status(folder: FederationFolder) -> dict[str, Any]:
    """Roster, requests, certificates, last run. Takes new requests in as waiting."""
    refused = folder.take_in_requests()
    invitation = folder.invitation()
    certificates = read_certificate(folder.ca_pem), read_certificate(folder.server_pem)
    return {
        "folder": str(folder.path),
        "federation_id": invitation.federation_id,
        "host": invitation.host,
        "port": invitation.port,
        "invitation_fingerprint": invitation.fingerprint,
        "hospitals": [
            {"name": name, **member.model_dump(include={"status", "fingerprint", "joined", "changed", "by"})}
            for name, member in folder.roster().members.items()
        ],
        "requests_refused": list(refused),
        "certificates": [_certificate(one) for one in certificates],
        "warnings": list(certificate_warnings(*certificates)),
        "last_run": _last_run(folder.runs),
    }


def hospital_status(site: Site) -> dict[str, Any]:
    """Whom this hospital trusts, what it accepts, what waits for a person."""
    authority = read_certificate(site.ca_pem)
    return {
        "folder": str(site.path),
        "name": site.name,
        "federation_id": site.federation_id,
        "host": site.host,
        "port": site.port,
        "data": None if site.data is None else str(site.data),
        "fingerprint": site.fingerprint(),
        "pins": {name: pin.hex() for name, pin in site.pins().items()},
        "policy": SitePolicy.read(site.policy_path).summary(),
        "pending": [one.model_dump(mode="json") for one in pending(site.approvals)],
        "certificates": [_certificate(authority)],
        "warnings": list(certificate_warnings(authority)),
    }


def _certificate(certificate: Certificate) -> dict[str, Any]:
    return {
        "file": Path(certificate.path).name,
        "hosts": list(certificate.hosts),
        "ends": certificate.ends.isoformat(),
        "days_left": certificate.days_left(),
    }


def _last_run(runs: Path) -> dict[str, Any] | None:
    """The newest run folder and, where it has a summary, what that says."""
    folders = [path for path in runs.glob("*") if path.is_dir() and not path.name.startswith(".")]
    if not folders:
        return None
    newest = max(folders, key=lambda path: path.stat().st_mtime)
    try:
        summary = json.loads((newest / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        summary = {}
    status = summary.get("status") if isinstance(summary, dict) else None
    return {"run": newest.name, "status": status or "not finished"}
