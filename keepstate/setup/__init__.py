"""What training, serving and the laptop's model need beside the core, each made once: `keepstate setup`.

`environments` knows the two Python environments of Axolotl and vLLM, `installing` makes them, `basemodel` and `qwen3`
make the laptop's model and Qwen3's tokenizer. `inside/` runs in `.venv-train`. Installs nothing into the core.
"""
