"""Stands in as the server's python: takes vLLM's command line, says what vLLM would say, answers as it would.

What Ray Serve LLM is told holds that command line, too.

`STUB` in the environment chooses a defect: dies, silent, floods (so that the disk of its log is full), adapter, plugin,
prompts, untold (no log-probabilities), or NAME=base (answers as the base does); DEFECT@PORT is that of one server
alone. Its pid goes to the file `STUB_PID`.
"""

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from stub_http import HttpServer, JsonHandler

KEY = os.environ.get("VLLM_API_KEY", "")
DEFECT, _, WHERE = os.environ.get("STUB", "").partition("@")


if sys.argv[-1].startswith('{"address"'):
    sys.argv[1:] = json.loads(sys.argv[-1])["vllm"]


def option(name: str) -> list[str]:
    """The words that follow `name`."""
    if name not in sys.argv:
        return []
    rest = sys.argv[sys.argv.index(name) + 1 :]
    return rest[: next((k for k, word in enumerate(rest) if word.startswith("--")), len(rest))]


if WHERE not in ("", *option("--port")):
    DEFECT = ""
NAMES = [*option("--served-model-name"), *(lora.partition("=")[0] for lora in option("--lora-modules"))]
MODEL = Path(*option("--model"))


def ids(messages: list[dict[str, str]]) -> list[int]:
    """Of the prompt, where the model has a tokenizer."""
    if DEFECT == "prompts" or not (MODEL / "tokenizer.json").exists():
        return [1, 2, 3]
    from keepstate.dataset import load_template
    from keepstate.dataset.tokenizer import TextTokenizer

    template = load_template(Path(option("--chat-template")[0]), MODEL)
    return TextTokenizer(MODEL).ids(template.render(messages, generation_prompt=True))


class Handler(JsonHandler):
    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        wanted = f"Bearer {KEY}"
        if KEY and self.path != "/health" and self.headers["Authorization"] != wanted:
            self.close_connection = True
            self.send(401, {"error": "Unauthorized"})
            return False
        return True

    def do_GET(self) -> None:
        self.send(200, {"data": [{"id": name, "parent": NAMES[0] if name != NAMES[0] else None} for name in NAMES]})

    def do_POST(self) -> None:
        asked = self.asked()
        if self.path == "/tokenize":
            self.send(200, {"tokens": ids(asked["messages"])})
        elif self.path == "/v1/completions":
            name = "base" if f"{asked['model']}=base" == DEFECT else asked["model"]
            places = [None, {"7": {"logprob": -1.0 - NAMES.index(name), "rank": 1}}]
            told = {} if DEFECT == "untold" else {"prompt_logprobs": places}
            self.send(200, {"choices": [{"text": "", **told} for _ in asked["prompt"]]})
        elif DEFECT == "adapter" and asked["model"] == NAMES[-1]:
            self.send(500, {"error": {"message": "mat1 and mat2 shapes cannot be multiplied"}})
        else:
            self.send(200, {"choices": [{"message": {"content": "2"}}]})


def main() -> None:
    Path(os.environ["STUB_PID"]).write_text(str(os.getpid()))
    print("INFO non-default args: {}", flush=True)
    print("INFO Initializing a V1 LLM engine (v0)", flush=True)
    if DEFECT == "floods":
        with suppress(OSError):
            print("x" * 2**20, flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if DEFECT == "silent":
        time.sleep(600)
    if DEFECT == "dies":
        print("(Worker pid=1) ValueError: Available memory on node 0 (1/12 GiB) is less than desired", flush=True)
        sys.exit(1)
    if DEFECT != "plugin":
        print("INFO Using GroupedLora.", flush=True)
    with HttpServer((option("--host")[0], int(option("--port")[0])), Handler) as server:
        print("INFO Application startup complete.", flush=True)
        server.serve_forever()


main()
