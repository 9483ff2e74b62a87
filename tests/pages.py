"""Pages of the documentation that are made from the code.

python -m tests.pages schema > docs/record.schema.json
python -m tests.pages settings > docs/settings.md
python -m tests.pages troubleshooting   # writes the pages of docs/troubleshooting
"""

import json
import sys
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from fixtures.base.settings import OPTIONS
from fixtures.diagnosis.failure_modes import FailureMode, catalogue
from fixtures.record.model import SCHEMA, Record
from fixtures.report.markup import link

CATALOGUE = Path(__file__).parent.parent / "docs/troubleshooting"
PARTS = {"A": "Proxmox VE and LXC", "B": "NVIDIA", "C": "Docker", "D": "vLLM and the model", "E": "Any program"}
ROOMS = {"H": "a program on the node", "C": "a program in the container", "D": "the server"}
HEAD = """# Troubleshooting

<!-- made by `python -m tests.pages troubleshooting`, from fixtures/diagnosis/failure_modes.toml -->

The suite compares each failed check with these failure modes. Terminal and report show the match; the record has its
id. Run the commands after `H:` on the node, after `C:` in container CTID, after `D:` in the test server's container.
CTID is the template, PARENT its parent, SNAPSHOT the snapshot of the template; a run fills in its own.
Where none of A to D fits, a mode of E quotes the program's deciding sentence and says what such a reason means;
a run fills in WHERE (one of H, C, D) the program ran and the PATH that it names; OBJECT is what the
sentence speaks of, INDEX the PCI address of the GPU in it, SAYS the sentence itself.
"""


# --- the schema of a record, from its data model -----------------------------------------------------

PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def schema() -> dict[str, Any]:
    """JSON Schema 2020-12 for `record.json`; where the node or a program decides on the fields, they are left open."""
    found = _of(Record)
    found["properties"]["schema"] = {"const": SCHEMA}
    found["required"] = ["schema", *found["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A record of phoenix-920", **found}


def _of(form: Any) -> dict[str, Any]:
    origin, parts = typing.get_origin(form), typing.get_args(form)
    if form is Any:
        return {}
    if form in PLAIN:
        return {"type": PLAIN[form]}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [_of(each) for each in parts]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(parts[1])}
    if origin in (list, tuple):
        return {"type": "array", "items": _of(parts[0])}
    if isinstance(form, type) and (is_dataclass(form) or typing.is_typeddict(form) or issubclass(form, Enum)):
        return _of_class(form)
    raise TypeError(f"{form} has no schema")


def _of_class(form: Any) -> dict[str, Any]:
    if issubclass(form, Enum):
        return {"enum": [each.value for each in form]}
    own = fields(form) if is_dataclass(form) else ()
    required = [each.name for each in own if each.default is MISSING and each.default_factory is MISSING]
    properties = {name: _of(hint) for name, hint in typing.get_type_hints(form).items()}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


# --- the settings -------------------------------------------------------------------------------------


def settings() -> str:
    """All settings as Markdown."""
    rows = [f"| `{name}` | {f'`{default}`' if default else ''} | {meaning} |" for name, default, meaning in OPTIONS]
    head = ("# Settings", "", "`-o name=value` sets one for a single run, a line in `pytest.ini` permanently.", "")
    return "\n".join([*head, "| setting | default | meaning |", "|---|---|---|", *rows])


# --- the catalogue of failure modes ------------------------------------------------------------------


def troubleshooting() -> dict[str, str]:
    """The catalogue as Markdown: the page of each letter, and one that lists all modes."""
    found, listed = {}, [HEAD]
    for letter, title in PARTS.items():
        modes = [mode for mode in catalogue().values() if mode.id.startswith(letter)]
        listed += [f"## [{letter}: {title}]({letter}.md)\n"]
        listed += [*(f"- [{mode.id}]({letter}.md#{mode.id.lower()}) {mode.what}" for mode in modes), ""]
        parts = [f"# Troubleshooting {letter}: {title}\n\n[All failure modes](README.md) and how to read them.\n"]
        found[f"{letter}.md"] = "\n".join([*parts, *map(_section, modes)])
    return {"README.md": "\n".join(listed), **found}


def _section(mode: FailureMode) -> str:
    links = ", ".join(f"[{source}]({link(source)})" if link(source) else source for source in mode.sources)
    confirm = "\n".join(f"  - `{each.replace('`', '')}`" for each in mode.confirm)
    fixes = "".join(f"  - {ROOMS[room]}: {fix}.\n" for room, fix in mode.fixes.items())
    fixes += "".join(f"  - {texts.get('what', mode.what)}: {texts['fix']}.\n" for _, texts in mode.members)
    return (
        f'## <a id="{mode.id.lower()}"></a>{mode.id}: {mode.what}\n\n'
        f"- Why: {mode.why}.\n- Confirm:\n{confirm}\n- Fix: {mode.fix}.\n{fixes}- Known from: {links}\n"
    )


if __name__ == "__main__":
    if sys.argv[1] == "troubleshooting":
        for name, text in troubleshooting().items():
            (CATALOGUE / name).write_text(text, encoding="utf-8")
    else:
        print(json.dumps(schema(), indent=2) if sys.argv[1] == "schema" else settings())
