"""`pushtrain schema`: the JSON Schemas of pushtrain.toml and config.json."""

from typing import Literal

from pushtrain.cli.options import Json
from pushtrain.cli.screen import render


def schema(
    which: Literal["pushtrain.toml", "config.json"] = "pushtrain.toml",
    /,
    *,
    json: Json = False,
) -> None:
    """Print the JSON Schema of pushtrain.toml, which gives editors completion and help, or of config.json.

    `pushtrain init` names the first one in the line where Taplo (Even Better TOML) looks for it.

    Args:
        which: The file that it describes.
        json: It is JSON anyway.
    """
    del json
    if which == "config.json":
        from pushtrain.core.wire.cardschema import json_schema
    else:
        from pushtrain.core.jobs.schema import json_schema
    render.emit_json(json_schema())
