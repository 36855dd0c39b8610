"""Startup kits as NVFlare's own provisioning writes them, for a federation on two machines."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PROJECT = """\
api_version: 3
name: federation
description: two machines
participants:
  - {{name: server, type: server, org: lab, fed_learn_port: {port}, host_name: {host}, default_host: {host}}}
{devices}
  - {{name: admin@lab.org, type: admin, org: lab, role: project_admin}}
builders:
  - path: nvflare.lighter.impl.workspace.WorkspaceBuilder
    args: {{template_file: [master_template.yml]}}
  - path: nvflare.lighter.impl.static_file.StaticFileBuilder
    args: {{config_folder: config, scheme: {scheme}}}
  - path: nvflare.lighter.impl.cert.CertBuilder
  - path: nvflare.lighter.impl.signature.SignatureBuilder
"""


def provision(folder: Path, host: str, port: int, devices: Sequence[str], scheme: str = "tcp") -> Path:
    """Write the kits of a server and of devices; return the folder in which they lie by name."""
    rows = "\n".join(f"  - {{name: {name}, type: client, org: of_{name}}}" for name in devices)
    (folder / "project.yml").write_text(PROJECT.format(host=host, port=port, devices=rows, scheme=scheme))
    subprocess.run([sys.executable, "-m", "nvflare.lighter.provision", "-p", "project.yml", "-w", "kits"],
                   cwd=folder, check=True, capture_output=True)  # fmt: skip  # one call
    return folder / "kits" / "federation" / "prod_00"
