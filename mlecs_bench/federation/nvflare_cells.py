"""What is used of NVFlare: startup kits as its provisioning writes them, and cells, which talk over mutual TLS.

A cell of a device connects to the server's and asks it for work; the server never connects to anybody. Who a device is
says its certificate alone. Nothing but bytes is read from messages.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mlecs_bench.errors import MlecsError, UsageError

CHANNEL, TOPIC = "mlecs-bench", "devices"
SERVER = "server"
SERVER_FILE, DEVICE_FILE = "fed_server.json", "fed_client.json"
Answer = Callable[[str, bytes, str], bytes | None]
"""Takes the name in a device's certificate, what it sends, and the id of its request.

Returns a reply, or None for one that comes later.
"""


@dataclass(frozen=True)
class Kit:
    """A startup kit: the name in its certificate, the server's address, the name in the server's certificate."""

    folder: Path
    name: str
    host: str
    port: int
    scheme: str
    server_identity: str

    def credentials(self, kind: str) -> dict[str, str]:
        """Return the files that prove who this is; `kind` is "client" or "server"."""
        return {
            "ca_cert": str(self.folder / "rootCA.pem"),
            f"{kind}_cert": str(self.folder / f"{kind}.crt"),
            f"{kind}_key": str(self.folder / f"{kind}.key"),
            "connection_security": "mtls",
        }


def read_kit(folder: Path, *, server: bool) -> Kit:
    """Return the startup kit in a folder, or in its folder `startup`; raises UsageError for anything else."""
    wanted = SERVER_FILE if server else DEVICE_FILE
    inner = folder / "startup" if (folder / "startup").is_dir() else folder
    try:
        values = json.loads((inner / wanted).read_text(encoding="utf-8"))
        first = values["servers"][0]
        host, _, port = first["service"]["target"].rpartition(":")
        scheme = first["service"].get("scheme", "grpc")
        identity = first.get("identity", first.get("admin_server", SERVER))
        name = identity if server else values["client"]["fqsn"]
        kit = Kit(inner, name, host, int(port), scheme, identity)
    except OSError as error:
        whose = "the server's" if server else "a device's"
        raise UsageError(
            f"{folder} is not {whose} startup kit ({wanted}: {error.strerror}); 'nvflare provision' writes kits"
        ) from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UsageError(
            f"{inner / wanted} cannot be read ({type(error).__name__}: {error}); provision anew"
        ) from error
    lacking = next((path for path in kit.credentials("server" if server else "client").values()
                    if path.startswith(str(inner)) and not Path(path).is_file()), None)  # fmt: skip  # one search
    if lacking is not None:
        raise UsageError(f"the startup kit in {folder} lacks {Path(lacking).name}; provision anew")
    return kit


class ServerCell:
    """The server's end: it listens at `bind`, and has requests of devices answered whose certificates hold.

    NVFlare does not let go of a port before the process ends, so there is one cell for all runs of a process.
    """

    def __init__(self, kit: Kit, bind: str) -> None:
        self._cell = _cell(kit, f"{kit.scheme}://{bind}:{kit.port}", "server", SERVER)
        self._answer: Answer | None = None
        self._cell.set_message_interceptor(_stranger)
        self._cell.register_request_cb(CHANNEL, TOPIC, self._requested)
        _start(self._cell, f"listen at {bind}:{kit.port}")
        # Its threads would keep the process: they are waited for before `atexit` has its turn.
        threading._register_atexit(self._cell.stop)  # type: ignore[attr-defined]  # as concurrent.futures does

    def open(self, answer: Answer) -> None:
        """Have requests answered by `answer`."""
        self._answer = answer

    def close(self) -> None:
        """Leave requests without an answer, until `open` is called again; devices ask again by themselves."""
        self._answer = None

    def _requested(self, request: Any) -> Any:
        from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, MessagePropKey, ReturnCode
        from nvflare.fuel.f3.cellnet.utils import make_reply

        answer = self._answer
        if answer is None:
            return make_reply(ReturnCode.SERVICE_UNAVAILABLE)
        name = request.get_prop(MessagePropKey.COMMON_NAME)
        content = answer(name, bytes(request.payload or b""), request.get_header(MessageHeaderKey.REQ_ID))
        return None if content is None else make_reply(ReturnCode.OK, body=content)

    def reply(self, name: str, content: bytes, request: str) -> None:
        """Answer a request that was left open; whether that arrives shows when the device asks again."""
        from nvflare.fuel.f3.cellnet.defs import ReturnCode
        from nvflare.fuel.f3.cellnet.utils import make_reply

        self._cell.send_reply(make_reply(ReturnCode.OK, body=content), name, [request], optional=True)


@cache
def server_cell(kit: Kit, bind: str) -> ServerCell:
    """Return the server's cell of this process, which listens from the first call on."""
    return ServerCell(kit, bind)


class DeviceCell:
    """A device's end: it connects to the server, again and again where that fails, and asks."""

    def __init__(self, kit: Kit) -> None:
        url = f"{kit.scheme}://{kit.host}:{kit.port}"
        self._cell = _cell(kit, url, "client", kit.name, {SERVER: kit.server_identity})
        _start(self._cell, f"connect to {kit.host}:{kit.port}")

    def ask(self, content: bytes, seconds: float) -> bytes | None:
        """Return what the server replies, None where nothing comes in so many seconds."""
        from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
        from nvflare.fuel.f3.message import Message

        reply = self._cell.send_request(CHANNEL, TOPIC, SERVER, Message(None, content), timeout=seconds, optional=True)
        good = reply is not None and reply.get_header(MessageHeaderKey.RETURN_CODE, ReturnCode.OK) == ReturnCode.OK
        return bytes(reply.payload or b"") if good else None

    def close(self) -> None:
        """Leave the server."""
        self._cell.stop()


def _cell(kit: Kit, url: str, kind: str, name: str, identities: Mapping[str, str] | None = None) -> Any:
    from nvflare.fuel.f3.cellnet.core_cell import CoreCell

    logging.getLogger("nvflare").setLevel(logging.CRITICAL)  # lost connections are normal, and are made again
    return CoreCell(
        fqcn=name,
        root_url=url,
        secure=True,
        credentials=kit.credentials(kind),
        auth_identity=kit.name,
        auth_identity_map=dict(identities) if identities else None,
    )


def _start(cell: Any, what: str) -> None:
    try:
        cell.start()
    except Exception as error:
        raise MlecsError(f"cannot {what} ({' '.join(str(error).split())[:200]}); look at address and port") from error


def _stranger(message: Any) -> Any:
    """Refuse what is not bytes for the server from the device whose certificate came with the connection."""
    from nvflare.fuel.f3.cellnet.defs import CellChannel, Encoding, MessageHeaderKey, MessagePropKey, ReturnCode
    from nvflare.fuel.f3.cellnet.utils import make_reply

    own = message.get_header(MessageHeaderKey.ORIGIN) == message.get_prop(MessagePropKey.COMMON_NAME)
    here = message.get_header(MessageHeaderKey.DESTINATION) == SERVER
    channel = message.get_header(MessageHeaderKey.CHANNEL) in (CHANNEL, CellChannel.CELLNET)
    plain = message.get_header(MessageHeaderKey.PAYLOAD_ENCODING) in (None, Encoding.BYTES, Encoding.NONE)
    return None if own and here and channel and plain else make_reply(ReturnCode.UNAUTHENTICATED)
