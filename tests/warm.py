"""A warm interpreter: it has imported the heavy packages once, and forks for every program that it is asked to run.

A cold start takes seconds of processor time, a fork next to none. A program has its own folder, environment, import
path, arguments and streams, and finds nothing of mlecs-bench imported. Whatever it does with processes of its own, or
with what is cold, is tested elsewhere, in real ones.

Run as a script with the path of a socket it is that interpreter; with the path, a module and its arguments it asks it
to run the module, and ends as that ends.
"""

from __future__ import annotations

import array
import contextlib
import importlib
import json
import os
import runpy
import socket
import sys

PACKAGES = (
    "torch", "transformers.models.gpt2.modeling_gpt2", "transformers.models.gptj.modeling_gptj",
    "transformers.models.llama.modeling_llama", "transformers.models.roberta.modeling_roberta", "peft", "datasets",
    "pandas", "rouge_score.rouge_scorer", "bert_score", "matplotlib.figure", "jsonschema", "jinja2",
)  # fmt: skip  # what commands import before they begin to work
STREAMS = 3
"""Standard input, output and error, which a program has from the one who asks."""


def ask(path: str, module: str, arguments: list[str]) -> int:
    """Have a module run as `python -m` does, with the folder, environment and streams of this process."""
    request = {"module": module, "arguments": arguments, "environment": dict(os.environ)}
    request["folder"] = os.getcwd()  # noqa: PTH109  # whoever asks imports little
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        streams = array.array("i", range(STREAMS))
        connection.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
        connection.sendall(json.dumps(request).encode())
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(1)
    return answer[0] if answer else 1


def asked(listener: socket.socket) -> dict[str, object]:
    """Fork for whoever asks; return what is asked for, in the process that is to do it and in no other."""
    while True:
        connection, _ = listener.accept()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            listener.close()
            _, streams, _, _ = socket.recv_fds(connection, 1, STREAMS)
            request = json.load(connection.makefile("rb"))
            program = os.fork()
            if program == 0:
                connection.close()
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                    os.close(stream)
                return request
            code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
            connection.sendall(bytes([code % 256]))
            os._exit(0)
        connection.close()


def main(path: str) -> None:
    """Listen, import, and be the interpreter of all that is asked for."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("listening", flush=True)
        for name in PACKAGES:
            with contextlib.suppress(ImportError):  # some belong to extras
                importlib.import_module(name)
        request = asked(listener)
    folder, environment = request["folder"], request["environment"]
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    sys.path[:1] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = [request["module"], *request["arguments"]]
    importlib.invalidate_caches()
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    path, *rest = sys.argv[1:]
    if rest:
        sys.exit(ask(path, rest[0], rest[1:]))
    main(path)
