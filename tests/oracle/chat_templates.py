"""The prompt that a model's own chat template makes of " hi ", beside kvsweep's template of that name.

    chat_templates.py NAME=FILE.jinja[,bos=TOKEN][,key=value] …      (transformers 5.24)

FILE holds the chat_template of the published tokenizer_config.json; templates are not redistributed here. The texts stand in
tests/test_tok.c: test_templates. Runs that gave them: qwen3 with enable_thinking=false, llama3.1 with date_string="26 Jul 2024".
"""
import json
import sys

from transformers.utils.chat_template_utils import render_jinja_template


def main():
    for arg in sys.argv[1:]:
        name, rest = arg.split("=", 1)
        path, *more = rest.split(",")
        keys = dict(m.split("=", 1) for m in more)
        keys = {k: {"false": False, "true": True}.get(v, v) for k, v in keys.items()}
        keys["bos_token"] = keys.pop("bos", "")
        out, _ = render_jinja_template(conversations=[[{"role": "user", "content": " hi "}]], chat_template=open(path).read(),
                                       add_generation_prompt=True, **keys)
        print(name, json.dumps(out[0]))


main()
