"""Stands in as the server's python: takes vLLM's command line, says what vLLM would say, answers as it would.

`STUB` in the environment chooses a defect: dies, silent, adapter, plugin, prompts. Its pid goes to the file `STUB_PID`.
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DEFECT = os.environ.get("STUB", "")


def option(name: str) -> list[str]:
    """The words that follow `name`."""
    if name not in sys.argv:
        return []
    rest = sys.argv[sys.argv.index(name) + 1 :]
    return rest[: next((k for k, word in enumerate(rest) if word.startswith("--")), len(rest))]


NAMES = [*option("--served-model-name"), *(lora.partition("=")[0] for lora in option("--lora-modules"))]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer(200, {"data": [{"id": name} for name in NAMES]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            self.answer(200, {"tokens": [1, 2, 3]})
        elif DEFECT == "adapter" and asked["model"] == NAMES[-1]:
            self.answer(500, {"error": {"message": "mat1 and mat2 shapes cannot be multiplied"}})
        else:
            self.answer(200, {"choices": [{"message": {"content": "2"}}]})

    def answer(self, code: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    Path(os.environ["STUB_PID"]).write_text(str(os.getpid()))
    print("INFO non-default args: {}", flush=True)
    print("INFO Initializing a V1 LLM engine (v0)", flush=True)
    if DEFECT == "silent":
        time.sleep(600)
    if DEFECT == "dies":
        print("(Worker pid=1) ValueError: Available memory on node 0 (1/12 GiB) is less than desired", flush=True)
        sys.exit(1)
    if DEFECT != "plugin":
        print("INFO Using GroupedLora.", flush=True)
    with ThreadingHTTPServer(("127.0.0.1", int(option("--port")[0])), Handler) as server:
        print("INFO Application startup complete.", flush=True)
        server.serve_forever()


main()
