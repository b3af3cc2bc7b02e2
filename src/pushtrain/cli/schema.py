"""`pushtrain schema`: the JSON Schema of pushtrain.toml."""

from pushtrain.cli import render
from pushtrain.cli.options import Json
from pushtrain.core.schema import json_schema


def schema(*, json: Json = False) -> None:
    """Print the JSON Schema of pushtrain.toml, which gives editors completion and help.

    `pushtrain init` names it in the file's first line, where Taplo (Even Better TOML) looks for it.

    Args:
        json: It is JSON anyway.
    """
    del json
    render.emit_json(json_schema())
